//! The card of a released model: what people have to know about it, as it lies beside the model.
//!
//! Nobody signs a card. Every line of it follows from the study's document and from the release, which are
//! signed, so that an auditor can write it again and compare.

use std::collections::BTreeSet;

use consilium_rounds::metrics::Figures;
use consilium_rounds::record::{Release, ReleaseReason};
use consilium_study::data::Input;
use consilium_study::document::Study;
use consilium_study::graph::Treatment;
use consilium_study::hash::Hash;
use consilium_study::name::{SiteName, StudyName};
use serde::Serialize;

use crate::describe::counted;

/// Said of a model with local layers.
const LOCAL_MEANS: &str = "this file has the initial model's numbers in its local layers; the figures are of the model with each \
     site's own numbers there, which no site gives away";

/// A card. As a file it is this value in indented JSON; its first lines say who took part and who did not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Card {
    /// Sites whose updates are in an adopted model.
    pub participants: BTreeSet<SiteName>,
    /// Sites of the study whose are not.
    pub absent: BTreeSet<SiteName>,
    /// Name of the study.
    pub study: StudyName,
    /// Its title.
    pub title: String,
    /// The hash that sites accepted.
    pub study_hash: Hash,
    /// The model.
    pub model: Hash,
    /// Why it is this one.
    pub recommended_because: String,
    /// Training rounds that were run.
    pub rounds: u32,
    /// Names of the classes or findings, in the order of the model's outputs.
    pub labels: Vec<String>,
    /// What the model was asked about a case.
    pub task: &'static str,
    /// Columns of the table whose rows are cases, or lie beside each picture or volume.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Blocks that are as in the initial model, because the study froze them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
    /// Blocks that each site trained for itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<String>,
    /// What that means for whoever uses the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_means: Option<&'static str>,
    /// What the federation measured, where it did.
    pub figures: Option<Figures>,
    /// What is promised about the patients behind it.
    pub privacy: &'static str,
}

impl Card {
    /// The card of a release.
    pub fn of(study: &Study, release: &Release) -> Self {
        let recommended_because = match &release.reason {
            ReleaseReason::BestEvaluated { round, metric, among, .. } => {
                format!(
                    "best {} of {}, after round {}",
                    metric.name(),
                    counted((*among).into(), "evaluated model", "evaluated models"),
                    round.get()
                )
            }
            ReleaseReason::LastAdopted { round } => {
                format!("the last adopted model, after round {}; none was evaluated", round.get())
            }
            ReleaseReason::NothingAdopted => {
                "every candidate was refused; this is the initial model".to_owned()
            }
        };
        let local = study.model.names(Treatment::Local);
        Self {
            participants: release.participants.clone(),
            absent: release.absent.clone(),
            study: study.name.clone(),
            title: study.title.clone(),
            study_hash: release.study,
            model: release.model,
            recommended_because,
            rounds: release.rounds,
            labels: study.data.labels.clone(),
            task: study.data.task.name(),
            columns: Input::columns(study.data.columns()).into_iter().map(str::to_owned).collect(),
            frozen: study.model.names(Treatment::Frozen),
            local_means: (!local.is_empty()).then_some(LOCAL_MEANS),
            local,
            figures: release.figures().cloned(),
            privacy: "no formal guarantee",
        }
    }
}
