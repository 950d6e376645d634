//! Step 7: a sensor enrols, its readings are judged on the gateway, and a dangerous one raises an alarm at once.

use std::time::Duration;

use super::{Shown, lines_with};
use crate::process::{run, wait_for};
use crate::site::{LEAF_ENROL, LEAF_MQTT, Site, TRUST_DOMAIN};
use crate::{Failure, ensure};

pub const SENSOR: &str = "sensor-1";
const TRACE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/glucose-monitor/traces/adolescent-001.csv");
const WAIT: Duration = Duration::from_secs(30);

pub fn flow(site: &mut Site) -> Shown {
    enrol_sensor(site, SENSOR)?;
    let sent = publish(site, 1)?;
    let alarm = wait_for("the alarm", WAIT, || newest_alarm(site))?;
    let summary = wait_for("the summary in the fleet", WAIT, || {
        let messages = run(&mut site.operator(&["message", "list", "--gateway", &site.gateway]))?.ok()?;
        let line = lines_with(&messages, "clinic/summary").last().map(|line| (*line).to_owned());
        line.ok_or_else(|| Failure::new("no summary has arrived"))
    })?;
    Ok(vec![alarm, sent, format!("in the fleet: {summary}")])
}

/// A leaf device gets its certificate through the gateway, with a one-time token.
pub fn enrol_sensor(site: &Site, leaf: &str) -> Result<(), Failure> {
    let token = run(&mut site.edgewarden(&["leaf", "allow", leaf]))?.ok()?;
    let mut enrol = std::process::Command::new(site.program("sensor"));
    enrol.args(["enrol", "--gateway", LEAF_ENROL, "--leaf", leaf, "--token", token.trim()]);
    enrol.args(["--trust-domain", TRUST_DOMAIN, "--root"]).arg(site.path("fleet/root.pem"));
    run(enrol.arg("--dir").arg(site.path(leaf)))?.ok()?;
    Ok(())
}

/// Publishes the trace of a patient with a dangerous low. Gives the sensor's last line.
pub fn publish(site: &Site, limit_days: u32) -> Result<String, Failure> {
    let said = run(&mut sensor(site, SENSOR, &["--limit", &(limit_days * 480).to_string()]))?.ok()?;
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

/// The sensor program, ready to publish as fast as it can.
pub fn sensor(site: &Site, leaf: &str, extra: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(site.program("sensor"));
    command.args(["run", "--gateway", LEAF_MQTT, "--trace", TRACE, "--speed", "0", "--dir"]);
    command.arg(site.path(leaf)).args(extra);
    command
}

pub fn alarms(site: &Site) -> Result<Vec<String>, Failure> {
    Ok(lines_with(&site.logs("alerts")?, "ALARM").into_iter().map(str::to_owned).collect())
}

pub fn newest_alarm(site: &Site) -> Result<String, Failure> {
    let alarm = alarms(site)?.pop().ok_or_else(|| Failure::new("alerts printed no alarm"))?;
    ensure(alarm.contains("latency_ms="), || format!("the alarm does not tell its latency: {alarm}"))?;
    Ok(alarm)
}
