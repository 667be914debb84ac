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
        let end = attendance.end.clone();
        tracing::info!(%site, "site connected");
        // A site that does not read keeps nobody: wherever the stream waits, this ends it.
        tokio::select! {
            () = serve(&hub, &site, attendance, &sender) => {}
            () = sender.closed() => {}
            () = end.cancelled() => {}
            () = hub.stop.cancelled() => {}
            () = silence(&hub, &site) => tracing::warn!(%site, "nothing heard; the stream is given up"),
        }
        if hub.presence.leave(&site, number) {
            tracing::warn!(%site, "site disconnected");
            for study in hub.studies() {
                announce(&hub, &study, &site).await;
            }
        }
    });
    ReceiverStream::new(receiver)
}

/// Tells a study whether a site is here. Streams come and go while it is told; its last word is true.
async fn announce(hub: &Hub, study: &StudyHandle, site: &SiteName) {
    while study.sites.contains(site) {
        let connected = hub.presence.sighting(site).connected;
        let event = if connected { Event::Connected } else { Event::Disconnected };
        // A study that has stopped needs not know.
        let _ = study.tell(event(site.clone())).await;
        if hub.presence.sighting(site).connected == connected {
            return;
        }
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
    sender: &mpsc::Sender<Result<WireDirective, Status>>,
) {
    let mut known = hub.new_studies();
    let mut studies: BTreeMap<Hash, StudyHandle> = BTreeMap::new();
    let mut changes = StreamMap::new();
    let mut sent: BTreeMap<DirectiveId, Sent> = BTreeMap::new();
    let mut repeat = tokio::time::interval(REPEAT);
    loop {
        known.mark_unchanged();
        for study in hub.studies().into_iter().filter(|study| study.sites.contains(site)) {
            if !studies.contains_key(&study.hash) {
                changes.insert(study.hash, WatchStream::from_changes(study.changes()));
                announce(hub, &study, site).await;
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
                    if sender.send(Ok(directive)).await.is_err() {
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
                Some(id) = attendance.acknowledgements.recv() => {
                    if let Some(state) = sent.get_mut(&id) {
                        *state = Sent::Acknowledged;
                    }
                    continue;
                }
                Some(_) = changes.next() => {}
                Ok(()) = known.changed() => {}
                _ = repeat.tick() => {}
            }
            break;
        }
    }
}

/// Until nothing was heard of a site for so long that its stream is given up.
async fn silence(hub: &Hub, site: &SiteName) {
    let mut watchdog = tokio::time::interval(SILENCE / 2);
    loop {
        watchdog.tick().await;
        let heard = hub.presence.sighting(site).last_heard_ms;
        if crate::study::now().as_millis().saturating_sub(heard) > SILENCE.as_millis() as u64 {
            return;
        }
    }
}
