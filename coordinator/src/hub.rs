//! A running coordinator: its members, its studies, and how it comes back after it was killed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use consilium_identity::revocation::{Revocation, Revocations};
use consilium_identity::roster::RosterError;
use consilium_identity::tls::{ServerTls, TlsError};
use consilium_identity::{IssuingKey, Roster, Trust};
use consilium_ledger::record::Record;
use consilium_rounds::Effect;
use consilium_rounds::{StudyMachine, Timing};
use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::hash::Hash;
use consilium_study::name::{ConsortiumName, SiteName, StudyName};
use consilium_study::sign::{Signed, VerifyingKey};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::certificate::OwnCertificate;
use crate::config::Config;
use crate::identity::{Identity, IdentityError};
use crate::ledger::{self, Ledger};
use crate::listener::Connections;
use crate::parts::Parts;
use crate::presence::Presence;
use crate::store::{SledStore, Store, StoreError, Table, Transaction};
use crate::study::{Fatal, StudyHandle, StudyTask, now};
use crate::telemetry::Telemetry;
use crate::uploads::Uploads;

/// Key of the roster in [`Table::Meta`].
const ROSTER: &[u8] = b"roster";

/// Everything that services reach.
pub struct Hub {
    /// Stores, ledger and key.
    pub parts: Arc<Parts>,
    /// Who counts.
    pub trust: Arc<Trust>,
    /// Renews certificates of those on the roster.
    pub issuing: IssuingKey,
    /// Who was heard.
    pub presence: Presence,
    /// Open connections of members, once the listener is there.
    pub connections: OnceLock<Connections>,
    /// Wakes those who wait for an admission.
    pub admitted: Notify,
    /// Cancelled when the coordinator stops, or has to.
    pub stop: CancellationToken,
    /// How patient new studies are.
    pub timing: Timing,
    studies: RwLock<BTreeMap<Hash, StudyHandle>>,
    /// Number of studies, for those who wait for new ones.
    known: watch::Sender<usize>,
    /// Changes of membership happen one after the other.
    membership: Mutex<()>,
}

/// Why a coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The identity folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The roster.
    #[error("the roster cannot be used: {0}")]
    Roster(#[from] RosterError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Files.
    #[error("the data folder cannot be used: {0}")]
    Files(#[from] io::Error),
    /// Stored bytes that do not decode.
    #[error("a stored record cannot be read: {0}. Restore the data folder from a backup")]
    Record(#[from] NotCanonical),
    /// Store, ledger or study.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The collector's address.
    #[error("telemetry.otlp cannot be used: {0}")]
    Telemetry(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<ledger::LedgerError> for OpenError {
    fn from(error: ledger::LedgerError) -> Self {
        Self::Fatal(error.into())
    }
}

/// What a check of a coordinator's folders found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Whose coordinator it is.
    pub consortium: ConsortiumName,
    /// Entries in its ledger.
    pub entries: u64,
}

impl Hub {
    /// Opens everything. Returns the certificate to show beside it. Studies are there, but do not run yet: see [`Hub::resume`].
    pub fn open(config: &Config) -> Result<(Self, OwnCertificate), OpenError> {
        let identity = Identity::read(&config.identity)?;
        let store = SledStore::open(&config.data.join("records"))?;
        let blobs = Blobs::open(&config.data.join("blobs"))?;
        let uploads = Uploads::open(&config.data.join("uploads"))?;
        let key = Arc::new(identity.signing);
        let origin = identity.anchor.name.clone();
        let ledger = Ledger::open(&config.ledger, origin, Arc::clone(&key), blobs.clone())?;
        let roster = match store.get(Table::Meta, ROSTER)? {
            Some(bytes) => Signed::from_canonical(&bytes)?,
            None => identity.roster,
        };
        let trust = Arc::new(Trust::new(identity.anchor, &roster, revocations(&store)?)?);
        let tls = Arc::new(ServerTls::new(Arc::clone(&trust), &identity.chain, &identity.tls)?);
        let certificate = OwnCertificate::new(&config.identity, identity.chain, tls);
        let waiting = store.scan(Table::Ledger, &[])?;
        let sequence =
            waiting.last().and_then(|(key, _)| key.as_slice().try_into().ok()).map_or(0, u64::from_be_bytes);
        let telemetry = Telemetry::start(config.telemetry.as_ref().map(|telemetry| telemetry.otlp.as_str()))?;
        let parts = Parts {
            store: Box::new(store),
            blobs,
            uploads,
            ledger,
            key,
            sequence: Mutex::new(sequence),
            telemetry,
        };
        let hub = Self {
            parts: Arc::new(parts),
            trust,
            issuing: identity.issuing,
            presence: Presence::default(),
            connections: OnceLock::new(),
            admitted: Notify::new(),
            stop: CancellationToken::new(),
            timing: config.timing,
            studies: RwLock::default(),
            known: watch::Sender::new(0),
            membership: Mutex::new(()),
        };
        hub.record(
            "roster",
            Transaction::new().put(Table::Meta, ROSTER, roster.to_canonical()),
            &[Record::Roster(roster)],
        )?;
        Ok((hub, certificate))
    }

    /// Checks identity and ledger, and changes nothing: it may be another user's command, beside a coordinator that
    /// runs.
    pub fn check(config: &Config) -> Result<Checked, OpenError> {
        let identity = Identity::read(&config.identity)?;
        let consortium = identity.anchor.name.clone();
        let entries = Ledger::check(&config.ledger, &consortium, &identity.signing.verifying_key())?;
        let trust = Arc::new(Trust::new(identity.anchor, &identity.roster, Revocations::new())?);
        let _ = ServerTls::new(trust, &identity.chain, &identity.tls)?;
        Ok(Checked { consortium, entries })
    }

    /// Brings back the studies that were running, each at the event that was committed last.
    pub fn resume(self: &Arc<Self>) -> Result<(), OpenError> {
        for (_, bytes) in self.parts.store.scan(Table::Studies, &[])? {
            let (machine, effects) = StudyMachine::from_bytes(&bytes)?.resume(now());
            let spooled = machine.spooled_attempt().map(|attempt| u64::from(attempt.get()));
            self.parts.uploads.keep_only(&machine.study_hash(), spooled).map_err(Fatal::from)?;
            self.run_study(machine, effects, Vec::new())?;
        }
        Ok(())
    }

    /// Commits the first step of a study and lets it run.
    pub fn run_study(
        self: &Arc<Self>,
        machine: StudyMachine,
        effects: Vec<Effect>,
        records: Vec<Record>,
    ) -> Result<(), Fatal> {
        let (mut task, handle) = StudyTask::new(Arc::clone(&self.parts), machine, effects)?;
        task.commit_first(records)?;
        let count = {
            let mut studies = self.studies.write().unwrap_or_else(PoisonError::into_inner);
            studies.insert(handle.hash, handle);
            studies.len()
        };
        self.known.send_replace(count);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            if let Err(error) = task.run().await {
                // Acting without recording is worse than not acting.
                tracing::error!(%error, "a study cannot go on; the coordinator stops");
                stop.cancel();
            }
        });
        Ok(())
    }

    /// All studies.
    pub fn studies(&self) -> Vec<StudyHandle> {
        self.studies.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// One study.
    pub fn study(&self, hash: &Hash) -> Option<StudyHandle> {
        self.studies.read().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    /// One study, by its name.
    pub fn study_named(&self, name: &StudyName) -> Option<StudyHandle> {
        self.studies().into_iter().find(|study| study.name == *name)
    }

    /// Wakes when a study was added.
    pub fn new_studies(&self) -> watch::Receiver<usize> {
        self.known.subscribe()
    }

    /// Membership changes hold this from the first check to the last write.
    pub fn membership(&self) -> MutexGuard<'_, ()> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes records, and statements for the ledger, in one transaction.
    pub fn record(&self, name: &str, transaction: Transaction, statements: &[Record]) -> Result<(), Fatal> {
        let pending = {
            let mut sequence = self.parts.sequence.lock().unwrap_or_else(PoisonError::into_inner);
            ledger::pending(statements, now().as_millis(), &mut sequence)
        };
        self.parts.store.commit(name, transaction.and(pending))?;
        self.parts.ledger.append_pending(&*self.parts.store)?;
        Ok(())
    }

    /// A transaction that sets the roster.
    pub fn set_roster(roster: &Signed<Roster>) -> Transaction {
        Transaction::new().put(Table::Meta, ROSTER, roster.to_canonical())
    }

    /// The roster as it was signed.
    pub fn signed_roster(&self) -> Result<Vec<u8>, StoreError> {
        Ok(self.parts.store.get(Table::Meta, ROSTER)?.unwrap_or_default())
    }

    /// Signing keys of all sites on the roster.
    pub fn site_keys(&self) -> BTreeMap<SiteName, VerifyingKey> {
        self.trust.roster().sites().iter().map(|entry| (entry.name.clone(), entry.signing_key)).collect()
    }
}

fn revocations(store: &dyn Store) -> Result<Revocations, OpenError> {
    let mut all = Revocations::new();
    for (_, bytes) in store.scan(Table::Revocations, &[])? {
        all.insert(Revocation::from_canonical(&bytes)?);
    }
    Ok(all)
}
