//! What compressed pixels say about themselves, before a codec believes them.
//!
//! The codecs trust the DICOM header for the size of their output and the compressed stream for what they
//! write into it. Here both are compared first, from marker segments and segment tables alone.

use super::reason::{Attribute, Defect, Reason};
use super::syntax::unsupported;

/// What the DICOM header says about one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
    /// Samples per pixel.
    pub samples: u16,
    /// 8 or 16.
    pub bits_allocated: u16,
}

const MISMATCH: Reason = Reason::Malformed(Defect::CodestreamMismatch);

/// Checks the segment table of one RLE frame (PS3.5, annex G.5): a count and fifteen offsets, ascending,
/// one segment per byte of a sample.
pub fn check_rle(frame: &[u8], claim: Claim) -> Result<(), Reason> {
    let header = frame.get(..64).ok_or(Reason::Malformed(Defect::Truncated))?;
    let word = |index: usize| {
        let bytes = &header[4 * index..4 * index + 4];
        u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")) as usize
    };
    let wanted = usize::from(claim.samples) * usize::from(claim.bits_allocated / 8);
    let segments = word(0);
    if segments != wanted || segments > 15 {
        return Err(MISMATCH);
    }
    let offsets: Vec<usize> = (1..=segments).map(word).chain([frame.len()]).collect();
    if offsets[0] < 64 || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
        return Err(MISMATCH);
    }
    let pixels = usize::from(claim.rows) * usize::from(claim.columns);
    for pair in offsets.windows(2) {
        if unpacked_length(&frame[pair[0]..pair[1]], pixels) < pixels {
            return Err(Reason::Malformed(Defect::Truncated));
        }
    }
    Ok(())
}

/// How many bytes a PackBits segment holds; counting stops at `enough`.
fn unpacked_length(segment: &[u8], enough: usize) -> usize {
    let (mut at, mut length) = (0, 0);
    while at < segment.len() && length < enough {
        let control = segment[at];
        let (taken, made) = match control {
            0..=127 => (2 + usize::from(control), 1 + usize::from(control)),
            128 => (1, 0),
            129..=255 => (2, 257 - usize::from(control)),
        };
        if at + taken > segment.len() {
            break;
        }
        at += taken;
        length += made;
    }
    length
}

/// How a JPEG's three components become colours when it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JpegColour {
    /// One component.
    Grey,
    /// Three components, taken as red, green and blue.
    AsStored,
    /// Three components, converted from luma and chroma.
    Converted,
}

/// Checks the frame header of a JPEG stream and tells what its decoder will do with colours.
pub fn check_jpeg(frame: &[u8], claim: Claim) -> Result<JpegColour, Reason> {
    let mut at = 2;
    if frame.get(..2) != Some(&[0xFF, 0xD8]) {
        return Err(MISMATCH);
    }
    let (mut jfif, mut adobe) = (false, None);
    loop {
        // Fill bytes may stand before any marker.
        while frame.get(at) == Some(&0xFF) && frame.get(at + 1) == Some(&0xFF) {
            at += 1;
        }
        let head = frame.get(at..at + 4).ok_or(Reason::Malformed(Defect::Truncated))?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[0] != 0xFF || length < 2 {
            return Err(MISMATCH);
        }
        let body = frame.get(at + 4..at + 2 + length).ok_or(Reason::Malformed(Defect::Truncated))?;
        match head[1] {
            0xE0 => jfif |= body.starts_with(b"JFIF\0"),
            0xEE if body.starts_with(b"Adobe") => adobe = body.get(11).copied(),
            // Scans, and the end, before any frame header.
            0xDA | 0xD9 => return Err(MISMATCH),
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                return check_frame_header(head[1], body, claim, jfif, adobe);
            }
            _ => {}
        }
        at += 2 + length;
    }
}

fn check_frame_header(
    marker: u8,
    body: &[u8],
    claim: Claim,
    jfif: bool,
    adobe: Option<u8>,
) -> Result<JpegColour, Reason> {
    let fixed = body.get(..6).ok_or(Reason::Malformed(Defect::Truncated))?;
    let precision = u16::from(fixed[0]);
    let rows = u16::from_be_bytes([fixed[1], fixed[2]]);
    let columns = u16::from_be_bytes([fixed[3], fixed[4]]);
    let components = usize::from(fixed[5]);
    let lossless = marker == 0xC3;
    if marker > 0xC3 {
        return Err(unsupported("", "JPEG process of a kind not used in DICOM"));
    }
    if !lossless && precision != 8 {
        return Err(unsupported("1.2.840.10008.1.2.4.51", "JPEG Extended, 12 bits"));
    }
    // The decoder writes two bytes per sample from 9 bits on, and the caller counts on that.
    let written = if precision > 8 { 16 } else { 8 };
    let fits = rows == claim.rows
        && columns == claim.columns
        && components == usize::from(claim.samples)
        && written == claim.bits_allocated;
    if !fits {
        return Err(MISMATCH);
    }
    if components == 1 {
        return Ok(JpegColour::Grey);
    }
    let id = |index: usize| body.get(6 + 3 * index).copied();
    Ok(match (id(0), id(1), id(2)) {
        _ if lossless => JpegColour::AsStored,
        (Some(1), Some(2), Some(3)) => JpegColour::Converted,
        (Some(b'R'), Some(b'G'), Some(b'B')) => JpegColour::AsStored,
        (None, _, _) | (_, None, _) | (_, _, None) => {
            return Err(Reason::MissingAttribute(Attribute::SamplesPerPixel));
        }
        _ if jfif || adobe != Some(0) => JpegColour::Converted,
        _ => JpegColour::AsStored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLAIM: Claim = Claim { rows: 2, columns: 3, samples: 1, bits_allocated: 8 };

    fn rle(segments: u32, offset: u32, data: &[u8]) -> Vec<u8> {
        let mut frame = segments.to_le_bytes().to_vec();
        frame.extend(offset.to_le_bytes());
        frame.resize(64, 0);
        frame.extend(data);
        frame
    }

    fn jpeg(marker: u8, precision: u8, rows: u16, ids: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xFF, 0xD8, 0xFF, marker, 0, (8 + 3 * ids.len()) as u8, precision];
        frame.extend(rows.to_be_bytes());
        frame.extend([0, 3, ids.len() as u8]);
        for &id in ids {
            frame.extend([id, 0x11, 0]);
        }
        frame
    }

    #[test]
    fn rle_must_hold_the_claimed_pixels() {
        assert_eq!(check_rle(&rle(1, 64, &[0xFB, 7]), CLAIM), Ok(()));
        let short = Err(Reason::Malformed(Defect::Truncated));
        assert_eq!(check_rle(&rle(1, 64, &[0xFC, 7]), CLAIM), short);
        assert_eq!(check_rle(&rle(1, 64, &[5, 7]), CLAIM), short);
        assert_eq!(check_rle(&[0; 63], CLAIM), short);
        for frame in
            [rle(2, 64, &[0xFB, 7]), rle(u32::MAX, 64, &[]), rle(1, 60, &[0xFB, 7]), rle(1, 90, &[0xFB, 7])]
        {
            assert_eq!(check_rle(&frame, CLAIM), Err(MISMATCH));
        }
    }

    #[test]
    fn jpeg_must_have_the_claimed_size() {
        assert_eq!(check_jpeg(&jpeg(0xC0, 8, 2, &[1]), CLAIM), Ok(JpegColour::Grey));
        assert_eq!(check_jpeg(&jpeg(0xC0, 8, 60_000, &[1]), CLAIM), Err(MISMATCH));
        assert_eq!(check_jpeg(&jpeg(0xC0, 8, 2, &[1, 2, 3]), CLAIM), Err(MISMATCH));
        let twelve = check_jpeg(&jpeg(0xC1, 12, 2, &[1]), CLAIM);
        assert!(matches!(twelve, Err(Reason::UnsupportedSyntax { .. })));
        let colour = Claim { samples: 3, ..CLAIM };
        assert_eq!(check_jpeg(&jpeg(0xC0, 8, 2, &[1, 2, 3]), colour), Ok(JpegColour::Converted));
        assert_eq!(check_jpeg(&jpeg(0xC0, 8, 2, b"RGB"), colour), Ok(JpegColour::AsStored));
        assert_eq!(check_jpeg(&jpeg(0xC3, 8, 2, &[1, 2, 3]), colour), Ok(JpegColour::AsStored));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in any::<bool>()) {
            let mut frame = if start { vec![0xFF, 0xD8, 0xFF] } else { vec![] };
            frame.extend(bytes);
            let _ = check_jpeg(&frame, CLAIM);
            let _ = check_rle(&frame, CLAIM);
        }
    }
}
