//! The kernel's measurement list.

use crate::common;

use common::corpus;
use edgewarden_evidence::HashAlg;
use edgewarden_evidence::ima::{Extension, MeasurementList};
use proptest::prelude::*;

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend(bytes);
}

fn ng(path: &str, more: Option<&[u8]>) -> Vec<u8> {
    let mut data = Vec::new();
    field(&mut data, &[b"sha256:\0".as_slice(), &[0xab; 32]].concat());
    field(&mut data, &[path.as_bytes(), b"\0"].concat());
    if let Some(more) = more {
        field(&mut data, more);
    }
    data
}

fn line(template: &str, data: &[u8], path: &str, rest: &str) -> String {
    let hash = hex::encode(HashAlg::Sha1.digest(&[data]));
    format!("10 {hash} {template} sha256:{} {path}{rest}\n", "ab".repeat(32))
}

#[test]
fn templates_replay() {
    let (plain, signed, unsigned, buffer) =
        (ng("/bin/sh", None), ng("/bin/ls", Some(&[3, 2])), ng("/etc/x", Some(&[])), ng(".ima", Some(&[7])));
    let text = [
        line("ima-ng", &plain, "/bin/sh", ""),
        line("ima-sig", &signed, "/bin/ls", " 0302"),
        line("ima-sig", &unsigned, "/etc/x", " "),
        line("ima-sig", &unsigned, "/etc/x", ""),
        line("ima-buf", &buffer, ".ima", " 07"),
        format!("10 {} ima-ng sha256:{} /changed\n", "00".repeat(20), "00".repeat(32)),
    ]
    .concat();
    let list = MeasurementList::parse(text.as_bytes()).unwrap();
    let mut value = vec![0; 32];
    for (at, data) in [plain, signed, unsigned.clone(), unsigned, buffer].iter().enumerate() {
        let digest = HashAlg::Sha256.digest(&[data]);
        value = HashAlg::Sha256.digest(&[&value, &digest]);
        assert_eq!(list.replay(HashAlg::Sha256, Extension::PerBank, at + 1), value);
        assert_eq!(list.prefix_of(HashAlg::Sha256, Extension::PerBank, &value), Some(at + 1));
    }
    value = HashAlg::Sha256.digest(&[&value, &[0xff; 32]]);
    assert!(list.entries()[5].violation);
    assert_eq!(list.replay(HashAlg::Sha256, Extension::PerBank, usize::MAX), value);
    assert_eq!(list.prefix_of(HashAlg::Sha256, Extension::PerBank, &[1; 32]), None);
    assert_eq!(list.prefix_of(HashAlg::Sha256, Extension::PerBank, &[0; 32]), Some(0));
    let padded = [HashAlg::Sha1.digest(&[&ng("/bin/sh", None)]), vec![0; 12]].concat();
    let expected = HashAlg::Sha256.digest(&[&[0; 32], &padded]);
    assert_eq!(list.replay(HashAlg::Sha256, Extension::PaddedSha1, 1), expected);
}

#[test]
fn the_old_template() {
    let mut data = vec![0xcd; 20];
    data.extend(b"/init");
    data.resize(20 + 256, 0);
    let text = format!("10 {} ima {} /init\n", hex::encode(HashAlg::Sha1.digest(&[&data])), "cd".repeat(20));
    assert_eq!(MeasurementList::parse(text.as_bytes()).unwrap().entries().len(), 1);
}

#[test]
fn malformed_lists_are_refused() {
    let good = line("ima-ng", &ng("/bin/sh", None), "/bin/sh", "");
    assert!(MeasurementList::parse(good.as_bytes()).is_ok());
    assert!(MeasurementList::parse(b"").unwrap().entries().is_empty());
    for (what, text) in [
        ("no end of line", good.trim_end().to_owned()),
        ("an empty line", format!("{good}\n")),
        ("PCR 24", good.replacen("10", "24", 1)),
        ("no PCR", good.replacen("10 ", "", 1)),
        ("two spaces", good.replacen("10 ", "10  ", 1)),
        ("another path", good.replace("/bin/sh", "/bin/su")),
        ("upper case", good.replace("abab", "ABAB")),
        ("an unknown template", good.replace("ima-ng", "ima-xx")),
        ("no algorithm", good.replace("sha256:", "")),
        ("a field too many", good.replace("/bin/sh", "/bin/sh 00")),
        ("a buffer without content", line("ima-buf", &ng(".ima", Some(&[])), ".ima", "")),
        ("an odd digit", good.replace("sha256:ab", "sha256:a")),
        ("a short template hash", format!("10 00 ima-ng sha256:{} /x\n", "00".repeat(32))),
    ] {
        assert!(MeasurementList::parse(text.as_bytes()).is_err(), "{what}");
    }
    assert!(MeasurementList::parse(b"10 \xff\n").is_err());
}

#[test]
fn a_real_list_replays() {
    for (name, text) in corpus("ima") {
        let list = MeasurementList::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(list.entries().len(), 826);
        let value = list.replay(HashAlg::Sha256, Extension::PerBank, 800);
        assert_eq!(list.prefix_of(HashAlg::Sha256, Extension::PerBank, &value), Some(800));
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "([0-9a-f]{0,42} ?|ima-ng |ima-sig |sha256:|/|\n| |\\PC){0,20}") {
        let _ = MeasurementList::parse(text.as_bytes());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = MeasurementList::parse(&bytes);
    }
}
