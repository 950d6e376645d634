//! Finding the token, asking what it can do, and logging in.

use std::path::{Path, PathBuf};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::{MechanismInfo, MechanismType};
use cryptoki::session::Session;
use cryptoki::slot::{Slot, TokenInfo};

use super::fault::{Fault, fault};
use super::keys::{Keys, Shelf};
use super::module::Module;
use super::pin::Pin;
use super::record::Record;
use crate::error::KeystoreError;
use crate::owner::Connector;

/// Most labels that an error lists.
const LABELS_MAX: usize = 8;

/// Tokens that are software, should their library say that they are in a hardware slot.
const SOFTWARE_TOKENS: [&str; 4] = ["softhsm", "soft token", "softoken", "kryoptic"];

/// A use that a mechanism must have.
type Use = (&'static str, fn(&MechanismInfo) -> bool);

/// All that the store asks of a token, checked at each login: what is missing later would be missed when it hurts.
const MECHANISMS: [(MechanismType, &str, &[Use]); 5] = [
    (
        MechanismType::ECC_KEY_PAIR_GEN,
        "CKM_EC_KEY_PAIR_GEN",
        &[("generating key pairs", MechanismInfo::generate_key_pair)],
    ),
    (MechanismType::ECDSA, "CKM_ECDSA", &[("signing", MechanismInfo::sign)]),
    (MechanismType::ECDH1_DERIVE, "CKM_ECDH1_DERIVE", &[("key agreement", MechanismInfo::derive)]),
    (MechanismType::AES_KEY_GEN, "CKM_AES_KEY_GEN", &[("generating keys", MechanismInfo::generate)]),
    (
        MechanismType::AES_GCM,
        "CKM_AES_GCM",
        &[("encrypting", MechanismInfo::encrypt), ("decrypting", MechanismInfo::decrypt)],
    ),
];

/// Library and label of the token.
pub(super) struct Token {
    module: PathBuf,
    label: String,
    pin: Pin,
    record: Record,
}

/// A session that is logged in, and the keys. Ends in this order.
pub(super) struct Connection {
    pub(super) keys: Keys,
    pub(super) session: Session,
    pub(super) description: String,
    token: String,
    _module: Module,
}

impl Connection {
    pub(super) fn shelf(&self) -> Shelf<'_> {
        Shelf { session: &self.session, token: &self.token }
    }

    /// Asks the token for something that it can only answer when it is there.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.session.get_session_info().map(drop).map_err(fault)
    }
}

impl Token {
    pub(super) fn new(module: &Path, label: &str, pin_file: &Path, state: &Path) -> Self {
        Self {
            module: module.to_owned(),
            label: label.to_owned(),
            pin: Pin::new(pin_file, state),
            record: Record::new(state),
        }
    }

    fn find(&self, library: &Pkcs11) -> Result<(Slot, TokenInfo), Fault> {
        let mut found = Vec::new();
        let mut labels = Vec::new();
        for slot in library.get_slots_with_token().map_err(fault)? {
            // A token that cannot be asked is not the one, or it will be missed.
            let Ok(info) = library.get_token_info(slot) else { continue };
            if info.label() == self.label {
                found.push((slot, info));
            } else if info.token_initialized() && labels.len() < LABELS_MAX {
                labels.push(format!("`{}`", info.label()));
            }
        }
        let problem = match found.len() {
            0 if labels.is_empty() => "it has no initialized token".into(),
            0 => format!("it has {}", labels.join(", ")),
            1 => String::new(),
            more => format!("it has {more} tokens of that label; give them different ones"),
        };
        match found.pop() {
            Some(found) if problem.is_empty() => Ok(found),
            _ => Err(KeystoreError::TokenMissing {
                token: self.label.clone(),
                module: self.module.clone(),
                problem,
            }
            .into()),
        }
    }

    fn check_mechanisms(&self, library: &Pkcs11, slot: Slot) -> Result<(), Fault> {
        // SoftHSM2 goes on telling about a mechanism that it was told not to list.
        let listed = library.get_mechanism_list(slot).map_err(fault)?;
        for (mechanism, name, uses) in MECHANISMS {
            let missing = |used_for: &'static str| {
                Fault::Final(KeystoreError::Mechanism {
                    token: self.label.clone(),
                    mechanism: name,
                    used_for,
                })
            };
            let info = match library.get_mechanism_info(slot, mechanism) {
                Ok(info) => Some(info).filter(|_| listed.contains(&mechanism)),
                Err(Error::Pkcs11(RvError::MechanismInvalid | RvError::FunctionNotSupported, _)) => None,
                Err(error) => return Err(fault(error)),
            };
            if let Some((what, _)) = uses.iter().find(|(_, allows)| !info.as_ref().is_some_and(allows)) {
                return Err(missing(what));
            }
        }
        Ok(())
    }

    /// Maker and model by the token's own word, and what that is worth.
    fn describe(library: &Pkcs11, slot: Slot, info: &TokenInfo) -> String {
        let hardware_slot = library.get_slot_info(slot).is_ok_and(|slot| slot.hardware_slot());
        let names = format!("{} {}", info.manufacturer_id(), info.model()).to_lowercase();
        let soft = SOFTWARE_TOKENS.iter().any(|name| names.contains(name));
        let worth = if hardware_slot && !soft { "not attested" } else { "hardware: none" };
        let clean = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).collect() };
        format!("pkcs11 ({} {}; {worth})", clean(info.manufacturer_id()), clean(info.model()))
    }
}

impl Connector for Token {
    type Connection = Connection;

    fn name(&self) -> String {
        format!("the token `{}` of `{}`", self.label, self.module.display())
    }

    fn connect(&mut self) -> Result<Connection, Fault> {
        let module = Module::acquire(&self.module)?;
        let (slot, info) = self.find(&module.library)?;
        self.check_mechanisms(&module.library, slot)?;
        let session = module.library.open_rw_session(slot).map_err(fault)?;
        self.pin.log_in(&session, &self.label, &info)?;
        let keys = Keys::open(&session, &self.label, &self.record)?;
        let description = Self::describe(&module.library, slot, &info);
        Ok(Connection { keys, session, description, token: self.label.clone(), _module: module })
    }
}
