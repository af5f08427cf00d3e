//! What the tests of the whole program share: a server in this process, a backend that speaks by script and knows no
//! IMAP, a client that does neither, and throw-away certificates. Nothing here waits for a guess: every wait is for a
//! fact, and bounded.

pub mod answerer;
pub mod backend;
pub mod certs;
pub mod client;
pub mod program;
pub mod server;

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// The bound on every wait for something that is expected to happen.
pub const SOON: Duration = Duration::from_secs(10);

/// Waits for something that is expected.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let waited = tokio::time::timeout(SOON, future).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Reads just what is expected; panics at the first byte that differs, showing what came instead.
pub async fn hear<S: AsyncRead + Unpin>(stream: &mut S, who: &str, expected: &[u8]) {
    let mut heard = Vec::new();
    while heard.len() < expected.len() {
        let mut buffer = vec![0; expected.len() - heard.len()];
        let what = format!("{who} to hear {:?} after {:?}", show(expected), show(&heard));
        let n = soon(&what, stream.read(&mut buffer)).await.unwrap_or(0);
        heard.extend_from_slice(&buffer[..n]);
        let so_far = expected.starts_with(&heard);
        assert!(so_far && n > 0, "{who} heard {:?} instead of {:?}", show(&heard), show(expected));
    }
}

/// Reads a line with its end.
pub async fn hear_line<S: AsyncRead + Unpin>(stream: &mut S, who: &str) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let byte = soon(&format!("{who} to hear a line, after {:?}", show(&line)), stream.read_u8()).await;
        line.push(byte.unwrap_or_else(|_| panic!("{who} heard {:?} and then the end", show(&line))));
    }
    String::from_utf8_lossy(&line).into_owned()
}

/// Reads to the end; what was left to hear.
pub async fn hear_end<S: AsyncRead + Unpin>(stream: &mut S, who: &str) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = soon(&format!("{who} to hear the end"), stream.read_to_end(&mut rest)).await;
    rest
}

pub fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Closes with RST instead of FIN.
pub fn reset(tcp: TcpStream) {
    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("an option");
    drop(tcp);
}
