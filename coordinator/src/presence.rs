//! Which sites are here: the time of the last message from inside, never a call into a hospital.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use consilium_rounds::message::DirectiveId;
use consilium_study::name::SiteName;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::study::now;

/// Acknowledgements that a stream has not looked at yet.
const MOST_ACKNOWLEDGEMENTS: usize = 4096;

/// The sites that were heard since the coordinator started.
#[derive(Default)]
pub struct Presence(Mutex<BTreeMap<SiteName, Heard>>);

#[derive(Default)]
struct Heard {
    last_ms: u64,
    agent: String,
    attending: Option<Attending>,
    streams: u64,
}

struct Attending {
    number: u64,
    end: CancellationToken,
    acknowledgements: mpsc::Sender<DirectiveId>,
}

/// A site's directive stream, from its opening on.
pub struct Attendance {
    /// Which of the site's streams this is.
    pub number: u64,
    /// Cancelled when a newer stream takes its place.
    pub end: CancellationToken,
    /// What the site acknowledges.
    pub acknowledgements: mpsc::Receiver<DirectiveId>,
}

/// A site as it was last seen.
#[derive(Clone, Debug, Default)]
pub struct Sighting {
    /// Whether its directive stream is open.
    pub connected: bool,
    /// When it was last heard, in milliseconds since 1970; 0 for never.
    pub last_heard_ms: u64,
    /// Version of its agent.
    pub agent: String,
}

impl Presence {
    /// A site opens its directive stream; an earlier one ends.
    pub fn attend(&self, site: &SiteName, agent: String) -> Attendance {
        let mut sites = self.lock();
        let heard = sites.entry(site.clone()).or_default();
        heard.streams += 1;
        heard.agent = agent;
        heard.last_ms = now().as_millis();
        let (sender, acknowledgements) = mpsc::channel(MOST_ACKNOWLEDGEMENTS);
        let end = CancellationToken::new();
        let attending = Attending { number: heard.streams, end: end.clone(), acknowledgements: sender };
        if let Some(before) = heard.attending.replace(attending) {
            before.end.cancel();
        }
        Attendance { number: heard.streams, end, acknowledgements }
    }

    /// A stream has ended. Returns whether the site has no other.
    pub fn leave(&self, site: &SiteName, number: u64) -> bool {
        let mut sites = self.lock();
        let Some(heard) = sites.get_mut(site) else { return false };
        let last = heard.attending.as_ref().is_some_and(|attending| attending.number == number);
        if last {
            heard.attending = None;
        }
        last
    }

    /// A site was heard.
    pub fn heard(&self, site: &SiteName) {
        self.lock().entry(site.clone()).or_default().last_ms = now().as_millis();
    }

    /// Passes acknowledgements on to the site's stream.
    pub fn acknowledge(&self, site: &SiteName, ids: impl Iterator<Item = DirectiveId>) {
        if let Some(attending) = self.lock().get(site).and_then(|heard| heard.attending.as_ref()) {
            for id in ids {
                // A stream that is ending does not need them; whoever sends more than there are directives is asked
                // again.
                let _ = attending.acknowledgements.try_send(id);
            }
        }
    }

    /// A site as it was last seen.
    pub fn sighting(&self, site: &SiteName) -> Sighting {
        self.lock().get(site).map_or_else(Sighting::default, |heard| Sighting {
            connected: heard.attending.is_some(),
            last_heard_ms: heard.last_ms,
            agent: heard.agent.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SiteName, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stream_ends_the_first() {
        let presence = Presence::default();
        let site = SiteName::new("a").unwrap();
        let first = presence.attend(&site, "agent 1".into());
        let second = presence.attend(&site, "agent 1".into());
        assert!(first.end.is_cancelled() && !second.end.is_cancelled());
        presence.acknowledge(&site, (0..10_000u32).map(|number| DirectiveId::of(&number.to_be_bytes())));
        assert_eq!(second.acknowledgements.len(), MOST_ACKNOWLEDGEMENTS, "a flood is bounded");
        assert!(!presence.leave(&site, first.number));
        assert!(presence.sighting(&site).connected);
        assert!(presence.leave(&site, second.number));
        assert!(!presence.sighting(&site).connected);
    }
}
