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
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::MaybeRate;
use crate::config::{Glob, Memory, Rate, Rewrite, RewritePiece};

/// A deadline further away than this is a slip of the pen, and adding it to a clock could overflow.
const LONGEST: Duration = Duration::from_hours(365 * 24);
/// Looking more often than this is a slip of the pen, too, and would be all that is done.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);
/// Bounds the arithmetic of rates (nanoseconds in 64 bits: an hour times this still fits).
const MOST_PER_UNIT: u32 = 1_000_000;
/// With less memory than this mailmux does not even start.
const SMALLEST_MEMORY: u64 = 16 << 20;
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
        write!(f, "a string, {}", T::expected())
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

/// How often something is looked at, if at all.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct Looks(pub(in crate::config) Option<Duration>);

impl FromText for Looks {
    fn expected() -> String {
        r#"a duration with its unit, such as "10s" or "5m", of a second at least, or "off""#.into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let every = Duration::from_text(text)?;
        if every < SHORTEST_LOOK { Err(format!("{text:?} is too often")) } else { Ok(Self(Some(every))) }
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
        if host.contains(':') && text.parse::<Ipv6Addr>().or_else(|_| host.parse()).is_ok() {
            return Err(format!("{text:?} holds an IPv6 address without brackets"));
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|port| digits && *port > 0);
        let port = port.ok_or_else(|| format!("{text:?} does not end in a port"))?;
        if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: Ipv6Addr = address.parse().map_err(plainly)?;
            return Ok(Self { host: address.to_string(), port });
        }
        let HostName(host) = HostName::from_text(host)?;
        Ok(Self { host, port })
    }
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

impl FromText for Memory {
    fn expected() -> String {
        r#""auto", "off", or a size with its unit, such as "512MiB" or "4GiB""#.into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => size(text).map(Self::Bytes).ok_or_else(String::new),
        }
    }
}

/// `512MiB` in bytes. What is smaller than the program itself is a slip of the pen.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at_checked(digits)?;
    let shift = match unit.trim_start() {
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    let count: u64 = count.parse().ok()?;
    count.checked_mul(1 << shift).filter(|bytes| *bytes >= SMALLEST_MEMORY)
}

/// `"20/s"`: the time from one to the next.
#[derive(Debug)]
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateTable {
    rate: Text<Pace>,
    burst: Count<1, MOST_PER_UNIT>,
}

/// A number within bounds.
#[derive(Debug, Clone, Copy)]
pub(in crate::config) struct Count<const LEAST: u32, const MOST: u32>(pub(in crate::config) u32);

impl<'de, const LEAST: u32, const MOST: u32> Deserialize<'de> for Count<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u32(CountVisitor)
    }
}

struct CountVisitor<const LEAST: u32, const MOST: u32>;

impl<const LEAST: u32, const MOST: u32> Visitor<'_> for CountVisitor<LEAST, MOST> {
    type Value = Count<LEAST, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number from {LEAST} to {MOST}")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        let count = u32::try_from(number).ok().filter(|count| (LEAST..=MOST).contains(count));
        count.map(Count).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
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
        if text == "off" { Ok(MaybeRate(None)) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MaybeRate, A::Error> {
        let RateTable { rate: Text(Pace(every)), burst: Count(burst) } =
            RateTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(MaybeRate(NonZeroU32::new(burst).map(|burst| Rate { every, burst })))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read<T: FromText>(text: &str) -> Option<T> {
        T::from_text(text).ok()
    }

    #[test]
    fn durations_need_a_unit_and_an_end() {
        assert_eq!(read::<Duration>("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(read::<Duration>("5m"), Some(Duration::from_mins(5)));
        assert_eq!(read::<Duration>("1h 30m"), Some(Duration::from_mins(90)));
        for text in ["", "30", "-1s", "5 parsecs", "366d", "99999999999999999999s"] {
            assert_eq!(read::<Duration>(text), None, "{text}");
        }
    }

    #[test]
    fn a_rate_is_the_time_from_one_to_the_next() {
        let pace = |text| read::<Pace>(text).map(|pace| pace.0);
        assert_eq!(pace("20/s"), Some(Duration::from_millis(50)));
        assert_eq!(pace("10/m"), Some(Duration::from_secs(6)));
        assert_eq!(pace("1/h"), Some(Duration::from_hours(1)));
        assert_eq!(pace("1000000/s"), Some(Duration::from_micros(1)));
        for text in
            ["", "20", "0/s", "/s", "20/", "20/d", "+1/s", "1.5/s", "1000001/s", "99999999999/s", "20/s/s", " 1/s"]
        {
            assert_eq!(pace(text), None, "{text}");
        }
    }

    #[test]
    fn networks_and_single_addresses() {
        let network = |text| read::<IpNet>(text).map(|network| network.to_string());
        assert_eq!(network("10.0.0.0/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("192.0.2.7").as_deref(), Some("192.0.2.7/32"));
        assert_eq!(network("2001:db8::7").as_deref(), Some("2001:db8::7/128"));
        assert_eq!(network("::/0").as_deref(), Some("::/0"));
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0", "::ffff:10.0.0.1", "example.org"] {
            assert_eq!(network(text), None, "{text}");
        }
    }

    #[test]
    fn a_host_and_its_port() {
        let address = |text| read::<HostPort>(text).map(|address| (address.host, address.port));
        assert_eq!(address("mail.example.org:993"), Some(("mail.example.org".into(), 993)));
        assert_eq!(address("192.0.2.7:143"), Some(("192.0.2.7".into(), 143)));
        assert_eq!(address("[2001:DB8::7]:993"), Some(("2001:db8::7".into(), 993)));
        let long = format!("{}:1", "a".repeat(64));
        for text in
            ["", ":1", "a", "a:", "a:0", "a:65536", "a:+1", "a:1 ", "::1:1", "[::1]", "[a]:1", "-a:1", "a..b:1", &long]
        {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn memory_is_a_word_or_a_size() {
        let memory = |text| read::<Memory>(text);
        assert_eq!(memory("auto"), Some(Memory::Auto));
        assert_eq!(memory("off"), Some(Memory::Off));
        assert_eq!(memory("512MiB"), Some(Memory::Bytes(512 << 20)));
        assert_eq!(memory("4 GiB"), Some(Memory::Bytes(4 << 30)));
        assert_eq!(memory("1TiB"), Some(Memory::Bytes(1 << 40)));
        for text in ["", "512", "MiB", "512MB", "512 mib", "-1MiB", "1.5GiB", "15MiB", "0MiB", "99999999TiB", "é"] {
            assert_eq!(memory(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        assert!(read::<Name>("mx-1.example_A").is_some());
        assert!(read::<Name>(&"a".repeat(64)).is_some());
        for text in ["", "a b", "a\t", "é", &"a".repeat(65)] {
            assert_eq!(read::<Name>(text), None, "{text}");
        }
    }

    #[test]
    fn what_users_read_is_one_printable_line() {
        assert!(read::<UserText>("Closed.").is_some());
        assert!(read::<UserText>(&"a".repeat(200)).is_some());
        for text in ["", "  ", "a\r\nb", "a\0", "\x1b[31m", "é", &"a".repeat(201)] {
            assert_eq!(read::<UserText>(text), None, "{text:?}");
        }
    }

    #[test]
    fn patterns_are_cut_at_their_stars() {
        let glob = |text| read::<Glob>(text).map(|glob| glob.0);
        assert_eq!(glob("*@Example.org"), Some(vec![(*b"").into(), (*b"@example.org").into()]));
        assert_eq!(glob("ann"), Some(vec![(*b"ann").into()]));
        assert_eq!(glob(""), None);
        assert_eq!(glob("a\0"), None);
    }

    #[test]
    fn a_rewrite_is_text_and_placeholders() {
        use RewritePiece::{Domain, Local, Text, User};
        let rewrite = |text| read::<Rewrite>(text).map(|rewrite| rewrite.0);
        assert_eq!(rewrite("{local}"), Some(vec![Local]));
        assert_eq!(rewrite("{user}"), Some(vec![User]));
        assert_eq!(rewrite("x-{local}.{domain}"), Some(vec![Text("x-".into()), Local, Text(".".into()), Domain]));
        assert_eq!(rewrite("{{{local}}}é"), Some(vec![Text("{".into()), Local, Text("}é".into())]));
        for text in ["", "{", "}", "{local", "local}", "{mailbox}", "{ user }", "{}", "{local}\r\n"] {
            assert_eq!(rewrite(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_every_refusal_says_what_is_expected(input in ".*") {
            let refusals = [
                text::<Duration>(&input).err(),
                text::<Pace>(&input).err(),
                text::<IpNet>(&input).err(),
                text::<HostPort>(&input).err(),
                text::<Rewrite>(&input).err(),
                text::<Glob>(&input).err(),
                text::<Memory>(&input).err(),
            ];
            for refusal in refusals.into_iter().flatten() {
                prop_assert!(refusal.contains("\nexpected "), "{}", refusal);
            }
        }

        #[test]
        fn a_braced_text_is_itself(input in "[a-z{}]{1,40}") {
            let escaped = input.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(read::<Rewrite>(&escaped), Some(Rewrite(vec![RewritePiece::Text(input)])));
        }
    }
}
