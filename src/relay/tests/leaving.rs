//! Who is told to leave, or that everything ends: when there is a moment for its BYE, and when it is not waited for.

use super::*;

const KICKED: &[u8] = b"* BYE Closed by the administrator.\r\n";
const STOPPING: &[u8] = b"* BYE Server is shutting down.\r\n";

const GRACE: Duration = Duration::from_secs(5);

fn at_once(ending: Ending) -> Leave {
    Leave { ending, patience: GRACE, gently: false }
}

fn gently(patience: u64) -> Leave {
    Leave { ending: Ending::Stopping, patience: Duration::from_secs(patience), gently: true }
}

/// A relay that can be sent away.
fn sendable(rig_: Rig) -> (impl Future<Output = Report>, Arc<Pulse>, Far) {
    let Rig { client, backend, near_client, near_backend, pulse } = rig_;
    (plainly(near_client, near_backend, Arc::clone(&pulse)), pulse, Far { client, backend })
}

/// What is at the other ends of it.
struct Far {
    client: DuplexStream,
    backend: DuplexStream,
}

#[tokio::test(start_paused = true)]
async fn whoever_is_sent_away_between_responses_hears_so_at_once() {
    let started = Instant::now();
    for (ending, words) in [(Ending::Kicked, KICKED), (Ending::Moved, Ending::Moved.bye().expect("words"))] {
        let (relayed, pulse, mut far) = sendable(rig(64));
        let (report_, ()) = join!(relayed, async {
            far.client.write_all(b"a IDLE\r\n").await.expect("taken");
            assert_eq!(read_some(&mut far.backend, 8).await, b"a IDLE\r\n");
            far.backend.write_all(b"+ idling\r\n").await.expect("taken");
            assert_eq!(read_some(&mut far.client, 10).await, b"+ idling\r\n");
            assert!(pulse.notice().leave(at_once(ending)));
            assert_eq!(read_all(&mut far.client).await, words);
            assert_eq!(read_all(&mut far.backend).await, b"", "no word to the backend");
        });
        assert_eq!(report_, report(ending, 8, 10 + words.len() as u64));
    }
    assert_eq!(started.elapsed(), Duration::ZERO, "although nobody closed but us");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_has_begun_ends_first() {
    let (relayed, pulse, mut far) = sendable(rig(64));
    let first = b"* 1 FETCH (BODY[] {20}\r\n1234567890\r\n";
    let rest = [&b"90123456"[..], b")\r", b"\n"];
    let started = Instant::now();
    let (report_, ()) = join!(relayed, async {
        far.backend.write_all(first).await.expect("taken");
        assert_eq!(read_some(&mut far.client, first.len()).await, first);
        assert!(pulse.notice().leave(at_once(Ending::Kicked)));
        for piece in rest {
            sleep(Duration::from_secs(1)).await;
            far.backend.write_all(piece).await.expect("taken");
            assert_eq!(read_some(&mut far.client, piece.len()).await, piece);
        }
        assert_eq!(read_all(&mut far.client).await, KICKED);
    });
    assert_eq!(report_.ending, Ending::Kicked);
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_literal_that_pauses_at_a_line_end_is_no_moment() {
    let (relayed, pulse, mut far) = sendable(rig(64));
    let started = Instant::now();
    let (report_, ()) = join!(relayed, async {
        far.backend.write_all(b"* 1 FETCH (BODY[] {20}\r\nline\r\n").await.expect("taken");
        assert!(pulse.notice().leave(at_once(Ending::Moved)));
        assert_eq!(read_all(&mut far.client).await, b"* 1 FETCH (BODY[] {20}\r\nline\r\n", "closed without a word");
        assert_eq!(read_all(&mut far.backend).await, b"");
    });
    assert_eq!(report_, report(Ending::Moved, 0, 30));
    assert_eq!(started.elapsed(), GRACE);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_understood_is_closed_without_a_word() {
    let (relayed, pulse, mut far) = sendable(rig(64));
    let started = Instant::now();
    let (report_, ()) = join!(relayed, async {
        far.client.write_all(b"a COMPRESS DEFLATE\r\n").await.expect("taken");
        read_some(&mut far.backend, 20).await;
        far.backend.write_all(b"a OK now\r\n").await.expect("taken");
        assert_eq!(read_some(&mut far.client, 10).await, b"a OK now\r\n");
        assert!(pulse.notice().leave(at_once(Ending::Kicked)));
        assert_eq!(read_all(&mut far.client).await, b"");
    });
    assert_eq!(report_, report(Ending::Kicked, 20, 10));

    let Rig { client: _client, backend: _backend, near_client, near_backend, pulse } = rig(64);
    let near_client = Buffered::new(near_client, b"a COMPRESS DEFLATE\r\n".to_vec());
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        settle().await;
        assert!(pulse.notice().leave(at_once(Ending::Kicked)));
    });
    assert_eq!(report_, report(Ending::Kicked, 20, 0), "what was pipelined behind the login counts");
    assert_eq!(started.elapsed(), Duration::ZERO, "there is nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn who_is_to_leave_gently_may_end_its_command_first() {
    let (relayed, pulse, mut far) = sendable(rig(64));
    let (report_, ()) = join!(relayed, async {
        far.client.write_all(b"a FETCH 1:2 UID\r\n").await.expect("taken");
        read_some(&mut far.backend, 17).await;
        far.backend.write_all(b"* 1 FETCH (UID 1)\r\n").await.expect("taken");
        assert_eq!(read_some(&mut far.client, 19).await, b"* 1 FETCH (UID 1)\r\n");
        assert!(pulse.notice().leave(gently(60)));
        sleep(Duration::from_secs(30)).await;
        far.backend.write_all(b"* 2 FETCH (UID 2)\r\na OK\r\n").await.expect("taken");
        assert_eq!(read_all(&mut far.client).await, [b"* 2 FETCH (UID 2)\r\na OK\r\n", STOPPING].concat());
    });
    assert_eq!(report_.ending, Ending::Stopping);
}

#[tokio::test(start_paused = true)]
async fn who_is_to_leave_gently_and_idles_or_rests_leaves_at_once() {
    for said in [&b"a IDLE\r\n"[..], b"a NOOP\r\n"] {
        let (relayed, pulse, mut far) = sendable(rig(64));
        let started = Instant::now();
        let (report_, ()) = join!(relayed, async {
            far.client.write_all(said).await.expect("taken");
            read_some(&mut far.backend, 8).await;
            let answer = if said.starts_with(b"a IDLE") { &b"+ idling\r\n"[..] } else { b"a OK\r\n" };
            far.backend.write_all(answer).await.expect("taken");
            assert_eq!(read_some(&mut far.client, answer.len()).await, answer);
            assert!(pulse.notice().leave(gently(60)));
            assert_eq!(read_all(&mut far.client).await, STOPPING);
        });
        assert_eq!((report_.ending, started.elapsed()), (Ending::Stopping, Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_told_and_is_to_leave_gently_does_so_when_nothing_moves() {
    let (relayed, pulse, mut far) = sendable(rig(64));
    let started = Instant::now();
    let (report_, ()) = join!(relayed, async {
        far.client.write_all(b"a COMPRESS DEFLATE\r\n").await.expect("taken");
        read_some(&mut far.backend, 20).await;
        assert!(pulse.notice().leave(gently(60)));
        for _ in 0..10 {
            far.backend.write_all(b"bytes").await.expect("taken");
            assert_eq!(read_some(&mut far.client, 5).await, b"bytes");
            sleep(QUIET / 2).await;
        }
        assert_eq!(read_all(&mut far.client).await, b"", "not a word");
    });
    assert_eq!(report_.ending, Ending::Stopping);
    assert_eq!(started.elapsed(), QUIET / 2 * 9 + QUIET);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_taken_before_the_bye() {
    let (backend, near_backend) = duplex(100);
    let (relayed, pulse, mut far) = sendable(Rig { backend, near_backend, ..rig(10) });
    let said = b"* 1 EXISTS\r\n".repeat(5);
    let (report_, ()) = join!(relayed, async {
        far.backend.write_all(&said).await.expect("taken");
        settle().await;
        assert!(pulse.notice().leave(at_once(Ending::Kicked)));
        sleep(Duration::from_secs(4)).await;
        assert_eq!(read_all(&mut far.client).await, [&said, KICKED].concat());
    });
    assert_eq!(report_, report(Ending::Kicked, 0, (said.len() + KICKED.len()) as u64));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_not_waited_for() {
    // Stuck in the middle of a response, and of our own words.
    for said in [&b"* 12 EXISTS\r\n"[..], b"* 1\r\n"] {
        let (relayed, pulse, mut far) = sendable(rig(10));
        let started = Instant::now();
        let (report_, ()) = join!(relayed, async {
            far.backend.write_all(said).await.expect("taken");
            settle().await;
            assert!(pulse.notice().leave(at_once(Ending::Kicked)));
        });
        assert_eq!(report_, report(Ending::Kicked, 0, 10));
        assert_eq!(started.elapsed(), GRACE);
        assert_eq!(read_all(&mut far.client).await, [said, KICKED].concat()[..10]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_still_sending_is_heard_out_after_the_bye() {
    let (relayed, pulse, mut far) = sendable(rig(64));
    let started = Instant::now();
    let (report_, ()) = join!(relayed, async {
        far.client.write_all(b"a APPEND x {1000+}\r\n").await.expect("taken");
        far.client.write_all(&pattern(100)).await.expect("taken");
        settle().await; // the backend does not read
        assert!(pulse.notice().leave(at_once(Ending::Kicked)));
        assert_eq!(read_all(&mut far.client).await, KICKED);
        far.client.write_all(&pattern(900)).await.expect("read and dropped, so that closing does not reset");
        drop(far.client);
    });
    assert_eq!(report_.ending, Ending::Kicked);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_by_itself_meanwhile_has_done_so() {
    let (relayed, pulse, mut far) = sendable(rig(64));
    let (report_, ()) = join!(relayed, async {
        far.client.write_all(b"a LOGOUT\r\n").await.expect("taken");
        far.backend.write_all(b"* BYE\r\n").await.expect("taken");
        assert_eq!(read_some(&mut far.client, 7).await, b"* BYE\r\n");
        assert!(pulse.notice().leave(at_once(Ending::Kicked)));
        settle().await;
        far.backend.write_all(b"a OK\r\n").await.expect("taken");
        drop(far.backend);
        assert_eq!(read_all(&mut far.client).await, b"a OK\r\n", "and one BYE is enough");
        drop(far.client);
    });
    assert_eq!(report_, Report { logged_out: true, ..report(Ending::BackendClosed, 10, 13) });
}

#[tokio::test(start_paused = true)]
async fn a_stop_says_so_where_it_can_and_waits_for_nothing() {
    let started = Instant::now();
    for (size, said, heard, ending) in [
        (64, &b"* 1 EXISTS\r\n"[..], STOPPING, Ending::Stopping),
        (64, b"* 1 EXI", b"", Ending::CutOff),
        (64, b"* 1 FETCH (BODY[] {20}\r\nline\r\n", b"", Ending::CutOff),
        // It was told, and takes nothing.
        (12, b"* 1 EXISTS\r\n", b"", Ending::Stopping),
        (10, b"* 1 EXISTS\r\n", b"", Ending::CutOff),
    ] {
        let (relayed, pulse, mut far) = sendable(rig(size));
        let (report_, ()) = join!(relayed, async {
            far.backend.write_all(said).await.expect("taken");
            settle().await;
            pulse.notice().stop();
        });
        let expected = [said, heard].concat();
        let expected = &expected[..expected.len().min(size)];
        assert_eq!(read_all(&mut far.client).await, expected);
        assert_eq!(report_, report(ending, 0, expected.len() as u64));
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// A response, with what would be taken for the end of one inside its literal.
fn response() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(&["* 1 EXISTS\r\n", "* OK [ALERT] x\r\n", "* 3 FETCH (FLAGS ())\r\n"][..]);
    prop_oneof![
        line.prop_map(|line| line.as_bytes().to_vec()),
        (0..100_usize).prop_map(|lines| {
            format!("* 2 FETCH (BODY[] {{{}}}\r\n{})\r\n", lines * 7, "* BYE\r\n".repeat(lines)).into_bytes()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_bye_stands_between_two_responses(
        responses in prop::collection::vec(response(), 0..20), sizes in (1..300_usize, 1..300_usize), turns in 0..60_usize,
        piece in 1..200_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("builds");
        let said = responses.concat();
        let got = runtime.block_on(async {
            let (mut client, near_client) = duplex(sizes.0);
            let (mut backend, near_backend) = duplex(sizes.1);
            let pulse = Arc::<Pulse>::default();
            let talk = async {
                for piece in said.chunks(piece) {
                    if backend.write_all(piece).await.is_err() {
                        break;
                    }
                    yield_now().await;
                }
                pause(200).await;
            };
            let kick = async {
                pause(turns).await;
                assert!(pulse.notice().leave(at_once(Ending::Kicked)));
            };
            let (report_, got, (), ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), read_all(&mut client), talk, kick);
            assert_eq!(report_.ending, Ending::Kicked);
            got
        });
        let before = got.strip_suffix(KICKED).expect("there is always a moment here");
        let ends = responses.iter().scan(0, |end, response| { *end += response.len(); Some(*end) });
        prop_assert!(said.starts_with(before));
        prop_assert!(ends.chain([0]).any(|end| end == before.len()), "{}", got.escape_ascii());
    }
}
