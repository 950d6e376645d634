//! The keys that a module uses by name and never sees: two to sign with, one to encrypt with.
//!
//! All derive (HKDF, RFC 5869) from one random secret that the keystore seals once for the gateway. One secret, because
//! stores hold few and names of modules have no end. A module's keys belong to its name, as its SPIFFE ID does: they
//! stay the same over restarts, new generations and new images.

use aws_lc_rs::hmac;
use edgewarden_decisions::deployments::Target;
use edgewarden_iotedge_api::KeyId;
use edgewarden_names::{ModuleName, Reason, Refusal};
use zeroize::Zeroizing;

use crate::envelope::{self, Key};
use crate::kept::KeptSecrets;
use crate::refuse::internal;

/// The name under which the keystore seals the secret.
const SECRET_NAME: &str = "iotedge-modules";
/// The lengths of all are bounded by who asks: a field's own is authenticated with it.
const ENCRYPTION: &[u8] = b"iotedge encrypt";

/// Keys of one module for IoT Edge's API: two to sign with, one to encrypt with.
pub struct ModuleKeys {
    primary: hmac::Key,
    secondary: hmac::Key,
    encryption: Key,
    /// Trust domain, gateway, module: what is encrypted belongs to them.
    owner: [String; 3],
}

impl std::fmt::Debug for ModuleKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ModuleKeys(..)")
    }
}

impl ModuleKeys {
    /// Blocks on the keystore.
    pub fn of(kept: &KeptSecrets, target: &Target, module: &ModuleName) -> Result<Self, Refusal> {
        let secret = kept.secret(SECRET_NAME)?;
        let owner = [target.trust_domain.to_string(), target.gateway.to_string(), module.to_string()];
        Self::derive(&secret, owner).map_err(|error| internal("module keys", &error))
    }

    fn derive(secret: &Key, owner: [String; 3]) -> Result<Self, envelope::CipherFailed> {
        let [domain, gateway, module] = owner.each_ref().map(String::as_bytes);
        let key = |purpose: &[u8]| envelope::derive(secret.as_slice(), &[purpose, domain, gateway, module]);
        let signing =
            |purpose: &[u8]| key(purpose).map(|key| hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()));
        Ok(Self {
            primary: signing(b"iotedge sign primary")?,
            secondary: signing(b"iotedge sign secondary")?,
            encryption: key(ENCRYPTION)?,
            owner,
        })
    }

    /// HMAC-SHA256 of `data`.
    pub fn sign(&self, key: KeyId, data: &[u8]) -> [u8; 32] {
        let key = match key {
            KeyId::Primary => &self.primary,
            KeyId::Secondary => &self.secondary,
        };
        let mut digest = [0; 32];
        for (to, from) in digest.iter_mut().zip(hmac::sign(key, data).as_ref()) {
            *to = *from;
        }
        digest
    }

    fn context<'a>(&'a self, initialization_vector: &'a [u8]) -> [&'a [u8]; 5] {
        let [domain, gateway, module] = self.owner.each_ref().map(String::as_bytes);
        [ENCRYPTION, domain, gateway, module, initialization_vector]
    }

    /// Ciphertext that only this module's key opens, with the same vector.
    pub fn encrypt(&self, plaintext: &[u8], initialization_vector: &[u8]) -> Result<Vec<u8>, Refusal> {
        let sealed = envelope::seal(&self.encryption, &self.context(initialization_vector), plaintext);
        sealed.map_err(|error| internal("encryption", &error))
    }

    /// The plaintext. Fails with `iotedge.ciphertext` for what this key did not make.
    pub fn decrypt(
        &self,
        ciphertext: &[u8],
        initialization_vector: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        envelope::open(&self.encryption, &self.context(initialization_vector), ciphertext).map_err(|error| {
            let [.., module] = &self.owner;
            Refusal::new(Reason::IotedgeCiphertext, module, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: u8, owner: [&str; 3]) -> ModuleKeys {
        ModuleKeys::derive(&Zeroizing::new([secret; 32]), owner.map(Into::into)).unwrap()
    }

    #[test]
    fn modules_share_no_key() {
        let own = keys(1, ["plant.example", "gw-1", "alerts"]);
        let sealed = own.encrypt(b"value", b"iv").unwrap();
        let digest = own.sign(KeyId::Primary, b"data");
        assert_ne!(own.sign(KeyId::Secondary, b"data"), digest);
        let again = keys(1, ["plant.example", "gw-1", "alerts"]);
        assert_eq!(again.sign(KeyId::Primary, b"data"), digest);
        assert_eq!(again.decrypt(&sealed, b"iv").unwrap().as_slice(), b"value");
        for other in [
            keys(2, ["plant.example", "gw-1", "alerts"]),
            keys(1, ["plant.example", "gw-1", "analytics"]),
            keys(1, ["plant.example", "gw-2", "alerts"]),
            keys(1, ["other.example", "gw-1", "alerts"]),
            keys(1, ["plant.example", "gw-1a", "lerts"]),
        ] {
            assert_ne!(other.sign(KeyId::Primary, b"data"), digest);
            let refusal = other.decrypt(&sealed, b"iv").unwrap_err();
            assert_eq!(refusal.reason, Reason::IotedgeCiphertext);
        }
    }
}
