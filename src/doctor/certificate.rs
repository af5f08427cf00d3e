//! What a TLS handshake showed, judged: chain, name, time, version.

use std::time::{Duration, SystemTime};

use super::report::{Section, Trouble};
use crate::tls::{Flaw, Seen, Shown, Unshaken};

pub(super) const DAY: i64 = 24 * 60 * 60;
/// A certificate that ends within so many days should have been renewed.
pub(super) const SOON: i64 = 14;

/// Whose certificate it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    /// It is what clients meet; else a backend's.
    pub(super) is_ours: bool,
    /// The name that was asked for.
    pub(super) name: &'a str,
    /// Whom we trust.
    pub(super) trusted: &'a str,
}

/// Judges; whether secrets may follow.
pub(super) fn judge(section: &mut Section, seen: &Seen, took: Duration, owner: Owner<'_>) -> bool {
    section.took("tls", format!("{}, {}", seen.protocol, seen.cipher), took);
    let Some(leaf) = seen.chain.first() else {
        section.fail("certificate", "cannot be read", unreadable(owner));
        return false;
    };
    let now = now();
    if let Some(flaw) = &seen.flaw {
        let text = format!("{} does not verify", leaf.subject);
        section.fail("certificate", text, trouble(flaw, leaf, seen.chain.len(), owner, now));
        return false;
    }
    let left = (leaf.not_after - now) / DAY;
    let text = format!("for {}, issued by {}", names(leaf), leaf.issuer);
    // It passes only where nothing is verified, of which more is said than that.
    if left < 0 {
        section.well("certificate", format!("{text}, expired {} days ago", -left));
        return true;
    }
    let text = format!("{text}, {left} days left");
    if left < SOON {
        let cause = format!("The certificate {} ends in {left} days.", leaf.subject);
        let remedy = if owner.is_ours {
            "Renew it, and see why that has not happened by itself: the ACME client's log, and whether its hook copies the files \
             to where [tls] names them."
        } else {
            "Have it renewed on that server."
        };
        section.warn("certificate", text, Trouble::new("certificate_ends_soon", cause, remedy));
    } else {
        section.well("certificate", text);
    }
    if let Some(disorder) = &seen.disorder {
        let cause = format!("The chain of certificates is out of order: {disorder}.");
        let remedy = "Put the certificate of the server first into its file, and behind each the one that issued it.";
        section.warn("chain", "out of order", Trouble::new("chain_disorder", cause, remedy));
    }
    true
}

fn unreadable(owner: Owner<'_>) -> Trouble {
    let whose = if owner.is_ours { "our" } else { "the server's" };
    Trouble::new("certificate_unreadable", format!("Nobody can read {whose} certificate."), "Have it issued anew.")
}

fn trouble(flaw: &Flaw, leaf: &Shown, shown: usize, owner: Owner<'_>, now: i64) -> Trouble {
    let Owner { is_ours, name, trusted } = owner;
    let subject = &leaf.subject;
    let who = if is_ours { "Mail programs" } else { "mailmux" };
    match flaw {
        Flaw::Expired if leaf.not_after >= now => Trouble::new(
            "certificate_expired",
            format!("A certificate above {subject} has expired: that of {}, or of one above it.", leaf.issuer),
            "Have a chain that is still good put into the server's file; the certificate itself need not change.",
        ),
        Flaw::Expired => Trouble::new(
            "certificate_expired",
            format!(
                "The certificate {subject} has expired {} days ago; {who} refuse it.",
                (now - leaf.not_after) / DAY
            ),
            if is_ours {
                "Renew it and put it where [tls] names it; mailmux takes it by itself (tls.watch), or by mailmux reload. The log \
                 says when a new one was refused, and why."
            } else {
                "Have it renewed on that server. Is the clock of this machine right?"
            },
        ),
        Flaw::NotYet => Trouble::new(
            "certificate_not_yet_valid",
            format!("The certificate {subject} is not valid yet."),
            "Look at the clocks of this machine and of the one that issued it.",
        ),
        Flaw::Name => Trouble::new(
            "certificate_wrong_name",
            format!("The certificate is for {}, and not for {name}.", names(leaf)),
            if is_ours {
                "Put a certificate for the name that mail programs use into [tls]; or tell them the right name. --server-name says \
                 which name is asked for here."
            } else {
                "Write a name that it is for as address or tls_name of the backend, or have one issued for that name."
            },
        ),
        Flaw::Issuer => issuer(leaf, shown, is_ours, trusted),
        Flaw::IssuerKey => Trouble::new(
            "certificate_unknown_issuer",
            format!(
                "The certificate {subject} was issued by {}, and not with the key of the authority of that name that is trusted \
                 ({trusted}).",
                leaf.issuer
            ),
            if is_ours {
                "The authority was made anew: have the certificate issued by the one that mail programs trust, or tell them of the new \
                 one. --ca FILE says which one they have."
            } else {
                "The authority was made anew: write its new file as ca of the backend."
            },
        ),
        Flaw::Other(why) => Trouble::new(
            "certificate_refused",
            format!("The certificate {subject} does not verify: {why}."),
            "Have it issued anew, for use by a server, by an authority that is trusted here.",
        ),
    }
}

fn issuer(leaf: &Shown, shown: usize, is_ours: bool, trusted: &str) -> Trouble {
    let kind = "certificate_unknown_issuer";
    let issuer = &leaf.issuer;
    if leaf.is_self_issued() {
        return Trouble::new(
            kind,
            format!(
                "The certificate {} was issued by nobody but itself, and is not trusted ({trusted}).",
                leaf.subject
            ),
            if is_ours {
                "Get one from an authority that mail programs know (README: Certificates). If they have been told to trust it: \
                 --ca FILE."
            } else {
                "Write that certificate's file as ca of the backend, or have one issued by an authority that is trusted."
            },
        );
    }
    let alone = if shown == 1 { " No certificate of that issuer was sent along." } else { "" };
    Trouble::new(
        kind,
        format!("The certificate {} was issued by {issuer}, who is not trusted ({trusted}).{alone}", leaf.subject),
        if is_ours {
            "Put the issuer's certificate behind our own into the chain's file (the file that certbot calls fullchain.pem). If it is \
             an authority of your own that mail programs have been told to trust: --ca FILE."
        } else {
            "Write the file of the authority that issued it as ca of the backend. If that is the right one already, the server must \
             send the certificates between along (Dovecot: all of the chain in ssl_cert)."
        },
    )
}

/// Why no handshake came about.
pub(super) fn unshaken(why: &Unshaken, is_ours: bool) -> (String, Trouble) {
    match why {
        Unshaken::NotTls => (
            "what came back is no TLS".to_owned(),
            Trouble::new(
                "tls_not_spoken",
                "The port is spoken to under TLS, and answers in clear.",
                if is_ours {
                    "Another program has that port, or the mailmux that runs has another configuration: mailmux reload."
                } else {
                    "Write tls = \"starttls\" for this backend, or the port on which it speaks TLS from the first byte (993, mostly)."
                },
            ),
        ),
        Unshaken::HungUp => (
            "the connection was closed in the handshake".to_owned(),
            Trouble::new(
                "tls_hung_up",
                "The connection is closed in the middle of the TLS handshake.",
                if is_ours {
                    "The log of mailmux says why: a PROXY header that is asked for (proxy_protocol_from), or a limit."
                } else {
                    "The server's log says why. It may expect a PROXY header (proxy_protocol), let nobody in from here, or have \
                     no certificate."
                },
            ),
        ),
        Unshaken::NothingInCommon => (
            "no TLS version or cipher in common".to_owned(),
            Trouble::new(
                "tls_version",
                "There is no TLS version or cipher that both sides want: here it is TLS 1.2 or 1.3 with forward secrecy.",
                "Have the server offer at least TLS 1.2 with ECDHE (Dovecot: ssl_min_protocol, ssl_cipher_list).",
            ),
        ),
        Unshaken::WantsCertificate => (
            "it wants another certificate of ours".to_owned(),
            Trouble::new(
                "tls_client_certificate",
                "The server asks for a certificate of ours, and does not get one that it takes.",
                "Write client_chain and client_key of the backend; or switch that off on the server.",
            ),
        ),
        Unshaken::Other(why) => (
            why.clone(),
            Trouble::new(
                "tls_failed",
                format!("The TLS handshake fails: {why}."),
                "The log of the other side says more.",
            ),
        ),
    }
}

fn names(leaf: &Shown) -> String {
    if leaf.names.is_empty() { leaf.subject.clone() } else { leaf.names.join(", ") }
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
