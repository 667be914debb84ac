//! How training pictures are varied, as a study says it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::canonical::is_default;
use crate::recipe::RecipeError;

/// Smallest α of `mixup`: powers of `1/α` of a draw stay well above the smallest f64.
const LEAST_MIXUP: f64 = 0.05;
/// Largest α of `mixup`: beyond it nearly every share is a half.
const MOST_MIXUP: f64 = 4.0;

/// How training pictures are varied. All draws come from the study's seed; zero is "not at all" for every number.
///
/// Brightness, contrast and noise are measured on pixel values as they are before preprocessing, where the whole range
/// is 1; nothing is cut off at its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Encode, Decode, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cbor(map)]
pub struct Augment {
    /// Mirror left and right in half of the draws.
    #[n(0)]
    pub flip: bool,
    /// Shift by up to so many pixels each way; the rim repeats.
    #[n(1)]
    pub crop: u32,
    /// Turn about the centre by up to so many degrees each way; bilinear, the rim repeats.
    #[n(2)]
    #[cbor(skip_if = "is_default")]
    pub rotate: f64,
    /// Enlarge about the centre by a factor of `1 - zoom` to `1 + zoom`; bilinear, the rim repeats.
    #[n(3)]
    #[cbor(skip_if = "is_default")]
    pub zoom: f64,
    /// Add up to so much to every pixel, or subtract it.
    #[n(4)]
    #[cbor(skip_if = "is_default")]
    pub brightness: f64,
    /// Multiply the distance of every pixel from the picture's mean by `1 - contrast` to `1 + contrast`.
    #[n(5)]
    #[cbor(skip_if = "is_default")]
    pub contrast: f64,
    /// Standard deviation of Gaussian noise, drawn for every pixel of every channel.
    #[n(6)]
    #[cbor(skip_if = "is_default")]
    pub noise: f64,
    /// Side in pixels of a square that becomes `data.mean`; its centre lies anywhere in the picture (`DeVries` and Taylor
    /// 2017, cutout).
    #[n(7)]
    #[cbor(skip_if = "is_default")]
    pub erase: u32,
    /// Mix each case of a batch with another, labels too, in shares drawn from `Beta(mixup, mixup)` (Zhang et al. 2018).
    #[n(8)]
    #[cbor(skip_if = "is_default")]
    pub mixup: f64,
}

impl Augment {
    /// Checks the numbers alone.
    pub(crate) fn check(&self) -> Result<(), RecipeError> {
        for (key, value, most, allowed) in [
            ("augment.rotate", self.rotate, 180.0, "degrees from 0 to 180"),
            ("augment.zoom", self.zoom, 0.5, "a number from 0 to 0.5"),
            ("augment.brightness", self.brightness, 1.0, "a number from 0 to 1"),
            ("augment.contrast", self.contrast, 1.0, "a number from 0 to 1"),
            ("augment.noise", self.noise, 1.0, "a number from 0 to 1"),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(RecipeError::OutOfRange { key, value, allowed });
            }
        }
        if self.mixup != 0.0 && !(LEAST_MIXUP..=MOST_MIXUP).contains(&self.mixup) {
            let allowed = "0 for none, or a number from 0.05 to 4, for example 0.2";
            return Err(RecipeError::OutOfRange { key: "augment.mixup", value: self.mixup, allowed });
        }
        Ok(())
    }

    /// Checks them against pictures of so many rows and columns.
    pub(crate) fn check_sides(&self, height: u32, width: u32) -> Result<(), RecipeError> {
        for (key, pixels) in [("augment.crop", self.crop), ("augment.erase", self.erase)] {
            if pixels >= height.min(width) {
                return Err(RecipeError::Pixels { key, pixels, height, width });
            }
        }
        Ok(())
    }
}
