//! edgewarden-tests
