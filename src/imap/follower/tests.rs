//! The follower by example, against dialogues whose boundaries are known because they were made so, and against a slow
//! model that holds everything.

use std::mem;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Client,
    Backend,
}
use By::{Backend, Client};

impl Follower {
    fn hear(&mut self, by: By, bytes: &[u8]) {
        match by {
            Client => assert_eq!(self.from_client(bytes), bytes.len()),
            Backend => self.from_backend(bytes),
        }
    }

    fn verdict(&self) -> (bool, bool, bool) {
        (self.vouches(), self.doubts(), self.logged_out())
    }
}

/// A dialogue, each line as `C: ` or `S: ` and what is said, without the last line end; played whole and byte by byte.
fn play(dialogue: &[&str]) -> Follower {
    let mut whole = Follower::default();
    let mut bytewise = Follower::default();
    for line in dialogue {
        let by = if line.starts_with("C: ") { Client } else { Backend };
        let said = format!("{}\r\n", &line[3..]);
        whole.hear(by, said.as_bytes());
        said.bytes().for_each(|byte| bytewise.hear(by, &[byte]));
        assert_eq!(whole.verdict(), bytewise.verdict(), "{dialogue:?} at {line}");
    }
    whole
}

fn vouches_after(dialogue: &[&str]) -> bool {
    play(dialogue).vouches()
}

#[test]
fn the_moment_is_between_responses() {
    let mut follower = Follower::default();
    assert!(follower.vouches(), "right behind the login");
    follower.from_backend(b"* 1 EXISTS\r\n");
    assert!(follower.vouches());
    follower.from_backend(b"* 2 FETCH (BODY[] {6}\r\n");
    assert!(!follower.vouches(), "a literal comes");
    follower.from_backend(b"1234\r");
    assert!(!follower.vouches());
    follower.from_backend(b"\n");
    assert!(!follower.vouches(), "the literal has ended, its response has not");
    follower.from_backend(b" BODY[TEXT] ~{0}\r\n");
    assert!(!follower.vouches(), "nor behind an empty literal");
    follower.from_backend(b")\r");
    assert!(!follower.vouches());
    follower.from_backend(b"\n");
    assert!(follower.vouches() && !follower.doubts() && !follower.logged_out());
}

#[test]
fn a_client_idles_from_its_idle_to_its_done() {
    for dialogue in [
        &["C: a IDLE"][..],
        &["C: a IDLE", "S: + idling"],
        &["C: a IDLE", "S: + idling", "S: * 5 EXISTS"],
        &["C: a NOOP", "C: b IDLE", "S: a OK", "S: + idling"],
    ] {
        assert!(play(dialogue).idles(), "{dialogue:?}");
    }
    for dialogue in [
        &[][..],
        &["C: a NOOP"],
        &["C: a IDLE", "S: + idling", "C: DONE"],
        &["C: a IDLE", "S: a BAD no"],
        &["C: a IDLE", "S: + idling", "S: a OK for too long"],
        &["C: a IDLE", "S: + idling", "C: b NOOP"],
        &["C: a COMPRESS DEFLATE", "C: b IDLE"],
        &["C: a APPEND x {8+}", "C: b IDLE"],
    ] {
        assert!(!play(dialogue).idles(), "{dialogue:?}");
    }
}

#[test]
fn what_a_literal_holds_is_nothing_but_bytes() {
    assert!(!vouches_after(&["S: * 1 FETCH (BODY[] {60}", "S: a OK [CAPABILITY IMAP4rev1] done", "S: * BYE"]));
    assert!(!play(&["S: * 1 FETCH (BODY[] {60}", "S: * BYE x"]).logged_out());
    let sent = play(&["C: a APPEND x {23}", "S: + go", "C: b COMPRESS DEFLATE", "C: ", "S: a OK"]);
    assert!(sent.vouches());
    assert!(play(&["C: a APPEND x {10+}", "C: b LOGOUT", "C: c NOOP"]).vouches());
}

#[test]
fn after_a_word_that_changes_the_stream_nothing_is_vouched_for() {
    for word in ["COMPRESS DEFLATE", "compress deflate", "STARTTLS", "AUTHENTICATE PLAIN", "UNAUTHENTICATE"] {
        let follower = play(&[&format!("C: a {word}"), "S: a OK", "S: * 1 EXISTS"]);
        assert!(follower.doubts() && !follower.vouches(), "{word}");
    }
    for harmless in ["COMPRESSED", "X-COMPRESS", "UID FETCH 1 COMPRESS", "SELECT COMPRESS"] {
        assert!(vouches_after(&[&format!("C: a {harmless}")]), "{harmless}");
    }
    // Where servers differ in what they take, they may take it for that word.
    for odd in ["a  COMPRESS DEFLATE", " a COMPRESS DEFLATE", "a\tCOMPRESS DEFLATE", "a COMPRESS\tDEFLATE", "a"] {
        assert!(play(&[&format!("C: {odd}")]).doubts(), "{odd}");
    }
}

#[test]
fn a_literal_that_was_refused_does_not_come() {
    for refusal in ["a NO [TOOBIG] no", "a BAD what"] {
        let follower = play(&["C: a APPEND x {1000}", &format!("S: {refusal}"), "C: b COMPRESS DEFLATE"]);
        assert!(follower.doubts(), "{refusal}: the next line is a command");
    }
    let other = play(&["C: z FETCH 9", "C: a APPEND x {17}", "S: z NO none", "S: + go", "C: b STARTTLS 789012", "C: "]);
    assert!(other.vouches(), "another command's NO does not refuse it");
    assert!(play(&["C: a APPEND x {17}", "S: a OK"]).doubts(), "OK without the literal");
    assert!(play(&["C: a APPEND x {17}", "C: b NOOP"]).doubts(), "it did not wait");
}

#[test]
fn idle_has_a_plus_of_its_own() {
    let idle = ["C: a IDLE", "S: + idling", "S: * 5 EXISTS", "C: done", "S: a OK", "C: b APPEND x {1}", "S: + go"];
    assert!(vouches_after(&idle[..2]) && vouches_after(&idle[..4]) && vouches_after(&idle));
    assert!(vouches_after(&["C: a IDLE", "S: a BAD no", "C: b NOOP"]));
    assert!(vouches_after(&["C: a IDLE", "S: + idling", "S: a OK for too long", "C: DONE", "C: b NOOP"]));
    assert!(vouches_after(&["C: a IDLE", "C: DONE", "S: + idling", "S: a OK"]), "pipelined");
    assert!(play(&["C: a IDLE", "C: DONE", "C: b APPEND x {3}"]).doubts(), "whose plus will the next be?");
    assert!(play(&["C: a IDLE", "C: DONE", "C: b IDLE"]).doubts());
    assert!(play(&["C: a IDLE", "S: + idling", "C: b COMPRESS DEFLATE"]).doubts());
    assert!(play(&["C: a IDLE", "C: DONE {3}"]).doubts());
    assert!(play(&["S: + unasked"]).doubts());
}

#[test]
fn the_end_that_was_announced_is_known() {
    assert!(play(&["C: a LOGOUT"]).logged_out() && !play(&["C: a LOGOUT"]).said_bye());
    assert!(play(&["C: a logout", "S: * bye see you", "S: a OK"]).said_bye());
    assert!(play(&["S: * BYE"]).logged_out());
    assert!(!play(&["C: a NOOP LOGOUT", "S: * LIST () NIL BYE", "S: a OK BYE"]).logged_out());
}

#[test]
fn what_cannot_be_a_response_or_its_literal_is_in_doubt() {
    for line in [
        "",
        " OK",
        "*",
        "*1 EXISTS",
        "junk",
        "a MAYBE",
        "a BYE",
        &format!("{} OK", "t".repeat(33)),
        ")",
        "* 1 FETCH {1099511627777}",
        "* 1 FETCH {18446744073709551616}",
        "* 1 FETCH {000000000000000000000000000005}",
        "* 1 FETCH {-1}",
        "* 1 FETCH {}",
        "* 1 FETCH {5+}",
        "* OK text {5}",
        "a NO text {5}",
        "* 1 EXISTS\n* 2 EXISTS",
    ] {
        assert!(play(&[&format!("S: {line}")]).doubts(), "{line}");
    }
    for line in
        ["* LIST () \"/\" foo}", "* 1 FETCH (X \"{5}\")", "+", "* ok", "a OK", "* 1 X 12345678901234567890123456}x"]
    {
        assert!(vouches_after(&["C: a IDLE", &format!("S: {line}")]), "{line}");
    }
    for line in ["a X {5-}", "a X {}", "a X {99999999999999}", "a IDLE {5}", &format!("{} NOOP", "t".repeat(33))] {
        assert!(play(&[&format!("C: {line}")]).doubts(), "{line}");
    }
    assert!(vouches_after(&[&format!("C: {} NOOP", "t".repeat(32))]));
    assert!(vouches_after(&["C: a NOOP\nb NOOP", "C: "]), "typed by hand");
    assert!(play(&["C: a APPEND x {4+}\nabcd"]).doubts());
}

#[test]
fn a_line_without_end_is_no_line() {
    let piece = vec![b'x'; 1 << 20];
    for by in [Client, Backend] {
        let mut follower = Follower::default();
        for _ in 0..16 {
            follower.hear(by, &piece);
            assert!(!follower.doubts());
        }
        follower.hear(by, b"x");
        assert!(follower.doubts());
        let mut whole = Follower::default();
        whole.hear(by, &[b"a NOOP ", piece.repeat(17).as_slice(), b"\r\n"].concat());
        assert!(whole.doubts());
    }
}

#[test]
fn a_great_literal_is_skipped() {
    let mut follower = Follower::default();
    follower.from_backend(b"* 1 FETCH (BODY[] {1099511627776}\r\n");
    let piece = vec![b'\n'; 1 << 20];
    for _ in 0..1 << 20 {
        follower.from_backend(&piece);
    }
    assert!(!follower.vouches());
    follower.from_backend(b")\r\n");
    assert!(follower.vouches());
}

#[test]
fn a_follower_is_small_and_tells_nothing() {
    assert!(size_of::<Follower>() <= 88, "{}", size_of::<Follower>());
    let mut follower = play(&["C: secret1 NOOP"]);
    follower.from_client(b"secret2 half");
    follower.from_backend(b"* secret3");
    assert!(!format!("{follower:?}").contains("secret"), "{follower:?}");
}

/// Pieces of which dangerous streams are made.
const WIRE: [&str; 44] = [
    "\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    " ",
    "a",
    "b",
    "{",
    "}",
    "+",
    "~",
    "1",
    "0",
    "{1}",
    "{2+}",
    "{3}\r\n",
    "{4+}\r\n",
    "{5}\r\n",
    "{12}\r\n",
    "{99999999999999}\r\n",
    "DONE\r\n",
    "IDLE",
    "a IDLE\r\n",
    "b IDLE\r\n",
    "a APPEND x {3}\r\n",
    "b APPEND x {7+}\r\n",
    "a NOOP\r\n",
    "LOGOUT\r\n",
    "b LOGOUT\r\n",
    "a COMPRESS DEFLATE\r\n",
    "+ go\r\n",
    "+ go\r\n",
    "a OK\r\n",
    "a NO no\r\n",
    "b BAD no\r\n",
    "* 1 EXISTS\r\n",
    "* 1 FETCH (BODY[] {4}\r\n",
    "* X ~{6}\r\n",
    ")\r\n",
    "* BYE\r\n",
    "* OK x\r\n",
    "0000000000000000000000000000000000000000000000000000000000000000000000",
];

fn wire() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&WIRE[..]), 0..8).prop_map(|pieces| pieces.concat().into_bytes())
}

fn by() -> impl Strategy<Value = By> {
    prop_oneof![Just(Client), Just(Backend)]
}

/// What the follower does, slowly: a byte at a time, with every line held whole and read as text.
#[derive(Default)]
struct Model {
    client: ModelLine,
    backend: ModelLine,
    /// What the client may say next: `command`, `within`, `waiting`, `idling`.
    talk: String,
    pending: u64,
    tag: String,
    owed: bool,
    doubt: bool,
    logged_out: bool,
}

#[derive(Default)]
struct ModelLine {
    line: String,
    literal: u64,
    within: bool,
}

impl Model {
    fn new() -> Self {
        Self { talk: "command".into(), ..Self::default() }
    }

    fn hear(&mut self, by: By, bytes: &[u8]) {
        for byte in bytes {
            if !self.doubt {
                self.byte(by, *byte);
            }
        }
    }

    fn byte(&mut self, by: By, byte: u8) {
        if by == Client && self.talk == "waiting" {
            self.doubt = true;
            return;
        }
        let side = if by == Client { &mut self.client } else { &mut self.backend };
        if side.literal > 0 {
            side.literal -= 1;
            return;
        }
        side.line.push(char::from(byte));
        if byte == b'\n' {
            let line = mem::take(&mut side.line);
            let line = line.trim_end_matches('\n');
            let heard = if by == Client { self.command(line) } else { self.response(line) };
            self.doubt |= heard.is_none();
        }
    }

    /// An error: doubt.
    fn literal(line: &str) -> Result<Option<(u64, bool)>, ()> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let Some(line) = line.strip_suffix('}') else { return Ok(None) };
        let digits = line.len() - line.trim_end_matches(|c: char| c.is_ascii_digit() || c == '+').len();
        if digits > 20 {
            return Err(());
        }
        let Some((_, count)) = line.rsplit_once('{') else { return Ok(None) };
        if count.len() > 22 {
            return Ok(None);
        }
        let waits = !count.ends_with('+');
        let count = count.strip_suffix('+').unwrap_or(count);
        let all_digits = !count.is_empty() && count.chars().all(|c| c.is_ascii_digit());
        let size = count.parse().ok().filter(|size| all_digits && *size <= 1 << 40).ok_or(())?;
        Ok(Some((size, waits)))
    }

    fn command(&mut self, line: &str) -> Option<()> {
        let bare = line.strip_suffix('\r').unwrap_or(line);
        let mut next = "command";
        match self.talk.as_str() {
            "idling" if !bare.eq_ignore_ascii_case("done") => return None,
            "command" if !bare.is_empty() && !bare.eq_ignore_ascii_case("done") => {
                let (tag, rest) = bare.split_once(' ')?;
                let name: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
                if tag.is_empty() || tag.len() > 32 || tag.contains(|c: char| !c.is_ascii_graphic()) || name.is_empty()
                {
                    return None;
                }
                tag.clone_into(&mut self.tag);
                match name.to_ascii_uppercase().as_str() {
                    "COMPRESS" | "STARTTLS" | "AUTHENTICATE" | "UNAUTHENTICATE" => return None,
                    "LOGOUT" => self.logged_out = true,
                    "IDLE" if self.owed => return None,
                    "IDLE" => {
                        self.owed = true;
                        next = "idling";
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        if let Some((size, waits)) = Self::literal(line).ok()? {
            if next == "idling" || bare == line || (waits && self.owed) {
                return None;
            }
            next = if waits { "waiting" } else { "within" };
            if waits { self.pending = size } else { self.client.literal = size }
        }
        next.clone_into(&mut self.talk);
        Some(())
    }

    fn response(&mut self, line: &str) -> Option<()> {
        let bare = line.strip_suffix('\r')?;
        let literal = Self::literal(line).ok()?;
        if !self.backend.within {
            let mut words = bare.splitn(3, ' ');
            let (first, second) = (words.next()?, words.next().unwrap_or_default().to_ascii_uppercase());
            let status = ["OK", "NO", "BAD", "BYE", "PREAUTH"].contains(&second.as_str());
            if bare.starts_with('+') {
                if self.talk == "waiting" {
                    "within".clone_into(&mut self.talk);
                    self.client.literal = self.pending;
                } else if !mem::take(&mut self.owed) {
                    return None;
                }
            } else if first == "*" && status {
                self.logged_out |= second == "BYE";
            } else if ["OK", "NO", "BAD"].contains(&second.as_str()) && (1..=32).contains(&first.len()) {
                if first == self.tag && self.talk == "idling" {
                    self.owed = false;
                    "command".clone_into(&mut self.talk);
                } else if first == self.tag && self.talk == "waiting" {
                    if second == "OK" {
                        return None;
                    }
                    "command".clone_into(&mut self.talk);
                }
            } else if !bare.starts_with("* ") || status {
                return None;
            }
            if literal.is_some() && (status || bare.starts_with('+')) {
                return None;
            }
        }
        self.backend.within = literal.is_some();
        if let Some((size, waits)) = literal {
            self.backend.literal = size;
            if !waits {
                return None;
            }
        }
        Some(())
    }

    fn verdict(&self) -> (bool, bool, bool) {
        let between = !self.backend.within && self.backend.line.is_empty() && self.backend.literal == 0;
        (between && !self.doubt, self.doubt, self.logged_out)
    }
}

/// What stands in literals: all that would be dangerous outside of them.
fn body() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(
        &["x", "\r\n", "\n", "* BYE\r\n", "+ go\r\n", "{5}\r\n", "{5+}\r\n", "a COMPRESS D\r\n", ")\r\n"][..],
    );
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// Untagged data with any number of literals.
fn data() -> impl Strategy<Value = String> {
    prop::collection::vec(body(), 0..3).prop_map(|bodies| {
        let items: Vec<String> = bodies.iter().map(|body| format!("BODY[] {{{}}}\r\n{body}", body.len())).collect();
        format!("* 1 FETCH (FLAGS () {})\r\n", items.join(" "))
    })
}

/// One exchange: what each side says in turn, the client first; and whether the client may go on without waiting for the
/// last answer.
type Exchange = (Vec<(Vec<String>, Vec<String>)>, bool);

fn exchange() -> impl Strategy<Value = Exchange> {
    let data = || prop::collection::vec(data(), 0..3);
    let with = |mut data: Vec<String>, last: &str| {
        data.push(last.to_owned());
        data
    };
    let client = |said: &str| vec![said.to_owned()];
    prop_oneof![
        data().prop_map(move |data| (vec![(client("T FETCH 1 X\r\n"), with(data, "T OK done\r\n"))], true)),
        (data(), prop::collection::vec(body(), 1..3)).prop_map(move |(data, bodies)| {
            let mut turns = Vec::new();
            let mut said = "T APPEND x".to_owned();
            for body in bodies {
                turns.push((client(&format!("{said} ~{{{}}}\r\n", body.len())), with(data.clone(), "+ go\r\n")));
                said = body;
            }
            turns.push((client(&format!("{said}\r\n")), with(data, "T OK [APPENDUID 1 1] done\r\n")));
            (turns, true)
        }),
        data().prop_map(move |data| (vec![(client("T APPEND x {17}\r\n"), with(data, "T NO [TOOBIG] no\r\n"))], false)),
        (data(), body()).prop_map(move |(data, body)| {
            let said = format!("T APPEND x {{{}+}}\r\n{body}\r\n", body.len());
            (vec![(client(&said), with(data, "T BAD no\r\n"))], true)
        }),
        data().prop_map(move |data| {
            let idling = [vec!["+ idling\r\n".to_owned()], data].concat();
            (vec![(client("T IDLE\r\n"), idling), (client("DONE\r\n"), client("T OK\r\n"))], true)
        }),
        data().prop_map(move |data| (vec![(client("T IDLE\r\n"), with(data, "T BAD no\r\n"))], false)),
    ]
}

/// Feeds what both sides say at the same time, in pieces and mixed, and asks after each piece whether the verdict is what
/// the made-up responses say it must be.
fn feed(follower: &mut Follower, client: &str, backend: &[String], cuts: &mut impl Iterator<Item = (By, usize)>) {
    let (mut client, all) = (client.as_bytes(), backend.concat());
    let ends: Vec<usize> = backend
        .iter()
        .scan(0, |end, response| {
            *end += response.len();
            Some(*end)
        })
        .collect();
    let mut at = 0;
    while !client.is_empty() || at < all.len() {
        let (by, n) = cuts.next().expect("endless");
        if by == Client {
            let (piece, rest) = client.split_at(n.min(client.len()));
            follower.from_client(piece);
            client = rest;
        } else {
            let end = all.len().min(at + n);
            follower.from_backend(&all.as_bytes()[at..end]);
            at = end;
        }
        assert!(!follower.doubts(), "{client:?} {all:?} {at}");
        assert_eq!(follower.vouches(), at == 0 || ends.contains(&at), "{all:?} {at}");
    }
}

proptest! {
    #[test]
    fn made_dialogues_are_followed(
        exchanges in prop::collection::vec(exchange(), 0..6),
        cuts in prop::collection::vec((by(), 1..40_usize), 1..50),
        compressed: bool,
    ) {
        let mut follower = Follower::default();
        let both = [(Client, 1), (Backend, 1)];
        let mut cuts = cuts.into_iter().chain(both).cycle();
        // What the backend still says while the client goes on already.
        let mut late: Vec<String> = Vec::new();
        for (number, (turns, pipelines)) in exchanges.into_iter().enumerate() {
            let tag = |said: &String| said.strip_prefix("T ").map_or_else(|| said.clone(), |said| format!("t{number} {said}"));
            let last = turns.len() - 1;
            for (at, (client, backend)) in turns.into_iter().enumerate() {
                let client: String = client.iter().map(tag).collect();
                let backend: Vec<String> = backend.iter().map(tag).collect();
                feed(&mut follower, &client, &mem::take(&mut late), &mut cuts);
                if at == last && pipelines { late = backend } else { feed(&mut follower, "", &backend, &mut cuts) }
            }
        }
        feed(&mut follower, "", &late, &mut cuts);
        prop_assert!(follower.vouches());
        if compressed {
            follower.from_client(b"z COMPRESS DEFLATE\r\n");
            follower.from_backend(b"z OK DEFLATE active\r\n");
            prop_assert!(!follower.vouches() && follower.doubts());
        }
    }

    #[test]
    fn any_bytes_mean_what_the_model_says(
        said in prop::collection::vec((by(), wire()), 0..12), cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let mut model = Model::new();
        let mut follower = Follower::default();
        let mut bytewise = Follower::default();
        for (by, bytes) in said {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            for cut in cuts.windows(2) {
                let piece = &bytes[cut[0]..cut[1]];
                model.hear(by, piece);
                follower.hear(by, piece);
                for byte in piece {
                    bytewise.hear(by, &[*byte]);
                }
                prop_assert_eq!(follower.verdict(), model.verdict(), "{:?} said {}", by, bytes.escape_ascii());
                prop_assert_eq!(bytewise.verdict(), model.verdict(), "{:?} said {}", by, bytes.escape_ascii());
            }
        }
    }
}
