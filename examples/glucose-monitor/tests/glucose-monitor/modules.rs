//! `analytics` and `alerts` as they run on a gateway: certificates by the Workload API, everything over mutual TLS.

use crate::common;

use std::net::TcpListener;
use std::sync::Arc;

use common::{Broker, GATEWAY, Program, Said, Socket, identity, root};
use glucose_monitor::mtls::{Fixed, client_config};
use glucose_monitor::reading::{Summary, now_us};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const ALERTS: &str = env!("CARGO_BIN_EXE_alerts");
const ANALYTICS: &str = env!("CARGO_BIN_EXE_analytics");

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn reading(minute: u32, glucose: f64) -> Vec<u8> {
    format!(
        r#"{{"patient":"adolescent-001","glucose_mg_dl":{glucose},"sampled":"2026-01-12T06:{minute:02}","published_us":{}}}"#,
        now_us()
    )
    .into_bytes()
}

#[tokio::test]
async fn a_dangerous_reading_raises_an_alarm_through_rotation_and_restart() {
    let root = root();
    let (for_alerts, for_analytics) = (Socket::new(&root, "alerts"), Socket::new(&root, "analytics"));
    let mut broker = Broker::start(&root, |_| true).await;
    let address = free_port();
    let start_alerts = || {
        let endpoint = for_alerts.endpoint();
        Program::start(ALERTS, &[("SPIFFE_ENDPOINT_SOCKET", &endpoint), ("LISTEN", &address)], &[])
    };
    let mut alerts = start_alerts();
    alerts.line("listening").await;
    let forbidden = free_port();
    let mut analytics = Program::start(
        ANALYTICS,
        &[
            ("SPIFFE_ENDPOINT_SOCKET", &for_analytics.endpoint()),
            ("EDGEWARDEN_MQTT", &broker.address),
            ("ALERTS", &address),
            ("TRY_FORBIDDEN", &forbidden),
            ("SUMMARY_EVERY", "4"),
        ],
        &[],
    );
    let tried = analytics.line("forbidden connection").await;
    assert!(tried.contains("failed") || tried.contains("blocked"), "{tried}");
    assert_eq!(broker.next().await, Said::Connect("analytics".into()));
    assert_eq!(broker.next().await, Said::Subscribe("leaf/+/glucose".into()));
    analytics.line("connected to spiffe://clinic.example/gateway/gw-1/module/alerts").await;

    broker.deliver("leaf/sensor-1/glucose", &reading(0, 100.0));
    broker.deliver("leaf/sensor-1/glucose", b"not a reading");
    broker.deliver("leaf/sensor-1/glucose", &reading(3, 50.5));
    let alarm = alerts.line("ALARM").await;
    assert!(alarm.contains("patient=adolescent-001 glucose=50.5 level=dangerous-low"), "{alarm}");
    assert!(alarm.contains("latency_ms="), "{alarm}");

    // New certificates for both: open connections stay, and the next alarm goes through.
    for_alerts.rotate(&root);
    for_analytics.rotate(&root);
    let rotated = analytics.line("svid rotated").await;
    assert!(rotated.ends_with("connections broken: 0"), "{rotated}");
    broker.deliver("leaf/sensor-1/glucose", &reading(6, 300.0));
    assert!(alerts.line("ALARM").await.contains("level=dangerous-high"));

    while broker.next_acknowledged().await < 4 {}
    // While `alerts` is gone an alarm waits for it.
    drop(alerts);
    broker.deliver("leaf/sensor-1/glucose", &reading(9, 40.0));
    let Said::Publish(topic, summary) = broker.next().await else { panic!("no summary") };
    let summary: Summary = serde_json::from_slice(&summary).unwrap();
    assert_eq!((topic.as_str(), summary.count, summary.min), ("clinic/summary", 4, 40.0));
    let mut alerts = start_alerts();
    assert!(alerts.line("ALARM").await.contains("glucose=40"));
}

/// A reading that `analytics` has not finished when it dies is not acknowledged, and comes again; one that comes again
/// is assessed once.
#[tokio::test]
async fn a_reading_is_acknowledged_when_its_alarm_is_taken() {
    let root = root();
    let (for_alerts, for_analytics) = (Socket::new(&root, "alerts"), Socket::new(&root, "analytics"));
    let mut broker = Broker::start(&root, |_| true).await;
    let address = free_port();
    let mqtt = broker.address.clone();
    let start_analytics = || {
        let variables = [
            ("SPIFFE_ENDPOINT_SOCKET", &*for_analytics.endpoint()),
            ("EDGEWARDEN_MQTT", &mqtt),
            ("ALERTS", &address),
            ("SUMMARY_EVERY", "100"),
        ];
        Program::start(ANALYTICS, &variables, &[])
    };
    let mut analytics = start_analytics();
    analytics.line("connected to the broker").await;
    let dangerous = reading(0, 40.0);
    for message in [&dangerous[..], b"not a reading", &reading(3, 100.0), &dangerous] {
        broker.deliver("leaf/sensor-1/glucose", message);
    }
    // Neither the first nor its repetition: nobody has taken the alarm.
    assert_eq!([broker.next_acknowledged().await, broker.next_acknowledged().await], [2, 3]);
    drop(analytics);
    assert!(broker.acknowledged.try_recv().is_err());
    let mut analytics = start_analytics();
    analytics.line("connected to the broker").await;
    broker.deliver("leaf/sensor-1/glucose", &dangerous);
    broker.deliver("leaf/sensor-1/glucose", &dangerous);
    let endpoint = for_alerts.endpoint();
    let mut alerts =
        Program::start(ALERTS, &[("SPIFFE_ENDPOINT_SOCKET", &endpoint), ("LISTEN", &address)], &[]);
    assert!(alerts.line("ALARM").await.contains("glucose=40"));
    assert_eq!([broker.next_acknowledged().await, broker.next_acknowledged().await], [1, 2]);
    broker.deliver("leaf/sensor-1/glucose", &dangerous);
    broker.deliver("leaf/sensor-1/glucose", &reading(6, 300.0));
    // The repetition raises no alarm of its own: the next line is the other reading's.
    assert!(alerts.line("ALARM").await.contains("glucose=300"));
    drop(analytics);
}

/// `alerts` speaks with `analytics` of its own gateway, and with nobody else.
#[tokio::test]
async fn alerts_lets_in_nobody_else() {
    let (root, stranger) = (root(), root());
    let socket = Socket::new(&root, "alerts");
    let address = free_port();
    let mut alerts =
        Program::start(ALERTS, &[("SPIFFE_ENDPOINT_SOCKET", &socket.endpoint()), ("LISTEN", &address)], &[]);
    alerts.line("listening").await;
    let analytics = format!("{GATEWAY}/module/analytics");
    let without = Fixed { own: None, root: root.der.clone().into() };
    let mut foreign = identity(&root, &analytics);
    Arc::get_mut(&mut foreign).unwrap().own.clone_from(&identity(&stranger, &analytics).own);
    for (what, identity, expected) in [
        ("analytics", identity(&root, &analytics), true),
        ("another module", identity(&root, &format!("{GATEWAY}/module/intruder")), false),
        ("itself", identity(&root, &format!("{GATEWAY}/module/alerts")), false),
        (
            "another gateway's",
            identity(&root, "spiffe://clinic.example/gateway/gw-2/module/analytics"),
            false,
        ),
        (
            "another trust domain's",
            identity(&root, "spiffe://other.example/gateway/gw-1/module/analytics"),
            false,
        ),
        ("a leaf", identity(&root, &format!("{GATEWAY}/leaf/analytics")), false),
        ("another root's", foreign, false),
        ("nobody", Arc::new(without), false),
    ] {
        let config = client_config(identity, Box::new(|_| true)).unwrap();
        let stream = TcpStream::connect(&address).await.unwrap();
        let name = ServerName::from(stream.peer_addr().unwrap().ip());
        let alarm =
            r#"{"patient":"p","glucose_mg_dl":1,"level":"l","trend":"t","sampled":"s","published_us":1}"#;
        let spoken = async {
            // With TLS 1.3 the client learns at its first read that the server refused it.
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            stream.write_all(format!("{alarm}\n").as_bytes()).await?;
            let mut answer = [0; 3];
            stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer == *b"ok\n")
        };
        assert_eq!(spoken.await.unwrap_or(false), expected, "{what}");
    }
}
