//! Whatever decodes has one spelling only, and nothing panics.
#![no_main]

use edgewarden_mqtt::decode::decode;
use edgewarden_mqtt::packet::PACKET_BYTES_MAX;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((packet, used))) = decode(bytes, PACKET_BYTES_MAX) {
        let mut again = Vec::new();
        packet.encode(&mut again).unwrap();
        assert_eq!(again, bytes[..used]);
    }
});
