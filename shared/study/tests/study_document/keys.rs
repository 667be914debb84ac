//! Words that a study does not know, and values of the wrong kind.

use consilium_study::check::Problem;
use consilium_study::document::{Draft, InvalidStudy};

use super::{FULL, draft, edited};

#[test]
fn values_of_the_wrong_kind_are_refused_with_their_line() {
    for (from, to, key) in [
        ("\"2h\"", "7200", "rounds.collect_timeout"),
        ("\"2h\"", "\"7200\"", "rounds.collect_timeout"),
        ("chunk = \"1MiB\"", "chunk = 1048576", "aggregation.chunk"),
        ("seed = 1", "seed = -1", "seed"),
        ("seed = 1\n", "", "seed"),
        ("holdout = 0.2", "holdout = nan", "data.holdout"),
        ("clip_norm = 10.0", "clip_norm = inf", "aggregation.clip_norm"),
        ("clip_norm = 10.0", "clip_norm = 0.0", "aggregation.clip_norm"),
        ("name = \"pneumonia\"", "name = \"../pneumonia\"", "name"),
        ("kind = \"fedavg\"", "kind = \"krum\"", "rounds.strategy.kind"),
        (
            "kind = \"fedavg\"",
            "kind = \"fedavg\", server_learning_rate = 0.0",
            "rounds.strategy.server_learning_rate",
        ),
        ("recommend = \"auroc\"", "recommend = \"auruc\"", "evaluation.recommend"),
    ] {
        let error = Draft::from_toml(&edited(from, to)).expect_err(to);
        assert!(matches!(error, InvalidStudy::Syntax { .. }), "{to}: {error}");
        assert!(error.to_string().contains("line "), "{to}: {error}");
        assert_eq!(error.key().as_deref(), Some(key), "{to}: {error}");
    }
}

#[test]
fn a_study_without_labels_is_told_of_labels_and_not_of_a_layer() {
    let text = edited("\"normal\", \"pneumonia\"", "").replace("class_weights = [1.0, 2.0]\n", "");
    let error = Draft::from_toml(&text).unwrap_err();
    let keys: Vec<_> = error.problems().iter().map(Problem::key).collect();
    assert_eq!(keys, ["data.labels"], "{error}");
}

#[test]
fn one_letter_off_in_any_key_is_an_error() {
    let mut tried = 0;
    let bytes = FULL.as_bytes();
    let mut in_text = false;
    for (at, &byte) in bytes.iter().enumerate() {
        in_text ^= byte == b'"';
        if in_text || !(byte.is_ascii_lowercase() || byte == b'_') || !is_key(&FULL[at..]) {
            continue;
        }
        for letter in [b'x', b'e', b'_'] {
            if letter == byte {
                continue;
            }
            let mut changed = bytes.to_vec();
            changed[at] = letter;
            let changed = String::from_utf8(changed).unwrap();
            assert!(Draft::from_toml(&changed).is_err(), "at {at}:\n{changed}");
            tried += 1;
        }
    }
    assert!(tried > 1000, "only {tried} mutations were tried");
}

/// Whether the word that `rest` begins in is a key or the name of a section.
fn is_key(rest: &str) -> bool {
    let after = rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase() || letter == '_');
    after.starts_with(" =") || after.starts_with("]\n")
}

#[test]
fn unknown_keys_are_refused_in_every_section() {
    let sections = [
        "[data]\n",
        "[model]\n",
        "[training]\n",
        "[rounds]\n",
        "[aggregation]\n",
        "[evaluation]\n",
        "format = 1\n",
    ];
    for section in sections {
        let error =
            Draft::from_toml(&edited(section, &format!("{section}surprise = 1\n"))).expect_err(section);
        assert!(error.to_string().contains("surprise"), "{section}: {error}");
    }
    for table in ["{ flip = true", "{ kind = \"fedavg\"", "{ max_loss_increase = 0.1"] {
        assert!(Draft::from_toml(&edited(table, &format!("{table}, surprise = 1"))).is_err(), "{table}");
    }
}

#[test]
fn every_layer_refuses_unknown_keys() {
    let layers = [
        "kind = \"conv2d\", filters = 4, kernel = 3, padding = 1",
        "kind = \"batch-norm\"",
        "kind = \"group-norm\", groups = 2",
        "kind = \"activation\", function = \"relu\"",
        "kind = \"max-pool\", size = 2",
        "kind = \"average-pool\", size = 2",
        "kind = \"residual\", main = [{ kind = \"conv2d\", filters = 4, kernel = 3, padding = 1 }]",
        "kind = \"layer-norm\"",
        "kind = \"concat\", branches = [[], []]",
        "kind = \"squeeze-excitation\", reduction = 4",
        "kind = \"transposed-conv2d\", filters = 4, kernel = 2, stride = 2",
        "kind = \"global-average-pool\"",
        "kind = \"dropout\", rate = 0.5",
        "kind = \"linear\", outputs = 2",
    ];
    let file = |changed: Option<usize>| {
        let list: Vec<String> = layers
            .iter()
            .enumerate()
            .map(|(at, layer)| {
                format!("{{ {layer}{} }}", if changed == Some(at) { ", surprise = 1" } else { "" })
            })
            .collect();
        edited("preset = \"small-cnn\"\nnorm = \"group\"\n", &format!("layers = [{}]\n", list.join(", ")))
    };
    draft(&file(None));
    for (at, layer) in layers.iter().enumerate() {
        let error = Draft::from_toml(&file(Some(at))).expect_err(layer).to_string();
        assert!(error.contains("surprise"), "{error}");
    }
}
