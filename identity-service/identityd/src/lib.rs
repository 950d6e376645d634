//! edgewarden-identityd
