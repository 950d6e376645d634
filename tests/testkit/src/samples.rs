//! A strict reader of the Prometheus text format 0.0.4, as far as we use it, and one request of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Status, head and body of one request over a Unix socket.
pub async fn get(socket: &Path, target: &str, accept: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_lowercase();
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    (status, head, body.to_owned())
}

/// The samples that `GET /metrics` on `socket` gives.
pub async fn scrape(socket: &Path) -> Samples {
    let (status, head, body) = get(socket, "/metrics", "*/*").await;
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    Samples::parse(&body)
}

/// HTTP status and body of `GET /healthz` on `socket`.
pub async fn health(socket: &Path) -> (u16, String) {
    let (status, _, body) = get(socket, "/healthz", "*/*").await;
    (status, body.trim_end().to_owned())
}

/// Labels of one sample.
pub type Labels = BTreeMap<String, String>;

/// Metrics as a strict reader has them (Prometheus text format 0.0.4): kinds by family, values by name and labels.
#[derive(Debug, Default)]
pub struct Samples {
    pub kinds: BTreeMap<String, String>,
    pub values: BTreeMap<(String, Labels), f64>,
}

impl Samples {
    /// The samples in a text. Panics at the first line that a strict reader refuses.
    pub fn parse(text: &str) -> Self {
        let mut all = Self::default();
        let mut family = String::new();
        let mut helped = BTreeSet::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(helped.insert(name.to_owned()) && words.len() > 3, "{line}");
                name.clone_into(&mut family);
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, family, "TYPE follows HELP: {line}");
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(all.kinds.insert(name.into(), kind.into()).is_none(), "a family twice: {line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, Self::labels(labels.strip_suffix('}').unwrap())),
                None => (series, Labels::new()),
            };
            assert!(
                name.starts_with("edgewarden_")
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            let base = if all.kinds.get(&family).is_some_and(|kind| kind == "histogram") {
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap()
            } else {
                name
            };
            assert_eq!(base, family, "samples stand beneath their family: {line}");
            let value: f64 = value.parse().unwrap();
            assert!(all.values.insert((name.into(), labels), value).is_none(), "a series twice: {line}");
        }
        all.check_histograms();
        all
    }

    fn labels(text: &str) -> Labels {
        let one = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap();
            let value = value.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
            assert!(!value.contains(['"', '\\', '\n']) && !name.is_empty(), "{pair}");
            (name.to_owned(), value.to_owned())
        };
        let labels: Vec<_> = text.split(',').map(one).collect();
        let count = labels.len();
        let labels: Labels = labels.into_iter().collect();
        assert_eq!(labels.len(), count, "a label twice: {text}");
        labels
    }

    fn check_histograms(&self) {
        for (name, _) in self.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for ((_, labels), value) in
                self.values.iter().filter(|((n, _), _)| *n == format!("{name}_bucket"))
            {
                let mut labels = labels.clone();
                let bound = labels.remove("le").unwrap();
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                series.entry(labels).or_default().push((bound, *value));
            }
            assert!(!series.is_empty());
            for (labels, mut buckets) in series {
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name} {labels:?} falls");
                let (bound, all) = *buckets.last().unwrap();
                let count = self.values[&(format!("{name}_count"), labels.clone())];
                assert!(bound.is_infinite() && (all - count).abs() < 0.5, "{name} {labels:?}");
                assert!(self.values[&(format!("{name}_sum"), labels)] >= 0.0);
            }
        }
    }

    /// Value of one sample; `name` is without `edgewarden_`.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.values.get(&(format!("edgewarden_{name}"), labels)).copied()
    }
}
