//! Deployment secrets, end to end: sealed by an operator, carried by the fleet, read by a module, and nowhere else.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use edgewarden_tests::process::{Finished, run, wait_for};
use edgewarden_tests::site::{Keys, REGISTRY, Site, module};
use edgewarden_tests::{Failure, ensure, sandbox, story};

/// Says its pid and the first two characters of the secret, whenever the secret has become another one.
const READER: &str = r#"last=; while :; do
    { value=$(</run/secrets/db-password); } 2>/dev/null || value=none
    if [ "$value" != "$last" ]; then echo "pid $$ reads ${value:0:2} of ${#value}"; last=$value; fi
    sleep 0.1
done"#;
const WAIT: Duration = Duration::from_secs(40);

fn at(test: &str, keys: Keys, then: impl FnOnce(&mut Site)) {
    let gateway = test.replace('_', "-");
    sandbox::test(module_path!(), test, || {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Site::new(&folder.path().join("site"), &gateway, keys).unwrap();
        if let Err(failure) = story::run(&mut site, &["manufacture", "fleet", "enrol"]) {
            panic!("{failure}\n--- gateway log\n{}", site.gateway_log(40));
        }
        site.start_registry().unwrap();
        site.make_image_key().unwrap();
        push_reader(&site);
        site.start_gateway().unwrap();
        then(&mut site);
    });
    sandbox::remove_cgroups(&gateway);
}

fn push_reader(site: &Site) {
    let layout = site.path("reader-layout");
    let mut build = site.edgewarden(&["image", "build", "--binary", "/bin/bash", "--binary", "/bin/sleep"]);
    run(build.arg("--layout").arg(&layout)).unwrap().ok().unwrap();
    let name = format!("{REGISTRY}/clinic/reader:1");
    let mut push = site.edgewarden(&["image", "push"]);
    run(push.arg(&layout).args([&name, "--plain-http", REGISTRY])).unwrap().ok().unwrap();
    site.sign_image("clinic/reader:1").unwrap();
}

fn deploy(site: &Site, version: u64) {
    let text = format!(
        "name = 'secrets'\nversion = {version}\npolicy = ''\n\
         [[image_keys]]\nname = 'release'\npublic_key_file = 'image.key.pub'\n\
         [[modules]]\nname = 'reader'\nimage = '{REGISTRY}/clinic/reader:1'\n\
         args = ['-c', '''{READER}''']\nsecrets = [{{ name = 'db-password' }}]\n\
         [[modules]]\nname = 'other'\nimage = '{REGISTRY}/clinic/reader:1'\nargs = ['-c', 'sleep 1000']\n"
    );
    let file = site.path("deployment.toml");
    fs::write(&file, text).unwrap();
    let mut deploy = site.operator(&["deploy"]);
    deploy.arg(file).arg("--key").arg(site.path("operator.key")).args(["--plain-http", REGISTRY, "--all"]);
    run(&mut deploy).unwrap().ok().unwrap();
}

/// `edgewarden-fleet secret …` with this on standard input.
fn secret(site: &Site, words: &[&str], key: &str, input: &str) -> Finished {
    let mut command = site.operator(&["secret"]);
    command.args(words).args(["--module", "reader", "--name", "db-password", "--operator-key"]);
    command.arg(site.path(key));
    if !words.contains(&"--gateway") {
        command.args(["--gateway", &site.gateway]);
    }
    let shown = format!("{command:?}");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses before it reads has closed it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished {
        command: shown,
        status: output.status,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn wait_until(site: &Site, what: &str, mut holds: impl FnMut() -> Result<bool, Failure>) {
    let waited = wait_for(what, WAIT, || {
        let held = holds()?;
        ensure(held, || "not yet".into())
    });
    if let Err(failure) = waited {
        let logs = site.logs("reader").unwrap_or_default();
        panic!("{failure}\n--- module\n{logs}\n--- gateway log\n{}", site.gateway_log(60));
    }
}

/// Waits for what the module says it reads. Gives its pid on the host.
fn reads(site: &Site, what: &str) -> i64 {
    wait_until(site, what, || {
        let text = site.logs("reader")?;
        Ok(text.lines().last().is_some_and(|line| line.contains(what)))
    });
    module(&site.status().unwrap(), "reader").unwrap()["pid"].as_i64().unwrap()
}

fn import(site: &Site, file: &Path) -> Finished {
    run(site.edgewarden(&["secret", "import"]).arg(file)).unwrap()
}

/// Every file beneath a folder that holds one of these texts, as it stands or in base64.
fn files_with(folder: &Path, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                if texts.iter().any(|text| holds(&bytes, text.as_bytes())) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn story_of_a_secret(site: &mut Site) {
    let first = "v1-correct-horse-battery-staple";
    let second = "v2-tr0ub4dor-and-three-more-words";
    deploy(site, 1);

    // It waits for its secret, and says for which. The module that needs none runs.
    wait_until(site, "the module to wait for its secret", || {
        let status = site.status()?;
        let reader = module(&status, "reader").cloned().unwrap_or_default();
        let reason = reader["reason"].to_string();
        Ok(reader["state"] == "waiting"
            && reason.contains("secret.missing")
            && reason.contains("db-password"))
    });
    site.wait_for_modules(&["other"]).unwrap();

    let sealed = secret(
        site,
        &["seal", "--root", site.path("fleet/root.pem").to_str().unwrap()],
        "operator.key",
        first,
    );
    assert!(sealed.ok().unwrap().contains("reader/db-password version 1"));
    let pid = reads(site, &format!("reads v1 of {}", first.len()));
    let listed = site.json(&mut site.operator(&["secret", "list"])).unwrap();
    wait_until(site, "the fleet to hear of it", || {
        let listed = site.json(&mut site.operator(&["secret", "list"]))?;
        Ok(listed[0]["state"] == "held" && listed[0]["held"] == 1)
    });
    assert!(!listed.to_string().contains("ciphertext"), "{listed}");

    // A new value is there without a restart, and an old version does not come back.
    secret(site, &["seal"], "operator.key", second).ok().unwrap();
    let rotated = format!("reads v2 of {}", second.len());
    assert_eq!(reads(site, &rotated), pid, "the module was started again");
    secret(site, &["seal", "--version", "1"], "operator.key", first).refused("secret.rollback").unwrap();

    // What the module sees: its own, read-only, in memory; the other module sees nothing.
    let place = format!("/proc/{pid}/root/run/secrets");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mount = mounts.lines().find(|line| line.contains(" /run/secrets ")).unwrap();
    assert!(mount.contains(" - tmpfs ") || mount.contains(" - ramfs "), "{mount}");
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(
            mount.split(' ').nth(5).unwrap().split(',').any(|found| found == option),
            "{option}: {mount}"
        );
    }
    assert_eq!(fs::read_to_string(format!("{place}/db-password")).unwrap(), second);
    assert!(fs::write(format!("{place}/more"), "").is_err(), "the container's mount can be written to");
    let other = module(&site.status().unwrap(), "other").unwrap()["pid"].as_i64().unwrap();
    assert!(!Path::new(&format!("/proc/{other}/root/run/secrets")).exists());

    // The daemons are killed; the module goes on, and rotates under those that follow.
    site.crash_gateway().unwrap();
    site.start_gateway().unwrap();
    secret(site, &["seal"], "operator.key", "v3").ok().unwrap();
    assert_eq!(reads(site, "reads v3 of 2"), pid, "the module was started again");

    refusals(site);

    // In no file of gateway, fleet, registry or logs; in no environment; in no configuration of the container.
    let found = files_with(&site.path(""), &[first, second]);
    assert!(found.is_empty(), "the value is in {found:?}");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["environ", "cmdline"] {
            let bytes = fs::read(process.path().join(file)).unwrap_or_default();
            assert!(!holds(&bytes, second.as_bytes()), "{} has it", process.path().join(file).display());
        }
    }
    let audit = run(&mut site.edgewarden(&["audit", "show", "--last", "1000"])).unwrap().ok().unwrap();
    for event in ["secret.accepted", "secret.released", "db-password version 2", "secret.rollback"] {
        assert!(audit.contains(event), "no {event} in the audit log:\n{audit}");
    }

    // A removal is a version too. The file goes; the next start waits again.
    secret(site, &["remove"], "operator.key", "").ok().unwrap();
    assert_eq!(reads(site, "reads no of 4"), pid);
    assert!(!Path::new(&format!("{place}/db-password")).exists());
}

/// By hand, as on a site without a fleet link: the gateway judges by itself.
fn refusals(site: &Site) {
    let file = |name: &str| site.path(name);
    let out = |words: &[&str], key: &str, name: &str, value: &str| {
        let path = file(name);
        let words = [words, &["--out", path.to_str().unwrap()]].concat();
        secret(site, &words, key, value).ok().unwrap();
        path
    };
    let key = file("agreement-key");
    run(site.edgewarden(&["secret", "key", "--out"]).arg(&key)).unwrap().ok().unwrap();
    let by_file = ["seal", "--agreement-key", key.to_str().unwrap(), "--version"];
    let good = out(&[&by_file[..], &["9"]].concat(), "operator.key", "good", "v9");
    let old = out(&[&by_file[..], &["2"]].concat(), "operator.key", "old", "v0");
    let stranger = out(&[&by_file[..], &["10"]].concat(), "stranger.key", "strange", "v0");
    import(site, &old).refused("secret.rollback").unwrap();
    import(site, &stranger).refused("secret.signature").unwrap();
    let text = fs::read_to_string(&good).unwrap();
    let at = text.find("payload\":\"").unwrap() + 60;
    let mut altered = text.clone().into_bytes();
    altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
    fs::write(file("altered"), altered).unwrap();
    import(site, &file("altered")).refused("secret.signature").unwrap();
    // The operator's own tool does not seal to a key that is another gateway's, nor to one under another root.
    let another = ["seal", "--agreement-key", key.to_str().unwrap(), "--version", "9", "--gateway", "gw-2"];
    secret(site, &another, "operator.key", "v0").refused("peer.unauthorized").unwrap();
    let removal = ["remove", "--version", "9", "--gateway", "gw-2"];
    let elsewhere = out(&removal, "operator.key", "elsewhere", "");
    import(site, &elsewhere).refused("secret.not_for_us").unwrap();
    secret(site, &["seal"], "stranger.key", "v0").refused("secret.signature").unwrap();

    import(site, &good).ok().unwrap();
    reads(site, "reads v9 of 2");
    let held = run(&mut site.edgewarden(&["secret", "list"])).unwrap().ok().unwrap();
    assert!(held.contains("reader/db-password version 9 held, signed by operator"), "{held}");
}

#[test]
fn a_secret_is_with_its_module_and_nowhere_else() {
    at("a_secret_is_with_its_module_and_nowhere_else", Keys::SimulatedTpm, story_of_a_secret);
}

#[test]
fn secrets_with_keys_in_software() {
    at("secrets_with_keys_in_software", Keys::Software, story_of_a_secret);
}
