//! Whatever bytes come, nothing panics, and what is accepted has one spelling only.

use crate::common;

use common::{Fleet, Key, domain, gateway};
use edgewarden_ca::{certificate_request, chain, public_point, spki};
use edgewarden_names::pem;
use proptest::collection::vec;
use proptest::prelude::*;

/// Replaces, removes and adds bytes here and there.
fn change(good: &[u8], changes: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for (at, kind, byte) in changes {
        let at = at % (bytes.len() + 1);
        match kind % 3 {
            0 if at < bytes.len() => bytes[at] = *byte,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.insert(at, *byte),
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6)
}

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..600)) {
        prop_assert!(public_point(&bytes).is_err());
        prop_assert!(chain::facts(&bytes).is_err());
        prop_assert!(spki::point(&bytes).is_err());
        prop_assert!(spki::point_of_pem(&String::from_utf8_lossy(&bytes)).is_err());
    }

    #[test]
    fn changed_requests(changes in changes()) {
        let good = certificate_request(&Key::generate(), &gateway(), &domain()).unwrap();
        let bad = change(&good, &changes);
        prop_assert!(bad == good || public_point(&bad).is_err());
    }

    #[test]
    fn changed_certificates(changes in changes()) {
        // Their signature is checked elsewhere; here they must only not panic.
        drop(chain::facts(&change(&Fleet::new().gateway_ca, &changes)));
    }

    #[test]
    fn pem_reads_back(blocks in vec(vec(any::<u8>(), 0..300), 1..8)) {
        prop_assert_eq!(pem::all(&pem::chain(&blocks), pem::CERTIFICATE).unwrap(), blocks);
    }
}
