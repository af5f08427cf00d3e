//! The commands that a link survives, by name: [`find`]; and LOGOUT, which the backend must not hear: [`farewell`]. What
//! is not listed here (COMPRESS, NOTIFY, LANGUAGE, UNAUTHENTICATE, whatever comes) makes a link dirty. RFC 9051 section 6
//! and the extensions named below. Not here: their arguments.

use crate::imap::tag;

/// What has to be known of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It leaves nothing on the connection and has no argument that could be a literal.
    Bare,
    /// It leaves nothing on the connection, whatever its arguments.
    Plain,
    /// The same, and the backend takes the client for another one.
    Id,
    /// It selects a mailbox, and may enable by its parameters.
    Open,
    /// It deselects.
    Close,
    /// What it enables lasts as long as the login.
    Enable,
    Idle,
    /// Some of its words enable CONDSTORE (RFC 7162 section 3.1).
    Data,
    /// The same, and it may go on after its answer (RFC 5267).
    Search,
}

/// Where a name may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    /// Also behind UID.
    Both,
}

use Place::{Both, First};

const KNOWN: [(&str, Kind, Place); 39] = [
    ("CAPABILITY", Kind::Bare, First),
    ("NOOP", Kind::Bare, First),
    ("CHECK", Kind::Bare, First),
    ("NAMESPACE", Kind::Bare, First),
    ("EXPUNGE", Kind::Bare, Both),
    ("IDLE", Kind::Idle, First),
    ("SELECT", Kind::Open, First),
    ("EXAMINE", Kind::Open, First),
    ("CLOSE", Kind::Close, First),
    ("UNSELECT", Kind::Close, First),
    ("ENABLE", Kind::Enable, First),
    ("STATUS", Kind::Data, First),
    // With RETURN (STATUS (...)): RFC 5819.
    ("LIST", Kind::Data, First),
    ("FETCH", Kind::Data, Both),
    ("STORE", Kind::Data, Both),
    ("SEARCH", Kind::Search, Both),
    ("SORT", Kind::Search, Both),
    ("THREAD", Kind::Search, Both),
    ("COPY", Kind::Plain, Both),
    ("MOVE", Kind::Plain, Both),
    ("APPEND", Kind::Plain, First),
    ("CREATE", Kind::Plain, First),
    ("DELETE", Kind::Plain, First),
    ("RENAME", Kind::Plain, First),
    ("SUBSCRIBE", Kind::Plain, First),
    ("UNSUBSCRIBE", Kind::Plain, First),
    ("LSUB", Kind::Plain, First),
    ("XLIST", Kind::Plain, First),
    // RFC 2971.
    ("ID", Kind::Id, First),
    // RFC 9208.
    ("GETQUOTA", Kind::Plain, First),
    ("GETQUOTAROOT", Kind::Plain, First),
    ("SETQUOTA", Kind::Plain, First),
    // RFC 4314.
    ("GETACL", Kind::Plain, First),
    ("SETACL", Kind::Plain, First),
    ("DELETEACL", Kind::Plain, First),
    ("LISTRIGHTS", Kind::Plain, First),
    ("MYRIGHTS", Kind::Plain, First),
    // RFC 5464. Unasked METADATA has to be enabled.
    ("GETMETADATA", Kind::Plain, First),
    ("SETMETADATA", Kind::Plain, First),
];

impl Kind {
    /// Its arguments have to be read for words.
    pub(super) fn minds_words(self) -> bool {
        matches!(self, Self::Open | Self::Data | Self::Search)
    }

    /// One of its arguments may be a literal. Elsewhere a backend may ignore it, and take the literal for commands.
    pub(super) fn takes_literals(self) -> bool {
        matches!(self, Self::Plain | Self::Id | Self::Open | Self::Data | Self::Search)
    }
}

/// What begins like this, right behind its tag and a blank, if it is known. One blank everywhere: servers differ in what
/// else they take.
pub(super) fn find(said: &[u8]) -> Option<Kind> {
    let (first, rest) = word(said);
    let (name, rest, place) = match rest {
        Some(rest) if first.eq_ignore_ascii_case(b"UID") => {
            let (name, rest) = word(rest);
            (name, rest, Both)
        }
        _ => (first, rest, First),
    };
    let known = KNOWN.iter().find(|known| name.eq_ignore_ascii_case(known.0.as_bytes()));
    let (_, kind, _) = known.filter(|known| place == First || known.2 == Both)?;
    if *kind == Kind::Idle && rest.is_some() { None } else { Some(*kind) }
}

/// Up to the blank, and what stands behind it.
fn word(said: &[u8]) -> (&[u8], Option<&[u8]>) {
    match said.iter().position(|byte| *byte == b' ') {
        Some(blank) => (&said[..blank], Some(&said[blank + 1..])),
        None => (said, None),
    }
}

/// RFC 9051 section 9: a tag that no answer to it can be taken for something else.
pub(super) fn is_tag(tag: &[u8]) -> bool {
    (1..=tag::LONGEST).contains(&tag.len()) && tag.iter().all(|byte| is_tag_byte(*byte))
}

fn is_tag_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b'+')
}

/// Whether a line is a LOGOUT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::imap) enum Farewell {
    No,
    /// So far.
    Perhaps,
    Yes,
}

/// Whether bytes that begin with a command are a LOGOUT, and its tag. Only in its plainest form: any other is passed on,
/// and what follows from it is the backend's to say.
pub(super) fn farewell(bytes: &[u8]) -> (Farewell, &[u8]) {
    const REST: &[u8] = b" LOGOUT\r\n";
    let most = bytes.iter().take(tag::LONGEST + 1);
    let length = most.take_while(|byte| is_tag_byte(**byte)).count();
    let (tag, rest) = bytes.split_at(length);
    let heard = REST.len().min(rest.len());
    let farewell = if !is_tag(tag) || !rest[..heard].eq_ignore_ascii_case(&REST[..heard]) {
        Farewell::No
    } else if heard < REST.len() {
        Farewell::Perhaps
    } else {
        Farewell::Yes
    };
    (farewell, tag)
}
