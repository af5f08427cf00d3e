//! What we tell a backend about the client, in RFC 2971's ID: the words Dovecot, Cyrus and others understand. Never
//! `x-multiplex`: who sends it must be able to read the framing that follows. Pure.

use super::Caller;
use crate::imap::Capabilities;

/// RFC 2971 section 3.3.
const PAIRS: usize = 30;
const KEY: usize = 30;
const VALUE: usize = 1024;
/// Our own pairs, all of them.
const OWN: usize = 8;
/// The whole command stays below what any server takes for a line.
const COMMAND: usize = 7 * 1024;

/// The command, without tag and line end; `None`: nothing is to be said to this backend.
pub(super) fn command(caller: &Caller<'_>, forward: bool, capabilities: &Capabilities) -> Option<Vec<u8>> {
    if !capabilities.has("ID") {
        return None;
    }
    let own = if forward { own_pairs(caller) } else { Vec::new() };
    let own_length: usize = own.iter().map(|(key, value)| key.len() + value.len() * 2 + 6).sum();
    let mut out = b"ID (".to_vec();
    let mut count = 0;
    for (key, value) in caller.id {
        // The client's x- words would be taken for ours.
        let foreign = key.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"x-"));
        if foreign || !fits(key, value) || count == PAIRS - OWN {
            continue;
        }
        if out.len() + key.len() + value.len() * 2 + 6 + own_length > COMMAND {
            continue;
        }
        pair(&mut out, key, value);
        count += 1;
    }
    for (key, value) in &own {
        if fits(key.as_bytes(), value.as_bytes()) {
            pair(&mut out, key.as_bytes(), value.as_bytes());
            count += 1;
        }
    }
    out.push(b')');
    (count > 0).then_some(out)
}

fn own_pairs(caller: &Caller<'_>) -> Vec<(&'static str, String)> {
    let (client, local) = (caller.client, caller.local);
    let mut pairs = vec![
        ("x-session-id", caller.session.to_owned()),
        ("x-originating-ip", client.ip().to_canonical().to_string()),
        ("x-originating-port", client.port().to_string()),
        ("x-connected-ip", local.ip().to_canonical().to_string()),
        ("x-connected-port", local.port().to_string()),
        ("x-proxy-ttl", caller.ttl.to_string()),
        ("x-client-transport", if caller.secure { "TLS" } else { "insecure" }.to_owned()),
    ];
    if let Some(name) = caller.server_name {
        pairs.push(("x-connected-name", name.to_owned()));
    }
    pairs
}

/// Whether a pair keeps RFC 2971's bounds and can stand in quoted strings (RFC 9051: printable ASCII, blank).
fn fits(key: &[u8], value: &[u8]) -> bool {
    let printable = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
    (1..=KEY).contains(&key.len()) && value.len() <= VALUE && printable(key) && printable(value)
}

fn pair(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if out.last() != Some(&b'(') {
        out.push(b' ');
    }
    quote(out, key);
    out.push(b' ');
    quote(out, value);
}

/// A quoted string. The bytes must be fit for one.
pub(super) fn quote(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
}
