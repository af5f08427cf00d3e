//! Directories: a search with an escaped filter (RFC 4511, RFC 4515), attributes as fields of a route, and binds that
//! find out whether a password is right. `filter.rs` makes filters, `connection.rs` speaks LDAP, `guard.rs` keeps what a
//! directory sends within bounds. Not here: what fields mean, caches, deadlines (the caller's).

mod connection;
mod filter;
mod guard;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::connection::{Connection, Failure, Search};
use self::filter::Filter;
use super::fields::Fields;
use crate::config::{self, Finding, Roots, TlsClient, host_and_port};
use crate::imap::{Secret, UserName, escape};
use crate::secret_file;
use crate::tls::Connector;

/// A connection that was not used for so long is not trusted to be there: firewalls forget without a word.
const IDLE: Duration = Duration::from_mins(1);

/// A directory.
pub(super) struct Ldap {
    settings: Arc<Settings>,
    filter: Filter,
    /// Connections that searches left behind, the one used last at the end. All are bound as the searching user.
    idle: Mutex<Vec<Idle>>,
    /// For searches and binds together.
    places: Semaphore,
}

/// What a directory says of a user.
pub(super) struct Entry {
    /// The entry's name, as which its user binds.
    pub(super) dn: String,
    /// Its attributes under the names that the configuration gives them, with the first value of each.
    pub(super) fields: Fields,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// How to get there and what to ask.
struct Settings {
    address: Address,
    security: Security,
    searcher: Option<(String, Secret)>,
    search: Search,
}

enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

enum Security {
    None,
    StartTls(Connector),
    Implicit(Connector),
}

impl Ldap {
    /// Checks the settings and reads the files; nothing is asked yet.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(super) fn new(config: &config::LdapLookup) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let at_url = |message| Finding { site: Some(config.url.site.clone()), message };
        let address = noted(Address::read(&config.url.value).map_err(at_url), &mut findings);
        let security = address.as_ref().and_then(|address| match security(config, address) {
            Ok(security) => Some(security),
            Err(more) => {
                findings.extend(more);
                None
            }
        });
        let at_filter = |message| Finding { site: Some(config.filter.site.clone()), message };
        let filter = noted(Filter::read(&config.filter.value).map_err(at_filter), &mut findings);
        let searcher = noted(searcher(config), &mut findings);
        let (Some(address), Some(security), Some(filter), Some(searcher)) = (address, security, filter, searcher)
        else {
            return Err(findings);
        };
        let search = Search::new(config);
        let connections = usize::try_from(config.connections.get()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            settings: Arc::new(Settings { address, security, searcher, search }),
            filter,
            idle: Mutex::new(Vec::new()),
            places: Semaphore::new(connections),
        })
    }

    /// Looks for the one entry of this user; `None` when there is none. It may take as long as the directory likes: put
    /// a deadline around it. Dropping the future closes the connection.
    ///
    /// # Errors
    /// Why the directory cannot tell, for the log.
    pub(super) async fn ask(&self, user: &UserName) -> Result<Option<Entry>, String> {
        let Some(filter) = self.filter.fill(user) else { return Ok(None) };
        let place = self.place().await?;
        if let Some(connection) = self.take_idle() {
            match self.search(connection, filter.clone(), &place).await {
                // It was closed while nobody used it, perhaps; a new one was not.
                Err(Failure::Broken(_)) => {}
                Err(Failure::Refused(why)) => return Err(why),
                Ok(entry) => return Ok(entry),
            }
        }
        let connection = self.open(&place).await?;
        self.search(connection, filter, &place).await.map_err(Failure::into_text)
    }

    /// Whether this is the password of the entry with this name. Asked on a connection of its own, which is then closed:
    /// none that searches is ever bound as a user.
    ///
    /// # Errors
    /// Why the directory cannot tell, for the log.
    pub(super) async fn bind(&self, dn: &str, password: &Secret) -> Result<bool, String> {
        // A bind without a name or a password succeeds and proves nothing (RFC 4513 5.1.1, 5.1.2).
        if dn.is_empty() || password.reveal().is_empty() {
            return Ok(false);
        }
        // Passwords are UTF-8 in LDAP (RFC 4513 5.1.3), so this is nobody's.
        let Ok(password) = str::from_utf8(password.reveal()).map(|text| Zeroizing::new(text.to_owned())) else {
            return Ok(false);
        };
        let place = self.place().await?;
        self.make_room(&place);
        let (settings, dn) = (Arc::clone(&self.settings), dn.to_owned());
        apart(async move {
            let mut connection = settings.dial().await?;
            let answer = connection.bind(&dn, &password).await.map_err(Failure::into_text)?;
            connection.close().await;
            answer.is_right()
        })
        .await?
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>, String> {
        self.places.acquire().await.map_err(|error| error.to_string())
    }

    async fn open(&self, place: &SemaphorePermit<'_>) -> Result<Connection, String> {
        self.make_room(place);
        let settings = Arc::clone(&self.settings);
        apart(async move { settings.dial_for_searches().await }).await?
    }

    /// A search, and the connection back where it is good for more.
    async fn search(
        &self,
        mut connection: Connection,
        filter: String,
        _: &SemaphorePermit<'_>,
    ) -> Result<Option<Entry>, Failure> {
        let settings = Arc::clone(&self.settings);
        let work = async move {
            let found = connection.search(&settings.search, &filter).await;
            (connection, found)
        };
        let (connection, found) = apart(work).await.map_err(Failure::Refused)?;
        if !matches!(found, Err(Failure::Broken(_))) {
            let since = Instant::now();
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(Idle { connection, since });
        }
        found
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE);
        idle.pop().map(|idle| idle.connection)
    }

    /// Before a connection is opened: idle ones and those in use are together as many as there are places.
    fn make_room(&self, _: &SemaphorePermit<'_>) {
        let free = self.places.available_permits();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = idle.len().saturating_sub(free);
        idle.drain(..surplus);
    }
}

impl Settings {
    async fn dial(&self) -> Result<Connection, String> {
        match &self.address {
            Address::Unix(path) => Connection::over_unix(path).await,
            Address::Tcp { host, port } => match &self.security {
                Security::None => Connection::in_clear(host, *port).await,
                Security::StartTls(connector) => Connection::start_tls(host, *port, connector).await,
                Security::Implicit(connector) => Connection::inside_tls(host, *port, connector).await,
            },
        }
    }

    async fn dial_for_searches(&self) -> Result<Connection, String> {
        let mut connection = self.dial().await?;
        if let Some((dn, password)) = &self.searcher {
            let password = str::from_utf8(password.reveal()).map_err(|_| "the searching user's password is no text")?;
            let answer = connection.bind(dn, password).await.map_err(Failure::into_text)?;
            if !answer.is_right().unwrap_or(false) {
                return Err(format!("cannot bind as the searching user: {}", answer.shown()));
            }
        }
        Ok(connection)
    }
}

impl Address {
    fn read(url: &str) -> Result<Self, String> {
        let kinds = "\nexpected ldap://HOST, ldaps://HOST or ldapi://PATH (with %2F for each slash)";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("not a URL{kinds}"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(format!("more than a host; the rest has settings of its own{kinds}"));
        }
        let port = match scheme {
            "ldap" => 389,
            "ldaps" => 636,
            "ldapi" => {
                let path = unescaped(rest).filter(|path| path.starts_with('/'));
                return path.map(|path| Self::Unix(path.into())).ok_or_else(|| format!("not a path{kinds}"));
            }
            _ => return Err(format!("not a URL of this kind{kinds}")),
        };
        let (host, port) = host_and_port(rest).or_else(|_| host_and_port(&format!("{rest}:{port}")))?;
        Ok(Self::Tcp { host, port })
    }
}

/// `%2F` and its like, as URLs have them.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let byte = if byte == b'%' { u8::try_from(16 * digit(rest.next())? + digit(rest.next())?).ok()? } else { byte };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

fn security(config: &config::LdapLookup, address: &Address) -> Result<Security, Vec<Finding>> {
    let at_url = |message: &str| vec![Finding { site: Some(config.url.site.clone()), message: message.to_owned() }];
    let implicit = config.url.value.starts_with("ldaps:");
    match address {
        Address::Tcp { host, .. } if implicit || config.start_tls => {
            if implicit && config.start_tls {
                return Err(at_url("StartTLS is for ldap://; with ldaps:// all is inside TLS already"));
            }
            let roots = config.ca.as_ref().map_or(Roots::System, |ca| Roots::File(ca.clone()));
            let tls = TlsClient { name: host.clone(), roots, client: None, verify: true };
            let placed =
                |finding: Finding| Finding { site: finding.site.or_else(|| Some(config.url.site.clone())), ..finding };
            let connector = Connector::new(&tls);
            let connector = connector.map_err(|findings| findings.into_iter().map(placed).collect::<Vec<_>>())?;
            Ok(if implicit { Security::Implicit(connector) } else { Security::StartTls(connector) })
        }
        Address::Unix(_) if config.start_tls => Err(at_url("StartTLS is for ldap:// alone")),
        _ if config.ca.is_some() => Err(at_url("without TLS there is no use for `ca`")),
        _ => Ok(Security::None),
    }
}

fn searcher(config: &config::LdapLookup) -> Result<Option<(String, Secret)>, Finding> {
    let Some((dn, file)) = &config.bind else { return Ok(None) };
    let finding = |message| Finding { site: Some(file.site.clone()), message };
    let password = secret_file::read(&file.value).map_err(finding)?;
    if str::from_utf8(password.reveal()).is_err() {
        return Err(finding(format!("{}: is not UTF-8 text, as LDAP's passwords are", file.value.display())));
    }
    Ok(Some((dn.clone(), password)))
}

fn noted<T>(result: Result<T, Finding>, findings: &mut Vec<Finding>) -> Option<T> {
    result.map_err(|finding| findings.push(finding)).ok()
}

/// A piece of work in a task of its own, which ends with the future that waits for it. The library's reader panics on
/// some answers that are no LDAP; that is to cost nobody more than the answer.
async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
    let mut task = JoinSet::new();
    task.spawn(work);
    match task.join_next().await {
        Some(Ok(done)) => Ok(done),
        _ => Err("the directory's answer is no LDAP".to_owned()),
    }
}

/// What a peer said, for an error.
fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let end = text.floor_char_boundary(LONGEST);
    escape(text.get(..end).unwrap_or_default().as_bytes()).to_string()
}

#[cfg(test)]
mod tests;
