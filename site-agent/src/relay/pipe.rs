//! The relay's end of the local pipe: two threads between standard input and output and the async side.

use std::io;

use tokio::sync::mpsc;

use crate::pipe::message::{FromRelay, FromVault};
use crate::pipe::{PipeError, receive, send};

/// Messages that wait on either way before the sender is held back.
const WAITING: usize = 8;

/// Both directions of the pipe. When either ends, so does the relay.
pub(super) struct VaultPipe {
    pub(super) from: mpsc::Receiver<FromVault>,
    pub(super) to: mpsc::Sender<FromRelay>,
}

impl VaultPipe {
    /// Takes standard input and output over.
    pub(super) fn open() -> io::Result<Self> {
        let (from_sender, from) = mpsc::channel(WAITING);
        let (to, mut to_receiver) = mpsc::channel::<FromRelay>(WAITING);
        std::thread::Builder::new().name("from-vault".into()).spawn(move || {
            let mut stdin = io::stdin().lock();
            loop {
                match receive(&mut stdin) {
                    Ok(message) => {
                        if from_sender.blocking_send(message).is_err() {
                            return;
                        }
                    }
                    Err(PipeError::Closed) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the vault's pipe failed");
                        return;
                    }
                }
            }
        })?;
        std::thread::Builder::new().name("to-vault".into()).spawn(move || {
            let mut stdout = io::stdout().lock();
            while let Some(message) = to_receiver.blocking_recv() {
                if send(&mut stdout, &message).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { from, to })
    }
}
