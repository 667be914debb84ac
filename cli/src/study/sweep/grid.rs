//! Which children a sweep has: keys, the values that each takes, and every combination of them.

use std::fmt;
use std::str::FromStr;

use consilium_study::keys::{UnknownKey, known_key};
use serde::{Serialize, Serializer};
use toml::Value;

/// Most children of one study.
pub(super) const MOST: usize = 64;

/// A key and the values that it takes, as in `training.learning_rate=0.1,0.03`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// The key, with its section.
    pub(super) path: String,
    values: Vec<String>,
}

/// Why a text is no key with its values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidAxis {
    #[error("write KEY=VALUE,VALUE, for example training.learning_rate=0.1,0.03")]
    NoValues,
    #[error(transparent)]
    Key(#[from] UnknownKey),
    #[error(
        "{path}: `{text}` is no value of TOML; write a number, true, false, a word or what stands in a study"
    )]
    Value { path: String, text: String },
    #[error("{path}: the value {value} is there twice")]
    Twice { path: String, value: String },
}

impl FromStr for Axis {
    type Err = InvalidAxis;

    fn from_str(text: &str) -> Result<Self, InvalidAxis> {
        let (path, texts) = text.split_once('=').ok_or(InvalidAxis::NoValues)?;
        let path = path.trim().to_owned();
        known_key(&path)?;
        let (mut values, mut known) = (Vec::new(), Vec::new());
        for text in split(texts) {
            let invalid = || InvalidAxis::Value { path: path.clone(), text: text.to_owned() };
            let (written, value) = read(text).ok_or_else(invalid)?;
            if known.contains(&value) {
                return Err(InvalidAxis::Twice { path, value: written });
            }
            known.push(value);
            values.push(written);
        }
        Ok(Self { path, values })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path, self.values.join(","))
    }
}

/// The parts between commas that stand in no brackets and no quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote, mut escaped) = (Vec::new(), 0, 0_i32, None, false);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), close) if open == close && !escaped => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(text[start..].trim());
    parts
}

/// A value in one line as it is written in a file, and what it is; a bare word is a text.
fn read(text: &str) -> Option<(String, Value)> {
    let read = |text: &str| Some((text.to_owned(), value(text)?));
    let is_word = text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_'));
    read(text).or_else(|| if is_word { read(&format!("\"{text}\"")) } else { None })
}

/// What a value in one line is.
pub(super) fn value(text: &str) -> Option<Value> {
    // A comment would hide what follows it in an inline table.
    if text.contains(['\n', '\r', '#']) { None } else { text.parse().ok() }
}

/// What tells a child from its parent: keys with their values, as they are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Values(pub(super) Vec<(String, String)>);

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        f.write_str(&pairs.join(", "))
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Why keys and values are no sweep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidGrid {
    #[error("{0} is set twice; write all its values in one --set, with commas between them")]
    Twice(String),
    #[error("{0} is set as a whole and in parts; write one of the two")]
    Nested(String),
    #[error("these are {0} children, and a sweep has at most {MOST}; leave values out")]
    TooMany(usize),
}

/// Every combination of values, the last key changing fastest.
pub(super) fn combinations(axes: &[Axis]) -> Result<Vec<Values>, InvalidGrid> {
    for (at, Axis { path, .. }) in axes.iter().enumerate() {
        for Axis { path: other, .. } in &axes[..at] {
            if path == other {
                return Err(InvalidGrid::Twice(path.clone()));
            }
            let holds =
                |whole: &str, part: &str| part.strip_prefix(whole).is_some_and(|rest| rest.starts_with('.'));
            if holds(path, other) || holds(other, path) {
                return Err(InvalidGrid::Nested(path.min(other).clone()));
            }
        }
    }
    let count = axes.iter().fold(1, |count: usize, axis| count.saturating_mul(axis.values.len()));
    if count > MOST {
        return Err(InvalidGrid::TooMany(count));
    }
    let mut all = vec![Values::default()];
    for Axis { path, values } in axes {
        let with = |before: Values| {
            values.iter().map(move |value| {
                let mut values = before.clone();
                values.0.push((path.clone(), value.clone()));
                values
            })
        };
        all = all.into_iter().flat_map(with).collect();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> Axis {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn values_are_those_of_a_study() {
        for (text, values) in [
            ("training.learning_rate=0.1, 0.03", &["0.1", "0.03"][..]),
            ("training.optimiser=adam,\"sgd\"", &["\"adam\"", "\"sgd\""]),
            ("model.norm=group", &["\"group\""]),
            ("training.augment.flip=true,false", &["true", "false"]),
            (
                "rounds.strategy={ kind = \"fedavg\" },{ kind = \"fedprox\", mu = 0.1 }",
                &["{ kind = \"fedavg\" }", "{ kind = \"fedprox\", mu = 0.1 }"],
            ),
            ("training.class_weights=[1.0, 2.0],[2.0, 1.0]", &["[1.0, 2.0]", "[2.0, 1.0]"]),
            ("title=\"a, \\\"b\",'c, d'", &["\"a, \\\"b\"", "'c, d'"]),
            ("rounds.collect_timeout=1h,2h", &["\"1h\"", "\"2h\""]),
        ] {
            assert_eq!(axis(text).values, values, "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (text, part) in [
            ("training.learning_rate", "KEY=VALUE"),
            ("training.learning_rat=0.1", "training.learning_rate"),
            ("training.learning_rate=", "`` is no value"),
            ("training.learning_rate=0.1,,0.2", "`` is no value"),
            ("training.learning_rate=0.1,0.10", "0.10 is there twice"),
            ("training.learning_rate=0.1\nbatch = 2", "no value"),
            ("training.learning_rate=0.1 # much", "no value"),
            ("rounds.strategy={ kind = \"fedavg\"", "no value"),
        ] {
            let error = text.parse::<Axis>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn every_combination_once_and_not_too_many() {
        let axes = [axis("training.learning_rate=0.1,0.03"), axis("training.batch=8,16,32")];
        let all = combinations(&axes).unwrap();
        let words: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(words[0], "training.learning_rate = 0.1, training.batch = 8");
        assert_eq!(words[4], "training.learning_rate = 0.03, training.batch = 16");
        let mut different = words.clone();
        different.sort();
        different.dedup();
        assert_eq!((words.len(), different.len()), (6, 6));
        let many = |count: u32| (1..=count).map(|at| at.to_string()).collect::<Vec<_>>().join(",");
        let many = |count| axis(&format!("training.batch={}", many(count)));
        assert_eq!(combinations(&[many(64)]).unwrap().len(), 64);
        assert_eq!(combinations(&[many(65)]), Err(InvalidGrid::TooMany(65)));
        let twice = combinations(&[axis("seed=1"), axis("seed=2")]);
        assert_eq!(twice, Err(InvalidGrid::Twice("seed".to_owned())));
        let nested =
            combinations(&[axis("rounds.strategy.mu=1.0"), axis("rounds.strategy={kind=\"fedavg\"}")]);
        assert_eq!(nested, Err(InvalidGrid::Nested("rounds.strategy".to_owned())));
    }
}
