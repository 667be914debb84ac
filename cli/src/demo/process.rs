//! Child processes that never outlive the demo.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Hidden subcommand behind which this program is a coordinator, an agent or a worker of the demo.
pub const PART: &str = "demo-part";

/// In place of a parent's process id: somebody else watches this part's parent.
const WATCHED: &str = "watched";

/// A part that runs in a process of its own. Dropping it kills it.
pub struct Part {
    name: String,
    child: tokio::process::Child,
}

/// This program, as one of the demo's parts. The part dies when this process does, but not by what is typed at the
/// demo's terminal: it has a process group of its own, so Ctrl-C reaches the demo alone, which knows what to say.
pub fn part(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(PART).arg(std::process::id().to_string()).args(arguments).process_group(0);
    Ok(command)
}

/// What a part of the demo is.
#[derive(Debug, clap::Subcommand)]
pub enum Role {
    /// The coordinator.
    Coordinator {
        /// Its own arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A hospital's agent, or a part of it.
    SiteAgent {
        /// Its own arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A worker of the comparison.
    Arm {
        /// File with its job.
        job: std::path::PathBuf,
    },
}

impl Role {
    /// Plays the part to its end.
    pub fn play(self, parent: &str) -> ExitCode {
        // An agent's own parts are started behind the same words; they watch their own parent, the agent.
        if parent != WATCHED
            && let Err(code) = become_part(parent)
        {
            return code;
        }
        match self {
            Self::Coordinator { arguments } => {
                match parse::<consilium_coordinator::command::Cli>("coordinator", arguments) {
                    Ok(cli) => consilium_coordinator::command::run(cli),
                    Err(code) => code,
                }
            }
            Self::SiteAgent { arguments } => {
                match parse::<consilium_site_agent::Cli>("site-agent", arguments) {
                    Ok(cli) => consilium_site_agent::run(cli, &[PART, WATCHED, "site-agent"]),
                    Err(code) => code,
                }
            }
            Self::Arm { job } => super::arms::main(&job),
        }
    }
}

fn parse<C: clap::Parser>(program: &str, arguments: Vec<String>) -> Result<C, ExitCode> {
    C::try_parse_from(std::iter::once(program.to_owned()).chain(arguments)).map_err(|error| {
        let _ = error.print();
        ExitCode::FAILURE
    })
}

/// What a part does first: ask the kernel to kill it when the demo dies, however that happens.
fn become_part(parent: &str) -> Result<(), ExitCode> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let armed = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    let now = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if armed && now.as_deref() == Some(parent) { Ok(()) } else { Err(ExitCode::FAILURE) }
}

impl Part {
    /// Starts a part whose standard error goes to a log file.
    pub fn start(name: &str, command: Command, logs: &Path) -> anyhow::Result<Self> {
        let path = logs.join(format!("{name}.log"));
        let mut log = File::options().create(true).append(true).open(&path)?;
        writeln!(log, "--- {name} starts")?;
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Waits for the line that says it is ready, returns it, and lets the part talk into the void afterwards.
    pub async fn ready(&mut self, patience: Duration) -> anyhow::Result<Value> {
        let out = self.child.stdout.take().context("a part's output was taken already")?;
        let mut lines = BufReader::new(out).lines();
        let line = tokio::time::timeout(patience, lines.next_line()).await;
        let line = line.with_context(|| format!("{} was not ready after {patience:?}", self.name))??;
        let line = line.with_context(|| format!("{} ended before it was ready", self.name))?;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        serde_json::from_str(&line).with_context(|| format!("{} said: {line}", self.name))
    }

    /// SIGKILL: no handler, no flush.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }

    /// SIGTERM, and SIGKILL for whoever does not listen.
    pub async fn stop(mut self) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    /// Runs a part to its end and returns what it printed; `on_error` is called with every line of standard error.
    pub async fn output(
        name: &str,
        command: Command,
        mut on_error: impl FnMut(&str),
    ) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let errors = child.stderr.take().context("a part has an error stream")?;
        let mut errors = BufReader::new(errors).lines();
        let mut out = child.stdout.take().context("a part has an output")?;
        let mut text = String::new();
        let read = async {
            let mut told = Vec::new();
            while let Some(line) = errors.next_line().await? {
                on_error(&line);
                told.push(line);
            }
            anyhow::Ok(told)
        };
        let (told, read) = tokio::join!(read, tokio::io::AsyncReadExt::read_to_string(&mut out, &mut text));
        read?;
        if !child.wait().await?.success() {
            bail!("{name} failed: {}", told?.join(" / "));
        }
        Ok(text)
    }
}
