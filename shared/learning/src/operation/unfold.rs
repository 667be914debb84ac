//! A convolution's windows as columns of a matrix, and back.
//!
//! Unfolded, a group of images is a matrix `[channels * kernel², images * outputs]`: one row per
//! place in the window, one column per output. Images are grouped so that the matrix is wide enough
//! for a fast product and still fits a cache.

/// How a kernel moves over an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Motion {
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) dilation: usize,
}

/// Sides of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    pub(super) images: usize,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) filters: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) dilation: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Images unfolded together.
    pub(super) group: usize,
}

/// Columns that make a product fast: below, its setup shows; above, the matrix leaves the cache.
const WIDE: usize = 512;

impl Windows {
    pub(super) fn new(input: [usize; 4], weight: [usize; 4], motion: Motion) -> Self {
        let [images, channels, height, width] = input;
        let [filters, _, kernel, _] = weight;
        let Motion { stride, padding, dilation } = motion;
        let extent = dilation * (kernel - 1) + 1;
        let rows = (height + 2 * padding - extent) / stride + 1;
        let columns = (width + 2 * padding - extent) / stride + 1;
        let per_thread = images.div_ceil(rayon::current_num_threads()).max(1);
        let group = WIDE.div_ceil(rows * columns).clamp(1, per_thread);
        Self {
            images,
            channels,
            height,
            width,
            filters,
            kernel,
            stride,
            padding,
            dilation,
            rows,
            columns,
            group,
        }
    }

    /// Places in a window: rows of the unfolded matrix.
    pub(super) const fn places(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    /// Outputs of a filter in one image.
    pub(super) const fn outputs(&self) -> usize {
        self.rows * self.columns
    }

    /// Values of one input image.
    pub(super) const fn image(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Values of one output image.
    pub(super) const fn result(&self) -> usize {
        self.filters * self.outputs()
    }

    /// The output columns whose window has input at its column `place`: first, one past last.
    pub(super) fn covered(&self, place: usize) -> (usize, usize) {
        self.covered_of(place, self.width, self.columns)
    }

    /// The same for output rows and a row of the window.
    pub(super) fn covered_rows(&self, place: usize) -> (usize, usize) {
        self.covered_of(place, self.height, self.rows)
    }

    fn covered_of(&self, place: usize, side: usize, outputs: usize) -> (usize, usize) {
        let first = self.padding.saturating_sub(place).div_ceil(self.stride);
        // The last output with `output * stride + place < side + padding`.
        let past = match (side + self.padding).checked_sub(place + 1) {
            Some(slack) => (slack / self.stride + 1).min(outputs),
            None => 0,
        };
        (first.min(past), past)
    }

    /// The input row at row `place` of the window of output row `row`, unless it is padding.
    fn input_row(&self, row: usize, place: usize) -> Option<usize> {
        (row * self.stride + place).checked_sub(self.padding).filter(|&row| row < self.height)
    }

    /// Every channel with every place of the window that the kernel covers, and its row of the unfolded matrix.
    pub(super) fn each_place(&self) -> impl Iterator<Item = (usize, usize, usize, usize)> + use<> {
        let Self { kernel, dilation, .. } = *self;
        (0..self.places()).map(move |index| {
            let (down, right) = (index / kernel % kernel, index % kernel);
            (index, index / (kernel * kernel), down * dilation, right * dilation)
        })
    }

    /// Unfolds `count` images into `matrix`, shape `[places, count * outputs]`.
    pub(super) fn unfold(&self, images: &[f32], count: usize, matrix: &mut [f32]) {
        let (outputs, plane) = (self.outputs(), self.height * self.width);
        for (index, channel, down, right) in self.each_place() {
            let (first, past) = self.covered(right);
            for image in 0..count {
                let source = &images[image * self.image() + channel * plane..][..plane];
                let target = &mut matrix[(index * count + image) * outputs..][..outputs];
                for (row, out) in target.chunks_exact_mut(self.columns).enumerate() {
                    let Some(input) = self.input_row(row, down).filter(|_| first < past) else {
                        out.fill(0.0);
                        continue;
                    };
                    out[..first].fill(0.0);
                    out[past..].fill(0.0);
                    let line = &source[input * self.width..][..self.width];
                    let start = first * self.stride + right - self.padding;
                    if self.stride == 1 {
                        out[first..past].copy_from_slice(&line[start..start + past - first]);
                    } else {
                        let values = line[start..].iter().step_by(self.stride);
                        out[first..past].iter_mut().zip(values).for_each(|(out, value)| *out = *value);
                    }
                }
            }
        }
    }

    /// Adds each value of `matrix`, shape `[places, count * outputs]`, to the input it came from.
    pub(super) fn fold(&self, matrix: &[f32], count: usize, images: &mut [f32]) {
        let (outputs, plane) = (self.outputs(), self.height * self.width);
        images.fill(0.0);
        for (index, channel, down, right) in self.each_place() {
            let (first, past) = self.covered(right);
            if first == past {
                continue;
            }
            for image in 0..count {
                let target = &mut images[image * self.image() + channel * plane..][..plane];
                let source = &matrix[(index * count + image) * outputs..][..outputs];
                for (row, values) in source.chunks_exact(self.columns).enumerate() {
                    let Some(input) = self.input_row(row, down) else { continue };
                    let line = &mut target[input * self.width..][..self.width];
                    let start = first * self.stride + right - self.padding;
                    let values = &values[first..past];
                    if self.stride == 1 {
                        let line = &mut line[start..start + values.len()];
                        line.iter_mut().zip(values).for_each(|(out, value)| *out += value);
                    } else {
                        let line = line[start..].iter_mut().step_by(self.stride);
                        line.zip(values).for_each(|(out, value)| *out += value);
                    }
                }
            }
        }
    }

    /// Copies outputs `[count, filters, outputs]` to `[filters, count * outputs]`.
    pub(super) fn gather(&self, results: &[f32], count: usize, matrix: &mut [f32]) {
        let outputs = self.outputs();
        for (index, plane) in results.chunks_exact(outputs).enumerate() {
            let (image, filter) = (index / self.filters, index % self.filters);
            matrix[(filter * count + image) * outputs..][..outputs].copy_from_slice(plane);
        }
    }

    /// Copies `[filters, count * outputs]` to outputs `[count, filters, outputs]`, adding each filter's bias.
    pub(super) fn scatter(&self, matrix: &[f32], count: usize, bias: &[f32], results: &mut [f32]) {
        let outputs = self.outputs();
        for (index, plane) in results.chunks_exact_mut(outputs).enumerate() {
            let (image, filter) = (index / self.filters, index % self.filters);
            let source = &matrix[(filter * count + image) * outputs..][..outputs];
            plane.iter_mut().zip(source).for_each(|(out, value)| *out = value + bias[filter]);
        }
    }
}
