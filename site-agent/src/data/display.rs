//! From stored values to shades of grey between 0 and 1.
//!
//! In the order of PS3.3, C.11: stored value, rescale (slope and intercept), window, and for MONOCHROME1
//! the inverse. The header's first window is used, because a radiographer or the device chose it for this
//! picture. Without one, the picture's own smallest and largest values become black and white. Padding is
//! black and does not count for that range. Colour is divided by the largest value its bits can hold.
//! Lookup tables for display (VOI LUT) and several windows are not applied.

use minicbor::{Decode, Encode};

use super::dicom::{Colour, Header, Stored, Window, WindowFunction};
use super::picture::Picture;

/// Where black and white came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Shading {
    /// The window in the header.
    #[n(0)]
    Window,
    /// The picture's own smallest and largest value.
    #[n(1)]
    OwnRange,
    /// The range of the format: colour, PNG, JPEG.
    #[n(2)]
    FullRange,
    /// The study's window, of a volume.
    #[n(3)]
    StudyWindow,
    /// The volume's own 0.5th and 99.5th percentile.
    #[n(4)]
    Percentiles,
}

impl Window {
    /// The shade of a rescaled value.
    fn shade(self, value: f64) -> f64 {
        let Self { centre, width, function } = self;
        match function {
            WindowFunction::Linear => {
                let (centre, width) = (centre - 0.5, width - 1.0);
                if value <= centre - width / 2.0 {
                    0.0
                } else if value > centre + width / 2.0 {
                    1.0
                } else {
                    (value - centre) / width + 0.5
                }
            }
            WindowFunction::LinearExact => ((value - centre) / width + 0.5).clamp(0.0, 1.0),
            WindowFunction::Sigmoid => 1.0 / (1.0 + (-4.0 * (value - centre) / width).exp()),
        }
    }
}

/// The first frame as a picture, and where its black and white came from. `None` if it has no pixel.
pub fn show(header: &Header, stored: &Stored) -> Option<(Picture, Shading)> {
    let (rows, columns) = (usize::from(header.rows), usize::from(header.columns));
    let pixels = rows * columns;
    let (channels, values, shading) = match header.colour {
        Colour::Monochrome1 | Colour::Monochrome2 => {
            let (values, shading) = grey(header, stored, pixels);
            (1, values, shading)
        }
        Colour::Rgb | Colour::YbrFull => {
            let from_luma = header.colour == Colour::YbrFull && !stored.converted_to_rgb;
            (3, coloured(header, stored, pixels, from_luma), Shading::FullRange)
        }
    };
    Some((Picture::new(channels, rows, columns, values)?, shading))
}

fn grey(header: &Header, stored: &Stored, pixels: usize) -> (Vec<f32>, Shading) {
    let is_padding = |value: i32| header.padding.is_some_and(|(first, last)| (first..=last).contains(&value));
    let rescaled = |value: i32| f64::from(value) * header.slope + header.intercept;
    let (window, shading) = if let Some(window) = header.window {
        (window, Shading::Window)
    } else {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in (0..pixels).map(|pixel| stored.sample(pixel, 0)).filter(|&value| !is_padding(value)) {
            low = low.min(rescaled(value));
            high = high.max(rescaled(value));
        }
        // A picture of one value, or of padding alone, is black; the width only avoids 0 / 0.
        let width = if high > low { high - low } else { 1.0 };
        let centre = if high > low { f64::midpoint(low, high) } else { low + 0.5 };
        (Window { centre, width, function: WindowFunction::LinearExact }, Shading::OwnRange)
    };
    let inverse = header.colour == Colour::Monochrome1;
    let values = (0..pixels)
        .map(|pixel| {
            let value = stored.sample(pixel, 0);
            if is_padding(value) {
                return 0.0;
            }
            let shade = window.shade(rescaled(value));
            (if inverse { 1.0 - shade } else { shade }) as f32
        })
        .collect();
    (values, shading)
}

fn coloured(header: &Header, stored: &Stored, pixels: usize, from_luma: bool) -> Vec<f32> {
    let largest = ((1_u32 << header.bits_stored) - 1) as f32;
    let mut values = vec![0.0; 3 * pixels];
    for pixel in 0..pixels {
        let mut rgb: [f32; 3] =
            std::array::from_fn(|sample| (stored.sample(pixel, sample) as f32 / largest).clamp(0.0, 1.0));
        if from_luma {
            // PS3.3, C.7.6.3.1.2, YBR_FULL, solved for red, green and blue.
            let half = ((1_u32 << (header.bits_stored - 1)) as f32) / largest;
            let [luma, blue, red] = [rgb[0], rgb[1] - half, rgb[2] - half];
            rgb = [luma + 1.402 * red, luma - 0.344_136 * blue - 0.714_136 * red, luma + 1.772 * blue];
        }
        for (channel, value) in rgb.into_iter().enumerate() {
            values[channel * pixels + pixel] = value.clamp(0.0, 1.0);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_the_standard() {
        // PS3.3, C.11.2.1.2.1: with centre 2048 and width 4096, 0 is black and 4095 white.
        let linear = Window { centre: 2048.0, width: 4096.0, function: WindowFunction::Linear };
        assert_eq!((linear.shade(0.0), linear.shade(4095.0)), (0.0, 1.0));
        assert!((linear.shade(2047.5) - 0.5).abs() < 1e-12);
        // Width 1 is a threshold.
        let step = Window { centre: 10.0, width: 1.0, function: WindowFunction::Linear };
        assert_eq!((step.shade(9.5), step.shade(9.51)), (0.0, 1.0));
        let exact = Window { centre: 50.0, width: 100.0, function: WindowFunction::LinearExact };
        assert_eq!((exact.shade(0.0), exact.shade(25.0), exact.shade(100.0)), (0.0, 0.25, 1.0));
        let sigmoid = Window { centre: 5.0, width: 2.0, function: WindowFunction::Sigmoid };
        assert!((sigmoid.shade(5.0) - 0.5).abs() < 1e-12);
        assert!(sigmoid.shade(1e6) <= 1.0);
    }
}
