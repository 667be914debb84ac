//! The temperature that makes probabilities say what they mean (Guo et al. 2017), fitted to the whole federation at once.
//!
//! A site counts its losses at a grid of temperatures `T`: probabilities become those of the outputs divided by `T`. The sums over
//! all cases say where the least loss lies; nobody fits one of their own. Outputs are not needed: dividing them is raising the
//! probabilities to the power `1/T`, and making them sum to 1 again.

use consilium_study::task::Label;

use super::{LOSS_CLIP, Wide, clipped};

/// Temperatures of the grid: 2 to the power of -2, -1.75, .. 2.
pub(crate) const TEMPERATURES: usize = 17;
/// The place of temperature 1, and so many are on both sides.
const MIDDLE: i32 = 8;
/// Steps of the grid in an octave.
const PER_OCTAVE: i32 = 4;
/// Parts of a step that a fitted temperature is rounded to, so that every machine writes down the same one.
const PARTS: f64 = 16.0;

/// Losses of a case at each temperature, as [`super::counts::loss`] has them at 1.
pub(crate) fn tempered_losses(probabilities: &[f32], label: Label) -> impl Iterator<Item = f64> {
    (-MIDDLE..=MIDDLE).map(move |step| {
        let octaves = f64::from(step) / f64::from(PER_OCTAVE);
        let power = 2_f64.powf(-octaves);
        let of = |probability: f64, others: f64| {
            let own = probability.powf(power);
            clipped(-(own / (own + others)).ln())
        };
        match label {
            Label::Class(class) => {
                let class = usize::from(class);
                let others = probabilities.iter().enumerate().filter(|(other, _)| *other != class);
                let others = others.map(|(_, &probability)| f64::from(probability).powf(power)).sum();
                of(probabilities[class].into(), others)
            }
            Label::Findings(_) | Label::Mask | Label::Value(_) => {
                let each = probabilities.iter().enumerate().map(|(place, &probability)| {
                    let there = f64::from(probability);
                    let (true_one, other) =
                        if label.holds(place) { (there, 1.0 - there) } else { (1.0 - there, there) };
                    of(true_one, other.powf(power))
                });
                each.sum::<f64>() / probabilities.len() as f64
            }
        }
    })
}

/// What a grid of summed losses says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fitted {
    /// The temperature.
    pub(crate) temperature: f64,
    /// Sum of the losses there, as the parabola has it.
    pub(crate) loss: f64,
}

/// The vertex of the parabola through the least sum and those beside it, in the logarithm of the temperature; at an end of the
/// grid that end. None without a grid, and where the least loss is the clip itself, because then nothing was said.
pub(crate) fn fit(sums: &[Wide], cases: u32, unit: f64) -> Option<Fitted> {
    let sums: Vec<f64> = sums.iter().map(|sum| sum.get() as f64 / unit).collect();
    let (place, least) = sums.iter().copied().enumerate().min_by(|one, other| one.1.total_cmp(&other.1))?;
    if least >= LOSS_CLIP * f64::from(cases) {
        return None;
    }
    let sides = place.checked_sub(1).and_then(|before| Some((*sums.get(before)?, *sums.get(place + 1)?)));
    let (shift, loss) = match sides {
        Some((before, after)) if before + after > 2.0 * least => {
            let shift = (before - after) / (2.0 * (before - 2.0 * least + after));
            (shift, least - (before - after) * shift / 4.0)
        }
        _ => (0.0, least),
    };
    let parts = ((place as f64 - f64::from(MIDDLE) + shift) * PARTS).round() as i32;
    Some(Fitted { temperature: power_of_two(parts), loss })
}

/// 2 to the power of so many parts, by roots and products alone: these are rounded alike everywhere.
fn power_of_two(parts: i32) -> f64 {
    let per_octave = PER_OCTAVE * PARTS as i32;
    let mut root = 2_f64;
    let mut halvings = 1;
    while halvings < per_octave {
        root = root.sqrt();
        halvings *= 2;
    }
    let power = (0..parts.abs()).fold(1.0, |power, _| power * root);
    if parts < 0 { 1.0 / power } else { power }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixed;
    use super::*;

    #[test]
    fn powers_are_powers() {
        for parts in -128..=128 {
            let (got, want) = (power_of_two(parts), 2_f64.powf(f64::from(parts) / 64.0));
            assert!((got - want).abs() < 1e-12 * want, "{parts}: {got} {want}");
        }
    }

    /// Probabilities of outputs at a temperature.
    fn softmax(outputs: &[f64], temperature: f64) -> Vec<f32> {
        let powers: Vec<f64> = outputs.iter().map(|output| (output / temperature).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| (power / sum) as f32).collect()
    }

    proptest! {
        /// Losses at a temperature are those of the outputs divided by it; at 1 they are the losses themselves.
        #[test]
        fn losses_are_those_of_divided_outputs(
            outputs in prop::collection::vec(-4.0_f64..4.0, 3),
            class in 0_u16..3,
            set in 0_u64..8,
        ) {
            let logistic: Vec<f32> =
                outputs.iter().map(|output| (1.0 / (1.0 + (-output).exp())) as f32).collect();
            for place in 0..TEMPERATURES {
                let temperature = 2_f64.powf((place as f64 - 8.0) / 4.0);
                let at = |row: &[f32], label| tempered_losses(row, label).nth(place).unwrap();
                let divided = |output: f64| output / temperature;
                let own = divided(outputs[usize::from(class)]);
                let want = outputs.iter().map(|output| (divided(*output) - own).exp()).sum::<f64>().ln();
                prop_assert!((at(&softmax(&outputs, 1.0), Label::Class(class)) - clipped(want)).abs() < 1e-3);
                let label = Label::Findings(set);
                let of = |(finding, output): (usize, &f64)| {
                    let away = if label.holds(finding) { -divided(*output) } else { divided(*output) };
                    clipped(away.exp().ln_1p())
                };
                let want = outputs.iter().enumerate().map(of).sum::<f64>() / 3.0;
                prop_assert!((at(&logistic, label) - want).abs() < 1e-3);
            }
        }
    }

    /// Cases that a model is too sure of: the temperature that gave them their true probabilities comes out.
    #[test]
    fn the_true_temperature_is_found() {
        for (truth, made) in [(1.0, 1.0), (1.5, 1.5), (2.7, 2.7), (0.6, 0.6), (9.0, 4.0), (0.1, 0.25)] {
            let mut sums = [Wide::default(); TEMPERATURES];
            let mut cases = 0;
            for step in -30..=30 {
                let output = f64::from(step) / 10.0;
                // Of a thousand cases, as many are of class 1 as the probability at the true temperature says.
                let positives = (1000.0 * softmax(&[0.0, output / truth], 1.0)[1]).round() as u64;
                let sure = softmax(&[0.0, output], 1.0);
                for (class, count) in [(0, 1000 - positives), (1, positives)] {
                    for (sum, loss) in sums.iter_mut().zip(tempered_losses(&sure, Label::Class(class))) {
                        sum.add(fixed(loss) * count);
                    }
                    cases += count as u32;
                }
            }
            let fitted = fit(&sums, cases, 65_536.0).unwrap();
            assert!((fitted.temperature / made - 1.0).abs() < 0.03, "{truth}: {fitted:?}");
        }
    }

    #[test]
    fn nothing_said_fits_nothing() {
        assert_eq!(fit(&[], 3, 65_536.0), None);
        let clip = Wide::new(3 * fixed(f64::INFINITY));
        assert_eq!(fit(&[clip; TEMPERATURES], 3, 65_536.0), None);
    }
}
