//! A login through mailmux and one at the backend itself, compared: which of the two refuses, in whose words, and so what is
//! wrong.

use super::mailbox::{Outcome, Refused};
use super::report::{Section, Trouble};
use crate::metrics::BackendError;
use crate::outcome::{Limit, Refusal};

/// What came of both logins.
pub(super) struct Logins<'a> {
    pub(super) user: &'a str,
    /// Through a listener.
    pub(super) through: &'a Outcome,
    /// At the backend; `NotTried` where routing gives none.
    pub(super) direct: &'a Outcome,
    /// The listener's name.
    pub(super) listener: &'a str,
    /// The backend's name, and the user's name there.
    pub(super) backend: Option<(&'a str, String)>,
}

impl Logins<'_> {
    /// Says which of the two refuses.
    pub(super) fn compare(&self) -> Section {
        let mut section = Section::new("login", self.user, "through mailmux, and directly at the backend");
        let backend = self.backend.as_ref().map_or("none", |(name, _)| name);
        let said = |outcome: &Outcome| match outcome {
            Outcome::NotTried => "not tried".to_owned(),
            Outcome::NotReached => "not reached".to_owned(),
            Outcome::In => "let in".to_owned(),
            Outcome::Refused(refused) => format!("refused: {}", refused.words),
            Outcome::Silent => "no answer".to_owned(),
        };
        let text = format!("through {}: {}; at {backend}: {}", self.listener, said(self.through), said(self.direct));
        match self.trouble() {
            Some(trouble) => section.fail("compared", text, trouble),
            None if matches!(self.through, Outcome::NotReached) || matches!(self.direct, Outcome::NotReached) => {
                section.skip("compared", text);
            }
            None => section.well("compared", text),
        }
        section
    }

    fn trouble(&self) -> Option<Trouble> {
        match (self.through, self.direct) {
            // What limits say comes before any backend is asked.
            (Outcome::Refused(refused), _) if limit(refused.error.said.reveal()).is_some() => {
                limit(refused.error.said.reveal()).map(|limit| self.limited(limit))
            }
            (_, Outcome::Refused(refused)) if !matches!(self.through, Outcome::In) => {
                Some(self.backend_refuses(refused))
            }
            (Outcome::In, Outcome::Refused(refused)) => Some(Trouble::new(
                "only_through_mailmux",
                format!("mailmux lets the user in, and the backend itself refuses: {}.", refused.words),
                "Either the configuration on disk is not the one that runs (mailmux reload), or a link that waits for the user was \
                 used (pool = \"reuse\") and the password has changed since, or the backend lets in only whom mailmux announces.",
            )),
            (_, Outcome::Silent) => Some(Trouble::new(
                "login_silent",
                "The backend greets and then does not answer the login.",
                "What checks passwords there hangs: its database or directory, its authentication processes. Its log says more.",
            )),
            (Outcome::Refused(refused), direct) => Some(mailmux_refuses(refused, direct)),
            (Outcome::Silent, _) => Some(Trouble::new(
                "login_waits",
                "mailmux does not answer the login in time.",
                format!(
                    "Somebody may hold the user back (mailmux users {0}; mailmux release {0}); else a lookup or the backend is what \
                     is waited for: the lines above, mailmux_lookup_seconds.",
                    self.user
                ),
            )),
            _ => None,
        }
    }

    fn limited(&self, limit: Limit) -> Trouble {
        let user = self.user;
        match limit {
            Limit::FailuresPerUser | Limit::FailuresPerNetwork => Trouble::new(
                "limited_failures",
                "mailmux takes no password of this user for the moment: too many wrong ones have come (limits.failures_per_user, \
                 failures_per_network).",
                format!(
                    "mailmux limits says until when. Find who tries them (\"login refused\" in the log: client=); an old password in \
                     a forgotten device is one. Then: mailmux pardon --user {user}"
                ),
            ),
            Limit::SessionsPerUser => Trouble::new(
                "limited_sessions_per_user",
                "The user has as many sessions as limits.sessions_per_user allows: some devices are refused and do not sync.",
                format!(
                    "See who holds them (mailmux users {user}), end those that hang (mailmux kick {user}), or raise the limit: each \
                     device has one for each folder that it watches."
                ),
            ),
            Limit::MaxLinks | Limit::MaxLinksPerUser => Trouble::new(
                "limited_max_links",
                "All links that the backend may have are taken (max_links, max_links_per_user).",
                "Raise them, if the server can have more; mailmux_backend_queue says how many wait.",
            ),
            other => Trouble::new(
                "limited",
                format!("A limit of mailmux refuses the login: {} or the like.", other.as_str()),
                "mailmux_limited_total says which of [limits] it is. Wait a little, or raise it.",
            ),
        }
    }

    /// The backend says no, and mailmux does not say yes.
    fn backend_refuses(&self, refused: &Refused) -> Trouble {
        let (backend, name) = match &self.backend {
            Some((backend, name)) => (*backend, name.as_str()),
            None => ("the backend", self.user),
        };
        let words = &refused.words;
        let is =
            |code: &str| refused.error.said.reveal().to_ascii_uppercase().starts_with(format!("[{code}]").as_bytes());
        match (&refused.error.refusal, refused.error.kind) {
            _ if is("LIMIT") || is("INUSE") || holds(refused.error.said.reveal(), "maximum number of connections") => {
                Trouble::new(
                    "backend_limit",
                    format!("Backend {backend} refuses, since the user has too many connections there: {words}."),
                    "Raise its limit per user and address (Dovecot: mail_max_userip_connections): behind mailmux all devices of a user come \
                 from one address, unless the backend is told (forward_id with login_trusted_networks, or proxy_protocol).",
                )
            }
            (_, Some(BackendError::Unavailable)) => Trouble::new(
                "backend_unavailable",
                format!("Backend {backend} is out of order for this user: {words}."),
                "Its log says why: its user database, its storage.",
            ),
            (_, Some(BackendError::Closed)) => Trouble::new(
                "backend_hung_up",
                format!("Backend {backend} hangs up during the login: {words}."),
                "Its log says why: its mail process may not start (rights, home folder, memory), or it has too many connections.",
            ),
            (Refusal::Unsupported | Refusal::BackendMisconfigured, _) => Trouble::new(
                "mechanism",
                format!("Backend {backend} offers no way to log in that fits: {words}."),
                "Compare its capabilities above with what is needed: AUTH=PLAIN (for master users always), or LOGIN without \
                 LOGINDISABLED; TLS towards it, if it asks for that.",
            ),
            (Refusal::Coded(_), _) if !is("AUTHENTICATIONFAILED") => Trouble::new(
                "backend_refuses",
                format!("Backend {backend} refuses: {words}."),
                "Its words say why: an account that is closed or expired, a service that is not booked, a time of day.",
            ),
            _ => Trouble::new(
                "wrong_password",
                format!(
                    "Backend {backend} says that the password is wrong, or does not know the user as {name}: {words}."
                ),
                format!(
                    "Try it over there (doveadm auth test {name}). If that is not the name it knows, look at rewrite of the route and at \
                     user= of the lookup."
                ),
            ),
        }
    }
}

/// mailmux says no where the backend does not.
fn mailmux_refuses(refused: &Refused, direct: &Outcome) -> Trouble {
    let words = &refused.words;
    let is = |code: &str| refused.error.said.reveal().starts_with(format!("[{code}]").as_bytes());
    let lets_in = matches!(direct, Outcome::In);
    if is("UNAVAILABLE") {
        return if lets_in {
            Trouble::new(
                "mailmux_unavailable",
                format!("mailmux says {words}, and the backend lets the user in."),
                "mailmux has taken the backend for down, or a lookup failed it: mailmux backends, and \"login refused\" in its \
                 log (detail=). It finds out by itself when the backend is back.",
            )
        } else {
            Trouble::new(
                "backend_down",
                format!("The user's backend is not there for mailmux: {words}."),
                "What is wrong with the backend stands with it; if nothing does: \"login refused\" in the log (detail=).",
            )
        };
    }
    if is("SERVERBUG") {
        return Trouble::new(
            "backend_misconfigured",
            format!("For mailmux the backend is not as the configuration says: {words}."),
            "A certificate that does not verify, no STARTTLS, or a way that leads back to mailmux: it stands with the backend; \
             else \"login refused\" in the log (detail=).",
        );
    }
    match direct {
        Outcome::In => Trouble::new(
            "only_at_the_backend",
            format!("The backend lets the user in, and mailmux refuses: {words}."),
            "The mailmux that runs sends the user elsewhere or knows another password of it: the configuration or a map has \
             changed since it was read (mailmux reload), a lookup's answer is kept (mailmux flush), or the user was moved by hand \
             (mailmux users).",
        ),
        _ => Trouble::new(
            "mailmux_refuses",
            format!("mailmux refuses: {words}. The backend was not asked directly."),
            "\"login refused\" in the log says why (reason=, detail=); where routing sends the user stands above.",
        ),
    }
}

/// The limit that speaks with these words; several share them.
fn limit(said: &[u8]) -> Option<Limit> {
    Limit::ALL.into_iter().find(|limit| Refusal::Limited(*limit).reply() == said)
}

fn holds(text: &[u8], part: &str) -> bool {
    text.to_ascii_lowercase().windows(part.len()).any(|window| window == part.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{LinkError, Words};

    fn refused(said: &str, refusal: Refusal, kind: Option<BackendError>) -> Outcome {
        let error = LinkError { kind, detail: "NO".into(), refusal, referral: None, said: Words::new(said.as_bytes()) };
        Outcome::Refused(Refused { error, words: format!("\"{said}\"") })
    }

    fn kind(through: &Outcome, direct: &Outcome) -> Option<String> {
        let backend = Some(("blue", "ann".to_owned()));
        let trouble = Logins { user: "ann", through, direct, listener: "imaps", backend }.trouble()?;
        format!("{trouble:?}").split('"').nth(1).map(str::to_owned)
    }

    #[test]
    fn who_refuses_is_to_blame() {
        let wrong = || refused("[AUTHENTICATIONFAILED] Authentication failed.", Refusal::BadCredentials, None);
        let away = || refused("[UNAVAILABLE] Account is temporarily unavailable.", Refusal::BackendDown, None);
        let failures = || refused("[LIMIT] Too many failed logins, try again later.", Refusal::Coded(Vec::new()), None);
        let full = || {
            let text = "Maximum number of connections from user+IP exceeded";
            refused(text, Refusal::BadCredentials, None)
        };
        let hung_up = || refused("", Refusal::BackendDown, Some(BackendError::Closed));
        let cases = [
            (Outcome::In, Outcome::In, None),
            (wrong(), wrong(), Some("wrong_password")),
            (wrong(), Outcome::In, Some("only_at_the_backend")),
            (wrong(), Outcome::NotTried, Some("mailmux_refuses")),
            (away(), Outcome::In, Some("mailmux_unavailable")),
            (away(), Outcome::NotReached, Some("backend_down")),
            (failures(), Outcome::In, Some("limited_failures")),
            (failures(), wrong(), Some("limited_failures")),
            (full(), full(), Some("backend_limit")),
            (away(), hung_up(), Some("backend_hung_up")),
            (Outcome::In, wrong(), Some("only_through_mailmux")),
            (Outcome::Silent, Outcome::In, Some("login_waits")),
            (Outcome::Silent, Outcome::Silent, Some("login_silent")),
            (Outcome::NotReached, Outcome::In, None),
        ];
        for (through, direct, expected) in cases {
            assert_eq!(kind(&through, &direct).as_deref(), expected, "{through:?} {direct:?}");
        }
    }
}
