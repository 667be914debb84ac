//! Waits that belong to the coordinator rather than to a study.

use consilium_study::quantity::HumanDuration;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// How patient a coordinator is. The waits of a round stand in its study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cbor(map)]
pub struct Timing {
    /// A site whose connection broke is waited for so long before a round begins without it.
    #[n(0)]
    pub link_grace: HumanDuration,
    /// First pause after an attempt failed or a site declined or withdrew; doubles each time.
    #[n(1)]
    pub rest: HumanDuration,
    /// A site that makes progress extends a round to at most so many times the study's timeout.
    #[n(2)]
    pub stretch: u32,
    /// How long writing a release may take before somebody is told.
    #[n(3)]
    pub release_timeout: HumanDuration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { link_grace: millis(20_000), rest: millis(2_000), stretch: 8, release_timeout: millis(600_000) }
    }
}

fn millis(millis: u64) -> HumanDuration {
    HumanDuration::from_millis(millis).expect("a default lies within the bounds of a duration")
}
