//! The log against a TPM of our own that fails, is reset and is extended by others, and cuts at each step on the disk:
//! afterwards everything that happened has its line, and the quoted value proves the log.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Mutex, MutexGuard};

use edgewarden_evidence::runtime_log::{Record, Replayed, RuntimeLog, extend};
use edgewarden_evidence::tpm::{Attest, AttestKind, ClockInfo, PcrSelections};
use edgewarden_keystore::{Description, Health, KeyAttestation, KeystoreError, Quote};
use edgewarden_names::{GatewayName, TrustDomain, UnixTime};
use edgewarden_platform::crash_points::with_hook;
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof};
use proptest::prelude::*;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;

const PCR: u8 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Before the TPM did it.
    Away,
    /// After the TPM did it: the answer is lost.
    Silent,
}

struct Chip {
    value: [u8; 32],
    resets: u32,
    restarts: u32,
    extended: usize,
    /// Trouble at the next extension but so many.
    trouble: Option<(usize, Trouble)>,
}

struct FakeTpm(Mutex<Chip>);

impl FakeTpm {
    fn new() -> Self {
        Self(Mutex::new(Chip { value: [0; 32], resets: 1, restarts: 0, extended: 0, trouble: None }))
    }

    fn chip(&self) -> MutexGuard<'_, Chip> {
        self.0.lock().unwrap()
    }

    fn reset(&self) {
        let mut chip = self.chip();
        (chip.value, chip.resets, chip.restarts) = ([0; 32], chip.resets + 1, 0);
    }

    fn foreign(&self) {
        let mut chip = self.chip();
        chip.value = extend(&chip.value, &[0xee; 32]);
    }
}

fn away() -> KeystoreError {
    KeystoreError::Timeout { seconds: 30 }
}

fn none<T>() -> Result<T, KeystoreError> {
    Err(KeystoreError::Unsupported("a fake", "do that"))
}

impl Keystore for FakeTpm {
    fn describe(&self) -> Description {
        Description { text: "fake".into(), hardware: false, dangerous: true }
    }
    fn health(&self) -> Result<Health, KeystoreError> {
        none()
    }
    fn device_keys(&self) -> Result<DeviceKeys, KeystoreError> {
        none()
    }
    fn prove(
        &self,
        _: &Challenge,
        _: &GatewayName,
        _: &TrustDomain,
        _: Vec<u8>,
    ) -> Result<Proof, KeystoreError> {
        none()
    }
    fn ca_public(&self) -> Result<Vec<u8>, KeystoreError> {
        none()
    }
    fn ca_sign(&self, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        none()
    }
    fn quote(&self, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, KeystoreError> {
        assert_eq!(pcrs, [PCR]);
        let chip = self.chip();
        let attest = Attest {
            qualified_signer: Vec::new(),
            extra_data: nonce.to_vec(),
            clock: ClockInfo { clock: 1, reset_count: chip.resets, restart_count: chip.restarts, safe: true },
            firmware_version: 1,
            kind: AttestKind::Quote { selections: PcrSelections(Vec::new()), digest: vec![0; 32] },
        };
        Ok(Quote {
            message: attest.to_bytes(),
            signature: Vec::new(),
            ak_public: Vec::new(),
            ak_pem: String::new(),
            pcrs: vec![(PCR, chip.value)],
        })
    }
    fn device_sign(&self, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        none()
    }
    fn seal(&self, _: &str, _: &[u8]) -> Result<(), KeystoreError> {
        none()
    }
    fn unseal(&self, _: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        none()
    }
    fn forget(&self, _: &str) -> Result<(), KeystoreError> {
        none()
    }
    fn create_key(&self, _: &str) -> Result<Vec<u8>, KeystoreError> {
        none()
    }
    fn key_public(&self, _: &str) -> Result<Vec<u8>, KeystoreError> {
        none()
    }
    fn key_sign(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        none()
    }
    fn key_certify(&self, _: &str, _: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        none()
    }
    fn delete_key(&self, _: &str) -> Result<(), KeystoreError> {
        none()
    }
    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        none()
    }
    fn agree(&self, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        none()
    }
    fn pcr_extend(&self, pcr: u8, digest: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        assert_eq!(pcr, PCR);
        let mut chip = self.chip();
        let trouble = chip.trouble;
        match trouble {
            Some((0, _)) => chip.trouble = None,
            Some((more, trouble)) => chip.trouble = Some((more - 1, trouble)),
            None => {}
        }
        if matches!(trouble, Some((0, Trouble::Away))) {
            return Err(away());
        }
        chip.value = extend(&chip.value, digest);
        chip.extended += 1;
        if matches!(trouble, Some((0, Trouble::Silent))) { Err(away()) } else { Ok(chip.value) }
    }
}

/// An audit log in memory, and what was complained of.
#[derive(Default)]
struct Audit {
    entries: RefCell<Vec<AuditEntry>>,
    complaints: RefCell<Vec<Refusal>>,
}

impl Audit {
    fn happen(&self, kind: &str, count: usize) {
        for _ in 0..count {
            let sequence = self.entries.borrow().len() as u64 + 1;
            self.entries.borrow_mut().push(AuditEntry {
                sequence,
                at: UnixTime(5),
                event: kind.into(),
                subject: format!("alerts-{sequence}"),
                detail: "detail".into(),
                hash: format!("{sequence:064x}"),
            });
        }
    }
}

impl Source for Audit {
    fn after(&self, sequence: u64) -> Vec<AuditEntry> {
        let entries = self.entries.borrow();
        let all = (entries.len() as u64) < sequence;
        entries.iter().filter(|entry| all || entry.sequence > sequence).cloned().collect()
    }
    fn complain(&self, refusal: &Refusal) {
        assert_eq!(refusal.reason, Reason::AttestRuntimeLog);
        self.complaints.borrow_mut().push(refusal.clone());
    }
}

struct World {
    folder: TempDir,
    tpm: FakeTpm,
    audit: Audit,
    keeper: Keeper,
}

impl World {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let keeper = Keeper::in_folder(PCR, folder.path().join("log"));
        Self { folder, tpm: FakeTpm::new(), audit: Audit::default(), keeper }
    }

    fn follow(&self) -> bool {
        self.keeper.follow(&self.audit, &self.tpm)
    }

    /// As after `kill -9`.
    fn restart(&mut self) {
        self.keeper = Keeper::in_folder(PCR, self.folder.path().join("log"));
    }

    fn complaints(&self) -> usize {
        self.audit.complaints.borrow().len()
    }

    fn log(&self) -> RuntimeLog {
        RuntimeLog::parse(&Files::text(&self.folder.path().join("log")).unwrap()).unwrap()
    }

    /// The quoted value proves the log, and each event has its line, once and in order.
    fn check(&self) -> Replayed {
        let log = self.log();
        let replayed = log.replay(PCR, &self.tpm.chip().value).unwrap();
        let lines: Vec<u64> = log
            .entries()
            .iter()
            .filter_map(|entry| match &entry.record {
                Record::Event(event) => Some(event.audit_sequence),
                Record::Start(_) => None,
            })
            .collect();
        let entries = self.audit.entries.borrow();
        let told = entries.iter().filter(|entry| KINDS.contains(&entry.event.as_str()));
        assert_eq!(lines, told.map(|entry| entry.sequence).collect::<Vec<_>>());
        replayed
    }
}

#[test]
fn what_happens_gets_a_line_and_restarts_add_none() {
    let mut world = World::new();
    world.audit.happen("module.started", 2);
    world.audit.happen("svid.issued", 5);
    world.audit.happen("audit.head", 1);
    assert!(world.follow());
    assert_eq!(world.check().entries, 4);
    for _ in 0..3 {
        world.restart();
        assert!(world.follow());
    }
    assert_eq!((world.check().entries, world.tpm.chip().extended), (4, 4));
    world.audit.happen("module.stopped", 1);
    assert!(world.follow());
    assert_eq!(world.check().entries, 5);
    assert_eq!(world.keeper.state(), "PCR 15, 5 lines, 0 waiting");
    assert_eq!(world.complaints(), 0);
}

#[test]
fn a_boot_begins_a_section() {
    let mut world = World::new();
    for boot in 1..4 {
        world.audit.happen("module.started", 2);
        assert!(world.follow());
        let replayed = world.check();
        assert_eq!((replayed.boots, replayed.unexplained), (boot, 0));
        world.tpm.reset();
        world.restart();
    }
    // Not even a new process: the TPM alone lost its power.
    assert!(world.follow());
    world.tpm.reset();
    world.audit.happen("module.started", 1);
    assert!(!world.follow(), "the value is another than it should be");
    assert!(world.follow());
    world.check();
    assert_eq!(world.complaints(), 1);
}

#[test]
fn a_foreign_extension_is_told_once_and_the_log_goes_on() {
    let mut world = World::new();
    world.audit.happen("module.started", 1);
    assert!(world.follow());
    world.tpm.foreign();
    world.restart();
    assert!(world.follow());
    assert_eq!(world.complaints(), 1);
    assert!(world.audit.complaints.borrow()[0].rule.contains("not where the log says"));
    assert_eq!(world.check().unexplained, 1);
    world.restart();
    assert!(world.follow());
    assert_eq!(world.complaints(), 1);
    // While it runs.
    world.tpm.foreign();
    world.audit.happen("module.started", 1);
    while !world.follow() {}
    assert_eq!(world.check().unexplained, 2);
}

#[test]
fn an_answer_that_is_lost_is_not_extended_twice() {
    for trouble in [Trouble::Away, Trouble::Silent] {
        for at in 0..4 {
            let mut world = World::new();
            world.audit.happen("module.started", 3);
            world.tpm.chip().trouble = Some((at, trouble));
            assert!(!world.follow());
            assert!(world.keeper.state().contains("does not extend"), "{}", world.keeper.state());
            world.restart();
            assert!(world.follow());
            assert_eq!((world.check().entries, world.tpm.chip().extended), (4, 4), "{trouble:?} {at}");
        }
    }
}

#[test]
fn a_changed_log_is_told_and_not_written_over() {
    let mut world = World::new();
    world.audit.happen("module.started", 3);
    assert!(world.follow());
    let file = world.folder.path().join("log/runtime-00000000000000000001.log");
    let good = std::fs::read_to_string(&file).unwrap();
    // Its end was cut off: a log, but another one than the PCR's.
    let cut: String = good.split_inclusive('\n').take(2).collect();
    std::fs::write(&file, &cut).unwrap();
    world.restart();
    assert!(world.follow());
    assert_eq!(
        (world.complaints(), world.log().replay(PCR, &world.tpm.chip().value).unwrap().unexplained),
        (1, 1)
    );
    // No log at all.
    for bad in [good.replace("alerts-2", "alerts-9") + "x\n", good.replacen("alerts-1", "\u{7f}", 1)] {
        std::fs::write(&file, &bad).unwrap();
        world.restart();
        assert!(!world.follow() && !world.follow());
        assert!(world.keeper.state().contains("move it away"), "{}", world.keeper.state());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), bad);
    }
    assert_eq!(world.complaints(), 3, "each once");
}

#[test]
fn entries_that_were_rotated_away_are_told() {
    let world = World::new();
    world.audit.happen("module.started", 2);
    assert!(world.follow());
    world.audit.happen("module.started", 5);
    world.audit.entries.borrow_mut().drain(..4);
    // The log remembers the last three only.
    let (events, covered) = lines_for(&world.audit.entries.borrow(), 2, 10).unwrap();
    assert_eq!(events.iter().map(|event| event.kind.as_str()).next(), Some(SKIPPED));
    assert_eq!((events[0].subject.as_str(), events.len(), covered), ("3 to 4", 4, 7));
    // A log that began anew is followed from its first entry.
    let (events, covered) = lines_for(&world.audit.entries.borrow()[..1], 9, 10).unwrap();
    assert_eq!((events.len(), covered), (1, 5));
}

#[test]
fn the_log_is_bounded_and_what_is_left_replays() {
    let mut world = World::new();
    for _ in 0..9 {
        world.audit.happen("module.started", 4000);
        assert!(world.follow());
    }
    world.restart();
    world.audit.happen("module.started", 1);
    assert!(world.follow());
    let text = Files::text(&world.folder.path().join("log")).unwrap();
    assert!(text.len() < 6 * 1024 * 1024, "{}", text.len());
    let replayed = world.log().replay(PCR, &world.tpm.chip().value).unwrap();
    assert!(replayed.first > 1 && replayed.unexplained == 0, "{replayed:?}");
    assert_eq!(world.complaints(), 0);
}

#[test]
fn more_than_waits_stays_in_the_audit_log() {
    let world = World::new();
    world.audit.happen("module.started", 9000);
    world.tpm.chip().trouble = Some((0, Trouble::Away));
    assert!(!world.follow());
    assert!(world.log().entries().len() < 5000);
    while world.log().entries().len() < 9001 {
        assert!(world.follow());
    }
    world.check();
}

#[test]
fn nothing_is_written_after_the_end() {
    let world = World::new();
    world.audit.happen("module.started", 1);
    assert!(world.follow());
    let before = Files::text(&world.folder.path().join("log")).unwrap();
    world.keeper.close();
    world.audit.happen("module.started", 1);
    assert!(world.follow());
    assert_eq!(Files::text(&world.folder.path().join("log")).unwrap(), before);
}

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Does `work` with a cut after so many steps on the disk.
fn cut_after<T>(steps: usize, work: impl FnOnce() -> T) {
    LEFT.set(steps);
    with_hook(
        move |_| match LEFT.get() {
            0 => Err(io::Error::other("the power is gone")),
            left => {
                LEFT.set(left - 1);
                Ok(())
            }
        },
        work,
    );
}

#[derive(Debug, Clone, Copy)]
enum Happening {
    Events(usize),
    Restart,
    Cut(usize),
    Boot,
    Sleep,
    Trouble(usize, Trouble),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let trouble = prop_oneof![Just(Trouble::Away), Just(Trouble::Silent)];
    let one = prop_oneof![
        4 => (0..4_usize).prop_map(Happening::Events),
        1 => Just(Happening::Restart),
        2 => (0..8_usize).prop_map(Happening::Cut),
        1 => Just(Happening::Boot),
        1 => Just(Happening::Sleep),
        2 => (0..4_usize, trouble).prop_map(|(at, trouble)| Happening::Trouble(at, trouble)),
    ];
    prop::collection::vec(one, 0..24)
}

proptest! {
    #[test]
    fn whatever_happens_each_event_has_its_line_and_the_quote_proves_it(happenings in happenings()) {
        let mut world = World::new();
        for happening in happenings {
            match happening {
                Happening::Events(count) => {
                    world.audit.happen("module.started", count);
                    world.follow();
                }
                Happening::Restart => world.restart(),
                Happening::Cut(steps) => {
                    world.audit.happen("module.stopped", 1);
                    cut_after(steps, || world.follow());
                    world.restart();
                }
                Happening::Boot => {
                    world.tpm.reset();
                    world.restart();
                }
                Happening::Sleep => {
                    world.tpm.chip().restarts += 1;
                    world.restart();
                }
                Happening::Trouble(at, trouble) => {
                    world.tpm.chip().trouble = Some((at, trouble));
                    world.audit.happen("epoch.enforced", 2);
                    world.follow();
                    if at % 2 == 0 {
                        world.restart();
                    }
                }
            }
        }
        world.tpm.chip().trouble = None;
        world.audit.happen("module.started", 1);
        world.restart();
        prop_assert!(world.follow(), "{}", world.keeper.state());
        prop_assert_eq!(world.check().unexplained, 0);
    }
}
