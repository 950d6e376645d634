//! Processors.

use serde::{Deserialize, Serialize};

/// A processor that gateways have, by its name in OCI images (`GOARCH`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    Amd64,
    Arm64,
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("no gateway of this processor is known; add it to `Architecture`");

impl Architecture {
    /// The architecture of this program.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// The name that OCI images use (GOARCH).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A processor: its architecture, and which of that architecture's variants it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    architecture: Architecture,
    level: u8,
}

impl Processor {
    /// The processor that this program runs on.
    pub fn here() -> Self {
        Self { architecture: Architecture::HERE, level: level_here() }
    }

    /// What every processor of the architecture runs: an image that is chosen for machines which nobody here sees.
    pub const fn least(architecture: Architecture) -> Self {
        Self { architecture, level: 1 }
    }

    /// What the best processor of the architecture runs: whether an image could be for machines which nobody here sees.
    pub const fn best(architecture: Architecture) -> Self {
        Self { architecture, level: u8::MAX }
    }

    pub const fn architecture(self) -> Architecture {
        self.architecture
    }

    /// How well an image for this architecture and variant (GOARCH; GOAMD64 or GOARM64) uses the processor; `None` when
    /// it does not run on it, or nobody knows.
    pub fn rank(self, architecture: &str, variant: Option<&str>) -> Option<u8> {
        if architecture != self.architecture.as_str() {
            return None;
        }
        let level = match (self.architecture, variant.unwrap_or_default()) {
            (Architecture::Amd64, "" | "v1") | (Architecture::Arm64, "" | "v8" | "v8.0") => 1,
            (Architecture::Amd64, "v2") => 2,
            (Architecture::Amd64, "v3") => 3,
            (Architecture::Amd64, "v4") => 4,
            _ => return None,
        };
        (level <= self.level).then_some(level)
    }
}

/// Levels of x86-64 (its psABI, 3.1.1, "Processor Architecture").
#[cfg(target_arch = "x86_64")]
fn level_here() -> u8 {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("ssse3");
    let v2 = v2 && has!("sse4.1") && has!("sse4.2");
    let v3 = v2 && has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2");
    let v3 = v3 && has!("f16c") && has!("fma") && has!("lzcnt") && has!("movbe");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd");
    let v4 = v4 && has!("avx512dq") && has!("avx512vl");
    1 + u8::from(v2) + u8::from(v3) + u8::from(v4)
}

#[cfg(not(target_arch = "x86_64"))]
fn level_here() -> u8 {
    1
}
