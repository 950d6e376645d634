//! Our bundle's endpoint as other trust domains see it: who it proves to be, what is in it, and what cannot get there.

use crate::common;

use std::net::TcpListener;
use std::time::Duration;

use common::{Fleet, Gateway, Key, domain, post};
use edgewarden_ca::CaSigner as _;
use edgewarden_names::{Reason, SpiffeId, TrustDomain, UnixTime, pem};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::dsse::{Envelope, Signature, pre_authentication_encoding};
use edgewarden_protocol::jwt_keys::{PAYLOAD_TYPE, PublishedKey, Statement};
use edgewarden_protocol::uplink::JwtKeysUpload;
use edgewarden_svid::bundle::{BUNDLE_BYTES_MAX, TrustBundle};
use edgewarden_transport::foreign::{spiffe_client_config, web_client_config};
use edgewarden_transport::http::{Client, HttpError};
use edgewarden_transport::tls;

const DEADLINE: Duration = Duration::from_secs(20);

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn fleet(address: &str, more: &[&str]) -> Fleet {
    Fleet::start(&[&["--bundle-listen", address], more].concat())
}

async fn get(address: &str, tls: rustls::ClientConfig) -> Result<TrustBundle, HttpError> {
    let http = Client::new(&format!("https://{address}"), tls)?;
    let (status, body) = http.get("/", BUNDLE_BYTES_MAX, DEADLINE).await?;
    assert_eq!(status, 200);
    Ok(TrustBundle::parse(&body, &domain()).unwrap())
}

async fn bundle(fleet: &Fleet, address: &str) -> TrustBundle {
    get(address, spiffe_client_config(tls::fleet_id(&domain()), &[fleet.root()]).unwrap()).await.unwrap()
}

fn statement(gateway: &Gateway, sequence: u64, keys: &[(&Key, UnixTime)]) -> Statement {
    let key = |(key, not_after): &(&Key, UnixTime)| PublishedKey {
        kid: edgewarden_svid::jwt::thumbprint(&key.point()).unwrap(),
        point: key.point().into(),
        not_after: *not_after,
    };
    let keys = keys.iter().map(key).collect();
    let gateway = gateway.device.name.clone();
    Statement { gateway, trust_domain: domain(), sequence, at: UnixTime::now(), keys }
}

fn sign(key: &Key, statement: &Statement) -> Bytes {
    let payload = serde_json::to_vec(statement).unwrap();
    let sig = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, &payload)).unwrap().into();
    let signatures = vec![Signature { keyid: String::new(), sig }];
    let envelope = Envelope { payload_type: PAYLOAD_TYPE.into(), payload: payload.into(), signatures };
    serde_json::to_vec(&envelope).unwrap().into()
}

async fn upload(fleet: &Fleet, gateway: &Gateway, envelope: Bytes) -> Result<(), Reason> {
    post(&gateway.client(fleet, "runtimed"), "/v1/gateway/jwt-keys", &JwtKeysUpload { envelope }).await
}

/// Waits until the endpoint gives so many JWT keys.
async fn with_keys(fleet: &Fleet, address: &str, count: usize) -> TrustBundle {
    for _ in 0..300 {
        let bundle = bundle(fleet, address).await;
        if bundle.jwt.keys.len() == count {
            return bundle;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never {count} keys:\n{}", fleet.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_has_the_root_and_the_keys_that_gateways_vouch_for() {
    let address = free_address();
    let mut fleet = fleet(&address, &[]);
    let first = bundle(&fleet, &address).await;
    assert_eq!((first.x509.clone(), first.jwt.keys.len()), (vec![fleet.root()], 0));
    assert_eq!(first.jwt.refresh_hint_seconds, Some(300));

    let (gateway, other) = (fleet.gateway("gw-1").await, fleet.gateway("gw-2").await);
    let (key, later) = (Key::generate(), UnixTime::now().plus(Duration::from_secs(3600)));
    let good = statement(&gateway, 5, &[(&key, later), (&Key::generate(), UnixTime(1))]);
    for (name, envelope, sender) in [
        ("another gateway's key", sign(&other.device.ca, &good), &gateway),
        ("another gateway's statement", sign(&gateway.device.ca, &good), &other),
        ("a stranger's key", sign(&Key::generate(), &good), &gateway),
        ("no statement", b"{}".to_vec().into(), &gateway),
    ] {
        assert_eq!(upload(&fleet, sender, envelope).await, Err(Reason::RequestInvalid), "{name}");
    }
    let wrong_module = gateway.client(&fleet, "gatewayd");
    let asked = JwtKeysUpload { envelope: sign(&gateway.device.ca, &good) };
    let refused: Result<(), _> = post(&wrong_module, "/v1/gateway/jwt-keys", &asked).await;
    assert_eq!(refused, Err(Reason::PeerUnauthorized));
    let refused: Result<(), _> = post(&fleet.stranger(), "/v1/gateway/jwt-keys", &asked).await;
    assert_eq!(refused, Err(Reason::PeerUnauthorized));

    upload(&fleet, &gateway, asked.envelope).await.unwrap();
    upload(&fleet, &other, sign(&other.device.ca, &statement(&other, 1, &[(&Key::generate(), later)])))
        .await
        .unwrap();
    // One of the three has ended.
    let second = with_keys(&fleet, &address, 2).await;
    assert!(second.jwt.sequence > first.jwt.sequence);
    assert!(second.jwt.keys.iter().any(|known| known.kid == good.keys[0].kid));

    // An older statement takes nothing back; the server's end loses nothing.
    upload(&fleet, &gateway, sign(&gateway.device.ca, &statement(&gateway, 4, &[]))).await.unwrap();
    fleet.kill();
    fleet.run();
    assert_eq!(bundle(&fleet, &address).await, second);
    let file = std::fs::read(fleet.data().join("bundle.json")).unwrap();
    assert_eq!(TrustBundle::parse(&file, &domain()).unwrap(), second);

    // Withdrawn, and removed.
    upload(&fleet, &gateway, sign(&gateway.device.ca, &statement(&gateway, 6, &[]))).await.unwrap();
    let third = with_keys(&fleet, &address, 1).await;
    fleet.cli(&["device", "remove", "gw-2"]).ok();
    let fourth = with_keys(&fleet, &address, 0).await;
    assert!(second.jwt.sequence < third.jwt.sequence && third.jwt.sequence < fourth.jwt.sequence);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_is_told_by_its_id_and_its_own_root() {
    let address = free_address();
    let fleet = fleet(&address, &[]);
    let untrusted = async |tls| match get(&address, tls).await {
        Err(error @ HttpError::Untrusted { .. }) => tls::refusal(&error).map(|refusal| refusal.reason),
        other => panic!("{other:?}"),
    };
    let id = |text: &str| SpiffeId::parse(text).unwrap();
    let own = tls::fleet_id(&domain()).to_string();
    for wrong in [format!("{own}/x"), format!("{own}2"), "spiffe://other.example/fleet".into()] {
        let tls = spiffe_client_config(id(&wrong), &[fleet.root()]).unwrap();
        assert_eq!(untrusted(tls).await, Some(Reason::FederationUntrusted), "{wrong}");
    }
    let stranger =
        edgewarden_ca::RootCa::create(&domain(), Duration::from_secs(3600), UnixTime::now()).unwrap();
    let tls = spiffe_client_config(id(&own), &[stranger.certificate_der()]).unwrap();
    assert_eq!(untrusted(tls).await, Some(Reason::FederationUntrusted), "another root of the same name");
    let none: [Vec<u8>; 0] = [];
    let tls = spiffe_client_config(id(&own), &none).unwrap();
    assert_eq!(untrusted(tls).await, Some(Reason::FederationUntrusted), "nothing is held");

    // The fleet's own port shows more than that, and this one nothing else.
    let http =
        Client::new(&format!("https://{address}"), spiffe_client_config(id(&own), &[fleet.root()]).unwrap())
            .unwrap();
    assert_eq!(http.get("/v1/admin/devices", BUNDLE_BYTES_MAX, DEADLINE).await.unwrap().0, 404);
    let asked: Result<(), _> = http.post_json("/", &(), 1024, DEADLINE).await;
    assert!(asked.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_is_told_by_the_named_ca_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let web = TrustDomain::parse("web.example").unwrap();
    let ca = edgewarden_ca::RootCa::create(&web, Duration::from_secs(3600), UnixTime::now()).unwrap();
    let issued = ca
        .server_certificate(&[], &["127.0.0.1".parse().unwrap()], Duration::from_secs(3600), UnixTime::now())
        .unwrap();
    std::fs::write(path("web.pem"), pem::chain(&issued.chain_der)).unwrap();
    std::fs::write(path("web.key"), pem::encode_secret(pem::PRIVATE_KEY, &issued.key_pkcs8)).unwrap();
    let address = free_address();
    let (certificate, key) = (path("web.pem"), path("web.key"));
    let more = ["--bundle-profile", "https_web", "--bundle-certificate", &certificate, "--bundle-key", &key];
    let fleet = fleet(&address, &more);
    let named = web_client_config(&[ca.certificate_der()]).unwrap();
    assert_eq!(get(&address, named.clone()).await.unwrap().x509, [fleet.root()]);
    let port = address.rsplit(':').next().unwrap();
    for (name, address, tls) in [
        ("another CA", address.clone(), web_client_config(&[fleet.root()]).unwrap()),
        ("another name", format!("localhost:{port}"), named),
    ] {
        let refused = get(&address, tls).await;
        assert!(matches!(refused, Err(HttpError::Untrusted { .. })), "{name}: {refused:?}");
    }
    // What does not go together is refused before anything is served.
    for wrong in [&more[..2], &["--bundle-certificate", &certificate][..], &more[2..]] {
        let arguments =
            [&["serve", "--listen", "127.0.0.1:0", "--bundle-listen", "127.0.0.1:0"], wrong].concat();
        assert_eq!(fleet.cli(&arguments).code(), 2, "{wrong:?}");
    }
}
