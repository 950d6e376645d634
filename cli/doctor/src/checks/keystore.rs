//! The keys.

use edgewarden_protocol::config::Keystore;
use edgewarden_protocol::enrol::DeviceKeys;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::words::{no_config, not_running, span};
use crate::check::{Check, Finding};
use crate::facts::{Facts, IDENTITY_USER, Kind, has_tpm};

/// Checks of the area `keystore`.
pub const CHECKS: &[Check] = &[
    Check {
        id: "keystore.hardware",
        title: "a chip holds the keys and can prove it",
        remedy: "on a machine with a TPM 2.0: `edgewarden join --keystore tpm:/dev/tpmrm0 …`",
        run: hardware,
    },
    Check {
        id: "keystore.present",
        title: "the configured keystore is there",
        remedy: "turn on the TPM in the firmware, and see `ls -l /dev/tpmrm0` and `dmesg | grep -i tpm`",
        run: present,
    },
    Check {
        id: "keystore.access",
        title: "`ew-identity` can open the keystore's device or library",
        remedy: "`usermod --append --groups tss ew-identity`, with `SupplementaryGroups=tss` in the unit of identityd",
        run: access,
    },
    Check {
        id: "keystore.reachable",
        title: "the keystore answers identityd",
        remedy: "`journalctl -u edgewarden-identityd` has the whole error; a TPM that hangs needs the machine turned off and on",
        run: reachable,
    },
    Check {
        id: "keystore.configured",
        title: "identityd uses the keystore that is configured, and no other",
        remedy: "`systemctl restart edgewarden-identityd`, or restart `edgewarden up`",
        run: configured,
    },
    Check {
        id: "keystore.lockout",
        title: "the TPM's protection against guessing is not set off",
        remedy: "find the program that guesses; then wait, or `tpm2_dictionarylockout --clear-lockout`",
        run: lockout,
    },
    Check {
        id: "keystore.ek_certificate",
        title: "the TPM has an EK certificate of its maker",
        remedy: "`tpm2_getekcertificate` fetches it from the maker for some TPMs; else ask the maker of the board",
        run: ek_certificate,
    },
    Check {
        id: "keystore.sha256_bank",
        title: "the TPM's SHA-256 bank is on",
        remedy: "turn it on in the firmware, or `tpm2_pcrallocate sha256:all` and restart the machine",
        run: sha256_bank,
    },
];

fn hardware(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    match &config.keystore {
        Keystore::Tpm { device } => Finding::pass(format!("TPM `{}`", device.display())),
        Keystore::DangerousSimulatedTpm { .. } => {
            Finding::warn("the TPM is simulated: its keys are in a file, and its proofs are worth nothing")
        }
        Keystore::Pkcs11 { token, .. } => {
            Finding::warn(format!("the token `{token}` keeps the keys, and nothing of it is attested"))
        }
        Keystore::Software { .. } => {
            Finding::warn("the keys are in an encrypted file, and nothing is attested (hardware: none)")
        }
    }
}

fn present(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let (path, wanted) = match &config.keystore {
        Keystore::Tpm { device } => (device, Kind::Device),
        Keystore::Pkcs11 { module, .. } => (module, Kind::File),
        Keystore::Software { passphrase_file } => (passphrase_file, Kind::File),
        Keystore::DangerousSimulatedTpm { address } => {
            // Not by a connection of our own: it serves one at a time.
            let listens = facts.network.listening.as_ref().is_ok_and(|sockets| sockets.contains(address));
            return if listens {
                Finding::pass(format!("a simulated TPM at {address}"))
            } else {
                Finding::fail(format!("nothing listens on {address}"))
                    .remedy("`simulator-tpm boot …`, or restart the demo")
            };
        }
    };
    let shown = path.display();
    match facts.node(path) {
        None => Finding::fail(format!("there is no `{shown}`")),
        Some(node) if node.kind != wanted => Finding::fail(match wanted {
            Kind::Device => format!("`{shown}` is not a device"),
            _ => format!("`{shown}` is not a file"),
        }),
        Some(_) => Finding::pass(format!("`{shown}`")),
    }
}

fn access(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let (path, rights) = match &config.keystore {
        Keystore::Tpm { device } => (device, 6),
        Keystore::Pkcs11 { module, .. } => (module, 4),
        _ => return Finding::skip("it has none"),
    };
    let (Some(node), Some(user)) = (facts.node(path), facts.users.identity) else {
        return Finding::skip("the device or the user is not there");
    };
    // A running daemon's groups count; its unit may give it more than the user has.
    let mut groups = facts.daemons.identityd.groups.clone();
    groups.push(user.gid);
    let shown = path.display();
    if node.rights(user.uid, &groups) & rights == rights {
        Finding::pass(format!("`{shown}`"))
    } else {
        Finding::fail(format!(
            "`{shown}` belongs to user {} and group {} with mode {:04o}, which shuts {IDENTITY_USER} out",
            node.uid, node.gid, node.mode
        ))
    }
}

fn reachable(facts: &Facts) -> Finding {
    match &facts.daemons.keystore {
        None => not_running("identityd"),
        Some(Ok(health)) => Finding::pass(health.keystore.clone()),
        Some(Err(why)) => Finding::fail(why.clone()),
    }
}

fn configured(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    let kind = match &config.keystore {
        Keystore::Tpm { .. } => "tpm",
        Keystore::DangerousSimulatedTpm { .. } => "simulated tpm",
        Keystore::Pkcs11 { .. } => "pkcs11",
        Keystore::Software { .. } => "software",
    };
    let fits = status.keystore.strip_prefix(kind).is_some_and(|rest| rest.starts_with(" ("));
    if fits {
        Finding::pass(status.keystore.clone())
    } else {
        Finding::fail(format!("the configuration says {kind}, identityd uses {}", status.keystore))
    }
}

fn lockout(facts: &Facts) -> Finding {
    let Some(Ok(health)) = &facts.daemons.keystore else {
        return Finding::skip("the keystore does not answer");
    };
    let Some(lockout) = &health.lockout else { return Finding::skip("the keystore is not a TPM") };
    let (failures, max) = (lockout.failures, lockout.failures_max);
    let forgiven = span(std::time::Duration::from_secs(lockout.recovery_seconds.into()));
    let said = format!("{failures} of {max} failed tries; one is forgiven every {forgiven}");
    if lockout.locked {
        Finding::fail(format!("locked: {said}"))
    } else if max > 0 && failures.saturating_mul(2) >= max {
        Finding::warn(said)
    } else {
        Finding::pass(said)
    }
}

fn ek_certificate(facts: &Facts) -> Finding {
    match &facts.daemons.device_keys {
        None => Finding::skip("the keystore is not a TPM, or does not answer"),
        Some(Err(why)) => Finding::fail(why.clone()),
        Some(Ok(DeviceKeys::None { .. })) => Finding::skip("the keystore is not a TPM"),
        Some(Ok(DeviceKeys::Tpm { ek_certificates, .. })) => match ek_certificates.first() {
            None => Finding::fail("it has none: no fleet can tell it from an impostor"),
            Some(der) => match X509Certificate::from_der(der.as_slice()) {
                Ok((_, certificate)) => Finding::pass(format!("issued by {}", certificate.issuer())),
                Err(_) => Finding::fail("it is not a certificate"),
            },
        },
    }
}

fn sha256_bank(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    if !has_tpm(&config.keystore) {
        return Finding::skip("the keystore is not a TPM");
    }
    let banks = &facts.boot.banks;
    let shown = banks.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    if banks.is_empty() {
        Finding::skip("the kernel shows no banks")
    } else if banks.contains("sha256") {
        Finding::pass(shown)
    } else {
        Finding::fail(format!("on are {shown}"))
    }
}
