//! The operator's folder of a consortium.
//!
//! | file | what | secret |
//! | --- | --- | --- |
//! | `consortium/consortium.pub` | name and public key: what everybody pins | no |
//! | `consortium/consortium.key` | the offline key; it signs certificates and rosters | yes |
//! | `consortium/consortium.pem` | the consortium's certificate, for tools that want one | no |
//! | `consortium/roster` | the roster signed last | no |
//! | `consortium/address` | where the coordinator listens | no |
//! | `consortium/coordinator.commission` | the answer to the coordinator, which `coordinator install` takes | no |
//! | `consortium/operator/` | the operator's certificate and keys | keys |
//! | `consortium/invitations/` | one file for each open invitation | yes |
//! | `coordinator/` | the coordinator's folder, where it runs on this machine | keys |

pub mod init;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_files::{read_seed, write_public};
use consilium_identity::address::Address;
use consilium_identity::{Anchor, ConsortiumKey, Roster, roster};
use consilium_study::canonical::Canonical;
use consilium_study::name::{PersonName, Principal};
use consilium_study::sign::{Signed, SigningKey, Verified};

/// Where a command finds its consortium.
#[derive(Debug, Clone, clap::Args)]
pub struct Location {
    /// Folder that `consilium init` made
    #[arg(long, global = true, env = "CONSILIUM_DIR", default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
}

/// An opened consortium folder.
#[derive(Debug, Clone)]
pub struct Consortium {
    folder: PathBuf,
    anchor: Anchor,
}

impl Consortium {
    /// Opens the folder.
    pub fn open(location: &Location) -> anyhow::Result<Self> {
        Self::at(&location.dir)
    }

    /// Opens the folder at a path: the one given to `init`, or its `consortium` sub-folder.
    pub fn at(dir: &Path) -> anyhow::Result<Self> {
        let candidates = [dir.join("consortium"), dir.to_owned()];
        let Some(folder) = candidates.into_iter().find(|folder| folder.join("consortium.pub").is_file())
        else {
            bail!(
                "{} holds no consortium. Make one with `consilium init DIR --name NAME`, or say where it is with --dir DIR",
                dir.display()
            );
        };
        let anchor = read_anchor(&folder.join("consortium.pub"))?;
        Ok(Self { folder, anchor })
    }

    /// What everybody pins.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The offline key, where it is at hand.
    pub fn key(&self) -> anyhow::Result<ConsortiumKey> {
        let path = self.path("consortium.key");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "the consortium's key {} is needed for this: bring it back from where it is kept",
                path.display()
            )
        })?;
        let text = zeroize::Zeroizing::new(text);
        ConsortiumKey::from_pem(self.anchor.name.clone(), &text)
            .with_context(|| format!("reading {}", path.display()))
    }

    /// The roster signed last, as this machine knows it.
    pub fn roster(&self) -> anyhow::Result<(Signed<Roster>, Verified<Roster>)> {
        let path = self.path("roster");
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let signed = Signed::from_canonical(&bytes).with_context(|| format!("reading {}", path.display()))?;
        let verified = roster::verify(&self.anchor, &signed)?;
        Ok((signed, verified))
    }

    /// Keeps a roster.
    pub fn keep_roster(&self, signed: &Signed<Roster>) -> anyhow::Result<()> {
        write_public(&self.path("roster"), &signed.to_canonical())
    }

    /// Where the coordinator listens.
    pub fn address(&self) -> anyhow::Result<Address> {
        let path = self.path("address");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.trim().parse()?)
    }

    /// The operator of this folder.
    pub fn operator(&self) -> anyhow::Result<Operator> {
        let folder = self.path("operator");
        let name = std::fs::read_to_string(folder.join("name"))
            .with_context(|| format!("{} holds no operator's credential", self.folder.display()))?;
        let name: PersonName = name.trim().parse()?;
        let key = SigningKey::from_seed(read_seed(&folder.join("signing.key"))?);
        Ok(Operator { name, key, folder })
    }
}

/// The person at the keyboard.
#[derive(Debug)]
pub struct Operator {
    name: PersonName,
    key: SigningKey,
    folder: PathBuf,
}

impl Operator {
    /// The operator as signer.
    pub fn principal(&self) -> Principal {
        Principal::Operator(self.name.clone())
    }

    /// What the operator signs statements with.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// A file of the operator's credential.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Reads `consortium.pub`: the name and the key in hexadecimal digits, on one line.
pub fn read_anchor(path: &Path) -> anyhow::Result<Anchor> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    text.parse().with_context(|| format!("reading {}", path.display()))
}
