//! One supervised part: start it, carry its frames, start it again when it dies.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use consilium_crash::CRASH_AT;
use consilium_memory::Freed;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};

use super::{NEEDS_A_PERSON, RunError};
use crate::folder::SiteFolder;
use crate::pipe::{announced_length, frame_head};
use crate::program::Program;
use crate::status::publish;

/// Frames that wait for a part which reads slowly. More are held back at their sender.
const WAITING_FRAMES: usize = 4;

/// How long a part may take to end once its input is closed.
const GRACE: Duration = Duration::from_secs(2);

/// A part that lived this long starts again at once; others wait longer each time.
const SETTLED: Duration = Duration::from_mins(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where frames for a part go: to the running one, or nowhere.
#[derive(Clone, Default)]
pub(super) struct Mailbox(Rc<RefCell<Option<mpsc::Sender<Vec<u8>>>>>);

impl Mailbox {
    fn open(&self) -> mpsc::Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(WAITING_FRAMES);
        *self.0.borrow_mut() = Some(sender);
        receiver
    }

    fn close(&self) {
        *self.0.borrow_mut() = None;
    }

    async fn put(&self, frame: Vec<u8>) {
        let sender = self.0.borrow().clone();
        if let Some(sender) = sender {
            // An error means that the part died meanwhile; what it missed is repeated to the next one.
            let _ = sender.send(frame).await;
        }
    }
}

/// Process ids of the running agent, in a file for people and tests.
pub(super) struct Board {
    path: PathBuf,
    running: RefCell<BTreeMap<&'static str, u32>>,
    announced: Cell<bool>,
}

impl Board {
    pub(super) fn new(path: PathBuf) -> Self {
        let running = RefCell::new(BTreeMap::from([("supervisor", std::process::id())]));
        Self { path, running, announced: Cell::new(false) }
    }

    fn set(&self, part: &'static str, pid: Option<u32>) {
        let mut running = self.running.borrow_mut();
        match pid {
            Some(pid) => running.insert(part, pid),
            None => running.remove(part),
        };
        publish(&self.path, &*running);
        if running.len() == 3 && !self.announced.replace(true) {
            // One line for whoever started us; nobody need be listening.
            let line = serde_json::json!({ "ready": *running });
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    pub(super) fn clear(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A part of the agent, and where its frames come from and go to.
pub(super) struct Part {
    pub(super) name: &'static str,
    /// What becomes of memory that it frees.
    pub(super) freed: Freed,
    pub(super) inbox: Mailbox,
    pub(super) outbox: Mailbox,
}

impl Part {
    /// Keeps the part running until `stopped`, or until it says that it needs a person.
    pub(super) async fn keep_running(
        self,
        folder: &SiteFolder,
        program: &Program,
        board: &Board,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), RunError> {
        let mut pause = FIRST_PAUSE;
        let mut first = true;
        loop {
            let began = Instant::now();
            let mut child = self.start(folder, program, first)?;
            first = false;
            board.set(self.name, child.id());
            let status = self.attend(&mut child, &mut stopped).await;
            self.inbox.close();
            board.set(self.name, None);
            if *stopped.borrow() {
                return Ok(());
            }
            if status.as_ref().is_ok_and(|status| status.code() == Some(i32::from(NEEDS_A_PERSON))) {
                return Err(RunError::NeedsAPerson { part: self.name });
            }
            if began.elapsed() > SETTLED {
                pause = FIRST_PAUSE;
            }
            let ended = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::warn!(
                part = self.name,
                ended,
                again_in_ms = pause.as_millis(),
                "a part of the agent died"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn start(&self, folder: &SiteFolder, program: &Program, first: bool) -> Result<Child, RunError> {
        let mut command = program.command([self.name, "--parent", &std::process::id().to_string(), "--dir"]);
        self.freed.tune(&mut command).arg(folder.root());
        // In a crash test the first start of a part dies, and the next one comes through.
        if !first {
            command.env_remove(CRASH_AT);
        }
        // A group of its own: Ctrl-C in a terminal reaches the supervisor alone, which ends the parts in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Command::from(command).kill_on_drop(true).spawn()?)
    }

    /// Carries frames and log lines of a running part until it ends.
    async fn attend(
        &self,
        child: &mut Child,
        stopped: &mut watch::Receiver<bool>,
    ) -> std::io::Result<ExitStatus> {
        let stdin = child.stdin.take().expect("the input was asked to be a pipe");
        let stdout = child.stdout.take().expect("the output was asked to be a pipe");
        let stderr = child.stderr.take().expect("the log was asked to be a pipe");
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let inbox = self.inbox.open();
        let mut feeding = std::pin::pin!(feed(inbox, stdin));
        let mut draining = std::pin::pin!(drain(stdout, &self.outbox, self.name));
        let mut logging = std::pin::pin!(copy_log(stderr));
        let (mut fed, mut drained, mut logged, mut stopping) = (false, false, false, false);
        let mut patience = std::pin::pin!(tokio::time::sleep(GRACE));
        let status = loop {
            tokio::select! {
                () = &mut feeding, if !fed => fed = true,
                // A part that stops speaking, or speaks nonsense, is ended: its successor says it better.
                () = &mut draining, if !drained => {
                    drained = true;
                    if !stopping {
                        end_group(group);
                    }
                }
                () = &mut logging, if !logged => logged = true,
                status = child.wait() => break status,
                // Its input ends, and with it the part, if it can.
                _ = stopped.wait_for(|stopped| *stopped), if !stopping => {
                    stopping = true;
                    self.inbox.close();
                    patience.as_mut().reset(tokio::time::Instant::now() + GRACE);
                }
                () = &mut patience, if stopping => break Err(std::io::ErrorKind::TimedOut.into()),
            }
        };
        // Whatever the part itself had started goes with it.
        end_group(group);
        if status.is_err() {
            let _ = child.kill().await;
        }
        if !logged {
            let _ = tokio::time::timeout(Duration::from_millis(200), logging).await;
        }
        status
    }
}

fn end_group(group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Writes frames into a part's input until the mailbox is closed or the part is gone.
async fn feed(mut inbox: mpsc::Receiver<Vec<u8>>, mut stdin: ChildStdin) {
    while let Some(frame) = inbox.recv().await {
        let Ok(head) = frame_head(&frame) else { continue };
        if stdin.write_all(&head).await.is_err() || stdin.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Carries a part's frames to the other part until its output ends or holds no frame.
async fn drain(mut stdout: ChildStdout, outbox: &Mailbox, name: &'static str) {
    loop {
        match whole_frame(&mut stdout).await {
            Ok(Some(frame)) => outbox.put(frame).await,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(part = name, %error, "a part sent what is no frame");
                return;
            }
        }
    }
}

async fn whole_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, crate::pipe::PipeError> {
    let mut head = [0; 4];
    if from.read_exact(&mut head).await.is_err() {
        return Ok(None);
    }
    let length = announced_length(head)?;
    let mut frame = Vec::new();
    from.take(length as u64).read_to_end(&mut frame).await?;
    Ok((frame.len() == length).then_some(frame))
}

/// Log lines go on as they come; a line is one write at its source, so lines stay whole.
async fn copy_log(mut stderr: ChildStderr) {
    let mut buffer = vec![0; 8 << 10];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        // Blocking is right here: a log that is not read holds its writers back.
        let _ = std::io::stderr().write_all(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_carried_whole_or_not_at_all() {
        let mut bytes = frame_head(b"abc").unwrap().to_vec();
        bytes.extend_from_slice(b"abc");
        assert_eq!(whole_frame(&mut bytes.as_slice()).await.unwrap().unwrap(), b"abc");
        assert!(whole_frame(&mut &bytes[..5]).await.unwrap().is_none());
        assert!(whole_frame(&mut [0xff; 4].as_slice()).await.is_err());
    }

    #[tokio::test]
    async fn frames_for_a_dead_part_are_dropped() {
        let mailbox = Mailbox::default();
        mailbox.put(vec![1]).await;
        let mut first = mailbox.open();
        mailbox.put(vec![2]).await;
        assert_eq!(first.recv().await, Some(vec![2]));
        drop(first);
        mailbox.put(vec![3]).await;
        let mut second = mailbox.open();
        mailbox.put(vec![4]).await;
        assert_eq!(second.recv().await, Some(vec![4]));
    }
}
