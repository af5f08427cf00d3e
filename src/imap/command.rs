//! Reads the seven commands a client may give before login, from the bytes the framer found to be one command. It
//! builds no tree and looks at nothing else: any other command is known by its name alone, or not at all (CVE-2026-27857:
//! `NOOP (((...`). RFC 9051 sections 6.1, 6.2 and 9; RFC 2971 (ID); RFC 4959 (initial response).

use std::{fmt, mem};

use zeroize::Zeroizing;

use super::framer::{LINE_MAX, SASL_MAX, Scope, TAG_MAX};

/// RFC 2971 section 3.3.
const ID_PAIRS: usize = 30;
const ID_KEY_MAX: usize = 30;
const ID_VALUE_MAX: usize = 1024;

/// A command's first words, and what stands behind them.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    /// The tag; `None` when it is none, and then it must never be sent back.
    pub tag: Option<&'a [u8]>,
    /// The name.
    pub name: Name,
    /// What stands behind the blank behind the name, if there is one.
    arguments: Option<&'a [u8]>,
}

/// What a command is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the commands")]
pub enum Name {
    Capability,
    Noop,
    Logout,
    StartTls,
    Id,
    Login,
    Authenticate,
    /// A command that exists, for those who are logged in.
    AfterLogin,
    /// Anything else.
    Unknown,
}

/// A command, with what it says.
#[derive(PartialEq, Eq)]
pub enum Command {
    /// CAPABILITY.
    Capability,
    /// NOOP.
    Noop,
    /// LOGOUT.
    Logout,
    /// STARTTLS.
    StartTls,
    /// ID, its pairs as sent; those whose value is NIL say nothing and are left out.
    Id(Vec<(Vec<u8>, Vec<u8>)>),
    /// LOGIN, both strings as meant: escapes undone, literals unwrapped. A literal may hold CR, LF and NUL; making a
    /// [`super::UserName`] and a [`super::Secret`] of them is what refuses those.
    Login {
        /// The user name.
        user: Zeroizing<Vec<u8>>,
        /// The password.
        password: Zeroizing<Vec<u8>>,
    },
    /// AUTHENTICATE, the name as sent and the initial response as sent: base64, or `=` for an empty one.
    Authenticate {
        /// The mechanism's name.
        mechanism: Vec<u8>,
        /// The initial response.
        initial: Option<Zeroizing<Vec<u8>>>,
    },
}

/// Why a command is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Its arguments are not what its grammar says.
    Arguments,
    /// It can only be given after login.
    TooEarly,
    /// There is no such command.
    Unknown,
}

impl<'a> Line<'a> {
    /// Looks at the first words of a command, or of as much as there is of it.
    pub fn new(bytes: &'a [u8]) -> Self {
        let (tag, rest) = word(bytes);
        let (name, arguments) = word(rest.unwrap_or_default());
        let tag = Some(tag).filter(|tag| (1..=TAG_MAX).contains(&tag.len()) && tag.iter().copied().all(is_tag));
        Self { tag, name: Name::new(name), arguments }
    }

    /// Reads the whole command.
    ///
    /// # Errors
    /// [`Wrong`] says what to answer.
    pub fn parse(&self) -> Result<Command, Wrong> {
        self.read(Reader { rest: self.arguments.unwrap_or_default(), ended: true }).map_err(|stop| match stop {
            Stop::Wrong(wrong) => wrong,
            Stop::Unfinished => Wrong::Arguments,
        })
    }

    /// Whether a command that ends with the announcement of a literal is right so far, so that its sender may be told to
    /// send it.
    pub fn may_go_on(&self) -> bool {
        let reader = Reader { rest: self.arguments.unwrap_or_default(), ended: false };
        matches!(self.read(reader), Err(Stop::Unfinished))
    }

    fn read(&self, mut reader: Reader<'_>) -> Result<Command, Stop> {
        let bare = |command| if self.arguments.is_none() { Ok(command) } else { Err(ARGUMENTS) };
        match self.name {
            Name::Capability => bare(Command::Capability),
            Name::Noop => bare(Command::Noop),
            Name::Logout => bare(Command::Logout),
            Name::StartTls => bare(Command::StartTls),
            Name::Id => reader.id(),
            Name::Login => {
                let user = reader.astring()?;
                reader.expect(b" ")?;
                let password = reader.astring()?;
                reader.end()?;
                Ok(Command::Login { user, password })
            }
            Name::Authenticate => reader.authenticate(),
            Name::AfterLogin => Err(Stop::Wrong(Wrong::TooEarly)),
            Name::Unknown => Err(Stop::Wrong(Wrong::Unknown)),
        }
    }
}

impl Name {
    /// All of them, for who counts.
    pub const ALL: [Self; 9] = [
        Self::Capability,
        Self::Noop,
        Self::Logout,
        Self::StartTls,
        Self::Id,
        Self::Login,
        Self::Authenticate,
        Self::AfterLogin,
        Self::Unknown,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capability => "capability",
            Self::Noop => "noop",
            Self::Logout => "logout",
            Self::StartTls => "starttls",
            Self::Id => "id",
            Self::Login => "login",
            Self::Authenticate => "authenticate",
            Self::AfterLogin => "after_login",
            Self::Unknown => "unknown",
        }
    }

    fn new(word: &[u8]) -> Self {
        // The longest name there is has 15 bytes; what is longer is none, and is not copied.
        match word.get(..16).map_or_else(|| word.to_ascii_uppercase(), |_| Vec::new()).as_slice() {
            b"CAPABILITY" => Self::Capability,
            b"NOOP" => Self::Noop,
            b"LOGOUT" => Self::Logout,
            b"STARTTLS" => Self::StartTls,
            b"ID" => Self::Id,
            b"LOGIN" => Self::Login,
            b"AUTHENTICATE" => Self::Authenticate,
            b"APPEND" | b"CHECK" | b"CLOSE" | b"COMPRESS" | b"COPY" | b"CREATE" | b"DELETE" | b"ENABLE"
            | b"EXAMINE" | b"EXPUNGE" | b"FETCH" | b"GETQUOTA" | b"GETQUOTAROOT" | b"IDLE" | b"LIST" | b"LSUB"
            | b"MOVE" | b"NAMESPACE" | b"NOTIFY" | b"RENAME" | b"SEARCH" | b"SELECT" | b"SORT" | b"STATUS"
            | b"STORE" | b"SUBSCRIBE" | b"THREAD" | b"UID" | b"UNAUTHENTICATE" | b"UNSELECT" | b"UNSUBSCRIBE" => {
                Self::AfterLogin
            }
            _ => Self::Unknown,
        }
    }
}

/// Says of a command's head how much of the command is held, where a login is allowed.
pub fn scope(head: &[u8]) -> Scope {
    match Line::new(head).name {
        Name::Login | Name::Id => Scope::Whole(LINE_MAX),
        // The SASL message has its own bound; the rest is a tag and two names.
        Name::Authenticate => Scope::Whole(SASL_MAX + 2 * TAG_MAX),
        _ => Scope::Head,
    }
}

/// The same where none is: what a client sends of its secret all the same is not held (RFC 9051 11.2).
pub fn scope_in_clear(head: &[u8]) -> Scope {
    match Line::new(head).name {
        Name::Login | Name::Authenticate => Scope::Head,
        _ => scope(head),
    }
}

/// Why reading stops.
enum Stop {
    Wrong(Wrong),
    /// Right as far as it goes, and at its end a literal begins.
    Unfinished,
}

const ARGUMENTS: Stop = Stop::Wrong(Wrong::Arguments);

/// Arguments from left to right. `ended` is false when a literal is announced at the end and not there yet.
struct Reader<'a> {
    rest: &'a [u8],
    ended: bool,
}

impl Reader<'_> {
    /// `nil` or a parenthesised list of pairs (RFC 2971 section 3.1).
    fn id(&mut self) -> Result<Command, Stop> {
        let mut pairs = Vec::new();
        if self.nil() {
            self.end()?;
            return Ok(Command::Id(pairs));
        }
        self.expect(b"(")?;
        for count in 0.. {
            // A blank before the end is known from clients in the field, and means nothing else.
            if let Some(rest) = self.rest.strip_prefix(b")").or_else(|| self.rest.strip_prefix(b" )")) {
                self.rest = rest;
                break;
            }
            if count == ID_PAIRS {
                return Err(ARGUMENTS);
            }
            if count > 0 {
                self.expect(b" ")?;
            }
            let key = self.id_string(ID_KEY_MAX)?;
            self.expect(b" ")?;
            if !self.nil() {
                pairs.push((key, self.id_string(ID_VALUE_MAX)?));
            }
        }
        self.end()?;
        Ok(Command::Id(pairs))
    }

    /// Bounded, and without what ends a line: a backend may be told of it.
    fn id_string(&mut self, max: usize) -> Result<Vec<u8>, Stop> {
        let mut text = self.string()?;
        if text.len() > max || text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(ARGUMENTS);
        }
        Ok(mem::take(&mut *text))
    }

    fn authenticate(&mut self) -> Result<Command, Stop> {
        let (mechanism, initial) = word(self.rest);
        if mechanism.is_empty() || !mechanism.iter().copied().all(is_mechanism) {
            return Err(ARGUMENTS);
        }
        let initial = match initial {
            Some(text) if text.is_empty() || text.contains(&b' ') => return Err(ARGUMENTS),
            initial => initial.map(|text| Zeroizing::new(text.to_vec())),
        };
        Ok(Command::Authenticate { mechanism: mechanism.to_vec(), initial })
    }

    /// An atom of the wide kind, or a string. Bytes of 8 bits are let into atoms: that is how passwords in a national
    /// alphabet are sent by who never read the grammar, and nothing else they could mean.
    fn astring(&mut self) -> Result<Zeroizing<Vec<u8>>, Stop> {
        if matches!(self.rest.first(), Some(b'"' | b'{')) {
            return self.string();
        }
        let end = self.rest.iter().position(|byte| !is_astring(*byte)).unwrap_or(self.rest.len());
        let (atom, rest) = self.rest.split_at(end);
        self.rest = rest;
        if atom.is_empty() { Err(ARGUMENTS) } else { Ok(Zeroizing::new(atom.to_vec())) }
    }

    /// Quoted or literal.
    fn string(&mut self) -> Result<Zeroizing<Vec<u8>>, Stop> {
        match self.rest.first() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal(),
            _ => Err(ARGUMENTS),
        }
    }

    /// The backslash escapes itself and the quote, and nothing else.
    fn quoted(&mut self) -> Result<Zeroizing<Vec<u8>>, Stop> {
        self.expect(b"\"")?;
        // Its whole size at once, for a buffer that grows leaves copies behind; and no more, for of these a client may send many.
        let mut escaped = false;
        let end = self.rest.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let mut text = Zeroizing::new(Vec::with_capacity(end.ok_or(ARGUMENTS)?));
        loop {
            match self.next()? {
                b'"' => return Ok(text),
                b'\\' => match self.next()? {
                    byte @ (b'"' | b'\\') => text.push(byte),
                    _ => return Err(ARGUMENTS),
                },
                b'\r' | b'\n' | 0 => return Err(ARGUMENTS),
                byte => text.push(byte),
            }
        }
    }

    /// `{n}` or `{n+}`, a line end, n bytes. That they are all here is the framer's work.
    fn literal(&mut self) -> Result<Zeroizing<Vec<u8>>, Stop> {
        self.expect(b"{")?;
        let mut size = 0_usize;
        let mut digits = 0;
        while let Some(byte @ b'0'..=b'9') = self.rest.first() {
            size = size.checked_mul(10).and_then(|size| size.checked_add(usize::from(byte - b'0'))).ok_or(ARGUMENTS)?;
            digits += 1;
            self.rest = &self.rest[1..];
        }
        if self.rest.starts_with(b"+") {
            self.rest = &self.rest[1..];
        }
        self.expect(b"}\r\n")?;
        if digits == 0 {
            return Err(ARGUMENTS);
        }
        if !self.ended && self.rest.is_empty() {
            return Err(Stop::Unfinished);
        }
        let (text, rest) = self.rest.split_at_checked(size).ok_or(ARGUMENTS)?;
        self.rest = rest;
        Ok(Zeroizing::new(text.to_vec()))
    }

    fn nil(&mut self) -> bool {
        match self.rest.split_at_checked(3) {
            Some((word, rest)) if word.eq_ignore_ascii_case(b"NIL") => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn next(&mut self) -> Result<u8, Stop> {
        let (byte, rest) = self.rest.split_first().ok_or(ARGUMENTS)?;
        self.rest = rest;
        Ok(*byte)
    }

    fn expect(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.rest = self.rest.strip_prefix(bytes).ok_or(ARGUMENTS)?;
        Ok(())
    }

    fn end(&self) -> Result<(), Stop> {
        if self.rest.is_empty() { Ok(()) } else { Err(ARGUMENTS) }
    }
}

/// What stands before the first blank, and what behind it.
fn word(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|byte| *byte == b' ') {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    }
}

/// ASTRING-CHAR, and bytes of 8 bits.
fn is_astring(byte: u8) -> bool {
    let special = matches!(byte, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\');
    !byte.is_ascii() || (byte.is_ascii_graphic() && !special)
}

/// What a tag may hold (RFC 9051 section 9), less what means something in HTML: a tag is the one thing sent back, and it
/// may be a browser that reads it.
fn is_tag(byte: u8) -> bool {
    byte.is_ascii() && is_astring(byte) && !matches!(byte, b'+' | b'<' | b'>' | b'&')
}

/// An atom (RFC 9051 6.2.2); whether it is the name of anything is asked later.
fn is_mechanism(byte: u8) -> bool {
    byte.is_ascii() && is_astring(byte) && byte != b']'
}

/// The name only: the rest may be a password.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Capability => "Capability",
            Self::Noop => "Noop",
            Self::Logout => "Logout",
            Self::StartTls => "StartTls",
            Self::Id(_) => "Id(..)",
            Self::Login { .. } => "Login(..)",
            Self::Authenticate { .. } => "Authenticate(..)",
        })
    }
}

#[cfg(test)]
mod tests;
