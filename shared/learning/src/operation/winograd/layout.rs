//! Where the matrices of a tile's places lie in a slice.

use super::form::{LANES, Patch};
use crate::operation::product::Matrix;

/// `places` matrices `[rows, columns]` in one slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// From a row to the next.
    pub(super) row: usize,
    /// From a place to the next.
    pub(super) place: usize,
}

impl Layout {
    /// Matrix by matrix: what products read and write at once lies together.
    pub(super) const fn by_places(rows: usize, columns: usize) -> Self {
        Self { rows, columns, row: columns, place: rows * columns }
    }

    /// A row of every matrix, then the next: threads can take some rows each.
    pub(super) const fn by_rows(rows: usize, columns: usize, places: usize) -> Self {
        Self { rows, columns, row: places * columns, place: columns }
    }

    /// The matrix of a place.
    pub(super) fn matrix<'a>(&self, values: &'a [f32], place: usize) -> Matrix<'a> {
        Matrix::apart(&values[place * self.place..], self.rows, self.columns, self.row)
    }

    /// The values from `start` on of `row` at each place, as many as there are.
    #[inline(always)]
    pub(super) fn load<const SIDE: usize>(&self, values: &[f32], row: usize, start: usize) -> Patch<SIDE> {
        let mut patch = [[[0.0; LANES]; SIDE]; SIDE];
        for (place, lanes) in patch.as_flattened_mut().iter_mut().enumerate() {
            let values = &values[place * self.place + row * self.row..][..self.columns];
            copy(lanes, &values[start..]);
        }
        patch
    }

    /// The opposite of [`Self::load`].
    #[inline(always)]
    pub(super) fn store<const SIDE: usize>(
        &self,
        values: &mut [f32],
        row: usize,
        start: usize,
        patch: &Patch<SIDE>,
    ) {
        for (place, lanes) in patch.as_flattened().iter().enumerate() {
            let values = &mut values[place * self.place + row * self.row..][..self.columns];
            copy(&mut values[start..], lanes);
        }
    }
}

/// Copies as many as there are and there is room for. A full number of lanes is one instruction.
#[inline(always)]
fn copy(out: &mut [f32], values: &[f32]) {
    if let (Some(out), Some(values)) = (out.first_chunk_mut::<LANES>(), values.first_chunk::<LANES>()) {
        *out = *values;
    } else {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = *value);
    }
}
