//! Deciding who is in the sum, and collecting the survivors' signatures.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use minicbor::{Decode, Encode};

use super::CoordinatorRefusal;
use super::collect::CollectMasked;
use super::setup::first_counts;
use super::unmask::Unmask;
use crate::consistency::{self, Inconsistent, UnmetTerms, unequal_pairs};
use crate::context::Context;
use crate::held::Held;
use crate::message::{Envelope, Receipt, Survivor, Survivors, SurvivorsSignature, UnmaskRequest};
use crate::numbering::SiteIndex;
use crate::pin::StudyPin;

/// Why an attempt cannot be closed yet, or at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotClosed {
    /// Too few vectors are complete and undisputed.
    #[error("{got} sites can be in the sum, and {want} are needed")]
    BelowQuorum {
        /// Sites.
        got: usize,
        /// The larger of quorum and `t`.
        want: usize,
    },
    /// No set of survivors meets everybody's terms.
    #[error(transparent)]
    Terms(Inconsistent),
}

/// The survivors are decided and their signatures are being collected.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ConsistencyCheck {
    #[n(0)]
    context: Held<Context>,
    #[n(1)]
    survivors: Survivors,
    /// Of the survivors.
    #[n(2)]
    receipts: BTreeMap<SiteIndex, Held<Receipt>>,
    /// Of survivors, for holders that have not judged them yet: they need them to answer.
    #[n(3)]
    envelopes: BTreeMap<(SiteIndex, SiteIndex), Envelope>,
    #[n(4)]
    signatures: BTreeMap<SiteIndex, Held<SurvivorsSignature>>,
}

impl ConsistencyCheck {
    pub(super) fn new(collected: CollectMasked, survivors: Survivors) -> Self {
        let CollectMasked { context, mut receipts, mut envelopes, verdicts, .. } = collected;
        receipts.retain(|index, _| survivors.contains(*index));
        envelopes.retain(|(holder, dealer), _| {
            survivors.contains(*dealer) && !verdicts.contains_key(&(*holder, *dealer))
        });
        Self { context, survivors, receipts, envelopes, signatures: BTreeMap::new() }
    }

    /// The context as it travels.
    pub fn signed_context(&self) -> &Signed<Context> {
        self.context.signed()
    }

    /// The context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// `U`, to be sent to every member of the Selection with all receipts.
    pub fn survivors(&self) -> &Survivors {
        &self.survivors
    }

    /// The survivors by name.
    pub fn names(&self) -> BTreeSet<SiteName> {
        StudyPin::names_of(&self.context, self.survivors.indices())
    }

    /// The receipts of all survivors.
    pub fn receipts(&self) -> Vec<Signed<Receipt>> {
        self.receipts.values().map(|held| held.signed().clone()).collect()
    }

    /// Envelopes of survivors that a site has not judged.
    pub fn envelopes_for(&self, site: &SiteName) -> Vec<Envelope> {
        envelopes_for(&self.context, &self.envelopes, site)
    }

    /// Takes a survivor's signature.
    pub fn take_signature(
        &mut self,
        pin: &StudyPin,
        site: &SiteName,
        signature: &Signed<SurvivorsSignature>,
    ) -> Result<(), CoordinatorRefusal> {
        let not_survivor = || CoordinatorRefusal::NotSurvivor(site.clone());
        let index = self.context.selection.index_of(site).ok_or_else(not_survivor)?;
        if !self.survivors.contains(index) {
            return Err(not_survivor());
        }
        let held = pin.of_site(signature, site)?;
        let asked = SurvivorsSignature { ctx: self.context.hash(), survivors: self.survivors.hash() };
        if *held != asked {
            return Err(CoordinatorRefusal::Foreign);
        }
        first_counts(&mut self.signatures, index, held, site)
    }

    /// Survivors that have not signed.
    pub fn waits(&self) -> Vec<SiteName> {
        let unsigned = self.survivors.indices().filter(|index| !self.signatures.contains_key(index));
        unsigned.filter_map(|index| self.context.selection.site(index).cloned()).collect()
    }

    /// How many signatures are still missing.
    pub fn missing(&self) -> usize {
        usize::from(self.context.thresholds.threshold).saturating_sub(self.signatures.len())
    }

    /// Goes on with `t` signatures; gives the phase back where there are fewer.
    #[expect(clippy::result_large_err, reason = "the phase itself is given back")]
    pub fn unmask(self) -> Result<Unmask, Self> {
        if self.missing() > 0 {
            return Err(self);
        }
        let threshold = usize::from(self.context.thresholds.threshold);
        let request = UnmaskRequest {
            ctx: self.context.hash(),
            survivors: self.survivors,
            signatures: self.signatures.values().take(threshold).map(|held| held.signed().clone()).collect(),
        };
        Ok(Unmask::new(self.context, request, self.receipts, self.envelopes))
    }
}

pub(super) fn envelopes_for(
    context: &Context,
    envelopes: &BTreeMap<(SiteIndex, SiteIndex), Envelope>,
    site: &SiteName,
) -> Vec<Envelope> {
    let Some(me) = context.selection.index_of(site) else { return Vec::new() };
    envelopes.iter().filter(|((holder, _), _)| *holder == me).map(|(_, envelope)| envelope.clone()).collect()
}

/// The largest set of survivors that everybody can sign: complete, undisputed, and within the terms of each.
pub(super) fn propose(
    collected: &CollectMasked,
    pin: &StudyPin,
    quorum: usize,
) -> Result<Survivors, NotClosed> {
    let context = &collected.context;
    let want = quorum.max(usize::from(context.thresholds.threshold));
    let undisputed = whole_groups(context, undisputed(collected));
    let below = NotClosed::BelowQuorum { got: undisputed.len(), want };
    let mut proposals = vec![undisputed.clone()];
    // A receipt may bind its site to earlier survivors: then it is those, or the sum goes on without it.
    for index in &undisputed {
        for bound in collected.receipts.get(index).iter().flat_map(|receipt| &receipt.terms.bound) {
            let bound: BTreeSet<_> =
                bound.iter().filter_map(|site| context.selection.index_of(site)).collect();
            proposals.push(whole_groups(context, undisputed.intersection(&bound).copied().collect()));
        }
    }
    let unbound = |index: &&SiteIndex| {
        collected.receipts.get(index).is_some_and(|receipt| receipt.terms.bound.is_empty())
    };
    proposals.push(whole_groups(context, undisputed.iter().filter(unbound).copied().collect()));
    let mut reason = None;
    // The largest first; among equals the one that was thought of first.
    while let Some(proposal) = take_largest(&mut proposals).filter(|proposal| proposal.len() >= want) {
        match check(collected, pin, &proposal) {
            Ok(survivors) => return Ok(survivors),
            Err(inconsistent) => {
                // Nobody's terms cost the others the round: without whoever asks too much, it may go on. But a site
                // that asks for larger changes is not left out for that: its absence would be the change.
                if let Inconsistent::Terms { site, unmet } = inconsistent
                    && unmet != UnmetTerms::MinChange
                {
                    let rest = proposal.into_iter().filter(|index| *index != site).collect();
                    let rest = whole_groups(context, rest);
                    if !proposals.contains(&rest) {
                        proposals.push(rest);
                    }
                }
                reason.get_or_insert(inconsistent);
            }
        }
    }
    Err(reason.map_or(below, NotClosed::Terms))
}

/// Without the groups of which too few sites are left: they stay out as a whole.
fn whole_groups(context: &Context, mut sites: BTreeSet<SiteIndex>) -> BTreeSet<SiteIndex> {
    for thin in context.thin_groups(sites.iter().copied()) {
        sites.retain(|site| !thin.contains(site));
    }
    sites
}

fn take_largest(proposals: &mut Vec<BTreeSet<SiteIndex>>) -> Option<BTreeSet<SiteIndex>> {
    let largest = proposals.iter().map(BTreeSet::len).max()?;
    let at = proposals.iter().position(|proposal| proposal.len() == largest)?;
    Some(proposals.remove(at))
}

/// Runs for a proposal the checks that every site will run.
fn check(
    collected: &CollectMasked,
    pin: &StudyPin,
    proposal: &BTreeSet<SiteIndex>,
) -> Result<Survivors, Inconsistent> {
    let members = proposal
        .iter()
        .map(|site| {
            let receipt = collected.receipts.get(site).ok_or(Inconsistent::Receipt(*site))?;
            Ok(Survivor { site: *site, receipt: receipt.hash() })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let survivors = Survivors::new(members).map_err(|_| Inconsistent::TooFew {
        got: proposal.len(),
        want: usize::from(collected.context.thresholds.threshold),
    })?;
    let receipts = |index| collected.receipts.get(&index).map(|held| -> &Receipt { held });
    consistency::check(pin, &collected.context, &survivors, receipts, &collected.guilty)?;
    Ok(survivors)
}

/// The complete sites that are left when disputes are settled: a holder's report of a bad dealer, or two receipts
/// that commit to different seeds for a pair. Whoever has the most disputes goes first, on a tie all of them; in a
/// single dispute about an envelope the dealer goes.
fn undisputed(collected: &CollectMasked) -> BTreeSet<SiteIndex> {
    let mut left = collected.complete.clone();
    let held: BTreeMap<SiteIndex, &Receipt> = collected
        .receipts
        .iter()
        .filter(|(index, _)| left.contains(index))
        .map(|(index, held)| -> (SiteIndex, &Receipt) { (*index, held) })
        .collect();
    // (one end, other end, whether only the second goes on a tie)
    let mut disputes: Vec<(SiteIndex, SiteIndex, bool)> =
        unequal_pairs(&held).into_iter().map(|(a, b)| (a, b, false)).collect();
    let reported = collected.verdicts.iter().filter(|(_, good)| !**good);
    disputes.extend(reported.map(|((holder, dealer), _)| (*holder, *dealer, true)));
    while !disputes.is_empty() {
        let mut count: BTreeMap<SiteIndex, BTreeSet<SiteIndex>> = BTreeMap::new();
        for (a, b, _) in &disputes {
            count.entry(*a).or_default().insert(*b);
            count.entry(*b).or_default().insert(*a);
        }
        let most = count.values().map(BTreeSet::len).max().unwrap_or_default();
        let gone: BTreeSet<SiteIndex> = if most > 1 {
            count.into_iter().filter(|(_, peers)| peers.len() == most).map(|(site, _)| site).collect()
        } else {
            // Single disputes. Where the pair's seeds differ both go, even if one also reported the other.
            let unequal = disputes.iter().filter(|(_, _, report)| !report).flat_map(|(a, b, _)| [*a, *b]);
            unequal
                .chain(disputes.iter().filter(|(_, _, report)| *report).map(|(_, dealer, _)| *dealer))
                .collect()
        };
        left.retain(|site| !gone.contains(site));
        disputes.retain(|(a, b, _)| !gone.contains(a) && !gone.contains(b));
    }
    left
}
