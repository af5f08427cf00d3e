//! The one buffer of a thread, in which ciphertext comes and goes. Not here: anything that outlives a poll.

use std::cell::Cell;

/// Four whole records, and room for small ones in front of them.
pub(super) const SIZE: usize = 4 * super::machine::RECORD_MAX;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends it. Whoever asks for it again meanwhile gets another one.
pub(super) fn lend<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    if scratch.is_empty() {
        scratch = vec![0; SIZE];
    }
    let result = use_it(&mut scratch);
    SCRATCH.set(scratch);
    result
}
