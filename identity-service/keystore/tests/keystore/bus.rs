//! An interposer between this process and the TPM: the bytes that it sees, and those that it can change.

use crate::common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::agreement::{ECDH_P256, EphemeralPrivateKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use common::{Fixture, Swtpm, domain, gateway};
use edgewarden_appraisal::{VendorRoots, challenge};
use edgewarden_names::UnixTime;
use edgewarden_protocol::config;
use edgewarden_protocol::enrol::{Challenge, Proof};
use tempfile::TempDir;

/// Sits on the bus: keeps what passes, and changes the n-th byte from the end of the TPM's longer answers.
struct Interposer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    change: Arc<AtomicUsize>,
}

const NOTHING: usize = usize::MAX;
/// Header and first size: an answer that lies about its length only makes the reader wait for the rest.
const HEADER_BYTES: usize = 16;

impl Interposer {
    fn before(tpm: SocketAddr) -> Self {
        let (commands, control) = loop {
            let commands = TcpListener::bind((tpm.ip(), 0)).unwrap();
            let address = commands.local_addr().unwrap();
            if let Some(port) = address.port().checked_add(1)
                && let Ok(control) = TcpListener::bind((address.ip(), port))
            {
                break (commands, control);
            }
        };
        let interposer = Self {
            address: commands.local_addr().unwrap(),
            seen: Arc::default(),
            change: Arc::new(AtomicUsize::new(NOTHING)),
        };
        for (listener, port) in [(commands, tpm.port()), (control, tpm.port() + 1)] {
            let (seen, change) = (Arc::clone(&interposer.seen), Arc::clone(&interposer.change));
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let Ok(server) = TcpStream::connect((tpm.ip(), port)) else { continue };
                    let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                    let (asked, answered, change) =
                        (Arc::clone(&seen), Arc::clone(&seen), Arc::clone(&change));
                    std::thread::spawn(move || {
                        pass(client, server, |bytes| asked.lock().unwrap().extend(bytes.iter()));
                    });
                    std::thread::spawn(move || {
                        pass(back, forth, |bytes| {
                            answered.lock().unwrap().extend(bytes.iter());
                            let at = change.load(Ordering::Relaxed);
                            if let Some(at) = bytes.len().checked_sub(at.saturating_add(1))
                                && at >= HEADER_BYTES
                            {
                                bytes[at] ^= 1;
                            }
                        });
                    });
                }
            });
        }
        interposer
    }

    fn saw(&self, text: &[u8]) -> bool {
        self.seen.lock().unwrap().windows(text.len()).any(|window| window == text)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&mut [u8])) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        look(&mut buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn behind_interposer() -> (Fixture, Interposer) {
    let tpm = Swtpm::manufacture();
    // The TPM is up when it takes connections: the interposer has no patience of its own.
    while TcpStream::connect(tpm.address()).is_err() {
        std::thread::yield_now();
    }
    let interposer = Interposer::before(tpm.address());
    let config = config::Keystore::DangerousSimulatedTpm { address: interposer.address };
    (Fixture { tpm: Some(tpm), state: TempDir::new().unwrap(), config }, interposer)
}

#[test]
fn no_secret_crosses_the_bus_in_clear() {
    let (fixture, bus) = behind_interposer();
    let store = fixture.open();
    let secret = b"a secret to look for";
    store.seal("queue-key", secret).unwrap();
    assert_eq!(store.unseal("queue-key").unwrap().as_slice(), secret);
    assert!(!bus.saw(secret));

    let vendors = VendorRoots::from_pem(&fixture.tpm.as_ref().unwrap().vendor_ca_pem()).unwrap();
    let (parts, _) = challenge(&store.device_keys().unwrap(), &vendors, UnixTime::now()).unwrap();
    let challenge =
        Challenge { session: "1".into(), nonce: parts.nonce, pcrs: parts.pcrs, credential: parts.credential };
    let Proof::Tpm(proof) = store.prove(&challenge, &gateway(), &domain(), Vec::new()).unwrap() else {
        panic!()
    };
    assert!(!bus.saw(proof.secret.as_slice()));

    let peer = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
    let shared = store.agree(peer.compute_public_key().unwrap().as_ref()).unwrap();
    assert!(!bus.saw(&shared) && !bus.saw(&shared[..8]) && !bus.saw(&shared[24..]));

    // It does listen: a quote's nonce is no secret.
    store.quote(b"a nonce that may be seen by all!", &[0]).unwrap();
    assert!(bus.saw(b"a nonce that may be seen by all!"));
}

fn verifies(point: &[u8], signature: &[u8]) -> bool {
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).unwrap();
    key.verify_sig(b"to be signed", signature).is_ok()
}

#[test]
fn a_changed_answer_is_an_error_or_does_not_matter() {
    let (fixture, bus) = behind_interposer();
    let store = fixture.open();
    store.seal("queue-key", b"secret").unwrap();
    let ca = store.ca_public().unwrap();
    let (agreement, resident) = (store.agreement_public().unwrap(), store.create_key("module-key").unwrap());
    let peer = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
    let peer = peer.compute_public_key().unwrap().as_ref().to_vec();
    let expected = store.agree(&peer).unwrap();
    let mut refused = 0;
    for at in [0, 3, 20, 33, 40, 60, 75] {
        bus.change.store(at, Ordering::Relaxed);
        match store.unseal("queue-key") {
            Ok(secret) => assert_eq!(secret.as_slice(), b"secret", "{at}"),
            Err(_) => refused += 1,
        }
        // `ca_sign` verifies what it gives on; here it is enough that it does not panic.
        let signed = store.ca_sign(b"to be signed").is_ok();
        let quoted = store.quote(&[1; 32], &[0]).is_ok();
        refused += usize::from(!signed) + usize::from(!quoted);
        if let Ok(public) = store.agreement_public() {
            assert_eq!(public, agreement, "{at}: a key of the interposer's");
        }
        if let Ok(public) = store.key_public("module-key") {
            assert_eq!(public, resident, "{at}: a key of the interposer's");
        }
        if let Ok(shared) = store.agree(&peer) {
            assert_eq!(shared, expected, "{at}");
        }
        if let Ok(signature) = store.key_sign("module-key", b"to be signed") {
            assert!(verifies(&resident, &signature), "{at}");
        }
        bus.change.store(NOTHING, Ordering::Relaxed);
        assert_eq!(store.unseal("queue-key").unwrap().as_slice(), b"secret", "{at}");
        assert_eq!(store.ca_public().unwrap(), ca);
    }
    assert!(refused > 0);
}
