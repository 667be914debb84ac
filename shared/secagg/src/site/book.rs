//! The repeat book: which survivors a site has signed for which model, across all its studies.
//!
//! The repeat rule (design, section 3): per starting model and purpose a site signs no other survivors, not in
//! a retry, not after the gate refused a candidate, not in another study. With deterministic training the
//! difference of two such sums would be the missing site's update.

use std::collections::{BTreeMap, BTreeSet};

use consilium_study::canonical::{Canonical, NotCanonical};
use consilium_study::hash::Hash;
use consilium_study::name::SiteName;
use minicbor::{Decode, Encode};

use crate::context::{Context, Purpose};
use crate::terms::Repeat;

/// The part that a model played in a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
enum Part {
    #[n(0)]
    Trained,
    #[n(1)]
    Evaluated,
    /// An evaluation compares with it; its loss is in the sum as well.
    #[n(2)]
    ComparedWith,
    #[n(3)]
    Statistics,
}

impl From<Purpose> for Part {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Train => Self::Trained,
            Purpose::Evaluate => Self::Evaluated,
            Purpose::Statistics => Self::Statistics,
        }
    }
}

/// Survivors by what was opened with them. One per site, for all its studies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RepeatBook {
    /// Each set once; rounds with the same survivors share it.
    #[n(0)]
    sets: Vec<BTreeSet<SiteName>>,
    #[n(1)]
    opened: BTreeMap<(Part, Hash), u64>,
    /// Grows with every change, so that the record of a study can tell an older book.
    #[cbor(n(2), decode_with = "super::record::writes")]
    version: u64,
    /// The draw by which a trained model was summed in groups. The same sites in other groups would show the difference of
    /// two sums, too.
    #[n(3)]
    draws: BTreeMap<Hash, Hash>,
    #[cbor(skip)]
    changed: bool,
}

/// The site's policy never lets a model be opened again with other survivors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("policy.repeat = \"never\" admits no consent")]
pub struct NeverRepeat;

impl RepeatBook {
    /// An empty book.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what [`super::Store::save_record`] was given.
    pub fn restore(bytes: &[u8]) -> Result<Self, NotCanonical> {
        Self::from_canonical(bytes)
    }

    fn parts(
        purpose: Purpose,
        model: Hash,
        baseline: Option<Hash>,
    ) -> impl Iterator<Item = (Part, Hash)> + use<> {
        let baseline = baseline.map(|baseline| (Part::ComparedWith, baseline));
        std::iter::once((purpose.into(), model)).chain(baseline)
    }

    /// The survivors that bind this site where `model` is summed again for `purpose`.
    pub fn bound(&self, model: &Hash, purpose: Purpose) -> Option<&BTreeSet<SiteName>> {
        self.set(&(purpose.into(), *model))
    }

    /// All sets that bind this site where `model` is summed for `purpose` and compared with `baseline`: none, one,
    /// or two where an evaluation compares.
    pub fn sets_for(
        &self,
        purpose: Purpose,
        model: Hash,
        baseline: Option<Hash>,
    ) -> Vec<&BTreeSet<SiteName>> {
        Self::parts(purpose, model, baseline).filter_map(|part| self.set(&part)).collect()
    }

    fn set(&self, part: &(Part, Hash)) -> Option<&BTreeSet<SiteName>> {
        let index = usize::try_from(*self.opened.get(part)?).ok()?;
        self.sets.get(index)
    }

    /// All sets that bind this site in an attempt.
    pub(crate) fn binding(&self, context: &Context) -> Vec<&BTreeSet<SiteName>> {
        self.sets_for(context.purpose, context.model, context.baseline)
    }

    /// Whether a model that was trained from before would be summed in the same groups.
    pub(crate) fn repeats_groups(&self, context: &Context) -> bool {
        let known = self.opened.contains_key(&(context.purpose.into(), context.model));
        let drawn = context.grouping.as_ref().map(|grouping| &grouping.seed);
        context.purpose != Purpose::Train || !known || self.draws.get(&context.model) == drawn
    }

    /// Writes down that the attempt is opened with these survivors. What is bound stays bound.
    pub(crate) fn bind(&mut self, context: &Context, survivors: &BTreeSet<SiteName>) {
        let index = self.sets.iter().position(|set| set == survivors).unwrap_or_else(|| {
            self.sets.push(survivors.clone());
            self.sets.len() - 1
        });
        let first = !self.opened.contains_key(&(context.purpose.into(), context.model));
        if let Some(grouping) = context.grouping.as_ref().filter(|_| first) {
            self.draws.insert(context.model, grouping.seed);
        }
        for part in Self::parts(context.purpose, context.model, context.baseline) {
            self.opened.entry(part).or_insert(index as u64);
        }
        self.touch();
    }

    /// A person at the site lets `model` be summed once more for `purpose`, compared with `baseline`, with other
    /// survivors; other parts that these models played stay bound. The shell writes it to the ledger. Persist a
    /// machine afterwards.
    pub fn consent(
        &mut self,
        purpose: Purpose,
        model: Hash,
        baseline: Option<Hash>,
        repeat: Repeat,
    ) -> Result<(), NeverRepeat> {
        match repeat {
            Repeat::Never => Err(NeverRepeat),
            Repeat::Ask => {
                for part in Self::parts(purpose, model, baseline) {
                    self.opened.remove(&part);
                }
                if purpose == Purpose::Train {
                    self.draws.remove(&model);
                }
                self.touch();
                Ok(())
            }
        }
    }

    fn touch(&mut self) {
        self.version += 1;
        self.changed = true;
    }

    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// The bytes to save, if something changed since the last call of [`RepeatBook::saved`].
    pub(crate) fn unsaved(&self) -> Option<Vec<u8>> {
        self.changed.then(|| self.to_canonical())
    }

    pub(crate) fn saved(&mut self) {
        self.changed = false;
    }
}
