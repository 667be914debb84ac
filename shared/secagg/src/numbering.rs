//! Numbers that name things. Numbers of different things never compare.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// Largest Selection the protocol admits.
pub const MAX_SITES: usize = 200;
/// Smallest Selection the protocol admits: with two, each site would learn the other's update.
pub const MIN_SITES: usize = 3;
/// Most attempts one epoch of pair keys serves.
pub const MAX_ATTEMPTS_PER_EPOCH: u32 = 100;

/// A number outside its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{value} is no {kind}")]
pub struct InvalidNumber {
    kind: &'static str,
    value: u64,
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $read:ident, $range:expr, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Checks and wraps a number.
            pub fn new(value: $inner) -> Result<Self, InvalidNumber> {
                if $range.contains(&value) {
                    Ok(Self(value))
                } else {
                    Err(InvalidNumber { kind: $kind, value: u64::from(value) })
                }
            }

            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.$read(self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                Self::new(d.$read()?).map_err(|error| decode::Error::message(error.to_string()))
            }
        }
    };
}

number!(
    /// One run of the protocol, numbered once per study from 1, never reused.
    Attempt, u32, u32, (1..=u32::MAX), "attempt number"
);
number!(
    /// A step of the study as people count them, from 1. The protocol only carries it.
    RoundNumber, u32, u32, (1..=u32::MAX), "round number"
);
number!(
    /// One generation of pair keys of a study, from 1.
    Epoch, u32, u32, (1..=u32::MAX), "epoch number"
);
number!(
    /// A site's place in a Selection, from 1: also the x of its Shamir shares.
    SiteIndex, u8, u8, (1..=MAX_SITES as u8), "index in a Selection"
);

impl SiteIndex {
    /// The index of a position counted from zero.
    pub fn from_position(position: usize) -> Result<Self, InvalidNumber> {
        let invalid = InvalidNumber { kind: "index in a Selection", value: position as u64 };
        position.checked_add(1).and_then(|index| u8::try_from(index).ok()).map_or(Err(invalid), Self::new)
    }

    /// The position counted from zero.
    pub const fn position(self) -> usize {
        self.0 as usize - 1
    }
}

impl Attempt {
    /// The attempt after this one.
    pub fn next(self) -> Result<Self, InvalidNumber> {
        Self::new(self.0.wrapping_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_study::canonical::Canonical;

    #[test]
    fn decoding_goes_through_the_constructor() {
        assert!(SiteIndex::from_canonical(&0u8.to_canonical()).is_err());
        assert!(SiteIndex::from_canonical(&201u8.to_canonical()).is_err());
        assert_eq!(SiteIndex::from_canonical(&200u8.to_canonical()), Ok(SiteIndex(200)));
        assert!(Attempt::from_canonical(&0u32.to_canonical()).is_err());
        assert_eq!(SiteIndex::from_position(199).map(SiteIndex::position), Ok(199));
        assert!(SiteIndex::from_position(200).is_err());
        assert!(SiteIndex::from_position(usize::MAX).is_err());
    }
}
