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

/// The shortest buffer that is long enough, or else the longest, which grows.
fn take(kept: &mut Vec<Vec<f32>>, length: usize) -> Vec<f32> {
    let fits = |buffer: &Vec<f32>| (buffer.len() < length, buffer.len().abs_diff(length));
    let best = (0..kept.len()).min_by_key(|at| fits(&kept[*at]));
    best.map(|at| kept.swap_remove(at)).unwrap_or_default()
}
