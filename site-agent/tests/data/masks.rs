//! Pictures with masks: read side by side, brought to one size, and set aside where they do not go together.

use std::fs;
use std::path::PathBuf;

use consilium_learning::{Dataset, Pixels};
use consilium_site_agent::data::counts::Stage;
use consilium_site_agent::data::protocol::ArchiveDefect;
use consilium_site_agent::data::report::Check;
use consilium_site_agent::data::{Cache, Case, Cohort, Criteria, LoadError, Room, Source, load};
use consilium_study::task::Task;
use image::{GrayImage, Luma, RgbImage};

use super::sources::write_array;
use super::{decoder, key, target};

fn criteria(labels: &[&str]) -> Criteria {
    Criteria {
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        task: Task::Segmentation,
        range: None,
        case: Case::Picture(target(1, 2, 2)),
        holdout: 0.0,
    }
}

const THREE: [&str; 3] = ["nothing", "lung", "heart"];

/// A folder of pictures of four rows and six columns, each beside its mask.
struct Hospital {
    folder: tempfile::TempDir,
    table: String,
}

impl Hospital {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), table: "path,mask\n".to_owned() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A picture that differs from others by `shade`, and what lies beside it as its mask.
    fn add(&mut self, name: &str, shade: u8, mask: &str) {
        let picture = GrayImage::from_fn(6, 4, |x, y| Luma([shade + 10 * (x + 6 * y) as u8 / 3]));
        picture.save(self.at(name)).unwrap();
        self.table += &format!("{name},{mask}\n");
    }

    fn mask(&self, name: &str, class: impl Fn(u32, u32) -> u8) {
        GrayImage::from_fn(6, 4, |x, y| Luma([class(x, y)])).save(self.at(name)).unwrap();
    }

    fn source(&self) -> Source {
        fs::write(self.at("labels.csv"), &self.table).unwrap();
        Source::Images { folder: self.folder.path().to_owned(), table: self.at("labels.csv"), site: None }
    }

    fn load(&self, labels: &[&str], cache: Option<&Cache>) -> Cohort {
        load(&self.source(), &criteria(labels), &key(7), &mut decoder(), cache, &mut |_| {}).unwrap()
    }

    fn reasons(&self, labels: &[&str]) -> Vec<(String, &'static str, Option<String>)> {
        let cohort = self.load(labels, None);
        let told = |case: &consilium_site_agent::data::cohort::Quarantined| {
            let column = case.column.as_ref().map(ToString::to_string);
            (case.path.reveal().to_owned(), case.reason.code(), column)
        };
        cohort.quarantine.iter().map(told).collect()
    }
}

#[test]
fn a_mask_is_cut_and_shrunk_with_its_picture() {
    let mut hospital = Hospital::new();
    hospital.add("a.png", 0, "a-mask.png");
    // The middle four columns are kept, and of each two by two pixels the one below and right of their middle.
    hospital.mask("a-mask.png", |x, y| if x == 2 && y == 1 { 1 } else { u8::from(x == 4 && y == 3) * 2 });
    hospital.add("b.png", 90, "b-mask.png");
    hospital.mask("b-mask.png", |x, _| u8::from(x < 3) * 2);
    let cache = Room::new(hospital.at("cache"), u64::MAX).open().unwrap();
    let cohort = hospital.load(&THREE, Some(&cache));
    assert!(cohort.quarantine.is_empty(), "masks are no pictures without a row");
    assert_eq!((cohort.train.len(), cohort.counts.usable), (2, 2));
    assert_eq!((cohort.train.mask(0), cohort.train.mask(1)), (&[1, 0, 0, 2][..], &[2, 0, 2, 0][..]));
    let again = hospital.load(&THREE, Some(&cache));
    assert_eq!((again.train, again.fingerprint), (cohort.train.clone(), cohort.fingerprint));
    let check = Check::of(&hospital.source(), &criteria(&THREE), &cohort, "fl");
    let counts: Vec<_> = check.classes.iter().map(|class| class.train).collect();
    assert_eq!(counts, [2, 1, 2], "pictures in whose masks a class is");
    // Another mask is another cohort.
    hospital.mask("b-mask.png", |x, _| u8::from(x < 3));
    assert_ne!(hospital.load(&THREE, Some(&cache)).fingerprint, cohort.fingerprint);
}

#[test]
fn with_two_labels_white_is_the_second() {
    let mut hospital = Hospital::new();
    hospital.add("a.png", 0, "a-mask.png");
    hospital.mask("a-mask.png", |x, _| u8::from(x > 2) * 255);
    let two = ["nothing", "lung"];
    assert_eq!(hospital.load(&two, None).train.mask(0), [0, 1, 0, 1]);
    assert_eq!(hospital.reasons(&THREE), [("a.png".to_owned(), "mask_class", Some("mask".to_owned()))]);
}

#[test]
fn a_picture_whose_mask_does_not_suit_is_set_aside_with_the_reason() {
    let mut hospital = Hospital::new();
    hospital.add("good.png", 0, "good-mask.png");
    hospital.mask("good-mask.png", |_, _| 0);
    hospital.add("gone.png", 20, "no-such-mask.png");
    hospital.add("colour.png", 40, "colour-mask.png");
    RgbImage::new(6, 4).save(hospital.at("colour-mask.png")).unwrap();
    hospital.add("narrow.png", 60, "narrow-mask.png");
    GrayImage::new(4, 4).save(hospital.at("narrow-mask.png")).unwrap();
    hospital.add("high.png", 80, "high-mask.png");
    hospital.mask("high-mask.png", |_, _| 3);
    hospital.add("out.png", 100, "../out-mask.png");
    GrayImage::new(6, 4).save(hospital.at("../out-mask.png")).unwrap();
    hospital.add("lossy.png", 120, "lossy-mask.jpeg");
    GrayImage::new(6, 4).save(hospital.at("lossy-mask.jpeg")).unwrap();
    let at_mask = |name: &str, reason| (name.to_owned(), reason, Some("mask".to_owned()));
    assert_eq!(
        hospital.reasons(&THREE),
        [
            at_mask("colour.png", "not_a_mask"),
            at_mask("gone.png", "unmatched_label"),
            at_mask("high.png", "mask_class"),
            at_mask("lossy.png", "not_a_mask"),
            at_mask("narrow.png", "mask_size"),
            at_mask("out.png", "outside_folder"),
        ]
    );
    let cohort = hospital.load(&THREE, None);
    assert_eq!((cohort.train.len(), cohort.counts.decoded, cohort.counts.labelled), (1, 7, 1));
    assert!(cohort.quarantine.iter().all(|case| case.reached == Stage::Decoded));
    fs::remove_file(hospital.at("../out-mask.png")).unwrap();
}

/// The same picture twice: once is enough if both have one mask, and nobody knows which is right if not.
#[test]
fn one_picture_with_two_masks_contradicts_itself() {
    let mut hospital = Hospital::new();
    for name in ["a", "b"] {
        hospital.add(&format!("{name}.png"), 0, &format!("{name}-mask.png"));
        hospital.mask(&format!("{name}-mask.png"), |_, _| 1);
    }
    let reasons = |hospital: &Hospital| {
        hospital.reasons(&THREE).into_iter().map(|(_, reason, _)| reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&hospital), ["duplicate_content"]);
    hospital.mask("b-mask.png", |_, _| 2);
    assert_eq!(reasons(&hospital), ["conflicting_duplicate", "conflicting_duplicate"]);
}

#[test]
fn an_archive_has_a_mask_for_each_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masks.npz");
    let read = |arrays: &[(&str, &[u64], &[u8])], criteria: &Criteria| {
        let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
        for (name, shape, bytes) in arrays {
            write_array(&mut npz, name, shape, bytes);
        }
        drop(npz);
        let source = Source::Npz { file: path.clone() };
        load(&source, criteria, &key(7), &mut decoder(), None, &mut |_| {})
    };
    let images: (&str, &[u64], &[u8]) = ("train_images", &[3, 2, 2], &[10; 12]);
    let masks: (&str, &[u64], &[u8]) = ("train_masks", &[3, 2, 2], &[0, 1, 2, 0, 3, 0, 0, 0, 1, 1, 1, 1]);
    let val: [(&str, &[u64], &[u8]); 2] =
        [("val_images", &[1, 2, 2], &[7; 4]), ("val_masks", &[1, 2, 2], &[0; 4])];
    let cohort = read(&[images, masks, val[0], val[1]], &criteria(&THREE)).unwrap();
    let pixels = Pixels::Floats(vec![10.0 / 255.0; 8]);
    let wanted = Dataset::with_masks([1, 2, 2], pixels, vec![0, 1, 2, 0, 1, 1, 1, 1]).unwrap();
    assert_eq!((&cohort.train, cohort.held_out.len()), (&wanted, 1));
    let [unknown] = &cohort.quarantine[..] else { panic!("a class of the second is none of the study's") };
    assert_eq!((unknown.path.reveal(), unknown.reason.code()), ("train_images[1]", "mask_class"));
    // Labels beside masks are read for a study of classes, and passed over for one of pixels.
    let labels: (&str, &[u64], &[u8]) = ("train_labels", &[3], &[0, 1, 0]);
    let classes = Criteria { task: Task::Classification, ..criteria(&THREE) };
    assert_eq!(read(&[images, labels, masks], &criteria(&THREE)).unwrap().train, wanted);
    assert_eq!(read(&[images, labels, masks], &classes).unwrap().train.len(), 3);
    let refused = |arrays: &[(&str, &[u64], &[u8])], criteria: &Criteria| read(arrays, criteria).unwrap_err();
    let other = LoadError::Archive(ArchiveDefect::OtherTask);
    assert_eq!(refused(&[images, labels], &criteria(&THREE)), other);
    assert_eq!(refused(&[images, masks], &classes), other);
    let shape = LoadError::Archive(ArchiveDefect::MaskShape);
    assert_eq!(refused(&[images, ("train_masks", &[2, 2, 2], &[0; 8])], &criteria(&THREE)), shape);
    assert_eq!(refused(&[images, ("train_masks", &[3, 4], &[0; 12])], &criteria(&THREE)), shape);
    let missing = LoadError::Archive(ArchiveDefect::MissingArray);
    assert_eq!(refused(&[images, masks, val[1]], &criteria(&THREE)), missing);
}
