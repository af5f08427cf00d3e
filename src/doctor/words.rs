//! What went wrong on the way, in plain words, and what to do about it. What a peer said comes in here escaped, or leaves it so.
//! Not here: certificates (`certificate.rs`), logins (`verdict.rs`).

use std::io;
use std::net::SocketAddr;

use super::report::{Section, Trouble};
use crate::config::{self, Listener, ListenerTls, Mechanism};
use crate::imap::Capabilities;
use crate::link::LinkError;

/// Why an address cannot be connected to.
pub(super) fn unconnected(error: &io::Error, address: SocketAddr, is_ours: bool) -> (String, Trouble) {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    match error.kind() {
        ConnectionRefused if is_ours => (
            "nobody listens there".to_owned(),
            Trouble::new(
                "refused",
                format!("Nobody listens on {address}."),
                "mailmux does not run (systemctl status mailmux), runs with another configuration (mailmux reload), or could not \
                 have the port (journalctl -u mailmux).",
            ),
        ),
        ConnectionRefused => (
            "nobody listens there".to_owned(),
            Trouble::new(
                "refused",
                format!("Nobody listens on {address}, or a firewall refuses it."),
                "Is the mail server running, on that port, and not on its own loopback alone (ss -ltn over there)?",
            ),
        ),
        TimedOut => unanswered(address, is_ours),
        HostUnreachable | NetworkUnreachable => (
            error.to_string(),
            Trouble::new(
                "unreachable",
                format!("There is no way to {address}: {error}."),
                "Look at the routes of this machine (ip route get), and whether that machine is on. An IPv6 address that no way \
                 leads to is best taken out of DNS.",
            ),
        ),
        _ => (
            error.to_string(),
            Trouble::new(
                "unconnected",
                format!("{address} cannot be connected to: {error}."),
                "If it is about an address that cannot be assigned, look at source of the backend.",
            ),
        ),
    }
}

/// An address that says nothing at all.
pub(super) fn unanswered(address: SocketAddr, is_ours: bool) -> (String, Trouble) {
    let remedy = if is_ours {
        "A firewall on this machine (nft list ruleset), or a mailmux that hangs: journalctl -u mailmux."
    } else {
        "A firewall on the way throws packets away, the machine is off, or its accept queue is full (ss -ltn over there: Recv-Q \
         against Send-Q)."
    };
    let cause = format!("{address} gives no answer to a connection, not even a refusal.");
    ("no answer".to_owned(), Trouble::new("unanswered", cause, remedy))
}

/// A greeting that is none.
pub(super) fn ungreeted(error: &LinkError, is_ours: bool) -> Trouble {
    let detail = &error.detail;
    if detail.contains("* BYE") {
        let remedy = if is_ours {
            "Its words say which limit that is: [limits] sessions, sessions_per_network or connects_per_network."
        } else {
            "Its words say why; mostly it has too many connections (Dovecot: client_limit, process_limit, \
             mail_max_userip_connections), or is just going down."
        };
        return Trouble::new("bye", format!("It sends callers away at once ({detail})."), remedy);
    }
    if detail.contains("PREAUTH") {
        return Trouble::new(
            "preauth",
            "It greets with PREAUTH: whoever connects is logged in already, as somebody.",
            "Switch that off on the server; mailmux does not use such a server.",
        );
    }
    if detail.contains("closed") || detail.contains("reset") {
        let remedy = if is_ours {
            "The log of mailmux says why: a PROXY header that is asked for (proxy_protocol_from), or a limit."
        } else {
            "The server's log says why. It may expect a PROXY header (proxy_protocol) or TLS (tls), or let nobody in from here."
        };
        return Trouble::new("hung_up", format!("It hangs up without a greeting ({detail})."), remedy);
    }
    if detail.contains("fatal alert") {
        return Trouble::new(
            "tls_client_certificate",
            format!("It ends TLS right after the handshake ({detail}): it wants a certificate of the client."),
            "For a backend: client_chain and client_key. For a listener: tls.client_auth demands one, which only mail programs have.",
        );
    }
    Trouble::new(
        "no_imap",
        format!("What it says is no IMAP greeting ({detail})."),
        "Is it the right port? Web, POP3 and SMTP servers and TLS ports answer like this.",
    )
}

/// Silence in place of a greeting.
pub(super) fn no_greeting(is_ours: bool) -> Trouble {
    let remedy = if is_ours {
        "It hangs, or waits for a PROXY header (proxy_protocol_from): journalctl -u mailmux."
    } else {
        "Its login processes are all busy or hang (Dovecot: service imap-login), it asks DNS for a name that nobody answers for, or \
         it waits for a PROXY header (proxy_protocol)."
    };
    Trouble::new("no_greeting", "It takes the connection and then says nothing.", remedy)
}

/// No STARTTLS where it was to be.
pub(super) fn no_starttls(is_ours: bool) -> Trouble {
    let remedy = if is_ours {
        "The mailmux that runs has another configuration (mailmux reload), or another program has the port."
    } else {
        "Switch TLS on on the server (Dovecot: ssl = yes), or write tls = \"implicit\" with its port 993; tls = \"none\" only where \
         nobody can listen in. If it does offer it elsewhere, somebody on the way takes it out."
    };
    Trouble::new("no_starttls", "It does not offer STARTTLS, without which no password is sent.", remedy)
}

/// No password is taken.
pub(super) fn login_disabled(in_clear: bool) -> Trouble {
    let remedy = if in_clear {
        "It wants TLS first: write tls = \"starttls\" (or \"implicit\" and its port 993) for this backend. Or have it trust this \
         machine (Dovecot: login_trusted_networks, disable_plaintext_auth)."
    } else {
        "Have the server offer AUTH=PLAIN or LOGIN under TLS (Dovecot: auth_mechanisms)."
    };
    Trouble::new("login_disabled", "It takes no passwords here: LOGINDISABLED, and no mechanism that has one.", remedy)
}

/// The connection broke, or the answer was none.
pub(super) fn broken(check: &str, error: &LinkError, who: &str) -> Trouble {
    Trouble::new(
        "broken",
        format!("In the step \"{check}\" {who} fails: {}.", error.detail),
        "The log over there, for this moment, says why.",
    )
}

/// No answer came.
pub(super) fn silent(check: &str, who: &str) -> Trouble {
    Trouble::new(
        "silent",
        format!("In the step \"{check}\" {who} gives no answer in time."),
        "Something behind it hangs: its processes, its storage, its database. Look at its log and its load; --timeout waits longer.",
    )
}

/// What a listener announces, against what it is told to.
pub(super) fn mechanisms(section: &mut Section, list: &Capabilities, listener: &Listener) {
    if listener.tls == ListenerTls::None && list.has("LOGINDISABLED") {
        section.well("mechanisms", "logins in clear from loopback alone (allow_plaintext = false)");
        return;
    }
    let name = |mechanism: &Mechanism| match mechanism {
        Mechanism::Plain => "PLAIN",
        Mechanism::Login => "LOGIN",
        Mechanism::XOAuth2 => "XOAUTH2",
        Mechanism::OAuthBearer => "OAUTHBEARER",
        Mechanism::ScramSha1 => "SCRAM-SHA-1",
        Mechanism::ScramSha256 => "SCRAM-SHA-256",
    };
    let wanted: Vec<_> = listener.mechanisms.iter().map(name).collect();
    let missing: Vec<_> = wanted.iter().filter(|mechanism| !list.auth(mechanism)).copied().collect();
    if missing.is_empty() {
        section.well("mechanisms", wanted.join(" "));
        return;
    }
    let trouble = Trouble::new(
        "mechanism_not_offered",
        format!("The configuration has it announce {}, and it does not.", missing.join(", ")),
        "The mailmux that runs has another configuration: mailmux reload.",
    );
    section.warn("mechanisms", format!("without {}", missing.join(", ")), trouble);
}

/// What of a backend is missed, and what that costs.
pub(super) fn wanted(section: &mut Section, list: &Capabilities, config: &config::Backend) {
    let mut missed = Vec::new();
    if !list.has("SASL-IR") {
        missed.push("no SASL-IR (each login takes one round trip more)");
    }
    if !list.has("LITERAL+") && !list.has("LITERAL-") {
        missed.push("no LITERAL+ (passwords with unusual characters take one more)");
    }
    if config.forward_id && !list.has("ID") && config.proxy_protocol.is_none() {
        missed.push("no ID (it is not told the clients' addresses: all logins come from mailmux, for its limits too)");
    }
    if !missed.is_empty() {
        section.well("extensions", missed.join("; "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_and_a_silent_one_are_two_things() {
        let address = SocketAddr::from(([127, 0, 0, 1], 143));
        for (kind, expected) in [
            (io::ErrorKind::ConnectionRefused, "Trouble { kind: \"refused\""),
            (io::ErrorKind::TimedOut, "Trouble { kind: \"unanswered\""),
            (io::ErrorKind::NetworkUnreachable, "Trouble { kind: \"unreachable\""),
        ] {
            let (_, trouble) = unconnected(&io::Error::from(kind), address, false);
            assert!(format!("{trouble:?}").starts_with(expected), "{trouble:?}");
        }
    }
}
