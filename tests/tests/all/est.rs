//! A gateway at a site whose CA is not ours: `edgewarden` with its daemons against an EST server built from RFC 7030,
//! whose certificates the openssl command makes. Every test has a sandbox of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgewarden_ca::chain;
use edgewarden_names::pem;
use edgewarden_svid::X509Context;
use edgewarden_testkit::Key;
use edgewarden_testkit::est::{Asked, Server, Site as SiteCa, Told, standard};
use edgewarden_tests::process::{Finished, run, wait_for};
use edgewarden_tests::site::{Keys, Site, TPM_PORT};
use edgewarden_tests::{ensure, sandbox};
use serde_json::Value;

const DAY: i64 = 86400;
const DOMAIN: &str = "clinic.example";

type Behaviour = Arc<dyn Fn(&SiteCa, &Asked) -> Told + Send + Sync>;

/// A gateway, its site's CA and its EST server.
struct World {
    runtime: tokio::runtime::Runtime,
    gateway: Site,
    ca: Arc<SiteCa>,
    server: Option<Server>,
    behaviour: Arc<Mutex<Behaviour>>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(name: &str, keys: Keys) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let gateway = Site::new(&folder.path().join("site"), name, keys).unwrap();
        let ca = Arc::new(SiteCa::new());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let behaviour: Arc<Mutex<Behaviour>> = Arc::new(Mutex::new(Arc::new(standard)));
        let (own, behaves) = (Arc::clone(&ca), Arc::clone(&behaviour));
        let server = runtime.block_on(Server::start(&ca, move |asked| {
            let behave = Arc::clone(&behaves.lock().unwrap());
            behave(&own, asked)
        }));
        if keys == Keys::SimulatedTpm {
            gateway.manufacture().unwrap();
            gateway.boot("normal").unwrap();
        }
        let world = Self { runtime, gateway, ca, server: Some(server), behaviour, _folder: folder };
        world.configure("");
        world
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Writes the operator's configuration.
    fn configure(&self, more: &str) {
        let etc = self.gateway.root().join("etc/edgewarden");
        fs::create_dir_all(&etc).unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = etc.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let anchors = file("site-root.pem", &self.ca.text("root.pem"), 0o644);
        let password = file("est-password", "correct horse\n", 0o600);
        let keystore = match self.gateway.keys {
            Keys::SimulatedTpm => {
                format!("kind = \"dangerous-simulated-tpm\"\naddress = \"127.0.0.1:{TPM_PORT}\"")
            }
            Keys::Token => {
                let named = self.gateway.token_keystore().unwrap();
                let (module, rest) = named.strip_prefix("pkcs11:").unwrap().split_once(':').unwrap();
                let (token, pin_file) = rest.rsplit_once(':').unwrap();
                let files = ["tokens", "softhsm2.conf"].map(|file| self.gateway.path(file));
                format!(
                    "kind = \"pkcs11\"\nmodule = \"{module}\"\ntoken = \"{token}\"\npin_file = \"{pin_file}\"\n\
                     library_files = {files:?}"
                )
            }
            Keys::Software => {
                let passphrase = file("passphrase", "correct horse battery staple", 0o400);
                run(Command::new("chown").arg("ew-identity").arg(&passphrase)).unwrap().ok().unwrap();
                format!("kind = \"software\"\npassphrase_file = \"{}\"", passphrase.display())
            }
        };
        let text = format!(
            "[gateway]\nname = \"{}\"\ntrust_domain = \"{DOMAIN}\"\n[keystore]\n{keystore}\n\
             [attestation]\nevent_log = \"{}\"\n[identity]\nsvid_lifetime_seconds = 60\n\
             [est]\nurl = \"https://localhost:{}\"\ntrust_anchors = \"{}\"\ntimeout_seconds = 3\n\
             [est.auth]\nkind = \"basic\"\nuser = \"gateway\"\npassword_file = \"{}\"\n{more}",
            self.gateway.gateway,
            self.gateway.event_log().display(),
            self.server().port,
            anchors.display(),
            password.display()
        );
        file("config.toml", &text, 0o644);
    }

    fn behave(&self, behaviour: impl Fn(&SiteCa, &Asked) -> Told + Send + Sync + 'static) {
        *self.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// Sets the answer to requests for certificates; the rest stays as ever.
    fn answer(&self, answer: impl Fn(&SiteCa, &Asked) -> Told + Send + Sync + 'static) {
        self.behave(
            move |ca, asked| {
                if asked.method == "POST" { answer(ca, asked) } else { standard(ca, asked) }
            },
        );
    }

    fn enroll(&self, more: &[&str]) -> Finished {
        run(self.gateway.edgewarden(&["est", "enroll"]).args(more)).unwrap()
    }

    fn status(&self) -> Value {
        self.gateway.status().unwrap()
    }

    fn expires(&self) -> Option<u64> {
        self.status()["identity"]["gateway_ca_expires"].as_u64()
    }

    fn wait_until_certified(&self) {
        wait_for("a certificate from the site's CA", Duration::from_secs(40), || {
            let status = self.gateway.status()?;
            ensure(!status["identity"]["issuing_ca_expires"].is_null(), || {
                format!("no certificate; gateway log:\n{}", self.gateway.gateway_log(20))
            })
        })
        .unwrap();
    }

    /// Does not wait until what is in use is renewed by itself.
    fn rotate(&self) {
        run(&mut self.gateway.edgewarden(&["svid", "rotate"])).unwrap().ok().unwrap();
    }

    /// Identity that a module gets by the product's own Workload API.
    fn identity(&self) -> Arc<X509Context> {
        let socket = self.gateway.root().join("run/edgewarden/identityd/workload/runtimed/api.sock");
        wait_for("an identity", Duration::from_secs(20), || {
            let fetched = self.runtime.block_on(edgewarden_workload_client::fetch_once(&socket));
            fetched.map_err(|error| edgewarden_tests::Failure(error.to_string()))
        })
        .unwrap()
    }

    /// openssl's judgement of what a module gets, against the site's root alone.
    fn check_identity(&self) -> Vec<u8> {
        self.rotate();
        let identity = self.identity();
        assert_eq!(
            identity.id.as_str(),
            format!("spiffe://{DOMAIN}/gateway/{}/module/runtimed", self.gateway.gateway)
        );
        assert_eq!(identity.bundle_der, [self.ca.der("root.pem")]);
        let (leaf, rest) = identity.chain_der.split_first().unwrap();
        // Issuing CA, gateway CA, the site's issuing CA.
        assert_eq!(rest.len(), 3);
        assert_eq!(rest[2], self.ca.der("issuing.pem"));
        let (shown, others) = (self.gateway.path("leaf.pem"), self.gateway.path("others.pem"));
        fs::write(&shown, pem::encode(pem::CERTIFICATE, leaf)).unwrap();
        fs::write(&others, pem::chain(rest)).unwrap();
        for purpose in ["sslclient", "sslserver"] {
            let mut openssl = Command::new("openssl");
            openssl.args(["verify", "-purpose", purpose, "-CAfile"]).arg(self.ca.path("root.pem"));
            run(openssl.arg("-untrusted").arg(&others).arg(&shown)).unwrap().ok().unwrap();
        }
        rest[1].clone()
    }

    fn posts(&self) -> Vec<Asked> {
        self.server().log().into_iter().filter(|asked| asked.method == "POST").collect()
    }

    fn restart(&mut self) {
        self.gateway.crash_gateway().unwrap();
        self.gateway.start_gateway().unwrap();
    }
}

fn at(test: &str, keys: Keys, body: impl FnOnce(&mut World)) {
    // A name has 63 characters at most, and names cgroups: one for each test.
    let gateway = format!("est-{}", test.chars().take(40).collect::<String>().replace('_', "-"));
    let gateway = gateway.trim_end_matches('-');
    sandbox::test(module_path!(), test, || body(&mut World::new(gateway, keys)));
    sandbox::remove_cgroups(gateway);
}

/// Enrolment, what it says of itself, renewal by the certificate that is renewed, and a kill.
fn lives(world: &mut World) {
    world.gateway.start_gateway().unwrap();
    world.wait_until_certified();
    let first = world.check_identity();
    assert_eq!(chain::facts(&first).unwrap().common_name.as_deref(), Some(world.gateway.gateway.as_str()));
    let post = world.posts()[0].clone();
    assert_eq!(post.operation(), "simpleenroll");
    assert_eq!(
        (post.shown, post.authorization.as_deref()),
        (None, Some("Basic Z2F0ZXdheTpjb3JyZWN0IGhvcnNl"))
    );

    // No fleet judged it, and nobody says so.
    let status = world.status();
    assert!(
        status["identity"]["verdict"].is_null() && status["identity"]["est"]["certified"] == true,
        "{status}"
    );
    let text = run(&mut world.gateway.edgewarden(&["status"])).unwrap().ok().unwrap();
    assert!(text.contains("verdict: none (site CA)"), "{text}");
    let said = run(&mut world.gateway.edgewarden(&["est", "status"])).unwrap().ok().unwrap();
    assert!(said.contains("certified, ends"), "{said}");
    run(&mut world.gateway.edgewarden(&["renew"])).unwrap().refused("est.config").unwrap();

    // By hand: the certificate itself opens the connection, and its names come back.
    world.enroll(&[]).ok().unwrap();
    let second = world.check_identity();
    assert!(first != second, "the same certificate");
    let post = world.posts().pop().unwrap();
    assert_eq!((post.operation(), post.shown.as_ref()), ("simplereenroll", Some(&first)));
    assert_eq!(chain::facts(&first).unwrap().point, chain::facts(&second).unwrap().point);

    // Who carries answers cannot bring back an old one.
    world.answer(|ca, asked| Told::certificates(&[ca.issue_from(&asked.csr(), -30 * DAY, 5 * DAY)]));
    let said = world.enroll(&[]).refused("est.certificate").unwrap();
    assert!(said.contains("older than the one in use"), "{said}");

    // By itself, when two thirds of a life are over: here of a minute.
    world.answer(|ca, asked| Told::certificates(&[ca.issue_from(&asked.csr(), 0, 60)]));
    world.enroll(&[]).ok().unwrap();
    let short = world.check_identity();
    let ends = world.expires().unwrap();
    world.answer(standard);
    wait_for("the renewal", Duration::from_secs(60), || {
        ensure(world.expires().is_some_and(|expires| expires > ends), || world.gateway.gateway_log(20))
    })
    .unwrap();
    let post = world.posts().pop().unwrap();
    assert_eq!((post.operation(), post.shown.as_ref()), ("simplereenroll", Some(&short)));
    wait_for("certificates beneath the new one", Duration::from_secs(20), || {
        let current = world.check_identity();
        let facts = chain::facts(&current).unwrap();
        ensure(facts.not_after.0 > ends, || format!("{facts:?}"))
    })
    .unwrap();

    // The keys are used for what the log says.
    let audit = run(&mut world.gateway.edgewarden(&["audit", "show"])).unwrap().ok().unwrap();
    for event in ["est.requested", "est.handshake", "est.tried", "est.accepted"] {
        assert!(audit.contains(event), "{event}: {audit}");
    }
}

#[test]
fn a_gateway_with_a_tpm_lives_by_a_sites_ca() {
    at("a_gateway_with_a_tpm_lives_by_a_sites_ca", Keys::SimulatedTpm, lives);
}

#[test]
fn a_gateway_with_a_token_lives_by_a_sites_ca() {
    at("a_gateway_with_a_token_lives_by_a_sites_ca", Keys::Token, lives);
}

#[test]
fn a_gateway_with_keys_in_software_lives_by_a_sites_ca() {
    at("a_gateway_with_keys_in_software_lives_by_a_sites_ca", Keys::Software, lives);
}

#[test]
fn whatever_goes_wrong_the_certificate_that_is_held_stays() {
    at("whatever_goes_wrong_the_certificate_that_is_held_stays", Keys::Software, |world| {
        world.gateway.start_gateway().unwrap();
        world.wait_until_certified();
        let held = world.check_identity();
        let ends = world.expires();
        let stranger = Arc::new(SiteCa::new());
        let other_key = Arc::new(Key::generate());
        let ca = |more: &str| {
            format!(
                "basicConstraints = critical, CA:TRUE, pathlen:1\nkeyUsage = critical, keyCertSign, digitalSignature\n{more}"
            )
        };
        let san = format!("subjectAltName = URI:spiffe://{DOMAIN}\n");
        let cases: Vec<(&str, &str, &str, Behaviour)> = vec![
            ("out of order", "est.unavailable", "503", Arc::new(|_, _| Told::status(503))),
            ("no password that it takes", "est.authorization", "401", Arc::new(|_, _| Told::status(401))),
            ("a request that it does not like", "est.rejected", "400", Arc::new(|_, _| Told::status(400))),
            (
                "sent elsewhere",
                "est.rejected",
                "final URL",
                Arc::new(|_, _| Told::status(302).header("location", "https://evil.example/")),
            ),
            (
                "no certificates",
                "est.answer",
                "",
                Arc::new(|_, _| Told::encoded("application/pkcs7-mime", b"no certificates")),
            ),
            (
                "another type",
                "est.answer",
                "text/html",
                Arc::new(|_, _| Told::encoded("text/html", b"<html>")),
            ),
            (
                "a huge body",
                "est.answer",
                "too long",
                Arc::new(|_, _| Told { body: vec![b'A'; 8 << 20], ..Told::certificates(&[]) }),
            ),
            (
                "an end-entity certificate",
                "est.certificate",
                "end-entity certificate and not a CA's",
                Arc::new(|ca, asked| Told::certificates(&[ca.issue_end_entity(&asked.csr())])),
            ),
            ("another CA", "est.certificate", "no path of valid CA certificates", {
                let stranger = Arc::clone(&stranger);
                Arc::new(move |_, asked| Told::certificates(&[stranger.issue(&asked.csr(), 30)]))
            }),
            ("another key", "est.certificate", "for another key", {
                let subject = edgewarden_est::Subject::new(
                    &edgewarden_est::Names {
                        common_name: world.gateway.gateway.clone(),
                        uris: vec![format!("spiffe://{DOMAIN}")],
                        ..Default::default()
                    },
                    edgewarden_est::Profile::CertificateAuthority { path_length: 1 },
                )
                .unwrap();
                let request = edgewarden_est::SignedRequest::enroll(
                    &subject,
                    &edgewarden_est::CsrAttributes::default(),
                    &*other_key,
                )
                .unwrap();
                Arc::new(move |ca, _| Told::certificates(&[ca.issue(request.der(), 30)]))
            }),
            ("no room for the issuing CA", "est.certificate", "fewer CAs beneath itself", {
                let extensions = ca(&san).replace("pathlen:1", "pathlen:0");
                Arc::new(move |ca, asked| Told::certificates(&[ca.issue_with(&asked.csr(), &extensions)]))
            }),
            ("a path without end", "est.certificate", "pathlen:1", {
                let extensions = ca(&san).replace(", pathlen:1", "");
                Arc::new(move |ca, asked| Told::certificates(&[ca.issue_with(&asked.csr(), &extensions)]))
            }),
            ("no trust domain", "est.certificate", "lacks an alternative name", {
                let extensions = ca("");
                Arc::new(move |ca, asked| Told::certificates(&[ca.issue_with(&asked.csr(), &extensions)]))
            }),
            ("two trust domains", "est.certificate", "must have one URI", {
                let extensions = ca(&san.replace('\n', ",URI:spiffe://other.example\n"));
                Arc::new(move |ca, asked| Told::certificates(&[ca.issue_with(&asked.csr(), &extensions)]))
            }),
            ("for clients alone", "est.certificate", "extended key usage", {
                let extensions = ca(&format!("{san}extendedKeyUsage = clientAuth\n"));
                Arc::new(move |ca, asked| Told::certificates(&[ca.issue_with(&asked.csr(), &extensions)]))
            }),
            ("a key usage that is not critical", "est.certificate", "must be critical", {
                let extensions = ca(&san).replace("keyUsage = critical, ", "keyUsage = ");
                Arc::new(move |ca, asked| Told::certificates(&[ca.issue_with(&asked.csr(), &extensions)]))
            }),
            (
                "an old certificate",
                "est.certificate",
                "older than the one in use",
                Arc::new(|ca, asked| Told::certificates(&[ca.issue_from(&asked.csr(), -30 * DAY, 60 * DAY)])),
            ),
            (
                "one that has expired",
                "est.certificate",
                "expired",
                Arc::new(|ca, asked| Told::certificates(&[ca.issue_from(&asked.csr(), -30 * DAY, -DAY)])),
            ),
        ];
        for (name, reason, words, behaviour) in cases {
            world.answer(move |ca, asked| behaviour(ca, asked));
            let said =
                world.enroll(&[]).refused(reason).unwrap_or_else(|failure| panic!("{name}: {failure}"));
            assert!(said.contains(words), "{name}: {said}");
            assert_eq!(world.expires(), ends, "{name}");
        }
        // What the CA wants that we cannot give: its key signs nothing.
        world.behave(|ca, asked| match asked.operation() {
            // id-ecPublicKey with P-384.
            "csrattrs" => Told::encoded(
                "application/csrattrs",
                &[
                    0x30, 0x14, 0x30, 0x12, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x31, 0x07,
                    0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22,
                ],
            ),
            _ => standard(ca, asked),
        });
        world.enroll(&[]).refused("est.attributes").unwrap();
        // Slow: the answer comes, but not in time.
        world.answer(|ca, asked| {
            std::thread::sleep(Duration::from_secs(5));
            standard(ca, asked)
        });
        world.enroll(&[]).refused("est.unavailable").unwrap();
        let said = run(&mut world.gateway.edgewarden(&["est", "status"])).unwrap().ok().unwrap();
        assert!(said.contains("est.unavailable") && said.contains("certified, ends"), "{said}");
        assert!((world.check_identity(), world.expires()) == (held, ends), "another certificate");

        // And well again; then without a server at all.
        world.answer(standard);
        world.enroll(&[]).ok().unwrap();
        let held = world.check_identity();
        world.enroll(&["--anew"]).ok().unwrap();
        assert_eq!(world.posts().pop().unwrap().operation(), "simpleenroll");
        assert!(world.check_identity() != held, "the same certificate");
        world.server.take();
        world.enroll(&[]).refused("est.unavailable").unwrap();
        world.restart();
        world.check_identity();
    });
}

#[test]
fn a_request_that_waits_for_approval_outlives_kills() {
    at("a_request_that_waits_for_approval_outlives_kills", Keys::Software, |world| {
        world.answer(|_, _| Told::status(202).header("retry-after", "5"));
        world.gateway.start_gateway().unwrap();
        let waits = |world: &World, count: usize| {
            wait_for("the request", Duration::from_secs(40), || {
                ensure(world.posts().len() >= count, || world.gateway.gateway_log(20))
            })
            .unwrap();
        };
        waits(world, 1);
        wait_for("the request to be shown", Duration::from_secs(20), || {
            let status = world.gateway.status()?;
            ensure(!status["identity"]["est"]["pending_since"].is_null(), || status.to_string())
        })
        .unwrap();
        let refused = run(&mut world.gateway.edgewarden(&["leaf", "allow", "sensor-1"])).unwrap();
        assert!(refused.ok().is_err(), "nothing is issued before the CA has decided");
        for _ in 0..3 {
            let asked = world.posts().len();
            world.restart();
            waits(world, asked + 1);
        }
        let said = world.enroll(&[]).ok().unwrap();
        assert!(said.contains("has not decided"), "{said}");
        let bodies: Vec<Vec<u8>> = world.posts().into_iter().map(|asked| asked.body).collect();
        assert!(bodies.iter().all(|body| *body == bodies[0]), "the CA knows a request by its bytes");
        world.answer(standard);
        world.enroll(&[]).ok().unwrap();
        assert_eq!(world.posts().pop().unwrap().body, bodies[0]);
        world.check_identity();
    });
}

#[test]
fn kills_at_any_moment_leave_the_old_certificate_or_the_new() {
    at("kills_at_any_moment_leave_the_old_certificate_or_the_new", Keys::Software, |world| {
        world.gateway.start_gateway().unwrap();
        world.wait_until_certified();
        for round in 0_u64..8 {
            let before = world.expires().unwrap();
            // Nobody waits for the answer.
            let mut asking = world
                .gateway
                .edgewarden(&["est", "enroll"])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(round * 30));
            world.restart();
            asking.wait().unwrap();
            assert!(world.expires().unwrap() >= before, "round {round}");
            world.check_identity();
        }
        world.enroll(&[]).ok().unwrap();
    });
}

#[test]
fn a_certifier_that_the_configuration_does_not_name_counts_for_nothing() {
    at("a_certifier_that_the_configuration_does_not_name_counts_for_nothing", Keys::Software, |world| {
        world.gateway.start_gateway().unwrap();
        world.wait_until_certified();
        world.gateway.down().unwrap();
        let config = world.gateway.root().join("etc/edgewarden/config.toml");
        let text = fs::read_to_string(&config).unwrap();

        // Both at once: refused, with both names.
        fs::write(
            &config,
            format!("{text}\n[fleet]\nurl = \"https://fleet.example\"\nroot = \"/r\"\noperator_keys = []\n"),
        )
        .unwrap();
        let said = format!("{:?}", run(&mut world.gateway.edgewarden(&["up"])).unwrap());
        assert!(said.contains("[fleet]") && said.contains("[est]"), "{said}");

        // Neither: what the site's CA gave is set aside.
        let (without, _) = text.split_once("[est]").unwrap();
        fs::write(&config, without).unwrap();
        world.gateway.start_gateway().unwrap();
        let status = world.status();
        assert!(
            status["identity"]["gateway_ca_expires"].is_null() && status["identity"]["est"].is_null(),
            "{status}"
        );
        world.enroll(&[]).refused("est.config").unwrap();
        world.gateway.down().unwrap();

        // Another root: set aside too, and its server is not believed.
        let stranger = SiteCa::new();
        let anchors = world.gateway.root().join("etc/edgewarden/site-root.pem");
        fs::write(&config, &text).unwrap();
        fs::write(&anchors, stranger.text("root.pem")).unwrap();
        world.gateway.start_gateway().unwrap();
        assert!(world.expires().is_none());
        world.enroll(&[]).refused("est.untrusted").unwrap();
        world.gateway.down().unwrap();

        // As before: as before.
        fs::write(&anchors, world.ca.text("root.pem")).unwrap();
        world.gateway.start_gateway().unwrap();
        world.wait_until_certified();
        world.check_identity();

        // A password that others can read is not sent.
        let password = world.gateway.root().join("etc/edgewarden/est-password");
        fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
        let asked = world.posts().len();
        let said = world.enroll(&["--anew"]).refused("est.config").unwrap();
        assert!(said.contains("chmod 0600") && !said.contains("correct horse"), "{said}");
        assert_eq!(world.posts().len(), asked);
        assert!(!world.gateway.gateway_log(10_000).contains("correct horse"));
    });
}
