//! How pictures become a model's input.

use minicbor::{Decode, Decoder, Encode, decode};
use serde::{Deserialize, Serialize};

/// Which values of a volume are black and white, in the unit of its files: Hounsfield units of CT. Everything below is black,
/// everything above is white. Written `[low, high]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(from = "[i32; 2]", into = "[i32; 2]")]
#[cbor(map)]
pub struct Window {
    /// What is black.
    #[n(0)]
    pub low: i32,
    /// What is white.
    #[n(1)]
    pub high: i32,
}

impl Window {
    /// Whether there is something between black and white.
    pub const fn is_lawful(self) -> bool {
        self.low < self.high
    }
}

impl From<[i32; 2]> for Window {
    fn from([low, high]: [i32; 2]) -> Self {
        Self { low, high }
    }
}

impl From<Window> for [i32; 2] {
    fn from(Window { low, high }: Window) -> Self {
        [low, high]
    }
}

/// How a case becomes the model's input: where values of volumes have a window, they are brought to 0 to 1 by it, and then
/// `(value - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Encode)]
#[cbor(map)]
pub struct Preprocessing {
    #[n(0)]
    mean: f64,
    #[n(1)]
    std: f64,
    #[n(2)]
    window: Option<Window>,
}

impl Preprocessing {
    /// A finite mean and a finite standard deviation above zero.
    pub fn new(mean: f64, std: f64) -> Result<Self, InvalidPreprocessing> {
        // A deviation below f32's smallest normal number would divide by zero.
        if mean.is_finite() && std.is_finite() && std as f32 >= f32::MIN_POSITIVE {
            Ok(Self { mean, std, window: None })
        } else {
            Err(InvalidPreprocessing { mean, std })
        }
    }

    /// The same behind a window of volumes.
    #[must_use]
    pub const fn behind(self, window: Option<Window>) -> Self {
        Self { window, ..self }
    }

    /// Which values of a volume are black and white.
    pub const fn window(self) -> Option<Window> {
        self.window
    }

    /// What is subtracted.
    pub const fn mean(self) -> f64 {
        self.mean
    }

    /// What is divided by.
    pub const fn std(self) -> f64 {
        self.std
    }
}

impl<'b, C> Decode<'b, C> for Preprocessing {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        #[derive(Decode)]
        #[cbor(map)]
        struct Written {
            #[n(0)]
            mean: f64,
            #[n(1)]
            std: f64,
            #[n(2)]
            window: Option<Window>,
        }
        let Written { mean, std, window } = Written::decode(d, ctx)?;
        if window.is_some_and(|window| !window.is_lawful()) {
            return Err(decode::Error::message("a window has something between black and white"));
        }
        let plain = Self::new(mean, std).map_err(|error| decode::Error::message(error.to_string()))?;
        Ok(plain.behind(window))
    }
}

/// A mean or deviation that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("mean {mean} and std {std} must be finite, and std above zero")]
pub struct InvalidPreprocessing {
    mean: f64,
    std: f64,
}
