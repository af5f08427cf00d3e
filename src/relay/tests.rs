//! The relay between in-memory streams: who ends, when, with which counts, and that no byte is lost or reordered.

use std::io;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::join;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::*;
use crate::pulse::State;
use crate::stream::Buffered;

mod leaving;

const IDLE: Duration = Duration::from_mins(30);

/// A relay's two streams, the peers at their other ends, and what it is told through.
struct Rig {
    client: DuplexStream,
    backend: DuplexStream,
    near_client: DuplexStream,
    near_backend: DuplexStream,
    pulse: Arc<Pulse>,
}

fn rig(size: usize) -> Rig {
    let (client, near_client) = duplex(size);
    let (backend, near_backend) = duplex(size);
    Rig { client, backend, near_client, near_backend, pulse: Arc::default() }
}

fn report(ending: Ending, to_backend: u64, to_client: u64) -> Report {
    Report { ending, to_backend, to_client, logged_out: false }
}

/// `spread`: how long a dead backend's client is not told so.
fn terms(spread: Duration, keep: bool, pulse: &Arc<Pulse>) -> Terms<impl Fn() -> Duration + use<>> {
    Terms { idle: IDLE, spread: move || spread, keep, pulse: Arc::clone(pulse), tap: Tap::default() }
}

/// A relay that tells a dead backend's client so at once, and whose link ends with it.
async fn plainly<C, B>(client: C, backend: B, pulse: Arc<Pulse>) -> Report
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (report, kept) = relay(client, backend, terms(Duration::ZERO, false, &pulse)).await;
    assert!(kept.is_none());
    report
}

/// A relay that takes its time before it does.
async fn spread_out(client: DuplexStream, backend: DuplexStream) -> Report {
    relay(client, backend, terms(Duration::from_secs(3), false, &Arc::default())).await.0
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("reads");
    all
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), n: usize) -> Vec<u8> {
    let mut some = vec![0; n];
    stream.read_exact(&mut some).await.expect("so many come");
    some
}

/// Lets everybody else go as far as they can.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).expect("small")).collect()
}

#[tokio::test]
async fn the_client_closes_first_and_its_last_bytes_arrive() {
    for size in [1, 7, 64, 1 << 20] {
        let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(size);
        let sent = pattern(1000);
        let (report_, (), got) = join!(
            plainly(near_client, near_backend, Arc::clone(&pulse)),
            async {
                client.write_all(&sent).await.expect("taken");
                client.shutdown().await.expect("closes");
                assert_eq!(read_all(&mut client).await, b"* BYE");
            },
            async {
                settle().await; // the client's bytes are stuck, its end is near
                let got = read_all(&mut backend).await;
                backend.write_all(b"* BYE").await.expect("the other direction is still open");
                drop(backend);
                got
            },
        );
        assert_eq!(got, sent, "duplex({size})");
        assert_eq!(report_, report(Ending::ClientClosed, 1000, 5), "duplex({size})");
    }
}

#[tokio::test]
async fn the_backend_closes_first_and_its_last_bytes_arrive() {
    for size in [1, 7, 64, 1 << 20] {
        let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(size);
        let sent = pattern(1000);
        let (report_, (), got) = join!(
            plainly(near_client, near_backend, Arc::clone(&pulse)),
            async {
                backend.write_all(&sent).await.expect("taken");
                backend.shutdown().await.expect("closes");
                assert_eq!(read_all(&mut backend).await, b"late");
            },
            async {
                settle().await;
                let got = read_all(&mut client).await;
                client.write_all(b"late").await.expect("the other direction is still open");
                drop(client);
                got
            },
        );
        assert_eq!(got, sent, "duplex({size})");
        assert_eq!(report_, report(Ending::BackendClosed, 4, 1000), "duplex({size})");
    }
}

#[tokio::test]
async fn writers_blocked_both_ways_do_not_lock_each_other() {
    let Rig { client, backend, near_client, near_backend, pulse } = rig(16);
    let sent = pattern(300_000);
    let peer = async |stream: DuplexStream| {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (got, ()) = join!(
            async {
                settle().await; // both directions are full by now
                read_some(&mut reader, sent.len()).await
            },
            async { writer.write_all(&sent).await.expect("taken") },
        );
        assert_eq!(got, sent);
        writer.shutdown().await.expect("closes");
    };
    let (report_, (), ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), peer(client), peer(backend));
    assert_eq!((report_.to_backend, report_.to_client), (300_000, 300_000));
}

#[tokio::test]
async fn a_peer_that_takes_nothing_stops_the_other_from_sending() {
    let Rig { mut client, backend: _backend, near_client, near_backend, pulse } = rig(100);
    let mut taken = 0;
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        let flood = pattern(100);
        let pushing = async {
            loop {
                taken += client.write(&flood).await.expect("open");
            }
        };
        tokio::select! {
            () = pushing => {}
            () = settle() => {}
        }
        pulse.notice().stop();
    });
    // One buffer on each side, and what one poll had read when it found that out.
    assert!(taken <= 100 + 100 + SCRATCH, "{taken}");
    assert_eq!(report_.to_backend, 100);
}

/// Passes on what was written only when flushed, as a TLS stream or any buffered writer may.
struct OnFlush {
    stream: DuplexStream,
    waiting: Vec<u8>,
}

impl AsyncRead for OnFlush {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for OnFlush {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.waiting.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, waiting } = &mut *self;
        while !waiting.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, waiting) {
                Poll::Ready(n) => drop(waiting.drain(..n?)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.as_mut().poll_flush(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_shutdown(cx),
            other => other,
        }
    }
}

#[tokio::test]
async fn a_stream_that_delivers_only_on_flush_delivers() {
    for size in [8, 1 << 20] {
        let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(size);
        let near_client = OnFlush { stream: near_client, waiting: Vec::new() };
        let near_backend = OnFlush { stream: near_backend, waiting: Vec::new() };
        let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
            for _ in 0..3 {
                client.write_all(b"a NOOP\r\n").await.expect("taken");
                assert_eq!(read_some(&mut backend, 8).await, b"a NOOP\r\n", "while both sides stay open");
                backend.write_all(b"a OK\r\n").await.expect("taken");
                assert_eq!(read_some(&mut client, 6).await, b"a OK\r\n");
            }
            drop(client);
            drop(backend);
        });
        assert_eq!(report_, report(Ending::ClientClosed, 24, 18));
    }
}

/// A stream that breaks: reads fail once the peer has been heard out, or writes fail from the start.
struct Breaks {
    stream: DuplexStream,
    read: Option<io::ErrorKind>,
    write: Option<io::ErrorKind>,
}

impl AsyncRead for Breaks {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match self.read {
            Some(kind) if matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before => {
                Poll::Ready(Err(kind.into()))
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Breaks {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.write {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None => Pin::new(&mut self.stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_read_error_names_its_side_and_the_other_one_still_gets_everything() {
    use io::ErrorKind::{ConnectionReset, InvalidData, UnexpectedEof};
    for (kind, client_ends, backend_ends) in [
        (ConnectionReset, Ending::ClientReset, Ending::BackendReset),
        (InvalidData, Ending::ClientReset, Ending::BackendReset),
        // A TLS peer that closes without close_notify has closed.
        (UnexpectedEof, Ending::ClientClosed, Ending::BackendClosed),
    ] {
        let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
        let near_client = Breaks { stream: near_client, read: Some(kind), write: None };
        let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
            backend.write_all(b"hello").await.expect("taken");
            assert_eq!(read_some(&mut client, 5).await, b"hello");
            client.write_all(b"last words").await.expect("taken");
            drop(client);
            assert_eq!(read_all(&mut backend).await, b"last words", "then the end is passed on");
            drop(backend);
        });
        assert_eq!(report_, report(client_ends, 10, 5));

        let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
        let near_backend = Breaks { stream: near_backend, read: Some(kind), write: None };
        let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
            client.write_all(b"hello").await.expect("taken");
            assert_eq!(read_some(&mut backend, 5).await, b"hello");
            backend.write_all(b"last words").await.expect("taken");
            drop(backend);
            assert_eq!(read_all(&mut client).await, b"last words", "then the end is passed on");
            drop(client);
        });
        assert_eq!(report_, report(backend_ends, 5, 10));
    }
}

#[tokio::test]
async fn a_write_error_names_its_side_and_the_other_direction_is_heard_out() {
    let broken = Some(io::ErrorKind::BrokenPipe);
    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
    let near_backend = Breaks { stream: near_backend, read: None, write: broken };
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        client.write_all(b"never arrives").await.expect("taken");
        settle().await;
        backend.write_all(b"* BYE").await.expect("taken");
        drop(backend);
        client.write_all(&pattern(1000)).await.expect("read and dropped, so that closing does not reset");
        assert_eq!(read_all(&mut client).await, b"* BYE");
        drop(client);
    });
    assert_eq!(report_, report(Ending::BackendReset, 0, 5));

    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
    let near_client = Breaks { stream: near_client, read: None, write: broken };
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        backend.write_all(b"never arrives").await.expect("taken");
        settle().await;
        client.write_all(b"a STORE").await.expect("taken");
        drop(client);
        backend.write_all(&pattern(1000)).await.expect("read and dropped");
        assert_eq!(read_all(&mut backend).await, b"a STORE");
        drop(backend);
    });
    assert_eq!(report_, report(Ending::ClientReset, 7, 0));
}

#[tokio::test]
async fn leftovers_come_first_and_in_order() {
    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(12);
    let near_client = Buffered::new(near_client, b"b SELECT INBOX\r\n".to_vec());
    let near_backend = Buffered::new(near_backend, b"* 1 EXISTS\r\n".to_vec());
    let (report_, (), ()) = join!(
        plainly(near_client, near_backend, Arc::clone(&pulse)),
        async {
            client.write_all(b"c LOGOUT\r\n").await.expect("taken");
            client.shutdown().await.expect("closes");
            assert_eq!(read_all(&mut client).await, b"* 1 EXISTS\r\n* BYE\r\n");
        },
        async {
            backend.write_all(b"* BYE\r\n").await.expect("taken");
            assert_eq!(read_all(&mut backend).await, b"b SELECT INBOX\r\nc LOGOUT\r\n");
            drop(backend);
        },
    );
    assert_eq!(report_, Report { logged_out: true, ..report(Ending::ClientClosed, 26, 19) });
}

#[tokio::test(start_paused = true)]
async fn a_quiet_session_ends_after_the_idle_time_and_not_before() {
    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
    let started = Instant::now();
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        sleep(Duration::from_secs(1799)).await;
        client.write_all(b"x").await.expect("still there");
        read_some(&mut backend, 1).await;
        sleep(Duration::from_secs(1799)).await;
        backend.write_all(b"y").await.expect("still there");
        read_some(&mut client, 1).await;
        assert_eq!(read_all(&mut client).await, b"", "closed in the end, in order");
    });
    assert_eq!(report_, report(Ending::IdleTimeout, 1, 1));
    assert_eq!(started.elapsed().as_secs(), 1799 + 1799 + 1800);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_peer_is_waited_for_as_long_as_something_moves() {
    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
    let started = Instant::now();
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        client.shutdown().await.expect("closes");
        for _ in 0..3 {
            sleep(Duration::from_secs(29)).await;
            backend.write_all(b"slowly").await.expect("taken");
            read_some(&mut client, 6).await;
        }
        assert_eq!(read_all(&mut client).await, b"");
    });
    assert_eq!(report_, report(Ending::ClientClosed, 0, 18));
    assert_eq!(started.elapsed().as_secs(), 3 * 29 + 30);

    let Rig { client: _client, mut backend, near_client, near_backend, pulse } = rig(64);
    let started = Instant::now();
    let (report_, _) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), backend.shutdown());
    assert_eq!(report_, report(Ending::BackendClosed, 0, 0));
    assert_eq!(started.elapsed(), HALF_CLOSED);
}

#[tokio::test(start_paused = true)]
async fn what_is_only_dropped_does_not_keep_a_session_alive() {
    let Rig { mut client, backend, near_client, near_backend, pulse } = rig(64);
    drop(backend);
    let started = Instant::now();
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        while client.write_all(b"NOOP\r\n").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(report_.ending, Ending::BackendClosed);
    assert_eq!(started.elapsed(), HALF_CLOSED);
}

#[tokio::test(start_paused = true)]
async fn when_a_backend_dies_its_client_hears_of_it_a_little_later() {
    let Rig { mut client, mut backend, near_client, near_backend, .. } = rig(64);
    let started = Instant::now();
    let (report_, ()) = join!(spread_out(near_client, near_backend), async {
        backend.write_all(b"* 3 EXISTS\r\n").await.expect("taken");
        drop(backend);
        assert_eq!(read_some(&mut client, 12).await, b"* 3 EXISTS\r\n");
        assert_eq!(started.elapsed(), Duration::ZERO, "what it said comes at once");
        assert_eq!(read_all(&mut client).await, b"");
        assert_eq!(started.elapsed(), Duration::from_secs(3));
    });
    assert_eq!(report_, report(Ending::BackendClosed, 0, 12));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_announced_or_that_the_client_makes_itself_is_not_put_off() {
    let Rig { mut client, mut backend, near_client, near_backend, .. } = rig(64);
    let started = Instant::now();
    let (report_, ()) = join!(spread_out(near_client, near_backend), async {
        backend.write_all(b"* BYE Enough.\r\n").await.expect("taken");
        drop(backend);
        assert_eq!(read_all(&mut client).await, b"* BYE Enough.\r\n");
        drop(client);
    });
    assert!(report_.logged_out);
    let Rig { client, backend, near_client, near_backend, .. } = rig(64);
    let (report_, ()) = join!(spread_out(near_client, near_backend), async {
        drop(backend);
        settle().await;
        drop(client);
    });
    assert_eq!(report_, report(Ending::BackendClosed, 0, 0));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_for_too_long_ends_the_session() {
    let Rig { client: _client, mut backend, near_client, near_backend, pulse } = rig(10);
    let started = Instant::now();
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        sleep(Duration::from_secs(100)).await;
        backend.write_all(&pattern(15)).await.expect("taken");
    });
    assert_eq!(report_, report(Ending::WriteTimeout, 0, 10));
    assert_eq!(started.elapsed().as_secs(), 100 + 300);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_a_little_at_a_time_is_borne_with() {
    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(10);
    let sent = pattern(50);
    let (report_, (), ()) = join!(
        plainly(near_client, near_backend, Arc::clone(&pulse)),
        async {
            backend.write_all(&sent).await.expect("taken");
            drop(backend);
        },
        async {
            let mut got = Vec::new();
            while got.len() < sent.len() {
                sleep(Duration::from_secs(50)).await;
                got.push(client.read_u8().await.expect("there is more"));
            }
            assert_eq!(got, sent);
            drop(client);
        },
    );
    assert_eq!(report_, report(Ending::BackendClosed, 0, 50));
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_a_transfer_finish_and_a_stop_does_not() {
    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        backend.write_all(b"first half, ").await.expect("taken");
        sleep(Duration::from_mins(10)).await;
        backend.write_all(b"second half").await.expect("taken");
        drop(backend);
        assert_eq!(read_all(&mut client).await, b"first half, second half");
        drop(client);
    });
    assert_eq!(report_, report(Ending::BackendClosed, 0, 23));

    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
    let started = Instant::now();
    let (report_, ()) = join!(plainly(near_client, near_backend, Arc::clone(&pulse)), async {
        backend.write_all(b"first half").await.expect("taken");
        assert_eq!(read_some(&mut client, 10).await, b"first half");
        settle().await;
        pulse.notice().stop();
        assert_eq!(read_all(&mut client).await, b"");
    });
    assert_eq!(report_, report(Ending::CutOff, 0, 10));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[test]
fn a_relay_is_small() {
    let Rig { near_client, near_backend, pulse, .. } = rig(64);
    let size = size_of_val(&relay(near_client, near_backend, terms(Duration::ZERO, false, &pulse)))
        - 2 * size_of::<DuplexStream>();
    // With its streams 448, a class of sizes of the allocator.
    assert!(size <= 384, "{size}");
}

#[tokio::test]
async fn an_idle_session_owns_no_buffer() {
    let Rig { mut client, backend, near_client, .. } = rig(64);
    let (mut backend, near_backend) = {
        drop(backend);
        duplex(8)
    };
    let mut pair = Pair::new(near_client, near_backend, terms(Duration::ZERO, false, &Arc::default()));
    let mut poll_once = async || {
        poll_fn(|cx| {
            let _ = pair.poll(cx);
            Poll::Ready(pair.to_backend.owned())
        })
        .await
    };
    assert_eq!(poll_once().await, 0);
    client.write_all(&pattern(20)).await.expect("taken");
    assert!((12..100).contains(&poll_once().await), "the backend took 8");
    read_some(&mut backend, 8).await;
    assert!(poll_once().await > 0);
    read_some(&mut backend, 8).await;
    assert_eq!(poll_once().await, 0, "the last 4 are on their way");
    assert_eq!(read_some(&mut backend, 4).await, &pattern(20)[16..]);
}

#[tokio::test]
async fn an_endless_stream_lets_others_have_their_turn() {
    let endless = tokio::io::join(tokio::io::repeat(b'x'), tokio::io::sink());
    let (_far, near) = duplex(64);
    let backend = tokio::io::join(near, tokio::io::sink());
    tokio::select! {
        biased;
        _ = plainly(endless, backend, Arc::default()) => panic!("nothing ended it"),
        () = settle() => {}
    }
}

#[derive(Debug, Clone)]
enum Act {
    Write(usize),
    Read(usize),
    Pause(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (1..3000_usize).prop_map(Act::Write),
        (1..3000_usize).prop_map(Act::Read),
        (1..20_usize).prop_map(Act::Pause),
    ];
    proptest::collection::vec(act, 0..30)
}

/// Plays a peer: writes and reads in any order and then sends the rest and reads to the end; what it read and wrote.
async fn play(stream: DuplexStream, acts: &[Act], seed: u8) -> (Vec<u8>, Vec<u8>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut next = (0_u8..=250).cycle().map(|n| n ^ seed);
    let (read, wrote) = join!(
        async {
            let mut read = Vec::new();
            for act in acts {
                match act {
                    Act::Read(n) => {
                        let mut some = vec![0; *n];
                        let n = reader.read(&mut some).await.expect("reads");
                        read.extend_from_slice(&some[..n]);
                    }
                    Act::Pause(n) => pause(*n).await,
                    Act::Write(_) => {}
                }
            }
            reader.read_to_end(&mut read).await.expect("reads");
            read
        },
        async {
            let mut wrote = Vec::new();
            for act in acts {
                match act {
                    Act::Write(n) => {
                        let some: Vec<u8> = next.by_ref().take(*n).collect();
                        writer.write_all(&some).await.expect("taken");
                        wrote.extend_from_slice(&some);
                    }
                    Act::Pause(n) => pause(*n).await,
                    Act::Read(_) => {}
                }
            }
            writer.shutdown().await.expect("closes");
            wrote
        },
    );
    (read, wrote)
}

async fn pause(turns: usize) {
    for _ in 0..turns {
        yield_now().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_byte_arrives_once_and_in_order(
        client_acts in acts(), backend_acts in acts(), sizes in (1..200_usize, 1..200_usize),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("builds");
        runtime.block_on(async {
            let (client, near_client) = duplex(sizes.0);
            let (backend, near_backend) = duplex(sizes.1);
            let (report_, (client_read, client_wrote), (backend_read, backend_wrote)) = join!(
                plainly(near_client, near_backend, Arc::default()),
                play(client, &client_acts, 0),
                play(backend, &backend_acts, 0xff),
            );
            assert_eq!(backend_read, client_wrote);
            assert_eq!(client_read, backend_wrote);
            assert_eq!(report_.to_backend, client_wrote.len() as u64);
            assert_eq!(report_.to_client, backend_wrote.len() as u64);
            assert!(matches!(report_.ending, Ending::ClientClosed | Ending::BackendClosed));
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_pulse_tells_what_has_moved_and_when_and_whether_the_client_idles() {
    let Rig { mut client, mut backend, near_client, near_backend, pulse } = rig(64);
    pulse.let_in();
    let terms = terms(Duration::ZERO, false, &pulse);
    let started = Instant::now();
    let seen = || (pulse.moved().to_backend, pulse.moved().to_client, pulse.state(), pulse.last() - started);
    let (_, ()) = join!(relay(near_client, near_backend, terms), async {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(seen(), (0, 0, State::Active, Duration::ZERO));
        client.write_all(b"a IDLE\r\n").await.expect("taken");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(seen(), (8, 0, State::Idle, Duration::from_secs(1)));
        backend.write_all(b"+ idling\r\n").await.expect("taken");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(seen(), (8, 10, State::Idle, Duration::from_secs(2)));
        client.write_all(b"DONE\r\n").await.expect("taken");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(seen(), (14, 10, State::Active, Duration::from_secs(3)));
        // What nobody takes has not moved.
        backend.write_all(&[b'x'; 100]).await.expect("taken");
        sleep(Duration::from_secs(1)).await;
        assert_eq!(seen(), (14, 64, State::Active, Duration::from_secs(4)));
        drop((client, backend));
    });
}

/// A relay whose link is to be kept, and what is at the other ends of it.
fn keeping(
    near_client: OnFlush,
    rig_: Rig,
) -> (impl Future<Output = (Report, Option<Kept<DuplexStream>>)>, DuplexStream) {
    let Rig { backend, near_backend, pulse, .. } = rig_;
    (relay(near_client, near_backend, terms(Duration::ZERO, true, &pulse)), backend)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_ended_its_side_hears_the_whole_answer_although_the_link_is_kept() {
    let (mut client, near_client) = duplex(4096);
    let (relayed, mut backend) = keeping(OnFlush { stream: near_client, waiting: Vec::new() }, rig(1 << 20));
    let ((report_, kept), said) = join!(relayed, async {
        client.write_all(b"a FETCH 1 BODY[]\r\n").await.expect("taken");
        client.shutdown().await.expect("half closed");
        read_some(&mut backend, 18).await;
        let said = [&b"* 1 FETCH (BODY[] {20000}\r\n"[..], &pattern(20_000), b")\r\na OK done\r\n"].concat();
        backend.write_all(&said).await.expect("taken");
        settle().await;
        assert!(read_all(&mut client).await == said, "whole");
        said
    });
    assert_eq!(report_, report(Ending::ClientClosed, 18, said.len() as u64));
    assert_eq!(kept.map(|kept| kept.reset.unselect), Some(false));
}

#[tokio::test(start_paused = true)]
async fn a_logout_behind_a_command_that_is_never_answered_does_not_wait_like_an_idle_session() {
    let (mut client, near_client) = duplex(4096);
    let (relayed, mut backend) = keeping(OnFlush { stream: near_client, waiting: Vec::new() }, rig(64));
    let started = Instant::now();
    let ((report_, kept), ()) = join!(relayed, async {
        client.write_all(b"a CHECK\r\nb LOGOUT\r\n").await.expect("taken");
        assert_eq!(read_some(&mut backend, 9).await, b"a CHECK\r\n");
        assert_eq!(read_all(&mut client).await, b"");
    });
    assert_eq!(report_.ending, Ending::ClientLogout);
    assert_eq!(started.elapsed(), HALF_CLOSED);
    assert!(kept.is_none());
}
