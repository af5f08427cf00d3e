//! A server's list of capabilities (RFC 9051 7.2.2): kept as it was sent, so that it can be passed on unaltered.

/// More than any server announces.
const MOST_BYTES: usize = 8 * 1024;
const MOST_WORDS: usize = 200;

/// Capabilities, in the order and spelling in which they were announced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Separated by single blanks.
    line: Vec<u8>,
}

impl Capabilities {
    /// Reads words separated by blanks. What is beyond reason (200 words, 8 KiB) or not printable ASCII is left out.
    pub fn parse(words: &[u8]) -> Self {
        let mut line = Vec::new();
        let words = words.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        for word in words.filter(|word| word.iter().all(u8::is_ascii_graphic)).take(MOST_WORDS) {
            if line.len() + 1 + word.len() > MOST_BYTES {
                break;
            }
            if !line.is_empty() {
                line.push(b' ');
            }
            line.extend_from_slice(word);
        }
        Self { line }
    }

    /// Whether this is announced; ASCII case ignored.
    pub fn has(&self, name: &str) -> bool {
        self.words().any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Whether `AUTH=mechanism` is announced.
    pub fn auth(&self, mechanism: &str) -> bool {
        self.words().any(|word| {
            word.split_at_checked(5).is_some_and(|(auth, rest)| {
                auth.eq_ignore_ascii_case(b"AUTH=") && rest.eq_ignore_ascii_case(mechanism.as_bytes())
            })
        })
    }

    /// Nothing is announced, or nothing is known.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// The list as it goes on the wire, behind `CAPABILITY `.
    pub fn as_line(&self) -> &[u8] {
        &self.line
    }

    fn words(&self) -> impl Iterator<Item = &[u8]> {
        self.line.split(|byte| *byte == b' ')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_whatever_their_case() {
        let list = Capabilities::parse(b"IMAP4rev1  sasl-ir AUTH=Plain LITERAL+");
        assert!(list.has("SASL-IR") && list.has("literal+") && list.auth("PLAIN"));
        assert!(!list.has("SASL") && !list.auth("LOGIN") && !list.has("AUTH"));
        assert_eq!(list.as_line(), b"IMAP4rev1 sasl-ir AUTH=Plain LITERAL+");
    }

    #[test]
    fn a_hostile_list_stays_small_and_printable() {
        let endless = b"XXXXXXXXXXXXXXXXXXXX ".repeat(1000);
        assert!(Capabilities::parse(&endless).as_line().len() <= MOST_BYTES);
        assert_eq!(Capabilities::parse(b"IMAP4rev1 A\r\nB \x1b[2J IDLE").as_line(), b"IMAP4rev1 IDLE");
        assert!(Capabilities::parse(b"   ").is_empty());
    }
}
