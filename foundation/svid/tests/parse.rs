//! Certificates that a peer shows before anything is verified: any bytes at all.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use edgewarden_svid::{peer_expiry, peer_id};
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls_pki_types::CertificateDer;

const ID: &str = "spiffe://plant.example/gateway/gw-1/module/analytics";

fn certificate() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(bytes: Vec<u8>) {
        let chain = [CertificateDer::from(bytes)];
        prop_assert!(peer_id(&chain).is_err());
        prop_assert!(peer_expiry(&chain).is_err());
    }

    /// A certificate with one byte changed, or cut off, is read as what it says or not at all.
    #[test]
    fn no_damage_breaks_the_reader(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let whole = certificate();
        let mut damaged = whole.clone();
        damaged[at.index(whole.len())] = byte;
        let cut_off = whole[..cut.index(whole.len())].to_vec();
        for bytes in [damaged, cut_off.clone()] {
            let chain = [CertificateDer::from(bytes)];
            drop((peer_id(&chain), peer_expiry(&chain)));
        }
        prop_assert!(peer_id(&[CertificateDer::from(cut_off)]).is_err());
    }
}
