//! What comes of what is received, however it is cut, and what is owned meanwhile.

use rustls::PeerMisbehaved;

use super::forger::{ALERT, DATA, Forger, HANDSHAKE};
use super::*;

fn in_crumbs<S: End>(version: &'static SupportedProtocolVersion) {
    let mut pair = Pair::<S>::shaken(&Settings::of(version));
    let words = noise(20_000);
    let mut heard = Vec::new();
    for byte in pair.say(&words) {
        pair.near.io.coming.push_back(vec![byte]);
        if let Poll::Ready(read) = pair.read(64 * 1024) {
            heard.extend(read.expect("no end"));
        }
        assert!(pair.near.owned() <= RECORD_MAX);
    }
    assert!(heard == words && pair.near.owned() == 0);
}

#[test]
fn a_record_may_come_in_crumbs() {
    in_crumbs::<Server>(V12);
    in_crumbs::<Server>(V13);
    in_crumbs::<Client>(V13);
}

#[test]
fn all_that_has_come_is_read_at_once_and_nothing_more_is_asked_for() {
    for version in [V12, V13] {
        let mut pair = Pair::<Server>::shaken(&Settings::of(version));
        let said = [pair.say(b"a1 NOOP\r\n"), pair.say(b"a2 NOOP\r\n"), pair.say(b"a3 NOOP\r\n")].concat();
        pair.near.io.coming.push_back(said);
        assert_eq!(pair.hear(64 * 1024), b"a1 NOOP\r\na2 NOOP\r\na3 NOOP\r\n");
        assert_eq!((pair.near.io.reads, pair.near.owned()), (1, 0));
        assert!(pair.read(100).is_pending());
    }
}

#[test]
fn large_reads_are_of_whole_records_and_leave_nothing_over() {
    for version in [V12, V13] {
        let mut pair = Pair::<Server>::shaken(&Settings::of(version));
        let words = noise(256 * 1024);
        let said = pair.say(&words);
        pair.near.io.coming.push_back(said);
        let mut heard = Vec::new();
        for reads in 1..=4 {
            heard.extend(pair.hear(64 * 1024));
            assert_eq!((heard.len(), pair.near.io.reads), (reads * 64 * 1024, reads));
            assert_eq!(pair.near.owned(), 0, "what is read ends where a record ends");
        }
        assert!(heard == words);
    }
}

#[test]
fn small_reads_keep_the_rest_of_a_record_until_it_is_read() {
    for version in [V12, V13] {
        let mut pair = Pair::<Server>::shaken(&Settings::of(version));
        let words = noise(40_000);
        let said = pair.say(&words);
        pair.near.io.coming.push_back(said);
        let mut heard = Vec::new();
        for size in (0..).map(|at| [1, 7, 100, 4096][at % 4]) {
            if heard.len() == words.len() {
                break;
            }
            let read = pair.hear(size);
            assert!(read.len() <= size && pair.near.owned() <= 2 * RECORD_MAX);
            heard.extend(read);
        }
        assert!(heard == words && pair.near.owned() == 0);
    }
}

#[test]
fn a_read_into_nothing_takes_nothing() {
    let mut pair = Pair::<Server>::shaken(&Settings::of(V13));
    let said = pair.say(b"a1 NOOP\r\n");
    pair.near.io.coming.push_back(said);
    assert!(matches!(pair.read(0), Poll::Ready(Ok(read)) if read.is_empty()));
    assert_eq!(pair.hear(100), b"a1 NOOP\r\n");
}

#[test]
fn tickets_are_not_the_end() {
    let mut pair = Pair::<Client>::strangers(&Settings::of(V13));
    assert!(pair.shake().is_pending());
    pair.carry().expect("a hello");
    let said = pair.said();
    pair.near.io.coming.push_back(said);
    assert!(matches!(pair.shake(), Poll::Ready(Ok(()))));
    pair.carry().expect("finished");
    let tickets = pair.said();
    assert!(tickets.len() > 100);
    pair.near.io.coming.push_back(tickets);
    assert!(pair.read(100).is_pending());
    assert_eq!((pair.near.io.reads, pair.near.owned()), (2, 0));
    let said = pair.say(b"* OK ready\r\n");
    pair.near.io.coming.push_back(said);
    assert_eq!(pair.hear(100), b"* OK ready\r\n");
}

#[test]
fn empty_records_are_not_the_end_and_not_for_ever() {
    for version in [V12, V13] {
        let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&forger::settings(version)));
        let mut pair = Pair { near, far: Server::far(&Settings::of(version)) };
        for round in 0..3 {
            for _ in 0..10 {
                pair.near.io.coming.push_back(forger.record(DATA, b""));
                assert!(pair.read(100).is_pending(), "{round}");
            }
            pair.near.io.coming.push_back(forger.padded(DATA, b"a1 NOOP\r\n", 100));
            assert_eq!(pair.hear(100), b"a1 NOOP\r\n");
        }
        let many: Vec<u8> = (0..50).flat_map(|_| forger.record(DATA, b"")).collect();
        pair.near.io.coming.push_back(many);
        assert_eq!(fault(pair.read(100)), PeerMisbehaved::TooManyEmptyFragments.into());
    }
}

#[test]
fn a_poll_that_brings_nothing_lets_others_have_their_turn() {
    let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&forger::settings(V13)));
    let mut pair = Pair { near, far: Server::far(&Settings::of(V13)) };
    pair.near.io.coming.extend((0..20).map(|_| forger.record(DATA, b"")));
    assert!(pair.read(100).is_pending());
    assert_eq!(pair.near.io.coming.len(), 20 - TURNS);
}

#[test]
fn a_message_of_the_handshake_without_end_is_not_kept_without_end() {
    let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&forger::settings(V13)));
    let mut pair = Pair { near, far: Server::far(&Settings::of(V13)) };
    // A key update that says it has 60,000 bytes, of which each comes alone.
    pair.near.io.coming.push_back(forger.record(HANDSHAKE, &[24, 0, 0xea, 0x60]));
    for _ in 0..60_000 {
        pair.near.io.coming.push_back(forger.record(HANDSHAKE, &[0]));
        assert!(pair.near.owned() <= RECORD_MAX);
        if let Poll::Ready(read) = pair.read(100) {
            assert_eq!(read.expect_err("too long").kind(), io::ErrorKind::InvalidData);
            assert_eq!(pair.near.owned(), 0);
            return;
        }
    }
    panic!("it was kept");
}

#[test]
fn a_message_in_fragments_is_whole_in_the_end() {
    let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&forger::settings(V13)));
    let mut pair = Pair { near, far: Server::far(&Settings::of(V13)) };
    // Meanwhile there is something to write: rustls must not lose what it has in its eyes.
    for fragment in [&[24, 0][..], &[0], &[1]] {
        pair.near.io.coming.push_back(forger.record(HANDSHAKE, fragment));
        assert!(pair.read(100).is_pending());
        assert!(pair.near.owned() > 0);
        assert!(matches!(pair.write(b"* 1 EXISTS\r\n"), Poll::Ready(Ok(12))));
    }
    pair.near.io.coming.push_back(forger.record(HANDSHAKE, &[0]));
    assert!(pair.read(100).is_pending());
    assert_eq!(pair.near.owned(), 0);
    // The keys are others now.
    pair.near.io.coming.push_back(forger.record(DATA, b"a1 NOOP\r\n"));
    assert_eq!(fault(pair.read(100)), rustls::Error::DecryptError);
}

#[test]
fn fragments_must_not_have_anything_between_them() {
    let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&forger::settings(V13)));
    let mut pair = Pair { near, far: Server::far(&Settings::of(V13)) };
    let said = [forger.record(HANDSHAKE, &[24, 0]), forger.record(DATA, b"a1 NOOP\r\n")].concat();
    pair.near.io.coming.push_back(said);
    assert_eq!(fault(pair.read(100)), PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
}

#[test]
fn what_follows_on_the_end_is_ignored() {
    for version in [V12, V13] {
        let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&forger::settings(version)));
        let mut pair = Pair { near, far: Server::far(&Settings::of(version)) };
        let said = [forger.record(DATA, b"a1 LOGOUT\r\n"), forger.record(ALERT, &[1, 0]), noise(3000)].concat();
        pair.near.io.coming.push_back(said);
        assert_eq!(pair.hear(100), b"a1 LOGOUT\r\n");
        for _ in 0..2 {
            assert!(matches!(pair.read(100), Poll::Ready(Ok(read)) if read.is_empty()));
        }
        assert_eq!(pair.near.owned(), 0);
    }
}
