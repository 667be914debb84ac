//! Why something did not happen: closed lists, so that a reason can be counted, translated and tested.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::Serialize;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $n:literal $item:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[cbor(index_only)]
        pub enum $name {
            $(#[doc = $text] #[n($n)] $item,)+
        }

        impl $name {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$item,)+];

            /// In words.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$item => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.text())
            }
        }
    };
}

reasons!(
    /// Why a site takes no further part in an attempt. It is a dropout of that attempt and nothing worse.
    Withdrawal {
        0 TooFewCases = "fewer labelled, usable cases than the study's minimum",
        1 TooFewUsable = "a smaller share of items is usable than the study asks for",
        2 NoData = "the data source cannot be read",
        3 NoDevice = "the compute device is gone or too small",
        4 TrainingFailed = "local training failed",
        5 NoSpace = "no space left for the masked update",
        6 StoppedAtSite = "a person at the site stopped the work",
        7 OutsideHours = "outside the site's working hours",
        8 NoKeys = "the keys of this epoch are gone",
        9 ModelUnavailable = "the starting model could not be fetched",
        10 VariateLost = "the site's control variate that others count on is gone",
        11 Unrepeatable = "what it trained on a GPU for this model is gone, and a second training would give another update",
        12 NothingHeldOut = "holds out no case to evaluate on",
        13 NothingToTrainOn = "holds out every case and has none to train on",
    }
);

reasons!(
    /// Why a site refuses a directive. It says so instead of falling silent.
    Decline {
        0 Malformed = "the message does not decode",
        1 UnknownStudy = "the study is not known here",
        2 NotAccepted = "the study was not accepted here",
        3 Signature = "a signature does not match",
        4 Roster = "the roster is not the one the study was accepted with",
        5 Epoch = "the epoch is not the one this site has keys for",
        6 Attempt = "the attempt is not above every earlier one",
        7 Context = "the context differs from what the study says",
        8 Thresholds = "the thresholds are not those of the formula",
        9 TooFewSites = "fewer sites than this site's policy asks for",
        10 UnknownSites = "a site that this site insists on is missing",
        11 Model = "the starting model is not acceptable here",
        12 SecondSurvivors = "another set of survivors was signed for this attempt",
        13 Repeat = "another set of survivors was signed for this starting model",
        14 Terms = "the survivors break the terms of a receipt",
        15 Receipts = "the receipts do not fit together",
        16 Signatures = "too few valid signatures on these survivors",
        17 Paused = "the study is paused at this site",
        18 Policy = "the site's policy forbids it",
        19 NotSelected = "this site is not in the Selection",
        20 Groups = "the draw of groups, or the groups of the context, are not acceptable here",
    }
);

impl Withdrawal {
    /// Whether it is probably still so a moment later.
    pub(crate) const fn lasts(self) -> bool {
        match self {
            Self::TooFewCases
            | Self::TooFewUsable
            | Self::NoData
            | Self::NoDevice
            | Self::TrainingFailed
            | Self::NoSpace
            | Self::StoppedAtSite
            | Self::OutsideHours
            | Self::Unrepeatable
            | Self::NothingHeldOut
            | Self::NothingToTrainOn => true,
            // The next attempt begins without variates.
            Self::NoKeys | Self::ModelUnavailable | Self::VariateLost => false,
        }
    }
}

impl Decline {
    /// Whether it is probably still so a moment later. What the repeat rule forbids is kept apart from this: those
    /// that it binds are asked together.
    pub(crate) const fn lasts(self) -> bool {
        match self {
            Self::UnknownStudy
            | Self::NotAccepted
            | Self::Roster
            | Self::TooFewSites
            | Self::UnknownSites
            | Self::Model
            | Self::Paused
            | Self::Policy => true,
            Self::Malformed
            | Self::Signature
            | Self::Epoch
            | Self::Attempt
            | Self::Context
            | Self::Thresholds
            | Self::SecondSurvivors
            | Self::Repeat
            | Self::Terms
            | Self::Receipts
            | Self::Signatures
            | Self::NotSelected
            | Self::Groups => false,
        }
    }
}

reasons!(
    /// Why a member of a Selection is not among the survivors.
    Dropout {
        0 NoUpload = "no complete upload by the deadline",
        1 Withdrew = "withdrew",
        2 Declined = "refused the context",
        3 LeftOut = "left out: its envelopes do not open, its commitments differ from its peers', or terms forbid it",
        4 Revoked = "its certificate was revoked",
        5 Unfinished = "was still at work when the attempt was given up",
    }
);

reasons!(
    /// Why an attempt ended without a sum.
    Abandonment {
        0 BelowQuorum = "fewer survivors than the quorum",
        1 RepeatRule = "the survivors are not the set that was signed for this starting model",
        2 Terms = "no set of survivors meets the terms of all its members",
        3 Paused = "the study was paused before the survivors were named",
        4 Stopped = "the study was stopped",
        5 DeclaredLost = "an operator declared the attempt lost",
        6 GuiltyDealer = "a dealer's shares were proved not to fit its commitment",
        7 Restored = "the coordinator was restored from a backup",
        8 SumFailed = "the uploads or the recovered masks do not give a sum",
        9 TooFewGroups = "fewer groups are whole than the study's rule needs",
    }
);

reasons!(
    /// Why an adopted candidate has no figures.
    Unevaluated {
        0 NoQuorum = "too few hospitals could evaluate it",
        1 BadCounts = "the counts contradict each other",
    }
);

reasons!(
    /// Why a candidate was refused.
    CandidateRefusal {
        0 LossIncrease = "it loses more than the study's margin against the model before",
        1 BadCounts = "the counts contradict each other",
        2 TooFewWilling = "too few hospitals would train from it",
        3 NormGrowth = "its update is much longer than those before",
        4 LossDrift = "it loses more than the study's margin against the best model before",
        5 TooLong = "its update is longer than any hospital may send",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_words() {
        fn texts(list: impl Iterator<Item = &'static str>) {
            let all: Vec<_> = list.collect();
            let distinct: std::collections::BTreeSet<_> = all.iter().collect();
            assert_eq!(all.len(), distinct.len());
        }
        texts(Withdrawal::ALL.iter().map(|reason| reason.text()));
        texts(Decline::ALL.iter().map(|reason| reason.text()));
        texts(Dropout::ALL.iter().map(|reason| reason.text()));
        texts(Abandonment::ALL.iter().map(|reason| reason.text()));
        texts(Unevaluated::ALL.iter().map(|reason| reason.text()));
        texts(CandidateRefusal::ALL.iter().map(|reason| reason.text()));
    }
}
