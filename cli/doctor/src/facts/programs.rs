//! The programs that the gateway runs, and what they answer.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use edgewarden_protocol::config::{Config, Runtime};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::{Read, Sources};

/// Most bytes that are kept of a program's answer; the rest is read and thrown away.
const SAID_BYTES_MAX: u64 = 256 * 1024;

/// Paths of the programs that the gateway runs, and their answers; a path is `None` when it was not found.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// As configured. `None` without a configuration.
    pub oci_runtime: Option<PathBuf>,
    /// The first line of its `--version`.
    pub oci_runtime_version: Said,
    pub nft: Option<PathBuf>,
    pub ip: Option<PathBuf>,
    /// Those of [`VOLUMES`] that were found.
    pub volumes: Vec<PathBuf>,
    /// The names of all tables of the packet filter.
    pub tables: Said,
}

/// Programs that make, check, grow and mount volumes.
pub const VOLUMES: [&str; 4] = ["mkfs.ext4", "e2fsck", "resize2fs", "mount"];

/// Folders where distributions put programs, also those that an ordinary user's PATH has not.
pub fn known() -> impl Iterator<Item = PathBuf> {
    edgewarden_platform::programs::KNOWN.into_iter().map(PathBuf::from)
}

/// Answer of a program, or the reason that there is none; `None` when it was not asked.
pub type Said = Option<Read<String>>;

impl Programs {
    /// Paths of the programs that were found.
    pub fn found(&self) -> impl Iterator<Item = &Path> {
        let single = [&self.oci_runtime, &self.nft, &self.ip].into_iter().filter_map(|path| path.as_deref());
        single.chain(self.volumes.iter().map(PathBuf::as_path))
    }
}

/// Finds the programs and runs them: `--version`, and `nft list tables`.
pub async fn gather(sources: &Sources, config: Option<&Config>) -> Programs {
    let find = |name: &str| sources.path.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    let nft = find("nft");
    let oci_runtime = config.map(|Config { runtime: Runtime { oci_runtime, .. }, .. }| {
        // A name alone is looked for, as by runtimed.
        let name = (oci_runtime.components().count() == 1).then(|| oci_runtime.to_str()).flatten();
        name.and_then(find).unwrap_or_else(|| oci_runtime.clone())
    });
    let version = async {
        match &oci_runtime {
            Some(program) => Some(ask(program, &["--version"], sources.patience).await),
            None => None,
        }
    };
    let tables = async {
        match &nft {
            Some(program) => Some(ask(program, &["list", "tables"], sources.patience).await),
            None => None,
        }
    };
    let (version, tables) = tokio::join!(version, tables);
    let first_line = |said: String| said.lines().next().unwrap_or_default().trim().to_owned();
    Programs {
        oci_runtime,
        oci_runtime_version: version.map(|said| said.map(first_line)),
        ip: find("ip"),
        volumes: VOLUMES.into_iter().filter_map(find).collect(),
        nft,
        tables,
    }
}

/// Standard output of a program that succeeds in time.
async fn ask(program: &Path, arguments: &[&str], patience: Duration) -> Read<String> {
    let shown = format!("`{} {}`", program.display(), arguments.join(" "));
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| format!("{shown} does not run: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let run = async {
        let (said, complained) = tokio::join!(collect(stdout), collect(stderr));
        child.wait().await.map(|status| (status, said, complained))
    };
    match tokio::time::timeout(patience, run).await {
        Err(_) => Err(format!("{shown} does not end")),
        Ok(Err(error)) => Err(format!("{shown} does not run: {error}")),
        Ok(Ok((status, said, _))) if status.success() => Ok(said),
        Ok(Ok((status, _, complained))) => {
            let complained: String = complained.trim().chars().take(200).collect();
            Err(format!("{shown} fails ({status}): {complained}"))
        }
    }
}

async fn collect(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // What was read until an error is what there is.
        let _ = (&mut stream).take(SAID_BYTES_MAX).read_to_end(&mut bytes).await;
        // The rest is thrown away, so that the program can end.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
