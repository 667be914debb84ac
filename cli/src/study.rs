//! `consilium study`: from a commented file to a running study, and what it says of itself.

pub(crate) mod check;
mod control;
mod new;
mod probe;
pub(crate) mod propose;
mod status;
#[cfg(feature = "simulate")]
mod sweep;
mod view;
mod watch;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use consilium_secagg::numbering::{Attempt, InvalidNumber};
use consilium_study::name::{SiteName, StudyName};

pub use check::{Check, check};
pub use control::{Controlled, declare_lost, pause, resume, start, stop};
pub use new::new;
pub use propose::{Proposed, propose};
pub use status::{Known, StudyLine, fetch, list};
pub(crate) use status::{NOTHING_ADOPTED, fetch_from};
pub use view::{LineView, MissingView, SiteView, StatusView, WaitView, round_line};
pub use watch::{Ending, Happening, Watched, watch};

use crate::consortium::{Consortium, Location};
use crate::output::{self, Output};
use crate::remote::{self, Meter};

/// Write, check and propose studies; start, follow and stop them
#[derive(Debug, Args)]
pub struct StudyArgs {
    #[command(flatten)]
    location: Location,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented study.toml to start from
    New {
        /// Name of the study, for example `pneumonia`
        name: StudyName,
        /// A site that takes part; give it once for each. Without it, the sites of the consortium's roster
        #[arg(long = "site", value_name = "SITE")]
        sites: Vec<SiteName>,
        /// Where to write it; NAME.toml without it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check a study file: every rule, what it costs, what it guarantees, and whether its model trains
    Check {
        /// The study file
        file: PathBuf,
    },
    #[cfg(feature = "simulate")]
    Sweep(sweep::SweepArgs),
    /// Sign a study and propose it to its sites
    Propose {
        /// The study file
        file: PathBuf,
        /// Start from this model, or these weights of torchvision, instead of weights drawn from the study's seed
        #[arg(long, value_name = "FILE.safetensors")]
        initial: Option<PathBuf>,
    },
    /// List all studies
    List,
    /// Show what a study says
    Show {
        /// Name of the study
        name: StudyName,
    },
    /// Show where a study stands and whom it waits for
    Status {
        /// Name of the study
        name: StudyName,
    },
    /// Begin the rounds as soon as enough sites are ready
    Start {
        /// Name of the study
        name: StudyName,
    },
    /// Begin no round until the study is resumed
    Pause {
        /// Name of the study
        name: StudyName,
    },
    /// Go on at the same round
    Resume {
        /// Name of the study
        name: StudyName,
    },
    /// End a study for good, without a release
    Stop {
        /// Name of the study
        name: StudyName,
        /// Why; the ledger keeps it
        #[arg(long, value_name = "TEXT", default_value = "no reason given")]
        reason: String,
        /// Do not ask back
        #[arg(long)]
        yes: bool,
    },
    /// Give up an attempt that waits in vain for signatures or answers of its survivors
    DeclareLost {
        /// Name of the study
        name: StudyName,
        /// The attempt, as `study status` shows it
        #[arg(long, value_name = "N", value_parser = attempt)]
        attempt: Attempt,
    },
    /// Follow a study line by line until it is over
    Watch {
        /// Name of the study
        name: StudyName,
    },
}

fn attempt(text: &str) -> anyhow::Result<Attempt> {
    let number: u32 = text.parse()?;
    Attempt::new(number).map_err(|error: InvalidNumber| error.into())
}

/// Runs the command.
pub fn run(args: StudyArgs, output: Output) -> anyhow::Result<()> {
    let StudyArgs { location, command } = args;
    let consortium = || Consortium::open(&location);
    remote::run(async {
        match command {
            Command::New { name, sites, output: file } => new::run(&location, &name, sites, file, output)?,
            Command::Check { file } => check::run(&location, &file, output)?,
            #[cfg(feature = "simulate")]
            Command::Sweep(args) => sweep::run(&args, output)?,
            Command::Propose { file, initial } => {
                let draft = check::read(&file)?;
                let start = initial.map(|path| propose::read_model(&path, &draft)).transpose()?;
                if start.as_ref().is_some_and(|start| start.draws_scores) {
                    output.tell(propose::DRAWS_SCORES);
                }
                let meter = Meter::new(output, "storing the initial model");
                let initial = start.map(|start| start.file);
                let proposed = propose(&consortium()?, draft, initial, meter).await?;
                output.show(&proposed, Proposed::people)?;
            }
            Command::List => status::print(&list(&consortium()?).await?, output)?,
            Command::Show { name } => {
                let known = fetch(&consortium()?, &name).await?;
                output.show(&known.shown()?, status::Shown::people)?;
            }
            Command::Status { name } => {
                let known = fetch(&consortium()?, &name).await?;
                output.show(&known.json()?, |_| known.people(remote::now_ms()))?;
            }
            Command::Start { name } => control::print(&start(&consortium()?, &name).await?, output)?,
            Command::Pause { name } => control::print(&pause(&consortium()?, &name).await?, output)?,
            Command::Resume { name } => control::print(&resume(&consortium()?, &name).await?, output)?,
            Command::Stop { name, reason, yes } => {
                output::confirm(&control::stop_question(&name), yes)?;
                control::print(&stop(&consortium()?, &name, reason).await?, output)?;
            }
            Command::DeclareLost { name, attempt } => {
                control::print(&declare_lost(&consortium()?, &name, attempt).await?, output)?;
            }
            Command::Watch { name } => watch::run(&consortium()?, &name, output).await?,
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        study: StudyArgs,
    }

    #[test]
    fn arguments_are_checked_where_they_are_typed() {
        Line::command().debug_assert();
        let read = |line: &str| Line::try_parse_from(line.split(' '));
        let line = read("study new lungs --site a --site b -o x.toml --dir north --json").unwrap();
        assert!(line.output.json && line.study.location.dir.as_os_str() == "north");
        assert!(matches!(line.study.command, Command::New { sites, .. } if sites.len() == 2));
        assert!(read("study stop lungs --reason done").is_ok());
        assert!(read("study declare-lost lungs --attempt 3").is_ok());
        for wrong in
            ["study start Lungs!", "study declare-lost lungs --attempt 0", "study new lungs --site A_b"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_consortium_the_error_says_what_to_type() {
        let folder = tempfile::tempdir().unwrap();
        let args = StudyArgs {
            location: Location { dir: folder.path().to_owned() },
            command: Command::Start { name: "lungs".parse().unwrap() },
        };
        let error = run(args, Output { json: true }).unwrap_err().to_string();
        assert!(error.contains("consilium init") && error.contains("--dir"), "{error}");
    }
}
