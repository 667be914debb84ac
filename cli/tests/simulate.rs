//! `consilium simulate` as a person starts it: real files, real decode children.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]
#![cfg(feature = "simulate")]

mod common;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{consilium, write_archive};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn study(folder: &Path, labels: &str, side: u32, minimum: u32) -> PathBuf {
    let path = folder.join("study.toml");
    let text = format!(
        "format = 1\nname = \"trial\"\ntitle = \"trial\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
         [data]\nlabels = {labels}\nchannels = 1\nheight = {side}\nwidth = {side}\nmean = 0.5\nstd = 0.25\n\
         minimum_cases = {minimum}\n[model]\npreset = \"logistic\"\n\
         [training]\noptimiser = \"adam\"\nlearning_rate = 0.01\nbatch = 8\nepochs = 1\n\
         [rounds]\ncount = 9\nquorum = 3\n[aggregation]\nweight_cap = 256\n[evaluation]\nbins = 16\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn simulate(study: &Path, data: &Path, arguments: &[&str]) -> Vec<Value> {
    let paths = ["simulate", study.to_str().unwrap(), "--data", data.to_str().unwrap()];
    consilium(study.parent().unwrap(), &[&paths[..], arguments].concat())
}

#[test]
fn an_archive_is_dealt_out_summed_under_masks_and_scored() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("cases.npz");
    write_archive(&archive, 8);
    let study = study(folder.path(), "[\"dark\", \"bright\"]", 8, 10);
    let arguments = ["--sites", "4", "--partition", "iid", "--rounds", "2", "--seed", "7", "--plaintext"];
    let lines = simulate(&study, &archive, &arguments);
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in &lines[..2] {
        assert_eq!((&line["state"], &line["selected"]), (&"adopted".into(), &4.into()));
        assert_eq!(line["plaintext"]["identical"], true);
        assert!(line["plaintext"]["relative_error"].as_f64().unwrap() < 1e-4);
    }
    let last = &lines[2];
    assert_eq!((&last["final"], &last["sites"], &last["rounds"]), (&true.into(), &4.into(), &2.into()));
    assert!(last["auroc"].as_f64().unwrap() > 0.9, "{last}");
    assert_eq!(simulate(&study, &archive, &arguments)[2]["model"], last["model"]);
}

/// Copies of cases must not stay behind when somebody stops it.
#[test]
fn ctrl_c_leaves_nothing_of_the_cases() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("cases.npz");
    write_archive(&archive, 8);
    let study = study(folder.path(), "[\"dark\", \"bright\"]", 8, 10);
    let temporary = folder.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let is_empty = || std::fs::read_dir(&temporary).unwrap().next().is_none();
    let mut program = Command::new(env!("CARGO_BIN_EXE_consilium"))
        .args(["simulate", study.to_str().unwrap(), "--data", archive.to_str().unwrap(), "--rounds", "1000"])
        .current_dir(folder.path())
        .env("TMPDIR", &temporary)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while is_empty() && program.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&program), Signal::INT).unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(130));
    assert!(is_empty());
}

#[test]
fn chest_pictures_by_country_run_to_the_end() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").into_os_string();
    let data =
        PathBuf::from(std::env::var_os("CONSILIUM_DATA").unwrap_or_else(beside)).join("covid-cxr-sites");
    if !data.is_dir() {
        // Past the harness, which swallows what a passing test prints.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {} is not there; see CONSILIUM_DATA", data.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let study = study(folder.path(), "[\"other\", \"covid-19\"]", 32, 1);
    let lines = simulate(&study, &data, &["--partition", "by:country", "--rounds", "2"]);
    let last = lines.last().unwrap();
    assert_eq!((&last["final"], &last["rounds"], &last["sites"]), (&true.into(), &2.into(), &17.into()));
    // One or two patients each: fewer than the threshold hold a case out.
    assert!(lines[..2].iter().all(|line| line["state"] == "unevaluated"), "{lines:?}");
    let pooled = simulate(&study, &data, &["--partition", "by:country", "--sites", "5", "--rounds", "1"]);
    assert_eq!(pooled.last().unwrap()["sites"], 5);
}

/// A study of rows, from a table by itself, dealt by one of its columns.
#[test]
fn rows_of_a_table_are_dealt_out_and_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let row = |row: u32| {
        let sick = row % 2;
        let ward = ["north", "south", "west"][(row / 2 % 3) as usize];
        let pain = if row.is_multiple_of(23) { "?" } else { ["1", "4.0"][sick as usize] };
        format!("{},{pain},{},p{row},{ward}\n", 40 + row % 17 + 9 * sick, ["well", "sick"][sick as usize])
    };
    let table = folder.path().join("cases.csv");
    let rows: String = (0..330).map(row).collect();
    std::fs::write(&table, format!("age,pain,label,patient,ward\n{rows}")).unwrap();
    let study = folder.path().join("study.toml");
    let text = "format = 1\nname = \"rows\"\ntitle = \"rows\"\nsites = [\"a\", \"b\", \"c\"]\nseed = 1\n\
         [data]\nlabels = [\"well\", \"sick\"]\n\
         inputs = [{ column = \"age\", mean = 50.0, std = 8.0 }, { column = \"pain\", is = \"4\" }]\n\
         [model]\npreset = \"logistic\"\n\
         [training]\noptimiser = \"sgd\"\nlearning_rate = 0.1\nbatch = 8\nsteps = 20\n\
         [rounds]\ncount = 2\nquorum = 3\n";
    std::fs::write(&study, text).unwrap();
    let lines = simulate(&study, &table, &["--partition", "by:ward", "--plaintext"]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[..2].iter().all(|line| line["plaintext"]["identical"] == true), "{lines:?}");
    assert!(lines[1]["auroc"].as_f64().unwrap() > 0.95, "{lines:?}");
    assert_eq!(lines[2]["auroc"], Value::Null);
    // Without a column to deal by, a fifth of the patients is kept for the test.
    let lines = simulate(&study, &table, &["--partition", "iid"]);
    assert!(lines[2]["auroc"].as_f64().unwrap() > 0.95, "{lines:?}");
    // And where the table says who is for testing, these are.
    let tested = (0..330).map(|at| format!("{},{}\n", row(at).trim(), if at < 40 { "test" } else { "" }));
    let tested = format!("age,pain,label,patient,ward,split\n{}", tested.collect::<String>());
    std::fs::write(&table, tested).unwrap();
    let lines = simulate(&study, &table, &["--partition", "by:ward"]);
    assert!(lines[2]["auroc"].as_f64().unwrap() > 0.95, "{lines:?}");
}
