//! SASL messages (RFC 4422), one file per mechanism: read as a server reads them from a client, written as a client
//! writes them to a backend. Strict: what two readers could understand differently is not understood at all.

mod external;
mod login;
mod oauthbearer;
mod plain;
mod scram;
mod xoauth2;

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeSliceError, Engine};
use zeroize::Zeroizing;

use super::UserName;

pub use external::parse_external;
pub use login::{PASSWORD_PROMPT, USER_PROMPT};
pub use oauthbearer::{encode_oauthbearer, parse_oauthbearer};
pub use plain::{Plain, encode_plain, parse_plain};
pub use scram::{ScramFirst, parse_scram_first};
pub use xoauth2::{Bearer, encode_xoauth2, parse_xoauth2};

/// The message does not follow its mechanism's grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed SASL message")]
pub struct Malformed;

/// Bytes in base64, for the wire.
pub fn base64(raw: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(vec![0; raw.len().div_ceil(3) * 4]);
    // The buffer has just the size that is needed, so this cannot fail.
    let written = STANDARD.encode_slice(raw, &mut text).unwrap_or(0);
    text.truncate(written);
    text
}

/// Strict base64: padded, canonical, without white space or anything behind the padding.
pub fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut raw = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    match STANDARD.decode_slice(text, &mut raw) {
        Ok(written) => {
            raw.truncate(written);
            Some(raw)
        }
        Err(DecodeSliceError::DecodeError(_) | DecodeSliceError::OutputSliceTooSmall) => None,
    }
}

/// A name as RFC 5801 section 4 writes it: `=2C` for a comma, `=3D` for an equals sign, no other use of either.
fn unescaped_name(text: &[u8]) -> Result<UserName, Malformed> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'=', [b'2', b'C', after @ ..]) => {
                name.push(b',');
                after
            }
            (b'=', [b'3', b'D', after @ ..]) => {
                name.push(b'=');
                after
            }
            (b'=' | b',', _) => return Err(Malformed),
            (byte, after) => {
                name.push(*byte);
                after
            }
        };
    }
    UserName::new(name).map_err(|_| Malformed)
}

/// The other way round.
fn escaped_name(name: &UserName) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.as_bytes().len());
    for byte in name.as_bytes() {
        match byte {
            b',' => text.extend_from_slice(b"=2C"),
            b'=' => text.extend_from_slice(b"=3D"),
            other => text.push(*other),
        }
    }
    text
}

/// The header of RFC 5801 section 4: `n,a=name,` or `y,,`; what stands behind it is given back. `p=` promises channel
/// binding to a TLS connection that ends here and not at the backend, and is refused.
fn gs2_header(message: &[u8]) -> Result<(Option<UserName>, &[u8]), Malformed> {
    let rest = message.strip_prefix(b"n,").or_else(|| message.strip_prefix(b"y,")).ok_or(Malformed)?;
    let comma = rest.iter().position(|byte| *byte == b',').ok_or(Malformed)?;
    let (authzid, rest) = (&rest[..comma], &rest[comma + 1..]);
    let authzid = match authzid {
        [] => None,
        [b'a', b'=', name @ ..] => Some(unescaped_name(name)?),
        _ => return Err(Malformed),
    };
    Ok((authzid, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::imap::Secret;

    #[test]
    fn base64_is_canonical_or_nothing() {
        assert_eq!(decode_base64(b"AGFubgBweA==").as_deref().map(Vec::as_slice), Some(&b"\0ann\0px"[..]));
        assert_eq!(decode_base64(b"").as_deref().map(Vec::as_slice), Some(&b""[..]));
        for bad in
            [&b"AGFubgBweA"[..], b"AGFubgBweA=", b"AGFubgBweA==AAAA", b"AGFubgBweB==", b"AGFu bgBweA==", b"=", b"A"]
        {
            assert!(decode_base64(bad).is_none(), "{}", bad.escape_ascii());
        }
    }

    fn name() -> impl Strategy<Value = UserName> {
        prop::collection::vec(any::<u8>(), 1..40).prop_filter_map("a name", |bytes| UserName::new(bytes).ok())
    }

    fn secret() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>().prop_filter("clean", |byte| !matches!(byte, 0 | 10 | 13)), 0..40)
    }

    fn clean(bytes: &[u8]) -> Secret {
        Secret::new(Zeroizing::new(bytes.to_vec())).expect("clean")
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(authzid in prop::option::of(name()), user in name(), password in secret()) {
            let read = parse_plain(&encode_plain(authzid.as_ref(), &user, &clean(&password))).expect("well formed");
            prop_assert_eq!((read.authzid, read.user, read.password.reveal()), (authzid, user, &password[..]));
        }

        #[test]
        fn tokens_are_read_again(user in name(), token in "[A-Za-z0-9._~+/-]{1,60}={0,2}") {
            let token = clean(token.as_bytes());
            let read = parse_oauthbearer(&encode_oauthbearer(&user, &token)).expect("well formed");
            prop_assert_eq!((&read.user, read.token.reveal()), (&user, token.reveal()));
            // XOAUTH2 has no escapes: a name with its separator in it cannot be said.
            if !user.as_bytes().contains(&1) {
                let read = parse_xoauth2(&encode_xoauth2(&user, &token)).expect("well formed");
                prop_assert_eq!((&read.user, read.token.reveal()), (&user, token.reveal()));
            }
        }

        #[test]
        fn base64_round_trip(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode_base64(&base64(&raw)).map(|read| read.to_vec()), Some(raw));
        }

        #[test]
        fn nothing_panics(raw in prop::collection::vec(prop::sample::select(&b"\0\x01\r\nnypa=,2C3DBearuths "[..]), 0..60)) {
            let _ = (parse_plain(&raw).is_ok(), parse_xoauth2(&raw).is_ok(), parse_oauthbearer(&raw).is_ok());
            let _ = (parse_scram_first(&raw).is_ok(), parse_external(&raw).is_ok(), decode_base64(&raw).is_some());
        }
    }
}
