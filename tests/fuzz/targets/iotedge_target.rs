//! No path panics, and each that is accepted is written in the one way there is.
#![no_main]

use edgewarden_iotedge_api::request::{Operation, Target};

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    let (path, query) = input;
    for method in ["GET", "POST"] {
        let Ok(target) = Target::parse(method, path, Some(query)) else { continue };
        assert_eq!(method, target.operation.method());
        let module = target.module.as_ref().map(ToString::to_string).unwrap_or_default();
        let generation = target.generation.map(|generation| generation.to_string()).unwrap_or_default();
        let written = match target.operation {
            Operation::Modules => "/modules".to_owned(),
            Operation::TrustBundle => "/trust-bundle".to_owned(),
            Operation::Sign => format!("/modules/{module}/genid/{generation}/sign"),
            Operation::Encrypt => format!("/modules/{module}/genid/{generation}/encrypt"),
            Operation::Decrypt => format!("/modules/{module}/genid/{generation}/decrypt"),
            Operation::ServerCertificate => format!("/modules/{module}/genid/{generation}/certificate/server"),
            Operation::IdentityCertificate => format!("/modules/{module}/certificate/identity"),
        };
        assert_eq!(path, written);
    }
});
