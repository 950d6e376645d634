//! edgewarden-image-trust
