//! Whatever a registry writes into `WWW-Authenticate`, it is read within bounds or refused; what is read for a token server
//! is a host without a user.
#![no_main]

use edgewarden_oci::challenge::{Challenge, HEADER_BYTES_MAX, Realm, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(challenges) = parse(text) {
        assert!(text.len() <= HEADER_BYTES_MAX && challenges.len() <= 8);
        for challenge in challenges {
            let Challenge::Bearer(bearer) = challenge else { continue };
            if let Ok(realm) = Realm::parse(&bearer.realm) {
                assert!(!realm.host.is_empty() && !realm.host.contains(['@', '/', '?', '#', ' ']));
                assert!(realm.target.starts_with('/') || realm.target.starts_with('?'));
            }
        }
    }
    if let Ok(realm) = Realm::parse(text) {
        assert!(!realm.host.contains('@'));
    }
});
