//! The study in one process: keys, roster and operator in memory, and the engine of the coordinator.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, bail};
use consilium_learning::{ModelFile, initial};
use consilium_rounds::local::{Federation, LocalSite, Models, Stuck};
use consilium_rounds::reason::{Dropout, Withdrawal};
use consilium_rounds::record::{Record, Release};
use consilium_rounds::status::{Kind, RoundLine, StudyStatus, Wait};
use consilium_rounds::vector::study_pin;
use consilium_rounds::{Effect, Notice, Proposal, StudyMachine, Timestamp, Timing};
use consilium_secagg::context::Purpose;
use consilium_secagg::threshold::Thresholds;
use consilium_study::disclosure::Floor;
use consilium_study::document::{Draft, Study};
use consilium_study::hash::Hash;
use consilium_study::name::{PersonName, Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};
use consilium_study::statement::{Repeat, SiteTerms};
use consilium_study::weight::WeightRule;

use super::bench::{Bench, Crew, Desk};
use super::hospitals::Hospitals;
use super::hostile::Hostile;
use super::plain::{self, PlainSum};
use crate::demo::progress::{Plaintext, Round, Story};
use crate::study::WaitView;

/// What came out.
pub(crate) struct Simulation {
    /// The study as it was run.
    pub(crate) study: Study,
    /// Its rounds.
    pub(crate) rounds: Vec<Round>,
    /// The release.
    pub(crate) release: Release,
    /// The released file.
    pub(crate) released: Vec<u8>,
    /// What each hospital has in the local layers of the model at the end; none in a study without them.
    pub(crate) own: BTreeMap<SiteName, Vec<f32>>,
}

/// Models by hash of their file, shared between the engine and the sites.
#[derive(Clone)]
pub(super) struct Shelf {
    draft: Rc<Draft>,
    models: Rc<RefCell<BTreeMap<Hash, Arc<[f32]>>>>,
}

impl Shelf {
    fn new(draft: &Draft) -> Self {
        Self { draft: Rc::new(draft.clone()), models: Rc::default() }
    }

    pub(super) fn get(&self, model: &Hash) -> Option<Arc<[f32]>> {
        self.models.borrow().get(model).cloned()
    }

    /// The file of a model.
    fn file(&self, parameters: Vec<f32>) -> Vec<u8> {
        ModelFile { identity: self.draft.model_identity(), origin: None, model: parameters }.to_bytes()
    }
}

impl Models for Shelf {
    fn read(&self, model: &Hash) -> Option<Vec<f32>> {
        self.get(model).map(|parameters| parameters.to_vec())
    }

    fn write(&mut self, parameters: Vec<f32>) -> Hash {
        let kept = Arc::from(parameters.as_slice());
        let hash = Hash::of_bytes(&self.file(parameters));
        self.models.borrow_mut().insert(hash, kept);
        hash
    }
}

/// Runs a study to its release, from `start` or from weights drawn from the study's seed.
pub(crate) fn simulate(
    draft: Draft,
    start: Option<Vec<f32>>,
    hospitals: &Hospitals,
    crew: &Crew,
    hostile: Option<&Hostile>,
    plaintext: bool,
    story: &Story,
) -> anyhow::Result<Simulation> {
    check_that_rounds_can_end(&draft, hospitals)?;
    let mut shelf = Shelf::new(&draft);
    let first = shelf.write(start.unwrap_or_else(|| initial(&draft.model, draft.seed)));
    let study = draft.with_initial_model(first);
    story.tell(&format!(
        "{} sites, {} rounds, {} parameters; every sum is masked.",
        study.sites.len(),
        study.rounds.count,
        study.model.len()
    ));
    let bench = RefCell::new(Bench::new(&study, hospitals, crew, shelf.clone(), story));
    let mut federation = federation(&study, hospitals, shelf.clone())?;
    let mut watch = Watch::new(&study, hospitals, plaintext, story);
    let mut moment = 0;
    let release = federation.run(
        || {
            moment += 1;
            Timestamp::from_millis(moment)
        },
        |site| Desk { site: site.clone(), bench: &bench, hostile },
        |effect| watch.see(effect, &bench),
    );
    let release = match release {
        Ok(release) => release,
        Err(Stuck(waits)) => {
            story.clear();
            return Err(CannotGoOn(hindrance(&study, &federation.machine().status(), &waits)?).into());
        }
    };
    let rounds = watch.finish()?;
    let parameters = shelf.read(&release.model).context("the released model is one of this simulation's")?;
    let released = shelf.file(parameters);
    let own = bench.into_inner().own();
    Ok(Simulation { study, rounds, release, released, own })
}

/// Too few hospitals that can train would try for ever; a person can do something about it.
fn check_that_rounds_can_end(draft: &Draft, hospitals: &Hospitals) -> anyhow::Result<()> {
    let able = hospitals.values().flatten().filter(|hospital| !hospital.train.is_empty()).count();
    let honest = u16::try_from(draft.aggregation.min_honest).unwrap_or(u16::MAX);
    let enough =
        Thresholds::new(draft.sites.len(), able, honest).is_ok() && able >= draft.rounds.quorum as usize;
    if !enough {
        bail!(
            "{able} of {} sites have cases to train on, too few for a sum; lower data.minimum_cases, deal to fewer \
             sites (--sites) or choose another partition",
            draft.sites.len()
        );
    }
    Ok(())
}

/// A study that waits for what nobody here can bring.
#[derive(Debug, thiserror::Error)]
#[error("the study cannot go on; {0}")]
pub(crate) struct CannotGoOn(String);

/// What a study that cannot go on waits for, in the words of `study status`, and what helps.
fn hindrance(study: &Study, status: &StudyStatus, waits: &[Wait]) -> anyhow::Result<String> {
    let awaited = |wait| -> anyhow::Result<String> {
        let view: WaitView = serde_json::from_value(serde_json::to_value(wait)?)?;
        Ok(view.awaited(study.name.as_str()))
    };
    let awaited = waits.iter().map(awaited).collect::<anyhow::Result<Vec<_>>>()?;
    let mut text = format!("it waits for {}", awaited.join("; it waits for "));
    let missing = || status.sites.iter().filter_map(|site| site.missing.as_ref());
    for missing in missing() {
        text.push_str(&format!(". {} {missing}", missing.site));
    }
    if missing().any(|missing| missing.withdrawal == Some(Withdrawal::TrainingFailed)) {
        text.push_str(". Where numbers run away, a lower training.learning_rate helps");
        return Ok(text);
    }
    let is_evaluated = status.kind == Some(Kind::Evaluate);
    text.push_str(match study.evaluation.gate {
        Some(_) if is_evaluated => {
            ". With evaluation.gate a candidate that too few sites can evaluate is not adopted: leave the gate out, or have \
             more sites hold cases out (data.holdout, fewer --sites, another partition)"
        }
        _ => {
            ". Lower data.minimum_cases or rounds.quorum, deal to fewer sites (--sites) or choose another partition"
        }
    });
    Ok(text)
}

fn federation(study: &Study, hospitals: &Hospitals, shelf: Shelf) -> anyhow::Result<Federation<Shelf>> {
    let operator = Principal::Operator(PersonName::new("simulation").expect("this is a name"));
    let (person, coordinator) = (SigningKey::generate(), SigningKey::generate());
    let keys: BTreeMap<SiteName, SigningKey> =
        study.sites.iter().map(|site| (site.clone(), SigningKey::generate())).collect();
    let verifying: BTreeMap<_, _> =
        keys.iter().map(|(site, key)| (site.clone(), key.verifying_key())).collect();
    let roster: Vec<u8> =
        verifying.iter().flat_map(|(site, key)| format!("{site} {key}\n").into_bytes()).collect();
    let roster_hash = Hash::labelled("simulated-roster", &roster);
    let proposal = Proposal {
        study: Signed::seal(study, operator.clone(), &person),
        operator: (operator, person.verifying_key()),
        roster,
        roster_hash,
        keys: verifying.clone(),
        coordinator: coordinator.verifying_key(),
        timing: Timing::default(),
    };
    let proposed = StudyMachine::propose(proposal, Timestamp::from_millis(0))?;
    let key_of = |site: &SiteName| verifying.get(site).copied();
    let pin = study_pin(study, roster_hash, coordinator.verifying_key(), key_of)?;
    let terms = SiteTerms {
        min_honest: study.aggregation.min_honest,
        min_selection: 3,
        min_change: None,
        repeat: Repeat::Ask,
        exact_weights: study.aggregation.weight == WeightRule::Examples,
        groups: study.aggregation.groups.is_some(),
    };
    let sites = keys.into_iter().map(|(site, key)| {
        let weight = weight(study, hospitals, &site);
        LocalSite::new(site, key, study.clone(), pin.clone(), terms, weight)
    });
    Ok(Federation::new(proposed, coordinator, sites.collect(), shelf))
}

/// What a site counts, fixed from its acceptance on.
fn weight(study: &Study, hospitals: &Hospitals, site: &SiteName) -> u32 {
    let classes = study.model.classes();
    let cases = match hospitals.get(site) {
        Some(Ok(hospital)) => hospital.train.parts(study.data.task, classes),
        Some(Err(_)) | None => vec![0; classes],
    };
    study.aggregation.weight_of(&cases, Floor::LOWEST)
}

/// Tells what happens and keeps the rounds.
struct Watch<'a> {
    study: &'a Study,
    hospitals: &'a Hospitals,
    plaintext: bool,
    story: &'a Story,
    since: Instant,
    open: Option<Round>,
    /// What the sum of the open round has to be, and the hash of what it was.
    plain: Option<PlainSum>,
    opened: Option<Hash>,
    rounds: Vec<Round>,
    told: BTreeSet<String>,
    failure: Option<anyhow::Error>,
}

impl<'a> Watch<'a> {
    fn new(study: &'a Study, hospitals: &'a Hospitals, plaintext: bool, story: &'a Story) -> Self {
        Self {
            study,
            hospitals,
            plaintext,
            story,
            since: Instant::now(),
            open: None,
            plain: None,
            opened: None,
            rounds: Vec::new(),
            told: BTreeSet::new(),
            failure: None,
        }
    }

    fn see(&mut self, effect: &Effect, bench: &RefCell<Bench<'_>>) {
        match effect {
            Effect::Sum(job) if self.plaintext && job.context.purpose == Purpose::Train => {
                let bench = bench.borrow();
                let weight = |site: &SiteName| Some(weight(self.study, self.hospitals, site));
                self.plain = plain::average(self.study, job, |site| bench.update(site), weight);
            }
            Effect::Record(record) => {
                if let Record::Opened(sum) = &**record
                    && sum.purpose == Purpose::Train
                {
                    self.opened = Some(sum.aggregate);
                }
            }
            Effect::Notify(Notice::Line(line)) => {
                if let Err(error) = self.line(line, &mut bench.borrow_mut()) {
                    self.failure.get_or_insert(error);
                }
            }
            Effect::Notify(Notice::Abandoned { cause, .. }) => {
                self.story.tell(&format!("an attempt was given up and is made again: {cause}"));
            }
            Effect::Notify(Notice::Alarm(site)) => self.story.tell(&format!("{site} raised an alarm")),
            Effect::Sum(_)
            | Effect::DiscardUploads { .. }
            | Effect::Publish(_)
            | Effect::Refuse { .. }
            | Effect::RefuseAct(_)
            | Effect::Notify(Notice::State(_) | Notice::ReleaseLate) => {}
        }
    }

    /// A line of the engine, with this machine's time in place of the engine's.
    fn line(&mut self, line: &RoundLine, bench: &mut Bench<'_>) -> anyhow::Result<()> {
        self.absences(line);
        let took = std::mem::replace(&mut self.since, Instant::now()).elapsed();
        let busy = bench.take_busy();
        let mut value = serde_json::to_value(line)?;
        value["seconds"] = took.as_secs_f64().into();
        value["overhead_seconds"] = took.saturating_sub(busy).as_secs_f64().into();
        if let Some(round) = Round::of_training(&value) {
            self.open = Some(round);
        } else if self.open.as_mut().is_some_and(|round| round.conclude(&value)) {
            let mut round = self.open.take().context("a round was just concluded")?;
            if let Some(plain) = self.plain.take() {
                let identical = self.opened.take() == Some(plain.aggregate);
                round.plaintext = Some(Plaintext { relative_error: plain.relative_error, identical });
            }
            self.story.round(&round, self.study.rounds.count)?;
            self.rounds.push(round);
        }
        Ok(())
    }

    /// Who is missing and why, said once: the same site misses every round for the same reason.
    fn absences(&mut self, line: &RoundLine) {
        let verb = match line.kind {
            Kind::Train => "trains",
            Kind::Evaluate | Kind::Statistics => "evaluates",
        };
        for missing in &line.missing {
            // Whoever was at work when an attempt was given up did nothing wrong.
            if missing.dropout == Dropout::Unfinished {
                continue;
            }
            let sentence = format!("{} is missing where the federation {verb}: {missing}", missing.site);
            if self.told.insert(sentence.clone()) {
                self.story.tell(&sentence);
            }
        }
    }

    fn finish(self) -> anyhow::Result<Vec<Round>> {
        self.story.clear();
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.rounds),
        }
    }
}
