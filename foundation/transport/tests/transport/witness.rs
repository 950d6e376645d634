//! The fleet's time, for who does not know what time it is.

use crate::common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{
    Authority, FLEET, MODULE, Template, domain, fleet_root, identity_of, issuing_ca, meet, server_as,
};
use edgewarden_names::UnixTime;
use edgewarden_platform::clock::boot_millis;
use edgewarden_transport::witness::{self, WitnessError};
use edgewarden_transport::{Clock, tls};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const DAY: i64 = 86_400;

/// The time that a server with this certificate is taken to say when it answers with this date.
async fn ask(root: &Authority, config: ServerConfig, date: Option<i64>) -> Result<i64, WitnessError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let date = date.map(|seconds| {
        let now = SystemTime::now();
        let moment = Duration::from_secs(seconds.unsigned_abs());
        let moment = if seconds < 0 { now - moment } else { now + moment };
        format!("date: {}\r\n", httpdate::fmt_http_date(moment))
    });
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = acceptor.accept(stream).await?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        let date = date.unwrap_or_default();
        let answer = format!("HTTP/1.1 404 Not Found\r\n{date}content-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await
    });
    let said = witness::ask(&format!("https://{address}"), &root.root.as_slice().into(), &domain()).await;
    server.abort();
    said
}

/// A certificate of the fleet that lives from `from` for a week.
fn fleet(from: i64) -> Template {
    Template { from, to: from + 7 * DAY, ..Template::leaf(FLEET) }
}

#[tokio::test]
async fn the_fleet_says_what_time_it_is_to_a_machine_that_is_wrong_by_years() {
    let root = fleet_root();
    // Seen from the fleet's time, our clock is wrong by as much the other way.
    for ago in [0, 30 * DAY, 3000 * DAY, -30 * DAY, -3000 * DAY] {
        let server = server_as(&root.issue(&fleet(-ago - DAY)));
        let offset = ask(&root, server, Some(-ago)).await.unwrap();
        let said = (boot_millis() + offset) / 1000;
        let expected = i64::try_from(UnixTime::now().0).unwrap() - ago;
        assert!((said - expected).abs() < 30, "{ago}: {said} {expected}");
    }
}

#[tokio::test]
async fn nobody_else_says_it_and_no_certificate_vouches_for_a_time_beyond_its_life() {
    let root = fleet_root();
    for (name, template, date) in [
        ("no date", fleet(-DAY), None),
        ("before the certificate", fleet(-DAY), Some(-2 * DAY)),
        ("after the certificate", fleet(-DAY), Some(8 * DAY)),
        ("a module", Template { from: -DAY, to: DAY, ..Template::leaf(MODULE) }, Some(0)),
    ] {
        let refused = ask(&root, server_as(&root.issue(&template)), date).await;
        assert!(refused.is_err(), "{name}: {refused:?}");
    }
    let stranger = fleet_root();
    assert!(ask(&root, server_as(&stranger.issue(&fleet(-DAY))), Some(0)).await.is_err());
    // A gateway's CA beneath the root is no fleet.
    let gateway = issuing_ca(&root, "gw-1").issue(&fleet(-DAY));
    assert!(ask(&root, server_as(&gateway), Some(0)).await.is_err());
}

#[tokio::test]
async fn a_clock_that_is_told_judges_in_every_configuration_made_of_an_identity() {
    let root = fleet_root();
    let then = UnixTime::now().plus(Duration::from_secs(30 * 86_400));
    let clock = Clock::new();
    let beneath = Template { from: 29 * DAY, to: 31 * DAY, ..Template::ca("gw-1", 1) };
    let issuing = Template { from: 29 * DAY, to: 31 * DAY, ..Template::ca("issuing", 0) };
    let leaf = Template { from: 29 * DAY, to: 31 * DAY, ..Template::leaf(MODULE) };
    let member =
        identity_of(&root.beneath(&beneath).beneath(&issuing).issue(&leaf), MODULE).with_clock(clock.clone());
    let configs = || {
        let server = tls::server_config(&member, tls::anyone()).unwrap();
        (server, tls::client_config(&member, tls::anyone()).unwrap())
    };
    let before = configs();
    let met = meet(before.0.clone(), before.1.clone()).await;
    assert!(met.by_client.is_err() && met.by_server.is_err(), "it begins in a month");
    let now = i64::try_from(then.0).unwrap() * 1000;
    clock.tell(now - boot_millis());
    let met = meet(before.0, before.1).await;
    assert_eq!(met.by_client.unwrap().unwrap().as_str(), MODULE);
    assert_eq!(met.by_server.unwrap().unwrap().as_str(), MODULE);
}
