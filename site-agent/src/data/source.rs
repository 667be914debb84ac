//! Where a site's cases come from, and what a study asks of them.

use std::path::PathBuf;

use consilium_study::data::Input;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// Where the cases are: the `[data]` table of a site's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A MedMNIST archive. Its `train` arrays are trained on, its `val` arrays are the held-out
    /// cases, and its `test` arrays are never read.
    Npz {
        /// The archive.
        file: PathBuf,
    },
    /// PNG and JPEG files with a table beside them.
    Images {
        /// The folder; every path in the table is relative to it.
        folder: PathBuf,
        /// CSV with the columns `path,label` and, if wanted, `patient,split,site`.
        table: PathBuf,
        /// With a `site` column: the rows that are ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
    /// DICOM files with a table beside them.
    Dicom {
        /// The folder; every path in the table is relative to it.
        folder: PathBuf,
        /// CSV with the columns `path,label` and, if wanted, `patient,split,site`.
        table: PathBuf,
        /// With a `site` column: the rows that are ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
    /// A table whose rows are the cases, for studies with `inputs`.
    Table {
        /// CSV with the column `label`, those of the study's inputs and, if wanted, `patient,split,site`.
        table: PathBuf,
        /// With a `site` column: the rows that are ours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
    },
}

impl Source {
    /// The site whose rows are ours, where the table holds several.
    pub fn site(&self) -> Option<&str> {
        match self {
            Self::Npz { .. } => None,
            Self::Images { site, .. } | Self::Dicom { site, .. } | Self::Table { site, .. } => {
                site.as_deref()
            }
        }
    }

    /// One word for the kind of source.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Npz { .. } => "npz",
            Self::Images { .. } => "images",
            Self::Dicom { .. } => "dicom",
            Self::Table { .. } => "table",
        }
    }
}

/// The size and channels every picture is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Target {
    #[n(0)]
    channels: u8,
    #[n(1)]
    height: u16,
    #[n(2)]
    width: u16,
}

/// Why a study's size of picture cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a picture has 1 or 3 channels and 1 to {limit} pixels a side, not {channels} x {height} x {width}", limit = Target::LONGEST_SIDE)]
pub struct InvalidTarget {
    channels: u32,
    height: u32,
    width: u32,
}

impl Target {
    /// The longest side of a picture.
    pub const LONGEST_SIDE: u32 = 1024;

    /// Checks a size.
    pub fn new(channels: u32, height: u32, width: u32) -> Result<Self, InvalidTarget> {
        let side = 1..=Self::LONGEST_SIDE;
        if matches!(channels, 1 | 3) && side.contains(&height) && side.contains(&width) {
            Ok(Self { channels: channels as u8, height: height as u16, width: width as u16 })
        } else {
            Err(InvalidTarget { channels, height, width })
        }
    }

    /// The same size through the constructor: for values that came over a pipe.
    pub fn checked(self) -> Result<Self, InvalidTarget> {
        Self::new(self.channels.into(), self.height.into(), self.width.into())
    }

    /// 1 for grey, 3 for red, green and blue.
    pub fn channels(self) -> usize {
        self.channels.into()
    }

    /// Rows.
    pub fn height(self) -> usize {
        self.height.into()
    }

    /// Columns.
    pub fn width(self) -> usize {
        self.width.into()
    }

    /// Channels, rows and columns.
    pub fn shape(self) -> [u32; 3] {
        [self.channels.into(), self.height.into(), self.width.into()]
    }

    /// Number of values in one picture.
    pub fn values(self) -> usize {
        self.channels() * self.height() * self.width()
    }
}

/// What a case of a study is.
#[derive(Debug, Clone, PartialEq)]
pub enum Case {
    /// A picture of this size.
    Picture(Target),
    /// A row of a table, and what is taken from it.
    Row(Vec<Input>),
}

/// What a study asks of a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Criteria {
    /// Names of the classes, in the order of the model's outputs.
    pub labels: Vec<String>,
    /// What a case is.
    pub case: Case,
    /// Share of patients held out where the source has no split of its own, from 0 to below 1.
    pub holdout: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grey_and_colour_of_sane_sizes() {
        assert!(Target::new(1, 28, 28).is_ok());
        assert!(Target::new(3, 1024, 1).is_ok());
        for (channels, height, width) in [(0, 1, 1), (2, 8, 8), (1, 0, 8), (1, 8, 1025), (1, 65_544, 8)] {
            assert!(Target::new(channels, height, width).is_err());
        }
    }

    #[test]
    fn a_source_with_an_unknown_key_is_refused() {
        let good = "kind = \"dicom\"\nfolder = \"a\"\ntable = \"a/labels.csv\"\n";
        assert_eq!(toml::from_str::<Source>(good).unwrap().kind(), "dicom");
        assert!(toml::from_str::<Source>(&format!("{good}shuffle = true\n")).is_err());
    }
}
