//! The small documents that `identityd` keeps on its disk, each written whole and durable, with a proof.
//!
//! A document is `{"version": n, "mac": …, "content": …}` (`authentic`). Unknown fields, an unknown version, torn or
//! foreign bytes, another file's content and a file that is gone are errors that name the file: state that cannot be read
//! or was written by somebody else is never taken for state that is not there, because forgetting a version counter or a
//! spent token is an attack.
//!
//! All documents are made together, with the key that proves them ([`KeyKeeper`]), before anything is served; so one that is
//! missing later was removed. Where all are missing the state is made anew, under a new key: whoever can remove them all
//! can remove the sealed key too, and old documents count for nothing then. Trusts the folder (mode 0700, owner
//! `ew-identity`) while the machine runs; while it is off, to no more than that an older folder may be in its place.
//!
//! A decision that changes several documents goes through a journal: a file with all of them, written whole, then each
//! document, then the journal is removed. Once the journal is on disk the decision is made; a start after a crash finds
//! it and finishes. So there is the state before or the state after, never some of each.
//!
//! Decisions may be written with the space that was set aside ([`edgewarden_platform::reserve::Reserve`]); documents
//! that modules make grow may not.
//!
//! The user of this crate says which documents there are: [`edgewarden_protocol::document`].

mod authentic;
mod key;
mod store;

pub use key::KeyKeeper;
pub use store::{StateError, Store};
