//! Between attempts: waiting for a Selection, and beginning an attempt with it.

use std::collections::{BTreeMap, BTreeSet};

use consilium_secagg::context::{Context, ContextFields, PROTOCOL_VERSION, Purpose, Selection};
use consilium_secagg::coordinator::CollectMasked;
use consilium_secagg::layout::CHUNK_WORDS;
use consilium_secagg::numbering::Attempt;
use consilium_study::hash::Hash;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey};

use super::draw::{Draw, can_split};
use super::run::{Gathering, Life, Live, Member, OpenedSet, Phase, Run, Stage, Step, UploadState};
use super::select::{Rules, Selected, Shortage, select};
use super::sites::{RestAfter, Standing, Summed};
use super::{Effects, StudyMachine};
use crate::message::Binding;
use crate::reason::Unevaluated;
use crate::record::Record;
use crate::time::Timestamp;
use crate::vector::{evaluate_layout, train_layout};

impl StudyMachine {
    /// Tries to begin an attempt. Returns whether anything changed.
    pub(super) fn gather(
        &mut self,
        gathering: &Gathering,
        now: Timestamp,
        key: &SigningKey,
        effects: &mut Effects,
    ) -> bool {
        if self.rest_the_hidden(now) {
            return true;
        }
        if self.epoch_is_due(now) {
            self.open_epoch(now, key, effects);
            return true;
        }
        if self.rest_the_hopeless(now) {
            return true;
        }
        match self.choose(now) {
            Ok(selected) => {
                let wait = gathering.not_before > now
                    || !self.awaited(&selected.sites, now).is_empty()
                    || matches!(self.draw(), Draw::Called);
                if !wait {
                    match self.draw() {
                        Draw::Due(_) => self.call_draw(&selected, now, key),
                        _ => self.begin(&selected, gathering, now, key, effects),
                    }
                }
                !wait
            }
            Err(_) if self.gives_up_evaluation(gathering, now) => {
                self.conclude_unevaluated(Unevaluated::NoQuorum, now, effects);
                true
            }
            Err(_) => false,
        }
    }

    /// A candidate that nobody can evaluate may be adopted when the study's patience ends.
    fn gives_up_evaluation(&self, gathering: &Gathering, now: Timestamp) -> bool {
        let evaluating = self.run().is_some_and(|run| matches!(run.step, Step::Evaluate { .. }));
        let patience = gathering.since.after_human(self.study.rounds.evaluate_timeout);
        evaluating && self.may_go_unseen() && now >= patience
    }

    /// The Selection that could begin now. Without those who left this step before, if that costs no one else and the
    /// study can do without them; or else with them.
    pub(super) fn choose(&self, now: Timestamp) -> Result<Selected, Shortage> {
        let everyone = self.choose_among(now, |_| true)?;
        let Some(unwilling) = self.unwilling() else { return Ok(everyone) };
        let required = &self.study.rounds.required;
        let others = self.choose_among(now, |site| !unwilling.contains(site) || required.contains(site));
        let costs_nobody =
            |others: &Selected| everyone.sites.difference(&others.sites).all(|site| unwilling.contains(site));
        Ok(others.ok().filter(costs_nobody).unwrap_or(everyone))
    }

    /// Who left this step before, for a reason that lasts.
    pub(super) fn unwilling(&self) -> Option<&BTreeSet<SiteName>> {
        match &self.run()?.stage {
            Stage::Gathering(Gathering { given_up, .. }) => {
                Some(&given_up.unwilling).filter(|unwilling| !unwilling.is_empty())
            }
            Stage::Attempt(_) | Stage::Summing(_) => None,
        }
    }

    fn choose_among(&self, now: Timestamp, may_be: impl Fn(&SiteName) -> bool) -> Result<Selected, Shortage> {
        let draw = self.draw();
        let mut ready: BTreeSet<SiteName> = self.ready(now).filter(|site| may_be(site)).cloned().collect();
        let set = self.binding(|site| ready.contains(site));
        let epoch = self.epoch.as_ref().map(|epoch| epoch.opening.epoch.get());
        if !matches!(draw, Draw::None) && set.is_some_and(|set| Some(set.epoch) != epoch) {
            return Err(Shortage::Regrouped);
        }
        let here = ready.len() as u32;
        if let Draw::Drawn(_, drawn) = draw {
            ready = self.in_whole_groups(drawn, &ready);
        }
        let selected = self.select_from(&ready)?;
        let whole = match draw {
            Draw::None | Draw::Called => true,
            Draw::Due(groups) => can_split(groups, selected.sites.len(), &selected),
            Draw::Drawn(groups, drawn) => {
                let present: BTreeSet<_> =
                    selected.sites.iter().filter_map(|site| drawn.group_of(site)).collect();
                // Whoever asks for more than at the draw, asks it of the same groups.
                groups.trimmed(present.len()).is_some()
                    && can_split(groups, drawn.participants().count(), &selected)
            }
        };
        let groups = self.study.aggregation.groups.map_or(1, |groups| groups.count);
        if whole { Ok(selected) } else { Err(Shortage::TooFewGroups { ready: here, groups }) }
    }

    /// What could be selected if groups had not been drawn yet.
    pub(super) fn choose_undrawn(&self, now: Timestamp) -> Result<Selected, Shortage> {
        self.select_from(&self.ready(now).cloned().collect())
    }

    /// Sites that can be asked for the next sum.
    fn ready(&self, now: Timestamp) -> impl Iterator<Item = &SiteName> {
        let summed = self.next_sum();
        self.available(now).filter(move |site| summed.is_none() || self.sites[*site].bound != summed)
    }

    fn select_from(&self, ready: &BTreeSet<SiteName>) -> Result<Selected, Shortage> {
        let ready: BTreeMap<_, _> = ready
            .iter()
            .filter_map(|site| Some((site.clone(), self.sites[site].accepted()?.terms)))
            .collect();
        let epoch = self.epoch.as_ref();
        let bound = self.bound_set(|site| ready.contains_key(site));
        let number = epoch.map_or(0, |epoch| epoch.opening.epoch.get());
        let earlier: Vec<_> =
            self.opened.iter().filter(|set| set.epoch == number).map(|set| set.survivors.clone()).collect();
        let rules = Rules {
            roster: self.study.sites.len(),
            quorum: self.study.rounds.quorum as usize,
            min_honest: self.study.aggregation.min_honest,
            required: &self.study.rounds.required,
            bound: bound.as_ref(),
            earlier: &earlier,
        };
        select(&ready, |one, other| epoch.is_some_and(|epoch| epoch.has_settled(one, other)), &rules)
    }

    /// The survivors that the repeat rule demands for the next attempt, guilty dealers left out; none when
    /// nothing was opened for its model and purpose, or everyone here who was in it allows another set or is not bound.
    fn bound_set(&self, is_ready: impl Fn(&SiteName) -> bool) -> Option<BTreeSet<SiteName>> {
        let set = self.binding(is_ready)?;
        // A set less exactly the guilty counts as the same.
        let innocent = |site: &&SiteName| self.sites[*site].standing != Standing::Guilty;
        Some(set.survivors.iter().filter(innocent).cloned().collect())
    }

    /// The latest survivors that bind someone who is ready.
    fn binding(&self, is_ready: impl Fn(&SiteName) -> bool) -> Option<&OpenedSet> {
        let Summed { purpose, model, baseline } = self.next_sum()?;
        self.opened.iter().rev().find(|set| {
            set.is_opened_by(purpose, model, baseline)
                && set.selected.iter().any(|site| is_ready(site) && !set.freed.contains(site))
        })
    }

    /// What members of an earlier sum are asked, and who has not answered: of a sum in this study while others of it
    /// are missing and not expected back, or of one in another study while too few are left without them.
    pub(super) fn question(&self) -> Option<(Binding, BTreeSet<&SiteName>)> {
        let Life::Running(Run { stage: Stage::Gathering(_), .. }) = &self.life else { return None };
        if !self.latecomers(&BTreeSet::new(), self.clock).is_empty() {
            return None;
        }
        let shortage = self.choose(self.clock).err()?;
        let summed @ Summed { purpose, model, baseline } = self.next_sum()?;
        let (survivors, asked) = if let Shortage::Bound { .. } | Shortage::Regrouped = shortage {
            let ready: BTreeSet<_> = self.available(self.clock).collect();
            let set = self.binding(|site| ready.contains(site))?;
            (set.survivors.iter().cloned().collect(), set.selected.difference(&set.freed).collect())
        } else {
            let bound = self.sites.iter().filter(|(_, record)| record.bound == Some(summed));
            // Which they were is written in their own books.
            (Vec::new(), bound.map(|(site, _)| site).collect::<BTreeSet<_>>())
        };
        (!asked.is_empty()).then_some((Binding { model, purpose, baseline, survivors }, asked))
    }

    /// What the next attempt opens.
    pub(super) fn next_sum(&self) -> Option<Summed> {
        let run = self.run()?;
        let (purpose, model, baseline) = (run.step.purpose(), self.next_model(run), self.next_baseline(run));
        Some(Summed { purpose, model, baseline })
    }

    /// The model that the next context names.
    fn next_model(&self, run: &Run) -> Hash {
        match &run.step {
            Step::Train(_) => self.model,
            Step::Evaluate { trained, .. } => trained.candidate,
        }
    }

    /// The model that the next context compares with.
    fn next_baseline(&self, run: &Run) -> Option<Hash> {
        match &run.step {
            Step::Train(_) => None,
            // A candidate that equals its starting model has nothing to be compared with.
            Step::Evaluate { trained, .. } => Some(self.model).filter(|start| *start != trained.candidate),
        }
    }

    /// Sites that a Selection which could begin still waits for.
    pub(super) fn awaited(
        &self,
        selected: &BTreeSet<SiteName>,
        now: Timestamp,
    ) -> BTreeMap<SiteName, Timestamp> {
        let mut late = self.latecomers(selected, now);
        if let Some(unwilling) = self.unwilling() {
            late.retain(|site, _| !unwilling.contains(site));
        }
        late
    }

    /// Sites that will probably be ready soon: their connection broke a moment ago, or they are settling keys.
    /// Each with the moment until which it is waited for.
    pub(super) fn latecomers(
        &self,
        selected: &BTreeSet<SiteName>,
        now: Timestamp,
    ) -> BTreeMap<SiteName, Timestamp> {
        let unsettled = self.unsettled(now);
        let settling = self.epoch.iter().flat_map(|epoch| {
            unsettled.iter().map(|site| {
                let since = self.settling_since(site, epoch);
                (site.clone(), since.after_human(self.study.rounds.setup_timeout))
            })
        });
        let returning = self
            .sites
            .iter()
            .filter_map(|(site, record)| Some((site.clone(), record.expected_back(&self.timing)?)));
        let bound = self.bound_set(|site| selected.contains(site));
        settling
            .chain(returning)
            .filter(|(site, until)| *until > now && !selected.contains(site))
            .filter(|(site, _)| bound.as_ref().is_none_or(|bound| bound.contains(site)))
            .collect()
    }

    /// Leaves sites alone that had an epoch from its beginning and could not settle.
    fn rest_the_hopeless(&mut self, now: Timestamp) -> bool {
        let Some(epoch) = &self.epoch else { return false };
        let patience = self.study.rounds.setup_timeout;
        let hopeless: Vec<_> = self
            .unsettled(now)
            .into_iter()
            .filter(|site| self.settling_since(site, epoch).after_human(patience) <= now)
            .collect();
        for site in &hopeless {
            let timing = self.timing;
            if let Some(record) = self.sites.get_mut(site) {
                record.rest(RestAfter::Setup, now, &timing);
            }
        }
        !hopeless.is_empty()
    }

    fn begin(
        &mut self,
        selected: &Selected,
        gathering: &Gathering,
        now: Timestamp,
        key: &SigningKey,
        effects: &mut Effects,
    ) {
        if self.run().is_some_and(|run| matches!(run.step, Step::Train(_))) {
            self.begin_variates_anew();
        }
        let (Some(run), Some(epoch)) = (self.run(), &self.epoch) else { return };
        let adverts = selected.sites.iter().map(|site| {
            (site.clone(), epoch.setup.advert(site).expect("who has settled its pairs has advertised"))
        });
        let selection = Selection::new(adverts).expect("a Selection with thresholds has 3 to 200 sites");
        let model = self.next_model(run);
        let baseline = self.next_baseline(run);
        let layout = match run.step {
            Step::Train(_) => {
                train_layout(&self.study, &self.ranges).expect("a proposal was pinned when it was taken up")
            }
            Step::Evaluate { .. } => evaluate_layout(&self.study),
        };
        let pin = self.pin();
        let fields = ContextFields {
            version: PROTOCOL_VERSION,
            study: pin.study,
            roster: pin.roster,
            epoch: epoch.opening.epoch,
            round: run.step.round(),
            attempt: Attempt::new(self.next_attempt).expect("attempts are numbered from 1"),
            purpose: run.step.purpose(),
            model,
            baseline,
            groups: pin.groups_of(run.step.purpose()),
            grouping: match self.draw() {
                Draw::Drawn(_, drawn) => drawn.grouping(&selection),
                Draw::None | Draw::Due(_) | Draw::Called => None,
            },
            thresholds: selected.thresholds,
            ring_bits: layout.ring().bits(),
            layout,
            chunk_words: CHUNK_WORDS as u32,
            clip_norm: pin.clip_norm,
            weight_cap: pin.weight_cap,
            noise: pin.noise,
            control: match run.step {
                Step::Train(_) => self.control.as_ref().map(|control| control.named(&selection)),
                Step::Evaluate { .. } => None,
            },
            selection,
        };
        let context = Context::new(fields).expect("a proposal was checked when it was taken up");
        let signed = Signed::seal(&context, Principal::Coordinator, key);
        let phase =
            CollectMasked::new(&pin, &signed, self.guilty()).expect("our own context fits our own study");
        let member = |site: &SiteName| Member {
            progressed: now,
            progress: None,
            upload: UploadState::Awaited,
            busy_ms: 0,
            weight: self.sites[site].weight(),
        };
        let live = Live {
            signed: signed.clone(),
            ctx: context.hash(),
            context,
            begun: now,
            needed: selected.needed as u32,
            given_up: gathering.given_up.clone(),
            members: selected.sites.iter().map(|site| (site.clone(), member(site))).collect(),
            phase: Phase::Collect(phase),
            bytes_up: 0,
            bytes_down: 0,
        };
        self.next_attempt += 1;
        if let Some(run) = self.run_mut() {
            run.stage = Stage::Attempt(Box::new(live));
        }
        effects.record(Record::Context(signed));
    }

    /// Survivors count as signed from now on.
    pub(super) fn remember_opened(&mut self, context: &Context, survivors: BTreeSet<SiteName>) {
        self.opened.push(OpenedSet {
            model: context.model,
            purpose: context.purpose,
            epoch: context.epoch.get(),
            survivors,
            baseline: context.baseline,
            selected: context.selection.members().iter().map(|member| member.site.clone()).collect(),
            freed: BTreeSet::new(),
        });
    }

    /// Forgets opened sets that can bind no more: of models that will never be started from again, and of
    /// earlier epochs.
    pub(super) fn forget_opened(&mut self) {
        let epoch = self.epoch.as_ref().map_or(0, |epoch| epoch.opening.epoch.get());
        let changes_matter = self
            .sites
            .values()
            .any(|record| record.accepted().is_some_and(|accepted| accepted.terms.min_change.is_some()));
        let model = self.model;
        self.opened.retain(|set| {
            let starts = set.purpose == Purpose::Train && set.model == model;
            starts || set.baseline == Some(model) || (changes_matter && set.epoch == epoch)
        });
    }
}
