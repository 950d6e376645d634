//! The time of day, of a machine whose wall clock may show anything.
//!
//! * `keeper`: what is believed when · `floor`: what is on disk of it · `readings`: what it looks at

mod floor;
mod keeper;
mod readings;
#[cfg(test)]
mod tests;

pub use floor::{Belief, TimeFloor};
pub use keeper::{Change, Known, TimeKeeper, at};
pub use readings::Readings;
