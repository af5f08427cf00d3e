//! Where a user would go if it came now, asked of the running server. Not here: the rules (`routing/`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;

use super::{SteerError, Steering};
use crate::imap::{Credentials, Login, Mechanism, UserName};
use crate::origin::Origin;
use crate::routing::Asker;

/// So long the lookups of a way are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// From where a client would come.
#[derive(Debug, Clone, Default)]
pub struct Whence {
    /// The listener it connects to; `None`: the first one.
    pub listener: Option<String>,
    /// Its address; `None`: loopback.
    pub client: Option<IpAddr>,
    /// The name that it asks for by SNI.
    pub server_name: Option<String>,
}

/// A way, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What each rule said, in words.
    pub steps: Vec<String>,
    /// Where it ends; or why nowhere, in words.
    pub end: Result<Destination, String>,
}

/// Where a way ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The backend's name; that of a host which only a lookup names is its address.
    pub backend: String,
    /// `host:port`.
    pub address: String,
    /// The group that it was chosen from.
    pub group: Option<String>,
    /// The user's name there.
    pub user: String,
    /// Whose credentials are used there, in words.
    pub login: String,
}

impl Steering {
    /// Where this user would go, and why. Lookups are asked as for a login; nothing is checked that takes a password. Nobody is
    /// sent anywhere by it.
    ///
    /// # Errors
    /// There is no such listener.
    pub async fn explain(&self, user: &UserName, whence: Whence) -> Result<Explained, SteerError> {
        let state = self.state();
        let mut listeners = state.config.listeners.iter();
        let listener = match &whence.listener {
            Some(name) => listeners.find(|listener| listener.name == *name),
            None => listeners.next(),
        };
        let listener =
            listener.ok_or_else(|| SteerError::NoSuchListener(whence.listener.clone().unwrap_or_default()))?;
        // A certificate's owner has no password either.
        let (mechanism, credentials) = (Mechanism::External, Credentials::Certificate);
        let login = Login { mechanism, user: user.clone(), authzid: None, credentials };
        let client = whence.client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut origin = Origin::new(SocketAddr::new(client, 0), listener.address.value);
        origin.server_name = whence.server_name;
        origin.secure = true;
        let asker = Asker { login: &login, listener: &listener.name, origin: &origin, tls: None, attempt: 1 };
        let mut steps = Vec::new();
        let found = timeout(PATIENCE, state.router.explained(&asker, &mut |step| steps.push(step))).await;
        let end = match found {
            Ok(Ok(route)) => Ok(Destination {
                backend: route.backend.config.name.clone(),
                address: route.backend.address(),
                group: route.group.map(|group| group.name.clone()),
                user: route.user.to_string(),
                login: route.login.to_string(),
            }),
            Ok(Err(no)) => Err(no.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        Ok(Explained { steps, end })
    }
}
