//! Handshakes: what comes with their last words, what is owned meanwhile, and how they fail.

use rustls::AlertDescription;

use super::*;

#[test]
fn what_comes_with_the_client_s_last_words_is_read_first() {
    // In TLS 1.2 the last words of a handshake are the server's.
    let mut pair = Pair::<Server>::strangers(&Settings::of(V13));
    let hello = pair.said();
    pair.near.io.coming.push_back(hello);
    assert!(pair.shake().is_pending());
    pair.carry().expect("nothing wrong");
    let said = [pair.said(), pair.say(b"a1 NOOP\r\n"), pair.say(&noise(5000))].concat();
    pair.near.io.coming.push_back(said);
    assert!(matches!(pair.shake(), Poll::Ready(Ok(()))));
    let reads = pair.near.io.reads;
    assert!(pair.near.owned() <= RECORD_MAX);
    assert_eq!(pair.hear(9), b"a1 NOOP\r\n");
    assert!(pair.hear(64 * 1024) == noise(5000));
    assert_eq!(pair.near.io.reads, reads, "it was there");
    assert!(pair.flush().is_ready() && pair.read(100).is_pending());
    assert_eq!(pair.near.owned(), 0);
}

#[test]
fn what_comes_with_the_server_s_last_words_is_read_first() {
    for version in [V12, V13] {
        let mut settings = Settings::of(version);
        Arc::get_mut(&mut settings.server).expect("ours alone").send_half_rtt_data = true;
        let mut pair = Pair::<Client>::strangers(&settings);
        assert!(pair.shake().is_pending());
        pair.carry().expect("a hello");
        if version == V12 {
            let said = pair.said();
            pair.near.io.coming.push_back(said);
            assert!(pair.shake().is_pending());
            pair.carry().expect("nothing wrong");
        }
        // In TLS 1.3 a server may speak before it has heard the client's last words.
        let mut said = pair.said();
        said.extend(pair.say(b"* OK ready\r\n"));
        pair.near.io.coming.push_back(said);
        assert!(matches!(pair.shake(), Poll::Ready(Ok(()))));
        assert_eq!(pair.hear(100), b"* OK ready\r\n");
        assert_eq!(pair.near.owned(), 0);
        pair.carry().expect("nothing wrong");
        assert!(!pair.far.is_handshaking(), "our last words were sent");
    }
}

#[test]
fn tickets_go_out_with_what_is_written_first() {
    let mut pair = Pair::<Server>::strangers(&Settings::of(V13));
    let hello = pair.said();
    pair.near.io.coming.push_back(hello);
    assert!(pair.shake().is_pending());
    assert_eq!(pair.near.io.writes, 1, "a flight is one write");
    pair.carry().expect("nothing wrong");
    let said = pair.said();
    pair.near.io.coming.push_back(said);
    assert!(matches!(pair.shake(), Poll::Ready(Ok(()))));
    assert_eq!(pair.near.io.writes, 1);
    assert!(matches!(pair.write(b"* OK ready\r\n"), Poll::Ready(Ok(12))));
    assert_eq!((pair.near.io.writes, pair.near.owned()), (2, 0));
    assert_eq!(pair.carry().expect("words"), b"* OK ready\r\n");
    let Connection::Client(far) = &pair.far else { panic!("a client") };
    assert!(far.tls13_tickets_received() > 0);
}

#[test]
fn tickets_go_out_when_nothing_is_written() {
    for close in [false, true] {
        let mut pair = Pair::<Server>::strangers(&Settings::of(V13));
        let hello = pair.said();
        pair.near.io.coming.push_back(hello);
        assert!(pair.shake().is_pending());
        pair.carry().expect("nothing wrong");
        let said = pair.said();
        pair.near.io.coming.push_back(said);
        assert!(matches!(pair.shake(), Poll::Ready(Ok(()))));
        assert!(if close { pair.shutdown() } else { pair.flush() }.is_ready());
        pair.carry().expect("tickets");
        let Connection::Client(far) = &pair.far else { panic!("a client") };
        assert!(far.tls13_tickets_received() > 0);
    }
}

fn in_crumbs<S: End>(version: &'static SupportedProtocolVersion) {
    let mut pair = Pair::<S>::strangers(&Settings::of(version));
    let mut came = 0;
    for _ in 0..4 {
        let _ = pair.shake();
        pair.carry().expect("nothing wrong");
        for byte in pair.said() {
            pair.near.io.coming.push_back(vec![byte]);
            came += 1;
            let _ = pair.shake();
            assert!(pair.near.owned() <= came + 4096, "it owns what has come and what waits to be sent");
            pair.near.io.room = usize::MAX;
        }
    }
    assert!(matches!(pair.shake(), Poll::Ready(Ok(()))));
}

#[test]
fn a_handshake_may_come_in_crumbs() {
    for version in [V12, V13] {
        in_crumbs::<Server>(version);
        in_crumbs::<Client>(version);
    }
}

#[test]
fn a_handshake_that_breaks_off_is_an_end() {
    for version in [V12, V13] {
        for cut in [0, 1, 4, 5, 100] {
            let mut pair = Pair::<Server>::strangers(&Settings::of(version));
            let hello = pair.said();
            pair.near.io.coming.extend((cut > 0).then(|| hello[..cut].to_vec()));
            pair.near.io.ended = true;
            assert_eq!(kind(pair.shake()), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn a_client_that_says_nothing_costs_nothing() {
    let mut pair = Pair::<Server>::strangers(&Settings::of(V13));
    assert!(pair.shake().is_pending());
    assert_eq!(pair.near.owned(), 0);
    pair.near.io.coming.push_back(vec![22, 3, 1]);
    assert!(pair.shake().is_pending());
    assert_eq!(pair.near.owned(), 3);
}

#[test]
fn a_handshake_waits_for_a_socket_that_is_full() {
    for version in [V12, V13] {
        let mut pair = Pair::<Server>::strangers(&Settings::of(version));
        let hello = pair.said();
        pair.near.io.coming.push_back(hello);
        pair.near.io.room = 100;
        for _ in 0..3 {
            assert!(pair.shake().is_pending());
        }
        assert_eq!(pair.near.io.gone.len(), 100);
        pair.near.io.room = usize::MAX;
        pair.finish();
    }
}

#[test]
fn a_handshake_that_fails_tells_the_peer_why() {
    let mut pair = Pair::<Server> { near: Server::near(&Settings::of(V13)), far: Server::far(&Settings::of(V12)) };
    let hello = pair.said();
    pair.near.io.coming.push_back(hello);
    assert!(matches!(fault(pair.shake()), rustls::Error::PeerIncompatible(_)));
    let heard = pair.carry().expect_err("an alert");
    assert_eq!(heard, rustls::Error::AlertReceived(AlertDescription::ProtocolVersion));
    assert_eq!(pair.near.owned(), 0);

    let mut pair = Pair::<Client>::strangers(&Settings::of(V13));
    assert!(pair.shake().is_pending());
    pair.near.io.coming.push_back(b"* OK IMAP ready\r\n".to_vec());
    assert!(matches!(fault(pair.shake()), rustls::Error::InvalidMessage(_)));
    assert_eq!(pair.near.owned(), 0);
}

#[test]
fn a_hello_without_end_is_not_kept_without_end() {
    let mut pair = Pair::<Server>::strangers(&Settings::of(V13));
    // In clear: a hello that says it has 65,535 bytes, in records of one.
    pair.near.io.coming.push_back(vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff]);
    for _ in 0..65_535 {
        pair.near.io.coming.push_back([22, 3, 1, 0, 1, 0].repeat(100));
        assert!(pair.near.owned() <= 64 * 1024);
        if let Poll::Ready(shaken) = pair.shake() {
            assert_eq!(shaken.expect_err("too long").kind(), io::ErrorKind::InvalidData);
            return;
        }
    }
    panic!("it was kept");
}

#[test]
fn the_stream_of_a_session_is_small() {
    assert!(size_of::<crate::tls::Stream>() <= 40);
    assert!(size_of::<crate::tls::Handshake>() <= 160);
}
