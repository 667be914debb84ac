//! Buffers that a thread keeps between operations: fresh ones cost page faults in every step, and are cleared first.

use std::cell::RefCell;

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends buffers of these lengths. What they hold is left over from earlier use.
pub(super) fn with<const N: usize, R>(lengths: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    // Taken out, not borrowed: work that asks again gets others.
    let mut taken = lengths.map(|length| {
        let mut buffer = KEPT.with_borrow_mut(|kept| take(kept, length));
        if buffer.len() < length {
            buffer.clear();
            buffer.resize(length, 0.0);
        }
        buffer
    });
    let mut buffers = taken.iter_mut();
    let lent = lengths.map(|length| &mut buffers.next().expect("one for each length")[..length]);
    let result = work(lent);
    KEPT.with_borrow_mut(|kept| kept.extend(taken));
    result
}

/// Frees what this thread keeps.
pub(crate) fn forget() {
    KEPT.take();
}

/// The shortest buffer that is long enough, or else the longest, which grows.
fn take(kept: &mut Vec<Vec<f32>>, length: usize) -> Vec<f32> {
    let fits = |buffer: &Vec<f32>| (buffer.len() < length, buffer.len().abs_diff(length));
    let best = (0..kept.len()).min_by_key(|at| fits(&kept[*at]));
    best.map(|at| kept.swap_remove(at)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_lent_to_one_at_a_time_and_again_until_they_are_forgotten() {
        with([4, 8], |[short, long]| {
            short.fill(1.0);
            long.fill(2.0);
            with([4], |[other]| assert_eq!(other, [0.0; 4]));
            assert_eq!((short, long), (&mut [1.0; 4][..], &mut [2.0; 8][..]));
        });
        // The shortest that is long enough.
        with([5], |[long]| assert_eq!(long, [2.0; 5]));
        forget();
        with([5], |[fresh]| assert_eq!(fresh, [0.0; 5]));
    }
}
