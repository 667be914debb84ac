//! Small files that show people what the running agent is doing. Never read back by the agent as state;
//! `consent` reads in them what the agent is asked, and the agent compares the answer with its own question.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Replaces a status file. It is not flushed: after a crash it says nothing that matters.
pub(crate) fn publish(path: &Path, status: &impl Serialize) {
    let aside = path.with_extension("json.new");
    let written = serde_json::to_vec(status)
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::fs::write(&aside, bytes))
        .and_then(|()| std::fs::rename(&aside, path));
    if let Err(error) = written {
        tracing::warn!(file = %path.display(), %error, "a status file cannot be written");
    }
}

/// Reads a status file, if there is one that this version understands.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
