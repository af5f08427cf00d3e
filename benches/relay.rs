//! What it measures: how fast one relay moves bytes between two loopback TCP connections, and how much CPU time its own
//! thread spends on that, beside `tokio::io::copy_bidirectional` doing the same. `bulk`: one direction as fast as it
//! goes, in no protocol. `ping-pong`: 64 bytes there and back, like a client that talks. `fetch`: literals of 1 MiB, like
//! a FETCH of large messages, `lines`: responses of 40 bytes, like a FETCH of flags, and `append`: literals of 1 MiB the
//! other way; for these also the relay that is to keep its link, and so tracks what is said, and the one without its
//! follower, which the client has sent into doubt with a COMPRESS before anything else.
//!
//! How: each loop runs alone in a current-thread runtime on a thread of its own; a blocking thread at each end sends and
//! receives. The two take turns, so that a change of the machine's mood meets both, and the median of the rounds counts.
//! CPU time is the kernel's account of that thread (`/proc/thread-self/schedstat`).
//!
//! What would make it lie: fewer than three free cores (the ends then compete with the loop, and the wall-clock figures
//! say little; CPU per GB still does), frequency scaling, `schedstat` switched off (CPU then reads 0), a debug build. It
//! says nothing about TLS, about many sessions at once, or about a network that is slower than memory.
//!
//! `cargo bench --bench relay`, minutes; some loads by name: `cargo bench --bench relay -- fetch ping-pong`. Without
//! `--bench` (that is, as a test) it runs once with little data.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mailmux::relay::{Terms, relay};
use mailmux::trace::Tap;
use tokio::time::Instant;

/// What the ends send and receive at once, so that they are not what is measured.
const CHUNK: usize = 256 * 1024;
/// A large message.
const MESSAGE: usize = 1024 * 1024;

/// The answer to an APPEND.
const APPENDED: &[u8] = b"b OK\r\n";

/// A loop under test.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loop {
    Relay,
    Keeping,
    Unfollowed,
    Copy,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
enum Load {
    Bulk(u64),
    Fetch(u64),
    Lines(u64),
    Append(u64),
    PingPong(u64),
}

impl Load {
    /// What the backend, or the client that appends, says over and over, about a [`CHUNK`] at once.
    fn chunk(self) -> Vec<u8> {
        match self {
            Self::Fetch(_) => {
                let message = message();
                [format!("* 1 FETCH (BODY[] {{{}}}\r\n", message.len()).as_bytes(), &message, b")\r\n"].concat()
            }
            Self::Append(_) => {
                let message = message();
                [format!("b APPEND INBOX {{{}+}}\r\n", message.len()).as_bytes(), &message, b"\r\n"].concat()
            }
            Self::Lines(_) => b"* 12345 FETCH (FLAGS (\\Seen) UID 67890)\r\n".repeat(CHUNK / 41),
            Self::Bulk(_) | Self::PingPong(_) => vec![b'x'; CHUNK],
        }
    }

    /// How often it says that.
    fn chunks(self) -> u64 {
        match self {
            Self::Bulk(bytes) | Self::Fetch(bytes) | Self::Lines(bytes) | Self::Append(bytes) => {
                (bytes / self.chunk().len() as u64).max(1)
            }
            Self::PingPong(_) => 0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bulk(_) => "bulk",
            Self::Fetch(_) => "fetch",
            Self::Lines(_) => "lines",
            Self::Append(_) => "append",
            Self::PingPong(_) => "ping-pong",
        }
    }
}

/// A large one, of lines.
fn message() -> Vec<u8> {
    [b"x".repeat(70).as_slice(), b"\r\n"].concat().repeat(MESSAGE / 72)
}

/// What the client says first, so that the follower follows or does not.
fn opening(which: Loop, load: Load) -> &'static [u8] {
    match (which, load) {
        (_, Load::Bulk(_) | Load::PingPong(_)) => b"",
        (Loop::Unfollowed, _) => b"a COMPRESS DEFLATE\r\n",
        (_, Load::Append(_)) => b"",
        (Loop::Relay | Loop::Keeping | Loop::Copy, _) => b"a UID FETCH 1:* X\r\n",
    }
}

/// What one round took.
#[derive(Debug, Clone, Copy)]
struct Round {
    wall: Duration,
    cpu: Duration,
}

fn main() -> io::Result<()> {
    let in_earnest = std::env::args().any(|arg| arg == "--bench");
    let (rounds, bulk, pings) = if in_earnest { (7, 4 << 30, 200_000) } else { (1, 1 << 20, 10) };
    let loads = [Load::Bulk(bulk), Load::Fetch(bulk), Load::Lines(bulk), Load::Append(bulk), Load::PingPong(pings)];
    let chosen: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    for load in loads.into_iter().filter(|load| chosen.is_empty() || chosen.iter().any(|name| name == load.name())) {
        let loops: &[_] = match load {
            Load::Bulk(_) | Load::PingPong(_) => &[("mailmux relay", Loop::Relay), ("copy_bidirectional", Loop::Copy)],
            Load::Fetch(_) | Load::Lines(_) | Load::Append(_) => &[
                ("mailmux relay", Loop::Relay),
                ("keeping the link", Loop::Keeping),
                ("without follower", Loop::Unfollowed),
                ("copy_bidirectional", Loop::Copy),
            ],
        };
        let mut taken = vec![Vec::new(); loops.len()];
        for _ in 0..rounds {
            for ((_, which), taken) in loops.iter().zip(&mut taken) {
                taken.push(round(*which, load)?);
            }
        }
        for ((name, _), taken) in loops.iter().zip(taken) {
            show(name, load, taken);
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn show(name: &str, load: Load, mut rounds: Vec<Round>) {
    rounds.sort_by_key(|round| round.wall);
    let wall = rounds[rounds.len() / 2].wall.as_secs_f64();
    rounds.sort_by_key(|round| round.cpu);
    let cpu = rounds[rounds.len() / 2].cpu.as_secs_f64();
    match load {
        Load::Bulk(bytes) | Load::Fetch(bytes) | Load::Lines(bytes) | Load::Append(bytes) => {
            let gigabytes = bytes as f64 / 1e9;
            let kind = load.name();
            println!("{name:20} {kind:9}  {:8.2} GB/s  {:8.3} CPU s/GB", gigabytes / wall, cpu / gigabytes);
        }
        Load::PingPong(count) => {
            let count = count as f64;
            println!("{name:20} ping-pong  {:8.0} /s    {:8.2} CPU µs each", count / wall, cpu * 1e6 / count);
        }
    }
}

fn round(which: Loop, load: Load) -> io::Result<Round> {
    let front = TcpListener::bind("127.0.0.1:0")?;
    let back = TcpListener::bind("127.0.0.1:0")?;
    let (front_address, back_address) = (front.local_addr()?, back.local_addr()?);
    thread::scope(|scope| {
        let backend = scope.spawn(move || backend(&back, which, load));
        let client = scope.spawn(move || client(front_address, which, load));
        let mover = scope.spawn(move || move_bytes(which, &front, back_address));
        let ends = [client, backend].map(|end| end.join().map_err(|_| io::Error::other("an end panicked")));
        for end in ends {
            end??;
        }
        mover.join().map_err(|_| io::Error::other("the loop panicked"))?
    })
}

/// The thread that is measured.
fn move_bytes(which: Loop, front: &TcpListener, back: SocketAddr) -> io::Result<Round> {
    let (client, _) = front.accept()?;
    let backend = TcpStream::connect(back)?;
    for stream in [&client, &backend] {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (cpu, started) = (cpu_time(), Instant::now());
    runtime.block_on(async {
        let mut client = tokio::net::TcpStream::from_std(client)?;
        let mut backend = tokio::net::TcpStream::from_std(backend)?;
        match which {
            Loop::Relay | Loop::Keeping | Loop::Unfollowed => {
                let terms = Terms {
                    idle: Duration::from_mins(1),
                    spread: || Duration::ZERO,
                    keep: which == Loop::Keeping,
                    pulse: Arc::default(),
                    tap: Tap::default(),
                };
                relay(client, backend, terms).await;
            }
            Loop::Copy => {
                tokio::io::copy_bidirectional(&mut client, &mut backend).await?;
            }
        }
        Ok(Round { wall: started.elapsed(), cpu: cpu_time().saturating_sub(cpu) })
    })
}

fn client(address: SocketAddr, which: Loop, load: Load) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(opening(which, load))?;
    match load {
        Load::Bulk(_) | Load::Fetch(_) | Load::Lines(_) => {
            let mut chunk = vec![0; CHUNK];
            let mut got = 0;
            loop {
                match stream.read(&mut chunk)? {
                    0 => break,
                    n => got += n as u64,
                }
            }
            assert_eq!(got, load.chunk().len() as u64 * load.chunks(), "everything arrives");
        }
        Load::Append(_) => {
            let chunk = load.chunk();
            for _ in 0..load.chunks() {
                stream.write_all(&chunk)?;
                stream.read_exact(&mut [0; APPENDED.len()])?;
            }
        }
        Load::PingPong(count) => {
            let mut message = [b'x'; 64];
            for _ in 0..count {
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
            }
        }
    }
    stream.shutdown(Shutdown::Write)
}

fn backend(listener: &TcpListener, which: Loop, load: Load) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.read_exact(&mut vec![0; opening(which, load).len()])?;
    match load {
        Load::Bulk(_) | Load::Fetch(_) | Load::Lines(_) => {
            let chunk = load.chunk();
            for _ in 0..load.chunks() {
                stream.write_all(&chunk)?;
            }
        }
        Load::Append(_) => {
            let mut chunk = load.chunk();
            for _ in 0..load.chunks() {
                stream.read_exact(&mut chunk)?;
                stream.write_all(APPENDED)?;
            }
        }
        Load::PingPong(count) => {
            let mut message = [0; 64];
            for _ in 0..count {
                stream.read_exact(&mut message)?;
                stream.write_all(&message)?;
            }
        }
    }
    stream.shutdown(Shutdown::Write)
}

/// What this thread has used so far.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
