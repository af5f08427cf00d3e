//! Plays `tests/transcripts/*.txt` over real sockets, each three times: line by line, byte by byte, and under TLS on both
//! sides.
//!
//! `C> ` the client says, `C< ` the client hears, `B> ` the backend says, `B< ` the backend hears. A line ends with CRLF
//! unless it ends with `\`. `\r`, `\n`, `\0`, `\\` and `\xNN` stand for bytes. `EOF` after the arrow is the end of the
//! stream. `{tag}` is the tag of mailmux' last command to the backend, whatever it is. `| ` begins a line that is added to
//! the configuration (first of all to the listener's section); `#` a comment. A new `B` line after the backend's end takes
//! the next call.
//!
//! Where a transcript ends its client hangs up, and then neither side may hear another byte and no session be left.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::client::Client;
use crate::support::server::{QUICK, Running};
use crate::support::{hear, hear_end, hear_line, show};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transcript_line_by_line() {
    play_all(Manner::ByLine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transcript_byte_by_byte() {
    play_all(Manner::ByByte).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transcript_under_tls() {
    play_all(Manner::UnderTls).await;
}

/// How the bytes travel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    ByLine,
    ByByte,
    UnderTls,
}

/// What all transcripts that are played at the same time share.
struct Theatre {
    manner: Manner,
    authority: Authority,
    folder: TempDir,
}

async fn play_all(manner: Manner) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let theatre =
        Arc::new(Theatre { manner, authority: Authority::new(), folder: tempfile::tempdir().expect("a folder") });
    theatre.authority.write(theatre.folder.path());
    theatre.authority.issue_server(theatre.folder.path(), "server", &["mail.example.org", "backend.example.org"]);
    let mut playing = JoinSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a transcript");
        // What says in clear how it is to be protected cannot be played under TLS.
        if manner == Manner::UnderTls && text.contains("\n| tls = ") {
            continue;
        }
        let theatre = Arc::clone(&theatre);
        playing.spawn(async move {
            let line = Arc::new(AtomicUsize::new(0));
            let at = Arc::clone(&line);
            // In a task of its own, so that a panic can be told with its place.
            let played = tokio::spawn(async move { play(&theatre, &text, &at).await }).await;
            played.err().map(|_| format!("{}:{}", file.display(), line.load(Ordering::Relaxed)))
        });
    }
    let played = playing.join_all().await;
    assert!(played.len() > 90, "transcripts are missing");
    let failed: Vec<_> = played.into_iter().flatten().collect();
    assert!(failed.is_empty(), "these failed (why, see above): {failed:#?}");
}

struct Stage<'a> {
    theatre: &'a Theatre,
    backend: Backend,
    call: Option<Call>,
    client: Stream,
}

/// In clear or under TLS.
type Stream = Box<dyn Either + Send>;

trait Either: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Either for S {}

/// One connection to the backend.
struct Call {
    stream: Stream,
    tag: String,
}

async fn play(theatre: &Theatre, text: &str, at: &AtomicUsize) {
    let backend = Backend::listen().await;
    let server = Running::start(theatre.folder.path(), &config(theatre.manner, text, &backend));
    let client = theatre.client(&server).await;
    let mut stage = Stage { theatre, backend, call: None, client };
    for (number, line) in text.lines().enumerate() {
        at.store(number + 1, Ordering::Relaxed);
        let Some((who, words)) = line.split_at_checked(3) else { continue };
        if matches!(who, "C> " | "C< " | "B> " | "B< ") {
            stage.act(who, words).await;
        }
    }
    stage.end().await;
    server.until_metric("mailmux_sessions{listener=\"plain\"}", 0.0).await;
    server.until_metric("mailmux_internal_errors_total", 0.0).await;
}

fn config(manner: Manner, text: &str, backend: &Backend) -> String {
    let mut listener = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\n".to_owned();
    if manner != Manner::UnderTls && !text.contains("\n| tls = ") {
        listener.push_str("tls = \"none\"\n");
    }
    // What stands before the first section of a transcript's own belongs to the listener.
    for line in text.lines().filter_map(|line| line.strip_prefix("| ")) {
        listener.push_str(line);
        listener.push('\n');
    }
    let mut section = backend.section("blue");
    if manner == Manner::UnderTls {
        let tls = "tls = \"implicit\"\nca = \"ca.pem\"\ntls_name = \"backend.example.org\"";
        section = section.replace("tls = \"none\"", tls);
    }
    let certificate = "[[tls.certificate]]\nchain = \"server.pem\"\nkey = \"server.key\"\n";
    let route = if listener.contains("[[route]]") { "" } else { "[[route]]\nbackend = \"blue\"\n" };
    format!("{listener}{section}{certificate}{route}{QUICK}")
}

impl Theatre {
    async fn client(&self, server: &Running) -> Stream {
        let client = Client::connect(server.at("plain")).await;
        if self.manner != Manner::UnderTls {
            return Box::new(client.stream);
        }
        let secured = client.secure(self.authority.client(&["imap"], None), "mail.example.org").await;
        Box::new(secured.expect("a handshake").stream)
    }

    async fn call(&self, backend: &Backend) -> Call {
        let tcp = backend.accept().await.tcp;
        let stream: Stream = match self.manner {
            Manner::UnderTls => Box::new(self.authority.accept(self.folder.path(), "server", tcp).await),
            Manner::ByLine | Manner::ByByte => Box::new(tcp),
        };
        Call { stream, tag: String::new() }
    }

    async fn say(&self, stream: &mut Stream, words: &[u8]) {
        let size = if self.manner == Manner::ByByte { 1 } else { words.len().max(1) };
        for piece in words.chunks(size) {
            // A peer that is gone shows in what is expected next.
            let _ = stream.write_all(piece).await;
            let _ = stream.flush().await;
        }
    }
}

impl Stage<'_> {
    async fn act(&mut self, who: &str, words: &str) {
        if who.starts_with('B') && self.call.is_none() {
            self.call = Some(self.theatre.call(&self.backend).await);
        }
        match (who, &mut self.call) {
            ("C> ", _) if words == "EOF" => self.client.shutdown().await.expect("a shutdown"),
            ("C< ", _) if words == "EOF" => {
                assert_eq!(show(&hear_end(&mut self.client, "the client").await), "", "the client hears more");
            }
            ("C> ", _) => self.theatre.say(&mut self.client, &bytes(words, "")).await,
            ("C< ", _) => hear(&mut self.client, "the client", &bytes(words, "")).await,
            ("B> ", Some(call)) if words == "EOF" => {
                let _ = call.stream.shutdown().await;
                self.call = None;
            }
            ("B> ", Some(call)) => self.theatre.say(&mut call.stream, &bytes(words, &call.tag)).await,
            (_, Some(call)) if words == "EOF" => {
                assert_eq!(show(&hear_end(&mut call.stream, "the backend").await), "", "the backend hears more");
                self.call = None;
            }
            (_, Some(call)) => call.hear(words).await,
            (_, None) => unreachable!("a call was taken"),
        }
    }

    /// The client hangs up; nobody may hear any more.
    async fn end(mut self) {
        // It may have been hung up on already.
        let _ = self.client.shutdown().await;
        if let Some(call) = &mut self.call {
            assert_eq!(show(&hear_end(&mut call.stream, "the backend").await), "", "the backend hears more");
        }
        drop(self.call);
        assert_eq!(show(&hear_end(&mut self.client, "the client").await), "", "the client hears more");
    }
}

impl Call {
    async fn hear(&mut self, words: &str) {
        let Some(command) = words.strip_prefix("{tag} ") else {
            return hear(&mut self.stream, "the backend", &bytes(words, &self.tag)).await;
        };
        // A new command: whatever its tag is, it is the one to answer to.
        let line = hear_line(&mut self.stream, "the backend").await;
        let (tag, heard) = line.split_once(' ').expect("a tag");
        tag.clone_into(&mut self.tag);
        assert_eq!(show(heard.as_bytes()), show(&bytes(command, "")), "the backend hears another command");
    }
}

/// The bytes that a transcript's words stand for.
fn bytes(words: &str, tag: &str) -> Vec<u8> {
    let (words, end) = match words.strip_suffix('\\').filter(|rest| !rest.ends_with('\\')) {
        Some(words) => (words, &b""[..]),
        None => (words, &b"\r\n"[..]),
    };
    let words = words.replace("{tag}", tag);
    let mut out = Vec::new();
    let mut rest = words.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let (escape, after) = rest.split_first().expect("something behind the backslash");
        rest = after;
        match escape {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b'0' => out.push(0),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).expect("two digits");
                out.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
                rest = &rest[2..];
            }
            other => panic!("no such escape: \\{}", char::from(*other)),
        }
    }
    out.extend_from_slice(end);
    out
}
