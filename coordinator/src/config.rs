//! `coordinator.toml`. Unknown keys are errors; paths are relative to the file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use consilium_rounds::Timing;
use serde::Deserialize;

/// The coordinator's configuration, checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to listen on, for example `"0.0.0.0:443"`.
    pub listen: SocketAddr,
    /// Folder with the the coordinator's certificates and keys, from `coordinator init` or `consilium init`.
    pub identity: PathBuf,
    /// Folder for records, models, uploads: one directory, no database server.
    pub data: PathBuf,
    /// Folder of the ledger, a C2SP log that any web server may publish.
    pub ledger: PathBuf,
    /// Where traces and metrics go. Nowhere, unless this is set.
    pub telemetry: Option<Telemetry>,
    /// How patient the coordinator is, where a study does not say.
    #[serde(default)]
    pub timing: Timing,
}

/// Destination of traces and metrics.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// OTLP over gRPC, for example `"http://127.0.0.1:4317"`.
    pub otlp: String,
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Invalid { path: path.to_owned(), source: Box::new(source) })?;
        let base = path.parent().unwrap_or(Path::new("."));
        for folder in [&mut config.identity, &mut config.data, &mut config.ledger] {
            *folder = base.join(&*folder);
        }
        Ok(config)
    }
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}. `coordinator init` and `consilium init` write one", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a valid configuration.
    #[error("{} is not a valid configuration: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and what, with the offending line.
        source: Box<toml::de::Error>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "listen = \"127.0.0.1:0\"\nidentity = \"id\"\ndata = \"data\"\nledger = \"/l\"\n";

    #[test]
    fn paths_are_relative_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.toml");
        std::fs::write(&path, GOOD).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.identity, folder.path().join("id"));
        assert_eq!(config.ledger, Path::new("/l"));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.toml");
        std::fs::write(&path, format!("{GOOD}datta = 1\n")).unwrap();
        assert!(Config::load(&path).unwrap_err().to_string().contains("datta"));
    }
}
