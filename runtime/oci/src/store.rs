//! Verified content on a gateway.
