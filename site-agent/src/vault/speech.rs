//! What the vault has to say, and what of it was heard.
//!
//! There is no stored outbox: what a site has to say follows from its durable state and from what it is
//! asked, and what it is asked follows from the coordinator's state. So after any crash or cut the same
//! bytes are said again, under the same id, and the coordinator counts them once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use consilium_study::hash::Hash;

use crate::pipe::message::{FromVault, Upload, Verdict};

/// A refusal may depend on the moment, so what was refused is said again after a while, a few times.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const MOST_TIMES: u32 = 5;

/// Something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saying {
    id: Hash,
    bytes: Arc<Vec<u8>>,
    parent: String,
}

impl Saying {
    /// Canonical bytes of a letter, and the W3C trace context of the round it belongs to.
    pub(super) fn new(bytes: Vec<u8>, parent: &str) -> Self {
        Self { id: Hash::of_bytes(&bytes), bytes: Arc::new(bytes), parent: parent.to_owned() }
    }

    /// What an answer to it names.
    pub(super) fn id(&self) -> Hash {
        self.id
    }
}

/// Which sayings and uploads are on their way or have arrived.
#[derive(Default)]
pub(super) struct Speech {
    up: bool,
    said: BTreeMap<Hash, Fate>,
    uploads: BTreeMap<Upload, Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    OnItsWay { times: u32 },
    Recorded,
    Refused { times: u32, again: Instant },
}

impl Speech {
    /// The connection is new, so what was on its way may be lost; or it is gone.
    pub(super) fn link(&mut self, up: bool) {
        self.up = up;
        self.said.retain(|_, fate| *fate == Fate::Recorded);
        self.uploads.retain(|_, fate| *fate == Fate::Recorded);
    }

    /// Compares everything there is to say now with what has been said.
    pub(super) fn say(
        &mut self,
        sayings: &[Saying],
        uploads: &[(Upload, String)],
        now: Instant,
    ) -> Vec<FromVault> {
        let ids: BTreeSet<Hash> = sayings.iter().map(|saying| saying.id).collect();
        self.said.retain(|id, _| ids.contains(id));
        self.uploads.retain(|upload, _| uploads.iter().any(|(wanted, _)| wanted == upload));
        if !self.up {
            return Vec::new();
        }
        let mut out = Vec::new();
        for Saying { id, bytes, parent } in sayings {
            if let Some(times) = due(self.said.get(id), now) {
                self.said.insert(*id, Fate::OnItsWay { times });
                out.push(FromVault::Say { id: *id, message: bytes.to_vec().into(), parent: parent.clone() });
            }
        }
        for (upload, parent) in uploads {
            if let Some(times) = due(self.uploads.get(upload), now) {
                self.uploads.insert(*upload, Fate::OnItsWay { times });
                out.push(FromVault::UploadReady { upload: *upload, parent: parent.clone() });
            }
        }
        out
    }

    /// Whatever became of it, it is said again.
    pub(super) fn forget(&mut self, id: &Hash) {
        self.said.remove(id);
    }

    /// The coordinator answered a message. Says whether that message is one of ours.
    pub(super) fn said(&mut self, id: &Hash, verdict: &Verdict, now: Instant) -> bool {
        self.said.get_mut(id).is_some_and(|fate| {
            *fate = answered(*fate, verdict, now);
            true
        })
    }

    /// The coordinator answered an upload.
    pub(super) fn uploaded(&mut self, upload: &Upload, verdict: &Verdict, now: Instant) -> bool {
        self.uploads.get_mut(upload).is_some_and(|fate| {
            *fate = answered(*fate, verdict, now);
            true
        })
    }

    /// Whether a message has been recorded.
    pub(super) fn is_recorded(&self, id: &Hash) -> bool {
        self.said.get(id) == Some(&Fate::Recorded)
    }
}

/// Whether something is to be said now, and how often that makes.
fn due(fate: Option<&Fate>, now: Instant) -> Option<u32> {
    match fate {
        None => Some(1),
        Some(Fate::Refused { times, again }) if *times < MOST_TIMES && now >= *again => Some(times + 1),
        Some(Fate::OnItsWay { .. } | Fate::Recorded | Fate::Refused { .. }) => None,
    }
}

fn answered(fate: Fate, verdict: &Verdict, now: Instant) -> Fate {
    match (verdict, fate) {
        (Verdict::Recorded, _) => Fate::Recorded,
        (Verdict::Refused { code }, Fate::OnItsWay { times }) => {
            tracing::debug!(code = printable(code), times, "the coordinator refused what this site sent");
            Fate::Refused { times, again: now + FIRST_WAIT * 2_u32.saturating_pow(times - 1) }
        }
        // An answer to what is not on its way changes nothing.
        (Verdict::Refused { .. }, fate) => fate,
    }
}

/// A code from outside as it may stand in a log: short, and letters only.
fn printable(code: &str) -> String {
    code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-').take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saying(text: &str) -> Saying {
        Saying::new(text.into(), "")
    }

    #[test]
    fn everything_is_said_once_per_connection_until_recorded() {
        let (mut speech, now) = (Speech::default(), Instant::now());
        let all = [saying("a"), saying("b")];
        assert_eq!(speech.say(&all, &[], now), [], "nobody listens");
        speech.link(true);
        assert_eq!(speech.say(&all, &[], now).len(), 2);
        assert_eq!(speech.say(&all, &[], now), [], "on their way");
        assert!(speech.said(&all[0].id(), &Verdict::Recorded, now));
        speech.link(false);
        speech.link(true);
        let again = speech.say(&all, &[], now);
        assert!(matches!(&again[..], [FromVault::Say { id, .. }] if *id == all[1].id()));
        assert!(speech.is_recorded(&all[0].id()));
    }

    #[test]
    fn a_refused_message_is_said_again_later_and_not_for_ever() {
        let (mut speech, mut now) = (Speech::default(), Instant::now());
        let all = [saying("a")];
        let refused = Verdict::Refused { code: "not_now".into() };
        speech.link(true);
        let mut times = 0;
        for _ in 0..100 {
            if !speech.say(&all, &[], now).is_empty() {
                times += 1;
                assert!(speech.said(&all[0].id(), &refused, now));
                assert_eq!(speech.say(&all, &[], now), [], "not at once");
            }
            now += Duration::from_mins(1);
        }
        assert_eq!(times, MOST_TIMES);
    }

    #[test]
    fn an_answer_to_what_was_never_said_is_ignored() {
        let mut speech = Speech::default();
        assert!(!speech.said(&Hash::of_bytes(b"x"), &Verdict::Recorded, Instant::now()));
        assert!(!speech.is_recorded(&Hash::of_bytes(b"x")));
    }

    #[test]
    fn uploads_resume_on_the_next_connection() {
        let (mut speech, now) = (Speech::default(), Instant::now());
        let upload = Upload { study: Hash::of_bytes(b"s"), attempt: 3, length: 8 };
        let all = [(upload, String::new())];
        speech.link(true);
        assert_eq!(speech.say(&[], &all, now).len(), 1);
        speech.link(true);
        assert_eq!(speech.say(&[], &all, now).len(), 1);
        assert!(speech.uploaded(&upload, &Verdict::Recorded, now));
        speech.link(true);
        assert_eq!(speech.say(&[], &all, now), []);
    }
}
