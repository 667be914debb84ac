//! Who this site is and whom it believes: pinned at enrolment, held by the vault.

use anyhow::Context as _;
use consilium_identity::roster::{self, RosterError};
use consilium_identity::{Anchor, Roster};
use consilium_study::canonical::Canonical as _;
use consilium_study::name::{Principal, SiteName};
use consilium_study::sign::{Signed, SigningKey, Verified};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::folder::SiteFolder;
use crate::store::{Kind, Store};

/// Names and public keys. Nothing in it is secret; everything in it is believed without further proof.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Identity {
    /// The consortium and its key.
    #[n(0)]
    pub anchor: Anchor,
    /// This site.
    #[n(1)]
    pub site: SiteName,
    /// The newest roster that this site has seen.
    #[n(2)]
    pub roster: Signed<Roster>,
}

impl Identity {
    /// Reads what enrolment wrote.
    pub fn read(store: &dyn Store, folder: &SiteFolder) -> anyhow::Result<Self> {
        let path = folder.identity();
        let bytes = store
            .read(Kind::Identity, &path)?
            .with_context(|| format!("{} is not enrolled", folder.root().display()))?;
        Self::from_canonical(&bytes).with_context(|| format!("{} was altered", path.display()))
    }

    /// Writes it down.
    pub fn write(&self, store: &dyn Store, folder: &SiteFolder) -> anyhow::Result<()> {
        Ok(store.replace(Kind::Identity, &folder.identity(), &self.to_canonical())?)
    }

    /// This site as a signer.
    pub fn principal(&self) -> Principal {
        Principal::Site(self.site.clone())
    }

    /// Checks a roster that came with a study: signed by the consortium key, of this consortium, and not
    /// older than the newest one seen. Two rosters of one version are never both believed.
    pub fn check_roster(&self, offered: &Signed<Roster>) -> Result<Verified<Roster>, RosterRefusal> {
        let offered = roster::verify(&self.anchor, offered)?;
        let known = roster::verify(&self.anchor, &self.roster)?;
        if offered.version() < known.version() {
            return Err(RosterRefusal::Older { offered: offered.version(), known: known.version() });
        }
        if offered.version() == known.version() && offered.hash() != known.hash() {
            return Err(RosterRefusal::Fork { version: known.version() });
        }
        Ok(offered)
    }
}

/// Why a roster is not believed.
#[derive(Debug, thiserror::Error)]
pub enum RosterRefusal {
    /// Its signature or consortium is wrong.
    #[error(transparent)]
    Invalid(#[from] RosterError),
    /// A site has left or lost its keys since.
    #[error("roster version {offered} is older than version {known}, which this site has seen")]
    Older {
        /// Version offered.
        offered: u32,
        /// Newest version seen.
        known: u32,
    },
    /// The consortium key signed two rosters of one version.
    #[error("there are two different rosters of version {version}")]
    Fork {
        /// Their version.
        version: u32,
    },
}

/// Reads the site's signing key.
pub fn read_signing_key(store: &dyn Store, folder: &SiteFolder) -> anyhow::Result<SigningKey> {
    let path = folder.signing_key();
    let bytes = store
        .read(Kind::PrivateKey, &path)?
        .with_context(|| format!("the signing key {} is missing; enrol this site anew", path.display()))?;
    let bytes = Zeroizing::new(bytes);
    let seed: [u8; 32] =
        bytes.as_slice().try_into().with_context(|| format!("{} is no signing key", path.display()))?;
    Ok(SigningKey::from_seed(Zeroizing::new(seed)))
}
