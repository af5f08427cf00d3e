//! The IMAP server behind all peers: as much IMAP as `load` speaks and the peers want, from one thread, with nothing to look up
//! and nothing to store. Anybody may log in. Also what nginx asks where users live (`auth_http`): here.
//!
//! It prints one line of JSON, `{"imap": PORT, "auth": PORT}`, and serves on loopback until it is killed.
//!
//! - `FETCH 1 BODY.PEEK[]<0.SIZE>` sends a literal of that size, of the lines in `pattern.rs`; APPEND takes one of the same lines
//!   of any size, and says NO when they are others.
//! - `XTELL SECONDS`, from anybody, logged in or not: from now on each session in IDLE hears a line every so many seconds, all
//!   of them spread evenly. 0: none does.
//! - `XCOUNT` answers `* COUNT connections idle`, without its own.

#![allow(clippy::disallowed_methods, reason = "no test stops the clock here, and nothing waits for the end of a task")]

mod pattern;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::ready;
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};

use pattern::{PATTERN, is_pattern};

const GREETING: &str =
    "* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ AUTH=PLAIN] ready\r\n";
const ABILITIES: &str = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ UIDPLUS NAMESPACE";
const LONGEST_LINE: usize = 64 * 1024;

thread_local! {
    /// Read into by whoever reads: nobody keeps a buffer while nothing comes.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; PATTERN.len()]);
}

struct Backend {
    /// How often sessions in IDLE are told something.
    tell: watch::Sender<Option<Duration>>,
    counts: RefCell<Counts>,
}

#[derive(Default)]
struct Counts {
    connections: usize,
    idle: usize,
    /// Of all that ever were in IDLE.
    idled: usize,
}

struct Connection {
    stream: TcpStream,
    /// What has been read and not yet looked at.
    held: Vec<u8>,
}

/// One command. Literals stand in it where they were announced, without their `{...}`; only that of APPEND does not.
struct Command {
    tag: String,
    name: String,
    rest: String,
}

impl Backend {
    async fn serve(self: Rc<Self>, stream: TcpStream) {
        self.counts.borrow_mut().connections += 1;
        let mut connection = Connection { stream, held: Vec::new() };
        // Who goes without a word is nothing to tell anybody.
        let _ = self.talk(&mut connection).await;
        self.counts.borrow_mut().connections -= 1;
    }

    async fn talk(&self, connection: &mut Connection) -> io::Result<()> {
        connection.stream.set_nodelay(true)?;
        connection.say(GREETING).await?;
        loop {
            let Command { tag, name, rest } = connection.command().await?;
            match name.as_str() {
                "CAPABILITY" => connection.say(&format!("* CAPABILITY {ABILITIES}\r\n{tag} OK done\r\n")).await?,
                "ID" => connection.say(&format!("* ID (\"name\" \"bench\")\r\n{tag} OK done\r\n")).await?,
                "LOGIN" => connection.say(&format!("{tag} OK [CAPABILITY {ABILITIES}] Logged in\r\n")).await?,
                "AUTHENTICATE" => {
                    if rest.split_ascii_whitespace().count() < 2 {
                        connection.say("+ \r\n").await?;
                        connection.line().await?;
                    }
                    connection.say(&format!("{tag} OK [CAPABILITY {ABILITIES}] Logged in\r\n")).await?;
                }
                "NOOP" | "ENABLE" => connection.say(&format!("{tag} OK done\r\n")).await?,
                "SELECT" => {
                    let state = "* FLAGS (\\Seen)\r\n* 1 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 1] valid\r\n";
                    connection.say(&format!("{state}{tag} OK [READ-WRITE] done\r\n")).await?;
                }
                "FETCH" => connection.send_mail(&tag, &rest).await?,
                "APPEND" => connection.take_mail(&tag, &rest).await?,
                "IDLE" => self.idle(connection, &tag).await?,
                "LOGOUT" => return connection.say(&format!("* BYE bye\r\n{tag} OK done\r\n")).await,
                "XTELL" => {
                    let seconds = rest.trim().parse().unwrap_or(0);
                    self.tell.send_replace((seconds > 0).then(|| Duration::from_secs(seconds)));
                    connection.say(&format!("{tag} OK done\r\n")).await?;
                }
                "XCOUNT" => {
                    let (connections, idle) = (self.counts.borrow().connections - 1, self.counts.borrow().idle);
                    connection.say(&format!("* COUNT {connections} {idle}\r\n{tag} OK done\r\n")).await?;
                }
                _ => connection.say(&format!("{tag} BAD what is {}?\r\n", name.escape_debug())).await?,
            }
        }
    }

    async fn idle(&self, connection: &mut Connection, tag: &str) -> io::Result<()> {
        connection.say("+ idling\r\n").await?;
        self.counts.borrow_mut().idle += 1;
        let done = self.idle_until_done(connection).await;
        self.counts.borrow_mut().idle -= 1;
        if !done?.eq_ignore_ascii_case("DONE") {
            return connection.say(&format!("{tag} BAD that was not DONE\r\n")).await;
        }
        connection.say(&format!("{tag} OK done\r\n")).await
    }

    async fn idle_until_done(&self, connection: &mut Connection) -> io::Result<String> {
        let number = self.counts.borrow().idled;
        self.counts.borrow_mut().idled += 1;
        let mut tell = self.tell.subscribe();
        loop {
            let every = *tell.borrow_and_update();
            // The same share of the time for each, in an order that has nothing to do with that of the logins.
            let mut next = every.map(|every| Instant::now() + every.mul_f64(golden_share(number)));
            loop {
                let told = async {
                    match next {
                        Some(next) => sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    line = connection.line() => return line,
                    _ = tell.changed() => break,
                    () = told => {
                        connection.say("* OK Still here\r\n").await?;
                        next = next.zip(every).map(|(next, every)| next + every);
                    }
                }
            }
        }
    }
}

impl Connection {
    async fn say(&mut self, what: &str) -> io::Result<()> {
        self.stream.write_all(what.as_bytes()).await
    }

    /// A whole line is held, or the connection's end is the error. May be dropped while it waits.
    async fn line(&mut self) -> io::Result<String> {
        let mut looked_at = 0;
        loop {
            if let Some(end) = self.held[looked_at..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=looked_at + end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            looked_at = self.held.len();
            if looked_at > LONGEST_LINE {
                return Err(io::Error::other("a line without end"));
            }
            let Self { stream, held } = self;
            receive(stream, |part| held.extend_from_slice(part)).await?;
        }
    }

    async fn command(&mut self) -> io::Result<Command> {
        let mut whole = self.line().await?;
        // That of APPEND is not read into memory.
        while let Some((begin, size, wait)) = literal(&whole)
            && !name_of(&whole).eq_ignore_ascii_case("APPEND")
        {
            if size > LONGEST_LINE {
                return Err(io::Error::other("too large a literal"));
            }
            if wait {
                self.say("+ go on\r\n").await?;
            }
            while self.held.len() < size {
                let Self { stream, held } = self;
                receive(stream, |part| held.extend_from_slice(part)).await?;
            }
            whole.truncate(begin);
            let content: Vec<u8> = self.held.drain(..size).collect();
            whole.push_str(&String::from_utf8_lossy(&content));
            whole.push_str(&self.line().await?);
        }
        let mut words = whole.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        Ok(Command { tag: word(), name: word().to_ascii_uppercase(), rest: word() })
    }

    async fn send_mail(&mut self, tag: &str, rest: &str) -> io::Result<()> {
        let size = rest.rsplit_once("<0.").and_then(|(_, size)| size.strip_suffix('>')?.parse::<usize>().ok());
        let Some(size) = size else {
            return self.say(&format!("{tag} BAD no size\r\n")).await;
        };
        self.say(&format!("* 1 FETCH (BODY[]<0> {{{size}}}\r\n")).await?;
        let mut left = size;
        while left > 0 {
            let part = left.min(PATTERN.len());
            self.stream.write_all(&PATTERN[..part]).await?;
            left -= part;
        }
        self.say(&format!(")\r\n{tag} OK done\r\n")).await
    }

    async fn take_mail(&mut self, tag: &str, rest: &str) -> io::Result<()> {
        let Some((_, size, wait)) = literal(rest) else {
            return self.say(&format!("{tag} BAD no literal\r\n")).await;
        };
        if wait {
            self.say("+ go on\r\n").await?;
        }
        let early = self.held.len().min(size);
        let mut right = is_pattern(&self.held[..early], 0);
        self.held.drain(..early);
        let mut taken = early;
        while taken < size {
            let Self { stream, held } = self;
            receive(stream, |part| {
                let part_of_it = part.len().min(size - taken);
                right &= is_pattern(&part[..part_of_it], taken);
                held.extend_from_slice(&part[part_of_it..]);
                taken += part_of_it;
            })
            .await?;
        }
        right &= self.line().await?.is_empty();
        let answer = if right { "OK [APPENDUID 1 1] done" } else { "NO that is not what is sent here" };
        self.say(&format!("{tag} {answer}\r\n")).await
    }
}

/// Waits for some bytes, and gives them on. The end of the stream is an error.
async fn receive(stream: &mut TcpStream, take: impl FnOnce(&[u8])) -> io::Result<()> {
    let mut take = Some(take);
    poll_fn(move |context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return io::Result::Err(io::ErrorKind::UnexpectedEof.into()).into();
            }
            if let Some(take) = take.take() {
                take(buffer.filled());
            }
            Ok(()).into()
        })
    })
    .await
}

/// Where a literal is announced at the end of a line, its size, and whether its sender waits to be told to go on.
fn literal(line: &str) -> Option<(usize, usize, bool)> {
    let inside = line.strip_suffix('}')?;
    let begin = inside.rfind('{')?;
    let size = &inside[begin + 1..];
    let at_once = size.strip_suffix('+');
    Some((begin, at_once.unwrap_or(size).parse().ok()?, at_once.is_none()))
}

fn name_of(line: &str) -> &str {
    line.split(' ').nth(1).unwrap_or_default()
}

/// Numbers in order, spread evenly over 0 to 1.
fn golden_share(number: usize) -> f64 {
    let number = u32::try_from(number % 1_000_000).unwrap_or(0);
    (f64::from(number) * 0.618_033_988_749_895).fract()
}

/// Says where users live: at the backend's own port.
async fn answer_nginx(mut stream: TcpStream, imap: SocketAddr) -> io::Result<()> {
    let mut question = Vec::new();
    while !question.ends_with(b"\r\n\r\n") {
        receive(&mut stream, |part| question.extend_from_slice(part)).await?;
    }
    let port = imap.port();
    let fields = format!("Auth-Status: OK\r\nAuth-Server: 127.0.0.1\r\nAuth-Port: {port}\r\nContent-Length: 0\r\n");
    stream.write_all(format!("HTTP/1.0 200 OK\r\n{fields}Connection: close\r\n\r\n").as_bytes()).await
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(4096)
}

async fn serve() -> io::Result<()> {
    let (imap, auth) = (listen()?, listen()?);
    let address = imap.local_addr()?;
    println!("{{\"imap\": {}, \"auth\": {}}}", address.port(), auth.local_addr()?.port());
    let backend = Rc::new(Backend { tell: watch::Sender::new(None), counts: RefCell::default() });
    loop {
        tokio::select! {
            accepted = imap.accept() => {
                spawn_local(Rc::clone(&backend).serve(accepted?.0));
            }
            accepted = auth.accept() => {
                let stream = accepted?.0;
                spawn_local(async move {
                    // nginx says itself when it gets no answer.
                    let _ = answer_nginx(stream, address).await;
                });
            }
        }
    }
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(serve()))
}
