//! What an operator orders a study to do. Each order is signed, so that the ledger tells who gave it.

use anyhow::bail;
use consilium_ledger::statement::{Act, Order};
use consilium_proto::v1::{ControlRequest, StudyStatus};
use consilium_rounds::record::Course;
use consilium_secagg::numbering::Attempt;
use consilium_study::canonical::Canonical;
use consilium_study::hash::Hash;
use consilium_study::name::StudyName;
use consilium_study::sign::Signed;
use serde::Serialize;

use super::status::{fetch_from, state};
use crate::consortium::Consortium;
use crate::output::Output;
use crate::remote::{Remote, now_ms, plain, refused};

/// Longest reason, in characters.
const LONGEST_REASON: usize = 500;

/// Where a study stands after an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Controlled {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: String,
    /// The current round.
    pub round: u32,
    /// Rounds in all.
    pub rounds: u32,
}

/// Lets a study begin its rounds as soon as enough sites are ready.
pub async fn start(consortium: &Consortium, name: &StudyName) -> anyhow::Result<Controlled> {
    course(consortium, name, Course::Start).await
}

/// Lets a study begin no attempt until it is resumed.
pub async fn pause(consortium: &Consortium, name: &StudyName) -> anyhow::Result<Controlled> {
    course(consortium, name, Course::Pause).await
}

/// Lets a paused study go on at the same round.
pub async fn resume(consortium: &Consortium, name: &StudyName) -> anyhow::Result<Controlled> {
    course(consortium, name, Course::Resume).await
}

/// Ends a study for good, without a release.
pub async fn stop(consortium: &Consortium, name: &StudyName, reason: String) -> anyhow::Result<Controlled> {
    if reason.chars().count() > LONGEST_REASON || plain(&reason) != reason {
        bail!("write the reason on one line of at most {LONGEST_REASON} characters");
    }
    course(consortium, name, Course::Stop { reason }).await
}

/// What the person at the terminal is asked before a study is stopped.
pub(super) fn stop_question(name: &StudyName) -> String {
    format!(
        "Stopping {name} is for good and releases no model; `consilium study pause {name}` can be taken back. Type \
         yes to stop it"
    )
}

/// Gives up an attempt whose survivors have been proposed and do not finish.
pub async fn declare_lost(
    consortium: &Consortium,
    name: &StudyName,
    attempt: Attempt,
) -> anyhow::Result<Controlled> {
    order(consortium, name, |study| Act::DeclareLost { study, attempt }).await
}

async fn course(consortium: &Consortium, name: &StudyName, course: Course) -> anyhow::Result<Controlled> {
    order(consortium, name, |study| Act::Course { study, course }).await
}

async fn order(
    consortium: &Consortium,
    name: &StudyName,
    act: impl FnOnce(Hash) -> Act,
) -> anyhow::Result<Controlled> {
    let mut remote = Remote::open(consortium).await?;
    // The hash is computed from the signed study, so that the coordinator cannot have another one ordered about.
    let study = fetch_from(&mut remote, name).await?.study.hash();
    let order = Order { signed_at_ms: now_ms(), act: act(study) };
    let operator = remote.operator();
    let order = Signed::seal(&order, operator.principal(), operator.key()).to_canonical();
    let reply = remote.client.control(ControlRequest { order }).await.map_err(refused)?.into_inner();
    let StudyStatus { state: said, round, rounds, .. } = reply.status.unwrap_or_default();
    Ok(Controlled { name: name.to_string(), state: state(&said), round, rounds })
}

pub(super) fn print(controlled: &Controlled, output: Output) -> anyhow::Result<()> {
    output.show(controlled, |Controlled { name, state, round, rounds }| {
        let next = match state.as_str() {
            "proposed" => format!("It begins once enough sites have accepted: consilium study status {name}"),
            "stopped" => "It is over, without a release.".to_owned(),
            "released" => format!("It is over: consilium model export {name}"),
            "paused" => format!("Go on with: consilium study resume {name}"),
            _ => format!("Follow it with: consilium study watch {name}"),
        };
        format!("{name} is {state}, round {round} of {rounds}.\n{next}")
    })?;
    Ok(())
}
