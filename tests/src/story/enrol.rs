//! Steps 1 to 3: a TPM, a fleet, and the proof that binds them.

use super::Shown;
use crate::ensure;
use crate::process::run;
use crate::site::{FLEET, Keys, Site, TRUST_DOMAIN};

pub fn manufacture(site: &mut Site) -> Shown {
    match site.keys {
        Keys::SimulatedTpm => {}
        Keys::Token => {
            return Ok(vec!["no TPM: the gateway's keys are in a PKCS#11 token (hardware: none)".into()]);
        }
        Keys::Software => {
            return Ok(vec!["no TPM: the gateway's keys are in an encrypted file (hardware: none)".into()]);
        }
    }
    site.manufacture()?;
    site.boot("normal")?;
    let bytes = std::fs::metadata(site.event_log())?.len();
    Ok(vec![format!(
        "a TPM with an EK certificate from its vendor's CA, booted and measured ({bytes} bytes of event log)"
    )])
}

pub fn fleet(site: &mut Site) -> Shown {
    site.make_fleet()?;
    site.start_fleet(&[])?;
    if site.keys == Keys::SimulatedTpm {
        let mut add = site.operator(&["reference", "add", "--name", "gateway-2026-11"]);
        run(add.arg("--event-log").arg(site.event_log()))?.ok()?;
    }
    Ok(vec![format!(
        "fleet {TRUST_DOMAIN} on {FLEET}: its own root CA, the operator's deployment key pinned"
    )])
}

pub fn enrol(site: &mut Site) -> Shown {
    let said = site.join()?.ok()?;
    let devices = site.devices()?;
    let text = devices.to_string();
    ensure(text.contains(&site.gateway) && text.contains("fresh"), || {
        format!("the fleet does not show the gateway as attested: {text}")
    })?;
    let checks: Vec<String> = said
        .lines()
        .filter(|line| line.trim_start().starts_with('✓'))
        .map(|line| line.trim().to_owned())
        .collect();
    ensure(!checks.is_empty(), || format!("join did not say what was checked:\n{said}"))?;
    let verdict = said.lines().last().unwrap_or_default().to_owned();
    let mut shown = vec![format!("{} enrolled, {verdict}; {} checks", site.gateway, checks.len())];
    shown.extend(checks);
    Ok(shown)
}
