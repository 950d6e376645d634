//! Evidence of this boot, for a verifier that has nothing from us but files.

use std::io;
use std::path::{Path, PathBuf};

use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{ExportedQuote, questions};
use edgewarden_protocol::layout::Layout;

use super::exported_quote::{AK, EVENT_LOG, MESSAGE, PCRS, RUNTIME_LOG, SIGNATURE, serialized};
use super::{ask, attest_verify};
use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `attest`.
#[derive(Debug, clap::Subcommand)]
pub enum Attest {
    /// Writes a fresh quote in the files that `tpm2_checkquote` reads, and prints the command that checks it.
    Export {
        /// A new or empty folder.
        folder: PathBuf,
        /// 16 to 32 bytes in hexadecimal that the quote must carry. Random when absent.
        #[arg(long)]
        nonce: Option<String>,
    },
    /// Judges such a folder, without a TPM or a gateway: the quote, its PCRs and the runtime log.
    Verify {
        folder: PathBuf,
        /// The nonce that the quote must carry, in hexadecimal.
        #[arg(long)]
        nonce: String,
    },
}

impl Attest {
    /// Exports a fresh quote, or judges an exported one. Exit code 3 when it does not prove what it should.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let (folder, nonce) = match self {
            Self::Export { folder, nonce } => (folder, nonce),
            Self::Verify { folder, nonce } => return verify(&folder, &parse_nonce(&nonce)?, format),
        };
        let nonce = nonce.map_or_else(random_nonce, |text| parse_nonce(&text))?;
        let quote = ask(layout, questions::AttestQuote { nonce: Bytes(nonce.clone()) }).await?;
        write(&folder, &quote)
            .map_err(|error| Problem::text(format!("cannot write to `{}`: {error}", folder.display())))?;
        let nonce = hex::encode(nonce);
        if format == Format::Json {
            return output::json(&serde_json::json!({"folder": folder, "nonce": nonce}));
        }
        println!(
            "tpm2_checkquote -u {0}/{AK} -m {0}/{MESSAGE} -s {0}/{SIGNATURE} -f {0}/{PCRS} -g sha256 -q {nonce}",
            folder.display()
        );
        Ok(())
    }
}

fn parse_nonce(text: &str) -> Result<Vec<u8>, Problem> {
    let nonce = hex::decode(text).ok().filter(|bytes| (16..=32).contains(&bytes.len()));
    nonce.ok_or_else(|| Problem::Usage("`--nonce` is 16 to 32 bytes in hexadecimal".into()))
}

fn verify(folder: &Path, nonce: &[u8], format: Format) -> Result<(), Problem> {
    let verified = attest_verify::verify(folder, nonce)?;
    let log = verified.runtime_log;
    if format == Format::Json {
        let log = log.map(|(pcr, log)| {
            serde_json::json!({
                "pcr": pcr, "lines": log.entries, "first": log.first, "boots": log.boots,
                "unexplained": log.unexplained,
            })
        });
        return output::json(&serde_json::json!({"pcrs": verified.pcrs.len(), "runtime_log": log}));
    }
    println!(
        "quote        signed by the key in `{}`, over {} PCRs",
        folder.join(AK).display(),
        verified.pcrs.len()
    );
    match log {
        None => println!("runtime log  none"),
        Some((pcr, log)) => println!(
            "runtime log  {} lines from number {} on lead to PCR {pcr}; {} boots, {} unexplained sections",
            log.entries, log.first, log.boots, log.unexplained
        ),
    }
    Ok(())
}

fn random_nonce() -> Result<Vec<u8>, Problem> {
    let mut nonce = vec![0; 32];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Problem::text("the system gave no random bytes"))?;
    Ok(nonce)
}

fn write(folder: &Path, quote: &ExportedQuote) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(MESSAGE), quote.message.as_slice())?;
    std::fs::write(folder.join(SIGNATURE), quote.signature.as_slice())?;
    std::fs::write(folder.join(AK), &quote.ak_public)?;
    std::fs::write(folder.join(EVENT_LOG), quote.event_log.as_slice())?;
    if quote.runtime_pcr.is_some() {
        std::fs::write(folder.join(RUNTIME_LOG), quote.runtime_log.as_slice())?;
    }
    std::fs::write(folder.join(PCRS), serialized(&quote.pcrs)?)
}
