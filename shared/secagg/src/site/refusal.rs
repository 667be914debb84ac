//! Why a site refuses what it was sent. A refused message is not a failed round: the site goes on.

use consilium_study::grouping::NoGroups;
use consilium_study::name::SiteName;
use consilium_study::sign::SignatureError;

use crate::agreement::BadKey;
use crate::alarm::Alarm;
use crate::consistency::Inconsistent;
use crate::context::InvalidContext;
use crate::grouping::MAX_DRAWS;
use crate::numbering::{Attempt, Epoch, RoundNumber, SiteIndex};
use crate::pin::PinMismatch;

/// Why a site refuses a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteRefusal {
    /// Something that must come first has not come yet. The message is to be sent again.
    #[error("{0} must come first")]
    NotYet(Missing),
    /// Two statements that cannot both be honest. Kept, and repeated in the next receipts.
    #[error("asked for a second time, and differently: {0:?}")]
    Alarm(Alarm),
    /// A signature is missing or wrong.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The coordinator signed fields that make no context.
    #[error(transparent)]
    Context(InvalidContext),
    /// A statement about another study, roster, epoch or pair than this one.
    #[error("this statement belongs elsewhere")]
    Foreign,
    /// An epoch that this site has left behind, or that begins before attempts it has accepted.
    #[error("epoch {0} is over, or begins too early")]
    StaleEpoch(Epoch),
    /// A peer's key or ciphertext is unusable.
    #[error("the keys of {site} are unusable: {why}")]
    BadKey {
        /// Whose.
        site: SiteName,
        /// What is wrong.
        why: BadKey,
    },
    /// A peer's tag does not confirm the pair's key.
    #[error("the tag of {0} does not confirm the key of the pair")]
    WrongTag(SiteName),
    /// An attempt outside the epoch.
    #[error("attempt {0} lies outside the epoch")]
    OutsideEpoch(Attempt),
    /// An attempt that is over because a later one was accepted.
    #[error("attempt {0} is over: a later one was accepted")]
    Superseded(Attempt),
    /// A message about an attempt that this site has not accepted.
    #[error("this attempt was not accepted here")]
    UnknownAttempt,
    /// A context with a value that is not the study's.
    #[error(transparent)]
    Pin(#[from] PinMismatch),
    /// Fewer honest sites behind the sum than this site's policy demands.
    #[error("policy.min_honest demands {want} honest sites, the context {got}")]
    MinHonest {
        /// The context's.
        got: u16,
        /// The policy's.
        want: u16,
    },
    /// A Selection smaller than this site's policy demands.
    #[error("policy.min_selection demands {want} sites, and {got} are selected")]
    MinSelection {
        /// Sites in the Selection.
        got: usize,
        /// The policy's.
        want: usize,
    },
    /// A Selection without a site that this site's policy demands.
    #[error("policy.known_sites demands {0}")]
    UnknownSelection(SiteName),
    /// This site is not selected.
    #[error("this site is not in the Selection")]
    NotSelected,
    /// A member whose advert is not the one that the pair key follows from.
    #[error("the Selection names another advert of {0}")]
    OtherAdvert(SiteName),
    /// A member without a settled pair key.
    #[error("no pair key is settled with {0}")]
    NoPairKey(SiteName),
    /// A draw of groups without this site.
    #[error("this site is not in the draw of groups")]
    NotInDraw,
    /// A split that leaves a site to the coordinator's friends with more than the accepted chance.
    #[error(transparent)]
    Groups(#[from] NoGroups),
    /// More draws than this site takes part in: the coordinator may be looking for one that it likes.
    #[error("this study has drawn groups {MAX_DRAWS} times, and this site takes part in no further draw")]
    TooManyDraws,
    /// A nonce that its site did not commit to.
    #[error("{0} revealed another nonce than it committed to")]
    WrongReveal(SiteName),
    /// Groups that the epoch's draw did not come to.
    #[error("the groups are not those that were drawn")]
    OtherGroups,
    /// A round before one that was opened here.
    #[error("round {0} is over: a later one was opened here")]
    RoundOver(RoundNumber),
    /// The starting model was opened with survivors that this Selection does not have.
    #[error("this model was opened with other survivors")]
    RepeatRule,
    /// A vector that is not the layout's length.
    #[error("the vector has {got} words, the layout {want}")]
    VectorLength {
        /// Words given.
        got: usize,
        /// Words of the layout.
        want: usize,
    },
    /// The vector of this attempt is sealed already; its bytes are resent, never remade.
    #[error("the vector of this attempt is sealed already")]
    AlreadySealed,
    /// An envelope that its dealer's receipt does not name, or that is for somebody else.
    #[error("this envelope of site {0} is not the one its receipt names")]
    ForeignEnvelope(SiteIndex),
    /// Survivors without this site, which therefore does not sign.
    #[error("this site is not among the survivors")]
    NotSurvivor,
    /// Survivors that name another receipt of this site.
    #[error("the survivors name a receipt that this site did not sign")]
    OtherReceipt,
    /// Survivors that do not pass the checks.
    #[error(transparent)]
    Inconsistent(Inconsistent),
    /// Too few signatures, or signatures that do not count.
    #[error("{got} valid signatures of survivors, and {want} are needed")]
    Signatures {
        /// Valid ones.
        got: usize,
        /// The threshold.
        want: usize,
    },
}

/// What has to come first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// An epoch must be opened.
    #[error("the opening of an epoch")]
    Epoch,
    /// A peer's advert.
    #[error("the advert of {0}")]
    Advert(SiteName),
    /// The draw of groups, or somebody's nonce in it.
    #[error("the draw of groups")]
    Draw,
    /// The own vector must be sealed.
    #[error("the own masked vector")]
    Vector,
    /// A receipt that the survivors name.
    #[error("the receipt of site {0}")]
    Receipt(SiteIndex),
    /// An envelope of a survivor.
    #[error("the envelope of site {0}")]
    Envelope(SiteIndex),
}

impl SiteRefusal {
    /// Whether the message should be sent again later, unchanged.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::NotYet(_))
    }
}
