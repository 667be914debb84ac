//! Which control variates a training corrects its steps by (Karimireddy et al. 2020, SCAFFOLD).
//!
//! What a site trains follows from their mean as much as from the model, so both stand in the context: a coordinator that
//! shows one site another mean, to make the others' updates predictable and read off the rest (Pasquini et al. 2022), is left
//! with noise. Which variate of its own a site takes is in it too, so that every site can be held to the same account.

use consilium_study::hash::Hash;
use minicbor::{Decode, Encode};

use crate::context::Selection;
use crate::numbering::{Attempt, SiteIndex};

/// The mean of the sites' control variates, and which variate of each member is in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Control {
    /// The file with the mean, in the form of a model.
    #[n(0)]
    pub mean: Hash,
    /// Members of the Selection of which it has a variate, in the order of their indices.
    #[n(1)]
    pub counted: Vec<Counted>,
}

/// A member's variate in the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Counted {
    /// Whose.
    #[n(0)]
    pub site: SiteIndex,
    /// The attempt that the site trained it in.
    #[n(1)]
    pub attempt: Attempt,
}

impl Control {
    /// The attempt of a member's variate in the mean; none of a member that the mean has none of.
    pub fn counted(&self, site: SiteIndex) -> Option<Attempt> {
        let place = self.counted.binary_search_by_key(&site, |counted| counted.site).ok()?;
        Some(self.counted[place].attempt)
    }

    /// Whether each is a member's, in order and once, of an attempt before this one.
    pub(crate) fn fits(&self, selection: &Selection, attempt: Attempt) -> bool {
        self.counted.is_sorted_by(|one, next| one.site < next.site)
            && self
                .counted
                .iter()
                .all(|counted| selection.member(counted.site).is_some() && counted.attempt < attempt)
    }
}
