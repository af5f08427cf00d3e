//! SCRAM (RFC 5802, RFC 7677): the client's first message is read for the name in it and passed on as it is; the rest of
//! the exchange is between client and backend, who alone can compute it.

use zeroize::Zeroizing;

use super::{Malformed, gs2_header, unescaped_name};
use crate::imap::{Secret, UserName};

/// What the client's first message says.
#[derive(Debug)]
pub struct ScramFirst {
    /// As whom the user wants to act.
    pub authzid: Option<UserName>,
    /// Who it is.
    pub user: UserName,
    /// The message itself.
    pub message: Secret,
}

/// Reads the client's first message: GS2 header, `n=name`, `r=nonce`, extensions that may be ignored.
///
/// # Errors
/// [`Malformed`]; channel binding (`p=`) and mandatory extensions (`m=`) are, too, since they cannot be kept here.
pub fn parse_scram_first(message: &[u8]) -> Result<ScramFirst, Malformed> {
    let (authzid, bare) = gs2_header(message)?;
    let mut fields = bare.split(|byte| *byte == b',');
    let name = fields.next().and_then(|field| field.strip_prefix(b"n=")).ok_or(Malformed)?;
    let nonce = fields.next().and_then(|field| field.strip_prefix(b"r=")).ok_or(Malformed)?;
    let extension = |field: &[u8]| matches!(field, [key, b'=', ..] if key.is_ascii_alphabetic() && *key != b'm');
    if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) || !fields.all(extension) {
        return Err(Malformed);
    }
    let user = unescaped_name(name)?;
    let message = Secret::new(Zeroizing::new(message.to_vec())).map_err(|_| Malformed)?;
    Ok(ScramFirst { authzid, user, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let read = parse_scram_first(b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL").expect("well formed");
        assert_eq!((read.user.as_bytes(), read.authzid), (&b"user"[..], None));
        assert_eq!(read.message.reveal(), b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
    }

    #[test]
    fn names_are_unescaped_and_the_authzid_is_kept() {
        let read = parse_scram_first(b"y,a=bob,n=a=2Cb=3Dc,r=x,q=1").expect("well formed");
        assert_eq!((read.user.as_bytes(), read.authzid.expect("kept").as_bytes()), (&b"a,b=c"[..], &b"bob"[..]));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &b"p=tls-unique,,n=user,r=x"[..],
            b"n,,m=1,n=user,r=x",
            b"n,,n=user,r=x,m=1",
            b"n,,n=,r=x",
            b"n,,n=user,r=",
            b"n,,n=us=er,r=x",
            b"n,,r=x,n=user",
            b"n,n=user,r=x",
            b"n,,n=us\r\ner,r=x",
        ] {
            assert_eq!(parse_scram_first(bad).err(), Some(Malformed), "{}", bad.escape_ascii());
        }
    }
}
