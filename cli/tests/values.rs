//! A study of values, from a table to an estimate, as its users run it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]
#![cfg(feature = "simulate")]

mod common;

use std::path::Path;

use common::{consilium, refused, said};
use consilium_learning::{ModelFile, ModelIdentity, Origin, Preprocessing};
use consilium_study::data::Input;
use consilium_study::graph::ModelSection;
use consilium_study::task::{Range, Task};
use serde_json::json;

const STUDY: &str = r#"
format = 1
name = "bones"
title = "Age by two lengths"
sites = ["a", "b", "c"]
seed = 3
[data]
labels = ["age"]
task = "regression"
range = [0.0, 20.0]
inputs = [{ column = "hand", mean = 10.0, std = 3.0 }, { column = "arm", mean = 20.0, std = 6.0 }]
[model]
layers = [{ kind = "flatten" }, { kind = "linear", outputs = 1 }]
[training]
optimiser = "adam"
learning_rate = 0.02
batch = 8
epochs = 4
[rounds]
count = 6
quorum = 3
"#;

/// Ages follow from both lengths but for half a year; one in fifty is no age.
fn write_table(path: &Path) {
    let mut table = "hand,arm,label,patient\n".to_owned();
    for case in 0..200_u32 {
        let (hand, arm) = (5.0 + f64::from(case * 37 % 100) / 10.0, 10.0 + f64::from(case * 53 % 100) / 5.0);
        let age = 0.8 * hand + 0.3 * arm - 4.0 + f64::from(case * 29 % 11) / 10.0 - 0.5;
        let age = if case % 50 == 0 { "99".to_owned() } else { format!("{age:.2}") };
        table += &format!("{hand:.2},{arm:.2},{age},p{case}\n");
    }
    std::fs::write(path, table).unwrap();
}

#[test]
fn hospitals_learn_how_much_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_table(Path::new(&at("cases.csv")));
    std::fs::write(at("study.toml"), STUDY).unwrap();
    let arguments = ["simulate", &at("study.toml"), "--data", &at("cases.csv"), "--partition", "iid"];
    let told = consilium(folder.path(), &arguments);
    let (last, rounds) = told.split_last().unwrap();
    let (mae, r2) = (last["mae"].as_f64().unwrap(), last["r2"].as_f64().unwrap());
    assert!(mae < 0.6 && r2 > 0.9, "{last}");
    let [low, high] = [0, 1].map(|limit| last["intervals"]["mae"][limit].as_f64().unwrap());
    assert!(low < mae && mae < high, "{last}");
    let figures: Vec<f64> = rounds.iter().map(|round| round["figure"].as_f64().unwrap()).collect();
    assert!(rounds[0]["metric"] == "mae" && figures[5] < figures[0], "{figures:?}");
    let text = said(folder.path(), &arguments);
    assert!(text.contains(": mean absolute error 0.") && text.contains(", R2 0.9"), "{text}");
}

fn write_model(path: &Path) {
    let layers = "layers = [{ kind = \"flatten\" }, { kind = \"linear\", outputs = 1 }]";
    let graph = toml::from_str::<ModelSection>(layers).unwrap().graph([2, 1, 1], 1).unwrap();
    let number = |column: &str| Input::Number { column: column.to_owned(), mean: 0.0, std: 1.0 };
    let identity = ModelIdentity {
        graph,
        preprocessing: Preprocessing::new(0.0, 1.0).unwrap(),
        labels: vec!["age".to_owned()],
        inputs: Some(vec![number("hand"), number("arm")]),
        task: Task::Regression,
        range: Some(Range { low: 0.0, high: 20.0 }),
        beside: None,
    };
    let origin = Origin { study: identity.hash(), round: 1, tuned_from: None };
    let file = ModelFile { identity, origin: Some(origin), model: vec![0.01, 0.02, 0.1] };
    std::fs::write(path, file.to_bytes()).unwrap();
}

#[test]
fn a_model_says_the_value_and_can_be_adapted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_model(Path::new(&at("model.safetensors")));
    std::fs::write(at("new.csv"), "arm,hand\n10,20\n1000,0\n").unwrap();
    let predict = ["model", "predict", "model.safetensors", "new.csv"];
    let told = consilium(folder.path(), &predict);
    // 0.01 of the hand, 0.02 of the arm and 0.1 are half of twenty years; what is beyond the range is its end.
    assert_eq!((&told[0]["label"], &told[1]["value"]), (&json!("age"), &json!(20.0)));
    assert!((told[0]["value"].as_f64().unwrap() - 10.0).abs() < 1e-5, "{told:?}");
    let text = refused(folder.path(), &[&predict[..], &["--temperature", "2"]].concat());
    assert!(text.contains("for probabilities"), "{text}");

    write_table(Path::new(&at("cases.csv")));
    let tune = ["model", "finetune", &at("model.safetensors"), "--data", &at("cases.csv"), "-o", &at("own")];
    let told =
        consilium(folder.path(), &[&tune[..], &["--learning-rate", "0.003", "--epochs", "20"]].concat());
    let last = told.last().unwrap();
    let mae = |when: &str| last["held_out"][when]["mae"].as_f64().unwrap_or_else(|| panic!("{last}"));
    assert!(mae("after") < mae("before") && last["not_used"] == 4, "{last}");
}
