//! Step 9: the fleet is gone and the gateway's processes are killed; everything works, and what waited arrives later.

use std::time::Duration;

use super::{Shown, flow, lines_with, sign};
use crate::process::{run, wait_for};
use crate::site::{Site, module};
use crate::{Failure, ensure};

const WAIT: Duration = Duration::from_secs(40);

pub fn offline(site: &mut Site) -> Shown {
    let summaries_before = summaries(site)?;
    let pids_before = pids(site)?;
    if let Some(mut fleet) = site.fleet.take() {
        fleet.stop();
    }
    site.crash_gateway()?;
    site.start_gateway()?;
    site.wait_for_modules(&sign::MODULES)?;
    let pids_after = pids(site)?;
    ensure(pids_before == pids_after, || {
        format!("modules were restarted: {pids_before:?} → {pids_after:?}")
    })?;

    let alarms_before = flow::alarms(site)?.len();
    wait_for("the sensor to publish with no fleet", WAIT, || flow::publish(site, 1))?;
    let alarm = wait_for("an alarm with no fleet", WAIT, || {
        let alarms = flow::alarms(site)?;
        ensure(alarms.len() > alarms_before, || "no new alarm".into())?;
        flow::newest_alarm(site)
    })?;

    // Policy holds as well as certificates do.
    super::refusals::foreign_topic(site)?;
    super::refusals::unnamed_flow(site)?;

    site.start_fleet(&[])?;
    let arrived = wait_for("the queued summaries", WAIT, || {
        let now = summaries(site)?;
        ensure(now > summaries_before, || format!("still {now} summaries"))?;
        Ok(now - summaries_before)
    })?;
    wait_for("the gateway to find its fleet again", WAIT, || {
        let status = site.status()?;
        ensure(status["runtime"]["fleet"]["error"].is_null(), || "still away".into())
    })?;
    Ok(vec![
        "no fleet, every daemon killed with -9 and started again: modules never stopped, alarms and policy went on"
            .into(),
        alarm,
        format!("{arrived} queued summaries arrived when the fleet was back"),
    ])
}

fn summaries(site: &Site) -> Result<usize, Failure> {
    let text =
        run(&mut site.operator(&["message", "list", "--gateway", &site.gateway, "--last", "1000"]))?.ok()?;
    Ok(lines_with(&text, "clinic/summary").len())
}

fn pids(site: &Site) -> Result<Vec<i64>, Failure> {
    let status = site.status()?;
    Ok(sign::MODULES.iter().filter_map(|name| module(&status, name)?["pid"].as_i64()).collect())
}
