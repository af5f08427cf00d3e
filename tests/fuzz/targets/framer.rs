//! The framer under any bytes in any pieces: it ends, holds no more than its bounds, and finds the same frames however
//! the bytes are cut. The first byte says how long the pieces are and whether literals that wait are let in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailmux::imap::command::{Line, scope};
use mailmux::imap::framer::{Frame, Framer, LITERALS_MAX, SASL_MAX, TAG_MAX};

const HELD_MAX: usize = SASL_MAX + 2 * TAG_MAX + LITERALS_MAX as usize;

fn frames(bytes: &[u8], size: usize, permit: bool) -> Vec<Frame> {
    let mut framer = Framer::new(scope);
    let mut frames = Vec::new();
    for piece in bytes.chunks(size) {
        framer.push(piece);
        while let Some(frame) = framer.pop() {
            match &frame {
                Frame::Waits if permit && Line::new(framer.held()).may_go_on() => framer.permit(),
                Frame::Waits => framer.abandon(),
                Frame::Command(held) => drop(Line::new(held).parse()),
                _ => {}
            }
            frames.push(frame);
            assert!(framer.held().len() <= HELD_MAX);
        }
        assert!(framer.buffered() <= HELD_MAX);
    }
    frames
}

fuzz_target!(|data: &[u8]| {
    let Some((how, bytes)) = data.split_first() else { return };
    let permit = how & 1 == 0;
    let pieces = frames(bytes, usize::from(how >> 1) + 1, permit);
    assert!(pieces == frames(bytes, bytes.len().max(1), permit));
});
