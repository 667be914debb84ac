//! The keys that a `study.toml` may have, asked of the types that read it, and the nearest to one that it may not.
//!
//! What a key may hold is not known here: only a reading of the whole file tells.

use std::fmt;

use serde::de::value::Error as Failure;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;
use strsim::levenshtein;

use crate::augment::Augment;
use crate::data::Data;
use crate::document::{AcceptanceGate, Evaluation, Rounds};
use crate::file::{AggregationSection, File};
use crate::graph::ModelSection;
use crate::grouping::Groups;
use crate::recipe::Training;
use crate::strategy::Strategy;

/// The names of a table's keys.
type Keys = &'static [&'static str];

/// Asks a type for them.
type Ask = fn() -> Keys;

/// The tables of a study whose keys do not depend on what stands in them, each with its place.
const TABLES: [(&str, Ask); 11] = [
    ("", fields::<File>),
    ("data", fields::<Data>),
    ("model", fields::<ModelSection>),
    ("training", fields::<Training>),
    ("training.augment", fields::<Augment>),
    ("rounds", fields::<Rounds>),
    ("rounds.strategy", fields::<Strategy>),
    ("aggregation", fields::<AggregationSection>),
    ("aggregation.groups", fields::<Groups>),
    ("evaluation", fields::<Evaluation>),
    ("evaluation.gate", fields::<AcceptanceGate>),
];

/// A key that no study has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct UnknownKey {
    /// The key as written, with its section.
    pub key: String,
    /// The key of a study that is spelt most like it.
    pub nearest: String,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, nearest } = self;
        write!(f, "{key}: a study has no such key; the nearest is {nearest}")
    }
}

/// Whether a study has a key of this path, for example `training.learning_rate`. Below a key whose table depends on what
/// stands in it, such as `training.schedule`, every path is let through: reading the study finds what is wrong with it.
pub fn known_key(path: &str) -> Result<(), UnknownKey> {
    let mut table = "";
    for (end, key) in segments(path) {
        let Some((_, keys)) = TABLES.iter().find(|(place, _)| *place == table) else { return Ok(()) };
        if !keys().contains(&key) {
            return Err(UnknownKey { key: path.to_owned(), nearest: nearest(path) });
        }
        table = &path[..end];
    }
    Ok(())
}

/// The parts of a path between its dots, each with the place in the path where it ends.
fn segments(path: &str) -> impl Iterator<Item = (usize, &str)> {
    path.split('.').scan(0, |start, segment| {
        let end = *start + segment.len();
        *start = end + 1;
        Some((end, segment))
    })
}

/// The key that takes the fewest changes of a letter (Levenshtein 1966). A section that was left out is no mistake of spelling.
fn nearest(path: &str) -> String {
    let keys = TABLES.iter().flat_map(|(place, keys)| {
        keys()
            .iter()
            .map(move |key| if place.is_empty() { (*key).to_owned() } else { format!("{place}.{key}") })
    });
    let apart = |key: &String| {
        let bare = key.rsplit('.').next().unwrap_or(key);
        levenshtein(path, key).min(levenshtein(path, bare))
    };
    keys.min_by_key(apart).expect("a study has keys")
}

/// The keys of a table, as its type names them when it is read. None of a type that names none.
fn fields<'de, T: Deserialize<'de>>() -> Keys {
    let mut keys: Keys = &[];
    // It is read from nothing, so it fails as soon as it has named them.
    let _ = T::deserialize(Asked(&mut keys));
    keys
}

/// What a type is read from to see which keys it asks for.
struct Asked<'k>(&'k mut Keys);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Failure;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: Keys,
        _: V,
    ) -> Result<V::Value, Failure> {
        *self.0 = keys;
        Err(Failure::custom("there is nothing to read"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failure> {
        Err(Failure::custom("there is nothing to read"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use toml::{Table, Value};

    use super::*;
    use crate::template::study_toml;

    fn paths(table: &Table, place: &str, all: &mut Vec<String>) {
        for (key, value) in table {
            let path = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            if let Value::Table(table) = value {
                paths(table, &path, all);
            }
            all.push(path);
        }
    }

    #[test]
    fn every_table_names_its_keys_and_those_of_the_template_are_among_them() {
        for (place, keys) in TABLES {
            assert!(!keys().is_empty(), "[{place}]");
            assert!(place.is_empty() || known_key(place).is_ok(), "{place}");
        }
        let table: Table = toml::from_str(&study_toml(&"lungs".parse().unwrap(), &[])).unwrap();
        let mut all = Vec::new();
        paths(&table, "", &mut all);
        assert!(all.len() > 20, "{all:?}");
        for path in all {
            assert_eq!(known_key(&path), Ok(()));
        }
        for path in ["training.schedule.step.every", "training.loss.gamma", "rounds.patience", "model.layers"]
        {
            assert_eq!(known_key(path), Ok(()));
        }
    }

    #[test]
    fn a_wrong_key_is_answered_with_the_nearest() {
        for (wrong, nearest) in [
            ("training.learning_rat", "training.learning_rate"),
            ("learning_rate", "training.learning_rate"),
            ("training.lerning_rate", "training.learning_rate"),
            ("train.batch", "training.batch"),
            ("training.augment.rotation", "training.augment.rotate"),
            ("rounds.strategy.moo", "rounds.strategy.mu"),
            ("evaluation.gate.max_los_increase", "evaluation.gate.max_loss_increase"),
        ] {
            let error = known_key(wrong).unwrap_err();
            assert_eq!(error.key, wrong);
            assert_eq!(error.nearest, nearest, "{wrong}");
            assert!(error.to_string().contains(nearest));
        }
    }
}
