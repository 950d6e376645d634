//! What `identityd` answers: leaf devices, certificates, evidence, the audit log.

use std::path::{Path, PathBuf};

use edgewarden_ca::pem;
use edgewarden_names::{LeafName, ModuleName, Reason, Refusal};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::client::unexpected;
use edgewarden_protocol::control::{ExportedQuote, Reply, Request};
use edgewarden_protocol::layout::Layout;
use edgewarden_workload_api::client::{FetchError, fetch_once};

use super::{ask, tell};
use crate::exit::Problem;
use crate::output::{self, Format};

#[derive(Debug, clap::Subcommand)]
pub enum Leaf {
    /// Makes a one-time token with which a declared leaf device enrols. Prints it once.
    Allow {
        leaf: LeafName,
        /// How long the token is good, in seconds.
        #[arg(long, default_value_t = 3600)]
        lifetime: u32,
    },
}

impl Leaf {
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let Self::Allow { leaf, lifetime } = self;
        match ask(layout, &Request::LeafAllow { leaf, lifetime_seconds: lifetime }).await? {
            Reply::LeafToken { token, expires } if format == Format::Json => {
                output::json(&serde_json::json!({"token": token, "expires": expires}))
            }
            Reply::LeafToken { token, .. } => {
                println!("{token}");
                Ok(())
            }
            other => Err(unexpected(&other).into()),
        }
    }
}

#[derive(Debug, clap::Subcommand)]
pub enum Svid {
    /// Gives a module, or all, a new key and certificate now.
    Rotate { module: Option<ModuleName> },
    /// Asks a Workload API socket for this process's own certificate chain, and prints it as PEM.
    Fetch {
        /// `/run/edgewarden/api.sock` inside a module.
        #[arg(long, default_value = "/run/edgewarden/api.sock")]
        socket: PathBuf,
    },
}

impl Svid {
    pub async fn run(self, layout: &Layout) -> Result<(), Problem> {
        match self {
            Self::Rotate { module } => tell(layout, &Request::Rotate { module }).await,
            Self::Fetch { socket } => fetch(&socket).await,
        }
    }
}

#[derive(Debug, clap::Subcommand)]
pub enum Attest {
    /// Writes a fresh quote in the files that `tpm2_checkquote` reads.
    Export {
        /// A new or empty folder.
        folder: PathBuf,
        /// Up to 32 bytes in hexadecimal that the quote must carry. Random when absent.
        #[arg(long)]
        nonce: Option<String>,
    },
}

/// Files of an exported quote.
const MESSAGE: &str = "quote.msg";
const SIGNATURE: &str = "quote.sig";
const AK: &str = "ak.pem";
const PCRS: &str = "pcrs.bin";
const EVENT_LOG: &str = "event_log.bin";

impl Attest {
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let Self::Export { folder, nonce } = self;
        let nonce = match nonce {
            Some(text) => hex::decode(&text)
                .ok()
                .filter(|bytes| (1..=32).contains(&bytes.len()))
                .ok_or_else(|| Problem::Usage("`--nonce` is 1 to 32 bytes in hexadecimal".into()))?,
            None => random_nonce()?,
        };
        let quote = match ask(layout, &Request::AttestQuote { nonce: Bytes(nonce.clone()) }).await? {
            Reply::Quote(quote) => quote,
            other => return Err(unexpected(&other).into()),
        };
        write(&folder, &quote)
            .map_err(|error| Problem::text(format!("cannot write to `{}`: {error}", folder.display())))?;
        let nonce = hex::encode(nonce);
        let list: Vec<String> = quote.pcrs.iter().map(|(index, _)| index.to_string()).collect();
        if format == Format::Json {
            return output::json(&serde_json::json!({"folder": folder, "nonce": nonce, "pcrs": list}));
        }
        println!(
            "tpm2_checkquote -u {0}/{AK} -m {0}/{MESSAGE} -s {0}/{SIGNATURE} -f {0}/{PCRS} -g sha256 -q {nonce} -l sha256:{1}",
            folder.display(),
            list.join(",")
        );
        Ok(())
    }
}

fn random_nonce() -> Result<Vec<u8>, Problem> {
    let mut nonce = vec![0; 32];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Problem::text("the system gave no random bytes"))?;
    Ok(nonce)
}

fn write(folder: &Path, quote: &ExportedQuote) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join(MESSAGE), quote.message.as_slice())?;
    std::fs::write(folder.join(SIGNATURE), quote.signature.as_slice())?;
    std::fs::write(folder.join(AK), &quote.ak_public)?;
    std::fs::write(folder.join(EVENT_LOG), quote.event_log.as_slice())?;
    let values: Vec<u8> = quote.pcrs.iter().flat_map(|(_, value)| value.0.clone()).collect();
    std::fs::write(folder.join(PCRS), values)
}

#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Shows the newest entries, oldest first.
    Show {
        #[arg(long, default_value_t = 50)]
        last: u32,
    },
}

impl Audit {
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let Self::Show { last } = self;
        let entries = match ask(layout, &Request::Audit { last }).await? {
            Reply::Audit(entries) => entries,
            other => return Err(unexpected(&other).into()),
        };
        if format == Format::Json {
            return output::json(&entries);
        }
        for entry in entries {
            println!("{} {} {} {} {}", entry.sequence, entry.at, entry.event, entry.subject, entry.detail);
        }
        Ok(())
    }
}

async fn fetch(socket: &Path) -> Result<(), Problem> {
    match fetch_once(socket).await {
        Ok(context) => {
            println!("{}", context.id);
            for certificate in &context.chain_der {
                print!("{}", pem::encode(pem::CERTIFICATE, certificate));
            }
            Ok(())
        }
        Err(FetchError::Refused(status)) => Err(refusal(status.message(), socket)),
        Err(error) => Err(Problem::failed(error)),
    }
}

/// A refusal travels as the gRPC status message, its reason code first.
fn refusal(message: &str, socket: &Path) -> Problem {
    let (code, rule) = message.split_once(':').unwrap_or((message, ""));
    match Reason::ALL.iter().find(|reason| reason.code() == code.trim()) {
        Some(reason) => Refusal::new(*reason, socket.display(), rule.trim()).into(),
        None => Problem::text(format!("the Workload API answered: {message}")),
    }
}
