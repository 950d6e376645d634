//! edgewarden-simulator-tpm
