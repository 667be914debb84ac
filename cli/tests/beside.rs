//! A study of pictures with numbers beside them on the command line: checked, simulated, asked and adapted.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]
#![cfg(all(feature = "simulate", feature = "predict"))]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{consilium, refused, said};
use consilium_learning::{Dataset, ModelFile, Origin, Pixels, score};
use consilium_study::document::Draft;
use consilium_study::hash::Hash;
use consilium_study::task::Label;
use image::{GrayImage, Luma};
use serde_json::{Value, json};

const STUDY: &str = "format = 1\nname = \"both\"\ntitle = \"both\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
    [data]\nlabels = [\"well\", \"sick\"]\nchannels = 1\nheight = 4\nwidth = 4\nmean = 0.5\nstd = 0.25\n\
    inputs = [{ column = \"age\", mean = 50.0, std = 10.0 }, { column = \"sex\", is = \"F\" }]\n\
    [model]\npreset = \"logistic\"\n\
    [training]\noptimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 8\nepochs = 4\n\
    [rounds]\ncount = 2\nquorum = 3\n[evaluation]\ncalibrate = true\n";

/// Pictures of noise, and a table of which the age says who is sick.
fn write_hospital(folder: &Path, cases: u32) {
    fs::create_dir_all(folder.join("pictures")).unwrap();
    let mut table = "path,label,patient,age,sex,ward\n".to_owned();
    for case in 0..cases {
        let noise = |at: u32| (case * 16 + at).wrapping_mul(2_654_435_761) >> 24;
        let path = format!("pictures/{case}.png");
        GrayImage::from_fn(4, 4, |x, y| Luma([noise(4 * y + x) as u8])).save(folder.join(&path)).unwrap();
        let sick = (case / 2 + case / 7) % 2;
        let (age, sex) = (40 + 15 * sick + noise(1) % 11, ["F", "M"][(case % 2) as usize]);
        let label = ["well", "sick"][sick as usize];
        table += &format!("{path},{label},p{case},{age},{sex},n\n");
    }
    fs::write(folder.join("labels.csv"), table).unwrap();
}

fn study(folder: &Path) {
    fs::write(folder.join("study.toml"), STUDY).unwrap();
}

/// A released model of the study that looks at the age alone.
fn write_model(folder: &Path) -> ModelFile {
    let identity = Draft::from_toml(STUDY).unwrap().model_identity();
    let mut model = vec![0.0; identity.graph.len()];
    // Weights `[2, 16 pixels and 2 numbers]`: the age for "sick".
    model[18 + 16] = 2.0;
    let origin = Some(Origin { study: Hash::of_bytes(b"study"), round: 3, tuned_from: None });
    let file = ModelFile { identity, origin, model };
    fs::write(folder.join("model.safetensors"), file.to_bytes()).unwrap();
    file
}

#[test]
fn a_study_learns_from_numbers_that_no_picture_shows() {
    let folder = tempfile::tempdir().unwrap();
    study(folder.path());
    write_hospital(&folder.path().join("data"), 330);
    let checked = consilium(folder.path(), &["study", "check", "study.toml"]);
    // 16 pixels and 2 numbers for each of two classes.
    assert_eq!((&checked[0]["ok"], &checked[0]["parameters"]), (&json!(true), &json!(2 * 18 + 2)));
    let typed = ["simulate", "study.toml", "--data", "data", "--partition", "iid", "--plaintext"];
    let lines = consilium(folder.path(), &typed);
    assert!(lines[..2].iter().all(|line| line["plaintext"]["identical"] == true), "{lines:?}");
    assert!(lines[2]["auroc"].as_f64().unwrap() > 0.95, "{lines:?}");

    common::write_archive(&folder.path().join("cases.npz"), 4);
    let error = refused(folder.path(), &["simulate", "study.toml", "--data", "cases.npz"]);
    assert!(error.contains("reads numbers beside each picture") && error.contains("labels.csv"), "{error}");
}

#[test]
fn a_table_names_pictures_and_the_numbers_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    write_hospital(folder.path(), 4);
    let file = write_model(folder.path());
    let table =
        "sex,path,age\nF,pictures/0.png,60\nM,pictures/1.png,45.5\nF,pictures/2.png,\nF,pictures/9.png,50\n";
    fs::write(folder.path().join("new.csv"), table).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_consilium"))
        .args(["--json", "model", "predict", "model.safetensors", "new.csv"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "two rows are not usable");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What the picture shows does not matter to this model, and so black ones do.
    let cases = Dataset::new([1, 4, 4], Pixels::Bytes(vec![0; 32]), vec![Label::Class(0); 2]).unwrap();
    let cases = cases.beside(2, vec![1.0, 1.0, -0.45, 0.0]).unwrap();
    let identity = &file.identity;
    let wanted = score(&identity.graph, identity.preprocessing, identity.task, &file.model, &cases).unwrap();
    for (line, want) in lines.iter().zip(wanted.iter()) {
        let got = line["probabilities"]["sick"].as_f64().unwrap();
        assert!((got - f64::from(want[1])).abs() < 1e-6, "{line}");
    }
    assert_eq!(lines[2]["reason"], "missing_value");
    assert!(lines[2]["explanation"].as_str().unwrap().ends_with("(column age)"), "{}", lines[2]);
    assert_eq!(lines[3]["reason"], "missing", "{}", lines[3]);
    assert_eq!(lines[4], json!({ "scored": 2, "failed": 2, "passed_over": 0 }));

    // A folder stands for its table; a picture alone has no numbers.
    let text = said(folder.path(), &["model", "predict", "model.safetensors", "."]);
    assert!(text.contains("4 scored") && text.contains("pictures/3.png"), "{text}");
    for path in ["pictures/0.png", "pictures"] {
        let error = refused(folder.path(), &["model", "predict", "model.safetensors", path]);
        assert!(error.contains("Write a table with the columns path,age,sex"), "{error}");
        assert!(error.contains("consilium model predict model.safetensors TABLE.csv"), "{error}");
    }
    fs::write(folder.path().join("narrow.csv"), "path,age\npictures/0.png,60\n").unwrap();
    let error = refused(folder.path(), &["model", "predict", "model.safetensors", "narrow.csv"]);
    assert!(error.contains("no column \"sex\""), "{error}");
}

#[test]
fn a_released_model_is_adapted_to_pictures_with_numbers_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    write_hospital(&folder.path().join("data"), 120);
    write_model(folder.path());
    let typed = ["model", "finetune", "model.safetensors", "--force", "-o", "mine.safetensors", "--data"];
    let error = refused(folder.path(), &[&typed[..], &["data/labels.csv"]].concat());
    assert!(error.contains("reads numbers beside each picture") && error.contains("labels.csv"), "{error}");
    let lines = consilium(folder.path(), &[&typed[..], &["data"]].concat());
    let after = &lines.last().unwrap()["held_out"]["after"];
    assert!(after["auroc"].as_f64().unwrap() > 0.9, "{lines:?}");
    let adapted = ModelFile::from_bytes(&fs::read(folder.path().join("mine.safetensors")).unwrap()).unwrap();
    assert_eq!(adapted.identity.beside.map(|inputs| inputs.len()), Some(2));
}
