//! The ledger of a study that sums groups: the draw is drawn again, and nothing else is taken for it.

use std::collections::BTreeMap;

use consilium_identity::ConsortiumKey;
use consilium_identity::roster::{CoordinatorEntry, PersonEntry, SiteEntry};
use consilium_rounds::local::{Federation, LocalSite, Models, Trained, Work};
use consilium_rounds::metrics::EvaluationCounts;
use consilium_rounds::reason::Withdrawal;
use consilium_rounds::record::Record as Happened;
use consilium_rounds::vector::evaluation_shape;
use consilium_rounds::{Effect, Proposal, StudyMachine, Timestamp, Timing};
use consilium_secagg::context::{ContextFields, Purpose};
use consilium_study::document::Draft;
use consilium_study::sign::SigningKey;
use consilium_study::statement::{Repeat, SiteTerms};
use consilium_study::task::Label;

use super::world::hash;
use super::*;
use crate::log::{Log, Step};
use crate::memory::Folder;
use crate::record::Sealed;

const SITES: usize = 24;

/// Everybody finds the same.
struct Same(Study);

impl Work for Same {
    fn train(&mut self, context: &Context) -> Result<Trained, Withdrawal> {
        Ok(Trained { update: vec![0.01; context.layout.entries()], mean_loss: 0.5, busy_ms: 0 })
    }

    fn evaluate(&mut self, _: &Context) -> Result<EvaluationCounts, Withdrawal> {
        let mut counts = EvaluationCounts::new(evaluation_shape(&self.0));
        counts.add(&[0.2, 0.8], 0.5, Label::Class(1));
        counts.add(&[0.7, 0.3], 0.5, Label::Class(0));
        Ok(counts)
    }
}

#[derive(Default)]
struct Shelf(BTreeMap<Hash, Vec<f32>>);

impl Models for Shelf {
    fn read(&self, model: &Hash) -> Option<Vec<f32>> {
        self.0.get(model).cloned()
    }

    fn write(&mut self, parameters: Vec<f32>) -> Hash {
        let bytes: Vec<u8> = parameters.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        let hash = Hash::of_bytes(&bytes);
        self.0.insert(hash, parameters);
        hash
    }
}

/// A study that was run, with everything that was recorded of it.
struct Ran {
    consortium: ConsortiumKey,
    coordinator: SigningKey,
    study: Study,
    roster: Roster,
    records: Vec<Happened>,
}

fn name(position: usize) -> SiteName {
    format!("site-{position:02}").parse().unwrap()
}

fn run() -> Ran {
    let consortium = ConsortiumKey::generate("rhine".parse().unwrap());
    let (coordinator, operator) = (SigningKey::generate(), SigningKey::generate());
    let keys: Vec<_> = (0..SITES).map(|_| SigningKey::generate()).collect();
    let entry = CoordinatorEntry {
        signing_key: coordinator.verifying_key(),
        tls_key: hash("tls"),
        issuing_key: hash("issuing"),
    };
    let person = PersonEntry {
        name: "olga".parse().unwrap(),
        signing_key: operator.verifying_key(),
        tls_key: hash("tls of olga"),
    };
    let mut roster = Roster::first("rhine".parse().unwrap(), entry, person).unwrap();
    for (position, key) in keys.iter().enumerate() {
        let entry = SiteEntry {
            name: name(position),
            signing_key: key.verifying_key(),
            tls_key: Hash::of_bytes(&[position as u8]),
            test: false,
        };
        roster = roster.with_site(entry).unwrap();
    }
    let mut shelf = Shelf::default();
    let text = consilium_study::template::study_toml(
        &"lungs".parse().unwrap(),
        &(0..SITES).map(name).collect::<Vec<_>>(),
    );
    let text = text
        .replace("small-cnn\"                 #", "logistic\" #")
        .replace("count = 10 ", "count = 1 ")
        .replace("[aggregation]\n", "[aggregation]\ngroups = { count = 3 }\n");
    let draft = Draft::from_toml(&text).unwrap();
    let initial = shelf.write(vec![0.0; draft.model.len()]);
    let study = draft.with_initial_model(initial);
    let proposal = Proposal {
        study: Signed::seal(&study, "operator/olga".parse().unwrap(), &operator),
        operator: ("operator/olga".parse().unwrap(), operator.verifying_key()),
        roster: b"roster".to_vec(),
        roster_hash: roster.hash(),
        keys: keys.iter().enumerate().map(|(at, key)| (name(at), key.verifying_key())).collect(),
        coordinator: coordinator.verifying_key(),
        timing: Timing::default(),
    };
    let proposed = StudyMachine::propose(proposal, Timestamp::from_millis(0)).unwrap();
    let key_of = |site: &SiteName| roster.site(site).map(|entry| entry.signing_key);
    let pin = study_pin(&study, roster.hash(), coordinator.verifying_key(), key_of).unwrap();
    let terms = SiteTerms {
        min_honest: 3,
        min_selection: 3,
        min_change: None,
        repeat: Repeat::Ask,
        exact_weights: false,
        groups: true,
    };
    let sites = keys.into_iter().enumerate();
    let sites = sites.map(|(at, key)| LocalSite::new(name(at), key, study.clone(), pin.clone(), terms, 64));
    let mut federation =
        Federation::new(proposed, SigningKey::from_seed(coordinator.to_seed()), sites.collect(), shelf);
    let (mut records, mut moment) = (Vec::new(), 0);
    federation
        .run(
            || {
                moment += 1;
                Timestamp::from_millis(moment)
            },
            |_| Same(study.clone()),
            |effect| {
                if let Effect::Record(record) = effect {
                    // The order of the operator who starts it is signed elsewhere.
                    records.push((**record).clone());
                }
            },
        )
        .unwrap();
    Ran { consortium, coordinator, study, roster, records }
}

impl Ran {
    fn verify(&self, records: &[Happened]) -> Result<Report, Failure> {
        let mut story = vec![Record::Roster(self.consortium.sign(&self.roster)).into()];
        story.extend(records.iter().map(|record| Sealed::of(record, self.study.hash(), &self.coordinator)));
        let (mut log, steps) = Log::create("rhine".parse().unwrap(), &self.coordinator);
        let mut folder = Folder::default();
        folder.perform(steps);
        let blobs = story.iter().flat_map(|sealed: &Sealed| sealed.blobs.iter().cloned());
        folder.perform(blobs.map(Step::Keep));
        let records: Vec<_> = story.iter().map(|sealed| sealed.record.clone()).collect();
        let appended = log.append(&records, 1_000, &self.coordinator).unwrap();
        folder.perform(appended.steps);
        verify(&folder, &folder, &self.consortium.anchor().key)
    }

    fn fault(&self, records: &[Happened]) -> String {
        self.verify(records).map(|report| report.to_string()).unwrap_err().to_string()
    }

    /// The records with the first training's context changed, which the coordinator signs like any other.
    fn with_context(&self, change: impl Fn(&mut ContextFields)) -> Vec<Happened> {
        let mut records = self.records.clone();
        for record in &mut records {
            if let Happened::Context(signed) = record
                && signed.claim().unwrap().purpose == Purpose::Train
            {
                let mut fields = signed.claim().unwrap().into_fields();
                change(&mut fields);
                *signed =
                    Signed::seal(&Context::new(fields).unwrap(), Principal::Coordinator, &self.coordinator);
            }
        }
        records
    }
}

#[test]
fn groups_are_in_the_ledger_with_the_draw_that_made_them() {
    let ran = run();
    let report = ran.verify(&ran.records).unwrap();
    let attempts = &report.studies[0].attempts;
    assert_eq!(attempts.iter().map(|attempt| attempt.groups).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(attempts[0].honest_behind_sum, 3);
    let text = report.to_string();
    assert!(
        text.contains("24 of 24 counted") && text.contains("in 3 groups that were summed apart"),
        "{text}"
    );
    assert!(text.contains("a weaker promise than a sum over everybody"), "{text}");

    let draw = ran.records.iter().position(|record| matches!(record, Happened::Draw(_))).unwrap();
    // Without the draw, or with a second one.
    let mut records = ran.records.clone();
    let drawn = records.remove(draw);
    assert!(ran.fault(&records).contains("its groups are not those that were drawn"));
    let Happened::Draw(mut proof) = drawn.clone() else { unreachable!() };
    proof.reveals.reverse();
    records.insert(draw, drawn);
    records.insert(draw, Happened::Draw(proof.clone()));
    assert!(ran.fault(&records).contains("had a draw before"));
    // With a nonce that is missing.
    let gone = proof.reveals.pop().unwrap().claim().unwrap().site;
    records.remove(draw);
    records[draw] = Happened::Draw(proof);
    assert!(
        ran.fault(&records).contains(&format!("the draw of groups is not proved: {gone} has not revealed"))
    );
    // Drawn around a victim.
    let swapped = ran.with_context(|fields| {
        let of = &mut fields.grouping.as_mut().unwrap().of;
        let other = of.iter().position(|group| *group != of[0]).unwrap();
        of.swap(0, other);
    });
    assert!(ran.fault(&swapped).contains("its groups are not those that were drawn"));
    // Summed together although the study says otherwise.
    let together = ran.with_context(|fields| (fields.groups, fields.grouping) = (1, None));
    assert!(ran.fault(&together).contains("splits the sites otherwise than the study"));
}
