//! Variations of a training picture.

use consilium_study::recipe::Augment;

use crate::random::Draws;

/// Varies `picture`, shape `[channels, height, width]`, in place: mirrored in half of the draws, then
/// shifted by up to `crop` pixels each way, its rim repeated where it leaves a gap.
///
/// All draws are made whatever comes of them, so one setting does not move the draws of another.
pub(crate) fn vary(picture: &mut [f32], sides: [usize; 2], augment: Augment, draws: &mut Draws) {
    let [height, width] = sides;
    let mirrored = draws.below(2) == 1;
    let reach = 2 * augment.crop + 1;
    let (down, right) = (draws.below(reach) as usize, draws.below(reach) as usize);
    let crop = augment.crop as usize;
    for plane in picture.chunks_exact_mut(height * width) {
        if augment.flip && mirrored {
            plane.chunks_exact_mut(width).for_each(<[f32]>::reverse);
        }
        if (down, right) != (crop, crop) {
            let before = plane.to_vec();
            // Place `at` reads from `at + offset - crop`, held within the picture.
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

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];

    fn varied(augment: Augment, index: usize) -> Vec<f32> {
        let mut picture = PICTURE.to_vec();
        vary(&mut picture, [2, 3], augment, &mut Draws::initial(9, index));
        picture
    }

    #[test]
    fn nothing_asked_nothing_done() {
        assert!((0..50).all(|index| varied(Augment::default(), index) == PICTURE));
    }

    #[test]
    fn flips_give_the_picture_or_its_mirror_about_equally() {
        let flip = Augment { flip: true, crop: 0 };
        let flipped = (0..1000).filter(|&index| varied(flip, index) != PICTURE).count();
        assert!((400..600).contains(&flipped), "{flipped}");
        let mirror = [3.0, 2.0, 1.0, 6.0, 5.0, 4.0];
        assert!((0..1000).all(|index| [PICTURE, mirror].contains(&varied(flip, index).try_into().unwrap())));
    }

    #[test]
    fn crops_reach_every_shift_and_repeat_the_rim() {
        let crop = Augment { flip: false, crop: 1 };
        let shifted_right = [1.0, 1.0, 2.0, 4.0, 4.0, 5.0];
        let shifted_down = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0];
        let all: std::collections::BTreeSet<Vec<u32>> = (0..1000)
            .map(|index| varied(crop, index).iter().map(|value| value.to_bits()).collect())
            .collect();
        assert_eq!(all.len(), 9);
        for expected in [shifted_right, shifted_down] {
            assert!(all.contains(&expected.iter().map(|value: &f32| value.to_bits()).collect::<Vec<_>>()));
        }
    }
}
