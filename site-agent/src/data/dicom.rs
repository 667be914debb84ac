//! A DICOM file's picture: the attributes a picture needs, and its stored values.
//!
//! Only for files that [`super::walk`] has passed. Runs in the decode child.

use std::io::{Cursor, Read};

use dicom_core::value::Value;
use dicom_dictionary_std::tags;
use dicom_object::file::ReadPreamble;
use dicom_object::mem::InMemElement;
use dicom_object::{DefaultDicomObject, OpenFileOptions, Tag};
use dicom_pixeldata::PixelDecoder;

use super::codestream::{self, Claim, JpegColour};
use super::local::Patient;
use super::orientation::Turn;
use super::reason::{Attribute, Defect, Reason};
use super::syntax::{Codec, Syntax};
use super::walk::{START_OF_GROUP, walk};

/// Most bytes of decoded pixels in one file, all frames together.
pub const MOST_PIXEL_BYTES: u64 = 64 << 20;

/// How samples become a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Grey; the smallest value is white.
    Monochrome1,
    /// Grey; the smallest value is black.
    Monochrome2,
    /// Red, green, blue.
    Rgb,
    /// Luma and two chromas for every pixel.
    YbrFull,
}

/// How shades of grey follow from a window (PS3.3, C.11.2.1.2 and C.11.2.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowFunction {
    /// `LINEAR`, the default.
    Linear,
    /// `LINEAR_EXACT`.
    LinearExact,
    /// `SIGMOID`.
    Sigmoid,
}

/// A window: what is shown between black and white.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Its centre, in rescaled values.
    pub centre: f64,
    /// Its width.
    pub width: f64,
    /// Its shape.
    pub function: WindowFunction,
}

/// The attributes of a picture. Rows, columns and bits are within what is decoded here.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The transfer syntax.
    pub syntax: Syntax,
    /// Rows of a frame.
    pub rows: u16,
    /// Columns of a frame.
    pub columns: u16,
    /// Samples per pixel: 1 or 3.
    pub samples: u16,
    /// Frames.
    pub frames: u32,
    /// Bits in which a sample is kept: 8 or 16.
    pub bits_allocated: u16,
    /// Bits of a sample that mean something.
    pub bits_stored: u16,
    /// The highest of those.
    pub high_bit: u16,
    /// Whether samples are in two's complement.
    pub signed: bool,
    /// Whether native colour samples are stored plane by plane.
    pub planar: bool,
    /// How samples become a colour.
    pub colour: Colour,
    /// `value * slope + intercept` is what the device measured.
    pub slope: f64,
    /// See `slope`.
    pub intercept: f64,
    /// The first window of the header.
    pub window: Option<Window>,
    /// Stored values from the first to the second, both included, are no picture (PixelPaddingValue).
    pub padding: Option<(i32, i32)>,
    /// What brings the picture into the one orientation.
    pub turn: Option<Turn>,
    /// `PatientID`, if it has one.
    pub patient: Option<Patient>,
}

/// A file that was read but not decoded yet.
pub struct Opened {
    object: DefaultDicomObject,
    header: Header,
}

/// Stored values, frame after frame, row after row, the samples of a pixel side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    bytes: Vec<u8>,
    wide: bool,
    shift: u32,
    bits: u32,
    signed: bool,
    /// Position of sample `s` of pixel `p` is `p * pixel_step + s * sample_step`, within a frame.
    pixel_step: usize,
    sample_step: usize,
    /// Whether an encapsulated YBR picture has become RGB on decoding.
    pub converted_to_rgb: bool,
}

impl Stored {
    /// The value of one sample of one pixel of the first frame.
    pub fn sample(&self, pixel: usize, sample: usize) -> i32 {
        self.at(pixel * self.pixel_step + sample * self.sample_step)
    }

    /// All values in the order of their storage.
    pub fn all(&self) -> Vec<i32> {
        let count = if self.wide { self.bytes.len() / 2 } else { self.bytes.len() };
        (0..count).map(|index| self.at(index)).collect()
    }

    fn at(&self, index: usize) -> i32 {
        let raw = if self.wide {
            u32::from(u16::from_le_bytes([self.bytes[2 * index], self.bytes[2 * index + 1]]))
        } else {
            u32::from(self.bytes[index])
        };
        let unused = 32 - self.bits;
        let top = (raw >> self.shift) << unused;
        if self.signed { top.cast_signed() >> unused } else { (top >> unused).cast_signed() }
    }
}

impl Opened {
    /// Walks, parses and checks a file. Nothing is decoded, and nothing is allocated by what it declares.
    pub fn read(bytes: &[u8]) -> Result<Self, Reason> {
        let walked = walk(bytes)?;
        if !walked.has_pixels {
            return Err(Reason::NoPixels);
        }
        // The parser insists on the length of the file header's group, which some writers leave out.
        let start = &bytes[..START_OF_GROUP];
        let rest = Cursor::new(start)
            .chain(Cursor::new(walked.missing_group_length))
            .chain(&bytes[START_OF_GROUP..]);
        let object = OpenFileOptions::new()
            .read_preamble(ReadPreamble::Always)
            .from_reader(rest)
            .map_err(|_| Reason::Malformed(Defect::Undecodable))?;
        let header = read_header(&object, walked.syntax)?;
        Ok(Self { object, header })
    }

    /// The attributes.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Decodes the stored values of all frames.
    pub fn decode(self) -> Result<Stored, Reason> {
        let Self { mut object, header } = self;
        let converted_to_rgb = check_pixels(&object, &header)?;
        // The decoder insists on agreeing lists of windows and rescales, which it would only hand back.
        for tag in [
            tags::WINDOW_CENTER,
            tags::WINDOW_WIDTH,
            tags::VOILUT_FUNCTION,
            tags::VOILUT_SEQUENCE,
            tags::RESCALE_SLOPE,
            tags::RESCALE_INTERCEPT,
            tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE,
            tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE,
        ] {
            object.remove_element(tag);
        }
        let mut bytes =
            object.decode_pixel_data().map_err(|_| Reason::Malformed(Defect::Undecodable))?.into_data();
        let wanted = header.pixel_bytes() as usize;
        // A native value of odd length is padded to an even one.
        let padded = header.syntax.codec == Codec::Native && wanted % 2 == 1 && bytes.len() == wanted + 1;
        if bytes.len() != wanted && !padded {
            return Err(Reason::Malformed(Defect::PixelLength));
        }
        bytes.truncate(wanted);
        let pixels = usize::from(header.rows) * usize::from(header.columns);
        let planar = header.planar && header.syntax.codec == Codec::Native;
        let (pixel_step, sample_step) = if planar { (1, pixels) } else { (usize::from(header.samples), 1) };
        Ok(Stored {
            bytes,
            wide: header.bits_allocated == 16,
            shift: u32::from(header.high_bit + 1 - header.bits_stored),
            bits: u32::from(header.bits_stored),
            signed: header.signed,
            pixel_step,
            sample_step,
            converted_to_rgb,
        })
    }
}

impl Header {
    /// Bytes of all decoded frames. At most [`MOST_PIXEL_BYTES`].
    pub fn pixel_bytes(&self) -> u64 {
        let samples = u64::from(self.rows) * u64::from(self.columns) * u64::from(self.samples);
        samples * u64::from(self.bits_allocated / 8) * u64::from(self.frames)
    }
}

/// Compares pixel data with the header. Tells whether decoding turns luma and chroma into RGB.
fn check_pixels(object: &DefaultDicomObject, header: &Header) -> Result<bool, Reason> {
    let element = object.get(tags::PIXEL_DATA).ok_or(Reason::NoPixels)?;
    let claim = Claim {
        rows: header.rows,
        columns: header.columns,
        samples: header.samples,
        bits_allocated: header.bits_allocated,
    };
    let length = Reason::Malformed(Defect::PixelLength);
    match (header.syntax.codec, element.value()) {
        (Codec::Native, Value::Primitive(value)) => {
            let wanted = header.pixel_bytes();
            let got = value.calculate_byte_len() as u64;
            // Some writers pad; nobody may be short.
            if got < wanted || got > wanted + wanted % 2 { Err(length) } else { Ok(false) }
        }
        (Codec::Native, _) | (_, Value::Primitive(_) | Value::Sequence(_)) => {
            Err(Reason::Malformed(Defect::BadSequence))
        }
        (codec, Value::PixelSequence(sequence)) => {
            let fragments = sequence.fragments();
            if codec == Codec::Rle {
                if fragments.len() as u64 != u64::from(header.frames) {
                    return Err(length);
                }
                fragments.iter().try_for_each(|fragment| codestream::check_rle(fragment, claim))?;
                return Ok(false);
            }
            // A frame may be spread over fragments; its header is in the first of them.
            let first = fragments.iter().find(|fragment| !fragment.is_empty()).ok_or(length)?;
            if header.frames > 1 && fragments.len() as u64 != u64::from(header.frames) {
                return Err(Reason::Malformed(Defect::PixelLength));
            }
            let mut colour = codestream::check_jpeg(first, claim)?;
            if header.frames > 1 {
                for fragment in fragments {
                    colour = codestream::check_jpeg(fragment, claim)?;
                }
            }
            // What the decoder will do with colours must be what the header asks for.
            match (header.colour, colour) {
                (Colour::Monochrome1 | Colour::Monochrome2, JpegColour::Grey)
                | (Colour::Rgb, JpegColour::AsStored) => Ok(false),
                (Colour::YbrFull, JpegColour::Converted) => Ok(true),
                _ => Err(Reason::UnsupportedPixels),
            }
        }
    }
}

fn read_header(object: &DefaultDicomObject, syntax: Syntax) -> Result<Header, Reason> {
    let rows = required(object, tags::ROWS, Attribute::Rows)?;
    let columns = required(object, tags::COLUMNS, Attribute::Columns)?;
    let samples = required(object, tags::SAMPLES_PER_PIXEL, Attribute::SamplesPerPixel)?;
    let bits_allocated = required(object, tags::BITS_ALLOCATED, Attribute::BitsAllocated)?;
    let bits_stored = required(object, tags::BITS_STORED, Attribute::BitsStored)?;
    let high_bit = required(object, tags::HIGH_BIT, Attribute::HighBit)?;
    let representation = required(object, tags::PIXEL_REPRESENTATION, Attribute::PixelRepresentation)?;
    let planar = match present(object, tags::PLANAR_CONFIGURATION) {
        _ if samples == 1 => false,
        None => return Err(Reason::MissingAttribute(Attribute::PlanarConfiguration)),
        Some(element) => match integer(element)? {
            0 => false,
            1 => true,
            _ => return Err(BAD_NUMBER),
        },
    };
    let frames = match present(object, tags::NUMBER_OF_FRAMES) {
        None => 1,
        Some(element) => {
            u32::try_from(integer(element)?).ok().filter(|&frames| frames > 0).ok_or(BAD_NUMBER)?
        }
    };
    let colour = colour(object, samples, syntax.codec)?;
    if rows == 0 || columns == 0 || representation > 1 {
        return Err(BAD_NUMBER);
    }
    // Modality tables (an older way to rescale) would change the values a window is meant for.
    if !matches!(bits_allocated, 8 | 16) || present(object, tags::MODALITY_LUT_SEQUENCE).is_some() {
        return Err(Reason::UnsupportedPixels);
    }
    if bits_stored == 0
        || bits_stored > bits_allocated
        || high_bit >= bits_allocated
        || high_bit + 1 < bits_stored
    {
        return Err(BAD_NUMBER);
    }
    let slope = optional_number(object, tags::RESCALE_SLOPE)?.unwrap_or(1.0);
    let intercept = optional_number(object, tags::RESCALE_INTERCEPT)?.unwrap_or(0.0);
    if slope == 0.0 {
        return Err(BAD_NUMBER);
    }
    let header = Header {
        syntax,
        rows,
        columns,
        samples,
        frames,
        bits_allocated,
        bits_stored,
        high_bit,
        signed: representation == 1,
        planar,
        colour,
        slope,
        intercept,
        window: window(object)?,
        padding: padding(object)?,
        turn: turn(object),
        patient: patient(object),
    };
    if header.pixel_bytes() > MOST_PIXEL_BYTES { Err(Reason::TooLarge) } else { Ok(header) }
}

const BAD_NUMBER: Reason = Reason::Malformed(Defect::BadNumber);

/// An element with a value. Empty elements say nothing and count as absent.
fn present(object: &DefaultDicomObject, tag: Tag) -> Option<&InMemElement> {
    object.get(tag).filter(|element| match element.value() {
        Value::Primitive(value) => value.calculate_byte_len() > 0,
        Value::Sequence(items) => !items.items().is_empty(),
        Value::PixelSequence(_) => true,
    })
}

fn integer(element: &InMemElement) -> Result<i64, Reason> {
    element.to_int::<i64>().map_err(|_| BAD_NUMBER)
}

fn required(object: &DefaultDicomObject, tag: Tag, attribute: Attribute) -> Result<u16, Reason> {
    let element = present(object, tag).ok_or(Reason::MissingAttribute(attribute))?;
    u16::try_from(integer(element)?).map_err(|_| BAD_NUMBER)
}

fn numbers(object: &DefaultDicomObject, tag: Tag) -> Result<Option<Vec<f64>>, Reason> {
    let Some(element) = present(object, tag) else { return Ok(None) };
    let numbers = element.to_multi_float64().map_err(|_| BAD_NUMBER)?;
    if numbers.iter().all(|number| number.is_finite()) { Ok(Some(numbers)) } else { Err(BAD_NUMBER) }
}

fn optional_number(object: &DefaultDicomObject, tag: Tag) -> Result<Option<f64>, Reason> {
    Ok(numbers(object, tag)?.and_then(|numbers| numbers.first().copied()))
}

fn text(object: &DefaultDicomObject, tag: Tag) -> Option<String> {
    let text = present(object, tag)?.to_str().ok()?;
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn colour(object: &DefaultDicomObject, samples: u16, codec: Codec) -> Result<Colour, Reason> {
    let name = text(object, tags::PHOTOMETRIC_INTERPRETATION)
        .ok_or(Reason::MissingAttribute(Attribute::PhotometricInterpretation))?;
    match (name.as_str(), samples, codec) {
        ("MONOCHROME1", 1, _) => Ok(Colour::Monochrome1),
        ("MONOCHROME2", 1, _) => Ok(Colour::Monochrome2),
        ("RGB", 3, _) => Ok(Colour::Rgb),
        // In JPEG the chroma may be coarser; its decoder fills it in.
        ("YBR_FULL", 3, _) | ("YBR_FULL_422", 3, Codec::JpegBaseline) => Ok(Colour::YbrFull),
        _ => Err(Reason::UnsupportedPixels),
    }
}

fn window(object: &DefaultDicomObject) -> Result<Option<Window>, Reason> {
    let centre = optional_number(object, tags::WINDOW_CENTER)?;
    let width = optional_number(object, tags::WINDOW_WIDTH)?;
    let (Some(centre), Some(width)) = (centre, width) else { return Ok(None) };
    let (function, narrowest) = match text(object, tags::VOILUT_FUNCTION).as_deref() {
        None | Some("LINEAR") => (WindowFunction::Linear, 1.0),
        Some("LINEAR_EXACT") => (WindowFunction::LinearExact, f64::MIN_POSITIVE),
        Some("SIGMOID") => (WindowFunction::Sigmoid, f64::MIN_POSITIVE),
        Some(_) => return Err(Reason::UnsupportedPixels),
    };
    if width < narrowest {
        return Err(BAD_NUMBER);
    }
    Ok(Some(Window { centre, width, function }))
}

fn padding(object: &DefaultDicomObject) -> Result<Option<(i32, i32)>, Reason> {
    let value = |tag| -> Result<Option<i32>, Reason> {
        let Some(element) = present(object, tag) else { return Ok(None) };
        i32::try_from(integer(element)?).map(Some).map_err(|_| BAD_NUMBER)
    };
    let Some(first) = value(tags::PIXEL_PADDING_VALUE)? else { return Ok(None) };
    let limit = value(tags::PIXEL_PADDING_RANGE_LIMIT)?.unwrap_or(first);
    Ok(Some((first.min(limit), first.max(limit))))
}

/// A header without usable geometry leaves the picture as stored; it is no reason to refuse it.
fn turn(object: &DefaultDicomObject) -> Option<Turn> {
    let cosines = numbers(object, tags::IMAGE_ORIENTATION_PATIENT).ok().flatten();
    let letters = present(object, tags::PATIENT_ORIENTATION)
        .and_then(|element| element.to_multi_str().ok().map(|letters| letters.to_vec()));
    Turn::from_header(cosines.as_deref(), letters.as_deref())
}

fn patient(object: &DefaultDicomObject) -> Option<Patient> {
    text(object, tags::PATIENT_ID).map(Patient::new)
}
