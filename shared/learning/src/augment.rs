//! Variations of a training picture.

use consilium_study::augment::Augment;

use crate::random::Draws;

/// Varies `picture`, shape `[channels, height, width]`, in place. `unit` is what a difference of 1 between pixel values has
/// become by preprocessing. The picture's `mask`, shape `[height, width]`, goes where its pixels go; each place takes the
/// class of the pixel nearest to its source. Empty where there is none.
///
/// Mirrored in half of the draws, then turned and enlarged about its centre, then shifted; then contrast, brightness and
/// noise; at last a square is blanked. All draws but those of noise, which are the last, are made whatever comes of them,
/// so one setting does not move the draws of another. Those of `flip` and `crop` are the first, as they were when there
/// was nothing else.
pub(crate) fn vary(
    picture: &mut [f32],
    mask: &mut [u8],
    sides: [usize; 2],
    augment: &Augment,
    unit: f32,
    draws: &mut Draws,
) {
    let mirrored = augment.flip & (draws.below(2) == 1);
    let reach = 2 * augment.crop + 1;
    let offset = [draws.below(reach), draws.below(reach)].map(|offset| offset as usize);
    let mut up_to = |most: f64| most as f32 * draws.signed_unit();
    let angle = up_to(augment.rotate).to_radians();
    let [zoom, brightness, contrast] = [augment.zoom, augment.brightness, augment.contrast].map(&mut up_to);
    let square = sides.map(|side| draws.below(u32::try_from(side).unwrap_or(u32::MAX)) as usize);

    let crop = augment.crop as usize;
    if augment.rotate > 0.0 || augment.zoom > 0.0 {
        let shift = offset.map(|offset| offset as f32 - crop as f32);
        let turn = Turn::new(sides, mirrored, shift, angle, 1.0 + zoom);
        resample(picture, sides, &turn);
        resample_mask(mask, sides, &turn);
    } else {
        move_pixels(picture, sides, mirrored, offset, crop);
        move_pixels(mask, sides, mirrored, offset, crop);
    }
    if augment.brightness > 0.0 || augment.contrast > 0.0 {
        let mean = (picture.iter().map(|&value| f64::from(value)).sum::<f64>() / picture.len() as f64) as f32;
        let (factor, lift) = (1.0 + contrast, mean + brightness * unit);
        for value in &mut *picture {
            *value = (*value - mean) * factor + lift;
        }
    }
    if augment.noise > 0.0 {
        let deviation = augment.noise as f32 * unit;
        for value in &mut *picture {
            *value += deviation * draws.normal();
        }
    }
    if augment.erase > 0 {
        erase(picture, sides, square, augment.erase as usize);
    }
}

/// Mirrors, and lets place `at` read from `at + offset - crop`, held within the picture.
fn move_pixels<T: Copy>(
    picture: &mut [T],
    [height, width]: [usize; 2],
    mirrored: bool,
    [down, right]: [usize; 2],
    crop: usize,
) {
    for plane in picture.chunks_exact_mut(height * width) {
        if mirrored {
            plane.chunks_exact_mut(width).for_each(<[T]>::reverse);
        }
        if (down, right) != (crop, crop) {
            let before = plane.to_vec();
            let from =
                |at: usize, offset: usize, side: usize| (at + offset).saturating_sub(crop).min(side - 1);
            for (row, out) in plane.chunks_exact_mut(width).enumerate() {
                let line = &before[from(row, down, height) * width..][..width];
                for (column, value) in out.iter_mut().enumerate() {
                    *value = line[from(column, right, width)];
                }
            }
        }
    }
}

/// Mirroring, a shift, a turn and a factor about the centre, in one.
struct Turn {
    last: [f32; 2],
    mirrored: bool,
    shift: [f32; 2],
    sine: f32,
    cosine: f32,
}

impl Turn {
    /// `angle` is in radians.
    fn new(sides: [usize; 2], mirrored: bool, shift: [f32; 2], angle: f32, zoom: f32) -> Self {
        let (sine, cosine) = angle.sin_cos();
        let last = sides.map(|side| (side - 1) as f32);
        Self { last, mirrored, shift, sine: sine / zoom, cosine: cosine / zoom }
    }

    /// Row and column that a place reads from, between pixels, held within the picture.
    fn source(&self, row: usize, column: usize) -> (f32, f32) {
        let Self { last, shift, sine, cosine, .. } = *self;
        let centre = last.map(|last| last / 2.0);
        let down = row as f32 + shift[0] - centre[0];
        let right = column as f32 + shift[1] - centre[1];
        let from_row = (centre[0] + cosine * down + sine * right).clamp(0.0, last[0]);
        let from_column = (centre[1] - sine * down + cosine * right).clamp(0.0, last[1]);
        (from_row, if self.mirrored { last[1] - from_column } else { from_column })
    }
}

/// Lets each place of a mask take the class of the pixel nearest to its source.
fn resample_mask(mask: &mut [u8], [height, width]: [usize; 2], turn: &Turn) {
    let before = mask.to_vec();
    for plane in mask.chunks_exact_mut(height * width) {
        for (row, line) in plane.chunks_exact_mut(width).enumerate() {
            for (column, class) in line.iter_mut().enumerate() {
                let (from_row, from_column) = turn.source(row, column);
                *class = before[(from_row + 0.5) as usize * width + (from_column + 0.5) as usize];
            }
        }
    }
}

/// Lets each place read between the four pixels about its source.
fn resample(picture: &mut [f32], [height, width]: [usize; 2], turn: &Turn) {
    let before = picture.to_vec();
    for row in 0..height {
        for column in 0..width {
            let (from_row, from_column) = turn.source(row, column);
            let (top, left) = (from_row as usize, from_column as usize);
            let (below, beside) = (from_row - top as f32, from_column - left as f32);
            let lines = [top * width, (top + 1).min(height - 1) * width];
            let next = (left + 1).min(width - 1);
            let planes = before.chunks_exact(height * width).zip(picture.chunks_exact_mut(height * width));
            for (plane, out) in planes {
                let [upper, lower] =
                    lines.map(|line| plane[line + left] * (1.0 - beside) + plane[line + next] * beside);
                out[row * width + column] = upper * (1.0 - below) + lower * below;
            }
        }
    }
}

/// Sets a square of `side` pixels to zero, which preprocessing makes of `data.mean`. What of it lies outside is cut off.
fn erase(picture: &mut [f32], [height, width]: [usize; 2], [row, column]: [usize; 2], side: usize) {
    let span = |centre: usize, most: usize| {
        let past = (centre + side - side / 2).min(most);
        centre.saturating_sub(side / 2)..past
    };
    for plane in picture.chunks_exact_mut(height * width) {
        for line in plane.chunks_exact_mut(width).take(span(row, height).end).skip(span(row, height).start) {
            line[span(column, width)].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PICTURE: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    const NONE: Augment = Augment {
        flip: false,
        crop: 0,
        rotate: 0.0,
        zoom: 0.0,
        brightness: 0.0,
        contrast: 0.0,
        noise: 0.0,
        erase: 0,
        mixup: 0.0,
    };
    /// What preprocessing makes of a difference of 1.
    const UNIT: f32 = 4.0;

    fn varied_from(picture: &[f32], sides: [usize; 2], augment: &Augment, index: usize) -> Vec<f32> {
        let mut picture = picture.to_vec();
        vary(&mut picture, &mut [], sides, augment, UNIT, &mut Draws::initial(9, index));
        picture
    }

    fn varied(augment: &Augment, index: usize) -> Vec<f32> {
        varied_from(&PICTURE, [2, 3], augment, index)
    }

    fn mean(values: &[f32]) -> f32 {
        values.iter().sum::<f32>() / values.len() as f32
    }

    #[test]
    fn nothing_asked_nothing_done() {
        assert!((0..50).all(|index| varied(&NONE, index) == PICTURE));
    }

    #[test]
    fn flips_give_the_picture_or_its_mirror_about_equally() {
        let flip = Augment { flip: true, ..NONE };
        let flipped = (0..1000).filter(|&index| varied(&flip, index) != PICTURE).count();
        assert!((400..600).contains(&flipped), "{flipped}");
        let mirror = [3.0, 2.0, 1.0, 6.0, 5.0, 4.0];
        assert!((0..1000).all(|index| [PICTURE, mirror].contains(&varied(&flip, index).try_into().unwrap())));
    }

    #[test]
    fn crops_reach_every_shift_and_repeat_the_rim() {
        let crop = Augment { crop: 1, ..NONE };
        let shifted_right = [1.0, 1.0, 2.0, 4.0, 4.0, 5.0];
        let shifted_down = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0];
        let all: std::collections::BTreeSet<Vec<u32>> = (0..1000)
            .map(|index| varied(&crop, index).iter().map(|value| value.to_bits()).collect())
            .collect();
        assert_eq!(all.len(), 9);
        for expected in [shifted_right, shifted_down] {
            assert!(all.contains(&expected.iter().map(|value: &f32| value.to_bits()).collect::<Vec<_>>()));
        }
    }

    proptest! {
        /// A mask goes where its picture goes: of a picture that is its own mask, places that are not between two classes keep
        /// theirs, and those between take one of the two.
        #[test]
        fn a_mask_follows_its_picture(
            picture in prop::collection::vec(0_u8..2, 48), index in 0_usize..1000,
            flip in any::<bool>(), crop in 0_u32..3, rotate in 0.0..90.0, zoom in 0.0..0.5, turns in any::<bool>(),
        ) {
            let (rotate, zoom) = if turns { (rotate, zoom) } else { (0.0, 0.0) };
            let augment = Augment { flip, crop, rotate, zoom, ..NONE };
            let mut values: Vec<f32> = picture.iter().copied().map(f32::from).collect();
            let mut mask = picture;
            vary(&mut values, &mut mask, [6, 8], &augment, UNIT, &mut Draws::initial(3, index));
            for (value, class) in values.iter().zip(&mask) {
                // Nearest in both directions: a quarter of the weight at least.
                let weight = if *class == 1 { *value } else { 1.0 - value };
                prop_assert!(weight > 0.249, "{} {}", value, class);
                prop_assert!(turns || weight > 0.999);
            }
        }
    }

    #[test]
    fn a_mask_is_neither_brightened_nor_blanked() {
        let augment = Augment { brightness: 0.5, contrast: 0.5, noise: 0.5, erase: 2, ..NONE };
        let mut mask = [0, 1, 2, 0, 1, 2];
        vary(&mut PICTURE.clone(), &mut mask, [2, 3], &augment, UNIT, &mut Draws::initial(9, 1));
        assert_eq!(mask, [0, 1, 2, 0, 1, 2]);
    }

    fn close(got: &[f32], want: &[f32]) {
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-4), "{got:?} {want:?}");
    }

    /// By PyTorch's `grid_sample` (bilinear, border, corners aligned), of the numbers 1 to 12.
    #[test]
    fn turning_agrees_with_published_software() {
        let mut picture: Vec<f32> = (1..=12).map(|value| value as f32).collect();
        resample(&mut picture, [3, 4], &Turn::new([3, 4], false, [1.0, -1.0], 30_f32.to_radians(), 1.25));
        let want = [
            1.0,
            3.060_769_5,
            5.353_59,
            7.646_41,
            3.771_281_3,
            5.432_050_7,
            7.724_871,
            10.017_691,
            6.542_562_5,
            8.142_563,
            9.353_59,
            10.046_41,
        ];
        close(&picture, &want);
    }

    #[test]
    fn quarter_turns_move_whole_pixels() {
        let mut picture: Vec<f32> = (1..=9).map(|value| value as f32).collect();
        resample(&mut picture, [3, 3], &Turn::new([3, 3], false, [0.0; 2], 90_f32.to_radians(), 1.0));
        close(&picture, &[3.0, 6.0, 9.0, 2.0, 5.0, 8.0, 1.0, 4.0, 7.0]);
        resample(&mut picture, [3, 3], &Turn::new([3, 3], true, [0.0; 2], 180_f32.to_radians(), 1.0));
        close(&picture, &[1.0, 4.0, 7.0, 2.0, 5.0, 8.0, 3.0, 6.0, 9.0].map(|value| value));
    }

    #[test]
    fn turns_and_zooms_stay_within_their_bounds() {
        // A ramp from left to right: in the middle row, its slope is the cosine of the turn by the factor.
        let side = 9_usize;
        let ramp: Vec<f32> = (0..side * side).map(|place| (place % side) as f32).collect();
        let slope = |picture: &[f32]| picture[4 * side + 5] - picture[4 * side + 4];
        let slopes = |augment: &Augment| {
            let all = (0..500).map(|index| slope(&varied_from(&ramp, [side, side], augment, index)));
            let all: Vec<f32> = all.collect();
            (all.iter().copied().fold(f32::MAX, f32::min), all.iter().copied().fold(f32::MIN, f32::max))
        };
        let (least, most) = slopes(&Augment { rotate: 60.0, ..NONE });
        assert!((0.499..0.52).contains(&least) && (0.999..1.001).contains(&most), "{least} {most}");
        let (least, most) = slopes(&Augment { zoom: 0.5, ..NONE });
        assert!((0.666..0.68).contains(&least) && (1.95..2.001).contains(&most), "{least} {most}");
    }

    proptest! {
        /// With no turn and no factor the pass between pixels reads what whole pixels give.
        #[test]
        fn both_ways_to_move_pixels_agree(
            pixels in prop::collection::vec(-2.0_f32..2.0, 2 * 5 * 4),
            mirrored: bool,
            (down, right) in (0_usize..=4, 0_usize..=4),
        ) {
            let (mut one, mut other) = (pixels.clone(), pixels);
            move_pixels(&mut one, [5, 4], mirrored, [down, right], 2);
            let shift = [down, right].map(|offset| offset as f32 - 2.0);
            resample(&mut other, [5, 4], &Turn::new([5, 4], mirrored, shift, 0.0, 1.0));
            prop_assert_eq!(one, other);
        }

        /// Pictures stay finite, and no setting moves the draws of another.
        #[test]
        fn pictures_stay_finite_and_settings_apart(
            pixels in prop::collection::vec(-2.0_f32..2.0, 24),
            (rotate, zoom) in (0.0..=180.0, 0.0..=0.5),
            (brightness, contrast, noise) in (0.0..=1.0, 0.0..=1.0, 0.0..=1.0),
            (flip, crop, erase) in (any::<bool>(), 0_u32..4, 0_u32..4),
            index in 0_usize..1000,
        ) {
            let all = Augment { flip, crop, rotate, zoom, brightness, contrast, noise, erase, mixup: 0.0 };
            let both = varied_from(&pixels, [4, 6], &all, index);
            prop_assert!(both.iter().all(|value| value.is_finite()));
            // What moves pixels, and then what changes them, is what both do at once.
            let light = Augment { brightness, contrast, noise, erase, ..NONE };
            let moved = varied_from(&pixels, [4, 6], &Augment { flip, crop, rotate, zoom, ..NONE }, index);
            prop_assert_eq!(varied_from(&moved, [4, 6], &light, index), both);
        }
    }

    #[test]
    fn brightness_and_contrast_are_measured_on_raw_pixels() {
        let spread = |values: &[f32]| values[5] - values[0];
        let draws = |augment: &Augment| (0..2000).map(|index| varied(augment, index)).collect::<Vec<_>>();
        let shifts: Vec<f32> =
            draws(&Augment { brightness: 0.25, ..NONE }).iter().map(|picture| mean(picture) - 3.5).collect();
        // A quarter of the range, which preprocessing has stretched by 4: evenly from -1 to 1.
        assert!(shifts.iter().all(|shift| shift.abs() <= 1.0001));
        assert!(mean(&shifts).abs() < 0.07 && shifts.iter().any(|shift| *shift > 0.99), "{}", mean(&shifts));
        let contrasted = draws(&Augment { contrast: 0.5, ..NONE });
        assert!(contrasted.iter().all(|picture| (mean(picture) - 3.5).abs() < 1e-5));
        let factors: Vec<f32> = contrasted.iter().map(|picture| spread(picture) / 5.0).collect();
        assert!(factors.iter().all(|factor| (0.4999..1.5001).contains(factor)));
        assert!((mean(&factors) - 1.0).abs() < 0.04, "{}", mean(&factors));
    }

    #[test]
    fn noise_has_the_deviation_that_was_asked_for() {
        let grey = vec![1.0; 10_000];
        let noisy = varied_from(&grey, [100, 100], &Augment { noise: 0.05, ..NONE }, 1);
        let off: Vec<f32> = noisy.iter().map(|value| value - 1.0).collect();
        let squares: Vec<f32> = off.iter().map(|off| off * off).collect();
        // 0.05 of the range is 0.2 after preprocessing; five standard errors of 0.7 % each.
        let deviation = mean(&squares).sqrt();
        assert!(mean(&off).abs() < 0.01 && (deviation / 0.2 - 1.0).abs() < 0.035, "{deviation}");
    }

    #[test]
    fn a_square_is_blanked_wherever_its_centre_lies() {
        let ones = vec![1.0; 2 * 6 * 8];
        let mut sizes = std::collections::BTreeSet::new();
        for index in 0..1000 {
            let picture = varied_from(&ones, [6, 8], &Augment { erase: 3, ..NONE }, index);
            let blank = |plane: &[f32]| plane.iter().map(|&value| value == 0.0).collect::<Vec<bool>>();
            let (first, second) = (blank(&picture[..48]), blank(&picture[48..]));
            assert_eq!(first, second, "all channels lose the same square");
            let rows = first.chunks(8).filter(|row| row.contains(&true)).count();
            let count = first.iter().filter(|blank| **blank).count();
            sizes.insert((rows, count / rows));
        }
        // Whole, or cut off by one row, one column or both.
        assert_eq!(sizes, [(2, 2), (2, 3), (3, 2), (3, 3)].into());
    }
}
