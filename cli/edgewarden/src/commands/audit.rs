//! `edgewarden audit …`: the audit log, of this gateway or of a copied folder.

use std::path::{Path, PathBuf};

use edgewarden_audit::{ENTRIES_MAX, Head, Keys, Query, Report, Verifier, folder};
use edgewarden_ca::{CaError, chain, spki};
use edgewarden_names::{ModuleName, UnixTime, pem};
use edgewarden_platform::durable;
use edgewarden_protocol::control::{AuditEntry, questions};
use edgewarden_protocol::layout::Layout;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format};

const FILE_BYTES_MAX: usize = 256 * 1024;

/// Subcommands of `audit`.
#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Shows entries, oldest first.
    Show {
        /// Only entries from this time on: `2026-01-31T08:00:00Z`, seconds since 1970, or `90s`, `30m`, `6h`, `7d` ago.
        #[arg(long, value_parser = time)]
        since: Option<UnixTime>,
        /// Only entries about this module.
        #[arg(long)]
        module: Option<ModuleName>,
        /// The newest so many, 1000 at most.
        #[arg(long, default_value_t = 50)]
        last: u32,
        /// Reads a copy of the folder of the log instead of asking the gateway.
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Checks the chain across all files and each signed head. Exit code 1 when the log is broken, and where.
    Verify {
        /// A copy of the folder of the log. Needs no gateway.
        #[arg(long, requires = "certificate")]
        folder: Option<PathBuf>,
        /// PEM: the gateway CA's certificate or public key; of former ones too, after a TPM was replaced.
        #[arg(long)]
        certificate: Option<PathBuf>,
        /// A head that `verify -o json` printed before: finds out that the log's end was cut off since.
        #[arg(long)]
        head: Option<PathBuf>,
    },
}

impl Audit {
    /// Asks `identityd`, or reads a copied folder without it. Exit code 1 for a broken log.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        match self {
            Self::Show { since, module, last, folder } => {
                let entries = entries(layout, since, module, last, folder).await?;
                show(&entries, format)
            }
            Self::Verify { folder, certificate, head } => {
                let keys = match &certificate {
                    Some(file) => keys_of_file(file)?,
                    None => keys_of_gateway(layout).await?,
                };
                let head = head.as_deref().map(known_head).transpose()?;
                let folder = folder.unwrap_or_else(|| layout.identity_state());
                verify(&folder, &keys, head.as_ref(), format)
            }
        }
    }
}

async fn entries(
    layout: &Layout,
    since: Option<UnixTime>,
    module: Option<ModuleName>,
    last: u32,
    folder: Option<PathBuf>,
) -> Result<Vec<AuditEntry>, Problem> {
    if let Some(folder) = folder {
        let last = usize::try_from(last).unwrap_or(ENTRIES_MAX);
        return folder::query(&folder, &Query { since, module, last }).map_err(Problem::failed);
    }
    ask(layout, questions::AuditQuery { since, module, last }).await
}

fn show(entries: &[AuditEntry], format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return output::json(&entries);
    }
    for entry in entries {
        println!("{} {} {} {} {}", entry.sequence, entry.at, entry.event, entry.subject, entry.detail);
    }
    Ok(())
}

fn verify(folder: &Path, keys: &Keys, head: Option<&Head>, format: Format) -> Result<(), Problem> {
    let judged = folder::verify(folder, || Verifier::new(keys.clone(), head.cloned()));
    if let (Format::Json, Err(folder::FolderError::Broken(broken))) = (format, &judged) {
        output::json(&serde_json::json!({"intact": false, "broken": broken}))?;
    }
    let report = judged.map_err(Problem::failed)?;
    if format == Format::Json {
        return output::json(&serde_json::json!({"intact": true, "report": report}));
    }
    tell(&report);
    Ok(())
}

fn tell(report: &Report) {
    match (report.first, report.last) {
        (Some(first), Some(last)) => println!("intact: entries {first} to {last} in {} files", report.files),
        _ => println!("intact: no entries in {} files", report.files),
    }
    if let Some(head) = &report.head {
        println!(
            "signed: {} heads by the key of gateway `{}`, the newest at {} covers entry {}",
            report.heads, head.gateway, head.at, head.sequence
        );
    }
    if report.unsigned > 0 {
        println!(
            "not yet signed: the last {} entries hang together, and nobody vouches for them",
            report.unsigned
        );
    }
    if report.unfinished_bytes > 0 {
        println!(
            "unfinished: {} bytes of a line that a crash or a running daemon left",
            report.unfinished_bytes
        );
    }
    if report.known_head_rotated_away {
        eprintln!(
            "warning: the known head is older than what is left of the log, and proves nothing any more"
        );
    }
}

async fn keys_of_gateway(layout: &Layout) -> Result<Keys, Problem> {
    match ask(layout, questions::AuditKey).await {
        Ok(key) => Ok(Keys::new([key.point.0])),
        Err(Problem::Failed(text)) => {
            Err(Problem::Failed(format!("{text}\nhint: without the gateway, use --folder and --certificate")))
        }
        Err(problem) => Err(problem),
    }
}

fn read(file: &Path) -> Result<String, Problem> {
    let bytes = durable::read(file, FILE_BYTES_MAX).map_err(Problem::failed)?;
    let bytes = bytes.ok_or_else(|| Problem::text(format!("there is no file `{}`", file.display())))?;
    String::from_utf8(bytes).map_err(|_| Problem::text(format!("`{}` is not text", file.display())))
}

/// The keys of all CA certificates in the file, so that a gateway's chain may be given as it is; or public keys.
fn keys_of_file(file: &Path) -> Result<Keys, Problem> {
    let text = read(file)?;
    let bad = |error: CaError| Problem::text(format!("`{}`: {error}", file.display()));
    let points: Vec<Vec<u8>> = if text.contains(&format!("-----BEGIN {}-----", pem::PUBLIC_KEY)) {
        let keys = pem::all(&text, pem::PUBLIC_KEY).map_err(|error| bad(error.into()))?;
        keys.iter().map(|der| spki::point(der)).collect::<Result<_, _>>().map_err(bad)?
    } else {
        let certificates = pem::all(&text, pem::CERTIFICATE).map_err(|error| bad(error.into()))?;
        let facts =
            certificates.iter().map(|der| chain::facts(der)).collect::<Result<Vec<_>, _>>().map_err(bad)?;
        facts.into_iter().filter(|facts| facts.is_ca).map(|facts| facts.point).collect()
    };
    if points.is_empty() {
        return Err(Problem::text(format!("`{}` has no CA certificate", file.display())));
    }
    Ok(Keys::new(points))
}

/// A head by itself, or as part of what `verify -o json` printed.
fn known_head(file: &Path) -> Result<Head, Problem> {
    let text = read(file)?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(Problem::failed)?;
    let head = value.pointer("/report/head").cloned().unwrap_or(value);
    serde_json::from_value(head).map_err(Problem::failed)
}

/// A moment: RFC 3339 in UTC, seconds since 1970, or how long ago.
fn time(text: &str) -> Result<UnixTime, String> {
    let bad = || format!("`{text}` is not a time, such as 2026-01-31T08:00:00Z, 1769846400 or 6h");
    if let Ok(seconds) = text.parse() {
        return Ok(UnixTime(seconds));
    }
    for (unit, seconds) in [('s', 1), ('m', 60), ('h', 3600), ('d', 86400_u64)] {
        if let Some(count) = text.strip_suffix(unit).and_then(|count| count.parse::<u64>().ok()) {
            let ago = std::time::Duration::from_secs(count.saturating_mul(seconds));
            return Ok(UnixTime::now().minus(ago));
        }
    }
    rfc3339(text).ok_or_else(bad)
}

fn rfc3339(text: &str) -> Option<UnixTime> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, separator: char, widths: [usize; 3]| {
        let mut parts = text.split(separator);
        let mut next = |width: usize| {
            let part = parts.next().filter(|part| part.len() == width)?;
            part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u64>().ok())?
        };
        let found = (next(widths[0])?, next(widths[1])?, next(widths[2])?);
        parts.next().is_none().then_some(found)
    };
    let (year, month, day) = numbers(date, '-', [4, 2, 2])?;
    let (hours, minutes, seconds) = numbers(clock, ':', [2, 2, 2])?;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month.checked_sub(1)?).ok()?;
    let length = *lengths.get(before)?;
    if year < 1970 || !(1..=length).contains(&day) || hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    let days = years + lengths.iter().take(before).sum::<u64>() + day - 1;
    Some(UnixTime(days * 86400 + hours * 3600 + minutes * 60 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_strictly() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-03-01T00:00:00Z", Some(951_868_800)),
            ("2026-01-31T08:00:00Z", Some(1_769_846_400)),
            ("2028-02-29T23:59:59Z", Some(1_835_481_599)),
            ("2027-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-00-01T00:00:00Z", None),
            ("2026-01-00T00:00:00Z", None),
            ("2026-01-31T24:00:00Z", None),
            ("2026-01-31T08:00:00", None),
            ("2026-01-31 08:00:00Z", None),
            ("2026-1-31T08:00:00Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("2026-01-31T08:00:00:00Z", None),
            ("+026-01-31T08:00:00Z", None),
            ("1769846400", Some(1_769_846_400)),
            ("yesterday", None),
            ("h", None),
            ("", None),
        ] {
            assert_eq!(time(text).ok(), expected.map(UnixTime), "{text}");
        }
        let now = UnixTime::now().0;
        assert!((now - 21_601..=now - 21_599).contains(&time("6h").unwrap().0));
        assert_eq!(time("18446744073709551615d").unwrap(), UnixTime(0));
    }
}
