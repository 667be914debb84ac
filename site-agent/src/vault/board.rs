//! What people are shown of the studies at this site.

use std::fmt;

use consilium_study::hash::Hash;
use consilium_study::name::{SiteName, StudyName};
use serde::{Deserialize, Serialize};

use super::record::Question;

/// State of the vault, as `site-agent status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VaultStatus {
    /// One entry per study, by name.
    pub(crate) studies: Vec<StudyStatus>,
}

/// One study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StudyStatus {
    /// Its hash.
    pub(crate) study: Hash,
    /// Its name.
    pub(crate) name: StudyName,
    /// `waiting`, `decided`, `refused` or `accepted`.
    pub(crate) stage: String,
    /// What the site does or waits for.
    pub(crate) doing: String,
    /// The attempt it is in.
    pub(crate) attempt: Option<u32>,
    /// What a person is asked to let be opened with other survivors than before.
    #[serde(default)]
    pub(crate) asked: Option<Asked>,
}

/// A question, as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// [`Question::hash`].
    pub(crate) question: Hash,
    /// The model that would be opened again.
    pub(crate) model: Hash,
    /// Survivors of earlier sums, of whom some are missing now.
    pub(crate) survivors: Vec<Vec<SiteName>>,
}

impl From<&Question> for Asked {
    fn from(question: &Question) -> Self {
        Self { question: question.hash(), model: question.binding.model, survivors: question.sets.clone() }
    }
}

impl fmt::Display for StudyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}, {}", self.name, self.study.short(), self.stage, self.doing)?;
        match self.attempt {
            Some(attempt) => write!(f, " (attempt {attempt})"),
            None => Ok(()),
        }
    }
}
