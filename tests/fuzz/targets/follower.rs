//! The follower of a session under any two streams: nothing panics, doubt is for ever, and any split gives the same
//! verdict. The first byte says how long the pieces are; from then on a byte of 0x00 to 0x07 has the other side speak.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailmux::imap::follower::Follower;

fn verdicts(bytes: &[u8], size: usize) -> Vec<(bool, bool, bool, bool)> {
    let mut follower = Follower::default();
    let mut verdicts = Vec::new();
    for (turn, said) in bytes.split(|byte| *byte < 8).enumerate() {
        for piece in said.chunks(size) {
            let (doubted, logged_out) = (follower.doubts(), follower.logged_out());
            if turn % 2 == 0 {
                follower.from_backend(piece);
            } else {
                assert_eq!(follower.from_client(piece), piece.len());
            }
            assert!(!doubted || follower.doubts() && !follower.vouches());
            assert!(!logged_out || follower.logged_out());
        }
        verdicts.push((follower.vouches(), follower.doubts(), follower.logged_out(), follower.said_bye()));
    }
    verdicts
}

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = verdicts(bytes, bytes.len().max(1));
    assert_eq!(whole, verdicts(bytes, usize::from(*size) + 1));
    assert_eq!(whole, verdicts(bytes, 1));
});
