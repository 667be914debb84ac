//! Pair keys and groups: what a site does with openings, adverts, ciphertexts, tags and draws.

use consilium_rounds::message::{SiteMessage, in_batches};
use consilium_rounds::reason::Decline;
use consilium_secagg::guilt::DealerGuilt;
use consilium_secagg::message::{Advert, Confirmation, DrawCall, Encapsulation, EpochOpening, Reveal};
use consilium_secagg::site::{PairsSettled, SetupReply, SiteRefusal, Unsent};
use consilium_study::canonical::Canonical as _;
use consilium_study::hash::Hash;
use consilium_study::sign::Signed;

use super::case::{Case, Topic};
use super::core::{Core, Taken};
use super::reason::decline_of;
use crate::journal::Event;

impl Core {
    /// A new generation of pair keys.
    pub(super) fn opening(&mut self, study: Hash, opening: &Signed<EpochOpening>) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let before = machine.epoch();
        let result = machine.open_epoch(opening);
        let proof = self.keeping.persist(machine, &mut self.book)?;
        let advert = match result {
            Ok(unsent) => unsent.open(&proof)?,
            Err(SiteRefusal::StaleEpoch(epoch)) if machine.epoch() != Some(epoch) => {
                // Its keys are gone here, which was written down, or it is over: either way this site waits for the next.
                let lost = machine.lost_epoch() == Some(epoch);
                case.say(Topic::KeysLost, SiteMessage::KeysLost { epoch });
                if !lost {
                    let reason = SiteRefusal::StaleEpoch(epoch).to_string();
                    self.note_once(study, Event::DirectiveRefused { study: Some(study), reason })?;
                }
                return Ok(Taken::Done);
            }
            Err(refusal) => return self.refuse_setup(study, &refusal),
        };
        let (now, settled) = (machine.epoch(), machine.pairs_settled());
        if now != before {
            case.leave_attempt();
            case.encapsulations.clear();
            case.confirmations.clear();
            case.hush(|topic| {
                matches!(
                    topic,
                    Topic::KeysLost
                        | Topic::Encapsulations(_)
                        | Topic::Confirmations(_)
                        | Topic::PairsSettled
                        | Topic::Reveal
                )
            });
        }
        case.say(Topic::Advert, SiteMessage::Advert(advert));
        say_settled(case, settled);
        if let (Some(epoch), true) = (now, now != before) {
            self.note_opening(study, epoch)?;
            self.note(Event::EpochOpened { study, epoch: epoch.get() })?;
        }
        Ok(Taken::Done)
    }

    /// Public keys of other sites.
    pub(super) fn adverts(&mut self, study: Hash, adverts: &[Signed<Advert>]) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let result = machine.take_adverts(adverts);
        self.setup_reply(study, result)
    }

    /// Ciphertexts for this site.
    pub(super) fn encapsulations(
        &mut self,
        study: Hash,
        list: &[Signed<Encapsulation>],
    ) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let result = machine.take_encapsulations(list);
        self.setup_reply(study, result)
    }

    fn setup_reply(
        &mut self,
        study: Hash,
        result: Result<Unsent<SetupReply>, SiteRefusal>,
    ) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let proof = self.keeping.persist(machine, &mut self.book)?;
        let reply = match result {
            Ok(unsent) => unsent.open(&proof)?,
            Err(refusal) => return self.refuse_setup(study, &refusal),
        };
        let settled = machine.pairs_settled();
        let SetupReply { encapsulations, confirmations, refused } = reply;
        for signed in encapsulations {
            case.encapsulations.insert(signed.claim()?.to, signed);
        }
        for signed in confirmations {
            case.confirmations.insert(signed.claim()?.to, signed);
        }
        // All of them again in one message: the coordinator counts each once.
        let batches = in_batches(case.encapsulations.values().cloned().collect());
        case.say_batches(Topic::Encapsulations, batches, SiteMessage::Encapsulations);
        let batches = in_batches(case.confirmations.values().cloned().collect());
        case.say_batches(Topic::Confirmations, batches, SiteMessage::Confirmations);
        say_settled(case, settled);
        let mut wait = false;
        for refusal in refused {
            wait |= refusal.is_temporary();
            self.note_refused(study, &refusal)?;
        }
        Ok(if wait { Taken::Park } else { Taken::Done })
    }

    /// Tags for this site.
    pub(super) fn confirmations(
        &mut self,
        study: Hash,
        list: &[Signed<Confirmation>],
    ) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let result = machine.take_confirmations(list);
        self.setup_reply(study, result)
    }

    /// Who takes part in the draw of groups: gives this site's nonce.
    pub(super) fn draw(&mut self, study: Hash, call: &Signed<DrawCall>) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let result = machine.reveal(call);
        let proof = self.keeping.persist(machine, &mut self.book)?;
        match result {
            Ok(unsent) => {
                let reveal = unsent.open(&proof)?;
                case.say(Topic::Reveal, SiteMessage::Reveal(reveal));
                Ok(Taken::Done)
            }
            Err(refusal) => self.refuse_setup(study, &refusal),
        }
    }

    /// The nonces of the others in it.
    pub(super) fn reveals(&mut self, study: Hash, reveals: &[Signed<Reveal>]) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let result = machine.take_reveals(reveals);
        let _ = self.keeping.persist(machine, &mut self.book)?;
        match result {
            Ok(refused) => {
                refused.iter().try_for_each(|refusal| self.note_refused(study, refusal))?;
                Ok(Taken::Done)
            }
            Err(refusal) => self.refuse_setup(study, &refusal),
        }
    }

    /// A dealer's guilt is proved: survivors without it count as the same set from now on.
    pub(super) fn guilt(&mut self, study: Hash, proof: &DealerGuilt) -> anyhow::Result<Taken> {
        let Some(case) = self.cases.get_mut(&study) else { return Ok(Taken::Done) };
        let Some(machine) = &mut case.machine else { return Ok(Taken::Done) };
        let result = machine.take_guilt(proof);
        let _ = self.keeping.persist(machine, &mut self.book)?;
        match result {
            Ok(dealer) => {
                self.note(Event::Guilty { study, dealer })?;
                Ok(Taken::Done)
            }
            Err(error) => {
                Ok(Taken::Refused { reason: Decline::Signature, attempt: None, why: error.to_string() })
            }
        }
    }

    fn refuse_setup(&mut self, study: Hash, refusal: &SiteRefusal) -> anyhow::Result<Taken> {
        self.raise(study, refusal)?;
        if refusal.is_temporary() {
            return Ok(Taken::Park);
        }
        let reason = match decline_of(refusal) {
            reason @ (Decline::Signature | Decline::Groups) => reason,
            _ => Decline::Epoch,
        };
        Ok(Taken::Refused { reason, attempt: None, why: refusal.to_string() })
    }

    /// One message of a batch was refused. The others count, so the batch as a whole is not declined; that somebody
    /// sent keys or tags that are not a peer's is for the hospital to know all the same. A batch that waits for something
    /// is looked at again and again.
    fn note_refused(&mut self, study: Hash, refusal: &SiteRefusal) -> anyhow::Result<()> {
        self.raise(study, refusal)?;
        if refusal.is_temporary() {
            return Ok(());
        }
        let why = refusal.to_string();
        tracing::warn!(study = study.short(), why, "keys of a peer were refused");
        self.note_once(study, Event::DirectiveRefused { study: Some(study), reason: why })
    }

    /// Writes an event into the journal, unless it was since the vault was started.
    pub(super) fn note_once(&mut self, study: Hash, event: Event) -> anyhow::Result<()> {
        let is_news = self.cases.get_mut(&study).is_some_and(|case| case.is_news(&event));
        if is_news { self.note(event) } else { Ok(()) }
    }

    /// Writes an alarm into the journal and tells the coordinator, whose ledger others read.
    pub(super) fn raise(&mut self, study: Hash, refusal: &SiteRefusal) -> anyhow::Result<()> {
        let SiteRefusal::Alarm(alarm) = refusal else { return Ok(()) };
        tracing::error!(study = study.short(), ?alarm, "two statements that cannot both be honest");
        self.note_once(study, Event::Alarm { study, what: format!("{alarm:?}") })?;
        if let Some(case) = self.cases.get_mut(&study) {
            let number = Hash::of_bytes(&alarm.to_canonical()).as_bytes()[0];
            case.say(Topic::Alarm(usize::from(number)), SiteMessage::Alarm(*alarm));
        }
        Ok(())
    }
}

/// Says with whom this site shares keys, once there is anybody.
fn say_settled(case: &mut Case, settled: Option<PairsSettled>) {
    if let Some(PairsSettled { epoch, with }) = settled
        && !with.is_empty()
    {
        case.say(Topic::PairsSettled, SiteMessage::PairsSettled { epoch, with });
    }
}
