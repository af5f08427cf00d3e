//! What sources say of a user, field by field, and what it means: an [`Answer`]. The names are our own and those of
//! Dovecot's passdb, so that databases that exist serve unchanged. What is not understood is a mistake: it meant something
//! to whoever wrote it, and may have been meant to keep somebody out. Not here: whether the answer is allowed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::backend::Prescribed;
use crate::config::{ListenerTls, Pooling};
use crate::imap::{Secret, UserName, escape};

/// Fields that say nothing to us and do no harm unheard.
const UNHEARD: [&str; 13] = [
    "proxy",
    "proxy_maybe",
    "proxy_always",
    "proxy_nopipelining",
    "proxy_no_multiplex",
    "proxy_redirect_reauth",
    "proxy_host_immediate_failure_after",
    "proxy_refresh",
    "protocol",
    "code",
    "nodelay",
    "nopassword",
    "login_user",
];
/// The beginnings of more of them: Dovecot's fields for other parts of it.
const UNHEARD_FAMILIES: [&str; 4] = ["userdb_", "forward_", "event_", "user_"];

/// What a source says of a user: names and values, in its order. Values may be secrets.
#[derive(Default)]
pub(super) struct Fields(pub(super) Vec<(String, Zeroizing<Vec<u8>>)>);

/// The same, understood.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Where the user is; `None` when the source speaks of other things only.
    pub place: Option<Place>,
    /// The user's name there, if the source gives one.
    pub user: Option<UserName>,
    /// The password to use there in place of the client's own.
    pub password: Option<Arc<Secret>>,
    /// Who logs in there for the user, with that password.
    pub master: Option<UserName>,
    /// The mechanism to use there.
    pub mechanism: Option<Prescribed>,
    /// How long the login there may take.
    pub budget: Option<Duration>,
    /// Where links for this user come from.
    pub pool: Option<Pooling>,
    /// A hash of the user's password.
    pub hash: Option<Arc<Zeroizing<Vec<u8>>>>,
    /// Networks that the client must be in one of; empty: anywhere.
    pub allow_nets: Vec<IpNet>,
    /// The user is not to be let in; what it is told.
    pub refused: Option<String>,
}

/// Where a user is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Index of a backend.
    Backend(usize),
    /// Index of a group.
    Group(usize),
    /// A host that may not be in the configuration.
    Host(Host),
}

/// A host by name or address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its name, or its address.
    pub name: String,
    /// The address to dial, where that does not follow from the name.
    pub address: Option<IpAddr>,
    /// The port; `None`: the usual one for its TLS mode.
    pub port: Option<u16>,
    /// TLS, where the source says so.
    pub tls: Option<ListenerTls>,
    /// The source says that any certificate will do.
    pub any_certificate: bool,
    /// The source trusts it with the client's address.
    pub forward_id: bool,
    /// The address to dial it from.
    pub source: Option<IpAddr>,
}

/// The names that a source may give as places: backends and groups.
#[derive(Debug, Clone, Default)]
pub struct Places(HashMap<Box<[u8]>, Place>);

impl Answer {
    /// The user is there; nothing else is said.
    pub fn at(place: Place) -> Self {
        Self { place: Some(place), ..Self::default() }
    }
}

impl Places {
    /// Names in the order of the configuration.
    pub fn new<'n>(backends: impl IntoIterator<Item = &'n str>, groups: impl IntoIterator<Item = &'n str>) -> Self {
        let backends = backends.into_iter().enumerate().map(|(index, name)| (name, Place::Backend(index)));
        let groups = groups.into_iter().enumerate().map(|(index, name)| (name, Place::Group(index)));
        Self(backends.chain(groups).map(|(name, place)| (name.as_bytes().into(), place)).collect())
    }

    fn find(&self, name: &[u8]) -> Result<Place, String> {
        self.0.get(name).cloned().ok_or_else(|| format!("no such backend: \"{}\"", escape(name)))
    }
}

impl Fields {
    /// What they mean.
    ///
    /// # Errors
    /// What makes no sense; never a secret.
    pub(super) fn read(&self, places: &Places) -> Result<Answer, String> {
        read(self.0.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())), places)
    }
}

/// Reads fields, each at most once; empty ones count as absent.
///
/// # Errors
/// What makes no sense; never a secret.
pub(super) fn read<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, places: &Places) -> Result<Answer, String> {
    let mut reader = Reader::default();
    for (name, value) in fields {
        let name = str::from_utf8(name).map_err(|_| format!("\"{}\" is no field", escape(name)))?;
        if reader.seen.iter().any(|seen| seen.eq_ignore_ascii_case(name)) {
            return Err(format!("{name}= stands there twice"));
        }
        reader.seen.push(name);
        if !value.is_empty() || name == "proxy_not_trusted" || name == "nologin" {
            reader.field(name, value, places)?;
        }
    }
    reader.finish()
}

/// What was read so far.
#[derive(Default)]
struct Reader<'f> {
    seen: Vec<&'f str>,
    answer: Answer,
    host: Option<&'f str>,
    address: Option<IpAddr>,
    port: Option<u16>,
    ssl: Option<Tls>,
    starttls: Option<Tls>,
    tls: Option<ListenerTls>,
    not_trusted: bool,
    source: Option<IpAddr>,
    local: Option<&'f [u8]>,
    domain: Option<&'f [u8]>,
    nologin: bool,
    reason: Option<&'f [u8]>,
}

/// Dovecot's three ways.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    No,
    Yes,
    AnyCertificate,
}

impl<'f> Reader<'f> {
    fn field(&mut self, name: &'f str, value: &'f [u8], places: &Places) -> Result<(), String> {
        let answer = &mut self.answer;
        match name {
            "backend" | "group" => {
                if answer.place.is_some() {
                    return Err("more than one of backend= and group=".to_owned());
                }
                answer.place = Some(places.find(value)?);
            }
            "host" => self.host = Some(host(value)?),
            "hostip" => self.address = Some(parsed(name, value)?),
            "port" => self.port = Some(parsed::<std::num::NonZeroU16>(name, value)?.get()),
            "ssl" => self.ssl = Some(tls(name, value)?),
            "starttls" => self.starttls = Some(tls(name, value)?),
            "tls" => self.tls = Some(mode(value)?),
            "proxy_not_trusted" => self.not_trusted = true,
            // What was given as the name there counts for more than what merely names the user.
            "destuser" => answer.user = Some(user(name, value)?),
            "user" if !self.seen.contains(&"destuser") => answer.user = Some(user(name, value)?),
            "user" => {}
            "username" => self.local = Some(value),
            "domain" => self.domain = Some(value),
            "pass" => answer.password = Some(Arc::new(secret(name, value)?)),
            "master" | "master_user" => answer.master = Some(user(name, value)?),
            "proxy_mech" => answer.mechanism = Some(mechanism(value)?),
            "source_ip" => self.source = Some(parsed(name, value)?),
            "proxy_timeout" => answer.budget = Some(seconds(name, value)?),
            "pool" => answer.pool = Some(pooling(value)?),
            "password" => answer.hash = Some(Arc::new(Zeroizing::new(value.to_vec()))),
            "allow_nets" => answer.allow_nets = networks(value)?,
            "nologin" => self.nologin = !value.eq_ignore_ascii_case(b"no"),
            "reason" => self.reason = Some(value),
            _ if UNHEARD.contains(&name) || UNHEARD_FAMILIES.iter().any(|family| name.starts_with(family)) => {}
            _ => return Err(format!("\"{}\" is no field of a route", escape(name.as_bytes()))),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Answer, String> {
        if let Some(name) = self.host {
            if self.answer.place.is_some() {
                return Err("both a backend and host=".to_owned());
            }
            self.answer.place = Some(Place::Host(self.as_host(name)));
        } else if self.source.is_some() || self.address.is_some() {
            return Err("source_ip= or hostip= without host=".to_owned());
        }
        if self.answer.user.is_none()
            && let Some(local) = self.local
        {
            let whole = [local, b"@", self.domain.unwrap_or_default()].concat();
            self.answer.user = Some(user("username", if self.domain.is_some() { &whole } else { local })?);
        }
        if self.answer.master.is_some() && self.answer.password.is_none() {
            return Err("a master user without pass=".to_owned());
        }
        if self.nologin {
            let text = self.reason.map_or_else(|| "Account is closed for logins.".to_owned(), printable);
            self.answer.refused = Some(text);
        }
        Ok(self.answer)
    }

    fn as_host(&self, name: &str) -> Host {
        let said = [self.ssl, self.starttls];
        let is_on = |tls: Option<Tls>| matches!(tls, Some(Tls::Yes | Tls::AnyCertificate));
        let dovecots = match (is_on(self.starttls), is_on(self.ssl), said.contains(&Some(Tls::No))) {
            (true, ..) => Some(ListenerTls::StartTls),
            (false, true, _) => Some(ListenerTls::Implicit),
            (false, false, true) => Some(ListenerTls::None),
            (false, false, false) => None,
        };
        Host {
            name: name.to_ascii_lowercase(),
            address: self.address,
            port: self.port,
            tls: self.tls.or(dovecots),
            any_certificate: said.contains(&Some(Tls::AnyCertificate)),
            forward_id: !self.not_trusted,
            source: self.source,
        }
    }
}

/// Text from a source that a user may read: one line of printable ASCII.
pub(super) fn printable(text: &[u8]) -> String {
    let clean = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '?' };
    text.iter().take(200).map(clean).collect()
}

fn word<'f>(name: &str, value: &'f [u8]) -> Result<&'f str, String> {
    str::from_utf8(value).map(str::trim).map_err(|_| nonsense(name, value))
}

fn nonsense(name: &str, value: &[u8]) -> String {
    format!("{name}=\"{}\" makes no sense", escape(value.get(..100).unwrap_or(value)))
}

fn parsed<T: str::FromStr>(name: &str, value: &[u8]) -> Result<T, String> {
    word(name, value)?.parse().map_err(|_| nonsense(name, value))
}

fn host(value: &[u8]) -> Result<&str, String> {
    let name = word("host", value)?.trim_matches(['[', ']']);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let fits = name.parse::<IpAddr>().is_ok() || ((1..=253).contains(&name.len()) && name.bytes().all(is_name));
    if fits { Ok(name) } else { Err(nonsense("host", value)) }
}

fn tls(name: &str, value: &[u8]) -> Result<Tls, String> {
    match word(name, value)? {
        "yes" => Ok(Tls::Yes),
        "any-cert" => Ok(Tls::AnyCertificate),
        "no" => Ok(Tls::No),
        _ => Err(nonsense(name, value)),
    }
}

fn mode(value: &[u8]) -> Result<ListenerTls, String> {
    match value {
        b"implicit" => Ok(ListenerTls::Implicit),
        b"starttls" => Ok(ListenerTls::StartTls),
        b"none" => Ok(ListenerTls::None),
        _ => Err(nonsense("tls", value)),
    }
}

fn pooling(value: &[u8]) -> Result<Pooling, String> {
    match value {
        b"off" => Ok(Pooling::Off),
        b"warm" => Ok(Pooling::Warm),
        b"reuse" => Ok(Pooling::Reuse),
        _ => Err(nonsense("pool", value)),
    }
}

fn mechanism(value: &[u8]) -> Result<Prescribed, String> {
    if value.eq_ignore_ascii_case(b"PLAIN") {
        Ok(Prescribed::Plain)
    } else if value.eq_ignore_ascii_case(b"LOGIN") {
        Ok(Prescribed::Login)
    } else {
        Err(nonsense("proxy_mech", value))
    }
}

fn user(name: &str, value: &[u8]) -> Result<UserName, String> {
    UserName::new(value).map_err(|_| nonsense(name, value))
}

fn secret(name: &str, value: &[u8]) -> Result<Secret, String> {
    Secret::new(Zeroizing::new(value.to_vec())).map_err(|error| format!("{name}=: {error}"))
}

/// A bare number is seconds; `secs`, `ms`, `mins` and their short forms are known, as far as Dovecot's intervals go.
fn seconds(name: &str, value: &[u8]) -> Result<Duration, String> {
    let text = word(name, value)?;
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u32 = number.parse().map_err(|_| nonsense(name, value))?;
    let unit = match unit.trim() {
        "" | "s" | "sec" | "secs" => Duration::from_secs(1),
        "ms" | "msec" | "msecs" => Duration::from_millis(1),
        "m" | "min" | "mins" => Duration::from_mins(1),
        _ => return Err(nonsense(name, value)),
    };
    let time = unit.saturating_mul(number);
    if time.is_zero() || time > Duration::from_hours(1) { Err(nonsense(name, value)) } else { Ok(time) }
}

/// Networks and addresses, as Dovecot lists them: with commas or blanks between.
fn networks(value: &[u8]) -> Result<Vec<IpNet>, String> {
    let text = word("allow_nets", value)?;
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    let network = |word: &str| match word.parse::<IpNet>() {
        Ok(network) => Ok(network),
        Err(_) => word.parse::<IpAddr>().map(IpNet::from),
    };
    let networks: Vec<_> = words.map(network).collect::<Result<_, _>>().map_err(|_| nonsense("allow_nets", value))?;
    // A list that holds nobody keeps everybody out; it must not become one that lets everybody in.
    if networks.is_empty() { Err(nonsense("allow_nets", value)) } else { Ok(networks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[(&str, &str)]) -> Result<Answer, String> {
        let places = Places::new(["blue", "green"], ["eu"]);
        read(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), &places)
    }

    fn host_of(fields: &[(&str, &str)]) -> Host {
        match answer(fields).expect("sound").place {
            Some(Place::Host(host)) => host,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn backends_and_groups_by_name() {
        assert_eq!(answer(&[("backend", "green")]).expect("sound").place, Some(Place::Backend(1)));
        assert_eq!(answer(&[("group", "eu"), ("user", "x")]).expect("sound").place, Some(Place::Group(0)));
        assert!(answer(&[("backend", "red")]).expect_err("unknown").contains("no such backend: \"red\""));
        assert!(answer(&[("backend", "blue"), ("host", "a")]).is_err());
        assert!(answer(&[("backend", "blue"), ("group", "eu")]).is_err());
    }

    #[test]
    fn dovecots_fields() {
        let host = host_of(&[("proxy", "y"), ("host", "Mail.Example.org"), ("port", "1143"), ("starttls", "any-cert")]);
        assert_eq!((host.name.as_str(), host.port), ("mail.example.org", Some(1143)));
        assert_eq!((host.tls, host.any_certificate), (Some(ListenerTls::StartTls), true));
        assert_eq!(host_of(&[("host", "::1"), ("ssl", "yes")]).tls, Some(ListenerTls::Implicit));
        assert_eq!(host_of(&[("host", "a"), ("ssl", "no")]).tls, Some(ListenerTls::None));
        assert_eq!(host_of(&[("host", "a")]).tls, None);
        assert!(!host_of(&[("host", "a"), ("proxy_not_trusted", "")]).forward_id);
        assert!(answer(&[("backend", "blue"), ("source_ip", "127.0.0.2")]).is_err());
        let answer = answer(&[
            ("host", "a"),
            ("user", "ann@a"),
            ("destuser", "ann"),
            ("pass", "x"),
            ("master", "m"),
            ("proxy_mech", "plain"),
            ("source_ip", "127.0.0.2"),
            ("proxy_timeout", "3"),
            ("userdb_home", "/x"),
            ("nopassword", "y"),
        ])
        .expect("sound");
        assert_eq!(answer.user.expect("a name").as_bytes(), b"ann");
        assert_eq!(answer.master.expect("a master").as_bytes(), b"m");
        assert_eq!(answer.budget, Some(Duration::from_secs(3)));
        assert_eq!(answer.mechanism, Some(Prescribed::Plain));
    }

    #[test]
    fn who_is_not_to_be_let_in_is_told_why_in_one_line() {
        let refused = |fields: &[(&str, &str)]| answer(fields).expect("sound").refused;
        assert_eq!(refused(&[("nologin", "")]).as_deref(), Some("Account is closed for logins."));
        assert_eq!(refused(&[("nologin", "y"), ("reason", "a\r\nb")]).as_deref(), Some("a??b"));
        assert_eq!(refused(&[("nologin", "no"), ("host", "a")]), None);
    }

    #[test]
    fn what_is_not_understood_is_a_mistake() {
        for (name, value) in [
            ("allow_netz", "10.0.0.0/8"),
            ("allow_nets", " , "),
            ("allow_nets", "everywhere"),
            ("host", "a b"),
            ("host", "/var/run/sock"),
            ("port", "0"),
            ("port", "65536"),
            ("ssl", "maybe"),
            ("proxy_mech", "GSSAPI"),
            ("proxy_timeout", "0"),
            ("proxy_timeout", "99999999999"),
            ("user", "a\r\nb"),
            ("master", "m"),
        ] {
            assert!(answer(&[(name, value)]).is_err(), "{name}={value}");
        }
        assert!(answer(&[("host", "a"), ("HOST", "b")]).expect_err("twice").contains("twice"));
    }

    #[test]
    fn no_error_holds_a_password() {
        let error = answer(&[("pass", "hunter2\r\nx")]).expect_err("a line break");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
