//! A fleet that takes messages: TLS with the fleet's own certificate, HTTP, each sequence number of an epoch kept once, and
//! another message under it told.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use edgewarden_ca::RootCa;
use edgewarden_names::UnixTime;
use edgewarden_protocol::uplink::{Message, Messages, MessagesReply};
use edgewarden_transport::tls::{only, server_config};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{HOUR, identity, module};

pub struct Fleet {
    stored: Arc<Mutex<Vec<Message>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fleet {
    pub async fn start(root: &RootCa, port: u16) -> Self {
        let svid = root
            .server_certificate(&["localhost".into()], &[Ipv4Addr::LOCALHOST.into()], HOUR, UnixTime::now())
            .unwrap();
        let config = server_config(&identity(svid, root), only(module("gatewayd"))).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
        let stored = Arc::new(Mutex::new(Vec::new()));
        let store = Arc::clone(&stored);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, store) = (acceptor.clone(), Arc::clone(&store));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service =
                        hyper::service::service_fn(move |request| take(request, Arc::clone(&store)));
                    let server = hyper::server::conn::http1::Builder::new();
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { stored, task }
    }

    /// Has stored this already, as far as anybody can tell.
    pub fn knows(&self, message: Message) {
        self.stored.lock().unwrap().push(message);
    }

    pub async fn has(&self, count: usize) -> Vec<Message> {
        for _ in 0..3000 {
            let stored = self.stored.lock().unwrap().clone();
            if stored.len() >= count {
                return stored;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{} of {count} messages have come", self.stored.lock().unwrap().len());
    }
}

async fn take(
    request: Request<Incoming>,
    store: Arc<Mutex<Vec<Message>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), "/v1/gateway/messages");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let Messages { messages } = serde_json::from_slice(&body).unwrap();
    let mut reply = MessagesReply { stored: messages.last().unwrap().sequence, conflict: None };
    let mut stored = store.lock().unwrap();
    for message in messages {
        let known =
            stored.iter().find(|m| (&m.queue, m.sequence) == (&message.queue, message.sequence)).cloned();
        match known {
            None => stored.push(message),
            Some(known) if known == message => {}
            Some(_) => {
                reply = MessagesReply { stored: message.sequence - 1, conflict: Some(message.sequence) };
                break;
            }
        }
    }
    let reply = serde_json::to_vec(&reply).unwrap();
    Ok(Response::new(Full::new(Bytes::from(reply))))
}
