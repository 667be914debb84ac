//! What a site says about a study, signed with its own key: yes or no and by which rule, what it has, and
//! on which terms it takes part.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Serialize};

use crate::disclosure::GatedCount;
use crate::hash::Hash;
use crate::sign::Statement;

/// Longest text of a rule, in characters.
pub const MAX_RULE: usize = 200;

/// The rule, or the person, that decided: one line for people, at most [`MAX_RULE`] characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(String);

/// A text that is no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rule is one line of 1 to {MAX_RULE} characters")]
pub struct InvalidRule;

impl Rule {
    /// Checks and wraps a text.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidRule> {
        let text = text.into();
        let fits = !text.is_empty() && text.chars().count() <= MAX_RULE;
        if fits && !text.chars().any(char::is_control) { Ok(Self(text)) } else { Err(InvalidRule) }
    }

    /// The rule "this person decided".
    pub fn person(name: &str) -> Result<Self, InvalidRule> {
        if name.is_empty() { Err(InvalidRule) } else { Self::new(format!("person: {name}")) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<C> Encode<C> for Rule {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Rule {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::new(d.str()?).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// Whether a site signs another set of Survivors for the same starting model.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Encode, Decode,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum Repeat {
    /// A person at the site decides each time.
    #[default]
    #[n(0)]
    Ask,
    /// Never.
    #[n(1)]
    Never,
}

/// On which terms a site takes part. Every signer of a round enforces the terms of every receipt in it, so
/// that a strict site is not outvoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SiteTerms {
    /// Least number of honest sites behind an opened sum.
    #[n(0)]
    pub min_honest: u32,
    /// Least number of sites, in the Selection and among the Survivors.
    #[n(1)]
    pub min_selection: u32,
    /// The Survivors differ from every earlier set of the epoch by nobody or by at least so many sites.
    /// Absent, by any number.
    #[n(2)]
    pub min_change: Option<u32>,
    /// Whether another set of Survivors for the same starting model can be signed at all.
    #[n(3)]
    pub repeat: Repeat,
    /// Whether the exact number of training cases may be the weight.
    #[n(4)]
    pub exact_weights: bool,
    /// Whether groups may be summed apart: a sum over the site's group instead of one over everybody.
    #[n(5)]
    pub groups: bool,
}

impl SiteTerms {
    /// The first clause in which these terms ask for more than `accepted` does, by its key in the policy.
    pub fn stricter_than(&self, accepted: &Self) -> Option<&'static str> {
        let asks_more = [
            ("min_honest", self.min_honest > accepted.min_honest),
            ("min_selection", self.min_selection > accepted.min_selection),
            ("min_change", self.min_change > accepted.min_change),
            ("repeat", self.repeat == Repeat::Never && accepted.repeat == Repeat::Ask),
            ("exact_weights", accepted.exact_weights && !self.exact_weights),
            ("groups", accepted.groups && !self.groups),
        ];
        asks_more.into_iter().find(|(_, more)| *more).map(|(key, _)| key)
    }
}

impl Statement for SiteTerms {
    const LABEL: &'static str = "site-terms";
}

/// A site takes part in a study.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Acceptance {
    /// [`crate::document::Study::hash`].
    #[n(0)]
    pub study: Hash,
    /// Hash of the roster the site accepted with.
    #[n(1)]
    pub roster: Hash,
    /// Which rule or person decided.
    #[n(2)]
    pub rule: Rule,
    /// The site's weight, fixed from now on.
    #[n(3)]
    pub weight_class: u32,
    /// The site's terms.
    #[n(4)]
    pub terms: SiteTerms,
}

impl Statement for Acceptance {
    const LABEL: &'static str = "acceptance";
}

/// A site does not take part in a study.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    /// [`crate::document::Study::hash`].
    #[n(0)]
    pub study: Hash,
    /// The one rule, or the person, that decided. It does not depend on how many patients there are.
    #[n(1)]
    pub rule: Rule,
}

impl Statement for Refusal {
    const LABEL: &'static str = "refusal";
}

/// What a site has for a study, in counts of distinct patients that passed the disclosure gate.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Readiness {
    /// [`crate::document::Study::hash`].
    #[n(0)]
    pub study: Hash,
    /// Patients with items in the source.
    #[n(1)]
    pub found: GatedCount,
    /// Of those, patients with decoded pixels.
    #[n(2)]
    pub decoded: GatedCount,
    /// Of those, patients with a label.
    #[n(3)]
    pub labelled: GatedCount,
    /// Of those, patients whose cases train or evaluate.
    #[n(4)]
    pub usable: GatedCount,
    /// Of those, patients held out.
    #[n(5)]
    pub held_out: GatedCount,
}

impl Statement for Readiness {
    const LABEL: &'static str = "readiness";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;
    use crate::disclosure::Floor;
    use crate::sign::{Signed, SigningKey};

    #[test]
    fn a_rule_is_one_readable_line() {
        for bad in ["", "a\nb", "\u{1b}[2J", &"x".repeat(MAX_RULE + 1)] {
            assert_eq!(Rule::new(bad), Err(InvalidRule), "{bad:?}");
            assert!(Rule::from_canonical(&bad.to_owned().to_canonical()).is_err(), "{bad:?}");
        }
        assert_eq!(Rule::person("Dr. Ada Example").unwrap().as_str(), "person: Dr. Ada Example");
        assert_eq!(Rule::person(""), Err(InvalidRule));
    }

    #[test]
    fn terms_that_ask_for_more_are_named() {
        let accepted = SiteTerms {
            min_honest: 2,
            min_selection: 3,
            min_change: None,
            repeat: Repeat::Ask,
            exact_weights: true,
            groups: true,
        };
        assert_eq!(accepted.stricter_than(&accepted), None);
        for (terms, key) in [
            (SiteTerms { min_honest: 3, ..accepted }, "min_honest"),
            (SiteTerms { min_selection: 4, ..accepted }, "min_selection"),
            (SiteTerms { min_change: Some(1), ..accepted }, "min_change"),
            (SiteTerms { repeat: Repeat::Never, ..accepted }, "repeat"),
            (SiteTerms { exact_weights: false, ..accepted }, "exact_weights"),
            (SiteTerms { groups: false, ..accepted }, "groups"),
        ] {
            assert_eq!(terms.stricter_than(&accepted), Some(key));
            assert_eq!(accepted.stricter_than(&terms), None, "{key}");
        }
    }

    #[test]
    fn statements_survive_the_wire() {
        let key = SigningKey::generate();
        let site: crate::name::Principal = "site/a".parse().unwrap();
        let study = Hash::of_bytes(b"study");
        let few = GatedCount::FewerThan(Floor::LOWEST);
        let readiness =
            Readiness { study, found: few, decoded: few, labelled: few, usable: few, held_out: few };
        let signed = Signed::seal(&readiness, site.clone(), &key);
        let arrived = Signed::<Readiness>::from_canonical(&signed.to_canonical()).unwrap();
        assert_eq!(*arrived.verify(&site, &key.verifying_key()).unwrap(), readiness);

        let terms = SiteTerms {
            min_honest: 2,
            min_selection: 3,
            min_change: None,
            repeat: Repeat::Never,
            exact_weights: false,
            groups: false,
        };
        let rule = Rule::new("approval = \"automatic\"").unwrap();
        let acceptance = Acceptance { study, roster: study, rule, weight_class: 256, terms };
        assert_eq!(Acceptance::from_canonical(&acceptance.to_canonical()), Ok(acceptance.clone()));
        let foreign =
            Signed::<Refusal>::from_canonical(&Signed::seal(&acceptance, site.clone(), &key).to_canonical());
        assert!(foreign.unwrap().verify(&site, &key.verifying_key()).is_err(), "an acceptance is no refusal");
    }
}
