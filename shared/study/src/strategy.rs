//! Strategies: what keeps sites together while they train, and how an aggregate becomes the next model.

use std::fmt;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::quantity::{Adaptivity, ProximalWeight, ServerLearningRate, ServerMomentum};

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
    /// The server's step is that of an adaptive optimiser with the mean update in place of a gradient (Reddi et al. 2021,
    /// algorithm 2): `m' = β₁ · m + (1 - β₁) · mean`, `v'` by the rule, and `η · m' / (√v' + τ)` is added to the model.
    /// Entries that updates change little go as far as those that they change much. `m` and `v` are kept beside the model.
    #[n(3)]
    Adaptive {
        /// How the second moment follows.
        #[n(0)]
        rule: SecondMoment,
        /// What a step is multiplied by: η.
        #[n(1)]
        server_learning_rate: ServerLearningRate,
        /// What is added to the root of the second moment: τ.
        #[n(2)]
        tau: Adaptivity,
    },
    /// As `FedAvg`, and each site corrects every gradient by `c - cᵢ` (Karimireddy et al. 2020, SCAFFOLD, option II): its
    /// control variate `cᵢ` is the mean gradient that it met in its last counted round, `c` the mean of all sites'. So sites
    /// with other cases than the rest do not drift apart, however long they train. `c` is kept beside the model.
    #[n(4)]
    Scaffold {
        /// What the mean update is multiplied by.
        #[n(0)]
        server_learning_rate: ServerLearningRate,
    },
}

/// How the second moment `v` of an adaptive server follows from the mean update `d`; `v` begins at τ².
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SecondMoment {
    /// `v' = v + d²`: FedAdagrad.
    #[n(0)]
    Adagrad,
    /// `v' = β₂ · v + (1 - β₂) · d²`: FedAdam.
    #[n(1)]
    Adam,
    /// `v' = v - (1 - β₂) · d² · sign(v - d²)`: FedYogi.
    #[n(2)]
    Yogi,
}

/// Share of the first moment that an adaptive server keeps: β₁ (Reddi et al. 2021).
pub const FIRST_KEPT: f64 = 0.9;
/// Share of the second moment that FedAdam and FedYogi keep: β₂ (Reddi et al. 2021).
pub const SECOND_KEPT: f64 = 0.99;

impl SecondMoment {
    /// The largest that `|m| / √v` can be in any entry, whatever the updates: by Cauchy and Schwarz over the rounds behind
    /// both, or for Yogi, which forgets by steps, from `v ≥ (1 - β₂) · β₂ⁱ · d²` of the update `i` rounds ago.
    fn largest_ratio(self) -> f64 {
        let (kept, new) = (FIRST_KEPT, 1.0 - FIRST_KEPT);
        match self {
            Self::Adagrad => new / (1.0 - kept * kept).sqrt(),
            Self::Adam => new / (1.0 - SECOND_KEPT).sqrt() / (1.0 - kept * kept / SECOND_KEPT).sqrt(),
            Self::Yogi => new / (1.0 - SECOND_KEPT).sqrt() / (1.0 - kept / SECOND_KEPT.sqrt()),
        }
    }
}

impl Strategy {
    /// What the mean update is multiplied by.
    pub const fn server_learning_rate(self) -> ServerLearningRate {
        match self {
            Self::FedAvg { server_learning_rate }
            | Self::FedProx { server_learning_rate, .. }
            | Self::FedAvgM { server_learning_rate, .. }
            | Self::Adaptive { server_learning_rate, .. }
            | Self::Scaffold { server_learning_rate } => server_learning_rate,
        }
    }

    /// Weight of the pull towards the model that a round starts from; 0 for none.
    pub const fn proximal_weight(self) -> f64 {
        match self {
            Self::FedAvg { .. } | Self::FedAvgM { .. } | Self::Adaptive { .. } | Self::Scaffold { .. } => 0.0,
            Self::FedProx { mu, .. } => mu.get(),
        }
    }

    /// Share of the way between the last two adopted models that the next one goes on; 0 for none.
    pub const fn server_momentum(self) -> f64 {
        match self {
            Self::FedAvg { .. } | Self::FedProx { .. } | Self::Adaptive { .. } | Self::Scaffold { .. } => 0.0,
            Self::FedAvgM { server_momentum, .. } => server_momentum.get(),
        }
    }

    /// Whether the server keeps moments beside the model.
    pub const fn keeps_moments(self) -> bool {
        matches!(self, Self::Adaptive { .. })
    }

    /// Whether sites correct their steps by control variates, whose mean the server keeps beside the model.
    pub const fn keeps_control(self) -> bool {
        matches!(self, Self::Scaffold { .. })
    }

    /// How far a round can move a model of so many trained `entries` at most, in L2 norm, when no mean update is longer than
    /// `longest_mean`.
    pub fn longest_step(self, longest_mean: f64, entries: usize) -> f64 {
        let rate = self.server_learning_rate().get();
        match self {
            Self::FedAvg { .. } | Self::FedProx { .. } | Self::FedAvgM { .. } | Self::Scaffold { .. } => {
                rate * longest_mean / (1.0 - self.server_momentum())
            }
            // The thousandth is for moments that are kept as f32.
            Self::Adaptive { rule, tau, .. } => {
                let by_entries = rule.largest_ratio() * (entries as f64).sqrt();
                1.001 * rate * by_entries.min(longest_mean / tau.get())
            }
        }
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
            Self::Adaptive { rule: SecondMoment::Adagrad, tau, .. } => write!(f, "fedadagrad, tau {tau}")?,
            Self::Adaptive { rule: SecondMoment::Adam, tau, .. } => write!(f, "fedadam, tau {tau}")?,
            Self::Adaptive { rule: SecondMoment::Yogi, tau, .. } => write!(f, "fedyogi, tau {tau}")?,
            Self::Scaffold { .. } => write!(f, "scaffold")?,
        }
        write!(f, ", server learning rate {}", self.server_learning_rate())
    }
}

/// `strategy` as written. A table of its own, because a tagged enum would let unknown keys pass.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_learning_rate: Option<ServerLearningRate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mu: Option<ProximalWeight>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_momentum: Option<ServerMomentum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tau: Option<Adaptivity>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    FedAvg,
    FedProx,
    FedAvgM,
    FedAdagrad,
    FedAdam,
    FedYogi,
    Scaffold,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::FedAvg => "fedavg",
            Self::FedProx => "fedprox",
            Self::FedAvgM => "fedavgm",
            Self::FedAdagrad => "fedadagrad",
            Self::FedAdam => "fedadam",
            Self::FedYogi => "fedyogi",
            Self::Scaffold => "scaffold",
        }
    }
}

/// Why keys of a strategy do not go together.
#[derive(Debug, thiserror::Error)]
enum Mismatch {
    #[error("strategy \"{kind}\" needs `{key}`, for example `{key} = {example}`")]
    Missing { kind: &'static str, key: &'static str, example: f64 },
    #[error("`{key}` belongs to strategy {owners}, not to \"{kind}\"")]
    Foreign { kind: &'static str, key: &'static str, owners: &'static str },
}

impl TryFrom<Section> for Strategy {
    type Error = Mismatch;

    fn try_from(section: Section) -> Result<Self, Mismatch> {
        let Section { kind, server_learning_rate: rate, mu, server_momentum, tau } = section;
        let adaptive = matches!(kind, Kind::FedAdagrad | Kind::FedAdam | Kind::FedYogi);
        for (key, stands, belongs, owners) in [
            ("mu", mu.is_some(), kind == Kind::FedProx, "\"fedprox\""),
            ("server_momentum", server_momentum.is_some(), kind == Kind::FedAvgM, "\"fedavgm\""),
            ("tau", tau.is_some(), adaptive, "\"fedadagrad\", \"fedadam\" or \"fedyogi\""),
        ] {
            if stands && !belongs {
                return Err(Mismatch::Foreign { kind: kind.name(), key, owners });
            }
        }
        let missing = |key, example| Mismatch::Missing { kind: kind.name(), key, example };
        let adaptive = |rule| {
            // Going all the way has no meaning for a step whose length does not follow from the updates'.
            let server_learning_rate = rate.ok_or_else(|| missing("server_learning_rate", 0.03))?;
            Ok(Self::Adaptive { rule, server_learning_rate, tau: tau.unwrap_or_default() })
        };
        let server_learning_rate = rate.unwrap_or_default();
        match kind {
            Kind::FedAvg => Ok(Self::FedAvg { server_learning_rate }),
            Kind::FedProx => {
                Ok(Self::FedProx { server_learning_rate, mu: mu.ok_or_else(|| missing("mu", 0.01))? })
            }
            Kind::FedAvgM => {
                let server_momentum = server_momentum.ok_or_else(|| missing("server_momentum", 0.9))?;
                Ok(Self::FedAvgM { server_learning_rate, server_momentum })
            }
            Kind::FedAdagrad => adaptive(SecondMoment::Adagrad),
            Kind::FedAdam => adaptive(SecondMoment::Adam),
            Kind::FedYogi => adaptive(SecondMoment::Yogi),
            Kind::Scaffold => Ok(Self::Scaffold { server_learning_rate }),
        }
    }
}

impl From<Strategy> for Section {
    fn from(strategy: Strategy) -> Self {
        let server_learning_rate = Some(strategy.server_learning_rate());
        let section = |kind| Self { kind, server_learning_rate, mu: None, server_momentum: None, tau: None };
        match strategy {
            Strategy::FedAvg { .. } => section(Kind::FedAvg),
            Strategy::Scaffold { .. } => section(Kind::Scaffold),
            Strategy::FedProx { mu, .. } => Self { mu: Some(mu), ..section(Kind::FedProx) },
            Strategy::FedAvgM { server_momentum, .. } => {
                Self { server_momentum: Some(server_momentum), ..section(Kind::FedAvgM) }
            }
            Strategy::Adaptive { rule, tau, .. } => {
                let kind = match rule {
                    SecondMoment::Adagrad => Kind::FedAdagrad,
                    SecondMoment::Adam => Kind::FedAdam,
                    SecondMoment::Yogi => Kind::FedYogi,
                };
                Self { tau: Some(tau), ..section(kind) }
            }
        }
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
            (
                "{ kind = \"fedadam\", server_learning_rate = 0.03 }",
                0.03,
                0.0,
                "fedadam, tau 0.001, server learning rate 0.03",
            ),
            (
                "{ kind = \"fedyogi\", server_learning_rate = 0.03, tau = 0.1 }",
                0.03,
                0.0,
                "fedyogi, tau 0.1, server learning rate 0.03",
            ),
            (
                "{ kind = \"fedadagrad\", server_learning_rate = 0.1 }",
                0.1,
                0.0,
                "fedadagrad, tau 0.001, server learning rate 0.1",
            ),
            ("{ kind = \"scaffold\" }", 1.0, 0.0, "scaffold, server learning rate 1"),
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
            ("{ kind = \"scaffold\", server_learning_rate = 0.5 }", 0.5),
            ("{ kind = \"fedavgm\", server_learning_rate = 0.5, server_momentum = 0.75 }", 2.0),
        ] {
            let strategy = read(text).unwrap();
            let bound = strategy.longest_step(1.0, 7);
            assert!((bound - longest).abs() < 1e-12, "{text}");
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
            ("{ kind = \"fedavg\", mu = 0.01 }", "belongs to strategy \"fedprox\", not"),
            ("{ kind = \"fedprox\", mu = 0.0 }", "0"),
            ("{ kind = \"fedprox\", mu = 101.0 }", "101"),
            ("{ kind = \"fedprox\", mu = 0.1, beta = 0.9 }", "beta"),
            ("{ kind = \"fedavgm\" }", "server_momentum = 0.9"),
            ("{ kind = \"fedavgm\", server_momentum = 1.0 }", "1"),
            (
                "{ kind = \"fedavgm\", server_momentum = 0.9, mu = 0.1 }",
                "belongs to strategy \"fedprox\", not",
            ),
            (
                "{ kind = \"fedprox\", mu = 0.1, server_momentum = 0.9 }",
                "belongs to strategy \"fedavgm\", not",
            ),
            ("{ kind = \"fedavg\", tau = 0.1 }", "or \"fedyogi\", not to \"fedavg\""),
            ("{ kind = \"fedadam\" }", "server_learning_rate = 0.03"),
            (
                "{ kind = \"fedadam\", server_learning_rate = 0.1, server_momentum = 0.9 }",
                "not to \"fedadam\"",
            ),
            ("{ kind = \"fedyogi\", server_learning_rate = 0.1, tau = 1.5 }", "1.5"),
            ("{ kind = \"scaffold\", mu = 0.1 }", "belongs to strategy \"fedprox\", not to \"scaffold\""),
            ("{ kind = \"krum\" }", "krum"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
