//! Bytes of each sender in the queue, and their bound.
//!
//! Nobody holds more than [`SHARE`] times what is free: one sender alone fills four fifths, `n` of them `4/(4n + 1)`
//! each, and however many they are, the next one finds room.

use std::collections::HashMap;

use crate::error::QueueError;

/// Most bytes of one sender, as a multiple of those that are free.
pub const SHARE: u64 = 4;

/// The sender of a record, by the record's bytes. Who has none shares with nobody and is bounded by the cap alone.
pub type SenderOf = fn(&[u8]) -> Option<&[u8]>;

/// Bytes by sender.
#[derive(Debug, Default, Clone)]
pub(crate) struct Charges(HashMap<Box<[u8]>, u64>);

impl Charges {
    pub(crate) fn of(&self, sender: &[u8]) -> u64 {
        self.0.get(sender).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, sender: &[u8], bytes: u64) {
        if let Some(held) = self.0.get_mut(sender) {
            *held = held.saturating_add(bytes);
        } else {
            self.0.insert(sender.into(), bytes);
        }
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        for (sender, bytes) in &other.0 {
            self.add(sender, *bytes);
        }
    }

    pub(crate) fn remove_all(&mut self, other: &Self) {
        for (sender, bytes) in &other.0 {
            if let Some(held) = self.0.get_mut(sender) {
                *held = held.saturating_sub(*bytes);
            }
        }
        self.0.retain(|_, held| *held > 0);
    }
}

/// Refuses a sender that will hold `held` bytes and leaves too few of the `free` ones to others.
pub(crate) fn admit(held: u64, free: u64, bytes_max: u64) -> Result<(), QueueError> {
    if held > free.saturating_mul(SHARE) {
        return Err(QueueError::Share { held, bytes_max });
    }
    Ok(())
}
