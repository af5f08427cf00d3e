//! The commands that exist before login, read from whole pieces. No tree is built: a tag, a verb, and a cursor over the
//! arguments for those who want them (RFC 9051 section 9). Not here: what is answered.

use zeroize::Zeroizing;

/// The longest tag that is taken, and so given back.
const LONGEST_TAG: usize = 64;
/// RFC 2971 3.3.
const MOST_ID_PAIRS: usize = 30;
const LONGEST_ID_KEY: usize = 30;
const LONGEST_ID_VALUE: usize = 1024;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the commands")]
pub enum Verb {
    Capability,
    Noop,
    Logout,
    Id,
    StartTls,
    Login,
    Authenticate,
    /// Anything else; not to be had before login.
    Other,
}

/// The beginning of a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The client's tag; safe to give back.
    pub tag: &'a [u8],
    /// What it wants; `None` when nothing that could be a command follows.
    pub verb: Option<Verb>,
    /// What follows, its blank included.
    pub rest: &'a [u8],
}

/// A piece of a command's arguments.
#[derive(Debug)]
pub enum Part {
    /// Text of a line, without the announcement of a literal at its end.
    Text(Zeroizing<Vec<u8>>),
    /// The bytes of a literal.
    Literal(Zeroizing<Vec<u8>>),
}

/// The arguments are not as the grammar wants them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads the beginning of a command's first line; `None` when there is no tag that could be given back.
pub fn head(line: &[u8]) -> Option<Head<'_>> {
    let (tag, rest) = word(line);
    // Neither is markup given back, though the grammar would let it be a tag: who posts it may be a browser.
    let is_harmless = |byte| is_tag_byte(byte) && !matches!(byte, b'<' | b'>' | b'&');
    if tag.is_empty() || tag.len() > LONGEST_TAG || !tag.iter().copied().all(is_harmless) {
        return None;
    }
    let (verb, rest) = match rest.strip_prefix(b" ") {
        Some(rest) => word(rest),
        None => (&[][..], rest),
    };
    Some(Head { tag, verb: verb_of(verb), rest })
}

/// A browser, a balancer we do not trust, or a TLS client on a clear port: none of them gets an answer (a browser must
/// not get its own text back, RFC 9051 11.7; ALPACA).
pub fn is_other_protocol(first_bytes: &[u8]) -> bool {
    const HTTP: [&[u8]; 9] =
        [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b"DELETE ", b"PATCH ", b"PRI * "];
    first_bytes.starts_with(b"\x16\x03")
        || first_bytes.starts_with(b"PROXY ")
        || first_bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
        || HTTP.iter().any(|verb| first_bytes.starts_with(verb))
}

/// The two arguments of LOGIN.
///
/// # Errors
/// [`Malformed`].
pub fn login_arguments(parts: &[Part]) -> Result<(Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>), Malformed> {
    let mut cursor = Cursor::new(parts);
    cursor.byte(b' ')?;
    let user = cursor.astring()?;
    cursor.byte(b' ')?;
    let password = cursor.astring()?;
    cursor.end()?;
    Ok((user, password))
}

/// The arguments of ID (RFC 2971 3.1): `NIL` or pairs of strings. Pairs without a value are left out.
///
/// # Errors
/// [`Malformed`], or more or longer pairs than the RFC allows.
pub fn id_arguments(parts: &[Part]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Malformed> {
    let mut cursor = Cursor::new(parts);
    cursor.byte(b' ')?;
    let mut pairs = Vec::new();
    if !cursor.nil() {
        cursor.byte(b'(')?;
        let mut seen = 0;
        while !cursor.is_at(b')') {
            if seen > 0 {
                cursor.byte(b' ')?;
            }
            seen += 1;
            let key = cursor.string()?;
            cursor.byte(b' ')?;
            let value = if cursor.nil() { None } else { Some(cursor.string()?) };
            if seen > MOST_ID_PAIRS || key.len() > LONGEST_ID_KEY {
                return Err(Malformed);
            }
            match value {
                Some(value) if value.len() > LONGEST_ID_VALUE => return Err(Malformed),
                Some(value) => pairs.push((key.to_vec(), value.to_vec())),
                None => {}
            }
        }
        cursor.byte(b')')?;
    }
    cursor.end()?;
    Ok(pairs)
}

/// The arguments of AUTHENTICATE: the mechanism, and the initial response if there is one (RFC 4959).
///
/// # Errors
/// [`Malformed`].
pub fn authenticate_arguments(rest: &[u8]) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let (mechanism, rest) = word(rest.strip_prefix(b" ").ok_or(Malformed)?);
    if mechanism.is_empty() || !mechanism.iter().copied().all(is_tag_byte) {
        return Err(Malformed);
    }
    match rest {
        [] => Ok((mechanism, None)),
        [b' ', initial @ ..] if !initial.is_empty() && !initial.contains(&b' ') => Ok((mechanism, Some(initial))),
        _ => Err(Malformed),
    }
}

/// Up to the next blank, and the rest with it.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    line.split_at(end)
}

fn verb_of(word: &[u8]) -> Option<Verb> {
    const VERBS: [(&[u8], Verb); 7] = [
        (b"CAPABILITY", Verb::Capability),
        (b"NOOP", Verb::Noop),
        (b"LOGOUT", Verb::Logout),
        (b"ID", Verb::Id),
        (b"STARTTLS", Verb::StartTls),
        (b"LOGIN", Verb::Login),
        (b"AUTHENTICATE", Verb::Authenticate),
    ];
    if word.is_empty() || !word.iter().copied().all(is_tag_byte) {
        return None;
    }
    let known = VERBS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
    Some(known.map_or(Verb::Other, |(_, verb)| *verb))
}

/// RFC 9051 section 9: a tag is ASTRING-CHARs except `+`.
fn is_tag_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b'+')
}

/// What an unquoted LOGIN argument may hold: more than the grammar's atom (people type passwords with `%`, `*`, `\` and
/// 8-bit letters and no quotes), less than would make two readers see different ends of it.
fn is_loose_atom_byte(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !matches!(byte, b'(' | b')' | b'{' | b'"')
}

struct Cursor<'a> {
    text: &'a [u8],
    parts: &'a [Part],
}

impl<'a> Cursor<'a> {
    fn new(parts: &'a [Part]) -> Self {
        let mut cursor = Self { text: &[], parts };
        cursor.next_text();
        cursor
    }

    fn next_text(&mut self) {
        if let Some((Part::Text(text), parts)) = self.parts.split_first() {
            (self.text, self.parts) = (text, parts);
        }
    }

    fn is_at(&self, byte: u8) -> bool {
        self.text.first() == Some(&byte)
    }

    fn byte(&mut self, byte: u8) -> Result<(), Malformed> {
        self.text = self.text.strip_prefix(&[byte]).ok_or(Malformed)?;
        Ok(())
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.text.is_empty() && self.parts.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// Takes `NIL`, if it stands here as a word.
    fn nil(&mut self) -> bool {
        let is_nil = self.text.get(..3).is_some_and(|word| word.eq_ignore_ascii_case(b"NIL"))
            && !self.text.get(3).copied().is_some_and(is_tag_byte);
        if is_nil {
            self.text = &self.text[3..];
        }
        is_nil
    }

    fn astring(&mut self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        let end = self.text.iter().position(|byte| !is_loose_atom_byte(*byte)).unwrap_or(self.text.len());
        if end == 0 {
            return self.string();
        }
        let (atom, rest) = self.text.split_at(end);
        self.text = rest;
        Ok(Zeroizing::new(atom.to_vec()))
    }

    fn string(&mut self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        if self.is_at(b'"') {
            return self.quoted();
        }
        match self.parts.split_first() {
            Some((Part::Literal(literal), parts)) if self.text.is_empty() => {
                self.parts = parts;
                self.next_text();
                Ok(literal.clone())
            }
            _ => Err(Malformed),
        }
    }

    fn quoted(&mut self) -> Result<Zeroizing<Vec<u8>>, Malformed> {
        self.byte(b'"')?;
        let mut content = Zeroizing::new(Vec::with_capacity(self.text.len()));
        loop {
            match self.text {
                [b'"', rest @ ..] => {
                    self.text = rest;
                    return Ok(content);
                }
                [b'\\', escaped @ (b'"' | b'\\'), rest @ ..] => {
                    content.push(*escaped);
                    self.text = rest;
                }
                [b'\\' | b'\r' | 0, ..] | [] => return Err(Malformed),
                [byte, rest @ ..] => {
                    content.push(*byte);
                    self.text = rest;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Part {
        Part::Text(Zeroizing::new(bytes.to_vec()))
    }

    fn literal(bytes: &[u8]) -> Part {
        Part::Literal(Zeroizing::new(bytes.to_vec()))
    }

    #[test]
    fn every_spelling_of_login() {
        for parts in [
            vec![text(b" ann pass")],
            vec![text(br#" "ann" "pass""#)],
            vec![text(b" "), literal(b"ann"), text(b" pass")],
            vec![text(b" ann "), literal(b"pass"), text(b"")],
            vec![text(b" "), literal(b"ann"), text(b" "), literal(b"pass"), text(b"")],
        ] {
            let (user, password) = login_arguments(&parts).expect("well formed");
            assert_eq!((&**user, &**password), (&b"ann"[..], &b"pass"[..]));
        }
    }

    #[test]
    fn quotes_and_8_bit() {
        let (user, password) = login_arguments(&[text(b" \"a\\\"n\\\\n\" p\xe4ss%*]")]).expect("well formed");
        assert_eq!((&**user, &**password), (&b"a\"n\\n"[..], &b"p\xe4ss%*]"[..]));
    }

    #[test]
    fn malformed_logins() {
        for bad in [
            &b""[..],
            b" ann",
            b" ann ",
            b" ann  pass",
            b"  ann pass",
            b" ann pass ",
            b" ann pass x",
            b" \"ann pass",
            b" ann \"a\\x\"",
            b" ann (pass)",
            b" ann pa\"ss\"",
            b" ann \"a\"b",
            b" a\x01n pass",
            b" ann {4",
        ] {
            assert_eq!(login_arguments(&[text(bad)]).err(), Some(Malformed), "{}", bad.escape_ascii());
        }
        assert!(login_arguments(&[text(b" ann"), literal(b"pass"), text(b"")]).is_err(), "a literal glued to an atom");
        assert!(login_arguments(&[text(b" ann "), literal(b"pass"), text(b"x")]).is_err(), "text glued to a literal");
    }

    #[test]
    fn heads() {
        let read = head(b"a.1 login ann pass").expect("a tag");
        assert_eq!((read.tag, read.verb, read.rest), (&b"a.1"[..], Some(Verb::Login), &b" ann pass"[..]));
        assert_eq!(head(b"a select inbox").and_then(|head| head.verb), Some(Verb::Other));
        assert_eq!(head(b"a").expect("a tag").verb, None);
        assert_eq!(head(b"a  NOOP").expect("a tag").verb, None);
        for bad in [&b""[..], b" a NOOP", b"a+ NOOP", b"* NOOP", b"<script> NOOP", b"a\"b NOOP", &[b'a'; 65]] {
            assert_eq!(head(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn identities() {
        let pairs = id_arguments(&[text(br#" ("name" "mutt" "os" NIL "version" "2.2")"#)]).expect("well formed");
        assert_eq!(pairs, [(b"name".to_vec(), b"mutt".to_vec()), (b"version".to_vec(), b"2.2".to_vec())]);
        assert_eq!(id_arguments(&[text(b" nil")]), Ok(vec![]));
        assert_eq!(id_arguments(&[text(b" ()")]), Ok(vec![]));
        let parts = [text(b" (\"name\" "), literal(b"mutt"), text(b")")];
        assert_eq!(id_arguments(&parts), Ok(vec![(b"name".to_vec(), b"mutt".to_vec())]));
        for bad in [&b""[..], b" ", b" (", b" (\"a\")", b" (\"a\" b)", b" NILS", b" () x", b" (\"a\" \"b\"\"c\" \"d\")"]
        {
            assert_eq!(id_arguments(&[text(bad)]), Err(Malformed), "{}", bad.escape_ascii());
        }
        let many = format!(" ({})", vec![r#""k" "v""#; 31].join(" "));
        assert_eq!(id_arguments(&[text(many.as_bytes())]), Err(Malformed));
    }

    #[test]
    fn mechanisms() {
        assert_eq!(authenticate_arguments(b" PLAIN"), Ok((&b"PLAIN"[..], None)));
        assert_eq!(authenticate_arguments(b" plain ="), Ok((&b"plain"[..], Some(&b"="[..]))));
        for bad in [&b""[..], b" ", b" PLAIN ", b" PLAIN a b", b"  PLAIN", b" PL(AIN"] {
            assert_eq!(authenticate_arguments(bad), Err(Malformed), "{}", bad.escape_ascii());
        }
    }
}
