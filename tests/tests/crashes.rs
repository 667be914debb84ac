//! Killed between any two writes, coordinator and agents resume at the same round and end with the same model.
//!
//! The list of writes is not typed by hand: a first run writes down the name of every durable write, and then
//! the process is stopped before and after each of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_crash::{CRASH_AT, CRASH_LIST, KILLED_AT};
use consilium_tests::{Lab, Programs, Study, wait_until};

const PROGRAMS: Programs = Programs {
    consilium: env!("CARGO_BIN_EXE_consilium-under-test"),
    coordinator: env!("CARGO_BIN_EXE_coordinator-under-test"),
    site_agent: env!("CARGO_BIN_EXE_site-agent-under-test"),
};
const PATIENCE: Duration = Duration::from_secs(90);

/// All sites are required, so Selection and Survivors are the same in every run and the bytes can be compared.
fn study(name: &'static str) -> Study {
    Study { name, rounds: 1, ..Study::requiring(3) }
}

fn names(list: &Path) -> BTreeSet<String> {
    std::fs::read_to_string(list).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The released model without its origin, which names the study and so differs from study to study.
fn model_bytes(lab: &Lab, study: &str) -> Vec<u8> {
    let file = lab.path().join(format!("{study}.safetensors"));
    lab.consilium(&["model", "export", study, "-o", file.to_str().unwrap()]).unwrap();
    let bytes = std::fs::read(file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].to_vec()
}

/// How often a coordinator passes a point before it is ready.
fn passed_while_starting(lab: &mut Lab, point: &str) -> usize {
    let list = lab.path().join("writes-of-a-start");
    lab.start_coordinator(&[(CRASH_LIST, list.to_str().unwrap())]).unwrap();
    lab.kill_coordinator().unwrap();
    let passed = std::fs::read_to_string(&list).unwrap_or_default();
    let _ = std::fs::remove_file(&list);
    passed.lines().filter(|line| *line == point).count()
}

fn attempts_lost(lab: &Lab, study: &str) -> usize {
    let status = lab.status(study).unwrap();
    status["lines"].as_array().unwrap().iter().filter(|line| line["state"] == "abandoned").count()
}

#[test]
fn a_coordinator_killed_around_every_write_ends_with_the_same_model() {
    let mut lab = Lab::new(PROGRAMS, 3).unwrap();
    lab.start_agents().unwrap();
    let list = lab.path().join("writes");
    lab.kill_coordinator().unwrap();
    lab.start_coordinator(&[(CRASH_LIST, list.to_str().unwrap())]).unwrap();
    lab.launch(&study("undisturbed")).unwrap();
    lab.released("undisturbed", PATIENCE).unwrap();
    let expected = model_bytes(&lab, "undisturbed");
    let points = names(&list);
    for phase in ["gathering", "collect_masked", "consistency_check", "unmask", "summing", "idle"] {
        for moment in ["before", "after"] {
            let point = format!("coordinator.study-{phase}.{moment}");
            assert!(points.contains(&point), "{point} is not among {points:?}");
        }
    }

    let mut met = BTreeSet::new();
    for (number, point) in points.iter().enumerate() {
        // A study's state is written at every step, under the name of its phase: here in the training and, some
        // steps on, in the evaluation.
        let of_a_study: &[usize] = if point.contains(".study-") { &[1, 4] } else { &[1] };
        // Zero stands for the first write of the start itself.
        for nth in std::iter::once(&0).chain(of_a_study) {
            lab.kill_coordinator().unwrap();
            let at = match (*nth, passed_while_starting(&mut lab, point)) {
                (0, 0) => {
                    lab.start_coordinator(&[]).unwrap();
                    continue;
                }
                (0, _) => format!("{point}#1"),
                // Whatever is written while starting does not count: the study is to be hit, not the start.
                (nth, starting) => format!("{point}#{}", nth + starting),
            };
            let mut doomed = lab.spawn_coordinator(&[(CRASH_AT, &at)]).unwrap();
            let name: &'static str = format!("killed-{number}-{nth}").leak();
            if doomed.ready().is_ok() {
                // The proposal itself may be what dies; it is made again below.
                let _ = lab.launch(&study(name));
                let released = || lab.status(name).is_ok_and(|status| status["state"] == "released");
                wait_until(PATIENCE, || !doomed.runs() || released());
            } else {
                assert!(
                    wait_until(Duration::from_secs(5), || !doomed.runs()),
                    "{at}: neither ready nor dead"
                );
            }
            if !doomed.runs() {
                met.insert(point.clone());
            }
            let _ = doomed.kill();
            lab.start_coordinator(&[]).unwrap();
            // Refused where the study is over already; whether it is, the next line tells.
            let _ = lab.launch(&study(name));
            lab.released(name, PATIENCE).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(model_bytes(&lab, name), expected, "{at}");
            let lost = attempts_lost(&lab, name);
            assert_eq!(lost, 0, "{at}: what was there before the crash was enough");
        }
    }
    assert_eq!(met, points, "the coordinator died at every point");
    lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
}

#[test]
fn an_agent_killed_around_every_write_resumes_and_the_model_is_the_same() {
    let mut lab = Lab::new(PROGRAMS, 3).unwrap();
    let list = lab.path().join("writes");
    lab.start_agent("a", &[(CRASH_LIST, list.to_str().unwrap())]).unwrap();
    lab.start_agents().unwrap();
    lab.launch(&study("undisturbed")).unwrap();
    lab.released("undisturbed", PATIENCE).unwrap();
    let expected = model_bytes(&lab, "undisturbed");
    let points = names(&list);
    assert!(points.len() >= 5, "the run writes in several places: {points:?}");

    for (number, point) in points.iter().filter(|point| !is_made_once(point)).enumerate() {
        lab.kill_agent("a").unwrap();
        let deaths = start_doomed(&mut lab, point);
        let name: &'static str = format!("killed-{number}").leak();
        lab.launch(&study(name)).unwrap();
        lab.released(name, PATIENCE).unwrap_or_else(|error| panic!("{point}: {error}"));
        assert_eq!(model_bytes(&lab, name), expected, "{point}");
        assert!(died(&deaths, point), "{point}: the agent did not die there");
    }
    // Its keys and what it believes are made by an agent's first start in its life, so these points take a life each.
    for point in points.iter().filter(|point| is_made_once(point)) {
        let mut lab = Lab::new(PROGRAMS, 3).unwrap();
        let deaths = start_doomed(&mut lab, point);
        lab.start_agents().unwrap();
        lab.launch(&study("first")).unwrap();
        lab.released("first", PATIENCE).unwrap_or_else(|error| panic!("{point}: {error}"));
        assert!(died(&deaths, point), "{point}: the agent did not die there");
    }
}

fn is_made_once(point: &str) -> bool {
    point.contains(".identity.") || point.contains(".private-key.")
}

/// Starts an agent that is killed at a point. It gives the variable to the first start of each part only, so it
/// comes back by itself.
fn start_doomed(lab: &mut Lab, point: &str) -> PathBuf {
    let deaths = lab.path().join("deaths");
    let variables = [(CRASH_AT, point), (CRASH_LIST, deaths.to_str().unwrap())];
    lab.start_agent("a", &variables).unwrap();
    deaths
}

fn died(deaths: &Path, point: &str) -> bool {
    names(deaths).contains(&format!("{KILLED_AT}{point}"))
}

/// The coordinator dies when the survivors are named, or when their shares are asked for; then a survivor is lost for
/// good. What it sent is in the sum all the same.
#[test]
fn a_survivor_that_is_gone_before_the_sum_is_opened_is_in_it() {
    let mut lab = Lab::new(PROGRAMS, 4).unwrap();
    lab.start_agents().unwrap();
    for (phase, name) in [("consistency_check", "checked"), ("unmask", "unmasked")] {
        if !lab.agents.contains_key("d") {
            lab.start_agent("d", &[]).unwrap();
        }
        lab.kill_coordinator().unwrap();
        let point = format!("coordinator.study-{phase}.after");
        let mut doomed = lab.spawn_coordinator(&[(CRASH_AT, &point)]).unwrap();
        doomed.ready().unwrap();
        lab.launch_with_all(&Study { name, rounds: 2, ..Study::default() }, PATIENCE).unwrap();
        assert!(wait_until(PATIENCE, || !doomed.runs()), "{phase}: it did not die");
        lab.kill_agent("d").unwrap();
        lab.start_coordinator(&[]).unwrap();
        lab.released(name, PATIENCE).unwrap();
        let status = lab.status(name).unwrap();
        let lines = status["lines"].as_array().unwrap();
        assert_eq!(lines[0]["selected"], 4, "{phase}: {lines:?}");
        assert_eq!(
            (&lines[0]["counted"], attempts_lost(&lab, name)),
            (&lines[0]["selected"], 0),
            "{lines:?}"
        );
        assert!(lines[1..].iter().all(|line| line["counted"] == 3), "{phase}: {lines:?}");
    }
    lab.consilium(&["audit", "verify", lab.path().to_str().unwrap()]).unwrap();
}
