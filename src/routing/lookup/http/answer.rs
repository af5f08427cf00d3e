//! What a responder says, read from the headers of its answer as nginx reads them: status code and body count for
//! nothing, unknown headers neither. What nginx would let pass and nobody can mean (two addresses) is an error.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use crate::imap::{Secret, UserName, escape};

/// A refusal's text goes to clients up to here.
const LONGEST_TEXT: usize = 200;
/// So much of a value stands in an error.
const LONGEST_SHOWN: usize = 60;
/// Nobody is made to wait longer at a time, whatever the responder says.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// What one answer says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The end of it.
    Said(Said),
    /// To be asked again so much later.
    Wait(Duration),
}

/// What a responder says of a user.
#[derive(Debug)]
pub(in super::super) enum Said {
    /// The user's server.
    Server {
        address: SocketAddr,
        /// The name to use there, if it is another one.
        user: Option<UserName>,
        /// The password to use there, if it is another one.
        password: Option<Secret>,
    },
    /// No.
    Refused {
        /// In the responder's words: printable ASCII, at least one and not many characters. It may be shown to the
        /// client.
        text: String,
        /// So much later.
        wait: Duration,
    },
}

/// Reads an answer.
///
/// # Errors
/// What it lacks or has wrong.
pub(super) fn read(headers: &HeaderMap) -> Result<Answer, String> {
    let status = only(headers, "auth-status")?.ok_or("the answer has no Auth-Status")?;
    match status {
        b"OK" => server(headers).map(Answer::Said),
        b"WAIT" => Ok(Answer::Wait(wait(headers)?)),
        text => Ok(Answer::Said(Said::Refused { text: printable(text), wait: wait(headers)? })),
    }
}

fn server(headers: &HeaderMap) -> Result<Said, String> {
    let server = only(headers, "auth-server")?.ok_or("the answer is OK, but has no Auth-Server")?;
    let ip = str::from_utf8(server).ok().and_then(address);
    let ip = ip.ok_or_else(|| format!("Auth-Server is \"{}\", which is no IP address", shown(server)))?;
    let port = only(headers, "auth-port")?.ok_or("the answer is OK, but has no Auth-Port")?;
    let number = number(port).and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    let number = number.ok_or_else(|| format!("Auth-Port is \"{}\", which is no port", shown(port)))?;
    let user = only(headers, "auth-user")?.map(UserName::new).transpose();
    let user = user.map_err(|_| "Auth-User is no name")?;
    let password = only(headers, "auth-pass")?.map(|bytes| Secret::new(Zeroizing::new(bytes.to_vec()))).transpose();
    let password = password.map_err(|_| "Auth-Pass is no password")?;
    Ok(Said::Server { address: SocketAddr::new(ip, number), user, password })
}

/// The one value of a header; an empty one is none.
fn only<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, String> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes).map(<[u8]>::trim_ascii);
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|other| other != first) {
        return Err(format!("the answer has two different {name}"));
    }
    Ok(Some(first).filter(|value| !value.is_empty()))
}

fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match plain {
        Some(plain) => plain.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Seconds; what is no number is none, as with nginx.
fn wait(headers: &HeaderMap) -> Result<Duration, String> {
    let seconds = only(headers, "auth-wait")?.and_then(number).unwrap_or_default();
    Ok(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// Digits alone. What is too large for us is very large.
fn number(text: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(u64::MAX)) }
}

fn printable(text: &[u8]) -> String {
    let plain = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' };
    text.iter().take(LONGEST_TEXT).map(plain).collect()
}

fn shown(text: &[u8]) -> String {
    escape(text.get(..LONGEST_SHOWN).unwrap_or(text)).to_string()
}
