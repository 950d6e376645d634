//! `edgewarden status`: one look at the whole gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use edgewarden_exchange::client::Client;
use edgewarden_names::{Refusal, UnixTime};
use edgewarden_protocol::control::{DiskReserve, IdentityStatus, Status, questions};
use edgewarden_protocol::gateway_console as gateway;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console as runtime;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format, until};

const RED: &str = "\x1b[31m";
/// Receivers that are named.
const RECEIVERS_MAX: usize = 8;
const PLAIN: &str = "\x1b[0m";

/// One that hangs does not keep the others' answers back: they are asked side by side.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Prints the state of daemons, identities, modules and messages. Daemons that do not answer are named.
pub async fn run(layout: &Layout, format: Format) -> Result<(), Problem> {
    let (identity, mut modules, messages) = tokio::join!(
        patient(ask(layout, questions::Status)),
        patient(super::runtime::ask(layout, runtime::questions::Status)),
        patient(ask_gatewayd(layout)),
    );
    if let (Ok(identity), Ok(status)) = (&identity, &mut modules) {
        status
            .modules
            .iter_mut()
            .for_each(|module| module.degrade_without_certificate(&identity.identities, identity.time.now));
    }
    if format == Format::Json {
        let missing: BTreeMap<&str, String> = [
            ("identityd", identity.as_ref().err()),
            ("runtimed", modules.as_ref().err()),
            ("gatewayd", messages.as_ref().err()),
        ]
        .into_iter()
        .filter_map(|(daemon, problem)| Some((daemon, problem?.to_string())))
        .collect();
        let (identity_said, modules, messages) = (identity.as_ref().ok(), modules.ok(), messages.ok());
        output::json(&serde_json::json!({
            "identity": identity_said, "runtime": modules, "gateway": messages, "missing": missing,
        }))?;
        return identity.map(drop);
    }
    // The gateway's, whatever the system clock shows.
    let now = identity.as_ref().map_or_else(|_| UnixTime::now(), |status| status.time.now);
    match &identity {
        Ok(identity) => {
            print_identity(identity, now);
            super::est::print(identity, modules.as_ref().ok().and_then(|status| status.est.as_ref()), now);
        }
        Err(problem) => println!("identity     identityd does not answer: {}", first_line(problem)),
    }
    match &messages {
        Ok(status) => {
            println!("messages     {}", messages_line(status, now));
            for behind in status.receivers.iter().filter(|behind| is_worth_a_line(behind)).take(RECEIVERS_MAX)
            {
                println!("             {}", receiver_line(behind));
            }
        }
        Err(problem) => println!("messages     gatewayd does not answer: {}", first_line(problem)),
    }
    match &modules {
        Ok(status) => print_modules(status, identity.as_deref().ok(), now),
        Err(problem) => println!("modules      runtimed does not answer: {}", first_line(problem)),
    }
    if let Ok(identity) = &identity {
        print_refusals(identity);
    }
    // Without the one that decides this is half an answer, and a script must not take it for a whole one.
    identity.map(drop)
}

async fn patient<T>(asked: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.unwrap_or_else(|_| Err(Problem::text(format!("no answer within {PATIENCE:?}"))))
}

/// First line of a problem. The others are for whoever sees it alone.
fn first_line(problem: &Problem) -> String {
    problem.to_string().lines().next().unwrap_or_default().to_owned()
}

async fn ask_gatewayd(layout: &Layout) -> Result<Box<gateway::Status>, Problem> {
    let mut client = Client::connect(&layout.gateway_socket()).await?;
    Ok(client.ask(gateway::questions::Status).await?)
}

/// One that is away and has messages waiting is as it should be.
fn is_worth_a_line(receiver: &gateway::ReceiverStatus) -> bool {
    receiver.lost > 0 || receiver.set_aside > 0 || receiver.ends > 1
}

fn receiver_line(receiver: &gateway::ReceiverStatus) -> String {
    let mut said = vec![format!(
        "{}{}: {} messages wait",
        receiver.client,
        if receiver.connected { "" } else { " (away)" },
        receiver.waiting_messages
    )];
    if receiver.lost > 0 {
        let when = if receiver.lagging { "it loses messages now" } else { "lost by its rule" };
        said.push(format!("{} {when}", receiver.lost));
    }
    if receiver.ends > 1 {
        said.push(format!("the oldest has ended {} connections", receiver.ends));
    }
    if receiver.set_aside > 0 {
        said.push(format!("{} set aside (see `edgewarden messages set-aside list`)", receiver.set_aside));
    }
    said.join(", ")
}

fn messages_line(status: &gateway::Status, now: UnixTime) -> String {
    let queue = match &status.queue {
        Some(queue) => format!("{} messages / {} bytes of {}", queue.messages, queue.bytes, queue.bytes_max),
        None => "not open".into(),
    };
    let ago = |since: UnixTime| format!("{} s", now.after(since).as_secs());
    let upstream = match &status.upstream {
        gateway::UpstreamStatus::None => "no upstream".into(),
        gateway::UpstreamStatus::Idle => "upstream not needed yet".into(),
        gateway::UpstreamStatus::Connected { since } => format!("upstream reachable for {}", ago(*since)),
        gateway::UpstreamStatus::Unreachable { since, error } => {
            format!("upstream away for {}: {error}", ago(*since))
        }
    };
    format!(
        "{} connections, {} sessions with {} messages, queue: {queue} waiting for upstream, {upstream}",
        status.connections.len(),
        status.sessions,
        status.waiting_messages
    )
}

fn print_identity(status: &Status, now: UnixTime) {
    println!("gateway      {} in {}", status.gateway, status.trust_domain);
    let (red, plain) = if status.dangerous && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        (RED, PLAIN)
    } else {
        ("", "")
    };
    println!("keys         {red}{}{plain}", status.keystore);
    match &status.verdict {
        Some(verdict) => {
            let reference = verdict.reference.as_deref().unwrap_or("none");
            println!(
                "attestation  {}, hardware: {}, reference: {reference}, expires {}",
                verdict.state.as_str(),
                verdict.hardware,
                until(verdict.expires, now)
            );
        }
        None if status.est.is_some() => {
            println!("attestation  verdict: none (site CA): no fleet judges this boot");
        }
        None => println!("attestation  not joined"),
    }
    let expiry = |time: Option<UnixTime>| time.map_or_else(|| "none".into(), |time| until(time, now));
    super::clock::print(&status.time);
    println!("runtime log  {}", status.runtime_log);
    if let Some(lease) = status.lease.filter(|lease| lease.overdue) {
        println!(
            "WARNING      the gateway CA was to be renewed since {}: without it nothing is issued {}",
            output::at(lease.renewal_due),
            from_when(lease.ends, now)
        );
    }
    println!(
        "certificates gateway CA ends {}, issuing CA ends {}",
        expiry(status.gateway_ca_expires),
        expiry(status.issuing_ca_expires)
    );
    match (&status.deployment, status.epoch) {
        (Some((name, version)), Some(epoch)) => {
            let enforced: Vec<String> =
                status.enforced.iter().map(|(who, epoch)| format!("{who} {epoch}")).collect();
            let enforced =
                if enforced.is_empty() { "nobody has said so yet".to_owned() } else { enforced.join(", ") };
            println!("deployment   {name} version {version}, policy epoch {epoch} (in force: {enforced})");
        }
        _ => println!("deployment   none"),
    }
    if let Some(disk) = status.disk.filter(|disk| disk.is_short()) {
        println!("disk         {}", short_disk(disk));
    }
}

/// The cost of a full disk so far, in words: reserve, unwritten audit entries, unsaved state.
fn short_disk(disk: DiskReserve) -> String {
    const MIB: u64 = 1024 * 1024;
    let mut text = format!(
        "full, or was: {} of {} MiB are set aside for decisions and the audit log; make room",
        disk.bytes / MIB,
        disk.bytes_wanted / MIB
    );
    if disk.unwritten > 0 {
        text = format!("{text}; {} audit entries are not written", disk.unwritten);
    }
    if disk.unsaved {
        text.push_str("; what is in force is not on the disk");
    }
    text
}

/// `after 2026-12-20 10:00:00Z (in 19 d)`, or since when.
fn from_when(ends: UnixTime, now: UnixTime) -> String {
    if ends <= now {
        return format!("since {}", output::at(ends));
    }
    format!("after {} ({})", output::at(ends), until(ends, now))
}

fn print_enforcement(status: &runtime::EnforcementStatus) {
    let said = match (&status.lost, &status.last) {
        (Some(refusal), _) => format!("{refusal} (next: {})", refusal.reason.next_step()),
        (None, None) => "in place".into(),
        (None, Some(last)) => {
            let times = if status.repairs == 1 { "once".into() } else { format!("{} times", status.repairs) };
            format!("in place; changed from outside {times}, last {}: {}", output::at(last.at), last.what)
        }
    };
    println!("enforcement  {said}");
}

fn print_modules(status: &runtime::Status, identity: Option<&Status>, now: UnixTime) {
    print_enforcement(&status.enforcement);
    if let Some(url) = &status.fleet.url {
        let contact = match (&status.fleet.last_contact, &status.fleet.error) {
            (_, Some(error)) => format!("away: {error}"),
            (Some(at), None) => format!("last answer {} s ago", now.after(*at).as_secs()),
            (None, None) => "not asked yet".into(),
        };
        println!("fleet        {url}, {contact}");
    }
    let rows: Vec<Vec<String>> = status
        .modules
        .iter()
        .map(|module| {
            let identities = identity.map(|identity| identity.identities.as_slice()).unwrap_or_default();
            let svid = identities.iter().find(|id| Some(&id.instance) == module.instance.as_ref());
            vec![
                module.name.to_string(),
                module.state.as_str().into(),
                module.generation.map_or_else(|| "-".into(), |generation| generation.to_string()),
                module.restarts.to_string(),
                module.address.map_or_else(|| "-".into(), |address| address.to_string()),
                certificate(svid, now),
                module.reason.as_ref().map_or_else(
                    || module.image.clone(),
                    |refusal| format!("{refusal} (next: {})", refusal.reason.next_step()),
                ),
            ]
        })
        .collect();
    println!();
    output::table(
        &["MODULE", "STATE", "START", "RESTARTS", "ADDRESS", "CERTIFICATE ENDS", "IMAGE OR REASON"],
        &rows,
    );
    for module in &status.modules {
        if let Some(update) = &module.update {
            println!("\nupdate of {} ({}): {}", module.name, update.state.as_str(), update.image);
            if let Some(refusal) = &update.reason {
                println!("  {refusal} (next: {})", refusal.reason.next_step());
            }
        }
    }
}

/// End of a module's certificate, with `(resident key)` when its key is in the keystore; `-` without one.
fn certificate(svid: Option<&IdentityStatus>, now: UnixTime) -> String {
    let ends = svid.and_then(|svid| svid.expires).map_or_else(|| "-".into(), |time| until(time, now));
    if svid.is_some_and(|svid| svid.resident_key) { format!("{ends} (resident key)") } else { ends }
}

/// The newest refusal for each reason, newest first, and how many more there are for it: many of one reason hide no other.
fn newest_of_each(refusals: &[(UnixTime, Refusal)]) -> Vec<(&UnixTime, &Refusal, usize)> {
    let mut newest: Vec<(&UnixTime, &Refusal, usize)> = Vec::new();
    for (at, refusal) in refusals.iter().rev() {
        match newest.iter_mut().find(|(_, known, _)| known.reason == refusal.reason) {
            Some((_, _, more)) => *more = more.saturating_add(1),
            None => newest.push((at, refusal, 0)),
        }
    }
    newest
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more for this reason)") }
}

fn print_refusals(status: &Status) {
    let newest = newest_of_each(&status.refusals);
    if !newest.is_empty() {
        println!("\nnewest refusals");
    }
    for (at, refusal, more) in newest {
        println!("  {}  {refusal}{}", output::at(*at), and_more(more));
        println!("  {:19}  next: {}", "", refusal.reason.next_step());
    }
    let strangers = status.strangers.iter().rev();
    if let Some((at, refusal)) = strangers.clone().next() {
        println!("\nrefused to peers that proved nothing");
        println!("  {}  {refusal}{}", output::at(*at), and_more(strangers.count().saturating_sub(1)));
    }
}
