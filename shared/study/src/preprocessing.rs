//! How pictures become a model's input.

use minicbor::{Decode, Decoder, Encode, decode};

/// How values in 0 to 1 become the model's input: `(value - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Encode)]
#[cbor(map)]
pub struct Preprocessing {
    #[n(0)]
    mean: f64,
    #[n(1)]
    std: f64,
}

impl Preprocessing {
    /// A finite mean and a finite standard deviation above zero.
    pub fn new(mean: f64, std: f64) -> Result<Self, InvalidPreprocessing> {
        // A deviation below f32's smallest normal number would divide by zero.
        if mean.is_finite() && std.is_finite() && std as f32 >= f32::MIN_POSITIVE {
            Ok(Self { mean, std })
        } else {
            Err(InvalidPreprocessing { mean, std })
        }
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
        }
        let Written { mean, std } = Written::decode(d, ctx)?;
        Self::new(mean, std).map_err(|error| decode::Error::message(error.to_string()))
    }
}

/// A mean or deviation that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("mean {mean} and std {std} must be finite, and std above zero")]
pub struct InvalidPreprocessing {
    mean: f64,
    std: f64,
}
