use super::hash_alg;
use crate::reader::Reader;
use crate::{HashAlg, ParseError};

/// Banks in one selection (HASH_COUNT; more than any TPM has).
const BANKS_MAX: usize = 16;
/// PCR_SELECT_MAX for 32 PCRs (a PC client TPM has 24, three bytes).
const SELECT_BYTES_MAX: usize = 4;

/// TPMS_PCR_SELECTION (TPM 2.0 Library Part 2, section 10.6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSelection {
    pub bank: HashAlg,
    /// One bit per PCR, least significant bit of the first byte is PCR 0. At most four bytes.
    pub bits: Vec<u8>,
}

impl PcrSelection {
    /// A selection in the usual three bytes. PCRs above 23 are left out.
    pub fn of(bank: HashAlg, pcrs: &[u8]) -> Self {
        let mut bits = vec![0_u8; 3];
        for pcr in pcrs {
            if let Some(byte) = bits.get_mut(usize::from(pcr / 8)) {
                *byte |= 1 << (pcr % 8);
            }
        }
        Self { bank, bits }
    }

    /// The selected PCRs, ascending.
    pub fn pcrs(&self) -> Vec<u8> {
        let selected =
            |pcr: &u8| self.bits.get(usize::from(pcr / 8)).is_some_and(|b| b & (1 << (pcr % 8)) != 0);
        (0..32).filter(selected).collect()
    }
}

/// TPML_PCR_SELECTION (section 10.9.7).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PcrSelections(pub Vec<PcrSelection>);

impl PcrSelections {
    /// Parses a TPML_PCR_SELECTION, without a byte left over.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes, "PCR selection");
        let selections = Self::read(&mut reader)?;
        reader.end()?;
        Ok(selections)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let count = reader.u32()?;
        let too_large = ParseError::TooLarge { what: "PCR selection", max: BANKS_MAX, unit: "banks" };
        let count = usize::try_from(count).ok().filter(|&c| c <= BANKS_MAX).ok_or(too_large)?;
        let mut selections = Vec::with_capacity(count);
        for _ in 0..count {
            let bank = hash_alg(reader)?;
            let size = usize::from(reader.u8()?);
            if size > SELECT_BYTES_MAX {
                let max = SELECT_BYTES_MAX;
                return Err(ParseError::TooLarge { what: "PCR selection of a bank", max, unit: "bytes" });
            }
            selections.push(PcrSelection { bank, bits: reader.take(size)?.to_vec() });
        }
        Ok(Self(selections))
    }

    #[expect(clippy::expect_used, reason = "a TPM has at most 16 banks, with four bytes of PCRs each")]
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let count = u32::try_from(self.0.len()).expect("at most 16 banks");
        out.extend_from_slice(&count.to_be_bytes());
        for selection in &self.0 {
            out.extend_from_slice(&selection.bank.id().to_be_bytes());
            out.push(u8::try_from(selection.bits.len()).expect("at most four bytes"));
            out.extend_from_slice(&selection.bits);
        }
    }

    /// The TPML_PCR_SELECTION.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// True when exactly `pcrs` (ascending) of exactly `bank` are selected. A TPM drops what it does not have
    /// instead of failing, so a quote over less than was asked for is otherwise well-formed.
    pub fn is_exactly(&self, bank: HashAlg, pcrs: &[u8]) -> bool {
        matches!(self.0.as_slice(), [only] if only.bank == bank && only.pcrs() == pcrs)
    }
}
