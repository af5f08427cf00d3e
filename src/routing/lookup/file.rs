//! The map file: a line per user, `user<TAB>backend [key=value ...]`, with `@domain` for a whole domain and `*` for
//! everybody else. `#` begins a comment line. Where a line has no TAB, the first run of blanks separates; blanks at the
//! ends of a line and of a name are not part of them. Letter case of users makes no difference (ASCII).
//!
//! A million lines are held as the file's own bytes and four more for each line. Not here: where files are, metrics.

use std::cmp::Ordering;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::fields::{self, Answer, Places};
use crate::imap::{UserName, escape};

/// So many mistakes are shown, the rest is counted: a file of another kind has one in every line.
const MOST_SHOWN: usize = 20;
/// Places in the text are kept in four bytes.
const MOST_BYTES: u64 = (1 << 32) - 1;
/// What some editors put in front of UTF-8; no part of the first name.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Stands behind each name in [`Map::text`]. No name can hold one.
const END_OF_NAME: u8 = 0;

/// A whole map.
pub struct Map {
    /// The file, its names in lower case and each with [`END_OF_NAME`] in place of the blank behind it.
    text: Box<[u8]>,
    /// Where in it names begin, in the names' order.
    lines: Box<[u32]>,
    places: Arc<Places>,
}

/// A mistake in a map file. Shows as `LINE: what is wrong`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapError {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Mistakes as they are found: where in the text, and what.
#[derive(Default)]
struct Mistakes {
    first: Vec<(u32, String)>,
    all: usize,
}

impl Map {
    /// Reads a map file's text. Backends and groups are known by these names.
    ///
    /// # Errors
    /// Every mistake in it, up to twenty; the rest is counted in the last one.
    pub fn parse(mut text: Vec<u8>, places: Arc<Places>) -> Result<Self, Vec<MapError>> {
        if u32::try_from(text.len()).is_err() {
            return Err(vec![MapError { line: 1, message: "the file is larger than 4 GiB".to_owned() }]);
        }
        let mut mistakes = Mistakes::default();
        let mut names = Vec::new();
        let mut next = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        while next < text.len() {
            let start = next;
            let end = end_of_line(&text, start);
            next = end + 1;
            match read_line(&text[start..end], &places) {
                Ok(None) => {}
                Ok(Some(name)) => {
                    let name = start + name.start..start + name.end;
                    text[name.clone()].make_ascii_lowercase();
                    text[name.end] = END_OF_NAME;
                    names.push(narrow(name.start)..narrow(name.end));
                }
                Err(message) => mistakes.push(narrow(start), message),
            }
        }
        let text = text.into_boxed_slice();
        let name = |range: &Range<u32>| &text[wide(range.start)..wide(range.end)];
        names.sort_unstable_by(|one, other| name(one).cmp(name(other)).then(one.start.cmp(&other.start)));
        for twin in names.chunk_by(|one, other| name(one) == name(other)).flat_map(|same| &same[1..]) {
            mistakes.push(twin.start, format!("the user \"{}\" stands in the file twice", escape(name(twin))));
        }
        if mistakes.all > 0 {
            return Err(mistakes.into_errors(&text));
        }
        let lines = names.iter().map(|name| name.start).collect();
        Ok(Self { text, lines, places })
    }

    /// What the map says of this user: by the whole name, else by its domain, else by the line for everybody.
    ///
    /// # Errors
    /// The line does not say what it said when it was read, which would be a fault of ours and is not to look as if the
    /// user were unknown.
    pub fn find(&self, user: &UserName) -> Result<Option<Answer>, String> {
        let name = user.normalised();
        let domain = name.iter().rposition(|byte| *byte == b'@').map(|at| &name[at..]);
        let keys = [Some(&*name), domain, Some(&b"*"[..])];
        let answer = keys.into_iter().flatten().find_map(|key| self.behind(key));
        answer.map(|answer| read_answer(answer, &self.places)).transpose()
    }

    /// What stands in the line with this name, behind it.
    fn behind(&self, name: &[u8]) -> Option<&[u8]> {
        let found = self.lines.binary_search_by(|line| self.compare(*line, name)).ok()?;
        let start = wide(self.lines[found]) + name.len() + 1;
        Some(without_return(&self.text[start..end_of_line(&self.text, start)]))
    }

    /// The name of this line and another one. It need not be known where the line's ends: what stands there is less than
    /// whatever the other goes on with, and is looked for where that one ends.
    fn compare(&self, line: u32, name: &[u8]) -> Ordering {
        let text = &self.text[wide(line)..];
        let (as_long, behind) = text.split_at(name.len().min(text.len()));
        as_long.cmp(name).then_with(|| behind.first().cmp(&Some(&END_OF_NAME)))
    }
}

impl Mistakes {
    fn push(&mut self, at: u32, message: String) {
        self.all += 1;
        self.first.push((at, message));
        // A gigabyte of mistakes is not held to show twenty of them.
        if self.first.len() > 50 * MOST_SHOWN {
            self.keep_first();
        }
    }

    fn keep_first(&mut self) {
        self.first.sort_by_key(|(at, _)| *at);
        self.first.truncate(MOST_SHOWN);
    }

    fn into_errors(mut self, text: &[u8]) -> Vec<MapError> {
        self.keep_first();
        let hidden = self.all - self.first.len();
        let (mut line, mut from) = (1, 0);
        let shown = self.first.into_iter().map(|(at, message)| {
            line += text[from..wide(at)].split(|byte| *byte == b'\n').count() - 1;
            from = wide(at);
            MapError { line, message }
        });
        let mut errors: Vec<_> = shown.collect();
        if let Some(last) = errors.last_mut().filter(|_| hidden > 0) {
            last.message = format!("{} (and {hidden} more mistakes in this file)", last.message);
        }
        errors
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

impl std::error::Error for MapError {}

/// A map file's text, as far as a map can hold it.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut text = Vec::with_capacity(usize::try_from(size.min(MOST_BYTES)).unwrap_or_default());
    file.take(MOST_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// `backend [key=value ...]`, or keys alone that say where.
fn read_answer(text: &[u8], places: &Places) -> Result<Answer, String> {
    let mut words = text.split(|byte| is_blank(*byte)).filter(|word| !word.is_empty()).peekable();
    let name = words.next_if(|word| !word.contains(&b'='));
    let mut fields: Vec<(&[u8], &[u8])> = name.map(|name| (&b"backend"[..], name)).into_iter().collect();
    for word in words {
        let Some(at) = word.iter().position(|byte| *byte == b'=') else {
            return Err(format!("\"{}\" is no field; expected key=value", escape(word)));
        };
        let (name, value) = (&word[..at], &word[at + 1..]);
        if value.is_empty() {
            return Err(format!("{}= is empty", escape(name)));
        }
        fields.push((name, value));
    }
    let answer = fields::read(fields.into_iter(), places)?;
    // A line that sends its user nowhere was meant to.
    if answer.place.is_none() && answer.refused.is_none() {
        Err("expected user, TAB, backend".to_owned())
    } else {
        Ok(answer)
    }
}

/// Where the name stands in a line, if what is behind it makes sense; `None` when the line says nothing.
fn read_line(line: &[u8], places: &Places) -> Result<Option<Range<usize>>, String> {
    let line = without_return(line);
    let Some(start) = line.iter().position(|byte| !is_blank(*byte)) else { return Ok(None) };
    let body = without_end_blanks(&line[start..]);
    if body.starts_with(b"#") {
        return Ok(None);
    }
    if body.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err("a control character".to_owned());
    }
    // A name may hold blanks; then only a TAB can end it.
    let separator = body.iter().position(|byte| *byte == b'\t').or_else(|| body.iter().position(|byte| *byte == b' '));
    let (name, answer) = body.split_at(separator.ok_or("expected user, TAB, backend")?);
    read_answer(answer, places)?;
    Ok(Some(start..start + without_end_blanks(name).len()))
}

fn end_of_line(text: &[u8], start: usize) -> usize {
    text[start..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| start + at)
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn without_end_blanks(text: &[u8]) -> &[u8] {
    &text[..text.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last + 1)]
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A place in a text that was found to be short enough.
fn narrow(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn wide(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::routing::Place;

    const BACKENDS: [&str; 2] = ["blue", "green"];

    fn places() -> Arc<Places> {
        Arc::new(Places::new(BACKENDS, ["eu"]))
    }

    fn map(text: &str) -> Map {
        Map::parse(text.as_bytes().to_vec(), places()).expect("well formed")
    }

    fn find(map: &Map, user: &str) -> Option<(usize, Option<String>)> {
        let answer = map.find(&UserName::new(user.as_bytes()).expect("a name")).expect("sound")?;
        let Some(Place::Backend(backend)) = answer.place else { panic!("{answer:?}") };
        Some((backend, answer.user.map(|user| user.to_string())))
    }

    #[test]
    fn the_user_then_the_domain_then_everybody() {
        let map = map("# users\nann@example.org\tblue\n\n@example.org\tgreen\r\nBob blue user=Robert\n*\tgreen\n");
        assert_eq!(find(&map, "Ann@Example.org"), Some((0, None)));
        assert_eq!(find(&map, "cid@example.org"), Some((1, None)));
        assert_eq!(find(&map, "BOB"), Some((0, Some("Robert".to_owned()))));
        assert_eq!(find(&map, "nobody"), Some((1, None)));
    }

    #[test]
    fn without_a_line_for_everybody_a_stranger_is_unknown() {
        assert_eq!(find(&map("ann\tblue"), "bob"), None);
        assert_eq!(find(&map(""), "bob"), None);
    }

    #[test]
    fn a_tab_lets_names_have_blanks_and_8_bit() {
        let map = Map::parse(b"j\xf6rg von k\tblue\nplain   green\n".to_vec(), places()).expect("well formed");
        assert!(map.find(&UserName::new(&b"J\xf6rg von K"[..]).expect("a name")).expect("sound").is_some());
        assert_eq!(find(&map, "plain"), Some((1, None)));
    }

    #[test]
    fn every_mistake_is_found_by_its_line() {
        let text = b"ann\tblue\nbob\nANN\tgreen\ncid\tred\ndan\tblue x=1\neve\tblue\x01\n\tblue\nfay\tblue user=\n";
        let errors = Map::parse(text.to_vec(), places()).err().expect("mistakes");
        let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "2: expected user, TAB, backend",
                "3: the user \"ann\" stands in the file twice",
                "4: no such backend: \"red\"",
                "5: \"x\" is no field of a route",
                "6: a control character",
                "7: expected user, TAB, backend",
                "8: user= is empty",
            ]
        );
        let many = Map::parse("x\n".repeat(30).into_bytes(), places()).err().expect("mistakes");
        assert_eq!(many.len(), 20);
        assert!(many[19].message.ends_with("(and 10 more mistakes in this file)"));
    }

    #[test]
    fn blanks_at_the_ends_and_marks_of_editors_are_no_part_of_names() {
        let map = map("\u{feff}ann\tblue\r\n  bob \t\t green  user=robert \r\n  # no user\n \t \n cid  blue");
        assert_eq!(find(&map, "ann"), Some((0, None)));
        assert_eq!(find(&map, "bob"), Some((1, Some("robert".to_owned()))));
        assert_eq!(find(&map, "cid"), Some((0, None)));
        assert_eq!(find(&map, "#"), None);
    }

    #[test]
    fn a_file_pasted_twice_is_told_from_its_second_half_on() {
        let half = (0..2000).map(|n| format!("user{n}\tblue\n")).collect::<Vec<_>>().concat();
        let errors = Map::parse(half.repeat(2).into_bytes(), places()).err().expect("mistakes");
        assert_eq!(errors.len(), 20);
        assert_eq!(errors[0].to_string(), "2001: the user \"user0\" stands in the file twice");
        assert_eq!(errors[19].line, 2020);
        assert!(errors[19].message.ends_with("(and 1980 more mistakes in this file)"), "{}", errors[19]);
    }

    #[test]
    fn groups_hosts_and_refusals() {
        let map = map("ann\teu\nbob\thost=10.0.0.1 port=143 ssl=yes\ncid\tnologin=y reason=Gone.\n");
        let answer =
            |user: &str| map.find(&UserName::new(user.as_bytes()).expect("a name")).expect("sound").expect("known");
        assert_eq!(answer("ann").place, Some(Place::Group(0)));
        assert!(
            matches!(answer("bob").place, Some(Place::Host(host)) if host.name == "10.0.0.1" && host.port() == 143)
        );
        assert_eq!(answer("cid").refused.as_deref(), Some("Gone."));
    }

    #[test]
    fn a_map_holds_the_file_and_four_bytes_per_line() {
        let text = (0..1000).map(|n| format!("user{n}@example.org\tblue\n")).collect::<Vec<_>>().concat();
        let map = map(&text);
        assert_eq!((map.text.len(), map.lines.len()), (text.len(), 1000));
        assert_eq!(find(&map, "USER999@example.org"), Some((0, None)));
        assert_eq!(find(&map, "user1000@example.org"), None);
    }

    /// The same, with a table of owned strings and each line read from its end.
    fn naive(text: &str) -> Option<HashMap<String, (usize, Option<String>)>> {
        let mut table = HashMap::new();
        for line in text.lines().map(|line| line.trim_matches([' ', '\t'])) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, answer) = line.split_once('\t').or_else(|| line.split_once(' '))?;
            let words: Vec<_> = answer.split_ascii_whitespace().collect();
            let user = match words[..] {
                [_] => None,
                [_, field] => Some(field.strip_prefix("destuser=").or_else(|| field.strip_prefix("user="))?.to_owned()),
                _ => return None,
            };
            let answer = (BACKENDS.iter().position(|backend| *backend == words[0])?, user.clone());
            let is_twice = table.insert(name.trim_end_matches(' ').to_ascii_lowercase(), answer).is_some();
            if is_twice || user.is_some_and(|user| user.is_empty()) {
                return None;
            }
        }
        Some(table)
    }

    fn some_line() -> impl Strategy<Value = String> {
        let name = prop_oneof!["[a-cA-C@*]{1,3}", "[a-c@]{1,2} [a-c@]{1,2}", "ä[a-c]?", Just("*".to_owned())];
        let field = prop_oneof![5 => Just(""), 2 => Just(" user=x"), 2 => Just("\tdestuser=Y "), 1 => Just(" user=")];
        let entry =
            (" ?", name, "[ \t]{1,2}", prop_oneof![9 => Just("blue"), 9 => Just("green"), 1 => Just("red")], field)
                .prop_map(|(indent, name, gap, backend, field)| format!("{indent}{name}{gap}{backend}{field}"));
        prop_oneof![8 => entry, 1 => Just(" # no user".to_owned()), 1 => Just(String::new()), 1 => Just("a".to_owned())]
    }

    proptest! {
        #[test]
        fn as_a_plain_table_says(
            lines in prop::collection::vec(some_line(), 0..6),
            end in prop_oneof![Just("\n"), Just("\r\n")],
            asked in prop::collection::vec(prop_oneof!["[a-cA-C@*]{1,3}", "[a-c@]{1,2} [a-c@]{1,2}", "ä[a-c]?"], 8),
        ) {
            let text = lines.join(end);
            let map = Map::parse(text.clone().into_bytes(), places()).ok();
            let table = naive(&text);
            prop_assert_eq!(map.is_some(), table.is_some());
            for asked in asked.iter().filter(|_| map.is_some()) {
                let name = asked.to_ascii_lowercase();
                let domain = name.rfind('@').map(|at| name[at..].to_owned());
                let table = table.as_ref().expect("as the map");
                let expected = table.get(&name).or_else(|| table.get(&domain?)).or_else(|| table.get("*")).cloned();
                prop_assert_eq!(find(map.as_ref().expect("some"), asked), expected);
            }
        }

        #[test]
        fn nothing_panics_and_what_was_read_can_be_asked(text in prop::collection::vec(prop_oneof![Just(b'\t'), Just(b'\n'), Just(b' '), any::<u8>()], 0..60)) {
            let name = UserName::new(&b"ann@x"[..]).expect("a name");
            if let Ok(map) = Map::parse(text, Arc::new(Places::new(["\u{1}", "a"], []))) {
                prop_assert!(map.find(&name).is_ok());
            }
        }
    }
}
