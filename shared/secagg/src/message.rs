//! What the parties say to each other.
//!
//! Everything here decodes through its constructor: a value that exists has sorted lists of bounded length.
//! Whether it is *true* (signatures, hashes, membership) is for the two machines to check.
//!
//! | message | from → to | signed | when |
//! | --- | --- | --- | --- |
//! | [`EpochOpening`] | coordinator → sites | coordinator | a new generation of pair keys begins |
//! | [`Advert`] | site → all | site | once per epoch |
//! | [`Encapsulation`] | lower name → higher name | site | once per pair and epoch |
//! | [`Confirmation`] | both ends of a pair | site | once per pair and epoch |
//! | [`DrawCall`] | coordinator → sites | coordinator | once per epoch, where a study sums groups |
//! | [`Reveal`] | participant → all | site | once per epoch |
//! | [`crate::context::Context`] | coordinator → Selection | coordinator | an attempt begins |
//! | [`Receipt`] | site → all | site | its masked vector is complete |
//! | [`Envelope`] | site → each other site | sealed | with the receipt |
//! | [`DealerVerdict`] | site → coordinator | no | an envelope was opened |
//! | [`Survivors`] | coordinator → Selection | by the `t` signatures | the sum is closed |
//! | [`SurvivorsSignature`] | survivor → coordinator | site | it found the survivors in order |
//! | [`UnmaskRequest`] | coordinator → Selection | by its `t` signatures | `t` have signed |
//! | [`Answer`] | site → coordinator | site | once per attempt |

mod draw;
mod setup;

use std::fmt;
use std::ops::Deref;

use consilium_study::hash::Hash;
use consilium_study::sign::{Signed, Statement};
use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use zeroize::Zeroize as _;

pub use self::draw::{DrawCall, DrawFields, Participant, Reveal};
pub use self::setup::{
    Advert, Confirmation, Encapsulation, EpochOpening, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES,
};

use crate::alarm::Alarm;
use crate::context::CtxHash;
use crate::numbering::{MAX_SITES, SiteIndex};
use crate::terms::Terms;

/// Most alarms that a receipt repeats.
pub const MAX_ALARMS: usize = 16;

/// A message whose parts do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMessage(&'static str);

/// The parts of a [`Receipt`] before they are checked against each other.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ReceiptFields {
    /// The attempt.
    #[n(0)]
    pub ctx: CtxHash,
    /// Who.
    #[n(1)]
    pub sender: SiteIndex,
    /// Merkle root of the chunks of the masked vector.
    #[n(2)]
    pub chunks: Hash,
    /// Commitment to the self-mask seed `b_i`.
    #[n(3)]
    pub self_commitment: Hash,
    /// Commitments to the pair seeds `s_ij`, one per other site in the order of indices.
    #[n(4)]
    pub pair_commitments: Vec<Hash>,
    /// Merkle root over salted hashes of all shares dealt.
    #[n(5)]
    pub shares: Hash,
    /// Hash of the envelope for each site of the Selection, the sender included.
    #[n(6)]
    pub envelopes: Vec<Hash>,
    /// What this site demands of the survivors.
    #[n(7)]
    pub terms: Terms,
    /// Alarms that this site raised earlier, so that its peers carry them.
    #[n(8)]
    pub alarms: Vec<Alarm>,
}

/// What a site signs for its masked vector before the first byte of it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt(ReceiptFields);

impl Receipt {
    /// Checks the parts against each other.
    pub fn new(fields: ReceiptFields) -> Result<Self, InvalidMessage> {
        let sites = fields.envelopes.len();
        if sites > MAX_SITES
            || fields.pair_commitments.len() + 1 != sites
            || fields.sender.position() >= sites
        {
            return Err(InvalidMessage("a receipt speaks to every site of its Selection once"));
        }
        if fields.alarms.len() > MAX_ALARMS {
            return Err(InvalidMessage("a receipt repeats at most 16 alarms"));
        }
        Ok(Self(fields))
    }

    /// The commitment to the seed shared with `peer`; none for the sender itself.
    pub fn pair_commitment(&self, peer: SiteIndex) -> Option<&Hash> {
        let position = match peer.cmp(&self.0.sender) {
            std::cmp::Ordering::Less => peer.position(),
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => peer.position() - 1,
        };
        self.0.pair_commitments.get(position)
    }

    /// The hash of the envelope for `recipient`.
    pub fn envelope(&self, recipient: SiteIndex) -> Option<&Hash> {
        self.0.envelopes.get(recipient.position())
    }

    /// The hash by which survivors name this receipt.
    pub fn hash(&self) -> Hash {
        Hash::of_value("receipt-hash", self)
    }
}

impl Deref for Receipt {
    type Target = ReceiptFields;

    fn deref(&self) -> &ReceiptFields {
        &self.0
    }
}

impl Statement for Receipt {
    const LABEL: &'static str = "receipt";
}

/// Shares for one recipient, sealed with the pair key of the attempt. Made once, resent byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Envelope {
    /// The attempt.
    #[n(0)]
    pub ctx: CtxHash,
    /// The dealer.
    #[n(1)]
    pub sender: SiteIndex,
    /// The holder.
    #[n(2)]
    pub recipient: SiteIndex,
    /// AES-256-GCM-SIV ciphertext and tag.
    #[n(3)]
    pub sealed: ByteVec,
}

impl Envelope {
    /// The hash that the dealer's receipt carries.
    pub fn hash(&self) -> Hash {
        Hash::of_value("envelope-hash", self)
    }
}

/// What a site uploads beside its masked vector.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Upload {
    /// Its receipt.
    #[n(0)]
    pub receipt: Signed<Receipt>,
    /// Its envelopes for all other sites.
    #[n(1)]
    pub envelopes: Vec<Envelope>,
    /// Hashes of the chunks, below the receipt's root, so that a bad chunk is noticed when it arrives.
    #[n(2)]
    pub chunks: Vec<Hash>,
}

/// What a holder found in an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DealerVerdict {
    /// Whose envelope.
    #[n(0)]
    pub dealer: SiteIndex,
    /// It opened, and the shares in it are the ones that the receipt commits to.
    #[n(1)]
    pub good: bool,
}

/// A survivor: its masked vector arrived and is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(map)]
pub struct Survivor {
    /// Who.
    #[n(0)]
    pub site: SiteIndex,
    /// Hash of the receipt that counts.
    #[n(1)]
    pub receipt: Hash,
}

/// `U`: the sites whose vectors are in the sum, each with its receipt, in the order of indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivors(Vec<Survivor>);

impl Survivors {
    /// Survivors in the order of their indices, each once.
    pub fn new(members: Vec<Survivor>) -> Result<Self, InvalidMessage> {
        if members.is_empty() || members.len() > MAX_SITES {
            return Err(InvalidMessage("survivors are between 1 and 200 sites"));
        }
        if members.windows(2).any(|pair| pair[0].site >= pair[1].site) {
            return Err(InvalidMessage("survivors stand in the order of their indices, each once"));
        }
        Ok(Self(members))
    }

    /// The members in order.
    pub fn members(&self) -> &[Survivor] {
        &self.0
    }

    /// `|U|`.
    #[expect(clippy::len_without_is_empty, reason = "survivors are never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The indices in order.
    pub fn indices(&self) -> impl Iterator<Item = SiteIndex> + '_ {
        self.0.iter().map(|member| member.site)
    }

    /// The hash of a member's receipt.
    pub fn receipt(&self, site: SiteIndex) -> Option<&Hash> {
        let position = self.0.binary_search_by(|member| member.site.cmp(&site)).ok()?;
        Some(&self.0[position].receipt)
    }

    /// Whether a site survived.
    pub fn contains(&self, site: SiteIndex) -> bool {
        self.receipt(site).is_some()
    }

    /// `H(U)`, which survivors sign.
    pub fn hash(&self) -> Hash {
        Hash::of_value("survivors-hash", self)
    }
}

/// A survivor's signature: these survivors, and no others, for this attempt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SurvivorsSignature {
    /// The attempt.
    #[n(0)]
    pub ctx: CtxHash,
    /// `H(U)`.
    #[n(1)]
    pub survivors: Hash,
}

impl Statement for SurvivorsSignature {
    const LABEL: &'static str = "survivors";
}

/// The coordinator shows that `t` survivors signed, and asks for seeds and shares.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct UnmaskRequest {
    /// The attempt.
    #[n(0)]
    pub ctx: CtxHash,
    /// `U`.
    #[n(1)]
    pub survivors: Survivors,
    /// Signatures of `t` distinct members of `U`.
    #[n(2)]
    pub signatures: Vec<Signed<SurvivorsSignature>>,
}

/// A share that a holder gives back, with the salt of its leaf.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenedShare {
    /// The secret it belongs to: the dealer's own index for its self-mask seed, else the pair seed with that site.
    #[n(0)]
    pub about: SiteIndex,
    /// The share: one byte of the polynomial per byte of the seed.
    #[n(1)]
    pub share: ByteArray<32>,
    /// Salt of the leaf.
    #[n(2)]
    pub salt: ByteArray<16>,
}

/// Shares of one dealer, with the hashes that lead from their leaves to the root in the dealer's receipt.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DealerShares {
    /// Who dealt them.
    #[n(0)]
    pub dealer: SiteIndex,
    /// The shares in the order of `about`.
    #[n(1)]
    pub shares: Vec<OpenedShare>,
    /// Hashes of the leaves of the holder's row that stay closed, joined where possible.
    #[n(2)]
    pub row: Vec<Hash>,
    /// Hashes from the holder's row to the root.
    #[n(3)]
    pub path: Vec<Hash>,
}

/// A seed that a survivor shared with a dropped site, given by the survivor itself.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenedSeed {
    /// The dropped site.
    #[n(0)]
    pub dropped: SiteIndex,
    /// `s_ij`.
    #[n(1)]
    pub seed: ByteArray<32>,
}

/// A site's one answer in an attempt: what removes the masks of these survivors, and nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Answer {
    /// The attempt.
    #[n(0)]
    pub ctx: CtxHash,
    /// `H(U)`.
    #[n(1)]
    pub survivors: Hash,
    /// Who answers.
    #[n(2)]
    pub holder: SiteIndex,
    /// For every survivor whose envelope was good: a share of its self-mask seed, and of its seeds with dropped sites.
    #[n(3)]
    pub dealers: Vec<DealerShares>,
    /// The holder's own seeds with dropped sites. Empty where the holder itself is not among the survivors.
    #[n(4)]
    pub seeds: Vec<OpenedSeed>,
}

impl Statement for Answer {
    const LABEL: &'static str = "answer";
}

// A holder makes more of them than it gives back.
impl Drop for OpenedShare {
    fn drop(&mut self) {
        self.share.zeroize();
        self.salt.zeroize();
    }
}

// Shares and seeds are for the coordinator and for evidence, not for logs.
impl fmt::Debug for OpenedShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenedShare({})", self.about)
    }
}

impl fmt::Debug for OpenedSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenedSeed({})", self.dropped)
    }
}

macro_rules! checked {
    ($name:ident, $inner:ty) => {
        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                ctx: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                self.0.encode(e, ctx)
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
                Self::new(<$inner>::decode(d, ctx)?)
                    .map_err(|error: InvalidMessage| decode::Error::message(error.to_string()))
            }
        }
    };
}

checked!(Receipt, ReceiptFields);
checked!(Survivors, Vec<Survivor>);
checked!(DrawCall, DrawFields);

#[cfg(test)]
mod tests {
    use consilium_study::canonical::Canonical;

    use super::*;
    use crate::alarm::Occasion;
    use crate::numbering::Attempt;

    #[test]
    fn a_receipt_speaks_to_each_site_once_and_repeats_few_alarms() {
        let hash = Hash::of_bytes(b"hash");
        let alarm =
            Alarm { occasion: Occasion::Survivors(Attempt::new(1).unwrap()), first: hash, second: hash };
        let is_one = |sites: usize, pairs: usize, sender: u8, alarms: usize| {
            let fields = ReceiptFields {
                ctx: CtxHash::from_canonical(&hash.to_canonical()).unwrap(),
                sender: SiteIndex::new(sender).unwrap(),
                chunks: hash,
                self_commitment: hash,
                pair_commitments: vec![hash; pairs],
                shares: hash,
                envelopes: vec![hash; sites],
                terms: Terms {
                    min_honest: 0,
                    min_selection: 0,
                    min_change: 0,
                    earlier: Vec::new(),
                    bound: Vec::new(),
                },
                alarms: vec![alarm; alarms],
            };
            Receipt::new(fields).is_ok()
        };
        assert!(is_one(4, 3, 4, 16) && is_one(200, 199, 200, 0));
        assert!(!is_one(201, 200, 1, 0), "more than a Selection has");
        assert!(!is_one(4, 4, 1, 0) && !is_one(4, 2, 1, 0), "a commitment for each other site");
        assert!(!is_one(4, 3, 5, 0), "a sender outside the Selection");
        assert!(!is_one(4, 3, 1, 17), "alarms without end");
    }
}
