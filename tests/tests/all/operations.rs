//! The procedures of docs/operations.md, as an operator would carry them out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use edgewarden_tests::process::{run, wait_for};
use edgewarden_tests::site::{FLEET, Keys, Site};
use edgewarden_tests::story::{self, deploy, sign};
use edgewarden_tests::{ensure, sandbox};

const WAIT: Duration = Duration::from_secs(40);
const DEPLOYED: &[&str] = &["manufacture", "fleet", "enrol", "sign", "deploy"];

fn deployed(test: &str, keys: Keys, then: impl FnOnce(&mut Site)) {
    let gateway = test.replace('_', "-");
    sandbox::test(module_path!(), test, || {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut site = Site::new(&folder.path().join("site"), &gateway, keys).unwrap();
        if let Err(failure) = story::run(&mut site, DEPLOYED) {
            panic!("{failure}\n--- gateway log\n{}", site.gateway_log(40));
        }
        then(&mut site);
    });
    sandbox::remove_cgroups(&gateway);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn version_in_force(site: &Site) -> u64 {
    site.status().unwrap()["identity"]["deployment"][1].as_u64().unwrap_or_default()
}

fn wait_for_version(site: &Site, version: u64) {
    wait_for("the deployment to take force", WAIT, || {
        let now = version_in_force(site);
        ensure(now == version, || format!("version {now} is in force"))
    })
    .unwrap();
    site.wait_for_modules(&sign::MODULES).unwrap();
}

#[test]
fn a_fleet_comes_back_from_its_backup() {
    deployed("a_fleet_comes_back_from_its_backup", Keys::Software, |site| {
        let backup = site.path("backup");
        // While the server runs, and what a backup that was cut off left is in the way.
        fs::create_dir(site.path(".backup.partial")).unwrap();
        fs::write(site.path(".backup.partial/fleet.db"), "half").unwrap();
        run(site.operator(&["backup"]).arg(&backup)).unwrap().ok().unwrap();
        assert!(!site.path(".backup.partial").exists());
        assert_eq!(mode(&backup), 0o700);
        for secret in ["root.key", "admin.token", "web.token", "fleet.db"] {
            assert_eq!(mode(&backup.join(secret)), 0o600, "{secret}");
        }
        // With the number of the bundle that other trust domains have seen.
        let bundle = |folder: &Path| fs::read(folder.join("bundle.json")).unwrap();
        assert_eq!(bundle(&backup), bundle(&site.path("fleet")));
        // A backup replaces nothing, and what is no fleet is not backed up.
        let again = run(site.operator(&["backup"]).arg(&backup)).unwrap();
        assert!(!again.status.success() && again.stderr.contains("never replaces"), "{}", again.stderr);
        let nothing = run(Command::new(site.program("edgewarden-fleet"))
            .arg("--data")
            .arg(site.path("layouts"))
            .arg("backup")
            .arg(site.path("other")))
        .unwrap();
        assert!(!nothing.status.success() && !site.path("other").exists(), "{}", nothing.stderr);

        site.fleet.take().unwrap().stop();
        fs::remove_dir_all(site.path("fleet")).unwrap();
        fs::rename(&backup, site.path("fleet")).unwrap();
        site.start_fleet(&[]).unwrap();
        assert!(site.devices().unwrap().to_string().contains(&site.gateway));
        // The gateway knows its fleet again, and takes work from it.
        deploy::send(site, 2, "operator.key", |text| text).unwrap().ok().unwrap();
        wait_for_version(site, 2);
    });
}

#[test]
fn a_gateway_comes_back_from_its_backup_without_its_fleet() {
    deployed("a_gateway_comes_back_from_its_backup_without_its_fleet", Keys::SimulatedTpm, |site| {
        site.fleet.take().unwrap().stop();
        site.registry.take().unwrap().stop();
        site.down().unwrap();
        let archive = site.path("gateway.tar");
        let tar = |flag: &str| {
            let mut tar = Command::new("tar");
            tar.args(["--numeric-owner", flag]).arg(&archive).arg("-C").arg(site.root());
            tar
        };
        run(tar("-cpf").args(["etc/edgewarden", "var/lib/edgewarden"])).unwrap().ok().unwrap();
        fs::remove_dir_all(site.root()).unwrap();
        fs::create_dir(site.root()).unwrap();
        run(&mut tar("-xpf")).unwrap().ok().unwrap();
        site.start_gateway().unwrap();
        site.wait_for_modules(&sign::MODULES).unwrap();
        assert_eq!(version_in_force(site), 1);
    });
}

#[test]
fn a_gateway_gets_another_tpm() {
    deployed("a_gateway_gets_another_tpm", Keys::SimulatedTpm, |site| {
        site.down().unwrap();
        site.power_cut().unwrap();
        fs::rename(site.path("tpm"), site.path("tpm-of-old")).unwrap();
        site.manufacture().unwrap();
        site.boot("normal").unwrap();
        // The state of the old one is of no use to the new one, which says so.
        let up = run(Command::new("timeout")
            .arg("10")
            .arg(site.program("edgewarden"))
            .arg("--root")
            .arg(site.root())
            .args(["identityd"])
            .env("TSS2_LOG", "all+NONE"))
        .unwrap();
        assert!(!up.status.success() && up.stderr.contains("not the TPM that made"), "{}", up.stderr);

        // docs/operations.md, "Replace a TPM"
        run(&mut site.operator(&["device", "remove", &site.gateway])).unwrap().ok().unwrap();
        join_anew(site);

        // The old TPM is a stranger now.
        site.down().unwrap();
        site.power_cut().unwrap();
        fs::rename(site.path("tpm"), site.path("tpm-of-new")).unwrap();
        fs::rename(site.path("tpm-of-old"), site.path("tpm")).unwrap();
        site.boot("normal").unwrap();
        fs::rename(site.root(), site.path("gateway-of-new")).unwrap();
        site.join().unwrap().refused("attest.ek_mismatch").unwrap();
    });
}

/// The public key of the gateway CA, as modules are given its certificate.
fn ca_key(site: &Site) -> String {
    let socket = site.root().join("run/edgewarden/identityd/workload/runtimed/api.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let context = runtime.block_on(edgewarden_workload_client::fetch_once(&socket)).unwrap();
    let file = site.path("gateway-ca.der");
    fs::write(&file, context.chain_der.last().unwrap()).unwrap();
    let openssl = ["x509", "-inform", "der", "-noout", "-pubkey", "-in"];
    run(Command::new("openssl").args(openssl).arg(&file)).unwrap().ok().unwrap()
}

/// Joins again under the same name, with nothing of the identity before.
fn join_anew(site: &mut Site) {
    let state = site.root().join("var/lib/edgewarden");
    for folder in ["identity", "gateway"] {
        fs::rename(state.join(folder), site.path(&format!("{folder}-of-old"))).unwrap();
    }
    fs::rename(site.root().join("etc/edgewarden/config.toml"), site.path("config-of-old.toml")).unwrap();
    site.join().unwrap().ok().unwrap();
    site.start_gateway().unwrap();
    deploy::send(site, 2, "operator.key", |text| text).unwrap().ok().unwrap();
    wait_for_version(site, 2);
}

#[test]
fn a_gateway_gets_another_ca_key_in_its_tpm() {
    deployed("a_gateway_gets_another_ca_key_in_its_tpm", Keys::SimulatedTpm, |site| {
        let before = ca_key(site);
        site.down().unwrap();
        let tcti = format!("swtpm:host=127.0.0.1,port={}", edgewarden_tests::site::TPM_PORT);
        run(Command::new("tpm2_clear").args(["-T", &tcti, "-c", "p"])).unwrap().ok().unwrap();
        join_anew(site);
        assert_ne!(ca_key(site), before);
    });
}

#[test]
fn a_gateway_gets_another_ca_key_in_its_file() {
    deployed("a_gateway_gets_another_ca_key_in_its_file", Keys::Software, |site| {
        let before = ca_key(site);
        site.down().unwrap();
        // The old device key is not there any more: an operator says that the name goes on.
        run(&mut site.operator(&["device", "remove", &site.gateway])).unwrap().ok().unwrap();
        join_anew(site);
        assert_ne!(ca_key(site), before);
    });
}

#[test]
fn a_software_keystore_gets_another_passphrase() {
    deployed("a_software_keystore_gets_another_passphrase", Keys::Software, |site| {
        let before = ca_key(site);
        let new = site.path("new-passphrase");
        let write = |text: &str| {
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        };
        let change = |site: &Site| run(site.edgewarden(&["keystore", "passphrase"]).arg(&new)).unwrap();
        write("another horse, another battery");
        let running = change(site);
        assert!(!running.status.success() && running.stderr.contains("runs"), "{}", running.stderr);

        site.crash_gateway().unwrap();
        // One that has begun and does not listen yet.
        let state = fs::File::open(site.root().join("var/lib/edgewarden/identity/lock")).unwrap();
        state.lock().unwrap();
        assert!(change(site).stderr.contains("runs"));
        drop(state);
        write("short");
        assert!(change(site).stderr.contains("fewer than 12"));
        write("another horse, another battery");
        // As if the power had gone before the last step: the key file is changed, the configured passphrase is not.
        let configured = site.path("passphrase");
        let old = fs::read(&configured).unwrap();
        change(site).ok().unwrap();
        fs::write(&configured, old).unwrap();
        write("another horse, another battery");
        change(site).ok().unwrap();
        assert!(!new.exists());
        assert_eq!(fs::read_to_string(&configured).unwrap(), "another horse, another battery");

        site.start_gateway().unwrap();
        site.wait_for_modules(&sign::MODULES).unwrap();
        assert_eq!(ca_key(site), before, "the keys are the same");
    });
}

#[test]
fn trust_that_is_taken_back_ends_at_the_next_renewal() {
    deployed("trust_that_is_taken_back_ends_at_the_next_renewal", Keys::SimulatedTpm, |site| {
        run(&mut site.edgewarden(&["renew"])).unwrap().ok().unwrap();
        for (command, name) in [("reference", "gateway-2026-11"), ("vendor", "")] {
            let name = if name.is_empty() {
                let roots = site.json(&mut site.operator(&["vendor", "list"])).unwrap();
                roots[0]["digest"].as_str().unwrap().to_owned()
            } else {
                name.to_owned()
            };
            run(&mut site.operator(&[command, "remove", &name])).unwrap().ok().unwrap();
            let gone = run(&mut site.operator(&[command, "remove", &name])).unwrap();
            assert!(!gone.status.success(), "{command} removed twice");
            let reason = if command == "vendor" { "attest.ek_untrusted" } else { "attest.reference" };
            run(&mut site.edgewarden(&["renew"])).unwrap().refused(reason).unwrap();
        }
    });
}

#[test]
fn operators_and_access_get_other_keys() {
    deployed("operators_and_access_get_other_keys", Keys::Software, |site| {
        // The gateway pins the second operator beside the first; modules are not touched.
        run(site.operator(&["key", "generate", "--out"]).arg(site.path("second.key"))).unwrap().ok().unwrap();
        deploy::send(site, 2, "second.key", |text| text).unwrap().refused("deployment.signature").unwrap();
        let config = site.root().join("etc/edgewarden/config.toml");
        let text = fs::read_to_string(&config).unwrap();
        let both = format!(
            "operator_keys = [\"{}\", \"{}\"]",
            site.path("operator.key.pub").display(),
            site.path("second.key.pub").display()
        );
        pin(&config, &text, &both);
        run(site.operator(&["operator-key", "add"]).arg(site.path("second.key.pub"))).unwrap().ok().unwrap();
        site.crash_gateway().unwrap();
        site.start_gateway().unwrap();
        deploy::send(site, 2, "second.key", |text| text).unwrap().ok().unwrap();
        wait_for_version(site, 2);

        // Then the first goes. What it signs is refused by the gateway itself, whatever the fleet carries.
        let text = fs::read_to_string(&config).unwrap();
        pin(&config, &text, &format!("operator_keys = [\"{}\"]", site.path("second.key.pub").display()));
        site.crash_gateway().unwrap();
        site.start_gateway().unwrap();
        site.wait_for_modules(&sign::MODULES).unwrap();
        assert_eq!(version_in_force(site), 2);
        let envelope = site.path("v3.dsse");
        deploy::write_envelope(site, 3, "operator.key", &envelope).unwrap();
        run(site.edgewarden(&["deployment", "apply"]).arg(&envelope))
            .unwrap()
            .refused("deployment.signature")
            .unwrap();

        // The fleet carries nothing of the first any more either.
        let remove = |name: &str| run(&mut site.operator(&["operator-key", "remove", name])).unwrap();
        remove("operator.key").ok().unwrap();
        assert!(!remove("operator.key").status.success(), "removed twice");
        deploy::send(site, 3, "operator.key", |text| text).unwrap().refused("deployment.signature").unwrap();

        // Access tokens: not while the server runs, and then the old one opens nothing.
        let rotate = || run(&mut site.operator(&["access", "rotate"])).unwrap();
        assert!(!rotate().status.success());
        let old = fs::read_to_string(site.path("fleet/admin.token")).unwrap();
        site.fleet.take().unwrap().stop();
        run(&mut site.operator(&["access", "rotate"])).unwrap().ok().unwrap();
        let new = fs::read_to_string(site.path("fleet/admin.token")).unwrap();
        assert_ne!(old, new);
        site.start_fleet(&[]).unwrap();
        fs::write(site.path("fleet/admin.token"), &old).unwrap();
        assert!(site.devices().is_err(), "the old token opens {FLEET}");
        fs::write(site.path("fleet/admin.token"), &new).unwrap();
        site.devices().unwrap();
    });
}

/// Puts other operator keys into a configuration.
fn pin(config: &Path, text: &str, operator_keys: &str) {
    let begin = text.find("operator_keys = ").unwrap();
    let end = begin + text[begin..].find(']').unwrap() + 1;
    fs::write(config, [&text[..begin], operator_keys, &text[end..]].concat()).unwrap();
}
