//! `reference`, `vendor` and `operator-key`: the anchors that the fleet is told to trust.

use std::path::PathBuf;

use clap::Subcommand;
use edgewarden_appraisal::BUNDLE_BYTES_MAX;
use edgewarden_names::GatewayName;
use edgewarden_protocol::enrol::EVENT_LOG_BYTES_MAX;

use super::client::Admin;
use super::common::Common;
use super::exit::Stop;
use super::{key, output};
use crate::admin_api::{
    self, AcceptRequest, Done, OperatorKeyRequest, ReferenceRequest, ReferenceSummary, RemoveTrust, Trusted,
    VendorAdded, VendorPart, VendorRequest, VendorRoot,
};
use crate::when::date;

const PEM_BYTES_MAX: usize = 256 * 1024;

async fn remove(admin: &Admin, what: Trusted, name: String) -> Result<(), Stop> {
    let _: Done = admin.post("/trust/remove", &RemoveTrust { what, name }).await?;
    Ok(())
}

/// Subcommands of `reference`.
#[derive(Debug, Subcommand)]
pub enum Reference {
    /// Take the boot that an event log tells of as good.
    Add {
        #[arg(long)]
        name: String,
        /// `/sys/kernel/security/tpm0/binary_bios_measurements` of a gateway that you trust.
        #[arg(long, value_name = "FILE")]
        event_log: PathBuf,
    },
    /// Take the boot as good that a gateway proved and was refused for.
    Accept {
        #[arg(long)]
        gateway: GatewayName,
        #[arg(long)]
        name: Option<String>,
    },
    List,
    /// Accept that boot no longer. Gateways that run it are refused at their next renewal.
    Remove {
        name: String,
    },
}

impl Reference {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let admin = common.admin()?;
        let added: ReferenceSummary = match self {
            Self::Add { name, event_log } => {
                let event_log = key::read(&event_log, EVENT_LOG_BYTES_MAX)?;
                let request = ReferenceRequest { name, event_log: event_log.as_slice().into() };
                admin.post("/references", &request).await?
            }
            Self::Accept { gateway, name } => {
                admin.post("/references/accept", &AcceptRequest { gateway, name }).await?
            }
            Self::Remove { name } => return remove(&admin, Trusted::Reference, name).await,
            Self::List => {
                let references: Vec<ReferenceSummary> = admin.get("/references").await?;
                if common.is_json() {
                    return output::json(&references);
                }
                let row = |r: &ReferenceSummary| vec![r.name.clone(), date(r.added), r.origin.clone()];
                output::table(&["NAME", "ADDED", "FROM"], &references.iter().map(row).collect::<Vec<_>>());
                return Ok(());
            }
        };
        if common.is_json() {
            return output::json(&added);
        }
        say!("{}", added.name);
        Ok(())
    }
}

/// Subcommands of `vendor`.
#[derive(Debug, Subcommand)]
pub enum Vendor {
    /// Trust the CA certificates in a file as a TPM's maker publishes it: PEM, DER or PKCS #7; roots, and intermediates
    /// beneath them. What in it is no such certificate is named and left out.
    Add {
        file: PathBuf,
    },
    List,
    /// Trust a CA certificate no longer. Gateways with a TPM that it vouches for are refused at their next renewal.
    Remove {
        /// As `list` shows it, `sha256:…`.
        digest: String,
    },
}

impl Vendor {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let admin = common.admin()?;
        let roots: Vec<VendorRoot> = match self {
            Self::Add { file } => {
                let bundle = key::read(&file, BUNDLE_BYTES_MAX)?.as_slice().into();
                let added: VendorAdded = admin.post("/vendor-roots", &VendorRequest { bundle }).await?;
                if common.is_json() {
                    return output::json(&added);
                }
                tell(&added);
                added.roots
            }
            Self::List => admin.get("/vendor-roots").await?,
            Self::Remove { digest } => return remove(&admin, Trusted::VendorRoot, digest).await,
        };
        if common.is_json() {
            return output::json(&roots);
        }
        let row = |root: &VendorRoot| vec![root.subject.clone(), root.digest.to_string(), date(root.added)];
        output::table(&["SUBJECT", "DIGEST", "ADDED"], &roots.iter().map(row).collect::<Vec<_>>());
        Ok(())
    }
}

/// For a person, beside the list: what of the file was taken.
fn tell(added: &VendorAdded) {
    eprintln!("{} added, {} known before", added.added, added.known);
    for VendorPart { what, why } in &added.left_out {
        eprintln!("left out: {what}: {why}");
    }
    if added.left_out_more > 0 {
        eprintln!("left out: {} parts more", added.left_out_more);
    }
    for VendorPart { what, why } in &added.useless {
        eprintln!("of no use yet: {what}: {why}");
    }
}

/// Subcommands of `operator-key`.
#[derive(Debug, Subcommand)]
pub enum OperatorKey {
    /// Pin an operator's public key (PEM).
    Add {
        file: PathBuf,
        /// Name of the key; that of the file when absent.
        #[arg(long)]
        name: Option<String>,
    },
    List,
    /// Carry no more deployments of an operator. Gateways pin operators' keys themselves: take it out of their
    /// configuration too.
    Remove {
        name: String,
    },
}

impl OperatorKey {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let admin = common.admin()?;
        let keys: Vec<admin_api::OperatorKey> = match self {
            Self::Add { file, name } => {
                let stem =
                    || file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
                let public_key = key::read_text(&file, PEM_BYTES_MAX)?.to_string();
                let request = OperatorKeyRequest { name: name.unwrap_or_else(stem), public_key };
                vec![admin.post("/operator-keys", &request).await?]
            }
            Self::List => admin.get("/operator-keys").await?,
            Self::Remove { name } => return remove(&admin, Trusted::OperatorKey, name).await,
        };
        if common.is_json() {
            return output::json(&keys);
        }
        for key in keys {
            say!("{}\n{}", key.name, key.public_key.trim_end());
        }
        Ok(())
    }
}
