//! One connection to a directory: dialled, perhaps inside TLS, and the two requests made on it, bind and search
//! (RFC 4511, RFC 4513). The library's reader works behind `guard.rs`. Nothing moves while nobody asks. Not here: which
//! connection is used for what.

use std::path::Path;
use std::pin::{Pin, pin};
use std::time::Duration;

use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, LdapResult, ResultEntry, Scope, SearchOptions, StdStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Entry, Fields, guard, shown};
use crate::config::{self, LdapScope};
use crate::tls::{Connector, Stream};

/// An `ExtendedRequest` with the name of `StartTLS` (RFC 4511 4.14.1), under the message number 1.
const START_TLS: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
/// Its answer is short.
const LONGEST_START_TLS: u64 = 4 * 1024;
/// Asks for no attributes at all, where an empty list would ask for all (RFC 4511 4.5.1.8).
const NO_ATTRIBUTES: &str = "1.1";
/// One would do; the second shows that there are several.
const MOST_ENTRIES: i32 = 2;

/// One connection.
pub(super) struct Connection {
    ldap: ldap3::Ldap,
    /// The library's reader and writer and the guard. It ends with a reason, and the connection with it.
    machinery: Pin<Box<dyn Future<Output = String> + Send>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is of no use any more; the question can be asked on another one.
    Broken(String),
    /// The directory did answer, though not with what was asked.
    Refused(String),
}

/// What a directory says to a bind.
pub(super) struct Bound(LdapResult);

/// What is searched for, but for the filter.
pub(super) struct Search {
    base: String,
    scope: Scope,
    /// Attributes and the fields they are.
    fields: Vec<(String, String)>,
    attributes: Vec<String>,
}

impl Connection {
    pub(super) async fn over_unix(path: &Path) -> Result<Self, String> {
        let unix = UnixStream::connect(path).await;
        Self::over(unix.map_err(|error| format!("cannot connect to {}: {error}", path.display()))?).await
    }

    pub(super) async fn in_clear(host: &str, port: u16) -> Result<Self, String> {
        Self::over(Stream::Plain(dial(host, port).await?)).await
    }

    pub(super) async fn inside_tls(host: &str, port: u16, connector: &Connector) -> Result<Self, String> {
        Self::over(encrypt(dial(host, port).await?, connector).await?).await
    }

    pub(super) async fn start_tls(host: &str, port: u16, connector: &Connector) -> Result<Self, String> {
        let mut tcp = dial(host, port).await?;
        ask_for_tls(&mut tcp).await?;
        Self::over(encrypt(tcp, connector).await?).await
    }

    /// Puts the library at one end of a pair of sockets, and the directory at the other.
    async fn over(far: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, String> {
        let pair = || {
            let (near, library) = std::os::unix::net::UnixStream::pair()?;
            near.set_nonblocking(true)?;
            Ok::<_, std::io::Error>((UnixStream::from_std(near)?, library))
        };
        let (near, library) = pair().map_err(|error| format!("no pair of sockets: {error}"))?;
        let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(library));
        let (reader, ldap) =
            LdapConnAsync::with_settings(settings, "ldapi:///").await.map_err(|error| error.to_string())?;
        let machinery = Box::pin(async move {
            let mut reader = pin!(reader.drive());
            let why = tokio::select! {
                biased;
                why = guard::run(near, far) => why,
                _ = &mut reader => return "the directory's answer is no LDAP".to_owned(),
            };
            // What was let through before the end is read to its own.
            drop(reader.await);
            why
        });
        Ok(Self { ldap, machinery })
    }

    /// A simple bind.
    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<Bound, Failure> {
        let answered = driven(&mut self.machinery, self.ldap.simple_bind(dn, password)).await;
        answered.map(Bound).map_err(Failure::Broken)
    }

    /// Looks for the one entry that a filter matches.
    pub(super) async fn search(&mut self, search: &Search, filter: &str) -> Result<Option<Entry>, Failure> {
        let asking = find(&mut self.ldap, search, filter);
        let (entries, result) = driven(&mut self.machinery, asking).await.map_err(Failure::Broken)?;
        let refused = |what: &str| Err(Failure::Refused(format!("the directory {what}: {}", reason(&result))));
        match result.rc {
            // Success, or more than the two that were asked for.
            0 | 4 if entries.len() > 1 => {
                Err(Failure::Refused("more than one entry of the directory matches".to_owned()))
            }
            0 => {
                let entry = entries.into_iter().next().map(|entry| search.read(entry));
                entry.map(|entry| entry.ok_or_else(|| Failure::Broken("an entry is malformed".to_owned()))).transpose()
            }
            10 => refused("refers us elsewhere, where nobody follows"),
            // Busy, unavailable, unwillingToPerform (a server that shuts down), other: another connection may do better.
            51..=53 | 80 => Err(Failure::Broken(format!("the directory cannot search: {}", reason(&result)))),
            _ => refused("does not search"),
        }
    }

    /// Says goodbye, as far as that goes through at once. The machinery ends when it has been sent.
    pub(super) async fn close(mut self) {
        const GOODBYE: Duration = Duration::from_millis(100);
        drop(timeout(GOODBYE, async { tokio::join!(self.ldap.unbind(), self.machinery) }).await);
    }
}

impl Failure {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Broken(why) | Self::Refused(why) => why,
        }
    }
}

impl Bound {
    /// Whether the password is right. Only answers that are about this user's credentials are a No; one that is about us
    /// or the directory must not look like a wrong password.
    pub(super) fn is_right(&self) -> Result<bool, String> {
        match self.0.rc {
            0 => Ok(true),
            // constraintViolation (a policy: locked, expired), noSuchObject, inappropriateAuthentication (the entry has
            // no password), invalidCredentials, insufficientAccessRights, unwillingToPerform (a policy, with some)
            19 | 32 | 48 | 49 | 50 | 53 => Ok(false),
            _ => Err(format!("the directory does not check passwords: {}", self.shown())),
        }
    }

    /// The answer, for the log.
    pub(super) fn shown(&self) -> String {
        reason(&self.0)
    }
}

impl Search {
    pub(super) fn new(config: &config::LdapLookup) -> Self {
        let mut attributes: Vec<_> = config.attributes.iter().map(|(attribute, _)| attribute.clone()).collect();
        attributes.sort_unstable();
        attributes.dedup();
        if attributes.is_empty() {
            attributes.push(NO_ATTRIBUTES.to_owned());
        }
        let scope = match config.scope {
            LdapScope::Base => Scope::Base,
            LdapScope::One => Scope::OneLevel,
            LdapScope::Sub => Scope::Subtree,
        };
        Self { base: config.base.clone(), scope, fields: config.attributes.clone(), attributes }
    }

    /// `SearchResultEntry` (RFC 4511 4.5.2); `None` when it is none. The library's own reader would panic.
    fn read(&self, entry: ResultEntry) -> Option<Entry> {
        let mut parts = entry.0.expect_constructed()?.into_iter();
        let dn = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        let mut values = Vec::new();
        for attribute in parts.next()?.expect_constructed()? {
            let mut attribute = attribute.expect_constructed()?.into_iter();
            let name = attribute.next()?.expect_primitive()?;
            if let Some(first) = attribute.next()?.expect_constructed()?.into_iter().next() {
                values.push((name, Zeroizing::new(first.expect_primitive()?)));
            }
        }
        let fields = self.fields.iter().filter_map(|(attribute, field)| {
            let (_, value) = values.iter().find(|(name, _)| name.eq_ignore_ascii_case(attribute.as_bytes()))?;
            Some((field.clone(), value.clone()))
        });
        Some(Entry { dn, fields: Fields(fields.collect()) })
    }
}

/// The entries and the result of a search. References to other directories are left out.
async fn find(
    ldap: &mut ldap3::Ldap,
    search: &Search,
    filter: &str,
) -> Result<(Vec<ResultEntry>, LdapResult), LdapError> {
    let ldap = ldap.with_search_options(SearchOptions::new().sizelimit(MOST_ENTRIES));
    let attributes = search.attributes.as_slice();
    let mut stream = ldap.streaming_search(&search.base, search.scope, filter, attributes).await?;
    let mut entries = Vec::new();
    while let Some(entry) = stream.next().await? {
        if !entry.is_ref() && !entry.is_intermediate() {
            entries.push(entry);
        }
    }
    Ok((entries, stream.finish().await))
}

/// Waits for an answer, and keeps the machinery going meanwhile.
async fn driven<T>(
    machinery: &mut Pin<Box<dyn Future<Output = String> + Send>>,
    asking: impl Future<Output = Result<T, LdapError>>,
) -> Result<T, String> {
    let mut asking = pin!(asking);
    let why = tokio::select! {
        biased;
        answer = &mut asking => return answer.map_err(|error| shown(&error.to_string())),
        why = machinery => why,
    };
    // The answer may have come together with the end.
    match timeout(Duration::ZERO, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        _ => Err(why),
    }
}

#[expect(clippy::disallowed_methods, reason = "a directory is no backend, and never one of our own listeners")]
async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let tcp = TcpStream::connect((host, port)).await.map_err(|error| format!("cannot connect: {error}"))?;
    // Without it questions only go out later.
    drop(tcp.set_nodelay(true));
    Ok(tcp)
}

async fn encrypt(tcp: TcpStream, connector: &Connector) -> Result<Stream, String> {
    connector.connect(tcp).await.map_err(|error| format!("TLS: {}", shown(&error.to_string())))
}

/// `StartTLS` up to the handshake. Nothing may stand behind the answer: it would be taken for something said inside TLS.
async fn ask_for_tls(tcp: &mut TcpStream) -> Result<(), String> {
    let lost = |error: std::io::Error| format!("StartTLS: {error}");
    tcp.write_all(START_TLS).await.map_err(lost)?;
    let mut bytes = Vec::new();
    let mut tcp = tcp.take(LONGEST_START_TLS);
    let length = loop {
        if tcp.read_buf(&mut bytes).await.map_err(lost)? == 0 {
            return Err("StartTLS: the directory closed the connection".to_owned());
        }
        if let Some(length) = guard::message(&bytes)? {
            break length;
        }
    };
    match accepted(&bytes[..length]) {
        Some(true) if length == bytes.len() => Ok(()),
        Some(true) => Err("StartTLS: the directory goes on talking in clear".to_owned()),
        Some(false) => Err("the directory refuses StartTLS".to_owned()),
        None => Err("StartTLS: the answer is malformed".to_owned()),
    }
}

/// Whether an answer to `StartTLS` says yes: a message with the number 1 that is an `ExtendedResponse` with the code 0.
fn accepted(message: &[u8]) -> Option<bool> {
    let content = |bytes: &[u8], tag: u8| {
        let (first, length) = (*bytes.first()?, *bytes.get(1)?);
        // The bytes behind a long length are the length.
        let skip = if length < 0x80 { 2 } else { 2 + usize::from(length & 0x7f) };
        (first == tag).then(|| bytes.get(skip..).map(<[u8]>::to_vec)).flatten()
    };
    let message = content(message, 0x30)?;
    let response = content(message.strip_prefix(b"\x02\x01\x01")?, 0x78)?;
    let code = response.strip_prefix(b"\x0a\x01")?;
    Some(*code.first()? == 0)
}

fn reason(result: &LdapResult) -> String {
    // "rc=49 (invalidCredentials), dn: ..., text: ...", of which the peer said the end.
    shown(&result.to_string())
}
