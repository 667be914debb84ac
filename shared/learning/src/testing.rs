//! What tests of training train.

use consilium_study::graph::{ModelGraph, ModelSpec, Norm, Preset};
use consilium_study::name::SiteName;
use consilium_study::preprocessing::Preprocessing;
use consilium_study::recipe::Training;

use crate::dataset::{Dataset, Pixels};
use crate::random::{Draws, LocalSeed};
use crate::train::LocalTraining;

/// Pictures of 8x8: class 1 is brighter in its middle, under noise.
pub(crate) fn cases(count: u32, seed: usize) -> Dataset {
    let mut draws = Draws::initial(99, seed);
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for case in 0..count {
        let label = (case % 2) as u16;
        for place in 0..64_usize {
            let middle = (2..6).contains(&(place / 8)) && (2..6).contains(&(place % 8));
            let signal = if middle && label == 1 { 0.4 } else { 0.0 };
            pixels.push(signal + 0.5 * draws.unit());
        }
        labels.push(label);
    }
    Dataset::new([1, 8, 8], Pixels::Floats(pixels), labels).unwrap()
}

pub(crate) fn graph(preset: Preset, norm: Option<Norm>) -> ModelGraph {
    ModelSpec::Preset { preset, norm, stem: None }.graph([1, 8, 8], 2).unwrap()
}

pub(crate) fn recipe(text: &str) -> Training {
    toml::from_str(text).unwrap()
}

pub(crate) const SHORT: &str =
    "optimiser = \"adam\"\nlearning_rate = 0.003\nbatch = 8\nepochs = 2\naugment = { flip = true, crop = 1 }";

pub(crate) fn task<'a>(
    graph: &'a ModelGraph,
    recipe: &'a Training,
    site: &str,
    round: u32,
) -> LocalTraining<'a> {
    let preprocessing = Preprocessing::new(0.3, 0.2).unwrap();
    let seed = LocalSeed { study_seed: 5, site: SiteName::new(site).unwrap(), round };
    LocalTraining {
        graph,
        recipe,
        preprocessing,
        budget: recipe.extent(),
        seed,
        rounds: 4,
        covers: 1,
        proximal_weight: 0.0,
        correction: None,
    }
}
