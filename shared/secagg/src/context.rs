//! The context of one attempt: everything the sites must agree on before anybody masks anything.
//!
//! Its hash, [`CtxHash`], enters every seed, key, commitment and signature of the attempt. Sites that were
//! shown different models, Selections or parameters therefore derive different masks, and the coordinator is
//! left with noise (Pasquini et al. 2022 describe the attack this closes).

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;

use consilium_study::canonical::Canonical;
use consilium_study::grouping::{GroupPlan, NoGroups};
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use consilium_study::sign::Statement;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::control::Control;
use crate::grouping::Grouping;
use crate::layout::{CHUNK_WORDS, Layout};
use crate::numbering::{Attempt, Epoch, MAX_SITES, MIN_SITES, RoundNumber, SiteIndex};
use crate::quantiser::{ClipNorm, count_limit};
use crate::ring::Ring;
use crate::threshold::{NoThreshold, Thresholds};

/// Version of the protocol that this crate speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// Largest clip norm of a packed ring, 2^64: the transform of an update within it is finite in 32 bits.
const LONGEST_PACKED: f64 = 18_446_744_073_709_551_616.0;

/// Hash of a [`Context`]: the `ctx` of the design.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct CtxHash(#[n(0)] Hash);

impl CtxHash {
    /// The hash.
    pub const fn hash(&self) -> &Hash {
        &self.0
    }
}

impl fmt::Display for CtxHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for CtxHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CtxHash({})", self.0.short())
    }
}

/// What is summed. Each kind of sum has its own context, seeds, receipts and survivors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Purpose {
    /// Updates of a model.
    #[n(0)]
    Train,
    /// Counts and losses of a candidate on held-out cases.
    #[n(1)]
    Evaluate,
    /// Counts about data.
    #[n(2)]
    Statistics,
}

/// A site of a Selection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Member {
    /// Who.
    #[n(0)]
    pub site: SiteName,
    /// Its index, from 1.
    #[n(1)]
    pub index: SiteIndex,
    /// Hash of its advert of the epoch.
    #[n(2)]
    pub advert: Hash,
}

/// The sites invited to an attempt, ordered by the bytes of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<Member>);

/// Why a list of sites is no Selection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelection {
    /// Too few or too many sites.
    #[error("a Selection has 3 to 200 sites, not {0}")]
    Size(usize),
    /// A site twice, or not in the order of names.
    #[error("{0} stands twice in the Selection or out of order")]
    Order(SiteName),
    /// An index that is not the position.
    #[error("{0} does not have the index of its position")]
    Index(SiteName),
}

impl Selection {
    /// Selects sites, each with the hash of its advert. The order given does not matter.
    pub fn new(sites: impl IntoIterator<Item = (SiteName, Hash)>) -> Result<Self, InvalidSelection> {
        let mut sites: Vec<_> = sites.into_iter().collect();
        sites.sort();
        let size = InvalidSelection::Size(sites.len());
        let members = sites
            .into_iter()
            .enumerate()
            .map(|(position, (site, advert))| {
                SiteIndex::from_position(position).map(|index| Member { site, index, advert })
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| size)?;
        Self::check(members)
    }

    fn check(members: Vec<Member>) -> Result<Self, InvalidSelection> {
        if !(MIN_SITES..=MAX_SITES).contains(&members.len()) {
            return Err(InvalidSelection::Size(members.len()));
        }
        if let Some(pair) = members.windows(2).find(|pair| pair[0].site >= pair[1].site) {
            return Err(InvalidSelection::Order(pair[1].site.clone()));
        }
        match members.iter().enumerate().find(|(position, member)| member.index.position() != *position) {
            Some((_, member)) => Err(InvalidSelection::Index(member.site.clone())),
            None => Ok(Self(members)),
        }
    }

    /// The members in order.
    pub fn members(&self) -> &[Member] {
        &self.0
    }

    /// `n`.
    #[expect(clippy::len_without_is_empty, reason = "a Selection is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All indices in order.
    pub fn indices(&self) -> impl Iterator<Item = SiteIndex> + '_ {
        self.0.iter().map(|member| member.index)
    }

    /// The index of a site.
    pub fn index_of(&self, site: &SiteName) -> Option<SiteIndex> {
        self.0.binary_search_by(|member| member.site.cmp(site)).ok().map(|position| self.0[position].index)
    }

    /// The member with an index.
    pub fn member(&self, index: SiteIndex) -> Option<&Member> {
        self.0.get(index.position())
    }

    /// The name of the member with an index.
    pub fn site(&self, index: SiteIndex) -> Option<&SiteName> {
        self.member(index).map(|member| &member.site)
    }
}

impl<C> Encode<C> for Selection {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.0.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Selection {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let members = Vec::<Member>::decode(d, ctx)?;
        Self::check(members).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// The fields of a context, before they are checked against each other.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct ContextFields {
    /// Always [`PROTOCOL_VERSION`].
    #[n(0)]
    pub version: u16,
    /// Hash of the signed study.
    #[n(1)]
    pub study: Hash,
    /// Hash of the roster that the study is pinned to.
    #[n(2)]
    pub roster: Hash,
    /// The generation of pair keys.
    #[n(3)]
    pub epoch: Epoch,
    /// The round as people count.
    #[n(4)]
    pub round: RoundNumber,
    /// The attempt, never used twice.
    #[n(5)]
    pub attempt: Attempt,
    /// What is summed.
    #[n(6)]
    pub purpose: Purpose,
    /// The model as received: the starting model of a training, the candidate of an evaluation.
    #[n(7)]
    pub model: Hash,
    /// In an evaluation, the model that the candidate is compared with.
    #[n(8)]
    pub baseline: Option<Hash>,
    /// The invited sites.
    #[n(9)]
    pub selection: Selection,
    /// Number of groups that are summed apart; 1 where everybody is summed together.
    #[n(10)]
    pub groups: u16,
    /// `t`, `c`, `h` and what they follow from.
    #[n(11)]
    pub thresholds: Thresholds,
    /// What stands where, with the range of each block.
    #[n(12)]
    pub layout: Layout,
    /// Words in a chunk: 2^18.
    #[n(13)]
    pub chunk_words: u32,
    /// Bits of the ring of an update's numbers: 32, or 16 where the layout is packed.
    #[n(14)]
    pub ring_bits: u8,
    /// Bound on an update's L2 norm.
    #[n(15)]
    pub clip_norm: ClipNorm,
    /// Largest weight of a site.
    #[n(16)]
    pub weight_cap: u32,
    /// Scale of the noise that each site adds, in quantiser steps; 0 is none.
    #[n(17)]
    pub noise: u64,
    /// Who is in which group, where there is more than one.
    #[n(18)]
    pub grouping: Option<Grouping>,
    /// In a training of a study whose sites correct their steps, what they correct them by; none before there is anything.
    #[n(19)]
    pub control: Option<Control>,
}

/// Why fields make no context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidContext {
    /// A version, ring or chunk length that this crate does not speak.
    #[error("{what} is {got}, and this version of the protocol uses {want}")]
    Unsupported {
        /// Which field.
        what: &'static str,
        /// What the context says.
        got: u64,
        /// What it has to say.
        want: u64,
    },
    /// The Selection has no thresholds.
    #[error(transparent)]
    Thresholds(#[from] NoThreshold),
    /// Thresholds that are not those of the formula.
    #[error("the thresholds are not those of the formula")]
    Formula,
    /// The sites cannot be split into so many groups.
    #[error(transparent)]
    Groups(#[from] NoGroups),
    /// Groups where everybody is summed together, none where they are not, or groups that no draw leads to.
    #[error("the groups are not those of a draw, or this sum has none")]
    Grouping,
    /// A baseline without evaluation, or an evaluation of a model against itself.
    #[error("only an evaluation names a second model, and another one")]
    Baseline,
    /// Control variates of a sum that trains nothing, of a stranger or of a later attempt, or out of order.
    #[error("only a training names control variates, each of a member, in order and from an earlier attempt")]
    Control,
    /// A ring that is not the layout's, or packed where there is nothing to rotate: counts are summed as they are.
    #[error("{bits} bits are not the ring of this layout, or not of this purpose and clip norm")]
    Ring {
        /// The declared width.
        bits: u8,
    },
    /// Weights could wrap around in the sum.
    #[error("a weight of {cap} can overflow the sum of {sites} sites")]
    WeightCap {
        /// The declared largest weight.
        cap: u32,
        /// Sites in the Selection.
        sites: usize,
    },
}

/// The context of an attempt. Its fields fit each other: thresholds are those of the formula for its
/// Selection and the roster size and `h` it names, and weights cannot overflow.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    fields: ContextFields,
    hash: CtxHash,
}

impl Context {
    /// Checks the fields against each other.
    pub fn new(fields: ContextFields) -> Result<Self, InvalidContext> {
        for (what, got, want) in [
            ("protocol version", u64::from(fields.version), u64::from(PROTOCOL_VERSION)),
            ("chunk length", u64::from(fields.chunk_words), CHUNK_WORDS as u64),
        ] {
            if got != want {
                return Err(InvalidContext::Unsupported { what, got, want });
            }
        }
        let packs = fields.layout.ring() == Ring::Packed;
        let may_pack = fields.purpose == Purpose::Train && fields.clip_norm.get() <= LONGEST_PACKED;
        if fields.ring_bits != fields.layout.ring().bits() || packs && !may_pack {
            return Err(InvalidContext::Ring { bits: fields.ring_bits });
        }
        let stated = fields.thresholds;
        let sites = fields.selection.len();
        if Thresholds::new(usize::from(stated.roster), sites, stated.honest)? != stated {
            return Err(InvalidContext::Formula);
        }
        if let Some(plan) = plan(&fields)? {
            let grouping = fields.grouping.as_ref().ok_or(InvalidContext::Grouping)?;
            if fields.purpose != Purpose::Train || !grouping.fits(&fields.selection, plan) {
                return Err(InvalidContext::Grouping);
            }
        } else if fields.grouping.is_some() {
            return Err(InvalidContext::Grouping);
        }
        if fields
            .baseline
            .is_some_and(|baseline| fields.purpose != Purpose::Evaluate || baseline == fields.model)
        {
            return Err(InvalidContext::Baseline);
        }
        let trains = fields.purpose == Purpose::Train;
        let control = fields.control.as_ref();
        if control.is_some_and(|control| !trains || !control.fits(&fields.selection, fields.attempt)) {
            return Err(InvalidContext::Control);
        }
        if fields.weight_cap == 0 || fields.weight_cap > count_limit(sites) {
            return Err(InvalidContext::WeightCap { cap: fields.weight_cap, sites });
        }
        let hash = CtxHash(Hash::labelled("context-hash", &fields.to_canonical()));
        Ok(Self { fields, hash })
    }

    /// The `ctx` that goes into every seed, key, commitment and signature of the attempt.
    pub const fn hash(&self) -> CtxHash {
        self.hash
    }

    /// The group of a member; 0 for all where everybody is summed together.
    pub fn group_of(&self, member: SiteIndex) -> u16 {
        self.grouping.as_ref().and_then(|grouping| grouping.group_of(member)).unwrap_or(0)
    }

    /// Whether the vectors of two members carry a mask that they share.
    pub(crate) fn share_a_mask(&self, one: SiteIndex, other: SiteIndex) -> bool {
        one != other && self.group_of(one) == self.group_of(other)
    }

    /// Groups of which some members are in `sites`, but fewer than stand for the promise of the draw, with those members.
    pub fn thin_groups(&self, sites: impl Iterator<Item = SiteIndex>) -> Vec<BTreeSet<SiteIndex>> {
        let (Some(grouping), Ok(Some(plan))) = (&self.grouping, plan(&self.fields)) else {
            return Vec::new();
        };
        let thin = |(group, members): &(u16, BTreeSet<_>)| members.len() < usize::from(plan.floor(*group));
        grouping.split(sites).into_iter().filter(thin).map(|(_, members)| members).collect()
    }

    /// The fields, to change them and check again.
    pub fn into_fields(self) -> ContextFields {
        self.fields
    }
}

/// How the Selection is split; none where everybody is summed together.
fn plan(fields: &ContextFields) -> Result<Option<GroupPlan>, NoGroups> {
    if fields.groups == 1 {
        return Ok(None);
    }
    let Thresholds { roster, corrupt, honest, .. } = fields.thresholds;
    let drawn = fields.grouping.as_ref().map_or(0, |grouping| grouping.participants);
    // More than there are would make the odds look better.
    let drawn = if drawn <= roster { drawn } else { 0 };
    GroupPlan::new(usize::from(drawn), fields.groups, corrupt, honest).map(Some)
}

impl Deref for Context {
    type Target = ContextFields;

    fn deref(&self) -> &ContextFields {
        &self.fields
    }
}

impl Statement for Context {
    const LABEL: &'static str = "context";
}

/// The same statement, before its fields are checked against each other: to say what is wrong with it.
impl Statement for ContextFields {
    const LABEL: &'static str = Context::LABEL;
}

impl<C> Encode<C> for Context {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.fields.encode(e, ctx)
    }
}

impl<'b, C> Decode<'b, C> for Context {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let fields = ContextFields::decode(d, ctx)?;
        Self::new(fields).map_err(|error| decode::Error::message(error.to_string()))
    }
}
