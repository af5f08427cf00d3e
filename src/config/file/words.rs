//! The closed lists of words that some keys take, and what the words mean.

use super::value::FromText;
use crate::config::{
    CertificateName, Choose, LdapScope, ListenerTls, LogFormat, LogLevel, MasterForm, Mechanism, Pooling, ProxyVersion,
    TlsVersion,
};

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

/// How a level of the log is written.
pub(in crate::config) fn word(level: LogLevel) -> &'static str {
    LogLevel::WORDS.iter().find(|(_, known)| *known == level).map_or("", |(word, _)| word)
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
    Http,
    Sql,
    Ldap,
}

impl Words for LookupKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("file", Self::File), ("http", Self::Http), ("sql", Self::Sql), ("ldap", Self::Ldap)];
}

impl Words for LdapScope {
    const WORDS: &'static [(&'static str, Self)] = &[("base", Self::Base), ("one", Self::One), ("sub", Self::Sub)];
}

impl Words for Choose {
    const WORDS: &'static [(&'static str, Self)] =
        &[("hash", Self::Hash), ("least_sessions", Self::LeastSessions), ("first_healthy", Self::FirstHealthy)];
}

impl Words for Pooling {
    const WORDS: &'static [(&'static str, Self)] = &[("off", Self::Off), ("warm", Self::Warm), ("reuse", Self::Reuse)];
}

impl Words for MasterForm {
    const WORDS: &'static [(&'static str, Self)] = &[("authzid", Self::Authzid), ("user*master", Self::Starred)];
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
