//! edgewarden-transport
