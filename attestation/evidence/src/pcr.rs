use std::collections::BTreeMap;

use crate::HashAlg;

/// PCRs of a PC client TPM (TCG PC Client Platform TPM Profile, section 4.6).
pub const PCR_COUNT: u8 = 24;

/// The values of PCRs, per bank.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PcrValues {
    banks: BTreeMap<HashAlg, BTreeMap<u8, Vec<u8>>>,
}

impl PcrValues {
    /// All PCRs as they are after TPM2_Startup(CLEAR): ones in 17 to 22 (resettable by dynamic launch only), else
    /// zeros, but for PCR 0, whose last byte is the locality of the startup, or 4 after an H-CRTM sequence (Part 1,
    /// section 34.2).
    pub fn at_startup(banks: &[HashAlg], pcr_0_start: u8) -> Self {
        let fresh = |alg: HashAlg| {
            let value = |pcr: u8| match pcr {
                0 => {
                    let mut value = vec![0; alg.size()];
                    if let Some(last) = value.last_mut() {
                        *last = pcr_0_start;
                    }
                    value
                }
                17..=22 => vec![0xff; alg.size()],
                _ => vec![0; alg.size()],
            };
            (0..PCR_COUNT).map(|pcr| (pcr, value(pcr))).collect()
        };
        Self { banks: banks.iter().map(|&alg| (alg, fresh(alg))).collect() }
    }

    /// The banks that values are known of.
    pub fn banks(&self) -> impl Iterator<Item = HashAlg> {
        self.banks.keys().copied()
    }

    /// Value of one PCR, if it is known.
    pub fn get(&self, bank: HashAlg, pcr: u8) -> Option<&[u8]> {
        self.banks.get(&bank)?.get(&pcr).map(Vec::as_slice)
    }

    /// Extends `pcr`, if the bank and the PCR exist (Part 1, section 17.2).
    pub fn extend(&mut self, bank: HashAlg, pcr: u8, digest: &[u8]) {
        if let Some(value) = self.banks.get_mut(&bank).and_then(|pcrs| pcrs.get_mut(&pcr)) {
            *value = bank.digest(&[value, digest]);
        }
    }

    /// The digest that TPM2_Quote signs: that of the chosen PCRs' values, in ascending order (Part 3, section 18.4).
    /// `None` when a chosen PCR is not known.
    pub fn quote_digest(&self, hash: HashAlg, bank: HashAlg, pcrs: &[u8]) -> Option<Vec<u8>> {
        let values = pcrs.iter().map(|&pcr| self.get(bank, pcr)).collect::<Option<Vec<_>>>()?;
        Some(hash.digest(&values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_and_extend() {
        let mut values = PcrValues::at_startup(&[HashAlg::Sha256], 3);
        assert_eq!(values.get(HashAlg::Sha256, 0).unwrap().last(), Some(&3));
        assert_eq!(values.get(HashAlg::Sha256, 17), Some(&[0xff; 32][..]));
        assert_eq!(values.get(HashAlg::Sha256, 4), Some(&[0; 32][..]));
        assert_eq!(values.get(HashAlg::Sha256, 24), None);
        assert_eq!(values.get(HashAlg::Sha1, 0), None);
        values.extend(HashAlg::Sha256, 4, &[1; 32]);
        assert_eq!(values.get(HashAlg::Sha256, 4).unwrap(), HashAlg::Sha256.digest(&[&[0; 32], &[1; 32]]));
        values.extend(HashAlg::Sha1, 4, &[1; 20]);
        assert_eq!(values.quote_digest(HashAlg::Sha256, HashAlg::Sha1, &[4]), None);
        let both = values.quote_digest(HashAlg::Sha256, HashAlg::Sha256, &[4, 5]).unwrap();
        let four = values.get(HashAlg::Sha256, 4).unwrap();
        assert_eq!(both, HashAlg::Sha256.digest(&[four, &[0; 32]]));
    }
}
