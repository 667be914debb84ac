//! Log lines: to standard error, without anything about patients.
//!
//! `CONSILIUM_LOG` sets the filter (`info` by default), `CONSILIUM_LOG_FORMAT=json` one object per line.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// How much a command says beside its output.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// A running part: what an administrator wants to read later.
    Normal,
    /// A command with output of its own: warnings only.
    Quiet,
}

/// The layer that writes log lines.
pub(crate) fn lines(level: Level) -> Box<dyn Layer<Registry> + Send + Sync> {
    let usual = match level {
        Level::Normal => "info,opentelemetry=warn,opentelemetry_sdk=warn",
        Level::Quiet => "warn",
    };
    let filter = EnvFilter::try_from_env("CONSILIUM_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    if std::env::var("CONSILIUM_LOG_FORMAT").is_ok_and(|format| format == "json") {
        layer.json().with_filter(filter).boxed()
    } else {
        layer.with_target(false).with_filter(filter).boxed()
    }
}

/// Starts logging. A second start is ignored: a larger program may have started it.
pub fn start(level: Level) {
    let _ = tracing_subscriber::registry().with(lines(level)).try_init();
}
