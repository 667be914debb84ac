//! `consilium reproduce` as a person starts it: cells that are done stay done.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]
#![cfg(feature = "simulate")]

mod common;

use std::fs;
use std::path::Path;

use common::{consilium, refused, write_archive};
use serde_json::{Value, json};

fn reproduce(experiment: &str, data: &Path, folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let paths = ["--data", data.to_str().unwrap(), "--folder", folder.to_str().unwrap()];
    consilium(Path::new("."), &[&["reproduce", experiment], &paths[..], arguments].concat())
}

fn states(lines: &[Value]) -> Vec<(&str, &str)> {
    let cells = lines.iter().filter(|line| line["cell"].is_string());
    cells.map(|line| (line["cell"].as_str().unwrap(), line["state"].as_str().unwrap())).collect()
}

#[test]
fn what_was_stopped_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (data, results) = (folder.path().join("cases.npz"), folder.path().join("results"));
    write_archive(&data, 28);
    let run = |arguments: &[&str]| reproduce("pneumoniamnist", &data, &results, arguments);
    let short = ["--epochs", "1", "--seeds", "1"];

    let lines = run(&[&short[..], &["--only", "small-cnn/pooled"]].concat());
    assert_eq!(states(&lines), [("small-cnn/pooled/1", "done")]);
    let summary = lines.last().unwrap();
    assert_eq!(summary["final"], true);
    assert_eq!(summary["arms"][0]["auroc"]["count"], 1);
    let missing = summary["not_run"].as_array().unwrap();
    assert_eq!(missing.len(), 7, "{missing:?}");
    assert!(missing[0]["command"].as_str().unwrap().ends_with("--seeds 1 --only small-cnn/federated-iid"));

    let lines = run(&[&short[..], &["--only", "small-cnn"]].concat());
    let expected = [
        ("small-cnn/pooled/1", "kept"),
        ("small-cnn/federated-iid/1", "done"),
        ("small-cnn/federated-dirichlet/1", "done"),
        ("small-cnn/alone-dirichlet/1", "done"),
        ("small-cnn/finetuned-dirichlet/1", "done"),
    ];
    assert_eq!(states(&lines), expected);
    let alone = lines.iter().find(|line| line["cell"] == "small-cnn/alone-dirichlet/1").unwrap();
    assert_eq!(alone["sites"].as_array().unwrap().len(), 4);
    let tuned = lines.iter().find(|line| line["cell"] == "small-cnn/finetuned-dirichlet/1").unwrap();
    assert_eq!(tuned["test_cases"], alone["test_cases"]);
    for site in tuned["sites"].as_array().unwrap() {
        assert!(site["auroc"].is_f64() && site["own"]["before"]["loss"].is_f64(), "{site}");
        assert_ne!(site["own"]["before"], site["own"]["after"]);
    }
    assert_eq!(states(&run(&[&short[..], &["--show"]].concat())).len(), 5);

    // Another recipe, or other data, are another figure.
    assert_eq!(states(&run(&["--epochs", "2", "--seeds", "1", "--show"])), []);
    write_archive(&data, 27);
    assert_eq!(states(&run(&[&short[..], &["--show"]].concat())), []);
}

#[test]
fn what_is_not_there_is_said_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("cases.npz");
    write_archive(&data, 28);
    let error =
        refused(folder.path(), &["reproduce", "pneumoniamnist", "--data", "cases.npz", "--only", "resnet50"]);
    assert!(error.contains("small-cnn/pooled, "), "{error}");
    assert!(!folder.path().join("consilium-reproduce").exists());
}

#[test]
fn a_study_of_ones_own_is_compared_over_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let (data, study) = (folder.path().join("cases.npz"), folder.path().join("study.toml"));
    write_archive(&data, 8);
    let text = "format = 1\nname = \"mine\"\ntitle = \"Mine\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
         [data]\nlabels = [\"dark\", \"bright\"]\nchannels = 1\nheight = 8\nwidth = 8\nmean = 0.5\nstd = 0.25\n\
         [model]\npreset = \"logistic\"\n\
         [training]\noptimiser = \"adam\"\nlearning_rate = 0.01\nbatch = 8\nepochs = 1\n\
         [rounds]\ncount = 4\nquorum = 3\n";
    fs::write(&study, text).unwrap();
    let typed = ["compare", "study.toml", "--data", "cases.npz", "--partition", "iid"];
    let run = |arguments: &[&str]| consilium(folder.path(), &[&typed[..], arguments].concat());
    let lines = run(&["--seeds", "2"]);
    let arms = lines.last().unwrap()["arms"].as_array().unwrap();
    let names: Vec<_> = arms.iter().map(|arm| arm["arm"].as_str().unwrap()).collect();
    assert_eq!(names, ["pooled", "federated", "alone", "finetuned"]);
    for arm in arms {
        let auroc = &arm["auroc"];
        assert!(auroc["mean"].as_f64().unwrap() > 0.9 && auroc["half"].is_f64(), "{arm}");
    }
    // The same again runs nothing; one more seed runs that alone.
    let kept = |lines: &[Value]| states(lines).iter().filter(|(_, state)| *state == "kept").count();
    let more = run(&["--seeds", "3", "--only", "federated"]);
    assert_eq!((kept(&more), states(&more).len()), (8, 9));
    assert_eq!(more.last().unwrap()["not_run"].as_array().unwrap().len(), 3);
}

/// Every cell is tried, whatever becomes of those before it.
#[test]
fn a_cell_that_comes_to_nothing_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    write_archive(&folder.path().join("cases.npz"), 8);
    let text = "format = 1\nname = \"wild\"\ntitle = \"Wild\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
         [data]\nlabels = [\"dark\", \"bright\"]\nchannels = 1\nheight = 8\nwidth = 8\nmean = 0.5\nstd = 0.25\n\
         [model]\npreset = \"logistic\"\n\
         [training]\noptimiser = \"sgd\"\nlearning_rate = 1e4\nweight_decay = 1.0\nbatch = 8\nepochs = 4\n\
         [rounds]\ncount = 4\nquorum = 3\n";
    fs::write(folder.path().join("study.toml"), text).unwrap();
    let typed = ["compare", "study.toml", "--data", "cases.npz", "--partition", "iid", "--seeds", "1"];
    let error = refused(folder.path(), &typed);
    assert!(error.contains("no result of pooled/1: training diverged in step "), "{error}");
    assert!(error.contains("(and 3 more)"), "{error}");
    let error = refused(folder.path(), &[&typed[..], &["--only", "federated"]].concat());
    assert!(error.contains("no result of federated/1: the study cannot go on; it waits for "), "{error}");
    assert!(error.contains("a lower training.learning_rate helps"), "{error}");
}

/// Four hospitals with tables in the shape of UCI's files.
#[test]
fn rows_of_four_hospitals_are_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    for (hospital, rows) in [("cleveland", 303_u32), ("hungarian", 294), ("switzerland", 123), ("va", 200)] {
        let row = |row: u32| {
            let sick = row % 2;
            let (age, chol) = (
                40 + row % 23 + 12 * sick,
                if row.is_multiple_of(9) { "?".to_owned() } else { (180 + row % 80).to_string() },
            );
            format!(
                "{age},1,{},130,{chol},0,{},{},{sick},1.5,2,?,?,{}\n",
                1 + row % 4,
                row % 3,
                150 - 30 * sick,
                3 * sick
            )
        };
        let text: String = (0..rows).map(row).collect();
        fs::write(folder.path().join(format!("processed.{hospital}.data")), text).unwrap();
    }
    let results = folder.path().join("results");
    let lines = reproduce("heart-disease", folder.path(), &results, &["--seeds", "1"]);
    let summary = lines.last().unwrap();
    assert_eq!(summary["not_run"], json!([]));
    for arm in summary["arms"].as_array().unwrap() {
        assert!(arm["accuracy"]["mean"].as_f64().unwrap() > 0.8, "{arm}");
    }
    // Whole rows of the published test patients.
    let pooled = &lines[0];
    assert_eq!(pooled["cell"], "pooled/1");
    let (test, train) = (pooled["test_cases"].as_u64().unwrap(), pooled["train_cases"].as_u64().unwrap());
    assert!(test < 254 && test > 200 && train > 500, "{pooled}");

    fs::write(folder.path().join("processed.va.data"), "1,2,3\n").unwrap();
    let error = refused(folder.path(), &["reproduce", "heart-disease", "--data", "."]);
    assert!(error.contains("processed.va.data, line 1: 3 values in place of 14"), "{error}");
}
