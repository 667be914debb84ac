//! Proof that a dealer dealt shares that do not lead to the seed it committed to.
//!
//! Anyone with the study's keys can check it: each share is bound to the dealer's signed receipt by its leaf, so
//! holders cannot frame a dealer.

use consilium_study::name::SiteName;
use consilium_study::sign::{SignatureError, Signed};
use minicbor::{Decode, Encode};

use crate::context::Context;
use crate::dealing::shares_match;
use crate::message::{DealerShares, Receipt};
use crate::numbering::SiteIndex;
use crate::pin::StudyPin;
use crate::shamir;

/// The shares of one holder.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HolderShares {
    /// Who holds them.
    #[n(0)]
    pub holder: SiteIndex,
    /// The shares with their proofs.
    #[n(1)]
    pub given: DealerShares,
}

/// `t` shares that match the dealer's receipt and miss its commitment.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DealerGuilt {
    /// The attempt.
    #[n(0)]
    pub context: Signed<Context>,
    /// The dealer's receipt.
    #[n(1)]
    pub receipt: Signed<Receipt>,
    /// Which seed: the dealer's own index for its self mask.
    #[n(2)]
    pub about: SiteIndex,
    /// Shares of exactly `t` holders in the order of their indices.
    #[n(3)]
    pub shares: Vec<HolderShares>,
}

/// Why a proof of guilt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoGuilt {
    /// Context or receipt are not signed as they have to be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The receipt belongs to another attempt, or its sender is not selected.
    #[error("receipt and context do not belong together")]
    Foreign,
    /// A share does not match its leaf, or the shares are not those of `t` holders.
    #[error("the shares are not t shares that match the receipt")]
    Shares,
    /// The shares lead to the committed seed.
    #[error("the shares lead to the seed that the dealer committed to")]
    Innocent,
}

impl DealerGuilt {
    /// Checks the proof and names the dealer.
    pub fn check(&self, pin: &StudyPin) -> Result<SiteName, NoGuilt> {
        let context = pin.of_coordinator(&self.context)?;
        let claimed = self.receipt.claim().map_err(SignatureError::from)?;
        let dealer = context.selection.site(claimed.sender).ok_or(NoGuilt::Foreign)?;
        let receipt = pin.of_site(&self.receipt, dealer)?;
        let ours = context.study == pin.study
            && receipt.ctx == context.hash()
            && receipt.envelopes.len() == context.selection.len()
            && context.selection.member(self.about).is_some();
        if !ours {
            return Err(NoGuilt::Foreign);
        }
        let mut points = Vec::new();
        for HolderShares { holder, given } in &self.shares {
            let share = given.shares.iter().find(|opened| opened.about == self.about);
            match share {
                Some(opened) if given.dealer == receipt.sender && shares_match(&receipt, *holder, given) => {
                    points.push((*holder, *opened.share));
                }
                _ => return Err(NoGuilt::Shares),
            }
        }
        let seed = shamir::combine(&points, &context.thresholds).ok_or(NoGuilt::Shares)?;
        if Some(&seed.commitment(&receipt.ctx, receipt.sender, self.about))
            == commitment(&receipt, self.about)
        {
            return Err(NoGuilt::Innocent);
        }
        Ok(dealer.clone())
    }
}

/// The commitment of a receipt to the seed about `about`.
pub(crate) fn commitment(receipt: &Receipt, about: SiteIndex) -> Option<&consilium_study::hash::Hash> {
    if about == receipt.sender { Some(&receipt.self_commitment) } else { receipt.pair_commitment(about) }
}
