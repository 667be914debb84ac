//! What arrives from a peer or comes back from the store: whatever the bytes are, they decode to a value with the same
//! bytes, or not at all.

use std::collections::BTreeMap;
use std::mem::discriminant;

use consilium_fuzz::{Target, run};
use consilium_rounds::message::{Directive, Letter, SiteMessage};
use consilium_rounds::metrics::{EvaluationCounts, EvaluationShape, TrainCounts, Truth};
use consilium_rounds::record::Record;
use consilium_rounds::{Act, StudyMachine};
use consilium_study::task::{Label, Task};

use crate::parts::{name, study_text};
use crate::sim::{Faults, Sim};

fn directive(bytes: &[u8]) -> bool {
    Letter::<Directive>::from_bytes(bytes).is_ok_and(|letter| {
        assert_eq!(letter.to_bytes(), bytes);
        true
    })
}

fn site_message(bytes: &[u8]) -> bool {
    Letter::<SiteMessage>::from_bytes(bytes).is_ok_and(|letter| {
        assert_eq!(letter.to_bytes(), bytes);
        true
    })
}

fn machine(bytes: &[u8]) -> bool {
    StudyMachine::from_bytes(bytes).is_ok_and(|machine| {
        assert_eq!(machine.to_bytes(), bytes);
        true
    })
}

/// A shape of each number of words.
fn shapes() -> [EvaluationShape; 6] {
    let shape = EvaluationShape::new(3, 8, 0.5).unwrap();
    let (grades, findings) = (shape.of_task(Task::Ordinal), shape.of_task(Task::MultiLabel));
    let masks = shape.of_task(Task::Segmentation);
    [
        grades,
        grades.calibrated(true),
        findings,
        findings.calibrated(true),
        masks,
        shape.of_task(Task::Regression),
    ]
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn bytes(words: Vec<u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Counts out of an opened sum: each site may have put anything there.
fn evaluation(bytes: &[u8]) -> bool {
    let words = words(bytes);
    let Some(shape) = shapes().into_iter().find(|shape| shape.words() == words.len()) else { return false };
    let Ok(counts) = EvaluationCounts::from_words(shape, &words) else { return false };
    assert_eq!(counts.to_words().len(), words.len());
    if let Some(figures) = counts.figures() {
        let shares =
            [figures.accuracy, figures.auroc, figures.sensitivity, figures.specificity, figures.dice];
        assert!(shares.into_iter().flatten().all(|share| (0.0..=1.0).contains(&share)), "{figures:?}");
        assert!(figures.loss.is_finite() && figures.brier.is_none_or(f64::is_finite), "{figures:?}");
    }
    true
}

fn training(bytes: &[u8]) -> bool {
    let words = words(bytes);
    let Some((weight, words)) = words.split_first() else { return false };
    TrainCounts::from_words(words).is_ok_and(|counts| {
        assert!(counts.loss(*weight).is_finite());
        true
    })
}

/// One short message of each kind that came up in a whole study with losses.
#[derive(Default)]
struct Heard {
    directives: Vec<Letter<Directive>>,
    machines: Vec<Vec<u8>>,
}

impl Heard {
    fn listen(&mut self, sim: &Sim) {
        for site in 0..sim.sites.len() {
            for letter in sim.machine.directives_for(&name(site)) {
                let kind = discriminant(&letter.message);
                if self.directives.iter().all(|known| discriminant(&known.message) != kind) {
                    self.directives.push(letter);
                    self.machines.push(sim.machine.to_bytes());
                }
            }
        }
    }
}

#[test]
fn strangers_bytes_are_read_faithfully_or_refused() {
    let mut sim = Sim::new(1, 4, &study_text(4, 2, "", ""));
    let mut heard = Heard::default();
    sim.connect_all();
    heard.listen(&sim);
    sim.act(Act::Start);
    while !sim.is_over() && sim.step(&Faults::default()) {
        heard.listen(&sim);
    }
    sim.settle(8_000);
    sim.ends_released_once();
    assert!(heard.directives.len() >= 10, "{}", heard.directives.len());
    let study = sim.machine.study_hash();
    let mut said = BTreeMap::new();
    for (_, message) in &sim.said {
        let letter = Letter { study, message: message.clone() };
        said.entry(format!("{:?}", discriminant(message))).or_insert(letter.to_bytes());
    }
    assert!(said.len() >= 9, "{}", said.len());
    let counts = shapes().map(|shape| {
        let mut counts = EvaluationCounts::new(shape);
        for number in 0..3 {
            let mask = [number as u8];
            let truth = match shape.task() {
                Task::Classification | Task::Ordinal => Truth::Label(Label::Class(number)),
                Task::MultiLabel => Truth::Label(Label::Findings(u64::from(number) + 3)),
                Task::Segmentation => Truth::Mask(&mask),
                Task::Regression => Truth::Label(Label::unknown(Task::Regression)),
            };
            let outputs = if shape.task() == Task::Regression { 1 } else { 3 };
            counts.add(&[0.2, 0.3, 0.5][..outputs], 1.1, truth);
            counts.add(&[0.7, 0.2, 0.1][..outputs], 1.2, truth);
        }
        bytes(counts.to_words())
    });
    let weighted = [vec![16], TrainCounts::new(0.5, 16).to_words()].concat();
    run([
        Target::new("rounds-directive", directive, heard.directives.iter().map(Letter::to_bytes)),
        Target::new("rounds-site-message", site_message, said.into_values()),
        Target::new("rounds-machine", machine, heard.machines),
        Target::canonical::<Record>("rounds-record", sim.records),
        Target::new("rounds-evaluation", evaluation, counts),
        Target::new("rounds-training", training, [bytes(weighted)]),
        Target::canonical("rounds-shape", shapes()),
    ]);
}
