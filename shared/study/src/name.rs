//! Names of sites, studies, consortia and people, and of the parties that sign.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: use 1 to 63 of a-z, 0-9 and '-', starting with a letter or digit")]
pub struct InvalidName {
    kind: &'static str,
    text: String,
}

fn check(kind: &'static str, text: &str) -> Result<(), InvalidName> {
    let first = text.bytes().next();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if first.is_some_and(|byte| byte != b'-') && text.len() <= 63 && text.bytes().all(allowed) {
        Ok(())
    } else {
        // A peer may send megabytes; the error repeats only what a person can read.
        Err(InvalidName { kind, text: text.chars().take(63).collect() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                check($kind, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                Self::new(d.str()?).map_err(|error| decode::Error::message(error.to_string()))
            }
        }
    };
}

name!(
    /// One institution's enrolled machine. Sites are ordered by the bytes of their names.
    SiteName,
    "site name"
);
name!(
    /// A consortium: the trust domain of every certificate in it.
    ConsortiumName,
    "consortium name"
);
name!(
    /// A study, unique within its consortium.
    StudyName,
    "study name"
);
name!(
    /// An operator or auditor: a person with a credential.
    PersonName,
    "person's name"
);

/// A party that signs or holds a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// The consortium's offline key.
    Consortium,
    /// The process that runs rounds.
    Coordinator,
    /// A hospital's agent.
    Site(SiteName),
    /// Someone who launches studies.
    Operator(PersonName),
    /// Someone who checks them.
    Auditor(PersonName),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consortium => f.write_str("consortium"),
            Self::Coordinator => f.write_str("coordinator"),
            Self::Site(name) => write!(f, "site/{name}"),
            Self::Operator(name) => write!(f, "operator/{name}"),
            Self::Auditor(name) => write!(f, "auditor/{name}"),
        }
    }
}

/// Why a text names no party.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrincipal {
    /// The part behind the slash is no name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The part before the slash is no role.
    #[error("\"{0}\" is not consortium, coordinator, site/NAME, operator/NAME or auditor/NAME")]
    Role(String),
}

impl FromStr for Principal {
    type Err = InvalidPrincipal;

    fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
        match text.split_once('/') {
            None if text == "consortium" => Ok(Self::Consortium),
            None if text == "coordinator" => Ok(Self::Coordinator),
            Some(("site", name)) => Ok(Self::Site(name.parse()?)),
            Some(("operator", name)) => Ok(Self::Operator(name.parse()?)),
            Some(("auditor", name)) => Ok(Self::Auditor(name.parse()?)),
            _ => Err(InvalidPrincipal::Role(text.chars().take(80).collect())),
        }
    }
}

impl<C> Encode<C> for Principal {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.to_string())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Principal {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        d.str()?.parse().map_err(|error: InvalidPrincipal| decode::Error::message(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;

    #[test]
    fn names_are_lower_case_words() {
        for good in ["charite", "site-01", "0", &"a".repeat(63)] {
            assert!(SiteName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "Charite", "a b", "a/b", "ä", "../x", &"a".repeat(64)] {
            assert!(SiteName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn principals_round_trip() {
        for text in ["consortium", "coordinator", "site/a", "operator/b", "auditor/c"] {
            let principal: Principal = text.parse().unwrap();
            assert_eq!(principal.to_string(), text);
            assert_eq!(Principal::from_canonical(&principal.to_canonical()), Ok(principal));
        }
        for text in ["", "site", "site/", "root/a", "coordinator/x", "site/a/b"] {
            assert!(text.parse::<Principal>().is_err(), "{text}");
        }
    }
}
