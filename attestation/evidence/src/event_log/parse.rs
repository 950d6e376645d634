use super::{EVENTS_MAX, Event, EventLog, EventType, Format, LOG_BYTES_MAX};
use crate::reader::Reader;
use crate::{HashAlg, PCR_COUNT, ParseError};

const LOG: &str = "event log";
/// Banks that a header may declare.
const BANKS_MAX: usize = 16;
/// Longest digest that a header may declare.
const DIGEST_BYTES_MAX: usize = 64;
const SHA1_BYTES: usize = 20;

/// Signatures of EV_NO_ACTION events (PFP sections 10.4.5.1 and 10.4.5.3), 16 bytes.
const SPEC_ID_03: &[u8] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
/// The last byte of PCR 0 when an H-CRTM sequence begins it.
const H_CRTM_START: u8 = 4;

impl EventLog {
    /// Parses a whole log, at most [`LOG_BYTES_MAX`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > LOG_BYTES_MAX {
            return Err(ParseError::TooLarge { what: LOG, max: LOG_BYTES_MAX, unit: "bytes" });
        }
        if bytes.is_empty() {
            return Err(ParseError::Truncated(LOG));
        }
        // The first record has the legacy form in both formats.
        let mut reader = Reader::new(bytes, LOG);
        let first = read_legacy(&mut reader, 0)?;
        if first.event_type == EventType::NO_ACTION && first.data.starts_with(SPEC_ID_03) {
            let banks = Bank::read_all(&first)?;
            let known = banks.iter().filter_map(|bank| bank.alg).collect();
            let events = read_events(bytes, reader, |reader, index| read_agile(reader, index, &banks))?;
            Self::finish(Format::CryptoAgile, known, events)
        } else {
            let events = read_events(bytes, Reader::new(bytes, LOG), read_legacy)?;
            Self::finish(Format::Legacy, vec![HashAlg::Sha1], events)
        }
    }

    fn finish(format: Format, banks: Vec<HashAlg>, events: Vec<Event>) -> Result<Self, ParseError> {
        let mut start = Start::default();
        for event in &events {
            if event.extends() && event.pcr >= PCR_COUNT.into() {
                return Err(ParseError::Value { what: "PCR of an event", value: event.pcr.into() });
            }
            start.follow(event)?;
        }
        Ok(Self { format, banks, pcr_0_start: start.of_pcr_0(), events })
    }
}

/// The log's account of the time before PCR 0 moved.
#[derive(Debug, Default)]
struct Start {
    locality: Option<u8>,
    h_crtm: bool,
    /// PCR 0 has moved since, by TPM2_PCR_Extend.
    extended: bool,
}

impl Start {
    /// Takes in one event. The start of PCR 0 is said once and before it moves; a log that says it otherwise
    /// contradicts itself. The H-CRTM sequence and TPM2_Startup may be logged in either order, for a TPM ignores the
    /// locality after the sequence.
    fn follow(&mut self, event: &Event) -> Result<(), ParseError> {
        if event.event_type == EventType::EFI_HCRTM && event.pcr == 0 {
            // A further sequence would begin PCR 0 anew, so that no quote covers the one before.
            if self.extended || std::mem::replace(&mut self.h_crtm, true) {
                return Err(ParseError::Malformed("an EV_EFI_HCRTM_EVENT comes late or twice"));
            }
        } else if event.extends() {
            self.extended |= event.pcr == 0;
        } else if let Some(locality) = event.data.strip_prefix(STARTUP_LOCALITY) {
            // Firmware that keeps events in slots of one size pads them with zeros.
            let Some((&locality @ (0 | 3 | 4), [])) =
                locality.split_first().map(|(first, rest)| (first, without_zeros(rest)))
            else {
                return Err(ParseError::Malformed("the StartupLocality event names no startup locality"));
            };
            if self.extended || self.locality.replace(locality).is_some() {
                return Err(ParseError::Malformed("a StartupLocality event comes late or twice"));
            }
        }
        Ok(())
    }

    fn of_pcr_0(&self) -> u8 {
        if self.h_crtm { H_CRTM_START } else { self.locality.unwrap_or(0) }
    }
}

fn without_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., 0] = bytes {
        bytes = rest;
    }
    bytes
}

/// Reads records until the bytes or the events end. Firmware hands the log over in a buffer that it pads with zeros or
/// ones, so a rest of only such bytes is the end.
fn read_events<'a>(
    bytes: &'a [u8],
    mut reader: Reader<'a>,
    mut read: impl FnMut(&mut Reader<'a>, usize) -> Result<Event, ParseError>,
) -> Result<Vec<Event>, ParseError> {
    let padding = match bytes.last() {
        Some(&pad @ (0x00 | 0xff)) => bytes.iter().rev().take_while(|&&byte| byte == pad).count(),
        _ => 0,
    };
    let first_index = usize::from(reader.rest().len() < bytes.len());
    let mut events = Vec::new();
    while reader.rest().len() > padding {
        if events.len() >= EVENTS_MAX {
            return Err(ParseError::TooLarge { what: LOG, max: EVENTS_MAX, unit: "events" });
        }
        events.push(read(&mut reader, first_index + events.len())?);
    }
    Ok(events)
}

/// A bank that the header declares. `alg` is None for an algorithm that is not replayed; its digests are skipped.
struct Bank {
    id: u16,
    size: usize,
    alg: Option<HashAlg>,
}

impl Bank {
    /// TCG_EfiSpecIdEvent (PFP section 10.4.5.1).
    fn read_all(header: &Event) -> Result<Vec<Self>, ParseError> {
        let mut reader = Reader::new(&header.data, "event log's header");
        reader.take(SPEC_ID_03.len())?;
        let _platform_class = reader.u32_le()?;
        let _minor_major_errata_uintn = reader.take(4)?;
        let count = usize::try_from(reader.u32_le()?).unwrap_or(usize::MAX);
        if count == 0 || count > BANKS_MAX {
            return Err(ParseError::TooLarge { what: "event log's header", max: BANKS_MAX, unit: "banks" });
        }
        let mut banks: Vec<Self> = Vec::with_capacity(count);
        for _ in 0..count {
            let id = reader.u16_le()?;
            let size = usize::from(reader.u16_le()?);
            let alg = HashAlg::from_id(id);
            if size == 0 || size > DIGEST_BYTES_MAX || alg.is_some_and(|alg| alg.size() != size) {
                return Err(ParseError::Malformed("the event log's header gives a bank a wrong digest size"));
            }
            if banks.iter().any(|bank| bank.id == id) {
                return Err(ParseError::Malformed("the event log's header names a bank twice"));
            }
            banks.push(Self { id, size, alg });
        }
        let vendor_info = usize::from(reader.u8()?);
        reader.take(vendor_info)?;
        reader.end()?;
        Ok(banks)
    }
}

/// TCG_PCR_EVENT (PFP section 10.2.1).
fn read_legacy(reader: &mut Reader<'_>, index: usize) -> Result<Event, ParseError> {
    let pcr = reader.u32_le()?;
    let event_type = EventType(reader.u32_le()?);
    let digest = reader.take(SHA1_BYTES)?.to_vec();
    let data = read_data(reader)?;
    Ok(Event { index, pcr, event_type, digests: vec![(HashAlg::Sha1, digest)], data })
}

/// TCG_PCR_EVENT2 (PFP section 10.2.2).
fn read_agile(reader: &mut Reader<'_>, index: usize, banks: &[Bank]) -> Result<Event, ParseError> {
    let pcr = reader.u32_le()?;
    let event_type = EventType(reader.u32_le()?);
    let count = usize::try_from(reader.u32_le()?).unwrap_or(usize::MAX);
    // A bank without its digest could be replayed to a value that the TPM's bank never had.
    if count != banks.len() {
        return Err(ParseError::Malformed("an event has not one digest for each bank of the log"));
    }
    let mut seen = Vec::with_capacity(count);
    let mut digests = Vec::with_capacity(count);
    for _ in 0..count {
        let id = reader.u16_le()?;
        let bank = banks.iter().find(|bank| bank.id == id);
        let bank = bank.ok_or(ParseError::Value { what: "bank of an event's digest", value: id.into() })?;
        if seen.contains(&id) {
            return Err(ParseError::Malformed("an event has two digests for one bank"));
        }
        seen.push(id);
        let digest = reader.take(bank.size)?;
        digests.extend(bank.alg.map(|alg| (alg, digest.to_vec())));
    }
    let data = read_data(reader)?;
    Ok(Event { index, pcr, event_type, digests, data })
}

fn read_data(reader: &mut Reader<'_>) -> Result<Vec<u8>, ParseError> {
    let size = usize::try_from(reader.u32_le()?).unwrap_or(usize::MAX);
    Ok(reader.take(size)?.to_vec())
}
