//! Studies whose pictures have numbers beside them.

use consilium_study::canonical::Canonical as _;
use consilium_study::check::MAX_INPUTS;
use consilium_study::document::{Draft, Study};
use consilium_study::graph::{CaseShape, Shape};
use consilium_study::hash::Hash;

use super::{FULL, draft};

const INPUTS: &str =
    "inputs = [{ column = \"age\", mean = 50.0, std = 10.0 }, { column = \"sex\", is = \"F\" }]";

/// The full study, with a line under its `[data]`.
fn with(line: &str) -> String {
    FULL.replace("std = 0.17\n", &format!("std = 0.17\n{line}\n"))
}

fn refused(text: &str) -> String {
    Draft::from_toml(text).expect_err("no study").to_string()
}

#[test]
fn the_model_reads_as_many_numbers_as_are_named() {
    let both = draft(&with(INPUTS));
    let (alone, wanted) = (draft(FULL), CaseShape::new(Shape::Image([1, 28, 28]), 2));
    assert_eq!((both.data.model_input(), both.model.columns()), (wanted, 2));
    assert_eq!(both.model.len(), alone.model.len() + 2 * 2, "two weights for each of two classes");
    let identity = both.model_identity();
    assert_eq!(identity.beside, both.data.beside);
    assert!(identity.fits(&alone.model_identity()).is_err());
    let study = both.with_initial_model(Hash::of_bytes(b"weights"));
    assert_eq!(Study::from_canonical(&study.to_canonical()), Ok(study));
}

/// Columns of another name, scale or text are another study and another model.
#[test]
fn other_inputs_are_another_model() {
    let identity = draft(&with(INPUTS)).model_identity();
    for (from, to) in [("\"age\"", "\"weight\""), ("50.0", "51.0"), ("\"F\"", "\"M\"")] {
        let other = draft(&with(&INPUTS.replace(from, to))).model_identity();
        assert_eq!(identity.graph, other.graph);
        assert!(identity.fits(&other).is_err() && identity.hash() != other.hash(), "{from}");
    }
}

#[test]
fn rules_about_rows_hold_beside_pictures() {
    for column in ["path", "mask", "label", "patient", "split", "site"] {
        let error = refused(&with(&format!("inputs = [{{ column = \"{column}\" }}]")));
        let why = "the columns label, patient, split, site, path and mask have their own meaning";
        assert!(error.contains(why), "{error}");
    }
    let many: Vec<String> = (0..=MAX_INPUTS).map(|at| format!("{{ column = \"c{at}\" }}")).collect();
    for (inputs, why) in [
        ("inputs = [{ column = \"a\" }, { column = \"a\" }]", "an input is named twice"),
        ("inputs = [{ column = \"a\", mean = 1.0, std = 0.0 }]", "no mean and standard deviation"),
        ("inputs = []", "data.inputs: 0 is out of range"),
        (&format!("inputs = [{}]", many.join(", ")), "data.inputs: 1025 is out of range"),
    ] {
        let error = refused(&with(inputs));
        assert!(error.contains(why), "{error}");
    }
    // A picture whose size is half written is none, and not a row either.
    let half = with(INPUTS).replace("height = 28\n", "");
    assert!(refused(&half).contains("`height` is missing"), "{}", refused(&half));
}

#[test]
fn a_model_that_has_no_place_for_them_says_what_to_do() {
    let of = |model: &str| with(INPUTS).replace("preset = \"small-cnn\"\nnorm = \"group\"", model);
    let error = refused(&of("preset = \"unet2d\""));
    assert!(error.contains("leave `inputs` out, or name a preset that scores cases"), "{error}");
    let layers = "layers = [{ kind = \"flatten\" }, { kind = \"linear\", outputs = 2 }]";
    let error = refused(&of(layers));
    assert!(
        error.contains("2 numbers lie beside each picture (`data.inputs`), and no layer reads them"),
        "{error}"
    );
    let branches = "{ kind = \"concat\", branches = [[], [{ kind = \"columns\" }]] }";
    let read = layers.replace("}, {", &format!("}}, {branches}, {{"));
    assert_eq!(draft(&of(&read)).model.columns(), 2);
    let error = refused(&FULL.replace("preset = \"small-cnn\"\nnorm = \"group\"", &read));
    assert!(error.contains("layers.1.branches.1.0 (columns): no numbers lie beside the pictures"), "{error}");
    let pixels = with(INPUTS).replace("task = \"classification\"", "task = \"segmentation\"");
    assert!(refused(&pixels).contains("is read by no model of pixels"), "{}", refused(&pixels));
}

/// Bytes that say both, or a graph of other numbers than the data, are signed by nobody.
#[test]
fn signed_bytes_say_one_thing() {
    let study = draft(&with(INPUTS)).with_initial_model(Hash::of_bytes(b"weights"));
    let alter = |change: fn(&mut consilium_study::document::Plan)| {
        let mut plan = (*study).clone();
        change(&mut plan);
        Draft::new(plan).unwrap_err().to_string()
    };
    let both = alter(|plan| plan.data.inputs.clone_from(&plan.data.beside));
    assert!(both.contains("a row is signed as the case and as what lies beside one"), "{both}");
    let fewer = alter(|plan| plan.data.beside.as_mut().map_or((), |inputs| inputs.truncate(1)));
    assert!(fewer.contains("the graph reads 2 numbers beside a case, the data has 1"), "{fewer}");
    let none = alter(|plan| plan.data.beside = None);
    assert!(none.contains("the graph reads 2 numbers beside a case, the data has 0"), "{none}");
}
