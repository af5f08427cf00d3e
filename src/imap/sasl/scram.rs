//! SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677), as far as a relay needs them: the client's first message, which
//! names the user. Only client and backend can compute the rest, and it passes through unread.

use zeroize::Zeroizing;

use super::{Malformed, saslname};
use crate::imap::{Credentials, Login, Mechanism, Secret};

/// A client's first message: `n,[a=<authzid>],n=<user>,r=<nonce>[,extensions]`. Some clients name an authzid always, the
/// user's own (mbsync, by way of Cyrus SASL). Channel binding (`p=`) cannot work through a relay that ends TLS; a mandatory
/// extension (`m=`) must be refused by who does not know it.
pub(super) fn parse_first(mechanism: Mechanism, message: Zeroizing<Vec<u8>>) -> Result<Login, Malformed> {
    let mut fields = message.split(|byte| *byte == b',');
    if !matches!(fields.next(), Some(b"n" | b"y")) {
        return Err(Malformed);
    }
    let authzid = match fields.next().ok_or(Malformed)? {
        b"" => None,
        field => Some(saslname::decode(field.strip_prefix(b"a=").ok_or(Malformed)?)?),
    };
    let user = saslname::decode(fields.next().and_then(|field| field.strip_prefix(b"n=")).ok_or(Malformed)?)?;
    let nonce = fields.next().and_then(|field| field.strip_prefix(b"r=")).ok_or(Malformed)?;
    if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) || !fields.all(is_extension) {
        return Err(Malformed);
    }
    let credentials = Credentials::ScramFirst(Secret::new(message)?);
    Ok(Login { mechanism, user, authzid, credentials })
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
    fn an_authorization_identity_is_kept() {
        let login = parse(b"n,a=bo=2Css,n=user,r=x").expect("well formed");
        assert_eq!(login.user.as_bytes(), b"user");
        assert_eq!(login.authzid.expect("there").as_bytes(), b"bo,ss");
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
            b"n,a=,n=user,r=x",
            b"n,boss,n=user,r=x",
            b"n",
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
