//! `saslname`, how GS2 and SCRAM write a user name: a comma as `=2C`, an equals sign as `=3D` (RFC 5801 section 4,
//! RFC 5802 section 5.1).

use super::Malformed;
use crate::imap::UserName;

/// A name as it stands in a message.
pub(super) fn encode(name: &UserName) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.as_bytes().len());
    for byte in name.as_bytes() {
        match byte {
            b',' => text.extend_from_slice(b"=2C"),
            b'=' => text.extend_from_slice(b"=3D"),
            _ => text.push(*byte),
        }
    }
    text
}

/// The name behind a message's text. Any other use of `=` must be refused (RFC 5802 5.1), and ^A ends a field.
pub(super) fn decode(text: &[u8]) -> Result<UserName, Malformed> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b',' | 1 => return Err(Malformed),
            b'=' => {
                let (code, tail) = tail.split_at_checked(2).ok_or(Malformed)?;
                rest = tail;
                name.push(match code {
                    b"2C" => b',',
                    b"3D" => b'=',
                    _ => return Err(Malformed),
                });
            }
            _ => name.push(*byte),
        }
    }
    Ok(UserName::new(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_equals_signs_are_escaped() {
        let name = UserName::new(&b"a,b=c"[..]).expect("clean");
        assert_eq!(encode(&name), b"a=2Cb=3Dc");
        assert_eq!(decode(b"a=2Cb=3Dc").expect("well formed"), name);
        for text in [&b""[..], b"a,b", b"a=2cb", b"a=", b"a=3", b"a=41", b"a\x01b", b"a\r\n"] {
            assert!(decode(text).is_err(), "{}", text.escape_ascii());
        }
    }
}
