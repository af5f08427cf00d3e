//! A slow model of the same question, written without a look at the answer: it is given all that was said, in the order
//! in which it was said, reads it from the start with every command and response held whole, and says what a backend
//! that keeps to the RFCs would have left behind. And the proof that whatever the tracker calls clean is so here too.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{By, Link, Remains};
use By::{Backend, Client};

/// What has to be undone. None of [`read`]: it cannot be known, or cannot be undone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    done: bool,
    unselect: bool,
    marked: bool,
}

/// One command, whole.
#[derive(Debug, Default)]
struct Command {
    /// Lines and literals in turn; a line has its end.
    parts: Vec<Vec<u8>>,
    /// So much of a literal is to come.
    literal: usize,
    within_literal: bool,
    waits: bool,
    whole: bool,
    unasked: bool,
    granted: bool,
    done: bool,
    answer: Option<String>,
}

impl Command {
    fn text(&self) -> String {
        let bytes = self.parts.iter().flatten().filter(|byte| !b"\"\\".contains(byte));
        bytes.map(|byte| char::from(*byte).to_ascii_uppercase()).collect()
    }

    fn tag(&self) -> String {
        let line: String = self.parts[0].iter().map(|byte| char::from(*byte)).collect();
        line.split(' ').next().unwrap_or_default().to_owned()
    }

    /// In capitals; with UID.
    fn name(&self) -> String {
        let text = self.text();
        let line = text.split("\r\n").next().unwrap_or_default();
        let mut words = line.splitn(2, ' ').nth(1).unwrap_or_default().split(' ');
        let first = words.next().unwrap_or_default();
        if first == "UID" { format!("UID {}", words.next().unwrap_or_default()) } else { first.to_owned() }
    }

    fn is_idle(&self) -> bool {
        self.name() == "IDLE"
    }

    fn in_flight(&self) -> bool {
        self.answer.is_none()
    }
}

const NOTHING_LEFT: &str = "CAPABILITY NOOP CHECK NAMESPACE EXPUNGE IDLE ID LSUB XLIST CREATE DELETE RENAME SUBSCRIBE \
    UNSUBSCRIBE APPEND COPY MOVE GETQUOTA GETQUOTAROOT SETQUOTA GETACL SETACL DELETEACL LISTRIGHTS MYRIGHTS GETMETADATA \
    SETMETADATA SELECT EXAMINE CLOSE UNSELECT ENABLE STATUS LIST FETCH STORE SEARCH SORT THREAD";
const WITH_UID: &str = "EXPUNGE COPY MOVE FETCH STORE SEARCH SORT THREAD";
const WITHOUT_LITERALS: &str = "CAPABILITY NOOP CHECK NAMESPACE EXPUNGE IDLE CLOSE UNSELECT ENABLE";

fn is_in(list: &str, name: &str) -> bool {
    list.split_ascii_whitespace().any(|word| word == name)
}

/// `{12}` or `{12+}` at the end of a line, without its line end.
fn announced(line: &[u8]) -> Option<(usize, bool)> {
    let line: String = line.iter().map(|byte| char::from(*byte)).collect();
    let (_, count) = line.strip_suffix('}')?.rsplit_once('{')?;
    Some((count.trim_end_matches('+').parse().ok()?, count.ends_with('+')))
}

#[derive(Default)]
struct Reading {
    commands: Vec<Command>,
    /// What of the line behind an IDLE has come.
    done: Vec<u8>,
    /// What of a response has come, and so much of its literal is to come.
    response: Vec<Vec<u8>>,
    literal: usize,
    within_literal: bool,
    selected: bool,
    marked: bool,
}

fn read(heard: &[(By, Vec<u8>)]) -> Option<Needs> {
    let mut reading = Reading::default();
    for (by, bytes) in heard {
        for byte in bytes {
            match by {
                Client => reading.client(*byte)?,
                Backend => reading.backend(*byte)?,
            }
        }
    }
    reading.end()
}

impl Reading {
    fn client(&mut self, byte: u8) -> Option<()> {
        let idles =
            self.commands.last().is_some_and(|last| last.whole && last.is_idle() && last.in_flight() && !last.done);
        if idles {
            self.done.push(byte);
            if byte == b'\n' {
                let line = std::mem::take(&mut self.done);
                self.commands.last_mut()?.done = line.eq_ignore_ascii_case(b"DONE\r\n");
                return line.eq_ignore_ascii_case(b"DONE\r\n").then_some(());
            }
            return Some(());
        }
        if self.commands.last().is_none_or(|last| last.whole) {
            // An IDLE that was answered while its DONE was on the way: the backend takes it for a command's beginning.
            let parts = vec![std::mem::take(&mut self.done)];
            self.commands.push(Command { parts, ..Command::default() });
        }
        let command = self.commands.last_mut()?;
        if command.waits || byte == 0 && !command.within_literal {
            return None;
        }
        if command.within_literal && command.literal == 0 {
            command.within_literal = false;
            command.parts.push(Vec::new());
        }
        command.parts.last_mut()?.push(byte);
        if command.within_literal {
            command.literal -= 1;
            return Some(());
        }
        if byte != b'\n' {
            return Some(());
        }
        self.line_of_command()
    }

    /// The last command's last line has ended.
    fn line_of_command(&mut self) -> Option<()> {
        let (command, before) = self.commands.split_last_mut()?;
        let line = command.parts.last()?.strip_suffix(b"\r\n")?;
        if line.iter().any(|byte| b"\r\n".contains(byte)) {
            return None;
        }
        let first = command.parts.len() == 1;
        if first {
            let (tag, name) = (command.tag(), command.name());
            let in_flight = before.iter().filter(|other| other.in_flight()).count();
            let used = before.iter().any(|other| other.in_flight() && other.tag() == tag);
            let known = match name.strip_prefix("UID ") {
                Some(name) => is_in(WITH_UID, name),
                None => is_in(NOTHING_LEFT, &name),
            };
            let is_tag = !tag.is_empty()
                && tag.bytes().all(|byte| (0x21..0x7f).contains(&byte) && !b"(){%*\"\\+".contains(&byte));
            if !known || !is_tag || tag.len() > 32 || used || in_flight >= 32 {
                return None;
            }
        }
        let Some((size, unasked)) = announced(line) else {
            command.whole = true;
            return Some(());
        };
        if is_in(WITHOUT_LITERALS, command.name().trim_start_matches("UID ")) {
            return None;
        }
        (command.literal, command.within_literal) = (size, true);
        command.unasked |= unasked;
        command.waits = !unasked;
        command.parts.push(Vec::new());
        Some(())
    }

    fn backend(&mut self, byte: u8) -> Option<()> {
        if self.within_literal && self.literal > 0 {
            self.literal -= 1;
            return Some(());
        }
        if self.within_literal || self.response.is_empty() {
            self.within_literal = false;
            self.response.push(Vec::new());
        }
        let line = self.response.last_mut()?;
        line.push(byte);
        if byte != b'\n' {
            return Some(());
        }
        let line = line.strip_suffix(b"\r\n")?;
        if let Some((size, _)) = announced(line) {
            (self.literal, self.within_literal) = (size, true);
            // The text of a status is for people and cannot hold one.
            let first: String = self.response[0].iter().map(|byte| char::from(*byte)).collect();
            let second = first.split(' ').nth(1).unwrap_or_default().trim_end().to_ascii_uppercase();
            let is_data = first.starts_with("* ") && !is_in("OK NO BAD BYE PREAUTH", &second);
            return is_data.then_some(());
        }
        let response = std::mem::take(&mut self.response);
        let line: String = response[0].iter().map(|byte| char::from(*byte)).collect();
        self.response(line.trim_end_matches("\r\n"))
    }

    fn response(&mut self, line: &str) -> Option<()> {
        if line.starts_with('+') {
            let asks = |command: &&mut Command| {
                command.waits || command.whole && command.is_idle() && !command.granted && command.in_flight()
            };
            let command = self.commands.iter_mut().rfind(asks)?;
            if command.waits {
                command.waits = false
            } else {
                command.granted = true
            }
            return Some(());
        }
        let upper = line.to_ascii_uppercase();
        let mut words = upper.split(' ');
        let (tag, status) = (line.split(' ').next()?, words.nth(1).unwrap_or_default());
        if tag == "*" {
            self.marked |= status == "ENABLED" && words.next().is_some();
            return (!is_in("BAD BYE PREAUTH", status) && line.starts_with("* ")).then_some(());
        }
        if !is_in("OK NO BAD", status) {
            return None;
        }
        let first_in_flight = |command: &&mut Command| {
            command.in_flight() && !command.parts.is_empty() && command.parts[0].ends_with(b"\n")
        };
        let command = self.commands.iter_mut().filter(first_in_flight).find(|command| command.tag() == tag)?;
        let refused = status != "OK";
        if !command.whole {
            // A literal may be refused; nothing else is answered before it is said.
            if !command.waits || !refused || command.unasked {
                return None;
            }
            command.whole = true;
            command.waits = false;
        } else if command.is_idle() {
            let as_should_be = if command.granted { !refused } else { refused && !command.done };
            if !as_should_be {
                return None;
            }
        } else if command.unasked && refused {
            return None;
        }
        let refused_early = command.parts.last().is_some_and(Vec::is_empty);
        match command.name().as_str() {
            "SELECT" | "EXAMINE" if !refused => self.selected = true,
            "SELECT" | "EXAMINE" if status == "NO" && !refused_early => self.selected = false,
            "CLOSE" | "UNSELECT" if !refused => self.selected = false,
            "ENABLE" => self.marked |= !refused,
            _ => {}
        }
        command.answer = Some(status.to_owned());
        Some(())
    }

    fn end(self) -> Option<Needs> {
        let between = self.response.is_empty() && self.done.is_empty();
        let whole = self.commands.last().is_none_or(|last| last.whole);
        if !between || !whole {
            return None;
        }
        let in_flight: Vec<&Command> = self.commands.iter().filter(|command| command.in_flight()).collect();
        let done = match in_flight.as_slice() {
            [] => false,
            [idle] if idle.is_idle() && idle.granted && !idle.done => true,
            _ => return None,
        };
        let mut marked = self.marked;
        for command in &self.commands {
            let (name, text) = (command.name(), command.text());
            let name = name.trim_start_matches("UID ").to_owned();
            if is_in("SELECT EXAMINE STATUS LIST FETCH STORE SEARCH SORT THREAD", &name) {
                let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
                marked |= words.any(|word| {
                    is_in("CONDSTORE QRESYNC MODSEQ HIGHESTMODSEQ CHANGEDSINCE UNCHANGEDSINCE VANISHED", word)
                });
            }
            let options = text.split("RETURN").nth(1).unwrap_or_default().split(')').next().unwrap_or_default();
            let options = options.trim_start().strip_prefix('(').unwrap_or_default();
            if is_in("SEARCH SORT THREAD", &name) && options.split([' ', '(']).any(|word| is_in("UPDATE CONTEXT", word))
            {
                return None;
            }
        }
        Some(Needs { done, unselect: self.selected, marked })
    }
}

/// The tracker's verdict is no better than the model's.
fn check(link: &Link) {
    let remains = link.follower.remains();
    let (reset, marked) = match remains {
        Remains::Dirty(_) => return,
        Remains::Clean(reset) => (reset, false),
        Remains::Marked(reset) => (reset, true),
    };
    let heard = || -> Vec<String> {
        link.heard.iter().map(|(by, bytes)| format!("{by:?}: {}", bytes.escape_ascii())).collect()
    };
    let Some(needs) = read(&link.heard) else { panic!("{remains:?}: {:#?}", heard()) };
    assert_eq!(reset.done, needs.done, "{:#?}", heard());
    assert!(reset.unselect || !needs.unselect, "{:#?}", heard());
    assert!(marked || !needs.marked, "{:#?}", heard());
    assert!(reset.done || !link.follower.in_flight());
}

/// Plays it in these pieces and byte by byte, checks both after every piece, and gives what it has come to.
fn play(said: &[(By, Vec<u8>)], cuts: &[Index]) -> Link {
    let (mut pieced, mut bytewise) = (Link::new(), Link::new());
    for (by, bytes) in said {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        for cut in cuts.windows(2).filter(|cut| cut[0] < cut[1]) {
            let doubted = pieced.follower.doubts();
            pieced.hear(*by, &bytes[cut[0]..cut[1]]);
            check(&pieced);
            bytes[cut[0]..cut[1]].iter().for_each(|byte| bytewise.hear(*by, &[*byte]));
            check(&bytewise);
            assert_eq!(pieced.follower.remains(), bytewise.follower.remains(), "{said:?}");
            assert_eq!(pieced.follower.in_flight(), bytewise.follower.in_flight(), "{said:?}");
            assert_eq!(pieced.follower.logout_tag(), bytewise.follower.logout_tag(), "{said:?}");
            assert_eq!(pieced.kept, bytewise.kept, "{said:?}");
            assert!(!doubted || pieced.follower.doubts());
        }
    }
    pieced
}

/// Commands without their tags. The model knows what each of them means.
const COMMANDS: [&str; 38] = [
    "NOOP",
    "noop",
    "CAPABILITY",
    "ID NIL",
    "LIST \"\" *",
    "LIST \"\" * RETURN (STATUS (HIGHESTMODSEQ))",
    "STATUS x (MESSAGES)",
    "STATUS x (HIGHESTMODSEQ)",
    "CREATE \"a {5}\"",
    "CHECK",
    "EXPUNGE",
    "FETCH 1 (FLAGS BODY[])",
    "UID FETCH 1:* FLAGS",
    "UID FETCH 1:* FLAGS (CHANGEDSINCE 1)",
    "STORE 1 +FLAGS (\\Seen)",
    "STORE 1 (UNCHANGEDSINCE 1) +FLAGS (\\Seen)",
    "UID COPY 1 x",
    "UID MOVE 1 x",
    "SEARCH ALL",
    "UID SEARCH RETURN (SAVE) ALL",
    "UID SEARCH RETURN (ALL UPDATE) ALL",
    "SEARCH MODSEQ 1",
    "SELECT x",
    "SELECT x",
    "SELECT x (CONDSTORE)",
    "EXAMINE \"(x)\"",
    "EXAMINE y",
    "CLOSE",
    "CLOSE",
    "UNSELECT",
    "ENABLE CONDSTORE",
    "GETQUOTAROOT x",
    "NOTIFY NONE",
    "LOGIN a b",
    "XFOO",
    "UID NOOP",
    "COMPRESS DEFLATE",
    "LOGOUT",
];

/// What stands in literals: all that would be dangerous outside of them.
fn body() -> impl Strategy<Value = String> {
    let piece = select(
        &[
            "x",
            "\r\n",
            "\n",
            "\"",
            "* BYE\r\n",
            "+ go\r\n",
            "t1 OK\r\n",
            "{5}\r\n",
            "{5+}\r\n",
            "t LOGOUT\r\n",
            ")\r\n",
            "MODSEQ",
        ][..],
    );
    prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn data() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        2 => body().prop_map(|body| format!("* 1 FETCH (BODY[] {{{}}}\r\n{body} FLAGS ())\r\n", body.len())),
        1 => select(&["* 3 EXISTS\r\n", "* OK hm\r\n", "* NO hm\r\n", "* ENABLED\r\n", "* OK [CLOSED] x\r\n"][..]).prop_map(str::to_owned),
    ]
}

fn status() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just("OK"), 1 => Just("NO"), 1 => Just("BAD")]
}

/// What each side says in turn, the client first; `T` stands for the tag.
type Turns = Vec<(String, String)>;

fn exchange() -> impl Strategy<Value = Turns> {
    prop_oneof![
        6 => (select(&COMMANDS[..]), data(), status())
            .prop_map(|(command, data, status)| vec![(format!("T {command}\r\n"), format!("{data}T {status} x\r\n"))]),
        1 => (select(&["APPEND x ", "SELECT ", "SEARCH SUBJECT ", "APPEND x CATENATE (TEXT "][..]), body(), status()).prop_map(|(command, body, status)| vec![
            (format!("T {command}{{{}}}\r\n", body.len()), "+ go\r\n".to_owned()),
            (format!("{body}\r\n"), format!("T {status} x\r\n")),
        ]),
        1 => (select(&["APPEND x ", "CREATE ", "NOOP ", "UID SEARCH TEXT ", "CREATE x"][..]), body(), status()).prop_map(|(command, body, status)| vec![
            (format!("T {command}{{{}+}}\r\n{body}\r\n", body.len()), format!("T {status} x\r\n")),
        ]),
        1 => select(&["NO", "BAD"][..]).prop_map(|status| vec![("T APPEND x {1000}\r\n".to_owned(), format!("T {status} x\r\n"))]),
        2 => (data(), status()).prop_map(|(data, status)| vec![
            ("T IDLE\r\n".to_owned(), format!("+ idling\r\n{data}")),
            ("DONE\r\n".to_owned(), format!("T {status} x\r\n")),
        ]),
        1 => status().prop_map(|status| vec![("T IDLE\r\nDONE\r\n".to_owned(), format!("+ idling\r\nT {status} x\r\n"))]),
        1 => status().prop_map(|status| vec![("T IDLE\r\n".to_owned(), format!("T {status} x\r\n"))]),
    ]
}

/// Whether the client goes on without waiting for the answer, what is said where it should not be (mostly nothing), and
/// how many bytes each side says before the other.
fn dialogue() -> impl Strategy<Value = Vec<(By, Vec<u8>)>> {
    let noise = prop_oneof![
        12 => Just(None),
        1 => (by(), select(&WIRE[..])).prop_map(Some),
    ];
    prop::collection::vec((exchange(), any::<bool>(), noise), 0..7).prop_map(|exchanges| {
        let mut said: Vec<(By, Vec<u8>)> = Vec::new();
        let mut late = String::new();
        for (number, (turns, pipelines, noise)) in exchanges.into_iter().enumerate() {
            let tagged = |text: &str| {
                let text = text.replace("\r\nT ", &format!("\r\nt{number} "));
                text.strip_prefix("T ").map_or_else(|| text.clone(), |text| format!("t{number} {text}"))
            };
            if let Some((by, noise)) = noise {
                said.push((by, noise.as_bytes().to_vec()));
            }
            let last = turns.len() - 1;
            for (at, (client, backend)) in turns.into_iter().enumerate() {
                said.push((Client, tagged(&client).into_bytes()));
                said.push((Backend, std::mem::take(&mut late).into_bytes()));
                if at == last && pipelines {
                    late = tagged(&backend)
                } else {
                    said.push((Backend, tagged(&backend).into_bytes()))
                }
            }
        }
        said.push((Backend, late.into_bytes()));
        said
    })
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![Just(Client), Just(Backend)]
}

/// Pieces of which dangerous streams are made.
const WIRE: [&str; 48] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "a",
    "b",
    "{",
    "}",
    "\"",
    "\\",
    "~{1}\r\n",
    "{2+}\r\n",
    " {3}\r\n",
    " {4+}\r\n",
    " {12}\r\n",
    "DONE\r\n",
    "DON",
    "IDLE",
    "a IDLE\r\n",
    "b IDLE\r\n",
    "a APPEND x {3}\r\n",
    "b APPEND x {7+}\r\n",
    "a NOOP\r\n",
    "b NOOP\r\n",
    "a SELECT x\r\n",
    "b CLOSE\r\n",
    "a SEARCH MOD",
    "SEQ 1\r\n",
    "a FETCH 1 MODSEQ\r\n",
    "a SEARCH RETURN (",
    "UPDATE) ALL\r\n",
    "SAVE) ALL\r\n",
    "LOGOUT\r\n",
    "b LOGOUT\r\n",
    "b LOG",
    "+ go\r\n",
    "a OK\r\n",
    "a NO no\r\n",
    "b OK\r\n",
    "b BAD no\r\n",
    "* 1 EXISTS\r\n",
    "* 1 FETCH (BODY[] {4}\r\n",
    ")\r\n",
    "* BYE\r\n",
    "* BAD\r\n",
    "* ENABLED X\r\n",
    "b OK {3}\r\n",
];

/// What one side may well say when the other has said that.
fn soup() -> impl Strategy<Value = Vec<(By, Vec<u8>)>> {
    let likely = select(
        &[
            (Client, "a NOOP\r\n"),
            (Backend, "a OK\r\n"),
            (Client, "b NOOP\r\n"),
            (Backend, "b OK\r\n"),
            (Client, "a IDLE\r\n"),
            (Backend, "+ go\r\n"),
            (Client, "DONE\r\n"),
            (Backend, "a OK\r\n"),
            (Client, "a APPEND x {3}\r\n"),
            (Client, "abc"),
            (Client, "\r\n"),
            (Client, "b SELECT x\r\n"),
            (Backend, "b NO\r\n"),
            (Client, "b CLOSE\r\n"),
            (Backend, "a BAD\r\n"),
            (Client, "a CREATE {3+}\r\nx\r\n\r\n"),
            (Client, "b LOGOUT\r\n"),
            (Backend, "* 1 FETCH ({4}\r\n\r\nx\n)\r\n"),
        ][..],
    );
    let piece = prop_oneof![
        6 => likely.prop_map(|(by, said)| (by, said.as_bytes().to_vec())),
        1 => (by(), select(&WIRE[..])).prop_map(|(by, said)| (by, said.as_bytes().to_vec())),
    ];
    prop::collection::vec(piece, 0..14)
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..5)
}

/// Cut off somewhere.
fn until(said: &[(By, Vec<u8>)], end: &Index) -> Vec<(By, Vec<u8>)> {
    let mut left = end.index(said.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + 1);
    let mut cut = Vec::new();
    for (by, bytes) in said {
        let n = left.min(bytes.len());
        cut.push((*by, bytes[..n].to_vec()));
        left -= n;
    }
    cut
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_clean_in_a_dialogue_is_clean_in_the_model(said in dialogue(), cuts in cuts(), end: Index) {
        play(&said, &cuts);
        play(&until(&said, &end), &cuts);
    }

    #[test]
    fn what_is_clean_in_any_bytes_is_clean_in_the_model(said in soup(), cuts in cuts(), end: Index) {
        play(&said, &cuts);
        play(&until(&said, &end), &cuts);
    }
}
