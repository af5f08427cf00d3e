//! SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677), as far as a relay needs them: the client's first message, which
//! names the user. Only client and backend can compute the rest, and it passes through unread.

use zeroize::Zeroizing;

use super::{Malformed, saslname};
use crate::imap::{Credentials, Login, Mechanism, Secret};

/// A client's first message: `n,,n=<user>,r=<nonce>[,extensions]`. Channel binding (`p=`) cannot work through a relay
/// that ends TLS; an authzid, which is signed like the rest, could not be judged by a route; a mandatory extension (`m=`)
/// must be refused by who does not know it.
pub(super) fn parse_first(mechanism: Mechanism, message: Zeroizing<Vec<u8>>) -> Result<Login, Malformed> {
    let bare = message.strip_prefix(b"n,,").or_else(|| message.strip_prefix(b"y,,")).ok_or(Malformed)?;
    let mut fields = bare.split(|byte| *byte == b',');
    let user = saslname::decode(fields.next().and_then(|field| field.strip_prefix(b"n=")).ok_or(Malformed)?)?;
    let nonce = fields.next().and_then(|field| field.strip_prefix(b"r=")).ok_or(Malformed)?;
    if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) || !fields.all(is_extension) {
        return Err(Malformed);
    }
    let credentials = Credentials::ScramFirst(Secret::new(message)?);
    Ok(Login { mechanism, user, authzid: None, credentials })
}

/// `attr-val`: a letter, `=`, a value that is not empty.
fn is_extension(field: &[u8]) -> bool {
    matches!(field, [letter, b'=', _, ..] if letter.is_ascii_alphabetic() && *letter != b'm')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(message: &[u8]) -> Result<Login, Malformed> {
        parse_first(Mechanism::ScramSha256, Zeroizing::new(message.to_vec()))
    }

    #[test]
    fn the_example_of_the_rfc() {
        let message = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        let login = parse(message).expect("well formed");
        assert_eq!(login.user.as_bytes(), b"user");
        assert_eq!(login.credentials.proof(), message, "the backend gets the message as it was signed");
        assert_eq!(parse(b"y,,n=a=2Cb=3Dc,r=x,t=ext").expect("well formed").user.as_bytes(), b"a,b=c");
    }

    #[test]
    fn what_cannot_be_relayed_is_refused() {
        let wrong = [
            &b""[..],
            b"n,,",
            b"n,,n=,r=x",
            b"n,,n=user",
            b"n,,n=user,r=",
            b"n,,r=x,n=user",
            b"n,,m=ext,n=user,r=x",
            b"n,,n=user,r=x,m=ext",
            b"n,,n=user,r=x,",
            b"n,,n=user,r=x,tt",
            b"n,a=boss,n=user,r=x",
            b"p=tls-server-end-point,,n=user,r=x",
            b"n,,n=us=er,r=x",
            b"n,,n=user,r=x\r\nA LOGOUT",
            b"n,,n=user,r=x,t=\0",
            b"n,,n=us\ner,r=x",
        ];
        for message in wrong {
            assert!(parse(message).is_err(), "{}", message.escape_ascii());
        }
    }
}
