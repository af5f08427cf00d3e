//! A link: one connection from us to a backend, and how far it has come. `connect.rs` opens it, `login.rs` logs in on it,
//! `lending.rs` makes it fit for its user's next session, `wire.rs` moves the lines, `id.rs` says who the client is, `examine.rs`
//! goes the same way step by step for whoever looks for a fault. What was learnt from one backend lives and dies with its
//! link. Not here: which backend, retries, deadlines (the caller's, but for the last word; dropping any future here closes the link).

mod connect;
mod examine;
mod id;
mod lending;
mod login;
mod resolve;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::backend::Place;
use crate::imap::{Capabilities, UserName, Welcome};
use crate::metrics::BackendError;
use crate::outcome::{Limit, Refusal};
use crate::tls::Stream;

use login::Exchange;
use wire::{Aside, Wire};

#[cfg(test)]
mod tests;

pub use connect::is_own;
pub use examine::{Idled, Opening, Said, Unopened};
pub use lending::{Lent, Used};
pub use resolve::Names;

/// How long a backend has to answer LOGOUT.
const LEAVING: Duration = Duration::from_secs(5);

/// What it takes to dial, the same for all links.
pub struct Dialling {
    names: RwLock<Arc<Names>>,
    own: RwLock<Arc<[SocketAddr]>>,
}

impl Dialling {
    /// With those who know where hosts are, and our own listeners, which are never dialled.
    pub fn new(names: Names, own: Vec<SocketAddr>) -> Self {
        Self { names: RwLock::new(Arc::new(names)), own: RwLock::new(own.into()) }
    }

    /// Others are asked for names from now on; what is known serves on.
    pub fn ask(&self, names: Names) {
        let mut asked = self.names.write().unwrap_or_else(PoisonError::into_inner);
        *asked = Arc::new(names.knowing(&asked));
    }

    /// These are our own listeners from now on.
    pub fn avoid(&self, own: Vec<SocketAddr>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own.into();
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn own(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.own.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whose link it is; for PROXY header and ID.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The session's id.
    pub session: &'a str,
    /// The client's address.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// What it sent as SNI.
    pub server_name: Option<&'a str>,
    /// `x-proxy-ttl` to send; the session refuses before it gets to 0.
    pub ttl: u8,
    /// The client's own ID pairs, `x-` keys removed.
    pub id: &'a [(Vec<u8>, Vec<u8>)],
}

impl Caller<'_> {
    /// The same client, less what is true of this session alone.
    fn at_any_time(&self) -> Self {
        let at = |address: SocketAddr| SocketAddr::new(address.ip(), 0);
        Self { session: "", client: at(self.client), local: at(self.local), ..*self }
    }
}

/// One connection to a backend. Dropping it closes it.
pub struct Link<State, S = Stream> {
    wire: Wire<S>,
    /// What the backend announced last, on this link and inside its TLS.
    capabilities: Capabilities,
    /// What is to be told to the client when the login succeeds.
    aside: Aside,
    /// Its place among the links that the backend may have.
    place: Place,
    /// What it knows of the client by ID, as far as that is true of more than one session.
    told: Option<Vec<u8>>,
    state: State,
}

/// Connected, encrypted if it must be, greeted, told who the client is.
#[derive(Debug)]
pub struct Greeted(());

/// In the middle of a SASL exchange that the client takes part in.
pub struct Authenticating(Exchange);

/// Logged in, as this user.
#[derive(Debug)]
pub struct LoggedIn {
    user: UserName,
    /// When the backend let it in.
    since: Instant,
    /// Without what was said once, to the first.
    welcome: Welcome,
}

/// How far a login has come.
#[derive(Debug)]
pub enum Progress<S = Stream> {
    /// The backend wants to hear something only the client can say: its challenge, decoded.
    Challenge(Link<Authenticating, S>, Vec<u8>),
    /// The user is let in.
    Done(Link<LoggedIn, S>, Welcome),
}

/// Why a link came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkError {
    /// What was wrong with the backend; `None` where it did its part and said no.
    pub kind: Option<BackendError>,
    /// What happened, for our log only; nothing a peer sent stands in it unescaped, no secret at all.
    pub detail: String,
    /// What the client hears.
    pub refusal: Refusal,
    /// Where the backend says the user is at home (RFC 2221): host and port.
    pub referral: Option<(String, u16)>,
    /// What stood behind its NO, BAD or BYE.
    pub said: Words,
}

/// A server's own words, as it sent them. Not for logs, and so they print as dots: some servers repeat what they were sent,
/// passwords too.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Words(Box<[u8]>);

impl Words {
    /// These.
    pub fn new(words: &[u8]) -> Self {
        Self(words.into())
    }

    /// The words.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("•••")
    }
}

impl<State, S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Link<State, S> {
    /// Takes leave, as far as the backend goes along, and within five seconds.
    pub async fn log_out(mut self) {
        // Whatever comes of it, the link is closed next.
        let _ = timeout(LEAVING, self.wire.ask(b"LOGOUT", wire::Keep::Alerts, &mut self.aside)).await;
    }
}

impl<State, S> fmt::Debug for Link<State, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for LinkError {}

impl LinkError {
    fn new(kind: Option<BackendError>, refusal: Refusal, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), refusal, referral: None, said: Words::default() }
    }

    /// In these words.
    fn saying(self, words: &[u8]) -> Self {
        Self { said: Words::new(words), ..self }
    }

    /// The backend is not there for the moment; another try makes sense.
    fn down(kind: Option<BackendError>, detail: impl Into<String>) -> Self {
        Self::new(kind, Refusal::BackendDown, detail)
    }

    /// There is no place for one more link.
    pub fn limited(limit: Limit) -> Self {
        Self::new(None, Refusal::Limited(limit), format!("no free link within backend_connect: {}", limit.as_str()))
    }

    fn closed(detail: impl Into<String>) -> Self {
        Self::down(Some(BackendError::Closed), detail)
    }

    fn protocol(detail: impl Into<String>) -> Self {
        Self::down(Some(BackendError::Protocol), detail)
    }

    /// The backend is not as the configuration says; another try makes no sense.
    fn misconfigured(kind: BackendError, detail: impl Into<String>) -> Self {
        Self::new(Some(kind), Refusal::BackendMisconfigured, detail)
    }

    /// The backend has no way to do what this login needs.
    fn unsupported(detail: impl Into<String>) -> Self {
        Self::new(None, Refusal::Unsupported, detail)
    }
}
