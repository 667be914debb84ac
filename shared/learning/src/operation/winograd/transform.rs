//! The transformations between planes and tiles, and between kernels and theirs.
//!
//! A group of images has `tiles` tiles: row by row, in a row image by image. The four rows and columns that a tile reads lie in
//! planes of their own, a value a tile, so that every transformation runs along all tiles at once.

use std::ops::Range;

use super::{PLACES, Tiles};
use crate::operation::unfold::Windows;

wide_fn! {
    /// `U = G g Gᵀ` of one filter's kernels, `[channels, 9]`, one of `rows` a place.
    pub(super) fn kernels_of_filter<'a>(rows: &'a mut [&'a mut [f32]], kernels: &'a [f32]) {
        for (channel, g) in kernels.as_chunks::<9>().0.iter().enumerate() {
            let of_row = |row: [f32; 3]| {
                let (outer, inner) = (0.5 * (row[0] + row[2]), 0.5 * row[1]);
                [row[0], outer + inner, outer - inner, row[2]]
            };
            let columns: [[f32; 4]; 3] =
                std::array::from_fn(|column| of_row([g[column], g[3 + column], g[6 + column]]));
            for down in 0..4 {
                let of = of_row([columns[0][down], columns[1][down], columns[2][down]]);
                for (across, value) in of.into_iter().enumerate() {
                    rows[4 * down + across][channel] = value;
                }
            }
        }
    }
}

wide_fn! {
    /// `Gᵀ S G` of the sum over `parts`, for one filter: its weights' gradient, `[channels, 9]`.
    pub(super) fn kernel_gradient_of_filter<'a>(map: &'a Tiles, parts: &'a [Vec<f32>], filter: usize, out: &'a mut [f32]) {
        let Windows { channels, filters, .. } = map.windows;
        let mut sums = vec![0.0; PLACES * channels];
        for part in parts {
            for (place, sums) in sums.chunks_exact_mut(channels).enumerate() {
                let part = &part[(place * filters + filter) * channels..][..channels];
                sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
            }
        }
        for (channel, g) in out.as_chunks_mut::<9>().0.iter_mut().enumerate() {
            let of_row = |row: [f32; 4]| {
                let (sum, difference) = (0.5 * (row[1] + row[2]), 0.5 * (row[1] - row[2]));
                [row[0] + sum, difference, sum + row[3]]
            };
            let at = |down: usize, across: usize| sums[(4 * down + across) * channels + channel];
            let rows: [[f32; 3]; 4] =
                std::array::from_fn(|down| of_row([at(down, 0), at(down, 1), at(down, 2), at(down, 3)]));
            for across in 0..3 {
                let column = of_row([rows[0][across], rows[1][across], rows[2][across], rows[3][across]]);
                for (down, value) in column.into_iter().enumerate() {
                    g[3 * down + across] = value;
                }
            }
        }
    }
}

wide_fn! {
    /// `V = Bᵀ d B` of every tile, shape `[places, channels, tiles]`.
    pub(super) fn transform_inputs<'a>(map: &'a Tiles, images: &'a [f32], tiles: usize, out: &'a mut [f32], scratch: &'a mut [f32]) {
        let channels = map.windows.channels;
        let (planes, lines) = scratch.split_at_mut(map.planes(tiles));
        let row = map.row(tiles);
        for channel in 0..channels {
            map.spread_out(images, channel, tiles, planes);
            for down in 0..4 {
                for (column, line) in lines.chunks_exact_mut(tiles).take(4).enumerate() {
                    let at = |parity: usize| &planes[(4 * parity + column) * (tiles + row)..][..tiles + row];
                    let ([first, third], [second, fourth]) = ([at(0), &at(0)[row..]], [at(1), &at(1)[row..]]);
                    match down {
                        0 => minus(line, first, third),
                        1 => plus(line, second, third),
                        2 => minus(line, third, second),
                        _ => minus(line, second, fourth),
                    }
                }
                let of = |column: usize| &lines[column * tiles..][..tiles];
                for across in 0..4 {
                    let out = &mut out[((4 * down + across) * channels + channel) * tiles..][..tiles];
                    match across {
                        0 => minus(out, of(0), of(2)),
                        1 => plus(out, of(1), of(2)),
                        2 => minus(out, of(2), of(1)),
                        _ => minus(out, of(1), of(3)),
                    }
                }
            }
        }
    }
}

wide_fn! {
    /// The transpose of [`transform_inputs`]: what each input gets from all tiles that it is in.
    pub(super) fn fold_inputs<'a>(map: &'a Tiles, places: &'a [f32], tiles: usize, scratch: &'a mut [f32], images: &'a mut [f32]) {
        let channels = map.windows.channels;
        let (planes, lines) = scratch.split_at_mut(map.planes(tiles));
        let row = map.row(tiles);
        for channel in 0..channels {
            planes.fill(0.0);
            for column in 0..4 {
                for (down, line) in lines.chunks_exact_mut(tiles).take(4).enumerate() {
                    let at = |across: usize| &places[((4 * down + across) * channels + channel) * tiles..][..tiles];
                    match column {
                        0 => line.copy_from_slice(at(0)),
                        1 => turned(line, at(1), at(3), at(2)),
                        2 => turned(line, at(1), at(2), at(0)),
                        _ => negative(line, at(3)),
                    }
                }
                let of = |down: usize| &lines[down * tiles..][..tiles];
                let (even, odd) = planes.split_at_mut(4 * (tiles + row));
                let (even, odd) = (&mut even[column * (tiles + row)..], &mut odd[column * (tiles + row)..]);
                add(&mut even[..tiles], of(0));
                add_turned(&mut odd[..tiles], of(1), of(3), of(2));
                add_turned(&mut even[row..row + tiles], of(1), of(2), of(0));
                subtract(&mut odd[row..row + tiles], of(3));
            }
            map.gather(planes, channel, tiles, images);
        }
    }
}

wide_fn! {
    /// `Aᵀ M A` of every tile, with each filter's bias.
    pub(super) fn transform_outputs<'a>(map: &'a Tiles, products: &'a [f32], tiles: usize, scratch: &'a mut [f32], bias: &'a [f32], out: &'a mut [f32]) {
        let Windows { filters, rows, columns, .. } = map.windows;
        let (lines, pair) = scratch.split_at_mut(4 * tiles);
        let (even, odd) = pair[..2 * tiles].split_at_mut(tiles);
        for filter in 0..filters {
            for parity in 0..2 {
                for (across, line) in lines.chunks_exact_mut(tiles).enumerate() {
                    let of = |down: usize| &products[((4 * down + across) * filters + filter) * tiles..][..tiles];
                    if parity == 0 {
                        sum(line, of(0), of(1), of(2));
                    } else {
                        rest(line, of(1), of(2), of(3));
                    }
                }
                let of = |across: usize| &lines[across * tiles..][..tiles];
                sum(even, of(0), of(1), of(2));
                rest(odd, of(1), of(2), of(3));
                for (image, out) in out.chunks_exact_mut(map.windows.result()).enumerate() {
                    let plane = &mut out[filter * rows * columns..][..rows * columns];
                    for (ty, out) in plane.chunks_exact_mut(columns).skip(parity).step_by(2).enumerate() {
                        let at = map.tile(ty, image, tiles);
                        interleave(out, &even[at.clone()], &odd[at], bias[filter]);
                    }
                }
            }
        }
    }
}

wide_fn! {
    /// `A y Aᵀ` of every tile, shape `[places, filters, tiles]`: the transpose of [`transform_outputs`].
    pub(super) fn transform_slopes<'a>(map: &'a Tiles, slopes: &'a [f32], tiles: usize, scratch: &'a mut [f32], out: &'a mut [f32]) {
        let Windows { filters, rows, columns, .. } = map.windows;
        let (planes, line) = scratch.split_at_mut(4 * tiles);
        let line = &mut line[..2 * tiles];
        for filter in 0..filters {
            planes.fill(0.0);
            for (image, slope) in slopes.chunks_exact(map.windows.result()).enumerate() {
                let plane = &slope[filter * rows * columns..][..rows * columns];
                for (y, values) in plane.chunks_exact(columns).enumerate() {
                    let at = map.tile(y / 2, image, tiles);
                    let (even, odd) = planes[y % 2 * 2 * tiles..][..2 * tiles].split_at_mut(tiles);
                    separate(values, &mut even[at.clone()], &mut odd[at]);
                }
            }
            let (upper, lower) = planes.split_at(2 * tiles);
            for down in 0..4 {
                spread(down, line, upper, lower);
                let (even, odd) = line.split_at(tiles);
                for across in 0..4 {
                    let out = &mut out[((4 * down + across) * filters + filter) * tiles..][..tiles];
                    spread(across, out, even, odd);
                }
            }
        }
    }
}

impl Tiles {
    /// The tiles of a row, of all images of a group.
    pub(super) const fn row(&self, tiles: usize) -> usize {
        tiles / self.down
    }

    /// The tiles of row `ty` of an image.
    #[inline(always)]
    fn tile(&self, ty: usize, image: usize, tiles: usize) -> Range<usize> {
        let start = ty * self.row(tiles) + image * self.across;
        start..start + self.across
    }

    /// Length of the planes of a channel: for even and odd rows of the padded images, for each of the four columns of a tile,
    /// a value a tile, with one more row of them.
    pub(super) const fn planes(&self, tiles: usize) -> usize {
        8 * (tiles + self.row(tiles))
    }

    /// Where column `column` of a row's first tile lies in a row of the input: how many tiles have it in the padding, and
    /// the first value.
    #[inline(always)]
    fn first(&self, column: usize) -> (usize, usize) {
        let padding = self.windows.padding;
        let outside = padding.saturating_sub(column).div_ceil(2);
        (outside, 2 * outside + column - padding)
    }

    /// Spreads a channel of all images out into planes.
    #[inline(always)]
    fn spread_out(&self, images: &[f32], channel: usize, tiles: usize, planes: &mut [f32]) {
        let Windows { channels, height, width, padding, .. } = self.windows;
        planes.fill(0.0);
        for (image, values) in images.chunks_exact(channels * height * width).enumerate() {
            let plane = &values[channel * height * width..][..height * width];
            for (y, values) in plane.chunks_exact(width).enumerate() {
                let row = y + padding;
                let (parity, ty) = (row % 2, row / 2);
                let at = self.tile(ty, image, tiles);
                for column in 0..4 {
                    let plane = &mut planes[(4 * parity + column) * (tiles + self.row(tiles))..];
                    let (outside, first) = self.first(column);
                    if first < width {
                        each_second(&mut plane[at.clone()][outside..], &values[first..]);
                    }
                }
            }
        }
    }

    /// The transpose of [`Self::spread_out`].
    #[inline(always)]
    fn gather(&self, planes: &[f32], channel: usize, tiles: usize, images: &mut [f32]) {
        let Windows { channels, height, width, padding, .. } = self.windows;
        for (image, values) in images.chunks_exact_mut(channels * height * width).enumerate() {
            let plane = &mut values[channel * height * width..][..height * width];
            for (y, values) in plane.chunks_exact_mut(width).enumerate() {
                let row = y + padding;
                let (parity, ty) = (row % 2, row / 2);
                let at = self.tile(ty, image, tiles);
                values.fill(0.0);
                for column in 0..4 {
                    let plane = &planes[(4 * parity + column) * (tiles + self.row(tiles))..];
                    let (outside, first) = self.first(column);
                    if first < width {
                        add_to_each_second(&mut values[first..], &plane[at.clone()][outside..]);
                    }
                }
            }
        }
    }
}

// Along lines. Each is as long as the shortest.

#[inline(always)]
fn plus(out: &mut [f32], left: &[f32], right: &[f32]) {
    out.iter_mut().zip(left).zip(right).for_each(|((out, left), right)| *out = left + right);
}

#[inline(always)]
fn minus(out: &mut [f32], left: &[f32], right: &[f32]) {
    out.iter_mut().zip(left).zip(right).for_each(|((out, left), right)| *out = left - right);
}

#[inline(always)]
fn add(out: &mut [f32], values: &[f32]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
}

#[inline(always)]
fn subtract(out: &mut [f32], values: &[f32]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out -= value);
}

/// Adds `one + two - three`.
#[inline(always)]
fn add_turned(out: &mut [f32], one: &[f32], two: &[f32], three: &[f32]) {
    let values = one.iter().zip(two).zip(three);
    out.iter_mut().zip(values).for_each(|(out, ((one, two), three))| *out += one + two - three);
}

/// `one + two - three`.
#[inline(always)]
fn turned(out: &mut [f32], one: &[f32], two: &[f32], three: &[f32]) {
    let values = one.iter().zip(two).zip(three);
    out.iter_mut().zip(values).for_each(|(out, ((one, two), three))| *out = one + two - three);
}

#[inline(always)]
fn negative(out: &mut [f32], values: &[f32]) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = -value);
}

/// `one + two + three`.
#[inline(always)]
fn sum(out: &mut [f32], one: &[f32], two: &[f32], three: &[f32]) {
    let values = one.iter().zip(two).zip(three);
    out.iter_mut().zip(values).for_each(|(out, ((one, two), three))| *out = one + two + three);
}

/// `one - two - three`.
#[inline(always)]
fn rest(out: &mut [f32], one: &[f32], two: &[f32], three: &[f32]) {
    let values = one.iter().zip(two).zip(three);
    out.iter_mut().zip(values).for_each(|(out, ((one, two), three))| *out = one - two - three);
}

/// The row `which` of `A`, times a pair.
#[inline(always)]
fn spread(which: usize, out: &mut [f32], first: &[f32], second: &[f32]) {
    match which {
        0 => out.copy_from_slice(first),
        1 => plus(out, first, second),
        2 => minus(out, first, second),
        _ => negative(out, second),
    }
}

/// Copies a row: each second value from the first on, and the others. Of an odd length the last other one stays as it is.
#[inline(always)]
fn separate(values: &[f32], firsts: &mut [f32], seconds: &mut [f32]) {
    let (pairs, last) = values.as_chunks::<2>();
    for ((pair, first), second) in pairs.iter().zip(firsts.iter_mut()).zip(seconds.iter_mut()) {
        (*first, *second) = (pair[0], pair[1]);
    }
    if let [last] = last {
        firsts[pairs.len()] = *last;
    }
}

/// Copies each second value, from the first on, as far as both reach.
#[inline(always)]
fn each_second(out: &mut [f32], values: &[f32]) {
    let (pairs, last) = values.as_chunks::<2>();
    for (out, pair) in out.iter_mut().zip(pairs) {
        *out = pair[0];
    }
    if let (Some(out), [last]) = (out.get_mut(pairs.len()), last) {
        *out = *last;
    }
}

/// Adds to each second value, from the first on, as far as both reach.
#[inline(always)]
fn add_to_each_second(out: &mut [f32], values: &[f32]) {
    let (pairs, last) = out.as_chunks_mut::<2>();
    let after = values.get(pairs.len());
    for (pair, value) in pairs.iter_mut().zip(values) {
        pair[0] += value;
    }
    if let (Some(value), [last]) = (after, last) {
        *last += value;
    }
}

/// The opposite of [`separate`], with something added to each.
#[inline(always)]
fn interleave(out: &mut [f32], firsts: &[f32], seconds: &[f32], more: f32) {
    let (pairs, last) = out.as_chunks_mut::<2>();
    for ((pair, first), second) in pairs.iter_mut().zip(firsts).zip(seconds) {
        *pair = [first + more, second + more];
    }
    if let [last] = last {
        *last = firsts[pairs.len()] + more;
    }
}
