//! Files and answers of strangers: whatever the bytes are, they are read or refused within what is allotted.

use std::io::Cursor;

use consilium_fuzz::{Target, canonical, run};
use consilium_study::canonical::Canonical;
use consilium_study::data::Input;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use image::{ExtendedColorType, ImageEncoder as _};
use npyz::WriterBuilder as _;

use super::child::{MOST_MEMORY, serve};
use super::codestream::{Claim, check_jpeg, check_rle};
use super::display::Shading;
use super::local::Patient;
use super::protocol::{
    Answer, ArchiveDefect, ArchivePiece, Facts, Format, Part, Request, read_frame, write_frame,
};
use super::reason::{Defect, Reason};
use super::source::Target as Size;
use super::table;
use super::walk::walk;
use super::{nifti, npz};

/// Retired, and still found in archives.
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
const CLAIM: Claim = Claim { rows: 4, columns: 4, samples: 1, bits_allocated: 8 };

/// Frames of the decode child's pipe, one after the other.
fn frames<H: Canonical>(bytes: &[u8]) -> bool {
    let mut from = bytes;
    let mut taken = false;
    while let Ok(Some((header, body))) = read_frame::<H>(&mut from) {
        let mut again = Vec::new();
        write_frame(&mut again, &header, &body).unwrap();
        assert!(bytes[..bytes.len() - from.len()].ends_with(&again));
        taken = true;
    }
    taken
}

/// What the child does with a file, in its own process: it answers, and says what it was.
fn decoded(format: Format, bytes: &[u8]) -> bool {
    let mut pipe = Vec::new();
    let target = match format {
        Format::Nifti => Size::of([1, 1, 4, 4].into(), None),
        _ => Size::new(1, 4, 4),
    };
    let request = Request { format, target: target.unwrap() };
    write_frame(&mut pipe, &request, bytes).unwrap();
    let mut answer = Vec::new();
    serve(&mut &pipe[..], &mut answer).unwrap();
    match read_frame::<Answer>(&mut &answer[..]).unwrap().unwrap() {
        (Answer::Picture(_), body) => {
            assert_eq!(body.len(), 4 * 4 * 4);
            true
        }
        (Answer::Refused(_), body) => {
            assert!(body.is_empty());
            false
        }
    }
}

/// What the child does with an archive: everything it sends is a frame, and the last one says how it ended.
fn archived(bytes: &[u8]) -> bool {
    let mut sent = Vec::new();
    npz::serve(Cursor::new(bytes), &mut sent).unwrap();
    let mut from = &sent[..];
    let mut last = None;
    while let Some((piece, _)) = read_frame::<ArchivePiece>(&mut from).unwrap() {
        last = Some(piece);
    }
    matches!(last.expect("there is always an end"), ArchivePiece::End)
}

/// A DICOM file: an explicit little-endian data set behind a file header.
fn explicit(data_set: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes.extend(b"DICM\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0");
    bytes.extend(data_set);
    bytes
}

/// A grey picture in three layouts.
fn dicom() -> Vec<Vec<u8>> {
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag, vr, value: PrimitiveValue| {
        object.put(DataElement::new(tag, vr, value));
    };
    put(tags::PATIENT_ID, VR::LO, "p1".into());
    put(tags::ROWS, VR::US, 4_u16.into());
    put(tags::COLUMNS, VR::US, 4_u16.into());
    put(tags::SAMPLES_PER_PIXEL, VR::US, 1_u16.into());
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into());
    put(tags::BITS_ALLOCATED, VR::US, 16_u16.into());
    put(tags::BITS_STORED, VR::US, 12_u16.into());
    put(tags::HIGH_BIT, VR::US, 11_u16.into());
    put(tags::PIXEL_REPRESENTATION, VR::US, 0_u16.into());
    put(tags::WINDOW_CENTER, VR::DS, "40".into());
    put(tags::WINDOW_WIDTH, VR::DS, "400".into());
    put(tags::RESCALE_SLOPE, VR::DS, "1.5".into());
    put(tags::PATIENT_ORIENTATION, VR::CS, "R\\H".into());
    put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16((0..16).map(|value| value * 100).collect()));
    let file = |syntax| {
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(syntax)
            .media_storage_sop_class_uid(uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION)
            .media_storage_sop_instance_uid("1.2.3.4");
        let mut bytes = Vec::new();
        object.clone().with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
        bytes
    };
    let syntaxes = [uids::EXPLICIT_VR_LITTLE_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN, BIG_ENDIAN];
    syntaxes.map(file).to_vec()
}

/// Nested sequences of undefined length, and fragments.
fn structures() -> Vec<Vec<u8>> {
    let sequence = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff";
    let ends = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00";
    let fragments = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\x00\x00\x00\x00\
        \xfe\xff\x00\xe0\x04\x00\x00\x00abcd\xfe\xff\xdd\xe0\x00\x00\x00\x00";
    vec![explicit(&[sequence.repeat(3), ends.repeat(3)].concat()), explicit(fragments)]
}

fn mask() -> Vec<u8> {
    let mut png = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    encoder.write_image(&[0, 1, 2, 0, 1, 2], 3, 2, ExtendedColorType::L8).unwrap();
    png
}

fn rasters() -> Vec<Vec<u8>> {
    let pixels: Vec<u8> = (0..48).map(|value| value * 5).collect();
    let (mut png, mut jpeg) = (Vec::new(), Vec::new());
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    encoder.write_image(&pixels, 4, 4, ExtendedColorType::Rgb8).unwrap();
    let encoder = image::codecs::jpeg::JpegEncoder::new(&mut jpeg);
    encoder.write_image(&pixels[..16], 4, 4, ExtendedColorType::L8).unwrap();
    vec![png, jpeg]
}

fn archive(labels: &[u8], numbers: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
    let pixels: Vec<u8> = (0..labels.len() as u8 / numbers as u8 * 4).collect();
    for part in ["train", "val"] {
        let count = labels.len() as u64;
        let label_shape = [count / numbers, numbers];
        for (name, shape, bytes) in
            [("images", &[count / numbers, 2, 2][..], &pixels[..]), ("labels", &label_shape, labels)]
        {
            let writer = npz.array(&format!("{part}_{name}"), Default::default()).unwrap();
            let mut writer = writer.default_dtype().shape(shape).begin_nd().unwrap();
            writer.extend(bytes.iter().copied()).unwrap();
            writer.finish().unwrap();
        }
    }
    drop(npz);
    std::fs::read(path).unwrap()
}

fn answers() -> Vec<Vec<u8>> {
    let facts = Facts {
        format: "PNG".to_owned(),
        rows: 4,
        columns: 4,
        bits: 8,
        shading: Shading::FullRange,
        turned: false,
        patient: Some(Patient::new("p1")),
    };
    let answers = [
        (Answer::Picture(facts), &[0, 0, 128, 63][..]),
        (Answer::Refused(Reason::Malformed(Defect::Truncated)), &[]),
    ];
    answers
        .into_iter()
        .map(|(answer, body)| {
            let mut frame = Vec::new();
            write_frame(&mut frame, &answer, body).unwrap();
            frame
        })
        .collect()
}

fn pieces() -> Vec<u8> {
    let mut frames = Vec::new();
    write_frame(
        &mut frames,
        &ArchivePiece::Begin {
            part: Part::Train,
            height: 2,
            width: 2,
            channels: 1,
            numbers: 1,
            masks: true,
            depth: None,
        },
        &[],
    )
    .unwrap();
    write_frame(&mut frames, &ArchivePiece::Cases, &[1, 0, 9, 8, 7, 6, 0, 1, 1, 0]).unwrap();
    write_frame(&mut frames, &ArchivePiece::Refused(ArchiveDefect::LabelShape), &[]).unwrap();
    frames
}

#[test]
fn strangers_files_are_read_or_refused() {
    let mut request = Vec::new();
    write_frame(
        &mut request,
        &Request { format: Format::Dicom, target: Size::new(1, 28, 28).unwrap() },
        b"file",
    )
    .unwrap();
    let mut rle = [0; 64];
    (rle[0], rle[4]) = (1, 64);
    let jpeg = rasters().remove(1);
    run([
        Target::new("site-dicom-walk", |bytes| walk(bytes).is_ok(), [dicom(), structures()].concat()),
        Target::new("site-dicom", |bytes| decoded(Format::Dicom, bytes), dicom())
            .holding(MOST_MEMORY as usize)
            .slow(4),
        Target::new("site-raster", |bytes| decoded(Format::Raster, bytes), rasters())
            .holding(MOST_MEMORY as usize)
            .slow(4),
        Target::new("site-mask", |bytes| decoded(Format::Mask, bytes), [mask()])
            .holding(MOST_MEMORY as usize)
            .slow(4),
        Target::new("site-nifti", |bytes| decoded(Format::Nifti, bytes), [nifti::example()])
            .holding(MOST_MEMORY as usize)
            .slow(4),
        Target::new(
            "site-rle",
            |bytes| check_rle(bytes, CLAIM).is_ok(),
            [[&rle[..], &[15], &[7; 16]].concat()],
        ),
        Target::new("site-jpeg", |bytes| check_jpeg(bytes, CLAIM).is_ok(), [jpeg]),
        Target::new(
            "site-npz",
            archived,
            [archive(&[0, 1, 1], 1), archive(&[2; 40], 1), archive(&[0, 1, 1, 0, 0, 0], 3)],
        )
        .holding(64 << 20),
        Target::new(
            "site-table",
            |bytes| table::read(bytes, table::Content::Files(&[])).is_ok(),
            [b"path,label,patient,split,site\na/1.dcm,yes,p1,train,ada\n\"b,2\",no,,,\r\n".to_vec()],
        ),
        Target::new(
            "site-mask-table",
            |bytes| table::read(bytes, table::Content::Masks).is_ok(),
            [b"path,mask,patient\na/1.dcm,a/1.png,p1\n\"b,2\",../b.png,\r\n".to_vec()],
        ),
        Target::new(
            "site-rows",
            |bytes| {
                let number = Input::Number { column: "age".into(), mean: 50.0, std: 10.0 };
                let inputs = [number, Input::Indicator { column: "pain".into(), is: "4".into() }];
                let table = table::read(bytes, table::Content::Cases(&inputs));
                table.is_ok_and(|table| {
                    let mut values = table.rows.iter().flat_map(|row| row.values.iter().zip(&inputs));
                    values.all(|(value, input)| input.of(value.reveal()).is_ok_and(f32::is_finite))
                })
            },
            [b"age,pain,label,patient\n61.5,4.0,sick,p1\n\"44\",none,well,\r\n".to_vec()],
        ),
        Target::new("site-child-request", frames::<Request>, [request]),
        Target::new("site-child-answer", frames::<Answer>, answers()),
        Target::new("site-child-piece", frames::<ArchivePiece>, [pieces()]),
        Target::new("site-facts", canonical::<Answer>, [Answer::Refused(Reason::TooLarge).to_canonical()]),
    ]);
}
