//! What the TPM has measured of this boot, as one value: so that a gateway can tell without a fleet whether it is still
//! the machine that the fleet judged.
//!
//! Trusts the TPM. The values are those of the firmware, the boot loader and the kernel: what runs later is
//! in other registers.

use std::sync::OnceLock;

use aws_lc_rs::digest::{Context, SHA256};
use edgewarden_keystore::Keystore;
use edgewarden_protocol::Bytes;

use crate::service::{Chain, random};

/// As the fleet judges (`edgewarden_appraisal::BOOT_PCRS`).
const BOOT_PCRS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14];

/// What is known of this boot. Under a TPM that has not answered, nothing is: a long lease is closed then.
#[derive(Debug, Default)]
pub struct Measured {
    /// There is a TPM.
    expected: bool,
    value: OnceLock<Bytes>,
}

impl Measured {
    pub fn new(keystore: &dyn Keystore) -> Self {
        let description = keystore.describe();
        let measured =
            Self { expected: description.hardware || description.dangerous, value: OnceLock::new() };
        measured.ask(keystore);
        measured
    }

    /// Asks the TPM, if it has not answered before. Blocks on it.
    pub fn ask(&self, keystore: &dyn Keystore) {
        if self.expected
            && self.value.get().is_none()
            && let Some(value) = quote(keystore)
        {
            // Who was first had the same answer.
            let _ = self.value.set(value);
        }
    }

    pub fn value(&self) -> Option<Bytes> {
        self.value.get().cloned()
    }

    /// Whether this is the boot that was `judged`: `None` is right without a TPM only.
    pub fn is(&self, judged: Option<&Bytes>) -> bool {
        judged == self.value.get() && (judged.is_some() || !self.expected)
    }
}

/// SHA-256 over numbers and values of the PCRs. `None` when the TPM does not answer.
fn quote(keystore: &dyn Keystore) -> Option<Bytes> {
    let nonce = random().ok()?;
    match keystore.quote(&nonce, &BOOT_PCRS) {
        Ok(quote) => {
            let mut all = Context::new(&SHA256);
            for (index, value) in &quote.pcrs {
                all.update(&[*index]);
                all.update(value);
            }
            Some(all.finish().as_ref().to_vec().into())
        }
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "the TPM does not say what it has measured of this boot");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_fleet_judges() {
        assert_eq!(BOOT_PCRS, edgewarden_appraisal::BOOT_PCRS);
    }

    #[test]
    fn a_tpm_that_does_not_answer_makes_no_boot_the_one_that_was_judged() {
        let (this, other) = (Bytes::from(vec![1]), Bytes::from(vec![2]));
        let answered = Measured { expected: true, value: this.clone().into() };
        let silent = Measured { expected: true, value: OnceLock::new() };
        for (measured, judged, expected) in [
            (&answered, Some(&this), true),
            (&answered, Some(&other), false),
            (&answered, None, false),
            (&silent, Some(&this), false),
            (&silent, None, false),
            (&Measured::default(), None, true),
            (&Measured::default(), Some(&this), false),
        ] {
            assert_eq!(measured.is(judged), expected, "{measured:?} {judged:?}");
        }
    }
}
