//! What every store does, on all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use common::{domain, gateway, on_every_store};
use edgewarden_keystore::{KeystoreError, SECRET_BYTES_MAX};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::config;
use edgewarden_protocol::enrol::{Challenge, Credential};

fn verifies(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).unwrap().verify_sig(message, signature).is_ok()
}

#[test]
fn a_store_says_what_it_is() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let store = fixture.open();
        let description = store.describe();
        assert!(!description.hardware, "none of the three is a chip: {description:?}");
        assert_eq!(description.dangerous, fixture.is_tpm());
        let expected = match &fixture.config {
            config::Keystore::Software { .. } => "software (hardware: none)",
            config::Keystore::Pkcs11 { .. } => "pkcs11 (SoftHSM project SoftHSM v2; hardware: none)",
            _ => "simulated tpm (dangerous)",
        };
        assert_eq!(description.text, expected);
        let health = store.health().unwrap();
        assert_eq!(health.lockout.is_some(), fixture.is_tpm());
        assert!(health.lockout.is_none_or(|lockout| !lockout.locked && lockout.failures == 0));
    });
}

#[test]
fn keys_are_the_same_after_a_restart() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let (keys, ca) = {
            let store = fixture.open();
            (store.device_keys().unwrap(), store.ca_public().unwrap())
        };
        let store = fixture.open();
        assert_eq!(store.device_keys().unwrap(), keys);
        assert_eq!(store.ca_public().unwrap(), ca);
        let signature = store.ca_sign(b"to be signed").unwrap();
        assert!(verifies(&ca, b"to be signed", &signature));
        assert!(!verifies(&ca, b"something else", &signature));
        assert!(matches!(store.ca_sign(&vec![0; 64 * 1024 + 1]), Err(KeystoreError::Request(_))));
    });
}

#[test]
fn each_gateway_has_keys_of_its_own() {
    on_every_store(|fixture| {
        let (one, other) = (fixture(), fixture());
        let (one, other) = (one.open(), other.open());
        assert_ne!(one.ca_public().unwrap(), other.ca_public().unwrap());
        assert_ne!(one.device_keys().unwrap(), other.device_keys().unwrap());
    });
}

#[test]
fn sealed_values_survive_and_are_replaced() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let long = [7; SECRET_BYTES_MAX];
        {
            let store = fixture.open();
            store.seal("queue-key", b"first").unwrap();
            store.seal("queue-key", b"second").unwrap();
            store.seal("other", &long).unwrap();
        }
        let store = fixture.open();
        assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"second");
        assert_eq!(store.unseal("other").unwrap().as_slice(), long);
        assert!(matches!(store.unseal("queue"), Err(KeystoreError::NotSealed(name)) if name == "queue"));
        // The keys themselves are no sealed values.
        for name in ["device-key", "gateway-ca-key"] {
            assert!(matches!(store.unseal(name), Err(KeystoreError::NotSealed(_))), "{name}");
        }
    });
}

#[test]
fn what_cannot_be_sealed_is_refused() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let store = fixture.open();
        for (name, secret) in [
            ("", &b"secret"[..]),
            ("../up", b"secret"),
            ("a/b", b"secret"),
            ("A", b"secret"),
            ("a.b", b"secret"),
            (&"a".repeat(64), b"secret"),
            ("empty", b""),
            ("long", &[0; SECRET_BYTES_MAX + 1]),
        ] {
            assert!(matches!(store.seal(name, secret), Err(KeystoreError::Request(_))), "{name}");
        }
        for name in ["", "../up", "a/b"] {
            assert!(matches!(store.unseal(name), Err(KeystoreError::Request(_))), "{name}");
        }
    });
}

#[test]
fn a_changed_file_is_refused_and_never_believed() {
    on_every_store(|fixture| {
        let fixture = fixture();
        fixture.open().seal("queue-key", b"secret").unwrap();
        let file = fixture.sealed_file("queue-key");
        let good = std::fs::read(&file).unwrap();
        // Every open of the key file derives a key from the passphrase: fewer places there.
        let step = if fixture.is_software() { good.len() / 8 } else { 7 };
        let mut bad: Vec<Vec<u8>> = (0..good.len()).step_by(step).map(|at| good[..at].to_vec()).collect();
        for at in (0..good.len()).step_by(step) {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            bad.push(flipped);
        }
        bad.push([&good[..], b"more"].concat());
        let store = (!fixture.is_software()).then(|| fixture.open());
        for bytes in bad {
            std::fs::write(&file, &bytes).unwrap();
            let result = match &store {
                Some(store) => store.unseal("queue-key").map(drop),
                None => fixture.try_open().map(drop),
            };
            assert!(
                matches!(result, Err(KeystoreError::Corrupted { .. } | KeystoreError::Passphrase { .. })),
                "{result:?} for {} bytes",
                bytes.len()
            );
        }
        std::fs::write(&file, &good).unwrap();
        assert_eq!(fixture.open().unseal("queue-key").unwrap().as_slice(), b"secret");
    });
}

#[test]
fn impossible_challenges_are_refused() {
    let good =
        Challenge { session: "s".into(), nonce: Bytes(vec![1; 32]), pcrs: vec![0, 7], credential: None };
    let credential = Credential { id_object: Bytes(vec![1; 66]), encrypted_secret: Bytes(vec![2; 256]) };
    let tpm_only = [
        Challenge { pcrs: vec![], credential: Some(credential.clone()), ..good.clone() },
        Challenge { pcrs: vec![7, 0], credential: Some(credential.clone()), ..good.clone() },
        Challenge { pcrs: vec![24], credential: Some(credential.clone()), ..good.clone() },
    ];
    on_every_store(|fixture| {
        let fixture = fixture();
        let store = fixture.open();
        let prove = |challenge: &Challenge, log: usize| {
            store.prove(challenge, &gateway(), &domain(), vec![0; log]).map(drop)
        };
        let mut refused = vec![
            Challenge { nonce: Bytes(vec![1; 31]), ..good.clone() },
            Challenge { nonce: Bytes(vec![]), ..good.clone() },
            Challenge {
                credential: Some(Credential { id_object: Bytes(vec![0; 1025]), ..credential.clone() }),
                ..good.clone()
            },
        ];
        refused.extend(tpm_only.clone());
        // The other store's challenge.
        refused.push(if fixture.is_tpm() {
            good.clone()
        } else {
            Challenge { credential: Some(credential.clone()), ..good.clone() }
        });
        for challenge in &refused {
            let result = prove(challenge, 0);
            assert!(matches!(result, Err(KeystoreError::Request(_))), "{challenge:?}: {result:?}");
        }
        assert!(matches!(prove(&good, 2 * 1024 * 1024 + 1), Err(KeystoreError::Request(_))));
    });
}

#[test]
fn sixteen_callers_at_once() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let store = fixture.open();
        let ca = store.ca_public().unwrap();
        std::thread::scope(|scope| {
            for caller in 0..16 {
                let (store, ca) = (&store, &ca);
                scope.spawn(move || {
                    let name = format!("value-{caller}");
                    for round in 0..4 {
                        let message = format!("{caller} {round}");
                        let signature = store.ca_sign(message.as_bytes()).unwrap();
                        assert!(verifies(ca, message.as_bytes(), &signature));
                        store.seal(&name, message.as_bytes()).unwrap();
                        assert_eq!(store.unseal(&name).unwrap().as_slice(), message.as_bytes());
                    }
                });
            }
        });
    });
}
