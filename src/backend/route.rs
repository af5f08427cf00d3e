//! The answer of routing: where one login goes, and with whose credentials. Not here: how that is found out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Backend, Group};
use crate::config::{MasterForm, Pooling};
use crate::imap::{Secret, UserName};

/// Where one login goes, and as whom.
#[derive(Debug, Clone)]
pub struct Route {
    /// The server.
    pub backend: Arc<Backend>,
    /// The group it was chosen from; another member may serve the user too.
    pub group: Option<Arc<Group>>,
    /// The user's name there.
    pub user: UserName,
    /// Whose credentials are used there.
    pub login: LoginAs,
    /// The mechanism to use there, where a lookup prescribes one.
    pub prescribed: Option<Prescribed>,
    /// How long the login there may take, where a lookup says so.
    pub budget: Option<Duration>,
    /// Where links for it come from and where they go.
    pub pool: Pooling,
}

impl Route {
    /// To this backend, with nothing prescribed.
    pub fn new(backend: Arc<Backend>, user: UserName, login: LoginAs) -> Self {
        Self { backend, group: None, user, login, prescribed: None, budget: None, pool: Pooling::Off }
    }
}

/// A mechanism that a lookup can prescribe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the mechanisms")]
pub enum Prescribed {
    Plain,
    Login,
}

/// The client has proven to mailmux itself who it is. Credentials other than the client's own are used for no one else.
#[derive(Debug, Clone, Copy)]
pub struct Proof(());

impl Proof {
    /// To be called by who has seen it, which is routing.
    pub fn seen() -> Self {
        Self(())
    }
}

/// Whose credentials are used at a backend.
#[derive(Debug, Clone)]
pub enum LoginAs {
    /// The client's own.
    Client,
    /// The user's own there, which a lookup knows.
    Given {
        /// The password.
        password: Arc<Secret>,
        /// Why the client may use it.
        proof: Proof,
    },
    /// A master user's, acting for the user.
    Master {
        /// The master user.
        user: UserName,
        /// Its password.
        password: Arc<Secret>,
        /// How it says for whom it acts.
        form: MasterForm,
        /// Why the client may have that.
        proof: Proof,
    },
}

/// For people; no secret stands in it.
impl fmt::Display for LoginAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("the client's own credentials"),
            Self::Given { .. } => f.write_str("a password that the lookup gives"),
            Self::Master { user, .. } => write!(f, "the master user \"{user}\""),
        }
    }
}
