//! Each step of the story, end to end, through the product's own programs. Every test has a sandbox of its own.

use std::process::Command;

use edgewarden_tests::process::run;
use edgewarden_tests::sandbox;
use edgewarden_tests::site::{Keys, Site};
use edgewarden_tests::story;

/// A site in a temporary folder, and its story up to a step; then what the test adds.
fn at(test: &str, keys: Keys, steps: &[&str], then: impl FnOnce(&mut Site)) {
    let gateway = test.replace('_', "-");
    sandbox::test(module_path!(), test, || {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Site::new(&folder.path().join("site"), &gateway, keys).unwrap();
        if let Err(failure) = story::run(&mut site, steps) {
            panic!("{failure}\n--- gateway log\n{}", site.gateway_log(40));
        }
        then(&mut site);
    });
    sandbox::remove_cgroups(&gateway);
}

const ENROLLED: &[&str] = &["manufacture", "fleet", "enrol"];
const DEPLOYED: &[&str] = &["manufacture", "fleet", "enrol", "sign", "deploy"];

#[test]
fn step_01_manufacture() {
    at("step_01_manufacture", Keys::SimulatedTpm, &["manufacture"], |site| {
        let vendor = site.path("tpm/vendor-ca.pem");
        let text =
            run(Command::new("openssl").args(["x509", "-noout", "-subject", "-in"]).arg(vendor)).unwrap();
        assert!(text.ok().unwrap().contains("subject"));
    });
}

#[test]
fn step_02_fleet() {
    at("step_02_fleet", Keys::SimulatedTpm, &["manufacture", "fleet"], |site| {
        assert!(!site.devices().unwrap().to_string().contains("fresh"), "a device that nobody enrolled");
    });
}

#[test]
fn step_03_enrol() {
    at("step_03_enrol", Keys::SimulatedTpm, ENROLLED, |site| {
        // The name is bound to this TPM now. Another one, genuine too, does not get it.
        site.power_cut().unwrap();
        for folder in ["tpm", "gateway"] {
            std::fs::rename(site.path(folder), site.path(&format!("{folder}-first"))).unwrap();
        }
        site.manufacture().unwrap();
        site.boot("normal").unwrap();
        site.join().unwrap().refused("attest.ek_mismatch").unwrap();
    });
}

#[test]
fn step_03_enrol_refuses_a_changed_boot() {
    at("step_03_enrol_refuses_a_changed_boot", Keys::SimulatedTpm, &["manufacture", "fleet"], |site| {
        site.power_cut().unwrap();
        site.boot("changed-kernel").unwrap();
        let said = site.join().unwrap().refused("attest.reference").unwrap();
        assert!(said.contains("PCR"), "the refusal does not name a PCR: {said}");
    });
}

#[test]
fn step_04_sign() {
    at("step_04_sign", Keys::SimulatedTpm, &["sign"], |_| {});
}

#[test]
fn step_05_deploy() {
    at("step_05_deploy", Keys::SimulatedTpm, DEPLOYED, |site| {
        // A quote for an outside verifier, which has nothing from us but the files.
        let folder = site.path("quote");
        let said = run(site.edgewarden(&["attest", "export"]).arg(&folder)).unwrap().ok().unwrap();
        let words: Vec<&str> = said.split_whitespace().collect();
        let (program, arguments) = words.split_first().unwrap();
        run(Command::new(program).args(arguments)).unwrap().ok().unwrap();
        // The same files with another nonce.
        let nonce = arguments.iter().position(|word| *word == "-q").unwrap() + 1;
        let mut wrong: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        wrong[nonce] = "00".repeat(32);
        assert!(
            run(Command::new(program).args(wrong)).unwrap().ok().is_err(),
            "a quote passed with a wrong nonce"
        );
    });
}

#[test]
fn step_05_deploy_with_keys_in_software() {
    at("step_05_deploy_with_keys_in_software", Keys::Software, DEPLOYED, |site| {
        let status = site.status().unwrap();
        let keystore = status["identity"]["keystore"].as_str().unwrap().to_owned();
        assert!(keystore.contains("hardware: none"), "not labelled as software: {keystore}");
        assert_eq!(status["identity"]["verdict"]["hardware"], "none");
        assert!(site.devices().unwrap().to_string().contains("none"));
    });
}

#[test]
fn step_09_offline_with_keys_in_a_token() {
    let steps = [DEPLOYED, &["identify", "flow", "offline"]].concat();
    at("step_09_offline_with_keys_in_a_token", Keys::Token, &steps, |site| {
        let status = site.status().unwrap();
        let keystore = status["identity"]["keystore"].as_str().unwrap().to_owned();
        assert!(keystore.starts_with("pkcs11") && keystore.contains("hardware: none"), "{keystore}");
    });
}

#[test]
fn step_06_identify() {
    at("step_06_identify", Keys::SimulatedTpm, &[DEPLOYED, &["identify"]].concat(), |_| {});
}

#[test]
fn step_07_flow() {
    at("step_07_flow", Keys::SimulatedTpm, &[DEPLOYED, &["identify", "flow"]].concat(), |_| {});
}

#[test]
fn step_08_refusals() {
    at(
        "step_08_refusals",
        Keys::SimulatedTpm,
        &[DEPLOYED, &["identify", "flow", "refusals"]].concat(),
        |_| {},
    );
}

#[test]
fn step_09_offline() {
    at("step_09_offline", Keys::SimulatedTpm, &[DEPLOYED, &["identify", "flow", "offline"]].concat(), |_| {});
}

#[test]
fn step_10_look_with_keys_in_software() {
    let steps = [DEPLOYED, &["identify", "flow", "refusals", "offline", "look"]].concat();
    at("step_10_look_with_keys_in_software", Keys::Software, &steps, |_| {});
}
