//! Capability lists: what a server says it can do, as an ordered list of atoms. What mailmux itself offers is put
//! together in `preauth.rs`; what a backend offers is read by `response.rs`. RFC 9051 7.2.2.

/// How many items of a list are kept, and how many bytes in all: a backend's list goes on to the client and is held
/// for as long as the login takes, so that a hostile one must end somewhere.
const MAX_ITEMS: usize = 200;
const MAX_BYTES: usize = 8 * 1024;

/// An ordered list of capabilities as they were sent, in the sender's spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<u8>);

impl Capabilities {
    /// Reads blank separated atoms, `IMAP4rev1 IDLE AUTH=PLAIN`. What is no atom is left out, what is over the bound
    /// (200 items, 8 KiB) as well.
    pub fn parse(words: &[u8]) -> Self {
        let mut line = Vec::new();
        let items =
            words.split(u8::is_ascii_whitespace).filter(|item| !item.is_empty() && item.iter().copied().all(is_atom));
        for item in items.take(MAX_ITEMS) {
            if line.len() + 1 + item.len() > MAX_BYTES {
                break;
            }
            if !line.is_empty() {
                line.push(b' ');
            }
            line.extend_from_slice(item);
        }
        Self(line)
    }

    /// Whether the list holds `name`, in any case.
    pub fn has(&self, name: &str) -> bool {
        self.items().any(|item| item.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// Whether the list holds `AUTH=<mechanism>`, in any case.
    pub fn auth(&self, mechanism: &str) -> bool {
        self.items().any(|item| {
            let Some((prefix, name)) = item.split_at_checked(5) else { return false };
            prefix.eq_ignore_ascii_case(b"AUTH=") && name.eq_ignore_ascii_case(mechanism.as_bytes())
        })
    }

    /// Whether nothing is known: a list that was never sent.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list as it goes on the wire: atoms with one blank between them.
    pub fn as_line(&self) -> &[u8] {
        &self.0
    }

    fn items(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b' ')
    }
}

/// ATOM-CHAR (RFC 9051 section 9): anything else would break the line the list is put into.
fn is_atom(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_spelling_stay() {
        let list = Capabilities::parse(b" IMAP4rev1  Idle AUTH=PLAIN X-GM-EXT-1\r\n");
        assert_eq!(list.as_line(), b"IMAP4rev1 Idle AUTH=PLAIN X-GM-EXT-1");
        assert!(list.has("IDLE") && list.has("imap4REV1"));
        assert!(!list.has("IMAP4"), "a part of a word is not the word");
        assert!(list.auth("plain") && !list.auth("LOGIN") && !list.auth(""));
        assert!(!list.is_empty());
    }

    #[test]
    fn nothing_is_nothing() {
        let list = Capabilities::parse(b"  ");
        assert!(list.is_empty());
        assert!(!list.has("") || list.as_line().is_empty());
        assert!(!list.auth("PLAIN"));
    }

    #[test]
    fn what_is_no_atom_is_left_out() {
        let list = Capabilities::parse(b"IDLE ] \"x\" a\\b AUTH=\xff ID {3} UIDPLUS\0");
        assert_eq!(list.as_line(), b"IDLE ID");
    }

    #[test]
    fn a_list_is_bounded() {
        let many = "A ".repeat(10_000);
        assert_eq!(Capabilities::parse(many.as_bytes()).as_line().len(), 2 * MAX_ITEMS - 1);
        let long = "LONG-LONG-LONG-LONG-LONG-LONG-LONG-LONG-LONG-LONG-LONG-LONG ".repeat(190);
        assert!(Capabilities::parse(long.as_bytes()).as_line().len() <= MAX_BYTES);
    }
}
