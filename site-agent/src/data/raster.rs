//! PNG and JPEG files. Runs in the decode child.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::dicom::MOST_PIXEL_BYTES;
use super::picture::Picture;
use super::reason::{Defect, Reason};

/// A decoded file.
pub struct Raster {
    /// The picture, turned the way its Exif data asks for.
    pub picture: Picture,
    /// `PNG` or `JPEG`.
    pub format: &'static str,
    /// Bits per sample.
    pub bits: u16,
    /// Whether Exif data asked for a turn.
    pub turned: bool,
}

/// The first bytes of a PNG file.
pub const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Whether these are the first bytes of a PNG or JPEG file.
pub fn looks_like_one(start: &[u8]) -> bool {
    start.starts_with(PNG) || start.starts_with(&[0xFF, 0xD8, 0xFF])
}

/// Decodes a whole file. Samples are divided by the largest value of their depth. Transparency
/// has no meaning in a medical picture: a channel for it is passed over if it is opaque everywhere.
pub fn read(bytes: &[u8]) -> Result<Raster, Reason> {
    let undecodable = |_| Reason::Malformed(Defect::Undecodable);
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|_| Reason::Malformed(Defect::Undecodable))?;
    let format = match reader.format() {
        Some(ImageFormat::Png) => "PNG",
        Some(ImageFormat::Jpeg) => "JPEG",
        _ => return Err(Reason::NotAnImage),
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(u32::from(u16::MAX));
    limits.max_image_height = Some(u32::from(u16::MAX));
    limits.max_alloc = Some(2 * MOST_PIXEL_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    if decoder.total_bytes() > MOST_PIXEL_BYTES {
        return Err(Reason::TooLarge);
    }
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    let colour = image.color();
    if colour.has_alpha() && !is_opaque(&image) {
        return Err(Reason::UnsupportedPixels);
    }
    let picture = picture(&image, colour).ok_or(Reason::UnsupportedPixels)?;
    let bits = 8 * u16::from(colour.bytes_per_pixel() / colour.channel_count());
    Ok(Raster { picture, format, bits, turned: orientation != Orientation::NoTransforms })
}

fn is_opaque(image: &DynamicImage) -> bool {
    match image {
        DynamicImage::ImageLumaA8(image) => image.pixels().all(|pixel| pixel.0[1] == u8::MAX),
        DynamicImage::ImageRgba8(image) => image.pixels().all(|pixel| pixel.0[3] == u8::MAX),
        DynamicImage::ImageLumaA16(image) => image.pixels().all(|pixel| pixel.0[1] == u16::MAX),
        DynamicImage::ImageRgba16(image) => image.pixels().all(|pixel| pixel.0[3] == u16::MAX),
        _ => true,
    }
}

fn picture(image: &DynamicImage, colour: ColorType) -> Option<Picture> {
    let samples = usize::from(colour.channel_count());
    let channels = if colour.has_color() { 3 } else { 1 };
    let (width, height) = (image.width() as usize, image.height() as usize);
    let bytes = image.as_bytes();
    let mut values = Vec::with_capacity(channels * width * height);
    match usize::from(colour.bytes_per_pixel()) / samples {
        1 => {
            for channel in 0..channels {
                values.extend(bytes.chunks_exact(samples).map(|pixel| f32::from(pixel[channel]) / 255.0));
            }
        }
        2 => {
            for channel in 0..channels {
                values.extend(bytes.chunks_exact(2 * samples).map(|pixel| {
                    let sample = u16::from_ne_bytes([pixel[2 * channel], pixel[2 * channel + 1]]);
                    f32::from(sample) / 65_535.0
                }));
            }
        }
        _ => return None,
    }
    Picture::new(channels, height, width, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayAlphaImage, GrayImage, ImageBuffer, Luma, RgbImage};

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_depth_becomes_zero_to_one() {
        let grey = read(&png(GrayImage::from_raw(2, 1, vec![0, 51]).unwrap())).unwrap();
        assert_eq!((grey.format, grey.bits), ("PNG", 8));
        assert_eq!(grey.picture.values(), [0.0, 0.2]);
        let deep: ImageBuffer<Luma<u16>, Vec<u16>> =
            ImageBuffer::from_raw(2, 1, vec![13_107, 65_535]).unwrap();
        assert_eq!(read(&png(deep)).unwrap().picture.values(), [0.2, 1.0]);
        let rgb = RgbImage::from_raw(2, 1, vec![0, 51, 255, 51, 0, 255]).unwrap();
        assert_eq!(read(&png(rgb)).unwrap().picture.values(), [0.0, 0.2, 0.2, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn transparency_is_passed_over_only_if_there_is_none() {
        let opaque = GrayAlphaImage::from_raw(1, 1, vec![51, 255]).unwrap();
        assert_eq!(read(&png(opaque)).unwrap().picture.values(), [0.2]);
        let clear = GrayAlphaImage::from_raw(1, 1, vec![51, 254]).unwrap();
        assert_eq!(read(&png(clear)).err(), Some(Reason::UnsupportedPixels));
    }

    #[test]
    fn a_png_that_declares_gigapixels_is_refused_before_it_allocates() {
        let mut bytes = png(GrayImage::from_raw(1, 1, vec![0]).unwrap());
        bytes[16..24].copy_from_slice(&[0, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF]);
        // The checksum of the header is wrong now, which may be noticed first.
        assert!(read(&bytes).is_err());
        assert_eq!(read(b"GIF89a").err(), Some(Reason::NotAnImage));
        assert_eq!(read(b"").err(), Some(Reason::NotAnImage));
    }
}
