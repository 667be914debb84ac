//! How the agent starts its own parts.
//!
//! The vault, the relay and the image decoder are this same program with another subcommand. It may
//! be built into a larger program that reaches it behind arguments of its own, so a command to start
//! a part carries that prefix.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// This program, as it can be started again.
#[derive(Clone, Debug)]
pub struct Program {
    executable: PathBuf,
    prefix: Vec<OsString>,
}

impl Program {
    /// The running executable; `prefix` are the arguments behind which it reads the agent's own.
    pub fn current(prefix: impl IntoIterator<Item = impl Into<OsString>>) -> io::Result<Self> {
        Ok(Self {
            executable: std::env::current_exe()?,
            prefix: prefix.into_iter().map(Into::into).collect(),
        })
    }

    /// A command that starts the agent with `arguments`.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(&self.prefix).args(arguments.into_iter().map(Into::into));
        command
    }
}

/// Asks the kernel to kill this process when its parent dies, so that no part outlives the agent.
/// Returns an error if the parent, whose id is `parent`, has died already.
pub(crate) fn die_with_parent(parent: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if now == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::other("the process that started this one is gone"))
    }
}
