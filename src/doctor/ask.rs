//! Asking the mailmux that runs, by HTTP to its admin port: over the socket in the file system where that can be opened, else
//! over its address. Reading only. Not here: what the answers mean.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::config;
use crate::imap::Secret;

/// The most that is read of an answer.
const ANSWER: usize = 16 * 1024 * 1024;

/// Where a running mailmux can be asked.
pub(super) struct AdminPort {
    place: Place,
    token: Option<HeaderValue>,
    time: Duration,
}

#[derive(Debug, Clone)]
enum Place {
    Socket(PathBuf),
    Address(SocketAddr),
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

impl AdminPort {
    /// The ways to it, the better one first.
    pub(super) fn ways(admin: &config::Admin, token: Option<&Secret>, time: Duration) -> Vec<Self> {
        let token = token.and_then(|token| {
            let words = Zeroizing::new([b"Bearer ", token.reveal()].concat());
            let mut value = HeaderValue::from_bytes(&words).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        let socket = admin.socket.as_ref().map(|socket| Place::Socket(socket.value.clone()));
        let mut address = admin.address.value;
        // One that listens everywhere is found on loopback.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let places = socket.into_iter().chain([Place::Address(address)]);
        places.map(|place| Self { place, token: token.clone(), time }).collect()
    }

    /// How it is called.
    pub(super) fn name(&self) -> String {
        match &self.place {
            Place::Socket(path) => path.display().to_string(),
            Place::Address(address) => address.to_string(),
        }
    }

    /// Asks for this path.
    ///
    /// # Errors
    /// There is no answer; why.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, String> {
        let asked = async {
            match &self.place {
                Place::Socket(path_of_socket) => {
                    let stream = UnixStream::connect(path_of_socket).await.map_err(|error| error.to_string())?;
                    self.speak(stream, path).await
                }
                Place::Address(address) => {
                    let stream = connect(*address).await.map_err(|error| error.to_string())?;
                    self.speak(stream, path).await
                }
            }
        };
        timeout(self.time, asked).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Asks for a path of the API; `None` where it has no such answer.
    pub(super) async fn value(&self, path: &str) -> Option<Value> {
        let answer = self.get(&format!("/api/v1/{path}")).await.ok()?;
        if answer.status != 200 {
            return None;
        }
        serde_json::from_str(&answer.text).ok()
    }

    async fn speak<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        stream: S,
        path: &str,
    ) -> Result<Answer, String> {
        let said = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
        let mut request =
            Request::builder().method(Method::GET).uri(path).header(HOST, "mailmux").header(CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let talk = async {
            let answer = sender.send_request(request).await.map_err(said)?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|error| error.to_string())?;
            Ok(Answer { status, text: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
        };
        tokio::pin!(talk);
        tokio::select! {
            answer = &mut talk => answer,
            // When the connection is over, the answer has come.
            _ = connection => talk.await,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the admin port, and no IMAP server")]
async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// A part of a path, whatever stands in it (RFC 3986 2.1).
pub(super) fn part(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_stay_one_part_of_a_path() {
        assert_eq!(part(b"ann@example.org"), "ann@example.org");
        assert_eq!(part("a/b?c d%é".as_bytes()), "a%2Fb%3Fc%20d%25%C3%A9");
    }
}
