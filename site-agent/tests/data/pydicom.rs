//! Stored pixel values agree with pydicom, an implementation we share no line with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use consilium_site_agent::data::dicom::{Colour, Opened};
use consilium_site_agent::data::syntax::Codec;

use super::{data_folder, files_below, skipped};

/// Writes, for every file named on its standard input, `frames rows columns samples` and the values as
/// text, or a line with `-` if it cannot decode the file.
const SCRIPT: &str = r#"
import sys, warnings
warnings.filterwarnings("ignore")
import numpy, pydicom
from pydicom.pixels import pixel_array
for line in sys.stdin:
    try:
        dataset = pydicom.dcmread(line.rstrip("\n"))
        # Luma and chroma in JPEG become RGB on both sides; elsewhere values are as stored.
        jpeg = dataset.file_meta.TransferSyntaxUID.startswith("1.2.840.10008.1.2.4.")
        colour = dataset.PhotometricInterpretation.startswith("YBR")
        array = pixel_array(dataset, raw=not (jpeg and colour))
        samples = dataset.SamplesPerPixel
        frames = int(dataset.get("NumberOfFrames") or 1)
        array = array.reshape(frames, dataset.Rows, dataset.Columns, samples)
        print(*array.shape, *array.astype(numpy.int64).ravel(), flush=True)
    except Exception:
        print("-", flush=True)
"#;

/// A Python with pydicom, made once below the target folder.
fn python() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pydicom-venv");
    let python = folder.join("bin/python");
    let run = |program: &Path, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let check = ["-c", "import pydicom, numpy, PIL, gdcm; assert pydicom.__version__ >= '3'"];
    if run(&python, &check) {
        return Some(python);
    }
    let venv = folder.to_str().expect("cargo's target folder is UTF-8");
    let made = run(Path::new("python3"), &["-m", "venv", venv])
        && run(&python, &["-m", "pip", "install", "--quiet", "pydicom>=3", "numpy", "pillow", "python-gdcm"])
        && run(&python, &check);
    if made {
        return Some(python);
    }
    skipped("python3 with pydicom cannot be set up here, so pixel values are not compared");
    None
}

/// What pydicom makes of each file: shape and values.
fn pydicom_values(python: &Path, files: &[PathBuf]) -> Vec<Option<(Vec<usize>, Vec<i64>)>> {
    use std::io::Write;
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    let names = names.join("\n");
    let writer = std::thread::spawn(move || input.write_all(names.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let values: Vec<_> = text
        .lines()
        .map(|line| {
            if line == "-" {
                return None;
            }
            let mut numbers = line.split(' ').map(|number| number.parse::<i64>().unwrap());
            let shape = numbers.by_ref().take(4).map(|side| side as usize).collect();
            Some((shape, numbers.collect()))
        })
        .collect();
    assert_eq!(values.len(), files.len());
    values
}

#[test]
fn stored_values_agree_with_pydicom_on_every_file_both_decode() {
    let Some(folder) = data_folder("dicom-pydicom-testfiles") else { return };
    let Some(python) = python() else { return };
    let mut files = files_below(&folder);
    files.extend(data_folder("dicom-nibabel").iter().flat_map(|folder| files_below(folder)));
    files.extend(data_folder("dicom-malformed").iter().flat_map(|folder| {
        files_below(folder).into_iter().filter(|path| path.to_string_lossy().contains("pixel"))
    }));
    files.retain(|path| Opened::read(&fs::read(path).unwrap()).is_ok());
    let mut exact = 0;
    let mut close = 0;
    for (path, theirs) in files.iter().zip(pydicom_values(&python, &files)) {
        let opened = Opened::read(&fs::read(path).unwrap()).unwrap();
        let header = opened.header().clone();
        let Ok(stored) = opened.decode() else { continue };
        let Some((shape, theirs)) = theirs else {
            panic!("{} is decoded here and not by pydicom", path.display())
        };
        let (rows, columns) = (usize::from(header.rows), usize::from(header.columns));
        let samples = usize::from(header.samples);
        assert_eq!(shape, [header.frames as usize, rows, columns, samples], "{}", path.display());
        // The first frame, which is the one that is used.
        let ours = (0..rows * columns)
            .flat_map(|pixel| (0..samples).map(move |sample| (pixel, sample)))
            .map(|(pixel, sample)| i64::from(stored.sample(pixel, sample)));
        let difference = ours.zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs()).max().unwrap();
        // Lossy JPEG leaves rounding to the decoder, and enlarging of coarse chroma as well.
        let allowed = match (header.syntax.codec, header.colour) {
            (Codec::JpegBaseline, Colour::YbrFull) => 6,
            (Codec::JpegBaseline, _) => 2,
            _ => 0,
        };
        assert!(difference <= allowed, "{}: {difference}", path.display());
        if header.frames > 1 && allowed == 0 && !header.planar {
            let ours: Vec<i64> = stored.all().into_iter().map(i64::from).collect();
            assert_eq!(ours, theirs, "{}", path.display());
        }
        if allowed == 0 { exact += 1 } else { close += 1 }
    }
    println!("{exact} files agree exactly, {close} lossy ones within rounding");
    assert!(exact >= 45 && close >= 5, "{exact} and {close}");
}
