//! The shape of the TOML file: every section and key, and the only place where defaults stand. `value.rs` knows how a
//! single value is written, `tree.rs` turns the text into these shapes and finds every mistake of form, `masked.rs` makes a
//! text of it that may be shown. Not here: rules about more than one key, which are `check.rs`'s.
//!
//! Mandatory keys are options, so that all of those that are missing can be reported. [`Text`] is a value written as a
//! string; [`Written`] and [`Spanned`] also keep its place, where a later rule may want to point at it.

mod lookups;
mod masked;
mod tree;
mod value;
mod words;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
pub(super) use toml::Spanned;

use super::{
    CertificateName, Glob, ListenerTls, LogFormat, LogLevel, MasterForm, Mechanism, Memory, Pooling, ProxyVersion,
    Rate, Rewrite, TlsVersion,
};

pub(super) use lookups::{Group, Health, Line, Lookup, MaybeCache};
pub use masked::Masked;
pub(super) use tree::{Section, parse};
pub(super) use value::{Count, HostName, HostPort, Looks, Name, Text, UserText, Written, text};
pub(super) use words::{ClientCertificates, LookupKind, PublicRoots, WhoseLogin, word};

/// A whole file. The lists keep the order of the file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) server: Section<Server>,
    pub(super) listeners: Vec<Section<Listener>>,
    pub(super) tls: Section<Tls>,
    pub(super) backends: Vec<Section<Backend>>,
    pub(super) groups: Vec<Section<Group>>,
    pub(super) lookups: Vec<Section<Lookup>>,
    pub(super) routes: Vec<Section<Route>>,
    pub(super) limits: Section<Limits>,
    pub(super) timeouts: Section<Timeouts>,
    pub(super) pool: Section<Pool>,
    pub(super) admin: Option<Section<Admin>>,
    pub(super) log: Section<Log>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    pub(super) workers: Count<0, 1024>,
    pub(super) drain_timeout: Text<Duration>,
    pub(super) name_servers: Vec<Text<SocketAddr>>,
    pub(super) user: Option<Written<Line>>,
    pub(super) group: Option<Written<Line>>,
    pub(super) confine: bool,
    pub(super) read: Vec<Written<PathBuf>>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            workers: Count(0),
            drain_timeout: Text(Duration::from_mins(5)),
            name_servers: Vec::new(),
            user: None,
            group: None,
            confine: true,
            read: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) name: Option<Written<Name>>,
    pub(super) address: Option<Written<SocketAddr>>,
    pub(super) tls: Text<ListenerTls>,
    pub(super) allow_plaintext: Spanned<bool>,
    pub(super) proxy_protocol_from: Vec<Text<IpNet>>,
    pub(super) id_from: Vec<Text<IpNet>>,
    pub(super) mechanisms: Vec<Written<Mechanism>>,
}

impl Default for Listener {
    fn default() -> Self {
        let mechanisms = [Mechanism::Plain, Mechanism::Login, Mechanism::XOAuth2, Mechanism::OAuthBearer];
        Self {
            name: None,
            address: None,
            tls: Text(ListenerTls::Implicit),
            allow_plaintext: unwritten(false),
            proxy_protocol_from: Vec::new(),
            id_from: Vec::new(),
            mechanisms: mechanisms.map(Written::default_of).into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) min_version: Text<TlsVersion>,
    pub(super) client_auth: Written<ClientCertificates>,
    pub(super) client_ca: Option<Written<PathBuf>>,
    pub(super) client_name: Text<CertificateName>,
    pub(super) certificate: Vec<Spanned<Certificate>>,
    pub(super) directory: Option<Written<PathBuf>>,
    pub(super) watch: Text<Looks>,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            min_version: Text(TlsVersion::V12),
            client_auth: Written::default_of(ClientCertificates::Off),
            client_ca: None,
            client_name: Text(CertificateName::Email),
            certificate: Vec::new(),
            directory: None,
            watch: Text(Looks(Some(Duration::from_secs(10)))),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table with `chain` and `key`")]
pub(super) struct Certificate {
    pub(super) chain: Option<Written<PathBuf>>,
    pub(super) key: Option<Written<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) name: Option<Written<Name>>,
    pub(super) address: Option<Written<HostPort>>,
    pub(super) tls: Text<ListenerTls>,
    pub(super) tls_name: Option<Written<HostName>>,
    pub(super) tls_verify: Option<Spanned<bool>>,
    pub(super) roots: Option<Written<PublicRoots>>,
    pub(super) ca: Option<Written<PathBuf>>,
    pub(super) client_chain: Option<Written<PathBuf>>,
    pub(super) client_key: Option<Written<PathBuf>>,
    pub(super) proxy_protocol: Text<Option<ProxyVersion>>,
    pub(super) forward_id: bool,
    pub(super) source: Spanned<Vec<Text<IpAddr>>>,
    pub(super) max_links: Count<0, { u32::MAX }>,
    pub(super) max_links_per_user: Count<0, { u32::MAX }>,
    pub(super) weight: Count<1, 1000>,
    pub(super) health: Spanned<Health>,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            name: None,
            address: None,
            tls: Text(ListenerTls::Implicit),
            tls_name: None,
            tls_verify: None,
            roots: None,
            ca: None,
            client_chain: None,
            client_key: None,
            proxy_protocol: Text(None),
            forward_id: true,
            source: unwritten(Vec::new()),
            max_links: Count(0),
            max_links_per_user: Count(0),
            weight: Count(1),
            health: unwritten(Health::default()),
        }
    }
}

/// Defaults of keys that are options because writing them can be a mistake.
impl Backend {
    pub(super) fn tls_verify(&self) -> bool {
        self.tls_verify.as_ref().is_none_or(|verify| *verify.get_ref())
    }

    pub(super) fn roots(&self) -> PublicRoots {
        self.roots.as_ref().map_or(PublicRoots::WebPki, |roots| roots.value)
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    pub(super) user: Option<Text<Glob>>,
    pub(super) domain: Option<Written<Glob>>,
    pub(super) listener: Option<Written<Name>>,
    pub(super) server_name: Option<Text<Glob>>,
    pub(super) client: Option<Spanned<Vec<Text<IpNet>>>>,
    pub(super) backend: Option<Written<Name>>,
    pub(super) group: Option<Written<Name>>,
    pub(super) lookup: Option<Written<Name>>,
    pub(super) reject: Option<Written<UserText>>,
    pub(super) rewrite: Option<Written<Rewrite>>,
    pub(super) login: Written<WhoseLogin>,
    pub(super) authenticate: Option<Written<Name>>,
    pub(super) master_user: Option<Written<UserText>>,
    pub(super) master_password_file: Option<Written<PathBuf>>,
    pub(super) master_form: Option<Written<MasterForm>>,
    pub(super) pool: Written<Pooling>,
}

impl Default for Route {
    fn default() -> Self {
        Self {
            user: None,
            domain: None,
            listener: None,
            server_name: None,
            client: None,
            backend: None,
            group: None,
            lookup: None,
            reject: None,
            rewrite: None,
            login: Written::default_of(WhoseLogin::Passthrough),
            authenticate: None,
            master_user: None,
            master_password_file: None,
            master_form: None,
            pool: Written::default_of(Pooling::Off),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) sessions: Count<0, { u32::MAX }>,
    pub(super) sessions_per_network: Count<0, { u32::MAX }>,
    pub(super) sessions_per_user: Count<0, { u32::MAX }>,
    pub(super) connects_per_network: MaybeRate,
    pub(super) logins_per_user: MaybeRate,
    pub(super) failures_per_network: MaybeRate,
    pub(super) failures_per_user: MaybeRate,
    pub(super) exempt: Vec<Text<IpNet>>,
    pub(super) memory: Text<Memory>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: Count(100_000),
            sessions_per_network: Count(500),
            sessions_per_user: Count(50),
            connects_per_network: rate(20, Duration::from_secs(1), 100),
            logins_per_user: rate(2, Duration::from_secs(1), 20),
            failures_per_network: rate(10, Duration::from_mins(1), 10),
            failures_per_user: rate(10, Duration::from_mins(1), 10),
            exempt: loopback().map(Text).into(),
            memory: Text(Memory::Auto),
        }
    }
}

/// `{ rate = "20/s", burst = 100 }` or `"off"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaybeRate(pub(super) Option<Rate>);

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    pub(super) proxy_header: Written<Duration>,
    pub(super) tls_handshake: Written<Duration>,
    pub(super) login: Written<Duration>,
    pub(super) backend_connect: Written<Duration>,
    pub(super) backend_login: Written<Duration>,
    pub(super) relay_idle: Written<Duration>,
    pub(super) refusal_grid: Written<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |count| Written::default_of(Duration::from_secs(count));
        Self {
            proxy_header: seconds(5),
            tls_handshake: seconds(10),
            login: seconds(60),
            backend_connect: seconds(5),
            backend_login: seconds(30),
            relay_idle: Written::default_of(Duration::from_mins(35)),
            refusal_grid: Written::default_of(Duration::from_millis(500)),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) warm: Spanned<Count<0, 1000>>,
    pub(super) warm_ttl: Written<Duration>,
    pub(super) reuse_ttl: Written<Duration>,
    pub(super) reuse_lifetime: Written<Duration>,
    pub(super) reuse_max: Count<0, { u32::MAX }>,
    pub(super) reuse_per_user: Count<1, 1000>,
}

impl Default for Pool {
    fn default() -> Self {
        let minute = || Written::default_of(Duration::from_mins(1));
        Self {
            warm: unwritten(Count(0)),
            warm_ttl: minute(),
            reuse_ttl: minute(),
            reuse_lifetime: Written::default_of(Duration::from_mins(10)),
            reuse_max: Count(10_000),
            reuse_per_user: Count(8),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) address: Written<SocketAddr>,
    pub(super) token_file: Option<Written<PathBuf>>,
    pub(super) socket: Option<Written<PathBuf>>,
    pub(super) names: Vec<Spanned<String>>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: Written::default_of(SocketAddr::from((Ipv4Addr::LOCALHOST, 9143))),
            token_file: None,
            socket: None,
            names: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub(super) format: Text<LogFormat>,
    pub(super) level: Text<LogLevel>,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: Text(LogFormat::Text), level: Text(LogLevel::Info) }
    }
}

/// A default stands nowhere in the file.
fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn rate(count: u32, unit: Duration, burst: u32) -> MaybeRate {
    let every = unit.checked_div(count).unwrap_or(unit);
    MaybeRate(NonZeroU32::new(burst).map(|burst| Rate { every, burst }))
}

fn loopback() -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
    let v6 = Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128);
    [v4.into(), v6.into()]
}
