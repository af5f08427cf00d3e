//! What backends say: bytes to whole responses ([`Responses`]), and one response to what it is ([`read`]). RFC 3501
//! section 7, RFC 9051 section 7, RFC 5530. The only file that names `imap-proto`. Not here: what follows from an answer.
//!
//! `imap-proto` 0.17 gets the head of status lines only, up to the end of the response code. Of what it is kept away from
//! it would die: it slices the text behind a code at byte 1 without asking whether a character ends there (a panic on
//! `* OK [ALERT]é`), and it reads nested parentheses by recursion (a FETCH of some thousand `(` ends the stack).

use std::mem;

use super::escape;

/// One line, its end included (RFC 9051 section 4 asks for 8192 octets of clients; servers stay far below).
const LINE: usize = 8 * 1024;
/// One response, its literals included.
const RESPONSE: usize = 64 * 1024;

/// Cuts a backend's bytes into whole responses: lines, and literals by their count, so that nothing inside a literal can
/// be taken for a response. Holds no more than one response and what was pushed behind it.
#[derive(Debug, Default)]
pub struct Responses {
    buffer: Vec<u8>,
    /// Everything before it has been taken out.
    taken: usize,
    /// Everything before it is known to belong to the response that is being received.
    scanned: usize,
    /// Where the line that is being received begins.
    line: usize,
    broken: Option<Broken>,
}

/// Bytes that are no IMAP response. Nothing can be read after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A line beyond 8 KiB.
    #[error("a line longer than 8 KiB")]
    Line,
    /// A response beyond 64 KiB.
    #[error("a response longer than 64 KiB")]
    Response,
    /// CR, LF or NUL where they cannot be. Others would cut the line elsewhere than we do, so it is not passed on.
    #[error("a bare CR or LF, or a NUL")]
    Byte,
}

impl Responses {
    /// Takes bytes as they came. The caller takes out every whole response before it pushes more; then no more is held
    /// than 64 KiB and one push.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            // Here and not for each response, of which a push may hold many.
            self.buffer.drain(..self.taken);
            self.scanned -= self.taken;
            self.line -= self.taken;
            self.taken = 0;
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole response, its last line end included; `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`Broken`], from then on always.
    pub fn pop(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let popped = self.find_end().map(|end| end.map(|end| self.cut(end)));
        if let Err(broken) = popped {
            *self = Self { broken: Some(broken), ..Self::default() };
        }
        popped
    }

    /// The bytes behind the last response taken out.
    pub fn rest(&self) -> &[u8] {
        self.buffer.get(self.taken..).unwrap_or_default()
    }

    /// Gives up the bytes behind the last response taken out.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.split_off(self.taken)
    }

    /// Where the first response ends, if all of it is there.
    fn find_end(&mut self) -> Result<Option<usize>, Broken> {
        loop {
            // Behind a literal the scan begins beyond what has arrived.
            let fresh = self.buffer.get(self.scanned..).unwrap_or_default();
            let Some(offset) = fresh.iter().position(|byte| matches!(byte, b'\n' | b'\r' | 0)) else {
                self.scanned = self.scanned.max(self.buffer.len());
                let length = self.buffer.len().saturating_sub(self.line);
                return if length >= LINE { Err(Broken::Line) } else { Ok(None) };
            };
            let at = self.scanned + offset;
            if at + 2 - self.line > LINE {
                return Err(Broken::Line);
            }
            match self.buffer.get(at..).unwrap_or_default() {
                [b'\r', b'\n', ..] => {}
                [b'\r'] => {
                    self.scanned = at;
                    return Ok(None);
                }
                _ => return Err(Broken::Byte),
            }
            let end = at + 2;
            if end - self.taken > RESPONSE {
                return Err(Broken::Response);
            }
            let line = &self.buffer[self.line..at];
            // The text of a status line is for people and may end like a literal; it holds none.
            let literal = if self.line == self.taken && is_status(line) { None } else { announced(line) };
            let Some(literal) = literal else { return Ok(Some(end)) };
            let next = usize::try_from(literal).ok().and_then(|length| end.checked_add(length));
            match next {
                Some(next) if next - self.taken <= RESPONSE => (self.line, self.scanned) = (next, next),
                _ => return Err(Broken::Response),
            }
        }
    }

    fn cut(&mut self, end: usize) -> Vec<u8> {
        let taken = mem::replace(&mut self.taken, end);
        (self.scanned, self.line) = (end, end);
        if end < self.buffer.len() {
            return self.buffer.get(taken..end).unwrap_or_default().to_vec();
        }
        // Links that wait for work hold nothing.
        let mut response = mem::take(self).buffer;
        response.drain(..taken);
        response
    }
}

/// Whether a response that begins with this line is a status line or a continuation, and ends with it.
fn is_status(line: &[u8]) -> bool {
    line.first() == Some(&b'+') || status_line(line).is_some()
}

/// The length of the literal that a line ends with: `{n}`, also as `~{n}` (RFC 3516). Digits only.
fn announced(line: &[u8]) -> Option<u64> {
    let open = line.iter().rposition(|byte| *byte == b'{')?;
    let digits = line.get(open + 1..)?.strip_suffix(b"}")?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // A count beyond u64 is still a literal, one that is too long.
    Some(digits.iter().fold(0, |sum: u64, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// What a response is. Everything is borrowed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response<'a> {
    /// `* OK ...` (no tag) or `tag OK ...`.
    Status {
        /// The tag; `None` for `*`.
        tag: Option<&'a [u8]>,
        /// Which one.
        status: Status,
        /// What stands behind it, the response code included.
        text: &'a [u8],
    },
    /// `+ ...`; what stands behind it. A missing blank is forgiven.
    Continue(&'a [u8]),
    /// `* CAPABILITY ...`; the list.
    Capability(&'a [u8]),
    /// `* ID ...`
    Id,
    /// Any other untagged line, readable or not.
    Data,
    /// No response at all.
    Garbage,
}

/// RFC 9051 section 7.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those on the wire")]
pub enum Status {
    Ok,
    No,
    Bad,
    Bye,
    PreAuth,
}

/// Says what a response is.
pub fn read(response: &[u8]) -> Response<'_> {
    let line = response.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    if let Some(rest) = line.strip_prefix(b"+") {
        return Response::Continue(rest.strip_prefix(b" ").unwrap_or(rest));
    }
    if let Some((tag, status, text)) = status_line(line) {
        return Response::Status { tag, status: imap_proto_status(line, text).unwrap_or(status), text };
    }
    let Some(rest) = line.strip_prefix(b"* ") else { return Response::Garbage };
    let (word, rest) = word(rest);
    if word.eq_ignore_ascii_case(b"CAPABILITY") {
        Response::Capability(rest)
    } else if word.eq_ignore_ascii_case(b"ID") {
        Response::Id
    } else {
        Response::Data
    }
}

/// The first word, and what stands behind the blank after it.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

/// Tag, status and text.
pub(super) type StatusLine<'a> = (Option<&'a [u8]>, Status, &'a [u8]);

/// The parts of a status line, if it is one.
pub(super) fn status_line(line: &[u8]) -> Option<StatusLine<'_>> {
    let (tag, rest) = word(line);
    let (status, text) = word(rest);
    let status = [
        (&b"OK"[..], Status::Ok),
        (b"NO", Status::No),
        (b"BAD", Status::Bad),
        (b"BYE", Status::Bye),
        (b"PREAUTH", Status::PreAuth),
    ]
    .into_iter()
    .find_map(|(name, value)| status.eq_ignore_ascii_case(name).then_some(value))?;
    let tag = (tag != b"*").then_some(tag);
    Some((tag, status, text))
}

/// What `imap-proto` takes the head of a status line for; `None` where it cannot read it (a capability list without
/// `IMAP4rev1`, 8-bit bytes), and then our own word stands. It sees no text (see the head of this file).
fn imap_proto_status(line: &[u8], text: &[u8]) -> Option<Status> {
    let before_text = line.len() - text.len();
    let code = if text.first() == Some(&b'[') { text.iter().position(|byte| *byte == b']')? + 1 } else { 0 };
    let mut head = line.get(..before_text + code)?.trim_ascii_end().to_vec();
    head.extend_from_slice(b"\r\n");
    let (b"", read) = imap_proto::Response::parse(&head).ok()? else { return None };
    let (imap_proto::Response::Done { status, .. } | imap_proto::Response::Data { status, .. }) = read else {
        return None;
    };
    Some(match status {
        imap_proto::Status::Ok => Status::Ok,
        imap_proto::Status::No => Status::No,
        imap_proto::Status::Bad => Status::Bad,
        imap_proto::Status::Bye => Status::Bye,
        imap_proto::Status::PreAuth => Status::PreAuth,
    })
}

/// A response code: its name, and its arguments. Read by hand since `imap-proto` knows none of RFC 5530's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code<'a> {
    name: &'a [u8],
    arguments: &'a [u8],
}

impl<'a> Code<'a> {
    /// The code a status line's text begins with.
    pub fn of(text: &'a [u8]) -> Option<Self> {
        let inside = text.strip_prefix(b"[")?;
        let (name, _) = word(inside);
        let end = if name.eq_ignore_ascii_case(b"REFERRAL") {
            // An IPv6 address in the URL has brackets of its own: the code ends where text follows, or nothing.
            (0..inside.len()).find(|at| inside[*at] == b']' && matches!(inside.get(at + 1), None | Some(b' ')))?
        } else {
            inside.iter().position(|byte| *byte == b']')?
        };
        let (name, arguments) = word(&inside[..end]);
        (!name.is_empty()).then_some(Self { name, arguments })
    }

    /// Whether it is called so.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// What stands behind its name.
    pub fn arguments(&self) -> &'a [u8] {
        self.arguments
    }

    /// Its name, fit for a log.
    pub fn name(&self) -> String {
        escape(&self.name[..self.name.len().min(40)]).to_string()
    }

    /// Host and port of `[REFERRAL imap://user@host:port/]` (RFC 2221, RFC 5092); the port is 143 when none is given.
    /// `imaps` and everything that is no host and port gives `None`: it could not be matched with a backend.
    pub fn referral(&self) -> Option<(String, u16)> {
        if !self.is("REFERRAL") {
            return None;
        }
        let url = std::str::from_utf8(self.arguments).ok()?;
        let (scheme, rest) = url.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("imap") {
            return None;
        }
        let server = rest.split('/').next()?;
        let server = server.rsplit('@').next()?;
        let (host, port) = match server.strip_prefix('[') {
            Some(literal) => {
                let (host, port) = literal.split_once(']')?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match server.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (server, None),
            },
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || host.len() > 255 || !host.bytes().all(fits) {
            return None;
        }
        let port = match port {
            None => 143,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port > 0)?
            }
            Some(_) => return None,
        };
        Some((host.to_ascii_lowercase(), port))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All responses in these bytes, and how it ends.
    fn all(bytes: &[u8], splits: impl Iterator<Item = usize>) -> (Vec<Vec<u8>>, Option<Broken>, Vec<u8>) {
        let mut responses = Responses::default();
        let mut found = Vec::new();
        let mut from = 0;
        for to in splits.chain([bytes.len()]) {
            let to = to.clamp(from, bytes.len());
            responses.push(&bytes[from..to]);
            from = to;
            loop {
                match responses.pop() {
                    Ok(Some(response)) => found.push(response),
                    Ok(None) => break,
                    Err(broken) => return (found, Some(broken), Vec::new()),
                }
            }
            assert!(responses.rest().len() <= RESPONSE, "holds more than a response");
        }
        (found, None, responses.into_rest())
    }

    fn whole(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Broken>, Vec<u8>) {
        all(bytes, std::iter::empty())
    }

    #[test]
    fn what_was_taken_out_is_not_held() {
        let mut responses = Responses::default();
        responses.push(b"* OK one\r\n* X {2}\r\nab\r\n* OK th");
        assert_eq!(responses.pop(), Ok(Some(b"* OK one\r\n".to_vec())));
        assert_eq!(responses.rest(), b"* X {2}\r\nab\r\n* OK th");
        assert_eq!(responses.pop(), Ok(Some(b"* X {2}\r\nab\r\n".to_vec())));
        responses.push(b"ree\r\n");
        assert_eq!(responses.buffer, b"* OK three\r\n");
        assert_eq!(responses.pop(), Ok(Some(b"* OK three\r\n".to_vec())));
        assert_eq!((responses.buffer.capacity(), responses.into_rest()), (0, Vec::new()));
    }

    #[test]
    fn literals_are_skipped_by_their_count() {
        let (found, broken, rest) =
            whole(b"* LIST () \"/\" {8}\r\nA1 OK \r\n x\r\n* X ~{0}\r\n\r\nA1 OK done\r\n* half");
        assert_eq!(broken, None);
        assert_eq!(found, [&b"* LIST () \"/\" {8}\r\nA1 OK \r\n x\r\n"[..], b"* X ~{0}\r\n\r\n", b"A1 OK done\r\n"]);
        assert_eq!(rest, b"* half");
    }

    #[test]
    fn the_text_of_a_status_line_announces_no_literal() {
        for line in [&b"* OK I like braces {5}\r\n"[..], b"A1 NO {99999999999}\r\n", b"+ {3}\r\n", b"* bye {1}\r\n"] {
            assert_eq!(whole(line), (vec![line.to_vec()], None, Vec::new()));
        }
    }

    #[test]
    fn bounds_hold() {
        let line = |length: usize| [&b"* "[..], &vec![b'x'; length - 4], b"\r\n"].concat();
        assert_eq!(whole(&line(LINE)).0.len(), 1);
        assert_eq!(whole(&line(LINE + 1)).1, Some(Broken::Line));
        assert_eq!(whole(&vec![b'x'; LINE]).1, Some(Broken::Line), "without a line end");
        for count in ["65600", "4294967296", "18446744073709551616", "99999999999999999999999999"] {
            let bomb = format!("* X {{{count}}}\r\n");
            assert_eq!(whole(bomb.as_bytes()).1, Some(Broken::Response), "{count}");
        }
        let many = b"* X {1000}\r\n".iter().chain(&[b'y'; 1000]).copied().chain(*b" {1000}\r\n").collect::<Vec<_>>();
        let many: Vec<u8> =
            many.iter().chain([[b'y'; 1000].as_slice(), b" {1000}\r\n"].concat().repeat(99).iter()).copied().collect();
        assert_eq!(whole(&many).1, Some(Broken::Response), "the sum counts, not each literal");
    }

    #[test]
    fn what_looks_like_a_literal_but_is_none_ends_the_line() {
        for line in ["* X {}\r\n", "* X {-1}\r\n", "* X {+1}\r\n", "* X { 1}\r\n", "* X {1}x\r\n", "* X 1}\r\n"] {
            assert_eq!(whole(line.as_bytes()).0.len(), 1, "{line:?}");
        }
    }

    #[test]
    fn bytes_that_others_would_take_for_a_line_end_break_it() {
        for bytes in [&b"* OK a\nb\r\n"[..], b"* OK a\rb\r\n", b"* OK a\0b\r\n", b"\n", b"* OK\r\r\n"] {
            assert_eq!(whole(bytes).1, Some(Broken::Byte), "{bytes:?}");
        }
        let mut responses = Responses::default();
        responses.push(b"\n");
        assert!(responses.pop().is_err());
        responses.push(b"* OK hello\r\n");
        assert_eq!(responses.pop(), Err(Broken::Byte), "nothing counts after that");
    }

    #[test]
    fn lines_are_told_apart() {
        let status = |tag, status, text| Response::Status { tag, status, text };
        let cases: [(&[u8], Response<'_>); 19] = [
            (b"* OK hello", status(None, Status::Ok, b"hello")),
            (b"* ok [CAPABILITY IMAP4rev1] hi", status(None, Status::Ok, b"[CAPABILITY IMAP4rev1] hi")),
            (b"* OK [CAPABILITY IMAP4rev2] hi", status(None, Status::Ok, b"[CAPABILITY IMAP4rev2] hi")),
            (b"* OK", status(None, Status::Ok, b"")),
            (b"* PREAUTH you are root", status(None, Status::PreAuth, b"you are root")),
            (b"* BYE [ALERT]\xc3\xa9", status(None, Status::Bye, b"[ALERT]\xc3\xa9")),
            (b"A1 NO [UNAVAILABLE] later", status(Some(b"A1"), Status::No, b"[UNAVAILABLE] later")),
            (b"A1 BAD [nonsense", status(Some(b"A1"), Status::Bad, b"[nonsense")),
            (b"\xff OK", status(Some(b"\xff"), Status::Ok, b"")),
            (b"+ abc=", Response::Continue(b"abc=")),
            (b"+", Response::Continue(b"")),
            (b"+abc=", Response::Continue(b"abc=")),
            (b"* CAPABILITY IMAP4rev2 IDLE", Response::Capability(b"IMAP4rev2 IDLE")),
            (b"* ID NIL", Response::Id),
            (b"* 3 EXISTS", Response::Data),
            (b"* OKAY", Response::Data),
            (b"* \xff\xfe", Response::Data),
            (b"A1 FINE", Response::Garbage),
            (b"", Response::Garbage),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line), expected, "{}", escape(line));
            assert_eq!(read(&[line, b"\r\n"].concat()), expected, "{}", escape(line));
        }
    }

    #[test]
    fn codes_are_read() {
        let code = Code::of(b"[REFERRAL imap://ann@mail.example.org:1143/;X=[1] y").expect("a code");
        assert!(code.is("referral"));
        assert_eq!(Code::of(b"[ALERT]x").map(|code| code.name()), Some("ALERT".to_owned()));
        for none in [&b"ALERT] x"[..], b"[ALERT", b"[]", b"[ x]", b"", b" [ALERT]"] {
            assert_eq!(Code::of(none), None, "{}", escape(none));
        }
    }

    #[test]
    fn referrals_name_a_host_and_a_port() {
        let referral = |url: &str| Code::of(format!("[REFERRAL {url}] x").as_bytes()).and_then(|code| code.referral());
        let at = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(referral("imap://ann;AUTH=*@Mail.Example.org:1143/"), at("mail.example.org", 1143));
        assert_eq!(referral("IMAP://mail.example.org/"), at("mail.example.org", 143));
        assert_eq!(referral("imap://ann@[2001:db8::1]:993/"), at("2001:db8::1", 993));
        assert_eq!(referral("imap://192.0.2.1"), at("192.0.2.1", 143));
        for bad in [
            "http://mail.example.org/",
            "imap:///",
            "imap://host:0/",
            "imap://host:65536/",
            "imap://host:+1/",
            "imap://host:/",
            "imap://ho\"st/",
            "mail.example.org",
            "imap://[::1/",
        ] {
            assert_eq!(referral(bad), None, "{bad}");
        }
        assert_eq!(Code::of(b"[ALERT imap://host/]").and_then(|code| code.referral()), None);
    }

    /// Bytes of which IMAP's own are many.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"* OK [".to_vec()),
            Just(b"* CAPABILITY IMAP4rev1".to_vec()),
            Just(b"] ".to_vec()),
            Just(b"A1 NO ".to_vec()),
            Just(b"{3}\r\n".to_vec()),
            Just(b"* 1 FETCH ((((".to_vec()),
            (0_u32..70_000).prop_map(|n| format!("* X {{{n}}}\r\n").into_bytes()),
            proptest::collection::vec(any::<u8>(), 0..40),
            "[ -~]{0,40}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_responses(bytes in stream(), mut splits in proptest::collection::vec(0_usize..1000, 0..20)) {
            splits.sort_unstable();
            prop_assert_eq!(all(&bytes, splits.into_iter()), whole(&bytes));
            prop_assert_eq!(all(&bytes, 0..bytes.len()), whole(&bytes));
        }

        #[test]
        fn nothing_is_lost_or_made_up(bytes in stream()) {
            let (found, broken, rest) = whole(&bytes);
            let read: Vec<u8> = found.concat();
            prop_assert!(bytes.starts_with(&read));
            if broken.is_none() {
                prop_assert_eq!([read, rest].concat(), bytes);
            }
        }

        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            for line in [line.clone(), [b"* OK [ALERT]", &line[..]].concat(), [b"+ [ALERT]", &line[..]].concat()] {
                if let Response::Status { text, .. } = read(&line) && let Some(code) = Code::of(text) {
                    code.referral();
                }
            }
        }

        /// Where `imap-proto` reads a head at all, it takes it for what we take it for.
        #[test]
        fn both_readers_agree(tag in "(\\*|[A-Z0-9]{1,8})", word in "(OK|NO|BAD|BYE|PREAUTH|ok|Bye)", text in "( (\\[[A-Z]{1,12}( [a-z0-9]{1,9})?\\])?[ -~]{0,20})?") {
            let line = format!("{tag} {word}{text}");
            let (_, ours, text) = status_line(line.as_bytes()).expect("a status line");
            if let Some(theirs) = imap_proto_status(line.as_bytes(), text) {
                prop_assert_eq!(theirs, ours);
            }
        }
    }
}
