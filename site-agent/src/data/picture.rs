//! A picture, and how it is brought to a study's size.
//!
//! The rules, the same for every source:
//! 1. Values lie between 0 (black) and 1 (white); row 0 is the top, column 0 the left.
//! 2. *Aspect*: the largest centred part with the target's proportions is kept. Stretching would make
//!    hearts wide at one hospital and narrow at another, and borders of black would show which
//!    hospital a picture is from.
//! 3. *Size*: each axis on its own; shrinking averages over the exact area a target pixel covers,
//!    enlarging interpolates linearly between pixel centres. Both are the identity at equal size.
//! 4. *Colour*: grey becomes three equal channels; colour becomes grey with the weights of ITU-R BT.601.

use super::source::Target;

/// Headers round: rows and columns whose distances differ by a smaller share than this are equally far apart.
const SQUARE: f64 = 1e-3;

/// Values between 0 and 1, channel after channel, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    channels: usize,
    height: usize,
    width: usize,
    values: Vec<f32>,
}

impl Picture {
    /// Wraps `values`, shape `[channels, height, width]`. `None` if their number or the channels (1 or 3)
    /// do not fit, or if there is no pixel.
    pub fn new(channels: usize, height: usize, width: usize, values: Vec<f32>) -> Option<Self> {
        let count = height.checked_mul(width)?.checked_mul(channels)?;
        (matches!(channels, 1 | 3) && count > 0 && values.len() == count).then_some(Self {
            channels,
            height,
            width,
            values,
        })
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All values, shape `[channels, height, width]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The same values with rows and columns exchanged or reversed: pixel `(row, column)` of the result is
    /// pixel `source(row, column)` of this picture.
    pub(crate) fn rearranged(
        &self,
        height: usize,
        width: usize,
        source: impl Fn(usize, usize) -> (usize, usize),
    ) -> Self {
        let mut values = Vec::with_capacity(self.values.len());
        for plane in self.values.chunks_exact(self.height * self.width) {
            for row in 0..height {
                for column in 0..width {
                    let (from_row, from_column) = source(row, column);
                    values.push(plane[from_row * self.width + from_column]);
                }
            }
        }
        Self { channels: self.channels, height, width, values }
    }

    /// The picture at a study's size and channels: shape `[target.channels, target.height, target.width]`.
    pub fn fitted(&self, target: Target) -> Vec<f32> {
        self.fitted_of(target, [1.0; 2])
    }

    /// The same where neighbouring rows and columns lie so far apart: the proportions are those of the body.
    pub(super) fn fitted_of(&self, target: Target, spacing: [f64; 2]) -> Vec<f32> {
        let ratio = spacing[1] / spacing[0];
        let is_square = (ratio - 1.0).abs() < SQUARE;
        let ratio = if is_square { 1.0 } else { ratio };
        let sides = [self.height as f64, self.width as f64 * ratio];
        let [rows, (start, length)] = centred(sides, [target.height(), target.width()]);
        let columns = if is_square {
            (start, length)
        } else {
            // In columns again, and no further than they go.
            let (start, end) = (start / ratio, ((start + length) / ratio).min(self.width as f64));
            (start, end - start)
        };
        let down = taps(rows, target.height());
        let across = taps(columns, target.width());
        let mut planes: Vec<Vec<f32>> = self
            .values
            .chunks_exact(self.height * self.width)
            .map(|plane| resample(plane, self.width, &down, &across))
            .collect();
        if planes.len() == 3 && target.channels() == 1 {
            let mut grey = planes[0].clone();
            for ((grey, green), blue) in grey.iter_mut().zip(&planes[1]).zip(&planes[2]) {
                *grey = (0.299 * *grey + 0.587 * green + 0.114 * blue).clamp(0.0, 1.0);
            }
            planes = vec![grey];
        }
        let mut values: Vec<f32> = planes.concat();
        if planes.len() == 1 && target.channels() == 3 {
            values = values.repeat(3);
        }
        values
    }
}

/// A volume at a study's size, shape `[target.depth, target.height, target.width]`, from `depth` slices, which come at the
/// study's height and width one by one. Rule 3 over depth. All slices are kept: how far they reach has nothing to do with the
/// proportions of one.
pub(super) fn over_depth<E>(
    depth: usize,
    target: Target,
    slice: impl Fn(usize) -> Result<Vec<f32>, E>,
) -> Result<Vec<f32>, E> {
    let mut values = Vec::with_capacity(target.values());
    // A slice may be wanted again, by the next place or by many: neighbours share one, or lie between the same two.
    let mut made: [Option<(usize, Vec<f32>)>; 2] = [None, None];
    for (first, weights) in taps((0.0, depth as f64), target.depth().unwrap_or(1)) {
        let mut sums = vec![0.0_f32; target.height() * target.width()];
        for (wanted, weight) in (first..).zip(&weights) {
            let place = &mut made[wanted % 2];
            if place.as_ref().is_none_or(|(index, _)| *index != wanted) {
                *place = Some((wanted, slice(wanted)?));
            }
            let slice = place.iter().flat_map(|(_, slice)| slice);
            for (sum, value) in sums.iter_mut().zip(slice) {
                *sum += weight * value;
            }
        }
        // Rounding may leave the range by a few units in the last place.
        values.extend(sums.into_iter().map(|sum| sum.clamp(0.0, 1.0)));
    }
    Ok(values)
}

/// A part of one axis: where it starts and how long it is, in source pixels.
type Span = (f64, f64);

/// The largest centred part of a height and a width with the proportions of the target.
pub(super) fn centred([height, width]: [f64; 2], target: [usize; 2]) -> [Span; 2] {
    let [target_height, target_width] = target.map(|side| side as f64);
    // Compared by multiplication, so that equal proportions keep every pixel exactly.
    if height * target_width > width * target_height {
        let kept = width * target_height / target_width;
        [((height - kept) / 2.0, kept), (0.0, width)]
    } else {
        let kept = height * target_width / target_height;
        [(0.0, height), ((width - kept) / 2.0, kept)]
    }
}

/// For each target pixel of an axis: the first source pixel and the weights from there on. Weights sum to 1.
fn taps((start, length): Span, count: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = length / count as f64;
    (0..count)
        .map(|index| {
            if scale >= 1.0 {
                let (from, to) = (start + scale * index as f64, start + scale * (index + 1) as f64);
                let first = from.floor();
                // A boundary that is a whole number up to rounding covers nothing of the next pixel.
                let last = ((to - 1e-9).floor()).max(first);
                let weights = (first as usize..=last as usize)
                    .map(|pixel| {
                        let covered = to.min(pixel as f64 + 1.0) - from.max(pixel as f64);
                        (covered / scale) as f32
                    })
                    .collect();
                (first as usize, weights)
            } else {
                // Pixel centres lie at halves; beyond the outermost centres of the part the edge is repeated.
                let (lowest, highest) = (start.floor(), (start + length).ceil() - 1.0);
                let centre = (start + scale * (index as f64 + 0.5) - 0.5).clamp(lowest, highest);
                let first = centre.floor().min(highest);
                let fraction = (centre - first) as f32;
                if fraction == 0.0 {
                    (first as usize, vec![1.0])
                } else {
                    (first as usize, vec![1.0 - fraction, fraction])
                }
            }
        })
        .collect()
}

fn resample(
    plane: &[f32],
    width: usize,
    down: &[(usize, Vec<f32>)],
    across: &[(usize, Vec<f32>)],
) -> Vec<f32> {
    let mut values = Vec::with_capacity(down.len() * across.len());
    let mut blended = vec![0.0_f32; width];
    for (first_row, row_weights) in down {
        blended.fill(0.0);
        for (offset, weight) in row_weights.iter().enumerate() {
            let row = &plane[(first_row + offset) * width..][..width];
            for (sum, value) in blended.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
        for (first, weights) in across {
            let sum: f32 = weights.iter().zip(&blended[*first..]).map(|(w, v)| w * v).sum();
            // Rounding may leave the range by a few units in the last place.
            values.push(sum.clamp(0.0, 1.0));
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(channels: u32, height: u32, width: u32) -> Target {
        Target::new(channels, height, width).unwrap()
    }

    /// Area averaging the slow way: 60 x 60 points in every target pixel.
    fn averaged_slowly(picture: &Picture, height: usize, width: usize) -> Vec<f64> {
        const POINTS: usize = 60;
        let mut values = Vec::new();
        for row in 0..height {
            for column in 0..width {
                let mut sum = 0.0;
                for y in 0..POINTS {
                    for x in 0..POINTS {
                        let down = (row * POINTS + y) as f64 + 0.5;
                        let across = (column * POINTS + x) as f64 + 0.5;
                        let from_row = down * picture.height as f64 / (height * POINTS) as f64;
                        let from_column = across * picture.width as f64 / (width * POINTS) as f64;
                        sum += f64::from(
                            picture.values[from_row as usize * picture.width + from_column as usize],
                        );
                    }
                }
                values.push(sum / (POINTS * POINTS) as f64);
            }
        }
        values
    }

    proptest! {
        #[test]
        fn the_same_size_changes_nothing(
            height in 1_usize..9, width in 1_usize..9, seed in proptest::collection::vec(0.0_f32..=1.0, 81)
        ) {
            let values = seed[..height * width].to_vec();
            let picture = Picture::new(1, height, width, values.clone()).unwrap();
            prop_assert_eq!(picture.fitted(target(1, height as u32, width as u32)), values);
        }

        #[test]
        fn shrinking_is_the_mean_over_the_covered_area(
            factor in 1_usize..4, seed in proptest::collection::vec(0.0_f32..=1.0, 12 * 15)
        ) {
            // 12 x 15 to 4f/5f... keeps the proportions, so nothing is cropped.
            let (height, width) = (4 * factor, 5 * factor);
            let picture = Picture::new(1, 12, 15, seed).unwrap();
            let fast = picture.fitted(target(1, height as u32, width as u32));
            for (fast, slow) in fast.iter().zip(averaged_slowly(&picture, height, width)) {
                prop_assert!((f64::from(*fast) - slow).abs() < 1e-5);
            }
        }

        /// Whatever the sizes, values stay within the range of the source and a constant stays constant.
        #[test]
        fn any_size_keeps_the_range(
            height in 1_usize..40, width in 1_usize..40, to_height in 1_u32..40, to_width in 1_u32..40, level in 0.0_f32..=1.0,
            spacing in prop_oneof![Just([1.0; 2]), [0.01..10.0_f64, 0.01..10.0_f64]],
        ) {
            let picture = Picture::new(1, height, width, vec![level; height * width]).unwrap();
            let fitted = picture.fitted_of(target(1, to_height, to_width), spacing);
            prop_assert_eq!(fitted.len(), (to_height * to_width) as usize);
            for value in fitted {
                prop_assert!((value - level).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn slices_are_averaged_over_depth_and_put_between() {
        let slices = [[0.0, 1.0], [1.0, 0.5], [0.5, 0.0], [0.25, 1.0]];
        let of = |slices: &[[f32; 2]], depth: u32| {
            let target = Target::of([1, depth, 1, 2].into(), None).unwrap();
            over_depth(slices.len(), target, |index| Ok::<_, ()>(slices[index].to_vec())).unwrap()
        };
        assert_eq!(of(&slices, 4), slices.concat());
        assert_eq!(of(&slices, 2), [0.5, 0.75, 0.375, 0.5]);
        assert_eq!(of(&slices, 1), [0.4375, 0.625]);
        assert_eq!(of(&slices[..1], 3), slices[0].repeat(3));
        assert_eq!(of(&[[0.0, 1.0], [1.0, 0.0]], 4), [0.0, 1.0, 0.25, 0.75, 0.75, 0.25, 1.0, 0.0]);
    }

    /// Columns twice as far apart as rows: four of two are a square.
    #[test]
    fn proportions_are_those_of_the_body() {
        let values = (0..8).map(|value| value as f32 / 8.0).collect();
        let picture = Picture::new(1, 4, 2, values).unwrap();
        assert_eq!(picture.fitted_of(target(1, 2, 2), [1.0, 2.0]), [0.125, 0.25, 0.625, 0.75]);
        assert_eq!(picture.fitted(target(1, 2, 2)), [0.25, 0.375, 0.5, 0.625]);
    }

    #[test]
    fn a_tall_picture_loses_top_and_bottom_alike() {
        let values = (0..4).flat_map(|row| [row as f32 / 4.0; 2]).collect();
        let picture = Picture::new(1, 4, 2, values).unwrap();
        assert_eq!(picture.fitted(target(1, 2, 2)), [0.25, 0.25, 0.5, 0.5]);
    }

    #[test]
    fn enlarging_interpolates_between_centres() {
        let picture = Picture::new(1, 1, 2, vec![0.0, 1.0]).unwrap();
        let fitted = picture.fitted(target(1, 2, 4));
        assert_eq!(fitted, [0.0, 0.25, 0.75, 1.0, 0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn colour_and_grey_convert_both_ways() {
        let red = Picture::new(3, 1, 1, vec![1.0, 0.0, 0.0]).unwrap();
        assert_eq!(red.fitted(target(1, 1, 1)), [0.299]);
        assert_eq!(red.fitted(target(3, 1, 1)), [1.0, 0.0, 0.0]);
        let grey = Picture::new(1, 1, 1, vec![0.5]).unwrap();
        assert_eq!(grey.fitted(target(3, 1, 1)), [0.5, 0.5, 0.5]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_no_pictures() {
        assert!(Picture::new(1, 2, 2, vec![0.0; 3]).is_none());
        assert!(Picture::new(2, 1, 1, vec![0.0; 2]).is_none());
        assert!(Picture::new(1, 0, 4, vec![]).is_none());
        assert!(Picture::new(3, usize::MAX, 2, vec![]).is_none());
    }
}
