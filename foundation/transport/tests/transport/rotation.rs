//! Identities that change while they are used.

use crate::common;

use std::sync::Arc;

use common::{Authority, MODULE, Template, client_as, fleet_root, identity_of, issuing_ca, meet};
use edgewarden_names::Reason;
use edgewarden_svid::X509Context;
use edgewarden_transport::{Identity, tls};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn follow(context: Option<Arc<X509Context>>) -> (watch::Sender<Option<Arc<X509Context>>>, Identity) {
    let (sender, current) = watch::channel(context);
    (sender, Identity::new(current))
}

#[tokio::test]
async fn a_rotation_breaks_no_connection_and_needs_no_new_configuration() {
    let root = fleet_root();
    let (sender, identity) =
        follow(Some(issuing_ca(&root, "gw-1").issue(&Template::leaf(MODULE)).context(MODULE)));
    let server = tls::server_config(&identity, tls::anyone()).unwrap();
    let client = tls::client_config(&identity, tls::anyone()).unwrap();

    let (here, there) = tokio::io::duplex(64 * 1024);
    let acceptor = TlsAcceptor::from(Arc::new(server.clone()));
    let connector = TlsConnector::from(Arc::new(client.clone()));
    let name = ServerName::try_from("ignored.example").unwrap();
    let (mut held_server, mut held_client) =
        tokio::try_join!(acceptor.accept(there), connector.connect(name, here)).unwrap();

    for round in 1..4 {
        let before = identity.expires();
        let mut template = Template::leaf(MODULE);
        template.to += 600 * round;
        // A new issuing CA and gateway CA too, as after a restart and a renewal.
        let rotated = identity.rotated();
        sender.send_replace(Some(issuing_ca(&root, "gw-1").issue(&template).context(MODULE)));
        rotated.await.unwrap();
        assert!(identity.expires() > before);
        let met = meet(server.clone(), client.clone()).await;
        assert_eq!(met.by_client.unwrap().unwrap().as_str(), MODULE);
        assert_eq!(met.by_server.unwrap().unwrap().as_str(), MODULE);

        held_client.write_all(b"x").await.unwrap();
        held_client.flush().await.unwrap();
        held_server.read_exact(&mut [0]).await.unwrap();
    }
}

#[tokio::test]
async fn the_roots_rotate_too() {
    let (old, new) = (fleet_root(), fleet_root());
    let member = |root: &Authority| issuing_ca(root, "gw-1").issue(&Template::leaf(MODULE));
    let with_roots = |root: &Authority, roots: &[&Authority]| {
        let mut context = member(root).context(MODULE);
        Arc::get_mut(&mut context).unwrap().bundle_der = roots.iter().map(|root| root.root.clone()).collect();
        Some(context)
    };
    let (sender, identity) = follow(with_roots(&old, &[&old]));
    let server = tls::server_config(&identity, tls::anyone()).unwrap();
    let newcomer = identity_of(&member(&new), MODULE);
    let trusting_all =
        |identity: &Identity| client_as(&member(&new), tls::client_config(identity, tls::anyone()).unwrap());
    assert!(meet(server.clone(), trusting_all(&identity)).await.by_server.is_err());

    let change = async |context| {
        let rotated = identity.rotated();
        sender.send_replace(context);
        rotated.await.unwrap();
    };
    change(with_roots(&old, &[&old, &new])).await;
    assert!(meet(server.clone(), trusting_all(&identity)).await.by_server.is_ok());
    change(with_roots(&new, &[&new])).await;
    let met = meet(server.clone(), tls::client_config(&newcomer, tls::anyone()).unwrap()).await;
    assert!(met.by_server.is_ok() && met.by_client.is_ok());
    let left_behind = client_as(&member(&old), tls::client_config(&newcomer, tls::anyone()).unwrap());
    assert!(meet(server, left_behind).await.by_server.is_err());
}

#[tokio::test]
async fn without_a_certificate_nothing_opens() {
    let (sender, identity) = follow(None);
    assert_eq!((identity.id(), identity.expires()), (None, None));
    let server = tls::server_config(&identity, tls::anyone()).unwrap();
    let client = tls::client_config(&identity, tls::anyone()).unwrap();
    let met = meet(server.clone(), client.clone()).await;
    assert!(met.by_server.is_err() && met.by_client.is_err());

    let member = issuing_ca(&fleet_root(), "gw-1").issue(&Template::leaf(MODULE));
    let ready = identity.ready();
    sender.send_replace(Some(member.context(MODULE)));
    ready.await.unwrap();
    assert_eq!(identity.id().unwrap().as_str(), MODULE);
    assert!(meet(server.clone(), client.clone()).await.by_client.is_ok());

    // We cannot judge without roots.
    let (_none, nobody) = follow(None);
    let blind = client_as(&member, tls::client_config(&nobody, tls::anyone()).unwrap());
    let error = meet(server.clone(), blind).await.by_client.unwrap_err();
    assert_eq!(tls::refusal(&error).unwrap().reason, Reason::IdentityUnavailable);

    let ended = identity.rotated();
    sender.send_replace(None);
    ended.await.unwrap();
    let met = meet(server, client).await;
    assert!(met.by_server.is_err() && met.by_client.is_err());
}

#[tokio::test]
async fn an_expired_certificate_of_our_own_is_not_shown() {
    let root = fleet_root();
    let mut expired = Template::leaf(MODULE);
    expired.to = -1;
    let identity = identity_of(&issuing_ca(&root, "gw-1").issue(&expired), MODULE);
    let pinned =
        tls::pinned_client_config(&root.root.as_slice().into(), &common::domain(), tls::anyone()).unwrap();
    let server = tls::server_config_optional_client(&identity, tls::anyone()).unwrap();
    let met = meet(server, pinned).await;
    let error = met.by_client.unwrap_err();
    // The server broke off before the client could judge anything.
    assert!(met.by_server.is_err() && tls::refusal(&error).is_none(), "{error}");
}

/// The log's output.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_expired_certificate_is_said_once_and_not_for_each_handshake() {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _here = tracing::subscriber::set_default(log);
    let root = fleet_root();
    let mut expired = Template::leaf(MODULE);
    expired.to = -1;
    let gone = identity_of(&issuing_ca(&root, "gw-1").issue(&expired), MODULE);
    let good = identity_of(&issuing_ca(&root, "gw-1").issue(&Template::leaf(MODULE)), MODULE);
    let server = tls::server_config(&gone, tls::anyone()).unwrap();
    for _ in 0..200 {
        let client = tls::client_config(&good, tls::anyone()).unwrap();
        assert!(meet(server.clone(), client).await.by_client.is_err());
    }
    let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(said.matches("has expired").count(), 1, "{said}");
}

#[tokio::test]
async fn an_identity_that_cannot_be_used_does_not_replace_a_good_one() {
    let root = fleet_root();
    let issuing = issuing_ca(&root, "gw-1");
    let good = issuing.issue(&Template::leaf(MODULE));
    let other = issuing.issue(&Template::leaf(MODULE));
    let change = |change: &dyn Fn(&mut X509Context)| {
        let mut context = good.context(MODULE);
        change(Arc::get_mut(&mut context).unwrap());
        Some(context)
    };
    let (sender, identity) = follow(Some(good.context(MODULE)));
    for bad in [
        change(&|context| context.key_pkcs8.clone_from(&other.context(MODULE).key_pkcs8)),
        change(&|context| context.key_pkcs8.truncate(10)),
        change(&|context| context.chain_der.clear()),
        change(&|context| context.chain_der.insert(0, vec![0x30, 0])),
        change(&|context| context.bundle_der.push(vec![0x30, 0])),
        change(&|context| context.id = format!("{MODULE}-2").parse().unwrap()),
        change(&|context| context.trust_domain = "other.example".parse().unwrap()),
    ] {
        // Also for one who begins with it.
        assert!(Identity::new(watch::channel(bad.clone()).1).id().is_none());
        sender.send_replace(bad);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let server = tls::server_config(&identity, tls::anyone()).unwrap();
        let client = tls::client_config(&identity, tls::anyone()).unwrap();
        assert!(meet(server, client).await.by_client.is_ok());
    }
    // The last word stays when its source goes.
    drop(sender);
    tokio::task::yield_now().await;
    assert_eq!(identity.id().unwrap().as_str(), MODULE);
    identity.ready().await.unwrap();
}
