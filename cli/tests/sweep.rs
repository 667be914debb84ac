//! `consilium study sweep` as a person starts it: children of a study, written and tried out.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]
#![cfg(feature = "simulate")]

mod common;

use std::fs;
use std::path::Path;

use common::{consilium, refused, write_archive, write_archive_tested};
use consilium_study::document::Draft;
use consilium_study::hash::Hash;
use serde_json::{Value, json};

const STUDY: &str = "format = 1\nname = \"mine\"\ntitle = \"Mine\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
    [data]\nlabels = [\"dark\", \"bright\"]\nchannels = 1\nheight = 8\nwidth = 8\nmean = 0.5\nstd = 0.25\n\
    [model]\npreset = \"logistic\"\n\
    [training]\noptimiser = \"adam\"\nlearning_rate = 0.01   # tried out by a sweep\nbatch = 8\nepochs = 1\n\
    [rounds]\ncount = 2\nquorum = 3\n";

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_combination_is_a_study_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("study.toml"), STUDY).unwrap();
    let typed = [
        "study",
        "sweep",
        "study.toml",
        "--set",
        "training.learning_rate=0.1,0.03",
        "--set",
        "training.batch=16,32",
        "--folder",
        "children",
    ];
    let lines = consilium(folder.path(), &typed);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["parent"], json!(Hash::of_bytes(STUDY.as_bytes())));
    let children = folder.path().join("children");
    assert_eq!(files(&children), ["mine-1.toml", "mine-2.toml", "mine-3.toml", "mine-4.toml"]);
    assert_eq!(
        lines[0]["children"][2]["values"],
        json!({ "training.learning_rate": "0.03", "training.batch": "16" })
    );
    let third = fs::read_to_string(children.join("mine-3.toml")).unwrap();
    assert!(third.contains("learning_rate = 0.03   # tried out by a sweep"), "{third}");
    let draft = Draft::from_toml(&third).unwrap();
    assert_eq!((draft.name.as_str(), draft.training.batch()), ("mine-3", 16));
    // The same again is harmless, and other children do not take their place.
    assert_eq!(consilium(folder.path(), &typed), lines);
    let other =
        ["study", "sweep", "study.toml", "--set", "training.learning_rate=0.1,0.02", "--folder", "children"];
    let error = refused(folder.path(), &other);
    assert!(error.contains("mine-1.toml is there already and differs"), "{error}");
    assert_eq!(fs::read_to_string(children.join("mine-3.toml")).unwrap(), third);
}

#[test]
fn nothing_is_written_where_one_child_breaks_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("study.toml"), STUDY).unwrap();
    for (sets, parts) in [
        (&["training.learning_rate=0.1,-1"][..], &["mine-2", "learning_rate"][..]),
        (&["rounds.quorum=3,9"], &["mine-2", "rounds.quorum"]),
        (&["training.lerning_rate=0.1"], &["training.lerning_rate", "nearest is training.learning_rate"]),
        (&["training.batch=8", "training.batch=16"], &["training.batch is set twice"]),
        (&["name=other"], &["name"]),
    ] {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let typed: Vec<&str> = ["study", "sweep", "study.toml"].into_iter().chain(sets).collect();
        let error = refused(folder.path(), &typed);
        for part in parts {
            assert!(error.contains(part), "{typed:?}: {error}");
        }
        assert_eq!(files(folder.path()), ["study.toml"]);
    }
    let typed = ["study", "sweep", "study.toml", "--set", "training.batch=8"];
    for more in [
        &["--seeds", "2"][..],
        &["--show"],
        &["--only", "mine-1"],
        &["--sites", "4"],
        &["--partition", "iid"],
    ] {
        let error = refused(folder.path(), &[&typed[..], more].concat());
        assert!(error.contains("--data <PATH>"), "{more:?}: {error}");
    }
    for key in ["evaluation.recommend=loss,auroc", "data.holdout=0.1,0.2"] {
        let error =
            refused(folder.path(), &["study", "sweep", "study.toml", "--set", key, "--data", "cases.npz"]);
        assert!(error.contains("cannot be compared"), "{error}");
    }
    assert_eq!(files(folder.path()), ["study.toml"]);
}

#[test]
fn children_are_tried_on_held_out_cases_and_the_best_stands_first() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("study.toml"), STUDY).unwrap();
    let data = folder.path().join("cases.npz");
    write_archive(&data, 8);
    let typed = [
        "study",
        "sweep",
        "study.toml",
        "--set",
        "training.learning_rate=1e-9,0.01",
        "--data",
        "cases.npz",
        "--partition",
        "iid",
        "--folder",
        "children",
    ];
    let run = |arguments: &[&str]| consilium(folder.path(), &[&typed[..], arguments].concat());
    let states = |lines: &[Value]| -> Vec<(String, String)> {
        let text = |line: &Value, key: &str| Some(line[key].as_str()?.to_owned());
        lines.iter().filter_map(|line| Some((text(line, "cell")?, text(line, "state")?))).collect()
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(cell, state)| ((*cell).to_owned(), (*state).to_owned())).collect()
    };

    // Stopped after the first seed of one child: that is kept, and what is missing is said with its command.
    let lines = run(&["--seeds", "2", "--only", "mine-1/1"]);
    assert_eq!(states(&lines), pairs(&[("mine-1/1", "done")]));
    let missing = &lines.last().unwrap()["not_run"];
    assert_eq!(missing[0]["cells"], json!(["mine-1/2"]));
    let command = missing[1]["command"].as_str().unwrap();
    assert!(
        command.contains("--set 'training.learning_rate=1e-9,0.01' --data cases.npz --partition iid"),
        "{command}"
    );
    assert!(command.ends_with("--folder children --seeds 2 --only mine-2"), "{command}");

    let lines = run(&["--seeds", "2"]);
    let kept =
        pairs(&[("mine-1/1", "kept"), ("mine-2/1", "done"), ("mine-1/2", "done"), ("mine-2/2", "done")]);
    assert_eq!(states(&lines), kept);
    assert_eq!(lines[1]["held_out_cases"], 60);
    let ranking = lines.last().unwrap();
    let of = |row: usize, key: &str| ranking["children"][row][key].clone();
    assert_eq!((of(0, "child"), of(1, "child")), (json!("mine-2"), json!("mine-1")));
    assert_eq!(
        (of(0, "values"), &ranking["metric"]),
        (json!("training.learning_rate = 0.01"), &json!("auroc"))
    );
    assert!(of(0, "figure")["mean"].as_f64().unwrap() > 0.9 && of(0, "figure")["half"].is_f64());
    let apart = of(1, "figure")["mean"].as_f64().unwrap() - of(0, "figure")["mean"].as_f64().unwrap();
    assert!((of(1, "difference")["mean"].as_f64().unwrap() - apart).abs() < 1e-12 && apart < -0.05);
    assert_eq!(ranking["chosen_among"], 2);
    let next = ranking["next"].as_str().unwrap();
    assert_eq!(next, "consilium compare children/mine-2.toml --data cases.npz --partition iid");

    // Whatever the cases for testing are, no figure changes.
    write_archive_tested(&data, 8, |label| 1 - label);
    let again = run(&["--seeds", "2"]);
    assert!(states(&again).iter().all(|(_, state)| state == "done"));
    assert_eq!(again.last().unwrap()["children"][0]["figure"], of(0, "figure"));
}
