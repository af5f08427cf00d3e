//! OAUTHBEARER, RFC 7628 section 3.1: a GS2 header that names the user, then key=value pairs, each closed by ^A, then one
//! more ^A. The answer to a failure challenge is one ^A.

use zeroize::Zeroizing;

use super::{Malformed, saslname};
use crate::imap::{Credentials, Login, Mechanism, Secret, UserName};

/// The message for a backend, not yet base64. Host and port are left out: a client meant ours, not the backend's.
pub fn encode_oauthbearer(user: &UserName, token: &Secret) -> Zeroizing<Vec<u8>> {
    let name = saslname::encode(user);
    super::join(&[b"n,a=", &name, b",\x01auth=Bearer ", token.reveal(), b"\x01\x01"])
}

/// A client's message. The user is the header's authzid; a token alone does not say where to send it, so that a message
/// without it is refused.
pub(super) fn parse(message: &[u8]) -> Result<Login, Malformed> {
    let message = message.strip_suffix(b"\x01\x01").ok_or(Malformed)?;
    let mut parts = message.split(|byte| *byte == 1);
    let user = header(parts.next().ok_or(Malformed)?)?;
    let mut token = None;
    for pair in parts {
        let equals = pair.iter().position(|byte| *byte == b'=').ok_or(Malformed)?;
        let (key, value) = (&pair[..equals], &pair[equals + 1..]);
        if key.is_empty() || !key.iter().all(u8::is_ascii_alphabetic) || !value.iter().copied().all(is_value) {
            return Err(Malformed);
        }
        if key.eq_ignore_ascii_case(b"auth") {
            // Twice is one too many: two readers might take different ones.
            let None = token.replace(bearer(value)?) else { return Err(Malformed) };
        }
    }
    let credentials = Credentials::Token(token.ok_or(Malformed)?);
    Ok(Login { mechanism: Mechanism::OAuthBearer, user, authzid: None, credentials })
}

/// `Bearer <token>` (RFC 6750 2.1). The scheme's case does not matter (RFC 9110 11.1), the token is visible ASCII.
pub(super) fn bearer(value: &[u8]) -> Result<Secret, Malformed> {
    let (scheme, token) = value.split_at_checked(7).ok_or(Malformed)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") || token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed);
    }
    Ok(Secret::new(Zeroizing::new(token.to_vec()))?)
}

/// `n,a=<saslname>,`; `y` says the same where channel binding was never offered.
fn header(header: &[u8]) -> Result<UserName, Malformed> {
    let rest = header.strip_prefix(b"n,a=").or_else(|| header.strip_prefix(b"y,a=")).ok_or(Malformed)?;
    saslname::decode(rest.strip_suffix(b",").ok_or(Malformed)?)
}

/// The RFC lets a value hold CR and LF; nothing that needs them is known, and they carry commands into other protocols.
fn is_value(byte: u8) -> bool {
    byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc() {
        let message = b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01";
        let login = parse(message).expect("well formed");
        assert_eq!(login.user.as_bytes(), b"user@example.com");
        assert_eq!(login.credentials.proof(), b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==");
        assert_eq!(login.mechanism, Mechanism::OAuthBearer);
    }

    #[test]
    fn the_whole_grammar_or_nothing() {
        let wrong = [
            &b""[..],
            b"\x01",
            b"\x01\x01",
            b"n,,\x01auth=Bearer t\x01\x01",
            b"n,a=,\x01auth=Bearer t\x01\x01",
            b"n,a=ann\x01auth=Bearer t\x01\x01",
            b"p=tls-unique,a=ann,\x01auth=Bearer t\x01\x01",
            b"F,n,a=ann,\x01auth=Bearer t\x01\x01",
            b"n,a=a=2cn,\x01auth=Bearer t\x01\x01",
            b"n,a=a,n,\x01auth=Bearer t\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01",
            b"n,a=ann,auth=Bearer t\x01\x01",
            b"n,a=ann,\x01\x01\x01",
            b"n,a=ann,\x01host=h\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01=x\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01x1=x\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01\x01x=y\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\r\nx\x01\x01",
            b"n,a=ann,\x01auth=Bearer \x01\x01",
            b"n,a=a\r\nn,\x01auth=Bearer t\x01\x01",
            b"n,a=ann,\x01host=a\r\nb\x01auth=Bearer t\x01\x01",
        ];
        for message in wrong {
            assert!(parse(message).is_err(), "{}", message.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(user in "[^\0\r\n\x01]{1,20}", token in "[!-~]{1,40}") {
            let user = UserName::new(user.as_bytes()).expect("clean");
            let secret = Secret::new(Zeroizing::new(token.clone().into_bytes())).expect("clean");
            let login = parse(&encode_oauthbearer(&user, &secret)).expect("own words");
            prop_assert_eq!(login.user, user);
            prop_assert_eq!(login.credentials.proof(), token.as_bytes());
        }
    }
}
