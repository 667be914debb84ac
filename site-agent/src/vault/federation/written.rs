//! What a vault writes down of a coordinator that lies, and of keys that it has lost.

use consilium_rounds::message::{Directive, Letter, Settled, SettledAs, SiteMessage};
use consilium_rounds::reason::{Abandonment, Decline};
use consilium_rounds::{Act, Event};
use consilium_secagg::context::{Context, ContextFields};
use consilium_secagg::numbering::Attempt;
use consilium_study::canonical::Canonical as _;
use consilium_study::hash::Hash;
use consilium_study::name::Principal;
use consilium_study::sign::Signed;

use super::tests::WILLING;
use super::{Federation, SITES};
use crate::journal;
use crate::pipe::message::{FromRelay, FromVault};
use crate::store::Disk;
use crate::vault::case::Topic;

impl Federation {
    /// Everybody has masked in the first attempt. Returns its context.
    fn masked(&mut self) -> Signed<Context> {
        self.tell(Event::Operator { by: "operator/o".parse().unwrap(), act: Act::Start });
        while self.uploads.len() < SITES.len() {
            assert!(self.pass(), "{:#?}", self.machine.status());
        }
        let told = self.machine.directives_for(&self.sites[0].name).into_iter();
        let context = told.into_iter().find_map(|letter| match letter.message {
            Directive::Begin { context } => Some(context),
            _ => None,
        });
        context.unwrap()
    }

    /// A context with other fields.
    fn forge(&self, honest: &Signed<Context>, change: impl FnOnce(&mut ContextFields)) -> Signed<Context> {
        let mut fields = honest.claim().unwrap().into_fields();
        change(&mut fields);
        let signed = Signed::seal(&fields, Principal::Coordinator, &self.key);
        Signed::from_canonical(&signed.to_canonical()).unwrap()
    }

    /// Tells the first site something.
    fn lie(&mut self, message: Directive) {
        let bytes = Letter { study: self.machine.study_hash(), message }.to_bytes();
        self.sites[0].frame(FromRelay::Directive { bytes: bytes.into(), parent: String::new() });
    }

    /// Tells the first site, without a signature, that attempts are over.
    fn report_over(&mut self, attempt: u32, context: &Signed<Context>) {
        let claimed = context.claim().unwrap();
        self.lie(Directive::Settled(Settled {
            attempt: Attempt::new(attempt).unwrap(),
            ctx: claimed.hash(),
            outcome: SettledAs::Abandoned(Abandonment::BelowQuorum),
            model: claimed.model,
            candidate: None,
        }));
    }

    /// What the first site wrote down of some kind.
    fn written<T>(&self, of_kind: impl Fn(journal::Event) -> Option<T>) -> Vec<T> {
        let records = journal::read(&Disk, &self.sites[0].folder.journal()).unwrap();
        records.into_iter().filter_map(|record| of_kind(record.event)).collect()
    }

    /// Why the first site declined what it was told since it was last asked.
    fn declined(&mut self) -> Vec<Decline> {
        let said = self.sites[0].core.speak().into_iter().filter_map(|message| match message {
            FromVault::Say { message, .. } => Letter::from_bytes(&message).ok(),
            _ => None,
        });
        let reason = |letter: Letter<SiteMessage>| match letter.message {
            SiteMessage::Declined { reason, .. } => Some(reason),
            _ => None,
        };
        said.filter_map(reason).collect()
    }

    fn passed_over(&self) -> Vec<(u32, Hash)> {
        self.written(|event| match event {
            journal::Event::ContextPassedOver { attempt, context, .. } => Some((attempt, context)),
            _ => None,
        })
    }
}

/// The coordinator does not sign that an attempt is over, so that is no way to try contexts unseen.
#[test]
fn contexts_of_attempts_that_were_reported_over_are_written_down_and_do_not_fill_the_journal() {
    let mut federation = Federation::new(WILLING);
    let honest = federation.masked();
    let twin = Hash::of_bytes(b"a twin");
    let second = federation.forge(&honest, |fields| fields.model = twin);
    let unheard = federation.forge(&honest, |fields| fields.attempt = Attempt::new(4).unwrap());
    federation.report_over(5, &honest);
    let before = federation.sites[0].trained.clone();
    for _ in 0..3 {
        for context in [&honest, &second, &unheard] {
            federation.lie(Directive::Begin { context: context.clone() });
        }
    }
    let alarms = federation.written(|event| matches!(event, journal::Event::Alarm { .. }).then_some(()));
    let refused =
        federation.written(|event| matches!(event, journal::Event::DirectiveRefused { .. }).then_some(()));
    assert_eq!((alarms.len(), refused.len()), (1, 1));
    let hash = |context: &Signed<Context>| *context.claim().unwrap().hash().hash();
    assert_eq!(federation.passed_over(), [(4, hash(&unheard))]);
    // However many there are, and whatever else comes in between.
    for number in 0..1000_u32 {
        let other = Hash::of_bytes(&number.to_be_bytes());
        let context = federation.forge(&unheard, |fields| fields.model = other);
        federation.lie(Directive::Begin { context });
    }
    assert_eq!(federation.passed_over().len(), 256);
    federation.sites[0].work();
    assert_eq!(federation.sites[0].trained, before, "nobody trains for what is over");
}

/// An honest coordinator is not written down as a liar.
#[test]
fn nothing_is_passed_over_in_an_honest_study() {
    let mut federation = Federation::new(WILLING);
    federation.run();
    assert_eq!(federation.passed_over(), []);
}

#[test]
fn a_context_that_comes_again_after_a_new_epoch_is_not_passed_over() {
    let mut federation = Federation::new(WILLING);
    let honest = federation.masked();
    let claim = honest.claim().unwrap();
    let opening = federation.next_epoch(&claim);
    federation.lie(opening);
    federation.lie(Directive::Begin { context: honest });
    assert_eq!(federation.passed_over(), []);
}

/// What is wrong with a context is said by its own word, not as if its signature were wrong.
#[test]
fn thresholds_that_are_not_those_of_the_formula_are_declined_as_such() {
    let mut federation = Federation::new(WILLING);
    let honest = federation.masked();
    let next = Attempt::new(2).unwrap();
    for (change, reason) in [
        ((|fields| fields.thresholds.threshold -= 1) as fn(&mut ContextFields), Decline::Thresholds),
        (|fields| fields.thresholds.honest = 9, Decline::Thresholds),
        (|fields| fields.ring_bits = 16, Decline::Context),
        (|fields| fields.weight_cap = 0, Decline::Context),
    ] {
        let context = federation.forge(&honest, |fields| {
            fields.attempt = next;
            change(fields);
        });
        federation.lie(Directive::Begin { context });
        assert_eq!(federation.declined(), [reason]);
    }
}

/// Chain keys lie outside every backup.
#[test]
fn an_agent_that_was_restored_from_a_backup_writes_down_that_its_keys_are_gone() {
    let mut federation = Federation::new(WILLING);
    federation.masked();
    let opening = federation.machine.directives_for(&federation.sites[0].name).into_iter();
    let opening = opening.map(|letter| letter.message).find(|told| matches!(told, Directive::Opening(_)));
    let files = federation.sites[0].folder.study(&federation.machine.study_hash());
    for file in [files.chain_keys(), files.chain_wrap()] {
        std::fs::remove_file(file).unwrap();
    }
    let lost = |federation: &Federation| {
        federation.written(|event| match event {
            journal::Event::KeysLost { epoch, .. } => Some(epoch),
            _ => None,
        })
    };
    assert!(lost(&federation).is_empty());
    federation.sites[0].crash();
    assert_eq!(lost(&federation), [1], "before anybody asks");
    for _ in 0..3 {
        federation.lie(opening.clone().unwrap());
    }
    assert_eq!(lost(&federation), [1]);
    let case = &federation.sites[0].core.cases[&federation.machine.study_hash()];
    assert!(case.says(Topic::KeysLost), "the coordinator hears it too");
}
