//! Files of TPM makers' certificates, as an operator adds them.

use crate::common;

use std::path::PathBuf;

use common::Fleet;
use edgewarden_names::Reason;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/appraisal/tests/golden")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(golden(name)).unwrap()
}

#[test]
fn files_as_makers_publish_them_are_taken() {
    let fleet = Fleet::start(&[]);
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(fleet.path(name), bytes).unwrap();
        fleet.path(name).to_str().unwrap().to_owned()
    };
    // An EK certificate among authorities, words between the blocks, and lines that end as on Windows.
    let mixed = format!(
        "Roots of makers\n\n{}\nSTMicroelectronics:\n{}\n{}",
        text("makers/nuvoton-root-2111.pem"),
        text("makers/stm-ecc-leaf.pem"),
        text("openssl/root-sha1.pem"),
    );
    let mixed = write("mixed.pem", mixed.replace('\n', "\r\n").as_bytes());
    let answer = fleet.cli(&["vendor", "add", &mixed]);
    for words in ["2 added, 0 known before", "left out: block 2 (line ", "not that of an authority"] {
        assert!(answer.errors().contains(words), "no `{words}` in: {}", answer.errors());
    }
    answer.ok();
    assert_eq!(fleet.json(&["vendor", "list"]).as_array().unwrap().len(), 2);
    let again = fleet.json(&["vendor", "add", &mixed]);
    assert_eq!((again["added"].as_u64(), again["known"].as_u64()), (Some(0), Some(2)));
    // An intermediate alone whose root is trusted; then one whose root is not.
    let lone = fleet.json(&["vendor", "add", golden("makers/stm-ecc-intermediate-01.pem").to_str().unwrap()]);
    assert_eq!(lone["added"], 1);
    let useless = lone["useless"].as_array().unwrap();
    assert!(useless[0]["why"].as_str().unwrap().contains("STM TPM ECC Root CA 01"), "{useless:?}");
    let p7b = fleet.json(&["vendor", "add", golden("openssl/roots.p7b").to_str().unwrap()]);
    assert_eq!((p7b["added"].as_u64(), p7b["useless"].as_array().unwrap().len()), (Some(1), 0));
    assert_eq!(p7b["roots"].as_array().unwrap().len(), 4);
}

#[test]
fn files_of_no_use_are_refused_in_words() {
    let fleet = Fleet::start(&[]);
    let refused = |name: &str, bytes: &[u8], words: &str| {
        std::fs::write(fleet.path(name), bytes).unwrap();
        let answer = fleet.cli(&["vendor", "add", fleet.path(name).to_str().unwrap()]);
        assert!(answer.errors().contains(words), "{name}: {}", answer.errors());
        answer.refused(Reason::RequestInvalid);
    };
    refused("empty", b"", "empty");
    refused("words", b"words", "neither PEM nor DER nor PKCS #7");
    refused("leaf", text("makers/stm-ecc-leaf.pem").as_bytes(), "block 1 (line 1)");
    std::fs::write(fleet.path("large"), vec![b' '; 9 * 1024 * 1024]).unwrap();
    let large = fleet.cli(&["vendor", "add", fleet.path("large").to_str().unwrap()]);
    assert!(large.code() == 1 && large.errors().contains("bytes"), "{}", large.errors());
    assert!(fleet.json(&["vendor", "list"]).as_array().unwrap().is_empty());
}
