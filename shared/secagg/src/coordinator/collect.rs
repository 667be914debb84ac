//! Collecting masked vectors, envelopes and verdicts.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use minicbor::{Decode, Encode};

use super::CoordinatorRefusal;
use super::close::{ConsistencyCheck, NotClosed, propose};
use super::setup::first_counts;
use crate::consistency::fits;
use crate::context::Context;
use crate::held::Held;
use crate::masker::chunk_leaf;
use crate::merkle;
use crate::message::{DealerVerdict, Envelope, Receipt, Upload};
use crate::numbering::SiteIndex;
use crate::pin::StudyPin;

/// Masked vectors are arriving.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct CollectMasked {
    #[n(0)]
    pub(super) context: Held<Context>,
    /// First receipt of each site; a second one never counts.
    #[n(1)]
    pub(crate) receipts: BTreeMap<SiteIndex, Held<Receipt>>,
    #[n(2)]
    chunks: BTreeMap<SiteIndex, Vec<Hash>>,
    #[n(3)]
    pub(super) complete: BTreeSet<SiteIndex>,
    /// By recipient, then dealer.
    #[n(4)]
    pub(super) envelopes: BTreeMap<(SiteIndex, SiteIndex), Envelope>,
    /// By holder, then dealer.
    #[n(5)]
    pub(crate) verdicts: BTreeMap<(SiteIndex, SiteIndex), bool>,
    /// Dealers whose guilt is proved in the ledger: earlier survivors without them count as the same.
    #[n(6)]
    pub(super) guilty: BTreeSet<SiteName>,
}

/// For whom a phase waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectWaits {
    /// Members whose masked vector is not complete.
    pub vectors: Vec<SiteName>,
    /// Members that have not judged the envelopes of all complete dealers.
    pub verdicts: Vec<SiteName>,
}

impl CollectMasked {
    /// Starts an attempt with a context that the coordinator has signed. `guilty` are the dealers whose guilt the study's
    /// ledger proves.
    pub fn new(
        pin: &StudyPin,
        context: &Signed<Context>,
        guilty: BTreeSet<SiteName>,
    ) -> Result<Self, CoordinatorRefusal> {
        let context = pin.of_coordinator(context)?;
        pin.check(&context).map_err(|_| CoordinatorRefusal::Foreign)?;
        Ok(Self {
            context,
            receipts: BTreeMap::new(),
            chunks: BTreeMap::new(),
            complete: BTreeSet::new(),
            envelopes: BTreeMap::new(),
            verdicts: BTreeMap::new(),
            guilty,
        })
    }

    /// The context as it travels.
    pub fn signed_context(&self) -> &Signed<Context> {
        self.context.signed()
    }

    /// The context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    fn index(&self, site: &SiteName) -> Result<SiteIndex, CoordinatorRefusal> {
        self.context.selection.index_of(site).ok_or_else(|| CoordinatorRefusal::NotSelected(site.clone()))
    }

    /// Takes a site's receipt with its envelopes and chunk hashes. The first counts; the same again is harmless.
    pub fn take_upload(
        &mut self,
        pin: &StudyPin,
        site: &SiteName,
        upload: Upload,
    ) -> Result<(), CoordinatorRefusal> {
        let index = self.index(site)?;
        let receipt = pin.of_site(&upload.receipt, site)?;
        if receipt.ctx != self.context.hash() || receipt.sender != index || !fits(&receipt, &self.context) {
            return Err(CoordinatorRefusal::Foreign);
        }
        if upload.chunks.len() != self.context.layout.chunks()
            || merkle::root(&upload.chunks) != receipt.chunks
        {
            return Err(CoordinatorRefusal::Chunks);
        }
        let mut envelopes: BTreeMap<SiteIndex, Envelope> =
            upload.envelopes.into_iter().map(|envelope| (envelope.recipient, envelope)).collect();
        let named = |envelope: &Envelope| {
            envelope.sender == index && receipt.envelope(envelope.recipient) == Some(&envelope.hash())
        };
        let all = self.context.selection.indices().filter(|recipient| *recipient != index);
        if !envelopes.values().all(named) || !envelopes.keys().copied().eq(all) {
            return Err(CoordinatorRefusal::Envelopes);
        }
        first_counts(&mut self.receipts, index, receipt, site)?;
        self.chunks.insert(index, upload.chunks);
        while let Some((recipient, envelope)) = envelopes.pop_first() {
            self.envelopes.insert((recipient, index), envelope);
        }
        Ok(())
    }

    /// Checks a chunk that arrived, before it is written to the spool.
    pub fn check_chunk(&self, site: &SiteName, index: usize, bytes: &[u8]) -> Result<(), CoordinatorRefusal> {
        let sender = self.index(site)?;
        let chunks = self.chunks.get(&sender).ok_or_else(|| CoordinatorRefusal::NoReceipt(site.clone()))?;
        let length = self.context.layout.chunk_bytes(index);
        let leaf = || chunk_leaf(&self.context.hash(), sender, index, bytes);
        if length == Some(bytes.len()) && chunks.get(index) == Some(&leaf()) {
            Ok(())
        } else {
            Err(CoordinatorRefusal::WrongChunk { index })
        }
    }

    /// The Merkle root of the chunks that a site's receipt commits to.
    pub fn vector_of(&self, site: &SiteName) -> Option<Hash> {
        let index = self.index(site).ok()?;
        self.receipts.get(&index).map(|receipt| receipt.chunks)
    }

    /// All chunks of a site were checked and spooled. Its envelopes may be forwarded from now on.
    pub fn complete(&mut self, site: &SiteName) -> Result<(), CoordinatorRefusal> {
        let index = self.index(site)?;
        if !self.receipts.contains_key(&index) {
            return Err(CoordinatorRefusal::NoReceipt(site.clone()));
        }
        self.complete.insert(index);
        Ok(())
    }

    /// Whether a site's masked vector is complete.
    pub fn is_complete(&self, site: &SiteName) -> bool {
        self.index(site).is_ok_and(|index| self.complete.contains(&index))
    }

    /// Takes what a holder found in its envelopes. The first word on a dealer counts.
    pub fn take_verdicts(
        &mut self,
        site: &SiteName,
        verdicts: &[DealerVerdict],
    ) -> Result<(), CoordinatorRefusal> {
        let holder = self.index(site)?;
        for DealerVerdict { dealer, good } in verdicts {
            if !self.complete.contains(dealer) || *dealer == holder {
                return Err(CoordinatorRefusal::NoDealer(*dealer));
            }
            self.verdicts.entry((holder, *dealer)).or_insert(*good);
        }
        Ok(())
    }

    /// Receipts of complete dealers, which a site needs before their envelopes.
    pub fn receipts_for(&self, site: &SiteName) -> Vec<Signed<Receipt>> {
        let me = self.context.selection.index_of(site);
        let others = self.complete.iter().filter(|index| Some(**index) != me);
        others.filter_map(|index| self.receipts.get(index)).map(|held| held.signed().clone()).collect()
    }

    /// Envelopes of complete dealers that a site has not judged yet.
    pub fn envelopes_for(&self, site: &SiteName) -> Vec<Envelope> {
        let Some(me) = self.context.selection.index_of(site) else { return Vec::new() };
        self.complete
            .iter()
            .filter(|dealer| !self.verdicts.contains_key(&(me, **dealer)))
            .filter_map(|dealer| self.envelopes.get(&(me, *dealer)).cloned())
            .collect()
    }

    /// For whom the attempt waits.
    pub fn waits(&self) -> CollectWaits {
        let mut waits = CollectWaits::default();
        for member in self.context.selection.members() {
            let me = member.index;
            if !self.complete.contains(&me) {
                waits.vectors.push(member.site.clone());
            }
            let judged = |dealer: &SiteIndex| *dealer == me || self.verdicts.contains_key(&(me, *dealer));
            if !self.complete.iter().all(judged) {
                waits.verdicts.push(member.site.clone());
            }
        }
        waits
    }

    /// Closes the sum over the sites that can be in it, of which there must be at least `quorum` and `t`. Until this
    /// succeeds nothing is opened, and the phase is given back.
    #[expect(clippy::result_large_err, reason = "the phase itself is given back")]
    pub fn close(self, pin: &StudyPin, quorum: usize) -> Result<ConsistencyCheck, (Self, NotClosed)> {
        match propose(&self, pin, quorum) {
            Ok(survivors) => Ok(ConsistencyCheck::new(self, survivors)),
            Err(reason) => Err((self, reason)),
        }
    }
}
