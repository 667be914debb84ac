//! Each thread takes some channels or filters of all images: no kernel is transformed, and no gradient summed, twice.

use std::ops::Range;

use rayon::prelude::*;

use super::layout::Layout;
use super::transform::{
    fold_inputs, fold_kernels, transform_inputs, transform_kernels, transform_outputs, transform_slopes,
};
use super::{Gradients, Tiles};
use crate::operation::product::{Target, multiply};
use crate::operation::scratch;
use crate::operation::unfold::Windows;

/// Channels or filters whose kernels a thread transforms at once: their transforms stay in its cache.
const BLOCK: usize = 64;

/// How many of `rows` a thread takes at once.
fn block(rows: usize) -> usize {
    rows.div_ceil(rayon::current_num_threads()).min(BLOCK)
}

impl<const OUT: usize, const READ: usize> Tiles<OUT, READ> {
    pub(super) fn forward_by_channels(
        &self,
        input: &[f32],
        weight: &[f32],
        bias: &[f32],
        results: &mut [f32],
    ) {
        let Windows { images, channels, filters, .. } = self.windows;
        let (tiles, block) = (images * self.tiles, block(filters));
        let of_inputs = Layout::by_rows(channels, tiles, Self::PLACES);
        let results = blocks(results, self.windows.result(), block * self.windows.outputs());
        scratch::with([channels * Self::PLACES * tiles], |[inputs]| {
            self.transform_all_inputs(input, inputs);
            let blocks = results.into_par_iter().zip(weight.par_chunks(block * 9 * channels));
            blocks.zip(bias.par_chunks(block)).for_each(|((results, weight), bias)| {
                let rows = bias.len();
                let lengths = [rows * Self::PLACES * channels, rows * Self::PLACES * tiles];
                let planes = self.covered.length(images);
                scratch::with([lengths[0], lengths[1], planes], |[kernels, products, planes]| {
                    let of_kernels = Layout::by_places(rows, channels);
                    for (row, weight) in weight.chunks_exact(9 * channels).enumerate() {
                        transform_kernels::<OUT, READ>(weight, row, of_kernels, kernels);
                    }
                    let of_products = Layout::by_places(rows, tiles);
                    for place in 0..Self::PLACES {
                        let kernel = of_kernels.matrix(kernels, place);
                        let input = of_inputs.matrix(inputs, place);
                        let product = &mut products[place * of_products.place..];
                        multiply(kernel, input, product, of_products.row, Target::Replace);
                    }
                    transform_outputs(self, of_products, products, planes, bias, results);
                });
            });
        });
    }

    fn transform_all_inputs(&self, input: &[f32], out: &mut [f32]) {
        let Windows { images, channels, .. } = self.windows;
        let (rows, tiles) = (block(channels), images * self.tiles);
        out.par_chunks_mut(rows * Self::PLACES * tiles).enumerate().for_each(|(block, out)| {
            let layout = Layout::by_rows(out.len() / (Self::PLACES * tiles), tiles, Self::PLACES);
            scratch::with([self.padded.length(images)], |[planes]| {
                transform_inputs(self, input, block * rows, layout, out, planes);
            });
        });
    }

    pub(super) fn backward_by_channels(
        &self,
        input: &[f32],
        weight: &[f32],
        slope: &[f32],
        (to_input, to_weight): Gradients,
    ) {
        let Windows { images, channels, height, width, filters, .. } = self.windows;
        let (tiles, block) = (images * self.tiles, block(channels));
        let count = channels.div_ceil(block);
        let of_input =
            to_input.map(|gradient| blocks(gradient, self.windows.image(), block * height * width));
        let of_weight = to_weight.map(|gradient| blocks(gradient, 9 * channels, block * 9));
        let each =
            |parts: Option<Vec<Vec<_>>>| parts.unwrap_or_else(|| (0..count).map(|_| Vec::new()).collect());
        scratch::with([filters * Self::PLACES * tiles], |[slopes]| {
            self.transform_all_slopes(slope, slopes);
            each(of_input).into_par_iter().zip(each(of_weight)).enumerate().for_each(
                |(number, (of_input, of_weight))| {
                    let channels = number * block..channels.min((number + 1) * block);
                    self.backward_of_block(input, weight, slopes, channels, of_input, of_weight);
                },
            );
        });
    }

    fn transform_all_slopes(&self, slope: &[f32], out: &mut [f32]) {
        let Windows { images, filters, .. } = self.windows;
        let (rows, tiles) = (block(filters), images * self.tiles);
        out.par_chunks_mut(rows * Self::PLACES * tiles).enumerate().for_each(|(block, out)| {
            let layout = Layout::by_rows(out.len() / (Self::PLACES * tiles), tiles, Self::PLACES);
            scratch::with([self.covered.length(images)], |[planes]| {
                transform_slopes(self, slope, block * rows, layout, out, planes);
            });
        });
    }

    /// Some channels: their gradients in all images and in all filters, where they are wanted.
    fn backward_of_block(
        &self,
        input: &[f32],
        weight: &[f32],
        slopes: &[f32],
        block: Range<usize>,
        of_input: Vec<&mut [f32]>,
        of_weight: Vec<&mut [f32]>,
    ) {
        let Windows { images, channels, filters, .. } = self.windows;
        let tiles = images * self.tiles;
        let of_slopes = Layout::by_rows(filters, tiles, Self::PLACES);
        let of_inputs = Layout::by_places(block.len(), tiles);
        let of_kernels = Layout::by_places(filters, block.len());
        let lengths = [tiles, filters].map(|rows| rows * block.len() * Self::PLACES);
        let padded = self.padded.length(images);
        scratch::with([lengths[0], lengths[1], padded], |[inputs, kernels, planes]| {
            if !of_weight.is_empty() {
                transform_inputs(self, input, block.start, of_inputs, inputs, planes);
                for place in 0..Self::PLACES {
                    let slope = of_slopes.matrix(slopes, place);
                    let input = of_inputs.matrix(inputs, place).transposed();
                    let sum = &mut kernels[place * of_kernels.place..];
                    multiply(slope, input, sum, of_kernels.row, Target::Replace);
                }
                for (filter, gradient) in of_weight.into_iter().enumerate() {
                    fold_kernels::<OUT, READ>(&[kernels], filter, of_kernels, gradient);
                }
            }
            if !of_input.is_empty() {
                for (filter, weight) in weight.chunks_exact(9 * channels).enumerate() {
                    let weight = &weight[9 * block.start..9 * block.end];
                    transform_kernels::<OUT, READ>(weight, filter, of_kernels, kernels);
                }
                for place in 0..Self::PLACES {
                    let kernel = of_kernels.matrix(kernels, place).transposed();
                    let slope = of_slopes.matrix(slopes, place);
                    let input = &mut inputs[place * of_inputs.place..];
                    multiply(kernel, slope, input, of_inputs.row, Target::Replace);
                }
                fold_inputs(self, of_inputs, inputs, planes, of_input);
            }
        });
    }
}

/// Of every stretch of `length`, the values of the same `block`, one block after the other.
fn blocks(values: &mut [f32], length: usize, block: usize) -> Vec<Vec<&mut [f32]>> {
    let mut blocks: Vec<Vec<&mut [f32]>> = (0..length.div_ceil(block)).map(|_| Vec::new()).collect();
    for stretch in values.chunks_exact_mut(length) {
        for (block, values) in blocks.iter_mut().zip(stretch.chunks_mut(block)) {
            block.push(values);
        }
    }
    blocks
}
