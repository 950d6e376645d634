use super::{DATA_BYTES_MAX, DIGEST_BYTES_MAX, NAME_BYTES_MAX, PcrSelections};
use crate::ParseError;
use crate::reader::{Reader, put_sized};

/// TPM_GENERATED_VALUE, 0xff "TCG": a TPM signs with a restricted key no foreign data that begin so (section 6.2).
const GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_CERTIFY and TPM_ST_ATTEST_QUOTE (section 6.9).
const ATTEST_CERTIFY: u16 = 0x8017;
const ATTEST_QUOTE: u16 = 0x8018;

/// TPMS_ATTEST (section 10.12.12): what a TPM signed about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// Qualified name of the signing key.
    pub qualified_signer: Vec<u8>,
    /// The caller's data, which binds the attestation to a nonce.
    pub extra_data: Vec<u8>,
    pub clock: ClockInfo,
    pub firmware_version: u64,
    pub kind: AttestKind,
}

/// TPMS_CLOCK_INFO (section 10.11.1). Obfuscated for keys outside the endorsement and platform hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM has been powered.
    pub clock: u64,
    pub reset_count: u32,
    pub restart_count: u32,
    /// No higher clock value was reported before.
    pub safe: bool,
}

/// The attested structure. Other kinds than these are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttestKind {
    /// TPMS_QUOTE_INFO (section 10.12.4).
    Quote { selections: PcrSelections, digest: Vec<u8> },
    /// TPMS_CERTIFY_INFO (section 10.12.3).
    Certify { name: Vec<u8>, qualified_name: Vec<u8> },
}

impl Attest {
    /// Parses a TPMS_ATTEST of a quote or a certification, without a byte left over.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes, "attestation");
        let magic = reader.u32()?;
        if magic != GENERATED {
            return Err(ParseError::Value { what: "attestation's magic number", value: magic.into() });
        }
        let tag = reader.u16()?;
        let qualified_signer = reader.sized("name of the signer", NAME_BYTES_MAX)?.to_vec();
        let extra_data = reader.sized("extra data", DATA_BYTES_MAX)?.to_vec();
        let clock = ClockInfo {
            clock: reader.u64()?,
            reset_count: reader.u32()?,
            restart_count: reader.u32()?,
            safe: match reader.u8()? {
                0 => false,
                1 => true,
                other => return Err(ParseError::Value { what: "clock's safe flag", value: other.into() }),
            },
        };
        let firmware_version = reader.u64()?;
        let kind = match tag {
            ATTEST_QUOTE => AttestKind::Quote {
                selections: PcrSelections::read(&mut reader)?,
                digest: reader.sized("digest of the PCRs", DIGEST_BYTES_MAX)?.to_vec(),
            },
            ATTEST_CERTIFY => AttestKind::Certify {
                name: reader.sized("certified name", NAME_BYTES_MAX)?.to_vec(),
                qualified_name: reader.sized("certified qualified name", NAME_BYTES_MAX)?.to_vec(),
            },
            other => return Err(ParseError::Value { what: "attestation's type", value: other.into() }),
        };
        reader.end()?;
        Ok(Self { qualified_signer, extra_data, clock, firmware_version, kind })
    }

    /// The TPMS_ATTEST.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = GENERATED.to_be_bytes().to_vec();
        let tag = match self.kind {
            AttestKind::Quote { .. } => ATTEST_QUOTE,
            AttestKind::Certify { .. } => ATTEST_CERTIFY,
        };
        out.extend_from_slice(&tag.to_be_bytes());
        put_sized(&mut out, &self.qualified_signer);
        put_sized(&mut out, &self.extra_data);
        out.extend_from_slice(&self.clock.clock.to_be_bytes());
        out.extend_from_slice(&self.clock.reset_count.to_be_bytes());
        out.extend_from_slice(&self.clock.restart_count.to_be_bytes());
        out.push(self.clock.safe.into());
        out.extend_from_slice(&self.firmware_version.to_be_bytes());
        match &self.kind {
            AttestKind::Quote { selections, digest } => {
                selections.write(&mut out);
                put_sized(&mut out, digest);
            }
            AttestKind::Certify { name, qualified_name } => {
                put_sized(&mut out, name);
                put_sized(&mut out, qualified_name);
            }
        }
        out
    }
}
