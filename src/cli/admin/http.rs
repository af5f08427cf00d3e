//! One question over HTTP to the admin port of a mailmux, and its answer. Not here: where that is, and what is made of it.

use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::path::Path;
use crate::imap::Secret;

/// How long it may take to be connected, and to be told something where nothing is waited for.
const CONNECT: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Unreachable {
    /// The configuration cannot be read.
    #[error("{0}")]
    Configuration(String),
    #[error("the configuration has no [admin] section, so that a running mailmux cannot be asked anything")]
    NoAdmin,
    #[error("changes need [admin] socket, or token_file beside the address (with --admin: --token-file)")]
    NoToken,
    #[error("{0}")]
    Token(String),
    #[error("cannot reach mailmux at {0}: {1}; does it run?")]
    Connect(Place, std::io::Error),
    #[error("mailmux at {0} gave no answer: {1}")]
    Http(Place, hyper::Error),
    #[error("mailmux at {0} gave no answer in time")]
    Silent(Place),
    /// The answer is no.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Where it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    /// A socket in the file system.
    Socket(PathBuf),
    /// A host and a port.
    Address(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Whom to ask, and as whom.
#[derive(Debug)]
pub(in crate::cli) struct Client {
    /// Where.
    pub(super) place: Place,
    /// The bearer token.
    pub(super) token: Option<Secret>,
}

/// What was answered.
#[derive(Debug)]
pub(in crate::cli) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// The JSON in it, if it is any.
    pub(in crate::cli) said: Value,
    /// As it came.
    pub(in crate::cli) text: String,
}

impl Client {
    /// Reads something.
    pub(in crate::cli) async fn get(&self, path: &Path) -> Result<Answer, Unreachable> {
        let answer = self.whole(Method::GET, path);
        timeout(READ, answer).await.unwrap_or_else(|_| Err(Unreachable::Silent(self.place.clone())))
    }

    /// Changes something. That takes as long as it takes.
    pub(in crate::cli) async fn post(&self, path: &Path) -> Result<Answer, Unreachable> {
        self.whole(Method::POST, path).await
    }

    /// Asks for something that comes piece by piece; `each` is told every piece, and says whether it wants more. The answer is
    /// one that says no, if there is any.
    pub(in crate::cli) async fn stream(
        &self,
        path: &Path,
        mut each: impl FnMut(&[u8]) -> std::io::Result<bool>,
    ) -> Result<Option<Answer>, Unreachable> {
        self.speak(Method::POST, path, async |response| {
            if !response.status().is_success() {
                return self.read(response).await.map(Some);
            }
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.http(error))?;
                if let Some(piece) = frame.data_ref()
                    && !each(piece)?
                {
                    break;
                }
            }
            Ok(None)
        })
        .await
    }

    async fn whole(&self, method: Method, path: &Path) -> Result<Answer, Unreachable> {
        self.speak(method, path, async |response| self.read(response).await).await
    }

    async fn speak<T>(
        &self,
        method: Method,
        path: &Path,
        hear: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Unreachable>,
    ) -> Result<T, Unreachable> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect().await?)).await.map_err(|error| self.http(error))?;
        let mut request = Request::builder().method(method).uri(path.whole()).header(HOST, "mailmux");
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_bytes(&[b"Bearer ", token.reveal()].concat())
                .map_err(|error| Unreachable::Token(format!("the token cannot be sent: {error}")))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(std::io::Error::other)?;
        let talk = async {
            let response = sender.send_request(request).await.map_err(|error| self.http(error))?;
            hear(response).await
        };
        tokio::pin!(talk);
        tokio::select! {
            answer = &mut talk => answer,
            // When the connection is over, the answer has come.
            _ = connection => talk.await,
        }
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, Unreachable> {
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.http(error))?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status, said: serde_json::from_str(&text).unwrap_or_default(), text })
    }

    fn http(&self, error: hyper::Error) -> Unreachable {
        Unreachable::Http(self.place.clone(), error)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Unreachable> {
        let connected = async {
            Ok(match &self.place {
                Place::Socket(path) => Box::new(UnixStream::connect(path).await?) as Box<dyn Stream>,
                Place::Address(address) => Box::new(dial(address).await?),
            })
        };
        let connected = timeout(CONNECT, connected).await.unwrap_or_else(|late| Err(late.into()));
        connected.map_err(|error| Unreachable::Connect(self.place.clone(), error))
    }
}

/// A connection, whatever it goes over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

#[expect(clippy::disallowed_methods, reason = "the admin port, and no IMAP server")]
async fn dial(address: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect(address).await
}
