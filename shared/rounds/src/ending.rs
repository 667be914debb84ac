//! When the rounds of a study are over: all are done, or they no longer make the model better.

use consilium_study::document::Study;

use crate::record::{Adoption, Verdict};

/// Whether no further round follows these: every round that is done has one, refused ones too.
///
/// With `rounds.patience` a study ends early (Prechelt 1998, early stopping) when so many rounds in a row have not adopted a
/// model with a better figure of `evaluation.recommend` than all before. A refused candidate is no better, and neither is
/// one that nobody could measure. Everything that this looks at stands in the ledger, so that an auditor comes to the same.
pub fn is_over(study: &Study, done: &[Adoption]) -> bool {
    let rounds = study.rounds.count as usize;
    if done.len() >= rounds {
        return true;
    }
    let Some(patience) = study.rounds.patience else { return false };
    let metric = study.evaluation.recommend;
    let (mut best, mut since) = (None::<f64>, 0);
    for adoption in done {
        let adopted = !matches!(adoption.verdict, Verdict::Refused(_));
        let evaluated = adoption.evaluated.as_ref().filter(|_| adopted);
        match evaluated.and_then(|evaluated| evaluated.figures.get(metric)) {
            Some(figure) if best.is_none_or(|best| metric.improves(figure, best)) => {
                (best, since) = (Some(figure), 0);
            }
            _ => since += 1,
        }
    }
    since >= patience
}
