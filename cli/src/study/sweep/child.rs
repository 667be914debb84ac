//! A child study: the parent's file with other values in the keys of the sweep, and everything else as it stands.
//!
//! The parent's text is changed where the values stand, so comments and order stay and a comparison of the two files shows
//! the keys and nothing more. What comes out is read again and has to be the parent with exactly these values.

use std::path::Path;

use anyhow::{Context as _, bail};
use consilium_study::document::Draft;
use consilium_study::hash::Hash;
use consilium_study::name::StudyName;
use toml::{Table, Value};
use toml_edit::{DocumentMut, Item, TableLike};

use super::grid::{Values, value};

/// The study that children are made of.
pub(super) struct Parent {
    pub(super) name: StudyName,
    /// Plain hash of its file.
    pub(super) hash: Hash,
    text: String,
    table: Table,
}

/// A study that differs from its parent in the keys of a sweep and in its name.
pub(super) struct Child {
    pub(super) name: StudyName,
    pub(super) values: Values,
    /// Its file.
    pub(super) text: String,
    pub(super) draft: Draft,
}

impl Parent {
    /// Reads a study file that was found to be one.
    pub(super) fn read(file: &Path, name: StudyName) -> anyhow::Result<Self> {
        let about = || format!("reading {}", file.display());
        let text = std::fs::read_to_string(file).with_context(about)?;
        let table = toml::from_str(&text).with_context(about)?;
        Ok(Self { name, hash: Hash::of_bytes(text.as_bytes()), text, table })
    }

    /// The child with these values, the `number`th of `count`, if it is a study.
    pub(super) fn child(&self, number: usize, count: usize, values: &Values) -> anyhow::Result<Child> {
        let width = count.to_string().len();
        let name = StudyName::new(format!("{}-{number:0width$}", self.name))?;
        let about = || format!("child {name} ({values}) is no study");
        let (mut text, mut table) = (self.text.clone(), self.table.clone());
        let named = ("name".to_owned(), format!("\"{name}\""));
        for (path, written) in std::iter::once(&named).chain(&values.0) {
            let keys: Vec<&str> = path.split('.').collect();
            let value = value(written).expect("the values of a sweep were read with it");
            let changed = put(&text, &keys, written).filter(|_| set(&mut table, &keys, value));
            // What was written is held against what was meant, so no way of writing a table is misunderstood.
            match changed {
                Some(changed) if toml::from_str::<Table>(&changed).as_ref() == Ok(&table) => text = changed,
                _ => bail!(
                    "{path}: it cannot be set where it stands in {}; write its table as [section] with a line for each key",
                    self.name
                ),
            }
        }
        let draft = Draft::from_toml(&text).with_context(about)?;
        let Self { name: parent, hash, .. } = self;
        let text = format!(
            "# Child {number} of {count} of the study {parent}, whose file has SHA-256\n# {hash}:\n# {values}\n\
             # Nothing else differs but the name.\n\n{text}"
        );
        Ok(Child { name, values: values.clone(), text, draft })
    }
}

/// Sets a value in a table; tables on the way are made where there are none.
fn set(table: &mut Table, keys: &[&str], value: Value) -> bool {
    match keys {
        [] => false,
        [key] => {
            table.insert((*key).to_owned(), value);
            true
        }
        [key, rest @ ..] => {
            let inner = table.entry(*key).or_insert_with(|| Value::Table(Table::new()));
            inner.as_table_mut().is_some_and(|inner| set(inner, rest, value))
        }
    }
}

/// Writes a value into the text of a file, over what stands there; tables on the way are made where there are none.
fn put(text: &str, keys: &[&str], value: &str) -> Option<String> {
    let mut document: DocumentMut = text.parse().ok()?;
    let mut value: toml_edit::Value = value.parse().ok()?;
    let (last, path) = keys.split_last()?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in path {
        let section = || {
            let mut section = toml_edit::Table::new();
            // Its heading stands only where a key stands below it.
            section.set_implicit(true);
            Item::Table(section)
        };
        table = table.entry(key).or_insert_with(section).as_table_like_mut()?;
    }
    if let Some(old) = table.get(last).and_then(Item::as_value) {
        // The comment behind it stays.
        *value.decor_mut() = old.decor().clone();
    }
    table.insert(last, Item::Value(value));
    Some(document.to_string())
}

#[cfg(test)]
mod tests {
    use consilium_study::template::study_toml;

    use super::*;

    fn parent() -> Parent {
        let sites = ["a", "b", "c"].map(|site| site.parse().unwrap());
        let text = study_toml(&"lungs".parse().unwrap(), &sites);
        let table = toml::from_str(&text).unwrap();
        Parent { name: "lungs".parse().unwrap(), hash: Hash::of_bytes(text.as_bytes()), text, table }
    }

    fn values(pairs: &[(&str, &str)]) -> Values {
        Values(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    /// Lines of the child that the parent does not have.
    fn new_lines<'c>(parent: &Parent, child: &'c Child) -> Vec<&'c str> {
        let old: Vec<&str> = parent.text.lines().collect();
        child.text.lines().skip(5).filter(|line| !old.contains(line)).collect()
    }

    #[test]
    fn a_child_is_its_parent_but_for_the_keys() {
        let parent = parent();
        let child = parent
            .child(
                3,
                12,
                &values(&[
                    ("training.learning_rate", "0.03"),
                    ("training.weight_decay", "0.01"),
                    ("evaluation.gate.max_loss_increase", "0.5"),
                    ("aggregation.clip_norm", "3.0"),
                    ("rounds.strategy", "{ kind = \"fedprox\", mu = 0.1 }"),
                ]),
            )
            .unwrap();
        assert_eq!(child.name.as_str(), "lungs-03");
        let draft = &child.draft;
        assert_eq!(
            (draft.training.learning_rate().to_bits(), draft.training.weight_decay().to_bits()),
            (0.03_f64.to_bits(), 0.01_f64.to_bits())
        );
        assert_eq!(draft.evaluation.gate.unwrap().max_loss_increase.to_bits(), 0.5_f64.to_bits());
        assert_eq!(draft.rounds.strategy.proximal_weight().to_bits(), 0.1_f64.to_bits());
        // Comments stay, and so does every other line.
        let lines = new_lines(&parent, &child);
        assert_eq!(lines.len(), 6, "{lines:#?}");
        assert!(lines[0].starts_with("name = \"lungs-03\"") && lines[0].contains("# a-z"), "{lines:?}");
        assert!(
            lines.contains(&"learning_rate = 0.03") && lines.contains(&"weight_decay = 0.01"),
            "{lines:?}"
        );
        assert_eq!(child.text.lines().count(), parent.text.lines().count() + 5 + 3);
        let hash = parent.hash.to_string();
        assert!(child.text.starts_with("# Child 3 of 12 of the study lungs, ") && child.text.contains(&hash));
        assert_eq!(Draft::from_toml(&child.text).as_ref(), Ok(draft));
    }

    #[test]
    fn a_key_is_written_wherever_its_table_stands() {
        for (text, path, value, want) in [
            ("[a]\nb = 1\n", "a.b", "2", "[a]\nb = 2\n"),
            ("[a] # first\nb = 1\n", "a.c", "2", "[a] # first\nb = 1\nc = 2\n"),
            ("[a]", "a.c", "2", "[a]\nc = 2\n"),
            ("x = 1\n", "a.c", "2", "x = 1\n\n[a]\nc = 2\n"),
            ("x = 1\n", "a.b.c", "2", "x = 1\n\n[a.b]\nc = 2\n"),
            ("a = { b = 1 }\n", "a.b", "2", "a = { b = 2 }\n"),
            ("a = { b = 1 }\n", "a.c", "2", "a = { b = 1 , c = 2 }\n"),
            ("a = {}\n", "a.c", "2", "a = { c = 2 }\n"),
            ("[a.b]\nc = \"]\" # = 3\n", "a.b.c", "2", "[a.b]\nc = 2 # = 3\n"),
            ("\"a\".b = 1\n", "a.b", "2", "\"a\".b = 2\n"),
            ("x = '''\n[a]\n'''\n[a]\n", "a.c", "2", "x = '''\n[a]\n'''\n[a]\nc = 2\n"),
            ("x = 1", "y", "2", "x = 1\ny = 2\n"),
        ] {
            let keys: Vec<&str> = path.split('.').collect();
            let got = put(text, &keys, value).unwrap_or_else(|| panic!("{text}: {path}"));
            assert_eq!(got, want, "{text}: {path}");
            let mut table: Table = toml::from_str(text).unwrap();
            assert!(set(&mut table, &keys, value.parse().unwrap()));
            assert_eq!(toml::from_str::<Table>(&got), Ok(table), "{text}: {path}");
        }
        assert_eq!(put("a = 1\n", &["a", "b"], "2"), None);
    }

    #[test]
    fn what_is_no_study_names_child_and_key() {
        let parent = parent();
        for (key, value, part) in [
            ("rounds.count", "0", "rounds.count"),
            ("training.batch", "-1", "batch"),
            ("training.schedule", "{ steps = 1 }", "steps"),
            ("training.optimiser", "\"adamm\"", "adamm"),
            ("rounds.strategy", "{ kind = \"fedavg\", mu = 0.1 }", "mu"),
        ] {
            let error = format!("{:#}", parent.child(2, 4, &values(&[(key, value)])).err().unwrap());
            assert!(
                error.contains("lungs-2") && error.contains(key) && error.contains(part),
                "{key}: {error}"
            );
        }
    }

    #[test]
    fn a_table_that_stands_apart_is_replaced_as_a_whole() {
        let mut parent = parent();
        parent.text = parent.text.replace("gate = {", "\n[evaluation.gate]\n#");
        parent.text += "max_loss_increase = 0.1\nmax_norm_growth = 9.0\n";
        parent.table = toml::from_str(&parent.text).unwrap();
        let child =
            parent.child(1, 1, &values(&[("evaluation.gate", "{ max_loss_increase = 0.2 }")])).unwrap();
        let gate = child.draft.evaluation.gate.unwrap();
        assert_eq!((gate.max_loss_increase, gate.max_norm_growth), (0.2, 1.5));
        let error = parent.child(1, 1, &values(&[("evaluation.gate.max_norm_growth.x", "1")]));
        let error = format!("{:#}", error.err().unwrap());
        assert!(error.contains("it cannot be set where it stands"), "{error}");
    }
}
