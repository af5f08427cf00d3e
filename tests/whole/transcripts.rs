//! Plays `tests/transcripts/*.txt` over real sockets, each twice: line by line and byte by byte.
//!
//! `C> ` the client says, `C< ` the client hears, `B> ` the backend says, `B< ` the backend hears. A line ends with CRLF
//! unless it ends with `\`. `\r`, `\n`, `\0`, `\\` and `\xNN` stand for bytes. `EOF` after the arrow is the end of the
//! stream. `{tag}` is the tag of mailmux' last command to the backend, whatever it is. `| ` begins a line that is added to
//! the configuration; `#` a comment. A new `B` line after the backend's end takes the next call.

use std::fs;
use std::path::Path;

use tokio::io::AsyncWriteExt;

use crate::support::backend::{Backend, Call};
use crate::support::client::Client;
use crate::support::server::{QUICK, Running};
use crate::support::{hear_end, hear_line, show};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transcript_line_by_line() {
    play_all(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transcript_byte_by_byte() {
    play_all(true).await;
}

async fn play_all(byte_by_byte: bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() > 30, "transcripts are missing");
    let mut failed = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a transcript");
        // Each in a task of its own, so that one that fails does not keep the others from being played.
        if tokio::spawn(async move { play(&text, byte_by_byte).await }).await.is_err() {
            failed.push(file.file_name().expect("a name").to_owned());
        }
    }
    assert!(failed.is_empty(), "these failed (see above): {failed:?}");
}

struct Stage {
    backend: Backend,
    call: Option<Call>,
    client: Client<tokio::net::TcpStream>,
    byte_by_byte: bool,
}

async fn play(text: &str, byte_by_byte: bool) {
    let backend = Backend::listen().await;
    let settings: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("| ")).collect();
    let settings = settings.join(
        "
",
    );
    let route = if settings.contains("[[route]]") { "" } else { "[[route]]\nbackend = \"blue\"\n" };
    let listener = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n";
    // What stands before the first section of a transcript's own belongs to the listener.
    let config = format!("{listener}{settings}\n{}{route}{QUICK}", backend.section("blue"));
    let folder = tempfile::tempdir().expect("a scratch folder");
    let server = Running::start(folder.path(), &config);
    let client = Client::connect(server.at("plain")).await;
    let mut stage = Stage { backend, call: None, client, byte_by_byte };
    for (number, line) in text.lines().enumerate() {
        let Some((who, words)) = line.split_at_checked(3) else { continue };
        if matches!(who, "C> " | "C< " | "B> " | "B< ") {
            println!("{}: {line}", number + 1);
            stage.act(who, words).await;
        }
    }
}

impl Stage {
    async fn act(&mut self, who: &str, words: &str) {
        if who.starts_with('B') && self.call.is_none() {
            self.call = Some(self.backend.accept().await);
        }
        match (who, words) {
            ("C> ", "EOF") => self.client.stream.shutdown().await.expect("a shutdown"),
            ("C< ", "EOF") => assert_eq!(show(&self.client.hear_end().await), "", "the client hears more"),
            ("B> ", "EOF") => drop(self.call.take()),
            ("B< ", "EOF") => {
                let mut call = self.call.take().expect("a call");
                assert_eq!(show(&hear_end(&mut call.tcp, "the backend").await), "", "the backend hears more");
            }
            ("C> ", words) => say(&mut self.client.stream, &bytes(words, ""), self.byte_by_byte).await,
            ("C< ", words) => self.client.hear(bytes(words, "")).await,
            ("B> ", words) => {
                let call = self.call.as_mut().expect("a call");
                let words = bytes(words, &call.tag);
                say(&mut call.tcp, &words, self.byte_by_byte).await;
            }
            (_, words) => {
                let call = self.call.as_mut().expect("a call");
                if let Some(command) = words.strip_prefix("{tag} ") {
                    // A new command: whatever its tag is, it is the one to answer to.
                    let line = hear_line(&mut call.tcp, "the backend").await;
                    let (tag, heard) = line.split_once(' ').expect("a tag");
                    tag.clone_into(&mut call.tag);
                    assert_eq!(show(heard.as_bytes()), show(&bytes(command, "")), "the backend hears another command");
                } else {
                    let words = bytes(words, &call.tag.clone());
                    call.hear(&words).await;
                }
            }
        }
    }
}

async fn say(stream: &mut tokio::net::TcpStream, words: &[u8], byte_by_byte: bool) {
    let size = if byte_by_byte { 1 } else { words.len().max(1) };
    for piece in words.chunks(size) {
        // A peer that is gone shows in what is expected next.
        let _ = stream.write_all(piece).await;
        let _ = stream.flush().await;
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
