//! Buffers that a thread keeps between operations: fresh ones cost page faults in every step.

use std::cell::RefCell;

thread_local! {
    static KEPT: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// Lends up to three buffers of these lengths. What they hold is left over from earlier use.
pub(super) fn with<const N: usize, R>(lengths: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    // Taken out, not borrowed: work that asks again gets fresh buffers instead of a panic.
    let mut kept = KEPT.take();
    let mut buffers = kept.iter_mut();
    let lent = lengths.map(|length| {
        let buffer = buffers.next().expect("three are enough");
        if buffer.len() < length {
            buffer.resize(length, 0.0);
        }
        &mut buffer[..length]
    });
    let result = work(lent);
    KEPT.replace(kept);
    result
}
