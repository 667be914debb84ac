//! `site.toml`: what the hospital's IT decides.
//!
//! Read once at start. An unknown key, a value of the wrong kind or a policy that contradicts itself
//! stops the agent with the key's name: a site whose policy is not understood takes part in nothing.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use consilium_client::{Credentials, Proxy, Target};
use consilium_identity::address::Address;
use consilium_learning::DeviceChoice;
use consilium_study::policy::Policy;
use consilium_study::quantity::HumanDuration;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::data::{Room, Source};
use crate::folder::SiteFolder;

/// The whole of `site.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How to reach the coordinator.
    #[serde(default)]
    pub coordinator: Coordinator,
    /// Where the parts of the agent keep their files.
    #[serde(default)]
    pub folders: Folders,
    /// Where the cases are.
    pub source: Source,
    /// What is kept of them.
    #[serde(default)]
    pub data: Data,
    /// Threads of the vault. Results repeat bit for bit only with the same number.
    #[serde(default = "one")]
    pub threads: NonZeroUsize,
    /// What trains.
    #[serde(default)]
    pub device: DeviceChoice,
    /// What happens to a round whose GPU is gone, or too small.
    #[serde(default)]
    pub on_gpu_loss: OnGpuLoss,
    /// What this site agrees to.
    #[serde(default = "strictest")]
    pub policy: Policy,
    /// Where traces go; nowhere unless it is said.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// What a site does in a round that its GPU cannot train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnGpuLoss {
    /// It sits the round out, and looks for the GPU again in the next.
    #[default]
    DropOut,
    /// It trains on the processor.
    Cpu,
}

/// The policy of a file without `[policy]`: nobody may propose anything.
fn strictest() -> Policy {
    Policy::from_toml("").expect("every key of a policy may be left out")
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

/// `[coordinator]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coordinator {
    /// `host:port`, where it differs from the one in the invitation.
    pub address: Option<String>,
    /// `host:port` of an HTTP proxy on the way out.
    pub proxy: Option<String>,
    /// A file with `user:password` for that proxy.
    pub proxy_credentials: Option<PathBuf>,
    /// Longest pause between two tries to connect; a minute unless it is said.
    pub longest_pause: Option<HumanDuration>,
}

impl Coordinator {
    /// Where to dial, when an invitation or an enrolment names `invited`.
    pub fn target(&self, invited: &Address) -> anyhow::Result<Target> {
        let address = match &self.address {
            Some(text) => text.parse().context("[coordinator] address in site.toml")?,
            None => invited.clone(),
        };
        let Some(proxy) = &self.proxy else { return Ok(Target::direct(address)) };
        let proxy = Proxy {
            address: proxy.parse().context("[coordinator] proxy in site.toml")?,
            credentials: self.proxy_credentials.as_deref().map(credentials).transpose()?,
        };
        Ok(Target { proxy: Some(proxy), ..Target::direct(address) })
    }
}

fn credentials(path: &Path) -> anyhow::Result<Credentials> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .with_context(|| format!("cannot read proxy_credentials {}", path.display()))?;
    let (user, password) = text
        .trim_end_matches(['\r', '\n'])
        .split_once(':')
        .with_context(|| format!("{} does not hold one line user:password", path.display()))?;
    Ok(Credentials::new(user, password)?)
}

/// `[folders]`: relative paths start at the folder of `site.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folders {
    /// TLS key and certificate; the relay writes here only.
    pub relay: Option<PathBuf>,
    /// Signing key, journal and studies; the vault writes here only.
    pub vault: Option<PathBuf>,
}

/// `[data]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Most disk that decoded pictures may take in the vault's part; nothing is kept with 0.
    #[serde(default)]
    pub cache_gib: Gibibytes,
}

/// A size in GiB, from 0 to a PiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct Gibibytes(u32);

impl Gibibytes {
    const MOST: u32 = 1 << 20;

    /// The same in GiB.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The same in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 30
    }
}

impl Default for Gibibytes {
    /// Of the cache.
    fn default() -> Self {
        Self(20)
    }
}

impl TryFrom<i64> for Gibibytes {
    type Error = InvalidSize;

    fn try_from(size: i64) -> Result<Self, InvalidSize> {
        let valid = u32::try_from(size).ok().filter(|size| *size <= Self::MOST);
        valid.map(Self).ok_or(InvalidSize(size))
    }
}

/// A size that no disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a size is a whole number of GiB from 0 to {most}, not {0}", most = Gibibytes::MOST)]
pub struct InvalidSize(i64);

/// `[telemetry]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// OTLP endpoint (gRPC), for example `"http://127.0.0.1:4317"`.
    pub otlp: Option<String>,
}

/// Why `site.toml` is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none.
    #[error("there is no {}; `site-agent enrol INVITATION --dir {}` writes one to start from", path.display(), path.parent().unwrap_or(Path::new(".")).display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not TOML, or a key or value is not known here.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, key and reason.
        source: Box<toml::de::Error>,
    },
}

impl Config {
    /// Reads `site.toml` in a site's folder.
    pub fn load(folder: &SiteFolder) -> Result<Self, ConfigError> {
        let path = folder.config();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ConfigError::Missing { path });
            }
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        };
        Self::parse(&text, folder).map_err(|source| ConfigError::Invalid { path, source: Box::new(source) })
    }

    pub(crate) fn parse(text: &str, folder: &SiteFolder) -> Result<Self, toml::de::Error> {
        let mut config: Self = toml::from_str(text)?;
        let from_root = |path: &mut PathBuf| *path = folder.root().join(&*path);
        config.source.paths_mut().into_iter().for_each(from_root);
        if let Some(file) = &mut config.coordinator.proxy_credentials {
            from_root(file);
        }
        Ok(config)
    }

    /// Where decoded pictures are kept in a folder with these parts.
    #[must_use]
    pub fn cache(&self, folder: &SiteFolder) -> Room {
        Room::new(folder.cache(), self.data.cache_gib.bytes())
    }

    /// The site's folder with the parts where this configuration puts them.
    #[must_use]
    pub fn folder(&self, folder: &SiteFolder) -> SiteFolder {
        folder.clone().with_parts(self.folders.relay.as_deref(), self.folders.vault.as_deref())
    }
}

/// A `site.toml` to start from.
pub const TEMPLATE: &str = include_str!("config/site.toml");

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, &SiteFolder::new("/site")).map_err(|error| error.to_string())
    }

    const SOURCE: &str = "[source]\nkind = \"npz\"\nfile = \"data/cases.npz\"\n";

    #[test]
    fn the_template_is_a_valid_configuration() {
        let config = parse(TEMPLATE).unwrap();
        assert_eq!(config.threads.get(), 1);
        assert_eq!((config.device, config.on_gpu_loss), (DeviceChoice::Cpu, OnGpuLoss::DropOut));
        assert_eq!(config.telemetry.otlp, None);
        assert_eq!(config.data.cache_gib.bytes(), 20 << 30);
    }

    #[test]
    fn the_template_shows_the_cache_as_it_is_without_a_line() {
        let text = TEMPLATE.replace("# [data]", "[data]").replace("# cache_gib", "cache_gib");
        assert!(text.contains("\n[data]\ncache_gib"), "{text}");
        assert_eq!(parse(&text).unwrap().data, Data::default());
        let off = parse(&format!("{SOURCE}\n[data]\ncache_gib = 0\n")).unwrap();
        assert_eq!((off.data.cache_gib.get(), off.data.cache_gib.bytes()), (0, 0));
    }

    #[test]
    fn relative_places_start_at_the_site() {
        let config = parse(&format!("[folders]\nvault = \"/srv/vault\"\n{SOURCE}")).unwrap();
        assert!(matches!(&config.source, Source::Npz { file } if file == Path::new("/site/data/cases.npz")));
        let folder = config.folder(&SiteFolder::new("/site"));
        assert_eq!(folder.vault(), Path::new("/srv/vault"));
        assert_eq!(folder.relay(), Path::new("/site/relay"));
    }

    #[test]
    fn errors_name_the_key() {
        for (text, word) in [
            (format!("thread = 2\n{SOURCE}"), "thread"),
            (format!("threads = 0\n{SOURCE}"), "zero"),
            (format!("device = \"cuda\"\n{SOURCE}"), "gpu:software"),
            (format!("on_gpu_loss = \"wait\"\n{SOURCE}"), "drop-out"),
            (format!("{SOURCE}\n[policy]\nmin_selections = 3\n"), "min_selections"),
            (format!("{SOURCE}\n[coordinator]\nadress = \"a:1\"\n"), "adress"),
            (format!("{SOURCE}\n[data]\ncache = 3\n"), "cache"),
            (format!("{SOURCE}\n[data]\ncache_gib = -1\n"), "whole number of GiB from 0 to 1048576, not -1"),
            (format!("{SOURCE}\n[data]\ncache_gib = 1048577\n"), "cache_gib"),
            (format!("{SOURCE}\n[data]\ncache_gib = 0.5\n"), "cache_gib"),
            (format!("{SOURCE}\n[telemetry]\nendpoint = \"a\"\n"), "endpoint"),
            (String::new(), "source"),
            ("[source]\nkind = \"pacs\"\n".to_owned(), "pacs"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(word), "{word} is not in: {error}");
        }
    }

    #[test]
    fn a_proxy_is_dialled_with_the_credentials_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("proxy");
        std::fs::write(&file, "ward 3:pa:ss\n").unwrap();
        let text = format!(
            "{SOURCE}\n[coordinator]\nproxy = \"proxy.example:3128\"\nproxy_credentials = {file:?}\n"
        );
        let invited: Address = "coordinator.example:443".parse().unwrap();
        let target = parse(&text).unwrap().coordinator.target(&invited).unwrap();
        assert_eq!(target.address, invited);
        let proxy = target.proxy.unwrap();
        assert_eq!(proxy.address.to_string(), "proxy.example:3128");
        assert!(proxy.credentials.is_some());

        std::fs::write(&file, "nothing").unwrap();
        let error = parse(&text).unwrap().coordinator.target(&invited).unwrap_err().to_string();
        assert!(error.contains("user:password"), "{error}");
        assert!(parse(SOURCE).unwrap().coordinator.target(&invited).unwrap().proxy.is_none());
    }

    #[test]
    fn a_missing_file_says_what_writes_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = Config::load(&SiteFolder::new(dir.path())).unwrap_err().to_string();
        assert!(error.contains("site-agent enrol"), "{error}");
    }
}
