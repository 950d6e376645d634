//! State of the modules and of the fleet link for display: written by those who know, read by whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edgewarden_names::{Epoch, ModuleName, Reason, Refusal, UnixTime};
use edgewarden_protocol::uplink::ModuleState;
use tokio::sync::watch;

use edgewarden_protocol::runtime_console::{
    EnforcementStatus, EstStatus, FleetStatus, ModuleStatus, Repair, Status,
};

/// Cloning shares it.
#[derive(Debug, Clone)]
pub struct Board {
    shown: Arc<Mutex<Shown>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Shown {
    modules: BTreeMap<ModuleName, ModuleStatus>,
    epoch: Option<Epoch>,
    fleet: FleetStatus,
    est: Option<EstStatus>,
    enforcement: EnforcementStatus,
}

impl Board {
    pub fn new(fleet_url: Option<String>) -> Self {
        let fleet = FleetStatus { url: fleet_url, ..FleetStatus::default() };
        let shown = Shown { fleet, ..Shown::default() };
        Self { shown: Arc::new(Mutex::new(shown)), changes: watch::Sender::new(0) }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        // Every change is one assignment: what a thread that ended left behind is whole.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Wakes when modules or epoch changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Puts a module's line on the board, in place of the one before.
    pub fn set_module(&self, status: ModuleStatus) {
        self.shown().modules.insert(status.name.clone(), status);
        self.changed();
    }

    /// Shows, or clears, a fault of a module that runs on all the same.
    pub fn set_trouble(&self, module: &ModuleName, trouble: Option<Refusal>) {
        if let Some(status) = self.shown().modules.get_mut(module) {
            if status.state != ModuleState::Running || status.reason == trouble {
                return;
            }
            status.reason = trouble;
        }
        self.changed();
    }

    /// Takes a module's line off the board.
    pub fn remove_module(&self, module: &ModuleName) {
        self.shown().modules.remove(module);
        self.changed();
    }

    pub fn has_module(&self, module: &ModuleName) -> bool {
        self.shown().modules.contains_key(module)
    }

    /// Shows, or clears, a limit that a running module ran into. [`Self::set_trouble`] is worse and stays.
    pub fn set_note(&self, module: &ModuleName, note: Option<Refusal>) {
        let mut shown = self.shown();
        let running = shown.modules.get_mut(module).filter(|status| status.state == ModuleState::Running);
        let is_note = |refusal: &Refusal| {
            matches!(refusal.reason, Reason::ModuleOutOfMemory | Reason::ModuleOutOfProcesses)
        };
        let noted = running.filter(|status| status.reason.as_ref().is_none_or(is_note));
        if let Some(status) = noted.filter(|status| status.reason != note) {
            status.reason = note;
            drop(shown);
            self.changed();
        }
    }

    /// Counts a change from outside that was put back, and shows the last one.
    pub fn repaired(&self, at: UnixTime, what: String) {
        let enforcement = &mut self.shown().enforcement;
        enforcement.repairs = enforcement.repairs.saturating_add(1);
        enforcement.last = Some(Repair { at, what });
    }

    /// Shows a rule, limit or interface that is not in force as it is to be; `None`: everything is.
    pub fn enforcement_lost(&self, refusal: Option<Refusal>) {
        self.shown().enforcement.lost = refusal;
    }

    /// Shows the policy epoch in force. Wakes [`Self::changes`].
    pub fn set_epoch(&self, epoch: Epoch) {
        self.shown().epoch = Some(epoch);
        self.changed();
    }

    /// Changes the state of the fleet link. Wakes nobody.
    pub fn set_fleet(&self, change: impl FnOnce(&mut FleetStatus)) {
        change(&mut self.shown().fleet);
    }

    /// Shows the state of the link to the site's CA. Wakes nobody.
    pub fn set_est(&self, status: EstStatus) {
        self.shown().est = Some(status);
    }

    /// A copy of everything on the board.
    pub fn status(&self) -> Status {
        let shown = self.shown();
        Status {
            modules: shown.modules.values().cloned().collect(),
            epoch: shown.epoch,
            fleet: shown.fleet.clone(),
            est: shown.est.clone(),
            enforcement: shown.enforcement.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_neither_hides_nor_ends_what_is_worse() {
        let board = Board::new(None);
        let name = ModuleName::parse("alerts").unwrap();
        board.set_module(ModuleStatus {
            name: name.clone(),
            image: String::new(),
            state: ModuleState::Running,
            generation: None,
            instance: None,
            pid: None,
            address: None,
            restarts: 0,
            reason: None,
            update: None,
        });
        let shown = || board.status().modules.first().and_then(|module| module.reason.clone());
        let refusal = |reason| Some(Refusal::new(reason, &name, "a rule"));
        let (note, trouble) = (refusal(Reason::ModuleOutOfMemory), refusal(Reason::ImageWithdrawn));
        board.set_note(&name, note.clone());
        assert_eq!(shown(), note);
        board.set_note(&name, None);
        assert_eq!(shown(), None);
        board.set_trouble(&name, trouble.clone());
        board.set_note(&name, None);
        assert_eq!(shown(), trouble);
        board.set_note(&name, note);
        assert_eq!(shown(), trouble);
    }
}
