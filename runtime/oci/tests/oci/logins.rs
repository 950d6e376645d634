//! Registries that want a login: Debian's docker-registry with htpasswd and with tokens, and registries and token servers
//! that do not behave. Whatever happens, a password is seen by nobody whom it is not for, and is in no message.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use edgewarden_names::{Digest, Reason, Refusal};
use edgewarden_oci::OciError;
use edgewarden_oci::registry::{Access, Command, Registry};
use edgewarden_protocol::config::Runtime;

use crate::common::TestRegistry;
use crate::common::scripted::{Scripted, header, http, secret_file};

const PASSWORD: &str = "s3cret-pass";
/// bcrypt of [`PASSWORD`] and of `rotated-pass`, of the lowest cost.
const HTPASSWD: &str = "plant:$2b$05$abcdefghijklmnopqrstuuV7fpPozvyqJfnY19y0802WTlXUm6Rjy\n";
const HTPASSWD_ROTATED: &str = "plant:$2b$05$abcdefghijklmnopqrstuuA283yP3n.YLvYz0EgewzV105KsTYdy2\n";

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of logins with one entry.
    fn login(&self, registry: &str, user: &str, password: &str) -> PathBuf {
        let auth = STANDARD.encode(format!("{user}:{password}"));
        self.logins(&serde_json::json!({"auths": {registry: {"auth": auth}}}).to_string())
    }

    fn logins(&self, text: &str) -> PathBuf {
        let path = self.path("logins.json");
        secret_file(&path, text);
        path
    }
}

/// A gateway's configuration with plain HTTP for these hosts and logins in this file.
fn config(plain: &[&str], logins: Option<PathBuf>) -> Runtime {
    Runtime {
        plain_http_registries: plain.iter().map(ToString::to_string).collect(),
        registry_credentials_file: logins,
        ..Runtime::default()
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, OciError>) -> Refusal {
    let refusal = result.unwrap_err().refusal();
    for secret in [PASSWORD, "rotated-pass", &STANDARD.encode(format!("plant:{PASSWORD}")), "identity-abc"] {
        assert!(!refusal.to_string().contains(secret), "{refusal}");
    }
    refusal
}

fn some_digest() -> Digest {
    Digest::of(b"some content")
}

#[tokio::test]
async fn a_registry_with_passwords_is_used_with_the_password_of_the_moment() {
    let files = Files::new();
    secret_file(&files.path("htpasswd"), HTPASSWD);
    let sections =
        format!("auth: {{htpasswd: {{realm: plant, path: {}}}}}\n", files.path("htpasswd").display());
    let server = TestRegistry::with(&sections, "").await;
    let host = server.host.as_str();
    let file = files.login(host, "plant", PASSWORD);
    let config = config(&[host], Some(file.clone()));
    let registry = Registry::new(host, "plant/app", &config).unwrap();
    let blob = registry.push_blob(b"some content").await.unwrap();
    assert_eq!(registry.blob(&blob, 12).await.unwrap(), b"some content");
    let operator =
        Command { plain_http: vec![host.into()], credentials: Some(file.clone()), ..Command::default() };
    let access = Access::of_command(operator, |_| None).unwrap();
    let by_command = Registry::new(host, "plant/app", access).unwrap();
    assert_eq!(by_command.blob(&blob, 12).await.unwrap(), b"some content");
    let own = Command { plain_http: vec![host.into()], ..Command::default() };
    std::fs::copy(&file, files.path("config.json")).unwrap();
    let folder = files.0.path().display().to_string();
    let access =
        Access::of_command(own, move |name| (name == "DOCKER_CONFIG").then(|| folder.clone())).unwrap();
    let by_caller = Registry::new(host, "plant/app", access).unwrap();
    assert_eq!(by_caller.blob(&blob, 12).await.unwrap(), b"some content");

    // Each pull reads the file anew.
    secret_file(&files.path("htpasswd"), HTPASSWD_ROTATED);
    let after = Registry::new(host, "plant/app", &config).unwrap();
    let said = refusal(after.blob(&blob, 12).await);
    assert_eq!(said.reason, Reason::ImageLogin);
    assert!(said.rule.contains("logins.json") && said.rule.contains(host), "{said}");
    files.login(host, "plant", "rotated-pass");
    let after = Registry::new(host, "plant/app", &config).unwrap();
    assert_eq!(after.blob(&blob, 12).await.unwrap(), b"some content");
}

#[tokio::test]
async fn without_a_usable_login_the_refusal_says_where_to_put_one() {
    let files = Files::new();
    let server = Scripted::start(|_| http(401, "WWW-Authenticate: Basic realm=\"plant\"\r\n", b"")).await;
    let host = server.host.as_str();
    let open = files.path("open.json");
    std::fs::write(&open, "{}").unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o640)).unwrap();
    let anothers = files.path("anothers.json");
    secret_file(&anothers, "{}");
    std::os::unix::fs::chown(&anothers, Some(12345), None).unwrap();
    let helper = files.path("helper.json");
    secret_file(&helper, r#"{"credsStore":"desktop"}"#);
    let others = files.path("others.json");
    secret_file(&others, r#"{"auths":{"reg.example":{"auth":"dTpw"}},"HttpHeaders":{}}"#);
    let identity = files.path("identity.json");
    secret_file(&identity, &format!(r#"{{"auths":{{"{host}":{{"identitytoken":"identity-abc"}}}}}}"#));
    for (name, file, said) in [
        ("no file is named", None, "registry_credentials_file"),
        ("the file is missing", Some(files.path("missing.json")), "missing.json"),
        ("its group may read it", Some(open), "chmod 0600"),
        ("it is another user's", Some(anothers), "another user"),
        ("a helper has the logins", Some(helper), "docker-credential-desktop"),
        ("only others' logins", Some(others), "no entry"),
        ("an identity token for Basic", Some(identity), "identity token"),
        ("a folder", Some(files.0.path().into()), "regular file"),
    ] {
        let registry = Registry::new(host, "plant/app", &config(&[host], file)).unwrap();
        let refusal = refusal(registry.manifest(&some_digest()).await);
        assert_eq!(refusal.reason, Reason::ImageLogin, "{name}");
        assert!(refusal.to_string().contains(host) && refusal.rule.contains(said), "{name}: {refusal}");
    }
    for request in server.seen() {
        assert_eq!(header(&request, "authorization"), None, "{request}");
    }
}

/// A token server for docker-registry's `auth.token`: ES256 tokens for who shows the password or the identity token.
struct Tokens {
    server: Scripted,
    folder: tempfile::TempDir,
}

impl Tokens {
    async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["tokens".to_owned()]).unwrap().self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokens.pem"), certificate.pem()).unwrap();
        let x5c = STANDARD.encode(certificate.der());
        let signing =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap();
        let allowed = format!("Basic {}", STANDARD.encode(format!("plant:{PASSWORD}")));
        let server = Scripted::start(move |request| {
            let by_password = header(request, "authorization") == Some(&allowed);
            let by_identity = request.starts_with("POST ")
                && request.contains("grant_type=refresh_token")
                && request.ends_with("refresh_token=identity-abc");
            if !by_password && !by_identity {
                return http(401, "", b"{}");
            }
            let decoded = request.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
            let scope = decoded.split("scope=repository:").nth(1).unwrap().split(['&', ' ']).next().unwrap();
            let (name, actions) = scope.split_once(':').unwrap();
            let actions: Vec<&str> = actions.split(',').collect();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let head = part(serde_json::json!({"typ": "JWT", "alg": "ES256", "x5c": [x5c]}));
            let claims = part(serde_json::json!({"iss": "tokens", "sub": "plant", "aud": "test-registry",
                "exp": now + 300, "nbf": now - 5, "iat": now, "jti": "1",
                "access": [{"type": "repository", "name": name, "actions": actions}]}));
            let text = format!("{head}.{claims}");
            let signature = signing.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
            http(200, "", serde_json::json!({"token": token, "expires_in": 300}).to_string().as_bytes())
        })
        .await;
        Self { server, folder }
    }

    async fn registry(&self) -> TestRegistry {
        let sections = format!(
            "auth: {{token: {{realm: \"http://{}/token\", service: test-registry, issuer: tokens, rootcertbundle: {}}}}}\n",
            self.server.host,
            self.folder.path().join("tokens.pem").display()
        );
        TestRegistry::with(&sections, "").await
    }
}

#[tokio::test]
async fn tokens_are_for_what_is_to_be_done_and_are_used_again() {
    let tokens = Tokens::start().await;
    let server = tokens.registry().await;
    let (host, realm) = (server.host.as_str(), tokens.server.host.as_str());
    let files = Files::new();
    let with_login = config(&[host, realm], Some(files.login(host, "plant", PASSWORD)));
    let registry = Registry::new(host, "plant/app", &with_login).unwrap();
    let blob = registry.push_blob(b"some content").await.unwrap();
    let other = registry.push_blob(b"other content").await.unwrap();
    assert_eq!(registry.blob(&blob, 12).await.unwrap(), b"some content");
    let asked = tokens.server.take();
    assert_eq!(asked.len(), 2, "one to look, one to write: {asked:?}");
    assert!(
        asked[0].contains("scope=repository%3Aplant%2Fapp%3Apull&")
            || asked[0].contains("scope=repository%3Aplant%2Fapp%3Apull "),
        "{}",
        asked[0]
    );
    assert!(asked[1].contains("scope=repository%3Aplant%2Fapp%3Apull%2Cpush"), "{}", asked[1]);

    let pulling = Registry::new(host, "plant/app", &with_login).unwrap();
    assert_eq!(pulling.blob(&blob, 12).await.unwrap(), b"some content");
    assert_eq!(pulling.blob(&other, 13).await.unwrap(), b"other content");
    let asked = tokens.server.take();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(!asked[0].contains("push") && asked[0].contains("service=test-registry"), "{}", asked[0]);

    let identity = files.logins(&format!(
        r#"{{"auths":{{"http://{host}/v2/":{{"auth":"PHRva2VuPjo=","identitytoken":"identity-abc"}}}}}}"#
    ));
    let by_identity = Registry::new(host, "plant/app", &config(&[host, realm], Some(identity))).unwrap();
    assert_eq!(by_identity.blob(&blob, 12).await.unwrap(), b"some content");
    assert_eq!(by_identity.blob(&other, 13).await.unwrap(), b"other content");
    let asked = tokens.server.take();
    assert!(asked.len() == 1 && asked[0].starts_with("POST /token HTTP"), "{asked:?}");
    assert_eq!(header(&asked[0], "authorization"), None);

    for (name, logins, said) in [
        ("no login", None, "registry_credentials_file"),
        ("a wrong password", Some(files.login(host, "plant", "rotated-pass")), "refused the login"),
    ] {
        let registry = Registry::new(host, "plant/app", &config(&[host, realm], logins)).unwrap();
        let refusal = refusal(registry.blob(&blob, 12).await);
        assert_eq!(refusal.reason, Reason::ImageLogin, "{name}");
        assert!(refusal.rule.contains(said), "{name}: {refusal}");
    }
}

/// A registry whose tokens are good for so many requests, and the number of those that it gave.
async fn short_lived(good_for: usize) -> Scripted {
    let (given, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let port = Arc::new(std::sync::Mutex::new(String::new()));
    let own = Arc::clone(&port);
    let server = Scripted::start(move |request| {
        if request.starts_with("GET /token") {
            used.store(0, Ordering::SeqCst);
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            return http(200, "", format!("{{\"token\":\"t{number}\",\"expires_in\":3600}}").as_bytes());
        }
        let expected = format!("Bearer t{}", given.load(Ordering::SeqCst));
        if header(request, "authorization") == Some(&expected)
            && used.fetch_add(1, Ordering::SeqCst) < good_for
        {
            return http(200, "", b"some content");
        }
        let realm = own.lock().unwrap().clone();
        http(401, &format!("WWW-Authenticate: Bearer realm=\"http://{realm}/token\",service=\"s\"\r\n"), b"")
    })
    .await;
    port.lock().unwrap().clone_from(&server.host);
    server
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_a_pull_is_renewed() {
    let server = short_lived(2).await;
    let host = server.host.as_str();
    let registry = Registry::new(host, "plant/app", &config(&[host], None)).unwrap();
    for _ in 0..5 {
        assert_eq!(registry.blob(&some_digest(), 12).await.unwrap(), b"some content");
    }
    let asked = server.take();
    assert_eq!(asked.iter().filter(|request| request.starts_with("GET /token")).count(), 3, "{asked:?}");

    // One that is good for nothing is renewed once for a request, and not for ever.
    let server = short_lived(0).await;
    let host = server.host.as_str();
    let registry = Registry::new(host, "plant/app", &config(&[host], None)).unwrap();
    assert_eq!(refusal(registry.blob(&some_digest(), 12).await).reason, Reason::ImageLogin);
    assert_eq!(server.take().len(), 3, "asked, given a token, asked again");
}

#[tokio::test]
async fn a_registry_asks_for_no_more_rights_than_the_work_needs() {
    for scope in
        ["repository:other/app:pull,push,delete", "registry:catalog:*", "", "repository:a b:pull", "x"]
    {
        let server = Arc::new(std::sync::Mutex::new(String::new()));
        let own = Arc::clone(&server);
        let registry_server = Scripted::start(move |request| {
            if request.starts_with("GET /token") {
                return http(200, "", b"{\"token\":\"t\"}");
            }
            if header(request, "authorization").is_some() {
                return http(200, "", b"some content");
            }
            let realm = own.lock().unwrap().clone();
            http(
                401,
                &format!("WWW-Authenticate: Bearer realm=\"http://{realm}/token\",scope=\"{scope}\"\r\n"),
                b"",
            )
        })
        .await;
        server.lock().unwrap().clone_from(&registry_server.host);
        let host = registry_server.host.as_str();
        let registry = Registry::new(host, "plant/app", &config(&[host], None)).unwrap();
        registry.blob(&some_digest(), 12).await.unwrap();
        let asked = registry_server.seen();
        let asked = asked.iter().find(|request| request.starts_with("GET /token")).unwrap();
        assert!(asked.contains("%3Apull HTTP/1.1"), "{scope}: {asked}");
    }
}

#[tokio::test]
async fn a_login_does_not_follow_a_redirection() {
    let files = Files::new();
    let storage = Scripted::start(|_| http(200, "", b"some content")).await;
    let elsewhere = storage.host.clone();
    let server = Scripted::start(move |request| {
        if header(request, "authorization").is_none() {
            http(401, "WWW-Authenticate: Basic realm=\"plant\"\r\n", b"")
        } else if request.contains("/v2/") {
            http(307, "Location: /here/blob\r\n", b"")
        } else {
            http(307, &format!("Location: http://{elsewhere}/blob?signature=x\r\n"), b"")
        }
    })
    .await;
    let host = server.host.as_str();
    let logins = files.login(host, "plant", PASSWORD);
    let config_of = |storage: &str| config(&[host, storage], Some(logins.clone()));
    let registry = Registry::new(host, "plant/app", &config_of(&storage.host)).unwrap();
    assert_eq!(registry.blob(&some_digest(), 12).await.unwrap(), b"some content");
    let asked = storage.take();
    assert_eq!(asked.len(), 1);
    assert_eq!(header(&asked[0], "authorization"), None, "{}", asked[0]);
    assert!(
        server.take().iter().any(
            |request| request.starts_with("GET /here/blob") && header(request, "authorization").is_some()
        ),
        "at home it is shown"
    );

    // A storage that asks for the login does not get it, and one that leads back home does not get it there.
    for answer in [
        http(401, "WWW-Authenticate: Basic realm=\"plant\"\r\n", b""),
        http(403, "", b""),
        http(307, &format!("Location: http://{host}/v2/again\r\n"), b""),
    ] {
        let storage = Scripted::start(move |_| answer.clone()).await;
        let there = storage.host.clone();
        let server_host = storage.host.clone();
        let front = Scripted::start(move |request| match header(request, "authorization") {
            None => http(401, "WWW-Authenticate: Basic realm=\"plant\"\r\n", b""),
            Some(_) => http(307, &format!("Location: http://{there}/blob\r\n"), b""),
        })
        .await;
        let logins = files.login(&front.host, "plant", PASSWORD);
        let config = config(&[&front.host, &server_host, host], Some(logins));
        let registry = Registry::new(&front.host, "plant/app", &config).unwrap();
        let refusal = refusal(registry.blob(&some_digest(), 12).await);
        assert_eq!(refusal.reason, Reason::ImageUnavailable, "{refusal}");
        for request in storage.seen() {
            assert_eq!(header(&request, "authorization"), None, "{request}");
        }
    }
    for request in server.seen() {
        assert_eq!(header(&request, "authorization"), None, "{request}");
    }
}

#[tokio::test]
async fn a_registry_whose_blobs_lie_elsewhere_is_followed_without_its_password() {
    let files = Files::new();
    secret_file(&files.path("htpasswd"), HTPASSWD);
    let storage = Scripted::start(|_| http(200, "", b"some content")).await;
    let sections = format!(
        "auth: {{htpasswd: {{realm: plant, path: {}}}}}\n\
         middleware: {{storage: [{{name: redirect, options: {{baseurl: \"http://{}/\"}}}}]}}\n",
        files.path("htpasswd").display(),
        storage.host
    );
    let server = TestRegistry::with(&sections, "").await;
    let logins = files.login(&server.host, "plant", PASSWORD);
    let registry = Registry::new(
        &server.host,
        "plant/app",
        &config(&[&server.host, &storage.host], Some(logins.clone())),
    )
    .unwrap();
    let blob = registry.push_blob(b"some content").await.unwrap();
    storage.take();
    assert_eq!(registry.blob(&blob, 12).await.unwrap(), b"some content");
    let asked = storage.take();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].contains(blob.hex()), "{}", asked[0]);
    assert_eq!(header(&asked[0], "authorization"), None, "{}", asked[0]);
    let unnamed = Registry::new(&server.host, "plant/app", &config(&[&server.host], Some(logins))).unwrap();
    assert_eq!(refusal(unnamed.blob(&blob, 12).await).reason, Reason::ImageUnavailable);
    assert!(storage.seen().is_empty());
}

#[tokio::test]
async fn challenges_and_token_servers_that_do_not_behave_get_no_password() {
    let files = Files::new();
    let stranger = Scripted::start(|_| http(200, "", b"{\"token\":\"t\"}")).await;
    let long = "x".repeat(5000);
    let many = (0..20).fold(String::from("WWW-Authenticate: Basic "), |text, n| format!("{text}p{n}=x,"));
    let challenge = |value: &str| format!("WWW-Authenticate: {value}\r\n");
    for (name, headers) in [
        ("none", String::new()),
        ("huge", challenge(&format!("Bearer realm=\"https://{long}\""))),
        ("many parameters", format!("{many}\r\n")),
        ("malformed", challenge("Bearer realm=\"https://a")),
        ("no realm", challenge("Bearer service=\"s\"")),
        (
            "a realm in plain HTTP that is not named",
            challenge(&format!("Bearer realm=\"http://{}/t\"", stranger.host)),
        ),
        ("a realm with a user", challenge("Bearer realm=\"https://user:pass@127.0.0.1:1/t\"")),
        ("a realm that is no URL", challenge("Bearer realm=\"/token\"")),
        ("a realm of another scheme", challenge("Bearer realm=\"file:///etc/passwd\"")),
        ("another way", challenge("Negotiate YII=")),
        ("not text", "WWW-Authenticate: Basic realm=\"\u{fc}\"\r\n".into()),
    ] {
        let answer = http(401, &headers, b"");
        let server = Scripted::start(move |_| answer.clone()).await;
        let host = server.host.as_str();
        let logins = files.login(host, "plant", PASSWORD);
        let registry = Registry::new(host, "plant/app", &config(&[host], Some(logins))).unwrap();
        assert_eq!(refusal(registry.manifest(&some_digest()).await).reason, Reason::ImageLogin, "{name}");
        let asked = server.seen();
        assert_eq!(asked.len(), 1, "{name}");
        assert_eq!(header(&asked[0], "authorization"), None, "{name}");
    }
    assert!(stranger.seen().is_empty(), "{:?}", stranger.seen());

    let big = format!("{{\"token\":\"{}\"}}", "x".repeat(10 << 20));
    for (name, answer, expected) in [
        ("10 MB", http(200, "", big.as_bytes()), Reason::ImageTooLarge),
        ("no JSON", http(200, "", b"token"), Reason::ImageUnavailable),
        ("no token", http(200, "", b"{}"), Reason::ImageUnavailable),
        ("a token with a line", http(200, "", b"{\"token\":\"a\\r\\nX: y\"}"), Reason::ImageUnavailable),
        ("an error", http(500, "", b""), Reason::ImageUnavailable),
        ("a refusal", http(401, "", b""), Reason::ImageLogin),
        (
            "a challenge of its own",
            http(401, "WWW-Authenticate: Basic realm=\"x\"\r\n", b""),
            Reason::ImageLogin,
        ),
        (
            "a redirection",
            http(307, &format!("Location: http://{}/t\r\n", stranger.host), b""),
            Reason::ImageUnavailable,
        ),
        ("nothing", Vec::new(), Reason::ImageUnavailable),
    ] {
        let realm = Scripted::start(move |_| answer.clone()).await;
        let headers = format!("WWW-Authenticate: Bearer realm=\"http://{}/t\"\r\n", realm.host);
        let server = Scripted::start(move |_| http(401, &headers, b"")).await;
        let host = server.host.as_str();
        let config = config(&[host, &realm.host, &stranger.host], Some(files.login(host, "plant", PASSWORD)));
        let registry = Registry::new(host, "plant/app", &config).unwrap();
        assert_eq!(refusal(registry.manifest(&some_digest()).await).reason, expected, "{name}");
        assert_eq!(realm.seen().len(), 1, "{name}");
    }
    assert!(stranger.seen().is_empty(), "{:?}", stranger.seen());

    // A server that sends from one login to the next without end is asked twice.
    let turn = AtomicUsize::new(0);
    let server = Scripted::start(move |_| {
        let number = turn.fetch_add(1, Ordering::SeqCst);
        http(401, &format!("WWW-Authenticate: Basic realm=\"{number}\"\r\n"), b"")
    })
    .await;
    let host = server.host.as_str();
    let registry =
        Registry::new(host, "plant/app", &config(&[host], Some(files.login(host, "plant", PASSWORD))))
            .unwrap();
    assert_eq!(refusal(registry.manifest(&some_digest()).await).reason, Reason::ImageLogin);
    assert_eq!(server.seen().len(), 2);

    for location in
        ["http://user:secret@127.0.0.1:1/x", "https://user@127.0.0.1:1/x", "//user:secret@127.0.0.1/x"]
    {
        let headers = format!("Location: {location}\r\n");
        let server = Scripted::start(move |_| http(307, &headers, b"")).await;
        let registry = Registry::new(&server.host, "plant/app", &config(&[&server.host], None)).unwrap();
        let refusal = refusal(registry.blob(&some_digest(), 12).await);
        assert!(refusal.reason == Reason::ImageUnavailable && !refusal.rule.contains("secret"), "{refusal}");
    }
}

#[tokio::test]
async fn a_login_is_for_its_registry_alone() {
    let files = Files::new();
    let server = Scripted::start(|_| http(401, "WWW-Authenticate: Basic realm=\"plant\"\r\n", b"")).await;
    let host = server.host.as_str();
    let port = host.rsplit_once(':').unwrap().1;
    for entry in [
        format!("localhost:{port}"),
        "127.0.0.1".into(),
        format!("x{host}"),
        format!("{host}/other"),
        format!("{host}.example"),
    ] {
        let logins = files.login(&entry, "plant", PASSWORD);
        let registry = Registry::new(host, "plant/app", &config(&[host], Some(logins))).unwrap();
        let refusal = refusal(registry.manifest(&some_digest()).await);
        assert!(refusal.rule.contains("no entry"), "{entry}: {refusal}");
    }
    for request in server.seen() {
        assert_eq!(header(&request, "authorization"), None, "{request}");
    }
}
