//! Takes every check of the site and of the coordinator away, one at a time, and sees which tests notice.
//!
//! A test that cannot fail protects nothing. `list/*.toml` names the checks; this program plants each fault in a copy of
//! the working tree, builds, and runs the tests (DeMillo et al. 1978 call it mutation analysis; here a person chose the
//! mutants, one per check). A fault that nobody notices is a missing test.

mod list;
mod scratch;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use serde::Serialize;

use list::{Fault, Part};
use scratch::Scratch;

/// Plants every fault of the list and names the tests that fail.
#[derive(Parser)]
struct Arguments {
    /// Only faults whose names contain this; may be given more than once.
    #[arg(long)]
    only: Vec<String>,
    /// Runs all quick tests of the package, and not only the one that the list names.
    #[arg(long)]
    whole: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What became of one fault.
#[derive(Serialize)]
struct Row<'a> {
    fault: &'a str,
    file: &'a str,
    outcome: Outcome,
    /// The tests that failed.
    tests: Vec<String>,
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Caught,
    /// No test failed: one is missing.
    Survived,
    /// No test failed, and the list says why none can.
    Redundant,
    /// A test failed, and the list says that none can.
    NotRedundant,
    /// Without the check the code does not compile: the fault has to be written in another way.
    DoesNotBuild,
}

impl Outcome {
    const fn is_well(self) -> bool {
        matches!(self, Self::Caught | Self::Redundant)
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { only, whole, json } = Arguments::parse();
    let mut parts = list::read()?;
    for part in &mut parts {
        part.faults.retain(|fault| only.is_empty() || only.iter().any(|name| fault.name.contains(name)));
    }
    parts.retain(|part| !part.faults.is_empty());
    let scratch = Scratch::copy_of(&list::root())?;
    for part in &parts {
        eprintln!("{}: without a fault (the first time this builds what it depends on)", part.package);
        let failed = scratch.run(&scratch.build(part)?, None, &part.skip)?;
        anyhow::ensure!(failed.is_empty(), "tests fail without any fault: {}", failed.join(", "));
    }
    let all: usize = parts.iter().map(|part| part.faults.len()).sum();
    let mut rows = Vec::new();
    for part in &parts {
        for fault in &part.faults {
            let row = plant(&scratch, part, fault, whole)?;
            let tests = match row.tests.as_slice() {
                [] => fault.redundant.clone().unwrap_or_default(),
                [first] => first.clone(),
                [first, rest @ ..] => format!("{first}, and {} more", rest.len()),
            };
            let line =
                format!("{:>3}/{all} {:<13} {:<58} {tests}", rows.len() + 1, word(row.outcome), fault.name);
            if json {
                eprintln!("{line}");
            } else {
                println!("{line}");
            }
            rows.push(row);
        }
    }
    let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!(
            "{all} faults: {} caught, {} survived, {} redundant, {} wrong in the list",
            count(Outcome::Caught),
            count(Outcome::Survived),
            count(Outcome::Redundant),
            count(Outcome::NotRedundant) + count(Outcome::DoesNotBuild)
        );
    }
    Ok(ExitCode::from(u8::from(!rows.iter().all(|row| row.outcome.is_well()))))
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Caught => "caught",
        Outcome::Survived => "SURVIVED",
        Outcome::Redundant => "redundant",
        Outcome::NotRedundant => "NOT REDUNDANT",
        Outcome::DoesNotBuild => "DOES NOT BUILD",
    }
}

/// Plants a fault, runs the tests, and puts the file back.
fn plant<'a>(scratch: &Scratch, part: &Part, fault: &'a Fault, whole: bool) -> anyhow::Result<Row<'a>> {
    let began = Instant::now();
    let honest = scratch.read(&fault.file)?;
    scratch.write(&fault.file, fault.plant(&honest)?.as_bytes())?;
    let only = fault.test.as_deref().filter(|_| !whole);
    let (outcome, tests) = match scratch.build(part) {
        Err(error) => {
            eprintln!("{error:#}");
            (Outcome::DoesNotBuild, Vec::new())
        }
        Ok(built) => {
            let tests = scratch.run(&built, only, &part.skip)?;
            let outcome = match (tests.is_empty(), fault.redundant.is_some()) {
                (false, false) => Outcome::Caught,
                (false, true) => Outcome::NotRedundant,
                (true, false) => Outcome::Survived,
                (true, true) => Outcome::Redundant,
            };
            (outcome, tests)
        }
    };
    scratch.write(&fault.file, honest.as_bytes())?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Row { fault: &fault.name, file: &fault.file, outcome, tests, seconds })
}
