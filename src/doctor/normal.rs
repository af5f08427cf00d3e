//! How long each step of a login takes when all is well, and where the time goes when it is not.

use std::time::Duration;

/// What is normal for one step.
#[derive(Debug)]
pub(super) struct Normal {
    check: &'static str,
    /// What it is called when it takes longer.
    pub(super) kind: &'static str,
    /// The step.
    pub(super) what: &'static str,
    /// It takes less than this.
    pub(super) time: Duration,
    /// Where to look when it does not.
    pub(super) remedy: &'static str,
}

/// Generous: a far server on a busy day is below them all.
const STEPS: [Normal; 9] = [
    Normal {
        check: "name",
        kind: "slow_dns",
        what: "Asking DNS for its name",
        time: Duration::from_millis(300),
        remedy: "Look at the name servers (server.name_servers, or /etc/resolv.conf): one that is away may be asked first. An \
                 address in place of the name, or a line in /etc/hosts, needs none.",
    },
    Normal {
        check: "connect",
        kind: "slow_connect",
        what: "Connecting",
        time: Duration::from_millis(500),
        remedy: "The way there is long or loses packets: look at it with ping and mtr. Just above a second means that the \
                 first packet was lost, as by a full accept queue over there.",
    },
    Normal {
        check: "tls",
        kind: "slow_tls",
        what: "The TLS handshake",
        time: Duration::from_secs(1),
        remedy: "The machine over there is short of CPU, or far away. pool = \"warm\" has the handshake done beforehand.",
    },
    Normal {
        check: "greeting",
        kind: "slow_greeting",
        what: "The greeting",
        time: Duration::from_secs(1),
        remedy: "The server waits before it greets: it asks DNS for the caller's name (give this machine's address a name, or \
                 switch that off there), or all its login processes are busy (Dovecot: process_limit and client_limit of \
                 service imap-login). pool = \"warm\" has it done beforehand.",
    },
    Normal {
        check: "capabilities",
        kind: "slow_capabilities",
        what: "CAPABILITY",
        time: Duration::from_secs(1),
        remedy: "The server is overloaded: look at its CPU and its log.",
    },
    Normal {
        check: "login",
        kind: "slow_login",
        what: "Logging in",
        time: Duration::from_secs(2),
        remedy: "Where it is slow at the backend too: its database or directory of users, its authentication processes, or a \
                 delay after failures (Dovecot: auth_failure_delay). Where it is not: the lookups of mailmux \
                 (mailmux_lookup_seconds), or no free link (mailmux_backend_queue).",
    },
    Normal {
        check: "list",
        kind: "slow_list",
        what: "Listing mailboxes",
        time: Duration::from_secs(2),
        remedy: "The storage behind the server is slow, or there are very many mailboxes: look at its disks and network file \
                 systems.",
    },
    Normal {
        check: "inbox",
        kind: "slow_inbox",
        what: "Opening INBOX",
        time: Duration::from_secs(2),
        remedy: "The storage behind the server is slow, the index of the mailbox is lost (Dovecot: doveadm index), or another \
                 program holds its lock.",
    },
    Normal {
        check: "logout",
        kind: "slow_logout",
        what: "LOGOUT",
        time: Duration::from_secs(2),
        remedy: "The server is overloaded: look at its CPU, its disks and its log.",
    },
];

impl Normal {
    pub(super) fn of(check: &str) -> Option<&'static Self> {
        STEPS.iter().find(|normal| normal.check == check)
    }
}
