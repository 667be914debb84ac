//! Matrix products on slices: the one place with `unsafe`, behind an interface that checks lengths.

/// A row-major matrix in a slice, or the transpose of one.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// The matrix `[rows, columns]` whose rows follow each other in `values`.
    pub(super) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::apart(values, rows, columns, columns)
    }

    /// The matrix `[rows, columns]` whose rows start `stride` values apart.
    pub(super) fn apart(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(fits(rows, columns, stride, values.len()), "a matrix lies within its slice");
        Self { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The same values with rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Whether the last of `rows`, which start `stride` apart, ends within `length` values, and none reaches into the next.
fn fits(rows: usize, columns: usize, stride: usize, length: usize) -> bool {
    let last = rows.saturating_sub(1).checked_mul(stride).and_then(|start| start.checked_add(columns));
    columns <= stride && last.is_some_and(|end| end <= length)
}

/// What happens to the values that are there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// They are overwritten.
    Replace,
    /// The product is added to them.
    Add,
}

/// Writes `left` times `right`, shape `[left.rows, right.columns]`, to the rows of `out` that start `stride` apart, on this thread.
#[expect(unsafe_code, reason = "the gemm crate takes pointers; lengths are checked here")]
pub(super) fn multiply(left: Matrix, right: Matrix, out: &mut [f32], stride: usize, target: Target) {
    let (rows, columns, inner) = (left.rows, right.columns, left.columns);
    assert_eq!(inner, right.rows, "the inner sides of a product agree");
    assert!(fits(rows, columns, stride, out.len()), "a product lies within its slice");
    let signed = |stride: usize| isize::try_from(stride).expect("a stride is at most a slice's length");
    // SAFETY: `gemm` reads `left` at `row * row_stride + column * column_stride` for row < rows and
    // column < inner, and `right` likewise. `Matrix::apart` made the strides (stride, 1) of a slice
    // that holds at least (rows - 1) * stride + columns values, so the largest place, (rows - 1) *
    // stride + columns - 1, lies in it; `transposed` swaps rows with columns and their strides
    // together, so the same places are read. It writes `out` at `row * stride + column`, below
    // (rows - 1) * stride + columns, which the assertion above holds against its length. The three
    // slices are borrowed for the call, `out` exclusively, so nothing else writes. `out` is read only
    // when added to, and slices hold initialised values. With a side of zero no place is touched.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            signed(stride),
            target == Target::Add,
            left.values.as_ptr(),
            signed(left.column_stride),
            signed(left.row_stride),
            right.values.as_ptr(),
            signed(right.column_stride),
            signed(right.row_stride),
            if target == Target::Add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(matrix: &Matrix, row: usize, column: usize) -> f32 {
        matrix.values[row * matrix.row_stride + column * matrix.column_stride]
    }

    proptest! {
        /// The product is what three loops give, transposed or not, replaced or added.
        #[test]
        fn product_is_three_loops(
            (rows, inner, columns) in (1_usize..20, 1_usize..20, 1_usize..20),
            flips in any::<[bool; 3]>(),
            (apart, seed) in (0_usize..4, any::<u16>()),
        ) {
            // Small integers: every sum is exact, so equality is too.
            let number = |index: usize| ((index * 7 + usize::from(seed)) % 11) as f32 - 5.0;
            let left: Vec<f32> = (0..(rows + apart) * (inner + apart)).map(number).collect();
            let right: Vec<f32> = (0..(inner + apart) * (columns + apart)).map(|index| number(index + 3)).collect();
            let shaped = |values, rows, columns, flip| {
                if flip {
                    Matrix::apart(values, columns, rows, rows + apart).transposed()
                } else {
                    Matrix::apart(values, rows, columns, columns + apart)
                }
            };
            let left = shaped(&left, rows, inner, flips[0]);
            let right = shaped(&right, inner, columns, flips[1]);
            let target = if flips[2] { Target::Add } else { Target::Replace };
            let stride = columns + apart;
            let mut out = vec![2.0; rows * stride];
            multiply(left, right, &mut out, stride, target);
            for (index, out) in out.into_iter().enumerate() {
                let (row, column) = (index / stride, index % stride);
                let sum = || (0..inner).map(|i| at(&left, row, i) * at(&right, i, column)).sum::<f32>();
                let want = match (column < columns, flips[2]) {
                    (true, true) => sum() + 2.0,
                    (true, false) => sum(),
                    (false, _) => 2.0,
                };
                prop_assert!((out - want).abs() < 0.5);
            }
        }
    }

    #[test]
    #[should_panic(expected = "inner sides")]
    fn sides_that_disagree_stop_before_any_pointer() {
        let values = [0.0; 6];
        multiply(Matrix::new(&values, 2, 3), Matrix::new(&values, 2, 3), &mut [0.0; 9], 3, Target::Replace);
    }

    #[test]
    #[should_panic(expected = "within its slice")]
    fn a_slice_that_is_too_short_is_no_matrix() {
        Matrix::apart(&[0.0; 6], 2, 3, 4);
    }

    #[test]
    #[should_panic(expected = "within its slice")]
    fn a_slice_that_is_too_short_takes_no_product() {
        let values = [0.0; 4];
        multiply(Matrix::new(&values, 2, 2), Matrix::new(&values, 2, 2), &mut [0.0; 4], 3, Target::Replace);
    }

    #[test]
    #[should_panic(expected = "within its slice")]
    fn rows_of_a_product_lie_beside_each_other() {
        let values = [0.0; 4];
        multiply(Matrix::new(&values, 2, 2), Matrix::new(&values, 2, 2), &mut [0.0; 4], 1, Target::Replace);
    }
}
