//! `svid fetch`: what this process may have of a socket, once or for as long as it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgewarden_ca::chain::facts;
use edgewarden_names::{SpiffeId, TrustDomain, UnixTime, pem};
use edgewarden_platform::durable;
use edgewarden_svid::X509Context;
use edgewarden_workload_client::{self as client, bundles, fetch_jwt_svid_of};
use serde_json::{Value, json};

use super::{Socket, claims, problem};
use crate::exit::Problem;
use crate::output::{self, Format, at, until};

const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// Arguments of `svid fetch`.
#[derive(Debug, clap::Args)]
pub struct Fetch {
    #[command(flatten)]
    socket: Socket,
    /// `x509` when it is left out.
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The certificate and the trust domain's roots.
    X509 {
        /// Also writes `svid.pem`, `svid_key.pem` (mode 0600) and `bundle.pem` into a folder.
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
    /// A JWT-SVID: whoever holds it is taken for this module until it expires.
    Jwt {
        /// Audience of the token. May be given several times.
        #[arg(long, required = true)]
        audience: Vec<String>,
        /// Another identity of this module than its first.
        #[arg(long)]
        spiffe_id: Option<SpiffeId>,
    },
    /// X.509 roots and JWT keys that peers are checked with.
    Bundle {
        /// Another trust domain than this module's own.
        #[arg(long)]
        trust_domain: Option<TrustDomain>,
    },
    /// Each certificate as it comes, until this command is ended.
    Watch,
}

impl Fetch {
    /// Prints what the Workload API socket gives to this process. Exit code 3 when it refuses.
    pub async fn run(self, format: Format) -> Result<(), Problem> {
        let socket = self.socket.path();
        match self.what.unwrap_or(What::X509 { write: None }) {
            What::X509 { write } => x509(socket, write.as_deref(), format).await,
            What::Jwt { audience, spiffe_id } => token(socket, &audience, spiffe_id.as_ref(), format).await,
            What::Bundle { trust_domain } => bundle(socket, trust_domain, format).await,
            What::Watch => watch(socket, format).await,
        }
    }
}

async fn x509(socket: &Path, write: Option<&Path>, format: Format) -> Result<(), Problem> {
    let context = client::fetch_once(socket).await.map_err(|error| problem(error, socket))?;
    if let Some(folder) = write {
        let key = pem::encode_secret(pem::PRIVATE_KEY, &context.key_pkcs8);
        let files = [
            ("svid_key.pem", key.as_bytes(), KEY_MODE),
            ("svid.pem", pem::chain(&context.chain_der).as_bytes(), CERTIFICATE_MODE),
            ("bundle.pem", pem::chain(&context.bundle_der).as_bytes(), CERTIFICATE_MODE),
        ]
        .map(|(name, bytes, mode)| (folder.join(name), bytes.to_vec(), mode));
        std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, &error))?;
        for (path, bytes, mode) in files {
            let bytes = zeroize::Zeroizing::new(bytes);
            durable::write(&path, &bytes, mode).map_err(|error| cannot_write(&path, &error))?;
        }
    }
    print(&context, format)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Problem {
    Problem::text(format!("cannot write `{}`: {error}", path.display()))
}

async fn watch(socket: &Path, format: Format) -> Result<(), Problem> {
    let mut current = client::follow(socket.to_owned());
    let mut last: Option<Arc<X509Context>> = None;
    while current.changed().await.is_ok() {
        let Some(context) = current.borrow_and_update().clone() else { continue };
        // A stream that was opened again begins with what there was.
        let same = |last: &Arc<X509Context>| {
            last.chain_der == context.chain_der && last.bundle_der == context.bundle_der
        };
        if !last.as_ref().is_some_and(same) {
            print(&context, format)?;
        }
        last = Some(context);
    }
    Ok(())
}

fn print(context: &X509Context, format: Format) -> Result<(), Problem> {
    let leaf = context.chain_der.first().and_then(|der| facts(der).ok());
    match format {
        Format::Pem => print!("{}", pem::chain(&context.chain_der)),
        Format::Json => {
            return output::json(&json!({
                "spiffe_id": context.id,
                "serial": leaf.as_ref().map(|leaf| &leaf.serial),
                "not_before": leaf.as_ref().map(|leaf| leaf.not_before),
                "not_after": leaf.as_ref().map(|leaf| leaf.not_after),
                "chain": pem::chain(&context.chain_der),
                "bundle": pem::chain(&context.bundle_der),
            }));
        }
        Format::Text => {
            println!("{}", context.id);
            if let Some(leaf) = leaf {
                println!("  serial      {}", leaf.serial);
                println!("  valid until {} ({})", at(leaf.not_after), until(leaf.not_after, UnixTime::now()));
            }
            println!("  chain       {}", counted(context.chain_der.len(), "certificate"));
            println!(
                "  bundle      {} of {}",
                counted(context.bundle_der.len(), "root"),
                context.trust_domain
            );
        }
    }
    Ok(())
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

async fn token(
    socket: &Path,
    audience: &[String],
    id: Option<&SpiffeId>,
    format: Format,
) -> Result<(), Problem> {
    if format == Format::Pem {
        return Err(Problem::Usage("a JWT has no PEM form".into()));
    }
    let token = fetch_jwt_svid_of(socket, audience, id).await.map_err(|error| problem(error, socket))?;
    if format == Format::Json {
        let expires = claims::expires(&token.token);
        return output::json(&json!({"spiffe_id": token.id, "token": *token.token, "expires": expires}));
    }
    println!("{}", *token.token);
    Ok(())
}

async fn bundle(socket: &Path, domain: Option<TrustDomain>, format: Format) -> Result<(), Problem> {
    let roots = bundles::fetch_roots(socket).await.map_err(|error| problem(error, socket))?;
    let domain = if let Some(domain) = domain {
        domain
    } else {
        let own = client::fetch_once(socket).await.map_err(|error| problem(error, socket))?;
        own.trust_domain.clone()
    };
    let missing = || Problem::text(format!("the socket has no bundle of `{domain}`"));
    let own = roots.get(&domain).ok_or_else(missing)?;
    match format {
        Format::Pem => print!("{}", pem::chain(own)),
        Format::Text => {
            println!("{}", domain.id());
            for facts in own.iter().filter_map(|der| facts(der).ok()) {
                println!("  root {}  valid until {}", facts.serial, at(facts.not_after));
            }
        }
        Format::Json => {
            // A socket without the JWT profile has roots all the same.
            let sets = bundles::fetch_jwk_sets(socket).await.unwrap_or_default();
            let jwks = sets.get(&domain).map(|set| serde_json::from_slice::<Value>(set));
            let jwks = jwks.transpose().map_err(Problem::failed)?;
            let x509 = pem::chain(own);
            return output::json(&json!({"trust_domain": domain, "x509": x509, "jwks": jwks}));
        }
    }
    Ok(())
}
