//! edgewarden-ca
