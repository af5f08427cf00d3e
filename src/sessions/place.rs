//! One login or session: what is known of it, and how it is told to leave. Kept small, for there is one for every session. Not
//! here: who else is in.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Name;
use crate::backend::Backend;
use crate::imap::{Mechanism, UserName};
use crate::outcome::Leave;
use crate::pulse::Pulse;

/// Who takes a place.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The user whose mail is to be opened.
    pub user: &'a UserName,
    /// The session's id, as the log has it.
    pub id: &'a Arc<str>,
    /// The listener's name.
    pub listener: &'a Arc<str>,
    /// The client's address.
    pub client: SocketAddr,
    /// How it logs in.
    pub mechanism: Mechanism,
    /// The TLS between it and us.
    pub tls: Option<Tls>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Tls {
    V12,
    V13,
}

/// One login or session.
#[derive(Debug)]
pub(super) struct Place {
    /// They are numbered in the order in which they are taken.
    pub(super) number: u64,
    pub(super) user: Name,
    pub(super) id: Arc<str>,
    pub(super) listener: Arc<str>,
    address: IpAddr,
    port: u16,
    pub(super) mechanism: Mechanism,
    pub(super) tls: Option<Tls>,
    backend: Mutex<Option<Arc<Backend>>>,
    pub(super) pulse: Arc<Pulse>,
}

impl Place {
    pub(super) fn new(number: u64, user: Name, arrival: &Arrival<'_>) -> Self {
        Self {
            number,
            user,
            id: Arc::clone(arrival.id),
            listener: Arc::clone(arrival.listener),
            address: arrival.client.ip(),
            port: arrival.client.port(),
            mechanism: arrival.mechanism,
            tls: arrival.tls,
            backend: Mutex::new(None),
            pulse: Arc::default(),
        }
    }

    /// False: it knows already.
    pub(super) fn tell(&self, what: Leave) -> bool {
        self.pulse.notice().leave(what)
    }

    pub(super) fn is_told(&self) -> bool {
        self.pulse.notice().is_told()
    }

    /// By name: it may have been there before the backend's settings changed.
    pub(super) fn is_at(&self, backend: &str) -> bool {
        self.here().as_ref().is_some_and(|here| here.config.name == backend)
    }

    pub(super) fn backend(&self) -> Option<Arc<Backend>> {
        self.here().clone()
    }

    pub(super) fn go_to(&self, backend: Option<Arc<Backend>>) {
        *self.here() = backend;
    }

    pub(super) fn client(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    fn here(&self) -> MutexGuard<'_, Option<Arc<Backend>>> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tls {
    /// From the name of the protocol, as OpenSSL writes it.
    pub fn of(protocol: &str) -> Self {
        if protocol == "TLSv1.2" { Self::V12 } else { Self::V13 }
    }

    /// Its number.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }
}
