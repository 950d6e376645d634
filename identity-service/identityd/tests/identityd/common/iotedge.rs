//! A site whose modules have the IoT Edge API, and calls to it from inside a container.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use edgewarden_image_trust::sign::SigningKey;
use edgewarden_protocol::control::{Reply, Request};
use serde_json::{Value, json};

use super::Gateway;
use super::container::{Container, Job};
use super::image::{Image, document_with};

pub const VERSION: &str = "api-version=2022-08-03";

pub struct Site {
    pub gateway: Gateway,
    key: SigningKey,
    images: Vec<(&'static str, Image)>,
    version: u64,
}

/// One start of a module.
pub struct Running {
    pub container: Container,
    pub instance: String,
    pub module: String,
    pub generation: String,
    pub socket: PathBuf,
}

impl Site {
    /// A joined gateway with `alerts`, which may also be called `hub.plant.example` and must not be called
    /// as the gateway is, and `analytics`; and with `plain`,
    /// which has no such API.
    pub async fn new() -> Self {
        Self::of(Gateway::started().await).await
    }

    /// The same, of a gateway that serves already.
    pub async fn of(gateway: Gateway) -> Self {
        gateway.join().await;
        let key = SigningKey::generate().unwrap();
        let images = ["alerts", "analytics", "plain"].map(|name| (name, Image::new(name, name).signed(&key)));
        let mut site = Self { gateway, key, images: images.into(), version: 0 };
        site.deploy(|modules| {
            modules[0]["iotedge"] = json!(true);
            modules[0]["server_names"] = json!(["hub.plant.example", "gw-1.plant.example"]);
            modules[1]["iotedge"] = json!(true);
        })
        .await;
        site
    }

    pub async fn deploy(&mut self, change: impl FnOnce(&mut Value)) {
        self.version += 1;
        let modules: Vec<_> = self.images.iter().map(|(name, image)| (*name, image)).collect();
        let mut document = document_with(self.version, &self.key, &modules);
        change(&mut document["modules"]);
        self.gateway.deploy(&document).await;
    }

    pub async fn start(&self, module: &str) -> Running {
        let image = &self.images.iter().find(|(name, _)| *name == module).unwrap().1;
        let judge = Request::ImageJudge(Box::new(image.evidence(module)));
        let Reply::Permit(permit) = self.gateway.ask(judge).await.unwrap() else { panic!() };
        self.gateway.ask(Request::StartPrepare { permit: permit.permit }).await.unwrap();
        let container = Container::new();
        let address = Ipv4Addr::new(10, 77, 0, u8::try_from(permit.generation.0 + 1).unwrap());
        let instance = permit.instance.clone();
        let started = Request::Started { instance: instance.clone(), pid: container.pid(), address };
        self.gateway.ask(started).await.unwrap();
        let socket = self.gateway.layout().iotedge_socket(&instance);
        let generation = permit.generation.to_string();
        Running { container, instance, module: module.into(), generation, socket }
    }

    /// Audit entries of one kind: subject and detail.
    pub async fn audited(&self, kind: &str) -> Vec<(String, String)> {
        let Reply::Audit(entries) = self.gateway.ask(Request::Audit { last: 1000 }).await.unwrap() else {
            panic!()
        };
        let of_kind = entries.into_iter().filter(|entry| entry.event == kind);
        of_kind.map(|entry| (entry.subject, entry.detail)).collect()
    }
}

/// Status and JSON of an answer.
pub fn parse(text: &str) -> (u16, Value) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}")))
}

pub fn get(path: &str) -> String {
    format!("GET {path}?{VERSION} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

pub fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path}?{VERSION} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

impl Running {
    pub fn job(&self, request: String) -> Job {
        Job::Exchange { socket: self.socket.clone(), request }
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        parse(&self.container.call(&self.job(get(path))).text())
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        parse(&self.container.call(&self.job(post(path, body))).text())
    }

    /// Beneath the module and generation of this very start.
    pub fn own(&self, what: &str, body: &Value) -> (u16, Value) {
        self.post(&format!("/modules/{}/genid/{}/{what}", self.module, self.generation), body)
    }

    pub fn sign(&self, key: &str, data: &str) -> (u16, Value) {
        self.own("sign", &json!({"keyId": key, "algo": "HMACSHA256", "data": data}))
    }

    pub fn encrypt(&self, plaintext: &str, iv: &str) -> String {
        let (status, answer) =
            self.own("encrypt", &json!({"plaintext": plaintext, "initializationVector": iv}));
        assert_eq!(status, 200, "{answer}");
        answer["ciphertext"].as_str().unwrap().to_owned()
    }

    pub fn decrypt(&self, ciphertext: &str, iv: &str) -> (u16, Value) {
        self.own("decrypt", &json!({"ciphertext": ciphertext, "initializationVector": iv}))
    }
}
