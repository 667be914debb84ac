//! What people are shown of the connection.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::status::publish;

/// State of the connection, as `site-agent status` shows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RelayStatus {
    /// Where the coordinator is.
    pub(crate) coordinator: String,
    /// Whether there is a connection now.
    pub(crate) connected: bool,
    /// When the present state began, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// When the coordinator last answered, in milliseconds since 1970.
    pub(crate) last_heard_ms: Option<u64>,
    /// Why there is no connection.
    pub(crate) cause: Option<String>,
    /// When the site's certificate expires, in milliseconds since 1970.
    pub(crate) certificate_expires_ms: Option<u64>,
}

/// Keeps the status file up to date.
#[derive(Clone)]
pub(super) struct Board {
    path: PathBuf,
    status: Arc<Mutex<RelayStatus>>,
}

impl Board {
    pub(super) fn new(path: PathBuf, coordinator: String) -> Self {
        let status = RelayStatus { coordinator, since_ms: now_ms(), ..RelayStatus::default() };
        let board = Self { path, status: Arc::new(Mutex::new(status)) };
        board.change(|_| {});
        board
    }

    pub(super) fn connected(&self) {
        self.change(|status| {
            status.connected = true;
            status.since_ms = now_ms();
            status.last_heard_ms = Some(now_ms());
            status.cause = None;
        });
    }

    pub(super) fn disconnected(&self, cause: &str) {
        self.change(|status| {
            if status.connected {
                status.since_ms = now_ms();
            }
            status.connected = false;
            status.cause = Some(cause.to_owned());
        });
    }

    pub(super) fn certificate_expires(&self, at: &jiff::Timestamp) {
        self.change(|status| status.certificate_expires_ms = u64::try_from(at.as_millisecond()).ok());
    }

    /// To be called when the coordinator has answered.
    pub(super) fn heard(&self) -> impl FnOnce() + Send + use<> {
        let board = self.clone();
        move || board.change(|status| status.last_heard_ms = Some(now_ms()))
    }

    fn change(&self, change: impl FnOnce(&mut RelayStatus)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        publish(&self.path, &*status);
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
