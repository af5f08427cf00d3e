//! XOAUTH2, as Google and Microsoft describe it: `user=<name> ^A auth=Bearer <token> ^A ^A`, nothing else in it. The
//! answer to a failure challenge is empty.

use zeroize::Zeroizing;

use super::{Malformed, oauthbearer::bearer};
use crate::imap::{Credentials, Login, Mechanism, Secret, UserName};

/// The message for a backend, not yet base64.
pub fn encode_xoauth2(user: &UserName, token: &Secret) -> Zeroizing<Vec<u8>> {
    super::join(&[b"user=", user.as_bytes(), b"\x01auth=Bearer ", token.reveal(), b"\x01\x01"])
}

/// A client's message.
pub(super) fn parse(message: &[u8]) -> Result<Login, Malformed> {
    let mut parts = message.split(|byte| *byte == 1);
    let (Some(user), Some(auth), Some(b""), Some(b""), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed);
    };
    let user = UserName::new(user.strip_prefix(b"user=").ok_or(Malformed)?)?;
    let token = bearer(auth.strip_prefix(b"auth=").ok_or(Malformed)?)?;
    Ok(Login { mechanism: Mechanism::XOAuth2, user, authzid: None, credentials: Credentials::Token(token) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_manual() {
        let message = b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01";
        let login = parse(message).expect("well formed");
        assert_eq!(login.user.as_bytes(), b"someuser@example.com");
        assert_eq!(login.credentials.proof(), b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg");
        assert!(matches!(login.credentials, Credentials::Token(_)));
        let Credentials::Token(token) = &login.credentials else { return };
        assert_eq!(*encode_xoauth2(&login.user, token), message);
    }

    #[test]
    fn the_whole_grammar_or_nothing() {
        let wrong = [
            &b""[..],
            b"\x01",
            b"user=ann\x01auth=Bearer t",
            b"user=ann\x01auth=Bearer t\x01",
            b"user=ann\x01auth=Bearer t\x01\x01\x01",
            b"user=ann\x01auth=Bearer t\x01x=y\x01\x01",
            b"user=\x01auth=Bearer t\x01\x01",
            b"user=ann\x01auth=Bearer \x01\x01",
            b"user=ann\x01auth=Basic t\x01\x01",
            b"auth=Bearer t\x01user=ann\x01\x01",
            b"user=a\r\nn\x01auth=Bearer t\x01\x01",
            b"user=ann\x01auth=Bearer t\r\nu\x01\x01",
            b"user=ann\x01auth=Bearer t\0\x01\x01",
            b"user=ann\x01auth=Bearer t u\x01\x01",
        ];
        for message in wrong {
            assert!(parse(message).is_err(), "{}", message.escape_ascii());
        }
    }
}
