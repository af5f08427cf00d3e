//! What we tell a backend about the client, in RFC 2971's ID: the words Dovecot, Cyrus and others understand. Never
//! `x-multiplex`: who sends it must be able to read the framing that follows. Pure.

use super::wire::Answer;
use super::{Caller, LinkError};
use crate::imap::Capabilities;
use crate::imap::response::Code;
use crate::metrics::BackendError;

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

/// What the answer means. No failure of ID matters but that of a server that is broken: it then knows less about the client, that
/// is all.
pub(super) fn heard(answer: &Answer) -> Result<(), LinkError> {
    match answer {
        Answer::Refused(_, text) if Code::of(text).is_some_and(|code| code.is("SERVERBUG")) => {
            Err(LinkError::misconfigured(BackendError::ServerBug, "it answered ID with [SERVERBUG]"))
        }
        Answer::Ok(_) | Answer::Refused(..) => Ok(()),
        Answer::Continue(_) => Err(LinkError::protocol("a + for ID")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::caller;

    fn said(id: &[(Vec<u8>, Vec<u8>)], forward: bool, server_name: Option<&str>) -> Option<String> {
        let caller = Caller { server_name, id, ..caller() };
        let command = command(&caller, forward, &Capabilities::parse(b"IMAP4rev1 ID"));
        command.map(|command| String::from_utf8(command).expect("ASCII"))
    }

    fn pair(key: &str, value: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (key.as_bytes().to_vec(), value.to_vec())
    }

    #[test]
    fn the_clients_own_words_come_first_and_cannot_pose_as_ours() {
        let id = [
            pair("name", b"a\"b\\c"),
            pair("X-Originating-IP", b"203.0.113.1"),
            pair("x-multiplex", b"0"),
            pair("version", b""),
        ];
        let said = said(&id, true, None).expect("something");
        let start = "ID (\"name\" \"a\\\"b\\\\c\" \"version\" \"\" \"x-session-id\" \"abc\" ";
        assert!(said.starts_with(start), "{said}");
        assert!(!said.contains("203.0.113.1") && !said.contains("multiplex") && !said.contains("x-connected-name"));
        assert!(said.ends_with("\"x-client-transport\" \"TLS\")"), "{said}");
    }

    #[test]
    fn a_backend_that_is_not_trusted_hears_only_the_clients_own() {
        assert_eq!(said(&[], false, None), None);
        assert_eq!(said(&[pair("name", b"mutt")], false, None).as_deref(), Some("ID (\"name\" \"mutt\")"));
        assert_eq!(said(&[pair("x-name", b"mutt")], false, None), None);
    }

    #[test]
    fn a_backend_without_id_hears_nothing() {
        assert_eq!(command(&caller(), true, &Capabilities::parse(b"IMAP4rev1 IDLE")), None);
    }

    #[test]
    fn a_client_in_clear_is_called_insecure_and_a_mapped_address_by_its_ipv4_form() {
        let caller = Caller {
            secure: false,
            client: "[::ffff:192.0.2.7]:1".parse().expect("an address"),
            local: "[2001:db8::1]:143".parse().expect("an address"),
            ..caller()
        };
        let said = command(&caller, true, &Capabilities::parse(b"ID")).expect("something");
        let said = String::from_utf8(said).expect("ASCII");
        for pair in ["\"x-originating-ip\" \"192.0.2.7\"", "\"x-connected-ip\" \"2001:db8::1\"", "\"insecure\""] {
            assert!(said.contains(pair), "{said}");
        }
    }

    #[test]
    fn bounds_of_rfc_2971_hold_and_our_own_words_always_fit() {
        for bad in [
            pair("", b"x"),
            pair(&"k".repeat(31), b"x"),
            pair("k", &[b'x'; 1025]),
            pair("k", b"a\r\nb"),
            pair("k", b"\xff"),
            pair("k\n", b"x"),
        ] {
            assert_eq!(said(&[bad], false, None), None);
        }
        let many: Vec<_> = (0..50).map(|n| pair(&format!("k{n}"), b"x")).collect();
        let few_long: Vec<_> = (0..30).map(|n| pair(&format!("k{n}"), &[b'\\'; 1024])).collect();
        for id in [many, few_long] {
            let said = said(&id, true, Some("mail.example.org")).expect("something");
            assert!(said.len() <= COMMAND && said.matches(" \"").count() / 2 <= PAIRS, "{}", said.len());
            assert!(said.contains("x-session-id") && said.ends_with("\"x-connected-name\" \"mail.example.org\")"));
        }
    }
}
