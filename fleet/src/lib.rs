//! edgewarden-fleet
