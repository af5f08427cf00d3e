//! PLAIN (RFC 4616): `[authzid] NUL user NUL password`.

use zeroize::Zeroizing;

use super::Malformed;
use crate::imap::{Secret, UserName};

/// What a PLAIN message says.
#[derive(Debug)]
pub struct Plain {
    /// As whom the user wants to act.
    pub authzid: Option<UserName>,
    /// Who it is.
    pub user: UserName,
    /// Its password.
    pub password: Secret,
}

/// Reads a client's message: two NULs, no more and no fewer.
///
/// # Errors
/// [`Malformed`].
pub fn parse_plain(message: &[u8]) -> Result<Plain, Malformed> {
    let mut fields = message.split(|byte| *byte == 0);
    let (Some(authzid), Some(user), Some(password), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed);
    };
    let authzid = match authzid {
        [] => None,
        name => Some(UserName::new(name).map_err(|_| Malformed)?),
    };
    let user = UserName::new(user).map_err(|_| Malformed)?;
    let password = Secret::new(Zeroizing::new(password.to_vec())).map_err(|_| Malformed)?;
    Ok(Plain { authzid, user, password })
}

/// Writes the message for a backend.
pub fn encode_plain(authzid: Option<&UserName>, user: &UserName, password: &Secret) -> Zeroizing<Vec<u8>> {
    let authzid = authzid.map(UserName::as_bytes).unwrap_or_default();
    let (user, password) = (user.as_bytes(), password.reveal());
    let mut message = Zeroizing::new(Vec::with_capacity(authzid.len() + user.len() + password.len() + 2));
    for (field, end) in [(authzid, &b"\0"[..]), (user, b"\0"), (password, b"")] {
        message.extend_from_slice(field);
        message.extend_from_slice(end);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authzid_is_kept() {
        let read = parse_plain(b"bob\0ann\0secret").expect("well formed");
        assert_eq!(read.authzid.expect("kept").as_bytes(), b"bob");
        assert_eq!((read.user.as_bytes(), read.password.reveal()), (&b"ann"[..], &b"secret"[..]));
    }

    #[test]
    fn what_another_reader_could_take_otherwise_is_refused() {
        for bad in [&b""[..], b"ann\0secret", b"\0\0secret", b"\0ann\0sec\0ret", b"\0ann\0sec\r\nret", b"\0a\nn\0x"] {
            assert_eq!(parse_plain(bad).err(), Some(Malformed), "{}", bad.escape_ascii());
        }
    }
}
