//! Bytes that wait for somebody to take them: [`Waiting`]. It owns memory for no longer than that. Not here: what they are.

/// Taken from the front, freed with the last one.
#[derive(Default)]
pub(super) struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
}

impl Waiting {
    pub(super) fn is_waiting(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// All that was not taken yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(super) fn take(&mut self, n: usize) {
        self.taken += n;
        if self.taken >= self.bytes.len() {
            self.drop_all();
        }
    }

    pub(super) fn drop_all(&mut self) {
        self.bytes = Vec::new();
        self.taken = 0;
    }

    /// Adds these, with no room to spare: more come seldom.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.reserve_exact(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds what is written into room for `most` bytes.
    pub(super) fn fill(&mut self, most: usize, write: impl FnOnce(&mut [u8]) -> usize) {
        let start = self.bytes.len();
        self.bytes.reserve_exact(most);
        self.bytes.resize(start + most, 0);
        let n = write(&mut self.bytes[start..]);
        self.bytes.truncate(start + n);
    }

    /// The memory it owns.
    pub(super) fn owned(&self) -> usize {
        self.bytes.capacity()
    }
}
