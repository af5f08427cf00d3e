//! What a client is told when it is let in, and what is needed to say it.

use super::Capabilities;

/// What a backend said when it let the user in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Welcome {
    /// Whole untagged lines to pass on before the tagged answer; no CAPABILITY, no ID among them.
    pub untagged: Vec<u8>,
    /// What stood behind `OK `, a response code included, without the line end.
    pub text: Vec<u8>,
    /// Whether that text holds a `[CAPABILITY ...]` code.
    pub ok_had_capabilities: bool,
    /// The backend's capabilities after login; empty only if it never told.
    pub capabilities: Capabilities,
}

impl Welcome {
    /// Appends the answer to the login with this tag. Capabilities are told untagged to a client that has asked for them
    /// before, and to every client when the tagged OK carries none, so that none works with a stale list.
    pub fn write(&self, tag: &[u8], asked_before: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.untagged);
        if (asked_before || !self.ok_had_capabilities) && !self.capabilities.is_empty() {
            out.extend_from_slice(b"* CAPABILITY ");
            out.extend_from_slice(self.capabilities.as_line());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(tag);
        out.extend_from_slice(b" OK ");
        out.extend_from_slice(if self.text.is_empty() { b"Logged in." } else { &self.text });
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(welcome: &Welcome, asked_before: bool) -> String {
        let mut out = Vec::new();
        welcome.write(b"a1", asked_before, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn a_client_that_asked_before_is_told_again() {
        let welcome = Welcome {
            text: b"[CAPABILITY IMAP4rev1 IDLE] Hello".to_vec(),
            ok_had_capabilities: true,
            capabilities: Capabilities::parse(b"IMAP4rev1 IDLE"),
            ..Welcome::default()
        };
        assert_eq!(said(&welcome, false), "a1 OK [CAPABILITY IMAP4rev1 IDLE] Hello\r\n");
        assert_eq!(said(&welcome, true), "* CAPABILITY IMAP4rev1 IDLE\r\na1 OK [CAPABILITY IMAP4rev1 IDLE] Hello\r\n");
    }

    #[test]
    fn every_client_is_told_when_the_ok_does_not_tell() {
        let welcome = Welcome {
            untagged: b"* OK [ALERT] Disk is full.\r\n".to_vec(),
            text: b"Hello".to_vec(),
            capabilities: Capabilities::parse(b"IMAP4rev1"),
            ..Welcome::default()
        };
        assert_eq!(said(&welcome, false), "* OK [ALERT] Disk is full.\r\n* CAPABILITY IMAP4rev1\r\na1 OK Hello\r\n");
    }

    #[test]
    fn a_backend_that_says_nothing_is_given_words() {
        assert_eq!(said(&Welcome::default(), true), "a1 OK Logged in.\r\n");
    }
}
