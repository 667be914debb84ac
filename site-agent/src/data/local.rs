//! Values that name a patient or a file. They never leave the hospital, so they cannot be formatted:
//! a log line, an error or a message to the coordinator that tries does not compile, or says nothing.

use std::fmt;

use minicbor::{Decode, Encode};

macro_rules! local {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] String);

        impl $name {
            /// Wraps a text.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text, for the hospital's own screen and for hashing.
            pub fn reveal(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

local!(
    /// A patient's name or number, from the table or the DICOM header.
    Patient
);
local!(
    /// A file's path, relative to its folder and with `/` between its parts.
    LocalPath
);
local!(
    /// A text taken from a file or table, such as a label nobody knows.
    LocalText
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formatting_reveals_nothing() {
        assert_eq!(format!("{:?}", Patient::new("CANARY")), "Patient(..)");
        assert_eq!(format!("{:?}", Some(LocalPath::new("CANARY"))), "Some(LocalPath(..))");
    }
}
