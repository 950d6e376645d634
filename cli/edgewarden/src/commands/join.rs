//! `edgewarden join`: writes the configuration, proves the device to the fleet, and takes its certificate.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_exchange::client::Client;
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::config::{Attestation, Config, Fleet, Gateway, Identity, Keystore, Mqtt, Runtime};
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::token::JoinToken;
use edgewarden_runtimed::enrol::{self, EnrolError};
use tokio::process::Child;
use zeroize::Zeroizing;

use crate::exit::Problem;
use crate::folders;
use crate::output::{self, Format};
use crate::supervisor;

/// Time for `identityd` to open the TPM and answer.
const START: Duration = Duration::from_secs(20);

/// Arguments of `join`.
#[derive(Debug, clap::Args)]
pub struct Join {
    /// The gateway's name in the fleet.
    #[arg(long)]
    name: GatewayName,
    #[arg(long)]
    trust_domain: TrustDomain,
    /// `https://host:port`
    #[arg(long)]
    fleet: String,
    /// The fleet's root certificate (PEM): what `edgewarden-fleet init` wrote.
    #[arg(long)]
    fleet_root: PathBuf,
    /// File with the join token from `edgewarden-fleet token create`; `-` reads standard input. A file and not an
    /// argument, because other users can see arguments.
    #[arg(long)]
    token_file: PathBuf,
    /// Public key (PEM) of an operator who may sign deployments. Repeat for more.
    #[arg(long = "operator-key", required = true)]
    operator_keys: Vec<PathBuf>,
    /// A label that deployments select by, `key=value`. Repeat for more.
    #[arg(long = "label")]
    labels: Vec<String>,
    /// `tpm:/dev/tpmrm0`, `pkcs11:MODULE:TOKEN:PIN_FILE` (library, token label, and a file with the PIN that only
    /// `ew-identity` may read), `software:PASSPHRASE_FILE`, or `dangerous-simulated-tpm:127.0.0.1:PORT`.
    #[arg(long, default_value = "tpm:/dev/tpmrm0")]
    keystore: String,
    /// With a PKCS#11 keystore, what its library opens, to write or outside /etc and /usr: a device node, SoftHSM2's
    /// folder of tokens. Repeat for more.
    #[arg(long = "library-file")]
    library_files: Vec<PathBuf>,
    /// The TCG2 event log of this boot, when it is not where Linux puts it.
    #[arg(long)]
    event_log: Option<PathBuf>,
    /// A registry (`host:port`) to ask in plain HTTP. Repeat for more.
    #[arg(long)]
    plain_http: Vec<String>,
    /// Lifetime of module certificates in seconds, 10 to 3600.
    #[arg(long)]
    svid_lifetime: Option<u32>,
}

impl Join {
    /// Enrols the gateway and prints the fleet's verdict. Exit code 3 when the fleet refuses it.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let token = self.token()?;
        folders::prepare(layout)?;
        self.write_configuration(layout)?;
        let config = super::load(layout)?;
        // Kept until the end of the exchange: it ends with this value.
        let _identityd = running_identityd(layout, &config).await?;
        let client = edgewarden_runtimed::identity::Client::new(layout);
        let verdict = match enrol::join(&config, token, &client).await {
            Ok(verdict) => verdict,
            Err(EnrolError::Refused(refusal)) => return Err(refusal.into()),
            Err(error) => return Err(Problem::failed(error)),
        };
        if format == Format::Json {
            return output::json(&verdict);
        }
        println!("joined {} as {}", self.fleet, self.name);
        for check in &verdict.checks {
            println!("  {} {}: {}", if check.passed { "✓" } else { "✗" }, check.name, check.detail);
        }
        println!("verdict: {} (hardware: {})", verdict.state.as_str(), verdict.hardware);
        Ok(())
    }

    fn token(&self) -> Result<JoinToken, Problem> {
        let text = if self.token_file == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            fs::read_to_string(&self.token_file)
        };
        let text = text.map_err(|error| {
            Problem::text(format!("cannot read the token from `{}`: {error}", self.token_file.display()))
        })?;
        Ok(Zeroizing::new(text).trim().into())
    }

    fn write_configuration(&self, layout: &Layout) -> Result<(), Problem> {
        let file = layout.config_file();
        let folder =
            file.parent().ok_or_else(|| Problem::text(format!("`{}` lies in no folder", file.display())))?;
        fs::create_dir_all(folder)
            .map_err(|error| Problem::text(format!("cannot make `{}`: {error}", folder.display())))?;
        let root = install(&self.fleet_root, &folder.join("fleet-root.pem"))?;
        let mut operator_keys = Vec::new();
        for (number, key) in self.operator_keys.iter().enumerate() {
            operator_keys.push(install(key, &folder.join(format!("operator-{}.pem", number + 1)))?);
        }
        let mut labels = BTreeMap::new();
        for label in &self.labels {
            let (key, value) = label
                .split_once('=')
                .ok_or_else(|| Problem::Usage(format!("`{label}` is not a label: write `key=value`")))?;
            labels.insert(key.to_owned(), value.to_owned());
        }
        let mut identity = Identity::default();
        if let Some(seconds) = self.svid_lifetime {
            identity.svid_lifetime_seconds = seconds;
        }
        let config = Config {
            gateway: Gateway { name: self.name.clone(), trust_domain: self.trust_domain.clone(), labels },
            fleet: Some(Fleet { url: self.fleet.clone(), root, operator_keys }),
            est: None,
            keystore: keystore(&self.keystore, &self.library_files)?,
            attestation: self.event_log.clone().map_or_else(Attestation::default, |event_log| Attestation {
                event_log,
                ..Attestation::default()
            }),
            identity,
            runtime: Runtime { plain_http_registries: self.plain_http.clone(), ..Runtime::default() },
            mqtt: Mqtt::default(),
        };
        let text = toml::to_string_pretty(&config).map_err(Problem::failed)?;
        write(&file, text.as_bytes())
    }
}

fn keystore(text: &str, library_files: &[PathBuf]) -> Result<Keystore, Problem> {
    let wrong = || {
        Problem::Usage(format!(
            "`{text}` is not a keystore: write `tpm:DEVICE`, `pkcs11:MODULE:TOKEN:PIN_FILE`, `software:PASSPHRASE_FILE` or `dangerous-simulated-tpm:ADDRESS:PORT`"
        ))
    };
    if !library_files.is_empty() && !text.starts_with("pkcs11:") {
        return Err(Problem::Usage("`--library-file` is for a PKCS#11 keystore".into()));
    }
    match text.split_once(':') {
        // A token's label may have colons, paths have none.
        Some(("pkcs11", rest)) => {
            let (module, rest) = rest.split_once(':').ok_or_else(wrong)?;
            let (token, pin_file) = rest.rsplit_once(':').ok_or_else(wrong)?;
            if token.is_empty() || !Path::new(module).is_absolute() || !Path::new(pin_file).is_absolute() {
                return Err(wrong());
            }
            Ok(Keystore::Pkcs11 {
                module: module.into(),
                token: token.into(),
                pin_file: pin_file.into(),
                library_files: library_files.to_vec(),
            })
        }
        Some(("tpm", device)) => Ok(Keystore::Tpm { device: device.into() }),
        Some(("software", file)) => Ok(Keystore::Software { passphrase_file: file.into() }),
        Some(("dangerous-simulated-tpm", address)) => {
            let address: SocketAddr = address.parse().map_err(|_| wrong())?;
            Ok(Keystore::DangerousSimulatedTpm { address })
        }
        _ => Err(wrong()),
    }
}

/// Copies a public file to where the daemons, each with its own user, can read it.
fn install(from: &Path, to: &Path) -> Result<PathBuf, Problem> {
    let bytes = fs::read(from)
        .map_err(|error| Problem::text(format!("cannot read `{}`: {error}", from.display())))?;
    write(to, &bytes)?;
    Ok(to.to_path_buf())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    edgewarden_platform::durable::write(path, bytes, 0o644)
        .map_err(|error| Problem::text(format!("cannot write `{}`: {error}", path.display())))
}

/// The `identityd` that runs already, or one of our own for as long as the value lives.
async fn running_identityd(layout: &Layout, config: &Config) -> Result<Option<Child>, Problem> {
    let socket = layout.control_socket();
    if Client::connect(&socket).await.is_ok() {
        return Ok(None);
    }
    folders::copy_event_log(layout, config)?;
    let mut child = supervisor::start(supervisor::IDENTITYD, layout).map_err(Problem::failed)?;
    let deadline = tokio::time::Instant::now() + START;
    loop {
        if Client::connect(&socket).await.is_ok() {
            return Ok(Some(child));
        }
        if let Some(status) = child.try_wait().map_err(Problem::failed)? {
            return Err(Problem::text(format!("identityd ended ({status}); its message is above")));
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Problem::text(format!("identityd did not answer within {START:?}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_named_by_library_label_and_pin_file() {
        let files = [PathBuf::from("/var/lib/softhsm/tokens")];
        let parsed = keystore("pkcs11:/usr/lib/hsm.so:plant: gateway:/etc/edgewarden/pin", &files).ok();
        let Some(Keystore::Pkcs11 { module, token, pin_file, library_files }) = parsed else {
            panic!("refused")
        };
        assert_eq!(module, Path::new("/usr/lib/hsm.so"));
        assert_eq!(token, "plant: gateway");
        assert_eq!(pin_file, Path::new("/etc/edgewarden/pin"));
        assert_eq!(library_files, files);
        for bad in [
            "pkcs11:",
            "pkcs11:/usr/lib/hsm.so",
            "pkcs11:/usr/lib/hsm.so:gateway",
            "pkcs11:/usr/lib/hsm.so::/etc/edgewarden/pin",
            "pkcs11:hsm.so:gateway:/etc/edgewarden/pin",
            "pkcs11:/usr/lib/hsm.so:gateway:pin",
            "pkcs11:/usr/lib/hsm.so:gateway:",
            "pkcs12:/usr/lib/hsm.so:gateway:/etc/edgewarden/pin",
        ] {
            assert!(matches!(keystore(bad, &[]), Err(Problem::Usage(_))), "{bad}");
        }
        assert!(matches!(keystore("tpm:/dev/tpmrm0", &files), Err(Problem::Usage(_))));
        assert!(keystore("tpm:/dev/tpmrm0", &[]).is_ok());
    }
}
