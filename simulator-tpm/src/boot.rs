//! A measured boot as firmware, shim, grub and the kernel's stub would record it (TCG PC Client Platform Firmware
//! Profile 1.06, sections 3.3 and 10): the same digests go into the event log and into the PCRs.

use aws_lc_rs::digest::{SHA256, digest};

const EV_NO_ACTION: u32 = 0x03;
const EV_SEPARATOR: u32 = 0x04;
const EV_S_CRTM_VERSION: u32 = 0x08;
const EV_IPL: u32 = 0x0d;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
const EV_EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
const EV_EFI_BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
const EV_EFI_GPT_EVENT: u32 = 0x8000_0006;
const EV_EFI_ACTION: u32 = 0x8000_0007;
const EV_EFI_PLATFORM_FIRMWARE_BLOB: u32 = 0x8000_0008;
const EV_EFI_HANDOFF_TABLES: u32 = 0x8000_0009;
const EV_EFI_HCRTM_EVENT: u32 = 0x8000_0010;
const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

const TPM_ALG_SHA256: u16 = 0x000b;

/// EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE_GUID, as stored.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
const SECURITY_DATABASE: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];

/// Measurements of a boot, as played into the PCRs and the event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    Normal,
    /// As `normal` with another kernel.
    ChangedKernel,
}

/// Events before the first TPM2_PCR_Extend, which set where PCR 0 begins (sections 3.3.4.1 and 10.4.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Start {
    /// TPM2_Startup at locality 0: PCR 0 begins at 0.
    #[default]
    Plain,
    /// TPM2_Startup at locality 3, as Intel's Boot Guard does: PCR 0 begins at 3.
    #[value(name = "locality-3")]
    Locality3,
    /// Hardware measures before TPM2_Startup: PCR 0 begins at 4.
    HCrtm,
    /// Both: the measurement counts, PCR 0 begins at 4.
    #[value(name = "h-crtm-locality-3")]
    HCrtmLocality3,
}

impl Start {
    pub(crate) fn locality(self) -> u8 {
        match self {
            Self::Plain | Self::HCrtm => 0,
            Self::Locality3 | Self::HCrtmLocality3 => 3,
        }
    }

    /// The H-CRTM measurement by hardware; `None` when there is none.
    pub(crate) fn h_crtm(self) -> Option<&'static [u8]> {
        match self {
            Self::Plain | Self::Locality3 => None,
            Self::HCrtm | Self::HCrtmLocality3 => Some(b"simulated hardware root of trust"),
        }
    }
}

/// The measurements of one boot.
#[derive(Debug, Clone)]
pub struct Boot {
    start: Start,
    log: Vec<u8>,
    extends: Vec<(u8, [u8; 32])>,
}

impl Boot {
    /// A log that has only its header (TCG_EfiSpecIdEvent), for the SHA-256 bank. Measurements are added to it.
    pub fn empty() -> Self {
        let mut header = b"Spec ID Event03\0".to_vec();
        // Platform class client, version 2.0 errata 105, 64-bit UINTN.
        header.extend([0, 0, 0, 0, 0, 2, 105, 2]);
        header.extend(1_u32.to_le_bytes());
        header.extend(TPM_ALG_SHA256.to_le_bytes());
        header.extend(32_u16.to_le_bytes());
        header.push(0);
        let mut log = 0_u32.to_le_bytes().to_vec();
        log.extend(EV_NO_ACTION.to_le_bytes());
        log.extend([0; 20]);
        append_sized(&mut log, &header);
        Self { start: Start::Plain, log, extends: Vec::new() }
    }

    /// As [`Boot::empty`], with the events that tell how the TPM was started.
    pub fn starting(start: Start) -> Self {
        let mut boot = Self { start, ..Self::empty() };
        let locality = if start.h_crtm().is_some() { 4 } else { start.locality() };
        if locality != 0 {
            let data = [b"StartupLocality\0", &[locality][..]].concat();
            boot.record(0, EV_NO_ACTION, [0; 32], &data);
        }
        if let Some(content) = start.h_crtm() {
            boot.record(0, EV_EFI_HCRTM_EVENT, sha256(content), b"HCRTM");
        }
        boot
    }

    /// The boot of `scenario` after a plain start.
    pub fn of(scenario: Scenario) -> Self {
        Self::started(scenario, Start::Plain)
    }

    /// As [`Boot::of`], after any start.
    pub fn started(scenario: Scenario, start: Start) -> Self {
        let kernel: &[u8] = match scenario {
            Scenario::Normal => b"simulated kernel 6.1.0-40-amd64",
            Scenario::ChangedKernel => b"simulated kernel 6.1.0-40-amd64 with a backdoor",
        };
        let mut boot = Self::starting(start);
        boot.firmware();
        boot.boot_loader();
        boot.kernel(kernel);
        boot
    }

    pub(crate) fn start(&self) -> Start {
        self.start
    }

    /// The event log as the firmware hands it over.
    pub fn log(&self) -> &[u8] {
        &self.log
    }

    /// PCR and digest of each extension of the SHA-256 bank, in order.
    pub fn extends(&self) -> &[(u8, [u8; 32])] {
        &self.extends
    }

    /// Measures `content`; the event says `data` (TCG_PCR_EVENT2).
    pub fn measure(&mut self, pcr: u8, event_type: u32, content: &[u8], data: &[u8]) {
        let value = sha256(content);
        self.record(pcr, event_type, value, data);
        self.extends.push((pcr, value));
    }

    /// Writes an event to the log and extends nothing.
    pub fn record(&mut self, pcr: u8, event_type: u32, digest: [u8; 32], data: &[u8]) {
        self.log.extend(u32::from(pcr).to_le_bytes());
        self.log.extend(event_type.to_le_bytes());
        self.log.extend(1_u32.to_le_bytes());
        self.log.extend(TPM_ALG_SHA256.to_le_bytes());
        self.log.extend(digest);
        append_sized(&mut self.log, data);
    }

    /// Most events measure what they say.
    fn measure_data(&mut self, pcr: u8, event_type: u32, data: &[u8]) {
        self.measure(pcr, event_type, data, data);
    }

    fn firmware(&mut self) {
        self.measure_data(0, EV_S_CRTM_VERSION, &utf16("Simulated Firmware 1.0"));
        for (base, content) in
            [(0x0082_0000_u64, b"simulated PEI volume"), (0x0090_0000, b"simulated DXE volume")]
        {
            let blob = [base.to_le_bytes(), 0x000e_0000_u64.to_le_bytes()].concat();
            self.measure(0, EV_EFI_PLATFORM_FIRMWARE_BLOB, content, &blob);
        }
        for (name, guid, value) in [
            ("SecureBoot", GLOBAL, b"\x01".as_slice()),
            ("PK", GLOBAL, b"simulated platform key"),
            ("KEK", GLOBAL, b"simulated key exchange key"),
            ("db", SECURITY_DATABASE, b"simulated signature database"),
            ("dbx", SECURITY_DATABASE, b"simulated forbidden signatures"),
        ] {
            self.measure_data(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(guid, name, value));
        }
        self.measure(1, EV_EFI_HANDOFF_TABLES, b"simulated SMBIOS tables", &1_u64.to_le_bytes());
        self.measure_data(1, EV_EFI_VARIABLE_BOOT, &variable(GLOBAL, "BootOrder", &[0, 0]));
        let boot_option = utf16("debian \\EFI\\debian\\shimx64.efi");
        self.measure_data(1, EV_EFI_VARIABLE_BOOT, &variable(GLOBAL, "Boot0000", &boot_option));
        let rom = image_load("PciRoot(0x0)/Pci(0x3,0x0)/Offset(0x0,0x1ffff)");
        self.measure(2, EV_EFI_BOOT_SERVICES_DRIVER, b"simulated network card ROM", &rom);
        self.measure_data(4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option");
        for pcr in 0..=7 {
            self.measure_data(pcr, EV_SEPARATOR, &[0; 4]);
        }
        self.measure_data(5, EV_EFI_GPT_EVENT, &partition_table());
    }

    fn boot_loader(&mut self) {
        let authority = variable(SECURITY_DATABASE, "db", b"simulated signature database");
        self.measure_data(7, EV_EFI_VARIABLE_AUTHORITY, &authority);
        let shim = image_load("HD(1,GPT)/\\EFI\\debian\\shimx64.efi");
        self.measure(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"simulated shim 15.8", &shim);
        self.measure(14, EV_IPL, b"simulated machine owner keys", b"MokList\0");
        let grub = image_load("HD(1,GPT)/\\EFI\\debian\\grubx64.efi");
        self.measure(4, EV_EFI_BOOT_SERVICES_APPLICATION, b"simulated grub 2.06", &grub);
        for command in
            ["search --fs-uuid --set=root 6b1c", "linux /vmlinuz root=/dev/vda2 ro", "initrd /initrd.img"]
        {
            let text = format!("grub_cmd: {command}\0");
            self.measure(8, EV_IPL, command.as_bytes(), text.as_bytes());
        }
    }

    fn kernel(&mut self, kernel: &[u8]) {
        self.measure(9, EV_IPL, kernel, b"(hd0,gpt2)/vmlinuz\0");
        self.measure(9, EV_IPL, b"simulated initrd", b"(hd0,gpt2)/initrd.img\0");
        let command_line = "/vmlinuz root=/dev/vda2 ro";
        let text = format!("kernel_cmdline: {command_line}\0");
        self.measure(8, EV_IPL, command_line.as_bytes(), text.as_bytes());
        self.measure(4, EV_EFI_BOOT_SERVICES_APPLICATION, kernel, &image_load("HD(2,GPT)/\\vmlinuz"));
        self.measure_data(12, EV_IPL, &utf16("root=/dev/vda2 ro"));
        self.measure_data(5, EV_EFI_ACTION, b"Exit Boot Services Invocation");
        self.measure_data(5, EV_EFI_ACTION, b"Exit Boot Services Returned with Success");
    }
}

fn sha256(content: &[u8]) -> [u8; 32] {
    let mut value = [0; 32];
    value.copy_from_slice(digest(&SHA256, content).as_ref());
    value
}

#[expect(
    clippy::expect_used,
    reason = "events are made by programs that simulate, and hold far less than 4 GiB"
)]
fn append_sized(log: &mut Vec<u8>, data: &[u8]) {
    let size = u32::try_from(data.len()).expect("an event below 4 GiB");
    log.extend(size.to_le_bytes());
    log.extend(data);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// UEFI_VARIABLE_DATA (section 10.2.6).
fn variable(guid: [u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let length = |count: usize| (count as u64).to_le_bytes();
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [&guid, &length(name.len() / 2)[..], &length(value.len()), &name, value].concat()
}

/// UEFI_GPT_DATA (section 10.2.5): the table's header and one partition.
fn partition_table() -> Vec<u8> {
    let mut header = b"EFI PART".to_vec();
    header.resize(92, 0);
    let mut partition =
        [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]
            .to_vec();
    partition.resize(128, 0);
    [header, 1_u64.to_le_bytes().to_vec(), partition].concat()
}

/// UEFI_IMAGE_LOAD_EVENT (section 10.2.3): where and how large the image is, and its device path, here as a text node.
#[expect(clippy::expect_used, reason = "paths are constants of this file, far below 64 KiB")]
fn image_load(path: &str) -> Vec<u8> {
    let path = utf16(path);
    let node = u16::try_from(path.len() + 4).expect("a node below 64 KiB").to_le_bytes();
    let device_path = [&[0x04, 0x04], &node[..], &path, &[0x7f, 0xff, 0x04, 0x00]].concat();
    let fields = [0x7e00_0000_u64, 0x0010_0000, 0, device_path.len() as u64].map(u64::to_le_bytes).concat();
    [fields, device_path].concat()
}
