//! From the greeting into the mailbox and out again, as a mail program goes: login, list, INBOX, IDLE, LOGOUT. Nothing in the
//! mailbox is changed. Not here: who is to blame when a login is refused (`verdict.rs`).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::report::{Trouble, shown};
use super::way::{Way, caller};
use crate::backend::Route;
use crate::config::Pooling;
use crate::imap::{Capabilities, Login, escape, sasl};
use crate::link::{Greeted, Idled, Link, LinkError, LoggedIn};
use crate::metrics::BackendError;

/// The most of a refusal's words that are told.
const WORDS: usize = 300;

/// With what is logged in.
pub(super) struct Account {
    pub(super) route: Route,
    pub(super) login: Login,
    /// What must not be seen, whoever repeats it.
    pub(super) secrets: Vec<Zeroizing<Vec<u8>>>,
    /// How long the login may take.
    pub(super) patience: Duration,
}

/// What came of a login.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There was no password to try, or no need.
    NotTried,
    /// The way did not lead so far.
    NotReached,
    /// Let in.
    In,
    /// Told no, or hung up on.
    Refused(Refused),
    /// No answer.
    Silent,
}

/// A login that was answered with no.
#[derive(Debug)]
pub(super) struct Refused {
    /// What was made of it.
    pub(super) error: LinkError,
    /// The server's own words, fit to be shown.
    pub(super) words: String,
}

impl Way<'_> {
    /// Logs in, and looks at the mailbox.
    pub(super) async fn enter(&mut self, mut link: Link<Greeted>, account: &Account) -> Outcome {
        if !self.is_ours() {
            // As mailmux does: some servers take passwords in clear from whom they have heard of TLS.
            let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let forward = self.goal.backend.config.forward_id;
            let (told, took) = self.step(link.identify(&caller(nobody, nobody), forward)).await;
            if let Some(Err(error)) = told {
                self.broken::<()>("id", &error, took);
                return Outcome::NotReached;
            }
            if told.is_none() {
                self.silent::<()>("id", took);
                return Outcome::NotReached;
            }
        }
        let began = Instant::now();
        let answered = timeout(account.patience, link.entered(&account.route, &account.login)).await;
        let took = began.elapsed();
        match answered {
            Ok(Ok(link)) => {
                self.section.took("login", format!("let in as {}", account.route.user), took);
                self.look_around(link, account.route.pool).await;
                Outcome::In
            }
            Ok(Err(error)) => {
                let words = words_of(&error, &account.secrets);
                self.section.failed("login", format!("{}: {words}", what(&error)), took, None);
                Outcome::Refused(Refused { error, words })
            }
            Err(_) => {
                self.section.failed("login", "no answer in time", took, None);
                Outcome::Silent
            }
        }
    }

    async fn look_around(&mut self, mut link: Link<LoggedIn>, pool: Pooling) {
        let list = link.announced().clone();
        self.missed(&list, pool);
        for (check, command) in [("list", "LIST \"\" %"), ("inbox", "EXAMINE INBOX")] {
            let (said, took) = self.step(link.said(command)).await;
            match said {
                Some(Ok(said)) if said.is_ok && check == "list" => {
                    self.section.took(check, format!("{} mailboxes at the top", said.lines), took);
                }
                Some(Ok(said)) if said.is_ok => self.section.took(check, "opened", took),
                Some(Ok(said)) => self.refused(check, &said.text, took),
                Some(Err(error)) => return self.broken(check, &error, took).unwrap_or_default(),
                None => return self.silent(check, took).unwrap_or_default(),
            }
        }
        if list.has("IDLE") && !self.idle(&mut link).await {
            return;
        }
        let (_, took) = self.step(link.log_out()).await;
        self.section.took("logout", "left", took);
    }

    fn refused(&mut self, check: &'static str, said: &str, took: Duration) {
        let (kind, what, remedy) = if check == "list" {
            (
                "list_refused",
                "The mailboxes cannot be listed",
                "The server's log says why: a storage that is away, or rights.",
            )
        } else {
            (
                "inbox_refused",
                "INBOX cannot be opened, so that mail programs show nothing new",
                "The server's log says why: a broken index (Dovecot: doveadm index, doveadm force-resync), rights of its files, a \
                 full disk or quota, a lock that somebody holds.",
            )
        };
        let trouble = Trouble::new(kind, format!("{what}: {said}."), remedy);
        self.section.failed(check, format!("refused: {said}"), took, Some(trouble));
    }

    /// What is missed after the login, and what that costs.
    fn missed(&mut self, list: &Capabilities, pool: Pooling) {
        if !list.has("IDLE") {
            let cause = "There is no IDLE: mail programs are not told of new mail, they ask for it every few minutes.";
            let remedy =
                "Have the server offer IDLE (Dovecot: imap_capability must not take it out). Some servers have none.";
            self.section.warn("idle", "not offered", Trouble::new("no_idle", cause, remedy));
        }
        if pool == Pooling::Reuse && !list.has("UNSELECT") {
            let cause =
                "There is no UNSELECT: links on which a mailbox was opened cannot be used again (pool = \"reuse\").";
            let remedy = "pool = \"warm\" is what this server can have.";
            self.section.warn("pool", "no UNSELECT", Trouble::new("no_unselect", cause, remedy));
        }
    }

    /// Whether the connection is still good.
    async fn idle(&mut self, link: &mut Link<LoggedIn>) -> bool {
        let hold = self.settings.idle;
        let began = Instant::now();
        let idled = link.idle(hold, self.settings.timeout).await;
        let took = began.elapsed();
        let limits = if self.is_ours() {
            "timeouts.relay_idle of mailmux, and the backend's own time for it, must be above 29 minutes"
        } else {
            "the server's own time for it (Dovecot: 30 minutes) must be above 29 minutes"
        };
        let (text, trouble) = match idled {
            Ok(Idled::Well) => {
                self.section.well("idle", format!("begins with + and holds for {}", shown(hold)));
                return true;
            }
            Ok(Idled::Unopened(said) | Idled::Refused(said)) => (
                format!("refused: {said}"),
                Trouble::new(
                    "idle_refused",
                    format!("IDLE is announced and refused ({said}): mail programs are not told of new mail."),
                    "Look at the server's log; if it cannot do IDLE, have it not announce it.",
                ),
            ),
            Ok(Idled::Broke(after, why)) => (
                format!("broke after {}: {why}", shown(after)),
                Trouble::new(
                    "idle_broke",
                    format!(
                        "IDLE breaks off after {} ({why}): mail programs miss new mail until they come back.",
                        shown(after)
                    ),
                    format!(
                        "Something on the way cuts connections on which nothing is said: a firewall, NAT or balancer with a short \
                         memory, or a time limit of the server; {limits}."
                    ),
                ),
            ),
            Err(error) => (
                error.detail.clone(),
                Trouble::new(
                    "idle_silent",
                    format!("IDLE gets no answer ({}): mail programs wait in vain for new mail.", error.detail),
                    format!(
                        "Without a + the server, or something between that reads along, does not do IDLE. Without an answer to \
                         DONE a firewall has forgotten the connection; {limits}."
                    ),
                ),
            ),
        };
        self.section.failed("idle", text, took, Some(trouble));
        false
    }
}

/// What a refusal was, before its words.
fn what(error: &LinkError) -> &'static str {
    match error.kind {
        Some(BackendError::Closed) => "it hung up",
        Some(BackendError::Protocol) => "what it says is no answer",
        _ => "refused",
    }
}

/// The server's words without the password, whichever way it repeats it; where it said none, what happened.
fn words_of(error: &LinkError, secrets: &[Zeroizing<Vec<u8>>]) -> String {
    let said = error.said.reveal();
    if said.is_empty() {
        return error.detail.clone();
    }
    // As they stand, and without the backslashes of quoted strings.
    let plain: Zeroizing<Vec<u8>> = Zeroizing::new(said.iter().copied().filter(|byte| *byte != b'\\').collect());
    let repeats = |secret: &Zeroizing<Vec<u8>>| {
        let bare: Zeroizing<Vec<u8>> = Zeroizing::new(secret.iter().copied().filter(|byte| *byte != b'\\').collect());
        let encoded = Zeroizing::new(sasl::base64(&bare).to_vec());
        holds(&plain, &bare) || holds(&plain, encoded.strip_suffix(b"=").unwrap_or(&encoded))
    };
    if secrets.iter().any(repeats) {
        return "(its words repeat the password and are not shown)".to_owned();
    }
    format!("\"{}\"", escape(said.get(..WORDS).unwrap_or(said)))
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

/// All forms of an account's secrets in which a server could repeat them.
pub(super) fn forms(user: &[u8], secret: &[u8]) -> [Zeroizing<Vec<u8>>; 2] {
    let message = [b"\0", user, b"\0", secret].concat();
    [Zeroizing::new(secret.to_vec()), Zeroizing::new(message)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Refusal;

    fn error(said: &[u8]) -> LinkError {
        LinkError {
            kind: None,
            detail: "NO".to_owned(),
            refusal: Refusal::BadCredentials,
            referral: None,
            said: crate::link::Words::new(said),
        }
    }

    #[test]
    fn a_password_that_is_repeated_is_not_shown() {
        let secrets = forms(b"ann", b"pa\"ss word");
        let encoded = sasl::base64(b"\0ann\0pa\"ss word");
        let repeated = [&b"you said LOGIN ann \"pa\\\"ss word\""[..], b"PA\"SS WORD?", &encoded];
        for said in repeated {
            let words = words_of(&error(said), &secrets);
            assert!(words.starts_with("(its words repeat"), "{words}");
        }
        assert_eq!(
            words_of(&error(b"[AUTHENTICATIONFAILED] no\x1b[1m"), &secrets),
            "\"[AUTHENTICATIONFAILED] no\\x1b[1m\""
        );
        assert_eq!(words_of(&error(b""), &secrets), "NO");
    }
}
