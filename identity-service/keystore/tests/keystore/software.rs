//! Behaviour of the key file alone: passphrases and permissions.

use crate::common;

use std::os::unix::fs::PermissionsExt as _;

use common::{Fixture, write_private};
use edgewarden_keystore::KeystoreError;
use edgewarden_protocol::config;

fn passphrase_file(fixture: &Fixture) -> std::path::PathBuf {
    match &fixture.config {
        config::Keystore::Software { passphrase_file } => passphrase_file.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_key_file_is_private_and_tells_nothing() {
    let fixture = Fixture::software();
    fixture.open().seal("queue-key", b"a secret to look for").unwrap();
    let file = fixture.sealed_file("queue-key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&file).unwrap();
    for text in [&b"a secret to look for"[..], b"queue-key", b"gateway-ca-key"] {
        assert!(!bytes.windows(text.len()).any(|window| window == text));
    }
}

#[test]
fn the_wrong_passphrase_opens_nothing_and_breaks_nothing() {
    let fixture = Fixture::software();
    let ca = fixture.open().ca_public().unwrap();
    let file = passphrase_file(&fixture);
    write_private(&file, b"incorrect horse battery\n");
    let error = fixture.try_open().err().unwrap();
    assert!(matches!(error, KeystoreError::Passphrase { .. }), "{error}");
    // The line end belongs to the file, not to the passphrase.
    write_private(&file, b"correct horse battery");
    assert_eq!(fixture.open().ca_public().unwrap(), ca);
}

#[test]
fn passphrase_files_are_refused_by_reason() {
    let fixture = Fixture::software();
    let file = passphrase_file(&fixture);
    for (bytes, mode, expected) in [
        (&b"correct horse battery"[..], 0o604, "others"),
        (b"correct horse battery", 0o602, "others"),
        (b"correct horse battery", 0o620, "others"),
        (b"short", 0o600, "12"),
        (b"", 0o600, "12"),
        (b"\n\n\n\n\n\n\n\n\n\n\n\n\n\n", 0o600, "12"),
        (&[b'a'; 1025], 0o600, "1024"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = fixture.try_open().err().unwrap();
        assert!(matches!(error, KeystoreError::SecretFile { .. }), "{mode:o}: {error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(fixture.try_open().err(), Some(KeystoreError::File { .. })));
    std::fs::create_dir(&file).unwrap();
    assert!(matches!(fixture.try_open().err(), Some(KeystoreError::SecretFile { .. })));
    // Nothing was made while the passphrase was refused.
    assert!(!fixture.sealed_file("any").exists());
}

#[test]
fn iterations_out_of_range_are_not_worked_through() {
    let fixture = Fixture::software();
    drop(fixture.open());
    let file = fixture.sealed_file("any");
    let good = std::fs::read(&file).unwrap();
    for iterations in [0u32, 1, 99_999, 10_000_001, u32::MAX] {
        let mut bad = good.clone();
        bad[18..22].copy_from_slice(&iterations.to_be_bytes());
        std::fs::write(&file, bad).unwrap();
        let error = fixture.try_open().err().unwrap();
        assert!(matches!(error, KeystoreError::Corrupted { .. }), "{iterations}: {error}");
    }
}

#[test]
fn a_key_file_cannot_quote() {
    let fixture = Fixture::software();
    let store = fixture.open();
    let error = store.quote(&[1; 32], &[0]).err().unwrap();
    assert!(matches!(error, KeystoreError::Unsupported(..)), "{error}");
    store.device_sign(b"anything").unwrap();
}
