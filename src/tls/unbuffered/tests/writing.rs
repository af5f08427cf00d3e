//! What becomes of what is written: full records, back-pressure, keys that change.

use rustls::{CipherSuiteCommon, PeerMisbehaved, SupportedCipherSuite};

use super::*;

/// The most that may be owned of what one write has sealed.
const SEALED_MAX: usize = 4 * RECORD_MAX;

#[test]
fn a_large_write_is_full_records_in_one_write() {
    for (version, extra) in [(V12, 29), (V13, 22)] {
        let mut pair = Pair::<Server>::shaken(&Settings::of(version));
        let words = noise(100_000);
        assert!(matches!(pair.write(&words), Poll::Ready(Ok(65_536))));
        assert_eq!((pair.near.io.writes, pair.near.io.gone.len()), (1, 65_536 + 4 * extra));
        assert_eq!(pair.near.owned(), 0);
        assert!(pair.carry().expect("words") == words[..65_536]);
    }
}

#[test]
fn nothing_is_written_for_nothing() {
    let mut pair = Pair::<Server>::shaken(&Settings::of(V13));
    assert!(matches!(pair.write(b""), Poll::Ready(Ok(0))));
    assert!(matches!(pair.flush(), Poll::Ready(Ok(()))));
    assert!(pair.near.io.gone.is_empty());
}

#[test]
fn a_peer_that_takes_nothing_holds_us_back() {
    for version in [V12, V13] {
        let mut pair = Pair::<Server>::shaken(&Settings::of(version));
        pair.near.io.room = 1000;
        let words = noise(100_000);
        let Poll::Ready(Ok(accepted)) = pair.write(&words) else { panic!("the first is taken") };
        let owned = pair.near.owned();
        assert!(owned <= SEALED_MAX);
        for _ in 0..10 {
            assert!(pair.write(&words[accepted..]).is_pending() && pair.flush().is_pending());
        }
        assert_eq!(pair.near.owned(), owned, "nothing is added");
        // Reading goes on meanwhile.
        let said = pair.say(b"a1 NOOP\r\n");
        pair.near.io.coming.push_back(said);
        assert_eq!(pair.hear(100), b"a1 NOOP\r\n");
        pair.near.io.room = 20_000;
        assert!(pair.write(&words[accepted..]).is_pending(), "not all of the first is gone");
        pair.near.io.room = usize::MAX;
        assert!(matches!(pair.write(&words[accepted..]), Poll::Ready(Ok(n)) if n == words.len() - accepted));
        assert_eq!(pair.near.owned(), 0);
        assert!(pair.carry().expect("words") == words);
    }
}

#[test]
fn a_write_that_is_given_up_has_written_nothing() {
    let mut pair = Pair::<Client>::shaken(&Settings::of(V13));
    pair.near.io.room = 10;
    assert!(matches!(pair.write(b"a1 NOOP\r\n"), Poll::Ready(Ok(9))));
    assert!(pair.write(b"a2 DELETE INBOX\r\n").is_pending());
    pair.near.io.room = usize::MAX;
    assert!(matches!(pair.write(b"a3 NOOP\r\n"), Poll::Ready(Ok(9))));
    assert_eq!(pair.carry().expect("words"), b"a1 NOOP\r\na3 NOOP\r\n");
}

#[test]
fn a_socket_that_takes_crumbs_gets_all_in_order() {
    let mut pair = Pair::<Server>::shaken(&Settings::of(V13));
    let words = noise(30_000);
    pair.near.io.room = 1;
    assert!(matches!(pair.write(&words), Poll::Ready(Ok(30_000))));
    for room in (0..).map(|at| [1, 2, 3, 1460][at % 4]) {
        pair.near.io.room = room;
        if pair.flush().is_ready() {
            break;
        }
    }
    assert!(pair.carry().expect("words") == words && pair.near.owned() == 0);
}

#[test]
fn after_an_error_nothing_more_is_written() {
    let mut pair = Pair::<Server>::shaken(&Settings::of(V13));
    pair.near.io.broken = true;
    assert_eq!(kind(pair.write(b"* 1 EXISTS\r\n")), io::ErrorKind::ConnectionReset);
    // The peer would miss a record.
    pair.near.io.broken = false;
    assert_eq!(kind(pair.write(b"* 2 EXISTS\r\n")), io::ErrorKind::BrokenPipe);
    assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))));
    assert!(pair.near.io.gone.is_empty() && pair.near.owned() == 0);
}

#[test]
fn the_peer_s_keys_may_change_and_ours_follow() {
    let mut pair = Pair::<Server>::shaken(&Settings::of(V13));
    for round in 0..5 {
        pair.far.refresh_traffic_keys().expect("allowed");
        let said = pair.say(b"a1 NOOP\r\n");
        pair.near.io.coming.push_back(said);
        assert_eq!(pair.hear(100), b"a1 NOOP\r\n", "{round}");
        assert_eq!(pair.near.owned(), 0);
        // The answer comes with what is written next, as rustls has it.
        assert!(pair.near.io.gone.is_empty());
        assert!(matches!(pair.write(b"a1 OK\r\n"), Poll::Ready(Ok(7))));
        assert!(pair.near.io.gone.len() > 7 + 22 + 22);
        assert_eq!(pair.carry().expect("words"), b"a1 OK\r\n");
    }
}

#[test]
fn keys_that_change_all_the_time_are_refused() {
    let mut pair = Pair::<Server>::shaken(&Settings::of(V13));
    for _ in 0..32 {
        pair.far.refresh_traffic_keys().expect("allowed");
        let said = pair.said();
        pair.near.io.coming.push_back(said);
        assert!(pair.read(100).is_pending());
        assert_eq!(pair.near.owned(), 0, "there is one answer for all of them, and rustls has it");
    }
    pair.far.refresh_traffic_keys().expect("allowed");
    let said = pair.said();
    pair.near.io.coming.push_back(said);
    assert_eq!(fault(pair.read(100)), PeerMisbehaved::TooManyKeyUpdateRequests.into());
}

/// Settings whose keys are good for so many records.
fn short_lived(version: &'static SupportedProtocolVersion, records: u64) -> Settings {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: records,
    };
    let mut provider = aws_lc_rs::default_provider();
    for suite in &mut provider.cipher_suites {
        *suite = match *suite {
            SupportedCipherSuite::Tls13(suite) => {
                let common = common(&suite.common);
                let (hkdf_provider, aead_alg) = (suite.hkdf_provider, suite.aead_alg);
                let suite = rustls::Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: None };
                SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
            }
            SupportedCipherSuite::Tls12(suite) => {
                let common = common(&suite.common);
                let (prf_provider, kx, sign, aead_alg) = (suite.prf_provider, suite.kx, suite.sign, suite.aead_alg);
                let suite = rustls::Tls12CipherSuite { common, prf_provider, kx, sign, aead_alg };
                SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
            }
        };
    }
    Settings::with(version, provider)
}

#[test]
fn our_keys_change_before_they_are_used_up() {
    let mut pair = Pair::<Server>::shaken(&short_lived(V13, 10));
    let words = noise(65_536);
    for _ in 0..20 {
        assert!(matches!(pair.write(&words), Poll::Ready(Ok(65_536))));
        assert!(pair.carry().expect("words") == words);
        // The other side has changed its own, as it was asked to.
        let said = pair.say(b"a1 NOOP\r\n");
        pair.near.io.coming.push_back(said);
        assert_eq!(pair.hear(100), b"a1 NOOP\r\n");
    }
    assert_eq!(pair.near.owned(), 0);
}

#[test]
fn in_tls_1_2_keys_that_are_used_up_end_the_connection() {
    let mut pair = Pair::<Server>::shaken(&short_lived(V12, 10));
    let mut written = 0;
    let error = loop {
        match pair.write(b"* 1 EXISTS\r\n") {
            Poll::Ready(Ok(_)) => written += 1,
            Poll::Ready(Err(error)) => break error,
            Poll::Pending => panic!("there is room"),
        }
        assert!(written <= 10);
    };
    assert!(error.to_string().contains("exhausted"), "{error}");
    assert_eq!(kind(pair.write(b"* 2 EXISTS\r\n")), io::ErrorKind::BrokenPipe);
    assert!(matches!(pair.shutdown(), Poll::Ready(Ok(()))));
    assert_eq!(pair.carry().expect("words").len(), written * 12);
    assert!(pair.far.process_new_packets().expect("all is well").peer_has_closed());
}
