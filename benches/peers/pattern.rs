//! What mails are made of, on both sides: lines of 64 bytes, no two of which that follow each other are the same.

/// The beginning of any mail; the rest is this again and again.
pub(crate) static PATTERN: [u8; 256 * 1024] = pattern();

/// Whether these are the bytes that stand at this place of any mail.
pub(crate) fn is_pattern(mut part: &[u8], place: usize) -> bool {
    let mut begin = place % PATTERN.len();
    while !part.is_empty() {
        let size = part.len().min(PATTERN.len() - begin);
        if part[..size] != PATTERN[begin..begin + size] {
            return false;
        }
        part = &part[size..];
        begin = 0;
    }
    true
}

#[allow(clippy::large_stack_arrays, reason = "it is on the compiler's stack, and on no other")]
const fn pattern() -> [u8; 256 * 1024] {
    const LETTERS: &[u8; 26] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut all = [b'a'; 256 * 1024];
    let mut line = 0;
    while line < all.len() / 64 {
        all[line * 64] = LETTERS[line % 26];
        all[line * 64 + 1] = LETTERS[line / 26 % 26];
        all[line * 64 + 62] = b'\r';
        all[line * 64 + 63] = b'\n';
        line += 1;
    }
    all
}
