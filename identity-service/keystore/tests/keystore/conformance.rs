//! One behaviour of all stores of keys, shown on each of them.

use crate::common;

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use aws_lc_rs::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use common::{domain, gateway, on_every_store};
use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Attest, AttestKind, Attributes, Public, Signature};
use edgewarden_keystore::{KeystoreError, RESIDENT_KEYS_MAX, SECRET_BYTES_MAX};
use edgewarden_platform::crash_points::with_hook;
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
        for _ in 0..2 {
            store.forget("other").unwrap();
            assert!(matches!(store.unseal("other"), Err(KeystoreError::NotSealed(_))));
        }
        drop(store);
        let store = fixture.open();
        assert!(matches!(store.unseal("other"), Err(KeystoreError::NotSealed(_))), "forgotten for good");
        assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"second");
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

#[test]
fn resident_keys_stay_until_they_are_deleted() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let (first, second) = {
            let store = fixture.open();
            let first = store.create_key("module-key").unwrap();
            let second = store.create_key("module-key-2").unwrap();
            assert!(first != second && first != store.ca_public().unwrap());
            (first, second)
        };
        let store = fixture.open();
        for (name, point) in [("module-key", &first), ("module-key-2", &second)] {
            assert_eq!(store.key_public(name).unwrap(), *point);
            let signature = store.key_sign(name, b"to be signed").unwrap();
            assert!(verifies(point, b"to be signed", &signature));
            assert!(matches!(store.create_key(name), Err(KeystoreError::KeyExists(taken)) if taken == name));
        }
        assert!(matches!(
            store.key_sign("module-key", &vec![0; 64 * 1024 + 1]),
            Err(KeystoreError::Request(_))
        ));
        store.delete_key("module-key").unwrap();
        store.delete_key("module-key").unwrap();
        let no_key = |result: Result<Vec<u8>, KeystoreError>| {
            assert!(matches!(result, Err(KeystoreError::NoKey(name)) if name == "module-key"));
        };
        no_key(store.key_public("module-key"));
        no_key(store.key_sign("module-key", b"to be signed"));
        let anew = store.create_key("module-key").unwrap();
        assert_ne!(anew, first, "a deleted key does not come back");
        assert!(verifies(&anew, b"again", &store.key_sign("module-key", b"again").unwrap()));
        assert_eq!(store.key_public("module-key-2").unwrap(), second);
        drop(store);
        assert_eq!(fixture.open().key_public("module-key").unwrap(), anew);
    });
}

#[test]
fn resident_keys_have_names_of_their_own() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let store = fixture.open();
        for name in ["", "../up", "a/b", "A", "a.b", &"a".repeat(64)] {
            let refused = [
                store.create_key(name).map(drop),
                store.key_public(name).map(drop),
                store.key_sign(name, b"x").map(drop),
                store.key_certify(name, &[1; 32]).map(drop),
                store.delete_key(name),
            ];
            for result in refused {
                assert!(matches!(result, Err(KeystoreError::Request(_))), "{name}: {result:?}");
            }
        }
        // The gateway's own keys and sealed values are no resident keys.
        store.seal("queue-key", b"secret").unwrap();
        for name in ["queue-key", "device-key", "gateway-ca-key", "agreement-key"] {
            assert!(matches!(store.key_public(name), Err(KeystoreError::NoKey(_))), "{name}");
            store.delete_key(name).unwrap();
        }
        store.create_key("queue-key").unwrap();
        store.delete_key("queue-key").unwrap();
        assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"secret");
        store.agreement_public().unwrap();
    });
}

#[test]
fn keys_open_in_their_own_store_only() {
    on_every_store(|fixture| {
        let (one, other) = (fixture(), fixture());
        let (mine, theirs) = (one.open(), other.open());
        mine.create_key("module-key").unwrap();
        assert!(matches!(theirs.key_public("module-key"), Err(KeystoreError::NoKey(_))));
        assert_ne!(mine.agreement_public().unwrap(), theirs.agreement_public().unwrap());
        let keys = one.state.path().join("keys");
        if keys.exists() {
            // A copy of what is on the disk is of no use to another chip or token.
            for entry in std::fs::read_dir(keys).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), other.state.path().join("keys").join(entry.file_name())).unwrap();
            }
            let error = theirs.key_sign("module-key", b"x").err().unwrap();
            assert!(
                matches!(error, KeystoreError::Corrupted { .. } | KeystoreError::KeyMissing { .. }),
                "{error}"
            );
        }
    });
}

#[test]
fn a_changed_or_renamed_key_file_is_refused() {
    on_every_store(|fixture| {
        let fixture = fixture();
        if fixture.is_software() {
            // One file, of which `a_changed_file_is_refused_and_never_believed` is the test.
            return;
        }
        let store = fixture.open();
        let point = store.create_key("one").unwrap();
        store.create_key("other").unwrap();
        let (one, other) = (fixture.key_file("one"), fixture.key_file("other"));
        let good = std::fs::read(&one).unwrap();
        let mut bad: Vec<Vec<u8>> = (0..good.len()).step_by(9).map(|at| good[..at].to_vec()).collect();
        for at in (0..good.len()).step_by(9) {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            bad.push(flipped);
        }
        bad.push([&good[..], b"more"].concat());
        bad.push(std::fs::read(&other).unwrap());
        for bytes in bad {
            std::fs::write(&one, &bytes).unwrap();
            let error = store.key_public("one").err().unwrap_or_else(|| panic!("{} bytes", bytes.len()));
            assert!(
                matches!(
                    error,
                    KeystoreError::Corrupted { .. }
                        | KeystoreError::OtherKey { .. }
                        | KeystoreError::Answer(_)
                ),
                "{error}"
            );
            if let Ok(signature) = store.key_sign("one", b"x") {
                assert!(verifies(&point, b"x", &signature), "{} bytes", bytes.len());
            }
        }
        std::fs::write(&one, &good).unwrap();
        store.key_sign("one", b"x").unwrap();
    });
}

#[test]
fn a_store_takes_so_many_resident_keys() {
    on_every_store(|fixture| {
        let fixture = fixture();
        if fixture.is_software() {
            // Its keys have no files to make up; making them costs no device.
            let store = fixture.open();
            for at in 0..RESIDENT_KEYS_MAX {
                store.create_key(&format!("key-{at}")).unwrap();
            }
        } else {
            let store = fixture.open();
            store.create_key("key").unwrap();
            let good = std::fs::read(fixture.key_file("key")).unwrap();
            for at in 1..RESIDENT_KEYS_MAX {
                std::fs::write(fixture.key_file(&format!("key-{at}")), &good).unwrap();
            }
        }
        let store = fixture.open();
        let error = store.create_key("one-more").err().unwrap();
        assert!(matches!(error, KeystoreError::TooManyKeys { max: RESIDENT_KEYS_MAX }), "{error}");
        assert!(error.to_string().contains("1024"), "{error}");
        store.delete_key("key-7").unwrap();
        store.create_key("one-more").unwrap();
    });
}

#[test]
fn agreement_is_what_the_peer_computes() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let public = fixture.open().agreement_public().unwrap();
        let store = fixture.open();
        assert_eq!(store.agreement_public().unwrap(), public);
        assert_ne!(public, store.ca_public().unwrap());
        for _ in 0..4 {
            let peer = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
            let point = peer.compute_public_key().unwrap();
            let shared = store.agree(point.as_ref()).unwrap();
            let expected =
                agree_ephemeral(peer, UnparsedPublicKey::new(&ECDH_P256, &public), (), |z| Ok(z.to_vec()));
            assert_eq!(shared.as_slice(), expected.unwrap());
        }
        let mut off_curve = public.clone();
        off_curve[64] ^= 1;
        let mut compressed = public[..33].to_vec();
        compressed[0] = 2 + (public[64] & 1);
        let zeros = [&[4][..], &[0; 64]].concat();
        let large = [&[4][..], &[0xff; 64]].concat();
        let longer = [&public[..], &[0]].concat();
        for bad in [&off_curve[..], &compressed, &zeros, &large, &longer, &public[..64], &[0], &[]] {
            assert!(matches!(store.agree(bad), Err(KeystoreError::Request(_))), "{bad:?}");
        }
    });
}

#[test]
fn only_a_tpm_proves_where_a_key_is() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let store = fixture.open();
        let point = store.create_key("module-key").unwrap();
        store.create_key("other-key").unwrap();
        let nonce = [7; 32];
        for bad in [&[1; 15][..], &[1; 33], &[]] {
            assert!(matches!(store.key_certify("module-key", bad), Err(KeystoreError::Request(_))));
        }
        let result = store.key_certify("module-key", &nonce);
        if !fixture.is_tpm() {
            assert!(matches!(result, Err(KeystoreError::Unsupported(..))), "{result:?}");
            return;
        }
        let proof = result.unwrap();
        let attest = Attest::parse(&proof.message).unwrap();
        let key = Public::parse(&proof.key_public).unwrap();
        let ak = Public::parse(&proof.ak_public).unwrap();
        assert_eq!(attest.extra_data, nonce);
        assert!(matches!(&attest.kind, AttestKind::Certify { name, .. } if *name == key.name()));
        assert_eq!(key.point().unwrap(), point);
        let signature = Signature::parse(&proof.signature).unwrap().to_der().unwrap();
        assert!(verifies(&ak.point().unwrap(), &proof.message, &signature));
        assert_eq!(proof.ak_public, store.quote(&nonce, &[0]).unwrap().ak_public);
        let never_leaves =
            Attributes::FIXED_TPM | Attributes::FIXED_PARENT | Attributes::SENSITIVE_DATA_ORIGIN;
        assert!(key.attributes.has(never_leaves | Attributes::SIGN | Attributes::NO_DA));
        assert!(!key.attributes.has(Attributes::RESTRICTED) && !key.attributes.has(Attributes::DECRYPT));
        // The policy says which name the key has.
        assert_eq!(key.auth_policy, HashAlg::Sha256.digest(&[b"edgewarden resident key module-key"]));
        assert!(matches!(store.key_certify("no-key", &nonce), Err(KeystoreError::NoKey(_))));
    });
}

#[test]
fn only_a_tpm_has_pcrs_to_extend() {
    on_every_store(|fixture| {
        let fixture = fixture();
        let store = fixture.open();
        assert!(matches!(store.pcr_extend(24, &[1; 32]), Err(KeystoreError::Request(_))));
        let result = store.pcr_extend(15, &[1; 32]);
        if !fixture.is_tpm() {
            assert!(matches!(result, Err(KeystoreError::Unsupported(..))), "{result:?}");
            return;
        }
        let once = digest(&SHA256, &[[0; 32], [1; 32]].concat());
        assert_eq!(result.unwrap(), once.as_ref());
        let twice = digest(&SHA256, &[once.as_ref(), &[2; 32]].concat());
        assert_eq!(store.pcr_extend(15, &[2; 32]).unwrap(), twice.as_ref());
        assert_eq!(store.quote(&[1; 32], &[15]).unwrap().pcrs[0].1, twice.as_ref());
    });
}

/// Cuts at each step on the disk that `change` takes, and opens the store anew: `whole` says what must hold then.
fn cut_everywhere(
    fixture: fn() -> common::Fixture,
    prepare: fn(&dyn edgewarden_keystore::Keystore),
    change: fn(&dyn edgewarden_keystore::Keystore) -> bool,
    whole: fn(&dyn edgewarden_keystore::Keystore),
) {
    let fixture = fixture();
    for cut in 0.. {
        let store = fixture.open();
        prepare(&*store);
        let steps = Rc::new(Cell::new(0));
        let counted = Rc::clone(&steps);
        let done = with_hook(
            move |_| {
                counted.set(counted.get() + 1);
                if counted.get() > cut { Err(io::Error::other("the power is gone")) } else { Ok(()) }
            },
            || change(&*store),
        );
        drop(store);
        whole(&*fixture.open());
        if steps.get() <= cut {
            assert!(done && cut > 1, "{cut}");
            return;
        }
    }
}

#[test]
fn a_cut_while_a_key_is_made_leaves_none_or_a_whole_one() {
    on_every_store(|fixture| {
        cut_everywhere(
            fixture,
            |store| store.delete_key("module-key").unwrap(),
            |store| store.create_key("module-key").is_ok(),
            |store| match store.key_public("module-key") {
                Ok(point) => {
                    assert!(verifies(&point, b"x", &store.key_sign("module-key", b"x").unwrap()));
                }
                Err(error) => {
                    assert!(matches!(error, KeystoreError::NoKey(_)), "{error}");
                    store.create_key("module-key").unwrap();
                }
            },
        );
    });
}

#[test]
fn a_cut_while_a_key_is_deleted_leaves_none_or_a_whole_one() {
    on_every_store(|fixture| {
        cut_everywhere(
            fixture,
            |store| {
                if store.key_public("module-key").is_err() {
                    store.create_key("module-key").unwrap();
                }
            },
            |store| store.delete_key("module-key").is_ok(),
            |store| match store.key_sign("module-key", b"x") {
                Ok(_) => {}
                Err(error) => assert!(matches!(error, KeystoreError::NoKey(_)), "{error}"),
            },
        );
    });
}
