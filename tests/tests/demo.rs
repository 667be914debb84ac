//! `consilium demo`, as a newcomer runs it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use consilium_tests::wait_until;
use serde_json::Value;

fn consilium(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consilium-under-test"));
    command.args(arguments);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Processes whose command line names this folder.
fn running_in(folder: &Path) -> Vec<String> {
    let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        std::fs::read_to_string(entry.path().join("cmdline")).ok()
    });
    lines.filter(|line| line.contains(text(folder))).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The README's first command: one hospital is killed, the others go on, it comes back; working together helps; the
/// audit passes.
#[test]
fn four_hospitals_train_together_and_the_proof_holds() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    let output = consilium(&["demo", "--keep", text(&kept), "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(running_in(&kept), [""; 0], "nothing is left running");

    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, rounds) = lines.split_last().unwrap();
    assert_eq!(rounds.len(), 8);
    let missing = |round: &&Value| round["missing"].as_array().is_some_and(|missing| !missing.is_empty());
    assert!(
        rounds.iter().any(|round| missing(&round)),
        "the killed hospital is missing by name: {rounds:#?}"
    );
    assert_eq!(rounds[7]["counted"], 4, "it is back: {rounds:#?}");

    assert_eq!((&last["final"], &last["rounds"], &last["sites"]), (&true.into(), &8.into(), &4.into()));
    for figure in ["accuracy", "bytes_up", "bytes_down", "seconds", "coordinator_peak_bytes"] {
        assert!(number(&last[figure]) > 0.0, "{figure}");
    }
    // The task is neither trivial nor hopeless, and no hospital can do it alone.
    let pooled = number(&last["pooled_auroc"]);
    assert!((0.88..=0.97).contains(&pooled), "{pooled}");
    let mut alone: Vec<f64> = last["local_only_auroc"].as_array().unwrap().iter().map(number).collect();
    alone.sort_by(f64::total_cmp);
    let median = f64::midpoint(alone[1], alone[2]);
    assert!(median <= pooled - 0.03, "{median} {pooled}");
    assert!(number(&last["auroc"]) > alone[3], "the federation is better than every hospital alone: {last}");

    let verdict = consilium(&["audit", "verify", text(&kept)]).output().unwrap();
    assert!(verdict.status.success(), "{}", errors(&verdict));
}

#[test]
fn ctrl_c_and_kill_leave_nothing_running() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM, rustix::process::Signal::KILL]
    {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        let mut demo = consilium(&["demo", "--rounds", "1000", "--no-compare", "--keep", text(&kept)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A coordinator, and for each hospital a supervisor, a vault and a relay.
        let all = wait_until(Duration::from_mins(1), || running_in(&kept).len() >= 14);
        assert!(all, "{:#?}", running_in(&kept));
        rustix::process::kill_process(rustix::process::Pid::from_child(&demo), signal).unwrap();
        assert!(wait_until(Duration::from_secs(10), || demo.try_wait().unwrap().is_some()), "{signal:?}");
        let gone = wait_until(Duration::from_secs(10), || running_in(&kept).is_empty());
        assert!(gone, "after {signal:?}: {:#?}", running_in(&kept));
    }
}
