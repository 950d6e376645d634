//! Publishes a trace by MQTT over mutual TLS. A reading is done when the gateway has acknowledged it.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, TlsConfiguration, Transport};
use tokio::time::{Instant, sleep};

use crate::leaf::load;
use crate::mtls::{client_config, neighbour};
use crate::outbox::Outbox;
use crate::reading::{Reading, now_us};
use crate::trace::{Sample, minutes, read};

/// Connections in a row that may end while a reading waits: a gateway that refuses a reading closes the connection.
const REFUSALS_MAX: u32 = 3;
/// Longest time that the gateway may be out of reach.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(300);

/// Arguments of `sensor run`. `speed` is a multiple of real time; 0: as fast as the gateway acknowledges.
#[derive(Debug)]
pub struct Run {
    pub gateway: String,
    pub dir: PathBuf,
    pub trace: PathBuf,
    pub speed: f64,
    pub limit: Option<usize>,
    pub topic: Option<String>,
    pub every: usize,
}

/// Publishes the trace once, or `limit` readings of it, and returns when each is acknowledged.
pub async fn run(run: &Run) -> Result<(), Box<dyn Error>> {
    if !(0.0..=1e6).contains(&run.speed) {
        return Err("the speed is 0 to 1000000".into());
    }
    let samples = read(&run.trace)?;
    let patient = run.trace.file_stem().map_or("patient".into(), |stem| stem.to_string_lossy().into_owned());
    let own = load(&run.dir)?;
    let (_, name) = own.id.path().rsplit_once('/').ok_or("our own ID has no path")?;
    let name = name.to_owned();
    let topic = run.topic.clone().unwrap_or_else(|| format!("leaf/{name}/glucose"));
    let gatewayd = neighbour(&own.id, "gatewayd").ok_or("our own ID is not a leaf's")?;
    let tls = client_config(own.certificates, Box::new(move |id| *id == gatewayd))?;
    let (host, port) = run.gateway.rsplit_once(':').ok_or("the gateway is `host:port`")?;
    let mut options = MqttOptions::new(name, host.trim_matches(['[', ']']), port.parse()?);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_session(true).set_inflight(1);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
    let (client, events) = AsyncClient::new(options, 4);

    let count = run.limit.unwrap_or(samples.len());
    let mut publisher = Publisher {
        outbox: Outbox::new(client.clone(), topic.clone()),
        events,
        connected: false,
        refusals: 0,
        reached: Instant::now(),
    };
    let mut before: Option<&Sample> = None;
    for (number, sample) in (1..=count).zip(samples.iter().cycle()) {
        publisher.wait(pause(before, sample, run.speed)).await?;
        before = Some(sample);
        let reading = Reading {
            patient: patient.clone(),
            glucose_mg_dl: sample.glucose_mg_dl,
            sampled: sample.sampled.clone(),
            published_us: now_us(),
        };
        publisher.publish(serde_json::to_vec(&reading)?).await?;
        if run.every > 0 && number % run.every == 0 && number < count {
            println!("{number} of {count} readings published, now {} mg/dL", sample.glucose_mg_dl);
        }
    }
    publisher.finish(&client).await;
    println!("{count} readings of {patient} published on {topic}, each acknowledged");
    Ok(())
}

/// The time between two readings at this speed. None where the trace begins anew.
fn pause(before: Option<&Sample>, sample: &Sample, speed: f64) -> Duration {
    let between = before.and_then(|before| Some(minutes(&sample.sampled)? - minutes(&before.sampled)?));
    match between.and_then(|minutes| u32::try_from(minutes).ok()) {
        Some(minutes) if speed > 0.0 => Duration::from_secs_f64(f64::from(minutes) * 60.0 / speed),
        _ => Duration::ZERO,
    }
}

struct Publisher {
    outbox: Outbox,
    events: EventLoop,
    connected: bool,
    refusals: u32,
    /// Time at which the gateway was last known to be there.
    reached: Instant,
}

impl Publisher {
    /// Lets time pass while the connection is kept.
    async fn wait(&mut self, time: Duration) -> Result<(), Box<dyn Error>> {
        let end = sleep(time);
        tokio::pin!(end);
        while !time.is_zero() {
            tokio::select! {
                () = &mut end => break,
                stepped = self.step() => stepped?,
            }
        }
        Ok(())
    }

    async fn publish(&mut self, message: Vec<u8>) -> Result<(), Box<dyn Error>> {
        self.outbox.push(message);
        while self.outbox.waiting() > 0 {
            self.step().await?;
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<(), Box<dyn Error>> {
        match self.events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                self.connected = true;
                self.outbox.connected(ack.session_present);
            }
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                self.refusals = 0;
                self.outbox.acknowledged();
            }
            Ok(_) => {}
            Err(error) if self.connected => {
                (self.connected, self.reached) = (false, Instant::now());
                self.outbox.disconnected();
                self.refusals += u32::from(self.outbox.waiting() > 0);
                if self.refusals >= REFUSALS_MAX {
                    let why = "the gateway closes the connection instead of acknowledging what is published";
                    return Err(format!("{why}: {error}").into());
                }
                sleep(RETRY).await;
            }
            Err(error) if self.reached.elapsed() > PATIENCE => {
                return Err(format!("the gateway cannot be reached: {error}").into());
            }
            Err(_) => sleep(RETRY).await,
        }
        Ok(())
    }

    /// Says goodbye, so that the gateway need not wait for the end of the connection.
    async fn finish(mut self, client: &AsyncClient) {
        if client.try_disconnect().is_ok() {
            while self
                .events
                .poll()
                .await
                .is_ok_and(|event| !matches!(event, Event::Outgoing(rumqttc::Outgoing::Disconnect)))
            {
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_come_as_fast_as_they_should() {
        let sample = |sampled: &str| Sample { sampled: sampled.into(), glucose_mg_dl: 100.0 };
        let (one, two) = (sample("2026-01-12T06:00"), sample("2026-01-12T06:03"));
        assert_eq!(pause(Some(&one), &two, 1.0), Duration::from_secs(180));
        assert_eq!(pause(Some(&one), &two, 60.0), Duration::from_secs(3));
        assert_eq!(pause(Some(&one), &two, 0.0), Duration::ZERO);
        assert_eq!(pause(Some(&two), &one, 1.0), Duration::ZERO);
        assert_eq!(pause(None, &one, 1.0), Duration::ZERO);
    }
}
