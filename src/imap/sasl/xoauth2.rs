//! XOAUTH2, as Google and Microsoft describe it: `user=` name ^A `auth=Bearer ` token ^A ^A.

use zeroize::Zeroizing;

use super::Malformed;
use crate::imap::{Secret, UserName};

/// A user with a bearer token; what both token mechanisms say.
#[derive(Debug)]
pub struct Bearer {
    /// Who it is.
    pub user: UserName,
    /// The token alone.
    pub token: Secret,
}

/// Reads a client's message.
///
/// # Errors
/// [`Malformed`].
pub fn parse_xoauth2(message: &[u8]) -> Result<Bearer, Malformed> {
    let fields = message.strip_suffix(b"\x01\x01").ok_or(Malformed)?;
    let (user, auth) = fields.strip_prefix(b"user=").and_then(split_at_separator).ok_or(Malformed)?;
    Ok(Bearer { user: UserName::new(user).map_err(|_| Malformed)?, token: bearer_token(auth)? })
}

/// Writes the message for a backend.
pub fn encode_xoauth2(user: &UserName, token: &Secret) -> Zeroizing<Vec<u8>> {
    let mut message = Zeroizing::new(Vec::with_capacity(user.as_bytes().len() + token.reveal().len() + 32));
    for piece in [b"user=", user.as_bytes(), b"\x01auth=Bearer ", token.reveal(), b"\x01\x01"] {
        message.extend_from_slice(piece);
    }
    message
}

/// `auth=Bearer token`; the scheme in any case (RFC 9110 11.1), the token printable and in one piece.
pub(super) fn bearer_token(field: &[u8]) -> Result<Secret, Malformed> {
    let value = field.strip_prefix(b"auth=").ok_or(Malformed)?;
    let (scheme, token) = value.split_at_checked(7).ok_or(Malformed)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") || token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed);
    }
    Secret::new(Zeroizing::new(token.to_vec())).map_err(|_| Malformed)
}

fn split_at_separator(fields: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = fields.iter().position(|byte| *byte == 1)?;
    Some((&fields[..at], &fields[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_google_shows() {
        let read = parse_xoauth2(
            b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01",
        );
        let read = read.expect("well formed");
        assert_eq!(read.user.as_bytes(), b"someuser@example.com");
        assert_eq!(read.token.reveal(), b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &b"user=ann\x01auth=Bearer t\x01"[..],
            b"user=ann\x01auth=Bearer t",
            b"user=ann\x01auth=Bearer t\x01x\x01\x01",
            b"user=ann\x01auth=Bearer \x01\x01",
            b"user=ann\x01auth=Basic dDp0\x01\x01",
            b"user=\x01auth=Bearer t\x01\x01",
            b"user=a\r\nnn\x01auth=Bearer t\x01\x01",
            b"user=ann\x01auth=Bearer t\r\nx\x01\x01",
        ] {
            assert_eq!(parse_xoauth2(bad).err(), Some(Malformed), "{}", bad.escape_ascii());
        }
    }
}
