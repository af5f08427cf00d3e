//! What it measures: how fast one relay moves bytes between two loopback TCP connections, and how much CPU time its own
//! thread spends on that, beside `tokio::io::copy_bidirectional` doing the same. `bulk`: one direction as fast as it
//! goes, like a FETCH of a large message. `ping-pong`: 64 bytes there and back, like a client that talks.
//!
//! How: each loop runs alone in a current-thread runtime on a thread of its own; a blocking thread at each end sends and
//! receives. The two take turns, so that a change of the machine's mood meets both, and the median of the rounds counts.
//! CPU time is the kernel's account of that thread (`/proc/thread-self/schedstat`).
//!
//! What would make it lie: fewer than three free cores (the ends then compete with the loop, and the wall-clock figures
//! say little; CPU per GB still does), frequency scaling, `schedstat` switched off (CPU then reads 0), a debug build. It
//! says nothing about TLS, about many sessions at once, or about a network that is slower than memory.
//!
//! `cargo bench --bench relay`. Without `--bench` (that is, as a test) it runs once with little data.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use mailmux::process::Phase;
use mailmux::relay::{Times, relay};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// What the ends send and receive at once, so that they are not what is measured.
const CHUNK: usize = 256 * 1024;

/// A loop under test.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Loop {
    Relay,
    Copy,
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
enum Load {
    Bulk(u64),
    PingPong(u64),
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
    for load in [Load::Bulk(bulk), Load::PingPong(pings)] {
        let mut relay = Vec::new();
        let mut copy = Vec::new();
        for _ in 0..rounds {
            relay.push(round(Loop::Relay, load)?);
            copy.push(round(Loop::Copy, load)?);
        }
        show("mailmux relay", load, relay);
        show("copy_bidirectional", load, copy);
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
        Load::Bulk(bytes) => {
            let gigabytes = bytes as f64 / 1e9;
            println!("{name:20} bulk       {:8.2} GB/s  {:8.3} CPU s/GB", gigabytes / wall, cpu / gigabytes);
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
        let backend = scope.spawn(move || backend(&back, load));
        let client = scope.spawn(move || client(front_address, load));
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
            Loop::Relay => {
                let minute = Duration::from_mins(1);
                let times = Times { idle: minute, half_closed: minute, write: minute };
                let (_phase, stop) = watch::channel(Phase::Running);
                relay(client, backend, times, stop, oneshot::channel().1).await;
            }
            Loop::Copy => {
                tokio::io::copy_bidirectional(&mut client, &mut backend).await?;
            }
        }
        Ok(Round { wall: started.elapsed(), cpu: cpu_time().saturating_sub(cpu) })
    })
}

fn client(address: SocketAddr, load: Load) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    match load {
        Load::Bulk(bytes) => {
            let mut chunk = vec![0; CHUNK];
            let mut got = 0;
            loop {
                match stream.read(&mut chunk)? {
                    0 => break,
                    n => got += n as u64,
                }
            }
            assert_eq!(got, bytes, "everything arrives");
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

fn backend(listener: &TcpListener, load: Load) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    match load {
        Load::Bulk(bytes) => {
            let chunk = vec![b'x'; CHUNK];
            for _ in 0..bytes / CHUNK as u64 {
                stream.write_all(&chunk)?;
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
