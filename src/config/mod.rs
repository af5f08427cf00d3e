//! The configuration as the rest of the program sees it: checked, with every default filled in and every name resolved
//! to an index. After this no room tests a setting again. `file.rs` knows the shape of the TOML, `check.rs` turns one into
//! the other and collects every mistake, `finding.rs` shows a mistake with its place, `files.rs` lists the files that are
//! named.

mod check;
mod file;
mod files;
mod finding;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use file::Masked;
pub use files::{NamedFile, Role};
pub use finding::{Finding, Findings, Site};

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file that it was read from, if it was.
    pub file: Option<PathBuf>,
    /// `[server]`
    pub server: Server,
    /// `[[listener]]`
    pub listeners: Vec<Listener>,
    /// `[tls]`
    pub tls: Tls,
    /// `[[backend]]`; [`Target::Backend`] is an index into it.
    pub backends: Vec<Backend>,
    /// `[[group]]`; [`Target::Group`] is an index into it.
    pub groups: Vec<Group>,
    /// `[[lookup]]`; [`Target::Lookup`] is an index into it.
    pub lookups: Vec<Lookup>,
    /// `[[route]]`, in order.
    pub routes: Vec<Route>,
    /// `[limits]`
    pub limits: Limits,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[pool]`
    pub pool: Pool,
    /// `[admin]`; no section, no admin port.
    pub admin: Option<Admin>,
    /// `[log]`
    pub log: Log,
    /// The text that it was read from, with nothing secret in it.
    pub shown: Masked,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every mistake in it, or the one that it cannot be read.
    pub fn load(path: &Path) -> Result<Self, Findings> {
        let whole = |message| Findings::new(path.into(), String::new(), vec![Finding { site: None, message }]);
        let bytes = std::fs::read(path).map_err(|error| whole(format!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let line =
                error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count() + 1;
            whole(format!("is not UTF-8 text (line {line})"))
        })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file. Relative paths in it are taken from the folder of `path`.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Findings> {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let (file, findings) = match file::parse(text) {
            Ok(parsed) => parsed,
            Err(finding) => return Err(Findings::new(path.into(), text.into(), vec![finding])),
        };
        let config = check::check(&file, folder, findings);
        config
            .map(|config| Self { file: Some(path.into()), shown: Masked::of(text), ..config })
            .map_err(|findings| Findings::new(path.into(), text.into(), findings))
    }

    /// What is otherwise than in a configuration that is in use, and cannot be changed while the process runs.
    pub fn what_cannot_change_since(&self, other: &Self) -> Vec<Finding> {
        let changed = [
            ("server.user", self.server.user != other.server.user),
            ("server.group", self.server.group != other.server.group),
            ("server.confine", self.server.confine != other.server.confine),
            ("server.read", self.server.read != other.server.read),
            ("server.workers", self.server.workers != other.server.workers),
            ("log.format", self.log.format != other.log.format),
        ];
        let finding = |key| Finding {
            site: None,
            message: format!("{key} cannot change while mailmux runs\nexpected the value of the start, or a restart"),
        };
        changed.iter().filter(|(_, changed)| *changed).map(|(key, _)| finding(key)).collect()
    }

    /// The configuration of `serve --backend HOST:PORT`: implicit TLS on 127.0.0.1:1993, no certificate files (one is made
    /// up), an admin port on 127.0.0.1:9143, everyone goes to this one backend. TLS towards it goes by the port: implicit
    /// on 993; elsewhere STARTTLS, or none on loopback, where nobody listens in.
    pub fn for_one_backend(host: &str, port: u16) -> Self {
        check::one_backend(host, port)
    }
}

/// Reads `HOST:PORT`, as a backend's `address` is written; IPv6 in brackets, which the host given back lacks.
///
/// # Errors
/// What is wrong with it, for people.
pub fn host_and_port(text: &str) -> Result<(String, u16), String> {
    match file::text::<file::HostPort>(text) {
        Ok(file::HostPort { host, port }) => Ok((host, port)),
        Err(problem) => Err(problem.replace('\n', ", ")),
    }
}

/// Reads a duration as the file writes it: `"30s"`, `"5m"`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn duration(text: &str) -> Result<Duration, String> {
    match file::text::<Duration>(text) {
        Ok(duration) => Ok(duration),
        Err(problem) => Err(problem.replace('\n', ", ")),
    }
}

/// A network, or one address, as it is written in the configuration, for whoever asks for one elsewhere.
///
/// # Errors
/// What is wrong with it, for people.
pub fn network(text: &str) -> Result<IpNet, String> {
    file::text::<IpNet>(text).map_err(|problem| problem.replace('\n', ", "))
}

/// Reads a level of the log: `"debug"`.
///
/// # Errors
/// What is wrong with it, for people.
pub fn log_level(text: &str) -> Result<LogLevel, String> {
    file::text::<LogLevel>(text).map_err(|problem| problem.replace('\n', ", "))
}

/// A value together with the place in the file where it was written, for checks that only a later room can make
/// (does this file hold a certificate?). Two are equal when the values are: settings that merely stand elsewhere in the file
/// have not changed.
#[derive(Debug, Clone)]
pub struct At<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub site: Site,
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// `[server]`
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Worker threads; 0 in the file means one per core and is resolved here.
    pub workers: usize,
    /// How long a stop waits for sessions.
    pub drain_timeout: Duration,
    /// Who is asked for names; empty: those of the system.
    pub name_servers: Vec<SocketAddr>,
    /// Whom to become when started as root.
    pub user: Option<At<String>>,
    /// The group to become then; `None`: the user's.
    pub group: Option<At<String>>,
    /// Whether the kernel is asked to refuse all files that are not needed.
    pub confine: bool,
    /// Folders that may be read all the same.
    pub read: Vec<At<PathBuf>>,
}

/// One `[[listener]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name in logs and metrics; unique.
    pub name: String,
    /// Where it listens; `[::]` takes IPv4 too. Port 0 lets the kernel choose (tests).
    pub address: At<SocketAddr>,
    /// Its TLS mode.
    pub tls: ListenerTls,
    /// With `tls = "none"`: let clients that are not on loopback log in all the same.
    pub allow_plaintext: bool,
    /// Peers that must send a PROXY header. All others must not.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Peers whose RFC 2971 ID (`x-originating-ip` and friends) is believed.
    pub id_from: Vec<IpNet>,
    /// SASL mechanisms announced, EXTERNAL aside (that one is there when a verified client certificate is).
    pub mechanisms: Vec<Mechanism>,
}

/// The TLS mode of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListenerTls {
    /// TLS from the first byte.
    Implicit,
    /// In clear until STARTTLS; no login before.
    StartTls,
    /// In clear.
    None,
}

/// A SASL mechanism that a listener can be told to announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the mechanisms")]
pub enum Mechanism {
    Plain,
    Login,
    XOAuth2,
    OAuthBearer,
    ScramSha1,
    ScramSha256,
}

/// `[tls]`: what clients meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// The oldest version accepted.
    pub min_version: TlsVersion,
    /// Whether clients are asked for certificates.
    pub client_auth: ClientAuth,
    /// The field of a client's certificate that names the user, for EXTERNAL.
    pub client_name: CertificateName,
    /// The first is the default; the others are chosen by SNI.
    pub certificates: Vec<CertificateFiles>,
    /// Every pair NAME.pem + NAME.key in it.
    pub directory: Option<At<PathBuf>>,
    /// How often it is looked whether one of these files has changed; `None`: only a reload reads them again.
    pub watch: Option<Duration>,
}

/// A TLS version that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    V12,
    V13,
}

/// Client certificates.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientAuth {
    /// Never asked for.
    Off,
    /// Asked for; a client without one is let in, one with a bad one is not.
    Optional {
        /// PEM file of the issuing authorities.
        ca: At<PathBuf>,
    },
    /// Demanded.
    Required {
        /// PEM file of the issuing authorities.
        ca: At<PathBuf>,
    },
}

/// Which field of a client's certificate holds the user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The first rfc822Name among the subject's alternative names.
    Email,
    /// The subject's common name.
    CommonName,
}

/// A certificate chain and its key, PEM files both.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateFiles {
    /// Leaf first.
    pub chain: At<PathBuf>,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: At<PathBuf>,
}

/// One `[[backend]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Its name in routes, logs and metrics; unique.
    pub name: String,
    /// Host name or IP address (without brackets).
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS towards it.
    pub tls: BackendTls,
    /// The PROXY header sent, if any.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Tell it the client's address by RFC 2971 ID.
    pub forward_id: bool,
    /// Local addresses to dial from, in turn; empty: the kernel's choice.
    pub source: Vec<IpAddr>,
    /// The most links to it, whatever they are for; 0: no such limit.
    pub max_links: usize,
    /// The most of them that one user has; 0: no such limit.
    pub max_links_per_user: usize,
    /// Its share of a group's users, against the other members' weights.
    pub weight: NonZeroU32,
    /// How it is found out whether it is well.
    pub health: Health,
}

/// How it is found out whether a backend is well.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// It is probed so often; `None`: never, only what logins meet counts.
    pub interval: Option<Duration>,
    /// So long it has for one probe: TCP, TLS, greeting, and the login if there is one.
    pub timeout: Duration,
    /// After so many successes in a row it is up again.
    pub rise: NonZeroU32,
    /// After so many failures in a row it is down.
    pub fall: NonZeroU32,
    /// The account that a probe logs in to, and the file that holds its password.
    pub login: Option<(String, At<PathBuf>)>,
}

impl Health {
    /// No probes; three failures of logins in a row are one too many.
    pub fn unprobed() -> Self {
        let three = NonZeroU32::MIN.saturating_add(2);
        Self { interval: None, timeout: Duration::from_secs(2), rise: NonZeroU32::MIN, fall: three, login: None }
    }
}

/// One `[[group]]`: backends that share users.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name in routes; unique, also among the backends'.
    pub name: String,
    /// Indices into [`Config::backends`].
    pub members: Vec<usize>,
    /// The same: who steps in when no member is well, in this order.
    pub standby: Vec<usize>,
    /// How one of the members is chosen.
    pub choose: Choose,
}

/// How a group chooses among its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choose {
    /// By the user's name: weighted rendezvous hashing.
    Hash,
    /// The one with the fewest sessions for its weight.
    LeastSessions,
    /// The first that is well.
    FirstHealthy,
}

impl Backend {
    /// A backend of which only its address is known, and that is filled in later: the defaults.
    pub fn usual() -> Self {
        check::usual_backend()
    }
}

/// TLS towards a backend.
#[derive(Debug, Clone, PartialEq)]
pub enum BackendTls {
    /// In clear.
    None,
    /// In clear until STARTTLS; a backend that does not offer it is not logged in to.
    StartTls(TlsClient),
    /// From the first byte.
    Implicit(TlsClient),
}

/// How mailmux behaves as a TLS client.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsClient {
    /// The name sent as SNI and looked for in the certificate: `tls_name`, or else the host.
    pub name: String,
    /// Whom to trust.
    pub roots: Roots,
    /// Our own certificate, if the backend asks for one.
    pub client: Option<CertificateFiles>,
    /// False only where `tls_verify = false` was written out.
    pub verify: bool,
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq)]
pub enum Roots {
    /// Mozilla's list, built in.
    WebPki,
    /// The machine's own store.
    System,
    /// A PEM file, and nothing else.
    File(At<PathBuf>),
}

/// PROXY protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ProxyVersion {
    V1,
    V2,
}

/// One `[[lookup]]`: a source of routes.
#[derive(Debug, Clone, PartialEq)]
pub struct Lookup {
    /// Its name in routes and metrics; unique.
    pub name: String,
    /// What it is.
    pub source: LookupSource,
    /// Whether it is told or asked if a password is right, and believed.
    pub authenticate: bool,
    /// How long a question may take.
    pub timeout: Duration,
    /// Whether and how answers are kept.
    pub cache: Option<Cache>,
    /// Where it may send users.
    pub allow: Allow,
    /// Index into [`Config::backends`] of the one whose settings serve for hosts that it names and the configuration does
    /// not; `None`: the defaults of a backend.
    pub template: Option<usize>,
}

/// The kinds of sources.
#[derive(Debug, Clone, PartialEq)]
pub enum LookupSource {
    /// A map file: `user<TAB>backend [key=value ...]`.
    File {
        /// Its path.
        path: At<PathBuf>,
    },
    /// A responder that speaks nginx's `auth_http` protocol.
    Http(HttpLookup),
    /// A database.
    Sql(SqlLookup),
    /// A directory.
    Ldap(LdapLookup),
}

/// A responder that speaks nginx's `auth_http` protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpLookup {
    /// `http://` or `https://`, host, path.
    pub url: At<String>,
    /// Sent with every question, as written.
    pub headers: Vec<(String, String)>,
    /// A file of more of them, `Name: value` in each line.
    pub headers_file: Option<At<PathBuf>>,
    /// Whether it is sent the client's certificate, in PEM.
    pub pass_client_certificate: bool,
    /// Whom to trust under `https`; `None`: Mozilla's list.
    pub ca: Option<At<PathBuf>>,
    /// The most questions at a time; others wait.
    pub connections: NonZeroU32,
}

/// A database: SQLite, PostgreSQL or MySQL.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlLookup {
    /// `sqlite:`, `postgres:` or `mysql:`. It may hold a password: read from a file, it never stands in an error.
    pub url: DatabaseUrl,
    /// The query, with `:user`, `:local` and `:domain` as parameters. Columns are fields of a route.
    pub query: At<String>,
    /// The most connections.
    pub connections: NonZeroU32,
}

/// Where a database's URL stands.
#[derive(Debug, Clone, PartialEq)]
pub enum DatabaseUrl {
    /// Here.
    Written(At<String>),
    /// In a file.
    File(At<PathBuf>),
}

/// A directory.
#[derive(Debug, Clone, PartialEq)]
pub struct LdapLookup {
    /// `ldap://`, `ldaps://` or `ldapi://`.
    pub url: At<String>,
    /// StartTLS; only with `ldap://`.
    pub start_tls: bool,
    /// Whom to trust; `None`: the machine's own store.
    pub ca: Option<At<PathBuf>>,
    /// Who searches: a name, and the file that holds its password; `None`: nobody in particular.
    pub bind: Option<(String, At<PathBuf>)>,
    /// Where the search begins.
    pub base: String,
    /// How deep it goes.
    pub scope: LdapScope,
    /// The filter, with `{user}`, `{local}` and `{domain}`, which are always escaped.
    pub filter: At<String>,
    /// Attributes and the fields of a route that they are.
    pub attributes: Vec<(String, String)>,
    /// The most connections.
    pub connections: NonZeroU32,
}

/// How deep a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of RFC 4511")]
pub enum LdapScope {
    Base,
    One,
    Sub,
}

/// How answers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// How long an answer is as good as new.
    pub ttl: Duration,
    /// How long the answer that there is no such user is.
    pub negative_ttl: Duration,
    /// How long after that an answer serves on while the source is down.
    pub stale: Duration,
    /// The most answers kept.
    pub entries: usize,
}

/// Where a lookup may send users, and their passwords with them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Allow {
    /// Names of backends and groups; `None`: all that the configuration names.
    pub names: Option<Vec<String>>,
    /// Hosts by name, that the configuration does not name.
    pub hosts: Vec<Glob>,
    /// Hosts by address.
    pub networks: Vec<IpNet>,
}

/// One `[[route]]`: a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// When it applies; all that is given must match.
    pub when: When,
    /// Where users then go.
    pub target: Target,
    /// The name they have there; `None`: the one they typed.
    pub rewrite: Option<Rewrite>,
    /// Whose credentials are used there.
    pub login: LoginAs,
    /// Index into [`Config::lookups`] of the one that says whether a password is right, where mailmux itself must know.
    pub authenticate: Option<usize>,
    /// Where links for its users come from, and where they go.
    pub pool: Pooling,
}

/// Where links come from and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pooling {
    /// Each login opens its own, which ends with the session.
    Off,
    /// It may be one that was opened before and is not logged in.
    Warm,
    /// The same, and after the session it may wait for the user's next one.
    Reuse,
}

/// The conditions of a rule; an absent one matches everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct When {
    /// The whole user name, ASCII case ignored.
    pub user: Option<Glob>,
    /// What stands behind its last `@`, ASCII case ignored.
    pub domain: Option<Glob>,
    /// The listener's name.
    pub listener: Option<String>,
    /// The name the client sent as SNI, ASCII case ignored.
    pub server_name: Option<Glob>,
    /// Networks the client is in; empty: all.
    pub client: Vec<IpNet>,
}

/// A pattern in which `*` stands for any run of bytes (an empty one too). Kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(pub Vec<Box<[u8]>>);

/// Where a rule sends users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Index into [`Config::backends`].
    Backend(usize),
    /// Index into [`Config::groups`].
    Group(usize),
    /// Index into [`Config::lookups`]; a user it does not know goes on to the next rule.
    Lookup(usize),
    /// Nowhere; the text is shown to the user.
    Reject(String),
}

/// `rewrite = "{local}"`: text and placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite(pub Vec<RewritePiece>);

/// A piece of a rewritten name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewritePiece {
    /// As it stands.
    Text(String),
    /// `{user}`: the whole name as typed.
    User,
    /// `{local}`: what stands before the last `@`.
    Local,
    /// `{domain}`: what stands behind it; nothing when there is none.
    Domain,
}

/// Whose credentials are used at the backend.
#[derive(Debug, Clone, PartialEq)]
pub enum LoginAs {
    /// The client's own.
    Passthrough,
    /// A master user's, acting for the client's user. Only for clients that mailmux itself has authenticated: by their
    /// certificate (EXTERNAL), or by a lookup.
    Master {
        /// The master user's name.
        user: String,
        /// The file that holds its password (one trailing line break is not part of it).
        password_file: At<PathBuf>,
        /// How it says for whom it acts.
        form: MasterForm,
    },
}

/// How a master user says for whom it acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterForm {
    /// SASL PLAIN's authorization identity.
    Authzid,
    /// `user*master` as the name, as Dovecot's separator has it.
    Starred,
}

/// `[limits]`. A count of 0 and a rate `"off"` mean: no such limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions per IPv4 address and IPv6 /64.
    pub sessions_per_network: usize,
    /// Sessions per user.
    pub sessions_per_user: usize,
    /// New connections per network.
    pub connects_per_network: Option<Rate>,
    /// Attempts to log in per user.
    pub logins_per_user: Option<Rate>,
    /// Distinct wrong secrets per network.
    pub failures_per_network: Option<Rate>,
    /// Distinct wrong secrets per user.
    pub failures_per_user: Option<Rate>,
    /// Networks to which none of the limits per network applies, nor the one on failures per user.
    pub exempt: Vec<IpNet>,
    /// The memory that there is; when most of it is used, nobody new is let in.
    pub memory: Memory,
}

/// How much memory there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// As much as the container has.
    Auto,
    /// So much.
    Bytes(u64),
    /// Nobody is turned away for it.
    Off,
}

/// `{ rate = "10/m", burst = 10 }`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// One every so often.
    pub every: Duration,
    /// So many at once.
    pub burst: NonZeroU32,
}

/// `[timeouts]`
#[derive(Debug, Clone, PartialEq)]
pub struct Timeouts {
    /// From accept to a whole PROXY header.
    pub proxy_header: Duration,
    /// One TLS handshake with a client.
    pub tls_handshake: Duration,
    /// From accept to a finished login, whatever happens meanwhile.
    pub login: Duration,
    /// TCP and TLS to a backend, one try.
    pub backend_connect: Duration,
    /// A login at the backend, all tries together.
    pub backend_login: Duration,
    /// No byte in either direction.
    pub relay_idle: Duration,
    /// Refusals of a login go out at multiples of this after the attempt, so that time tells nothing.
    pub refusal_grid: Duration,
}

/// `[pool]`
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Links to each backend that are kept open and not logged in.
    pub warm: usize,
    /// How long one of them waits; then it is replaced.
    pub warm_ttl: Duration,
    /// How long a link that is logged in waits for its user's next login.
    pub reuse_ttl: Duration,
    /// How long after its login a link may still be given to anybody.
    pub reuse_lifetime: Duration,
    /// The most of these in all.
    pub reuse_max: usize,
    /// The most of these that one user has on one backend.
    pub reuse_per_user: usize,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where the HTTP port listens.
    pub address: At<SocketAddr>,
    /// A file with the bearer token; demanded for an address that is not loopback.
    pub token_file: Option<At<PathBuf>>,
    /// A socket in the file system, for whoever may open it.
    pub socket: Option<At<PathBuf>>,
    /// Names under which the port is asked, besides addresses and localhost.
    pub names: Vec<String>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// The least that is logged.
    pub level: LogLevel,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogFormat {
    Text,
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As the file writes it.
    pub fn as_str(self) -> &'static str {
        file::word(self)
    }
}
