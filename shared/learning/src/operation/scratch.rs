//! Buffers that a thread keeps between operations: fresh ones cost page faults in every step.

use std::cell::RefCell;

thread_local! {
    static KEPT: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Lends two buffers of these lengths. What they hold is left over from earlier use.
pub(super) fn with_two<R>(lengths: [usize; 2], work: impl FnOnce(&mut [f32], &mut [f32]) -> R) -> R {
    // Taken out, not borrowed: work that asks again gets fresh buffers instead of a panic.
    let (mut first, mut second) = KEPT.take();
    for (buffer, length) in [&mut first, &mut second].into_iter().zip(lengths) {
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
    }
    let result = work(&mut first[..lengths[0]], &mut second[..lengths[1]]);
    KEPT.replace((first, second));
    result
}
