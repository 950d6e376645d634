//! Names, modes and contents of the files that are kept.

use edgewarden_names::{TrustDomain, pem};
use edgewarden_workload_client::bundles::JwkSets;

use edgewarden_svid::{JwtSvid, X509Context};
use zeroize::Zeroizing;

use super::folder::Document;
use crate::exit::Problem;

/// Widest mode of a file with a secret: its owner and its group may read and write.
const SECRET_MODE_MAX: u32 = 0o660;
const PUBLIC_MODE_MAX: u32 = 0o664;
const NAME_BYTES_MAX: usize = 128;

/// Names and modes of the files, as options of `svid watch`.
#[derive(Debug, clap::Args)]
pub struct Names {
    /// The certificate chain, this module's certificate first.
    #[arg(long, default_value = "svid.pem", value_parser = file_name)]
    cert_name: String,
    /// The private key.
    #[arg(long, default_value = "svid_key.pem", value_parser = file_name)]
    key_name: String,
    /// The trust domain's roots.
    #[arg(long, default_value = "bundle.pem", value_parser = file_name)]
    bundle_name: String,
    /// Also one file with the key and the certificate chain, for a program that reads both from one.
    #[arg(long, value_parser = file_name)]
    combined_name: Option<String>,
    /// Also the trust domain's JWT keys, as a JWK Set.
    #[arg(long, value_parser = file_name)]
    pub jwks_name: Option<String>,
    /// Also a JWT for one or several audiences: `FILE=AUDIENCE[,AUDIENCE…]`. May be given several times.
    #[arg(long = "jwt", value_name = "FILE=AUDIENCE", value_parser = jwt_file)]
    pub jwts: Vec<JwtFile>,
    /// Mode of the files with secrets: key, combined file, JWTs. Never open to everybody.
    #[arg(long, default_value = "0600", value_parser = secret_mode)]
    key_mode: u32,
    /// Mode of the other files.
    #[arg(long, default_value = "0644", value_parser = public_mode)]
    cert_mode: u32,
}

/// File name and audiences of a kept JWT-SVID, parsed from `FILE=AUDIENCE[,AUDIENCE…]`.
#[derive(Debug, Clone)]
pub struct JwtFile {
    name: String,
    pub audience: Vec<String>,
}

impl Names {
    /// Fails unless each file has a name of its own.
    pub fn check(&self) -> Result<(), Problem> {
        let all = [Some(&self.cert_name), Some(&self.key_name), Some(&self.bundle_name)];
        let all = all.into_iter().chain([self.combined_name.as_ref(), self.jwks_name.as_ref()]).flatten();
        let mut names: Vec<&String> = all.chain(self.jwts.iter().map(|jwt| &jwt.name)).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        if names.len() == count { Ok(()) } else { Err(Problem::Usage("two files have the same name".into())) }
    }

    /// The files of one moment. `tokens` are in the order of `jwts`.
    pub fn documents(
        &self,
        context: &X509Context,
        tokens: &[std::sync::Arc<JwtSvid>],
        jwks: Option<&JwkSets>,
    ) -> Vec<Document> {
        let chain = pem::chain(&context.chain_der);
        let key = pem::encode_secret(pem::PRIVATE_KEY, &context.key_pkcs8);
        let public = |name: &str, bytes: &[u8]| self.document(name, bytes, self.cert_mode);
        let secret = |name: &str, bytes: &[u8]| self.document(name, bytes, self.key_mode);
        let mut documents = vec![
            public(&self.cert_name, chain.as_bytes()),
            secret(&self.key_name, key.as_bytes()),
            public(&self.bundle_name, pem::chain(&context.bundle_der).as_bytes()),
        ];
        if let Some(name) = &self.combined_name {
            documents.push(secret(name, &Zeroizing::new([key.as_bytes(), chain.as_bytes()].concat())));
        }
        if let Some(name) = &self.jwks_name {
            documents.push(public(name, own_keys(jwks, &context.trust_domain)));
        }
        for (jwt, token) in self.jwts.iter().zip(tokens) {
            documents.push(secret(&jwt.name, token.token.as_bytes()));
        }
        documents
    }

    #[expect(clippy::unused_self, reason = "reads as what it is")]
    fn document(&self, name: &str, bytes: &[u8], mode: u32) -> Document {
        Document { name: name.to_owned(), bytes: Zeroizing::new(bytes.to_vec()), mode }
    }
}

/// A trust domain without JWT keys has the empty set, by which no token is valid.
fn own_keys<'a>(sets: Option<&'a JwkSets>, domain: &TrustDomain) -> &'a [u8] {
    sets.and_then(|sets| sets.get(domain)).map_or(br#"{"keys":[]}"#, |set| set)
}

/// A name in the folder, and none that the folder itself uses.
fn file_name(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && !text.starts_with(['.', '-'])
        && text != "current"
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if good {
        Ok(text.to_owned())
    } else {
        Err("a file name has letters, digits, `.`, `_` and `-` only".into())
    }
}

fn jwt_file(text: &str) -> Result<JwtFile, String> {
    let (name, audience) = text.split_once('=').ok_or("write FILE=AUDIENCE")?;
    let audience: Vec<String> = audience.split(',').map(str::to_owned).collect();
    if audience.iter().any(String::is_empty) {
        return Err("an audience is empty".into());
    }
    Ok(JwtFile { name: file_name(name)?, audience })
}

fn mode(text: &str, most: u32) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).map_err(|_| "a mode is an octal number".to_owned())?;
    if mode & !most != 0 || mode & 0o400 == 0 {
        return Err(format!("the mode must lie within {most:04o} and let the owner read"));
    }
    Ok(mode)
}

fn secret_mode(text: &str) -> Result<u32, String> {
    mode(text, SECRET_MODE_MAX)
}

fn public_mode(text: &str) -> Result<u32, String> {
    mode(text, PUBLIC_MODE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_open_to_everybody() {
        for (text, good) in [
            ("0600", true),
            ("600", true),
            ("0400", true),
            ("0640", true),
            ("0660", true),
            ("0644", false),
            ("0604", false),
            ("0700", false),
            ("4600", false),
            ("0060", false),
            ("rw", false),
            ("", false),
        ] {
            assert_eq!(secret_mode(text).is_ok(), good, "{text}");
        }
        assert!(public_mode("0644").is_ok() && public_mode("0666").is_err());
    }

    #[test]
    fn a_name_stays_in_the_folder() {
        for bad in ["", ".", "..", "a/b", "/a", ".svid-1", "current", "-x", "a b", "ä", &"x".repeat(129)] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
        assert!(file_name("tls.crt").is_ok());
        assert_eq!(
            jwt_file("t.jwt=https://a.example/?x=1,b").unwrap().audience,
            ["https://a.example/?x=1", "b"]
        );
        for bad in ["t.jwt", "t.jwt=", "t.jwt=a,,b", "../t=a"] {
            assert!(jwt_file(bad).is_err(), "{bad}");
        }
    }
}
