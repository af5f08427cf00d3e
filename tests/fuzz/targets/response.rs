//! What backends say: however the bytes are cut, the same responses come out; nothing panics, and no more is held than
//! one response.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailmux::imap::response::{Code, Response, Responses, read};

/// All responses in `bytes`, pushed in pieces of that size, and whether they broke off.
fn responses(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut framer = Responses::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        framer.push(piece);
        loop {
            match framer.pop() {
                Ok(Some(response)) => found.push(response),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
        assert!(framer.rest().len() <= 64 * 1024, "holds more than one response");
    }
    (found, false)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = responses(bytes, bytes.len());
    assert_eq!(whole, responses(bytes, usize::from(*piece)));
    assert!(bytes.starts_with(&whole.0.concat()), "made up or lost bytes");
    for response in &whole.0 {
        if let Response::Status { text, .. } = read(response)
            && let Some(code) = Code::of(text)
        {
            let _ = (code.referral(), code.name());
        }
    }
});
