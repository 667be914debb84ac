//! Frozen and local layers: they are in no sum, and no model that a study makes changes them.

use consilium_rounds::Act;
use consilium_rounds::record::Record;
use consilium_study::document::Draft;
use consilium_study::graph::Treatment;

use crate::parts::{SHARED, study_text};
use crate::sim::Sim;

/// A frozen convolution of 40 entries, a local batch normalisation of 16, and a linear layer of 34 that is averaged.
const MODEL: &str = r#"frozen = ["conv2d"]
local = ["batch-norm"]
layers = [
    { kind = "conv2d", filters = 4, kernel = 3, padding = 1 },
    { kind = "batch-norm" },
    { kind = "max-pool", size = 2 },
    { kind = "flatten" },
    { kind = "linear", outputs = 2 },
]"#;

fn study(sites: usize, extra: &str, aggregation: &str) -> String {
    let text = study_text(sites, 3, extra, "").replace("preset = \"logistic\"", MODEL);
    format!("{text}\n[aggregation]\n{aggregation}\n")
}

#[test]
fn what_is_not_averaged_stays_as_it_was_under_every_strategy() {
    for (extra, keeps_moments) in [
        ("", false),
        ("strategy = { kind = \"fedavg\", server_learning_rate = 1.5 }", false),
        ("strategy = { kind = \"fedavgm\", server_momentum = 0.9 }", false),
        ("strategy = { kind = \"fedadam\", server_learning_rate = 0.1 }", true),
        ("strategy = { kind = \"fedyogi\", server_learning_rate = 0.1 }", true),
    ] {
        for aggregation in ["", "ring_bits = 16"] {
            let what = format!("{extra} {aggregation}");
            let mut sim = Sim::new(7, 4, &study(4, extra, aggregation));
            sim.connect_all();
            sim.act(Act::Start);
            sim.settle(4_000);
            sim.ends_released_once();
            let graph = &sim.machine.study().model;
            assert_eq!((graph.len(), graph.averaged_len()), (40 + 16 + 34, 34), "{what}");
            let initial = &sim.models[&sim.machine.study().initial_model()];
            let first = graph.averaged().next().unwrap().range().start;
            let mut candidates = 0;
            for record in &sim.records {
                let Record::Opened(sum) = record else { continue };
                let Some(candidate) = sum.candidate else { continue };
                candidates += 1;
                let model = &sim.models[&candidate];
                assert_eq!(graph.altered(initial, model), None, "{what}");
                assert!(model[first + SHARED] > initial[first + SHARED], "{what}");
                assert_eq!(sum.moments.is_some(), keeps_moments);
                for moment in sum.moments.into_iter().flatten().map(|moment| &sim.models[&moment]) {
                    let kept =
                        graph.parameters().iter().filter(|block| block.treatment() != Treatment::Averaged);
                    assert!(
                        kept.flat_map(|block| &moment[block.range()]).all(|entry| *entry == 0.0),
                        "{what}"
                    );
                    assert!(moment[first + SHARED] > 0.0, "{what}");
                }
            }
            assert_eq!(candidates, 3, "{what}");
        }
    }
}

#[test]
fn an_upload_has_the_averaged_entries_alone() {
    for aggregation in ["", "ring_bits = 16"] {
        let words = |text: &str| {
            let study = Draft::from_toml(text).unwrap().with_initial_model(crate::parts::hash_of_model(&[]));
            let ranges = consilium_rounds::vector::Ranges::first(&study);
            consilium_rounds::vector::train_layout(&study, &ranges).unwrap().words()
        };
        let (some, all) = (
            study(3, "", aggregation),
            study(3, "", aggregation).replace("frozen", "# ").replace("local", "# "),
        );
        let saved = words(&all) - words(&some);
        // Weights, biases, scale and shift as pairs in the packed ring, statistics as words in either; and for each of six
        // blocks a count of saturated entries.
        if aggregation.is_empty() {
            assert_eq!(saved, 40 + 16 + 6);
        } else {
            assert!(saved >= 48 / 2 + 8 + 6, "{saved}");
        }
    }
}
