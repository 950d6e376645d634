//! The connection: opening it, clearing up after others, and what the TSS's response codes mean for a caller.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;

use tss_esapi::Context;
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};
use tss_esapi::constants::{CapabilityType, PropertyTag};
use tss_esapi::handles::TpmHandle;
use tss_esapi::structures::{CapabilityData, TaggedProperty};
use tss_esapi::tcti_ldr::{DeviceConfig, NetworkTPMConfig, TctiNameConf};

use crate::contract::Lockout;
use crate::error::KeystoreError;
use crate::owner::Connector;
pub(super) use crate::owner::Fault;

/// First handle of each kind (TPM 2.0 Library Part 2, section 7.2).
const LOADED_SESSION_FIRST: u32 = 0x0200_0000;
const TRANSIENT_FIRST: u32 = 0x8000_0000;
/// More than a TPM has slots.
const HANDLES_MAX: u32 = 64;

/// TPMA_PERMANENT.inLockout (Part 2, section 8.6).
const IN_LOCKOUT: u32 = 1 << 9;

/// The layer of the TSS that made a response code (TCG TSS 2.0 Overview, section 3): TCTI, the transport.
const LAYER_TCTI: u32 = 0x000a_0000;
/// The layers above it, which parse the TPM's answers: ESYS, SYS and MU.
const LAYERS_PARSING: [u32; 3] = [0x0007_0000, 0x0008_0000, 0x0009_0000];
/// TSS2_ESYS_RC_RSP_AUTH_FAILED: the TPM's answer was changed on its way.
const ESYS_RESPONSE_FORGED: u32 = 0x0007_001b;

/// Way to a TPM.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    /// A character device such as `/dev/tpmrm0`.
    Device(PathBuf),
    /// swtpm's TCP transport: commands at this port, control at the next.
    Simulated(SocketAddr),
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => path.display().fmt(f),
            Self::Simulated(address) => address.fmt(f),
        }
    }
}

/// The fault that stands for a TSS error that `command` met.
pub(super) fn fault(command: &'static str) -> impl Fn(tss_esapi::Error) -> Fault {
    move |error| {
        let detail = format!("{command}: {error}");
        let tss_esapi::Error::Tss2Error(code) = error else {
            return Fault::Final(KeystoreError::Tpm { command, detail: error.to_string() });
        };
        if code == Tss2ResponseCode::from(ESYS_RESPONSE_FORGED) {
            return Fault::Final(KeystoreError::Answer("its authentication code is wrong"));
        }
        let made_by = |layer| (0..0x80).any(|low| code == Tss2ResponseCode::from(layer | low));
        if made_by(LAYER_TCTI) {
            return Fault::Lost(detail);
        }
        if LAYERS_PARSING.into_iter().any(made_by) {
            let detail = "its answer is malformed, or the TSS could not handle it".into();
            return Fault::Garbled(KeystoreError::Tpm { command, detail });
        }
        match code.kind() {
            Some(
                // The TPM was reset and does not know our handles, is not started yet, or asks to come again.
                Kind::Initialize
                | Kind::ReferenceH0
                | Kind::ReferenceH1
                | Kind::ReferenceH2
                | Kind::ReferenceS0
                | Kind::ReferenceS1
                | Kind::ReferenceS2
                | Kind::Retry
                | Kind::Yielded
                | Kind::Testing
                | Kind::NvRate
                // Slots that a process that died left filled; a new connection sweeps them.
                | Kind::ObjectMemory
                | Kind::SessionMemory
                | Kind::ObjectHandles
                | Kind::SessionHandles
                | Kind::ContextGap,
            ) => Fault::Lost(detail),
            Some(Kind::Lockout) => Fault::Final(KeystoreError::Lockout { retry_after_seconds: 0 }),
            Some(Kind::AuthFail | Kind::BadAuth) => Fault::Final(KeystoreError::Tpm {
                command,
                detail: "it wants a password: the owner or endorsement hierarchy must have an empty one".into(),
            }),
            _ => Fault::Final(KeystoreError::Tpm { command, detail: error.to_string() }),
        }
    }
}

impl Connector for Transport {
    type Connection = Context;

    fn name(&self) -> String {
        format!("the TPM at `{self}`")
    }

    fn connect(&mut self) -> Result<Context, Fault> {
        connect(self)
    }

    /// Says when a TPM in lockout gives a try back.
    fn explain(&mut self, context: &mut Context, error: KeystoreError) -> KeystoreError {
        match error {
            KeystoreError::Lockout { .. } => {
                let retry_after_seconds = lockout(context).map_or(0, |lockout| lockout.recovery_seconds);
                KeystoreError::Lockout { retry_after_seconds }
            }
            error => error,
        }
    }
}

/// Opens a connection.
fn connect(transport: &Transport) -> Result<Context, Fault> {
    let name = match transport {
        Transport::Device(path) => {
            let path = path.to_str().filter(|path| path.starts_with('/'));
            DeviceConfig::from_str(
                path.ok_or(KeystoreError::Request("the TPM's device is an absolute path in UTF-8"))?,
            )
            .map(TctiNameConf::Device)
        }
        Transport::Simulated(address) => {
            NetworkTPMConfig::from_str(&format!("host={},port={}", address.ip(), address.port()))
                .map(TctiNameConf::Swtpm)
        }
    };
    let name = name.map_err(fault("connect"))?;
    // Whatever goes wrong here, the TPM was not reached.
    let mut context = Context::new(name).map_err(|error| Fault::Lost(error.to_string()))?;
    if sweeps(transport) {
        sweep(&mut context)?;
    }
    Ok(context)
}

/// True when this process is the TPM's only user. The kernel's resource manager (`tpmrm`) gives each user its own
/// view and flushes it when the user ends; there is nothing to sweep, and sessions in sight may be another's.
fn sweeps(transport: &Transport) -> bool {
    match transport {
        Transport::Simulated(_) => true,
        Transport::Device(path) => {
            !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("tpmrm"))
        }
    }
}

/// Flushes keys and sessions that a process that died left in the TPM: it has three slots for each.
fn sweep(context: &mut Context) -> Result<(), Fault> {
    for first in [TRANSIENT_FIRST, LOADED_SESSION_FIRST] {
        for handle in handles(context, first)? {
            let flushed = context.tr_from_tpm_public(handle).and_then(|object| context.flush_context(object));
            // For a policy session the wrapper's own book-keeping objects after the TPM has flushed it.
            if flushed.is_err() && !matches!(handle, TpmHandle::PolicySession(_)) {
                tracing::warn!("a key or session that a dead process left in the TPM could not be flushed");
            }
        }
    }
    Ok(())
}

/// Handles that are in use, from `first` on, of one kind.
pub(super) fn handles(context: &mut Context, first: u32) -> Result<Vec<TpmHandle>, Fault> {
    let (found, _) = context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::Handles, first, HANDLES_MAX)
        })
        .map_err(fault("TPM2_GetCapability"))?;
    match found {
        CapabilityData::Handles(handles) => Ok(handles.into_inner()),
        _ => Err(Fault::Final(KeystoreError::Answer("TPM2_GetCapability gave another capability"))),
    }
}

/// A property now: the wrapper's own getter remembers values, and the lockout counter changes.
fn property(context: &mut Context, tag: PropertyTag) -> Result<Option<u32>, Fault> {
    let (found, _) = context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::TpmProperties, tag.into(), 1)
        })
        .map_err(fault("TPM2_GetCapability"))?;
    match found {
        CapabilityData::TpmProperties(list) => Ok(list.find(tag).map(TaggedProperty::value)),
        _ => Err(Fault::Final(KeystoreError::Answer("TPM2_GetCapability gave another capability"))),
    }
}

pub(super) fn lockout(context: &mut Context) -> Result<Lockout, Fault> {
    let mut number = |tag| property(context, tag).map(Option::unwrap_or_default);
    Ok(Lockout {
        locked: number(PropertyTag::Permanent)? & IN_LOCKOUT != 0,
        failures: number(PropertyTag::LockoutCounter)?,
        failures_max: number(PropertyTag::MaxAuthFail)?,
        recovery_seconds: number(PropertyTag::LockoutInterval)?,
    })
}

/// Manufacturer and vendor text, as the TPM gives them: four ASCII characters in each number.
pub(super) fn maker(context: &mut Context) -> String {
    let tags = [
        PropertyTag::Manufacturer,
        PropertyTag::VendorString1,
        PropertyTag::VendorString2,
        PropertyTag::VendorString3,
        PropertyTag::VendorString4,
    ];
    let mut text = String::new();
    for (at, tag) in tags.into_iter().enumerate() {
        let value = property(context, tag).ok().flatten().unwrap_or_default();
        text.extend(
            value.to_be_bytes().into_iter().filter(|b| b.is_ascii_graphic() || *b == b' ').map(char::from),
        );
        if at == 0 {
            text.push(' ');
        }
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() { "unnamed maker".into() } else { words.join(" ") }
}
