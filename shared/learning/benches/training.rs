//! Images a second in training and in scoring, for the presets, at a number of threads.
//!
//! `cargo bench -p consilium-learning --profile release -- [THREADS]`

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use consilium_learning::{
    Dataset, LocalSeed, LocalTraining, Pixels, Preprocessing, fix_threads, initial, score, train,
};
use consilium_study::graph::{ModelSpec, Preset};
use consilium_study::name::SiteName;
use consilium_study::recipe::{Extent, Training};

fn main() {
    let threads = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(NonZeroUsize::MIN);
    fix_threads(threads).expect("nothing has trained yet");
    println!("{threads} thread(s), batch 32, 28x28x1, Adam");
    for (preset, steps) in
        [(Preset::Logistic, 300), (Preset::SmallCnn, 60), (Preset::CnnBn, 12), (Preset::Resnet18, 3)]
    {
        measure(preset, steps);
    }
}

fn measure(preset: Preset, steps: u32) {
    let graph = ModelSpec::Preset { preset, norm: None }.graph([1, 28, 28], 2).expect("a preset is a model");
    let recipe: Training =
        toml::from_str("optimiser = \"adam\"\nlearning_rate = 0.001\nbatch = 32\nsteps = 1")
            .expect("the recipe is well formed");
    let cases = 256_u32;
    let pixels = (0..cases * 784).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let labels = (0..cases).map(|case| (case % 2) as u16).collect();
    let data = Dataset::new([1, 28, 28], Pixels::Bytes(pixels), labels).expect("lengths agree");
    let preprocessing = Preprocessing::new(0.5, 0.25).expect("both are finite");
    let seed = LocalSeed { study_seed: 1, site: SiteName::new("bench").expect("a name"), round: 0 };
    let mut task = LocalTraining {
        graph: &graph,
        recipe: &recipe,
        preprocessing,
        budget: Extent::Steps(2),
        seed,
        rounds: 1,
    };
    let mut on = |_| ControlFlow::Continue(());
    let warm = train(&task, &initial(&graph, 1), &data, &mut on).expect("two steps do not diverge").model;
    task.budget = Extent::Steps(steps);
    let start = Instant::now();
    let trained = train(&task, &warm, &data, &mut on).expect("a few steps do not diverge");
    let training = trained.examples as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let scored = score(&graph, preprocessing, &warm, &data).expect("the data fit").len();
    let scoring = scored as f64 / start.elapsed().as_secs_f64();
    println!("{:>10}: training {training:>8.0} images/s, scoring {scoring:>8.0} images/s", preset.name());
}
