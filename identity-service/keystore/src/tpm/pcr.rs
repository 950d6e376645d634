//! Extending a PCR (TPM 2.0 Library Part 3, TPM2_PCR_Extend).
//!
//! An extension cannot be taken back, and a request to the TPM may be run again when its answer was lost. So the value
//! before is read first: when the request is run again, the PCR itself says whether the first run came through.
//! Trusts the bus for what it reads here: it is the quote that proves a PCR's value.

use aws_lc_rs::digest::{Context as Hash, SHA256};
use tss_esapi::Context;
use tss_esapi::abstraction::pcr;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest, DigestValues, PcrSelectionList, PcrSelectionListBuilder, PcrSlot};

use super::link::{Fault, fault};
use crate::error::KeystoreError;

/// Those PCRs of the SHA-256 bank, as the TSS wants them.
pub(super) fn selection(pcrs: &[u8]) -> Result<(PcrSelectionList, Vec<PcrSlot>), Fault> {
    let wrong = fault("choose PCRs");
    let slots: Vec<PcrSlot> = pcrs
        .iter()
        .map(|&pcr| 1u32.checked_shl(pcr.into()).ok_or(KeystoreError::Request("a PCR is from 0 to 23")))
        .map(|bit| PcrSlot::try_from(bit?).map_err(&wrong))
        .collect::<Result<_, _>>()?;
    let list = PcrSelectionListBuilder::new()
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
        .map_err(&wrong)?;
    Ok((list, slots))
}

/// The values of these PCRs, in that order.
pub(super) fn read_pcrs(
    context: &mut Context,
    selection: &PcrSelectionList,
    pcrs: &[u8],
    slots: &[PcrSlot],
) -> Result<Vec<(u8, [u8; 32])>, Fault> {
    let read = context
        .execute_without_session(|context| pcr::read_all(context, selection.clone()))
        .map_err(fault("TPM2_PCR_Read"))?;
    let bank = read.pcr_bank(HashingAlgorithm::Sha256);
    if bank.is_none() {
        return Err(KeystoreError::Sha256BankOff.into());
    }
    pcrs.iter()
        .zip(slots)
        .map(|(&pcr, &slot)| {
            let value = bank.and_then(|bank| bank.get_digest(slot)).map(|digest| digest.value().try_into());
            match value {
                Some(Ok(value)) => Ok((pcr, value)),
                _ => Err(KeystoreError::Answer("TPM2_PCR_Read gave other PCRs").into()),
            }
        })
        .collect()
}

fn read(context: &mut Context, pcr: u8) -> Result<[u8; 32], Fault> {
    let (selection, slots) = selection(&[pcr])?;
    match read_pcrs(context, &selection, &[pcr], &slots)?.as_slice() {
        [(_, value)] => Ok(*value),
        _ => Err(KeystoreError::Answer("TPM2_PCR_Read gave other PCRs").into()),
    }
}

/// Value of a PCR after an extend (Part 1, section 17.2).
fn extended(value: &[u8; 32], digest: &[u8; 32]) -> [u8; 32] {
    let mut hash = Hash::new(&SHA256);
    hash.update(value);
    hash.update(digest);
    let mut extended = [0; 32];
    for (to, from) in extended.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    extended
}

pub(super) struct Extension {
    pcr: u8,
    digest: [u8; 32],
    /// Set by the first run.
    before: Option<[u8; 32]>,
}

impl Extension {
    pub(super) fn new(pcr: u8, digest: [u8; 32]) -> Self {
        Self { pcr, digest, before: None }
    }

    /// Extends, once however often it is run. The value afterwards.
    pub(super) fn run(&mut self, context: &mut Context) -> Result<[u8; 32], Fault> {
        let wrong = fault("TPM2_PCR_Extend");
        let now = read(context, self.pcr)?;
        let before = *self.before.get_or_insert(now);
        let after = extended(&before, &self.digest);
        if now == after {
            return Ok(after);
        }
        let moved = || KeystoreError::PcrMoved(self.pcr);
        if now != before {
            return Err(moved().into());
        }
        let handle = PcrHandle::try_from(u32::from(self.pcr)).map_err(&wrong)?;
        let mut digests = DigestValues::new();
        digests.set(HashingAlgorithm::Sha256, Digest::try_from(self.digest.as_slice()).map_err(&wrong)?);
        context
            .execute_with_session(Some(AuthSession::Password), |context| context.pcr_extend(handle, digests))
            .map_err(&wrong)?;
        if read(context, self.pcr)? == after { Ok(after) } else { Err(moved().into()) }
    }
}
