//! Base64 as SASL on IMAP wants it (RFC 4648 section 4, RFC 9051 6.2.2): canonical only. Unpadded text, data behind the
//! padding, blanks and non-zero trailing bits are refused, since two readers that disagree on such text disagree on who
//! logs in. The only home of the `base64` crate.

use ::base64::{Engine, encoded_len, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// Raw bytes as base64, in a buffer that is wiped.
pub fn base64(raw: &[u8]) -> Zeroizing<Vec<u8>> {
    // The whole size at once: a buffer that grows leaves copies of a password behind.
    let mut text = Zeroizing::new(vec![0; encoded_len(raw.len(), true).unwrap_or_default()]);
    let used = STANDARD.encode_slice(raw, &mut text).unwrap_or_default();
    text.truncate(used);
    text
}

/// The bytes behind base64 text; `None` when the text is not the one canonical form.
pub fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut raw = Zeroizing::new(vec![0; text.len().div_ceil(4) * 3]);
    let used = STANDARD.decode_slice(text, &mut raw).ok()?;
    raw.truncate(used);
    Some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_text_is_read() {
        for (text, raw) in
            [(&b""[..], &b""[..]), (b"AA==", b"\0"), (b"AGE=", b"\0a"), (b"AQ==", b"\x01"), (b"/+8A", b"\xff\xef\0")]
        {
            assert_eq!(decode_base64(text).as_deref().map(Vec::as_slice), Some(raw));
            assert_eq!(*base64(raw), text);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let wrong = [
            &b"AA"[..],
            b"AA=",
            b"AGE",
            b"AA==AA==",
            b"AGE=x",
            b"AA===",
            b"=",
            b"====",
            b"A",
            b" AA==",
            b"AA== ",
            b"A A==",
            b"AA==\r",
            b"AR==",
            b"AGF=",
            b"_-8A",
            b"AA\0=",
            b"*",
        ];
        for text in wrong {
            assert!(decode_base64(text).is_none(), "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn one_text_for_each_message(raw in any::<Vec<u8>>()) {
            let read = decode_base64(&base64(&raw));
            prop_assert_eq!(read.as_deref(), Some(&raw));
        }

        #[test]
        fn what_is_read_is_canonical(text in "[A-Za-z0-9+/=]{0,12}") {
            if let Some(raw) = decode_base64(text.as_bytes()) {
                let again = base64(&raw);
                prop_assert_eq!(again.as_slice(), text.as_bytes());
            }
        }
    }
}
