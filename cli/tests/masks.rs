//! A study of pixels from its data to masks as files, as its users run it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]
#![cfg(feature = "simulate")]

mod common;

use std::path::Path;

use common::{consilium, refused, said};
use consilium_learning::{ModelFile, ModelIdentity, Origin, Preprocessing};
use consilium_study::graph::ModelSection;
use consilium_study::task::Task;
use image::{GrayImage, Luma};
use serde_json::json;

const STUDY: &str = r#"
format = 1
name = "discs"
title = "Bright discs"
sites = ["a", "b", "c"]
seed = 3
[data]
labels = ["ground", "disc"]
task = "segmentation"
channels = 1
height = 16
width = 16
mean = 0.4
std = 0.2
[model]
layers = [
    { kind = "conv2d", filters = 8, kernel = 5, padding = 2 },
    { kind = "activation", function = "relu" },
    { kind = "conv2d", filters = 2, kernel = 1 },
]
[training]
optimiser = "adam"
learning_rate = 0.02
batch = 8
epochs = 4
loss = "dice-cross-entropy"
augment = { flip = true, crop = 2, rotate = 20.0 }
[rounds]
count = 4
quorum = 3
"#;

/// A disc somewhere, under noise that looks random.
fn is_disc(case: u32, x: u32, y: u32) -> bool {
    let (cx, cy) = (4 + case * 7 % 9, 4 + case * 5 % 8);
    x.abs_diff(cx).pow(2) + y.abs_diff(cy).pow(2) <= 10
}

fn shade(case: u32, x: u32, y: u32) -> u8 {
    let noise = (case * 97 + x * 57 + y * 131 + x * y * 17) % 60;
    let light = if is_disc(case, x, y) { 120 } else { 50 };
    (light + noise) as u8
}

fn write_folder(folder: &Path) {
    std::fs::create_dir_all(folder.join("masks")).unwrap();
    let mut table = "path,mask,patient\n".to_owned();
    for case in 0..180 {
        let picture = GrayImage::from_fn(16, 16, |x, y| Luma([shade(case, x, y)]));
        picture.save(folder.join(format!("{case}.png"))).unwrap();
        let mask = GrayImage::from_fn(16, 16, |x, y| Luma([u8::from(is_disc(case, x, y)) * 255]));
        mask.save(folder.join(format!("masks/{case}.png"))).unwrap();
        table += &format!("{case}.png,masks/{case}.png,p{}\n", case / 2);
    }
    std::fs::write(folder.join("labels.csv"), table).unwrap();
}

#[test]
fn hospitals_learn_where_things_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_folder(&folder.path().join("data"));
    std::fs::write(at("study.toml"), STUDY).unwrap();
    let arguments = ["simulate", &at("study.toml"), "--data", &at("data"), "--partition", "iid"];
    let told = consilium(folder.path(), &arguments);
    let (last, rounds) = told.split_last().unwrap();
    assert_eq!((rounds.len(), last["accuracy"].as_f64(), last["auroc"].as_f64()), (4, None, None));
    let dice = last["dice"].as_f64().unwrap();
    assert!(dice > 0.8, "{last}");
    let [low, high] = [0, 1].map(|limit| last["intervals"]["dice"][limit].as_f64().unwrap());
    assert!(low < dice && dice < high, "{last}");
    // Rounds tell the figure that the study is about, and it grows.
    let figures: Vec<f64> = rounds.iter().map(|round| round["figure"].as_f64().unwrap()).collect();
    assert_eq!(rounds[0]["metric"], "dice");
    assert!(figures[3] > figures[0], "{figures:?}");
    let text = said(folder.path(), &arguments);
    assert!(text.contains(": Dice 0.") && text.contains("dice 0."), "{text}");
}

/// A model that calls bright what is bright, with a `slope` above 0: what it sees is known pixel by pixel.
fn write_model(path: &Path, slope: f32) {
    let layers = "layers = [{ kind = \"conv2d\", filters = 2, kernel = 1 }]";
    let graph = toml::from_str::<ModelSection>(layers).unwrap().graph([1, 4, 4], 2).unwrap();
    let identity = ModelIdentity {
        graph,
        preprocessing: Preprocessing::new(0.5, 0.5).unwrap(),
        labels: ["dark", "bright"].map(str::to_owned).to_vec(),
        inputs: None,
        task: Task::Segmentation,
        range: None,
        beside: None,
    };
    let origin = Origin { study: identity.hash(), round: 1, tuned_from: None };
    let file = ModelFile { identity, origin: Some(origin), model: vec![0.0, slope, 0.0, 0.0] };
    std::fs::write(path, file.to_bytes()).unwrap();
}

#[test]
fn a_mask_is_written_at_the_pictures_size() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    write_model(Path::new(&at("model.safetensors")), 4.0);
    std::fs::create_dir_all(at("pictures/far")).unwrap();
    // Twelve columns by eight rows: the middle eight are seen, each place of the model is two by two of them.
    let bright = |x: u32| (4..8).contains(&x) || x > 9;
    let picture = GrayImage::from_fn(12, 8, |x, _| Luma([if bright(x) { 255 } else { 0 }]));
    picture.save(at("pictures/far/a.png")).unwrap();
    std::fs::write(at("pictures/note.txt"), "no picture").unwrap();
    let predict = ["model", "predict", &at("model.safetensors"), &at("pictures")];
    let told = consilium(folder.path(), &[&predict[..], &["--masks", &at("masks")]].concat());
    let mask = at("masks/far/a.png.png");
    let wanted =
        json!({ "file": at("pictures/far/a.png"), "areas": { "dark": 0.5, "bright": 0.5 }, "mask": mask });
    assert_eq!(told[0], wanted);
    let mask = image::open(mask).unwrap().into_luma8();
    assert_eq!(mask.dimensions(), (12, 8));
    let is_seen = |x: u32| (2..10).contains(&x);
    for (x, y, value) in mask.enumerate_pixels() {
        assert_eq!(value.0[0], if is_seen(x) && bright(x) { 255 } else { 0 }, "{x} {y}");
    }
    // Without a folder the shares alone are told; two pictures of one name have one mask too many.
    assert_eq!(consilium(folder.path(), &predict)[0].get("mask"), None);
    let text = refused(folder.path(), &[&predict[..], &["pictures", "--masks", "more"]].concat());
    assert!(text.contains("two pictures would have their mask in"), "{text}");
}

#[test]
fn a_model_of_pixels_is_adapted_and_compared_by_its_masks() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // It calls bright what is dark.
    write_model(Path::new(&at("model.safetensors")), -1.0);
    write_folder(&folder.path().join("data"));
    let tune = ["model", "finetune", &at("model.safetensors"), "--data", &at("data"), "-o", &at("own")];
    let told = consilium(folder.path(), &[&tune[..], &["--learning-rate", "0.2", "--epochs", "40"]].concat());
    let last = told.last().unwrap();
    let dice = |when: &str| last["held_out"][when]["dice"].as_f64().unwrap_or_else(|| panic!("{last}"));
    assert!(dice("after") > dice("before"), "{last}");
}
