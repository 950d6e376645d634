//! Access of operators and of lookers-on; slow or odd peers hold nobody up.

use crate::common;

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::Fleet;
use common::web::get;
use edgewarden_names::Reason;
use edgewarden_protocol::uplink::{ModuleReport, ModuleState, ModuleUpdate, RefusalReport, Sync};
use edgewarden_transport::http::HttpError;

#[tokio::test]
async fn operators_need_the_token() {
    let fleet = Fleet::start(&[]);
    let get = async |client: edgewarden_transport::http::Client, path: &str| match client
        .get_json::<serde_json::Value>(path, 4096, common::DEADLINE)
        .await
    {
        Ok(_) => None,
        Err(HttpError::Refused(refusal)) => Some(refusal.reason),
        Err(error) => panic!("{path}: {error:?}"),
    };
    let good = fleet.admin_token();
    let web = std::fs::read_to_string(fleet.data().join("web.token")).unwrap();
    assert_eq!(get(fleet.stranger().with_bearer(&good).unwrap(), "/v1/admin/devices").await, None);
    for path in [
        "/v1/admin/devices",
        "/v1/admin/web",
        "/v1/admin/deployments",
        "/v1/admin/nothing",
        "/v1/admin/token",
    ] {
        assert_eq!(get(fleet.stranger(), path).await, Some(Reason::PeerUnauthorized), "{path}");
        for wrong in ["x", &good[1..], &web, &format!("{good}0")] {
            let client = fleet.stranger().with_bearer(wrong).unwrap();
            assert_eq!(get(client, path).await, Some(Reason::PeerUnauthorized), "{path} {wrong}");
        }
    }
    // A gateway's certificate makes no operator.
    let gateway = fleet.gateway("gw-1").await;
    assert_eq!(
        get(gateway.client(&fleet, "runtimed"), "/v1/admin/devices").await,
        Some(Reason::PeerUnauthorized)
    );
    let client = fleet.stranger().with_bearer(&good).unwrap();
    for path in
        ["/", "/v1/admin/nothing", "/v1/admin/token", "/v1/admin/devices/no-such", "/v1/admin/devices/%2e%2e"]
    {
        assert_eq!(get(client.clone(), path).await, Some(Reason::RequestInvalid), "{path}");
    }
}

#[test]
fn commands_answer_with_their_exit_codes() {
    let fleet = Fleet::start(&[]);
    let missing = fleet.path("missing");
    let missing = missing.to_str().unwrap();
    for (arguments, code) in [
        (&["device", "list"][..], 0),
        (&["reference", "list"], 0),
        (&["vendor", "list"], 0),
        (&["operator-key", "list"], 0),
        (&["web", "url"], 1),
        (&["vendor", "add", missing], 1),
        (&["reference", "add", "--name", "x", "--event-log", missing], 1),
        (&["reference", "accept", "--gateway", "gw-1"], 3),
        (&["device", "show", "gw-1"], 3),
        (&["device", "remove", "gw-1"], 3),
        (&["message", "list", "--gateway", "gw-1"], 3),
        (&["token", "create", "--gateway", "gw-1", "--expires", "1s"], 3),
        (&["token", "create", "--gateway", "gw-1", "--expires", "60d"], 3),
        (&["token", "create", "--gateway", "GW"], 2),
        (&["token", "create", "--gateway", "gw-1", "--expires", "soon"], 2),
        (&["token", "create", "--gateway", "gw-1", "--label", "site"], 2),
        (&["token", "create", "--gateway", "gw-1", "--label", "site=a", "--label", "site=b"], 2),
        (&["token", "create", "--gateway", "gw-1", "--label", "site=a\nb"], 3),
        (&["device", "label", "gw-1"], 2),
        (&["device", "label", "gw-1", "site="], 2),
        (&["device", "label", "gw-1", "site=a"], 3),
        (&["deploy"], 2),
        (&["deploy", missing], 2),
        (&["deploy", missing, "--key", missing], 1),
        (&["deploy", "--envelope", missing, "--key", missing], 2),
        (&["unknown"], 2),
        (&["init", "--trust-domain", "plant.example", "--name", "x"], 1),
        (&["serve", "--web", "192.0.2.1:8080"], 2),
        (&["serve", "--web", "0.0.0.0:0"], 2),
        (&["serve", "--web", "[::]:0"], 2),
    ] {
        let answer = fleet.cli(arguments);
        assert_eq!(answer.code(), code, "{arguments:?}: {}", answer.errors());
    }
    let log = fleet.path("log.bin");
    std::fs::write(&log, b"no event log").unwrap();
    let log = log.to_str().unwrap();
    fleet.cli(&["reference", "add", "--name", "x", "--event-log", log]).refused(Reason::AttestEventLog);
    fleet.cli(&["vendor", "add", log]).refused(Reason::RequestInvalid);
    fleet.cli(&["operator-key", "add", log]).refused(Reason::RequestInvalid);
    let stranger = fleet.path("stranger.key.pub");
    fleet.cli(&["operator-key", "add", stranger.to_str().unwrap()]).ok();
    fleet.deploy(1, "stranger.key", &[]).ok();
    let keys = fleet.json(&["operator-key", "list"]);
    assert_eq!(keys.as_array().unwrap().len(), 2);
    // No secret is readable by others.
    for file in ["data/root.key", "data/admin.token", "data/web.token", "data/fleet.db", "operator.key"] {
        let mode = std::fs::metadata(fleet.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn a_folder_has_one_server() {
    let mut fleet = Fleet::start(&[]);
    let address = fleet.url();
    let second = fleet.cli(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code(), 1);
    assert!(second.errors().contains("another `edgewarden-fleet` runs"), "{}", second.errors());
    // The first one was not disturbed.
    assert_eq!(fleet.url(), address);
    fleet.cli(&["device", "list"]).ok();
    // However it dies, the next one may start.
    fleet.kill();
    fleet.run();
    fleet.cli(&["device", "list"]).ok();
    fleet.stop();
    fleet.run();
}

#[test]
fn of_two_that_make_a_fleet_in_one_folder_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let init = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_edgewarden-fleet"));
        command.args(["init", "--trust-domain", "plant.example", "--name", "localhost", "--data"]).arg(&data);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    let ends: Vec<bool> =
        [init(), init(), init()].map(|mut child| child.wait().unwrap().success()).into_iter().collect();
    assert_eq!(ends.iter().filter(|good| **good).count(), 1, "{ends:?}");
}

#[test]
fn without_a_server_the_hint_says_how_to_start_it() {
    let mut fleet = Fleet::start(&[]);
    fleet.stop();
    let answer = fleet.cli(&["device", "list"]);
    assert_eq!(answer.code(), 1);
    assert!(answer.errors().contains("edgewarden-fleet serve"), "{}", answer.errors());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_and_escapes() {
    let fleet = Fleet::start(&["--web", "127.0.0.1:0", "--dangerous-carry-unverified"]);
    let url = fleet.cli(&["web", "url"]).ok();
    let rest = url.trim().strip_prefix("http://").unwrap();
    let (address, path) = rest.split_at(rest.find('/').unwrap());

    for (path, header) in [
        ("/", String::new()),
        ("/gateway/gw-1", String::new()),
        ("/?token=wrong", String::new()),
        ("/?token=", String::new()),
        ("/", "Cookie: edgewarden=wrong\r\n".into()),
        ("/", format!("Cookie: other={}\r\n", path.trim_start_matches("/?token="))),
        ("/", format!("Cookie: edgewarden={}\r\n", fleet.admin_token())),
    ] {
        let refused = get(address, path, &header);
        assert!(
            refused.starts_with("HTTP/1.1 401") && refused.contains("edgewarden-fleet web url"),
            "{refused}"
        );
    }
    let entered = get(address, path, "");
    assert!(entered.starts_with("HTTP/1.1 303"), "{entered}");
    let cookie = entered.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = format!("Cookie: a=b; {}\r\n", cookie.split(';').next().unwrap());

    let empty = get(address, "/", &cookie);
    assert!(empty.contains("token create"), "an empty fleet teaches the next command: {empty}");
    assert!(empty.contains("content-security-policy: default-src 'none'"), "{empty}");
    assert!(empty.contains("class=\"danger\""), "the dangerous setting is shown: {empty}");

    // A gateway that tries to write into the page.
    let gateway = fleet.gateway("gw-1").await;
    let evil = "<script>alert(1)</script>";
    let mut report = common::report();
    report.deployment.as_mut().unwrap().name = evil.into();
    report.software_version = evil.into();
    let refusal = edgewarden_names::Refusal::new(Reason::ImageUnsigned, evil, evil);
    report.modules = vec![ModuleReport {
        name: "alerts".parse().unwrap(),
        image: evil.into(),
        state: ModuleState::Refused,
        generation: 1,
        restarts: 2,
        reason: Some(refusal.clone()),
        update: Some(ModuleUpdate {
            image: evil.into(),
            state: ModuleState::Refused,
            reason: Some(refusal.clone()),
        }),
    }];
    report.refusals = vec![RefusalReport { at: report.at, refusal }];
    let sync = Sync { have: None, wait_seconds: 0, report, secrets: None };
    let client = gateway.client(&fleet, "runtimed");
    common::post::<_, serde_json::Value>(&client, "/v1/gateway/sync", &sync).await.unwrap();
    let mut message = gateway.message(1);
    message.payload = evil.as_bytes().into();
    message.topic = evil.into();
    gateway.send(&fleet, vec![message]).await.unwrap();

    let overview = get(address, "/", &cookie);
    let device = get(address, "/gateway/gw-1", &cookie);
    for page in [&overview, &device] {
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
        assert!(page.contains("fresh") && page.contains("hardware: none"), "{page}");
    }
    assert!(device.contains("image.unsigned") && device.contains("edgewarden image sign"), "{device}");
    for path in ["/gateway/gw-2", "/gateway/..%2f", "/nothing", "/v1/admin/devices", "/v1/enrol/begin"] {
        let reply = get(address, path, &cookie);
        assert!(reply.starts_with("HTTP/1.1 404"), "{path}: {reply}");
    }
    let style = get(address, "/style.css", "");
    assert!(style.contains("text/css") && style.contains("prefers-color-scheme"), "{style}");
}

#[test]
fn silent_and_broken_peers_hold_nobody_up() {
    let fleet = Fleet::start(&[]);
    let address = fleet.url().strip_prefix("https://").unwrap().to_owned();
    let mut silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for (n, stream) in silent.iter_mut().enumerate() {
        // Some say nothing, some begin a handshake, some speak plain HTTP.
        match n % 3 {
            0 => {}
            1 => stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).unwrap(),
            _ => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap(),
        }
    }
    assert_eq!(fleet.cli(&["device", "list"]).ok(), "");
    // One source has its limit; who waits beyond it is turned away, not served late.
    drop(silent);
    fleet.cli(&["device", "list"]).ok();
}

/// A request whose body does not come, from an address of its own.
async fn slow_body(fleet: &Fleet) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    use tokio::io::AsyncWriteExt as _;
    let domain = common::domain();
    let only = edgewarden_transport::tls::only(edgewarden_transport::tls::fleet_id(&domain));
    let tls = edgewarden_transport::tls::pinned_client_config(&fleet.root().as_slice().into(), &domain, only)
        .unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let address = fleet.url().strip_prefix("https://").unwrap().parse().unwrap();
    let stream = socket.connect(address).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let mut stream =
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls)).connect(name, stream).await.unwrap();
    let header = "POST /v1/enrol/finish HTTP/1.1\r\nHost: fleet\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(header.as_bytes()).await.unwrap();
    stream
}

/// Text that the server has sent within `wait`: its word that it reads the body, an answer, or nothing.
async fn heard(
    stream: &mut tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    wait: Duration,
) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = [0; 1024];
    let read = tokio::time::timeout(wait, stream.read(&mut bytes)).await;
    String::from_utf8_lossy(&bytes[..read.map_or(0, Result::unwrap)]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_of_one_source_hold_no_other_up() {
    let fleet = Fleet::start(&[]);
    let token = fleet.token("gw-1");
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = slow_body(&fleet).await;
        let said = heard(&mut stream, common::DEADLINE).await;
        assert!(said.starts_with("HTTP/1.1 100"), "{said}");
        slow.push(stream);
    }
    // As many as there are places for all. They wait for those of their own source.
    let mut waiting = Vec::new();
    for _ in 0..40 {
        waiting.push(slow_body(&fleet).await);
    }
    assert_eq!(heard(&mut waiting[0], Duration::from_millis(200)).await, "");
    common::Device::new("gw-1").enrol(&fleet, Some(&token)).await.unwrap();
    // Who is slow is cut off in the end, and then it is the next one's turn.
    for stream in &mut slow {
        let said = heard(stream, common::DEADLINE).await;
        assert!(said.contains("did not arrive in time"), "{said}");
    }
    assert!(heard(&mut waiting[0], common::DEADLINE).await.starts_with("HTTP/1.1 100"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_gracefully_with_held_requests() {
    let mut fleet = Fleet::start(&[]);
    let gateway = fleet.gateway("gw-1").await;
    let client = gateway.client(&fleet, "runtimed");
    let held = tokio::spawn(async move {
        let sync = Sync { have: None, wait_seconds: 60, report: common::report(), secrets: None };
        common::post::<_, serde_json::Value>(&client, "/v1/gateway/sync", &sync).await
    });
    while fleet.json(&["device", "list"])[0]["seen"].is_null() {
        assert!(!held.is_finished(), "the request was not held");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fleet.stop();
    // The held request was answered, with nothing to do.
    assert_eq!(held.await.unwrap().unwrap(), serde_json::json!({ "deployment": null }));
}
