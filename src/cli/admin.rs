//! How subcommands speak to the mailmux that runs: by HTTP to the admin port of its configuration, over the socket in the
//! file system where there is one, else with the token. Not here: what is asked.

use std::net::IpAddr;
use std::process::ExitCode;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::File;
use crate::config::Admin;
use crate::secret_file;

/// Nothing was done, since the answer was no, or the configuration cannot be read.
const REFUSED: u8 = 1;
/// Nothing was done, since nobody could be asked.
const UNREACHABLE: u8 = 2;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unreachable {
    #[error("{0}")]
    Configuration(String),
    #[error("the configuration has no [admin] section, so that a running mailmux cannot be asked anything")]
    NoAdmin,
    #[error("changes need [admin] socket, or token_file beside the address")]
    NoToken,
    #[error("{0}")]
    Token(String),
    #[error("cannot reach mailmux at {0}: {1}; does it run?")]
    Connect(String, std::io::Error),
    #[error("mailmux at {0} gave no answer: {1}")]
    Http(String, hyper::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// What was answered.
struct Answer {
    is_ok: bool,
    said: Value,
    text: String,
}

/// Asks for this path below `/api/v1` and shows the answer: `show` makes words of one that says yes. The exit code is 0 for
/// yes, 1 for no, 2 where nobody could be asked.
pub(super) fn ask(file: &File, path: &str, show: impl Fn(&Value) -> String) -> ExitCode {
    match asked(file, path) {
        Ok(answer) if answer.is_ok => {
            println!("{}", show(&answer.said));
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            let why = answer.said.get("error").and_then(Value::as_str).unwrap_or_else(|| answer.text.trim());
            for finding in strings(&answer.said, "findings") {
                eprintln!("{finding}");
            }
            eprintln!("mailmux: {why}");
            ExitCode::from(REFUSED)
        }
        // Whoever runs would refuse it too.
        Err(Unreachable::Configuration(findings)) => {
            eprint!("{findings}");
            ExitCode::from(REFUSED)
        }
        Err(why) => {
            eprintln!("mailmux: {why}");
            ExitCode::from(UNREACHABLE)
        }
    }
}

/// The texts of a list in an answer.
pub(super) fn strings<'a>(said: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    said.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The number of an answer.
pub(super) fn number(said: &Value, key: &str) -> u64 {
    said.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// A part of a path, whatever stands in it (RFC 3986 2.1).
pub(super) fn escaped(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte);
    part.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn asked(file: &File, path: &str) -> Result<Answer, Unreachable> {
    let config = file.load().map_err(|findings| Unreachable::Configuration(findings.to_string()))?;
    let admin = config.admin.ok_or(Unreachable::NoAdmin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(socket) = &admin.socket {
            let place = socket.value.display().to_string();
            let stream = UnixStream::connect(&socket.value).await;
            let stream = stream.map_err(|error| Unreachable::Connect(place.clone(), error))?;
            return speak(stream, path, &place, None).await;
        }
        let token = token(&admin)?;
        // One that listens everywhere is found on loopback.
        let mut address = admin.address.value;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let place = address.to_string();
        let stream = connect(address).await.map_err(|error| Unreachable::Connect(place.clone(), error))?;
        speak(stream, path, &place, Some(token)).await
    })
}

#[expect(clippy::disallowed_methods, reason = "the admin port, and no IMAP server")]
async fn connect(address: std::net::SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(address).await
}

fn token(admin: &Admin) -> Result<String, Unreachable> {
    let file = admin.token_file.as_ref().ok_or(Unreachable::NoToken)?;
    let secret = secret_file::read(&file.value).map_err(Unreachable::Token)?;
    let text = std::str::from_utf8(secret.reveal()).map_err(|_| Unreachable::Token("the token is not UTF-8".into()))?;
    Ok(format!("Bearer {text}"))
}

async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    path: &str,
    place: &str,
    token: Option<String>,
) -> Result<Answer, Unreachable> {
    let http = |error| Unreachable::Http(place.to_owned(), error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let mut request = Request::builder().method(Method::POST).uri(format!("/api/v1/{path}")).header(HOST, "mailmux");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Unreachable::Token(format!("the token cannot be sent: {error}")))?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(http)?;
        let is_ok = answer.status().is_success();
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(http)?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        let text = if text.trim().is_empty() { status.to_string() } else { text };
        Ok(Answer { is_ok, said: serde_json::from_str(&text).unwrap_or_default(), text })
    };
    tokio::pin!(talk);
    tokio::select! {
        answer = &mut talk => answer,
        // When the connection is over, the answer has come.
        _ = connection => talk.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_stay_one_part_of_a_path() {
        assert_eq!(escaped("ann@example.org"), "ann@example.org");
        assert_eq!(escaped("a/b?c d%é"), "a%2Fb%3Fc%20d%25%C3%A9");
    }
}
