//! The tag of a command, held in place: [`Tag`]. RFC 9051 section 2.2.1. Not here: making tags, reading commands.

use std::fmt;

/// A tag that is remembered is no longer than this.
pub(super) const LONGEST: usize = 32;

/// Up to 32 bytes, whatever they are.
#[derive(Default, Clone, Copy)]
pub(super) struct Tag {
    bytes: [u8; LONGEST],
    length: u8,
}

impl Tag {
    /// None: it is longer.
    pub(super) fn new(tag: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..tag.len())?.copy_from_slice(tag);
        Some(Self { bytes, length: u8::try_from(tag.len()).ok()? })
    }

    pub(super) fn is(&self, tag: &[u8]) -> bool {
        self.as_bytes() == tag
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }
}

/// Its length only: clients choose tags, and this may enter a log.
impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.length)
    }
}
