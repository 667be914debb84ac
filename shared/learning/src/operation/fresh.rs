//! New vectors as long as a batch's maps, made by all threads together: one alone would wait for memory.

use rayon::prelude::*;

/// Values that a thread takes at once.
const BLOCK: usize = 256;
/// Below so many values, a thread alone is as fast.
const LEAST: usize = 1 << 16;

/// So many zeros.
pub(crate) fn zeros(length: usize) -> Vec<f32> {
    if length < LEAST || rayon::current_num_threads() == 1 {
        return vec![0.0; length];
    }
    let blocks = rayon::iter::repeat_n([0.0; BLOCK], length.div_ceil(BLOCK));
    shortened(blocks.collect(), length)
}

/// A copy of `values`.
pub(crate) fn copied(values: &[f32]) -> Vec<f32> {
    if values.len() < LEAST || rayon::current_num_threads() == 1 {
        return values.to_vec();
    }
    let block = |at: usize| {
        let mut block = [0.0; BLOCK];
        let values = &values[at * BLOCK..];
        let length = values.len().min(BLOCK);
        block[..length].copy_from_slice(&values[..length]);
        block
    };
    shortened((0..values.len().div_ceil(BLOCK)).into_par_iter().map(block).collect(), values.len())
}

fn shortened(blocks: Vec<[f32; BLOCK]>, length: usize) -> Vec<f32> {
    let mut values = blocks.into_flattened();
    values.truncate(length);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_long_as_asked_for() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for length in [0, 1, LEAST - 1, LEAST, LEAST + 1, LEAST + BLOCK, 3 * LEAST + 7] {
            let values: Vec<f32> = (0..length).map(|at| at as f32).collect();
            pool.install(|| {
                assert_eq!(zeros(length), vec![0.0; length]);
                assert_eq!(copied(&values), values);
            });
        }
    }
}
