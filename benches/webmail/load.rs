//! The webmail. One click is one connection: LOGIN, SELECT INBOX, the envelopes of a page, LOGOUT. Nothing here knows
//! which server answers; what the answers took and whether they were right goes to standard output, for `./run`.
//!
//! Each command is one write, Nagle's algorithm is off, and the next command waits for the answer to the last, so that
//! no delay in the figures comes from this side. TLS resumes sessions, as a webmail that keeps its context does.
//!
//! `mailmux-webmail PORT CLICKS CONCURRENCY USERS [CA]`: USERS is a file of lines `user:{PLAIN}password`, who take
//! turns; with CA, a PEM file, it speaks TLS to "localhost".

#![allow(clippy::disallowed_methods, reason = "no test stops the clock here: there is no tokio")]

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

const PAGE: usize = 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// So many failures end it: what is broken is not worth waiting for.
const PATIENCE: usize = 10;

struct Load {
    port: u16,
    clicks: usize,
    people: Vec<(String, String)>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// The next click's number.
    next: AtomicUsize,
    failures: AtomicUsize,
    ended: AtomicBool,
}

/// What one browser has seen.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    resumed: usize,
    /// What was not as it must be, in words.
    wrong: Vec<String>,
}

impl Load {
    fn browse(&self) -> Seen {
        let mut seen = Seen::default();
        while !self.ended.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.clicks {
                break;
            }
            let (user, password) = &self.people[number % self.people.len()];
            let began = Instant::now();
            match self.click(user, password) {
                Ok((page, resumed)) => {
                    seen.latencies.push(began.elapsed());
                    seen.resumed += usize::from(resumed);
                    if !is_page_of(user, &page) {
                        seen.wrong.push(format!("{user} was shown {:?}", String::from_utf8_lossy(&page)));
                    }
                }
                Err(error) => {
                    seen.wrong.push(format!("{user}: {error}"));
                    if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
                        self.ended.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        seen
    }

    /// What the page was, and whether a TLS session was resumed for it.
    fn click(&self, user: &str, password: &str) -> io::Result<(Vec<u8>, bool)> {
        let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(TIMEOUT))?;
        tcp.set_write_timeout(Some(TIMEOUT))?;
        let Some((config, name)) = &self.tls else {
            return Ok((talk(&mut tcp, user, password)?, false));
        };
        let connection = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, tcp);
        let page = talk(&mut stream, user, password)?;
        Ok((page, stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)))
    }
}

fn talk(stream: &mut (impl Read + Write), user: &str, password: &str) -> io::Result<Vec<u8>> {
    answer(stream, "*")?;
    ask(stream, "a", &format!("LOGIN \"{user}\" \"{password}\""))?;
    ask(stream, "b", "SELECT INBOX")?;
    let page = ask(stream, "c", &format!("FETCH 1:{PAGE} (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE)"))?;
    ask(stream, "d", "LOGOUT")?;
    Ok(page)
}

fn ask(stream: &mut (impl Read + Write), tag: &str, command: &str) -> io::Result<Vec<u8>> {
    stream.write_all(format!("{tag} {command}\r\n").as_bytes())?;
    stream.flush()?;
    answer(stream, tag)
}

/// All that is said up to the line with this tag. It is the last one: nobody speaks unasked here.
fn answer(stream: &mut impl Read, tag: &str) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        match stream.read(&mut part)? {
            0 => return Err(io::Error::other(format!("closed before the answer to {tag}"))),
            n => said.extend_from_slice(&part[..n]),
        }
        let Some(whole) = said.strip_suffix(b"\r\n") else { continue };
        let last = whole.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
        if last.starts_with(format!("{tag} OK").as_bytes()) {
            return Ok(said);
        }
        if last.starts_with(format!("{tag} ").as_bytes()) {
            return Err(io::Error::other(String::from_utf8_lossy(last).into_owned()));
        }
    }
}

/// A whole page, in order, and every message on it this user's.
fn is_page_of(user: &str, page: &[u8]) -> bool {
    let page = String::from_utf8_lossy(page);
    let messages: Vec<&str> = page.lines().filter(|line| line.starts_with("* ") && line.contains(" FETCH (")).collect();
    messages.len() == PAGE
        && messages.iter().zip(1..).all(|(message, number)| {
            message.starts_with(&format!("* {number} FETCH ("))
                && message.contains(&format!("\"Message {number} of {user}\" "))
                && ["UID ", "FLAGS ", "INTERNALDATE ", "RFC822.SIZE "].iter().all(|item| message.contains(item))
        })
}

fn trusting(ca: &str) -> Result<ClientConfig, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, clicks, concurrency, users, ca @ ..] = arguments.as_slice() else {
        return Err("usage: mailmux-webmail PORT CLICKS CONCURRENCY USERS [CA]".into());
    };
    let mut people = Vec::new();
    for line in std::fs::read_to_string(users)?.lines() {
        let (user, password) = line.split_once(":{PLAIN}").ok_or("a line of USERS is no user")?;
        people.push((user.to_owned(), password.to_owned()));
    }
    let load = Load {
        port: port.parse()?,
        clicks: clicks.parse()?,
        people,
        tls: match ca.first() {
            Some(ca) => Some((Arc::new(trusting(ca)?), ServerName::try_from("localhost")?)),
            None => None,
        },
        next: AtomicUsize::new(0),
        failures: AtomicUsize::new(0),
        ended: AtomicBool::new(false),
    };
    let concurrency: usize = concurrency.parse()?;
    let began = Instant::now();
    let seen: Vec<Seen> = thread::scope(|scope| {
        let browsers: Vec<_> = (0..concurrency).map(|_| scope.spawn(|| load.browse())).collect();
        browsers.into_iter().map(|browser| browser.join().unwrap_or_default()).collect()
    });
    let seconds = began.elapsed().as_secs_f64();

    let mut report = format!("seconds {seconds}\nresumed {}\n", seen.iter().map(|one| one.resumed).sum::<usize>());
    for one in &seen {
        for latency in &one.latencies {
            writeln!(report, "latency {}", latency.as_secs_f64())?;
        }
        for wrong in &one.wrong {
            writeln!(report, "wrong {}", wrong.escape_debug())?;
        }
    }
    io::stdout().write_all(report.as_bytes())?;
    Ok(())
}
