//! Configurations that are refused, each with the setting's name.

use edgewarden_est_client::Client;
use edgewarden_names::Reason;
use edgewarden_protocol::est::{EstAuth, EstConfig};
use edgewarden_testkit::est::Site;

#[test]
fn a_configuration_is_what_the_operator_writes() {
    let text = r#"
        url = "https://est.clinic.example"
        label = "gateways"
        trust_anchors = "/etc/edgewarden/site.pem"
        auth = { kind = "basic", user = "gw-1", password_file = "/etc/edgewarden/est.password" }
    "#;
    let config: EstConfig = toml::from_str(text).unwrap();
    assert_eq!(config.timeout_seconds, 30);
    assert_eq!(toml::from_str::<EstConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    for (name, wrong) in [
        ("an unknown key", text.replace("label", "lable")),
        ("no anchors", text.replace("trust_anchors", "anchors")),
        ("an unknown kind", text.replace("basic", "digest")),
        ("a password in the file", text.replace("password_file", "password")),
        ("no credentials", text.replace("auth", "credentials")),
        ("an unknown key of the kind", text.replace("user =", "realm = \"x\", user =")),
    ] {
        toml::from_str::<EstConfig>(&wrong).expect_err(name);
    }
}

#[test]
fn settings_that_cannot_be_followed_are_refused() {
    let site = Site::new();
    let good = site.config(443, site.password("correct horse"));
    let changed = |change: &dyn Fn(&mut EstConfig)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let basic =
        |user: &str, file: &std::path::Path| EstAuth::Basic { user: user.into(), password_file: file.into() };
    let secret = |name: &str, contents: &str, mode| site.write(name, contents, mode);
    let (open, empty) = (secret("open", "password", 0o644), secret("empty", "\n", 0o600));
    let (lines, long) = (secret("lines", "a\nb\n", 0o600), secret("long", &"a".repeat(2000), 0o600));
    let (rubbish, leaf) = (secret("rubbish.pem", "rubbish", 0o600), site.path("device.pem"));
    let writable = secret("writable.pem", &site.text("root.pem"), 0o666);
    let readable_key = secret("readable.key", &site.text("device.key"), 0o644);
    let EstAuth::Certificate { certificate_file, key_file } = site.device() else {
        panic!("it is a certificate")
    };
    let certificate = |chain: &std::path::Path, key: &std::path::Path| EstAuth::Certificate {
        certificate_file: chain.into(),
        key_file: key.into(),
    };
    Client::new(&good).unwrap();
    Client::new(&changed(&|c| c.auth = certificate(&certificate_file, &key_file))).unwrap();
    let cases: Vec<(&str, EstConfig, &str)> = vec![
        ("plain HTTP", changed(&|c| c.url = "http://est.example".into()), "url"),
        ("a path", changed(&|c| c.url = "https://est.example/est".into()), "url"),
        ("a user in it", changed(&|c| c.url = "https://a:b@est.example".into()), "url"),
        ("no host", changed(&|c| c.url = "https://".into()), "url"),
        ("a port that is none", changed(&|c| c.url = "https://est.example:99999".into()), "url"),
        ("a label that is a path", changed(&|c| c.label = Some("a/b".into())), "label"),
        ("an operation as label", changed(&|c| c.label = Some("cacerts".into())), "label"),
        ("no time", changed(&|c| c.timeout_seconds = 0), "timeout_seconds"),
        ("too much time", changed(&|c| c.timeout_seconds = 121), "timeout_seconds"),
        ("no such anchors", changed(&|c| c.trust_anchors = site.path("none")), "trust anchors"),
        ("a folder as anchors", changed(&|c| c.trust_anchors = site.folder.path().into()), "trust anchors"),
        ("anchors for all to write", changed(&|c| c.trust_anchors = writable.clone()), "trust anchors"),
        ("rubbish as anchors", changed(&|c| c.trust_anchors = rubbish.clone()), "trust anchors"),
        ("a leaf as anchor", changed(&|c| c.trust_anchors = leaf.clone()), "trust anchors"),
        ("no such password", changed(&|c| c.auth = basic("gw", &site.path("none"))), "password_file"),
        ("a password for all to read", changed(&|c| c.auth = basic("gw", &open)), "password_file"),
        ("an empty password", changed(&|c| c.auth = basic("gw", &empty)), "password_file"),
        ("a password of two lines", changed(&|c| c.auth = basic("gw", &lines)), "password_file"),
        ("a giant password", changed(&|c| c.auth = basic("gw", &long)), "password_file"),
        ("a colon in the user", changed(&|c| c.auth = basic("g:w", &site.path("password"))), "user"),
        ("no user", changed(&|c| c.auth = basic("", &site.path("password"))), "user"),
        (
            "rubbish as certificate",
            changed(&|c| c.auth = certificate(&rubbish, &key_file)),
            "certificate_file",
        ),
        ("rubbish as key", changed(&|c| c.auth = certificate(&certificate_file, &rubbish)), "key_file"),
        (
            "a key for all to read",
            changed(&|c| c.auth = certificate(&certificate_file, &readable_key)),
            "key_file",
        ),
        (
            "the key of another",
            changed(&|c| {
                c.auth =
                    certificate(&certificate_file, &secret("other.key", &site.text("server.key"), 0o600));
            }),
            "client certificate",
        ),
    ];
    for (name, config, subject) in cases {
        let error = Client::new(&config).expect_err(name);
        assert_eq!((error.reason(), error.refusal.subject.as_str()), (Reason::EstConfig, subject), "{name}");
        assert!(!format!("{error:?}").contains("correct horse"), "{name}");
    }
    // Nothing secret in what is shown of a client.
    assert!(!format!("{:?}", Client::new(&good).unwrap()).contains("horse"));
}
