//! Rules about the numbers of a row: which columns they come from and how they are scaled.

use super::{Findings, MAX_INPUTS, MAX_LABEL, ascending};
use crate::document::{Data, Input};

/// Columns of the table that have a meaning of their own.
const RESERVED: [&str; 4] = ["label", "patient", "split", "site"];
/// And those of a table whose rows name files.
const RESERVED_BESIDE_FILES: [&str; 2] = ["path", "mask"];

/// Every rule about inputs that does not hold.
pub(super) fn rules(data: &Data, f: &mut Findings) {
    f.require(
        data.inputs.is_none() || data.beside.is_none(),
        "data.inputs",
        || "a row is signed as the case and as what lies beside one".into(),
        "sign a study of rows, or one of pictures with rows beside them",
    );
    if let Some(inputs) = &data.inputs {
        f.require(
            follows(data, inputs),
            "data.inputs",
            || "beside inputs a size or a scale of pictures is signed".into(),
            "sign a study whose rows have the size and scale of their inputs",
        );
        each(inputs, f);
        names(inputs, &RESERVED, f);
    }
    if let Some(inputs) = &data.beside {
        each(inputs, f);
        names(inputs, &[&RESERVED[..], &RESERVED_BESIDE_FILES].concat(), f);
    }
}

/// Whether size and scale of a row are those of its inputs.
fn follows(data: &Data, inputs: &[Input]) -> bool {
    let one = |value: f64, wanted: f64| value.to_bits() == wanted.to_bits();
    data.channels as usize == inputs.len()
        && (data.height, data.width) == (1, 1)
        && one(data.mean, 0.0)
        && one(data.std, 1.0)
}

fn each(inputs: &[Input], f: &mut Findings) {
    f.between("data.inputs", inputs.len() as u64, 1, MAX_INPUTS as u64);
    for input in inputs.iter().take(MAX_INPUTS) {
        f.text("data.inputs", input.column(), MAX_LABEL);
        match input {
            Input::Number { column, mean, std } => f.require(
                mean.is_finite() && (1e-9..=1e12).contains(std) && (*mean != 0.0 || mean.is_sign_positive()),
                "data.inputs",
                || format!("{mean} and {std} are no mean and standard deviation of \"{column}\""),
                "write the mean and the standard deviation over the training cases, for example 50.0 and 10.0",
            ),
            Input::Indicator { is, .. } => f.text("data.inputs", is, MAX_LABEL),
        }
    }
}

fn names(inputs: &[Input], reserved: &[&str], f: &mut Findings) {
    let written = |input: &Input| match input {
        Input::Number { column, .. } => (column.clone(), None),
        Input::Indicator { column, is } => (column.clone(), Some(is.clone())),
    };
    let mut all: Vec<_> = inputs.iter().take(MAX_INPUTS).map(written).collect();
    all.sort();
    f.require(
        ascending(&all),
        "data.inputs",
        || "an input is named twice".into(),
        "name each column, or each text of a column, once",
    );
    f.require(
        !all.iter().any(|(column, _)| reserved.contains(&column.as_str())),
        "data.inputs",
        || {
            let (last, others) = reserved.split_last().expect("both lists have names");
            format!("the columns {} and {last} have their own meaning", others.join(", "))
        },
        "give the input's column another name",
    );
}
