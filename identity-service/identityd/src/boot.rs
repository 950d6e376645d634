//! Measurements of this boot by the TPM, as one value: so that a gateway can tell without a fleet whether it is still
//! the machine that the fleet judged.
//!
//! Trusts the TPM. The values are those of the firmware, the boot loader and the kernel: what runs later is
//! in other registers.

use aws_lc_rs::digest::{Context, SHA256};
use edgewarden_decisions::boot::Measured;
use edgewarden_keystore::Keystore;
use edgewarden_names::ErrorChain;
use edgewarden_protocol::Bytes;

use crate::refuse::random;

/// As the fleet judges (`edgewarden_appraisal::BOOT_PCRS`).
const BOOT_PCRS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14];

/// Of this keystore's TPM, if it has one and that answers.
pub fn measured(keystore: &dyn Keystore) -> Measured {
    let description = keystore.describe();
    let measured = Measured::new(description.hardware || description.dangerous);
    ask(&measured, keystore);
    measured
}

/// Asks the TPM, if it has not answered before. Blocks on it.
pub fn ask(measured: &Measured, keystore: &dyn Keystore) {
    if measured.is_awaited()
        && let Some(value) = quote(keystore)
    {
        measured.answered(value);
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
            tracing::warn!(error = %ErrorChain(&error), "the TPM does not say what it has measured of this boot");
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
}
