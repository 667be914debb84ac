//! How many threads training may use, and what they keep.

use crate::operation::scratch::forget;

/// Fixes the number of threads for the life of the process. To be called before anything trains.
///
/// Sums over threads depend on their number, so bytes can be promised only for a fixed one.
pub fn fix_threads(threads: std::num::NonZeroUsize) -> Result<(), ThreadsAlreadyFixed> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .build_global()
        .map_err(|_| ThreadsAlreadyFixed { threads: rayon::current_num_threads() })
}

/// Frees what this thread and those that train keep from one step to the next. To be called where none may follow for long.
pub fn release() {
    forget();
    rayon::broadcast(|_| forget());
}

/// How many threads this process trains with.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// The threads run already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process trains with {threads} threads already")]
pub struct ThreadsAlreadyFixed {
    /// How many threads there are.
    pub threads: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_call_is_refused() {
        let one = std::num::NonZeroUsize::MIN;
        // Another test of this process may have started the threads.
        let _first = fix_threads(one);
        assert!(fix_threads(one).is_err());
    }
}
