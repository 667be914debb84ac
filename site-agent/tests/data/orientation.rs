//! An asymmetric phantom in every transfer syntax, photometric interpretation, depth and orientation
//! gives the identical tensor.

use consilium_site_agent::data::protocol::Format;
use dicom_core::value::{PixelFragmentSequence, Value};
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use image::{GrayImage, ImageBuffer, ImageFormat, Luma, RgbImage};

use super::{decoder, file, grey, put, target};

const ROWS: usize = 5;
const COLUMNS: usize = 5;

/// Shades from 0 to 255, no two rows, columns or diagonals alike.
fn shade(row: usize, column: usize) -> u8 {
    ((row * 53 + column * 17 + row * row * column * 7) % 251) as u8 + u8::from(row == 4 && column == 4) * 4
}

fn phantom() -> Vec<u8> {
    (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| shade(row, column))).collect()
}

fn expected() -> Vec<f32> {
    phantom().iter().map(|&shade| f32::from(shade) / 255.0).collect()
}

/// A window over 0 to 255: linear with width 256 runs from centre - 128 to centre + 127.
fn windowed(mut object: InMemDicomObject, centre: &str) -> InMemDicomObject {
    put(&mut object, tags::WINDOW_CENTER, VR::DS, centre);
    put(&mut object, tags::WINDOW_WIDTH, VR::DS, "256");
    object
}

fn plain(shades: &[u8]) -> InMemDicomObject {
    let values: Vec<u16> = shades.iter().map(|&shade| shade.into()).collect();
    windowed(grey(ROWS as u16, COLUMNS as u16, &values), "128")
}

fn decode(bytes: Vec<u8>, format: Format) -> Vec<f32> {
    decoder().decode(format, target(1, 5, 5), bytes).unwrap().values
}

fn assert_close(values: &[f32], what: &str) {
    for (got, want) in values.iter().zip(expected()) {
        assert!((got - want).abs() < 1e-6, "{what}: {values:?}");
    }
}

#[test]
fn every_layout_gives_the_identical_tensor() {
    for syntax in [
        uids::IMPLICIT_VR_LITTLE_ENDIAN,
        uids::EXPLICIT_VR_LITTLE_ENDIAN,
        "1.2.840.10008.1.2.2",
        uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    ] {
        assert_close(&decode(file(plain(&phantom()), syntax), Format::Dicom), syntax);
    }
}

#[test]
fn run_lengths_give_the_identical_tensor() {
    // One segment of literals per byte of a sample, the more significant byte first.
    let mut frame = 2_u32.to_le_bytes().to_vec();
    frame.extend(64_u32.to_le_bytes());
    frame.extend(92_u32.to_le_bytes());
    frame.resize(64, 0);
    frame.push(24);
    frame.extend([0; 25]);
    frame.resize(92, 128);
    frame.push(24);
    frame.extend(phantom());
    let mut object = plain(&phantom());
    let pixels = PixelFragmentSequence::new(vec![], vec![frame]);
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, Value::from(pixels)));
    assert_close(&decode(file(object, uids::RLE_LOSSLESS), Format::Dicom), "RLE");
}

#[test]
fn photometric_depth_sign_and_rescale_do_not_show() {
    let syntax = uids::EXPLICIT_VR_LITTLE_ENDIAN;
    let inverse: Vec<u8> = phantom().iter().map(|shade| 255 - shade).collect();
    let mut monochrome1 = plain(&inverse);
    put(&mut monochrome1, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1");
    assert_close(&decode(file(monochrome1, syntax), Format::Dicom), "MONOCHROME1");

    let mut eight = plain(&phantom());
    for (tag, value) in [(tags::BITS_ALLOCATED, 8_u16), (tags::BITS_STORED, 8), (tags::HIGH_BIT, 7)] {
        put(&mut eight, tag, VR::US, value);
    }
    let mut padded = phantom();
    padded.push(0);
    put(&mut eight, tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(padded.into()));
    assert_close(&decode(file(eight, syntax), Format::Dicom), "8 bits, odd length");

    // 12 bits in the upper part of 16, signed, with something else in the lowest four.
    let shifted: Vec<u16> =
        phantom().iter().map(|&shade| ((i16::from(shade) - 100) << 4).cast_unsigned() | 0b1010).collect();
    let mut twelve = windowed(grey(5, 5, &shifted), "28");
    for (tag, value) in [(tags::BITS_STORED, 12_u16), (tags::HIGH_BIT, 15), (tags::PIXEL_REPRESENTATION, 1)] {
        put(&mut twelve, tag, VR::US, value);
    }
    assert_close(&decode(file(twelve, syntax), Format::Dicom), "12 bits, signed");

    let mut rescaled = plain(&phantom());
    put(&mut rescaled, tags::RESCALE_SLOPE, VR::DS, "2");
    put(&mut rescaled, tags::RESCALE_INTERCEPT, VR::DS, "-1000");
    put(&mut rescaled, tags::WINDOW_CENTER, VR::DS, "-745");
    put(&mut rescaled, tags::WINDOW_WIDTH, VR::DS, "510");
    put(&mut rescaled, tags::VOILUT_FUNCTION, VR::CS, "LINEAR_EXACT");
    assert_close(&decode(file(rescaled, syntax), Format::Dicom), "rescaled");

    // Without a window the darkest and brightest value count, and padding does not.
    let mut values: Vec<u16> = phantom().iter().map(|&shade| u16::from(shade) * 3 + 7).collect();
    let darkest = phantom().iter().position(|&shade| shade == 0).unwrap();
    values[darkest + 1] = 60_000;
    let mut own_range = grey(5, 5, &values);
    put(&mut own_range, tags::PIXEL_PADDING_VALUE, VR::US, 60_000_u16);
    let shown = decode(file(own_range, syntax), Format::Dicom);
    let brightest = f32::from(*phantom().iter().max().unwrap());
    for (index, (got, shade)) in shown.iter().zip(phantom()).enumerate() {
        let want = if index == darkest + 1 { 0.0 } else { f32::from(shade) / brightest };
        assert!((got - want).abs() < 1e-6, "own range at {index}: {got} is not {want}");
    }
}

#[test]
fn every_orientation_gives_the_identical_tensor() {
    // Upright is left across and feet down; each entry says where stored rows and columns run instead.
    type Place = fn(usize, usize) -> (usize, usize);
    let turns: [(&str, &str, Place); 8] = [
        ("L", "F", |row, column| (row, column)),
        ("R", "F", |row, column| (row, 4 - column)),
        ("L", "H", |row, column| (4 - row, column)),
        ("R", "H", |row, column| (4 - row, 4 - column)),
        ("F", "L", |row, column| (column, row)),
        ("F", "R", |row, column| (column, 4 - row)),
        ("H", "L", |row, column| (4 - column, row)),
        ("H", "R", |row, column| (4 - column, 4 - row)),
    ];
    for (across, down, place) in turns {
        let stored: Vec<u8> = (0..5)
            .flat_map(|row| {
                (0..5).map(move |column| {
                    let (row, column) = place(row, column);
                    shade(row, column)
                })
            })
            .collect();
        let mut object = plain(&stored);
        let letters = PrimitiveValue::Strs([across.to_owned(), down.to_owned()].into_iter().collect());
        put(&mut object, tags::PATIENT_ORIENTATION, VR::CS, letters);
        let bytes = file(object, uids::EXPLICIT_VR_LITTLE_ENDIAN);
        assert_close(&decode(bytes, Format::Dicom), &format!("{across}\\{down}"));
    }
}

#[test]
fn png_of_every_depth_and_colour_gives_the_identical_tensor() {
    let png = |image: image::DynamicImage| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        decode(bytes.into_inner(), Format::Raster)
    };
    assert_close(&png(GrayImage::from_raw(5, 5, phantom()).unwrap().into()), "grey");
    let deep: Vec<u16> = phantom().iter().map(|&shade| u16::from(shade) * 257).collect();
    let deep: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_raw(5, 5, deep).unwrap();
    assert_close(&png(deep.into()), "16 bits");
    let rgb: Vec<u8> = phantom().iter().flat_map(|&shade| [shade; 3]).collect();
    assert_close(&png(RgbImage::from_raw(5, 5, rgb).unwrap().into()), "RGB");
}
