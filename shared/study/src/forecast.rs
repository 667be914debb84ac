//! What a study will cost, before anybody is asked: bytes on the wire, memory and disk, attempts and keys.
//!
//! Computed from the document alone. Vector and model are exact but for a few counters; what depends on
//! the protocol's envelopes is an upper estimate and says so by the word "about".

use std::fmt;

use crate::document::{CHUNK, Plan};
use crate::graph::{ParameterSpec, Treatment};
use crate::quantity::{HumanDuration, HumanSize};
use crate::recipe::Extent;
use crate::task::Task;

/// Bytes of a 32-bit word, on the wire and in memory.
const WORD: u64 = 4;
/// Bytes of a trained entry in the packed ring.
const PACKED_ENTRY: u64 = 2;
/// What a coordinator takes beside the model: buffers, connections, program.
const COORDINATOR_BASE: u64 = 64 << 20;
/// A share of 32 bytes with its position and place in an envelope, rounded up.
const SHARE: u64 = 40;
/// Two hashes: what a receipt says about each peer.
const COMMITMENTS: u64 = 64;
/// A receipt or envelope without what grows with the sites: signature, context, hashes, tag.
const MESSAGE: u64 = 512;
/// Multiply-adds that one core of a server makes in a second while it trains. The images a second in docs/measurements.md are
/// 27 to 47 billion; with fewer, a time is rather too long than too short.
const CORE: u128 = 20_000_000_000;
/// A step of training takes so many passes forward: one, and two for the gradients.
const PASSES: u128 = 3;
/// Cases for which a time is told that grows with them.
const CASES: u128 = 1000;
/// Counters beside update and histograms: weight, losses, cases, saturated and clipped entries.
const COUNTERS: u64 = 32;

/// Time of one core that training takes a site in a round, by its multiply-adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreTime {
    /// In whole seconds, rounded up.
    pub time: HumanDuration,
    /// Whether it is that of 1000 cases, and as much more as a site has more of them; a recipe with `steps` takes as long
    /// everywhere.
    pub grows_with_cases: bool,
}

impl CoreTime {
    /// Of a study.
    pub fn of(plan: &Plan) -> Self {
        let (cases, grows_with_cases) = match plan.training.extent() {
            Extent::Epochs(epochs) => (u128::from(epochs) * CASES, true),
            Extent::Steps(steps) => (u128::from(steps) * plan.training.batch() as u128, false),
        };
        let work = cases * PASSES * u128::from(plan.model.multiply_adds_per_case());
        let longest = HumanDuration::MAX.as_millis() / 1000;
        let seconds = u64::try_from(work.div_ceil(CORE)).unwrap_or(u64::MAX).clamp(1, longest);
        Self { time: HumanDuration::from_secs(seconds), grows_with_cases }
    }
}

impl fmt::Display for CoreTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cases = if self.grows_with_cases { " for 1000 cases" } else { "" };
        write!(f, "about {} of one core{cases}", self.time)
    }
}

/// The cost of a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Sites of the study.
    pub sites: u64,
    /// Numbers in the model, running statistics included.
    pub parameters: u64,
    /// Of those, numbers that training changes by gradients.
    pub trainable: u64,
    /// Of all, numbers that stay as they are in the initial model.
    pub frozen: u64,
    /// Of all, numbers that each site keeps for itself.
    pub local: u64,
    /// Multiplications, each with an addition, that scoring one case takes in convolutions and linear layers. A step of
    /// training takes about three times as many for each case.
    pub multiply_adds: u64,
    /// Time of one core that training takes a site in a round.
    pub core_time: CoreTime,
    /// Length of the model in a file, without its header.
    pub model: HumanSize,
    /// Bytes to a site in a round: the model, the mean of control variates where there is one, and its peers' receipts and
    /// envelopes.
    pub down_per_round: HumanSize,
    /// Bytes from a site in a round: the masked update, evaluation counts, receipts and envelopes.
    pub up_per_round: HumanSize,
    /// Pieces in which an update travels.
    pub chunks: u64,
    /// Most memory of the coordinator, whatever the number of sites.
    pub coordinator_memory: HumanSize,
    /// Most disk for the uploads of one attempt at the coordinator.
    pub coordinator_spool: HumanSize,
    /// Most memory that training takes at a site: model, gradient, optimiser state, and the activations of a batch.
    pub site_memory: HumanSize,
    /// Of that, activations: what every layer gives for every case of a batch. Our own operations keep fewer of them.
    pub activation_memory: HumanSize,
    /// Attempts when nothing fails: a `Train` and an `Evaluate` for every round.
    pub attempts: u64,
    /// Key setups for those attempts.
    pub epochs: u64,
}

impl Forecast {
    /// Of a study.
    pub fn of(plan: &Plan) -> Self {
        let sites = plan.sites.len() as u64;
        let parameters = plan.model.len() as u64;
        let trainable = plan
            .model
            .parameters()
            .iter()
            .filter(|block| block.is_trainable())
            .map(|block| block.len() as u64);
        let treated = |treatment| plan.model.treated(treatment).map(|block| block.len() as u64).sum::<u64>();
        let classes = plan.classes() as u64;
        let model = parameters * WORD;
        let update = update(plan);
        let figures = match plan.data.task {
            // For each class a histogram of the cases that are of it and one of those that are not.
            Task::Classification | Task::Ordinal | Task::MultiLabel => {
                2 * classes * u64::from(plan.evaluation.bins) + classes * classes
            }
            // Pictures, and two sums of two words.
            Task::Segmentation => 5 * classes,
            // Four sums.
            Task::Regression => 8,
        };
        let counts = (figures + COUNTERS) * WORD;
        // In each of the two attempts of a round: shares of one's own seed and of one with every peer,
        // dealt to everybody; and a receipt, which everybody reads.
        let dealt = 2 * sites * (sites * SHARE + MESSAGE);
        let receipt = 2 * (sites * COMMITMENTS + MESSAGE);
        let attempts = 2 * u64::from(plan.rounds.count);
        let groups = plan.aggregation.groups.map_or(1, |groups| u64::from(groups.count));
        let activations = plan.model.activations_per_case() * plan.training.batch() as u64 * WORD;
        // The mean of control variates travels like the model.
        let control = if plan.rounds.strategy.keeps_control() { model } else { 0 };
        Self {
            sites,
            parameters,
            trainable: trainable.sum(),
            frozen: treated(Treatment::Frozen),
            local: treated(Treatment::Local),
            multiply_adds: plan.model.multiply_adds_per_case(),
            core_time: CoreTime::of(plan),
            model: HumanSize::from_bytes(model),
            down_per_round: HumanSize::from_bytes(model + control + dealt + sites * receipt),
            up_per_round: HumanSize::from_bytes(update + counts + dealt + receipt),
            chunks: update.div_ceil(CHUNK.bytes()),
            // The mean of packed updates does not fit in the place of their sum. The means of all groups are compared.
            coordinator_memory: HumanSize::from_bytes(
                COORDINATOR_BASE
                    + groups * model
                    + control
                    + if plan.aggregation.is_packed() { update } else { 0 },
            ),
            coordinator_spool: HumanSize::from_bytes(sites * update),
            // Start, weights, gradient and two moments.
            site_memory: HumanSize::from_bytes(activations + 5 * model),
            activation_memory: HumanSize::from_bytes(activations),
            attempts,
            epochs: attempts.div_ceil(u64::from(plan.rounds.attempts_per_epoch)),
        }
    }
}

/// Bytes of a masked update, but for a few counters: of averaged blocks alone. In the packed ring a trained entry takes two bytes, and a block is
/// padded by at most a 128th of it, or by at most 256 entries.
fn update(plan: &Plan) -> u64 {
    let packed = plan.aggregation.is_packed();
    let of = |block: &ParameterSpec| {
        let length = block.len() as u64;
        if packed && block.is_trainable() {
            (length + (length / 128).max(256)) * PACKED_ENTRY
        } else {
            length * WORD
        }
    };
    plan.model.averaged().map(of).sum::<u64>() + COUNTERS * WORD
}

/// A count in thousands, millions or more, where it is so large.
struct Rounded(u64);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const WORDS: [(f64, &str); 4] =
            [(1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")];
        let count = self.0 as f64;
        match WORDS.iter().find(|(size, _)| count >= *size) {
            Some((size, word)) => write!(f, "{:.2} {word}", count / size),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sites, parameters, trainable, frozen, local, model, attempts, epochs, .. } = self;
        write!(f, "model        {parameters} parameters ({trainable} trained")?;
        for (count, what) in [(frozen, "frozen"), (local, "each site's own")] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        writeln!(f, "), {model}")?;
        writeln!(f, "each case    {} multiply-adds to score", Rounded(self.multiply_adds))?;
        writeln!(f, "each round   about {} down and {} up per site", self.down_per_round, self.up_per_round)?;
        writeln!(
            f,
            "each site    at most about {} of memory to train, {} of it activations of a batch",
            self.site_memory, self.activation_memory
        )?;
        writeln!(f, "             {} to train in a round", self.core_time)?;
        writeln!(
            f,
            "coordinator  at most about {} of memory, {} of disk for {sites} uploads",
            self.coordinator_memory, self.coordinator_spool
        )?;
        writeln!(f, "protocol     {attempts} attempts if nothing fails, {epochs} key setup(s)")?;
        f.write_str("privacy      only sums are seen; no formal guarantee")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Draft;
    use crate::template::study_toml;

    fn forecast(sites: usize, preset: &str) -> Forecast {
        let sites: Vec<_> = (0..sites).map(|n| format!("s{n}").parse().unwrap()).collect();
        let text = study_toml(&"s".parse().unwrap(), &sites).replace("small-cnn", preset);
        Forecast::of(&Draft::from_toml(&text).unwrap())
    }

    #[test]
    fn figures_follow_from_the_model() {
        let small = forecast(4, "small-cnn");
        // 3x3 → 32, 3x3 → 64, 7·7·64 → 128, 128 → 2, each with its biases.
        let parameters = (9 + 1) * 32 + (9 * 32 + 1) * 64 + (49 * 64 + 1) * 128 + (128 + 1) * 2;
        assert_eq!((small.parameters, small.trainable), (parameters, parameters));
        assert_eq!(small.model.bytes(), 4 * parameters);
        assert!(
            small.up_per_round > small.model && small.up_per_round.bytes() < small.model.bytes() + 16_384
        );
        assert_eq!((small.chunks, small.attempts, small.epochs), (2, 20, 1));
        // 28·28 places of 9 · 32, 14·14 of 9 · 32 · 64, and the two linear layers.
        let multiply_adds = 784 * 9 * 32 + 196 * 9 * 32 * 64 + 3136 * 128 + 128 * 2;
        assert_eq!(small.multiply_adds, multiply_adds);
        assert!(small.to_string().contains("each case    4.24 million multiply-adds"), "{small}");
        let batch = forecast(4, "cnn-bn");
        assert!(batch.trainable < batch.parameters, "running statistics are not trained");
    }

    #[test]
    fn training_takes_time_by_its_multiply_adds() {
        let time = |epochs: &str| {
            let sites: Vec<_> = (0..4).map(|n| format!("s{n}").parse().unwrap()).collect();
            let text = study_toml(&"s".parse().unwrap(), &sites).replace("epochs = 1 ", epochs);
            CoreTime::of(&Draft::from_toml(&text).unwrap())
        };
        // 4,240,128 a case, three times for a step, 1000 cases, 20 billion a second: 0.64 seconds an epoch.
        assert_eq!(time("epochs = 1 ").time, HumanDuration::from_secs(1));
        assert_eq!(
            time("epochs = 100 "),
            CoreTime { time: HumanDuration::from_secs(64), grows_with_cases: true }
        );
        // 32 in a batch, whatever a site has: 0.02 seconds a step.
        let steps = time("steps = 1000000 ");
        assert_eq!(steps, CoreTime { time: HumanDuration::from_secs(20_353), grows_with_cases: false });
        assert_eq!(steps.to_string(), "about 5h 39m 13s of one core");
        assert!(
            forecast(4, "small-cnn")
                .to_string()
                .contains("about 1s of one core for 1000 cases to train in a round")
        );
    }

    #[test]
    fn packed_updates_take_half_the_bytes() {
        let sites: Vec<_> = (0..4).map(|n| format!("s{n}").parse().unwrap()).collect();
        let text = study_toml(&"s".parse().unwrap(), &sites).replace("# ring_bits = 32", "ring_bits = 16");
        let packed = Forecast::of(&Draft::from_toml(&text).unwrap());
        let words = forecast(4, "small-cnn");
        let saved = words.up_per_round.bytes() - packed.up_per_round.bytes();
        assert!((49 * words.model.bytes()..50 * words.model.bytes()).contains(&(saved * 100)), "{saved}");
        assert_eq!((packed.model, packed.down_per_round), (words.model, words.down_per_round));
        assert_eq!((words.chunks, packed.chunks), (2, 1));
    }

    /// A ResNet-18 of which only the last layer is trained sends kilobytes, whatever the ring.
    #[test]
    fn what_is_not_averaged_is_not_sent() {
        let sites: Vec<_> = (0..4).map(|n| format!("s{n}").parse().unwrap()).collect();
        let text = study_toml(&"s".parse().unwrap(), &sites).replace("small-cnn", "resnet18");
        let of = |text: &str| Forecast::of(&Draft::from_toml(text).unwrap());
        let whole = of(&text);
        for ring in ["# ring_bits = 32", "ring_bits = 16"] {
            let text = text.replace("# ring_bits = 32", ring);
            let head = of(&text.replace("# frozen = []", "frozen = [\"conv2d\", \"batch-norm\"]"));
            assert_eq!((head.parameters, head.model), (whole.parameters, whole.model));
            assert_eq!((head.trainable, head.frozen, head.local), (1026, whole.parameters - 1026, 0));
            assert!(head.up_per_round.bytes() < 24 << 10, "{}", head.up_per_round);
            assert_eq!(head.chunks, 1);
            assert!(head.to_string().contains("(1026 trained, "), "{head}");
        }
        let fedbn = of(&text.replace("# local = []", "local = [\"batch-norm\"]"));
        assert_eq!((fedbn.trainable, fedbn.local), (whole.trainable, 19_200));
        assert_eq!(whole.up_per_round.bytes() - fedbn.up_per_round.bytes(), 4 * 19_200);
    }

    /// Control variates double what comes down, and nothing goes up for them.
    #[test]
    fn control_variates_are_only_sent_down() {
        let sites: Vec<_> = (0..4).map(|n| format!("s{n}").parse().unwrap()).collect();
        let plain = study_toml(&"s".parse().unwrap(), &sites).replace("epochs = 1 ", "steps = 20 ");
        let of = |text: &str| Forecast::of(&Draft::from_toml(text).unwrap());
        let corrected = of(&plain.replace("\"adam\"", "\"sgd\"").replace(
            "# strategy = { kind = \"fedavg\", server_learning_rate = 1.0 }",
            "strategy = { kind = \"scaffold\" }",
        ));
        let plain = of(&plain);
        assert_eq!(corrected.down_per_round.bytes() - plain.down_per_round.bytes(), plain.model.bytes());
        assert_eq!(corrected.up_per_round, plain.up_per_round);
        assert_eq!(
            corrected.coordinator_memory.bytes() - plain.coordinator_memory.bytes(),
            plain.model.bytes()
        );
    }

    #[test]
    fn coordinator_memory_does_not_grow_with_sites() {
        let (few, many) = (forecast(4, "small-cnn"), forecast(100, "small-cnn"));
        assert_eq!(few.coordinator_memory, many.coordinator_memory);
        assert_eq!(many.coordinator_spool.bytes(), 25 * few.coordinator_spool.bytes());
        assert!(many.up_per_round > few.up_per_round, "shares are dealt to everybody");
    }

    #[test]
    fn without_noise_no_guarantee_is_printed() {
        let text = forecast(4, "small-cnn").to_string();
        assert!(text.contains("no formal guarantee") && !text.contains("epsilon"), "{text}");
    }
}
