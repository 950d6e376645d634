//! Random damage to a log: every change of what a signature covers is found, and nothing makes the verifier panic.

use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use edgewarden_names::{GatewayName, UnixTime};
use edgewarden_protocol::audit::Event;
use proptest::prelude::*;

use crate::folder::files;
use crate::{Audit, Broken, Head, Keys, Report, Verifier, fingerprint, statement};

type Files = Vec<(u64, Vec<u8>)>;
type Change<'a> = Box<dyn Fn(&mut Files) + 'a>;
type Heads<'a> = &'a dyn Fn(&mut Audit);

struct Sample {
    key: EcdsaKeyPair,
    files: Files,
    head: Head,
}

fn gateway() -> GatewayName {
    GatewayName::parse("gw-1").unwrap()
}

fn sign(key: &EcdsaKeyPair, gateway: &GatewayName, (sequence, hash): (u64, String), at: UnixTime) -> Head {
    let statement = statement(gateway, sequence, &hash, at).unwrap();
    let signature = hex::encode(key.sign(&SystemRandom::new(), &statement).unwrap());
    let key = fingerprint(key.public_key().as_ref());
    Head { gateway: gateway.clone(), sequence, hash, at, key, signature }
}

fn read(folder: &std::path::Path) -> Files {
    let files = files(folder).unwrap();
    files.into_iter().map(|(first, path)| (first, std::fs::read(path).unwrap())).collect()
}

/// Three files, a head after every tenth entry and at the end.
fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let mut audit = Audit::open_sized(folder.path(), 5_000, UnixTime(1)).unwrap();
        for n in 1..=40 {
            audit.append(UnixTime(n), &Event::new("test.event", n, "detail")).unwrap();
            if n % 10 == 0 {
                let head = sign(&key, &gateway(), audit.tip(), UnixTime(n));
                audit.append_head(UnixTime(n), &head).unwrap();
            }
        }
        let files = read(folder.path());
        assert_eq!(files.len(), 3);
        let report = judge(&files, &key, None).unwrap();
        Sample { key, files, head: report.head.unwrap() }
    })
}

fn judge(files: &Files, key: &EcdsaKeyPair, known: Option<&Head>) -> Result<Report, Broken> {
    let keys = Keys::new([key.public_key().as_ref().to_vec()]);
    let mut verifier = Verifier::new(keys, known.cloned());
    for (first, bytes) in files {
        verifier.file(&format!("audit-{first}"), *first, bytes)?;
    }
    verifier.finish()
}

#[test]
fn a_whole_log_is_vouched_for() {
    let sample = sample();
    let report = judge(&sample.files, &sample.key, Some(&sample.head)).unwrap();
    assert_eq!((report.first, report.last, report.entries, report.heads), (Some(1), Some(44), 44, 4));
    assert_eq!((report.unsigned, report.unfinished_bytes, report.files), (1, 0, 3));
    // The oldest file is rotated away: the rest still hangs together.
    let report = judge(&sample.files[1..].to_vec(), &sample.key, Some(&sample.head)).unwrap();
    assert!(report.first > Some(1) && report.last == Some(44) && report.heads >= 1);
}

#[test]
fn what_is_not_the_log_that_was_signed_is_found() {
    let sample = sample();
    let lines = |file: &[u8]| file.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let drop_line = |file: usize, line: usize| -> Change<'_> {
        Box::new(move |files: &mut Files| {
            let mut kept = lines(&files[file].1);
            kept.remove(line);
            files[file].1 = kept.concat();
        })
    };
    let changes: Vec<(&str, &str, Change<'_>)> = vec![
        ("the first line of a later file is gone", "does not follow", drop_line(1, 0)),
        ("the first line of all is gone", "its name says", drop_line(0, 0)),
        ("a line is gone", "does not follow", drop_line(1, 3)),
        ("the last file is gone", "its end was cut off", Box::new(|files| drop(files.pop()))),
        (
            "the end is gone",
            "its end was cut off",
            Box::new(|files| files[2].1 = lines(&files[2].1)[..1].concat()),
        ),
        ("a file from the middle is gone", "does not follow", Box::new(|files| drop(files.remove(1)))),
        ("files are swapped", "does not follow", Box::new(|files| files.swap(0, 1))),
        ("a file is there twice", "does not follow", Box::new(|files| files.insert(1, files[0].clone()))),
        ("a file is under another name", "its name says", Box::new(|files| files[1].0 += 1)),
        ("a line is torn within", "middle of a line", Box::new(|files| files[0].1.truncate(100))),
        ("blanks", "not written as", Box::new(|files| files[1].1.insert(0, b' '))),
        ("everything is gone", "its end was cut off", Box::new(Vec::clear)),
    ];
    for (name, problem, change) in changes {
        let mut files = sample.files.clone();
        change(&mut files);
        let broken = judge(&files, &sample.key, Some(&sample.head)).unwrap_err();
        assert!(broken.problem.contains(problem), "{name}: {broken}");
    }
    // Without a known head a log that was cut off at the end of a line still hangs together: it says how far it goes.
    let cut = sample.files[..2].to_vec();
    assert!(judge(&cut, &sample.key, None).unwrap().last < Some(44));
}

#[test]
fn a_log_that_was_written_anew_lacks_the_key() {
    let sample = sample();
    let forger = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let other = GatewayName::parse("gw-2").unwrap();
    let written = |heads: &dyn Fn(&mut Audit)| {
        let folder = tempfile::tempdir().unwrap();
        let mut audit = Audit::open(folder.path(), UnixTime(1)).unwrap();
        for n in 0..60 {
            audit.append(UnixTime(n), &Event::new("test.event", n, "another story")).unwrap();
        }
        heads(&mut audit);
        read(folder.path())
    };
    let put = |audit: &mut Audit, head: Head| audit.append_head(UnixTime(1), &head).unwrap();
    let cases: [(&str, &str, Heads<'_>); 7] = [
        ("no head", "nobody vouches", &|_| {}),
        ("a forger's key", "another key", &|audit| {
            put(audit, sign(&forger, &gateway(), audit.tip(), UnixTime(1)));
        }),
        ("the right key's name, a forger's signature", "signature of the head is wrong", &|audit| {
            let key = fingerprint(sample.key.public_key().as_ref());
            put(audit, Head { key, ..sign(&forger, &gateway(), audit.tip(), UnixTime(1)) });
        }),
        ("a true head for another chain", "covers another entry", &|audit| put(audit, sample.head.clone())),
        ("a head ahead of the log", "not before it", &|audit| {
            let (sequence, hash) = audit.tip();
            put(audit, sign(&sample.key, &gateway(), (sequence + 5, hash), UnixTime(1)));
        }),
        ("another gateway's head", "another gateway", &|audit| {
            let head = sign(&sample.key, &other, audit.tip(), UnixTime(1));
            audit
                .append(UnixTime(1), &Event::new("audit.head", "gw-1", serde_json::to_string(&head).unwrap()))
                .unwrap();
        }),
        ("not a head", "malformed", &|audit| {
            audit.append(UnixTime(1), &Event::new("audit.head", "gw-1", "trust me")).unwrap();
        }),
    ];
    for (name, problem, heads) in cases {
        let broken = judge(&written(heads), &sample.key, None).unwrap_err();
        assert!(broken.problem.contains(problem), "{name}: {broken}");
    }
    // A known head that nobody signed proves nothing against a log either.
    let untrue = sign(&forger, &gateway(), (44, sample.head.hash.clone()), UnixTime(1));
    assert!(judge(&sample.files, &sample.key, Some(&untrue)).is_err());
}

proptest! {
    #[test]
    fn any_changed_byte_is_found(file in 0..3_usize, place in any::<prop::sample::Index>(), bits in 1..=255_u8) {
        let sample = sample();
        let mut files = sample.files.clone();
        let at = place.index(files[file].1.len());
        files[file].1[at] ^= bits;
        // The last line is not covered by a head yet; a torn one there looks like a crash.
        let judged = judge(&files, &sample.key, Some(&sample.head));
        prop_assert!(judged.is_err() || judged.is_ok_and(|report| report.unfinished_bytes > 0 && report.last == Some(43)));
    }

    #[test]
    fn a_log_cut_anywhere_is_found_or_shorter(file in 0..3_usize, place in any::<prop::sample::Index>()) {
        let sample = sample();
        let mut files = sample.files[..=file].to_vec();
        let length = files[file].1.len();
        files[file].1.truncate(place.index(length));
        let covered = judge(&files, &sample.key, None).map_or(0, |report| report.last.unwrap_or(0));
        let known = judge(&files, &sample.key, Some(&sample.head));
        prop_assert_eq!(known.is_ok(), covered >= sample.head.sequence);
    }

    #[test]
    fn nothing_makes_the_verifier_panic(files in prop::collection::vec((any::<u64>(), any::<Vec<u8>>()), 0..4)) {
        let broken = judge(&files, &sample().key, None);
        prop_assert!(broken.is_err() || broken.is_ok_and(|report| report.entries == 0));
    }
}
