//! The kernel's measurement list, `ascii_runtime_measurements` (Linux, Documentation/security/IMA-templates.rst), and
//! its replay to PCR 10.
//!
//! As with the boot log: a claim until its replay meets a quoted PCR. The list may be ahead of the quote, because the
//! two are not read at one instant; then a prefix of it replays.

use crate::{HashAlg, ParseError, PcrValues};

/// Largest list that is parsed.
pub const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest line: a path of 4096 bytes, or a key in `ima-buf`.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most entries in a list.
pub const ENTRIES_MAX: usize = 128 * 1024;
/// The PCR that IMA extends by default (CONFIG_IMA_MEASURE_PCR_IDX).
pub const PCR: u8 = 10;

/// The kernel's way to extend banks other than SHA-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// Linux 5.8 and later: each bank gets its own digest of the template data.
    PerBank,
    /// Before: every bank gets the SHA-1 digest, padded with zeros.
    PaddedSha1,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub pcr: u8,
    /// `ima`, `ima-ng`, `ima-sig`, `ima-buf`, …
    pub template: String,
    /// The digest of the file as the list has it, such as `sha256:…`.
    pub file_digest: String,
    /// The file's path, or the name of the buffer.
    pub path: String,
    /// The template hash is all zeros: the file changed while it was measured. Extends ones.
    pub violation: bool,
    /// The template data: the bytes that the template hash covers.
    data: Vec<u8>,
}

/// IMA's list of runtime measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasurementList {
    entries: Vec<Entry>,
}

impl MeasurementList {
    /// Parses `ascii_runtime_measurements`, and checks each template hash.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        if text.len() > LIST_BYTES_MAX {
            return Err(ParseError::TooLarge {
                what: "measurement list",
                max: LIST_BYTES_MAX,
                unit: "bytes",
            });
        }
        if text.is_empty() {
            return Ok(Self { entries: Vec::new() });
        }
        let text = text.strip_suffix(b"\n").ok_or(ParseError::Truncated("measurement list"))?;
        let mut entries = Vec::new();
        for (at, line) in text.split(|&byte| byte == b'\n').enumerate() {
            if at >= ENTRIES_MAX {
                return Err(ParseError::TooLarge {
                    what: "measurement list",
                    max: ENTRIES_MAX,
                    unit: "entries",
                });
            }
            entries.push(Entry::parse(line).map_err(|what| ParseError::Line { line: at + 1, what })?);
        }
        Ok(Self { entries })
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The value of [`PCR`] after the first `count` entries, beginning at zeros.
    pub fn replay(&self, bank: HashAlg, extension: Extension, count: usize) -> Vec<u8> {
        let extended = self.entries.iter().take(count).filter(|entry| entry.pcr == PCR);
        extended
            .fold(vec![0; bank.size()], |value, entry| bank.digest(&[&value, &entry.digest(bank, extension)]))
    }

    /// Number of entries that lead to `value`; the shortest prefix when there are several.
    pub fn prefix_of(&self, bank: HashAlg, extension: Extension, value: &[u8]) -> Option<usize> {
        let mut values = PcrValues::at_startup(&[bank], 0);
        if values.get(bank, PCR)? == value {
            return Some(0);
        }
        for (at, entry) in self.entries.iter().enumerate() {
            if entry.pcr == PCR {
                values.extend(bank, PCR, &entry.digest(bank, extension));
                if values.get(bank, PCR)? == value {
                    return Some(at + 1);
                }
            }
        }
        None
    }
}

impl Entry {
    fn parse(line: &[u8]) -> Result<Self, &'static str> {
        if line.len() > LINE_BYTES_MAX {
            return Err("the line is too long");
        }
        let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")?;
        // The kernel prints the PCR at least two places wide.
        let mut words = line.strip_prefix(' ').unwrap_or(line).split(' ');
        let mut word = |what| words.next().filter(|word| !word.is_empty()).ok_or(what);
        let pcr = word("no PCR number")?;
        let pcr = pcr.parse().ok().filter(|&pcr: &u8| pcr < crate::PCR_COUNT).ok_or("no PCR number")?;
        let template_hash = unhex(word("no template hash")?).ok_or("the template hash is not hexadecimal")?;
        let template = word("no template name")?.to_owned();
        let file_digest = word("no file digest")?.to_owned();
        let path = word("no path")?.to_owned();
        let rest: Vec<&str> = words.collect();
        let data = template_data(&template, &file_digest, &path, &rest)?;
        let violation = template_hash.iter().all(|&byte| byte == 0);
        let alg = HashAlg::ALL.into_iter().find(|alg| alg.size() == template_hash.len());
        let alg = alg.ok_or("the template hash has no known length")?;
        if !violation && alg.digest(&[&data]) != template_hash {
            return Err("the template hash is not that of the line");
        }
        Ok(Self { pcr, template, file_digest, path, violation, data })
    }

    /// The digest that this entry extends into `bank`.
    pub fn digest(&self, bank: HashAlg, extension: Extension) -> Vec<u8> {
        if self.violation {
            return vec![0xff; bank.size()];
        }
        match extension {
            Extension::PerBank => bank.digest(&[&self.data]),
            Extension::PaddedSha1 => {
                let mut digest = HashAlg::Sha1.digest(&[&self.data]);
                digest.resize(bank.size(), 0);
                digest
            }
        }
    }
}

/// The bytes under the template hash: each field with its length before it, but for the old `ima` template.
fn template_data(template: &str, digest: &str, path: &str, rest: &[&str]) -> Result<Vec<u8>, &'static str> {
    let mut name = path.as_bytes().to_vec();
    name.push(0);
    if template == "ima" {
        /// IMA_EVENT_NAME_LEN_MAX and its terminating zero.
        const NAME_BYTES: usize = 256;
        let mut data = unhex(digest).ok_or("the file digest is not hexadecimal")?;
        if !rest.is_empty() || name.len() > NAME_BYTES {
            return Err("the `ima` template has a digest and a short path only");
        }
        name.resize(NAME_BYTES, 0);
        data.extend(name);
        return Ok(data);
    }
    let (alg, hex_digest) = digest.rsplit_once(':').ok_or("the file digest names no algorithm")?;
    let mut digest_field = format!("{alg}:").into_bytes();
    digest_field.push(0);
    digest_field.extend(unhex(hex_digest).ok_or("the file digest is not hexadecimal")?);
    let mut fields = vec![digest_field, name];
    match (template, rest) {
        ("ima-ng" | "ima-ngv2", []) => {}
        // A file without a signature has an empty field, with or without the space before it.
        ("ima-sig" | "ima-sigv2", []) => fields.push(Vec::new()),
        ("ima-sig" | "ima-sigv2", [signature]) => {
            fields.push(unhex(signature).ok_or("the signature is not hexadecimal")?);
        }
        ("ima-buf", [buffer]) => fields.push(unhex(buffer).ok_or("the buffer is not hexadecimal")?),
        ("ima-ng" | "ima-ngv2" | "ima-sig" | "ima-sigv2" | "ima-buf", _) => {
            return Err("the line has too many or too few fields");
        }
        _ => return Err("the template is not known"),
    }
    let mut data = Vec::new();
    for field in fields {
        let length = u32::try_from(field.len()).map_err(|_| "a field is too long")?;
        data.extend(length.to_le_bytes());
        data.extend(field);
    }
    Ok(data)
}

/// Lower-case hexadecimal, as the kernel prints it.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}
