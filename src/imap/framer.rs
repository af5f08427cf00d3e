//! Bytes into pieces: lines, literals, and what is skipped. A piece is found before anything in it is looked at, so the
//! bytes of a literal can never be taken for a command, and every bound sits here. RFC 9051 section 4.3 and 2.2.
//!
//! It holds what was pushed and not taken yet, and wipes it: passwords go through here.

use zeroize::Zeroizing;

/// A line of a command (RFC 9051 4 asks for 8000 at least), its literals counted in.
pub const LONGEST_LINE: usize = 8 * 1024;
/// A line of a SASL exchange (RFC 9051 4: 65536).
pub const LONGEST_SASL_LINE: usize = 64 * 1024;

/// Cuts what a client sends into pieces.
#[derive(Default)]
pub struct Framer {
    held: Zeroizing<Vec<u8>>,
    /// So much of what is held is known to hold no line end.
    scanned: usize,
    /// So much of what comes is thrown away.
    to_skip: u64,
}

/// A line without its end, or the sign that it has become too long.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// The bytes before CRLF (or a lone LF, which people type).
    Whole(Zeroizing<Vec<u8>>),
    /// There is no line end within the bound.
    TooLong,
}

impl Framer {
    /// Takes bytes in. What is to be skipped is not kept.
    pub fn push(&mut self, bytes: &[u8]) {
        let skipped = usize::try_from(self.to_skip).unwrap_or(usize::MAX).min(bytes.len());
        self.to_skip -= skipped as u64;
        let bytes = &bytes[skipped..];
        if self.held.capacity() - self.held.len() < bytes.len() {
            // Growing in place would leave a copy of a password behind.
            let mut roomier = Zeroizing::new(Vec::with_capacity((self.held.len() + bytes.len()).next_power_of_two()));
            roomier.extend_from_slice(&self.held);
            self.held = roomier;
        }
        self.held.extend_from_slice(bytes);
    }

    /// The next line, if it is there; `longest` bytes at most, its end not counted.
    pub fn line(&mut self, longest: usize) -> Option<Line> {
        if self.to_skip > 0 {
            return None;
        }
        let Some(found) = self.held[self.scanned..].iter().position(|byte| *byte == b'\n') else {
            self.scanned = self.held.len();
            return (self.held.len() > longest + 1).then_some(Line::TooLong);
        };
        let end = self.scanned + found;
        let length = if end > 0 && self.held[end - 1] == b'\r' { end - 1 } else { end };
        if length > longest {
            return Some(Line::TooLong);
        }
        let line = Zeroizing::new(self.held[..length].to_vec());
        self.consume(end + 1);
        Some(Line::Whole(line))
    }

    /// The next `length` bytes, once they are all there.
    pub fn literal(&mut self, length: usize) -> Option<Zeroizing<Vec<u8>>> {
        if self.to_skip > 0 {
            return None;
        }
        let literal = Zeroizing::new(self.held.get(..length)?.to_vec());
        self.consume(length);
        Some(literal)
    }

    /// Throws the next `length` bytes away, as they come.
    pub fn skip(&mut self, length: u64) {
        let now = usize::try_from(length).unwrap_or(usize::MAX).min(self.held.len());
        self.consume(now);
        self.to_skip = self.to_skip.saturating_add(length - now as u64);
    }

    /// What was pushed and not taken.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Gives it away.
    pub fn into_held(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.held)
    }

    fn consume(&mut self, length: usize) {
        self.held.drain(..length);
        self.scanned = 0;
        if self.held.is_empty() {
            self.held = Zeroizing::new(Vec::new());
        }
    }
}

/// A literal announced at the end of a line: `{5}` or `{5+}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Where the line ends without it.
    pub text: usize,
    /// Its length; `u64::MAX` when the number has no meaning here.
    pub length: u64,
    /// The client waits for a `+` before it sends it.
    pub waits: bool,
}

/// The literal a line announces, if it does. Digits only: no sign, no blank, at least one.
pub fn announced(line: &[u8]) -> Option<Announced> {
    let inner = line.strip_suffix(b"}")?;
    let text = inner.iter().rposition(|byte| *byte == b'{')?;
    let digits = &inner[text + 1..];
    let (digits, waits) = match digits.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (digits, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = std::str::from_utf8(digits).ok()?.parse().unwrap_or(u64::MAX);
    Some(Announced { text, length, waits })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(line: &[u8]) -> Line {
        Line::Whole(Zeroizing::new(line.to_vec()))
    }

    #[test]
    fn lines_end_with_crlf_or_lf() {
        let mut framer = Framer::default();
        framer.push(b"one\r\ntwo\n\r\nthr");
        assert_eq!(framer.line(10), Some(whole(b"one")));
        assert_eq!(framer.line(10), Some(whole(b"two")));
        assert_eq!(framer.line(10), Some(whole(b"")));
        assert_eq!(framer.line(10), None);
        assert_eq!(framer.held(), b"thr");
    }

    #[test]
    fn a_line_of_just_the_longest_length_is_a_line() {
        let mut framer = Framer::default();
        framer.push(b"0123456789\r");
        assert_eq!(framer.line(10), None);
        framer.push(b"\n");
        assert_eq!(framer.line(10), Some(whole(b"0123456789")));
        framer.push(b"0123456789a\r\n");
        assert_eq!(framer.line(10), Some(Line::TooLong));
    }

    #[test]
    fn what_is_skipped_is_not_kept() {
        let mut framer = Framer::default();
        framer.push(b"abc");
        framer.skip(1_000_000);
        framer.push(&[b'x'; 999_997]);
        assert!(framer.held().is_empty() && framer.held.capacity() == 0);
        framer.push(b"next\r\n");
        assert_eq!(framer.line(10), Some(whole(b"next")));
    }

    #[test]
    fn announcements() {
        assert_eq!(announced(b"a LOGIN {5}"), Some(Announced { text: 8, length: 5, waits: true }));
        assert_eq!(announced(b"{0+}"), Some(Announced { text: 0, length: 0, waits: false }));
        assert_eq!(announced(b"{99999999999999999999999}").map(|found| found.length), Some(u64::MAX));
        for none in [&b"{}"[..], b"{+}", b"{-1}", b"{ 1}", b"{1 }", b"{1}x", b"1}", b"{1++}", b"{1+2}", b""] {
            assert_eq!(announced(none), None, "{}", none.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(
            text in prop::collection::vec(prop::sample::select(&b"ab\r\n"[..]), 0..200),
            cuts in prop::collection::vec(1_usize..20, 1..50),
        ) {
            let lines = |chunks: &mut dyn Iterator<Item = &[u8]>| {
                let (mut framer, mut lines) = (Framer::default(), Vec::new());
                for chunk in chunks {
                    framer.push(chunk);
                    while let Some(line) = framer.line(LONGEST_LINE) {
                        lines.push(line);
                    }
                }
                (lines, framer.into_held())
            };
            let mut rest = &text[..];
            let mut cuts = cuts.iter().cycle();
            let mut pieces = std::iter::from_fn(|| {
                let (piece, after) = rest.split_at(rest.len().min(*cuts.next()?));
                rest = after;
                (!piece.is_empty()).then_some(piece)
            });
            prop_assert_eq!(lines(&mut pieces), lines(&mut std::iter::once(&text[..])));
        }
    }
}
