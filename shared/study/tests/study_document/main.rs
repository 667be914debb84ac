//! The study document from file to signed bytes and back.

mod beside;
mod keys;
mod layers;
mod notes;
mod readable;
mod tasks;

use consilium_study::canonical::Canonical;
use consilium_study::check::Problem;
use consilium_study::disclosure::Floor;
use consilium_study::document::{Draft, InvalidStudy, MAX_BYTES, Plan, Study};
use consilium_study::grouping::{Combine, Groups};
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::task::Task;
use consilium_study::weight::WeightRule;
use minicbor::{Decode, Encode};
use proptest::prelude::*;

/// Every key there is, spelt out, with the defaults where there are some.
const FULL: &str = r#"
format = 1
name = "pneumonia"
title = "Pneumonia on chest radiographs of children"
sites = ["d", "b", "c", "a"]
seed = 1
[data]
labels = ["normal", "pneumonia"]
channels = 1
height = 28
width = 28
mean = 0.57
std = 0.17
holdout = 0.2
minimum_cases = 10
smallest_usable_share = 0.9
task = "classification"
[model]
preset = "small-cnn"
norm = "group"
frozen = []
local = []
[training]
optimiser = "sgd"
learning_rate = 0.01
momentum = 0.9
weight_decay = 0.0
batch = 32
epochs = 1
schedule = "constant"
class_weights = [1.0, 2.0]
sampling = "shuffled"
loss = "cross-entropy"
label_smoothing = 0.0
augment = { flip = true, crop = 2, rotate = 0.0, zoom = 0.0, brightness = 0.0, contrast = 0.0, noise = 0.0, erase = 0, mixup = 0.0 }
[rounds]
count = 10
quorum = 3
required = ["c", "a"]
collect_timeout = "2h"
evaluate_timeout = "30m"
setup_timeout = "10m"
attempts_per_epoch = 100
strategy = { kind = "fedavg" }
[aggregation]
clip_norm = 10.0
weight = "coarse"
weight_cap = 4096
min_honest = 2
chunk = "1MiB"
ring_bits = 32
[evaluation]
bins = 256
operating_point = 0.5
recommend = "auroc"
gate = { max_loss_increase = 0.1 }
calibrate = false
"#;

fn draft(text: &str) -> Draft {
    Draft::from_toml(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn study(text: &str) -> Study {
    draft(text).with_initial_model(Hash::of_bytes(b"weights"))
}

fn edited(from: &str, to: &str) -> String {
    assert!(FULL.contains(from), "{from}");
    FULL.replacen(from, to, 1)
}

/// What a hostile signer encodes: the fields of a study, with no rule kept.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Forged {
    #[n(0)]
    plan: Plan,
    #[n(1)]
    initial_model: Hash,
}

fn forged(change: impl FnOnce(&mut Plan)) -> Vec<u8> {
    let mut plan = (*draft(FULL)).clone();
    change(&mut plan);
    Forged { plan, initial_model: Hash::of_bytes(b"weights") }.to_canonical()
}

#[test]
fn a_study_survives_the_wire() {
    let study = study(FULL);
    let bytes = study.to_canonical();
    assert_eq!(Study::from_canonical(&bytes), Ok(study.clone()));
    assert_eq!(forged(|_| ()), bytes, "the forger of these tests writes what a study writes");
    assert_eq!(study.sites.iter().map(ToString::to_string).collect::<String>(), "abcd");
    assert_eq!(study.evaluation.recommend, Metric::Auroc);
}

#[test]
fn two_files_with_the_same_meaning_have_the_same_hash() {
    let hash = study(FULL).hash();
    let same = [
        ("\"2h\"", "\"120m\""),
        ("\"1MiB\"", "\"1024KiB\""),
        ("[\"d\", \"b\", \"c\", \"a\"]", "[\"a\", \"b\", \"c\", \"d\"]"),
        ("[\"c\", \"a\"]", "[\"a\", \"c\"]"),
        ("clip_norm = 10.0", "clip_norm = 10"),
        ("holdout = 0.2\n", ""),
        ("minimum_cases = 10\n", ""),
        ("smallest_usable_share = 0.9\n", ""),
        ("collect_timeout = \"2h\"\n", ""),
        ("evaluate_timeout = \"30m\"\n", ""),
        ("setup_timeout = \"10m\"\n", ""),
        ("attempts_per_epoch = 100\n", ""),
        ("strategy = { kind = \"fedavg\" }\n", ""),
        ("{ kind = \"fedavg\" }", "{ kind = \"fedavg\", server_learning_rate = 1 }"),
        ("clip_norm = 10.0\n", ""),
        ("weight = \"coarse\"\n", ""),
        ("weight_cap = 4096\n", ""),
        ("min_honest = 2\n", ""),
        ("chunk = \"1MiB\"\n", ""),
        ("ring_bits = 32\n", ""),
        ("bins = 256\n", ""),
        ("operating_point = 0.5\n", ""),
        ("recommend = \"auroc\"\n", ""),
        ("seed = 1\n", "seed = 1 # a comment\n"),
    ];
    for (from, to) in same {
        assert_eq!(study(&edited(from, to)).hash(), hash, "{from} -> {to}");
    }
}

/// The hash of this file in the build before recipes had more than `flip` and `crop`, and studies other tasks.
#[test]
fn a_study_that_uses_nothing_new_keeps_its_hash() {
    let mut old = FULL.to_owned();
    for key in ["sampling", "loss", "label_smoothing", "task", "calibrate"] {
        let line = old.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap().to_owned();
        old = old.replacen(&format!("{line}\n"), "", 1);
    }
    let (kept, new) = (old.find(", rotate = ").unwrap(), old.find(" }\n[rounds]").unwrap());
    old.replace_range(kept..new, "");
    for text in [FULL, &old] {
        let hash = study(text).hash().to_string();
        assert_eq!(hash, "98c64cb0f01ca0e61c538a7ece771170311c32f9a98fddad25914b83f0835fae");
    }
}

#[test]
fn files_with_another_meaning_have_another_hash() {
    let other = [
        ("\"pneumonia\"\ntitle", "\"pneumonia-2\"\ntitle"),
        ("of children", "of adults"),
        ("\"d\", ", "\"e\", "),
        ("seed = 1", "seed = 2"),
        ("[\"normal\", \"pneumonia\"]", "[\"pneumonia\", \"normal\"]"),
        ("height = 28", "height = 32"),
        ("mean = 0.57", "mean = 0.5"),
        ("std = 0.17", "std = 0.2"),
        ("holdout = 0.2", "holdout = 0.25"),
        ("minimum_cases = 10", "minimum_cases = 11"),
        ("norm = \"group\"\n", ""),
        ("frozen = []", "frozen = [\"conv2d\"]"),
        ("local = []", "local = [\"conv2d\"]"),
        ("local = []", "local = [\"layers.0\"]"),
        ("learning_rate = 0.01", "learning_rate = 0.02"),
        ("sampling = \"shuffled\"", "sampling = \"balanced\""),
        ("loss = \"cross-entropy\"", "loss = { kind = \"focal\", gamma = 2.0 }"),
        ("label_smoothing = 0.0", "label_smoothing = 0.1"),
        ("rotate = 0.0", "rotate = 0.1"),
        ("zoom = 0.0", "zoom = 0.1"),
        ("brightness = 0.0", "brightness = 0.1"),
        ("contrast = 0.0", "contrast = 0.1"),
        ("noise = 0.0", "noise = 0.1"),
        ("erase = 0,", "erase = 1,"),
        ("mixup = 0.0", "mixup = 0.1"),
        ("count = 10", "count = 11"),
        ("quorum = 3", "quorum = 4"),
        ("[\"c\", \"a\"]", "[]"),
        ("\"2h\"", "\"1h\""),
        ("attempts_per_epoch = 100", "attempts_per_epoch = 99"),
        ("kind = \"fedavg\"", "kind = \"fedavg\", server_learning_rate = 1.5"),
        ("clip_norm = 10.0", "clip_norm = 5.0"),
        ("weight = \"coarse\"", "weight = \"examples\""),
        ("weight_cap = 4096", "weight_cap = 8192"),
        ("min_honest = 2", "min_honest = 3"),
        ("bins = 256", "bins = 32"),
        ("operating_point = 0.5", "operating_point = 0.4"),
        ("recommend = \"auroc\"", "recommend = \"loss\""),
        ("gate = { max_loss_increase = 0.1 }\n", ""),
        ("max_loss_increase = 0.1", "max_loss_increase = 0.2"),
        ("task = \"classification\"", "task = \"ordinal\""),
        ("task = \"classification\"", "task = \"multi-label\""),
        ("calibrate = false", "calibrate = true"),
    ];
    let mut hashes = vec![study(FULL).hash()];
    for (from, to) in other {
        let hash = study(&edited(from, to)).hash();
        assert!(!hashes.contains(&hash), "{from} -> {to}");
        hashes.push(hash);
    }
    let elsewhere = draft(FULL).with_initial_model(Hash::of_bytes(b"other weights")).hash();
    assert!(!hashes.contains(&elsewhere));
}

#[test]
fn every_broken_rule_names_its_key_and_what_to_write() {
    let broken = [
        ("format = 1", "format = 2", "format"),
        ("title = \"Pneumonia on", "title = \" Pneumonia on", "title"),
        ("\"d\", \"b\", \"c\", \"a\"", "\"a\", \"c\"", "sites"),
        ("\"d\", \"b\"", "\"b\", \"b\"", "sites"),
        ("\"normal\", \"pneumonia\"", "\"normal\", \"normal\"", "data.labels"),
        ("\"normal\", \"pneumonia\"", "\"normal\", \"\"", "data.labels"),
        ("\"normal\", \"pneumonia\"", "\"normal\", \"pneumonia \"", "data.labels"),
        ("height = 28", "height = 1025", "data.height"),
        ("width = 28", "width = 2048", "data.width"),
        ("channels = 1", "channels = 2", "data.channels"),
        ("channels = 1", "channels = 4", "data.channels"),
        ("mean = 0.57", "mean = -0.0", "data.mean"),
        ("mean = 0.57", "mean = nan", "data.mean"),
        ("mean = 0.57", "mean = inf", "data.mean"),
        ("std = 0.17", "std = 0.0", "data.std"),
        ("std = 0.17", "std = nan", "data.std"),
        ("holdout = 0.2", "holdout = 0.6", "data.holdout"),
        ("minimum_cases = 10", "minimum_cases = 0", "data.minimum_cases"),
        ("[1.0, 2.0]", "[1.0]", "training"),
        ("erase = 0,", "erase = 28,", "training"),
        ("count = 10", "count = 0", "rounds.count"),
        ("count = 10", "count = 10\npatience = 0", "rounds.patience"),
        ("count = 10", "count = 10001", "rounds.count"),
        ("quorum = 3", "quorum = 2", "rounds.quorum"),
        ("quorum = 3", "quorum = 5", "rounds.quorum"),
        ("[\"c\", \"a\"]", "[\"x\"]", "rounds.required"),
        ("[\"c\", \"a\"]", "[\"a\", \"a\"]", "rounds.required"),
        ("\"2h\"", "\"900ms\"", "rounds.collect_timeout"),
        ("\"30m\"", "\"31days\"", "rounds.evaluate_timeout"),
        ("\"10m\"", "\"25h\"", "rounds.setup_timeout"),
        ("attempts_per_epoch = 100", "attempts_per_epoch = 101", "rounds.attempts_per_epoch"),
        ("weight_cap = 4096", "weight_cap = 5000", "aggregation.weight_cap"),
        ("weight_cap = 4096", "weight_cap = 1", "aggregation.weight_cap"),
        ("weight = \"coarse\"", "weight = \"equal\"", "aggregation.weight_cap"),
        ("min_honest = 2", "min_honest = 1", "aggregation.min_honest"),
        ("min_honest = 2", "min_honest = 4", "aggregation.min_honest"),
        ("chunk = \"1MiB\"", "chunk = \"2MiB\"", "aggregation.chunk"),
        ("ring_bits = 32", "ring_bits = 24", "aggregation.ring_bits"),
        ("bins = 256", "bins = 257", "evaluation.bins"),
        ("operating_point = 0.5", "operating_point = 1.0", "evaluation.operating_point"),
        ("max_loss_increase = 0.1", "max_loss_increase = -0.1", "evaluation.gate.max_loss_increase"),
        ("max_loss_increase = 0.1", "max_loss_increase = nan", "evaluation.gate.max_loss_increase"),
        ("= 0.1 }", "= 0.1, max_norm_growth = 0.9 }", "evaluation.gate.max_norm_growth"),
        ("\"auroc\"", "\"kappa\"", "evaluation.recommend"),
        ("loss = \"cross-entropy\"\nlabel_smoothing = 0.0", "loss = \"earth-mover\"", "training.loss"),
    ];
    let of_findings = [
        ("\"auroc\"", "\"kappa\"", "evaluation.recommend"),
        ("\"shuffled\"", "\"balanced\"", "training.sampling"),
        ("\"coarse\"", "\"effective\"", "aggregation.weight"),
        ("\"normal\", ", "\"a|b\", ", "data.labels"),
        ("\"normal\", ", "\"none\", ", "data.labels"),
        ("\"normal\", ", "\"No Finding\", ", "data.labels"),
    ];
    let of_findings = of_findings
        .map(|(from, to, key)| (edited(from, to).replace("\"classification\"", "\"multi-label\""), to, key));
    let broken = broken.map(|(from, to, key)| (edited(from, to), to, key));
    for (text, to, key) in broken.into_iter().chain(of_findings) {
        let error = Draft::from_toml(&text).expect_err(to);
        let keys: Vec<_> = error.problems().iter().map(Problem::key).collect();
        assert_eq!(keys, [key], "{to}: {error}");
        assert!(error.to_string().contains("; "), "no advice in: {error}");
    }
}

#[test]
fn groups_are_refused_where_nobody_could_say_which_is_wrong_or_a_site_would_not_hide() {
    let names: Vec<_> = ('a'..='x').map(|site| format!("\"{site}\"")).collect();
    let text = edited("\"d\", \"b\", \"c\", \"a\"", &names.join(", "));
    for (groups, wrong) in [
        ("count = 3", None),
        ("count = 3, combine = \"trimmed-mean\", trim = 1", None),
        ("count = 2", Some("aggregation.groups.count")),
        ("count = 4", Some("aggregation.groups.count")),
        ("count = 3, trim = 1", Some("aggregation.groups.trim")),
        ("count = 3, combine = \"trimmed-mean\"", Some("aggregation.groups.trim")),
        ("count = 3, combine = \"trimmed-mean\", trim = 2", Some("aggregation.groups.trim")),
    ] {
        let text = text.replace("min_honest = 2\n", &format!("min_honest = 3\ngroups = {{ {groups} }}\n"));
        let found = Draft::from_toml(&text).err();
        let keys: Vec<_> = found.iter().flat_map(|error| error.problems().iter().map(Problem::key)).collect();
        assert_eq!(keys, Vec::from_iter(wrong), "{groups}: {found:?}");
        assert_eq!(found.is_none(), wrong.is_none(), "{groups}: {found:?}");
    }
    // A median of groups is no sum that control variates could be read off.
    let text = text.replace("min_honest = 2\n", "min_honest = 3\ngroups = { count = 3 }\n");
    let text = text.replace("momentum = 0.9\n", "").replace("epochs = 1\n", "steps = 9\n");
    assert!(Draft::from_toml(&text).is_ok());
    let error = Draft::from_toml(&text.replace("\"fedavg\"", "\"scaffold\"")).unwrap_err();
    assert_eq!(error.problems().iter().map(Problem::key).collect::<Vec<_>>(), ["aggregation.groups"]);
}

/// With a pull of `mu` alone, a step of heavy-ball descent keeps its distance from the start in bounds up to a rate of
/// `2 (1 + momentum) / mu` (Polyak 1964). What the problem says to write is within it.
#[test]
fn a_pull_that_overshoots_is_refused_with_both_keys() {
    let with = |optimiser: &str, mu: f64| {
        let text = edited("optimiser = \"sgd\"\nlearning_rate = 0.01\nmomentum = 0.9\n", optimiser);
        Draft::from_toml(&text.replacen("\"fedavg\"", &format!("\"fedprox\", mu = {mu}"), 1))
    };
    let plain = "optimiser = \"sgd\"\nlearning_rate = 0.25\n";
    assert!(with(plain, 8.0).is_ok());
    let error = with(plain, 9.0).unwrap_err().to_string();
    assert_eq!(
        error,
        "rounds.strategy.mu: mu = 9 times training.learning_rate = 0.25 is above 2: with sgd each step would take a \
         hospital further past the model that the round starts from; write mu = 4 or less, or learning_rate = 0.11 or less"
    );
    assert!(with(plain, 4.0).is_ok() && with(&plain.replace("0.25", "0.11"), 9.0).is_ok());
    let heavy = format!("{plain}momentum = 0.5\n");
    assert!(with(&heavy, 12.0).is_ok());
    assert!(with(&heavy, 12.1).unwrap_err().to_string().contains("is above 3:"));
    // Steps of Adam are as long as the learning rate, whatever the pull.
    assert!(with("optimiser = \"adam\"\nlearning_rate = 0.25\n", 100.0).is_ok());
}

/// A control variate is read off an update: plain steps, as many everywhere, in a mean of all updates.
#[test]
fn control_variates_need_plain_steps_of_one_number() {
    let (adam, plain) =
        ("optimiser = \"adam\"\nlearning_rate = 0.01\n", "optimiser = \"sgd\"\nlearning_rate = 0.01\n");
    let heavy = "optimiser = \"sgd\"\nlearning_rate = 0.01\nmomentum = 0.9\n";
    for (optimiser, extent, schedule, wrong) in [
        (plain, "steps = 20", "\"cosine\"", None),
        (plain, "steps = 20", "{ step = { every = 1, factor = 0.5 } }", None),
        (plain, "steps = 20", "{ step = { every = 1, factor = 1e-3 } }", Some("training.learning_rate")),
        (plain, "epochs = 2", "\"cosine\"", Some("training.steps")),
        (heavy, "steps = 20", "\"cosine\"", Some("training.optimiser")),
        (adam, "steps = 20", "\"cosine\"", Some("training.optimiser")),
    ] {
        let text = edited(heavy, optimiser)
            .replacen("\"fedavg\"", "\"scaffold\"", 1)
            .replacen("epochs = 1\n", &format!("{extent}\n"), 1)
            .replacen("\"constant\"", schedule, 1);
        let found = Draft::from_toml(&text).err();
        let keys: Vec<_> = found.iter().flat_map(|error| error.problems().iter().map(Problem::key)).collect();
        assert_eq!(keys, Vec::from_iter(wrong), "{optimiser} {extent} {schedule}: {found:?}");
    }
}

#[test]
fn a_mean_of_clipped_updates_has_a_longest_length() {
    let mut aggregation = draft(FULL).aggregation.clone();
    assert!((aggregation.longest_mean() - 10.01).abs() < 1e-9);
    aggregation.ring_bits = 16;
    assert!((aggregation.longest_mean() - 10.1).abs() < 1e-9);
    aggregation.groups = Some(Groups { count: 3, combine: Combine::Median, trim: 0 });
    assert!((aggregation.longest_mean() - 10.1 * 2_f64.sqrt()).abs() < 1e-9);
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = edited("quorum = 3", "quorum = 9").replace("bins = 256", "bins = 1").replace("1MiB", "3MiB");
    let error = Draft::from_toml(&text).unwrap_err();
    let keys: Vec<_> = error.problems().iter().map(Problem::key).collect();
    assert_eq!(keys, ["rounds.quorum", "aggregation.chunk", "evaluation.bins"]);
    assert_eq!(error.to_string().lines().count(), 3);
}

#[test]
fn a_hostile_signer_cannot_get_round_the_rules() {
    type Change = fn(&mut Plan);
    let changes: [(&str, Change); 20] = [
        ("format", |plan| plan.format = 2),
        ("sites", |plan| plan.sites.truncate(2)),
        ("sites", |plan| plan.sites.reverse()),
        ("sites", |plan| plan.sites = (0..201).map(|n| format!("s{n:03}").parse().unwrap()).collect()),
        ("seed", |plan| plan.seed = u64::MAX),
        ("data.height: ", |plan| plan.data.height = u32::MAX),
        ("data.mean", |plan| plan.data.mean = f64::NAN),
        ("data.labels", |plan| plan.data.labels[0] = "x".repeat(1000)),
        ("data.labels", |plan| plan.data.labels.truncate(1)),
        ("data.channels: ", |plan| plan.data.channels = 17),
        ("data.width: ", |plan| plan.data.width = 0),
        ("the graph takes cases that are", |plan| plan.data.height = 32),
        ("the graph takes cases that are", |plan| plan.data.depth = Some(4)),
        ("the graph scores 2 classes", |plan| plan.data.labels.push("third".into())),
        ("rounds.required", |plan| plan.rounds.required.reverse()),
        ("aggregation.weight_cap", |plan| plan.aggregation.weight_cap = 0),
        ("evaluation.bins", |plan| plan.evaluation.bins = u32::MAX),
        ("evaluation.recommend", |plan| plan.evaluation.recommend = Metric::Kappa),
        ("aggregation.weight", |plan| {
            (plan.data.task, plan.aggregation.weight) = (Task::MultiLabel, WeightRule::Effective);
        }),
        ("rounds.count", |plan| plan.rounds.count = u32::MAX),
    ];
    for (key, change) in changes {
        let error = Study::from_canonical(&forged(change)).expect_err(key);
        assert!(error.to_string().contains(key), "{key}: {error}");
    }
}

#[test]
fn a_study_is_short() {
    assert!(matches!(Draft::from_toml(&"#".repeat(MAX_BYTES + 1)), Err(InvalidStudy::TooLong { .. })));
    let long = forged(|plan| plan.title = "x".repeat(MAX_BYTES));
    assert!(Study::from_canonical(&long).unwrap_err().to_string().contains("256 KiB"));
    let longer = forged(|plan| plan.title = "x".repeat(2 << 20));
    assert!(Study::from_canonical(&longer).unwrap_err().to_string().contains("256 KiB"));
}

#[test]
fn a_weight_is_at_most_the_cap_and_at_least_one() {
    let mut aggregation = draft(FULL).aggregation.clone();
    assert_eq!(aggregation.weight_of(&[5000, 5000], Floor::LOWEST), 4096);
    assert_eq!(aggregation.weight_of(&[0, 0], Floor::LOWEST), 1);
    aggregation.weight = WeightRule::Examples;
    assert_eq!(aggregation.weight_of(&[9999, 0], Floor::LOWEST), 4096);
    aggregation.weight = WeightRule::Effective;
    assert_eq!(aggregation.weight_of(&[5000, 50], Floor::LOWEST), 256);
    aggregation.weight_cap = 16;
    assert_eq!(aggregation.weight_of(&[5000, 0], Floor::LOWEST), 16);
}

/// Lines that say a task, with a metric that is of it.
fn tasks_with_metrics() -> Vec<(&'static str, Metric)> {
    let tasks = [
        ("", Task::Classification),
        ("task = \"classification\"\n", Task::Classification),
        ("task = \"ordinal\"\n", Task::Ordinal),
        // Of findings no weight by classes is allowed.
    ];
    let of = |(line, task)| {
        Metric::ALL.into_iter().filter(move |metric| metric.is_of(task)).map(move |metric| (line, metric))
    };
    tasks.into_iter().flat_map(of).collect()
}

prop_compose! {
    /// A file with every free choice drawn, and its keys in any spelling that means the same.
    fn files()(
        sites in 3_usize..12,
        seed in 0..i64::MAX,
        (height, width) in (8_u32..64, 8_u32..64),
        mean in -1.0..2.0_f64,
        std in 0.01..2.0_f64,
        share in 0.0..0.5_f64,
        preset in prop::sample::select(vec!["logistic", "small-cnn", "cnn-bn", "resnet18", "mlp", "resnet34", "resnet50", "densenet121"]),
        timeout in 1_u64..86_400,
        clip in 0.1..100.0_f64,
        (weight, cap) in prop::sample::select(vec![("coarse", 64), ("effective", 64), ("examples", 1 << 20), ("equal", 1)]),
        (task, metric) in prop::sample::select(tasks_with_metrics()),
        calibrate in any::<bool>(),
        gate in prop::option::of(0.0..1.0_f64),
        bins in 2_u32..=256,
        quorum in 0_usize..100,
        required in 0_usize..100,
    ) -> String {
        let names: Vec<String> = (0..sites).rev().map(|site| format!("\"site-{site}\"")).collect();
        let gate = gate.map_or_else(String::new, |loss| format!("gate = {{ max_loss_increase = {loss:?} }}"));
        format!(
            "format = 1\nname = \"s\"\ntitle = \"t\"\nsites = [{}]\nseed = {seed}\n\
             [data]\nlabels = [\"no\", \"yes\"]\nchannels = 3\nheight = {height}\nwidth = {width}\n{task}\
             mean = {mean:?}\nstd = {std:?}\nholdout = {share:?}\nsmallest_usable_share = {share:?}\n\
             [model]\npreset = \"{preset}\"\n\
             [training]\noptimiser = \"adam\"\nlearning_rate = {std:?}\nbatch = 2\nsteps = 3\n\
             [rounds]\ncount = 5\nquorum = {}\nrequired = [{}]\ncollect_timeout = \"{timeout}s\"\n\
             [aggregation]\nclip_norm = {clip:?}\nweight = \"{weight}\"\nweight_cap = {cap}\n\
             [evaluation]\nbins = {bins}\nrecommend = \"{metric}\"\ncalibrate = {calibrate}\n{gate}\n",
            names.join(", "),
            3 + quorum % (sites - 2),
            names[..required % (sites + 1)].join(", "),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// File, study, bytes, study: nothing is lost, and the numbers are those of the file.
    #[test]
    fn what_is_written_is_what_is_signed(text in files(), initial: [u8; 32]) {
        let draft = draft(&text);
        let study = draft.clone().with_initial_model(Hash::from_bytes(initial));
        let arrived = Study::from_canonical(&study.to_canonical()).unwrap();
        prop_assert_eq!(&arrived, &study);
        prop_assert_eq!(arrived.hash(), study.hash());
        prop_assert_eq!(arrived.into_draft(), draft.clone());
        let line = format!("\nmean = {:?}\nstd = {:?}\n", draft.data.mean, draft.data.std);
        prop_assert!(text.contains(&line), "{line}");
    }

    /// Changed bytes never panic, and what still decodes keeps every rule and has other bytes.
    #[test]
    fn changed_bytes_are_no_way_round(
        text in files(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let bytes = study(&text).to_canonical();
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] = byte;
        if let Ok(other) = Study::from_canonical(&changed) {
            prop_assert!(Draft::new((*other).clone()).is_ok());
            prop_assert_eq!(other.to_canonical(), changed);
        }
        prop_assert!(Study::from_canonical(&bytes[..cut.index(bytes.len())]).is_err());
    }

    /// No text panics.
    #[test]
    fn any_text_is_a_study_or_an_error(noise in "[a-z\\[\\]={}\"0-9. \n]{0,200}", at: prop::sample::Index) {
        let at = at.index(FULL.len());
        let text = format!("{}{noise}{}", &FULL[..at], &FULL[at..]);
        if let Ok(draft) = Draft::from_toml(&text) {
            prop_assert!(Draft::new((*draft).clone()).is_ok());
        }
    }
}
