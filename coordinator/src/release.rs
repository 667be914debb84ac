//! Writing a release: the recommended model under its hash, and its card beside it.

use std::io;

use consilium_ledger::card::Card;
use consilium_rounds::StudyMachine;
use consilium_rounds::record::Release;
use consilium_study::hash::Hash;

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
    let card = Card::of(machine.study(), release);
    let card = serde_json::to_vec_pretty(&card).map_err(io::Error::other)?;
    parts.blobs.put_named(&card_name(&release.model), &card)
}
