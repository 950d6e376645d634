//! No body panics, and what is accepted of one is within the bounds.
#![no_main]

use edgewarden_iotedge_api::body::{Decrypt, Encrypt, IdentityCertificate, ServerCertificate, Sign};
use edgewarden_iotedge_api::{CIPHERTEXT_BYTES_MAX, DATA_BYTES_MAX, INITIALIZATION_VECTOR_BYTES_MAX};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(sign) = Sign::parse(bytes) {
        assert!(sign.data.len() <= DATA_BYTES_MAX);
    }
    if let Ok(encrypt) = Encrypt::parse(bytes) {
        assert!(encrypt.plaintext.len() <= DATA_BYTES_MAX);
        assert!(encrypt.initialization_vector.len() <= INITIALIZATION_VECTOR_BYTES_MAX);
    }
    if let Ok(decrypt) = Decrypt::parse(bytes) {
        assert!(decrypt.ciphertext.len() <= CIPHERTEXT_BYTES_MAX);
        assert!(decrypt.initialization_vector.len() <= INITIALIZATION_VECTOR_BYTES_MAX);
    }
    if let Ok(server) = ServerCertificate::parse(bytes) {
        assert!(server.common_name.len() <= 253);
    }
    drop(IdentityCertificate::parse(bytes));
});
