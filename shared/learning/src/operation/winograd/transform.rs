//! The transformations between images and tiles, and between kernels and theirs.
//!
//! A channel of some images is copied to planes with the padding that its tiles read. From there the tiles go through a
//! [`Form`]'s maps, sixteen at a time. Transformed, a channel is a matrix `[places, tiles]`, and a filter's kernels are one
//! `[places, channels]`.

use std::ops::Range;

use super::Tiles;
use super::form::{Form, LANES, Patch, both_ways, both_ways_back};
use super::layout::Layout;

/// Planes of images, one after the other, as their tiles cover them.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    rows: usize,
    columns: usize,
    /// Rows and columns before an image's first.
    margin: usize,
    /// Where each tile starts.
    starts: Vec<usize>,
}

impl Grid {
    /// For images of `down` by `across` tiles, each `step` after the one before and `more` longer than that.
    pub(super) fn new([images, down, across]: [usize; 3], step: usize, more: usize, margin: usize) -> Self {
        let (rows, columns) = (step * down + more, step * across + more);
        let of_image = |image| {
            (0..down * across)
                .map(move |tile| (image * rows + tile / across * step) * columns + tile % across * step)
        };
        Self { rows, columns, margin, starts: (0..images).flat_map(of_image).collect() }
    }

    /// Values of the planes of so many images.
    pub(super) const fn length(&self, images: usize) -> usize {
        images * self.rows * self.columns
    }

    /// Copies the channel here whose values are at `channel` of each image.
    #[inline(always)]
    fn fill<'a>(
        &self,
        planes: &mut [f32],
        images: impl Iterator<Item = &'a [f32]>,
        channel: Range<usize>,
        width: usize,
    ) {
        for (plane, image) in planes.chunks_exact_mut(self.length(1)).zip(images) {
            let lines = plane.chunks_exact_mut(self.columns).skip(self.margin);
            for (line, values) in lines.zip(image[channel.clone()].chunks_exact(width)) {
                line[self.margin..][..width].copy_from_slice(values);
            }
        }
    }

    /// The opposite of [`Self::fill`], with `more` added.
    #[inline(always)]
    fn empty(
        &self,
        planes: &[f32],
        images: &mut [&mut [f32]],
        channel: Range<usize>,
        width: usize,
        more: f32,
    ) {
        for (plane, image) in planes.chunks_exact(self.length(1)).zip(images.iter_mut()) {
            let lines = plane.chunks_exact(self.columns).skip(self.margin);
            for (line, values) in lines.zip(image[channel.clone()].chunks_exact_mut(width)) {
                let line = &line[self.margin..][..width];
                values.iter_mut().zip(line).for_each(|(out, value)| *out = value + more);
            }
        }
    }

    /// The tiles of `run`, each value of theirs a lane.
    #[inline(always)]
    fn tiles<const SIDE: usize>(&self, planes: &[f32], run: Range<usize>) -> Patch<SIDE> {
        let mut patch = [[[0.0; LANES]; SIDE]; SIDE];
        for (lane, start) in self.starts[run].iter().enumerate() {
            for (row, lanes) in patch.iter_mut().enumerate() {
                let values = &planes[start + row * self.columns..][..SIDE];
                for (lanes, value) in lanes.iter_mut().zip(values) {
                    lanes[lane] = *value;
                }
            }
        }
        patch
    }

    /// The transpose of [`Self::tiles`], with what `write` does to the values there, but for the first `done` lanes.
    #[inline(always)]
    fn spread<const SIDE: usize>(
        &self,
        planes: &mut [f32],
        (run, done): (Range<usize>, usize),
        patch: &Patch<SIDE>,
        write: impl Fn(&mut f32, f32),
    ) {
        for (lane, start) in self.starts[run].iter().enumerate().skip(done) {
            for (row, lanes) in patch.iter().enumerate() {
                let values = &mut planes[start + row * self.columns..][..SIDE];
                for (lanes, value) in lanes.iter().zip(values) {
                    write(value, lanes[lane]);
                }
            }
        }
    }
}

wide_fn! {
    /// `V = Bᵀ d B` of all tiles of `images`: of the channels from `first` on, to the rows of `out`.
    pub(super) fn transform_inputs<'a, OUT, READ>(map: &'a Tiles<OUT, READ>, images: &'a [f32], first: usize, layout: Layout, out: &'a mut [f32], planes: &'a mut [f32]) {
        planes.fill(0.0);
        let (plane, image) = (map.windows.height * map.windows.width, map.windows.image());
        for row in 0..layout.rows {
            let channel = (first + row) * plane..(first + row + 1) * plane;
            map.padded.fill(planes, images.chunks_exact(image), channel, map.windows.width);
            for (run, _) in runs(layout.columns) {
                let patch = map.padded.tiles::<READ>(planes, run.clone());
                layout.store(out, row, run.start, &both_ways(&Form::<OUT, READ>::INPUTS, &patch));
            }
        }
    }
}

wide_fn! {
    /// The transpose of [`transform_inputs`]: what each input gets from all tiles that it is in. `images` have a channel a row.
    pub(super) fn fold_inputs<'a, OUT, READ>(map: &'a Tiles<OUT, READ>, layout: Layout, inputs: &'a [f32], planes: &'a mut [f32], images: Vec<&'a mut [f32]>) {
        let (plane, mut images) = (map.windows.height * map.windows.width, images);
        for row in 0..layout.rows {
            planes.fill(0.0);
            for (run, done) in runs(layout.columns) {
                let patch = layout.load::<READ>(inputs, row, run.start);
                let patch = both_ways_back(&Form::<OUT, READ>::INPUTS, &patch);
                map.padded.spread::<READ>(planes, (run, done), &patch, |out, value| *out += value);
            }
            map.padded.empty(planes, &mut images, row * plane..(row + 1) * plane, map.windows.width, 0.0);
        }
    }
}

wide_fn! {
    /// `Aᵀ M A` of all tiles, and each filter's bias. `images` have a filter a row.
    pub(super) fn transform_outputs<'a, OUT, READ>(map: &'a Tiles<OUT, READ>, layout: Layout, products: &'a [f32], planes: &'a mut [f32], bias: &'a [f32], images: Vec<&'a mut [f32]>) {
        let (plane, mut images) = (map.windows.outputs(), images);
        for (row, bias) in bias.iter().enumerate() {
            for (run, done) in runs(layout.columns) {
                let patch = layout.load::<READ>(products, row, run.start);
                let patch = both_ways(&Form::<OUT, READ>::OUTPUTS, &patch);
                map.covered.spread::<OUT>(planes, (run, done), &patch, |out, value| *out = value);
            }
            map.covered.empty(planes, &mut images, row * plane..(row + 1) * plane, map.windows.columns, *bias);
        }
    }
}

wide_fn! {
    /// `A y Aᵀ` of all tiles of `slopes`, of the filters from `first` on: the transpose of [`transform_outputs`].
    pub(super) fn transform_slopes<'a, OUT, READ>(map: &'a Tiles<OUT, READ>, slopes: &'a [f32], first: usize, layout: Layout, out: &'a mut [f32], planes: &'a mut [f32]) {
        planes.fill(0.0);
        let (plane, result) = (map.windows.outputs(), map.windows.result());
        for row in 0..layout.rows {
            let filter = (first + row) * plane..(first + row + 1) * plane;
            map.covered.fill(planes, slopes.chunks_exact(result), filter, map.windows.columns);
            for (run, _) in runs(layout.columns) {
                let patch = map.covered.tiles::<OUT>(planes, run.clone());
                layout.store(out, row, run.start, &both_ways_back(&Form::<OUT, READ>::OUTPUTS, &patch));
            }
        }
    }
}

wide_fn! {
    /// `U = G g Gᵀ` of one filter's kernels, `[channels, 9]`, to a row of `out`.
    pub(super) fn transform_kernels<'a, OUT, READ>(kernels: &'a [f32], row: usize, layout: Layout, out: &'a mut [f32]) {
        let kernels = kernels.as_chunks::<9>().0;
        for (run, _) in runs(layout.columns) {
            let mut patch = [[[0.0; LANES]; 3]; 3];
            for (lane, kernel) in kernels[run.clone()].iter().enumerate() {
                for (place, value) in kernel.iter().enumerate() {
                    patch[place / 3][place % 3][lane] = *value;
                }
            }
            layout.store::<READ>(out, row, run.start, &both_ways(&Form::<OUT, READ>::KERNELS, &patch));
        }
    }
}

wide_fn! {
    /// The transpose of [`transform_kernels`], of the sum over `parts`: the gradient of one filter's kernels, `[channels, 9]`.
    pub(super) fn fold_kernels<'a, OUT, READ>(parts: &'a [&'a [f32]], row: usize, layout: Layout, out: &'a mut [f32]) {
        let out = out.as_chunks_mut::<9>().0;
        for (run, _) in runs(layout.columns) {
            let mut sum = [[[0.0; LANES]; READ]; READ];
            for part in parts {
                let part = layout.load::<READ>(part, row, run.start);
                for (sum, part) in sum.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
                    sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
                }
            }
            let patch = both_ways_back(&Form::<OUT, READ>::KERNELS, &sum);
            for (lane, gradient) in out[run].iter_mut().enumerate() {
                for (place, value) in gradient.iter_mut().enumerate() {
                    *value = patch[place / 3][place % 3][lane];
                }
            }
        }
    }
}

/// Runs of at most [`LANES`] that cover `count`, each with how many of its first the one before has covered: the last one
/// reaches back, so that it is full, too.
#[inline(always)]
fn runs(count: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    (0..count).step_by(LANES).map(move |from| {
        let start = from.min(count.saturating_sub(LANES));
        (start..(start + LANES).min(count), from - start)
    })
}
