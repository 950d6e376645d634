//! `edgewarden volume`: the folders of modules that outlive their instances.

use edgewarden_names::{ModuleName, VolumeName};
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console::questions;

use super::runtime::ask;
use crate::exit::Problem;
use crate::output::{self, Format};

/// Commands of `volume`.
#[derive(Debug, clap::Subcommand)]
pub enum Volume {
    /// Show all volumes, also of modules that are in no deployment any more.
    Ls,
    /// Remove a volume with what is in it, for good.
    Rm {
        module: ModuleName,
        volume: VolumeName,
        /// It is meant: nothing brings it back.
        #[arg(long)]
        yes: bool,
    },
}

impl Volume {
    /// Lists or removes.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        match self {
            Self::Ls => list(layout, format).await,
            Self::Rm { module, volume, yes: false } => Err(Problem::Usage(format!(
                "what is in the volume `{volume}` of `{module}` would be gone for good; if it is meant, add `--yes`"
            ))),
            Self::Rm { module, volume, yes: true } => {
                ask(layout, questions::VolumeRemove { module, volume }).await
            }
        }
    }
}

async fn list(layout: &Layout, format: Format) -> Result<(), Problem> {
    let volumes = ask(layout, questions::Volumes).await?;
    if format == Format::Json {
        return output::json(&volumes);
    }
    if volumes.is_empty() {
        println!("there are no volumes; a deployment declares them (`volumes` of a module)");
        return Ok(());
    }
    let mebibytes = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
    let row = |volume: &edgewarden_protocol::runtime_console::VolumeStatus| {
        vec![
            volume.module.to_string(),
            volume.name.to_string(),
            mebibytes(volume.bytes),
            mebibytes(volume.bytes_max),
            if volume.in_use { "yes" } else { "no" }.to_owned(),
        ]
    };
    let rows: Vec<_> = volumes.iter().map(row).collect();
    output::table(&["MODULE", "VOLUME", "TAKES", "AT MOST", "IN USE"], &rows);
    Ok(())
}
