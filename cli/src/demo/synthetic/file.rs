//! A scanner: what it does to a picture, and how it writes it down.

use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

use super::difficulty;
use super::draws::Draws;

/// How stored numbers relate to shades.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// 8 bits.
    Eight,
    /// 12 of 16 bits.
    Twelve,
    /// 16 bits, two's complement, rescaled by 2 and -1024.
    SignedRescaled,
    /// 14 of 16 bits.
    Fourteen,
}

impl Depth {
    /// Bits allocated and stored.
    fn bits(self) -> (u16, u16) {
        match self {
            Self::Eight => (8, 8),
            Self::Twelve => (16, 12),
            Self::SignedRescaled => (16, 16),
            Self::Fourteen => (16, 14),
        }
    }

    /// The measured values of black and white, before the window.
    fn range(self) -> (f64, f64) {
        match self {
            Self::Eight => (0.0, 255.0),
            Self::Twelve => (0.0, 4095.0),
            Self::SignedRescaled => (-1024.0, 3072.0),
            Self::Fourteen => (0.0, 16_383.0),
        }
    }

    /// The stored value of a measured one.
    fn stored(self, measured: f64) -> u16 {
        let (low, high) = self.range();
        let measured = measured.clamp(low, high);
        match self {
            Self::SignedRescaled => (((measured - low) / 2.0).round() as i16).cast_unsigned(),
            _ => measured.round() as u16,
        }
    }
}

/// A hospital's device.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scanner {
    depth: Depth,
    /// MONOCHROME1: small values are bright.
    inverse: bool,
    /// Pictures are stored mirrored, and the header says so.
    mirrored: bool,
    /// Part of the measured range that the window shows.
    window: (f64, f64),
    gamma: f64,
    noise: f64,
    /// 0: sharp, 1: every pixel is the mean of itself and its neighbours.
    blur: f64,
    /// Brightness added from left to right.
    shading: f64,
}

impl Scanner {
    /// The scanner of hospital `number`. Depth, photometric interpretation and orientation go round, so
    /// that four hospitals show all of them.
    pub(super) fn draw(draws: &mut Draws, number: u64) -> Self {
        let depths = [Depth::Twelve, Depth::Eight, Depth::SignedRescaled, Depth::Fourteen];
        Self {
            depth: depths[(number % 4) as usize],
            inverse: number % 3 == 1,
            mirrored: number % 4 == 3,
            window: (draws.between((0.0, 0.08)), draws.between((0.85, 1.0))),
            gamma: draws.between(difficulty::GAMMA),
            noise: draws.between(difficulty::NOISE),
            blur: draws.between((0.0, 0.6)),
            shading: draws.between((-0.08, 0.08)),
        }
    }

    /// A DICOM file of a picture of `side` x `side` shades.
    pub(super) fn file(
        &self,
        shades: &[f64],
        side: u16,
        patient: &str,
        picture: u32,
        draws: &mut Draws,
    ) -> Vec<u8> {
        let width = usize::from(side);
        let (low, high) = self.depth.range();
        let mut values = Vec::with_capacity(shades.len());
        for row in 0..width {
            for column in 0..width {
                let column = if self.mirrored { width - 1 - column } else { column };
                let shade = self.blurred(shades, width, row, column);
                let across = (column as f64 + 0.5) / width as f64 - 0.5;
                // Noise is stronger where little light arrives, as with photons.
                let shade = (shade + self.shading * across).clamp(0.0, 1.0);
                let noisy = shade + self.noise * (1.15 - 0.5 * shade) * draws.normal();
                let shade = gamma(noisy.clamp(0.0, 1.0), self.gamma);
                let shown = self.window.0 + (self.window.1 - self.window.0) * shade;
                let shown = if self.inverse { 1.0 - shown } else { shown };
                values.push(self.depth.stored(low + (high - low) * shown));
            }
        }
        let instance = format!("2.25.{}{:019}", 1 + draws.word() % 9, draws.word() >> 1);
        self.write(&values, side, patient, picture, &instance)
    }

    fn blurred(&self, shades: &[f64], width: usize, row: usize, column: usize) -> f64 {
        let at = |row: usize, column: usize| shades[row.min(width - 1) * width + column.min(width - 1)];
        let neighbours = at(row.saturating_sub(1), column)
            + at(row + 1, column)
            + at(row, column.saturating_sub(1))
            + at(row, column + 1);
        let weight = self.blur / 5.0;
        at(row, column) * (1.0 - 4.0 * weight) + neighbours * weight
    }

    fn write(&self, values: &[u16], side: u16, patient: &str, picture: u32, instance: &str) -> Vec<u8> {
        let mut object = InMemDicomObject::new_empty();
        let mut put = |tag: Tag, vr: VR, value: PrimitiveValue| {
            object.put(DataElement::new(tag, vr, value));
        };
        let (allocated, stored) = self.depth.bits();
        let (low, high) = self.depth.range();
        let signed = self.depth == Depth::SignedRescaled;
        let inverse = if self.inverse { "MONOCHROME1" } else { "MONOCHROME2" };
        let mut window = self.window;
        if self.inverse {
            window = (1.0 - window.1, 1.0 - window.0);
        }
        // LINEAR_EXACT shows centre - width / 2 to centre + width / 2.
        let centre = low + (high - low) * f64::midpoint(window.0, window.1);
        let window_width = (high - low) * (window.1 - window.0);
        let orientation = if self.mirrored { "R\\F" } else { "L\\F" };
        put(tags::SOP_CLASS_UID, VR::UI, uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION.into());
        put(tags::SOP_INSTANCE_UID, VR::UI, instance.into());
        put(tags::MODALITY, VR::CS, "DX".into());
        put(tags::PATIENT_NAME, VR::PN, "Synthetic".into());
        put(tags::PATIENT_ID, VR::LO, patient.into());
        put(tags::INSTANCE_NUMBER, VR::IS, picture.to_string().into());
        put(tags::PATIENT_ORIENTATION, VR::CS, orientation.into());
        put(tags::SAMPLES_PER_PIXEL, VR::US, 1_u16.into());
        put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, inverse.into());
        put(tags::ROWS, VR::US, side.into());
        put(tags::COLUMNS, VR::US, side.into());
        put(tags::BITS_ALLOCATED, VR::US, allocated.into());
        put(tags::BITS_STORED, VR::US, stored.into());
        put(tags::HIGH_BIT, VR::US, (stored - 1).into());
        put(tags::PIXEL_REPRESENTATION, VR::US, u16::from(signed).into());
        put(tags::WINDOW_CENTER, VR::DS, format!("{centre:.3}").into());
        put(tags::WINDOW_WIDTH, VR::DS, format!("{window_width:.3}").into());
        put(tags::VOILUT_FUNCTION, VR::CS, "LINEAR_EXACT".into());
        if signed {
            put(tags::RESCALE_INTERCEPT, VR::DS, "-1024".into());
            put(tags::RESCALE_SLOPE, VR::DS, "2".into());
        }
        if allocated == 8 {
            let mut bytes: Vec<u8> = values.iter().map(|&value| value as u8).collect();
            if bytes.len() % 2 == 1 {
                bytes.push(0);
            }
            put(tags::PIXEL_DATA, VR::OB, PrimitiveValue::U8(bytes.into()));
        } else {
            put(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(values.iter().copied().collect()));
        }
        let meta = FileMetaTableBuilder::new()
            .transfer_syntax(uids::EXPLICIT_VR_LITTLE_ENDIAN)
            .media_storage_sop_class_uid(uids::DIGITAL_X_RAY_IMAGE_STORAGE_FOR_PRESENTATION)
            .media_storage_sop_instance_uid(instance);
        let mut bytes = Vec::new();
        object
            .with_meta(meta)
            .expect("the table has a class, an instance and a syntax")
            .write_all(&mut bytes)
            .expect("writing to memory cannot fail");
        bytes
    }
}

/// `shade` to the power of `exponent` (0.5 to 2), by a rational curve that every machine draws alike.
fn gamma(shade: f64, exponent: f64) -> f64 {
    let bend = exponent - 1.0;
    // Schlick's bias: 0 and 1 stay, the middle moves down for a positive bend and up for a negative one.
    let middle = 0.5 - 0.25 * bend;
    shade / ((1.0 / middle - 2.0) * (1.0 - shade) + 1.0)
}
