//! Masks: the class of each pixel of a picture. Files are read in the decode child; what their values mean depends on the
//! study, and is looked at by the parent.
//!
//! A mask file is a grey PNG with as many rows and columns as the picture. Its values are the places of the study's labels: 0 for the
//! first, which is the background, 1 for the second. With two labels 255 also stands for the second, as many programs write it.
//! A mask is brought to the study's size as its picture is (see [`super::picture`]), but takes at each place the value at its
//! centre: between two classes there is no third.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, ImageReader, Limits};

use super::dicom::MOST_PIXEL_BYTES;
use super::picture::centred;
use super::reason::{Defect, Reason};
use super::source::Target;

/// The values of a mask, row after row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    height: usize,
    width: usize,
    values: Vec<u8>,
}

impl Mask {
    /// Wraps `values`, shape `[height, width]`. `None` where their number does not fit, or there is none.
    pub fn new(height: usize, width: usize, values: Vec<u8>) -> Option<Self> {
        let count = height.checked_mul(width)?;
        (count > 0 && values.len() == count).then_some(Self { height, width, values })
    }

    /// Decodes a whole file.
    pub fn read(bytes: &[u8]) -> Result<Self, Reason> {
        let undecodable = |_| Reason::Malformed(Defect::Undecodable);
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|_| Reason::Malformed(Defect::Undecodable))?;
        if reader.format() != Some(ImageFormat::Png) {
            return Err(Reason::NotAMask);
        }
        let mut limits = Limits::default();
        limits.max_image_width = Some(u32::from(u16::MAX));
        limits.max_image_height = Some(u32::from(u16::MAX));
        limits.max_alloc = Some(MOST_PIXEL_BYTES);
        reader.limits(limits);
        let DynamicImage::ImageLuma8(image) = reader.decode().map_err(undecodable)? else {
            return Err(Reason::NotAMask);
        };
        let (height, width) = (image.height() as usize, image.width() as usize);
        Self::new(height, width, image.into_raw()).ok_or(Reason::NotAMask)
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The mask at a study's size: shape `[target.height, target.width]`.
    pub fn fitted(&self, target: Target) -> Vec<u8> {
        let sides = [self.height as f64, self.width as f64];
        let [rows, columns] = centred(sides, [target.height(), target.width()]);
        let centres = |(start, length): (f64, f64), count: usize, side: usize| -> Vec<usize> {
            let centre = |place: usize| start + length / count as f64 * (place as f64 + 0.5);
            (0..count).map(|place| (centre(place) as usize).min(side - 1)).collect()
        };
        let (down, across) =
            (centres(rows, target.height(), self.height), centres(columns, target.width(), self.width));
        down.iter()
            .flat_map(|row| across.iter().map(move |column| self.values[row * self.width + column]))
            .collect()
    }
}

/// Classes of a study's size brought back to a picture of `height` and `width`: what of it was cut off is of the first class.
/// The other way round to [`Mask::fitted`]; each pixel takes the class of the place that it lies in.
pub fn spread(classes: &[u8], target: Target, height: usize, width: usize) -> Vec<u8> {
    let [rows, columns] = centred([height as f64, width as f64], [target.height(), target.width()]);
    let place = |at: usize, (start, length): (f64, f64), count: usize| {
        let place = ((at as f64 + 0.5 - start) / length * count as f64).floor();
        (0.0..count as f64).contains(&place).then_some(place as usize)
    };
    let class = |row, column| {
        let (row, column) = (place(row, rows, target.height())?, place(column, columns, target.width())?);
        Some(classes[row * target.width() + column])
    };
    (0..height * width).map(|pixel| class(pixel / width, pixel % width).unwrap_or(0)).collect()
}

/// The classes that values of a mask stand for, among so many labels. `None` where one stands for none.
pub(super) fn classes(mut values: Vec<u8>, labels: usize) -> Option<Vec<u8>> {
    if labels == 2 && values.iter().all(|value| matches!(value, 0 | 255)) {
        for value in &mut values {
            *value = u8::from(*value == 255);
        }
    }
    values.iter().all(|value| usize::from(*value) < labels).then_some(values)
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, RgbImage};
    use proptest::prelude::*;

    use super::*;
    use crate::data::picture::Picture;

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_mask_is_a_grey_png() {
        let mask = Mask::read(&png(GrayImage::from_raw(3, 2, vec![0, 1, 2, 2, 1, 0]).unwrap())).unwrap();
        assert_eq!(mask, Mask::new(2, 3, vec![0, 1, 2, 2, 1, 0]).unwrap());
        assert_eq!((mask.height(), mask.width()), (2, 3));
        let colour = png(RgbImage::from_raw(1, 1, vec![1, 1, 1]).unwrap());
        assert_eq!(Mask::read(&colour), Err(Reason::NotAMask));
        let mut jpeg = Cursor::new(Vec::new());
        GrayImage::new(2, 2).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        assert_eq!(Mask::read(jpeg.get_ref()), Err(Reason::NotAMask));
        let mut short = png(GrayImage::new(9, 9));
        short.truncate(short.len() - 20);
        assert_eq!(Mask::read(&short), Err(Reason::Malformed(Defect::Undecodable)));
        assert!(Mask::new(0, 3, vec![]).is_none() && Mask::new(2, 2, vec![0; 3]).is_none());
    }

    #[test]
    fn what_is_cut_off_is_background() {
        let target = Target::new(1, 2, 2).unwrap();
        assert_eq!(spread(&[1, 2, 3, 1], target, 2, 4), [0, 1, 2, 0, 0, 3, 1, 0]);
        assert_eq!(spread(&[1, 2, 3, 1], target, 4, 2), [0, 0, 1, 2, 3, 1, 0, 0]);
    }

    #[test]
    fn values_are_places_of_labels() {
        assert_eq!(classes(vec![0, 1, 2], 3), Some(vec![0, 1, 2]));
        assert_eq!(classes(vec![0, 255, 0], 2), Some(vec![0, 1, 0]));
        assert_eq!(classes(vec![0, 1, 255], 2), None);
        assert_eq!(classes(vec![0, 255], 3), None);
        assert_eq!(classes(vec![0, 3], 3), None);
    }

    proptest! {
        /// What was brought to a picture's size comes back as it was, where the picture is at least twice as large.
        #[test]
        fn spreading_is_undone_by_fitting(
            classes in prop::collection::vec(0_u8..4, 4 * 5), height in 8_usize..30, width in 10_usize..30,
        ) {
            let target = Target::new(1, 4, 5).unwrap();
            let spread = spread(&classes, target, height, width);
            prop_assert_eq!(Mask::new(height, width, spread).unwrap().fitted(target), classes);
        }

        /// A mask and a picture that is its own mask come to the same places: of whole factors each place is inside one pixel
        /// or the mean of several, and the mask has the one at the centre.
        #[test]
        fn a_mask_is_fitted_as_its_picture_is(
            values in prop::collection::vec(0_u8..2, 6 * 10), factor in 1_u32..4, wide in any::<bool>(),
        ) {
            let mask = Mask::new(6, 10, values.clone()).unwrap();
            // Odd parts are cut from the middle, whole factors enlarge.
            let (height, width) = if wide { (2 * factor, 10 * factor) } else { (6 * factor, 6 * factor) };
            let target = Target::new(1, height, width).unwrap();
            let picture = Picture::new(1, 6, 10, values.into_iter().map(f32::from).collect()).unwrap();
            for (class, value) in mask.fitted(target).into_iter().zip(picture.fitted(target)) {
                let weight = if class == 1 { value } else { 1.0 - value };
                prop_assert!(weight > 0.249, "{} {}", class, value);
            }
        }
    }
}
