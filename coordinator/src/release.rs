//! Writing a release: the recommended model under its hash, and its card beside it.

use std::io;

use consilium_rounds::StudyMachine;
use consilium_rounds::record::{Release, ReleaseReason};
use consilium_study::hash::Hash;
use serde_json::{Value, json};

use crate::parts::Parts;

/// Name of the file that holds the card of a release, beside the model.
pub fn card_name(model: &Hash) -> String {
    format!("{model}.card.json")
}

/// Checks that the model is here and writes its card. Twice gives the same.
pub fn publish(parts: &Parts, machine: &StudyMachine, release: &Release) -> io::Result<()> {
    if parts.blobs.length(&release.model).is_none() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("model {} is not here", release.model)));
    }
    let card = serde_json::to_vec_pretty(&card(machine, release)).map_err(io::Error::other)?;
    parts.blobs.put_named(&card_name(&release.model), &card)
}

/// What people have to know about a released model. Its first lines say who took part and who did not.
pub fn card(machine: &StudyMachine, release: &Release) -> Value {
    let study = machine.study();
    let (reason, figures) = match &release.reason {
        ReleaseReason::BestEvaluated { round, metric, evaluated, among } => (
            format!("best {} of {among} evaluated models, after round {}", metric.name(), round.get()),
            Some(&evaluated.figures),
        ),
        ReleaseReason::LastAdopted { round } => {
            (format!("the last adopted model, after round {}; none was evaluated", round.get()), None)
        }
        ReleaseReason::NothingAdopted => {
            ("every candidate was refused; this is the initial model".to_owned(), None)
        }
    };
    json!({
        "participants": release.participants,
        "absent": release.absent,
        "study": study.name,
        "title": study.title,
        "study_hash": release.study,
        "model": release.model,
        "recommended_because": reason,
        "rounds": release.rounds,
        "labels": study.data.labels,
        "figures": figures,
        "privacy": "no formal guarantee",
    })
}
