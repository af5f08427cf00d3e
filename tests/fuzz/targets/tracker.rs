//! The tracker, by way of the follower that feeds it, under any two streams: it never calls a link clean that the slow
//! model does not, what it leaves to be offered again stays short, and any split gives the same verdict. The first byte says
//! how long the pieces are; from then on a byte of 0x00 to 0x07 has the other side speak.
#![no_main]

#[path = "../../../src/imap/tracker/tests/model.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use mailmux::imap::follower::{Follower, Remains};
use model::By;

/// The longest beginning of a line that may become a LOGOUT.
const HELD_BACK: usize = 64;

/// What a relay does with a follower that tracks.
struct Link {
    follower: Follower,
    kept: Vec<u8>,
    heard: Vec<(By, Vec<u8>)>,
}

impl Link {
    fn hear(&mut self, by: By, bytes: &[u8]) {
        if by == By::Backend {
            self.follower.from_backend(bytes);
            self.heard.push((by, bytes.to_vec()));
            return;
        }
        self.kept.extend_from_slice(bytes);
        if self.follower.logout() {
            return;
        }
        let passed = self.follower.from_client(&self.kept);
        self.heard.push((by, self.kept.drain(..passed).collect()));
        assert!(self.follower.logout() || self.kept.len() <= HELD_BACK);
    }

    /// The tracker's verdict is no better than the model's.
    fn check(&self) {
        let (reset, marked) = match self.follower.remains() {
            Remains::Dirty(_) => return,
            Remains::Clean(reset) => (reset, false),
            Remains::Marked(reset) => (reset, true),
        };
        let needs = model::read(&self.heard).expect("the model knows no way to make it clean");
        assert_eq!(reset.done, needs.done);
        assert!(reset.unselect || !needs.unselect);
        assert!(marked || !needs.marked);
    }
}

fn play(bytes: &[u8], size: usize) -> Remains {
    let mut link = Link { follower: Follower::tracking(), kept: Vec::new(), heard: Vec::new() };
    for (turn, said) in bytes.split(|byte| *byte < 8).enumerate() {
        let by = if turn % 2 == 0 { By::Client } else { By::Backend };
        said.chunks(size).for_each(|piece| link.hear(by, piece));
        link.check();
    }
    link.follower.remains()
}

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let whole = play(bytes, bytes.len().max(1));
    assert_eq!(whole, play(bytes, usize::from(*size) + 1));
    assert_eq!(whole, play(bytes, 1));
});
