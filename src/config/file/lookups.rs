//! The shape of `[[lookup]]`, `[[group]]` and of what stands in braces in a backend: `health`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::value::FromText;
use super::words::LookupKind;
use super::{Count, Name, Spanned, Text, UserText, Written, unwritten};
use crate::config::{Cache, Choose, LdapScope};

/// All keys of all kinds; `check/lookups.rs` knows which belong to which.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Lookup {
    pub(in crate::config) name: Option<Written<Name>>,
    pub(in crate::config) r#type: Option<Written<LookupKind>>,
    pub(in crate::config) timeout: Written<Duration>,
    pub(in crate::config) cache: Option<Spanned<MaybeCache>>,
    pub(in crate::config) allow: Option<Vec<Written<Line>>>,
    pub(in crate::config) template: Option<Written<Name>>,
    pub(in crate::config) path: Option<Written<PathBuf>>,
    pub(in crate::config) url: Option<Written<Line>>,
    pub(in crate::config) url_file: Option<Written<PathBuf>>,
    pub(in crate::config) headers: Option<Spanned<BTreeMap<String, Text<Line>>>>,
    pub(in crate::config) headers_file: Option<Written<PathBuf>>,
    pub(in crate::config) pass_client_certificate: Spanned<bool>,
    pub(in crate::config) authenticate: Spanned<bool>,
    pub(in crate::config) connections: Spanned<Count<1, 1000>>,
    pub(in crate::config) query: Option<Written<Paragraph>>,
    pub(in crate::config) start_tls: Spanned<bool>,
    pub(in crate::config) ca: Option<Written<PathBuf>>,
    pub(in crate::config) bind_dn: Option<Written<Line>>,
    pub(in crate::config) bind_password_file: Option<Written<PathBuf>>,
    pub(in crate::config) base: Option<Written<Line>>,
    pub(in crate::config) scope: Option<Written<LdapScope>>,
    pub(in crate::config) filter: Option<Written<Line>>,
    pub(in crate::config) attributes: Option<Spanned<BTreeMap<String, Text<Line>>>>,
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            name: None,
            r#type: None,
            timeout: Written::default_of(Duration::from_secs(5)),
            cache: None,
            allow: None,
            template: None,
            path: None,
            url: None,
            url_file: None,
            headers: None,
            headers_file: None,
            pass_client_certificate: unwritten(false),
            authenticate: unwritten(false),
            connections: unwritten(Count(16)),
            query: None,
            start_tls: unwritten(false),
            ca: None,
            bind_dn: None,
            bind_password_file: None,
            base: None,
            scope: None,
            filter: None,
            attributes: None,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Group {
    pub(in crate::config) name: Option<Written<Name>>,
    pub(in crate::config) members: Option<Spanned<Vec<Written<Name>>>>,
    pub(in crate::config) standby: Vec<Written<Name>>,
    pub(in crate::config) choose: Option<Text<Choose>>,
}

/// One line of printable text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Line(pub(in crate::config) String);

impl FromText for Line {
    fn expected() -> String {
        "one line of text".into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let fits = !text.trim().is_empty() && text.len() <= 4096 && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.into())) } else { Err(String::new()) }
    }
}

/// Text that may have several lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Paragraph(pub(in crate::config) String);

impl FromText for Paragraph {
    fn expected() -> String {
        "text".into()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let fits = !text.trim().is_empty() && text.len() <= 65_536 && !text.contains('\0');
        if fits { Ok(Self(text.into())) } else { Err(String::new()) }
    }
}

/// `{ ttl = "60s", negative_ttl = "5s", stale = "1h", entries = 100000 }` or `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct MaybeCache(pub(in crate::config) Option<Cache>);

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CacheTable {
    ttl: Text<Duration>,
    negative_ttl: Text<Duration>,
    stale: Text<Duration>,
    entries: Count<1, 100_000_000>,
}

impl Default for CacheTable {
    fn default() -> Self {
        Self {
            ttl: Text(Duration::from_mins(1)),
            negative_ttl: Text(Duration::from_secs(5)),
            stale: Text(Duration::from_hours(1)),
            entries: Count(100_000),
        }
    }
}

impl MaybeCache {
    /// What a lookup has that does not say.
    pub(in crate::config) fn usual() -> Cache {
        CacheTable::default().into()
    }
}

impl From<CacheTable> for Cache {
    fn from(table: CacheTable) -> Self {
        Self {
            ttl: table.ttl.0,
            negative_ttl: table.negative_ttl.0,
            stale: table.stale.0,
            entries: usize::try_from(table.entries.0).unwrap_or(usize::MAX),
        }
    }
}

impl<'de> Deserialize<'de> for MaybeCache {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CacheVisitor)
    }
}

struct CacheVisitor;

impl<'de> Visitor<'de> for CacheVisitor {
    type Value = MaybeCache;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#""off" or a table such as { ttl = "60s", negative_ttl = "5s", stale = "1h", entries = 100000 }"#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<MaybeCache, E> {
        if text == "off" { Ok(MaybeCache(None)) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MaybeCache, A::Error> {
        Ok(MaybeCache(Some(CacheTable::deserialize(MapAccessDeserializer::new(map))?.into())))
    }
}

/// `{ interval = "5s", timeout = "2s", rise = 2, fall = 3 }` or `"off"`: no probes, logins alone tell.
#[derive(Debug, Clone)]
pub(in crate::config) struct Health {
    pub(in crate::config) interval: Option<Duration>,
    pub(in crate::config) keys: HealthTable,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct HealthTable {
    pub(in crate::config) interval: Text<Duration>,
    pub(in crate::config) timeout: Text<Duration>,
    pub(in crate::config) rise: Count<1, 100>,
    pub(in crate::config) fall: Count<1, 100>,
    pub(in crate::config) user: Option<Written<UserText>>,
    pub(in crate::config) password_file: Option<Written<PathBuf>>,
}

impl Default for HealthTable {
    fn default() -> Self {
        Self {
            interval: Text(Duration::from_secs(5)),
            timeout: Text(Duration::from_secs(2)),
            rise: Count(2),
            fall: Count(3),
            user: None,
            password_file: None,
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        let keys = HealthTable::default();
        Self { interval: Some(keys.interval.0), keys }
    }
}

impl<'de> Deserialize<'de> for Health {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HealthVisitor)
    }
}

struct HealthVisitor;

impl<'de> Visitor<'de> for HealthVisitor {
    type Value = Health;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#""off" or a table such as { interval = "5s", timeout = "2s", rise = 2, fall = 3 }"#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Health, E> {
        if text != "off" {
            return Err(E::invalid_value(Unexpected::Str(text), &self));
        }
        Ok(Health { interval: None, keys: HealthTable::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Health, A::Error> {
        let keys = HealthTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Health { interval: Some(keys.interval.0), keys })
    }
}
