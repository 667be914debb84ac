//! The identity folder: who this coordinator is, and whom it serves.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use consilium_files::{seed, write_secret};
use consilium_identity::anchor::InvalidAnchor;
use consilium_identity::certificate::{Chain, InvalidChain};
use consilium_identity::issuing::InvalidIssuing;
use consilium_identity::key::InvalidKey;
use consilium_identity::{Anchor, CoordinatorKeys, IssuingKey, Roster, TlsKey};
use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::sign::{Signed, SigningKey};
use zeroize::Zeroizing;

use crate::durable::durable;

/// Why the identity folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file of it.
    #[error(
        "{path}: {cause}. `consilium init` or `coordinator init` makes the identity folder",
        path = path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: IdentityCause,
    },
    /// Keys, and no certificates yet.
    #[error(
        "this coordinator has keys and no commission yet. Its request goes to the operator (consilium init DIR \
         --name NAME --request FILE); take up the answer with: coordinator install FILE --config CONFIG"
    )]
    NotCommissioned,
}

/// What can be wrong with a file of the identity folder.
#[derive(Debug, thiserror::Error)]
pub enum IdentityCause {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No private key.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// No certificate chain.
    #[error(transparent)]
    Chain(#[from] InvalidChain),
    /// No issuing certificate.
    #[error(transparent)]
    Issuing(#[from] InvalidIssuing),
    /// No canonical value.
    #[error(transparent)]
    Canonical(#[from] NotCanonical),
    /// Something else than a name and a key.
    #[error(transparent)]
    Anchor(#[from] InvalidAnchor),
    /// Another length than a seed has.
    #[error("not a signing key of 32 bytes")]
    Seed,
}

/// What the identity folder holds.
pub struct Identity {
    /// Whom the coordinator serves.
    pub anchor: Anchor,
    /// The first roster.
    pub roster: Signed<Roster>,
    /// The coordinator's certificate.
    pub chain: Chain,
    /// Its key.
    pub tls: TlsKey,
    /// What statements are signed with.
    pub signing: SigningKey,
    /// What certificates are renewed with.
    pub issuing: IssuingKey,
}

impl Identity {
    /// Reads a complete folder.
    pub fn read(folder: &Path) -> Result<Self, IdentityError> {
        let CoordinatorKeys { tls, signing, issuing } = read_keys(folder)?;
        let anchor = read_anchor(folder)?.ok_or(IdentityError::NotCommissioned)?;
        let file = |name| File::of(folder, name);
        Ok(Self {
            anchor,
            roster: file("roster").read_bytes(|bytes| Ok(Signed::from_canonical(bytes)?))?,
            chain: file("certificate.pem").read(|text| Ok(Chain::from_pem(text)?))?,
            issuing: file("issuing.pem").read(|text| Ok(IssuingKey::from_pem(issuing, text)?))?,
            tls,
            signing,
        })
    }
}

/// Whom the coordinator of a folder serves, if it serves anybody yet.
pub fn read_anchor(folder: &Path) -> Result<Option<Anchor>, IdentityError> {
    if_there(File::of(folder, "consortium.pub").read(|text| Ok(text.parse()?)))
}

/// A file's content, or none where there is no such file. One that cannot be read is another matter.
fn if_there<T>(read: Result<T, IdentityError>) -> Result<Option<T>, IdentityError> {
    match read {
        Err(IdentityError::File { cause: IdentityCause::Io(error), .. })
            if error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Reads the keys of a folder, and makes those that were never made. Returns whether any was made.
pub fn read_or_make_keys(folder: &Path) -> anyhow::Result<(CoordinatorKeys, bool)> {
    let new = CoordinatorKeys::generate();
    let mut made = false;
    for (name, bytes) in new.files() {
        let path = folder.join(name);
        if !path.try_exists().with_context(|| format!("reading {}", path.display()))? {
            durable("identity-key", || write_secret(&path, &bytes))?;
            made = true;
        }
    }
    Ok((read_keys(folder)?, made))
}

/// Reads the keys of a folder.
pub fn read_keys(folder: &Path) -> Result<CoordinatorKeys, IdentityError> {
    let file = |name| File::of(folder, name);
    Ok(CoordinatorKeys {
        tls: file("tls.key").read(|text| Ok(TlsKey::from_pem(text)?))?,
        signing: file("signing.key")
            .read_bytes(|bytes| Ok(SigningKey::from_seed(seed(bytes).ok_or(IdentityCause::Seed)?)))?,
        issuing: file("issuing.key").read(|text| Ok(TlsKey::from_pem(text)?))?,
    })
}

struct File {
    path: PathBuf,
}

impl File {
    fn of(folder: &Path, name: &str) -> Self {
        Self { path: folder.join(name) }
    }

    fn read_bytes<T>(
        self,
        parse: impl FnOnce(&[u8]) -> Result<T, IdentityCause>,
    ) -> Result<T, IdentityError> {
        let bytes = std::fs::read(&self.path).map(Zeroizing::new).map_err(IdentityCause::Io);
        bytes.and_then(|bytes| parse(&bytes)).map_err(|cause| IdentityError::File { path: self.path, cause })
    }

    fn read<T>(self, parse: impl FnOnce(&str) -> Result<T, IdentityCause>) -> Result<T, IdentityError> {
        self.read_bytes(|bytes| {
            let text =
                std::str::from_utf8(bytes).map_err(|error| IdentityCause::Io(io::Error::other(error)))?;
            parse(text)
        })
    }
}
