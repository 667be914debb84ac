//! Convolutions of images, of the slices of volumes and of volumes: what they give, hold and cost.

use super::{LayerName, MAX_SCRATCH, MAX_SIDE, Shape, Trace, divides, product, slices, within};
use crate::fault::GraphFault;
use crate::graph::{Convolution, Role, TransposedConvolution};

impl Trace {
    pub(super) fn convolve(
        &mut self,
        name: &LayerName,
        conv: &Convolution,
        shape: Shape,
    ) -> Result<Shape, GraphFault> {
        let (channels, sides) = slices(shape)?;
        let after = self.convolve_sides(name, conv, channels, (sides, shape.depth()), shape)?;
        Ok(shape.with_slices(conv.filters, after))
    }

    /// A kernel of three sides sees the slices beneath it as so many more channels. They are laid out for that, and stay
    /// until the gradient is there.
    pub(super) fn convolve_volume(
        &mut self,
        name: &LayerName,
        conv: &Convolution,
        input: [u32; 4],
    ) -> Result<Shape, GraphFault> {
        let [channels, depth, height, width] = input;
        let [slices, rows, columns] =
            self.convolve_sides(name, conv, channels, ([depth, height, width], 1), Shape::Volume(input))?;
        self.lay_out([channels, conv.kernel, slices, height, width])?;
        Ok(Shape::Volume([conv.filters, slices, rows, columns]))
    }

    /// Blocks of a convolution over such sides, and its multiply-adds for so many alike; returns the sides of the output.
    fn convolve_sides<const N: usize>(
        &mut self,
        name: &LayerName,
        conv: &Convolution,
        channels: u32,
        (sides, times): ([u32; N], u32),
        shape: Shape,
    ) -> Result<[u32; N], GraphFault> {
        within("filters", conv.filters)?;
        within("kernel", conv.kernel)?;
        within("stride", conv.stride)?;
        within("groups", conv.groups)?;
        divides(conv.groups, channels)?;
        divides(conv.groups, conv.filters)?;
        within("dilation", conv.dilation)?;
        if u64::from(conv.padding) >= conv.extent() {
            return Err(GraphFault::PaddingTooLarge { padding: conv.padding, kernel: conv.extent() });
        }
        let side = |side: u32| {
            let slack = (u64::from(side) + 2 * u64::from(conv.padding)).checked_sub(conv.extent());
            slack.map(|slack| slack / u64::from(conv.stride) + 1)
        };
        let after = sides.map(side);
        if after.contains(&None) {
            return Err(GraphFault::WindowTooLarge { window: conv.extent(), shape });
        }
        let after = after.map(Option::unwrap_or_default);
        let (kernel, per_group) = (product([u64::from(conv.kernel); N]), channels / conv.groups);
        // One slice at a time.
        let unfolded = product([u64::from(channels), kernel, after[N - 2], after[N - 1]]);
        if unfolded > MAX_SCRATCH {
            return Err(GraphFault::TooMuchScratch(unfolded));
        }
        let fan_in = product([u64::from(per_group), kernel]);
        let weight = [&[conv.filters, per_group], [conv.kernel; N].as_slice()].concat();
        self.block(name, Role::Weight, &weight, fan_in)?;
        if conv.bias {
            self.block(name, Role::Bias, &[conv.filters], 1)?;
        }
        self.count(product([fan_in, u64::from(conv.filters), product(after), times.into()]));
        // A side grows by twice a padding that is below an extent of at most the square of MAX_SIDE.
        Ok(after.map(|side| u32::try_from(side).unwrap_or(u32::MAX)))
    }

    /// Counts values that a layer lays out, and that stay behind as its outputs do.
    pub(super) fn lay_out(&mut self, sides: [u32; 5]) -> Result<(), GraphFault> {
        let values = product(sides.map(u64::from));
        if values > MAX_SCRATCH {
            return Err(GraphFault::TooMuchScratch(values));
        }
        self.activations = self.activations.saturating_add(values);
        Ok(())
    }

    pub(super) fn convolve_transposed(
        &mut self,
        name: &LayerName,
        conv: &TransposedConvolution,
        shape: Shape,
    ) -> Result<Shape, GraphFault> {
        let (channels, sides) = slices(shape)?;
        let after = self.convolve_sides_transposed(name, conv, channels, (sides, shape.depth()))?;
        Ok(shape.with_slices(conv.filters, after))
    }

    /// Slices are spread over depth first, and laid out as those of [`Self::convolve_volume`].
    pub(super) fn convolve_volume_transposed(
        &mut self,
        name: &LayerName,
        conv: &TransposedConvolution,
        input: [u32; 4],
    ) -> Result<Shape, GraphFault> {
        let [channels, depth, height, width] = input;
        let [slices, rows, columns] =
            self.convolve_sides_transposed(name, conv, channels, ([depth, height, width], 1))?;
        self.lay_out([channels, conv.kernel, slices, height, width])?;
        Ok(Shape::Volume([conv.filters, slices, rows, columns]))
    }

    fn convolve_sides_transposed<const N: usize>(
        &mut self,
        name: &LayerName,
        conv: &TransposedConvolution,
        channels: u32,
        (sides, times): ([u32; N], u32),
    ) -> Result<[u32; N], GraphFault> {
        within("filters", conv.filters)?;
        within("kernel", conv.kernel)?;
        within("stride", conv.stride)?;
        let (kernel, stride) = (u64::from(conv.kernel), u64::from(conv.stride));
        if conv.padding >= conv.kernel {
            return Err(GraphFault::PaddingTooLarge { padding: conv.padding, kernel });
        }
        let side = |side: u32| {
            let spread = (u64::from(side) - 1).saturating_mul(stride).saturating_add(kernel);
            let side =
                spread.checked_sub(2 * u64::from(conv.padding)).and_then(|side| u32::try_from(side).ok());
            side.filter(|side| (1..=MAX_SIDE).contains(side)).ok_or(GraphFault::OutputSide)
        };
        let mut after = [0; N];
        for (after, before) in after.iter_mut().zip(sides) {
            *after = side(before)?;
        }
        let (window, before) = (product([kernel; N]), product(sides.map(u64::from)));
        let places = product([u64::from(conv.filters), window, before]);
        if places > MAX_SCRATCH {
            return Err(GraphFault::TooMuchScratch(places));
        }
        // Of an output's neighbours under the kernel one in `stride` along each side is an input.
        let fan_in = product([u64::from(channels), window]).div_ceil(product([stride; N]));
        let weight = [&[channels, conv.filters], [conv.kernel; N].as_slice()].concat();
        self.block(name, Role::Weight, &weight, fan_in)?;
        if conv.bias {
            self.block(name, Role::Bias, &[conv.filters], 1)?;
        }
        self.count(product([places, channels.into(), times.into()]));
        Ok(after)
    }
}
