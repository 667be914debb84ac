//! The acceptance gate: which candidates a study goes on with.
//!
//! Masks hide a bad update as well as a good one, so what can be judged is the sum. The gate looks at what every party
//! can recompute from the ledger: losses that the hospitals measured under masks, and the length of each aggregate
//! against those before. It catches what makes the model worse at once, what makes it worse step by step, and sums that
//! are suddenly longer. It does not catch a change that leaves losses and lengths as they were, such as a backdoor, and
//! it cannot say who sent it. The training loss is not judged: it is that of local models on their way, not of their sum,
//! and whoever sends a bad update writes it as well.

use consilium_study::document::{AcceptanceGate, Study};

use crate::metrics::TrainFigures;
use crate::reason::CandidateRefusal;
use crate::record::{Adoption, Evaluated, Verdict};

/// So many of the last adopted aggregates say how long one usually is. A single short one does not lower the limit.
const REMEMBERED: usize = 3;

/// Whether a mean update is longer than any update in it may be, so that some hospital did not clip its own. Such a
/// candidate is refused with the gate off, too: hospitals would not train from it.
pub fn is_too_long(study: &Study, trained: &TrainFigures) -> bool {
    trained.update_norm > study.aggregation.longest_mean()
}

/// Why the gate refuses a candidate; nothing where it lets it pass. `history` are the candidates before it, in order.
pub fn refusal(
    gate: &AcceptanceGate,
    history: &[Adoption],
    trained: &TrainFigures,
    evaluated: &Evaluated,
) -> Option<CandidateRefusal> {
    let figures = &evaluated.figures;
    // Over the same cases: each site measured both models.
    if figures.loss_increase().is_none_or(|increase| increase.is_nan() || increase > gate.max_loss_increase) {
        return Some(CandidateRefusal::LossIncrease);
    }
    let adopted = || history.iter().filter(|before| !matches!(before.verdict, Verdict::Refused(_)));
    let norms = adopted().rev().take(REMEMBERED).map(|before| before.trained.update_norm);
    let usual = norms.fold(0.0, f64::max);
    if usual > 0.0 && trained.update_norm > gate.max_norm_growth * usual {
        return Some(CandidateRefusal::NormGrowth);
    }
    // Figures of different sets of sites are never compared.
    let same_sites = adopted().filter_map(|before| before.evaluated.as_ref());
    let same_sites = same_sites.filter(|before| before.survivors == evaluated.survivors);
    let best = same_sites.map(|before| before.figures.loss).fold(f64::INFINITY, f64::min);
    (figures.loss - best > gate.max_loss_increase).then_some(CandidateRefusal::LossDrift)
}

#[cfg(test)]
mod tests {
    use consilium_secagg::numbering::RoundNumber;
    use consilium_study::document::Draft;
    use consilium_study::hash::Hash;
    use consilium_study::template::study_toml;

    use super::*;
    use consilium_study::task::Label;

    use crate::metrics::{EvaluationCounts, EvaluationShape};

    const GATE: AcceptanceGate = AcceptanceGate { max_loss_increase: 0.1, max_norm_growth: 1.5 };

    fn trained(norm: f64) -> TrainFigures {
        TrainFigures { loss: 0.5, weight: 8, clipped: 0, saturated: 0, update_norm: norm }
    }

    #[test]
    fn nothing_is_longer_than_the_longest_that_a_hospital_may_send() {
        let sites = ["a", "b", "c"].map(|site| site.parse().unwrap());
        let text = study_toml(&"lungs".parse().unwrap(), &sites);
        let study = Draft::from_toml(&text).unwrap().with_initial_model(Hash::of_bytes(b"initial"));
        let clip_norm = study.aggregation.clip_norm.get();
        assert!(!is_too_long(&study, &trained(clip_norm)));
        assert!(is_too_long(&study, &trained(clip_norm * 1.01)));
    }

    /// A loss, beside that of the starting model, over the cases of some sites.
    fn evaluated(loss: f64, start: f64, sites: &[&str]) -> Evaluated {
        let shape = EvaluationShape::new(2, 2, 0.5).unwrap();
        let mut counts = EvaluationCounts::new(shape);
        counts.add(&[0.5, 0.5], 0.7, Label::Class(0));
        let mut figures = counts.figures().unwrap();
        (figures.loss, figures.start_loss) = (loss, Some(start));
        let ctx = minicbor::decode(&minicbor::to_vec(Hash::of_bytes(b"ctx")).unwrap()).unwrap();
        Evaluated { ctx, survivors: sites.iter().map(|site| site.parse().unwrap()).collect(), figures }
    }

    fn before(verdict: Verdict, norm: f64, evaluated: Option<Evaluated>) -> Adoption {
        let (start, candidate) = (Hash::of_bytes(b"start"), Hash::of_bytes(b"candidate"));
        Adoption {
            round: RoundNumber::new(1).unwrap(),
            start,
            candidate,
            verdict,
            trained: trained(norm),
            evaluated,
        }
    }

    #[test]
    fn a_loss_over_the_margin_is_refused_also_without_a_history() {
        for (loss, start, want) in [
            (0.6, 0.5, None),
            (0.61, 0.5, Some(CandidateRefusal::LossIncrease)),
            (f64::NAN, 0.5, Some(CandidateRefusal::LossIncrease)),
            (0.1, 0.5, None),
        ] {
            let got = refusal(&GATE, &[], &trained(9.0), &evaluated(loss, start, &["a"]));
            assert_eq!(got, want, "{loss} after {start}");
        }
        let mut alone = evaluated(0.1, 0.1, &["a"]);
        alone.figures.start_loss = None;
        assert_eq!(refusal(&GATE, &[], &trained(1.0), &alone), Some(CandidateRefusal::LossIncrease));
    }

    #[test]
    fn a_sum_longer_than_the_last_adopted_ones_is_refused() {
        let good = || Some(evaluated(0.5, 0.5, &["a"]));
        let refused = Verdict::Refused(CandidateRefusal::NormGrowth);
        let of = |norms: &[f64]| -> Vec<_> {
            norms.iter().map(|norm| before(Verdict::Adopted, *norm, good())).collect()
        };
        let too_long = Some(CandidateRefusal::NormGrowth);
        for (history, norm, want) in [
            (of(&[]), 100.0, None),
            (of(&[2.0]), 3.0, None),
            (of(&[2.0]), 3.1, too_long),
            // A short one in between, as a flipped update makes it, does not stop the honest ones after it.
            (of(&[2.0, 0.1]), 3.0, None),
            (of(&[9.0, 2.0, 2.0, 2.0]), 3.1, too_long),
            // What was refused is no measure.
            ([of(&[2.0]), vec![before(refused, 50.0, None)]].concat(), 3.1, too_long),
            (of(&[0.0]), 3.0, None),
        ] {
            let got = refusal(&GATE, &history, &trained(norm), &evaluated(0.5, 0.5, &["a"]));
            assert_eq!(got, want, "{norm} after {history:?}");
        }
    }

    #[test]
    fn steps_under_the_margin_do_not_add_up() {
        let history = [
            before(Verdict::Adopted, 1.0, Some(evaluated(0.30, 0.5, &["a", "b"]))),
            before(Verdict::Adopted, 1.0, Some(evaluated(0.38, 0.30, &["a", "b"]))),
        ];
        let next =
            |loss, sites: &[&str]| refusal(&GATE, &history, &trained(1.0), &evaluated(loss, 0.38, sites));
        assert_eq!(next(0.39, &["a", "b"]), None);
        assert_eq!(next(0.45, &["a", "b"]), Some(CandidateRefusal::LossDrift));
        assert_eq!(next(0.45, &["a"]), None, "other cases have other losses");
    }
}
