//! PLAIN, RFC 4616: `[authzid] NUL authcid NUL passwd`. Exactly two NULs: a third would be part of the password here and
//! the end of it elsewhere.

use zeroize::Zeroizing;

use super::Malformed;
use crate::imap::{Credentials, Login, Mechanism, Secret, UserName};

/// The message for a backend, not yet base64.
pub fn encode_plain(authzid: Option<&UserName>, user: &UserName, password: &Secret) -> Zeroizing<Vec<u8>> {
    let authzid = authzid.map_or(&[][..], UserName::as_bytes);
    super::join(&[authzid, b"\0", user.as_bytes(), b"\0", password.reveal()])
}

/// A client's message. An authzid is kept even when it names the same user: whether that is a difference is the
/// backend's to say.
pub(super) fn parse(message: &[u8]) -> Result<Login, Malformed> {
    let mut parts = message.split(|byte| *byte == 0);
    let (Some(authzid), Some(user), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed);
    };
    let authzid = if authzid.is_empty() { None } else { Some(UserName::new(authzid)?) };
    let password = Secret::new(Zeroizing::new(password.to_vec()))?;
    Ok(Login {
        mechanism: Mechanism::Plain,
        user: UserName::new(user)?,
        authzid,
        credentials: Credentials::Password(password),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc() {
        let login = parse(b"Ursel\0Kurt\0xipj3plmq").expect("well formed");
        assert_eq!(login.user.as_bytes(), b"Kurt");
        assert_eq!(login.authzid.as_ref().map(UserName::as_bytes), Some(&b"Ursel"[..]));
        assert_eq!(login.credentials.proof(), b"xipj3plmq");
        assert_eq!(login.mechanism, Mechanism::Plain);
    }

    #[test]
    fn an_authzid_that_names_the_same_user_is_kept() {
        let login = parse(b"ann\0ann\0pw").expect("well formed");
        assert_eq!(login.authzid, Some(login.user));
        assert_eq!(parse(b"\0ann\0pw").expect("well formed").authzid, None);
    }

    #[test]
    fn anything_but_two_nuls_and_a_user_is_refused() {
        let wrong = [
            &b""[..],
            b"ann",
            b"\0ann",
            b"\0ann\0p\0w",
            b"\0\0pw",
            b"ann\0\0pw",
            b"\0a\rn\0pw",
            b"\0a\0p\nw",
            b"z\n\0a\0p",
        ];
        for message in wrong {
            assert!(parse(message).is_err(), "{}", message.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(authzid in "[^\0\r\n]{0,9}", user in "[^\0\r\n]{1,20}", password in "[^\0\r\n]{0,40}") {
            let authzid = (!authzid.is_empty()).then(|| UserName::new(authzid.as_bytes()).expect("clean"));
            let user = UserName::new(user.as_bytes()).expect("clean");
            let secret = Secret::new(Zeroizing::new(password.clone().into_bytes())).expect("clean");
            let login = parse(&encode_plain(authzid.as_ref(), &user, &secret)).expect("own words");
            prop_assert_eq!(login.authzid, authzid);
            prop_assert_eq!(login.user, user);
            prop_assert_eq!(login.credentials.proof(), password.as_bytes());
        }
    }
}
