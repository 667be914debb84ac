//! The command line of `site-agent`.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use consilium_study::failure::{in_words, leave_when_nobody_reads, report};

use crate::folder::SiteFolder;
use crate::program::Program;
use crate::supervise::NEEDS_A_PERSON;
use crate::vault::record::PersonalAct;
use crate::{command, config, data, enrol, gpu, logging, relay, supervise, vault};

/// The agent of one hospital in a Consilium consortium.
#[derive(Debug, Parser)]
#[command(name = "site-agent", version)]
pub struct Cli {
    /// Print one JSON object per line, with stable keys; an error is `{"error": …}` on standard error.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Join a consortium with an invitation; makes this site's keys.
    Enrol {
        /// What `consilium site invite` printed.
        invitation: String,
        #[command(flatten)]
        place: Place,
        /// Do not wait until somebody admits this site; run the same command again later.
        #[arg(long)]
        no_wait: bool,
    },
    /// Take part in studies until stopped.
    Run {
        #[command(flatten)]
        place: Place,
    },
    /// Say whether the coordinator hears this site, and what it waits for.
    Status {
        #[command(flatten)]
        place: Place,
    },
    /// Check everything that can be checked from here.
    Doctor {
        #[command(flatten)]
        place: Place,
    },
    /// Look at the hospital's data with the eyes of a study.
    #[command(subcommand)]
    Data(DataAct),
    /// List the studies this site has heard of.
    Studies {
        #[command(flatten)]
        place: Place,
    },
    /// Approve a study; no data file is opened before.
    Approve {
        #[command(flatten)]
        answer: Answer,
    },
    /// Decline a study, or leave one that was accepted; either is for good.
    Decline {
        #[command(flatten)]
        answer: Answer,
    },
    /// Let a starting model be opened once more, with other survivors than before.
    ///
    /// The difference of two such sums can show the update of a site that is in one of them only.
    Consent {
        #[command(flatten)]
        answer: Answer,
    },
    /// The site's policy.
    #[command(subcommand)]
    Policy(PolicyAct),
    /// Put this site's own layers into the model that a study released.
    ///
    /// For studies with local layers (FedBN), whose released file no hospital used as it is. The layers stay in the vault's
    /// folder when such a study has released its model.
    Model {
        /// Name of the study, or the first digits of its hash.
        study: String,
        /// The released model, as `consilium model export` wrote it.
        #[arg(value_name = "MODEL.safetensors")]
        released: PathBuf,
        /// Where to write this site's model; a file that is there is never touched.
        #[arg(short, long, value_name = "FILE.safetensors")]
        output: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Print the site's own record and check its chain.
    Journal {
        #[command(flatten)]
        place: Place,
    },
    /// A part of the running agent.
    #[command(hide = true)]
    Vault(PartArgs),
    /// A part of the running agent.
    #[command(hide = true)]
    Relay(PartArgs),
    /// A part of the vault.
    #[command(hide = true)]
    Decode,
    /// A part of the vault.
    #[command(hide = true)]
    Compute {
        /// Process id of the vault.
        #[arg(long)]
        parent: u32,
        /// Threads for what stays on the processor.
        #[arg(long)]
        threads: NonZeroUsize,
    },
}

/// Where the site's folder is.
#[derive(Debug, Args)]
struct Place {
    /// The site's folder.
    #[arg(long, env = "CONSILIUM_SITE", default_value = ".")]
    dir: PathBuf,
}

impl Place {
    fn folder(&self) -> SiteFolder {
        SiteFolder::new(&self.dir)
    }
}

/// What the supervisor tells a part.
#[derive(Debug, Args)]
struct PartArgs {
    #[command(flatten)]
    place: Place,
    /// Process id of the supervisor.
    #[arg(long)]
    parent: u32,
}

/// A person's answer to a proposal.
#[derive(Debug, Args)]
struct Answer {
    /// Name of the study, or the first digits of its hash.
    study: String,
    /// Who answers, for the journal.
    #[arg(long, env = "USER", default_value = "somebody at the site")]
    person: String,
    #[command(flatten)]
    place: Place,
}

impl Answer {
    fn give(&self, act: PersonalAct, json: bool) -> anyhow::Result<()> {
        command::answer::run(&self.place.folder(), &self.study, &self.person, act, json)
    }
}

#[derive(Debug, Subcommand)]
enum DataAct {
    /// Count what is found, decoded, labelled and usable.
    Check {
        #[command(flatten)]
        about: AboutData,
    },
    /// Say for every file whether it is used, and why not. For this hospital's screen only.
    Explain {
        #[command(flatten)]
        about: AboutData,
    },
}

#[derive(Debug, Args)]
struct AboutData {
    /// A study this site has heard of, or a `study.toml`.
    study: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum PolicyAct {
    /// Show each clause of the policy, its rule and its verdict on a study.
    Explain {
        /// Name of the study, or the first digits of its hash.
        study: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    leave_when_nobody_reads();
    run(Cli::parse(), &[])
}

/// Runs a parsed command line. `prefix` are the arguments behind which this program reads the
/// agent's own, so that it can start its parts.
pub fn run(cli: Cli, prefix: &[&str]) -> ExitCode {
    let Cli { json, act } = cli;
    let act = match act {
        // The decoder sees hostile files: it gets nothing, not even a log.
        Act::Decode => return data::decode_child_main(),
        act => act,
    };
    perform(act, json, prefix).unwrap_or_else(|error| report(error.as_ref(), json))
}

fn perform(act: Act, json: bool, prefix: &[&str]) -> anyhow::Result<ExitCode> {
    let program = || Program::current(prefix.iter().map(OsString::from));
    match act {
        Act::Enrol { invitation, place, no_wait } => {
            logging::start(logging::Level::Quiet);
            enrol::run(&invitation, &place.folder(), !no_wait, json)?;
        }
        Act::Run { place } => {
            logging::start(logging::Level::Normal);
            supervise::run(&place.folder(), &program()?)?;
        }
        Act::Vault(part) => return Ok(vault_part(&part, &program()?)),
        Act::Relay(part) => return Ok(relay_part(&part)),
        Act::Decode => return Ok(data::decode_child_main()),
        Act::Compute { parent, threads } => return Ok(gpu::child::compute_child_main(parent, threads)),
        Act::Status { place } => return command::status::run(&place.folder(), json),
        Act::Doctor { place } => return command::doctor::run(&place.folder(), json, &program()?),
        Act::Data(act) => {
            let (about, explain) = match &act {
                DataAct::Check { about } => (about, false),
                DataAct::Explain { about } => (about, true),
            };
            logging::start(logging::Level::Quiet);
            return command::data::run(&about.place.folder(), &about.study, explain, json, &program()?);
        }
        Act::Studies { place } => command::studies::run(&place.folder(), json)?,
        Act::Approve { answer } => answer.give(PersonalAct::Approve, json)?,
        Act::Decline { answer } => answer.give(PersonalAct::Decline, json)?,
        Act::Consent { answer } => answer.give(PersonalAct::Consent, json)?,
        Act::Policy(PolicyAct::Explain { study, place }) => {
            return command::policy::run(&place.folder(), &study, json);
        }
        Act::Model { study, released, output, place } => {
            command::model::run(&place.folder(), &study, &released, &output, json)?;
        }
        Act::Journal { place } => command::journal::run(&place.folder(), json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn vault_part(part: &PartArgs, program: &Program) -> ExitCode {
    logging::start(logging::Level::Normal);
    ending("vault", vault::run(&part.place.folder(), program, part.parent))
}

fn relay_part(part: &PartArgs) -> ExitCode {
    logging::start(logging::Level::Normal);
    let folder = part.place.folder();
    ending("relay", relay::run(&folder, part.parent))
}

/// How a part ends. What restarting cannot mend has an exit code of its own.
fn ending(part: &'static str, outcome: Result<(), PartError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(PartError::NeedsAPerson(error)) => {
            tracing::error!(part, "{}", in_words(error.as_ref()));
            ExitCode::from(NEEDS_A_PERSON)
        }
        Err(PartError::Restart(error)) => {
            tracing::warn!(part, "{}", in_words(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Why a part of the agent ended by itself.
#[derive(Debug)]
pub enum PartError {
    /// Restarting it may help.
    Restart(anyhow::Error),
    /// Restarting it will not help.
    NeedsAPerson(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for PartError {
    fn from(error: E) -> Self {
        let error = error.into();
        if error.is::<config::ConfigError>() { Self::NeedsAPerson(error) } else { Self::Restart(error) }
    }
}
