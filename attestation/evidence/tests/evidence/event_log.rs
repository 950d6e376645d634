//! Boot logs: what is accepted, what is refused, and where replay leads.

use crate::common;

use common::{agile, corpus, header, legacy, sha256};
use edgewarden_evidence::event_log::{EVENTS_MAX, EventLog, Format, LOG_BYTES_MAX};
use edgewarden_evidence::{HashAlg, PcrValues};
use proptest::prelude::*;

const SHA256: (u16, u16) = (0x0b, 32);

fn log(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = header(&[SHA256]);
    bytes.extend(records.concat());
    bytes
}

#[test]
fn a_log_replays_to_its_digests() {
    let bytes = log(&[sha256(0, 8, b"version"), sha256(4, 0x8000_0003, b"grub"), sha256(4, 4, &[0; 4])]);
    let parsed = EventLog::parse(&bytes).unwrap();
    assert_eq!(parsed.format(), &Format::CryptoAgile);
    assert_eq!(parsed.banks(), [HashAlg::Sha256]);
    assert_eq!(parsed.events().iter().map(|event| event.index).collect::<Vec<_>>(), [1, 2, 3]);
    let mut expected = PcrValues::at_startup(&[HashAlg::Sha256], 0);
    expected.extend(HashAlg::Sha256, 0, &HashAlg::Sha256.digest(&[b"version"]));
    expected.extend(HashAlg::Sha256, 4, &HashAlg::Sha256.digest(&[b"grub"]));
    expected.extend(HashAlg::Sha256, 4, &HashAlg::Sha256.digest(&[&[0; 4]]));
    assert_eq!(parsed.replay(), expected);
}

#[test]
fn startup_locality_seeds_pcr_0_and_no_action_extends_nothing() {
    for (locality, last) in [(&[0][..], 0), (&[3], 3), (&[4], 4), (&[3, 0, 0, 0, 0, 0, 0, 0], 3)] {
        let mut data = b"StartupLocality\0".to_vec();
        data.extend(locality);
        let bytes = log(&[sha256(0, 3, &data), sha256(0xffff_ffff, 3, b"anything")]);
        let values = EventLog::parse(&bytes).unwrap().replay();
        assert_eq!(values.get(HashAlg::Sha256, 0).unwrap().last(), Some(&last));
    }
}

/// An event that hardware measures before TPM2_Startup begins PCR 0 at 4 in every bank, whatever the locality of
/// TPM2_Startup and whichever of the two is logged first (TPM 2.0 Library Part 1, "H-CRTM before TPM2_Startup()").
#[test]
fn an_h_crtm_event_begins_pcr_0_at_4() {
    let h_crtm = || sha256(0, 0x8000_0010, b"HCRTM");
    let locality = |number: u8| sha256(0, 3, &[b"StartupLocality\0", &[number][..]].concat());
    let component = || sha256(0, 3, b"H-CRTM CompMeas\0\x01x");
    let expected = {
        let mut values = PcrValues::at_startup(&[HashAlg::Sha256], 4);
        values.extend(HashAlg::Sha256, 0, &HashAlg::Sha256.digest(&[b"HCRTM"]));
        values.extend(HashAlg::Sha256, 0, &HashAlg::Sha256.digest(&[b"version"]));
        values.get(HashAlg::Sha256, 0).unwrap().to_vec()
    };
    for (what, before) in [
        ("alone", vec![h_crtm()]),
        ("locality 4", vec![locality(4), h_crtm()]),
        ("locality 3", vec![locality(3), h_crtm()]),
        ("locality 0", vec![locality(0), h_crtm()]),
        ("locality 3 after it", vec![h_crtm(), locality(3)]),
        ("with components", vec![component(), locality(4), component(), h_crtm()]),
        ("after events of other PCRs", vec![sha256(7, 4, &[0; 4]), h_crtm()]),
    ] {
        let bytes = log(&[before.concat(), sha256(0, 8, b"version")]);
        let parsed = EventLog::parse(&bytes).unwrap();
        assert_eq!(parsed.pcr_0_start(), 4, "{what}");
        let values = parsed.replay();
        assert_eq!(values.get(HashAlg::Sha256, 0), Some(expected.as_slice()), "{what}");
    }
    // An event of that type for another PCR says nothing of PCR 0.
    let parsed = EventLog::parse(&log(&[sha256(1, 0x8000_0010, b"HCRTM")])).unwrap();
    assert_eq!(parsed.pcr_0_start(), 0);
    let legacy =
        EventLog::parse(&[legacy(0, 0x8000_0010, b"HCRTM"), legacy(4, 4, &[0; 4])].concat()).unwrap();
    assert_eq!(legacy.pcr_0_start(), 4);
}

/// The values that swtpm 0.7.1 shows in three banks after an H-CRTM sequence over `hcrtmdata`, with and without
/// TPM2_Startup at locality 3.
#[test]
fn a_tpm_begins_pcr_0_so_in_every_bank() {
    let mut bytes = header(&[(0x04, 20), (0x0b, 32), (0x0c, 48)]);
    let digests = [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384]
        .map(|bank| (bank.id(), bank.digest(&[b"hcrtmdata"])));
    bytes.extend(agile(0, 0x8000_0010, &digests, b"HCRTM"));
    let values = EventLog::parse(&bytes).unwrap().replay();
    for (bank, expected) in [
        (HashAlg::Sha1, "53c3ceeb799d1c684789e593ee4a3d98a01b7ec2"),
        (HashAlg::Sha256, "4c9729cd17ee15208780592af5902cda897fe081eee352ebc29308ed796d63f9"),
        (
            HashAlg::Sha384,
            "0a8540c54416bee1b889e74711c4576bae125b83a20020f0d5854427476ff29951ea67cabdb58d4e64297224602c1e48",
        ),
    ] {
        assert_eq!(hex::encode(values.get(bank, 0).unwrap()), expected, "{bank}");
    }
}

#[test]
fn padding_is_the_end() {
    let bytes = log(&[sha256(4, 4, &[0; 4])]);
    let plain = EventLog::parse(&bytes).unwrap();
    for pad in [0x00, 0xff] {
        for length in [1, 3, 8, 12, 100] {
            let mut padded = bytes.clone();
            padded.extend(vec![pad; length]);
            assert_eq!(EventLog::parse(&padded).unwrap(), plain, "{length} bytes of {pad}");
        }
    }
}

#[test]
fn all_banks_replay_and_unknown_ones_are_skipped() {
    let mut bytes = header(&[(0x04, 20), (0x0b, 32), (0x12, 32), (0x0c, 48)]);
    let digests = [
        (0x0c, HashAlg::Sha384.digest(&[b"x"])),
        (0x12, vec![9; 32]),
        (0x04, HashAlg::Sha1.digest(&[b"x"])),
        (0x0b, HashAlg::Sha256.digest(&[b"x"])),
    ];
    bytes.extend(agile(2, 13, &digests, b"x"));
    let parsed = EventLog::parse(&bytes).unwrap();
    assert_eq!(parsed.banks(), [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384]);
    let values = parsed.replay();
    for bank in parsed.banks() {
        let expected = bank.digest(&[&vec![0; bank.size()], &bank.digest(&[b"x"])]);
        assert_eq!(values.get(*bank, 2), Some(expected.as_slice()));
    }
}

#[test]
fn legacy_logs_have_the_sha1_bank_only() {
    let bytes = [legacy(0, 8, b"v"), legacy(4, 4, &[0; 4])].concat();
    let parsed = EventLog::parse(&bytes).unwrap();
    assert_eq!(parsed.format(), &Format::Legacy);
    assert_eq!(parsed.events().len(), 2);
    assert_eq!(parsed.replay().get(HashAlg::Sha256, 0), None);
    assert!(parsed.replay().get(HashAlg::Sha1, 0).is_some());
}

#[test]
fn malformed_logs_are_refused() {
    let digest = || HashAlg::Sha256.digest(&[b"x"]);
    let locality = |byte: &[u8]| sha256(0, 3, &[b"StartupLocality\0", byte].concat());
    let bad_header = |change: fn(&mut Vec<u8>)| {
        let mut bytes = header(&[SHA256]);
        change(&mut bytes);
        bytes
    };
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("no banks", header(&[])),
        ("17 banks", header(&(0x100..0x111).map(|id| (id, 32)).collect::<Vec<_>>())),
        ("wrong digest size", header(&[(0x0b, 20)])),
        ("digest size 0", header(&[(0x12, 0)])),
        ("digest size 65", header(&[(0x12, 65)])),
        ("a bank twice", header(&[SHA256, SHA256])),
        ("header with vendor info that is not there", bad_header(|bytes| *bytes.last_mut().unwrap() = 1)),
        ("PCR 24", log(&[sha256(24, 13, b"x")])),
        ("no digest", log(&[agile(4, 13, &[], b"x")])),
        ("two digests", log(&[agile(4, 13, &[(0x0b, digest()), (0x0b, digest())], b"x")])),
        ("another bank", log(&[agile(4, 13, &[(0x12, digest())], b"x")])),
        ("a missing bank", [header(&[SHA256, (4, 20)]), sha256(4, 13, b"x")].concat()),
        ("one bank for two", {
            let twice = [(0x0b, digest()), (0x0b, digest())];
            [header(&[SHA256, (4, 20)]), agile(4, 13, &twice, b"x")].concat()
        }),
        ("locality 1", log(&[locality(&[1])])),
        ("no locality", log(&[locality(&[])])),
        ("long locality", log(&[locality(&[3, 1])])),
        ("long locality after zeros", log(&[locality(&[3, 0, 0, 4])])),
        ("two localities", log(&[locality(&[3]), locality(&[4])])),
        ("late locality after an H-CRTM event", {
            log(&[sha256(0, 0x8000_0010, b"HCRTM"), sha256(0, 8, b"x"), locality(&[3])])
        }),
        ("late H-CRTM event", log(&[sha256(0, 8, b"x"), sha256(0, 0x8000_0010, b"HCRTM")])),
        ("late H-CRTM event after a locality", {
            log(&[locality(&[4]), sha256(0, 8, b"x"), sha256(0, 0x8000_0010, b"HCRTM")])
        }),
        ("two H-CRTM events", log(&vec![sha256(0, 0x8000_0010, b"HCRTM"); 2])),
        ("locality twice", log(&[locality(&[3]), locality(&[3])])),
        ("late locality", log(&[sha256(0, 8, b"x"), locality(&[3])])),
        ("mixed padding", [log(&[sha256(4, 13, b"x")]), vec![0, 0xff, 0]].concat()),
        (
            "huge event",
            log(&[[sha256(4, 13, b""), vec![]].concat()[..4 + 4 + 4 + 34].to_vec(), vec![0xff; 4]]),
        ),
        ("too large", vec![1; LOG_BYTES_MAX + 1]),
        ("too many events", vec![legacy(1, 1, b""); EVENTS_MAX + 1].concat()),
    ] {
        assert!(EventLog::parse(&bytes).is_err(), "{what}");
    }
}

/// A cut log is refused, or is a whole log of fewer events.
#[test]
fn every_truncation_is_refused_or_shorter() {
    let bytes = log(&[sha256(0, 8, b"version"), sha256(4, 0x8000_0003, b"grub"), sha256(7, 4, &[1; 4])]);
    let whole = EventLog::parse(&bytes).unwrap();
    for length in 0..bytes.len() {
        if let Ok(cut) = EventLog::parse(&bytes[..length]) {
            assert!(cut.events().len() < whole.events().len(), "{length}");
            assert!(whole.events().starts_with(cut.events()), "{length}");
        }
    }
}

#[test]
fn real_logs_parse_at_every_length() {
    for (name, bytes) in corpus("boot-logs") {
        let whole = EventLog::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(whole.events().len() > 20, "{name}");
        let legacy = matches!(name.as_str(), "debian-10.bin" | "option_rom_eventlog");
        assert_eq!(whole.format() == &Format::Legacy, legacy, "{name}");
        assert_eq!(whole.replay().get(HashAlg::Sha256, 4).is_none(), legacy, "{name}");
        let step = if bytes.len() > 16 * 1024 { 37 } else { 1 };
        for length in (0..bytes.len()).step_by(step) {
            let cut = EventLog::parse(&bytes[..length]);
            assert!(cut.is_err() || cut.unwrap().events().len() <= whole.events().len(), "{name}");
        }
    }
}

/// As `tpm2_eventlog` of tpm2-tools 5.4 replays the same file.
#[test]
fn a_real_log_leads_to_known_values() {
    let logs = corpus("boot-logs");
    let Some((_, bytes)) = logs.iter().find(|(name, _)| name == "rust-keylime-uefi_log.bin") else { return };
    let values = EventLog::parse(bytes).unwrap().replay();
    for (pcr, expected) in [
        (0, "5c4103d6dcf2a90c30a646cc090a8de10cbe1c4a1f21c0d7d4f2f4836b2055da"),
        (4, "204e40739947a1b8dc904066dbe78335d53c1df53f20614cc2b365a7e6d6b605"),
        (7, "7ab310d890fb86d2084bcf75a11172654fc4fbe5ec29f68afd864e22bd0e13ab"),
        (9, "5775cc79e0de21ac918c2ac0a879b34f09fb4c6c4507f43c8796c9eb3c9fdb40"),
        (14, "17cdefd9548f4383b67a37a901673bf3c8ded6f619d36c8007562de1d93c81cc"),
    ] {
        assert_eq!(hex::encode(values.get(HashAlg::Sha256, pcr).unwrap()), expected, "PCR {pcr}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = EventLog::parse(&bytes);
        let _ = EventLog::parse(&[header(&[SHA256]), bytes].concat());
    }

    /// Whatever byte of a good log changes: it is refused or still replays.
    #[test]
    fn no_changed_byte_panics(at in 0_usize..200, byte in any::<u8>()) {
        let mut bytes = log(&[sha256(0, 8, b"version"), sha256(4, 13, b"grub"), sha256(7, 4, &[1; 4])]);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(parsed) = EventLog::parse(&bytes) {
            let _ = parsed.replay();
        }
    }
}
