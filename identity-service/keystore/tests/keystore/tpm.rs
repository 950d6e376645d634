//! Behaviour of a TPM alone: quotes, power cuts, other TPMs, other programs' remains.

use crate::common;

use std::process::Command;

use common::{Fixture, Swtpm, domain, gateway, run};
use edgewarden_evidence::tpm::{Attest, AttestKind};
use edgewarden_keystore::KeystoreError;
use edgewarden_names::Reason;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::config;
use edgewarden_protocol::enrol::{Challenge, Credential};

#[test]
fn tpm2_checkquote_accepts_an_exported_quote() {
    let fixture = Fixture::tpm();
    let nonce = [0xab; 32];
    let quote = fixture.open().quote(&nonce, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]).unwrap();
    assert_eq!(quote.pcrs.len(), 11);
    let dir = fixture.state.path();
    std::fs::write(dir.join("quote.msg"), &quote.message).unwrap();
    std::fs::write(dir.join("quote.sig"), &quote.signature).unwrap();
    std::fs::write(dir.join("ak.pem"), &quote.ak_pem).unwrap();
    let check = |nonce: &[u8]| {
        let nonce = hex::encode(nonce);
        Command::new("tpm2_checkquote")
            .current_dir(dir)
            .args(["-u", "ak.pem", "-m", "quote.msg", "-s", "quote.sig", "-g", "sha256", "-q", &nonce])
            .output()
            .unwrap()
    };
    let accepted = check(&nonce);
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    assert!(!check(&[0xac; 32]).status.success());
}

#[test]
fn quotes_show_the_pcrs_that_were_asked_for() {
    let fixture = Fixture::tpm();
    let store = fixture.open();
    let before = store.quote(&[1; 32], &[16]).unwrap();
    assert_eq!(before.pcrs, [(16, [0; 32])]);
    let digest = "11".repeat(32);
    run(fixture.tpm.as_ref().unwrap().tool("tpm2_pcrextend").arg(format!("16:sha256={digest}")));
    let after = store.quote(&[1; 32], &[7, 16]).unwrap();
    assert_eq!(after.pcrs[0], (7, [0; 32]));
    assert_ne!(after.pcrs[1].1, [0; 32]);
    for (nonce, pcrs) in [
        (&[1; 32][..], &[][..]),
        (&[1; 32], &[24]),
        (&[1; 32], &[1, 0]),
        (&[1; 32], &[0, 0]),
        (&[1; 15], &[0]),
        (&[1; 33], &[0]),
    ] {
        assert!(matches!(store.quote(nonce, pcrs), Err(KeystoreError::Request(_))), "{nonce:?} {pcrs:?}");
    }
    assert!(matches!(store.device_sign(b"anything"), Err(KeystoreError::Unsupported(..))));
}

#[test]
fn the_quote_counts_resets_in_clear() {
    // An attestation key outside the endorsement hierarchy would have its counters blurred.
    let mut fixture = Fixture::tpm();
    let store = fixture.open();
    let resets = |message: &[u8]| {
        let attest = Attest::parse(message).unwrap();
        assert!(matches!(attest.kind, AttestKind::Quote { .. }));
        attest.clock.reset_count
    };
    let before = resets(&store.quote(&[1; 32], &[0]).unwrap().message);
    fixture.tpm_mut().cut_power();
    fixture.tpm_mut().power_on();
    assert_eq!(resets(&store.quote(&[1; 32], &[0]).unwrap().message), before + 1);
}

#[test]
fn twenty_power_cuts_lock_nothing() {
    let mut fixture = Fixture::tpm();
    let store = fixture.open();
    store.seal("queue-key", b"secret").unwrap();
    let ca = store.ca_public().unwrap();
    for cut in 0..20 {
        store.quote(&[1; 32], &[0, 7]).unwrap();
        fixture.tpm_mut().cut_power();
        fixture.tpm_mut().power_on();
        // The same open store, and one that starts anew, as after a power cut of the whole gateway.
        let fresh = (cut % 5 == 0).then(|| fixture.open());
        let store = fresh.as_ref().unwrap_or(&store);
        store.quote(&[2; 32], &[0, 7]).unwrap();
        store.ca_sign(b"to be signed").unwrap();
        assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"secret");
        assert_eq!(store.ca_public().unwrap(), ca);
    }
    let lockout = store.health().unwrap().lockout.unwrap();
    assert!(!lockout.locked && lockout.failures == 0, "{lockout:?}");
}

#[test]
fn a_locked_tpm_still_attests_and_says_that_it_is_locked() {
    let fixture = Fixture::tpm();
    let tpm = fixture.tpm.as_ref().unwrap();
    // Another program's key under dictionary-attack protection, tried with wrong passwords.
    run(tpm.tool("tpm2_createprimary").args(["-C", "o", "-G", "ecc", "-p", "right", "-c", "foreign.ctx"]));
    run(tpm.tool("tpm2_flushcontext").arg("-t"));
    for _ in 0..4 {
        let tried = tpm
            .tool("tpm2_create")
            .args(["-C", "foreign.ctx", "-P", "wrong", "-G", "ecc", "-u", "u", "-r", "r"])
            .output()
            .unwrap();
        assert!(!tried.status.success());
        run(tpm.tool("tpm2_flushcontext").arg("-t"));
    }
    let store = fixture.open();
    let lockout = store.health().unwrap().lockout.unwrap();
    assert!(lockout.locked && lockout.failures > 0 && lockout.recovery_seconds > 0, "{lockout:?}");
    store.quote(&[1; 32], &[0]).unwrap();
    store.ca_sign(b"to be signed").unwrap();
    store.seal("queue-key", b"secret").unwrap();
    assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"secret");
}

#[test]
fn slots_that_others_left_filled_are_swept() {
    let fixture = Fixture::tpm();
    let tpm = fixture.tpm.as_ref().unwrap();
    // Without a resource manager each of these leaves its key or session in the TPM.
    for at in 0..3 {
        let context = format!("left{at}.ctx");
        run(tpm.tool("tpm2_createprimary").args(["-C", "o", "-G", "ecc", "-c", &context]));
        let kind: &[&str] = if at == 0 { &["--hmac-session"] } else { &["--policy-session"] };
        run(tpm.tool("tpm2_startauthsession").args(["-S", &format!("session{at}.ctx")]).args(kind));
    }
    let store = fixture.open();
    store.device_keys().unwrap();
    store.seal("queue-key", b"secret").unwrap();
    store.quote(&[1; 32], &[0]).unwrap();
    drop(store);
    // And nothing of ours stays behind.
    for kind in ["handles-transient", "handles-loaded-session"] {
        let left = run(tpm.tool("tpm2_getcap").arg(kind));
        assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "", "{kind}");
    }
}

#[test]
fn another_tpm_is_not_taken_for_this_one() {
    let fixture = Fixture::tpm();
    fixture.open().seal("queue-key", b"secret").unwrap();
    let other = Swtpm::manufacture();
    let moved = Fixture {
        config: config::Keystore::DangerousSimulatedTpm { address: other.address() },
        tpm: Some(other),
        state: fixture.state,
    };
    let error = moved.try_open().err().unwrap();
    assert!(matches!(error, KeystoreError::OtherTpm { .. }), "{error}");
    // The same TPM after TPM2_Clear is another one too.
    let cleared = Fixture::tpm();
    drop(cleared.open());
    run(cleared.tpm.as_ref().unwrap().tool("tpm2_clear").args(["-c", "p"]));
    assert!(matches!(cleared.try_open().err(), Some(KeystoreError::OtherTpm { .. })));
}

#[test]
fn a_sealed_file_works_only_under_its_own_name() {
    let fixture = Fixture::tpm();
    let store = fixture.open();
    store.seal("one", b"secret one").unwrap();
    store.seal("two", b"secret two").unwrap();
    std::fs::rename(fixture.sealed_file("one"), fixture.sealed_file("two")).unwrap();
    let error = store.unseal("two").err().unwrap();
    assert!(matches!(error, KeystoreError::Corrupted { .. }), "{error}");
    let lockout = store.health().unwrap().lockout.unwrap();
    assert_eq!(lockout.failures, 0, "a wrong name is no try at a password");
}

#[test]
fn a_tpm_that_is_away_is_an_error_and_then_works_again() {
    let mut fixture = Fixture::tpm();
    let store = fixture.open();
    fixture.tpm_mut().cut_power();
    let error = store.quote(&[1; 32], &[0]).err().unwrap();
    assert!(matches!(error, KeystoreError::Unreachable { .. }) && error.is_transient(), "{error}");
    assert!(matches!(fixture.try_open().err(), Some(KeystoreError::Unreachable { .. })));
    fixture.tpm_mut().power_on();
    store.quote(&[1; 32], &[0]).unwrap();
}

#[test]
fn a_hierarchy_with_a_password_is_named() {
    let fixture = Fixture::tpm();
    let store = fixture.open();
    run(fixture.tpm.as_ref().unwrap().tool("tpm2_changeauth").args(["-c", "owner", "password"]));
    let error = store.ca_sign(b"to be signed").err().unwrap();
    assert!(error.to_string().contains("password"), "{error}");
}

#[test]
fn a_foreign_credential_is_not_activated() {
    let fixture = Fixture::tpm();
    let store = fixture.open();
    let challenge = Challenge {
        session: "s".into(),
        nonce: Bytes(vec![1; 32]),
        pcrs: vec![0],
        credential: Some(Credential {
            id_object: Bytes([&[0, 32][..], &[1; 32], &[2; 32]].concat()),
            encrypted_secret: Bytes(vec![3; 256]),
        }),
    };
    let error = store.prove(&challenge, &gateway(), &domain(), Vec::new()).err().unwrap();
    assert!(matches!(error, KeystoreError::Tpm { command: "TPM2_ActivateCredential", .. }), "{error}");
    store.quote(&[1; 32], &[0]).unwrap();
}

#[test]
fn a_persistent_endorsement_key_is_used_only_if_it_is_the_certified_one() {
    let fixture = Fixture::tpm();
    let tpm = fixture.tpm.as_ref().unwrap();
    let store = fixture.open();
    let keys = store.device_keys().unwrap();
    let persistent = || {
        let found = run(tpm.tool("tpm2_getcap").arg("handles-persistent"));
        String::from_utf8_lossy(&found.stdout).contains("0x81010001")
    };
    // With or without swtpm's own, with the right one made anew, and with a stranger in its place.
    if persistent() {
        run(tpm.tool("tpm2_evictcontrol").args(["-C", "o", "-c", "0x81010001"]));
    }
    assert!(!persistent());
    assert_eq!(store.device_keys().unwrap(), keys);
    run(tpm.tool("tpm2_createek").args(["-c", "0x81010001", "-G", "rsa", "-u", "ek.pub"]));
    run(tpm.tool("tpm2_flushcontext").arg("-t"));
    assert!(persistent());
    assert_eq!(store.device_keys().unwrap(), keys);
    run(tpm.tool("tpm2_evictcontrol").args(["-C", "o", "-c", "0x81010001"]));
    run(tpm.tool("tpm2_createprimary").args(["-C", "o", "-G", "rsa", "-c", "stranger.ctx"]));
    run(tpm.tool("tpm2_evictcontrol").args(["-C", "o", "-c", "stranger.ctx", "0x81010001"]));
    run(tpm.tool("tpm2_flushcontext").arg("-t"));
    assert_eq!(store.device_keys().unwrap(), keys);
}

#[test]
fn a_tpm_without_an_endorsement_certificate_says_so() {
    let fixture = Fixture { tpm: Some(Swtpm::without_certificate()), ..Fixture::tpm() };
    let address = fixture.tpm.as_ref().unwrap().address();
    let fixture = Fixture { config: config::Keystore::DangerousSimulatedTpm { address }, ..fixture };
    let error = fixture.open().device_keys().err().unwrap();
    assert!(matches!(error, KeystoreError::NoEndorsementCertificate), "{error}");
    let refusal = error.refusal("device keys");
    assert_eq!(refusal.reason, Reason::AttestEkMissing);
    assert!(refusal.rule.contains("RSA-2048"), "{refusal}");
}

/// Such a TPM quotes nothing, without an error of its own.
#[test]
fn a_tpm_whose_sha256_bank_is_off_says_so() {
    let mut fixture = Fixture::tpm();
    let tpm = fixture.tpm_mut();
    run(tpm.tool("tpm2_pcrallocate").arg("sha1:all+sha256:none"));
    tpm.cut_power();
    tpm.power_on();
    let error = fixture.open().quote(&[7; 32], &[0, 4]).err().unwrap();
    assert!(matches!(error, KeystoreError::Sha256BankOff), "{error}");
    assert_eq!(error.refusal("quote").reason, Reason::AttestPcrSelection);
}

#[test]
fn three_slots_are_enough_for_sixty_four_callers() {
    let fixture = Fixture::tpm();
    let tpm = fixture.tpm.as_ref().unwrap();
    // The least that a TPM may have (PC Client Platform TPM Profile, TPM_PT_HR_TRANSIENT_MIN and _LOADED_MIN).
    let properties = run(tpm.tool("tpm2_getcap").arg("properties-fixed"));
    let properties = String::from_utf8_lossy(&properties.stdout).into_owned();
    for slots in ["TPM2_PT_HR_TRANSIENT_MIN", "TPM2_PT_HR_LOADED_MIN"] {
        let (_, after) = properties.split_once(slots).unwrap();
        assert!(after.trim_start_matches([':', '\n', ' ']).starts_with("raw: 0x3"), "{slots}: {after:.40}");
    }
    let store = fixture.open();
    let together = std::sync::Barrier::new(64);
    std::thread::scope(|scope| {
        for caller in 0..64 {
            let (store, together) = (&store, &together);
            scope.spawn(move || {
                together.wait();
                let name = format!("value-{caller}");
                match caller % 5 {
                    0 => drop(store.quote(&[1; 32], &[0, 7]).unwrap()),
                    1 => drop(store.device_keys().unwrap()),
                    2 => drop(store.ca_sign(name.as_bytes()).unwrap()),
                    3 => {
                        store.create_key(&name).unwrap();
                        store.key_sign(&name, name.as_bytes()).unwrap();
                        store.key_certify(&name, &[1; 32]).unwrap();
                        store.agree(&store.agreement_public().unwrap()).unwrap();
                        store.pcr_extend(15, &[1; 32]).unwrap();
                    }
                    _ => {
                        store.seal(&name, name.as_bytes()).unwrap();
                        assert_eq!(store.unseal(&name).unwrap().as_slice(), name.as_bytes());
                    }
                }
            });
        }
    });
    drop(store);
    for kind in ["handles-transient", "handles-loaded-session"] {
        let left = run(tpm.tool("tpm2_getcap").arg(kind));
        assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "", "{kind}");
    }
}

#[test]
fn resident_keys_outlive_power_cuts() {
    let mut fixture = Fixture::tpm();
    let store = fixture.open();
    let point = store.create_key("module-key").unwrap();
    let agreement = store.agreement_public().unwrap();
    for _ in 0..5 {
        fixture.tpm_mut().cut_power();
        fixture.tpm_mut().power_on();
        store.key_sign("module-key", b"to be signed").unwrap();
        assert_eq!(store.key_public("module-key").unwrap(), point);
        assert_eq!(store.agreement_public().unwrap(), agreement);
    }
    assert_eq!(store.health().unwrap().lockout.unwrap().failures, 0);
}

#[test]
fn modules_cannot_fill_the_queue() {
    let mut fixture = Fixture::tpm();
    let store = fixture.open();
    store.create_key("module-key").unwrap();
    // The TPM is away, so that what is asked for waits.
    fixture.tpm_mut().cut_power();
    let (told, results) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..40 {
            let (store, told) = (&store, told.clone());
            scope.spawn(move || told.send(store.key_sign("module-key", b"x")).unwrap());
        }
        for _ in 0..24 {
            let result = results.recv().unwrap();
            assert!(matches!(result, Err(KeystoreError::Busy { waiting: 16 })), "{result:?}");
        }
        fixture.tpm_mut().power_on();
        for _ in 0..16 {
            results.recv().unwrap().unwrap();
        }
    });
}
