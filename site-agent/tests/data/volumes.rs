//! Volumes of NIfTI files, by their own values and through the loader.

use std::fs;

use consilium_site_agent::data::protocol::Format;
use consilium_site_agent::data::reason::Reason;
use consilium_site_agent::data::{Case, Criteria, LoadError, Source, Target, load};
use consilium_study::preprocessing::Window;
use consilium_study::task::Task;

use super::{data_folder, decoder, key};

fn target(sides: [u32; 3], window: Option<[i32; 2]>) -> Target {
    let [depth, height, width] = sides;
    Target::of([1, depth, height, width].into(), window.map(Window::from)).unwrap()
}

/// A value of a file: slice from the feet, row from the front, column from the right, and what it is.
type Voxel = ([u32; 3], f64);

/// What nibabel 5 reads, after `as_closest_canonical`, with its first two axes reversed and all in the order z, y, x. Sides,
/// three voxels, and the mean.
const BY_NIBABEL: [(&str, [u32; 3], [Voxel; 3], f64); 5] = [
    (
        "anatomical.nii",
        [25, 41, 33],
        [([1, 2, 3], 5591.0), ([12, 20, 11], 11713.0), ([23, 1, 32], 2931.0)],
        8_401.066_725_8,
    ),
    (
        "reoriented_anat_moved.nii",
        [22, 26, 21],
        [([1, 2, 3], 0.0), ([11, 13, 7], 7_419.395_507_8), ([20, 1, 20], 0.0)],
        2_725.588_532_2,
    ),
    (
        "someones_anatomy.nii.gz",
        [56, 67, 57],
        [([1, 2, 3], 9.498_036_1), ([28, 33, 19], 78.580_008_6), ([54, 1, 56], 7.383_281_9)],
        45.983_864_1,
    ),
    (
        "someones_epi.nii.gz",
        [33, 61, 53],
        [([1, 2, 3], 10.755_071_6), ([16, 30, 17], 55.942_869_2), ([31, 1, 52], 9.625_376_7)],
        45.679_843_7,
    ),
    ("standard.nii.gz", [7, 5, 4], [([1, 2, 3], 0.0), ([3, 2, 1], 0.0), ([5, 1, 3], 0.0)], 54.642_857_1),
];

#[test]
fn values_and_places_are_those_that_nibabel_reads() {
    let Some(folder) = data_folder("nifti-real") else { return };
    let mut decoder = decoder();
    let (low, high) = (-1000.0, 31_000.0);
    for (name, sides, voxels, mean) in BY_NIBABEL {
        let file = fs::read(folder.join(name)).unwrap();
        // Where rows and columns are not equally far apart, a part is cut off at this size.
        let wanted = if name.starts_with("standard") { [7, 5, 2] } else { sides };
        let decoded = decoder.decode(Format::Nifti, target(wanted, Some([-1000, 31_000])), file).unwrap();
        let value = |shade: f32| f64::from(shade) * (high - low) + low;
        if wanted == sides {
            for ([slice, row, column], want) in voxels {
                let place = (slice * sides[1] + row) * sides[2] + column;
                let got = value(decoded.values[place as usize]);
                assert!((got - want).abs() < 0.01, "{name} {slice} {row} {column}: {got} is not {want}");
            }
            let all: f64 = decoded.values.iter().map(|&shade| value(shade)).sum();
            let got = all / decoded.values.len() as f64;
            assert!((got - mean).abs() < 0.01, "{name}: {got} is not {mean}");
        }
        assert_eq!((decoded.facts.rows, decoded.facts.columns), (sides[1], sides[2]), "{name}");
    }
}

/// A table and a folder, with what is none of them.
#[test]
fn a_folder_of_volumes_is_read_by_its_table() {
    let Some(real) = data_folder("nifti-real") else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["anatomical.nii", "someones_anatomy.nii.gz", "functional.nii", "standard.nii.gz"] {
        fs::copy(real.join(name), at(name)).unwrap();
    }
    fs::write(at("notes.txt"), "not an image").unwrap();
    let rows = "path,label\nanatomical.nii,a\nsomeones_anatomy.nii.gz,b\nfunctional.nii,a\n";
    fs::write(at("labels.csv"), rows).unwrap();
    let of = |case: Target| Criteria {
        labels: vec!["a".into(), "b".into()],
        task: Task::Classification,
        range: None,
        case: Case::Picture(case),
        holdout: 0.0,
    };
    let source = Source::Nifti { folder: folder.path().to_owned(), table: at("labels.csv"), site: None };
    let volumes = of(target([8, 16, 16], None));
    let cohort = load(&source, &volumes, &key(1), &mut decoder(), None, &mut |_| {}).unwrap();
    assert_eq!((cohort.train.len(), cohort.train.shape()), (2, [8, 16, 16]));
    let reasons: Vec<_> = cohort.quarantine.iter().map(|case| (case.path.reveal(), &case.reason)).collect();
    assert_eq!(
        reasons,
        [("functional.nii", &Reason::SeveralVolumes), ("standard.nii.gz", &Reason::NotInTable)]
    );
    let pictures = of(Target::new(1, 16, 16).unwrap());
    let refused = |source: &Source, criteria| {
        load(source, criteria, &key(1), &mut decoder(), None, &mut |_| {}).unwrap_err()
    };
    assert_eq!(refused(&source, &pictures), LoadError::VolumesForPictures);
    let images = Source::Images { folder: folder.path().to_owned(), table: at("labels.csv"), site: None };
    assert_eq!(refused(&images, &volumes), LoadError::PicturesForVolumes);
}

/// The child answers what its parent cannot have asked for by a cohort: one file that somebody names for a model.
#[test]
fn a_file_of_the_other_kind_has_a_reason() {
    let mut decoder = decoder();
    let volume = target([2, 4, 4], None);
    let png = b"\x89PNG\r\n\x1a\n".to_vec();
    assert_eq!(decoder.decode(Format::Raster, volume, png).err(), Some(Reason::NotAnImage));
    let picture = Target::new(1, 4, 4).unwrap();
    assert_eq!(decoder.decode(Format::Nifti, picture, vec![0; 400]).err(), Some(Reason::NotAnImage));
}
