//! Quantities with their units: durations, sizes, shares, norms.
//!
//! In a file a duration reads `"2h 30m"` and a size `"1MiB"`; a bare number is refused, because nobody
//! remembers whether it meant seconds or milliseconds. In signed bytes they are whole milliseconds and
//! whole bytes, so `"2h"` and `"120m"` are the same value with the same hash.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a number or text is not a quantity.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidQuantity {
    /// Not a duration with units.
    #[error(
        "\"{text}\" is no duration: write a number with its unit, for example \"90s\", \"30m\" or \"2h\""
    )]
    Duration {
        /// What was written, shortened.
        text: String,
    },
    /// Zero, or finer than a millisecond, or longer than [`HumanDuration::MAX`].
    #[error("a duration is at least 1ms, in whole milliseconds, and at most 365days; this is {text}")]
    DurationRange {
        /// What was given, shortened.
        text: String,
    },
    /// Not a size with units.
    #[error("\"{text}\" is no size: write a number with its unit, for example \"64KiB\" or \"1MiB\"")]
    Size {
        /// What was written, shortened.
        text: String,
    },
    /// Outside zero to one.
    #[error("a share lies between 0 and 1; this is {0}")]
    Share(f64),
    /// Not finite, not above zero, or absurdly large.
    #[error("a clip norm is above 0 and at most 1000000; this is {0}")]
    ClipNorm(f64),
    /// Not finite, not above zero, or beyond any use.
    #[error("a server learning rate is above 0 and at most 10; this is {0}")]
    ServerLearningRate(f64),
    /// Not finite, not above zero, or beyond any use.
    #[error("the weight of a proximal term (mu) is above 0 and at most 100; this is {0}")]
    ProximalWeight(f64),
    /// Not between zero and 0.99.
    #[error("a server momentum is above 0 and at most 0.99; this is {0}")]
    ServerMomentum(f64),
    /// Not finite, not above zero, or above 1.
    #[error("the adaptivity of a server (tau) is above 0 and at most 1; this is {0}")]
    Adaptivity(f64),
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// A duration above zero, in whole milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration {
    milliseconds: u64,
}

impl HumanDuration {
    /// The longest duration: a year.
    pub const MAX: Self = Self { milliseconds: 365 * 24 * 60 * 60 * 1000 };

    /// A duration of whole milliseconds.
    pub fn from_millis(milliseconds: u64) -> Result<Self, InvalidQuantity> {
        if milliseconds == 0 || milliseconds > Self::MAX.milliseconds {
            return Err(InvalidQuantity::DurationRange { text: format!("{milliseconds}ms") });
        }
        Ok(Self { milliseconds })
    }

    /// A duration of whole seconds, for defaults written in code.
    pub(crate) const fn from_secs(seconds: u64) -> Self {
        assert!(seconds > 0 && seconds <= Self::MAX.milliseconds / 1000);
        Self { milliseconds: seconds * 1000 }
    }

    /// Whole milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.milliseconds
    }

    /// As the standard library's type.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.get()
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let parsed = humantime::parse_duration(text)
            .map_err(|_| InvalidQuantity::Duration { text: shortened(text) })?;
        let range = || InvalidQuantity::DurationRange { text: shortened(text) };
        if parsed.subsec_nanos() % 1_000_000 != 0 {
            return Err(range());
        }
        Self::from_millis(u64::try_from(parsed.as_millis()).map_err(|_| range())?).map_err(|_| range())
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.get()))
    }
}

impl fmt::Debug for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanSize {
    bytes: u64,
}

impl HumanSize {
    /// A size of whole bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// Whole bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }
}

impl FromStr for HumanSize {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let refused = || InvalidQuantity::Size { text: shortened(text) };
        // The parser reads a bare number as bytes and rounds fractions of a byte; neither is a size here.
        let has_unit = text.bytes().any(|byte| byte.is_ascii_alphabetic());
        let whole = !text.contains('.');
        let size = text.parse::<ByteSize>().map_err(|_| refused())?;
        if has_unit && whole && size.as_u64() < u64::MAX {
            Ok(Self { bytes: size.as_u64() })
        } else {
            Err(refused())
        }
    }
}

impl fmt::Display for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ByteSize::b(self.bytes).display().iec(), f)
    }
}

impl fmt::Debug for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A share of a whole: from zero to one.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// A share between zero and one, both included.
    pub fn new(share: f64) -> Result<Self, InvalidQuantity> {
        // Minus zero compares equal to zero and has other bytes, so it would be a second spelling.
        if (0.0..=1.0).contains(&share) && share.is_sign_positive() {
            Ok(Self(share))
        } else {
            Err(InvalidQuantity::Share(share))
        }
    }

    /// For defaults written in code.
    pub(crate) const fn constant(share: f64) -> Self {
        assert!(share >= 0.0 && share <= 1.0);
        Self(share)
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A number above zero, and so finite, up to a limit.
macro_rules! above_zero {
    ($(#[$doc:meta])* $name:ident, $most:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
        pub struct $name(f64);

        impl $name {
            /// The largest.
            pub const MAX: f64 = $most;

            /// A number above zero and at most [`Self::MAX`].
            pub fn new(number: f64) -> Result<Self, InvalidQuantity> {
                if number > 0.0 && number <= Self::MAX {
                    Ok(Self(number))
                } else {
                    Err(InvalidQuantity::$name(number))
                }
            }

            /// The number.
            pub const fn get(self) -> f64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

above_zero!(
    /// Bound on an update's L2 norm.
    ClipNorm,
    1e6
);
above_zero!(
    /// How far the model follows the mean update: 1 goes all the way, more goes beyond it.
    ServerLearningRate,
    10.0
);
above_zero!(
    /// Weight of the pull towards the model that a round starts from: μ of FedProx.
    ProximalWeight,
    100.0
);
above_zero!(
    /// Share of the last step that the server's next one keeps: β of FedAvgM. With the largest a model goes up to a
    /// hundred times as far as a round's updates alone would take it.
    ServerMomentum,
    0.99
);

above_zero!(
    /// What is added to the root of the second moment: τ of FedAdagrad, FedAdam and FedYogi. The larger, the less entries
    /// differ in how far they go.
    Adaptivity,
    1.0
);

impl ClipNorm {
    /// For defaults written in code.
    pub(crate) const fn constant(norm: f64) -> Self {
        assert!(norm > 0.0 && norm <= Self::MAX);
        Self(norm)
    }
}

impl Default for Adaptivity {
    /// Reddi et al. 2021.
    fn default() -> Self {
        Self(1e-3)
    }
}

impl Default for ServerLearningRate {
    /// All the way: the new model is the mean of the sites' models.
    fn default() -> Self {
        Self(1.0)
    }
}

/// Text in files, an unsigned integer in signed bytes.
macro_rules! written_as_text {
    ($name:ident, $get:ident, $make:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.exact_text())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.u64(self.$get())?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                let make: fn(u64) -> Result<Self, InvalidQuantity> = $make;
                make(d.u64()?).map_err(|error| decode::Error::message(error.to_string()))
            }
        }
    };
}

impl HumanDuration {
    fn exact_text(self) -> String {
        self.to_string()
    }
}

impl HumanSize {
    /// What a person reads is rounded; what a file holds is not.
    fn exact_text(self) -> String {
        let mib = 1 << 20;
        if self.bytes >= mib && self.bytes.is_multiple_of(mib) {
            format!("{}MiB", self.bytes / mib)
        } else {
            format!("{}B", self.bytes)
        }
    }
}

written_as_text!(HumanDuration, as_millis, HumanDuration::from_millis);
written_as_text!(HumanSize, bytes, |bytes| Ok(HumanSize::from_bytes(bytes)));

/// A number in files, an f64 in signed bytes.
macro_rules! written_as_number {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_f64(self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(f64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), encode::Error<W::Error>> {
                e.f64(self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                Self::new(d.f64()?).map_err(|error| decode::Error::message(error.to_string()))
            }
        }
    };
}

written_as_number!(Share);
written_as_number!(ClipNorm);
written_as_number!(ServerLearningRate);
written_as_number!(ProximalWeight);
written_as_number!(ServerMomentum);
written_as_number!(Adaptivity);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;
    use proptest::prelude::*;

    #[test]
    fn durations_need_units_and_have_one_value() {
        let two_hours: HumanDuration = "2h".parse().unwrap();
        assert_eq!("120m".parse(), Ok(two_hours));
        assert_eq!("1h 60m".parse(), Ok(two_hours));
        assert_eq!(two_hours.get(), Duration::from_hours(2));
        for bad in ["7200", "", "0s", "2 fortnights", "-1s", "1us", "2years", "99999999999999999999s"] {
            assert!(bad.parse::<HumanDuration>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_need_units() {
        assert_eq!("1MiB".parse(), Ok(HumanSize::from_bytes(1 << 20)));
        assert_eq!("1024KiB".parse(), Ok(HumanSize::from_bytes(1 << 20)));
        assert_eq!(HumanSize::from_bytes(1 << 20).to_string(), "1.0 MiB");
        for bad in ["1048576", "", "1.5MiB", "MiB", "-1B", "1 parsec", "99999999999EiB"] {
            assert!(bad.parse::<HumanSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_and_norms_are_finite() {
        for bad in [f64::NAN, f64::INFINITY, -0.1, 1.1, -0.0] {
            assert!(Share::new(bad).is_err(), "{bad}");
        }
        for bad in [f64::NAN, f64::INFINITY, 0.0, -1.0, 2e6] {
            assert!(ClipNorm::new(bad).is_err(), "{bad}");
            let mut bytes = vec![0xfb];
            bytes.extend(bad.to_be_bytes());
            assert!(ClipNorm::from_canonical(&bytes).is_err(), "{bad}");
            assert!(ServerLearningRate::new(bad).is_err(), "{bad}");
            assert!(ServerLearningRate::from_canonical(&bytes).is_err(), "{bad}");
            assert!(ProximalWeight::new(bad).is_err(), "{bad}");
            assert!(ProximalWeight::from_canonical(&bytes).is_err(), "{bad}");
            assert!(ServerMomentum::new(bad).is_err(), "{bad}");
            assert!(ServerMomentum::from_canonical(&bytes).is_err(), "{bad}");
        }
        assert!(ServerLearningRate::new(10.1).is_err());
        assert_eq!(Share::new(0.5).map(Share::get), Ok(0.5));
    }

    proptest! {
        /// What a file says and what is signed are the same value.
        #[test]
        fn text_and_bytes_agree(millis in 1..=HumanDuration::MAX.as_millis(), bytes in 0..u64::MAX / 2) {
            let duration = HumanDuration::from_millis(millis).unwrap();
            prop_assert_eq!(duration.exact_text().parse(), Ok(duration));
            prop_assert_eq!(HumanDuration::from_canonical(&duration.to_canonical()), Ok(duration));
            let size = HumanSize::from_bytes(bytes);
            prop_assert_eq!(size.exact_text().parse(), Ok(size));
            prop_assert_eq!(HumanSize::from_canonical(&size.to_canonical()), Ok(size));
        }
    }
}
