//! Exported models, computed by the programs they are for: onnxruntime and torchvision.

use std::path::Path;

use consilium_export::{to_onnx, to_torchvision};
use consilium_learning::{
    Dataset, Link, ModelFile, ModelIdentity, Origin, Pixels, Preprocessing, Scores, score,
};
use consilium_study::data::Input;
use consilium_study::graph::{CaseShape, ModelGraph, ModelSection, Role, Shape};
use consilium_study::hash::Hash;
use consilium_study::task::{Label, Range, Task};
use consilium_tests::reference::{ONNX, folder, python, run};
use serde_json::{Value, json};

/// A Python with torch, torchvision and safetensors, for those who have one: the packages take gigabytes.
const TORCHVISION: &str = "CONSILIUM_TORCHVISION_PYTHON";
/// Cases of each comparison.
const CASES: usize = 5;
/// How far two programs may be apart.
const TOLERANCE: f64 = 1e-4;

const PRESETS: [&str; 13] = [
    "preset = \"logistic\"",
    "preset = \"mlp\"",
    "preset = \"small-cnn\"",
    "preset = \"small-cnn\"\nnorm = \"group\"",
    "preset = \"cnn-bn\"",
    "preset = \"resnet18\"",
    "preset = \"resnet18\"\nnorm = \"group\"",
    "preset = \"resnet18\"\nstem = \"imagenet\"",
    "preset = \"resnet34\"",
    "preset = \"resnet50\"",
    "preset = \"densenet121\"",
    "preset = \"densenet121\"\nnorm = \"group\"",
    "preset = \"densenet121\"\nstem = \"imagenet\"",
];

/// Every kind of layer, with windows that overlap, leave pixels over or reach beyond the image, and with and without a
/// bias.
const EVERY_LAYER: &str = r#"
    layers = [
        { kind = "conv2d", filters = 8, kernel = 5, padding = 2, stride = 2, bias = false },
        { kind = "batch-norm" },
        { kind = "activation", function = "tanh" },
        { kind = "max-pool", size = 3, stride = 2, padding = 1 },
        { kind = "residual", main = [
            { kind = "conv2d", filters = 12, kernel = 3, padding = 1, groups = 4 },
            { kind = "group-norm", groups = 3 },
            { kind = "activation", function = "silu" },
            { kind = "dropout", rate = 0.5 },
          ], shortcut = [ { kind = "conv2d", filters = 12, kernel = 1 } ] },
        { kind = "concat", branches = [ [], [
            { kind = "layer-norm" },
            { kind = "conv2d", filters = 6, kernel = 3, padding = 2, dilation = 2, groups = 6 },
            { kind = "activation", function = "sigmoid" },
          ], [ { kind = "conv2d", filters = 2, kernel = 2, padding = 1, dilation = 2 } ] ] },
        { kind = "squeeze-excitation", reduction = 4 },
        { kind = "transposed-conv2d", filters = 9, kernel = 3, stride = 2, padding = 1 },
        { kind = "activation", function = "leaky-relu" },
        { kind = "transposed-conv2d", filters = 12, kernel = 2, bias = false },
        { kind = "average-pool", size = 3, stride = 2, padding = 1 },
        { kind = "residual", main = [ { kind = "activation", function = "gelu" } ] },
        { kind = "residual", main = [
            { kind = "global-average-pool" },
            { kind = "linear", outputs = 7 },
          ], shortcut = [
            { kind = "flatten" },
            { kind = "linear", outputs = 7, bias = false },
          ] },
        { kind = "concat", branches = [ [ { kind = "layer-norm" } ], [] ] },
        { kind = "activation", function = "relu" },
        { kind = "linear", outputs = 3 },
        { kind = "dropout", rate = 0.5 },
    ]"#;

/// Numbers from -1 to 1 that look random and are the same everywhere (Steele et al. 2014, SplitMix).
fn numbers(seed: u64) -> impl Iterator<Item = f32> {
    (1..).map(move |count: u64| {
        let mut bits =
            seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

fn graph(spec: &str, input: impl Into<CaseShape>) -> ModelGraph {
    toml::from_str::<ModelSection>(spec).expect("a model").graph(input, 3).expect("a graph")
}

/// A model of which no block is what an export could leave out: no bias of zero, no variance of one.
fn model(graph: &ModelGraph) -> ModelFile {
    let mut model = vec![0.0; graph.len()];
    for (seed, block) in (1..).zip(graph.parameters()) {
        let (middle, reach) = match block.role() {
            Role::Weight => (0.0, (3.0 / block.fan_in() as f32).sqrt()),
            Role::Bias | Role::Shift | Role::RunningMean => (0.0, 0.5),
            Role::Scale => (1.0, 0.5),
            Role::RunningVariance => (1.5, 0.9),
        };
        let values = numbers(seed).map(|number| middle + reach * number);
        model[block.range()].iter_mut().zip(values).for_each(|(out, value)| *out = value);
    }
    let labels = ["no", "perhaps", "yes"].map(str::to_owned).to_vec();
    let preprocessing = Preprocessing::new(0.3, 0.4).expect("a preprocessing");
    let identity = ModelIdentity {
        graph: graph.clone(),
        preprocessing,
        labels,
        inputs: None,
        task: Task::Classification,
        range: None,
        beside: None,
    };
    let origin = Some(Origin { study: identity.hash(), round: 7, tuned_from: None });
    ModelFile { identity, origin, model }
}

/// Pictures and what this program makes of them.
fn scored(file: &ModelFile, link: Link) -> (Vec<u8>, Scores) {
    let identity = &file.identity;
    let pixels: Vec<f32> =
        numbers(0).take(CASES * identity.graph.input_len()).map(|number| 0.5 + 0.5 * number).collect();
    let bytes = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (shape, pixels) = (identity.graph.input(), Pixels::Floats(pixels));
    let cases = if link.task.is_dense() {
        Dataset::with_masks(shape, pixels, vec![0; CASES * identity.graph.places()])
    } else {
        Dataset::new(shape, pixels, vec![Label::unknown(link.task); CASES])
    };
    let cases = cases.expect("cases");
    let scores = score(&identity.graph, identity.preprocessing, link, &file.model, &cases).expect("scores");
    // Where one class has it all, anything agrees.
    let unsure = scores.iter().filter(|case| case.iter().all(|&probability| probability < 0.99)).count();
    assert!(unsure > CASES / 2, "{scores:?}");
    (bytes, scores)
}

fn assert_probabilities(what: &str, rows: &Value, scores: &Scores) {
    let rows = rows.as_array().unwrap_or_else(|| panic!("{what}: {rows}"));
    assert_eq!(rows.len(), CASES, "{what}");
    for (row, want) in rows.iter().zip(scores.iter()) {
        for (class, &want) in want.iter().enumerate() {
            let got = row[class].as_f64().expect("a number");
            assert!((got - f64::from(want)).abs() < TOLERANCE, "{what}: {got} is not {want}");
        }
    }
}

/// Scores before softmax are known up to a number that a case's have in common.
fn assert_logits(what: &str, logits: &Value, scores: &Scores) {
    let rows = logits.as_array().unwrap_or_else(|| panic!("{what}: {logits}"));
    assert_eq!(rows.len(), CASES, "{what}");
    for (row, want) in rows.iter().zip(scores.iter()) {
        let logit = |class: usize| row[class].as_f64().expect("a number");
        for (class, &probability) in want.iter().enumerate().skip(1) {
            let got = logit(class) - logit(0);
            let want = (f64::from(probability) / f64::from(want[0])).ln();
            assert!((got - want).abs() < TOLERANCE * want.abs().max(1.0), "{what}: {got} is not {want}");
        }
    }
}

/// Runs a script on a model and pictures in a folder; it prints one JSON object.
fn outputs(python: &Path, script: &str, model: (&str, &[u8]), pixels: &[u8], more: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(at(model.0), model.1).expect("written");
    std::fs::write(at("pixels"), pixels).expect("written");
    let (model, pixels) = (at(model.0), at("pixels"));
    let mut arguments = vec!["-B", script, &model, &pixels];
    arguments.extend(more);
    let output = run(python, &arguments).expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn onnxruntime_computes_what_this_program_does() {
    let Some(python) = python(&ONNX, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let specs = PRESETS.into_iter().chain([EVERY_LAYER]);
    for (spec, input) in specs.flat_map(|spec| [(spec, [3, 32, 32]), (spec, [1, 37, 45])]) {
        let file = model(&graph(spec, input));
        let (pixels, scores) = scored(&file, file.identity.task.into());
        let got = outputs(&python, "onnx_outputs.py", ("model.onnx", &to_onnx(&file, 1.0)), &pixels, &[]);
        let what = format!("{spec} {input:?}");
        assert_eq!(got["input"], json!(["pixels", "cases", input[0], input[1], input[2]]), "{what}");
        let shapes = json!({ "probabilities": ["cases", 3], "logits": ["cases", 3] });
        assert_eq!(got["outputs"], shapes, "{what}");
        assert_eq!(got["metadata"], json!(file.about()), "{what}");
        assert_probabilities(&what, &got["probabilities"], &scores);
        assert_logits(&what, &got["logits"], &scores);
        assert_logits(&what, &got["alone"], &scores);
    }
}

#[test]
fn probabilities_of_findings_and_at_a_temperature_are_the_same_there() {
    let Some(python) = python(&ONNX, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let mut file = model(&graph("preset = \"small-cnn\"", [3, 32, 32]));
    for (task, temperature, is_told) in [
        (Task::MultiLabel, 1.0, false),
        (Task::MultiLabel, 2.5, true),
        (Task::Ordinal, 0.5, true),
        (Task::Classification, 2.5, true),
    ] {
        file.identity.task = task;
        let (pixels, scores) = scored(&file, Link { task, temperature });
        let got =
            outputs(&python, "onnx_outputs.py", ("model.onnx", &to_onnx(&file, temperature)), &pixels, &[]);
        let what = format!("{} at {temperature}", task.name());
        assert_probabilities(&what, &got["probabilities"], &scores);
        let told = |key: &str, value: String, is_told: bool| {
            assert_eq!(got["metadata"][key].as_str(), is_told.then_some(&*value), "{what}");
        };
        told("temperature", temperature.to_string(), is_told);
        told("task", task.name().to_owned(), task != Task::Classification);
    }
}

/// A value comes out in its unit, held within its range.
#[test]
fn values_are_the_same_there() {
    let Some(python) = python(&ONNX, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let section = toml::from_str::<ModelSection>("preset = \"small-cnn\"").expect("a model");
    let mut file = model(&section.graph([1, 16, 16], 1).expect("a graph"));
    let range = Range { low: -3.0, high: 9.0 };
    file.identity = ModelIdentity {
        labels: vec!["age".to_owned()],
        task: Task::Regression,
        range: Some(range),
        ..file.identity
    };
    let pixels: Vec<f32> = numbers(0).take(CASES * 256).map(|number| 0.5 + 0.5 * number).collect();
    let bytes: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let cases = vec![Label::unknown(Task::Regression); CASES];
    let cases = Dataset::new([1, 16, 16], Pixels::Floats(pixels), cases).expect("cases");
    let ModelIdentity { graph, preprocessing, task, .. } = &file.identity;
    let scores = score(graph, *preprocessing, *task, &file.model, &cases).expect("scores");
    let got = outputs(&python, "onnx_outputs.py", ("model.onnx", &to_onnx(&file, 1.0)), &bytes, &[]);
    assert_eq!(got["outputs"], json!({ "values": ["cases", 1], "logits": ["cases", 1] }));
    for (row, want) in got["values"].as_array().expect("rows").iter().zip(scores.iter()) {
        let (got, want) = (row[0].as_f64().expect("a number"), range.value(want[0].into()));
        assert!((got - want).abs() < 1e-3, "{got} is not {want}");
    }
}

/// Volumes: presets over depth, and every layer that knows depth beside those that see slices.
#[test]
fn volumes_are_scored_the_same_there() {
    let Some(python) = python(&ONNX, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let every = r#"
        layers = [
            { kind = "conv3d", filters = 8, kernel = 3, padding = 1, stride = 2, bias = false },
            { kind = "batch-norm" },
            { kind = "activation", function = "tanh" },
            { kind = "max-pool3d", size = 3, stride = 2, padding = 1 },
            { kind = "residual", main = [
                { kind = "conv3d", filters = 12, kernel = 3, padding = 2, dilation = 2, groups = 4 },
                { kind = "group-norm", groups = 3 },
                { kind = "activation", function = "silu" },
              ], shortcut = [ { kind = "conv2d", filters = 12, kernel = 1 } ] },
            { kind = "concat", branches = [ [], [
                { kind = "layer-norm" },
                { kind = "conv2d", filters = 4, kernel = 3, padding = 2, dilation = 2 },
              ] ] },
            { kind = "squeeze-excitation", reduction = 4 },
            { kind = "transposed-conv3d", filters = 9, kernel = 3, stride = 2, padding = 1 },
            { kind = "transposed-conv2d", filters = 6, kernel = 2, stride = 2 },
            { kind = "max-pool", size = 2 },
            { kind = "average-pool", size = 3, stride = 1, padding = 1 },
            { kind = "average-pool3d", size = 3, stride = 2, padding = 1 },
            { kind = "concat", branches = [
                [ { kind = "global-average-pool" } ],
                [ { kind = "flatten" }, { kind = "linear", outputs = 7 } ],
              ] },
            { kind = "linear", outputs = 3 },
        ]"#;
    let specs = [
        every,
        "preset = \"small-cnn\"",
        "preset = \"resnet18\"",
        "preset = \"densenet121\"\nnorm = \"group\"",
    ];
    for (spec, input) in specs.into_iter().flat_map(|spec| [(spec, [1, 16, 16, 16]), (spec, [1, 11, 20, 17])])
    {
        let file = model(&graph(spec, input));
        let (pixels, scores) = scored(&file, file.identity.task.into());
        let got = outputs(&python, "onnx_outputs.py", ("model.onnx", &to_onnx(&file, 1.0)), &pixels, &[]);
        let what = format!("{spec} {input:?}");
        assert_eq!(got["input"], json!(["pixels", "cases", 1, input[1], input[2], input[3]]), "{what}");
        assert_probabilities(&what, &got["probabilities"], &scores);
        assert_logits(&what, &got["logits"], &scores);
        assert_logits(&what, &got["alone"], &scores);
    }
}

/// A U-Net, and what is kept and joined by sums and in a branch.
#[test]
fn pixels_are_scored_the_same_there() {
    let Some(python) = python(&ONNX, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let joined = r#"
        layers = [
            { kind = "conv2d", filters = 4, kernel = 3, padding = 1 },
            { kind = "keep" },
            { kind = "activation", function = "tanh" },
            { kind = "keep" },
            { kind = "residual", main = [
                { kind = "keep" },
                { kind = "conv2d", filters = 2, kernel = 1 },
                { kind = "join" },
                { kind = "conv2d", filters = 4, kernel = 1 },
            ] },
            { kind = "join", by = "add" },
            { kind = "activation", function = "relu" },
            { kind = "join", by = "concat" },
            { kind = "conv2d", filters = 3, kernel = 1 },
        ]"#;
    let specs = ["preset = \"unet2d\"", "preset = \"unet2d\"\nnorm = \"group\"", joined];
    for (spec, input) in specs.into_iter().flat_map(|spec| [(spec, [3, 16, 32]), (spec, [1, 12, 6])]) {
        let mut file = model(&graph(spec, input));
        file.identity.task = Task::Segmentation;
        let (pixels, scores) = scored(&file, file.identity.task.into());
        let got = outputs(&python, "onnx_outputs.py", ("model.onnx", &to_onnx(&file, 1.0)), &pixels, &[]);
        let what = format!("{spec} {input:?}");
        let sides = json!(["cases", 3, input[1], input[2]]);
        assert_eq!(got["outputs"], json!({ "probabilities": sides, "logits": sides }), "{what}");
        let places = file.identity.graph.places();
        let pictures = got["probabilities"].as_array().expect("pictures");
        for (picture, want) in pictures.iter().zip(scores.iter()) {
            let number = |class: usize, place: usize| {
                picture[class][place / input[2] as usize][place % input[2] as usize].as_f64()
            };
            assert_eq!(want.len(), 3 * places, "{what}");
            for (place, want) in want.chunks_exact(3).enumerate() {
                for (class, want) in want.iter().enumerate() {
                    let got = number(class, place).expect("a number");
                    assert!((got - f64::from(*want)).abs() < TOLERANCE, "{what}: {got} is not {want}");
                }
            }
        }
    }
}

/// What stands in a table goes in as it is: mean and deviation of each column are in the file.
#[test]
fn onnxruntime_scales_rows_as_this_program_does() {
    let Some(python) = python(&ONNX, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let number = |column: &str, mean, std| Input::Number { column: column.to_owned(), mean, std };
    let is = Input::Indicator { column: "pain".to_owned(), is: "4".to_owned() };
    let inputs = vec![number("age", 53.0, 9.6), is, number("chol", 220.0, 94.0)];
    let rows = [
        ["63", "4", "233.5"],
        ["37", "3", "250"],
        ["41", "4.0", "204"],
        ["70", "1", "100"],
        ["53", "2", "220"],
    ];
    let deep =
        "layers = [ { kind = \"layer-norm\" }, { kind = \"flatten\" }, { kind = \"linear\", outputs = 3 } ]";
    for spec in ["preset = \"logistic\"", "preset = \"mlp\"", deep] {
        let mut file = model(&graph(spec, [3, 1, 1]));
        file.identity.preprocessing = Preprocessing::new(0.0, 1.0).expect("a preprocessing");
        file.identity.inputs = Some(inputs.clone());
        let scaled = rows
            .iter()
            .flat_map(|row| inputs.iter().zip(row).map(|(input, text)| input.of(text).expect("a number")));
        let ModelIdentity { graph, preprocessing, task, .. } = &file.identity;
        let unknown = vec![Label::unknown(*task); CASES];
        let cases = Dataset::new([3, 1, 1], Pixels::Floats(scaled.collect()), unknown).expect("cases");
        let scores = score(graph, *preprocessing, *task, &file.model, &cases).expect("scores");
        let plain = rows.iter().flat_map(|[age, pain, chol]| {
            let pain = f32::from(u8::from(pain.starts_with('4')));
            [age.parse().expect("a number"), pain, chol.parse().expect("a number")]
        });
        let plain: Vec<u8> = plain.flat_map(f32::to_le_bytes).collect();
        let got = outputs(&python, "onnx_outputs.py", ("model.onnx", &to_onnx(&file, 1.0)), &plain, &[]);
        assert_eq!(got["input"], json!(["inputs", "cases", 3]), "{spec}");
        assert_eq!(got["metadata"], json!(file.about()), "{spec}");
        assert_logits(spec, &got["logits"], &scores);
        assert_logits(spec, &got["alone"], &scores);
    }
}

/// Numbers beside a picture go in as they stand in the table, through a second input that is scaled inside.
#[test]
fn numbers_beside_pictures_are_the_same_there() {
    let Some(python) = python(&ONNX, Path::new(env!("CARGO_TARGET_TMPDIR"))) else { return };
    let inputs = vec![
        Input::Number { column: "age".to_owned(), mean: 53.0, std: 9.6 },
        Input::Indicator { column: "pain".to_owned(), is: "4".to_owned() },
    ];
    let layers = r#"layers = [
        { kind = "conv2d", filters = 6, kernel = 3, padding = 1 },
        { kind = "global-average-pool" },
        { kind = "concat", branches = [ [], [
            { kind = "columns" },
            { kind = "layer-norm" },
            { kind = "linear", outputs = 5 },
            { kind = "activation", function = "tanh" },
          ] ] },
        { kind = "residual", main = [ { kind = "columns" }, { kind = "linear", outputs = 11 } ] },
        { kind = "concat", branches = [ [ { kind = "columns" } ], [] ] },
        { kind = "linear", outputs = 3 },
    ]"#;
    let specs = [layers, "preset = \"logistic\"", "preset = \"small-cnn\"", "preset = \"resnet18\""];
    let shapes = [Shape::Image([3, 16, 16]), Shape::Volume([1, 16, 16, 16])];
    for (spec, shape) in specs.into_iter().flat_map(|spec| shapes.map(|shape| (spec, shape))) {
        let mut file = model(&graph(spec, CaseShape::new(shape, 2)));
        file.identity.beside = Some(inputs.clone());
        let (mut pixels, mut scaled, mut written) = (Vec::new(), Vec::new(), Vec::new());
        let size = file.identity.graph.input_len();
        for (case, picture) in numbers(0).take(CASES * size).collect::<Vec<f32>>().chunks(size).enumerate() {
            let picture = picture.iter().map(|number| 0.5 + 0.5 * number).collect::<Vec<f32>>();
            let row = [format!("{}", 40 + 7 * case), format!("{}", case % 5)];
            scaled.extend(inputs.iter().zip(&row).map(|(input, text)| input.of(text).expect("a number")));
            let row = [40.0 + 7.0 * case as f32, f32::from(u8::from(case % 5 == 4))];
            written.extend(picture.iter().chain(&row).flat_map(|value| value.to_le_bytes()));
            pixels.extend(picture);
        }
        let ModelIdentity { graph, preprocessing, task, .. } = &file.identity;
        let unknown = vec![Label::unknown(*task); CASES];
        let cases = Dataset::new(graph.input(), Pixels::Floats(pixels), unknown).expect("pictures");
        let cases = cases.beside(2, scaled).expect("cases");
        let scores = score(graph, *preprocessing, *task, &file.model, &cases).expect("scores");
        let got = outputs(&python, "onnx_outputs.py", ("model.onnx", &to_onnx(&file, 1.0)), &written, &[]);
        let what = format!("{spec} {shape}");
        assert_eq!(got["beside"], json!([["inputs", "cases", 2]]), "{what}");
        assert_eq!(got["metadata"], json!(file.about()), "{what}");
        assert_probabilities(&what, &got["probabilities"], &scores);
        assert_logits(&what, &got["logits"], &scores);
        assert_logits(&what, &got["alone"], &scores);
    }
}

/// Networks that torchvision has loaded, by every tensor's name (`strict = True`), and scored.
const NETWORKS: [(&str, u32, u32); 7] = [
    ("preset = \"resnet18\"", 3, 28),
    ("preset = \"resnet18\"", 1, 33),
    ("preset = \"resnet34\"\nstem = \"imagenet\"", 3, 64),
    ("preset = \"resnet50\"", 3, 28),
    ("preset = \"resnet50\"\nstem = \"imagenet\"", 1, 64),
    ("preset = \"densenet121\"", 1, 28),
    ("preset = \"densenet121\"\nstem = \"imagenet\"", 3, 64),
];

/// The files are those, byte for byte, that torchvision has loaded, and its logits are in `reference/torchvision.json`. Where a
/// Python that has it is named, it is asked anew, and a new file of vectors lies in the folder that is printed.
#[test]
fn torchvision_loads_its_networks_and_computes_what_this_program_does() {
    let recorded = std::fs::read(folder("reference").join("torchvision.json")).expect("vectors");
    let recorded: Value = serde_json::from_slice(&recorded).expect("JSON");
    let python = std::env::var_os(TORCHVISION);
    let mut made = Vec::new();
    for (place, (spec, channels, side)) in NETWORKS.into_iter().enumerate() {
        let file = model(&graph(spec, [channels, side, side]));
        let (pixels, scores) = scored(&file, file.identity.task.into());
        let bytes = to_torchvision(&file).expect("a network of torchvision");
        let hash = Hash::of_bytes(&bytes);
        let network = match &python {
            None => recorded["networks"][place].clone(),
            Some(python) => {
                let (model, side) = (("model.safetensors", &bytes[..]), side.to_string());
                let got = outputs(Path::new(python), "torchvision_outputs.py", model, &pixels, &[&side]);
                json!({ "network": spec, "side": side, "file": hash, "by": got["by"], "logits": got["logits"] })
            }
        };
        assert_eq!(network["file"], json!(hash), "{spec} is another file than torchvision has loaded");
        assert_logits(spec, &network["logits"], &scores);
        made.push(network);
    }
    if python.is_some() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("torchvision.json");
        let vectors = serde_json::to_string_pretty(&json!({ "networks": made })).expect("JSON");
        std::fs::write(&file, vectors + "\n").expect("written");
        println!("torchvision's own word is in {}", file.display());
    }
}
