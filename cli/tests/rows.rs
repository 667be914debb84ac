//! `consilium model predict` and `model finetune` on rows of tables, as a hospital runs them.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]
#![cfg(feature = "predict")]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{consilium, refused};
use consilium_learning::{Dataset, ModelFile, ModelIdentity, Origin, Pixels, Preprocessing, score};
use consilium_study::data::Input;
use consilium_study::graph::{ModelSpec, Preset};
use consilium_study::hash::Hash;
use consilium_study::task::{Label, Task};
use serde_json::{Value, json};

fn inputs() -> Vec<Input> {
    let number = |column: &str, mean, std| Input::Number { column: column.to_owned(), mean, std };
    let is = Input::Indicator { column: "pain".to_owned(), is: "4".to_owned() };
    vec![number("age", 50.0, 10.0), number("chol", 200.0, 50.0), is]
}

fn released(model: Vec<f32>, origin: Option<Origin>) -> ModelFile {
    let graph =
        ModelSpec::Preset { preset: Preset::Logistic, norm: None, stem: None }.graph([3, 1, 1], 2).unwrap();
    let identity = ModelIdentity {
        graph,
        preprocessing: Preprocessing::new(0.0, 1.0).unwrap(),
        labels: vec!["no".to_owned(), "yes".to_owned()],
        inputs: Some(inputs()),
        task: Task::Classification,
        range: None,
        beside: None,
    };
    ModelFile { identity, origin, model }
}

fn origin() -> Origin {
    Origin { study: Hash::of_bytes(b"study"), round: 3, tuned_from: None }
}

fn write(folder: &Path, name: &str, file: &ModelFile) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, file.to_bytes()).unwrap();
    path
}

#[test]
fn a_row_gets_the_scores_that_it_has_in_training() {
    let folder = tempfile::tempdir().unwrap();
    let file = released(vec![0.3, -0.2, 0.1, 0.5, 0.7, -0.4, 0.05, 0.0], Some(origin()));
    write(folder.path(), "model.safetensors", &file);
    // As a spreadsheet writes it: with a byte order mark and both letters of a line's end.
    let table = "\u{feff}age,pain,id,chol\r\n60,4,a,250\r\n 45.5 ,4.0,b,?\r\nold,2,c,210\r\n40,1,d,190\r\n";
    fs::write(folder.path().join("cases.csv"), table).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_consilium"));
    command.args(["model", "predict", "model.safetensors", "cases.csv"]).current_dir(folder.path());
    let text: Output = command.output().unwrap();
    let output: Output = command.arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "two rows are not usable");
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let numbers = vec![1.0, 1.0, 1.0, -1.0, -0.2, 0.0];
    let cases = Dataset::new([3, 1, 1], Pixels::Floats(numbers), vec![Label::Class(0); 2]).unwrap();
    let identity = &file.identity;
    let wanted = score(&identity.graph, identity.preprocessing, identity.task, &file.model, &cases).unwrap();
    for ((at, row), want) in [(0, 1), (3, 4)].into_iter().zip(wanted.iter()) {
        assert_eq!((&lines[at]["file"], &lines[at]["row"]), (&json!("cases.csv"), &json!(row)));
        for (class, label) in ["no", "yes"].into_iter().enumerate() {
            let got = lines[at]["probabilities"][label].as_f64().unwrap();
            assert!((got - f64::from(want[class])).abs() < 1e-6, "{got}");
        }
    }
    assert_eq!((&lines[1]["reason"], &lines[1]["row"]), (&json!("missing_value"), &json!(2)));
    assert_eq!((&lines[2]["reason"], &lines[2]["row"]), (&json!("not_a_number"), &json!(3)));
    assert!(lines[2]["explanation"].as_str().unwrap().ends_with("(column age)"));
    assert_eq!(lines[4], json!({ "scored": 2, "failed": 2, "passed_over": 0 }));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("cases.csv, row 1: ") && text.ends_with("2 scored, 2 not read\n"), "{text}");

    fs::write(folder.path().join("narrow.csv"), "age,pain\n60,4\n").unwrap();
    let error = refused(folder.path(), &["model", "predict", "model.safetensors", "narrow.csv"]);
    assert!(error.contains("no column \"chol\""), "{error}");
}

/// Patients of one hospital, where high values of `chol` mean "yes".
fn write_hospital(path: &Path) {
    let mut table = "patient,age,chol,pain,label\n".to_owned();
    for case in 0..300_u32 {
        let noise = case.wrapping_mul(2_654_435_761) >> 16;
        let chol = 140 + noise % 120;
        let label = if chol + noise % 17 > 208 { "yes" } else { "no" };
        writeln!(table, "p{},{},{chol},{},{label}", case / 2, 40 + noise % 23, 1 + noise % 4).unwrap();
    }
    fs::write(path, table).unwrap();
}

#[test]
fn a_released_model_is_adapted_where_that_helps_and_never_over_a_file() {
    let folder = tempfile::tempdir().unwrap();
    write_hospital(&folder.path().join("cases.csv"));
    // The released model knows nothing of `chol`.
    let start = released(vec![0.0; 8], Some(origin()));
    let path = write(folder.path(), "released.safetensors", &start);
    let typed =
        ["model", "finetune", "released.safetensors", "--data", "cases.csv", "-o", "mine.safetensors"];
    let faster = [&typed[..], &["--learning-rate", "0.05", "--epochs", "5"]].concat();
    let lines = consilium(folder.path(), &faster);
    let said = lines.last().unwrap();
    let (before, after) = (&said["held_out"]["before"], &said["held_out"]["after"]);
    assert!((before["loss"].as_f64().unwrap() - 2.0_f64.ln()).abs() < 1e-6, "{said}");
    assert!(after["loss"].as_f64().unwrap() < 0.55 && after["auroc"].as_f64().unwrap() > 0.9, "{said}");
    let difference = &said["held_out"]["difference"];
    let apart = after["loss"].as_f64().unwrap() - before["loss"].as_f64().unwrap();
    assert!((difference["mean"].as_f64().unwrap() - apart).abs() < 1e-9);
    assert_eq!(
        (&difference["count"], &said["may_know_held_out"]),
        (&said["held_out"]["cases"], &json!(true))
    );
    let cases = said["held_out"]["cases"].as_u64().unwrap() + said["train_cases"].as_u64().unwrap();
    assert_eq!(cases, 300);

    let bytes = fs::read(folder.path().join("mine.safetensors")).unwrap();
    let adapted = ModelFile::from_bytes(&bytes).unwrap();
    let hash = Hash::of_bytes(&fs::read(&path).unwrap());
    assert_eq!(adapted.origin, Some(Origin { tuned_from: Some(hash), ..origin() }));
    assert_eq!(adapted.identity, start.identity);
    assert_eq!((&said["hash"], &said["tuned_from"]), (&json!(Hash::of_bytes(&bytes)), &json!(hash)));
    let error = refused(folder.path(), &faster);
    assert!(error.contains("mine.safetensors is there already"), "{error}");
    assert_eq!(fs::read(folder.path().join("mine.safetensors")).unwrap(), bytes);

    // One that is good already is only spoilt by large steps.
    write(folder.path(), "released.safetensors", &adapted);
    let worse =
        [&typed[..5], &["-o", "worse.safetensors", "--learning-rate", "30", "--epochs", "2"]].concat();
    let error = refused(folder.path(), &worse);
    assert!(error.contains("worse on the held-out cases") && error.contains("--force"), "{error}");
    assert!(!folder.path().join("worse.safetensors").exists());
    consilium(folder.path(), &[&worse[..], &["--force"]].concat());
    assert!(folder.path().join("worse.safetensors").exists());
}

#[test]
fn what_cannot_be_adapted_is_refused_before_anything_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    write_hospital(&folder.path().join("cases.csv"));
    write(folder.path(), "released.safetensors", &released(vec![0.0; 8], Some(origin())));
    write(folder.path(), "initial.safetensors", &released(vec![0.0; 8], None));
    fs::write(folder.path().join("short.key"), [1; 31]).unwrap();
    for (model, more, part) in [
        ("initial.safetensors", &[][..], "comes from no study"),
        ("released.safetensors", &["--holdout", "0"], "no case is held out"),
        ("released.safetensors", &["--holdout", "1"], "--holdout 1"),
        ("released.safetensors", &["--epochs", "0"], "epochs"),
        ("released.safetensors", &["--split-key", "short.key"], "no key of 32 bytes"),
    ] {
        let typed = ["model", "finetune", model, "--data", "cases.csv", "-o", "mine.safetensors"];
        let error = refused(folder.path(), &[&typed[..], more].concat());
        assert!(error.contains(part), "{model} {more:?}: {error}");
        assert!(!folder.path().join("mine.safetensors").exists());
    }
    // The agent's key decides who is held out.
    let held_out = |key: u8| {
        fs::write(folder.path().join("split.key"), [key; 32]).unwrap();
        let output = format!("tuned-{key}.safetensors");
        let typed =
            ["model", "finetune", "released.safetensors", "--data", "cases.csv", "-o", &output, "--force"];
        let lines = consilium(folder.path(), &[&typed[..], &["--split-key", "split.key"]].concat());
        assert_eq!(lines[0]["may_know_held_out"], false);
        (lines[0]["held_out"]["cases"].clone(), lines[0]["hash"].clone())
    };
    assert_ne!(held_out(1), held_out(2));
}
