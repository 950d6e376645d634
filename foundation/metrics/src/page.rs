//! Families of numbers as text: OpenMetrics 1.0, or the Prometheus text format 0.0.4 for who does not ask for it.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::Seconds;

/// The text format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4, which node_exporter's textfile collector reads as well.
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// By the `Accept` header of the request.
    pub fn accepted(header: Option<&str>) -> Self {
        match header {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// For the answer's `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The text that is being written. Names are without the page's prefix, and those of counters without `_total`.
#[derive(Debug)]
pub struct Page<'a>(DescriptorEncoder<'a>);

const NO_LABELS: [(&str, &str); 0] = [];

impl Page<'_> {
    /// One gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauges(name, help, [(NO_LABELS, value)])
    }

    /// A gauge for each set of labels.
    pub fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// One counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [(NO_LABELS, value)])
    }

    /// A counter for each set of labels.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            let mut sample = family.encode_family(&labels)?;
            sample.encode_counter::<[(&str, &str); 0], u64, u64>(&value, None)?;
        }
        Ok(())
    }

    /// A histogram for each set of labels.
    pub fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, &'h Seconds)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, seconds) in samples {
            seconds.histogram().encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// 1, with what is known of the program as labels.
    pub fn info(&mut self, name: &str, help: &str, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(labels)
    }
}

/// The registry calls it once.
struct Written<F>(F);

impl<F> fmt::Debug for Written<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written(..)")
    }
}

impl<F: Fn(&mut Page<'_>) -> fmt::Result + Send + Sync + 'static> Collector for Written<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Page(encoder))
    }
}

/// The page that `write` writes, as text in `format`, each name with `prefix` and `_` before it. Fails when `write`
/// does.
pub fn render(
    format: Format,
    prefix: &str,
    write: impl Fn(&mut Page<'_>) -> fmt::Result + Send + Sync + 'static,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(Written(write)));
    let mut page = String::new();
    match format {
        Format::Prometheus => prometheus_text::encode(&mut page, &registry)?,
        Format::OpenMetrics => text::encode(&mut page, &registry)?,
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn page(format: Format) -> String {
        let seconds = Arc::new(Seconds::default());
        seconds.observe(Duration::from_millis(30));
        render(format, "x", move |page| {
            page.info("build", "About the program.", &[("version", "1")])?;
            page.gauge("left_seconds", "Negative when it is over.", -3_i64)?;
            page.counters(
                "refused",
                "By reason.",
                [([("reason", "a\"b\\c\nd")], 2), ([("reason", "e")], 0)],
            )?;
            page.histograms("took_seconds", "Time.", [([("kind", "k")], &*seconds)])
        })
        .unwrap()
    }

    #[test]
    fn both_formats_say_the_same_each_in_its_own_way() {
        let plain = page(Format::Prometheus);
        for line in [
            "# TYPE x_build_info gauge\nx_build_info{version=\"1\"} 1\n",
            "# TYPE x_left_seconds gauge\nx_left_seconds -3\n",
            "# TYPE x_refused_total counter\nx_refused_total{reason=\"a\\\"b\\\\c\\nd\"} 2\n",
            "x_took_seconds_bucket{kind=\"k\",le=\"0.05\"} 1\n",
            "x_took_seconds_bucket{kind=\"k\",le=\"0.025\"} 0\n",
            "x_took_seconds_count{kind=\"k\"} 1\n",
        ] {
            assert!(plain.contains(line), "{line} in {plain}");
        }
        assert!(!plain.contains("# EOF"));
        let open = page(Format::OpenMetrics);
        assert!(open.contains("# TYPE x_refused counter\nx_refused_total{"), "{open}");
        assert!(open.contains("# TYPE x_build info\nx_build_info{version=\"1\"} 1\n"), "{open}");
        assert!(open.ends_with("# EOF\n"), "{open}");
    }

    #[test]
    fn who_asks_for_nothing_gets_what_everybody_reads() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4";
        for (accept, expected) in [
            (Some(prometheus), Format::OpenMetrics),
            (Some("text/plain"), Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some(""), Format::Prometheus),
            (None, Format::Prometheus),
        ] {
            assert_eq!(Format::accepted(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        assert!(render(Format::Prometheus, "x", |_| Err(fmt::Error)).is_err());
    }
}
