//! Control variates: SCAFFOLD over flat vectors (Karimireddy et al. 2020, algorithm 1, option II).
//!
//! Each site adds `c - cᵢ` to every gradient: `cᵢ` is its control variate, the mean gradient of a round of its own, and `c` the
//! weighted mean of all sites'. All make equally many plain steps, whose learning rates add up to `R` (the paper's `K·η`), so
//! an update `Δᵢ` says what that mean gradient was, `-Δᵢ/R - (c - cᵢ)`, and that is the next `cᵢ`.
//!
//! *What is summed*: updates, as under FedAvg, and nothing more. The paper sends the changes of the variates beside the
//! updates; but they follow from these, and their mean from the mean update, so `c` is brought forward by the opened sum alone:
//! `c' = (1 - s)·c - s·mean/R`, where `s` is the share that the sites of this sum have of all in `c`.
//! *What it sees*: the mean update and `c`, never a `cᵢ`: that stays at its site.
//!
//! We deviate from the paper in three things. Sites count by their weights, as updates do. A site takes the update that was
//! summed, clipped and quantised, not the one it trained: so `c` stays the mean of all `cᵢ` up to rounding, which the fixed
//! point depends on. And `c` is the mean of the sites that have trained until now: a site begins with `cᵢ = c` in place of 0, so
//! that its first round is one of FedAvg, and one that never comes takes no part.
//!
//! The mean is only of use while every site takes the `cᵢ` that is in it. Adopting a model adopts the `c` beside it, refusing
//! one leaves the older, and the context names, for each member, the attempt of its variate that is in `c` ([`Variates`]).

mod own;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use consilium_secagg::context::Selection;
use consilium_secagg::control::{Control, Counted};
use consilium_secagg::numbering::{Attempt, RoundNumber};
use consilium_study::document::Study;
use consilium_study::graph::{ModelGraph, ParameterSpec, Treatment};
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use minicbor::{Decode, Encode};

pub use self::own::{Before, NoVariate, OwnVariate};

/// The mean beside a model, and whose variates are in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Controlled {
    /// The file with the mean, in the form of a model.
    #[n(0)]
    pub mean: Hash,
    /// Whose variates.
    #[n(1)]
    pub variates: Variates,
}

impl Controlled {
    /// What a context with this Selection says of it.
    pub fn named(&self, selection: &Selection) -> Control {
        let counted = selection.members().iter().filter_map(|member| {
            let attempt = self.variates.0.get(&member.site)?.attempt;
            Some(Counted { site: member.index, attempt })
        });
        Control { mean: self.mean, counted: counted.collect() }
    }
}

/// The variates in a mean: of each site that has trained the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Variates(#[n(0)] BTreeMap<SiteName, Variate>);

/// One site's variate in a mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Variate {
    /// The attempt that the site trained it in.
    #[n(0)]
    pub attempt: Attempt,
    /// What the site counts.
    #[n(1)]
    pub weight: u32,
}

impl Variates {
    /// After the sum of an attempt with these sites and their weights: theirs are new.
    #[must_use]
    pub fn after(mut self, attempt: Attempt, sites: impl IntoIterator<Item = (SiteName, u32)>) -> Self {
        self.0.extend(sites.into_iter().map(|(site, weight)| (site, Variate { attempt, weight })));
        self
    }

    /// The share by weight of those that were trained in this attempt; above 0 where there are any, at most 1.
    pub fn share(&self, attempt: Attempt) -> f64 {
        let weight = |of: &dyn Fn(&Variate) -> bool| -> u64 {
            self.0.values().filter(|variate| of(variate)).map(|variate| u64::from(variate.weight)).sum()
        };
        weight(&|variate| variate.attempt == attempt) as f64 / weight(&|_| true).max(1) as f64
    }
}

/// `R`: what the learning rates of a round's steps add up to.
///
/// # Panics
/// In a study without control variates that trains for epochs.
pub fn reach(study: &Study, round: RoundNumber) -> f64 {
    let reach = study.training.reach(round.get() - 1, study.rounds.count);
    reach.expect("the check of a study admits control variates with `steps` only")
}

/// Whether a block's steps are corrected: it is trained, and its updates are summed.
fn is_controlled(block: &ParameterSpec) -> bool {
    block.treatment() == Treatment::Averaged && block.is_trainable()
}

/// What a site adds to each gradient, `c - cᵢ`, rounded to `f32`; 0 where nothing is controlled. `mean` and the result have
/// shape `[params]`, `own` is a variate as [`own_after`] makes it; without one the site begins with `c`.
pub fn correction(graph: &ModelGraph, mean: &[f32], own: Option<&[f32]>) -> Vec<f32> {
    let mut correction = vec![0.0; graph.len()];
    let Some(mut own) = own else { return correction };
    for block in graph.averaged() {
        let (part, rest) = own.split_at(block.len());
        own = rest;
        if is_controlled(block) {
            let pairs = mean[block.range()].iter().zip(part);
            for (entry, (mean, own)) in correction[block.range()].iter_mut().zip(pairs) {
                *entry = mean - own;
            }
        }
    }
    correction
}

/// A site's variate after a round with this `correction`, shape `[params]`, of which the update `sent` was summed: entries of
/// the averaged blocks in their order, as the variate has them. `-Δ/R - correction` in `f64`, rounded to `f32`.
pub fn own_after(graph: &ModelGraph, reach: f64, correction: Option<&[f32]>, mut sent: &[f32]) -> Vec<f32> {
    let mut own = Vec::with_capacity(sent.len());
    for block in graph.averaged() {
        let (part, rest) = sent.split_at(block.len());
        sent = rest;
        if !is_controlled(block) {
            own.resize(own.len() + block.len(), 0.0);
            continue;
        }
        let correction = correction.map(|correction| &correction[block.range()]);
        own.extend(part.iter().enumerate().map(|(entry, sent)| {
            let corrected = correction.map_or(0.0, |correction| f64::from(correction[entry]));
            (-f64::from(*sent) / reach - corrected) as f32
        }));
    }
    own
}

/// One block of `c` after a sum with this `mean`: `(1 - s)·c - s·(mean/R)`, each operation in `f64`, rounded to `f32`; 0 where
/// nothing is controlled. `before` is the block of `c` before, 0 where there was none.
pub fn next_mean(
    block: &ParameterSpec,
    share: f64,
    reach: f64,
    before: Option<&[f32]>,
    mean: &[f32],
) -> Vec<f32> {
    if !is_controlled(block) {
        return vec![0.0; block.len()];
    }
    let before = |entry: usize| before.map_or(0.0, |before| f64::from(before[entry]));
    let next = |(entry, mean): (usize, &f32)| {
        ((1.0 - share) * before(entry) - share * (f64::from(*mean) / reach)) as f32
    };
    mean.iter().enumerate().map(next).collect()
}

/// How `c` went from one model to the next, for whoever has the files and not the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// `s`.
    pub share: f64,
    /// `R`.
    pub reach: f64,
    /// The strategy's server learning rate.
    pub server_rate: f64,
}

/// The first entry in which `after` is not what a sum leads to that made `candidate` of `start`; all have shape `[params]`, and
/// `before` is absent where `c` begins. The candidate says what the mean update was, up to its own rounding, so an entry may be
/// off by as much as a last place of the candidate's and of its own make.
pub fn strays(
    graph: &ModelGraph,
    step: Step,
    (start, candidate): (&[f32], &[f32]),
    before: Option<&[f32]>,
    after: &[f32],
) -> Option<usize> {
    let Step { share, reach, server_rate } = step;
    let place = |value: f32| f64::from(value.abs().next_up()) - f64::from(value.abs());
    let is_astray = |block: &ParameterSpec, entry: usize| {
        if !is_controlled(block) {
            return after[entry] != 0.0;
        }
        let before = before.map_or(0.0, |before| f64::from(before[entry]));
        let mean = (f64::from(candidate[entry]) - f64::from(start[entry])) / server_rate;
        let expected = (1.0 - share) * before - share * (mean / reach);
        let most = place(after[entry]) + share * place(candidate[entry]) / (server_rate * reach);
        let off = (f64::from(after[entry]) - expected).abs();
        off.is_nan() || off > most
    };
    graph.parameters().iter().find_map(|block| block.range().find(|entry| is_astray(block, *entry)))
}
