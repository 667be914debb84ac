//! A site's directive stream.
//!
//! What a site has to hear is a function of the machines' states, so nothing is queued: whenever a state changes,
//! the stream computes what the site has to hear now and sends what it has not sent yet. What is not acknowledged
//! is sent again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use consilium_proto::v1::Directive as WireDirective;
use consilium_rounds::Event;
use consilium_rounds::message::DirectiveId;
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::StreamMap;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::Status;

use crate::hub::Hub;
use crate::presence::Attendance;
use crate::study::StudyHandle;

/// Directives on their way to a site.
const WINDOW: usize = 16;
/// A directive that was not acknowledged for so long is sent again.
const REPEAT: Duration = Duration::from_secs(30);
/// A site's own work may take longer than any of its acknowledgements; its heartbeats show that it lives.
const SILENCE: Duration = Duration::from_mins(1);

/// Opens the stream of a site; an earlier one ends.
pub(crate) fn open(
    hub: &Arc<Hub>,
    site: SiteName,
    agent: String,
) -> ReceiverStream<Result<WireDirective, Status>> {
    let (sender, receiver) = mpsc::channel(WINDOW);
    let attendance = hub.presence.attend(&site, agent);
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        let number = attendance.number;
        tracing::info!(%site, "site connected");
        for study in hub.studies() {
            tell(&study, &site, Event::Connected).await;
        }
        serve(&hub, &site, attendance, sender).await;
        if hub.presence.leave(&site, number) {
            tracing::warn!(%site, "site disconnected");
            for study in hub.studies() {
                tell(&study, &site, Event::Disconnected).await;
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn tell(study: &StudyHandle, site: &SiteName, event: impl FnOnce(SiteName) -> Event) {
    if study.sites.contains(site) {
        // A study that has stopped needs not know.
        let _ = study.tell(event(site.clone())).await;
    }
}

/// A directive that was sent on this stream.
enum Sent {
    At(Instant),
    Acknowledged,
}

#[expect(clippy::map_entry, reason = "an await between the look and the insertion")]
async fn serve(
    hub: &Hub,
    site: &SiteName,
    mut attendance: Attendance,
    sender: mpsc::Sender<Result<WireDirective, Status>>,
) {
    let mut known = hub.new_studies();
    let mut studies: BTreeMap<Hash, StudyHandle> = BTreeMap::new();
    let mut changes = StreamMap::new();
    let mut sent: BTreeMap<DirectiveId, Sent> = BTreeMap::new();
    let mut repeat = tokio::time::interval(REPEAT);
    let mut watchdog = tokio::time::interval(SILENCE / 2);
    loop {
        known.mark_unchanged();
        for study in hub.studies().into_iter().filter(|study| study.sites.contains(site)) {
            if !studies.contains_key(&study.hash) {
                changes.insert(study.hash, WatchStream::from_changes(study.changes()));
                tell(&study, site, Event::Connected).await;
                studies.insert(study.hash, study);
            }
        }
        let mut current = BTreeMap::new();
        for study in studies.values() {
            let machine = study.machine();
            for letter in machine.directives_for(site) {
                let body = letter.to_bytes();
                let id = DirectiveId::of(&body);
                let due = match sent.get(&id) {
                    None => true,
                    Some(Sent::Acknowledged) => false,
                    Some(Sent::At(at)) => at.elapsed() >= REPEAT,
                };
                if due {
                    study.count_down(body.len() as u64);
                    let traceparent =
                        hub.parts.telemetry.traceparent(&study.hash, u64::from(machine.status().round));
                    let directive = WireDirective { id: id.hash().as_bytes().to_vec(), body, traceparent };
                    if !deliver(hub, site, &attendance, &sender, directive).await {
                        return;
                    }
                }
                let state = match sent.remove(&id) {
                    Some(state) if !due => state,
                    _ => Sent::At(Instant::now()),
                };
                current.insert(id, state);
            }
        }
        // What the site need not hear any more is forgotten, so this stays as small as the present.
        sent = current;
        // Acknowledgements change nothing that has to be sent, so they do not end this wait.
        loop {
            tokio::select! {
                () = attendance.end.cancelled() => return,
                () = sender.closed() => return,
                () = hub.stop.cancelled() => return,
                Some(id) = attendance.acknowledgements.recv() => {
                    if let Some(state) = sent.get_mut(&id) {
                        *state = Sent::Acknowledged;
                    }
                    continue;
                }
                Some(_) = changes.next() => {}
                Ok(()) = known.changed() => {}
                _ = repeat.tick() => {}
                _ = watchdog.tick() => {
                    if is_silent(hub, site) {
                        return;
                    }
                    continue;
                }
            }
            break;
        }
    }
}

/// Hands a directive to the stream. A site that does not read keeps nobody: whatever ends the stream ends this wait.
async fn deliver(
    hub: &Hub,
    site: &SiteName,
    attendance: &Attendance,
    sender: &mpsc::Sender<Result<WireDirective, Status>>,
    directive: WireDirective,
) -> bool {
    let sending = sender.send(Ok(directive));
    tokio::pin!(sending);
    let mut watchdog = tokio::time::interval(SILENCE / 2);
    loop {
        tokio::select! {
            sent = &mut sending => return sent.is_ok(),
            () = attendance.end.cancelled() => return false,
            () = hub.stop.cancelled() => return false,
            _ = watchdog.tick() => {
                if is_silent(hub, site) {
                    return false;
                }
            }
        }
    }
}

/// Whether nothing was heard of a site for so long that its stream is given up.
fn is_silent(hub: &Hub, site: &SiteName) -> bool {
    let heard = hub.presence.sighting(site).last_heard_ms;
    let silent = crate::study::now().as_millis().saturating_sub(heard);
    let gone = silent > SILENCE.as_millis() as u64;
    if gone {
        tracing::warn!(%site, silent_ms = silent, "nothing heard; the stream is given up");
    }
    gone
}
