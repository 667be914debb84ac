//! Model files of real models: the format is [`consilium_study::model_file`]'s, tried here on every preset.

use std::io::Cursor;

use consilium_learning::initial;
use consilium_study::canonical::Canonical;
use consilium_study::graph::ModelSection;
use consilium_study::hash::Hash;
use consilium_study::model_file::{ModelFile, ModelFileError, ModelIdentity, ModelReader, Origin};
use consilium_study::preprocessing::Preprocessing;
use consilium_study::task::Task;
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};

fn identity(model: &str) -> ModelIdentity {
    let section: ModelSection = toml::from_str(model).expect("the models below are well formed");
    ModelIdentity {
        graph: section.graph([1, 8, 8], 2).expect("the models below fit 8x8"),
        preprocessing: Preprocessing::new(0.5, 0.25).expect("both are finite"),
        labels: vec!["normal".into(), "pneumonia".into()],
        inputs: None,
        task: Task::Classification,
        range: None,
        beside: None,
    }
}

fn file(model: &str) -> ModelFile {
    let identity = identity(model);
    let origin = Some(Origin { study: Hash::of_bytes(b"study"), round: 3, tuned_from: None });
    ModelFile { model: initial(&identity.graph, 1), identity, origin }
}

const MODELS: [&str; 8] = [
    "preset = \"logistic\"",
    "preset = \"small-cnn\"",
    "preset = \"small-cnn\"\nnorm = \"group\"",
    "preset = \"cnn-bn\"",
    "preset = \"mlp\"",
    r#"layers = [
        { kind = "concat", branches = [[], [{ kind = "transposed-conv2d", filters = 3, kernel = 3, padding = 1 }]] },
        { kind = "squeeze-excitation", reduction = 2 }, { kind = "layer-norm" }, { kind = "global-average-pool" },
        { kind = "linear", outputs = 2 }]"#,
    // The same shapes, another function between them.
    r#"layers = [{ kind = "flatten" }, { kind = "activation", function = "relu" }, { kind = "linear", outputs = 2 }]"#,
    r#"layers = [{ kind = "flatten" }, { kind = "activation", function = "tanh" }, { kind = "linear", outputs = 2 }]"#,
];

#[test]
fn a_file_comes_back_bit_for_bit_and_is_always_the_same_bytes() {
    for model in MODELS {
        let file = file(model);
        let bytes = file.to_bytes();
        assert_eq!(bytes, file.to_bytes());
        assert_eq!(ModelFile::from_bytes(&bytes).unwrap(), file);
    }
}

#[test]
fn other_programs_can_read_it() {
    let file = file(MODELS[1]);
    let bytes = file.to_bytes();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 8);
    let weight = tensors.tensor("layers.0.weight").unwrap();
    assert_eq!((weight.dtype(), weight.shape()), (Dtype::F32, &[32, 1, 3, 3][..]));
    assert_eq!(weight.data()[..4], file.model[0].to_le_bytes());
}

#[test]
fn each_model_in_each_others_graph_is_refused() {
    for (at, model) in MODELS.iter().enumerate() {
        for (other_at, other) in MODELS.iter().enumerate() {
            let result = file(model).expect(&identity(other));
            assert_eq!(result.is_ok(), at == other_at, "{model} as {other}");
        }
    }
    let error = file(MODELS[0]).expect(&identity(MODELS[1])).unwrap_err();
    let (zero, one) = (identity(MODELS[0]).graph.hash(), identity(MODELS[1]).graph.hash());
    assert_eq!(error.to_string(), format!("the file is of graph {zero}, wanted is graph {one}"));
}

#[test]
fn another_preprocessing_or_other_labels_are_refused() {
    let mut other = identity(MODELS[0]);
    other.preprocessing = Preprocessing::new(0.5, 0.26).unwrap();
    assert!(matches!(file(MODELS[0]).expect(&other), Err(ModelFileError::OtherPreprocessing { .. })));
    let mut other = identity(MODELS[0]);
    other.labels.reverse();
    assert!(matches!(file(MODELS[0]).expect(&other), Err(ModelFileError::OtherLabels { .. })));
}

/// A file with other texts in its header.
fn altered(bytes: &[u8], texts: &[(String, String)]) -> Vec<u8> {
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a file has a length");
    let (header, body) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).expect("it is short"));
    let mut header = std::str::from_utf8(header).expect("it is JSON").to_owned();
    for (from, to) in texts {
        assert!(header.contains(from.as_str()), "{from}");
        header = header.replace(from, to);
    }
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), body].concat()
}

/// Whoever swaps two labels in one place would turn every diagnosis around.
#[test]
fn a_file_that_contradicts_itself_is_refused() {
    let file = file(MODELS[0]);
    let bytes = file.to_bytes();
    let mut reversed = file.identity.clone();
    reversed.labels.reverse();
    let identities = (hex(&file.identity.to_canonical()), hex(&reversed.to_canonical()));
    let hash = file.identity.graph.hash().to_string();
    let text = |text: &str| text.to_owned();
    for (key, altering) in [
        ("labels", identities),
        ("labels", (text("pneumonia\\\""), text("healthy\\\""))),
        ("mean", (text("\"mean\":\"0.5\""), text("\"mean\":\"0.6\""))),
        ("graph_hash", (hash.clone(), Hash::of_bytes(b"other").to_string())),
        ("graph_hash", (text("graph_hash"), text("graph_hush"))),
    ] {
        let refused = ModelFile::from_bytes(&altered(&bytes, std::slice::from_ref(&altering))).unwrap_err();
        assert_eq!(refused, ModelFileError::Contradiction { key }, "{altering:?}");
    }
}

#[test]
fn a_file_whose_tensors_are_not_its_graphs_is_refused() {
    // The identity of one model over the tensors of another.
    let (small, logistic) = (file(MODELS[1]), file(MODELS[0]));
    let swapped = altered(
        &small.to_bytes(),
        &[
            (hex(&small.identity.to_canonical()), hex(&logistic.identity.to_canonical())),
            (small.identity.graph.hash().to_string(), logistic.identity.graph.hash().to_string()),
        ],
    );
    let error = ModelFile::from_bytes(&swapped).unwrap_err();
    assert_eq!(error, ModelFileError::TensorCount { got: 8, want: 2 });
    let mut infinite = logistic.clone();
    infinite.model[3] = f32::NAN;
    let error = ModelFile::from_bytes(&infinite.to_bytes()).unwrap_err();
    assert_eq!(error, ModelFileError::NotFinite { name: "layers.1.weight".into() });
    let plain =
        safetensors::serialize(Vec::<(String, safetensors::tensor::TensorView)>::new(), None).unwrap();
    assert_eq!(ModelFile::from_bytes(&plain), Err(ModelFileError::Unlabelled));
}

/// Header and body of a file, the header as text without its padding.
fn parts(bytes: &[u8]) -> (String, &[u8]) {
    let (length, rest) = bytes.split_first_chunk::<8>().expect("our own file");
    let (header, body) = rest.split_at(u64::from_le_bytes(*length) as usize);
    (String::from_utf8_lossy(header).trim_end().to_owned(), body)
}

fn whole(header: &str, body: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), body].concat()
}

#[test]
fn tensors_are_found_wherever_they_lie() {
    let file = file(MODELS[0]);
    let bytes = file.to_bytes();
    let (header, body) = parts(&bytes);
    let mut header: serde_json::Value = serde_json::from_str(&header).unwrap();
    let (weight, bias) = body.split_at(4 * 128);
    assert_eq!(header["layers.1.weight"]["data_offsets"], serde_json::json!([0, 512]));
    header["layers.1.bias"]["data_offsets"] = serde_json::json!([0, 8]);
    header["layers.1.weight"]["data_offsets"] = serde_json::json!([8, 520]);
    let turned = whole(&header.to_string(), &[bias, weight].concat());
    assert_eq!(ModelFile::from_bytes(&turned).unwrap(), file);
    let mut reader = ModelReader::open(Cursor::new(&turned)).unwrap();
    assert_eq!(reader.block(1).unwrap(), file.model[128..], "blocks may be read in any order");
    assert_eq!(reader.block(0).unwrap(), file.model[..128]);
    assert_eq!(reader.check(&file.identity), Ok(()));
}

#[test]
fn a_file_of_another_length_or_with_an_endless_header_is_refused() {
    let bytes = file(MODELS[0]).to_bytes();
    let (header, body) = parts(&bytes);
    for broken in [
        [&bytes[..], &[0]].concat(),
        bytes[..bytes.len() - 1].to_vec(),
        whole(&format!("{header}{}", " ".repeat(5 << 20)), body),
        u64::MAX.to_le_bytes().to_vec(),
        Vec::new(),
    ] {
        assert_eq!(ModelFile::from_bytes(&broken), Err(ModelFileError::NotSafetensors));
    }
}

#[test]
fn checking_reads_to_the_end() {
    let mut file = file(MODELS[0]);
    file.model[129] = f32::INFINITY;
    let reader = ModelReader::open(Cursor::new(file.to_bytes())).unwrap();
    assert_eq!(reader.check(&file.identity), Err(ModelFileError::NotFinite { name: "layers.1.bias".into() }));
}

proptest! {
    /// Cut or changed anywhere, a file gives an error or a model, never a panic.
    #[test]
    fn hostile_files_do_not_panic(cut in 0_usize..2000, at in 0_usize..1500, byte in any::<u8>()) {
        let mut bytes = file(MODELS[0]).to_bytes();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(cut.min(length));
        let _ = ModelFile::from_bytes(&bytes);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}
