//! `key generate`, and reading such keys.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use clap::Subcommand;
use edgewarden_ca::spki;
use edgewarden_names::pem;
use edgewarden_platform::durable;
use edgewarden_protocol::dsse::{Envelope, Signature, pre_authentication_encoding};
use serde::Serialize;
use zeroize::Zeroizing;

use super::common::Common;
use super::exit::Stop;
use super::output;

const KEY_BYTES_MAX: usize = 64 * 1024;

/// Subcommands of `key`.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Write a new P-256 key to FILE (PKCS#8, mode 0600) and its public half to FILE.pub.
    Generate {
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Serialize)]
struct Made {
    private: PathBuf,
    public: PathBuf,
}

impl Key {
    pub(super) fn run(self, common: &Common) -> Result<(), Stop> {
        let Self::Generate { out } = self;
        if out.exists() {
            return Err(Stop::Failed(format!(
                "`{}` is there already; a key is never overwritten",
                out.display()
            )));
        }
        let random = |_| Stop::Failed("no random numbers".into());
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(random)?;
        let mut public = out.clone().into_os_string();
        public.push(".pub");
        let public = PathBuf::from(public);
        let text = spki::to_pem(key.public_key().as_ref()).map_err(Stop::failed)?;
        write(&public, text.as_bytes(), 0o644)?;
        let der = key.to_pkcs8v1().map_err(|_| Stop::Failed("the key cannot be written".into()))?;
        let text = Zeroizing::new(pem::encode(pem::PRIVATE_KEY, der.as_ref()));
        write(&out, text.as_bytes(), 0o600)?;
        let made = Made { private: out, public };
        if common.is_json() {
            return output::json(&made);
        }
        eprintln!("keep the private key off the server; gateways and the fleet pin the public one:");
        say!("{}", made.public.display());
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Stop> {
    durable::write(path, bytes, mode)
        .map_err(|error| Stop::Failed(format!("cannot write `{}`: {error}", path.display())))
}

/// Reads a file that the operator named.
pub fn read(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, Stop> {
    match durable::read(path, bytes_max) {
        Ok(Some(bytes)) => Ok(Zeroizing::new(bytes)),
        Ok(None) => Err(Stop::Failed(format!("there is no `{}`", path.display()))),
        Err(error) => Err(Stop::Failed(format!("cannot read `{}`: {error}", path.display()))),
    }
}

/// Reads a UTF-8 file that the operator named, of at most `bytes_max`. The text is wiped when dropped.
pub fn read_text(path: &Path, bytes_max: usize) -> Result<Zeroizing<String>, Stop> {
    let bytes = read(path, bytes_max)?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| Stop::Failed(format!("`{}` is not text", path.display())))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Signs a payload with the key in a file.
pub fn sign(path: &Path, payload_type: &str, payload: Vec<u8>) -> Result<Envelope, Stop> {
    let text = read_text(path, KEY_BYTES_MAX)?;
    let invalid =
        |what: String| Stop::Failed(format!("`{}` is not an operator's key: {what}", path.display()));
    let der = Zeroizing::new(pem::one(&text, pem::PRIVATE_KEY).map_err(|error| invalid(error.to_string()))?);
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der)
        .map_err(|_| invalid("not P-256 in PKCS#8".into()))?;
    let signed = pre_authentication_encoding(payload_type, &payload);
    let sig = key.sign(&SystemRandom::new(), &signed).map_err(|_| invalid("it does not sign".into()))?;
    let keyid = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Envelope {
        payload_type: payload_type.into(),
        payload: payload.into(),
        signatures: vec![Signature { keyid, sig: sig.as_ref().into() }],
    })
}
