//! OAUTHBEARER (RFC 7628 section 3.1): a GS2 header, then `key=value` pairs, each ended by ^A, and one ^A more.

use zeroize::Zeroizing;

use super::xoauth2::bearer_token;
use super::{Bearer, Malformed, escaped_name, gs2_header};
use crate::imap::{Secret, UserName};

/// Reads a client's message. The user's name, which the RFC lets a client leave out, is demanded: without it nobody
/// knows where to send the user.
///
/// # Errors
/// [`Malformed`].
pub fn parse_oauthbearer(message: &[u8]) -> Result<Bearer, Malformed> {
    let (user, rest) = gs2_header(message)?;
    let user = user.ok_or(Malformed)?;
    let pairs = rest.strip_prefix(b"\x01").and_then(|rest| rest.strip_suffix(b"\x01\x01")).ok_or(Malformed)?;
    let mut token = None;
    for pair in pairs.split(|byte| *byte == 1) {
        let equals = pair.iter().position(|byte| *byte == b'=').ok_or(Malformed)?;
        let (key, value) = (&pair[..equals], &pair[equals + 1..]);
        if key.is_empty() || !key.iter().all(u8::is_ascii_alphabetic) {
            return Err(Malformed);
        }
        // The RFC would let line ends in; they are never needed and never harmless.
        if !value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
            return Err(Malformed);
        }
        if key == b"auth" && token.replace(bearer_token(pair)?).is_some() {
            return Err(Malformed);
        }
    }
    Ok(Bearer { user, token: token.ok_or(Malformed)? })
}

/// Writes the message for a backend. Host and port are left out: the client named ours, not the backend's.
pub fn encode_oauthbearer(user: &UserName, token: &Secret) -> Zeroizing<Vec<u8>> {
    let name = escaped_name(user);
    let mut message = Zeroizing::new(Vec::with_capacity(name.len() + token.reveal().len() + 32));
    for piece in [b"n,a=", name.as_slice(), b",\x01auth=Bearer ", token.reveal(), b"\x01\x01"] {
        message.extend_from_slice(piece);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let read = parse_oauthbearer(
            b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01",
        );
        let read = read.expect("well formed");
        assert_eq!(read.user.as_bytes(), b"user@example.com");
        assert_eq!(read.token.reveal(), b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==");
    }

    #[test]
    fn escapes_in_the_name() {
        let read = parse_oauthbearer(b"y,a=a=2Cb=3Dc,\x01auth=bearer t\x01\x01").expect("well formed");
        assert_eq!(read.user.as_bytes(), b"a,b=c");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &b"n,,\x01auth=Bearer t\x01\x01"[..],
            b"p=tls-unique,a=ann,\x01auth=Bearer t\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01",
            b"n,a=ann,\x01host=h\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01h0st=h\x01\x01",
            b"n,a=ann,\x01auth=Bearer t\x01host=h\r\nx\x01\x01",
            b"n,a=an=2cn,\x01auth=Bearer t\x01\x01",
            b"n,a=ann\x01auth=Bearer t\x01\x01",
        ] {
            assert_eq!(parse_oauthbearer(bad).err(), Some(Malformed), "{}", bad.escape_ascii());
        }
    }
}
