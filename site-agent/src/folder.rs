//! Where things are in a site's folder.
//!
//! ```text
//! site.toml          what the hospital's IT decides
//! lock               held by the running supervisor
//! relay/             TLS key and certificate, the coordinator's address; status of the connection
//! vault/             signing key, pinned consortium key, journal, and one folder per study
//! ```

use std::path::{Path, PathBuf};

use consilium_study::hash::Hash;

/// The folder of one site.
#[derive(Clone, Debug)]
pub struct SiteFolder {
    root: PathBuf,
    relay: PathBuf,
    vault: PathBuf,
}

impl SiteFolder {
    /// A site's folder with the usual parts.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let (relay, vault) = (root.join("relay"), root.join("vault"));
        Self { root, relay, vault }
    }

    /// The same with other places for the two parts; relative ones start at the root.
    #[must_use]
    pub fn with_parts(self, relay: Option<&Path>, vault: Option<&Path>) -> Self {
        let place = |given: Option<&Path>, usual: PathBuf| given.map_or(usual, |part| self.root.join(part));
        Self { relay: place(relay, self.relay.clone()), vault: place(vault, self.vault.clone()), ..self }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `site.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join("site.toml")
    }

    /// The supervisor's lock.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Process ids of the running agent, for people and tests.
    pub fn processes(&self) -> PathBuf {
        self.root.join("processes.json")
    }

    /// The relay's part.
    pub fn relay(&self) -> &Path {
        &self.relay
    }

    /// The relay's TLS key.
    pub fn relay_key(&self) -> PathBuf {
        self.relay.join("tls.key")
    }

    /// The relay's certificate and what leads from it to the consortium's key.
    pub fn relay_certificate(&self) -> PathBuf {
        self.relay.join("certificate.pem")
    }

    /// Whom the relay connects to.
    pub fn relay_destination(&self) -> PathBuf {
        self.relay.join("destination.cbor")
    }

    /// The request for admission that the coordinator has taken, while nobody has answered it.
    pub fn enrolment_request(&self) -> PathBuf {
        self.relay.join("enrolment.cbor")
    }

    /// A request made with an invitation, while it is not the one that the site waits for.
    pub fn enrolment_request_of(&self, invitation: &Hash) -> PathBuf {
        self.relay.join(format!("enrolment-{invitation}.cbor"))
    }

    /// State of the connection, for `status`.
    pub fn relay_status(&self) -> PathBuf {
        self.relay.join("status.json")
    }

    /// The vault's part.
    pub fn vault(&self) -> &Path {
        &self.vault
    }

    /// The vault's lock.
    pub fn vault_lock(&self) -> PathBuf {
        self.vault.join("lock")
    }

    /// State of the studies, for `status` and `studies`.
    pub fn vault_status(&self) -> PathBuf {
        self.vault.join("status.json")
    }

    /// Names and public keys pinned at enrolment.
    pub fn identity(&self) -> PathBuf {
        self.vault.join("identity.cbor")
    }

    /// The site's signing key.
    pub fn signing_key(&self) -> PathBuf {
        self.vault.join("signing.key")
    }

    /// What the disclosure gate has told.
    pub fn disclosure(&self) -> PathBuf {
        self.vault.join("disclosure.cbor")
    }

    /// The journal.
    pub fn journal(&self) -> PathBuf {
        self.vault.join("journal")
    }

    /// Secret that decides which patients are held out.
    pub fn split_key(&self) -> PathBuf {
        self.vault.join("split.key")
    }

    /// Decoded pictures.
    pub fn cache(&self) -> PathBuf {
        self.vault.join("cache")
    }

    /// Survivors that bind this site, over all studies.
    pub fn repeat_book(&self) -> PathBuf {
        self.vault.join("repeat-book.cbor")
    }

    /// All studies this site ever heard of.
    pub fn studies(&self) -> PathBuf {
        self.vault.join("studies")
    }

    /// The parts of one study.
    pub fn study(&self, study: &Hash) -> StudyFolder {
        StudyFolder(self.studies().join(study.to_string()))
    }

    /// Models by hash.
    pub fn models(&self) -> PathBuf {
        self.vault.join("models")
    }
}

/// What the vault keeps of one study.
#[derive(Clone, Debug)]
pub struct StudyFolder(PathBuf);

impl StudyFolder {
    /// The study's state.
    pub fn record(&self) -> PathBuf {
        self.0.join("record.cbor")
    }

    /// The aggregation protocol's state.
    pub fn secagg(&self) -> PathBuf {
        self.0.join("secagg.cbor")
    }

    /// Chain keys, apart from the state and from every backup.
    pub fn chain_keys(&self) -> PathBuf {
        self.0.join("chain.keys")
    }

    /// Chain keys that are to take the place of the present ones.
    pub fn next_chain_keys(&self) -> PathBuf {
        self.0.join("chain.next")
    }

    /// The key that the chain keys are sealed under.
    pub fn chain_wrap(&self) -> PathBuf {
        self.0.join("chain.wrap")
    }

    /// A person's answer, written by `approve` and `decline`.
    pub fn decision(&self) -> PathBuf {
        self.0.join("decision.cbor")
    }

    /// The site's own numbers in the study's local layers.
    pub fn local_layers(&self) -> PathBuf {
        self.0.join("local.layers")
    }

    /// The site's control variate, in a study whose sites correct their steps.
    pub fn control_variate(&self) -> PathBuf {
        self.0.join("control.variate")
    }

    /// The masked vector of an attempt.
    pub fn spool(&self, attempt: u32) -> PathBuf {
        self.0.join(format!("spool-{attempt}"))
    }
}
