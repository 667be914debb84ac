//! `site-agent run`: starts vault and relay, carries frames between them, restarts what dies.
//!
//! The two parts share nothing but this process: each has one anonymous pipe in and one out, and
//! frames are carried over whole, so that a part that dies in the middle of a frame leaves nothing
//! half-written behind for the other. Frames for a part that is not running are dropped; a fresh
//! vault says `Hello` and a fresh relay `Link(Down)`, and both then repeat what matters. Log lines
//! of both come back through a pipe as well: the vault holds no descriptor that is a socket, even
//! where the service manager gave us one.
//!
//! A lock that the kernel holds refuses a second agent and dies with the process, so no stale file
//! can keep the agent from starting (A9). The parts ask the kernel to die with this process.

mod part;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::PathBuf;

use consilium_memory::Freed;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::part::{Mailbox, Part};
use crate::config::{Config, ConfigError};
use crate::folder::SiteFolder;
use crate::program::Program;

/// Exit code of a part that cannot go on without a person: restarting it would not help.
pub(crate) const NEEDS_A_PERSON: u8 = 78;

/// Why the agent does not run or stopped running.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `site.toml` is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The lock file cannot be made.
    #[error("cannot open {}: {source}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody else holds the lock.
    #[error("another agent already runs in {}", folder.display())]
    AlreadyRunning {
        /// The site's folder.
        folder: PathBuf,
    },
    /// The site has not been enrolled.
    #[error("{} is not enrolled; run `site-agent enrol INVITATION --dir {}` first", folder.display(), folder.display())]
    NotEnrolled {
        /// The site's folder.
        folder: PathBuf,
    },
    /// A part said that it needs a person.
    #[error("the {part} stopped and cannot go on by itself; its last log line says why")]
    NeedsAPerson {
        /// `vault` or `relay`.
        part: &'static str,
    },
    /// The operating system refused something basic.
    #[error("the agent cannot run: {0}")]
    Io(#[from] io::Error),
}

/// Takes the site's lock, or says who cannot run.
pub(crate) fn lock(folder: &SiteFolder) -> Result<File, RunError> {
    let path = folder.lock();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| RunError::Lock { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RunError::AlreadyRunning { folder: folder.root().to_owned() }),
        Err(TryLockError::Error(source)) => Err(RunError::Lock { path, source }),
    }
}

/// Runs the agent until it is told to stop.
pub fn run(folder: &SiteFolder, program: &Program) -> Result<(), RunError> {
    let folder = Config::load(folder)?.folder(folder);
    if !folder.identity().exists() {
        return Err(RunError::NotEnrolled { folder: folder.root().to_owned() });
    }
    let _lock = lock(&folder)?;
    // One thread: the kernel ties the parts' lives to the thread that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(&folder, program))
}

async fn supervise(folder: &SiteFolder, program: &Program) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    let (to_vault, to_relay) = (Mailbox::default(), Mailbox::default());
    let board = part::Board::new(folder.processes());
    let vault =
        Part { name: "vault", freed: Freed::Stays, inbox: to_vault.clone(), outbox: to_relay.clone() };
    let relay = Part { name: "relay", freed: Freed::GoesBack, inbox: to_relay, outbox: to_vault };
    let mut vault = std::pin::pin!(vault.keep_running(folder, program, &board, stopped.clone()));
    let mut relay = std::pin::pin!(relay.keep_running(folder, program, &board, stopped));
    let ended = tokio::select! {
        biased;
        _ = terminate.recv() => Ended::Asked,
        _ = interrupt.recv() => Ended::Asked,
        outcome = &mut vault => Ended::Vault(outcome),
        outcome = &mut relay => Ended::Relay(outcome),
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    let outcome = match ended {
        Ended::Asked => {
            let (vault, relay) = tokio::join!(vault, relay);
            vault.and(relay)
        }
        Ended::Vault(outcome) => outcome.and(relay.await),
        Ended::Relay(outcome) => outcome.and(vault.await),
    };
    board.clear();
    outcome
}

/// Why the agent stops.
enum Ended {
    Asked,
    Vault(Result<(), RunError>),
    Relay(Result<(), RunError>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_and_a_left_over_lock_file_is_not_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SiteFolder::new(dir.path());
        std::fs::write(folder.lock(), "4711").unwrap();
        let held = lock(&folder).unwrap();
        assert!(matches!(lock(&folder), Err(RunError::AlreadyRunning { .. })));
        drop(held);
        assert!(lock(&folder).is_ok());
    }
}
