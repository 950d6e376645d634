//! The trait behind the resident keys of one socket.

use edgewarden_names::{KeyName, Refusal};
use edgewarden_workload_wire::keys::{Capability, Certified, Key, Purpose, Use, Wanted};
use zeroize::Zeroizing;

/// The keys of one instance's module. The caller has been judged as for the Workload API, and is judged once more
/// before an answer goes out.
///
/// All calls but [`KeySource::admit`] block, on a disk or a chip.
pub trait KeySource: Send + Sync + 'static {
    /// A place among the module's calls, for as long as it is held. Returns at once.
    fn admit(&self) -> Result<Place, Refusal>;

    /// Something was refused: for the audit log.
    fn refused(&self, refusal: &Refusal);

    /// A signing key comes with its public half, DER SubjectPublicKeyInfo.
    fn create(
        &self,
        name: &KeyName,
        purpose: Purpose,
        wanted: Wanted,
    ) -> Result<(Key, Capability, Option<Vec<u8>>), Refusal>;

    fn grant(&self, name: &KeyName, wanted: Wanted) -> Result<(Key, Capability), Refusal>;

    /// A signing key's public half: DER SubjectPublicKeyInfo.
    fn public_key(&self, name: &KeyName) -> Result<Vec<u8>, Refusal>;

    fn sign(&self, by: &Use, message: &[u8]) -> Result<Vec<u8>, Refusal>;

    /// An empty nonce asks for no attestation.
    fn certify(&self, by: &Use, nonce: &[u8]) -> Result<Certified, Refusal>;

    fn encrypt(&self, by: &Use, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>, Refusal>;

    fn decrypt(&self, by: &Use, ciphertext: &[u8], context: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal>;

    /// An empty capability: the name must be free.
    fn seal(&self, by: &Use, secret: &[u8], wanted: Wanted) -> Result<(Key, Capability), Refusal>;

    fn unseal(&self, by: &Use) -> Result<Zeroizing<Vec<u8>>, Refusal>;

    fn delete(&self, by: &Use) -> Result<(), Refusal>;

    fn list(&self) -> Result<Vec<Key>, Refusal>;
}

/// A place among calls, given back when it is dropped.
pub struct Place(Box<dyn std::any::Any + Send>);

impl Place {
    /// Keeps `held` until the place is dropped.
    pub fn new(held: impl Send + 'static) -> Self {
        Self(Box::new(held))
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Place").field(&self.0.type_id()).finish()
    }
}
