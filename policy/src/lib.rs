//! edgewarden-policy
