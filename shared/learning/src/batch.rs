//! Which cases make a batch, and how they get there: chosen, read, varied, mixed.

use std::collections::BTreeMap;

use burn::tensor::Device;
use consilium_study::recipe::Sampling;
use consilium_study::task::Label;

use crate::augment;
use crate::dataset::Dataset;
use crate::interpret::Cases;
use crate::loss::{Mixed, Targets};
use crate::random::{Draws, Purpose};
use crate::train::LocalTraining;

/// What a step learns from.
pub(crate) struct Batch {
    pub(crate) cases: Cases,
    pub(crate) targets: Targets,
}

/// A case in its place of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    case: u32,
    /// How often it came before in this epoch: each time it is varied in another way.
    before: u32,
}

/// Cases in the order of the seed, epoch after epoch. The last batch of an epoch may be shorter.
pub(crate) struct Batches<'a> {
    task: &'a LocalTraining<'a>,
    data: &'a Dataset,
    device: Device,
    order: Vec<Place>,
    epoch: u32,
    next: usize,
}

impl<'a> Batches<'a> {
    /// Batches on `device`.
    pub(crate) fn new(task: &'a LocalTraining<'a>, data: &'a Dataset, device: Device) -> Self {
        let mut batches = Self { task, data, device, order: Vec::new(), epoch: 0, next: 0 };
        batches.begin_epoch();
        batches
    }

    fn begin_epoch(&mut self) {
        let mut draws = Draws::local(&self.task.seed, Purpose::Order, self.epoch, 0);
        self.order = match self.task.recipe.sampling() {
            Sampling::Shuffled => shuffled(self.data.labels(), &mut draws),
            Sampling::Balanced => balanced(self.data.labels(), &mut draws),
        };
        self.next = 0;
    }

    pub(crate) fn next_batch(&mut self) -> Batch {
        if self.next == self.order.len() {
            // At most MAX_STEPS steps or MAX_EPOCHS epochs: far below u32::MAX.
            self.epoch += 1;
            self.begin_epoch();
        }
        let first = self.next;
        self.next = (first + self.task.recipe.batch()).min(self.order.len());
        let places = &self.order[first..self.next];

        let LocalTraining { graph, recipe, preprocessing, seed, .. } = self.task;
        let (augment, unit) = (recipe.augment(), (1.0 / preprocessing.std()) as f32);
        let size = self.data.case_len();
        let [_, height, width] = self.data.shape().map(|side| side as usize);
        let mut images = vec![0.0; places.len() * size];
        let (mut beside, mut labels) = (Vec::new(), Vec::new());
        for (&Place { case, before }, image) in places.iter().zip(images.chunks_exact_mut(size)) {
            self.data.read(case as usize, *preprocessing, image);
            beside.extend_from_slice(self.data.numbers(case as usize));
            let mut mask = self.data.mask(case as usize).to_vec();
            let index = u64::from(before) << 32 | u64::from(case);
            let mut draws = Draws::local(seed, Purpose::Augmentation, self.epoch, index);
            augment::vary(image, &mut mask, [height, width], &augment, unit, &mut draws);
            match self.data.labels()[case as usize] {
                Label::Mask => labels.extend(mask.into_iter().map(u16::from).map(Label::Class)),
                label => labels.push(label),
            }
        }
        let mut targets = Targets { labels, cases: places.len(), mixed: None };
        if augment.mixup > 0.0 {
            let mut draws = Draws::local(seed, Purpose::Mixup, self.epoch, first as u64);
            targets.mixed = Some(mix([&mut images, &mut beside], &targets.labels, augment.mixup, &mut draws));
        }
        Batch { cases: Cases::of(graph, images, beside, &self.device), targets }
    }
}

/// Reads, varies and batches the cases of one epoch as training does, and does no more. Returns how many there were: this
/// is for whoever measures what share of training it takes.
pub fn read_epoch(task: &LocalTraining, data: &Dataset) -> usize {
    let mut batches = Batches::new(task, data, Device::flex().autodiff());
    let steps = data.len().div_ceil(task.recipe.batch());
    (0..steps).map(|_| batches.next_batch().targets.cases).sum()
}

const NUMBERED: &str = "a dataset numbers its cases by u32";

/// Every case once.
fn shuffled(labels: &[Label], draws: &mut Draws) -> Vec<Place> {
    let mut cases: Vec<u32> = (0..u32::try_from(labels.len()).expect(NUMBERED)).collect();
    draws.shuffle(&mut cases);
    cases.into_iter().map(|case| Place { case, before: 0 }).collect()
}

/// The cases of one class, as a deck that is shuffled anew before each deal.
#[derive(Default)]
struct Deck {
    cases: Vec<u32>,
    next: usize,
    deals: u32,
}

impl Deck {
    fn take(&mut self, draws: &mut Draws) -> Place {
        if self.next == 0 {
            draws.shuffle(&mut self.cases);
        }
        let place = Place { case: self.cases[self.next], before: self.deals };
        self.next += 1;
        if self.next == self.cases.len() {
            (self.next, self.deals) = (0, self.deals + 1);
        }
        place
    }
}

/// As many places as cases. Each is for a class drawn evenly from those that there are, and for the next case of its deck.
fn balanced(labels: &[Label], draws: &mut Draws) -> Vec<Place> {
    let mut decks: BTreeMap<Label, Deck> = BTreeMap::new();
    for (case, &label) in (0_u32..).zip(labels) {
        decks.entry(label).or_default().cases.push(case);
    }
    let mut decks: Vec<Deck> = decks.into_values().collect();
    let classes = u32::try_from(decks.len()).expect(NUMBERED);
    labels.iter().map(|_| decks[draws.below(classes) as usize].take(draws)).collect()
}

/// Mixes each case of a batch with that of a shuffled batch, all in one share drawn from `Beta(alpha, alpha)` (Zhang et al.
/// 2018): its image, and the numbers beside it. Returns what the others are.
fn mix(parts: [&mut [f32]; 2], labels: &[Label], alpha: f64, draws: &mut Draws) -> Mixed {
    let share = draws.beta(alpha);
    let mut others: Vec<u32> = (0..u32::try_from(labels.len()).expect(NUMBERED)).collect();
    draws.shuffle(&mut others);
    let (own, rest) = (share as f32, (1.0 - share) as f32);
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let before = part.to_vec();
        let size = part.len() / labels.len();
        for (case, &other) in part.chunks_exact_mut(size).zip(&others) {
            let other = &before[other as usize * size..][..size];
            case.iter_mut().zip(other).for_each(|(value, other)| *value = own * *value + rest * other);
        }
    }
    Mixed { labels: others.iter().map(|&other| labels[other as usize]).collect(), share }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Pixels;
    use crate::tensors::values;
    use crate::testing::{SHORT, cases, graph, recipe, task};
    use consilium_study::graph::Preset;
    use consilium_study::hash::Hash;
    use proptest::prelude::*;

    /// Two epochs of a recipe, as bytes: what studies that ran before have drawn, their repetition has to draw.
    #[test]
    fn what_was_drawn_stays_drawn() {
        let (graph, recipe) = (graph(Preset::Logistic, None), recipe(SHORT));
        let task = task(&graph, &recipe, "a", 1);
        let data = cases(20, 0);
        let mut batches = Batches::new(&task, &data, Device::flex().autodiff());
        let mut bytes = Vec::new();
        for _ in 0..6 {
            let batch = batches.next_batch();
            bytes
                .extend(values(&batch.cases.images.into_data()).iter().flat_map(|value| value.to_be_bytes()));
            let classes = batch.targets.labels.iter().filter_map(|label| label.class());
            bytes.extend(classes.flat_map(u16::to_be_bytes));
        }
        assert_eq!(
            Hash::of_bytes(&bytes).to_string(),
            "9d818d01b4a6d63ae0bab5da16f7cbee540fe338d8ee8f463650a4c8582af7c0"
        );
    }

    #[test]
    fn an_epoch_is_read_without_training() {
        let (graph, recipe) = (graph(Preset::Logistic, None), recipe(SHORT));
        assert_eq!(read_epoch(&task(&graph, &recipe, "a", 0), &cases(20, 0)), 20);
    }

    proptest! {
        /// An epoch is as long as there are cases; decks of one class come in turn, each time varied in another way.
        #[test]
        fn balanced_epochs_deal_each_class_in_turn(classes in prop::collection::vec(0_u16..4, 1..60), seed in 0_usize..1000) {
            let labels: Vec<Label> = classes.into_iter().map(Label::Class).collect();
            let places = balanced(&labels, &mut Draws::initial(seed as u64, 0));
            prop_assert_eq!(places.len(), labels.len());
            let mut taken = vec![0_u32; labels.len()];
            for place in &places {
                let of_class = |case: usize| labels[case] == labels[place.case as usize];
                prop_assert_eq!(place.before, taken[place.case as usize]);
                let least = (0..labels.len()).filter(|case| of_class(*case)).map(|case| taken[case]).min();
                prop_assert_eq!(least, Some(place.before), "a case comes again before another has come as often");
                taken[place.case as usize] += 1;
            }
        }

        /// One class, and one case, are what they are without balance: every case once.
        #[test]
        fn a_site_with_one_class_passes_each_case_once(cases in 1_usize..40, label in 0_u16..4) {
            let places = balanced(&vec![Label::Class(label); cases], &mut Draws::initial(1, 0));
            let mut all: Vec<u32> = places.iter().map(|place| place.case).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..cases as u32).collect::<Vec<_>>());
            prop_assert!(places.iter().all(|place| place.before == 0));
        }
    }

    #[test]
    fn each_class_that_is_there_is_as_likely() {
        // One case in ten is of class 0, none of class 1.
        let labels: Vec<Label> =
            (0..3000).map(|case| Label::Class(if case % 10 == 0 { 0 } else { 2 })).collect();
        let places = balanced(&labels, &mut Draws::initial(1, 0));
        let rare = places.iter().filter(|place| labels[place.case as usize].holds(0)).count();
        // Binomial(3000, 0.5): standard deviation 27.
        assert!(rare.abs_diff(1500) < 140, "{rare}");
    }

    #[test]
    fn a_case_that_comes_again_is_varied_in_another_way() {
        let graph = graph(Preset::Logistic, None);
        let recipe =
            recipe(&format!("{SHORT}\nsampling = \"balanced\"").replace("flip = true", "noise = 0.1"));
        let task = task(&graph, &recipe, "a", 0);
        // One case of class 1 among seven of class 0: it comes about four times in an epoch.
        let mut labels = vec![0_u16; 7];
        labels.push(1);
        let data = Dataset::new([1, 8, 8], Pixels::Bytes(vec![100; 8 * 64]), labels).unwrap();
        let batch = Batches::new(&task, &data, Device::flex().autodiff()).next_batch();
        let images = values(&batch.cases.images.into_data());
        let rare: Vec<&[f32]> = images
            .chunks(64)
            .zip(&batch.targets.labels)
            .filter(|(_, label)| label.holds(1))
            .map(|(image, _)| image)
            .collect();
        assert!(rare.len() > 1, "the seed of this test draws it more than once");
        assert!(rare.iter().enumerate().all(|(at, image)| !rare[..at].contains(image)));
    }

    #[test]
    fn mixed_cases_are_sums_of_two_in_one_share() {
        // Case k is all k, so a mixed value tells what went in.
        let labels: Vec<Label> = (0..6).map(Label::Class).collect();
        for seed in 0..50 {
            let mut images: Vec<f32> = (0..18).map(|place| (place / 3) as f32).collect();
            let mut beside: Vec<f32> = (0..12).map(|place| (place / 2) as f32).collect();
            let mixed = mix([&mut images, &mut beside], &labels, 0.4, &mut Draws::initial(seed, 0));
            let mut others = mixed.labels.clone();
            others.sort_unstable();
            assert_eq!(others, labels, "the others are the same batch in another order");
            for (case, (image, numbers)) in images.chunks(3).zip(beside.chunks(2)).enumerate() {
                let want = mixed.share * case as f64
                    + (1.0 - mixed.share) * f64::from(mixed.labels[case].class().unwrap());
                assert!(
                    image.iter().chain(numbers).all(|value| (f64::from(*value) - want).abs() < 1e-5),
                    "{image:?} {want}"
                );
            }
        }
    }
}
