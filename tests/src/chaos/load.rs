//! Publishers and listeners while things break, and what each of them knows.
//!
//! A meter counts upward and remembers which numbers the gateway acknowledged. The watcher, a device with a persistent
//! session, and the fleet's database say which numbers arrived. Three devices misbehave all along: one reads nothing, one
//! came once and stays away, and one does not survive messages of a kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::mqtt::{Link, Packet};

/// Messages of a meter that wait for their acknowledgement, at most.
const WINDOW: usize = 16;
/// Between two messages of a meter.
const PACE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(250);
pub const POISON: &[u8] = b"poison";
pub const FILTER: &str = "leaf/+/count";

/// Numbers by meter.
#[derive(Debug, Default, Clone)]
pub struct Counted(Arc<Mutex<BTreeMap<String, BTreeSet<u64>>>>);

impl Counted {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, meter: &str, number: u64) {
        self.lock().entry(meter.to_owned()).or_default().insert(number);
    }

    pub fn total(&self) -> usize {
        self.lock().values().map(BTreeSet::len).sum()
    }

    /// Numbers that are here and not in `other`, each with its meter.
    pub fn missing_in(&self, other: &Self) -> Vec<(String, u64)> {
        let here = self.lock().clone();
        let there = other.lock();
        here.into_iter()
            .flat_map(|(meter, numbers)| {
                let known = there.get(&meter);
                let missing =
                    numbers.into_iter().filter(|number| !known.is_some_and(|known| known.contains(number)));
                missing.map(|number| (meter.clone(), number)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Takes over what a message of a meter says; false for any other message.
    pub fn take(&self, topic: &str, payload: &[u8]) -> bool {
        let meter = topic.strip_prefix("leaf/").and_then(|rest| rest.strip_suffix("/count"));
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.split(' ').next()?.parse().ok());
        match (meter, number) {
            (Some(meter), Some(number)) => {
                self.add(meter, number);
                true
            }
            _ => false,
        }
    }
}

/// Threads that publish and listen until they are told to stop.
#[derive(Debug)]
pub struct Load {
    pub acknowledged: Counted,
    pub watched: Counted,
    /// Numbers that the fragile device took.
    pub survived: Counted,
    publishing: Arc<AtomicBool>,
    running: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
pub struct Device {
    pub name: String,
    pub config: Arc<ClientConfig>,
}

#[derive(Debug)]
pub struct Devices {
    pub meters: Vec<Device>,
    pub watcher: Device,
    /// Subscribes and reads nothing.
    pub slow: Device,
    /// Subscribes once and goes.
    pub absent: Device,
    /// Ends its connection over a message that begins with [`POISON`].
    pub fragile: Device,
}

impl Load {
    pub fn start(devices: &Devices) -> Self {
        let mut load = Self {
            acknowledged: Counted::default(),
            watched: Counted::default(),
            survived: Counted::default(),
            publishing: Arc::new(AtomicBool::new(true)),
            running: Arc::new(AtomicBool::new(true)),
            threads: Vec::new(),
        };
        let running = || load.running.clone();
        let mut threads = Vec::new();
        // What is published before anybody has subscribed is for nobody.
        let listening = Arc::new(AtomicBool::new(false));
        {
            let (device, watched, running) = (devices.watcher.clone(), load.watched.clone(), running());
            let listening = listening.clone();
            threads.push(thread::spawn(move || watch(&device, &watched, &listening, &running)));
        }
        {
            let (device, running) = (devices.slow.clone(), running());
            threads.push(thread::spawn(move || read_nothing(&device, &running)));
        }
        {
            let (device, running) = (devices.absent.clone(), running());
            threads.push(thread::spawn(move || subscribe_once(&device, &running)));
        }
        {
            let (device, survived, running) = (devices.fragile.clone(), load.survived.clone(), running());
            threads.push(thread::spawn(move || be_fragile(&device, &survived, &running)));
        }
        for meter in &devices.meters {
            let (device, acknowledged) = (meter.clone(), load.acknowledged.clone());
            let (publishing, running) = (load.publishing.clone(), running());
            let listening = listening.clone();
            threads.push(thread::spawn(move || {
                while running.load(Ordering::Relaxed) && !listening.load(Ordering::Relaxed) {
                    thread::sleep(PACE);
                }
                count(&device, &acknowledged, &publishing, &running);
            }));
        }
        load.threads = threads;
        load
    }

    /// Meters begin no new number; what is on its way is finished.
    pub fn stop_publishing(&self) {
        self.publishing.store(false, Ordering::Relaxed);
    }

    /// Meters go on.
    pub fn go_on(&self) {
        self.publishing.store(true, Ordering::Relaxed);
    }

    pub fn end(mut self) {
        self.running.store(false, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            // A thread that panicked has told why; what it counted is judged like all else.
            drop(thread.join());
        }
    }
}

fn count(device: &Device, acknowledged: &Counted, publishing: &AtomicBool, running: &AtomicBool) {
    let topic = format!("leaf/{}/count", device.name);
    let mut next = 1;
    // Numbers without an acknowledgement, also over connections.
    let mut open = BTreeSet::new();
    while running.load(Ordering::Relaxed) {
        let Ok(mut link) = Link::open(&device.config, &device.name, true) else {
            thread::sleep(PAUSE);
            continue;
        };
        let mut unsent: Vec<u64> = open.iter().rev().copied().collect();
        let mut by_id = BTreeMap::new();
        let mut last_id = 0_u16;
        let mut last_sent = Instant::now();
        while running.load(Ordering::Relaxed) {
            if by_id.len() < WINDOW && last_sent.elapsed() >= PACE {
                if unsent.is_empty() && publishing.load(Ordering::Relaxed) {
                    open.insert(next);
                    unsent.push(next);
                    next += 1;
                }
                if let Some(number) = unsent.pop() {
                    last_id = last_id % u16::MAX + 1;
                    by_id.insert(last_id, number);
                    last_sent = Instant::now();
                    if link.publish(last_id, &topic, format!("{number} {}", device.name).as_bytes()).is_err()
                    {
                        break;
                    }
                }
            }
            match link.receive() {
                Ok(Some(Packet::PubAck(id))) => {
                    if let Some(number) = by_id.remove(&id) {
                        open.remove(&number);
                        acknowledged.add(&device.name, number);
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}

fn watch(device: &Device, watched: &Counted, listening: &AtomicBool, running: &AtomicBool) {
    while running.load(Ordering::Relaxed) {
        if listen(device, watched, listening, running).is_err() {
            thread::sleep(PAUSE);
        }
    }
}

fn listen(
    device: &Device,
    watched: &Counted,
    listening: &AtomicBool,
    running: &AtomicBool,
) -> std::io::Result<()> {
    let mut link = Link::open(&device.config, &device.name, false)?;
    link.subscribe(FILTER)?;
    while running.load(Ordering::Relaxed) {
        match link.receive()? {
            Some(Packet::SubAck) => listening.store(true, Ordering::Relaxed),
            Some(Packet::Publish { id, topic, payload }) => {
                watched.take(&topic, &payload);
                if id != 0 {
                    link.acknowledge(id)?;
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn be_fragile(device: &Device, survived: &Counted, running: &AtomicBool) {
    while running.load(Ordering::Relaxed) {
        // It ends by a poison message, or because the gateway is away: then again.
        let _ = listen_with_fear(device, survived, running);
        thread::sleep(PAUSE);
    }
}

fn listen_with_fear(device: &Device, survived: &Counted, running: &AtomicBool) -> std::io::Result<()> {
    let mut link = Link::open(&device.config, &device.name, false)?;
    link.subscribe(FILTER)?;
    while running.load(Ordering::Relaxed) {
        if let Some(Packet::Publish { id, topic, payload }) = link.receive()? {
            if payload.starts_with(POISON) {
                return Ok(());
            }
            survived.take(&topic, &payload);
            if id != 0 {
                link.acknowledge(id)?;
            }
        }
    }
    Ok(())
}

fn read_nothing(device: &Device, running: &AtomicBool) {
    while running.load(Ordering::Relaxed) {
        if let Ok(mut link) = Link::open(&device.config, &device.name, false)
            && link.subscribe(FILTER).is_ok()
        {
            // Until the broker has had enough of it.
            let end = Instant::now() + Duration::from_secs(60);
            while running.load(Ordering::Relaxed) && Instant::now() < end {
                thread::sleep(PAUSE);
            }
        }
        thread::sleep(PAUSE);
    }
}

fn subscribe_once(device: &Device, running: &AtomicBool) {
    while running.load(Ordering::Relaxed) {
        if let Ok(mut link) = Link::open(&device.config, &device.name, false)
            && link.subscribe(FILTER).is_ok()
            && matches!(link.receive(), Ok(Some(_)))
        {
            return;
        }
        thread::sleep(PAUSE);
    }
}
