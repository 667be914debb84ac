//! How much memory a call holds at once: an allocator that counts, per thread. The one place of this crate with
//! `unsafe`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// Bytes held since the measurement began, and the most there were. Memory that was taken before may be given
    /// back meanwhile, so the first may be below zero.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(change: isize) {
    // A thread that ends gives memory back when its own variables are gone already.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        let now = now.wrapping_add(change);
        held.set((now, most.max(now)));
    });
}

#[expect(unsafe_code, reason = "an allocator is an unsafe trait; every call goes to the system's")]
// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed().wrapping_sub(layout.size().cast_signed()));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What a call gives, and the most bytes it held at once on this thread.
pub(crate) fn measured<T>(call: impl FnOnce() -> T) -> (T, usize) {
    HELD.set((0, 0));
    let given = call();
    let (_, most) = HELD.get();
    (given, usize::try_from(most).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_was_held_is_told() {
        let (kept, held) = measured(|| {
            drop(vec![0_u8; 5_000]);
            let mut grown = Vec::with_capacity(1_000);
            grown.extend(std::iter::repeat_n(1_u8, 3_000));
            grown
        });
        assert_eq!(kept.len(), 3_000);
        assert_eq!(held, 5_000);
        assert_eq!(measured(|| ()).1, 0);
    }
}
