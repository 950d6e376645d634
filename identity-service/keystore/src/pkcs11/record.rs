//! Record of the keys that the token had when this state folder first saw it. Without it a key that was deleted would
//! be made anew, and the gateway would be another one without anybody having said so.
//!
//! Holds nothing secret. Trusts the state folder's owner: without the record the next open takes what it finds.

use std::path::{Path, PathBuf};

use edgewarden_platform::durable;

use crate::error::KeystoreError;

const HEADER: &str = "edgewarden pkcs11 keys 2";
/// Written before there was a key for agreement.
const HEADER_1: &str = "edgewarden pkcs11 keys 1";
/// More than it takes.
const FILE_BYTES_MAX: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The public points.
    pub(super) device: Vec<u8>,
    pub(super) gateway_ca: Vec<u8>,
    /// `None` in a record that is older than this key.
    pub(super) agreement: Option<Vec<u8>>,
    /// Ciphertext that only the sealing key can open.
    pub(super) check: Vec<u8>,
}

pub(super) struct Record {
    path: PathBuf,
}

impl Record {
    pub(super) fn new(state: &Path) -> Self {
        Self { path: state.join("pkcs11-keys") }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn read(&self) -> Result<Option<Known>, KeystoreError> {
        let found = durable::read(&self.path, FILE_BYTES_MAX)
            .map_err(|source| KeystoreError::File { path: self.path.clone(), source })?;
        let Some(bytes) = found else { return Ok(None) };
        let corrupted = || KeystoreError::Corrupted {
            path: self.path.clone(),
            found: "not the form of a record of keys",
        };
        std::str::from_utf8(&bytes).ok().and_then(parse).map(Some).ok_or_else(corrupted)
    }

    pub(super) fn write(&self, known: &Known) -> Result<(), KeystoreError> {
        durable::write(&self.path, text(known).as_bytes(), 0o600)
            .map_err(|source| KeystoreError::File { path: self.path.clone(), source })
    }
}

fn text(known: &Known) -> String {
    let Known { device, gateway_ca, agreement, check } = known;
    let (header, agreement) = match agreement {
        Some(point) => (HEADER, format!("agreement {}\n", hex::encode(point))),
        None => (HEADER_1, String::new()),
    };
    format!(
        "{header}\ndevice {}\ngateway-ca {}\n{agreement}check {}\n",
        hex::encode(device),
        hex::encode(gateway_ca),
        hex::encode(check)
    )
}

fn parse(text: &str) -> Option<Known> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let has_agreement = match lines.next() {
        Some(HEADER) => true,
        Some(HEADER_1) => false,
        _ => return None,
    };
    let mut value = |name: &str| hex::decode(lines.next()?.strip_prefix(name)?.strip_prefix(' ')?).ok();
    let (device, gateway_ca) = (value("device")?, value("gateway-ca")?);
    let agreement = if has_agreement { Some(value("agreement")?) } else { None };
    let known = Known { device, gateway_ca, agreement, check: value("check")? };
    lines.next().is_none().then_some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_strictly() {
        let old = Known { device: vec![4, 1], gateway_ca: vec![4, 2], agreement: None, check: vec![9] };
        assert_eq!(parse(&text(&old)), Some(Known { ..old }));
        let known =
            Known { device: vec![4, 1], gateway_ca: vec![4, 2], agreement: Some(vec![4, 3]), check: vec![9] };
        let good = text(&known);
        assert_eq!(parse(&good), Some(known));
        for length in 0..good.len() {
            assert_eq!(parse(good.get(..length).unwrap()), None, "{length}");
        }
        for bad in [
            format!("{good}\n"),
            format!("{good}more 00\n"),
            good.replace("0401", "040g"),
            good.replace("device", "devices"),
            good.replace("keys 2", "keys 3"),
            good.replace("keys 2", "keys 1"),
            good.replace("agreement 0403\n", ""),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}
