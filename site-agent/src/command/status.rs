//! `site-agent status`: healthy means that the coordinator answered lately.

use std::process::ExitCode;

use serde_json::json;

use super::{configured, moment};
use crate::folder::SiteFolder;
use crate::relay::board::{RelayStatus, now_ms};
use crate::relay::session::HEARTBEAT;
use crate::supervise::{RunError, lock};
use crate::vault::board::VaultStatus;

/// Heartbeats that may be missed before the site is called silent.
const MISSED: u64 = 3;

/// Prints the state and exits with 0 only when the coordinator has answered lately.
pub(crate) fn run(folder: &SiteFolder, json: bool) -> anyhow::Result<ExitCode> {
    let (_, folder) = configured(folder)?;
    let running = matches!(lock(&folder), Err(RunError::AlreadyRunning { .. }));
    let relay: Option<RelayStatus> = crate::status::read(&folder.relay_status());
    let vault: Option<VaultStatus> = crate::status::read(&folder.vault_status());
    let cause = cause(&folder, running, relay.as_ref());
    if json {
        let line = json!({
            "healthy": cause.is_none(), "cause": cause, "running": running,
            "relay": relay, "studies": vault.as_ref().map_or(&[][..], |vault| &vault.studies),
        });
        println!("{line}");
    } else {
        match (&cause, &relay) {
            (None, Some(RelayStatus { coordinator, last_heard_ms: Some(heard), .. })) => {
                println!("healthy: {coordinator} acknowledged this site at {}", moment(*heard));
            }
            (Some(cause), _) => println!("not healthy: {cause}"),
            (None, _) => {}
        }
        for study in vault.iter().flat_map(|vault| &vault.studies) {
            println!("  {study}");
        }
    }
    Ok(if cause.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why the site is not healthy, if it is not.
fn cause(folder: &SiteFolder, running: bool, relay: Option<&RelayStatus>) -> Option<String> {
    if !folder.identity().exists() && folder.enrolment_request().exists() {
        return Some(
            "this site has asked to be admitted; run the same `site-agent enrol` again to wait".into(),
        );
    }
    if !folder.identity().exists() {
        return Some("this site is not enrolled; run `site-agent enrol INVITATION`".into());
    }
    if !running {
        return Some("the agent is not running; start it with `site-agent run`".into());
    }
    let Some(relay) = relay else { return Some("the relay has not started yet".into()) };
    if !relay.connected {
        let cause = relay.cause.as_deref().unwrap_or("the first connection is being made");
        return Some(format!(
            "not connected to {} since {}: {cause}",
            relay.coordinator,
            moment(relay.since_ms)
        ));
    }
    let silent_ms = now_ms().saturating_sub(relay.last_heard_ms.unwrap_or(0));
    (silent_ms > MISSED * HEARTBEAT.as_millis() as u64).then(|| {
        format!("connected to {}, which has not answered for {} s", relay.coordinator, silent_ms / 1000)
    })
}
