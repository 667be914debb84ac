//! Processes that are started, killed and waited for.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// A process that dies when this value does.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program whose standard error is appended to a log.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn()?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Waits for the line that says it is ready.
    pub fn ready(&mut self) -> anyhow::Result<()> {
        let out = self.child.stdout.take().context("the output was taken already")?;
        let mut lines = BufReader::new(out).lines();
        match lines.next() {
            Some(Ok(line)) if line.contains("ready") => {
                std::thread::spawn(move || lines.for_each(drop));
                Ok(())
            }
            other => bail!("not ready but {other:?}; log: {}", self.log()),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM")).context("VmHWM")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse::<u64>()? * 1024)
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waiting for the end.
    pub fn stop(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let ended = wait_until(Duration::from_secs(15), || !self.runs());
        if !ended {
            bail!("still running 15 s after SIGTERM; log: {}", self.log());
        }
        Ok(self.child.wait()?)
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks every few milliseconds until the answer is yes. `false` when it never was.
pub fn wait_until(patience: Duration, mut asked: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if asked() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    asked()
}
