//! Every SASL mechanism under any message: no message panics, what is read holds no line break and no NUL, and what can be
//! written for a backend is read back as the same login. The first byte chooses the mechanism. Base64 has one form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailmux::imap::sasl::{self, Exchange, Turn};
use mailmux::imap::{Credentials, Login, Mechanism, Secret, UserName};

/// Both messages of LOGIN are the same one.
fn hear(mechanism: Mechanism, message: &[u8]) -> Option<Login> {
    let identity = UserName::new(&b"ann"[..]).ok();
    let mut exchange = Exchange::new(mechanism);
    for _ in 0..2 {
        if let Turn::Done(login) = exchange.hear(message.to_vec().into(), identity.as_ref()).ok()? {
            return Some(login);
        }
    }
    None
}

fn encode(login: &Login) -> Option<Vec<u8>> {
    let message = match (&login.credentials, login.mechanism) {
        (Credentials::Password(secret), Mechanism::Plain) => {
            sasl::encode_plain(login.authzid.as_ref(), &login.user, secret)
        }
        (Credentials::Token(token), Mechanism::XOAuth2) => sasl::encode_xoauth2(&login.user, token),
        (Credentials::Token(token), Mechanism::OAuthBearer) => sasl::encode_oauthbearer(&login.user, token),
        _ => return None,
    };
    Some(message.to_vec())
}

fuzz_target!(|data: &[u8]| {
    let Some((which, message)) = data.split_first() else { return };
    let mechanism = Mechanism::ALL[usize::from(*which) % Mechanism::ALL.len()];
    if let Some(raw) = sasl::decode_base64(message) {
        assert!(*sasl::base64(&raw) == message);
    }
    let Some(login) = hear(mechanism, message) else { return };
    assert!(login.mechanism == mechanism);
    assert!(UserName::new(login.user.as_bytes()).is_ok());
    assert!(Secret::new(login.credentials.proof().to_vec().into()).is_ok());
    if let Some(again) = encode(&login).and_then(|message| hear(mechanism, &message)) {
        assert!(again.user == login.user && again.authzid == login.authzid);
        assert!(again.credentials.proof() == login.credentials.proof());
    } else {
        assert!(encode(&login).is_none(), "what we write must be read");
    }
});
