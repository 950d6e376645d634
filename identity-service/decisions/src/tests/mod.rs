//! Lives of a gateway: at random, over years, and with a power cut at every step.

#[cfg(debug_assertions)]
mod crashes;
mod lifetimes;
mod properties;
mod world;
