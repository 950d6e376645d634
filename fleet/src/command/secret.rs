//! `secret`: seals values to gateways. A value comes from standard input or a file, and leaves this process sealed.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use edgewarden_names::{Digest, GatewayName, ModuleName, SecretName, UnixTime, pem};
use edgewarden_platform::durable;
use edgewarden_protocol::secret::{
    AgreementKey, Content, KEY_BYTES_MAX, PAYLOAD_TYPE, SealedValue, SecretDocument, VALUE_BYTES_MAX,
};
use zeroize::Zeroizing;

use super::common::Common;
use super::exit::Stop;
use super::{key, output};
use crate::admin_api::{SecretRequest, SecretView};
use crate::agreement;
use crate::when::date;

const PEM_BYTES_MAX: usize = 64 * 1024;

/// Subcommands of `secret`.
#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Seal a value to a gateway, for one of its modules, and send it. The value is standard input, byte for byte.
    Seal(Seal),
    /// Take a secret away from a gateway.
    Remove(Remove),
    /// Names, versions and whether the gateways have them. Values are nowhere but on the gateways, sealed.
    List {
        #[arg(long)]
        gateway: Option<GatewayName>,
    },
}

#[derive(Debug, Args)]
struct Which {
    #[arg(long)]
    gateway: GatewayName,
    #[arg(long)]
    module: ModuleName,
    #[arg(long)]
    name: SecretName,
    /// One above the fleet's newest when absent.
    #[arg(long)]
    version: Option<u64>,
    /// The operator's private key (PEM, PKCS#8).
    #[arg(long, value_name = "FILE")]
    operator_key: PathBuf,
    /// Write the signed envelope to a file instead of sending it; `edgewarden secret import` takes it on the gateway.
    #[arg(long, value_name = "FILE", requires = "version")]
    out: Option<PathBuf>,
}

/// Arguments of `secret seal`.
#[derive(Debug, Args)]
pub struct Seal {
    #[command(flatten)]
    which: Which,
    /// Read the value from a file instead of standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The fleet's root (PEM), which the gateway's key is checked with; that of the fleet's folder when absent.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// The gateway's key as `edgewarden secret key` wrote it, instead of asking the fleet.
    #[arg(long, value_name = "FILE")]
    agreement_key: Option<PathBuf>,
}

/// Arguments of `secret remove`.
#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    which: Which,
}

impl Secret {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        match self {
            Self::Seal(seal) => seal.run(common).await,
            Self::Remove(Remove { which }) => which.send(Content::Removed, common).await,
            Self::List { gateway } => list(gateway.as_ref(), common).await,
        }
    }
}

impl Seal {
    async fn run(self, common: &Common) -> Result<(), Stop> {
        let root = match &self.root {
            Some(path) => {
                let text = key::read_text(path, PEM_BYTES_MAX)?;
                pem::one(&text, pem::CERTIFICATE).map_err(Stop::failed)?
            }
            None => common.data()?.root_certificate().map_err(Stop::failed)?,
        };
        let domain = common.data()?.settings().map_err(Stop::failed)?.trust_domain;
        let gateway = &self.which.gateway;
        let agreement: AgreementKey = match &self.agreement_key {
            Some(path) => serde_json::from_slice(&key::read(path, 2 * KEY_BYTES_MAX)?)
                .map_err(|error| Stop::Failed(format!("`{}` is not valid: {error}", path.display())))?,
            None => common.admin()?.get(&format!("/devices/{gateway}/agreement-key")).await?,
        };
        let point = agreement::verify(&agreement, &root, &domain, gateway, UnixTime::now())?;
        let version = self.which.version(common).await?;
        let value = value(self.file.as_deref())?;
        // The context is bound to the value, so the document is made first and its content filled in afterwards.
        let mut document = self.which.document(version, Content::Removed, common)?;
        let sealed =
            edgewarden_sealing::seal(&point, &document.context(), b"", &value).map_err(Stop::failed)?;
        document.content = Content::Sealed(SealedValue {
            recipient: Digest::of(&point),
            encapsulated: sealed.encapsulated.into(),
            ciphertext: sealed.ciphertext.into(),
        });
        self.which.sign_and_send(&document, common).await
    }
}

/// At most one byte more than may be, so that too long is told from long.
fn value(file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>, Stop> {
    let value = if let Some(path) = file {
        key::read(path, VALUE_BYTES_MAX)?
    } else {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            eprintln!("type the value, then Ctrl-D at the beginning of a line; line breaks are part of it");
        }
        // Room for all of it at once: no copy is left behind by growing.
        let mut value = Zeroizing::new(Vec::with_capacity(VALUE_BYTES_MAX + 64));
        stdin.lock().take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut value).map_err(Stop::failed)?;
        value
    };
    if value.is_empty() {
        return Err(Stop::usage("the value is empty: give it on standard input or with `--file`"));
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(Stop::Failed(format!("the value is longer than {VALUE_BYTES_MAX} bytes")));
    }
    Ok(value)
}

impl Which {
    async fn version(&self, common: &Common) -> Result<u64, Stop> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        let stored: Vec<SecretView> =
            common.admin()?.get(&format!("/secrets?gateway={}", self.gateway)).await?;
        let ours = stored.iter().find(|secret| secret.module == self.module && secret.name == self.name);
        // The gateway may have a newer one, brought to it by hand.
        let newest = ours.map_or(0, |secret| secret.version.max(secret.held.unwrap_or(0)));
        Ok(newest.saturating_add(1))
    }

    fn document(&self, version: u64, content: Content, common: &Common) -> Result<SecretDocument, Stop> {
        Ok(SecretDocument {
            trust_domain: common.data()?.settings().map_err(Stop::failed)?.trust_domain,
            gateway: self.gateway.clone(),
            module: self.module.clone(),
            name: self.name.clone(),
            version,
            content,
        })
    }

    async fn send(&self, content: Content, common: &Common) -> Result<(), Stop> {
        let version = self.version(common).await?;
        let document = self.document(version, content, common)?;
        self.sign_and_send(&document, common).await
    }

    async fn sign_and_send(&self, document: &SecretDocument, common: &Common) -> Result<(), Stop> {
        let payload = serde_json::to_vec(document).map_err(Stop::failed)?;
        // Through the bytes, as on the gateway.
        SecretDocument::parse(&payload)?;
        let envelope = key::sign(&self.operator_key, PAYLOAD_TYPE, payload)?;
        let bytes = serde_json::to_vec(&envelope).map_err(Stop::failed)?;
        if let Some(out) = &self.out {
            return durable::write(out, &bytes, 0o644)
                .map_err(|error| Stop::Failed(format!("cannot write `{}`: {error}", out.display())));
        }
        let sent: SecretView =
            common.admin()?.post("/secrets", &SecretRequest { envelope: bytes.into() }).await?;
        if common.is_json() {
            return output::json(&sent);
        }
        let what = if sent.removed { "removal of " } else { "" };
        say!("{what}{}/{} version {} for {}", sent.module, sent.name, sent.version, sent.gateway);
        Ok(())
    }
}

async fn list(gateway: Option<&GatewayName>, common: &Common) -> Result<(), Stop> {
    let of = gateway.map_or_else(String::new, |gateway| format!("?gateway={gateway}"));
    let secrets: Vec<SecretView> = common.admin()?.get(&format!("/secrets{of}")).await?;
    if common.is_json() {
        return output::json(&secrets);
    }
    let row = |secret: &SecretView| {
        let state = secret.state.as_str();
        vec![
            secret.gateway.to_string(),
            secret.module.to_string(),
            secret.name.to_string(),
            secret.version.to_string(),
            if secret.removed { format!("removed, {state}") } else { state.to_owned() },
            secret.held.map_or_else(|| "-".into(), |held| held.to_string()),
            secret.signer.clone(),
            date(secret.stored),
        ]
    };
    let head = ["GATEWAY", "MODULE", "SECRET", "VERSION", "STATE", "GATEWAY HAS", "SIGNED BY", "STORED"];
    output::table(&head, &secrets.iter().map(row).collect::<Vec<_>>());
    Ok(())
}
