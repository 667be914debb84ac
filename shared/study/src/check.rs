//! The rules of a study that concern more than one field, and the limits that keep a hostile study small.
//!
//! A problem names the key as it stands in the file, says why the value cannot be, and what to write
//! instead. All problems are found in one pass, so that a file is not mended line by line over an afternoon.

mod inputs;
mod notes;
mod pictures;
mod tasks;

use std::fmt;

pub use self::notes::{Note, notes};
pub use self::pictures::{MAX_DEPTH, MAX_SIDE, MAX_VOLUME, Unreadable, readable};
use crate::augment::Augment;
use crate::document::{
    CHUNK, Evaluation, FORMAT, PACKED_RING_BITS, Plan, RING_BITS, Rounds, colluders, least_honest,
};
use crate::grouping::{Combine, Groups, MIN_GROUPS};
use crate::quantity::HumanDuration;
use crate::recipe::Optimiser;
use crate::task::Task;
use crate::weight::WeightRule;

/// Fewest sites: with two, the sum and one's own update give the other's.
pub const MIN_SITES: usize = 3;
/// Most sites.
pub const MAX_SITES: usize = 200;
/// Most classes.
pub const MAX_LABELS: usize = 64;
/// Most inputs of a row, be it the case or beside a picture.
pub const MAX_INPUTS: usize = 1024;
/// Most `Train` rounds.
pub const MAX_ROUNDS: u32 = 10_000;
/// Most bins of a score histogram.
pub const MAX_BINS: u32 = 256;
/// Most attempts of one epoch of keys.
pub const MAX_ATTEMPTS_PER_EPOCH: u32 = 100;
/// Largest weight, so that the sum over the most sites fits the ring.
pub const MAX_WEIGHT_CAP: u32 = 1 << 20;
/// Longest title and label, in characters.
const MAX_TITLE: usize = 200;
const MAX_LABEL: usize = 64;

/// Largest mean gradient that may be read off an update, so that control variates and what follows from them are finite.
const LARGEST_GRADIENT: f64 = 1e18;

const SECOND: u64 = 1000;
const DAY: u64 = 24 * 60 * 60 * SECOND;

/// One rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    key: &'static str,
    why: String,
    instead: String,
}

impl Problem {
    /// The key in `study.toml`, with its section.
    pub const fn key(&self) -> &'static str {
        self.key
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.why, self.instead)
    }
}

pub(crate) fn listing(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Collects what is wrong.
#[derive(Default)]
struct Findings(Vec<Problem>);

impl Findings {
    fn require(
        &mut self,
        holds: bool,
        key: &'static str,
        why: impl FnOnce() -> String,
        instead: impl Into<String>,
    ) {
        if !holds {
            self.0.push(Problem { key, why: why(), instead: instead.into() });
        }
    }

    fn between(&mut self, key: &'static str, value: u64, least: u64, most: u64) {
        self.require(
            (least..=most).contains(&value),
            key,
            || format!("{value} is out of range"),
            format!("write a number from {least} to {most}"),
        );
    }

    fn lasts(&mut self, key: &'static str, value: HumanDuration, most: u64, most_text: &str) {
        self.require(
            (SECOND..=most).contains(&value.as_millis()),
            key,
            || format!("{value} is out of range"),
            format!("write a duration from \"1s\" to \"{most_text}\""),
        );
    }

    fn text(&mut self, key: &'static str, text: &str, most: usize) {
        let fits = !text.is_empty() && text.chars().count() <= most;
        let clean = text.trim() == text && !text.chars().any(char::is_control);
        self.require(
            fits && clean,
            key,
            || "a text that is empty, too long, or has blanks around it or control characters in it".into(),
            format!("write one line of 1 to {most} characters"),
        );
    }
}

/// Every rule that does not hold for `plan`.
pub fn problems(plan: &Plan) -> Vec<Problem> {
    let mut findings = Findings::default();
    let f = &mut findings;
    f.require(
        plan.format == FORMAT,
        "format",
        || format!("this program reads format {FORMAT}, not {}", plan.format),
        format!("write format = {FORMAT}, or use the release that wrote the file"),
    );
    f.text("title", &plan.title, MAX_TITLE);
    // TOML has no larger integers, so a larger seed could not be written down again.
    f.between("seed", plan.seed, 0, i64::MAX as u64);
    sites(plan, f);
    data(plan, f);
    model(plan, f);
    rounds(plan, &plan.rounds, f);
    aggregation(plan, f);
    evaluation(&plan.evaluation, f);
    tasks::rules(plan, f);
    findings.0
}

fn ascending<T: Ord>(list: &[T]) -> bool {
    list.is_sorted_by(|a, b| a < b)
}

fn sites(plan: &Plan, f: &mut Findings) {
    let count = plan.sites.len();
    f.require(
        (MIN_SITES..=MAX_SITES).contains(&count),
        "sites",
        || format!("{count} sites; among fewer than {MIN_SITES} a sum hides nobody"),
        format!("name {MIN_SITES} to {MAX_SITES} sites"),
    );
    f.require(
        ascending(&plan.sites),
        "sites",
        || "a site is named twice, or signed names are out of order".into(),
        "name each site once",
    );
}

fn data(plan: &Plan, f: &mut Findings) {
    let data = &plan.data;
    if data.task == Task::Regression {
        f.between("data.labels", data.labels.len() as u64, 1, 1);
    } else {
        f.between("data.labels", data.labels.len() as u64, 2, MAX_LABELS as u64);
    }
    for label in data.labels.iter().take(MAX_LABELS) {
        f.text("data.labels", label, MAX_LABEL);
    }
    if data.task == Task::MultiLabel {
        tasks::findings(&data.labels, f);
    }
    let mut labels: Vec<&String> = data.labels.iter().collect();
    labels.sort();
    f.require(
        ascending(&labels),
        "data.labels",
        || "a label is named twice".into(),
        "give each class its own name",
    );
    inputs::rules(data, f);
    pictures::rules(data, f);
    let plain_zero = |value: f64| value != 0.0 || value.is_sign_positive();
    f.require(
        data.mean.abs() <= 100.0 && plain_zero(data.mean),
        "data.mean",
        || format!("{} is no mean of pixel values, which lie between 0 and 1", data.mean),
        "write the mean over the training images, for example 0.5",
    );
    f.require(
        (1e-6..=100.0).contains(&data.std),
        "data.std",
        || format!("{} is no standard deviation of pixel values, which lie between 0 and 1", data.std),
        "write the standard deviation over the training images, for example 0.25",
    );
    f.require(
        data.holdout.get() <= 0.5,
        "data.holdout",
        || format!("with {} of the patients held out, fewer are left to train on", data.holdout),
        "write a share from 0 to 0.5, for example 0.2",
    );
    f.between("data.minimum_cases", data.minimum_cases.into(), 1, 1_000_000);
}

fn model(plan: &Plan, f: &mut Findings) {
    let augment = plan.training.augment();
    let of_numbers = Augment { noise: augment.noise, mixup: augment.mixup, ..Augment::default() };
    f.require(
        plan.data.inputs.is_none() || augment == of_numbers,
        "training.augment",
        || "rows of a table have no sides to mirror, shift or turn, and no brightness".into(),
        "keep `noise` and `mixup` at most",
    );
    let case = plan.data.case();
    f.require(
        plan.model.case() == case,
        "model",
        || format!("the graph takes cases that are {}, the data has {case}", plan.model.case()),
        "make the graph for the sides and channels under [data]",
    );
    let columns = plan.data.model_input().columns as usize;
    f.require(
        plan.model.columns() == columns,
        "model",
        || format!("the graph reads {} numbers beside a case, the data has {columns}", plan.model.columns()),
        "make the graph for the inputs under [data]",
    );
    f.require(
        plan.model.classes() == plan.classes() || plan.data.labels.is_empty(),
        "model",
        || format!("the graph scores {} classes for {} labels", plan.model.classes(), plan.classes()),
        "let the last layer have one output per label",
    );
    if let Err(error) = plan.training.check(&plan.model) {
        f.require(false, "training", || error.to_string(), "change the recipe or the model");
    }
}

fn rounds(plan: &Plan, rounds: &Rounds, f: &mut Findings) {
    let sites = plan.sites.len() as u64;
    f.between("rounds.count", rounds.count.into(), 1, MAX_ROUNDS.into());
    if let Some(patience) = rounds.patience {
        f.between("rounds.patience", patience.into(), 1, MAX_ROUNDS.into());
    }
    f.between("rounds.quorum", rounds.quorum.into(), MIN_SITES as u64, sites.max(MIN_SITES as u64));
    f.require(
        ascending(&rounds.required),
        "rounds.required",
        || "a site is named twice, or signed names are out of order".into(),
        "name each site once",
    );
    if let Some(stranger) = rounds.required.iter().find(|site| plan.sites.binary_search(site).is_err()) {
        f.require(
            false,
            "rounds.required",
            || format!("\"{stranger}\" is not among the sites of the study"),
            "name only sites from `sites`, or add it there",
        );
    }
    f.lasts("rounds.collect_timeout", rounds.collect_timeout, 30 * DAY, "30days");
    f.lasts("rounds.evaluate_timeout", rounds.evaluate_timeout, 30 * DAY, "30days");
    // Secret keys of a setup are erased after a day, so a longer wait could not succeed.
    f.lasts("rounds.setup_timeout", rounds.setup_timeout, DAY, "1day");
    f.between(
        "rounds.attempts_per_epoch",
        rounds.attempts_per_epoch.into(),
        1,
        MAX_ATTEMPTS_PER_EPOCH.into(),
    );
    pull(plan, f);
    if rounds.strategy.keeps_control() {
        control(plan, f);
    }
}

/// What a control variate can be read off: the sum of plain steps, as many at every site, in a mean of all updates.
fn control(plan: &Plan, f: &mut Findings) {
    let training = &plan.training;
    f.require(
        training.optimiser() == Optimiser::Sgd { momentum: 0.0 },
        "training.optimiser",
        || "the control variates of \"scaffold\" are the mean gradients of plain steps, and other optimisers do not go along gradients".into(),
        "write optimiser = \"sgd\" without momentum, or another strategy",
    );
    let Some(reach) = training.reach(plan.rounds.count.saturating_sub(1), plan.rounds.count) else {
        return f.require(
            false,
            "training.steps",
            || "\"scaffold\" compares sites that make equally many steps in a round, and with `epochs` the larger make more".into(),
            "write `steps` in place of `epochs`, for example steps = 20",
        );
    };
    f.require(
        plan.aggregation.longest_mean() / reach <= LARGEST_GRADIENT,
        "training.learning_rate",
        || {
            format!(
                "in round {} the learning rates of all steps add up to {reach:e}, and \"scaffold\" divides updates by that",
                plan.rounds.count
            )
        },
        "write a larger one, or a schedule that shrinks it less",
    );
    f.require(
        plan.aggregation.groups.is_none(),
        "aggregation.groups",
        || "the control variates of \"scaffold\" add up to their mean only where updates do".into(),
        "leave groups out, or write another strategy",
    );
}

/// Along a curvature of `mu` gradient descent stays in bounds up to a rate of `2 / mu`, with heavy-ball momentum
/// `2 (1 + momentum) / mu` (Polyak 1964). A schedule only lowers the rate. Steps of Adam have a length of their own.
fn pull(plan: &Plan, f: &mut Findings) {
    let Optimiser::Sgd { momentum } = plan.training.optimiser() else { return };
    let (mu, rate) = (plan.rounds.strategy.proximal_weight(), plan.training.learning_rate());
    let most = 2.0 * (1.0 + momentum);
    if mu * rate > most {
        // Half of what is allowed is well clear of its edge.
        let (gentle_mu, gentle_rate) = (two_digits(most / rate / 2.0), two_digits(most / mu / 2.0));
        f.require(
            false,
            "rounds.strategy.mu",
            || {
                format!(
                    "mu = {mu} times training.learning_rate = {rate} is above {most}: with sgd each step would take a \
                     hospital further past the model that the round starts from"
                )
            },
            format!("write mu = {gentle_mu} or less, or learning_rate = {gentle_rate} or less"),
        );
    }
}

/// The two leading digits of a number above zero.
fn two_digits(number: f64) -> f64 {
    let scale = 10_f64.powf(1.0 - number.log10().floor());
    (number * scale).round() / scale
}

fn aggregation(plan: &Plan, f: &mut Findings) {
    let aggregation = &plan.aggregation;
    let cap = aggregation.weight_cap;
    f.require(
        cap.is_power_of_two() && cap <= MAX_WEIGHT_CAP,
        "aggregation.weight_cap",
        || format!("{cap} is not a power of two up to {MAX_WEIGHT_CAP}"),
        "write the smallest power of two above the training cases of the largest site, for example 4096",
    );
    f.require(
        (aggregation.weight == WeightRule::Equal) == (cap == 1),
        "aggregation.weight_cap",
        || format!("a cap of {cap} does not go with weight = \"{}\"", aggregation.weight.name()),
        "write weight_cap = 1 with weight = \"equal\", and at least 2 otherwise",
    );
    let sites = plan.sites.len();
    let least = least_honest(sites);
    let most = u32::try_from(sites).unwrap_or(u32::MAX).saturating_sub(colluders(sites)).max(least);
    f.between("aggregation.min_honest", aggregation.min_honest.into(), least.into(), most.into());
    f.require(
        aggregation.chunk == CHUNK,
        "aggregation.chunk",
        || format!("{} is not the chunk of this protocol", aggregation.chunk),
        "leave it out, or write \"1MiB\"",
    );
    f.require(
        aggregation.ring_bits == RING_BITS || aggregation.is_packed(),
        "aggregation.ring_bits",
        || format!("{} is not a ring of this protocol", aggregation.ring_bits),
        format!("leave it out, or write {RING_BITS}, or {PACKED_RING_BITS} for slow links"),
    );
    if let Some(split) = aggregation.groups {
        groups(plan, split, f);
    }
}

fn groups(plan: &Plan, split: Groups, f: &mut Findings) {
    f.between("aggregation.groups.count", split.count.into(), MIN_GROUPS.into(), MAX_SITES as u64);
    let lawful = match split.combine {
        Combine::Median => split.trim == 0,
        Combine::TrimmedMean => split.trim > 0 && split.trim < split.count.div_ceil(2),
    };
    f.require(
        lawful,
        "aggregation.groups.trim",
        || format!("{} does not go with {} of {} groups", split.trim, split.combine.name(), split.count),
        "leave it out with \"median\", and with \"trimmed-mean\" write a number from 1 to less than half of count",
    );
    if let Err(why) = plan.group_plan(split) {
        f.require(
            false,
            "aggregation.groups.count",
            || why.to_string(),
            "write fewer groups, name more sites, or leave groups out",
        );
    }
}

fn evaluation(evaluation: &Evaluation, f: &mut Findings) {
    f.between("evaluation.bins", evaluation.bins.into(), 2, MAX_BINS.into());
    let point = evaluation.operating_point.get();
    f.require(
        point > 0.0 && point < 1.0,
        "evaluation.operating_point",
        || format!("at {point} every case falls on the same side"),
        "write a probability between 0 and 1, for example 0.5",
    );
    if let Some(gate) = evaluation.gate {
        let increase = gate.max_loss_increase;
        f.require(
            (0.0..=100.0).contains(&increase) && increase.is_sign_positive(),
            "evaluation.gate.max_loss_increase",
            || format!("{increase} is no increase of a loss"),
            "write a number from 0 to 100, for example 0.1, or leave the gate out",
        );
        let growth = gate.max_norm_growth;
        f.require(
            (1.0..=1e6).contains(&growth),
            "evaluation.gate.max_norm_growth",
            || format!("{growth} would refuse aggregates for being as long as those before"),
            "write a number from 1 to 1000000, for example 1.5",
        );
    }
}
