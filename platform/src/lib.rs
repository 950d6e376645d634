//! edgewarden-platform
