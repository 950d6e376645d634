//! edgewarden-oci
