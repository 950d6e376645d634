//! edgewarden-gatewayd
