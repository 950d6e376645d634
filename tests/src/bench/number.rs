//! One measured number: its samples, what it should be, and whether it is.

use std::time::Duration;

/// Bound that a number must keep.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// The worst of a hundred, not the median.
    WorstAtMost(f64),
    /// More is better.
    Rate,
    None,
}

pub struct Number {
    pub name: &'static str,
    pub unit: &'static str,
    target: Target,
    pub median: f64,
    pub p99: f64,
    pub samples: usize,
    /// Reason for which there are no samples.
    pub missing: Option<&'static str>,
}

impl Number {
    /// `samples` are durations; `per` turns one into the number's unit.
    pub fn of(
        name: &'static str,
        unit: &'static str,
        target: Target,
        samples: &[Duration],
        per: impl Fn(Duration) -> f64,
    ) -> Self {
        let values = samples.iter().map(|sample| per(*sample)).collect();
        // The worst of a rate is a low one.
        Self::of_values(name, unit, target, values)
    }

    pub fn of_values(name: &'static str, unit: &'static str, target: Target, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        if matches!(target, Target::AtLeast(_) | Target::Rate) {
            values.reverse();
        }
        let at = |part: usize| {
            let index = values.len().saturating_mul(part).div_ceil(100).saturating_sub(1);
            values.get(index).copied().unwrap_or(f64::NAN)
        };
        Self { name, unit, target, median: at(50), p99: at(99), samples: values.len(), missing: None }
    }

    /// One that cannot be measured here.
    pub fn missing(name: &'static str, unit: &'static str, why: &'static str) -> Self {
        Self { missing: Some(why), ..Self::of_values(name, unit, Target::None, Vec::new()) }
    }

    pub fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtLeast(least) => Some(self.median >= least),
            Target::AtMost(most) => Some(self.median <= most),
            Target::WorstAtMost(most) => Some(self.p99 <= most),
            Target::Rate | Target::None => None,
        }
    }

    pub fn target_text(&self) -> String {
        match self.target {
            Target::AtLeast(least) => format!("\u{2265} {least}"),
            Target::AtMost(most) | Target::WorstAtMost(most) => format!("\u{2264} {most}"),
            Target::Rate | Target::None => String::new(),
        }
    }
}
