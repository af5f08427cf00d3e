//! What mailmux says to a client before it is handed over: the fixed lines, and how a tagged answer is put together.
//! Nothing that a client sent is ever part of an answer, but its tag after it was checked. RFC 9051 section 7.

use super::Capabilities;

/// What a backend said when it let the user in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Welcome {
    /// Whole untagged lines to pass on before the tagged OK (no CAPABILITY, no ID), line ends included.
    pub untagged: Vec<u8>,
    /// What stood behind `OK `, response code included, no line end.
    pub text: Vec<u8>,
    /// Whether the text holds a `[CAPABILITY ...]` code.
    pub ok_had_capabilities: bool,
    /// The backend's list after login; empty only if it never told.
    pub capabilities: Capabilities,
}

/// `<tag> <text>`, where the text begins with OK, NO or BAD. Without a valid tag the line is untagged.
pub(super) fn tagged(out: &mut Vec<u8>, tag: Option<&[u8]>, text: &[u8]) {
    line(out, &[tag.unwrap_or(b"*"), b" ", text]);
}

/// `* CAPABILITY <list>`.
pub(super) fn capabilities(out: &mut Vec<u8>, list: &Capabilities) {
    line(out, &[b"* CAPABILITY ", list.as_line()]);
}

/// `+ <text>`, the invitation to send a literal or a SASL message.
pub(super) fn go_on(out: &mut Vec<u8>, text: &[u8]) {
    line(out, &[b"+ ", text]);
}

/// One line from its parts, with its line end; whatever the parts hold, they are one line.
pub(super) fn line(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend(part.iter().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line_whatever_it_is_made_of() {
        let mut out = Vec::new();
        tagged(&mut out, Some(b"a"), b"NO Ask\r\na OK your\0 admin");
        tagged(&mut out, None, b"BAD x");
        go_on(&mut out, b"");
        capabilities(&mut out, &Capabilities::parse(b"IMAP4rev1 ID"));
        assert_eq!(out, b"a NO Aska OK your admin\r\n* BAD x\r\n+ \r\n* CAPABILITY IMAP4rev1 ID\r\n");
    }
}
