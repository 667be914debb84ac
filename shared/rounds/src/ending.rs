//! When the rounds of a study are over: all are done, or they no longer make the model better.

use consilium_study::document::{Plan, Study};
use consilium_study::metric::Metric;

use crate::record::{Adoption, Verdict};

/// Whether no further round follows these: every round that is done has one, refused ones too.
///
/// With `rounds.patience` a study ends early, as [`Patience`] says. A refused candidate is no better than what was there, and
/// neither is one that nobody could measure. Everything that this looks at stands in the ledger, so that an auditor comes to
/// the same.
pub fn is_over(study: &Study, done: &[Adoption]) -> bool {
    let rounds = study.rounds.count as usize;
    if done.len() >= rounds {
        return true;
    }
    let mut patience = Patience::of(study);
    for adoption in done {
        let adopted = !matches!(adoption.verdict, Verdict::Refused(_));
        let evaluated = adoption.evaluated.as_ref().filter(|_| adopted);
        patience.see(evaluated.and_then(|evaluated| evaluated.figures.get(study.evaluation.recommend)));
    }
    patience.is_over()
}

/// How long rounds may bring nothing better (Prechelt 1998, early stopping): it ends when `rounds.patience` rounds in a row
/// have not given a better figure of `evaluation.recommend` than all before.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Rounds; none where the study names none.
    most: Option<u32>,
    metric: Metric,
    best: Option<f64>,
    /// Rounds after the best.
    since: u32,
}

impl Patience {
    /// That of a study before its first round.
    pub fn of(plan: &Plan) -> Self {
        Self { most: plan.rounds.patience, metric: plan.evaluation.recommend, best: None, since: 0 }
    }

    /// Takes a round's figure, or that there is none. Whether it is better than all before.
    pub fn see(&mut self, figure: Option<f64>) -> bool {
        match figure {
            Some(figure) if self.best.is_none_or(|best| self.metric.improves(figure, best)) => {
                (self.best, self.since) = (Some(figure), 0);
                true
            }
            _ => {
                self.since += 1;
                false
            }
        }
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.most.is_some_and(|most| self.since >= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(most: Option<u32>, metric: Metric) -> Patience {
        Patience { most, metric, best: None, since: 0 }
    }

    #[test]
    fn it_ends_after_so_many_rounds_in_a_row_without_a_better_figure() {
        let rounds =
            [(Some(0.7), true), (Some(0.8), false), (Some(0.6), true), (None, false), (Some(0.6), false)];
        let mut two = patience(Some(2), Metric::Loss);
        let mut endless = patience(None, Metric::Loss);
        for (round, (figure, better)) in rounds.into_iter().enumerate() {
            assert_eq!((two.see(figure), endless.see(figure)), (better, better), "{round}");
            assert_eq!((two.is_over(), endless.is_over()), (round == 4, false), "{round}");
        }
        let mut larger = patience(Some(1), Metric::Auroc);
        assert!(larger.see(Some(0.7)) && larger.see(Some(0.8)) && !larger.is_over());
        assert!(!larger.see(Some(0.7)) && larger.is_over());
    }
}
