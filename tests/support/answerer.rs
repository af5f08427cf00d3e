//! A mailmux that is none: it answers the questions of subcommands as a test says, and notes them down.

use std::path::PathBuf;
use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;

use super::program::mailmux;
use super::soon;

/// Somebody who answers as told, one question a connection, and notes down what was asked.
pub struct Answerer {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What is answered to a question: a status, and a text.
pub type Script = Arc<dyn Fn(&str) -> (u16, String) + Send + Sync>;

impl Answerer {
    pub fn new(script: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let answerer = Self { folder: tempfile::tempdir().expect("a folder"), asked: Arc::default() };
        let listener = UnixListener::bind(answerer.socket()).expect("a socket");
        let (asked, script): (_, Script) = (Arc::clone(&answerer.asked), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&asked), Arc::clone(&script)));
            }
        });
        answerer
    }

    /// One that says the same to everything.
    pub fn saying(status: u16, what: &Value) -> Self {
        let text = if what.is_null() { String::new() } else { what.to_string() };
        Self::new(move |_| (status, text.clone()))
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }

    /// Runs a command against it.
    pub async fn run(&self, words: &[&str]) -> Done {
        let socket = self.socket();
        let place = ["--admin", socket.to_str().expect("UTF-8")];
        run(&[words, &place].concat()).await
    }
}

/// Answers one question.
pub async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, asked: Arc<Mutex<Vec<String>>>, script: Script) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8(request).expect("UTF-8");
    let line = request.lines().next().expect("a line");
    let question = line.trim_end_matches(" HTTP/1.1").replace("/api/v1/", "");
    let token = request.lines().find_map(|line| line.strip_prefix("authorization: "));
    let noted = token.map_or_else(|| question.clone(), |token| format!("{question} [{token}]"));
    asked.lock().expect("no panic").push(noted);
    let (status, text) = script(&question);
    let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    let _ = stream.write_all(&[head.as_bytes(), text.as_bytes()].concat()).await;
}

/// What a command has done.
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code().expect("no signal"), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs the program.
pub async fn run(words: &[&str]) -> Done {
    soon(&format!("the end of {words:?}"), mailmux().args(words).output()).await.expect("run").into()
}
