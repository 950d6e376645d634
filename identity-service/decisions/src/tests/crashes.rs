//! A power cut at every step on the disk: whatever is acknowledged is there afterwards, whatever is not is there whole or
//! not at all, and the state can always be opened.
//!
//! Each decision is made once to count its steps, then once for each step with a cut before it, in two ways: what the
//! process wrote stays (it was killed), or what was not synced is lost (the machine lost its power). Then the state is
//! opened, with a cut at each step of that too, and compared.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use edgewarden_audit::Audit;
use edgewarden_keystore::KeystoreError;
use edgewarden_names::{LeafName, Reason, Refusal, UnixTime};
use edgewarden_platform::crash_points::{Step, with_hook};
use edgewarden_platform::durable;
use edgewarden_protocol::audit::Event;
use edgewarden_protocol::control::{LeafAllowed, Reply};
use edgewarden_protocol::document::DocumentSet as _;
use edgewarden_state::{KeyKeeper, Store};
use zeroize::Zeroizing;

use super::world::{START, world};
use crate::authority::{Authority, Input, Moment};
use crate::documents::Documents;
use crate::records::ProcessSeen;

/// Small, so that files of the audit log rotate within a test.
const FILE_BYTES: u64 = 700;

/// Loss of the world at a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The process was killed: what it wrote is in the kernel.
    Nothing,
    /// The power failed: only what was synced is there.
    Unsynced,
    /// The power failed, and half of the last write had got to the disk.
    Half,
}

/// A disk, as far as one folder of small files goes: what would be there if the power failed now.
struct Disk {
    folder: PathBuf,
    /// Synced content by name: what the disk has for sure.
    safe: BTreeMap<PathBuf, Vec<u8>>,
    /// Content of files as synced, whatever they are called by then.
    synced: BTreeMap<PathBuf, Vec<u8>>,
    steps: usize,
    cut_at: usize,
    loss: Loss,
    cut: bool,
    /// The cut came before a sync, so that part of what was written may be there.
    at_sync: bool,
}

fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

impl Disk {
    fn new(folder: &Path, cut_at: usize, loss: Loss) -> Self {
        let safe = content(folder);
        let (folder, synced) = (folder.into(), safe.clone());
        Self { folder, safe, synced, steps: 0, cut_at, loss, cut: false, at_sync: false }
    }

    /// Asked before each step; the step's effect on what is safe is noted as if it were done already, which is right
    /// unless the cut comes now.
    fn before(&mut self, step: Step<'_>) -> io::Result<()> {
        if !self.cut && self.steps == self.cut_at {
            self.cut = true;
            self.at_sync = matches!(step, Step::Sync(_));
            if self.loss != Loss::Nothing {
                self.lose(step);
            }
        }
        if self.cut {
            return Err(io::Error::other("the power is off"));
        }
        self.steps += 1;
        match step {
            Step::Sync(path) => {
                let bytes = std::fs::read(path).unwrap();
                self.synced.insert(path.into(), bytes.clone());
                // The name is on the disk already: then its new content is too.
                if let Some(safe) = self.safe.get_mut(path) {
                    *safe = bytes;
                }
            }
            Step::SyncFolder(_) => {
                let names = content(&self.folder);
                self.safe = names
                    .into_keys()
                    .map(|path| (path.clone(), self.synced.get(&path).cloned().unwrap_or_default()))
                    .collect();
            }
            Step::Rename { from, to } => {
                let moved = self.synced.remove(from).unwrap_or_default();
                self.synced.insert(to.into(), moved);
            }
            Step::Remove(path) => drop(self.synced.remove(path)),
            Step::Create(path) => drop(self.synced.insert(path.into(), Vec::new())),
            Step::Write { .. } | Step::Truncate { .. } => {}
        }
        Ok(())
    }

    /// Makes the folder what the disk has.
    fn lose(&mut self, step: Step<'_>) {
        let mut left = self.safe.clone();
        if let (Loss::Half, Step::Sync(path)) = (self.loss, step)
            && let Some(safe) = left.get_mut(path)
        {
            let now = std::fs::read(path).unwrap();
            let half = safe.len() + now.len().saturating_sub(safe.len()) / 2;
            *safe = now[..half.min(now.len())].to_vec();
        }
        for path in content(&self.folder).into_keys() {
            std::fs::remove_file(path).unwrap();
        }
        for (path, bytes) in left {
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// A cut, if it came, and the steps before it.
#[derive(Debug, Clone, Copy)]
struct Cut {
    came: bool,
    at_sync: bool,
    steps: usize,
}

/// Runs `body` with a cut before step `cut_at`.
fn cut<T>(folder: &Path, cut_at: usize, loss: Loss, body: impl FnOnce() -> T) -> (T, Cut) {
    let disk = Rc::new(RefCell::new(Disk::new(folder, cut_at, loss)));
    let hook = Rc::clone(&disk);
    let out = with_hook(move |step| hook.borrow_mut().before(step), body);
    let disk = disk.borrow();
    (out, Cut { came: disk.cut, at_sync: disk.at_sync, steps: disk.steps })
}

/// `identityd` without sockets and keys: its state on its disk.
struct Life {
    folder: tempfile::TempDir,
    store: Store,
    audit: Audit,
    authority: Authority,
    wall: UnixTime,
    counter: u8,
}

type Reopened = (Store, Audit, Documents);

/// A key in a file beside the documents, which is cut as they are.
struct FileKey(PathBuf);

impl KeyKeeper for FileKey {
    fn find(&self) -> Result<Option<Zeroizing<Vec<u8>>>, KeystoreError> {
        let found = durable::read(&self.0, 64);
        let failed = |source| KeystoreError::File { path: self.0.clone(), source };
        Ok(found.map_err(failed)?.map(Zeroizing::new))
    }

    fn keep(&self, key: &[u8]) -> Result<(), KeystoreError> {
        let failed = |source| KeystoreError::File { path: self.0.clone(), source };
        durable::write(&self.0, key, 0o600).map_err(failed)
    }
}

/// As `run` does at start.
fn open(folder: &Path) -> Result<Reopened, Box<dyn std::error::Error>> {
    durable::sweep(folder)?;
    let keeper = FileKey(folder.join("state-key"));
    let store = Store::open(folder, &Documents::default().texts(None)?, &keeper, None)?;
    let documents = Documents::load(&store)?;
    let audit = Audit::open_sized(folder, FILE_BYTES, UnixTime(1))?;
    Ok((store, audit, documents))
}

impl Life {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, audit, documents) = open(folder.path()).unwrap();
        let (authority, _) = Authority::recover(Arc::clone(&world().context), documents);
        let wall = UnixTime(START.0 + 400);
        Self { folder, store, audit, authority, wall, counter: 0 }
    }

    /// As `service` does it: events first, then the documents, then it is in force.
    fn put(&mut self, input: Input) -> Result<Reply, Refusal> {
        self.counter += 1;
        let mut next = self.authority.clone();
        let moment = Moment { now: self.wall, random: [self.counter; 32] };
        let step = next.decide(&moment, input)?;
        let failed = |error: &dyn std::error::Error| Refusal::new(Reason::Internal, "disk", error);
        for event in &step.events {
            self.audit.append(self.wall, event).map_err(|error| failed(&error))?;
        }
        let before = &self.authority.documents;
        self.store.save_changed(&next.documents, before).map_err(|error| failed(&error))?;
        self.authority = next;
        Ok(step.reply)
    }

    fn restart(&mut self) {
        let (store, audit, documents) = open(self.folder.path()).unwrap();
        let permits = self.authority.permits.clone();
        let (mut authority, refusals) = Authority::recover(Arc::clone(&world().context), documents);
        assert!(refusals.is_empty(), "{refusals:?}");
        // Permits are in memory only; the next decision of the test may need one.
        authority.permits = permits;
        (self.store, self.audit, self.authority) = (store, audit, authority);
    }
}

fn same(one: &Documents, other: &Documents) -> bool {
    one.enrolment == other.enrolment
        && one.deployments == other.deployments
        && one.generations == other.generations
        && one.leaves == other.leaves
        && one.records == other.records
        && one.clock == other.clock
}

/// Cuts the decision on `input` at each of its steps. Leaves `life` with the decision made.
fn cut_everywhere(name: &str, life: &mut Life, input: impl Fn() -> Input) -> Reply {
    let folder = life.folder.path().to_owned();
    let at_first = content(&folder);
    let before = life.authority.documents.clone();
    let entries = life.audit.tip().0;
    let permits = life.authority.permits.clone();
    let counter = life.counter;
    let put_back = |life: &mut Life| {
        for path in content(&folder).into_keys() {
            std::fs::remove_file(path).unwrap();
        }
        for (path, bytes) in &at_first {
            std::fs::write(path, bytes).unwrap();
        }
        life.restart();
        life.authority.permits = permits.clone();
        life.counter = counter;
    };
    life.put(input()).unwrap();
    let after = life.authority.documents.clone();
    let entries_after = life.audit.tip().0;
    let mut steps = 0;
    for loss in [Loss::Nothing, Loss::Unsynced, Loss::Half] {
        for cut_at in 0.. {
            put_back(life);
            let (outcome, cut_first) = cut(&folder, cut_at, loss, || life.put(input()));
            if !cut_first.came {
                outcome.unwrap();
                break;
            }
            if loss == Loss::Half && !cut_first.at_sync {
                continue;
            }
            steps += 1;
            let place = format!("{name}: cut before step {cut_at}, lost {loss:?}");
            let left = content(&folder);
            // The start after the cut may be cut itself.
            for again in [usize::MAX].into_iter().chain(0..) {
                for path in content(&folder).into_keys() {
                    std::fs::remove_file(path).unwrap();
                }
                for (path, bytes) in &left {
                    std::fs::write(path, bytes).unwrap();
                }
                let (opened, cut_again) =
                    cut(&folder, again, loss, || open(&folder).map_err(|error| error.to_string()));
                let opened =
                    if cut_again.came { open(&folder).map_err(|error| error.to_string()) } else { opened };
                let (_, audit, found) =
                    opened.unwrap_or_else(|error| panic!("{place}, then {again}: {error}"));
                let (old, new) = (same(&found, &before), same(&found, &after));
                assert!(old || new, "{place}, then {again}: a mix of {before:?} and {after:?}: {found:?}");
                assert!(new || outcome.is_err(), "{place}, then {again}: what was acknowledged is lost");
                let tip = audit.tip().0;
                assert!(tip >= entries, "{place}, then {again}: the audit log lost entries");
                assert!(tip >= entries_after || !new, "{place}, then {again}: in force and not written down");
                // One step, the sync of a folder that is synced already, is the start that has nothing to repair.
                if cut_again.steps <= 1 && again == usize::MAX || again != usize::MAX && !cut_again.came {
                    break;
                }
            }
        }
    }
    assert!(steps > 6, "{name}: {steps} cuts");
    put_back(life);
    life.put(input()).unwrap()
}

#[test]
fn a_power_cut_at_any_step_leaves_the_state_before_or_after() {
    let mut life = Life::new();
    let world = world();
    let enrolled = |n: usize| Input::EnrolAccept(Box::new(world.enrolled[n].clone()));
    cut_everywhere("enrol", &mut life, || enrolled(20));
    cut_everywhere("enrol again", &mut life, || enrolled(21));
    let refused = || Input::EnrolRefused(Refusal::new(Reason::AttestQuote, "device", "rule"));
    cut_everywhere("enrol refused", &mut life, refused);
    cut_everywhere("enrol healed", &mut life, || enrolled(22));
    for version in [0, 1, 3] {
        let judged = life.authority.judge_deployment(&world.envelopes[version]).unwrap().unwrap();
        cut_everywhere("deploy", &mut life, || Input::DeploymentJudged(Box::new(judged.clone())));
    }
    let evidence = world.image.evidence("alerts");
    let judged = || {
        let (proof, epoch) = world_judge(&evidence);
        Input::ImageJudged(Box::new(proof), epoch)
    };
    JUDGE.with_borrow_mut(|authority| *authority = Some(life.authority.clone()));
    let Reply::Permit(permit) = cut_everywhere("permit", &mut life, judged) else { panic!() };
    let prepare = || Input::StartPrepare { permit: permit.permit.clone() };
    life.put(prepare()).unwrap();
    let started = || Input::Started {
        instance: permit.instance.clone(),
        seen: ProcessSeen { pid: 7, pid_started: 9, cgroup: "/module/alerts-1".into() },
        address: [10, 77, 0, 2].into(),
    };
    cut_everywhere("start", &mut life, started);
    let leaf = LeafName::parse("sensor-1").unwrap();
    let allow = || Input::LeafAllow { leaf: leaf.clone(), lifetime_seconds: 600 };
    let judged = life.authority.judge_deployment(&world.envelopes[5]).unwrap().unwrap();
    life.put(Input::DeploymentJudged(Box::new(judged))).unwrap();
    let Reply::LeafToken(LeafAllowed { token, .. }) = cut_everywhere("leaf allow", &mut life, allow) else {
        panic!()
    };
    let enrol = || Input::LeafEnrolled { leaf: leaf.clone(), token: token.clone(), serial: "ab".into() };
    cut_everywhere("leaf enrol", &mut life, enrol);
    assert!(life.put(enrol()).is_err(), "the token is spent");
    // Two documents at once: an instance is gone, and the floor rises.
    life.wall = UnixTime(life.wall.0 + 100_000);
    let tick = || Input::Tick { gone: vec![permit.instance.clone()] };
    cut_everywhere("tick", &mut life, tick);
    assert!(life.authority.documents.records.iter().next().is_none());
    let files = content(life.folder.path());
    assert!(files.keys().filter(|path| path.to_string_lossy().contains("audit-")).count() > 1, "it rotated");
}

thread_local! {
    static JUDGE: RefCell<Option<Authority>> = const { RefCell::new(None) };
}

/// A proof cannot be copied, so each decision gets its own.
fn world_judge(
    evidence: &edgewarden_protocol::control::ImageEvidence,
) -> (edgewarden_image_trust::ImageProof, edgewarden_names::Epoch) {
    JUDGE.with_borrow(|authority| authority.as_ref().unwrap().judge_image(evidence).unwrap())
}

/// The key and the first documents are made together: a cut leaves nothing that counts, or all of it.
#[test]
fn a_power_cut_at_any_step_of_the_first_start_leaves_a_gateway_that_starts() {
    for loss in [Loss::Nothing, Loss::Unsynced, Loss::Half] {
        for cut_at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let (_, first) = cut(folder.path(), cut_at, loss, || open(folder.path()).is_ok());
            let place = format!("cut before step {cut_at}, lost {loss:?}");
            // The next start may be cut as well.
            for again in [3, 9, 20] {
                cut(folder.path(), again, loss, || open(folder.path()).is_ok());
            }
            let (store, _, documents) =
                open(folder.path()).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert!(same(&documents, &Documents::default()), "{place}");
            drop(store);
            let (store, ..) = open(folder.path()).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert!(!store.is_new(), "{place}");
            if !first.came {
                assert!(cut_at > 40, "{cut_at} steps");
                break;
            }
        }
    }
}

#[test]
fn the_audit_log_survives_a_cut_at_any_step_of_a_rotation() {
    let event = |n: u32| Event::new("test.event", n, "x".repeat(100));
    for loss in [Loss::Nothing, Loss::Unsynced, Loss::Half] {
        for cut_at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let mut audit = Audit::open_sized(folder.path(), FILE_BYTES, UnixTime(1)).unwrap();
            let acknowledged = Rc::new(RefCell::new(0));
            let count = Rc::clone(&acknowledged);
            let ((), cut_there) = cut(folder.path(), cut_at, loss, || {
                for n in 1..20 {
                    if audit.append(UnixTime(n.into()), &event(n)).is_ok() {
                        *count.borrow_mut() = n;
                    }
                }
            });
            let audit = Audit::open_sized(folder.path(), FILE_BYTES, UnixTime(1))
                .unwrap_or_else(|error| panic!("cut before step {cut_at}, lost {loss:?}: {error}"));
            let last = u32::try_from(audit.tip().0).unwrap();
            let known = *acknowledged.borrow();
            assert!(last >= known && last <= known + 1, "{cut_at} {loss:?}: {last} of {known}");
            if !cut_there.came {
                assert!(cut_at > 40, "{cut_at} steps");
                break;
            }
        }
    }
}
