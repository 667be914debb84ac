//! Strategies on a problem that fits a page: against a reference in Python, and on the case that each exists for.

use std::ops::ControlFlow;
use std::path::Path;

use consilium_learning::{Dataset, LocalSeed, LocalTraining, Pixels, Preprocessing, score, train};
use consilium_rounds::control::{Variates, correction, next_mean, own_after};
use consilium_rounds::strategy::{Memory, first_moments, next_block};
use consilium_secagg::numbering::Attempt;
use consilium_study::graph::{ModelGraph, ModelSpec, Preset};
use consilium_study::name::SiteName;
use consilium_study::recipe::Training;
use consilium_study::strategy::{SecondMoment, Strategy};
use consilium_study::task::Task;
use consilium_tests::reference::{PROTOCOL, folder, python, run};
use serde_json::{Value, json};

/// Values of a case, shape `[1, 2, 2]`.
const INPUTS: usize = 4;
/// Cases of each hospital.
const SIZES: [usize; 3] = [4, 8, 16];

/// Three hospitals that tell the classes apart by another value each, from another threshold on.
fn hospitals(scale: [f32; INPUTS]) -> Vec<Dataset> {
    let hospital = move |(site, &cases): (usize, &usize)| {
        // Multiples of a 32nd, which floats hold exactly.
        let value = |at: usize| ((at * 37 + site * 101) % 64) as f32 / 32.0 - 1.0;
        let inputs: Vec<f32> = (0..cases * INPUTS).map(value).collect();
        let threshold = [0.5, -0.5, 0.0][site];
        let label = |case: &[f32]| u16::from(case[site] + 0.3 * case[3] > threshold);
        let labels = inputs.chunks(INPUTS).map(label).collect();
        let inputs = inputs.iter().zip(scale.iter().cycle()).map(|(value, scale)| value * scale).collect();
        Dataset::new([1, 2, 2], Pixels::Floats(inputs), labels).expect("cases")
    };
    SIZES.iter().enumerate().map(hospital).collect()
}

fn name(site: usize) -> SiteName {
    format!("s{site}").parse().expect("a name")
}

struct Federation {
    graph: ModelGraph,
    strategy: Strategy,
    rounds: u32,
    steps: u32,
    /// What each value of a case is multiplied by.
    scale: [f32; INPUTS],
    /// The hospital that is there in the first, third, fifth round only.
    away: Option<usize>,
}

const LEARNING_RATE: f64 = 0.5;

impl Federation {
    fn new(strategy: &str, rounds: u32, steps: u32) -> Self {
        let graph =
            ModelSpec::Preset { preset: Preset::Logistic, norm: None, stem: None }.graph([1, 2, 2], 2);
        let strategy = toml::from_str(strategy).expect("a strategy");
        Self { graph: graph.expect("a graph"), strategy, rounds, steps, scale: [1.0; INPUTS], away: None }
    }

    fn preprocessing() -> Preprocessing {
        Preprocessing::new(0.0, 1.0).expect("a preprocessing")
    }

    /// The model after all rounds, from zeros.
    fn run(&self) -> Vec<f32> {
        let (mut model, mut before): (_, Option<Vec<f32>>) = (vec![0.0; self.graph.len()], None);
        let blocks = self.graph.parameters();
        let mut moments: Vec<_> = blocks.iter().map(|block| first_moments(self.strategy, block)).collect();
        let (mut control, mut own): (Option<Vec<f32>>, [Option<Vec<f32>>; SIZES.len()]) = Default::default();
        let mut variates = Variates::default();
        for round in 0..self.rounds {
            let mut mean = vec![0.0; model.len()];
            let is_there = |site: &usize| round % 2 == 0 || self.away != Some(*site);
            let there: Vec<usize> = (0..SIZES.len()).filter(is_there).collect();
            let all: usize = there.iter().map(|site| SIZES[*site]).sum();
            let mut reach = 0.0;
            for (site, cases) in hospitals(self.scale).iter().enumerate().filter(|(site, _)| is_there(site)) {
                // A batch is all cases, so their order is of no account.
                let steps = self.steps;
                let recipe = format!(
                    "optimiser = \"sgd\"\nlearning_rate = {LEARNING_RATE}\nbatch = 16\nsteps = {steps}"
                );
                let recipe: Training = toml::from_str(&recipe).expect("a recipe");
                reach = recipe.reach(round, self.rounds).expect("a number of steps");
                let corrected =
                    control.as_ref().map(|mean| correction(&self.graph, mean, own[site].as_deref()));
                let task = LocalTraining {
                    graph: &self.graph,
                    recipe: &recipe,
                    preprocessing: Self::preprocessing(),
                    budget: recipe.extent(),
                    seed: LocalSeed { study_seed: 1, site: name(site), round },
                    rounds: self.rounds,
                    covers: 1,
                    proximal_weight: self.strategy.proximal_weight(),
                    correction: corrected.as_deref(),
                };
                let trained = train(&task, &model, cases, &mut |_| ControlFlow::Continue(()));
                let trained = trained.expect("a trained model").model;
                if self.strategy.keeps_control() {
                    let sent: Vec<f32> =
                        trained.iter().zip(&model).map(|(after, before)| after - before).collect();
                    own[site] = Some(own_after(&self.graph, reach, corrected.as_deref(), &sent));
                }
                let weight = cases.len() as f64 / all as f64;
                for ((mean, after), before) in mean.iter_mut().zip(trained).zip(&model) {
                    *mean += weight * (f64::from(after) - f64::from(*before));
                }
            }
            let mut next: Vec<f32> = mean.into_iter().map(|mean| mean as f32).collect();
            if self.strategy.keeps_control() {
                let attempt = Attempt::new(round + 1).expect("an attempt");
                let weights = there.iter().map(|site| (name(*site), SIZES[*site] as u32));
                variates = variates.after(attempt, weights);
                let so_far = control.take();
                let next = blocks.iter().flat_map(|block| {
                    let before = so_far.as_ref().map(|mean| &mean[block.range()]);
                    next_mean(block, variates.share(attempt), reach, before, &next[block.range()])
                });
                control = Some(next.collect());
            }
            for (block, moments) in blocks.iter().zip(&mut moments) {
                let range = block.range();
                let memory = Memory {
                    before: before.as_ref().map(|before| &before[range.clone()]),
                    moments: moments.as_mut().map(|moments| moments.each_mut().map(Vec::as_mut_slice)),
                };
                next_block(self.strategy, block, &model[range.clone()], memory, &mut next[range])
                    .expect("a model");
            }
            before = Some(std::mem::replace(&mut model, next));
        }
        model
    }

    /// Mean cross-entropy of all hospitals' cases after all rounds.
    fn loss(&self) -> f64 {
        let model = self.run();
        let of_site = |cases: &Dataset| {
            let scores = score(&self.graph, Self::preprocessing(), Task::Classification, &model, cases)
                .expect("scores");
            let right = scores
                .iter()
                .zip(cases.labels())
                .map(|(case, label)| case[usize::from(label.class().expect("a class"))]);
            right.map(|right| -f64::from(right).ln()).sum::<f64>()
        };
        hospitals(self.scale).iter().map(of_site).sum::<f64>() / SIZES.iter().sum::<usize>() as f64
    }

    /// What the reference in Python reads.
    fn to_json(&self) -> Value {
        let site = |cases: &Dataset| {
            let Pixels::Floats(inputs) = cases.pixels() else { panic!("floats") };
            json!({ "inputs": inputs.chunks(INPUTS).collect::<Vec<_>>(), "labels": cases.labels().iter().map(|label| label.class()).collect::<Vec<_>>() })
        };
        json!({
            "sites": hospitals(self.scale).iter().map(site).collect::<Vec<_>>(),
            "weights": vec![[0.0; INPUTS]; 2],
            "bias": [0.0, 0.0],
            "learning_rate": LEARNING_RATE,
            "rounds": self.rounds,
            "steps": self.steps,
            "server_learning_rate": self.strategy.server_learning_rate().get(),
            "mu": self.strategy.proximal_weight(),
            "server_momentum": self.strategy.server_momentum(),
            "adaptive": match self.strategy {
                Strategy::Adaptive { rule: SecondMoment::Adagrad, tau, .. } => json!(["adagrad", tau.get()]),
                Strategy::Adaptive { rule: SecondMoment::Adam, tau, .. } => json!(["adam", tau.get()]),
                Strategy::Adaptive { rule: SecondMoment::Yogi, tau, .. } => json!(["yogi", tau.get()]),
                _ => Value::Null,
            },
            "corrects": self.strategy.keeps_control(),
            "away": self.away,
            "model": self.run(),
        })
    }
}

#[test]
fn every_strategy_agrees_with_the_reference_in_python() {
    let Some(python) = python(&PROTOCOL, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let cases = json!({
        "fedavg": Federation::new("kind = \"fedavg\"", 6, 5).to_json(),
        "fedavg, rate 1.5": Federation::new("kind = \"fedavg\"\nserver_learning_rate = 1.5", 6, 5).to_json(),
        "fedprox": Federation::new("kind = \"fedprox\"\nmu = 0.25", 6, 5).to_json(),
        "fedavgm": Federation::new("kind = \"fedavgm\"\nserver_momentum = 0.9\nserver_learning_rate = 0.5", 6, 5)
            .to_json(),
        "fedadagrad": Federation::new("kind = \"fedadagrad\"\nserver_learning_rate = 0.5\ntau = 0.05", 6, 5).to_json(),
        "fedadam": Federation::new("kind = \"fedadam\"\nserver_learning_rate = 0.1\ntau = 0.05", 6, 5).to_json(),
        "fedyogi": Federation::new("kind = \"fedyogi\"\nserver_learning_rate = 0.1\ntau = 0.05", 6, 5).to_json(),
        "scaffold": Federation::new("kind = \"scaffold\"\nserver_learning_rate = 0.75", 6, 5).to_json(),
        "scaffold, some away": Federation { away: Some(1), ..Federation::new("kind = \"scaffold\"", 7, 5) }.to_json(),
    });
    let check = |cases: &Value| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("strategies.json");
        std::fs::write(&file, cases.to_string()).expect("written");
        let script = folder("reference").join("strategies.py");
        let arguments = ["-B", script.to_str().expect("text"), file.to_str().expect("text")];
        run(&python, &arguments).expect("python runs")
    };
    let output = check(&cases);
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{error}");
    // It can fail: FedProx without its pull.
    let mut other = cases.clone();
    other["fedprox"]["mu"] = 0.0.into();
    assert_eq!(check(&other).status.code(), Some(1));
    // And SCAFFOLD with somebody there who was not.
    let mut other = cases;
    other["scaffold, some away"]["away"] = Value::Null;
    assert_eq!(check(&other).status.code(), Some(1));
}

/// Hospitals that train long between two rounds drift to optima of their own, and FedAvg to no good mean of them. The
/// best model for all has a loss of 0.441.
#[test]
fn fedprox_keeps_hospitals_together_that_train_long() {
    let loss = |strategy| Federation::new(strategy, 30, 200).loss();
    let (average, proximal) = (loss("kind = \"fedavg\""), loss("kind = \"fedprox\"\nmu = 0.1"));
    assert!(average > 0.52 && proximal < 0.45, "{average} {proximal}");
}

/// The same hospitals, that train as long: their own control variates take their drift away, and the model of all is reached
/// without a pull that has to be chosen. So it is where the largest comes every second round only, and FedAvg follows
/// whoever is there: its last model is worse than a guess.
#[test]
fn scaffold_reaches_the_best_model_of_all_where_hospitals_train_long() {
    let loss = |kind: &str, rounds, away| {
        Federation { away, ..Federation::new(&format!("kind = \"{kind}\""), rounds, 200) }.loss()
    };
    let (plain, corrected) = (loss("fedavg", 30, None), loss("scaffold", 30, None));
    assert!(plain > 0.52 && corrected < 0.4425, "{plain} {corrected}");
    let (plain, corrected) = (loss("fedavg", 60, Some(2)), loss("scaffold", 60, Some(2)));
    assert!(plain > 1.0 && corrected < 0.4425, "{plain} {corrected}");
}

/// Values on scales that differ a thousandfold: the step that suits the largest is far too small for the others, and an
/// adaptive server makes up for it entry by entry.
#[test]
fn adaptive_servers_go_on_where_updates_are_small() {
    let loss = |strategy: &str| {
        Federation { scale: [1.0, 0.05, 0.05, 0.05], ..Federation::new(strategy, 40, 1) }.loss()
    };
    let average = loss("kind = \"fedavg\"");
    for kind in ["fedadagrad", "fedadam", "fedyogi"] {
        let adaptive = loss(&format!("kind = \"{kind}\"\nserver_learning_rate = 1.0\ntau = 0.001"));
        assert!(adaptive + 0.05 < average, "{kind}: {adaptive} {average}");
    }
}

/// Rounds that move a model little in the same direction add up: with few rounds of few steps FedAvg is still on its way
/// where momentum has arrived.
#[test]
fn server_momentum_arrives_in_fewer_rounds() {
    let loss = |strategy| Federation::new(strategy, 20, 1).loss();
    let (average, momentum) = (loss("kind = \"fedavg\""), loss("kind = \"fedavgm\"\nserver_momentum = 0.9"));
    assert!(momentum + 0.05 < average, "{average} {momentum}");
}
