//! Who may have a link again: whoever has proven the same thing to the same backend as the one for whom it was logged in.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::backend::{Backend, LoginAs, Route};
use crate::config::MasterForm;
use crate::imap::{Credentials, Login, UserName};

/// A user at a backend.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) backend: Arc<Backend>,
    /// By the backend's name, normalised: however it is spelled, a new password ends what was made with the old one.
    user: Arc<[u8]>,
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend) && self.user == other.user
    }
}

impl Eq for Account {}

impl Hash for Account {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.backend).hash(state);
        self.user.hash(state);
    }
}

/// A user at a backend, and what was used to log in. It holds no secret.
#[derive(Debug, Clone)]
pub struct Owner {
    pub(super) account: Account,
    /// By the backend's name, as it was spelled.
    pub(super) user: UserName,
    /// Where the client is, if the backend was told so and may have judged by it.
    pub(super) client: Option<IpAddr>,
    /// The mailbox's user by the client's name, normalised: operators know it by that.
    pub(super) mailbox: Arc<[u8]>,
    pub(super) credentials: Fingerprint,
}

/// A keyed hash of credentials, comparable in constant time and with no meaning outside of this process.
#[derive(Debug, Clone)]
pub(super) struct Fingerprint(hmac::Tag);

impl Fingerprint {
    pub(super) fn is(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_ref(), other.0.as_ref()).is_ok()
    }
}

impl Owner {
    /// Of the link of this login; `None`: of nobody, for only the client could prove again what it proves there (SCRAM), or it
    /// proves nothing (a certificate).
    pub(super) fn new(key: &hmac::Key, route: &Route, login: &Login, client: IpAddr) -> Option<Self> {
        // Each part with its length in front, so that no two lists of parts look alike.
        let parts: [&[u8]; 5] = match (&route.login, &login.credentials) {
            (LoginAs::Client, Credentials::Password(secret)) => {
                [b"password", login.user.as_bytes(), authzid(login), secret.reveal(), b""]
            }
            (LoginAs::Client, Credentials::Token(token)) => {
                [b"token", login.user.as_bytes(), authzid(login), token.reveal(), b""]
            }
            (LoginAs::Client, Credentials::ScramFirst(_) | Credentials::Certificate) => return None,
            (LoginAs::Given { password, .. }, _) => [b"given", route.user.as_bytes(), b"", password.reveal(), b""],
            (LoginAs::Master { user, password, form, .. }, _) => {
                let form: &[u8] = if *form == MasterForm::Starred { b"user*master" } else { b"authzid" };
                [b"master", route.user.as_bytes(), user.as_bytes(), password.reveal(), form]
            }
        };
        let length = parts.iter().map(|part| part.len() + 8).sum();
        let mut text = Zeroizing::new(Vec::with_capacity(length));
        for part in parts {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part);
        }
        Some(Self {
            account: Account { backend: Arc::clone(&route.backend), user: route.user.normalised() },
            user: route.user.clone(),
            client: route.backend.config.forward_id.then_some(client),
            mailbox: login.authzid.as_ref().unwrap_or(&login.user).normalised(),
            credentials: Fingerprint(hmac::sign(key, &text)),
        })
    }

    /// Where its links lead.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.account.backend
    }
}

fn authzid(login: &Login) -> &[u8] {
    login.authzid.as_ref().map_or(b"", |authzid| authzid.as_bytes())
}
