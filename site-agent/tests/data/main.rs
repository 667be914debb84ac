//! Loading a hospital's data, through the real decode child.

// The lint spares functions marked as tests, and here everything is one.
#![allow(clippy::unwrap_used)]

mod attributes;
mod beside;
mod child;
mod corpora;
mod masks;
mod orientation;
mod pydicom;
mod rows;
mod sources;
mod volumes;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use consilium_site_agent::data::{Decoder, SplitKey, Target};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

/// A decoder with this package's own child.
fn decoder() -> Decoder {
    let mut command = Command::new(env!("CARGO_BIN_EXE_site-agent"));
    command.arg("decode");
    Decoder::new(command)
}

fn target(channels: u32, height: u32, width: u32) -> Target {
    Target::new(channels, height, width).unwrap()
}

fn key(byte: u8) -> SplitKey {
    SplitKey::new([byte; 32])
}

/// The folder of public test data, if it is there.
fn data_folder(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("CONSILIUM_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    skipped(&format!("{name} is not in the data folder"));
    None
}

/// Says so where the test harness does not swallow it.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// All files below a folder, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// A data set of a grey picture with 16 bits allocated, and nothing that is not needed.
fn grey(rows: u16, columns: u16, values: &[u16]) -> InMemDicomObject {
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag: Tag, vr: VR, value: PrimitiveValue| {
        object.put(DataElement::new(tag, vr, value));
    };
    put(tags::ROWS, VR::US, rows.into());
    put(tags::COLUMNS, VR::US, columns.into());
    put(tags::SAMPLES_PER_PIXEL, VR::US, 1_u16.into());
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into());
    put(tags::BITS_ALLOCATED, VR::US, 16_u16.into());
    put(tags::BITS_STORED, VR::US, 16_u16.into());
    put(tags::HIGH_BIT, VR::US, 15_u16.into());
    put(tags::PIXEL_REPRESENTATION, VR::US, 0_u16.into());
    put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(values.iter().copied().collect()));
    object
}

/// Sets one text or number.
fn put(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: impl Into<PrimitiveValue>) {
    object.put(DataElement::new(tag, vr, value.into()));
}

/// The whole file, written by dicom-object.
fn file(object: InMemDicomObject, syntax: &str) -> Vec<u8> {
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(syntax)
        .media_storage_sop_class_uid(uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION)
        .media_storage_sop_instance_uid("1.2.3.4");
    let mut bytes = Vec::new();
    object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
    bytes
}

/// A sequence with one empty item, for attributes that are sequences.
fn one_item() -> DataSetSequence<InMemDicomObject> {
    DataSetSequence::from(vec![InMemDicomObject::new_empty()])
}
