//! edgewarden-evidence
