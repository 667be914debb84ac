//! Strategies: what keeps sites together while they train, and how an aggregate becomes the next model.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::quantity::{ProximalWeight, ServerLearningRate, ServerMomentum};

/// What keeps sites together while they train, and how an aggregate becomes the next model. Rules that must see single
/// updates cannot run under masks, so there is no name for one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Encode, Decode)]
#[serde(try_from = "Section", into = "Section")]
pub enum Strategy {
    /// The weighted mean of the sites' updates (McMahan et al. 2017), times a server learning rate (Reddi et
    /// al. 2021, FedOpt with SGD at the server), is added to the model.
    #[n(0)]
    FedAvg {
        /// What the mean update is multiplied by.
        #[n(0)]
        server_learning_rate: ServerLearningRate,
    },
    /// As `FedAvg`, and each site adds `μ/2 · ‖w - w₀‖²` to its loss, where `w₀` is the model that the round starts from
    /// (Li et al. 2020, FedProx): sites with other cases than the rest, or with more steps, stay closer to it.
    #[n(1)]
    FedProx {
        /// What the mean update is multiplied by.
        #[n(0)]
        server_learning_rate: ServerLearningRate,
        /// The paper's μ.
        #[n(1)]
        mu: ProximalWeight,
    },
    /// As `FedAvg`, with momentum at the server (Hsu, Qi and Brown 2019): `v' = β · v + mean`, and `η · v'` is added to
    /// the model. `η · v` is the way from the last adopted model but one to the last, so nothing else has to be kept.
    #[n(2)]
    FedAvgM {
        /// What the velocity is multiplied by: η.
        #[n(0)]
        server_learning_rate: ServerLearningRate,
        /// Share of the last velocity that is kept: β.
        #[n(1)]
        server_momentum: ServerMomentum,
    },
}

impl Strategy {
    /// What the mean update is multiplied by.
    pub const fn server_learning_rate(self) -> ServerLearningRate {
        match self {
            Self::FedAvg { server_learning_rate }
            | Self::FedProx { server_learning_rate, .. }
            | Self::FedAvgM { server_learning_rate, .. } => server_learning_rate,
        }
    }

    /// Weight of the pull towards the model that a round starts from; 0 for none.
    pub const fn proximal_weight(self) -> f64 {
        match self {
            Self::FedAvg { .. } | Self::FedAvgM { .. } => 0.0,
            Self::FedProx { mu, .. } => mu.get(),
        }
    }

    /// Share of the way between the last two adopted models that the next one goes on; 0 for none.
    pub const fn server_momentum(self) -> f64 {
        match self {
            Self::FedAvg { .. } | Self::FedProx { .. } => 0.0,
            Self::FedAvgM { server_momentum, .. } => server_momentum.get(),
        }
    }

    /// How far a round can move a model at most, in lengths of the longest mean update.
    pub fn longest_step(self) -> f64 {
        self.server_learning_rate().get() / (1.0 - self.server_momentum())
    }
}

impl Default for Strategy {
    fn default() -> Self {
        Self::FedAvg { server_learning_rate: ServerLearningRate::default() }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FedAvg { .. } => write!(f, "fedavg")?,
            Self::FedProx { mu, .. } => write!(f, "fedprox, mu {mu}")?,
            Self::FedAvgM { server_momentum, .. } => write!(f, "fedavgm, server momentum {server_momentum}")?,
        }
        write!(f, ", server learning rate {}", self.server_learning_rate())
    }
}

/// `strategy` as written. A table of its own, because a tagged enum would let unknown keys pass.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    kind: Kind,
    #[serde(default)]
    server_learning_rate: ServerLearningRate,
    #[serde(skip_serializing_if = "Option::is_none")]
    mu: Option<ProximalWeight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_momentum: Option<ServerMomentum>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    FedAvg,
    FedProx,
    FedAvgM,
}

/// Why keys of a strategy do not go together.
#[derive(Debug, thiserror::Error)]
enum Mismatch {
    #[error("strategy \"{kind}\" needs `{key}`, for example `{key} = {example}`")]
    Missing { kind: &'static str, key: &'static str, example: f64 },
    #[error("`{key}` belongs to strategy \"{kind}\"")]
    Foreign { kind: &'static str, key: &'static str },
}

impl TryFrom<Section> for Strategy {
    type Error = Mismatch;

    fn try_from(section: Section) -> Result<Self, Mismatch> {
        let Section { kind, server_learning_rate, mu, server_momentum } = section;
        match (kind, mu, server_momentum) {
            (Kind::FedAvg, None, None) => Ok(Self::FedAvg { server_learning_rate }),
            (Kind::FedProx, Some(mu), None) => Ok(Self::FedProx { server_learning_rate, mu }),
            (Kind::FedAvgM, None, Some(server_momentum)) => {
                Ok(Self::FedAvgM { server_learning_rate, server_momentum })
            }
            (Kind::FedAvg | Kind::FedAvgM, Some(_), _) => {
                Err(Mismatch::Foreign { kind: "fedprox", key: "mu" })
            }
            (Kind::FedAvg | Kind::FedProx, _, Some(_)) => {
                Err(Mismatch::Foreign { kind: "fedavgm", key: "server_momentum" })
            }
            (Kind::FedProx, None, None) => {
                Err(Mismatch::Missing { kind: "fedprox", key: "mu", example: 0.01 })
            }
            (Kind::FedAvgM, None, None) => {
                Err(Mismatch::Missing { kind: "fedavgm", key: "server_momentum", example: 0.9 })
            }
        }
    }
}

impl From<Strategy> for Section {
    fn from(strategy: Strategy) -> Self {
        let server_learning_rate = strategy.server_learning_rate();
        let (kind, mu, server_momentum) = match strategy {
            Strategy::FedAvg { .. } => (Kind::FedAvg, None, None),
            Strategy::FedProx { mu, .. } => (Kind::FedProx, Some(mu), None),
            Strategy::FedAvgM { server_momentum, .. } => (Kind::FedAvgM, None, Some(server_momentum)),
        };
        Self { kind, server_learning_rate, mu, server_momentum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::Canonical;

    fn read(text: &str) -> Result<Strategy, String> {
        #[derive(Deserialize)]
        struct File {
            strategy: Strategy,
        }
        let file: Result<File, _> = toml::from_str(&format!("strategy = {text}"));
        file.map(|file| file.strategy).map_err(|error| error.to_string())
    }

    #[test]
    fn strategies_read_and_come_back() {
        for (text, rate, mu, said) in [
            ("{ kind = \"fedavg\" }", 1.0, 0.0, "fedavg, server learning rate 1"),
            (
                "{ kind = \"fedavgm\", server_momentum = 0.9, server_learning_rate = 0.5 }",
                0.5,
                0.0,
                "fedavgm, server momentum 0.9, server learning rate 0.5",
            ),
            (
                "{ kind = \"fedavg\", server_learning_rate = 1.5 }",
                1.5,
                0.0,
                "fedavg, server learning rate 1.5",
            ),
            ("{ kind = \"fedprox\", mu = 0.01 }", 1.0, 0.01, "fedprox, mu 0.01, server learning rate 1"),
        ] {
            let strategy = read(text).unwrap();
            assert_eq!(
                (strategy.server_learning_rate().get(), strategy.proximal_weight()),
                (rate, mu),
                "{text}"
            );
            assert_eq!(strategy.to_string(), said);
            assert_eq!(Strategy::from_canonical(&strategy.to_canonical()), Ok(strategy));
            let json = serde_json::to_string(&strategy).unwrap();
            assert_eq!(serde_json::from_str::<Strategy>(&json).unwrap(), strategy);
        }
    }

    #[test]
    fn a_model_moves_no_further_than_the_longest_step_in_any_round() {
        for (text, longest) in [
            ("{ kind = \"fedavg\", server_learning_rate = 1.5 }", 1.5),
            ("{ kind = \"fedprox\", mu = 0.01 }", 1.0),
            ("{ kind = \"fedavgm\", server_learning_rate = 0.5, server_momentum = 0.75 }", 2.0),
        ] {
            let strategy = read(text).unwrap();
            assert!((strategy.longest_step() - longest).abs() < 1e-12, "{text}");
            // Updates of length 1, all the same way.
            let mut step = 0.0;
            for _ in 0..200 {
                step = strategy.server_learning_rate().get() + strategy.server_momentum() * step;
                assert!(step <= longest + 1e-12, "{text}");
            }
            assert!(step > 0.999 * longest, "{text}: the bound is no wider than it has to be");
        }
    }

    #[test]
    fn keys_that_do_not_go_together_are_refused_by_name() {
        for (text, named) in [
            ("{ kind = \"fedprox\" }", "mu = 0.01"),
            ("{ kind = \"fedavg\", mu = 0.01 }", "belongs to strategy \"fedprox\""),
            ("{ kind = \"fedprox\", mu = 0.0 }", "0"),
            ("{ kind = \"fedprox\", mu = 101.0 }", "101"),
            ("{ kind = \"fedprox\", mu = 0.1, beta = 0.9 }", "beta"),
            ("{ kind = \"fedavgm\" }", "server_momentum = 0.9"),
            ("{ kind = \"fedavgm\", server_momentum = 1.0 }", "1"),
            ("{ kind = \"fedavgm\", server_momentum = 0.9, mu = 0.1 }", "belongs to strategy \"fedprox\""),
            ("{ kind = \"fedprox\", mu = 0.1, server_momentum = 0.9 }", "belongs to strategy \"fedavgm\""),
            ("{ kind = \"krum\" }", "krum"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
