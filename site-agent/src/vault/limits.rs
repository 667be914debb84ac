//! How bad a starting model may be at this site, and how far from the last one: beyond that no honest sum leads to it.

use consilium_rounds::control::reach;
use consilium_secagg::numbering::RoundNumber;
use consilium_study::document::Study;
use consilium_study::graph::ParameterSpec;
use consilium_study::task::Task;

/// The largest loss of a starting model that is accepted, in nats, or of values in shares of their range: `trap_factor` times the last one, which
/// counts as at least what guessing among `classes` costs, of a case or of each pixel, or of findings whether each is there.
///
/// Where cases are few or of one class, the loss of honest models goes up and down by more than any factor: a
/// hospital with one class in the demo went from 0.06 to 1.6 nats in one round and back in the next.
pub(super) fn most_loss(last: f64, trap_factor: f64, task: Task, classes: usize) -> f64 {
    let guess = match task {
        Task::MultiLabel => 2_f64.ln(),
        // The middle of the range, of values that may be anywhere.
        Task::Regression => 0.25,
        Task::Classification | Task::Ordinal | Task::Segmentation => (classes.max(2) as f64).ln(),
    };
    trap_factor * last.max(guess)
}

/// How far the trained, averaged parameters of two models are apart, in L2 norm.
pub(super) fn distance(study: &Study, one: &[f32], other: &[f32]) -> f64 {
    let trained = study.model.averaged().filter(|block| block.is_trainable());
    let entries = trained.flat_map(|block| one[block.range()].iter().zip(&other[block.range()]));
    entries.map(|(one, other)| (f64::from(*one) - f64::from(*other)).powi(2)).sum::<f64>().sqrt()
}

/// How far so many rounds can move a model: a mean of updates is no longer than the longest that a site may send, and
/// the strategy bounds the server's step by that.
pub(super) fn furthest(study: &Study, rounds: u32) -> f64 {
    let trained = study.model.averaged().filter(|block| block.is_trainable());
    let entries = trained.map(ParameterSpec::len).sum();
    f64::from(rounds) * study.rounds.strategy.longest_step(study.aggregation.longest_mean(), entries)
}

/// How long the mean of control variates can be at the start of a round: it is a mean of updates, each divided by what the
/// learning rates of its round add up to, and these never rise. None before there was a round.
pub(super) fn longest_control(study: &Study, round: RoundNumber) -> f64 {
    let before = RoundNumber::new(round.get() - 1);
    // The thousandth is for entries that are kept as f32.
    before.map_or(0.0, |before| 1.001 * study.aggregation.longest_mean() / reach(study, before))
}

#[cfg(test)]
mod tests {
    use consilium_study::document::Draft;
    use consilium_study::hash::Hash;
    use consilium_study::template::study_toml;

    use super::*;

    #[test]
    fn only_a_model_that_is_worse_than_a_guess_can_be_a_trap() {
        let guess = 2_f64.ln();
        // A hospital with one class: its loss jumps between nothing and more than a guess.
        assert!(2.0 * guess < most_loss(1e-3, 3.0, Task::Classification, 2));
        assert!(4.0 * guess > most_loss(1e-3, 3.0, Task::Classification, 2));
        // Of five classes a guess costs more, of five findings it does not.
        assert!(6.9 * guess < most_loss(1e-3, 3.0, Task::Ordinal, 5));
        assert!(4.0 * guess > most_loss(1e-3, 3.0, Task::MultiLabel, 5));
        assert!(6.9 * guess < most_loss(1e-3, 3.0, Task::Segmentation, 5));
        assert!((most_loss(1e-3, 3.0, Task::Regression, 1) - 0.75).abs() < 1e-12);
        let most = most_loss(1.0, 3.0, Task::Classification, 2);
        assert!(2.9 < most && 3.1 > most);
    }

    #[test]
    fn a_mean_of_control_variates_is_no_longer_than_an_update_over_its_rates() {
        let sites = ["a", "b", "c"].map(|site| site.parse().unwrap());
        let text = study_toml(&"lungs".parse().unwrap(), &sites)
            .replace("\"adam\"", "\"sgd\"")
            .replace("learning_rate = 0.001", "learning_rate = 0.1")
            .replace("epochs = 1 ", "steps = 20 ")
            .replace("# schedule = \"constant\"", "schedule = { step = { every = 1, factor = 0.5 } }")
            .replace("# strategy", "strategy")
            .replace("kind = \"fedavg\"", "kind = \"scaffold\"");
        let study = Draft::from_toml(&text).unwrap().with_initial_model(Hash::of_bytes(b"initial"));
        let most = |round| longest_control(&study, RoundNumber::new(round).unwrap());
        // Twenty steps of 0.1, then of half of that.
        assert!((most(2) - 1.001 * 10.01 / 2.0).abs() < 1e-9 && (most(3) - 2.0 * most(2)).abs() < 1e-9);
        assert!(most(1).abs() < f64::EPSILON, "nothing was summed before the first round");
    }

    #[test]
    fn a_model_moves_no_further_than_its_rounds_allow() {
        let sites = ["a", "b", "c"].map(|site| site.parse().unwrap());
        let text = study_toml(&"lungs".parse().unwrap(), &sites);
        let text = text.replace("# clip_norm = 10.0 ", "clip_norm = 2.0 ").replace("small-cnn", "cnn-bn");
        let text = text
            .replace("# strategy", "strategy")
            .replace("server_learning_rate = 1.0", "server_learning_rate = 1.5");
        let study = Draft::from_toml(&text).unwrap().with_initial_model(Hash::of_bytes(b"initial"));
        assert!((furthest(&study, 3) - 9.009).abs() < 1e-9);
        let zeros = vec![0.0; study.model.len()];
        let mut other = zeros.clone();
        let blocks = study.model.parameters();
        other[blocks[0].range().start] = 3.0;
        other[blocks[0].range().start + 1] = -4.0;
        // Running statistics are measured, and may be anywhere.
        let statistics = blocks.iter().find(|block| !block.is_trainable()).unwrap();
        other[statistics.range().start] = 1e6;
        assert!((distance(&study, &zeros, &other) - 5.0).abs() < 1e-9);
    }
}
