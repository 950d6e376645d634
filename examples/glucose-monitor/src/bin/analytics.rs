//! The module that assesses readings: MQTT from the gateway's broker in, alarms to `alerts` and summaries out.
//!
//! Its certificate comes from the Workload API by the stock `spiffe` crate and changes while it runs. New connections
//! use the new one; open connections stay. Before the certificate that a connection was made with ends, the
//! connection is replaced.
//!
//! A reading is acknowledged to the broker when it is assessed and, if it raised an alarm, `alerts` has the alarm: what
//! this process has not finished when it dies comes again. So does now and then one that it has; it is assessed once.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use glucose_monitor::link::{Line, Link};
use glucose_monitor::monitor::Monitor;
use glucose_monitor::mtls::{Workload, client_config, neighbour, resolve};
use glucose_monitor::outbox::Outbox;
use glucose_monitor::reading::Reading;
use hyper::body::Bytes;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS, TlsConfiguration, Transport,
};
use spiffe::{SpiffeId, X509Source, X509Svid};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

const READINGS: &str = "leaf/+/glucose";
const SUMMARIES: &str = "clinic/summary";
const ALERTS: &str = "alerts:9443";
const SUMMARY_EVERY: u32 = 60;
/// More than the broker has under way to us at once, so that an acknowledgement rarely waits.
const REQUESTS_MAX: usize = 128;
const ALARMS_WAITING_MAX: usize = 256;
const RETRY: Duration = Duration::from_millis(500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let source = X509Source::new().await?;
    let own = source.svid()?.spiffe_id().clone();
    println!("I am {own}, certificate {}", serial(&*source.svid()?));
    if let Ok(target) = std::env::var("TRY_FORBIDDEN") {
        try_forbidden(&target).await;
    }

    let broken = Arc::new(AtomicU64::new(0));
    let updates = source.updated();
    let certificates = Arc::new(Workload(source));
    tokio::spawn(follow(Arc::clone(&certificates), updates, Arc::clone(&broken)));

    let (alarms, lines) = mpsc::channel(ALARMS_WAITING_MAX);
    let (done, alarmed) = mpsc::unbounded_channel();
    let alerts = neighbour(&own, "alerts").ok_or("our own ID is not a module's")?;
    let link = Link {
        certificates: Arc::clone(&certificates),
        connector: TlsConnector::from(Arc::new(client_config(certificates.clone(), only(alerts.clone()))?)),
        address: std::env::var("ALERTS").unwrap_or_else(|_| ALERTS.into()),
        peer: alerts,
        broken: Arc::clone(&broken),
        done,
    };
    tokio::spawn(link.run(lines));

    let gatewayd = neighbour(&own, "gatewayd").ok_or("our own ID is not a module's")?;
    let mqtt = std::env::var("EDGEWARDEN_MQTT").unwrap_or_else(|_| "gateway:8885".into());
    let mut options = mqtt_options(&own, &mqtt)?;
    let tls = client_config(certificates.clone(), only(gatewayd))?;
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
    let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
    let summary_every = match std::env::var("SUMMARY_EVERY") {
        Ok(text) => text.parse()?,
        Err(_) => SUMMARY_EVERY,
    };
    let analytics = Analytics {
        monitor: Monitor::new(summary_every),
        outbox: Outbox::new(client.clone(), SUMMARIES),
        client,
        alarms,
        alarmed,
        next: 0,
        waiting: BTreeMap::new(),
        finished: VecDeque::new(),
        broken,
        certificates,
    };
    analytics.run(events).await
}

fn only(id: SpiffeId) -> Box<dyn Fn(&SpiffeId) -> bool + Send + Sync> {
    Box::new(move |peer| *peer == id)
}

fn mqtt_options(own: &SpiffeId, broker: &str) -> Result<MqttOptions, Box<dyn Error>> {
    let address = resolve(broker)?;
    // The broker wants the last part of the ID as client identifier.
    let (_, name) = own.path().rsplit_once('/').ok_or("our own ID has no path")?;
    let mut options = MqttOptions::new(name, address.ip().to_string(), address.port());
    options.set_keep_alive(Duration::from_secs(20)).set_clean_session(false).set_inflight(1);
    // Not before a reading is finished.
    options.set_manual_acks(true);
    Ok(options)
}

struct Analytics {
    monitor: Monitor,
    outbox: Outbox,
    client: AsyncClient,
    alarms: mpsc::Sender<Line>,
    alarmed: mpsc::UnboundedReceiver<u64>,
    /// Numbers the readings that raise alarms.
    next: u64,
    /// Readings whose alarms `alerts` has not acknowledged, by what was received; and how to acknowledge them on this
    /// connection. Bounded by the broker's window and by [`ALARMS_WAITING_MAX`].
    waiting: BTreeMap<u64, (Bytes, Vec<Publish>)>,
    /// Readings to acknowledge.
    finished: VecDeque<Publish>,
    broken: Arc<AtomicU64>,
    certificates: Arc<Workload>,
}

impl Analytics {
    async fn run(mut self, mut events: EventLoop) -> Result<(), Box<dyn Error>> {
        let mut replace_at = far_away();
        let mut replacing = false;
        let mut connected = false;
        loop {
            let event = tokio::select! {
                event = events.poll() => event,
                reading = self.alarmed.recv() => {
                    let Some((_, received)) = reading.and_then(|reading| self.waiting.remove(&reading)) else {
                        continue;
                    };
                    self.finished.extend(received);
                    self.acknowledge();
                    continue;
                }
                () = sleep_until(replace_at) => {
                    // The certificate of this connection ends soon. The next connection uses the current one.
                    replace_at = far_away();
                    replacing = self.client.try_disconnect().is_ok();
                    continue;
                }
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                    println!("connected to the broker");
                    (connected, replacing) = (true, false);
                    replace_at = Instant::now() + self.certificates.use_for();
                    self.client.try_subscribe(READINGS, QoS::AtLeastOnce)?;
                    self.outbox.connected(ack.session_present);
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => self.receive(publish),
                Ok(Event::Incoming(Packet::PubAck(_))) => self.outbox.acknowledged(),
                Ok(_) => self.acknowledge(),
                Err(error) => {
                    // What was not acknowledged comes again, perhaps under another number.
                    self.finished.clear();
                    self.waiting.values_mut().for_each(|(_, received)| received.clear());
                    if connected && !replacing {
                        self.broken.fetch_add(1, Ordering::Relaxed);
                    }
                    if !replacing {
                        eprintln!("the broker: {error}");
                        sleep(RETRY).await;
                    }
                    (connected, replace_at) = (false, far_away());
                    self.outbox.disconnected();
                }
            }
        }
    }

    fn receive(&mut self, publish: Publish) {
        let reading = match Reading::parse(&publish.payload) {
            Ok(reading) => reading,
            Err(error) => {
                eprintln!("{}: {error}", publish.topic.escape_debug());
                return self.finish(publish);
            }
        };
        let assessment = self.monitor.assess(&reading);
        if assessment.repeated {
            let waits = self.waiting.values_mut().find(|(payload, _)| *payload == publish.payload);
            return match waits {
                Some((_, received)) => received.push(publish),
                None => self.finish(publish),
            };
        }
        let alarm = assessment.alarm.and_then(|alarm| serde_json::to_string(&alarm).ok());
        match alarm {
            Some(text) => self.raise(text, publish),
            None => self.finish(publish),
        }
        if let Some(summary) = assessment.summary
            && let Ok(message) = serde_json::to_vec(&summary)
        {
            println!(
                "summary of {}: {} readings, {} to {} mg/dL",
                summary.patient, summary.count, summary.min, summary.max
            );
            if !self.outbox.push(message) {
                eprintln!("too many summaries wait: one was dropped");
            }
        }
    }
}

impl Analytics {
    fn raise(&mut self, text: String, publish: Publish) {
        self.next += 1;
        if self.alarms.try_send(Line { text, reading: self.next }).is_ok() {
            self.waiting.insert(self.next, (publish.payload.clone(), vec![publish]));
        } else {
            eprintln!("alarms are not taken: one was dropped");
        }
    }

    fn finish(&mut self, publish: Publish) {
        self.finished.push_back(publish);
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        while let Some(publish) = self.finished.front() {
            // The library takes so many requests between two looks at the connection; the rest follows then.
            if self.client.try_ack(publish).is_err() {
                return;
            }
            self.finished.pop_front();
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(365 * 86400)
}

/// Prints a line at each rotation, with the number of connections that it broke.
async fn follow(
    certificates: Arc<Workload>,
    mut updates: spiffe::x509_source::X509SourceUpdates,
    broken: Arc<AtomicU64>,
) {
    let mut last = certificates.0.svid().map(|svid| serial(&svid)).unwrap_or_default();
    while updates.changed().await.is_ok() {
        let Ok(svid) = certificates.0.svid() else { continue };
        let current = serial(&svid);
        // The roots may have changed alone.
        if current == last {
            continue;
        }
        let before = broken.load(Ordering::Relaxed);
        // What breaks by a rotation breaks at once.
        sleep(Duration::from_secs(1)).await;
        let during = broken.load(Ordering::Relaxed).saturating_sub(before);
        println!("svid rotated: serial {current} (was {last}), connections broken: {during}");
        last = current;
    }
}

fn serial(svid: &X509Svid) -> String {
    x509_parser::parse_x509_certificate(svid.leaf().as_bytes())
        .map_or_else(|_| "?".into(), |(_, certificate)| certificate.raw_serial_as_string().replace(':', ""))
}

/// Shows that a connection which no rule of the policy names does not come about.
async fn try_forbidden(target: &str) {
    let outcome = match resolve(target) {
        Err(error) => error,
        Ok(address) => match timeout(Duration::from_secs(2), tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(_)) => "OPEN: the policy does not hold".into(),
            Ok(Err(error)) => format!("failed: {error}"),
            Err(_) => "blocked: no answer came".into(),
        },
    };
    println!("forbidden connection to {target}: {outcome}");
}
