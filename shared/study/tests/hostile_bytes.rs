//! Strangers' bytes: whatever they are, what is read of them has the same bytes again, or there is an error.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]

use std::collections::BTreeMap;
use std::io::Cursor;

use consilium_fuzz::{Target, run};
use consilium_study::canonical::Canonical as _;
use consilium_study::data::Input;
use consilium_study::disclosure::{DisclosureGate, Floor, GatedCount, Patient, PatientKey};
use consilium_study::document::{Draft, Study};
use consilium_study::graph::{CaseShape, ModelGraph, ModelSection, ModelSpec, Preset};
use consilium_study::hash::Hash;
use consilium_study::metric::Metric;
use consilium_study::model_file::{ModelFile, ModelIdentity, ModelReader, Origin};
use consilium_study::name::{ConsortiumName, Principal, SiteName};
use consilium_study::policy::Policy;
use consilium_study::preprocessing::Preprocessing;
use consilium_study::quantity::{HumanDuration, HumanSize};
use consilium_study::sign::{Signed, SigningKey};
use consilium_study::statement::{Acceptance, Readiness, Refusal, Repeat, Rule, SiteTerms};
use consilium_study::task::Task;
use consilium_study::template::study_toml;

fn text() -> String {
    let sites: Vec<SiteName> = ["ada", "bonn", "chur", "dax"].map(|site| site.parse().unwrap()).to_vec();
    study_toml(&"lungs".parse().unwrap(), &sites)
}

/// A recipe with all that a recipe may have, over pictures with numbers beside them.
fn varied_text() -> String {
    let recipe = "sampling = \"balanced\"\nloss = { kind = \"focal\", gamma = 2.0 }\nclass_weights = [1.0, 2.5]\n\
        augment = { flip = true, crop = 2, rotate = 10.0, zoom = 0.1, brightness = 0.1, contrast = 0.2, noise = 0.02, \
        erase = 8, mixup = 0.2 }\n\n[rounds]\n";
    let inputs = "width = 28\ninputs = [{ column = \"age\", mean = 50.0, std = 10.0 }, { column = \"sex\", is = \"F\" }]\n";
    text().replacen("[rounds]\n", recipe, 1).replacen("width = 28\n", inputs, 1)
}

/// Every kind of layer.
const LAYERS: &str = r#"layers = [
    { kind = "conv2d", filters = 4, kernel = 3, padding = 1 },
    { kind = "activation", function = "relu" },
    { kind = "residual", main = [
        { kind = "conv2d", filters = 4, kernel = 3, padding = 1, bias = false, groups = 2 },
        { kind = "batch-norm" },
      ], shortcut = [ { kind = "group-norm", groups = 2 } ] },
    { kind = "concat", branches = [ [], [
        { kind = "conv2d", filters = 2, kernel = 3, padding = 2, dilation = 2 },
        { kind = "max-pool", size = 3, stride = 1, padding = 1 },
      ] ] },
    { kind = "average-pool", size = 2 },
    { kind = "squeeze-excitation", reduction = 3 },
    { kind = "transposed-conv2d", filters = 4, kernel = 2, stride = 2 },
    { kind = "layer-norm" },
    { kind = "global-average-pool" },
    { kind = "dropout", rate = 0.1 },
    { kind = "concat", branches = [ [], [ { kind = "columns" }, { kind = "linear", outputs = 3 } ] ] },
    { kind = "linear", outputs = 2 },
]"#;

fn study(text: &str) -> Study {
    Draft::from_toml(text).unwrap().with_initial_model(Hash::of_bytes(b"weights"))
}

fn graph() -> ModelGraph {
    toml::from_str::<ModelSection>(LAYERS).unwrap().graph(CaseShape::new([1, 8, 8], 1), 2).unwrap()
}

fn model(origin: Option<Origin>) -> Vec<u8> {
    let preprocessing = Preprocessing::new(0.5, 0.25).unwrap();
    let labels = vec!["normal".to_owned(), "pneumonia".to_owned()];
    let (model, graph) = (vec![0.5; graph().len()], graph());
    ModelFile {
        identity: ModelIdentity {
            graph,
            preprocessing,
            labels,
            inputs: None,
            task: Task::Classification,
            range: None,
            beside: Some(vec![Input::Number { column: "age".to_owned(), mean: 50.0, std: 10.0 }]),
        },
        origin,
        model,
    }
    .to_bytes()
}

/// People are shown a rounded size; files hold the exact one.
fn read_size(bytes: &[u8]) -> bool {
    let Some(size) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<HumanSize>().ok()) else {
        return false;
    };
    let file = toml::to_string(&BTreeMap::from([("size", size)])).unwrap();
    assert_eq!(toml::from_str::<BTreeMap<String, HumanSize>>(&file).unwrap()["size"], size);
    true
}

fn read_study(bytes: &[u8]) -> bool {
    let Ok(draft) = Draft::from_toml(&String::from_utf8_lossy(bytes)) else { return false };
    let study = draft.with_initial_model(Hash::of_bytes(b"weights"));
    assert_eq!(Study::from_canonical(&study.to_canonical()), Ok(study));
    true
}

fn read_policy(bytes: &[u8]) -> bool {
    Policy::from_toml(&String::from_utf8_lossy(bytes)).is_ok()
}

/// A file that is read is the same model again; the bytes may differ, for a header has many spellings.
fn read_model(bytes: &[u8]) -> bool {
    let file = ModelFile::from_bytes(bytes);
    let by_parts = ModelReader::open(Cursor::new(bytes)).and_then(|reader| {
        let identity = reader.identity().clone();
        reader.check(&identity)
    });
    assert_eq!(file.as_ref().err(), by_parts.as_ref().err());
    let Ok(file) = file else { return false };
    assert_eq!(ModelFile::from_bytes(&file.to_bytes()), Ok(file));
    true
}

#[test]
fn hostile_bytes_are_read_faithfully_or_refused() {
    let (study, varied) = (study(&text()), study(&varied_text()));
    let key = SigningKey::generate();
    let site = Principal::Site("ada".parse().unwrap());
    let terms = SiteTerms {
        min_honest: 2,
        min_selection: 3,
        min_change: Some(2),
        repeat: Repeat::Ask,
        exact_weights: false,
        groups: false,
    };
    let rule = Rule::new("approval = \"automatic\"").unwrap();
    let acceptance = Acceptance {
        study: study.hash(),
        roster: Hash::of_bytes(b"roster"),
        rule: rule.clone(),
        weight_class: 64,
        terms,
    };
    let few = GatedCount::FewerThan(Floor::new(10).unwrap());
    let mut gate = DisclosureGate::new(Floor::new(10).unwrap());
    let patient = |number: u32| Patient::Known(PatientKey::new(&[7; 32], &number.to_string()));
    let many = gate.count((0..40).map(patient));
    let readiness = Readiness {
        study: study.hash(),
        found: many,
        decoded: many,
        labelled: many,
        usable: few,
        held_out: GatedCount::Withheld,
    };
    let spec = ModelSpec::Preset { preset: Preset::Resnet18, norm: None, stem: None };
    run([
        Target::canonical("study", [study.clone(), varied]),
        Target::canonical("study-signed", [Signed::seal(&study, "operator/olga".parse().unwrap(), &key)]),
        Target::canonical("study-graph", [graph(), spec.graph([3, 28, 28], 4).unwrap()]),
        Target::canonical("study-acceptance", [acceptance.clone()]),
        Target::canonical("study-acceptance-signed", [Signed::seal(&acceptance, site, &key)]),
        Target::new("study-toml", read_study, [text().into_bytes(), varied_text().into_bytes()]),
        Target::new(
            "study-policy",
            read_policy,
            [b"approval = \"automatic\"\noperators = [\"operator/o\"]\n".to_vec()],
        ),
        Target::new(
            "study-model-file",
            read_model,
            [None, Some(None), Some(Some(study.hash()))].map(|tuned| {
                model(tuned.map(|tuned_from| Origin { study: study.hash(), round: 7, tuned_from }))
            }),
        ),
        Target::canonical("study-readiness", [readiness]),
        Target::canonical("study-refusal", [Refusal { study: study.hash(), rule }]),
        Target::canonical("study-gate", [gate]),
        Target::text::<Metric>("study-metric", &["auroc", "loss"]),
        Target::text::<Hash>("study-hash", &[&Hash::of_bytes(b"x").to_string()]),
        Target::text::<SiteName>("study-site-name", &["ada", "site-007"]),
        Target::text::<ConsortiumName>("study-consortium-name", &["rhine"]),
        Target::text::<Principal>("study-principal", &["site/ada", "operator/olga", "coordinator"]),
        Target::text::<HumanDuration>("study-duration", &["2h", "1h 30m", "250ms"]),
        Target::new("study-size", read_size, [b"1MiB".to_vec(), b"64 kB".to_vec()]),
    ]);
}
