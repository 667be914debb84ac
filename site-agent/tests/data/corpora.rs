//! Real and broken files, every one of them through the child under its limits.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use consilium_site_agent::data::decoder::{PATIENCE, TIME_LIMIT};
use consilium_site_agent::data::protocol::Format;
use consilium_site_agent::data::reason::Reason;
use consilium_site_agent::data::{Decoder, Target};

use super::{data_folder, decoder, files_below, target};

/// The most memory the child ever held, in kilobytes.
fn peak_kilobytes(decoder: &Decoder) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", decoder.child_id()?)).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Sends every file below a folder through one decoder; gives the number of files per outcome.
fn outcomes(folder: &str, format: Format) -> Option<BTreeMap<&'static str, usize>> {
    outcomes_at(folder, format, target(1, 28, 28))
}

fn outcomes_at(folder: &str, format: Format, target: Target) -> Option<BTreeMap<&'static str, usize>> {
    let folder = data_folder(folder)?;
    let mut decoder = decoder();
    let mut outcomes = BTreeMap::new();
    for path in files_below(&folder) {
        let start = Instant::now();
        let outcome = decoder.decode(format, target, fs::read(&path).unwrap());
        // Two seconds of processor time; by the clock it depends on what else the machine does.
        assert!(start.elapsed() < TIME_LIMIT * PATIENCE + Duration::from_millis(500), "{}", path.display());
        // A child that died would have to be explained: the walk is there so that none does.
        let died = matches!(outcome, Err(Reason::TooSlow | Reason::DecoderFailed));
        assert!(!died, "{}: {outcome:?}", path.display());
        let peak = peak_kilobytes(&decoder).expect("the child is alive");
        assert!(peak < 512 << 10, "{}: {peak} kB", path.display());
        *outcomes.entry(outcome.map_or_else(|reason| reason.code(), |_| "decoded")).or_default() += 1;
    }
    Some(outcomes)
}

#[test]
fn broken_dicom_neither_kills_nor_stalls_nor_bloats_the_child() {
    let Some(outcomes) = outcomes("dicom-malformed", Format::Dicom) else { return };
    println!("{outcomes:?}");
    assert_eq!(outcomes.values().sum::<usize>(), 359);
    // Long names and odd texts are no reason to refuse a picture.
    assert!(outcomes["decoded"] >= 150, "{outcomes:?}");
    assert!(outcomes["malformed"] >= 10, "{outcomes:?}");
}

#[test]
fn real_dicom_of_every_syntax_is_decoded_or_named() {
    let Some(outcomes) = outcomes("dicom-pydicom-testfiles", Format::Dicom) else { return };
    println!("{outcomes:?}");
    assert!(outcomes["decoded"] >= 50, "{outcomes:?}");
    for reason in ["unsupported_syntax", "no_pixels", "several_frames", "malformed"] {
        assert!(outcomes.contains_key(reason), "{reason}: {outcomes:?}");
    }
}

#[test]
fn real_scanner_dicom_decodes() {
    let Some(outcomes) = outcomes("dicom-nibabel", Format::Dicom) else { return };
    assert!(outcomes["decoded"] >= 2, "{outcomes:?}");
}

/// Five of the broken ones crashed a parser.
#[test]
fn real_and_broken_nifti_is_decoded_or_named() {
    let volume = Target::of([1, 8, 16, 16].into(), None).unwrap();
    let Some(real) = outcomes_at("nifti-real/", Format::Nifti, volume) else { return };
    println!("{real:?}");
    assert_eq!((real["decoded"], real["several_volumes"]), (6, 2), "{real:?}");
    let Some(broken) = outcomes_at("nifti-malformed/resources", Format::Nifti, volume) else { return };
    println!("{broken:?}");
    for reason in ["not_a_volume", "unsupported_pixels", "no_orientation"] {
        assert!(broken.contains_key(reason), "{reason}: {broken:?}");
    }
    assert!(broken["decoded"] >= 3, "{broken:?}");
}

/// No false alarms on clean public sets. One radiograph really is transparent in places.
#[test]
fn real_photographs_and_radiographs_all_decode() {
    for (folder, images, transparent) in [("bccd-blood-cells", 364, 0), ("covid-cxr-sites", 116, 1)] {
        let Some(outcomes) = outcomes(folder, Format::Raster) else { return };
        assert_eq!(outcomes["decoded"], images, "{outcomes:?}");
        assert_eq!(outcomes.get("unsupported_pixels").copied().unwrap_or(0), transparent, "{outcomes:?}");
    }
}

/// Bytes flipped, files cut: small files of every kind, always the same mutations.
#[test]
fn mutated_dicom_never_takes_the_decoder_away() {
    let Some(folder) = data_folder("dicom-pydicom-testfiles/test_files") else { return };
    let mut decoder = decoder();
    let mut state = 1_u64;
    let mut draw = move |below: usize| {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % below as u64) as usize
    };
    for name in [
        "CT_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "SC_rgb_small_odd_jpeg.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "image_dfl.dcm",
        "UN_sequence.dcm",
    ] {
        let intact = fs::read(folder.join(name)).unwrap();
        for _ in 0..60 {
            let mut mutated = intact.clone();
            if draw(4) == 0 {
                mutated.truncate(draw(intact.len()));
            }
            for _ in 0..=draw(8) {
                if !mutated.is_empty() {
                    // Headers are where the lengths are.
                    let end = if draw(2) == 0 { mutated.len() } else { mutated.len().min(1500) };
                    let place = draw(end);
                    mutated[place] = draw(256) as u8;
                }
            }
            let outcome = decoder.decode(Format::Dicom, target(1, 8, 8), mutated);
            assert_ne!(outcome.err(), Some(Reason::TooSlow), "{name}");
        }
        // Still there, and still right.
        let again = decoder.decode(Format::Dicom, target(1, 8, 8), intact.clone());
        assert_eq!(again, super::decoder().decode(Format::Dicom, target(1, 8, 8), intact), "{name}");
    }
}
