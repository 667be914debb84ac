//! Collecting answers, rebuilding seeds, and naming who is to blame where that fails.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use minicbor::{Decode, Encode};

use super::CoordinatorRefusal;
use super::close::envelopes_for;
use super::setup::first_counts;
use crate::accumulator::{OpenedMask, OpenedSeeds};
use crate::context::Context;
use crate::dealing::shares_match;
use crate::guilt::{DealerGuilt, HolderShares, commitment};
use crate::held::Held;
use crate::message::{Answer, DealerShares, Envelope, Receipt, Survivors, UnmaskRequest};
use crate::numbering::SiteIndex;
use crate::pin::StudyPin;
use crate::secret::MaskSeed;
use crate::shamir;
use crate::site::{dropped_peers, opened_of};

/// `t` survivors have signed, and answers are arriving.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct Unmask {
    #[n(0)]
    context: Held<Context>,
    #[n(1)]
    request: UnmaskRequest,
    #[n(2)]
    receipts: BTreeMap<SiteIndex, Held<Receipt>>,
    #[n(3)]
    envelopes: BTreeMap<(SiteIndex, SiteIndex), Envelope>,
    /// Each checked: its shares match their leaves, its seeds their commitments.
    #[n(4)]
    answers: BTreeMap<SiteIndex, Held<Answer>>,
}

/// Why the seeds cannot be rebuilt from the answers at hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRecovered {
    /// More answers are needed.
    #[error("{got} answers have arrived, and more are needed")]
    TooFew {
        /// Answers.
        got: usize,
    },
    /// Dealers dealt shares that miss their commitments. The round is lost, once; the proofs go to the ledger.
    #[error("{} dealers dealt shares that miss their commitments", .0.len())]
    Guilty(Vec<DealerGuilt>),
}

impl Unmask {
    pub(super) fn new(
        context: Held<Context>,
        request: UnmaskRequest,
        receipts: BTreeMap<SiteIndex, Held<Receipt>>,
        envelopes: BTreeMap<(SiteIndex, SiteIndex), Envelope>,
    ) -> Self {
        Self { context, request, receipts, envelopes, answers: BTreeMap::new() }
    }

    /// The context as it travels.
    pub fn signed_context(&self) -> &Signed<Context> {
        self.context.signed()
    }

    /// The context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What every member of the Selection is asked.
    pub fn request(&self) -> &UnmaskRequest {
        &self.request
    }

    /// `U`.
    pub fn survivors(&self) -> &Survivors {
        &self.request.survivors
    }

    /// The survivors by name.
    pub fn names(&self) -> BTreeSet<SiteName> {
        StudyPin::names_of(&self.context, self.survivors().indices())
    }

    /// The survivors by name, each with the Merkle root of its vector's chunks.
    pub fn vectors(&self) -> BTreeMap<SiteName, Hash> {
        let of = |index| {
            let receipt = self.receipts.get(&index)?;
            Some((self.context.selection.site(index)?.clone(), receipt.chunks))
        };
        self.survivors().indices().filter_map(of).collect()
    }

    /// The receipts of all survivors, which a site needs before it answers.
    pub fn receipts(&self) -> Vec<Signed<Receipt>> {
        self.receipts.values().map(|held| held.signed().clone()).collect()
    }

    /// Envelopes of survivors that a site has not judged: it needs them before it answers.
    pub fn envelopes_for(&self, site: &SiteName) -> Vec<Envelope> {
        envelopes_for(&self.context, &self.envelopes, site)
    }

    /// Takes a member's answer. Every share is checked against the receipt of its dealer: one that misses names
    /// the holder, whose signature under the answer is the proof.
    pub fn take_answer(
        &mut self,
        pin: &StudyPin,
        site: &SiteName,
        answer: &Signed<Answer>,
    ) -> Result<(), CoordinatorRefusal> {
        let selection = &self.context.selection;
        let holder = selection.index_of(site).ok_or_else(|| CoordinatorRefusal::NotSelected(site.clone()))?;
        let answer = pin.of_site(answer, site)?;
        if answer.ctx != self.context.hash()
            || answer.survivors != self.survivors().hash()
            || answer.holder != holder
        {
            return Err(CoordinatorRefusal::Foreign);
        }
        let wrong = || CoordinatorRefusal::WrongAnswer(site.clone());
        if answer.dealers.windows(2).any(|pair| pair[0].dealer >= pair[1].dealer) {
            return Err(wrong());
        }
        for given in &answer.dealers {
            let dealer = given.dealer;
            let receipt = self.receipts.get(&dealer).ok_or_else(wrong)?;
            let about = opened_of(&self.context, self.survivors(), dealer);
            if !given.shares.iter().map(|opened| opened.about).eq(about) {
                return Err(wrong());
            }
            if !shares_match(receipt, holder, given) {
                return Err(CoordinatorRefusal::WrongShare { holder: site.clone(), dealer });
            }
        }
        let survives = self.survivors().contains(holder);
        let asked =
            if survives { dropped_peers(&self.context, self.survivors(), holder) } else { Vec::new() };
        if !answer.seeds.iter().map(|opened| opened.dropped).eq(asked) {
            return Err(wrong());
        }
        for opened in &answer.seeds {
            let receipt = self.receipts.get(&holder).ok_or_else(wrong)?;
            let seed = MaskSeed::from_bytes(&opened.seed);
            if !matches_commitment(receipt, opened.dropped, &seed) {
                return Err(CoordinatorRefusal::WrongSeed { holder: site.clone(), dropped: opened.dropped });
            }
        }
        first_counts(&mut self.answers, holder, answer, site)
    }

    /// Members that have not answered. More than `t` answers are waited for where sites remain, because some of them
    /// may turn out not to help.
    pub fn waits(&self) -> Vec<SiteName> {
        let members = self.context.selection.members().iter();
        members
            .filter(|member| !self.answers.contains_key(&member.index))
            .map(|member| member.site.clone())
            .collect()
    }

    /// How many have answered.
    pub fn answers(&self) -> usize {
        self.answers.len()
    }

    /// Rebuilds every seed whose mask stands in the sum of the survivors.
    pub fn recover(&self) -> Result<OpenedSeeds, NotRecovered> {
        let mut masks = Vec::new();
        let mut guilty = Vec::new();
        for survivor in self.survivors().indices() {
            let dropped = dropped_peers(&self.context, self.survivors(), survivor);
            for peer in std::iter::once(survivor).chain(dropped) {
                match self.seed(survivor, peer)? {
                    Ok(seed) => masks.push(OpenedMask { survivor, peer, seed: (*seed.as_bytes()).into() }),
                    Err(proof) => guilty.push(proof),
                }
            }
        }
        if guilty.is_empty() { Ok(OpenedSeeds { masks }) } else { Err(NotRecovered::Guilty(guilty)) }
    }

    /// The seed that `dealer` has about `about`: as it gives it itself, or from shares.
    fn seed(
        &self,
        dealer: SiteIndex,
        about: SiteIndex,
    ) -> Result<Result<MaskSeed, DealerGuilt>, NotRecovered> {
        let own = self.answers.get(&dealer).filter(|_| about != dealer);
        let given = own.and_then(|answer| answer.seeds.iter().find(|opened| opened.dropped == about));
        if let Some(opened) = given {
            return Ok(Ok(MaskSeed::from_bytes(&opened.seed)));
        }
        let threshold = usize::from(self.context.thresholds.threshold);
        let shares: Vec<(SiteIndex, &DealerShares)> = self
            .answers
            .iter()
            .filter_map(|(holder, answer)| {
                let given = answer.dealers.iter().find(|given| given.dealer == dealer)?;
                Some((*holder, given))
            })
            .take(threshold)
            .collect();
        let points: Vec<(SiteIndex, [u8; 32])> = shares
            .iter()
            .filter_map(|(holder, given)| {
                given
                    .shares
                    .iter()
                    .find(|opened| opened.about == about)
                    .map(|opened| (*holder, *opened.share))
            })
            .collect();
        let too_few = NotRecovered::TooFew { got: self.answers.len() };
        let seed = shamir::combine(&points, &self.context.thresholds).ok_or(too_few.clone())?;
        let receipt = self.receipts.get(&dealer).ok_or(too_few)?;
        if matches_commitment(receipt, about, &seed) {
            return Ok(Ok(seed));
        }
        Ok(Err(DealerGuilt {
            context: self.context.signed().clone(),
            receipt: receipt.signed().clone(),
            about,
            shares: shares
                .into_iter()
                .map(|(holder, given)| HolderShares { holder, given: given.clone() })
                .collect(),
        }))
    }
}

fn matches_commitment(receipt: &Receipt, about: SiteIndex, seed: &MaskSeed) -> bool {
    commitment(receipt, about) == Some(&seed.commitment(&receipt.ctx, receipt.sender, about))
}
