//! Mirrors, proxies, a plant's own roots, Docker's own registry, and blobs whose transfer breaks off.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::{Digest, Reason, Refusal};
use edgewarden_oci::OciError;
use edgewarden_oci::registry::{Access, Command, Registry};
use edgewarden_oci::store::ContentStore;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::registries::{Direct, Mirror, Proxies, ProxyUrl, RegistryMirrors};

use crate::common::TestRegistry;
use crate::common::scripted::{Scripted, Site, connect_proxy, header, http, secret_file};

const CONTENT: &[u8] = b"some content that is long enough to be cut";

fn content() -> Digest {
    Digest::of(CONTENT)
}

fn refusal<T: std::fmt::Debug>(result: Result<T, OciError>) -> Refusal {
    result.unwrap_err().refusal()
}

/// Plain HTTP for all of them; `mirrors` stand before `registry`.
fn mirrored(registry: &str, mirrors: &[&str], only: bool) -> Runtime {
    let plain = mirrors.iter().map(|mirror| mirror.split('/').next().unwrap()).chain([registry]);
    Runtime {
        plain_http_registries: plain.map(Into::into).collect(),
        registry_mirrors: vec![RegistryMirrors {
            registry: registry.into(),
            mirrors: mirrors.iter().map(|mirror| Mirror::parse(mirror).unwrap()).collect(),
            only,
        }],
        ..Runtime::default()
    }
}

/// An address where nobody listens.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order_and_then_the_registry_itself() {
    let registry = TestRegistry::start().await;
    let direct = Registry::new(&registry.host, "plant/app", &registry.config()).unwrap();
    let blob = direct.push_blob(CONTENT).await.unwrap();
    let good = Scripted::start(|_| http(200, "", CONTENT)).await;
    let liar = Scripted::start(|_| http(200, "", &[b'x'; CONTENT.len()])).await;
    let long = Scripted::start(|_| http(200, "", &[b'x'; 4096])).await;
    let empty = Scripted::start(|_| http(404, "", b"")).await;
    let closed = Scripted::start(|_| http(401, "WWW-Authenticate: Basic realm=\"m\"\r\n", b"")).await;
    let broken = Scripted::start(|_| http(500, "", b"")).await;
    let away = nobody();
    for (name, mirrors, asks_itself) in [
        ("a good one", vec![good.host.as_str()], false),
        ("a good one after others", vec![&away, &liar.host, &good.host], false),
        ("one that is away", vec![&away], true),
        ("one that lies", vec![&liar.host], true),
        ("one that sends too much", vec![&long.host], true),
        ("one that has it not", vec![&empty.host], true),
        ("one that wants a login", vec![&closed.host], true),
        ("one with a fault", vec![&broken.host], true),
        ("all of them", vec![&away, &liar.host, &long.host, &empty.host, &closed.host, &broken.host], true),
    ] {
        let config = mirrored(&registry.host, &mirrors, false);
        let through = Registry::new(&registry.host, "plant/app", &config).unwrap();
        assert_eq!(through.blob(&blob, CONTENT.len() as u64).await.unwrap(), CONTENT, "{name}");
        let folder = tempfile::tempdir().unwrap();
        let store = ContentStore::open(folder.path()).unwrap();
        assert!(store.fetch(&through, &blob, CONTENT.len() as u64).await.unwrap(), "{name}");
        // Without the registry itself it is the mirrors' alone.
        let config = mirrored(&registry.host, &mirrors, true);
        let only = Registry::new(&registry.host, "plant/app", &config).unwrap();
        assert_eq!(only.blob(&blob, CONTENT.len() as u64).await.is_err(), asks_itself, "{name}");
    }

    let config = mirrored(&registry.host, &[&away, &liar.host, &closed.host], true);
    let only = Registry::new(&registry.host, "plant/app", &config).unwrap();
    let said = refusal(only.blob(&blob, CONTENT.len() as u64).await);
    assert_eq!(said.reason, Reason::ImageLogin, "of the last that was asked");
    for word in [away.as_str(), &liar.host, &closed.host, "cannot connect", "other content"] {
        assert!(said.rule.contains(word), "{word}: {said}");
    }

    // Tags are the registry's own word, and what is pushed goes there.
    for seen in [&good, &liar] {
        seen.take();
    }
    let config = mirrored(&registry.host, &[&good.host, &liar.host], false);
    let through = Registry::new(&registry.host, "plant/app", &config).unwrap();
    through.push_blob(b"more").await.unwrap();
    assert_eq!(refusal(through.resolve("1").await).reason, Reason::ImageUnavailable);
    assert!(through.signature_manifest(&content()).await.unwrap().is_none());
    assert!(good.seen().is_empty() && liar.seen().is_empty());
}

#[tokio::test]
async fn a_mirror_has_a_login_and_a_place_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let wants = |allowed: &str| {
        let allowed = format!("Basic {}", STANDARD.encode(allowed));
        move |request: &str| match header(request, "authorization") {
            None => http(401, "WWW-Authenticate: Basic realm=\"m\"\r\n", b""),
            Some(shown) if shown == allowed && request.contains("/v2/hub/") => http(200, "", CONTENT),
            Some(_) => http(403, "", b""),
        }
    };
    let mirror = Scripted::start(wants("mirror:m")).await;
    let registry = nobody();
    let logins = folder.path().join("logins.json");
    let entry = |pair: &str| serde_json::json!({"auth": STANDARD.encode(pair)});
    let auths = serde_json::json!({"auths": {&registry: entry("own:o"), &mirror.host: entry("mirror:m")}});
    secret_file(&logins, &auths.to_string());
    let hub = format!("{}/hub", mirror.host);
    let mut config = mirrored(&registry, &[&hub], false);
    config.registry_credentials_file = Some(logins.clone());
    let through = Registry::new(&registry, "plant/app", &config).unwrap();
    assert_eq!(through.blob(&content(), CONTENT.len() as u64).await.unwrap(), CONTENT);
    // Without one for the mirror the registry's own is not shown there.
    secret_file(&logins, &serde_json::json!({"auths": {&registry: entry("own:o")}}).to_string());
    mirror.take();
    let through = Registry::new(&registry, "plant/app", &config).unwrap();
    assert!(through.blob(&content(), CONTENT.len() as u64).await.is_err());
    for request in mirror.seen() {
        assert_eq!(header(&request, "authorization"), None, "{request}");
    }
}

#[tokio::test]
async fn a_mirror_without_signatures_is_no_proof_that_there_are_none() {
    let registry = TestRegistry::start().await;
    let empty = Scripted::start(|_| http(404, "", b"")).await;
    let image = content();
    let here = Registry::new(&registry.host, "plant/app", &registry.config()).unwrap();
    let payload = here.push_blob(b"{}").await.unwrap();
    let of = |media_type: &str| serde_json::json!({"mediaType": media_type, "digest": payload, "size": 2});
    let manifest =
        serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": of("application/vnd.oci.image.config.v1+json"),
        "layers": [of("application/vnd.dev.cosign.simplesigning.v1+json")]})
        .to_string();
    let tag = format!("sha256-{}.sig", image.hex());
    here.push_manifest(&tag, "application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
        .await
        .unwrap();
    let through =
        Registry::new(&registry.host, "plant/app", &mirrored(&registry.host, &[&empty.host], false)).unwrap();
    assert_eq!(through.signatures(&image).await.unwrap().len(), 1);
    let only =
        Registry::new(&registry.host, "plant/app", &mirrored(&registry.host, &[&empty.host], true)).unwrap();
    assert!(only.signatures(&image).await.unwrap().is_empty());
    let gone = nobody();
    let away = Registry::new(&gone, "plant/app", &mirrored(&gone, &[&empty.host], false)).unwrap();
    assert_eq!(refusal(away.signatures(&image).await).reason, Reason::ImageUnavailable);
}

fn proxied(proxy: &str, plain: &[&str]) -> Runtime {
    let url = ProxyUrl::parse(&format!("http://{proxy}")).unwrap();
    Runtime {
        plain_http_registries: plain.iter().map(ToString::to_string).collect(),
        proxy: Some(Proxies { https: Some(url.clone()), http: Some(url), ..Proxies::default() }),
        ..Runtime::default()
    }
}

#[tokio::test]
async fn plain_registries_are_asked_through_the_proxy_unless_they_are_excepted() {
    let folder = tempfile::tempdir().unwrap();
    let pair = folder.path().join("proxy-login");
    secret_file(&pair, "plant:through\n");
    let proxy = Scripted::start(|request| match header(request, "proxy-authorization") {
        None => http(407, "Proxy-Authenticate: Basic realm=\"p\"\r\n", b""),
        Some(shown) if shown == format!("Basic {}", STANDARD.encode("plant:through")) => {
            http(200, "", CONTENT)
        }
        Some(_) => http(407, "", b""),
    })
    .await;
    let registry = Scripted::start(|_| http(200, "", CONTENT)).await;
    let mut config = proxied(&proxy.host, &["reg.plant.example", &registry.host]);
    config.proxy.as_mut().unwrap().credentials_file = Some(pair.clone());
    config.proxy.as_mut().unwrap().no_proxy = vec![Direct::parse("127.0.0.0/8").unwrap()];
    let through = Registry::new("reg.plant.example", "plant/app", &config).unwrap();
    assert_eq!(through.blob(&content(), CONTENT.len() as u64).await.unwrap(), CONTENT);
    let asked = proxy.take();
    let line = format!("GET http://reg.plant.example/v2/plant/app/blobs/{} HTTP/1.1\r\n", content());
    assert!(asked.len() == 1 && asked[0].starts_with(&line), "{asked:?}");

    let excepted = Registry::new(&registry.host, "plant/app", &config).unwrap();
    assert_eq!(excepted.blob(&content(), CONTENT.len() as u64).await.unwrap(), CONTENT);
    assert!(proxy.seen().is_empty());
    assert_eq!(header(&registry.seen()[0], "proxy-authorization"), None, "the proxy's login is the proxy's");

    for (name, text, said) in [
        ("a wrong login", Some("plant:other"), "refused the login"),
        ("no login", None, "credentials_file"),
        ("no pair", Some("plant"), "user:password"),
        ("two lines", Some("plant:a\nb:c"), "user:password"),
    ] {
        config.proxy.as_mut().unwrap().credentials_file = text.map(|text| {
            secret_file(&pair, text);
            pair.clone()
        });
        let through = Registry::new("reg.plant.example", "plant/app", &config).unwrap();
        let refusal = refusal(through.blob(&content(), CONTENT.len() as u64).await);
        assert_eq!(refusal.reason, Reason::ImageUnavailable, "{name}");
        assert!(refusal.rule.contains(said), "{name}: {refusal}");
    }
}

#[tokio::test]
async fn dockers_own_registry_is_spoken_to_by_its_host_in_a_tunnel_with_the_login_that_docker_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new("registry-1.docker.io");
    let allowed = format!("Basic {}", STANDARD.encode("plant:hub-pass"));
    let server = Scripted::in_tls(&site, move |request| match header(request, "authorization") {
        Some(shown) if shown == allowed => http(200, "", CONTENT),
        _ => http(401, "WWW-Authenticate: Basic realm=\"hub\"\r\n", b""),
    })
    .await;
    let proxy = connect_proxy(server.host.clone(), |_| None).await;
    let logins = folder.path().join("config.json");
    secret_file(
        &logins,
        &format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}}}}}}"#,
            STANDARD.encode("plant:hub-pass")
        ),
    );
    let mut config = proxied(&proxy.host, &[]);
    config.registry_ca_files = vec![site.file("ca.pem")];
    config.registry_credentials_file = Some(logins.clone());
    let hub = Registry::new("docker.io", "library/nginx", &config).unwrap();
    assert_eq!(hub.name(), "docker.io/library/nginx");
    assert_eq!(hub.blob(&content(), CONTENT.len() as u64).await.unwrap(), CONTENT);
    for tunnel in proxy.take() {
        assert!(tunnel.starts_with("CONNECT registry-1.docker.io:443 HTTP/1.1\r\n"), "{tunnel}");
        assert_eq!(header(&tunnel, "authorization"), None, "{tunnel}");
    }
    for request in server.take() {
        assert!(request.starts_with("GET /v2/library/nginx/blobs/"), "{request}");
    }
    let said = refusal(Registry::new("docker.io", "nginx", &config).map(|registry| registry.name()));
    assert!(said.reason == Reason::RequestInvalid && said.rule.contains("docker.io/library/nginx"), "{said}");

    // The same for an operator, by the environment.
    let options =
        Command { credentials: Some(logins), ca_files: vec![site.file("ca.pem")], ..Command::default() };
    let url = format!("http://plant:through@{}", proxy.host);
    let access =
        Access::of_command(options, move |name| (name == "HTTPS_PROXY").then(|| url.clone())).unwrap();
    let hub = Registry::new("docker.io", "library/nginx", access).unwrap();
    assert_eq!(hub.blob(&content(), CONTENT.len() as u64).await.unwrap(), CONTENT);
    let expected = format!("Basic {}", STANDARD.encode("plant:through"));
    assert_eq!(header(&proxy.take()[0], "proxy-authorization"), Some(expected.as_str()));
    for request in server.seen() {
        assert_eq!(header(&request, "proxy-authorization"), None, "{request}");
    }
}

#[tokio::test]
async fn proxies_that_do_not_behave_are_refused() {
    for (name, answer, said) in [
        ("wants a login", http(407, "Proxy-Authenticate: Basic realm=\"p\"\r\n", b""), "credentials_file"),
        ("forbids", http(403, "", b""), "403"),
        ("has a fault", http(502, "", b""), "502"),
        ("closes", Vec::new(), "the proxy"),
        ("no HTTP", b"hello\r\n\r\n".to_vec(), "the proxy"),
        ("without end", vec![b'x'; 1 << 20], "the proxy"),
        ("no TLS behind it", b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec(), "TLS"),
    ] {
        let proxy = connect_proxy(String::new(), move |_| Some(answer.clone())).await;
        let registry = Registry::new("reg.plant.example", "plant/app", &proxied(&proxy.host, &[])).unwrap();
        let refusal = refusal(registry.blob(&content(), 1).await);
        assert_eq!(refusal.reason, Reason::ImageUnavailable, "{name}");
        assert!(refusal.rule.contains(said), "{name}: {refusal}");
    }
    let registry = Registry::new("reg.plant.example", "plant/app", &proxied(&nobody(), &[])).unwrap();
    assert!(refusal(registry.blob(&content(), 1).await).rule.contains("the proxy"));
}

#[tokio::test]
async fn a_plants_own_root_counts_where_it_is_named() {
    let site = Site::new("127.0.0.1");
    let stranger = Site::new("127.0.0.1");
    let tls = format!(
        ", tls: {{certificate: {}, key: {}}}",
        site.file("cert.pem").display(),
        site.file("key.pem").display()
    );
    let server = TestRegistry::with("", &tls).await;
    let with = |files: Vec<PathBuf>| {
        let config = Runtime { registry_ca_files: files, ..Runtime::default() };
        Registry::new(&server.host, "plant/app", &config).unwrap()
    };
    let registry = with(vec![stranger.file("ca.pem"), site.file("ca.pem")]);
    let blob = registry.push_blob(CONTENT).await.unwrap();
    assert_eq!(registry.blob(&blob, CONTENT.len() as u64).await.unwrap(), CONTENT);
    for (name, files, said) in [
        ("none", vec![], "registry_ca_files"),
        ("another root", vec![stranger.file("ca.pem")], "registry_ca_files"),
        ("no certificate", vec![site.file("key.pem")], "no certificate"),
        ("no file", vec![site.file("missing.pem")], "missing.pem"),
    ] {
        let refusal = refusal(with(files).blob(&blob, CONTENT.len() as u64).await);
        assert_eq!(refusal.reason, Reason::ImageUnavailable, "{name}");
        assert!(refusal.rule.contains(said), "{name}: {refusal}");
    }
}

#[tokio::test]
async fn a_registry_behind_a_proxy_is_pushed_to_and_pulled_from_in_a_tunnel() {
    let site = Site::new("reg.plant.example");
    let tls = format!(
        ", tls: {{certificate: {}, key: {}}}",
        site.file("cert.pem").display(),
        site.file("key.pem").display()
    );
    let server = TestRegistry::with("", &tls).await;
    let proxy = connect_proxy(server.host.clone(), |_| None).await;
    let mut config = proxied(&proxy.host, &[]);
    config.registry_ca_files = vec![site.file("ca.pem")];
    let registry = Registry::new("reg.plant.example:5443", "plant/app", &config).unwrap();
    let blob = registry.push_blob(CONTENT).await.unwrap();
    assert_eq!(registry.blob(&blob, CONTENT.len() as u64).await.unwrap(), CONTENT);
    for tunnel in proxy.seen() {
        assert!(tunnel.starts_with("CONNECT reg.plant.example:5443 HTTP/1.1\r\n"), "{tunnel}");
    }
    // Without its root the proxy could be anybody.
    config.registry_ca_files.clear();
    let registry = Registry::new("reg.plant.example:5443", "plant/app", &config).unwrap();
    assert_eq!(refusal(registry.blob(&blob, CONTENT.len() as u64).await).reason, Reason::ImageUnavailable);
}

/// A registry that sends `at_once` bytes for each request and then closes; from where it was asked if it can.
async fn cutting(at_once: usize, ranges: bool, body: &'static [u8]) -> Scripted {
    Scripted::start(move |request| {
        let from = header(request, "range").filter(|_| ranges).map_or(0, |range| {
            range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
        });
        let status = if from > 0 {
            format!("206 Part\r\nContent-Range: bytes {from}-{}/{}", body.len() - 1, body.len())
        } else {
            "200 OK".into()
        };
        let mut answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len() - from).into_bytes();
        answer.extend_from_slice(&body[from..body.len().min(from + at_once)]);
        answer
    })
    .await
}

async fn fetched(server: &Scripted) -> Result<bool, OciError> {
    let folder = tempfile::tempdir().unwrap();
    let config = Runtime { plain_http_registries: vec![server.host.clone()], ..Runtime::default() };
    let registry = Registry::new(&server.host, "plant/app", &config).unwrap();
    let store = ContentStore::open(folder.path()).unwrap();
    store.fetch(&registry, &content(), CONTENT.len() as u64).await
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let server = cutting(20, true, CONTENT).await;
    assert!(fetched(&server).await.unwrap());
    let ranges: Vec<_> =
        server.seen().iter().map(|request| header(request, "range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=20-".to_owned()), Some("bytes=40-".to_owned())]);

    let wrong = vec![b'x'; CONTENT.len()].leak();
    assert_eq!(
        refusal(fetched(&cutting(20, true, wrong).await).await).reason,
        Reason::ImageContent,
        "hashed as a whole"
    );
    let server = cutting(1, true, CONTENT).await;
    assert_eq!(refusal(fetched(&server).await).reason, Reason::ImageUnavailable);
    assert_eq!(server.seen().len(), 5, "a few times and not for ever");
    let server = cutting(20, false, CONTENT).await;
    assert_eq!(refusal(fetched(&server).await).reason, Reason::ImageUnavailable);
    assert!(server.seen().len() <= 5, "{}", server.seen().len());

    // A registry that knows no ranges is read anew.
    let turn = AtomicUsize::new(0);
    let server = Scripted::start(move |_| {
        let whole = http(200, "", CONTENT);
        let cut = if turn.fetch_add(1, Ordering::SeqCst) == 0 { 10 } else { 0 };
        whole[..whole.len() - cut].to_vec()
    })
    .await;
    assert!(fetched(&server).await.unwrap());

    for (name, headers) in [
        ("from elsewhere", "Content-Range: bytes 3-41/42\r\n"),
        ("from nowhere", ""),
        ("not a range", "Content-Range: x\r\n"),
    ] {
        let turn = AtomicUsize::new(0);
        let server = Scripted::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
            0 => {
                let whole = http(200, "", CONTENT);
                whole[..whole.len() - 10].to_vec()
            }
            _ => http(206, headers, &CONTENT[32..]),
        })
        .await;
        assert_eq!(refusal(fetched(&server).await).reason, Reason::ImageUnavailable, "{name}");
    }
    let server = Scripted::start(|_| http(206, "Content-Range: bytes 0-41/42\r\n", CONTENT)).await;
    assert_eq!(
        refusal(fetched(&server).await).reason,
        Reason::ImageUnavailable,
        "a part that nobody asked for"
    );
}
