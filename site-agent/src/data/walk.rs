//! The header walk: is a DICOM file's structure honest?
//!
//! `dicom-parser` sizes its buffers by *declared* lengths. This walk reads only element headers,
//! allocates nothing by them, and refuses a file before the parser sees it when an element declares
//! more bytes than are left, when sequences nest deeper than [`DEEPEST`], or when there are more than
//! [`MOST_ELEMENTS`]. It follows the parser's reading of the standard (PS3.5, section 7) where the two
//! differ, because it is the parser that must be safe: an element of undefined length that is not pixel
//! data is a sequence in the same layout, whatever its VR. Where the parser is lenient, the walk is not.

use std::io::Read;

use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::StandardDataDictionary;

use super::reason::{Defect, Reason};
use super::syntax::{Layout, Syntax};

/// Deepest nesting of sequences.
pub const DEEPEST: u32 = 16;
/// Most elements in one file, items and fragments included.
pub const MOST_ELEMENTS: u32 = 100_000;
/// Most bytes a deflated data set may inflate to.
pub const MOST_INFLATED: u64 = 96 << 20;

const UNDEFINED: u32 = u32::MAX;
const PIXEL_DATA: Tag = Tag(0x7FE0, 0x0010);
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// Where the file header's elements start: behind the preamble and `DICM`.
pub const START_OF_GROUP: usize = 132;

/// What the walk saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// The transfer syntax.
    pub syntax: Syntax,
    /// Whether there is pixel data at the top level.
    pub has_pixels: bool,
    /// Number of elements, items and fragments.
    pub elements: u32,
    /// The element that gives the length of the file header, if the file lacks it; empty otherwise.
    pub missing_group_length: Vec<u8>,
}

/// Walks over a whole file. `bytes` is the file.
pub fn walk(bytes: &[u8]) -> Result<Walked, Reason> {
    if bytes.get(128..132) != Some(b"DICM") {
        return Err(Reason::Malformed(Defect::NoFileHeader));
    }
    let (uid, start, missing_group_length) = file_header(bytes)?;
    let syntax = Syntax::find(&uid)?;
    let inflated;
    let data_set = if syntax.layout == Layout::Deflated {
        inflated = inflate(&bytes[start..])?;
        &inflated[..]
    } else {
        &bytes[start..]
    };
    let layout = if syntax.layout == Layout::Deflated { Layout::ExplicitLittle } else { syntax.layout };
    let mut walker = Walker { bytes: data_set, at: 0, layout, elements: 0, has_pixels: false };
    walker.elements_until(data_set.len(), false, 0)?;
    Ok(Walked { syntax, has_pixels: walker.has_pixels, elements: walker.elements, missing_group_length })
}

fn inflate(deflated: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut inflated = Vec::new();
    let mut reader = flate2::read::DeflateDecoder::new(deflated).take(MOST_INFLATED + 1);
    reader.read_to_end(&mut inflated).map_err(|_| Reason::Malformed(Defect::BadDeflate))?;
    if inflated.len() as u64 > MOST_INFLATED { Err(Reason::TooLarge) } else { Ok(inflated) }
}

/// The transfer syntax, where the data set starts, and the length element if it is missing.
fn file_header(bytes: &[u8]) -> Result<(String, usize, Vec<u8>), Reason> {
    let bad = || Reason::Malformed(Defect::BadFileHeader);
    let mut walker =
        Walker { bytes, at: START_OF_GROUP, layout: Layout::ExplicitLittle, elements: 0, has_pixels: false };
    let mut uid = None;
    let mut declared_end = None;
    while walker.peek_group() == Some(0x0002) {
        let (tag, vr, length) = walker.header()?;
        if vr == VR::SQ || length == UNDEFINED {
            return Err(bad());
        }
        let value = walker.take(length)?;
        match tag {
            Tag(0x0002, 0x0000) => {
                let group: [u8; 4] = value.try_into().map_err(|_| bad())?;
                declared_end = Some(walker.at as u64 + u64::from(u32::from_le_bytes(group)));
            }
            Tag(0x0002, 0x0010) => {
                let text = value.iter().map(|&byte| char::from(byte)).collect::<String>();
                uid = Some(text.trim_end_matches(['\0', ' ']).to_owned());
            }
            _ => {}
        }
    }
    // The parser goes by the declared length of the group: where there is one, it must be true.
    let missing = match declared_end {
        Some(end) if end == walker.at as u64 => Vec::new(),
        Some(_) => return Err(bad()),
        None => {
            let length = u32::try_from(walker.at - START_OF_GROUP).map_err(|_| bad())?;
            [&b"\x02\x00\x00\x00UL\x04\x00"[..], &length.to_le_bytes()].concat()
        }
    };
    Ok((uid.ok_or_else(bad)?, walker.at, missing))
}

struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    layout: Layout,
    elements: u32,
    has_pixels: bool,
}

impl<'a> Walker<'a> {
    fn peek_group(&self) -> Option<u16> {
        let bytes = self.bytes.get(self.at..self.at + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        let bytes = self.bytes.get(self.at..self.at + N).ok_or(Reason::Malformed(Defect::Truncated))?;
        self.at += N;
        Ok(bytes.try_into().expect("the slice was taken with this length"))
    }

    fn u16(&mut self) -> Result<u16, Reason> {
        let bytes = self.fixed()?;
        let big = self.layout == Layout::ExplicitBig;
        Ok(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32(&mut self) -> Result<u32, Reason> {
        let bytes = self.fixed()?;
        let big = self.layout == Layout::ExplicitBig;
        Ok(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn tag(&mut self) -> Result<Tag, Reason> {
        self.elements += 1;
        if self.elements > MOST_ELEMENTS {
            return Err(Reason::Malformed(Defect::TooManyElements));
        }
        Ok(Tag(self.u16()?, self.u16()?))
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8], Reason> {
        let end = self.end_of(length, self.bytes.len())?;
        let value = &self.bytes[self.at..end];
        self.at = end;
        Ok(value)
    }

    /// Where a value of `length` bytes ends, which must not be behind `limit`.
    fn end_of(&self, length: u32, limit: usize) -> Result<usize, Reason> {
        match self.at.checked_add(length as usize) {
            Some(end) if end <= limit => Ok(end),
            _ => Err(Reason::Malformed(Defect::LengthBeyondEnd)),
        }
    }

    /// An element's tag, VR and declared length.
    fn header(&mut self) -> Result<(Tag, VR, u32), Reason> {
        let tag = self.tag()?;
        if tag.0 == 0xFFFE {
            return Ok((tag, VR::UN, self.u32()?));
        }
        if self.layout == Layout::ImplicitLittle {
            let vr = StandardDataDictionary.by_tag(tag).map_or(VR::UN, |entry| entry.vr().relaxed());
            return Ok((tag, vr, self.u32()?));
        }
        let vr = VR::from_binary(self.fixed()?).unwrap_or(VR::UN);
        let length = if has_short_length(vr) {
            u32::from(self.u16()?)
        } else {
            self.fixed::<2>()?;
            self.u32()?
        };
        Ok((tag, vr, length))
    }

    /// Elements up to `limit`, or up to the mark that ends an item.
    fn elements_until(&mut self, limit: usize, delimited: bool, depth: u32) -> Result<(), Reason> {
        loop {
            if self.at >= limit {
                // A value may end exactly at its limit, never behind it; a delimited item needs its mark.
                let whole = self.at == limit && !delimited;
                return if whole { Ok(()) } else { Err(Reason::Malformed(Defect::Truncated)) };
            }
            let (tag, vr, length) = self.header()?;
            if tag == ITEM_END && delimited {
                return Ok(());
            }
            if tag.0 == 0xFFFE {
                return Err(Reason::Malformed(Defect::BadSequence));
            }
            if depth == 0 && tag == PIXEL_DATA {
                self.has_pixels = true;
            }
            if length == UNDEFINED && tag == PIXEL_DATA {
                self.fragments(limit)?;
            } else if vr == VR::SQ || length == UNDEFINED {
                let end = if length == UNDEFINED { None } else { Some(self.end_of(length, limit)?) };
                self.items(end, limit, depth + 1)?;
            } else {
                self.at = self.end_of(length, limit)?;
            }
        }
    }

    /// The items of a sequence, up to its declared end or its delimiter.
    fn items(&mut self, end: Option<usize>, limit: usize, depth: u32) -> Result<(), Reason> {
        if depth > DEEPEST {
            return Err(Reason::Malformed(Defect::TooDeep));
        }
        let within = end.unwrap_or(limit);
        loop {
            if end == Some(self.at) {
                return Ok(());
            }
            let (tag, length) = (self.tag()?, self.u32()?);
            if self.at > within {
                return Err(Reason::Malformed(Defect::LengthBeyondEnd));
            }
            match tag {
                SEQUENCE_END if end.is_none() => return Ok(()),
                ITEM if length == UNDEFINED => self.elements_until(within, true, depth)?,
                ITEM => {
                    let item_end = self.end_of(length, within)?;
                    self.elements_until(item_end, false, depth)?;
                }
                _ => return Err(Reason::Malformed(Defect::BadSequence)),
            }
        }
    }

    /// Encapsulated pixel data: an offset table and fragments, then a delimiter.
    fn fragments(&mut self, limit: usize) -> Result<(), Reason> {
        loop {
            let (tag, length) = (self.tag()?, self.u32()?);
            match tag {
                SEQUENCE_END => return Ok(()),
                ITEM if length != UNDEFINED => self.at = self.end_of(length, limit)?,
                _ => return Err(Reason::Malformed(Defect::BadSequence)),
            }
        }
    }
}

/// PS3.5, table 7.1-2: these have a length of 16 bits; all others reserve two bytes and have 32.
fn has_short_length(vr: VR) -> bool {
    matches!(
        vr,
        VR::AE
            | VR::AS
            | VR::AT
            | VR::CS
            | VR::DA
            | VR::DS
            | VR::DT
            | VR::FL
            | VR::FD
            | VR::IS
            | VR::LO
            | VR::LT
            | VR::PN
            | VR::SH
            | VR::SL
            | VR::SS
            | VR::ST
            | VR::TM
            | VR::UI
            | VR::UL
            | VR::US
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An explicit little-endian file whose data set is `data_set`.
    fn file(uid: &str, data_set: &[u8]) -> Vec<u8> {
        let mut uid = uid.as_bytes().to_vec();
        if uid.len() % 2 == 1 {
            uid.push(0);
        }
        let mut bytes = vec![0; 128];
        bytes.extend(b"DICM\x02\x00\x00\x00UL\x04\x00");
        bytes.extend((8 + uid.len() as u32).to_le_bytes());
        bytes.extend(b"\x02\x00\x10\x00UI");
        bytes.extend((uid.len() as u16).to_le_bytes());
        bytes.extend(uid);
        bytes.extend(data_set);
        bytes
    }

    const EXPLICIT: &str = "1.2.840.10008.1.2.1";

    fn nested(depth: u32) -> Vec<u8> {
        let mut data_set = Vec::new();
        for _ in 0..depth {
            data_set.extend(b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff");
        }
        for _ in 0..depth {
            data_set.extend(b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00");
        }
        data_set
    }

    #[test]
    fn nesting_of_sixteen_passes_and_seventeen_does_not() {
        assert!(walk(&file(EXPLICIT, &nested(16))).is_ok());
        assert_eq!(walk(&file(EXPLICIT, &nested(17))), Err(Reason::Malformed(Defect::TooDeep)));
        assert_eq!(walk(&file(EXPLICIT, &nested(100_000))), Err(Reason::Malformed(Defect::TooDeep)));
    }

    #[test]
    fn a_declared_length_beyond_the_end_is_refused_everywhere() {
        let plain = b"\x10\x00\x10\x00PN\xff\x00abc";
        let long = b"\xe0\x7f\x10\x00OW\x00\x00\x00\x00\x00\xf0ab";
        let fragment = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\x00\x00\x00\x70";
        let sequence = b"\x08\x00\x40\x11SQ\x00\x00\x10\x00\x00\x00\xfe\xff\x00\xe0\x40\x00\x00\x00";
        for data_set in [&plain[..], long, fragment, sequence] {
            let refusal = walk(&file(EXPLICIT, data_set));
            assert_eq!(refusal, Err(Reason::Malformed(Defect::LengthBeyondEnd)), "{data_set:?}");
        }
    }

    #[test]
    fn too_many_elements_are_refused() {
        let element = b"\x10\x00\x10\x00PN\x00\x00";
        assert!(walk(&file(EXPLICIT, &element.repeat(99_999))).is_ok());
        let many = file(EXPLICIT, &element.repeat(100_001));
        assert_eq!(walk(&many), Err(Reason::Malformed(Defect::TooManyElements)));
    }

    #[test]
    fn a_deflate_bomb_is_too_large() {
        use std::io::Write;
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        let zeros = vec![0; 1 << 20];
        for _ in 0..=MOST_INFLATED >> 20 {
            encoder.write_all(&zeros).unwrap();
        }
        let bomb = file("1.2.840.10008.1.2.1.99", &encoder.finish().unwrap());
        assert!(bomb.len() < 200_000);
        assert_eq!(walk(&bomb), Err(Reason::TooLarge));
    }

    #[test]
    fn a_false_length_of_the_file_header_is_refused() {
        let mut bytes = file(EXPLICIT, b"");
        bytes[140] += 2;
        assert_eq!(walk(&bytes), Err(Reason::Malformed(Defect::BadFileHeader)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), which in 0_usize..4) {
            let uids = ["1.2.840.10008.1.2", EXPLICIT, "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"];
            let _ = walk(&tail);
            let _ = walk(&file(uids[which], &tail));
        }
    }
}
