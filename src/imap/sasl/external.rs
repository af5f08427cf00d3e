//! EXTERNAL, RFC 4422 appendix A: the TLS handshake was the proof, the message is at most a name to act as.

use super::Malformed;
use crate::imap::{Credentials, Login, Mechanism, UserName};

/// A client's message, against the identity its certificate gave. To act as another is refused here: no backend would
/// ever see the certificate, so that nobody further on could judge it.
pub(super) fn parse(message: &[u8], identity: &UserName) -> Result<Login, Malformed> {
    let authzid = if message.is_empty() { None } else { Some(UserName::new(message)?) };
    if authzid.as_ref().is_some_and(|name| name != identity) {
        return Err(Malformed);
    }
    Ok(Login {
        mechanism: Mechanism::External,
        user: identity.clone(),
        authzid: None,
        credentials: Credentials::Certificate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_says_who() {
        let ann = UserName::new(&b"ann@example.org"[..]).expect("clean");
        for message in [&b""[..], b"ann@example.org"] {
            let login = parse(message, &ann).expect("well formed");
            assert_eq!(login.user, ann);
            assert_eq!(login.authzid, None);
            assert!(login.credentials.proof().is_empty());
        }
        for message in [&b"bob@example.org"[..], b"ann@example.org\0", b"\r\n"] {
            assert!(parse(message, &ann).is_err());
        }
    }
}
