//! How a single value is written: durations, rates, networks, addresses, names, patterns, words. A value that parses here
//! needs no further look at itself; every failure says what was found and, on a second line, what is expected.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::MaybeRate;
use crate::config::{
    CertificateName, Glob, ListenerTls, LogFormat, LogLevel, Mechanism, ProxyVersion, Rate, Rewrite, RewritePiece,
    TlsVersion,
};

/// A deadline further away than this is a slip of the pen, and adding it to a clock could overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Bounds the arithmetic of rates (nanoseconds in 64 bits: an hour times this still fits).
const MOST_PER_UNIT: u32 = 1_000_000;
/// What a reply line or a user name may hold.
const LONGEST_TEXT: usize = 200;

/// What can be written as a string.
pub(in crate::config) trait FromText: Sized {
    /// What the string should be, for people.
    fn expected() -> String;
    /// Reads it; the error says what is wrong with it, and may be empty when that is plain.
    fn from_text(text: &str) -> Result<Self, String>;
}

/// A value written as a string.
#[derive(Debug, Clone)]
pub(in crate::config) struct Text<T>(pub(in crate::config) T);

/// A value written as a string, and where.
#[derive(Debug, Clone)]
pub(in crate::config) struct Written<T> {
    pub(in crate::config) value: T,
    pub(in crate::config) span: Range<usize>,
}

impl<T> Written<T> {
    /// A default, which stands nowhere in the file.
    pub(super) fn default_of(value: T) -> Self {
        Self { value, span: 0..0 }
    }

    /// Whether it stands in the file; a default does not.
    pub(in crate::config) fn is_in_file(&self) -> bool {
        !self.span.is_empty()
    }
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData)).map(Self)
    }
}

impl<'de, T: FromText> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Text<T>>::deserialize(deserializer)?;
        Ok(Self { span: spanned.span(), value: spanned.into_inner().0 })
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: FromText> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::expected())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self::text(text).map_err(E::custom)
    }
}

/// Reads a value outside of a file, or says what is wrong with it and what is expected.
pub(in crate::config) fn text<T: FromText>(text: &str) -> Result<T, String> {
    T::from_text(text).map_err(|problem| {
        let expected = T::expected();
        if problem.is_empty() {
            format!("found {text:?}\nexpected {expected}")
        } else {
            format!("{problem}\nexpected {expected}")
        }
    })
}

/// The error of a value that is plainly something else.
fn plainly<E>(_: E) -> String {
    String::new()
}

impl FromText for Duration {
    fn expected() -> String {
        r#"a duration with its unit, such as "500ms", "30s", "5m" or "1h""#.into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text).map_err(plainly)?;
        if duration > LONGEST { Err(format!("{text:?} is longer than a year")) } else { Ok(duration) }
    }
}

impl FromText for IpNet {
    fn expected() -> String {
        r#"a network or an address, such as "10.0.0.0/8", "2001:db8::/32" or "192.0.2.7""#.into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let network = match text.parse::<Self>() {
            Ok(network) => network,
            Err(_) => text.parse::<IpAddr>().map_err(plainly)?.into(),
        };
        if network.addr() != network.network() {
            return Err(format!("{text:?} has bits set behind its prefix: {}?", network.trunc()));
        }
        // Such peers are seen as IPv4, so that this could never match.
        if matches!(network.addr(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
            return Err(format!("{text:?} is IPv4 within IPv6: write it as IPv4"));
        }
        Ok(network)
    }
}

impl FromText for SocketAddr {
    fn expected() -> String {
        r#"an IP address and a port, such as "0.0.0.0:993" or "[::]:993""#.into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(plainly)
    }
}

impl FromText for IpAddr {
    fn expected() -> String {
        "an IP address".into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(plainly)
    }
}

impl FromText for PathBuf {
    fn expected() -> String {
        "a path".into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') { Err(String::new()) } else { Ok(text.into()) }
    }
}

/// What listeners, backends and lookups are called. It becomes a metric label and a word in a map file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::config) struct Name(pub(in crate::config) String);

impl FromText for Name {
    fn expected() -> String {
        "a name of 1 to 64 letters, digits, dots, underscores and hyphens".into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(allowed);
        if fits { Ok(Self(text.into())) } else { Err(String::new()) }
    }
}

/// A DNS name or an IP address, without brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct HostName(pub(in crate::config) String);

impl FromText for HostName {
    fn expected() -> String {
        "a host name or an IP address".into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.parse::<IpAddr>().is_ok() || is_dns_name(text) { Ok(Self(text.into())) } else { Err(String::new()) }
    }
}

/// RFC 1123 2.1, with underscores, as found in the wild. A last label of digits alone is a mistyped IPv4 address.
fn is_dns_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(good) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct HostPort {
    pub(in crate::config) host: String,
    pub(in crate::config) port: u16,
}

impl FromText for HostPort {
    fn expected() -> String {
        r#"a host and a port, such as "mail.example.org:993", "192.0.2.7:143" or "[2001:db8::7]:993""#.into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} names no port"))?;
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 && !text.ends_with(char::is_whitespace) && !port_has_sign(text) => port,
            _ => return Err(format!("{port:?} is not a port")),
        };
        if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr = address.parse().map_err(plainly)?;
            return Ok(Self { host: address.to_string(), port });
        }
        if host.contains(':') {
            return Err(format!("{text:?} holds an IPv6 address without brackets"));
        }
        let HostName(host) = HostName::from_text(host)?;
        Ok(Self { host, port })
    }
}

fn port_has_sign(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(_, port)| port.starts_with('+'))
}

/// Text that goes out on the wire as it is: what a rejected user reads, the name of a master user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct UserText(pub(in crate::config) String);

impl FromText for UserText {
    fn expected() -> String {
        format!("1 to {LONGEST_TEXT} printable ASCII characters")
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let fits = (1..=LONGEST_TEXT).contains(&text.len()) && printable && !text.trim().is_empty();
        if fits { Ok(Self(text.into())) } else { Err(String::new()) }
    }
}

impl FromText for Glob {
    fn expected() -> String {
        r#"a pattern such as "*@example.org", in which * stands for anything"#.into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(String::new());
        }
        Ok(Self(text.to_ascii_lowercase().split('*').map(|piece| piece.as_bytes().into()).collect()))
    }
}

impl FromText for Rewrite {
    fn expected() -> String {
        r#"text with {user}, {local} and {domain} in it, such as "{local}"; a brace itself is {{ or }}"#.into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > LONGEST_TEXT || text.chars().any(char::is_control) {
            return Err(String::new());
        }
        rewrite_pieces(text).map(Self)
    }
}

fn rewrite_pieces(text: &str) -> Result<Vec<RewritePiece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        literal.push_str(before);
        if let Some(behind) = brace.strip_prefix("{{").or_else(|| brace.strip_prefix("}}")) {
            literal.push_str(&brace[..1]);
            rest = behind;
            continue;
        }
        let (name, behind) = brace
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'))
            .ok_or_else(|| format!("{text:?} has a brace without its partner"))?;
        if !literal.is_empty() {
            pieces.push(RewritePiece::Text(std::mem::take(&mut literal)));
        }
        pieces.push(match name {
            "user" => RewritePiece::User,
            "local" => RewritePiece::Local,
            "domain" => RewritePiece::Domain,
            _ => return Err(format!("{:?} stands for nothing", format!("{{{name}}}"))),
        });
        rest = behind;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(RewritePiece::Text(literal));
    }
    Ok(pieces)
}

/// `"20/s"`: the time from one to the next.
struct Pace(Duration);

impl FromText for Pace {
    fn expected() -> String {
        format!(r#"a number up to {MOST_PER_UNIT} per s, m or h, such as "20/s" or "10/m""#)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let (count, unit) = text.split_once('/').ok_or_else(String::new)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(String::new()),
        };
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse::<u32>().ok().filter(|count| digits && (1..=MOST_PER_UNIT).contains(count));
        let every = count.and_then(|count| Duration::from_secs(seconds).checked_div(count));
        every.map(Self).ok_or_else(String::new)
    }
}

/// `0` would never let anybody in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateTable {
    rate: Text<Pace>,
    burst: Burst,
}

struct Burst(NonZeroU32);

impl<'de> Deserialize<'de> for Burst {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u32(BurstVisitor)
    }
}

struct BurstVisitor;

impl Visitor<'_> for BurstVisitor {
    type Value = Burst;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number from 1 to {MOST_PER_UNIT}")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Burst, E> {
        let burst = u32::try_from(number).ok().filter(|burst| *burst <= MOST_PER_UNIT).and_then(NonZeroU32::new);
        burst.map(Burst).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
    }
}

impl<'de> Deserialize<'de> for MaybeRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RateVisitor)
    }
}

struct RateVisitor;

impl<'de> Visitor<'de> for RateVisitor {
    type Value = MaybeRate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#""off" or a rate such as { rate = "20/s", burst = 100 }"#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<MaybeRate, E> {
        if text == "off" { Ok(MaybeRate(None)) } else { Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MaybeRate, A::Error> {
        let RateTable { rate: Text(Pace(every)), burst: Burst(burst) } =
            RateTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(MaybeRate(Some(Rate { every, burst })))
    }
}

/// A closed list of words.
trait Words: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> FromText for T {
    fn expected() -> String {
        let words: Vec<_> = T::WORDS.iter().map(|(word, _)| *word).collect();
        format!("one of: {}", words.join(", "))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(String::new)
    }
}

impl Words for ListenerTls {
    const WORDS: &'static [(&'static str, Self)] =
        &[("implicit", Self::Implicit), ("starttls", Self::StartTls), ("none", Self::None)];
}

impl Words for Mechanism {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("PLAIN", Self::Plain),
        ("LOGIN", Self::Login),
        ("XOAUTH2", Self::XOAuth2),
        ("OAUTHBEARER", Self::OAuthBearer),
        ("SCRAM-SHA-1", Self::ScramSha1),
        ("SCRAM-SHA-256", Self::ScramSha256),
    ];
}

impl Words for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] = &[("1.2", Self::V12), ("1.3", Self::V13)];
}

impl Words for CertificateName {
    const WORDS: &'static [(&'static str, Self)] = &[("email", Self::Email), ("common_name", Self::CommonName)];
}

impl Words for Option<ProxyVersion> {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
}

impl Words for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Words for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

/// `client_auth`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum ClientCertificates {
    Off,
    Optional,
    Required,
}

impl Words for ClientCertificates {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];
}

/// `roots`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum PublicRoots {
    WebPki,
    System,
}

impl Words for PublicRoots {
    const WORDS: &'static [(&'static str, Self)] = &[("webpki", Self::WebPki), ("system", Self::System)];
}

/// A lookup's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum LookupKind {
    File,
}

impl Words for LookupKind {
    const WORDS: &'static [(&'static str, Self)] = &[("file", Self::File)];
}

/// A route's `login`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum WhoseLogin {
    Passthrough,
    Master,
}

impl Words for WhoseLogin {
    const WORDS: &'static [(&'static str, Self)] = &[("passthrough", Self::Passthrough), ("master", Self::Master)];
}
