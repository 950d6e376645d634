//! Modules that run on a gateway, and calls of resident keys from inside of them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use edgewarden_ca::spki;
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_names::{KeyName, Reason, Refusal};
use edgewarden_protocol::control::{Reply, Request, ResidentKey};
use edgewarden_workload_client::keys::{CallError, Client};
use edgewarden_workload_wire::keys::{Certified, Operation, Operations, Purpose, Wanted};
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::Gateway;
use super::container::{Container, Relay};
use super::image::{Image, document_with};

static RELAYS: AtomicU64 = AtomicU64::new(0);

pub fn name(text: &str) -> KeyName {
    KeyName::parse(text).unwrap()
}

pub fn only(operations: &[Operation]) -> Wanted {
    Wanted { operations: Operations::of(operations), ..Wanted::default() }
}

pub fn refused<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> String {
    let error = outcome.unwrap_err();
    error.reason().unwrap_or_else(|| panic!("{error:?}")).to_owned()
}

/// A joined gateway with modules that run.
pub struct Site {
    pub gateway: Gateway,
    signer: SigningKey,
    version: u64,
}

/// An instance, and the way to call from inside of it.
pub struct Instance {
    pub name: String,
    pub socket: PathBuf,
    container: Container,
    pub relay: Option<Relay>,
}

impl Instance {
    pub async fn client(&mut self) -> Client {
        self.end_relay();
        let number = RELAYS.fetch_add(1, Ordering::Relaxed);
        let at = std::env::temp_dir().join(format!("ew-relay-{}-{number}", std::process::id()));
        let relay = self.container.relay(&self.socket, &at);
        let client = Client::connect(&relay.socket).await.unwrap();
        self.relay = Some(relay);
        client
    }

    fn end_relay(&mut self) {
        if let Some(relay) = self.relay.take() {
            drop(std::fs::remove_file(&relay.socket));
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.end_relay();
    }
}

impl Site {
    pub async fn new() -> Self {
        Self::of(Gateway::started().await).await
    }

    pub async fn of(gateway: Gateway) -> Self {
        gateway.join_by_point().await;
        Self { gateway, signer: SigningKey::generate().unwrap(), version: 0 }
    }

    fn image(&self, module: &str) -> Image {
        Image::new(module, module).signed(&self.signer)
    }

    /// Deploys modules; `change` has the last word on the document.
    pub async fn deploy(&mut self, modules: &[&str], change: impl FnOnce(&mut Value)) {
        self.version += 1;
        let images: Vec<_> = modules.iter().map(|module| (*module, self.image(module))).collect();
        let named: Vec<_> = images.iter().map(|(module, image)| (*module, image)).collect();
        let mut document = document_with(self.version, &self.signer, &named);
        change(&mut document);
        self.gateway.deploy(&document).await;
    }

    pub async fn start(&self, module: &str, last: u8) -> Instance {
        let evidence = self.image(module).evidence(module);
        let Reply::Permit(permit) = self.gateway.ask(Request::ImageJudge(Box::new(evidence))).await.unwrap()
        else {
            panic!("no permit")
        };
        let prepare = Request::StartPrepare { permit: permit.permit.clone() };
        let Reply::Prepared(prepared) = self.gateway.ask(prepare).await.unwrap() else {
            panic!("not prepared")
        };
        let container = Container::new();
        let started = Request::Started {
            instance: prepared.instance.clone(),
            pid: container.pid(),
            address: Ipv4Addr::new(10, 77, 0, last),
        };
        self.gateway.ask(started).await.unwrap();
        let socket = prepared.workload_folder.join("api.sock");
        Instance { name: prepared.instance, socket, container, relay: None }
    }

    pub async fn listed(&self) -> Vec<ResidentKey> {
        match self.gateway.ask(Request::KeysList).await.unwrap() {
            Reply::Keys(keys) => keys,
            other => panic!("{other:?}"),
        }
    }

    pub async fn fail_verdict(&self) {
        let refusal = Refusal::new(Reason::AttestReference, "gateway", "a changed boot loader");
        self.gateway.ask(Request::EnrolRefused(refusal)).await.unwrap();
    }
}

/// A gateway with one module that runs.
pub async fn one() -> (Site, Instance) {
    let mut site = Site::new().await;
    site.deploy(&["alerts"], |_| ()).await;
    let instance = site.start("alerts", 2).await;
    (site, instance)
}

/// The point of a certificate's key, and its SPIFFE ID.
pub fn subject(der: &[u8]) -> (Vec<u8>, String) {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let id = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    (spki::point(certificate.public_key().raw).unwrap(), id.unwrap())
}

pub fn verifies(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let point = spki::point(public).unwrap();
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).unwrap();
    key.verify_sig(message, signature).is_ok()
}

pub async fn sign_and_certify(client: &Client) -> Certified {
    let (key, right, public) =
        client.create_key(&name("svid"), Purpose::Sign, Wanted::default()).await.unwrap();
    assert_eq!(client.public_key(&key.name).await.unwrap(), public);
    let signature = client.sign(&key.name, &right, b"message").await.unwrap();
    assert!(verifies(&public, b"message", &signature) && !verifies(&public, b"massage", &signature));
    let certified = client.certify(&key.name, &right, b"").await.unwrap();
    let (point, id) = subject(&certified.chain_der[0]);
    assert_eq!((spki::der(&point).unwrap(), id.as_str()), (public, certified.id.as_str()));
    assert_eq!((certified.chain_der.len(), certified.bundle_der.len()), (3, 1));
    assert!(certified.attestation.is_none());
    certified
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
