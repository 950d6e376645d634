//! edgewarden-keystore
