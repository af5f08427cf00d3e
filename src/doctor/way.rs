//! The way to an IMAP server, a backend or one of our own listeners, as far as its capabilities: name, TCP, PROXY header, TLS,
//! greeting. Each step has its bound, and where one fails it is told which and why. Not here: logging in (`mailbox.rs`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::certificate::{Owner, judge, unshaken};
use super::report::{Section, Trouble};
use super::{Settings, words};
use crate::backend::Backend;
use crate::config::{self, BackendTls, Roots, TlsClient};
use crate::imap::Capabilities;
use crate::link::{Caller, Greeted, Link, LinkError, Names, Opening, Unopened, is_own};
use crate::tls::{Examiner, Seen, Stream, Unshaken};

/// Who is walked to.
pub(super) struct Goal {
    /// How it is reached. Of a listener: as a mail program would.
    pub(super) backend: Arc<Backend>,
    /// It is one of our own.
    pub(super) listener: Option<config::Listener>,
    /// Our own listeners, which no backend may be.
    pub(super) own: Arc<[SocketAddr]>,
    /// Whoever connects must show a certificate, which we have none of.
    pub(super) demands_certificate: bool,
}

/// One walk, and what it has shown so far.
pub(super) struct Way<'a> {
    pub(super) goal: &'a Goal,
    pub(super) settings: &'a Settings,
    pub(super) section: Section,
}

impl Way<'_> {
    pub(super) fn is_ours(&self) -> bool {
        self.goal.listener.is_some()
    }

    /// Who it is, in the middle of a sentence.
    pub(super) fn who(&self) -> &'static str {
        if self.is_ours() { "mailmux" } else { "the server" }
    }

    /// A step, with its bound; `None`: it took longer.
    pub(super) async fn step<T>(&self, step: impl Future<Output = T>) -> (Option<T>, Duration) {
        let began = Instant::now();
        let done = timeout(self.settings.timeout, step).await.ok();
        (done, began.elapsed())
    }

    /// Walks; a link on which a login may follow, if all went well.
    pub(super) async fn walk(&mut self, names: &Names) -> Option<Link<Greeted>> {
        let addresses = self.find(names).await?;
        let (address, mut opening) = self.connect(&addresses).await?;
        self.introduce(&mut opening).await?;
        let backend = Arc::clone(&self.goal.backend);
        let mut link = match &backend.config.tls {
            BackendTls::None => self.greeted(opening.in_clear(), address).await?,
            BackendTls::Implicit(tls) => {
                let examiner = self.examiner(tls)?;
                let (shaken, took) = self.step(opening.shake(&examiner)).await;
                let (stream, seen) = self.shaken(shaken, took)?;
                self.trusted(&seen, took, tls)?;
                self.admitted()?;
                self.greeted(stream, address).await?
            }
            BackendTls::StartTls(tls) => {
                let mut link = self.greeted(opening.in_clear(), address).await?;
                self.before_tls(&mut link).await?;
                let examiner = self.examiner(tls)?;
                let (shaken, took) = self.step(link.secure(&examiner)).await;
                let shaken = match shaken {
                    Some(Err(Unopened::Link(error))) => return self.broken("starttls", &error, took),
                    Some(Err(Unopened::Tls(why))) => Some(Err(why)),
                    Some(Ok(shaken)) => Some(Ok(shaken)),
                    None => None,
                };
                let (link, seen) = self.shaken(shaken, took)?;
                self.trusted(&seen, took, tls)?;
                self.admitted()?;
                link
            }
        };
        let (asked, took) = self.step(link.ask_capabilities()).await;
        match asked {
            Some(Ok(list)) => {
                let list = list.clone();
                self.capable(&list, took);
                if self.is_ours() && list.has("LOGINDISABLED") {
                    return None;
                }
            }
            Some(Err(error)) => return self.broken("capabilities", &error, took),
            None => return self.silent("capabilities", took),
        }
        Some(link)
    }

    async fn find(&mut self, names: &Names) -> Option<Vec<SocketAddr>> {
        let (host, port) = (&self.goal.backend.config.host, self.goal.backend.config.port);
        let (found, took) = self.step(names.addresses(host, port)).await;
        let addresses = match found {
            Some(Ok(addresses)) => addresses,
            Some(Err(why)) => {
                let cause = format!("Its name leads nowhere: {why}.");
                let remedy = "Look at the spelling of the backend's address, and at DNS: does the same name resolve with \
                              getent ahosts, and are server.name_servers or those of /etc/resolv.conf the right ones?";
                self.section.failed("name", why, took, Some(Trouble::new("name_unknown", cause, remedy)));
                return None;
            }
            None => {
                let cause = format!("DNS gives no answer for {host}.");
                let remedy = "Look at the name servers (server.name_servers, or /etc/resolv.conf) and the way to them: UDP and TCP, \
                              port 53.";
                let text = "no answer from DNS in time";
                self.section.failed("name", text, took, Some(Trouble::new("dns_silent", cause, remedy)));
                return None;
            }
        };
        let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
        if host.parse::<std::net::IpAddr>().is_err() {
            self.section.took("name", format!("{host} is at {}", shown.join(", ")), took);
        }
        if let Some(address) = addresses.iter().find(|address| !self.is_ours() && is_own(**address, &self.goal.own)) {
            let cause = format!("{address} is one of mailmux's own listeners: logins would go round in a circle.");
            let remedy = "Write the address of the mail server itself for this backend; or its name leads to this machine by \
                          /etc/hosts.";
            self.section.fail("loop", format!("{address} is ours"), Trouble::new("loop", cause, remedy));
            return None;
        }
        Some(addresses)
    }

    /// To all addresses at once; the first in their order that answers is gone on with.
    async fn connect(&mut self, addresses: &[SocketAddr]) -> Option<(SocketAddr, Opening)> {
        let mut dialled = JoinSet::new();
        let time = self.settings.timeout;
        for (at, address) in addresses.iter().copied().enumerate() {
            let source = self.goal.backend.source(address.is_ipv6());
            dialled.spawn(async move {
                let began = Instant::now();
                let opening = timeout(time, Opening::dial(address, source)).await;
                (at, address, began.elapsed(), opening)
            });
        }
        let mut all = dialled.join_all().await;
        all.sort_by_key(|(at, ..)| *at);
        let some_answer = all.iter().any(|(.., opening)| matches!(opening, Ok(Ok(_))));
        let mut chosen = None;
        for (_, address, took, opening) in all {
            let trouble = match opening {
                Ok(Ok(opening)) => {
                    self.section.took("connect", format!("{address} answers"), took);
                    chosen = chosen.or(Some((address, opening)));
                    continue;
                }
                Ok(Err(error)) => words::unconnected(&error, address, self.is_ours()),
                Err(_) => words::unanswered(address, self.is_ours()),
            };
            let (text, trouble) = trouble;
            if some_answer {
                self.section.warn("connect", format!("{address}: {text}"), trouble);
            } else {
                self.section.failed("connect", format!("{address}: {text}"), took, Some(trouble));
            }
        }
        chosen
    }

    async fn introduce(&mut self, opening: &mut Opening) -> Option<()> {
        let Some(version) = self.goal.backend.config.proxy_protocol else { return Some(()) };
        let (local, remote) = opening.ends().ok()?;
        let (sent, took) = self.step(opening.introduce(version, &caller(local, remote))).await;
        match sent {
            Some(Ok(())) => {
                self.section.well("proxy", "a PROXY header goes first");
                Some(())
            }
            Some(Err(error)) => {
                let trouble = Trouble::new(
                    "proxy_refused",
                    format!("The connection ends before the PROXY header is sent: {error}."),
                    "Is the port one that takes PROXY headers, and from this machine (Dovecot: haproxy = yes, \
                     haproxy_trusted_networks)?",
                );
                self.section.failed("proxy", "the header cannot be sent", took, Some(trouble));
                None
            }
            None => self.silent("proxy", took),
        }
    }

    fn examiner(&mut self, tls: &TlsClient) -> Option<Examiner> {
        match Examiner::new(tls) {
            Ok(examiner) => Some(examiner),
            Err(findings) => {
                let all: Vec<_> = findings.into_iter().map(|finding| finding.message).collect();
                let trouble = Trouble::new(
                    "tls_settings",
                    format!("The TLS settings cannot be used: {}.", all.join("; ")),
                    "mailmux check shows the place.",
                );
                self.section.fail("tls", "settings cannot be used", trouble);
                None
            }
        }
    }

    fn shaken<T>(&mut self, shaken: Option<Result<T, Unshaken>>, took: Duration) -> Option<T> {
        match shaken {
            Some(Ok(shaken)) => Some(shaken),
            Some(Err(why)) => {
                let (text, trouble) = unshaken(&why, self.is_ours());
                self.section.failed("tls", text, took, Some(trouble));
                None
            }
            None => {
                let trouble = Trouble::new(
                    "tls_silent",
                    "The port takes the connection and then gives no answer to the TLS handshake.",
                    "If it speaks TLS at all, its machine is overloaded; else it is another service's port, or one that waits for \
                     a PROXY header (proxy_protocol).",
                );
                self.section.failed("tls", "no answer to the handshake", took, Some(trouble));
                None
            }
        }
    }

    /// Whether secrets may follow.
    fn trusted(&mut self, seen: &Seen, took: Duration, tls: &TlsClient) -> Option<()> {
        let trusted = match &tls.roots {
            Roots::WebPki => "by Mozilla's list".to_owned(),
            Roots::System => "by this machine's store".to_owned(),
            Roots::File(file) => format!("by {}", file.value.display()),
        };
        let owner = Owner { is_ours: self.is_ours(), name: &tls.name, trusted: &trusted };
        if !judge(&mut self.section, seen, took, owner) {
            return None;
        }
        if !tls.verify {
            let cause = "Its certificate is not verified (tls_verify = false): anybody on the way can read passwords.";
            let remedy = "Write its authority's file as ca, and take tls_verify = false out.";
            self.section.warn("verify", "off", Trouble::new("not_verified", cause, remedy));
        }
        Some(())
    }

    /// Whether we may come so far.
    fn admitted(&mut self) -> Option<()> {
        if self.goal.demands_certificate {
            self.section.skip("greeting", "clients must show a certificate (tls.client_auth), and this one has none");
            return None;
        }
        Some(())
    }

    async fn greeted(&mut self, stream: Stream, address: SocketAddr) -> Option<Link<Greeted>> {
        let is_clear = matches!(stream, Stream::Plain(_));
        let (greeted, took) = self.step(Link::greeted(stream)).await;
        match greeted {
            Some(Ok((link, text))) => {
                self.section.took("greeting", text, took);
                Some(link)
            }
            Some(Err(error)) => {
                let trouble = words::ungreeted(&error, self.is_ours());
                self.section.failed("greeting", error.detail, took, Some(trouble));
                None
            }
            None => {
                let trouble = if is_clear && self.speaks_tls(address).await {
                    Trouble::new(
                        "clear_towards_tls",
                        "The port is spoken to in clear, and speaks TLS from the first byte.",
                        "Write tls = \"implicit\" for this backend; or the port that speaks in clear (143, mostly).",
                    )
                } else {
                    words::no_greeting(self.is_ours())
                };
                self.section.failed("greeting", "none in time", took, Some(trouble));
                None
            }
        }
    }

    /// Whether TLS is spoken there from the first byte.
    async fn speaks_tls(&self, address: SocketAddr) -> bool {
        let any = TlsClient { name: address.ip().to_string(), roots: Roots::WebPki, client: None, verify: false };
        let Ok(examiner) = Examiner::new(&any) else { return false };
        let source = self.goal.backend.source(address.is_ipv6());
        let tried = async { Opening::dial(address, source).await.ok()?.shake(&examiner).await.ok() };
        matches!(self.step(tried).await.0, Some(Some(_)))
    }

    /// Of STARTTLS: it is offered, and our own listener takes no secret before it.
    async fn before_tls(&mut self, link: &mut Link<Greeted>) -> Option<()> {
        let (asked, took) = self.step(link.ask_capabilities()).await;
        let offered = match asked {
            Some(Ok(list)) => list.clone(),
            Some(Err(error)) => return self.broken("starttls", &error, took),
            None => return self.silent("starttls", took),
        };
        if !offered.has("STARTTLS") {
            let trouble = words::no_starttls(self.is_ours());
            self.section.failed("starttls", "not offered", took, Some(trouble));
            return None;
        }
        self.section.took("starttls", "offered", took);
        if self.is_ours() {
            // Nothing secret is in it.
            let (said, took) = self.step(link.said("LOGIN doctor none")).await;
            let refused = matches!(&said, Some(Ok(said)) if !said.is_ok);
            if refused && offered.has("LOGINDISABLED") {
                self.section.well("clear text", "logins are refused before TLS");
            } else {
                let cause = "Passwords are invited in clear before STARTTLS.";
                let remedy = "That is not mailmux as it is configured: look at which program has this port.";
                let trouble = Some(Trouble::new("clear_text_login", cause, remedy));
                self.section.failed("clear text", "logins are not refused before TLS", took, trouble);
                return None;
            }
        }
        Some(())
    }

    fn capable(&mut self, list: &Capabilities, took: Duration) {
        let is_ours = self.is_ours();
        let shown = String::from_utf8_lossy(list.as_line()).into_owned();
        self.section.took("capabilities", shown, took);
        if let Some(listener) = &self.goal.listener {
            words::mechanisms(&mut self.section, list, listener);
            return;
        }
        let config = &self.goal.backend.config;
        words::wanted(&mut self.section, list, config);
        if !list.auth("PLAIN") && !list.auth("LOGIN") && list.has("LOGINDISABLED") {
            let trouble = words::login_disabled(matches!(config.tls, BackendTls::None));
            self.section.fail("mechanisms", "it takes no passwords", trouble);
        } else if !is_ours && list.auth("PLAIN") {
            self.section.well("mechanisms", "AUTH=PLAIN");
        } else if !is_ours {
            let text = "no AUTH=PLAIN: master users (authzid) cannot log in; passwords go by AUTH=LOGIN or LOGIN";
            self.section.well("mechanisms", text);
        }
    }

    /// A step that ended otherwise than with an answer.
    pub(super) fn broken<T>(&mut self, check: &'static str, error: &LinkError, took: Duration) -> Option<T> {
        let trouble = words::broken(check, error, self.who());
        self.section.failed(check, error.detail.clone(), took, Some(trouble));
        None
    }

    /// A step without an answer.
    pub(super) fn silent<T>(&mut self, check: &'static str, took: Duration) -> Option<T> {
        let trouble = words::silent(check, self.who());
        self.section.failed(check, "no answer in time", took, Some(trouble));
        None
    }
}

/// Who calls: this command itself.
pub(super) fn caller(local: SocketAddr, remote: SocketAddr) -> Caller<'static> {
    Caller { session: "doctor", client: local, local: remote, secure: true, server_name: None, ttl: 6, id: &[] }
}
