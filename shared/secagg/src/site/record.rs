//! What a site writes down about one study. Chain keys are not in it.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Signed;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Decoder, Encode, decode};

use crate::alarm::Alarm;
use crate::context::{Context, Purpose};
use crate::grouping::Drawn;
use crate::held::Held;
use crate::message::{
    Advert, Answer, Confirmation, DrawCall, Encapsulation, Envelope, EpochOpening, Receipt, Reveal,
    Survivors, SurvivorsSignature, Upload,
};
use crate::numbering::{Attempt, Epoch, RoundNumber, SiteIndex};
use crate::terms::RosterSet;

/// More often than this nothing is written; counting on from a larger number could end in an overflow.
const MOST_WRITES: u64 = u64::MAX / 2;

/// Decodes how often something was written.
pub(super) fn writes<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<u64, decode::Error> {
    let writes = d.u64()?;
    if writes <= MOST_WRITES {
        Ok(writes)
    } else {
        Err(decode::Error::message("nothing is written that often"))
    }
}

/// The record of one study at one site.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct Record {
    #[n(0)]
    pub(super) study: Hash,
    #[n(1)]
    pub(super) roster: Hash,
    #[n(2)]
    pub(super) site: SiteName,
    #[n(3)]
    pub(super) instance: ByteArray<16>,
    #[cbor(n(4), decode_with = "writes")]
    pub(super) version: u64,
    /// The last epoch that was opened here, also where its keys were lost.
    #[n(5)]
    pub(super) last_epoch: Option<Epoch>,
    #[n(6)]
    pub(super) epoch: Option<EpochRecord>,
    /// The highest attempt that was accepted.
    #[n(7)]
    pub(super) highest: Option<Attempt>,
    #[n(8)]
    pub(super) attempt: Option<AttemptRecord>,
    #[n(9)]
    pub(super) alarms: Vec<Alarm>,
    /// Dealers whose guilt was proved.
    #[n(10)]
    pub(super) guilty: BTreeSet<SiteName>,
    /// The last round that was opened here.
    #[n(11)]
    pub(super) opened: Option<OpenedRound>,
    /// The version that the repeat book had at least when this was written.
    #[n(12)]
    pub(super) book: u64,
    /// Draws of groups that this site has revealed a nonce for.
    #[n(13)]
    pub(super) draws: u32,
}

/// A round in which survivors were written down, with the model that each of its sums is about.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct OpenedRound {
    #[n(0)]
    pub(super) round: RoundNumber,
    #[n(1)]
    pub(super) models: BTreeMap<Purpose, Hash>,
}

impl OpenedRound {
    pub(super) const fn new(round: RoundNumber) -> Self {
        Self { round, models: BTreeMap::new() }
    }
}

/// An epoch whose keys this site has.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct EpochRecord {
    #[n(0)]
    pub(super) opening: Held<EpochOpening>,
    #[n(1)]
    pub(super) advert: Held<Advert>,
    #[n(2)]
    pub(super) pairs: BTreeMap<SiteName, PairRecord>,
    /// Survivors of this epoch that were written down.
    #[n(3)]
    pub(super) earlier: BTreeSet<RosterSet>,
    /// The draw of groups, where the study sums groups.
    #[n(4)]
    pub(super) draw: Option<DrawRecord>,
}

/// An epoch's draw.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct DrawRecord {
    /// What this site reveals once the participants are named.
    #[n(0)]
    pub(super) nonce: ByteArray<32>,
    #[n(1)]
    pub(super) called: Option<CalledDraw>,
}

/// A draw that this site takes part in.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct CalledDraw {
    #[n(0)]
    pub(super) call: Held<DrawCall>,
    /// What this site revealed.
    #[n(1)]
    pub(super) own: Signed<Reveal>,
    /// What everybody revealed, so far.
    #[n(2)]
    pub(super) reveals: BTreeMap<SiteName, Held<Reveal>>,
    /// The groups, once everybody has.
    #[n(3)]
    pub(super) drawn: Option<Drawn>,
}

/// What is known of one pair.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct PairRecord {
    #[n(0)]
    pub(super) advert: Held<Advert>,
    #[n(1)]
    pub(super) agreed: Option<AgreedRecord>,
}

/// The messages of a pair that has a key: made or taken once.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct AgreedRecord {
    /// Of the lower name, whichever end that is.
    #[n(0)]
    pub(super) encapsulation: Signed<Encapsulation>,
    /// Of this site.
    #[n(1)]
    pub(super) confirmation: Signed<Confirmation>,
}

/// The attempt that a site is in.
#[derive(Encode, Decode)]
#[cbor(map)]
pub(super) struct AttemptRecord {
    #[n(0)]
    pub(super) context: Held<Context>,
    #[n(1)]
    pub(super) own: Own,
    #[n(2)]
    pub(super) receipts: BTreeMap<SiteIndex, Held<Receipt>>,
    #[n(3)]
    pub(super) envelopes: BTreeMap<SiteIndex, Envelope>,
    #[n(4)]
    pub(super) verdicts: BTreeMap<SiteIndex, bool>,
    #[n(5)]
    pub(super) opening: Opening,
}

/// The site's own vector.
#[derive(Encode, Decode)]
#[expect(clippy::large_enum_variant, reason = "one per study, and small only for a while")]
pub(super) enum Own {
    /// Not masked, or masked into a spool of which nothing left.
    #[n(0)]
    Unsealed,
    /// Masked and signed for. From here on bytes are resent, never remade.
    #[n(1)]
    Sealed(#[n(0)] Upload, #[n(1)] Envelope),
}

/// Whether the site has let survivors be opened.
#[derive(Encode, Decode)]
#[expect(clippy::large_enum_variant, reason = "one per study, and small only for a while")]
pub(super) enum Opening {
    /// It has not.
    #[n(0)]
    Closed,
    /// For these survivors and no others.
    #[n(1)]
    Bound(#[n(0)] Survivors, #[n(1)] Option<Signed<SurvivorsSignature>>, #[n(2)] Option<Signed<Answer>>),
}
