//! `consilium model predict`, as whoever got a model runs it.

#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests too")]
#![cfg(feature = "predict")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consilium_learning::{ModelFile, ModelIdentity, Preprocessing, initial, score};
use consilium_site_agent::data::{
    Decoder, Source, SplitKey, Target, load,
    source::{Case, Criteria},
};
use consilium_study::graph::{ModelSpec, Norm, Preset, Shape};
use consilium_study::preprocessing::Window;
use consilium_study::task::Task;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use image::{GrayImage, Luma, Rgb, RgbImage};
use serde_json::{Value, json};

/// Rows and columns of the model's pictures; no picture below has these proportions.
const SIDES: [u32; 2] = [10, 14];
const LABELS: [&str; 3] = ["zebra", "ape", "cat"];

fn consilium(arguments: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consilium"));
    command.args(["model", "predict"]).args(arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Probabilities in a line, in the model's order.
fn scores(line: &Value) -> Option<Vec<f32>> {
    let of = line.get("probabilities")?;
    Some(LABELS.iter().map(|label| of[label].as_f64().unwrap() as f32).collect())
}

fn model(folder: &Path) -> ModelFile {
    model_of(folder, [1, SIDES[0], SIDES[1]].into(), None)
}

fn model_of(folder: &Path, case: Shape, window: Option<Window>) -> ModelFile {
    let spec = ModelSpec::Preset { preset: Preset::SmallCnn, norm: Some(Norm::Group), stem: None };
    let graph = spec.graph(case, 3).unwrap();
    let model = initial(&graph, 5);
    let preprocessing = Preprocessing::new(0.4, 0.3).unwrap().behind(window);
    let identity = ModelIdentity {
        graph,
        preprocessing,
        labels: LABELS.map(str::to_owned).to_vec(),
        inputs: None,
        task: Task::Classification,
        range: None,
        beside: None,
    };
    let file = ModelFile { identity, origin: None, model };
    std::fs::write(folder.join("model.safetensors"), file.to_bytes()).unwrap();
    file
}

fn shade(row: u32, column: u32) -> u8 {
    ((row * 37 + column * 11 + row * column) % 251) as u8
}

fn write_dicom(path: &Path) {
    let (rows, columns) = (31_u16, 17_u16);
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag: Tag, vr: VR, value: PrimitiveValue| {
        object.put(DataElement::new(tag, vr, value));
    };
    put(tags::ROWS, VR::US, rows.into());
    put(tags::COLUMNS, VR::US, columns.into());
    put(tags::BITS_ALLOCATED, VR::US, 16_u16.into());
    put(tags::BITS_STORED, VR::US, 12_u16.into());
    put(tags::HIGH_BIT, VR::US, 11_u16.into());
    put(tags::PIXEL_REPRESENTATION, VR::US, 0_u16.into());
    put(tags::SAMPLES_PER_PIXEL, VR::US, 1_u16.into());
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1".into());
    put(tags::WINDOW_CENTER, VR::DS, "1500".into());
    put(tags::WINDOW_WIDTH, VR::DS, "2000".into());
    let values = (0..u32::from(rows) * u32::from(columns)).map(|pixel| (pixel * 29 % 4001) as u16);
    put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(values.collect()));
    let meta = FileMetaTableBuilder::new()
        .media_storage_sop_class_uid(uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE)
        .media_storage_sop_instance_uid("1.2.3")
        .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN);
    object.with_meta(meta).unwrap().write_to_file(path).unwrap();
}

/// Pictures of which each goes another way to the model: cut and shrunk, enlarged, turned grey, windowed.
fn write_pictures(folder: &Path) {
    std::fs::create_dir_all(folder.join("far/away")).unwrap();
    let at = |name: &str| folder.join(name);
    GrayImage::from_fn(40, 23, |x, y| Luma([shade(y, x)])).save(at("a.png")).unwrap();
    GrayImage::from_fn(7, 5, |x, y| Luma([shade(y, x)])).save(at("far/b.png")).unwrap();
    let colours = RgbImage::from_fn(16, 16, |x, y| Rgb([shade(y, x), shade(x, y), 200]));
    colours.save(at("far/away/c.jpeg")).unwrap();
    write_dicom(&at("far/d.dcm"));
}

/// Probabilities of a source's cases, as a site that trains computes them.
fn probabilities(file: &ModelFile, source: &Source) -> Vec<Vec<f32>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consilium"));
    command.args(["demo-part", &std::process::id().to_string(), "site-agent", "decode"]);
    let target = Target::of(file.identity.graph.case(), file.identity.preprocessing.window()).unwrap();
    let criteria = Criteria {
        labels: file.identity.labels.clone(),
        task: Task::Classification,
        range: None,
        case: Case::Picture(target),
        holdout: 0.0,
    };
    let key = SplitKey::new([0; 32]);
    let cohort = load(source, &criteria, &key, &mut Decoder::new(command), None, &mut |_| {}).unwrap();
    let ModelIdentity { graph, preprocessing, .. } = &file.identity;
    let scores = score(graph, *preprocessing, Task::Classification, &file.model, &cohort.train).unwrap();
    scores.iter().map(<[f32]>::to_vec).collect()
}

/// A volume of 9 x 14 x 11 voxels, from left to right, front to back, head to feet.
fn write_nifti(path: &Path) {
    let sides = [9_u16, 14, 11];
    let mut bytes = vec![0; 352];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &348_u32.to_le_bytes());
    for (index, side) in [3].into_iter().chain(sides).chain([1; 4]).enumerate() {
        put(40 + 2 * index, &side.to_le_bytes());
    }
    put(70, &4_u16.to_le_bytes());
    put(72, &16_u16.to_le_bytes());
    put(108, &352.0_f32.to_le_bytes());
    put(254, &1_u16.to_le_bytes());
    for (axis, spacing) in [1.5_f32, -1.0, -2.0].into_iter().enumerate() {
        put(280 + 20 * axis, &spacing.to_le_bytes());
    }
    put(344, b"n+1\0");
    let voxels =
        (0..sides.iter().map(|&side| u32::from(side)).product()).map(|voxel| (voxel * 29 % 1500) as u16);
    bytes.extend(voxels.flat_map(u16::to_le_bytes));
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_volume_gets_the_scores_that_it_has_in_training() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let file = model_of(folder.path(), [1, 8, 10, 12].into(), Some([100, 1300].into()));
    std::fs::create_dir(at("volumes")).unwrap();
    write_nifti(&at("volumes/a.nii"));
    write_pictures(&at("volumes"));
    std::fs::write(at("labels.csv"), "path,label\na.nii,cat\n").unwrap();
    let source = Source::Nifti { folder: at("volumes"), table: at("labels.csv"), site: None };
    let wanted = probabilities(&file, &source);
    let output = consilium(&[&at("model.safetensors"), &at("volumes"), Path::new("--json")]);
    let lines = lines(&output);
    let of =
        |name: &str| lines.iter().find(|line| line["file"].as_str().is_some_and(|file| file.ends_with(name)));
    assert_eq!(scores(of("a.nii").unwrap()).as_ref(), wanted.first());
    assert!(of("a.png").is_none());
    assert_eq!(lines.last(), Some(&json!({ "scored": 1, "failed": 0, "passed_over": 4 })));
    // Behind another window the same file is another volume.
    let plain = model_of(folder.path(), [1, 8, 10, 12].into(), None);
    assert_ne!(probabilities(&plain, &source), wanted);
    // And to a model of pictures it is none.
    model(folder.path());
    let output = consilium(&[&at("model.safetensors"), &at("volumes/a.nii"), Path::new("--json")]);
    assert_eq!(self::lines(&output)[0]["reason"], json!("not_an_image"));
}

#[test]
fn a_training_picture_gets_the_scores_that_it_has_in_training() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, model_file) = (folder.path().join("pictures"), folder.path().join("model.safetensors"));
    let file = model(folder.path());
    write_pictures(&pictures);
    let table = |name: &str, paths: &[&str]| {
        let rows = paths.iter().map(|path| format!("{path},cat\n"));
        let table = folder.path().join(name);
        std::fs::write(&table, format!("path,label\n{}", rows.collect::<String>())).unwrap();
        table
    };
    let raster = table("raster.csv", &["a.png", "far/away/c.jpeg", "far/b.png"]);
    let raster = Source::Images { folder: pictures.clone(), table: raster, site: None };
    let dicom = table("dicom.csv", &["far/d.dcm"]);
    let dicom = Source::Dicom { folder: pictures.clone(), table: dicom, site: None };
    let wanted = [probabilities(&file, &raster), probabilities(&file, &dicom)];
    let names = [&["a.png", "far/away/c.jpeg", "far/b.png"][..], &["far/d.dcm"]];

    // The same cases together: the same numbers.
    for (names, wanted) in names.iter().zip(&wanted) {
        let paths: Vec<_> = names.iter().map(|name| pictures.join(name)).collect();
        let arguments = std::iter::once(&model_file).chain(&paths).map(PathBuf::as_path);
        let output = consilium(&arguments.chain([Path::new("--json")]).collect::<Vec<_>>());
        let got: Vec<_> = lines(&output).iter().filter_map(scores).collect();
        assert_eq!(got, *wanted, "{names:?}: to the last bit");
    }

    // Sums over a batch are rounded otherwise in another company.
    let output = consilium(&[&model_file, &pictures, Path::new("--json")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines = lines(&output);
    assert_eq!(lines.pop(), Some(json!({ "scored": 4, "failed": 0, "passed_over": 0 })));
    let (names, wanted) = (names.concat(), wanted.concat());
    assert_eq!((lines.len(), wanted.len()), (4, 4));
    for ((line, name), wanted) in lines.iter().zip(names).zip(&wanted) {
        assert_eq!(line["file"], json!(pictures.join(name)));
        let got = scores(line).unwrap();
        assert!(got.iter().zip(wanted).all(|(got, want)| (got - want).abs() < 1e-6), "{name}: {got:?}");
        let likeliest = (0..3).max_by(|&one, &other| wanted[one].total_cmp(&wanted[other])).unwrap();
        assert_eq!(line["likeliest"], LABELS[likeliest]);
    }
    // One alone is scored as it is among others, and the labels keep the model's order.
    let output = consilium(&[&model_file, &pictures.join("a.png")]);
    let text = String::from_utf8_lossy(&output.stdout);
    let at: Vec<_> = LABELS.map(|label| text.find(&format!("{label} 0.")).unwrap()).to_vec();
    assert!(at.is_sorted() && text.contains(&format!("zebra {:.4}", wanted[0][0])), "{text}");
}

/// Findings stand for themselves, and a temperature divides their outputs.
#[test]
fn findings_have_probabilities_of_their_own_at_any_temperature() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, model_file) = (folder.path().join("pictures"), folder.path().join("model.safetensors"));
    let mut file = model(folder.path());
    file.identity.task = Task::MultiLabel;
    std::fs::write(&model_file, file.to_bytes()).unwrap();
    write_pictures(&pictures);
    let at = |more: &[&str]| {
        let arguments = [&*model_file, &*pictures, Path::new("--json")].into_iter();
        let output = consilium(&arguments.chain(more.iter().map(Path::new)).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        lines(&output)
    };
    let logit = |probability: f32| (f64::from(probability) / (1.0 - f64::from(probability))).ln();
    let (plain, warm) = (at(&[]), at(&["--temperature", "2.5"]));
    assert_eq!(plain.len(), 5);
    for (plain, warm) in plain.iter().zip(&warm).take(4) {
        assert!(plain.get("likeliest").is_none(), "{plain}");
        for (plain, warm) in scores(plain).unwrap().into_iter().zip(scores(warm).unwrap()) {
            assert!((logit(plain) - 2.5 * logit(warm)).abs() < 1e-4, "{plain} {warm}");
        }
    }
    let refused = consilium(&[&model_file, &pictures, Path::new("--temperature"), Path::new("0")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not between 0.01 and 100"));
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, model_file) = (folder.path().join("pictures"), folder.path().join("model.safetensors"));
    model(folder.path());
    write_pictures(&pictures);
    let whole = std::fs::read(pictures.join("a.png")).unwrap();
    std::fs::write(pictures.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(pictures.join("labels.csv"), "path,label\n").unwrap();
    std::fs::write(pictures.join("nothing.png"), b"").unwrap();
    let arguments = [&model_file, &pictures, &pictures.join("labels.csv"), &folder.path().join("gone.png")];
    let mut arguments = arguments.map(PathBuf::as_path).to_vec();

    let output = consilium(&arguments);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}{errors}");
    assert_eq!(errors, "error: 4 of 8 pictures could not be read\n");
    assert!(
        text.contains("cut.png: not read: ") && text.contains("gone.png: not read: it is not there"),
        "{text}"
    );
    assert!(text.ends_with("4 scored, 4 not read, 1 passed over because they are no pictures\n"), "{text}");

    arguments.push(Path::new("--json"));
    let output = consilium(&arguments);
    let lines = lines(&output);
    let reasons: Vec<_> = lines.iter().filter_map(|line| line["reason"].as_str()).collect();
    assert_eq!(reasons, ["malformed", "empty", "not_an_image", "missing"]);
    assert_eq!(lines.last(), Some(&json!({ "scored": 4, "failed": 4, "passed_over": 1 })));

    // A folder without pictures is no success either.
    let empty = tempfile::tempdir().unwrap();
    let output = consilium(&[&model_file, empty.path()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no DICOM, PNG or JPEG file"));
    assert_eq!(output.status.code(), Some(1));
}
