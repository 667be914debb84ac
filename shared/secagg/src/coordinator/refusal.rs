//! Why the coordinator refuses a site's message. The round goes on without that message.

use consilium_study::name::SiteName;
use consilium_study::sign::SignatureError;

use crate::numbering::SiteIndex;

/// Why one site's message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorRefusal {
    /// A signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A statement about another study, roster, epoch, attempt or sender.
    #[error("this statement belongs elsewhere")]
    Foreign,
    /// The sender is not in the Selection.
    #[error("{0} is not in the Selection")]
    NotSelected(SiteName),
    /// A second, different statement where a site makes one. The first counts; the two are evidence.
    #[error("{0} has made this statement before, and differently")]
    Equivocation(SiteName),
    /// A nonce that the site did not commit to, or for no draw that was called.
    #[error("{0} reveals another nonce than it committed to")]
    WrongReveal(SiteName),
    /// Envelopes that are not exactly those which the receipt names.
    #[error("the envelopes are not the ones that the receipt names")]
    Envelopes,
    /// Chunk hashes that do not lead to the receipt's root.
    #[error("the chunk hashes do not lead to the root in the receipt")]
    Chunks,
    /// A chunk without a receipt before it.
    #[error("{0} has sent no receipt")]
    NoReceipt(SiteName),
    /// A chunk that is not the one which the receipt names: corrupted, swapped, truncated or foreign.
    #[error("chunk {index} is not the one that the receipt names")]
    WrongChunk {
        /// Its index.
        index: usize,
    },
    /// A verdict about nobody.
    #[error("site {0} dealt nothing to judge")]
    NoDealer(SiteIndex),
    /// A signature of somebody who is not among the survivors.
    #[error("{0} is not among the survivors")]
    NotSurvivor(SiteName),
    /// A share that is not the one which its dealer committed to: the holder, who signed the answer, is to blame.
    #[error("the share that {holder} gives back is not the one that site {dealer} dealt")]
    WrongShare {
        /// Who answered.
        holder: SiteName,
        /// Whose share it should be.
        dealer: SiteIndex,
    },
    /// A seed that does not match its commitment: the holder, who signed the answer, is to blame.
    #[error("the seed that {holder} gives for site {dropped} is not the one it committed to")]
    WrongSeed {
        /// Who answered.
        holder: SiteName,
        /// The dropped site.
        dropped: SiteIndex,
    },
    /// An answer about other secrets than those that were asked for.
    #[error("{0} answers what was not asked")]
    WrongAnswer(SiteName),
}
