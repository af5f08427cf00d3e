//! What a client proves itself with, and under which name: bytes that were checked once, here, so that nothing further
//! on can carry a line break into another protocol (command smuggling) or a password into a log.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// A password or token. It prints as dots, is wiped when dropped, and never holds CR, LF or NUL.
pub struct Secret(Zeroizing<Vec<u8>>);

/// A user name as the client typed it. It never holds CR, LF or NUL, is never empty, and prints escaped.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserName(Arc<[u8]>);

/// The bytes cannot be a user name or secret: they hold CR, LF or NUL (or a name is empty).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("CR, LF and NUL are not allowed in a user name or password")]
pub struct ForbiddenByte;

fn is_clean(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

impl Secret {
    /// Takes bytes as a secret.
    ///
    /// # Errors
    /// [`ForbiddenByte`] when they hold CR, LF or NUL.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, ForbiddenByte> {
        if is_clean(&bytes) { Ok(Self(bytes)) } else { Err(ForbiddenByte) }
    }

    /// The bytes themselves, for the one who speaks to the backend or hashes them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

impl UserName {
    /// Takes bytes as a user name.
    ///
    /// # Errors
    /// [`ForbiddenByte`] when they hold CR, LF or NUL, or are empty.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Result<Self, ForbiddenByte> {
        let bytes = bytes.into();
        if !bytes.is_empty() && is_clean(&bytes) { Ok(Self(bytes)) } else { Err(ForbiddenByte) }
    }

    /// From the form in which a name prints: what the log shows can be typed where a name is asked for.
    pub fn from_shown(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match (byte, byte == b'\\') {
                (plain, false) => plain,
                (_, true) => match rest.next()? {
                    b't' => b'\t',
                    quoted @ (b'\'' | b'"' | b'\\') => quoted,
                    b'x' => {
                        let mut digit = || char::from(rest.next()?).to_digit(16);
                        u8::try_from(digit()? * 16 + digit()?).ok()?
                    }
                    _ => return None,
                },
            });
        }
        Self::new(bytes).ok()
    }

    /// The bytes as typed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The form under which users are counted and looked up: ASCII letters in lower case, everything else as typed.
    pub fn normalised(&self) -> Arc<[u8]> {
        // Most names are typed like that, and a session's is kept in many places.
        let is_normal = !self.0.iter().any(u8::is_ascii_uppercase);
        if is_normal { Arc::clone(&self.0) } else { self.0.to_ascii_lowercase().into() }
    }

    /// What stands before the last `@`; all of it when there is none.
    pub fn local(&self) -> &[u8] {
        self.at().map_or(&self.0, |at| &self.0[..at])
    }

    /// What stands behind the last `@`, if there is one.
    pub fn domain(&self) -> Option<&[u8]> {
        self.at().map(|at| &self.0[at + 1..])
    }

    fn at(&self) -> Option<usize> {
        self.0.iter().rposition(|byte| *byte == b'@')
    }
}

/// Escaped: printable ASCII as it is, everything else (and the quote and the backslash) as Rust writes it in a byte string.
impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.0).fmt(f)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Anything a peer sent, in the only form in which it may enter a log line or an error text.
pub fn escape(bytes: &[u8]) -> impl fmt::Display + '_ {
    bytes.escape_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new(Zeroizing::new(b"hunter2".to_vec())).expect("clean");
        assert_eq!(format!("{secret:?}"), "•••");
        assert_eq!(secret.reveal(), b"hunter2");
    }

    #[test]
    fn line_breaks_and_nul_are_refused() {
        for bytes in [&b"a\rb"[..], b"a\nb", b"a\0b"] {
            assert_eq!(UserName::new(bytes), Err(ForbiddenByte));
            assert!(Secret::new(Zeroizing::new(bytes.to_vec())).is_err());
        }
        assert_eq!(UserName::new(&b""[..]), Err(ForbiddenByte));
        assert!(Secret::new(Zeroizing::new(Vec::new())).is_ok(), "an empty password is the backend's to refuse");
    }

    #[test]
    fn a_user_name_prints_escaped() {
        let user = UserName::new(&b"\x1b[31m\xffann\"@example.org"[..]).expect("clean");
        assert_eq!(user.to_string(), "\\x1b[31m\\xffann\\\"@example.org");
    }

    #[test]
    fn what_is_printed_can_be_read() {
        for bytes in [&b"ann@example.org"[..], b"J\xc3\xb6rg", b"CORP\\tom", b"it's \"it\"\t\x01\xff"] {
            let user = UserName::new(bytes).expect("clean");
            assert_eq!(UserName::from_shown(&user.to_string()), Some(user));
        }
        for text in ["", "a\\", "a\\q", "a\\x", "a\\x4", "a\\xgg", "a\\x0d", "a\\r"] {
            assert_eq!(UserName::from_shown(text), None, "{text}");
        }
    }

    #[test]
    fn a_user_name_splits_at_its_last_at_sign() {
        let user = UserName::new(&b"Ann@home@Example.ORG"[..]).expect("clean");
        assert_eq!(user.local(), b"Ann@home");
        assert_eq!(user.domain(), Some(&b"Example.ORG"[..]));
        assert_eq!(&*user.normalised(), b"ann@home@example.org");
        assert_eq!(UserName::new(&b"ann"[..]).expect("clean").domain(), None);
    }
}
