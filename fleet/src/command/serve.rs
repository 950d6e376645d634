//! `init` and `serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use edgewarden_names::{TrustDomain, UnixTime};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::common::Common;
use super::exit::Stop;
use super::output;
use crate::data_dir::Settings;
use crate::selection::Carry;
use crate::server::{self, Options, ServeError, bundle};

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// The name of everything in this fleet, such as `plant.example`. It never changes.
    #[arg(long)]
    trust_domain: TrustDomain,
    /// Host names and addresses that gateways reach the server by.
    #[arg(long = "name", value_delimiter = ',', required = true)]
    names: Vec<String>,
}

#[derive(Serialize)]
struct Made<'a> {
    trust_domain: &'a TrustDomain,
    root: PathBuf,
}

impl Init {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let data = common.data()?;
        let settings = Settings { trust_domain: self.trust_domain, hosts: self.names, lease: Vec::new() };
        data.init(&settings, UnixTime::now()).await.map_err(Stop::failed)?;
        let made = Made { trust_domain: &settings.trust_domain, root: data.root_file() };
        if common.is_json() {
            return output::json(&made);
        }
        eprintln!("the fleet `{}` is made; gateways pin its root:", made.trust_domain);
        say!("{}", made.root.display());
        Ok(())
    }
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address for gateways and operators (TLS).
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Address for the dashboard: plain HTTP, so a loopback address only.
    #[arg(long)]
    web: Option<SocketAddr>,
    /// Most connections of gateways at a time; what the machine's open files and memory bear when absent.
    #[arg(long, value_name = "NUMBER")]
    connections: Option<usize>,
    /// The public key (PEM) of an operator who may sign deployments.
    #[arg(long = "operator-key", value_name = "FILE")]
    operator_keys: Vec<PathBuf>,
    /// CA certificates (PEM) of TPM vendors to trust.
    #[arg(long, value_name = "FILE")]
    vendor_roots: Vec<PathBuf>,
    /// Address at which other trust domains get our trust domain's bundle (HTTPS, path `/`, open to everybody).
    #[arg(long, value_name = "ADDRESS")]
    bundle_listen: Option<SocketAddr>,
    /// Proof of the bundle's endpoint: our own certificate, or one that others' CAs vouch for.
    #[arg(long, value_enum, default_value_t = BundleProfile::HttpsSpiffe, requires = "bundle_listen")]
    bundle_profile: BundleProfile,
    /// For `https_web`: the certificate and its issuers (PEM).
    #[arg(long, value_name = "FILE", requires_all = ["bundle_listen", "bundle_key"])]
    bundle_certificate: Option<PathBuf>,
    /// For `https_web`: its key (PEM, PKCS#8).
    #[arg(long, value_name = "FILE", requires_all = ["bundle_listen", "bundle_certificate"])]
    bundle_key: Option<PathBuf>,
    /// Carry deployments without checking signatures and versions, to show that gateways refuse them.
    #[arg(long)]
    dangerous_carry_unverified: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum BundleProfile {
    #[value(name = "https_spiffe")]
    HttpsSpiffe,
    #[value(name = "https_web")]
    HttpsWeb,
}

impl Serve {
    fn bundle(&self) -> Result<Option<bundle::Endpoint>, Stop> {
        let Some(listen) = self.bundle_listen else { return Ok(None) };
        let profile = match (self.bundle_profile, &self.bundle_certificate, &self.bundle_key) {
            (BundleProfile::HttpsSpiffe, None, None) => bundle::Profile::HttpsSpiffe,
            (BundleProfile::HttpsWeb, Some(certificate), Some(key)) => {
                bundle::Profile::HttpsWeb { certificate: certificate.clone(), key: key.clone() }
            }
            _ => {
                let wants = "--bundle-certificate and --bundle-key go with --bundle-profile https_web, and only with it";
                return Err(Stop::usage(wants.to_owned()));
            }
        };
        Ok(Some(bundle::Endpoint { listen, profile }))
    }

    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let carry =
            if self.dangerous_carry_unverified { Carry::DangerousUnverified } else { Carry::Verified };
        let options = Options {
            bundle: self.bundle()?,
            data: common.data()?,
            listen: self.listen,
            web: self.web,
            connections: self.connections,
            operator_keys: self.operator_keys,
            vendor_roots: self.vendor_roots,
            carry,
        };
        let mut terminate = signal(SignalKind::terminate()).map_err(Stop::failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Stop::failed)?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server::serve(options, stop).await.map_err(|error| match error {
            ServeError::WebNotLoopback(_) => Stop::usage(error.to_string()),
            other => Stop::failed(other),
        })
    }
}
