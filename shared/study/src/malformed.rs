//! Which key or which layer of a study file cannot be read, what of it, and in which line.
//!
//! A layer is read by its kind, and until serde has seen the kind it holds all else back and forgets where that stood. So
//! the layers of a file that was refused are looked at again, one by one and each as the kind that it says it is. Nothing
//! is accepted here.

use std::ops::Range;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Error, ValueDeserializer};

use crate::layer::{
    Activation, Concat, Convolution, Dropout, GroupNorm, Join, Layer, Linear, Pool, Residual,
    SqueezeExcitation, TransposedConvolution,
};
use crate::shape::LayerName;

/// A layer that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}{}: {}{why} (line {line})", in_brackets(.kind.as_deref()), before(.key.as_deref(), .why))]
pub struct MalformedLayer {
    /// Where the layer stands.
    pub name: LayerName,
    /// The kind that it says it is.
    pub kind: Option<String>,
    /// The key of the layer that is wrong, missing or unknown.
    pub key: Option<String>,
    /// Line of the file.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl MalformedLayer {
    /// The key in `study.toml`, with its section.
    pub fn path(&self) -> String {
        let Self { name, key, .. } = self;
        key.as_ref().map_or_else(|| format!("model.{name}"), |key| format!("model.{name}.{key}"))
    }
}

fn in_brackets(kind: Option<&str>) -> String {
    kind.map(|kind| format!(" ({kind})")).unwrap_or_default()
}

/// The key, unless what is said of it names it.
fn before(key: Option<&str>, why: &str) -> String {
    match key {
        Some(key) if !why.contains(&format!("`{key}`")) => format!("`{key}`: "),
        _ => String::new(),
    }
}

/// The first layer of a study file that cannot be read; none where its layers are not what is wrong with it.
pub(crate) fn layer(text: &str) -> Option<MalformedLayer> {
    let file = DeTable::parse(text).ok()?;
    let model = file.get_ref().get("model")?.get_ref().as_table()?;
    first_of(model.get("layers")?, LayerName::top, text)
}

/// The first of a list.
fn first_of(
    list: &Spanned<DeValue<'_>>,
    name: impl Fn(usize) -> LayerName,
    text: &str,
) -> Option<MalformedLayer> {
    let mut layers = list.get_ref().as_array()?.iter().enumerate();
    layers.find_map(|(index, layer)| Looked { name: name(index), layer, text }.fault())
}

/// A layer that is looked at.
struct Looked<'a, 'i> {
    name: LayerName,
    layer: &'a Spanned<DeValue<'i>>,
    text: &'a str,
}

impl Looked<'_, '_> {
    /// Parsing has bounded the depth of tables, and with it that of this recursion.
    fn fault(&self) -> Option<MalformedLayer> {
        let Some(table) = self.layer.get_ref().as_table() else {
            let why = "a layer is a table with its kind, for example { kind = \"flatten\" }";
            return Some(self.malformed(None, None, &self.layer.span(), why));
        };
        let Some(kind) = table.get("kind") else {
            let why = "missing field `kind`, which says what layer it is";
            return Some(self.malformed(None, Some("kind"), &self.layer.span(), why));
        };
        let said = kind.get_ref().as_str();
        for branch in ["main", "shortcut"] {
            let list = table.get(branch).filter(|_| said == Some("residual"));
            let fault = list.and_then(|list| first_of(list, |at| self.name.inside(branch, at), self.text));
            if fault.is_some() {
                return fault;
            }
        }
        let branches = table.get("branches").filter(|_| said == Some("concat"));
        let branches = branches.and_then(|branches| branches.get_ref().as_array());
        for (number, list) in branches.into_iter().flat_map(|branches| branches.iter()).enumerate() {
            let branch = format!("branches.{number}");
            let fault = first_of(list, |at| self.name.inside(&branch, at), self.text);
            if fault.is_some() {
                return fault;
            }
        }
        if let Some(error) = said.and_then(|said| of_kind(said, table, self.layer.span())) {
            let (key, span) = place(&error, table);
            return Some(self.malformed(said, key, &span.unwrap_or(self.layer.span()), error.message()));
        }
        let error = read::<Layer>(self.layer.clone())?;
        Some(self.malformed(None, Some("kind"), &kind.span(), error.message()))
    }

    fn malformed(
        &self,
        kind: Option<&str>,
        key: Option<&str>,
        span: &Range<usize>,
        why: &str,
    ) -> MalformedLayer {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        MalformedLayer {
            name: self.name.clone(),
            kind: kind.map(str::to_owned),
            key: key.map(str::to_owned),
            line: 1 + before.matches('\n').count(),
            // The types of the code say little to who writes a study.
            why: why
                .replace("expected u32", &format!("expected a whole number from 0 to {}", u32::MAX))
                .replace("expected f64", "expected a number"),
        }
    }
}

/// What of a kind has no keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Why a table is no layer of this kind; none also where there is no such kind.
fn of_kind(kind: &str, table: &DeTable<'_>, span: Range<usize>) -> Option<Error> {
    let read: fn(Spanned<DeValue<'_>>) -> Option<Error> = match kind {
        "conv2d" | "conv3d" => read::<Convolution>,
        "transposed-conv2d" | "transposed-conv3d" => read::<TransposedConvolution>,
        "max-pool" | "average-pool" | "max-pool3d" | "average-pool3d" => read::<Pool>,
        "group-norm" => read::<GroupNorm>,
        "activation" => read::<Activation>,
        "linear" => read::<Linear>,
        "dropout" => read::<Dropout>,
        "residual" => read::<Residual>,
        "concat" => read::<Concat>,
        "squeeze-excitation" => read::<SqueezeExcitation>,
        "join" => read::<Join>,
        "batch-norm" | "layer-norm" | "global-average-pool" | "flatten" | "keep" | "columns" => {
            read::<Nothing>
        }
        _ => return None,
    };
    let mut table = table.clone();
    table.remove("kind");
    read(Spanned::new(span, DeValue::Table(table)))
}

fn read<T: DeserializeOwned>(value: Spanned<DeValue<'_>>) -> Option<Error> {
    T::deserialize(ValueDeserializer::from(value)).err()
}

/// The key that an error about a whole file is about, with its sections; none where the file is no TOML.
pub(crate) fn key(text: &str, error: &Error) -> Option<String> {
    let file = DeTable::parse(text).ok()?;
    let mut path = error.span().and_then(|span| path_to(&span, file.get_ref())).unwrap_or_default();
    path.extend(missing(error));
    (!path.is_empty()).then(|| path.join("."))
}

/// The names of the keys that lead to what is written there.
fn path_to<'t>(span: &Range<usize>, table: &'t DeTable<'_>) -> Option<Vec<&'t str>> {
    table.iter().find_map(|(key, value)| {
        // What stands below a header is outside of its span.
        let below = value.get_ref().as_table().and_then(|table| path_to(span, table));
        let is_here = || holds(&key.span(), span) || holds(&value.span(), span);
        let below = below.or_else(|| is_here().then(Vec::new))?;
        Some([vec![key.get_ref().as_ref()], below].concat())
    })
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && !outer.is_empty()
}

/// The key that is missing, if that is what is wrong. Serde hands its name on in words only.
fn missing(error: &Error) -> Option<&str> {
    error.message().strip_prefix("missing field `")?.strip_suffix('`')
}

/// The key of a table that an error is about, and where it is written.
fn place<'t>(error: &'t Error, table: &'t DeTable<'_>) -> (Option<&'t str>, Option<Range<usize>>) {
    // The span of what is missing is that of the table.
    if let Some(missing) = missing(error) {
        return (Some(missing), None);
    }
    let span = error.span();
    let key = span.as_ref().and_then(|span| {
        let mut entries = table.iter();
        entries.find(|(key, value)| holds(&key.span(), span) || holds(&value.span(), span))
    });
    (key.map(|(key, _)| key.get_ref().as_ref()), span)
}
