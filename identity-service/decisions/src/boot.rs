//! Measurements of this boot by the TPM, as one value: so that a gateway can tell without a fleet whether it is still
//! the machine that the fleet judged.

use std::sync::OnceLock;

use edgewarden_protocol::Bytes;

/// The measurements of this boot. Under a TPM that has not answered, nothing is known: a long lease is closed then.
#[derive(Debug, Default)]
pub struct Measured {
    /// There is a TPM.
    expected: bool,
    value: OnceLock<Bytes>,
}

impl Measured {
    /// Nothing yet; `expected` where there is a TPM to ask.
    pub fn new(expected: bool) -> Self {
        Self { expected, value: OnceLock::new() }
    }

    /// Is the TPM still to be asked?
    pub fn is_awaited(&self) -> bool {
        self.expected && self.value.get().is_none()
    }

    /// Takes the TPM's answer. Within a boot it is always the same.
    pub fn answered(&self, value: Bytes) {
        self.value.get_or_init(|| value);
    }

    /// The measurements, once they are known.
    pub fn value(&self) -> Option<Bytes> {
        self.value.get().cloned()
    }

    /// `true` when this is the boot that was `judged`: `None` is right without a TPM only.
    pub fn is(&self, judged: Option<&Bytes>) -> bool {
        judged == self.value.get() && (judged.is_some() || !self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
