//! Names of parties as URIs: `spiffe://<consortium>/site/<name>`, `/operator/<name>`, `/auditor/<name>`,
//! `/coordinator`. The same names as [`Principal`] writes, below the consortium's own.

use std::fmt;
use std::str::FromStr;

use consilium_study::name::{ConsortiumName, InvalidName, InvalidPrincipal, Principal};

/// A party of one consortium, as it stands in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// The consortium.
    pub consortium: ConsortiumName,
    /// The party. Never [`Principal::Consortium`]: the offline key speaks through its certificates only.
    pub principal: Principal,
}

/// Why a text is not the URI of a party.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// Not `spiffe://consortium/path`.
    #[error("\"{0}\" does not read spiffe://CONSORTIUM/ROLE/NAME")]
    Scheme(String),
    /// The part that names the consortium is no name.
    #[error(transparent)]
    Consortium(#[from] InvalidName),
    /// The part that names the party is no party.
    #[error(transparent)]
    Principal(#[from] InvalidPrincipal),
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.consortium, self.principal)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let scheme = || InvalidSpiffeId::Scheme(text.chars().take(80).collect());
        let (consortium, path) =
            text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or_else(scheme)?;
        let principal = path.parse()?;
        if principal == Principal::Consortium {
            return Err(scheme());
        }
        Ok(Self { consortium: consortium.parse()?, principal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_parties_of_a_consortium_have_a_uri() {
        for good in [
            "spiffe://north/coordinator",
            "spiffe://north/site/a",
            "spiffe://north/operator/b",
            "spiffe://north/auditor/c",
        ] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "https://north/site/a",
            "spiffe://north",
            "spiffe://North/site/a",
            "spiffe://north/consortium",
            "spiffe://north/site/a/b",
            "spiffe://north//site/a",
            "spiffe://north/root",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// What parses is written back the same way: a name has one spelling.
        #[test]
        fn one_spelling(text in "(spiffe://)?[a-z0-9/:.%-]{0,40}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
