//! Behaviour of a token alone: PINs, objects that others change, libraries that are not there.

use crate::common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::softhsm::{self, Other, PIN, alone, alone_with};
use common::{Fixture, write_private};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use edgewarden_keystore::KeystoreError;
use edgewarden_protocol::config;

const DEVICE: &str = "edgewarden-device-key-1";
const GATEWAY_CA: &str = "edgewarden-gateway-ca-key-1";
const SEALING: &str = "edgewarden-sealing-key-1";
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

fn token(fixture: &Fixture) -> &str {
    match &fixture.config {
        config::Keystore::Pkcs11 { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

fn pin_file(fixture: &Fixture) -> PathBuf {
    fixture.state.path().join("pin")
}

fn with_module(fixture: &Fixture, path: &Path) -> config::Keystore {
    match fixture.config.clone() {
        config::Keystore::Pkcs11 { token, pin_file, library_files, .. } => {
            config::Keystore::Pkcs11 { module: path.to_owned(), token, pin_file, library_files }
        }
        other => panic!("{other:?}"),
    }
}

fn error_of(fixture: &Fixture) -> KeystoreError {
    fixture.try_open().err().expect("the store opened")
}

#[test]
fn a_wrong_pin_is_tried_once_until_its_file_changes() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let file = pin_file(&fixture);
        let ca = fixture.open().ca_public().unwrap();
        write_private(&file, b"incorrect horse");
        let error = error_of(&fixture);
        assert!(matches!(error, KeystoreError::PinRefused { .. }) && !error.is_transient(), "{error}");
        // The token's mark of a wrong PIN goes with a right one.
        let other = Other::log_in(token(&fixture));
        let wrong_pin_tried =
            |other: &Other| other.library.get_token_info(other.slot).unwrap().user_pin_count_low();
        assert!(!wrong_pin_tried(&other));
        other.end();
        // Not again, however often the store is opened, as by a supervisor that starts it again and again.
        for _ in 0..3 {
            assert!(matches!(error_of(&fixture), KeystoreError::PinRefused { .. }));
        }
        let library = cryptoki::context::Pkcs11::new(softhsm::library()).unwrap();
        let flags = cryptoki::context::CInitializeFlags::OS_LOCKING_OK;
        library.initialize(cryptoki::context::CInitializeArgs::new(flags)).unwrap();
        let slots = library.get_slots_with_initialized_token().unwrap();
        assert!(slots.iter().all(|slot| !library.get_token_info(*slot).unwrap().user_pin_count_low()));
        library.finalize().unwrap();
        // A changed file is tried, wrong or right.
        write_private(&file, b"another wrong one");
        assert!(matches!(error_of(&fixture), KeystoreError::PinRefused { .. }));
        write_private(&file, format!("{PIN}\n").as_bytes());
        assert_eq!(fixture.open().ca_public().unwrap(), ca);
        assert_eq!(fixture.open().ca_public().unwrap(), ca);
        // What is remembered says nothing of a PIN.
        write_private(&file, b"incorrect horse");
        assert!(matches!(error_of(&fixture), KeystoreError::PinRefused { .. }));
        let kept = std::fs::read_to_string(fixture.state.path().join("pkcs11-pin-refused")).unwrap();
        assert!(kept.chars().all(|c| c.is_ascii_digit() || c == ' ' || c == '.'), "{kept}");
    });
}

#[test]
fn pin_files_are_refused_by_reason() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let file = pin_file(&fixture);
        for (bytes, mode, expected) in [
            (PIN.as_bytes(), 0o640, "others"),
            (PIN.as_bytes(), 0o604, "others"),
            (PIN.as_bytes(), 0o620, "others"),
            (b"", 0o600, "empty"),
            (b"\n\n", 0o600, "empty"),
            (b"123", 0o600, "too short"),
            (&[b'1'; 1000], 0o600, "too long"),
            (&[b'1'; 1025], 0o600, "1024"),
        ] {
            std::fs::write(&file, bytes).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = error_of(&fixture);
            assert!(matches!(error, KeystoreError::SecretFile { kind: "PIN", .. }), "{mode:o}: {error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(error_of(&fixture), KeystoreError::File { .. }));
        // None of these was a try.
        assert!(!fixture.state.path().join("pkcs11-pin-refused").exists());
        write_private(&file, PIN.as_bytes());
        fixture.open();
    });
}

#[test]
fn a_token_is_found_by_its_label_or_not_at_all() {
    alone(|| {
        let fixture = Fixture::pkcs11_with("nothing here".into());
        let error = error_of(&fixture);
        assert!(matches!(error, KeystoreError::TokenMissing { .. }), "{error}");
        softhsm::make_token_named("another");
        let error = error_of(&fixture);
        assert!(error.to_string().contains("`another`"), "{error}");
        for label in ["anothe", "another ", "ANOTHER", "0"] {
            let error = error_of(&Fixture::pkcs11_with(label.into()));
            assert!(matches!(error, KeystoreError::TokenMissing { .. }), "{label}: {error}");
        }
        softhsm::make_token_named("another");
        let error = error_of(&Fixture::pkcs11_with("another".into()));
        assert!(error.to_string().contains("2 tokens"), "{error}");
        // The slot's number changes with each token; the label does not.
        let found = Fixture::pkcs11();
        found.open();
        softhsm::make_token();
        found.open();
    });
}

#[test]
fn a_library_that_is_none_is_refused() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let folder = fixture.state.path();
        let copy = folder.join("copy.so");
        std::fs::copy(softhsm::library(), &copy).unwrap();
        let text = folder.join("text.so");
        std::fs::write(&text, "no library").unwrap();
        let other = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = other
            .lines()
            .find_map(|line| line.split_whitespace().last().filter(|p| p.contains("libc.so")))
            .unwrap();
        let writable = |mode| std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(mode)).unwrap();
        writable(0o666);
        for path in [
            Path::new("/nonexistent/library.so"),
            Path::new("libsofthsm2.so"),
            folder,
            &text,
            &copy,
            Path::new(libc),
        ] {
            let error = common::open_config(&with_module(&fixture, path), folder).err().unwrap();
            assert!(matches!(error, KeystoreError::Module { .. }), "{}: {error}", path.display());
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
        writable(0o664);
        assert!(common::open_config(&with_module(&fixture, &copy), folder).is_err());
        writable(0o644);
        common::open_config(&with_module(&fixture, &copy), folder).unwrap();
    });
}

#[test]
fn a_library_that_cannot_read_its_configuration_says_where_to_look() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        std::fs::remove_dir_all(softhsm::tokens()).unwrap();
        std::fs::remove_file(softhsm::tokens().with_file_name("softhsm2.conf")).unwrap();
        let error = error_of(&fixture);
        assert!(matches!(error, KeystoreError::Module { .. }), "{error}");
        assert!(error.to_string().contains("library_files"), "{error}");
    });
}

#[test]
fn a_missing_key_pair_generation_is_named() {
    without("CKM_EC_KEY_PAIR_GEN", || refuses_without("CKM_EC_KEY_PAIR_GEN"));
}

#[test]
fn a_missing_signature_mechanism_is_named() {
    without("CKM_ECDSA", || refuses_without("CKM_ECDSA"));
}

#[test]
fn a_missing_key_agreement_is_named() {
    without("CKM_ECDH1_DERIVE", || refuses_without("CKM_ECDH1_DERIVE"));
}

#[test]
fn a_missing_key_generation_is_named() {
    without("CKM_AES_KEY_GEN", || refuses_without("CKM_AES_KEY_GEN"));
}

#[test]
fn without_gcm_nothing_else_is_tried() {
    without("CKM_AES_GCM", || refuses_without("CKM_AES_GCM"));
}

fn without<F: Fn()>(mechanism: &str, test: F) {
    // SoftHSM2 2.6 does not take away the first of the list.
    alone_with(&format!("slots.mechanisms = -CKM_MD5,{mechanism},CKM_SHA_1"), test);
}

fn refuses_without(name: &'static str) {
    let fixture = Fixture::pkcs11();
    let error = error_of(&fixture);
    assert!(matches!(error, KeystoreError::Mechanism { mechanism, .. } if mechanism == name), "{error}");
    // Nothing was made on the way.
    let other = Other::log_in(token(&fixture));
    assert_eq!(other.objects(), 0);
    assert!(!fixture.state.path().join("pkcs11-keys").exists());
}

#[test]
fn a_deleted_key_is_missed_and_not_made_anew() {
    alone(|| {
        for (class, label) in [
            (ObjectClass::PRIVATE_KEY, DEVICE),
            (ObjectClass::PUBLIC_KEY, DEVICE),
            (ObjectClass::PRIVATE_KEY, GATEWAY_CA),
            (ObjectClass::PUBLIC_KEY, GATEWAY_CA),
            (ObjectClass::SECRET_KEY, SEALING),
        ] {
            let fixture = Fixture::pkcs11();
            fixture.open().seal("queue-key", b"secret").unwrap();
            let other = Other::log_in(token(&fixture));
            assert_eq!(other.objects(), 7);
            other.delete(class, label);
            other.end();
            for _ in 0..2 {
                let error = error_of(&fixture);
                assert!(error.to_string().contains(label), "{class:?} {label}: {error}");
                let expected = if class == ObjectClass::PUBLIC_KEY {
                    matches!(error, KeystoreError::KeyAttribute { .. })
                } else {
                    matches!(error, KeystoreError::KeyMissing { .. })
                };
                assert!(expected, "{error}");
            }
            let other = Other::log_in(token(&fixture));
            assert_eq!(other.objects(), 6, "nothing was made");
            other.end();
        }
    });
}

#[test]
fn a_key_that_goes_while_the_store_is_open_is_missed() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let store = fixture.open();
        let other = Other::beside(token(&fixture));
        other.delete(ObjectClass::PRIVATE_KEY, GATEWAY_CA);
        let error = store.ca_sign(b"to be signed").err().unwrap();
        assert!(matches!(error, KeystoreError::KeyMissing { ref key, .. } if key == GATEWAY_CA), "{error}");
    });
}

/// The templates of a good key pair, to be made bad.
fn key_pair(label: &str) -> (Vec<Attribute>, Vec<Attribute>) {
    let public = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(P256.into()),
        Attribute::Label(label.into()),
        Attribute::Id(label.into()),
    ];
    let private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Label(label.into()),
        Attribute::Id(label.into()),
    ];
    (public, private)
}

/// Puts an attribute in place of the one of its kind.
fn set(template: &mut Vec<Attribute>, attribute: &Attribute) {
    template.retain(|other| other.attribute_type() != attribute.attribute_type());
    template.push(attribute.clone());
}

#[test]
fn a_signing_key_that_is_not_as_it_must_be_is_not_used() {
    alone(|| {
        for (label, change, expected) in [
            (GATEWAY_CA, Attribute::Extractable(true), "CKA_EXTRACTABLE"),
            (DEVICE, Attribute::Extractable(true), "CKA_EXTRACTABLE"),
            (GATEWAY_CA, Attribute::Sensitive(false), "CKA_SENSITIVE"),
            (GATEWAY_CA, Attribute::Private(false), "CKA_PRIVATE"),
            (GATEWAY_CA, Attribute::Sign(false), "CKA_SIGN"),
            (GATEWAY_CA, Attribute::Derive(true), "uses"),
            (GATEWAY_CA, Attribute::Decrypt(true), "uses"),
            (GATEWAY_CA, Attribute::Unwrap(true), "uses"),
            (GATEWAY_CA, Attribute::Id("7".into()), "CKA_ID"),
            (GATEWAY_CA, Attribute::EcParams(P384.into()), "P-256"),
        ] {
            let fixture = Fixture::pkcs11();
            let other = Other::log_in(token(&fixture));
            let (mut public, mut private) = key_pair(label);
            set(if matches!(change, Attribute::EcParams(_)) { &mut public } else { &mut private }, &change);
            other.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
            other.end();
            let error = error_of(&fixture);
            assert!(
                matches!(&error, KeystoreError::KeyAttribute { key, .. } if *key == label),
                "{change:?}: {error}"
            );
            assert!(error.to_string().contains(expected), "{change:?}: {error}");
            assert!(!fixture.state.path().join("pkcs11-keys").exists());
        }
    });
}

#[test]
fn a_key_from_outside_is_not_used() {
    alone(|| {
        // Brought in, with every attribute that can be chosen as it must be: who made it may still have it.
        let fixture = Fixture::pkcs11();
        let other = Other::log_in(token(&fixture));
        let (mut public, mut private) = key_pair(GATEWAY_CA);
        let scalar = vec![7; 32];
        let point = vec![4; 67];
        set(&mut public, &Attribute::EcPoint(point));
        for template in [&mut public, &mut private] {
            template.push(Attribute::KeyType(KeyType::EC));
        }
        public.push(Attribute::Class(ObjectClass::PUBLIC_KEY));
        private.extend([
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::EcParams(P256.into()),
            Attribute::Value(scalar),
        ]);
        other.session.create_object(&public).unwrap();
        other.session.create_object(&private).unwrap();
        other.end();
        let error = error_of(&fixture);
        assert!(matches!(error, KeystoreError::KeyAttribute { ref key, .. } if key == GATEWAY_CA), "{error}");
        assert!(error.to_string().contains("ALWAYS_SENSITIVE"), "{error}");
    });
}

#[test]
fn halves_of_different_keys_are_not_one() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let other = Other::log_in(token(&fixture));
        for drop_class in [ObjectClass::PUBLIC_KEY, ObjectClass::PRIVATE_KEY] {
            let (public, private) = key_pair(DEVICE);
            let (public, private) =
                other.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
            let half = if drop_class == ObjectClass::PUBLIC_KEY { public } else { private };
            other.session.destroy_object(half).unwrap();
        }
        other.end();
        let error = error_of(&fixture);
        assert!(matches!(error, KeystoreError::Answer(_)), "{error}");
    });
}

#[test]
fn a_sealing_key_that_is_not_as_it_must_be_is_not_used() {
    alone(|| {
        let good = || {
            vec![
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Wrap(false),
                Attribute::Unwrap(false),
                Attribute::Sign(false),
                Attribute::Derive(false),
                Attribute::ValueLen(32.into()),
                Attribute::Label(SEALING.into()),
                Attribute::Id(SEALING.into()),
            ]
        };
        for (change, expected) in [
            (Attribute::Extractable(true), "CKA_EXTRACTABLE"),
            (Attribute::Sensitive(false), "CKA_SENSITIVE"),
            (Attribute::Encrypt(false), "CKA_ENCRYPT"),
            (Attribute::Decrypt(false), "CKA_DECRYPT"),
            (Attribute::Wrap(true), "uses"),
            (Attribute::ValueLen(16.into()), "AES-256"),
        ] {
            let fixture = Fixture::pkcs11();
            let other = Other::log_in(token(&fixture));
            let mut template = good();
            set(&mut template, &change);
            other.session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
            other.end();
            let error = error_of(&fixture);
            assert!(
                matches!(error, KeystoreError::KeyAttribute { ref key, .. } if key == SEALING),
                "{change:?}: {error}"
            );
            assert!(error.to_string().contains(expected), "{change:?}: {error}");
        }
        let fixture = Fixture::pkcs11();
        let other = Other::log_in(token(&fixture));
        for _ in 0..2 {
            other.session.generate_key(&Mechanism::AesKeyGen, &good()).unwrap();
        }
        other.end();
        assert!(error_of(&fixture).to_string().contains("more than once"));
    });
}

#[test]
fn another_key_under_the_same_label_is_another_key() {
    alone(|| {
        for label in [DEVICE, GATEWAY_CA] {
            let fixture = Fixture::pkcs11();
            drop(fixture.open());
            let other = Other::log_in(token(&fixture));
            other.delete(ObjectClass::PRIVATE_KEY, label);
            other.delete(ObjectClass::PUBLIC_KEY, label);
            let (public, private) = key_pair(label);
            other.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
            other.end();
            let error = error_of(&fixture);
            assert!(matches!(&error, KeystoreError::OtherKey { key, .. } if *key == label), "{error}");
        }
        // The sealing key has nothing public to compare: it must open what it sealed at first.
        let (fixture, donor) = (Fixture::pkcs11(), Fixture::pkcs11());
        drop((fixture.open(), donor.open()));
        let record = |fixture: &Fixture| fixture.state.path().join("pkcs11-keys");
        let text = |fixture: &Fixture| std::fs::read_to_string(record(fixture)).unwrap();
        let check = |text: &str| text.lines().last().unwrap().to_owned();
        let swapped = text(&fixture).replace(&check(&text(&fixture)), &check(&text(&donor)));
        std::fs::write(record(&fixture), swapped).unwrap();
        let error = error_of(&fixture);
        assert!(matches!(error, KeystoreError::OtherKey { ref key, .. } if key == SEALING), "{error}");
        std::fs::write(record(&fixture), "edgewarden pkcs11 keys 2\n").unwrap();
        assert!(matches!(error_of(&fixture), KeystoreError::Corrupted { .. }));
    });
}

#[test]
fn keys_that_a_cut_left_half_made_are_completed() {
    alone(|| {
        // The power went after the first key and before the record of all three.
        let fixture = Fixture::pkcs11();
        let other = Other::log_in(token(&fixture));
        let (public, private) = key_pair(DEVICE);
        other.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
        other.end();
        let ca = fixture.open().ca_public().unwrap();
        assert_eq!(fixture.open().ca_public().unwrap(), ca);
        // And a gateway that lost its state finds its keys again.
        std::fs::remove_file(fixture.state.path().join("pkcs11-keys")).unwrap();
        assert_eq!(fixture.open().ca_public().unwrap(), ca);
    });
}

#[test]
fn no_key_can_be_read() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        drop(fixture.open());
        let other = Other::log_in(token(&fixture));
        for (class, label) in [
            (ObjectClass::PRIVATE_KEY, DEVICE),
            (ObjectClass::PRIVATE_KEY, GATEWAY_CA),
            (ObjectClass::SECRET_KEY, SEALING),
        ] {
            let found = other
                .session
                .find_objects(&[Attribute::Class(class), Attribute::Label(label.into())])
                .unwrap();
            let value = other.session.get_attributes(found[0], &[AttributeType::Value]);
            assert!(!matches!(&value, Ok(values) if !values.is_empty()), "{label}: {value:?}");
        }
    });
}

#[test]
fn a_sealed_file_works_only_under_its_own_name_and_in_its_own_token() {
    alone(|| {
        let (fixture, other) = (Fixture::pkcs11(), Fixture::pkcs11());
        let store = fixture.open();
        store.seal("one", b"secret one").unwrap();
        store.seal("two", b"secret two").unwrap();
        other.open().seal("two", b"of another token").unwrap();
        for from in [fixture.sealed_file("one"), other.sealed_file("two")] {
            std::fs::copy(&from, fixture.sealed_file("two")).unwrap();
            let error = store.unseal("two").err().unwrap();
            assert!(matches!(error, KeystoreError::Corrupted { .. }), "{error}");
        }
        assert_eq!(store.unseal("one").unwrap().as_slice(), b"secret one");
        let blob = std::fs::read(fixture.sealed_file("one")).unwrap();
        assert!(!blob.windows(6).any(|window| window == b"secret"));
    });
}

#[test]
fn a_lost_session_is_opened_again() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let store = fixture.open();
        let ca = store.ca_public().unwrap();
        store.seal("queue-key", b"secret").unwrap();
        for _ in 0..3 {
            // All sessions end, and the login with them.
            cryptoki::context::Pkcs11::new(softhsm::library()).unwrap().finalize().unwrap();
            store.ca_sign(b"to be signed").unwrap();
            cryptoki::context::Pkcs11::new(softhsm::library()).unwrap().finalize().unwrap();
            assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"secret");
            store.health().unwrap();
        }
        // The token is pulled, and put back.
        let (tokens, away) = (softhsm::tokens(), softhsm::tokens().with_file_name("away"));
        let library = cryptoki::context::Pkcs11::new(softhsm::library()).unwrap();
        std::fs::rename(&tokens, &away).unwrap();
        std::fs::create_dir(&tokens).unwrap();
        library.finalize().unwrap();
        let error = store.ca_sign(b"to be signed").err().unwrap();
        assert!(matches!(error, KeystoreError::TokenMissing { .. }), "{error}");
        assert!(store.health().is_err());
        std::fs::remove_dir_all(&tokens).unwrap();
        std::fs::rename(&away, &tokens).unwrap();
        store.ca_sign(b"to be signed").unwrap();
        assert_eq!(store.ca_public().unwrap(), ca);
    });
}

#[test]
fn a_pin_that_changes_while_the_store_is_open_is_tried_once() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let store = fixture.open();
        write_private(&pin_file(&fixture), b"incorrect horse");
        // The session that there is goes on; a new one needs the PIN.
        store.ca_sign(b"to be signed").unwrap();
        cryptoki::context::Pkcs11::new(softhsm::library()).unwrap().finalize().unwrap();
        for _ in 0..3 {
            let error = store.ca_sign(b"to be signed").err().unwrap();
            assert!(matches!(error, KeystoreError::PinRefused { .. }), "{error}");
        }
        write_private(&pin_file(&fixture), PIN.as_bytes());
        store.ca_sign(b"to be signed").unwrap();
    });
}

/// Variable by which the second process finds the first one's state.
const SECOND: &str = "EDGEWARDEN_TEST_SECOND_PROCESS";

#[test]
fn a_second_process_has_a_session_of_its_own() {
    if let Some(folder) = std::env::var_os(SECOND) {
        let folder = PathBuf::from(folder);
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let store = common::open_config(&serde_json::from_str(&text).unwrap(), &folder).unwrap();
        assert_eq!(store.ca_public().unwrap(), std::fs::read(folder.join("ca")).unwrap());
        store.ca_sign(b"to be signed").unwrap();
        assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"secret");
        return;
    }
    alone(|| {
        let fixture = Fixture::pkcs11();
        let store = fixture.open();
        store.seal("queue-key", b"secret").unwrap();
        let folder = fixture.state.path();
        std::fs::write(folder.join("ca"), store.ca_public().unwrap()).unwrap();
        std::fs::write(folder.join("config.json"), serde_json::to_string(&fixture.config).unwrap()).unwrap();
        softhsm::rerun("pkcs11::a_second_process_has_a_session_of_its_own", &[(SECOND, folder)]);
        // Its end ended nothing of ours.
        store.ca_sign(b"to be signed").unwrap();
        assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"secret");
    });
}

#[test]
fn a_token_cannot_quote() {
    alone(|| {
        let store = Fixture::pkcs11().open();
        let error = store.quote(&[1; 32], &[0]).err().unwrap();
        assert!(matches!(error, KeystoreError::Unsupported(..)), "{error}");
        store.device_sign(b"anything").unwrap();
    });
}

#[test]
fn a_record_from_before_key_agreement_is_brought_up_to_date() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let (ca, agreement) = {
            let store = fixture.open();
            (store.ca_public().unwrap(), store.agreement_public().unwrap())
        };
        let record = fixture.state.path().join("pkcs11-keys");
        let text = std::fs::read_to_string(&record).unwrap();
        let old: String = text
            .replace("keys 2", "keys 1")
            .lines()
            .filter(|line| !line.starts_with("agreement"))
            .flat_map(|line| [line, "\n"])
            .collect();
        std::fs::write(&record, old).unwrap();
        let store = fixture.open();
        assert_eq!((store.ca_public().unwrap(), store.agreement_public().unwrap()), (ca, agreement));
        assert_eq!(std::fs::read_to_string(&record).unwrap(), text);
    });
}

const RESIDENT: &str = "edgewarden-resident-key-1-module-key";

#[test]
fn a_resident_key_is_believed_only_as_it_was_made() {
    alone(|| {
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            let fixture = Fixture::pkcs11();
            let store = fixture.open();
            store.create_key("module-key").unwrap();
            let other = Other::beside(token(&fixture));
            other.delete(class, RESIDENT);
            let error = store.key_public("module-key").err().unwrap();
            assert!(error.to_string().contains(RESIDENT), "{error}");
            assert!(matches!(store.create_key("module-key"), Err(KeystoreError::KeyExists(_))));
            store.delete_key("module-key").unwrap();
            store.create_key("module-key").unwrap();
            store.key_sign("module-key", b"to be signed").unwrap();
        }
        // Another key under the same label, and one that can be read.
        let fixture = Fixture::pkcs11();
        let store = fixture.open();
        store.create_key("module-key").unwrap();
        let other = Other::beside(token(&fixture));
        for (change, expected) in
            [(None, "is another one"), (Some(Attribute::Extractable(true)), "can be taken out")]
        {
            other.delete(ObjectClass::PRIVATE_KEY, RESIDENT);
            other.delete(ObjectClass::PUBLIC_KEY, RESIDENT);
            let (public, mut private) = key_pair(RESIDENT);
            if let Some(change) = change {
                set(&mut private, &change);
            }
            other.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
            let error = store.key_public("module-key").err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(store.key_sign("module-key", b"to be signed").is_err());
        }
    });
}

#[test]
fn what_a_crash_left_in_the_token_is_no_key_and_is_replaced() {
    alone(|| {
        let fixture = Fixture::pkcs11();
        let store = fixture.open();
        let other = Other::beside(token(&fixture));
        // The power went after the key was made and before its record was written.
        let (public, private) = key_pair(RESIDENT);
        other.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
        let objects = other.objects();
        assert!(matches!(store.key_public("module-key"), Err(KeystoreError::NoKey(_))));
        store.create_key("module-key").unwrap();
        assert_eq!(other.objects(), objects);
        // And after a record was removed and before its key was destroyed.
        std::fs::remove_file(fixture.state.path().join("keys/module-key.pkcs11")).unwrap();
        assert!(matches!(store.key_sign("module-key", b"x"), Err(KeystoreError::NoKey(_))));
        store.delete_key("module-key").unwrap();
        assert_eq!(other.objects(), objects - 2);
    });
}
