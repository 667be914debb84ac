//! The parent's side of the decode child: one file at a time, two seconds of processor time each.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use consilium_study::canonical::Canonical;

use super::protocol::{
    Answer, ArchiveDefect, ArchivePiece, BrokenPipe, Facts, Format, LONGEST_BODY, Request, read_frame,
    write_frame,
};
use super::reason::Reason;
use super::source::Target;

/// How long one file may take, in the child's own processor time.
pub const TIME_LIMIT: Duration = Duration::from_secs(2);
/// How many times that a file may take by the clock. On a busy machine a child waits for its turn, and a
/// good picture must not be set aside for that.
pub const PATIENCE: u32 = 5;

/// A decoded file: shape `[channels, height, width]` or `[depth, height, width]` of the target, or `[height, width]` for a mask,
/// every value between 0 and 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The values.
    pub values: Vec<f32>,
    /// What was seen of the file.
    pub facts: Facts,
}

/// Starts decode children, feeds them and replaces those that die or have to be killed.
pub struct Decoder {
    command: Command,
    time_limit: Duration,
    running: Option<Running>,
}

/// A child, and the thread that talks to it so that the parent can wait with a limit.
struct Running {
    child: Child,
    requests: SyncSender<(Request, Vec<u8>)>,
    answers: Receiver<Result<(Answer, Vec<u8>), BrokenPipe>>,
}

impl Decoder {
    /// `command` starts a program whose `main` calls [`super::decode_child_main`], such as this executable
    /// with its hidden subcommand. The child gets no environment.
    pub fn new(mut command: Command) -> Self {
        command.env_clear().stderr(Stdio::null());
        Self { command, time_limit: TIME_LIMIT, running: None }
    }

    /// The same with another limit per file.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// The process id of the child that will get the next file, if one is running.
    pub fn child_id(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Decodes one file. Whatever the file does to the child, the next call works.
    pub fn decode(&mut self, format: Format, target: Target, file: Vec<u8>) -> Result<Decoded, Reason> {
        if file.len() > LONGEST_BODY as usize {
            return Err(Reason::TooLarge);
        }
        let running = match self.running.take() {
            Some(running) => running,
            None => self.start().map_err(|_| Reason::DecoderFailed)?,
        };
        let before = running.processor_time();
        if running.requests.send((Request { format, target }, file)).is_err() {
            return Err(running.post_mortem());
        }
        let mut answer = running.answers.recv_timeout(self.time_limit);
        for _ in 1..PATIENCE {
            let used = running.processor_time().zip(before).map(|(now, before)| now.saturating_sub(before));
            let waits_for_its_turn = used.is_some_and(|used| used < self.time_limit);
            if !matches!(answer, Err(RecvTimeoutError::Timeout)) || !waits_for_its_turn {
                break;
            }
            answer = running.answers.recv_timeout(self.time_limit);
        }
        match answer {
            Ok(Ok((answer, body))) => match accept(answer, &body, format.values(target)) {
                Ok(outcome) => {
                    self.running = Some(running);
                    outcome
                }
                // A child that breaks the protocol is not asked again.
                Err(BrokenPipe::Nonsense | BrokenPipe::Closed(_)) => Err(Reason::DecoderFailed),
            },
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(running.post_mortem()),
            Err(RecvTimeoutError::Timeout) => Err(Reason::TooSlow),
        }
    }

    fn start(&mut self) -> std::io::Result<Running> {
        let mut child = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked to be pipes");
        };
        let (requests, to_write) = sync_channel::<(Request, Vec<u8>)>(1);
        let (to_parent, answers) = sync_channel(1);
        thread::spawn(move || {
            let (mut input, mut output) = (input, BufReader::new(output));
            while let Ok((request, file)) = to_write.recv() {
                let answer = converse(&mut input, &mut output, &request, &file);
                let broken = answer.is_err();
                if to_parent.send(answer).is_err() || broken {
                    return;
                }
            }
        });
        Ok(Running { child, requests, answers })
    }

    /// Reads an archive through a child of its own. `each` is told every piece but the last; it may be
    /// told pieces of an archive that turns out to be damaged further on.
    pub fn read_archive(
        &mut self,
        archive: File,
        each: &mut dyn FnMut(ArchivePiece, Vec<u8>) -> Result<(), ArchiveDefect>,
    ) -> Result<(), ArchiveDefect> {
        let spawned = self.command.stdin(Stdio::from(archive)).stdout(Stdio::piped()).spawn();
        // Closes our copy of the archive.
        self.command.stdin(Stdio::null());
        let mut child = Reaped(spawned.map_err(|_| ArchiveDefect::DecoderFailed)?);
        let Some(output) = child.0.stdout.take() else { unreachable!("it was asked to be a pipe") };
        let (to_parent, pieces) = sync_channel(2);
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            while let Ok(Some(piece)) = read_frame::<ArchivePiece>(&mut output) {
                if to_parent.send(piece).is_err() {
                    return;
                }
            }
        });
        loop {
            match pieces.recv_timeout(self.time_limit * PATIENCE) {
                Ok((ArchivePiece::End, _)) => return Ok(()),
                Ok((ArchivePiece::Refused(defect), _)) => return Err(defect),
                Ok((piece, body)) => each(piece, body)?,
                Err(_) => return Err(ArchiveDefect::DecoderFailed),
            }
        }
    }
}

/// A child that is killed and waited for when it goes out of scope.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// The processor time the child has had. `None` where the system does not tell; then the clock counts.
    fn processor_time(&self) -> Option<Duration> {
        let statistics = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id())).ok()?;
        Some(Duration::from_nanos(statistics.split(' ').next()?.parse().ok()?))
    }

    /// Why a child that closed its pipe did so.
    fn post_mortem(mut self) -> Reason {
        // Panics are caught, so an abort means an allocation beyond the limit.
        const SIGABRT: i32 = 6;
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) if status.signal() == Some(SIGABRT) => Reason::TooLarge,
            _ => Reason::DecoderFailed,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn converse(
    input: &mut ChildStdin,
    output: &mut BufReader<ChildStdout>,
    request: &Request,
    file: &[u8],
) -> Result<(Answer, Vec<u8>), BrokenPipe> {
    write_frame(input, request, file)?;
    input.flush()?;
    read_frame(output)?.ok_or(BrokenPipe::Nonsense)
}

/// Checks an answer: the child ran foreign code over foreign bytes and is believed nothing.
fn accept(answer: Answer, body: &[u8], count: usize) -> Result<Result<Decoded, Reason>, BrokenPipe> {
    match answer {
        Answer::Refused(reason) if body.is_empty() && is_of_a_child(&reason) => Ok(Err(reason)),
        Answer::Picture(facts) if body.len() == 4 * count => {
            let values: Vec<f32> = body
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks have four bytes")))
                .collect();
            if values.iter().all(|value| (0.0..=1.0).contains(value)) {
                Ok(Ok(Decoded { values, facts }))
            } else {
                Err(BrokenPipe::Nonsense)
            }
        }
        _ => Err(BrokenPipe::Nonsense),
    }
}

/// Reasons that follow from a file's content. A child cannot know about permissions or tables.
fn is_of_a_child(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Empty
            | Reason::NotAnImage
            | Reason::Malformed(_)
            | Reason::MissingAttribute(_)
            | Reason::UnsupportedSyntax { .. }
            | Reason::UnsupportedPixels
            | Reason::SeveralFrames
            | Reason::NoPixels
            | Reason::TooLarge
            | Reason::NotAMask
            | Reason::NotAVolume
            | Reason::SeveralVolumes
            | Reason::NoOrientation
            | Reason::DecoderFailed
    ) && reason.to_canonical().len() <= 256
}
