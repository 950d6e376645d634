use std::fmt;

use crate::HashAlg;

/// The type of an event (PFP section 10.4.1). Not covered by the event's digest: an attacker chooses it freely.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u32);

impl EventType {
    /// The one type that is not extended into a PCR.
    pub const NO_ACTION: Self = Self(0x03);
    pub const SEPARATOR: Self = Self(0x04);
    pub const S_CRTM_VERSION: Self = Self(0x08);
    pub const IPL: Self = Self(0x0d);
    pub const EFI_VARIABLE_DRIVER_CONFIG: Self = Self(0x8000_0001);
    pub const EFI_BOOT_SERVICES_APPLICATION: Self = Self(0x8000_0003);
    pub const EFI_PLATFORM_FIRMWARE_BLOB: Self = Self(0x8000_0008);
    /// Measurement that hardware made before TPM2_Startup.
    pub const EFI_HCRTM: Self = Self(0x8000_0010);

    /// The name in the profile.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x00 => "EV_PREBOOT_CERT",
            0x01 => "EV_POST_CODE",
            0x03 => "EV_NO_ACTION",
            0x04 => "EV_SEPARATOR",
            0x05 => "EV_ACTION",
            0x06 => "EV_EVENT_TAG",
            0x07 => "EV_S_CRTM_CONTENTS",
            0x08 => "EV_S_CRTM_VERSION",
            0x09 => "EV_CPU_MICROCODE",
            0x0a => "EV_PLATFORM_CONFIG_FLAGS",
            0x0b => "EV_TABLE_OF_DEVICES",
            0x0c => "EV_COMPACT_HASH",
            0x0d => "EV_IPL",
            0x0e => "EV_IPL_PARTITION_DATA",
            0x0f => "EV_NONHOST_CODE",
            0x10 => "EV_NONHOST_CONFIG",
            0x11 => "EV_NONHOST_INFO",
            0x12 => "EV_OMIT_BOOT_DEVICE_EVENTS",
            0x13 => "EV_POST_CODE2",
            0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
            0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
            0x8000_0003 => "EV_EFI_BOOT_SERVICES_APPLICATION",
            0x8000_0004 => "EV_EFI_BOOT_SERVICES_DRIVER",
            0x8000_0005 => "EV_EFI_RUNTIME_SERVICES_DRIVER",
            0x8000_0006 => "EV_EFI_GPT_EVENT",
            0x8000_0007 => "EV_EFI_ACTION",
            0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
            0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
            0x8000_000a => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
            0x8000_000b => "EV_EFI_HANDOFF_TABLES2",
            0x8000_000c => "EV_EFI_VARIABLE_BOOT2",
            0x8000_000d => "EV_EFI_GPT_EVENT2",
            0x8000_0010 => "EV_EFI_HCRTM_EVENT",
            0x8000_00e0 => "EV_EFI_VARIABLE_AUTHORITY",
            0x8000_00e1 => "EV_EFI_SPDM_FIRMWARE_BLOB",
            0x8000_00e2 => "EV_EFI_SPDM_FIRMWARE_CONFIG",
            0x8000_00e3 => "EV_EFI_SPDM_DEVICE_POLICY",
            0x8000_00e4 => "EV_EFI_SPDM_DEVICE_AUTHORITY",
            _ => return None,
        })
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {:#x}", self.0),
        }
    }
}
impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in the log, the header being 0.
    pub index: usize,
    /// Below 24 for every event that extends.
    pub pcr: u32,
    pub event_type: EventType,
    /// One for each bank of the log, in the header's order.
    pub digests: Vec<(HashAlg, Vec<u8>)>,
    pub data: Vec<u8>,
}

impl Event {
    /// `true` when it was extended into its PCR.
    pub fn extends(&self) -> bool {
        self.event_type != EventType::NO_ACTION
    }

    /// The digest that it has for `bank`.
    pub fn digest(&self, bank: HashAlg) -> Option<&[u8]> {
        self.digests.iter().find(|(alg, _)| *alg == bank).map(|(_, digest)| digest.as_slice())
    }
}
