//! How a connection ends: by either side, in order or not, and what can still be done then.

use rustls::{AlertDescription, PeerMisbehaved};

use super::forger::{ALERT, Forger, HANDSHAKE};
use super::*;

/// What the other side hears of an end.
fn heard_alert<S: End>(pair: &mut Pair<S>) -> rustls::Error {
    pair.carry().expect_err("an alert")
}

#[test]
fn the_peer_s_close_is_an_end_and_we_can_go_on_writing() {
    for version in [V12, V13] {
        let mut pair = Pair::<Server>::shaken(&Settings::of(version));
        let mut said = pair.say(b"a1 LOGOUT\r\n");
        pair.far.send_close_notify();
        said.extend(pair.said());
        pair.near.io.coming.push_back(said);
        pair.near.io.ended = true;
        assert_eq!(pair.hear(4), b"a1 L");
        assert_eq!(pair.hear(100), b"OGOUT\r\n");
        for _ in 0..2 {
            assert!(matches!(pair.read(100), Poll::Ready(Ok(read)) if read.is_empty()));
        }
        assert_eq!(pair.near.owned(), 0);
        assert!(matches!(pair.write(b"* BYE\r\n"), Poll::Ready(Ok(7))));
        assert_eq!(pair.carry().expect("words"), b"* BYE\r\n");
        assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))));
        pair.carry().expect("an end");
        assert!(pair.far.process_new_packets().expect("all is well").peer_has_closed());
    }
}

#[test]
fn an_end_without_a_word_is_told_from_one_in_order() {
    for version in [V12, V13] {
        let mut pair = Pair::<Client>::shaken(&Settings::of(version));
        let said = pair.say(b"* OK ready\r\n");
        pair.near.io.coming.push_back(said[..20].to_vec());
        pair.near.io.ended = true;
        for _ in 0..2 {
            assert_eq!(kind(pair.read(100)), io::ErrorKind::UnexpectedEof, "in the middle of a record");
        }
        let mut pair = Pair::<Client>::shaken(&Settings::of(version));
        let said = pair.say(b"* OK ready\r\n");
        pair.near.io.coming.push_back(said);
        pair.near.io.ended = true;
        assert_eq!(pair.hear(100), b"* OK ready\r\n");
        assert_eq!(kind(pair.read(100)), io::ErrorKind::UnexpectedEof);
        assert!(matches!(pair.write(b"a1 NOOP\r\n"), Poll::Ready(Ok(9))), "the other direction may be open");
    }
}

#[test]
fn what_was_changed_on_its_way_ends_all_and_the_peer_is_told() {
    for version in [V12, V13] {
        let mut pair = Pair::<Server>::shaken(&Settings::of(version));
        let good = pair.say(b"a1 NOOP\r\n");
        let mut bad = pair.say(b"a2 NOOP\r\n");
        *bad.last_mut().expect("a byte") ^= 1;
        pair.near.io.coming.push_back([good, bad].concat());
        assert_eq!(pair.hear(100), b"a1 NOOP\r\n", "what came before is good");
        assert_eq!(heard_alert(&mut pair), rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
        assert_eq!(fault(pair.read(100)), rustls::Error::DecryptError);
        // From then on, whatever still comes.
        pair.near.io.coming.push_back(noise(100));
        assert_eq!(kind(pair.read(100)), io::ErrorKind::InvalidData);
        assert_eq!(kind(pair.write(b"* 1 EXISTS\r\n")), io::ErrorKind::BrokenPipe);
        assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))));
        assert!(pair.near.io.gone.is_empty() && pair.near.io.shut, "no close_notify after an alert");
        assert_eq!(pair.near.owned(), 0);
    }
}

#[test]
fn an_alert_that_the_socket_does_not_take_waits_for_the_next_who_writes() {
    let mut pair = Pair::<Server>::shaken(&Settings::of(V13));
    let mut bad = pair.say(b"a1 NOOP\r\n");
    *bad.last_mut().expect("a byte") ^= 1;
    pair.near.io.coming.push_back(bad);
    pair.near.io.room = 0;
    assert_eq!(fault(pair.read(100)), rustls::Error::DecryptError);
    assert!(pair.flush().is_pending());
    pair.near.io.room = usize::MAX;
    assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))));
    assert_eq!(heard_alert(&mut pair), rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
}

#[test]
fn what_is_no_tls_ends_all() {
    for said in [&b"* OK hello, in clear\r\n"[..], &[DATA_OF_NOBODY; 100], &[23, 3, 3, 0xff, 0xff, 0]] {
        let mut pair = Pair::<Client>::shaken(&Settings::of(V13));
        pair.near.io.coming.push_back(said.to_vec());
        assert!(matches!(fault(pair.read(100)), rustls::Error::InvalidMessage(_)));
        assert_eq!(pair.near.owned(), 0);
    }
}

const DATA_OF_NOBODY: u8 = 0xaa;

#[test]
fn an_alert_of_the_peer_s_is_an_error() {
    for version in [V12, V13] {
        let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&forger::settings(version)));
        let mut pair = Pair { near, far: Server::far(&Settings::of(version)) };
        pair.near.io.coming.push_back(forger.record(ALERT, &[2, 80]));
        assert_eq!(fault(pair.read(100)), rustls::Error::AlertReceived(AlertDescription::InternalError));
        assert_eq!(kind(pair.write(b"* BYE\r\n")), io::ErrorKind::BrokenPipe);
        assert!(pair.near.io.gone.is_empty());
    }
}

#[test]
fn messages_out_of_place_are_refused() {
    let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&forger::settings(V13)));
    let mut pair = Pair { near, far: Server::far(&Settings::of(V13)) };
    // Finished, which is over.
    pair.near.io.coming.push_back(forger.record(HANDSHAKE, &[20, 0, 0, 2, 0, 0]));
    assert!(matches!(fault(pair.read(100)), rustls::Error::InappropriateHandshakeMessage { .. }));
    assert!(!pair.near.io.gone.is_empty(), "an alert");
}

#[test]
fn a_handshake_is_not_done_again() {
    let settings = forger::settings(V12);
    let mut stranger = Server::far(&settings);
    let mut hello = Vec::new();
    stranger.write_tls(&mut hello).expect("memory");
    let (near, mut forger) = Forger::take(Pair::<Server>::shaken(&settings));
    let mut pair = Pair { near, far: stranger };
    pair.near.io.coming.push_back(forger.record(HANDSHAKE, &hello[5..]));
    assert!(pair.read(100).is_pending());
    assert!(pair.near.io.gone.starts_with(&[ALERT]), "a warning: no_renegotiation");
    assert_eq!(pair.near.owned(), 0);
    pair.near.io.coming.push_back(forger.record(HANDSHAKE, &hello[5..]));
    assert_eq!(fault(pair.read(100)), PeerMisbehaved::TooManyRenegotiationRequests.into());
}

#[test]
fn our_close_is_said_once_and_leaves_reading_open() {
    for version in [V12, V13] {
        let mut pair = Pair::<Client>::shaken(&Settings::of(version));
        assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))));
        assert!(pair.near.io.shut);
        pair.carry().expect("an end");
        assert!(pair.far.process_new_packets().expect("all is well").peer_has_closed());
        assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))));
        assert!(pair.near.io.gone.is_empty(), "once");
        assert_eq!(kind(pair.write(b"a1 NOOP\r\n")), io::ErrorKind::BrokenPipe);
        let said = pair.say(b"* BYE\r\n");
        pair.near.io.coming.push_back(said);
        assert_eq!(pair.hear(100), b"* BYE\r\n");
        pair.far.send_close_notify();
        let said = pair.said();
        pair.near.io.coming.push_back(said);
        assert!(matches!(pair.read(100), Poll::Ready(Ok(read)) if read.is_empty()));
        assert_eq!(pair.near.owned(), 0);
    }
}

#[test]
fn our_close_comes_behind_all_that_was_written() {
    let mut pair = Pair::<Server>::shaken(&Settings::of(V13));
    pair.near.io.room = 100;
    let words = noise(50_000);
    assert!(matches!(pair.write(&words), Poll::Ready(Ok(50_000))));
    assert!(pair.shutdown().is_pending() && !pair.near.io.shut);
    pair.near.io.room = 20_000;
    assert!(pair.shutdown().is_pending());
    pair.near.io.room = usize::MAX;
    assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))));
    assert!(pair.carry().expect("all of it") == words);
    assert!(pair.far.process_new_packets().expect("all is well").peer_has_closed());
    assert!(pair.near.io.shut && pair.near.owned() == 0);
}
