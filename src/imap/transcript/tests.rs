use proptest::prelude::*;

use super::super::follower::Follower;
use super::super::{Event, Mechanism, Offer, Preauth};
use super::*;

/// What both sides say after login, and what is shown of it.
#[derive(Default)]
struct Wire {
    follower: Follower,
    shown: Vec<String>,
}

impl Wire {
    fn traced() -> Self {
        let mut wire = Self::default();
        wire.follower.transcribe(true);
        wire
    }

    fn say(&mut self, voice: Voice, bytes: &[u8]) {
        match voice {
            Voice::Client => assert_eq!(self.follower.from_client(bytes), bytes.len()),
            _ => self.follower.from_backend(bytes),
        }
        self.shown.extend(shown(self.follower.spoken()));
    }

    /// Lines that begin with `> ` are the client's, the others the backend's.
    fn play(&mut self, lines: &[&str]) {
        for line in lines {
            match line.strip_prefix("> ") {
                Some(line) => self.say(Voice::Client, line.as_bytes()),
                None => self.say(Voice::Backend, line.as_bytes()),
            }
        }
    }
}

fn shown(spoken: Vec<Spoken>) -> impl Iterator<Item = String> {
    spoken.into_iter().map(|Spoken { voice, text }| {
        let arrow = match voice {
            Voice::Client => ">",
            Voice::Backend => "<",
            Voice::Mailmux => "m",
            Voice::Note => "-",
        };
        format!("{arrow} {text}")
    })
}

#[test]
fn lines_are_shown_and_literals_only_counted() {
    let mut wire = Wire::traced();
    wire.play(&[
        "> a SELECT INBOX\r\n",
        "* 3 EXISTS\r\na OK [READ-WRITE] done\r\n",
        "> b APPEND INBOX (\\Seen) {5}\r\n",
        "+ go on\r\n",
        "> Hello\r\n",
        "b OK appended\r\n",
        "> c APPEND INBOX {5+}\r\nHello CATENATE ~{3+}\r\n\0\n1 x\r\n",
        "* 1 FETCH (UID 7 BODY[] {13}\r\nSubject: \r\n\r\n FLAGS ())\r\n",
        "> d IDLE\r\n",
        "+ idling\r\n",
        "> DONE\r\n",
    ]);
    assert_eq!(
        wire.shown,
        [
            "> a SELECT INBOX",
            "< * 3 EXISTS",
            "< a OK [READ-WRITE] done",
            "> b APPEND INBOX (\\Seen) {5}",
            "< + go on",
            "> {5} ‹5 bytes›",
            "< b OK appended",
            "> c APPEND INBOX {5+} ‹5 bytes› CATENATE ~{3+} ‹3 bytes› x",
            "< * 1 FETCH (UID 7 BODY[] {13} ‹13 bytes› FLAGS ())",
            "> d IDLE",
            "< + idling",
            "> DONE",
        ]
    );
}

#[test]
fn a_late_login_is_masked_however_it_is_written() {
    let mut wire = Wire::traced();
    wire.play(&[
        "> a LOGIN ann \"se cret\"\r\n",
        "> b login {3+}\r\nann {6+}\r\nsecret\r\n",
        "> c LOGIN {3}\r\n",
        "+ OK\r\n",
        "> ann {6}\r\n",
        "+ OK\r\n",
        "> secret\r\n",
        "> d NOOP\r\n",
    ]);
    assert_eq!(
        wire.shown,
        ["> a LOGIN ***", "> b login ***", "> c LOGIN ***", "< + OK", "> ***", "< + OK", "> ***", "> d NOOP"]
    );
}

#[test]
fn what_cannot_be_told_apart_is_not_shown_and_that_is_said_once() {
    let mut wire = Wire::traced();
    wire.play(&["> a AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=\r\n", "+ \r\n", "> c2VjcmV0\r\n"]);
    assert_eq!(wire.shown.len(), 1, "{:?}", wire.shown);
    assert!(wire.shown[0].starts_with("- from here on"), "{:?}", wire.shown);
    wire.follower.transcribe(true);
    wire.play(&["* 1 EXISTS\r\n"]);
    assert_eq!(wire.shown.len(), 2, "and once more to whoever looks now: {:?}", wire.shown);
}

#[test]
fn who_looks_in_the_middle_sees_whole_lines_only() {
    let mut wire = Wire::default();
    wire.play(&["> a APPEND INBOX {7}\r\n", "* 1 FETCH (BODY[] {9}\r\nhello"]);
    wire.follower.transcribe(true);
    wire.play(&["\r\nQ BODY[TEXT] {2}\r\nQQ)\r\n", "+ go\r\n", "> QQQQQQQ\r\n", "> b NOO"]);
    wire.play(&["> P\r\n", "b OK done\r\n"]);
    assert_eq!(wire.shown, ["< + go", "> b NOOP", "< b OK done"]);
}

#[test]
fn a_refused_literal_leaves_nothing_behind() {
    let mut wire = Wire::traced();
    wire.play(&["> a APPEND INBOX {7}\r\n", "a NO too much\r\n", "> b NOOP\r\n"]);
    assert_eq!(wire.shown, ["> a APPEND INBOX {7}", "< a NO too much", "> b NOOP"]);
}

#[test]
fn long_lines_are_cut_and_nothing_reaches_a_terminal() {
    let mut wire = Wire::traced();
    wire.play(&[&format!("* SEARCH {}\r\n", "1 ".repeat(5000)), "* OK \x1b[2J\r-\u{e4}\r\n"]);
    assert_eq!(wire.shown[0].len(), "< ".len() + SHOWN + " … 9009 bytes more".len(), "{}", wire.shown[0]);
    assert_eq!(wire.shown[1], "< * OK \\x1b[2J\\x0d-\\xc3\\xa4");
}

fn machine() -> Preauth {
    let mechanisms = vec![Mechanism::Plain, Mechanism::Login];
    let mut machine = Preauth::new(Offer { starttls: false, login: true, mechanisms, certificate: None });
    machine.transcribe(true);
    machine
}

/// What is shown of a dialogue in which every login is refused.
fn dialogue<'a>(machine: &mut Preauth, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut out, mut lines) = (Vec::new(), Vec::new());
    for piece in pieces {
        machine.push(piece);
        while let Some(event) = machine.step(&mut out) {
            match event {
                Event::Login(_) => machine.refuse(b"[AUTHENTICATIONFAILED] no", &mut out),
                Event::End(_) => break,
                _ => {}
            }
        }
        lines.extend(shown(machine.spoken()));
    }
    lines
}

#[test]
fn before_login_credentials_are_masked() {
    let said: [&[u8]; 11] = [
        b"a CAPABILITY\r\n",
        b"b ID (\"name\" \"x\")\r\n",
        b"c LOGIN ann \"se cret\"\r\n",
        b"d LOGIN {3}\r\n",
        b"ann {6}\r\n",
        b"secret\r\n",
        b"e AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=\r\n",
        b"f AUTHENTICATE LOGIN\r\n",
        b"*\r\n",
        b"AGFubgBzZWNyZXQ secret\r\n",
        b"g SELECT secret\r\n",
    ];
    let lines = dialogue(&mut machine(), said);
    assert!(lines[0] == "> a CAPABILITY" && lines[1].starts_with("m * CAPABILITY IMAP4rev1"), "{lines:?}");
    assert_eq!(
        lines[2..],
        [
            "m a OK Capability completed.",
            "> b ID (\"name\" \"x\")",
            "m * ID (\"name\" \"mailmux\")",
            "m b OK ID completed.",
            "> c LOGIN ***",
            "m c NO [AUTHENTICATIONFAILED] no",
            "> d LOGIN ***",
            "m + OK",
            "> ***",
            "m + OK",
            "> ***",
            "m d NO [AUTHENTICATIONFAILED] no",
            "> e AUTHENTICATE PLAIN ***",
            "m e NO [AUTHENTICATIONFAILED] no",
            "> f AUTHENTICATE LOGIN",
            "m + ***",
            "> *",
            "m f BAD Authentication aborted.",
            "> ***",
            "m *** BAD Unknown command.",
            "> g SELECT",
            "m g BAD Log in first.",
        ]
    );
}

/// Something that one side says: in it, Q stands where nobody may look.
fn turn() -> impl Strategy<Value = Vec<(Voice, Vec<u8>)>> {
    use Voice::{Backend, Client};
    let lines = |lines: Vec<(Voice, String)>| {
        lines.into_iter().map(|(voice, line)| (voice, line.into_bytes())).collect::<Vec<_>>()
    };
    let secret = prop_oneof![
        "Q{1,8}",
        "Q{0,3}\r\nQ{0,3}",
        "Q LOGIN Q",
        "Q AUTHENTICATE PLAIN Q\r\n",
        "\\* Q\\{Q",
        "Q\r\n\\+ Q\r\n\\* 1 FETCH Q\\{3\\}\r\n"
    ];
    let sent = secret.clone().prop_map(|text: String| text.replace('\\', ""));
    prop_oneof![
        Just(lines(vec![(Client, "a NOOP\r\n".into()), (Backend, "a OK done\r\n".into())])),
        Just(lines(vec![(Client, "a LOGIN ann \"QQ Q\"\r\n".into()), (Backend, "a NO not now\r\n".into())])),
        Just(lines(vec![(Client, "a AUTHENTICATE PLAIN QQQQ\r\n".into()), (Backend, "a BAD no\r\n".into())])),
        Just(lines(vec![
            (Client, "a AUTHENTICATE PLAIN\r\n".into()),
            (Backend, "+ \r\n".into()),
            (Client, "QQQQ\r\n".into())
        ])),
        Just(lines(vec![
            (Client, "a IDLE\r\n".into()),
            (Backend, "+ idling\r\n* 1 EXISTS\r\n".into()),
            (Client, "DONE\r\n".into())
        ])),
        sent.clone().prop_map(move |text| lines(vec![
            (Client, format!("a APPEND x {{{}+}}\r\n{text}\r\n", text.len())),
            (Backend, "a OK done\r\n".into())
        ])),
        sent.clone().prop_map(move |text| lines(vec![
            (Client, format!("a APPEND x ~{{{}}}\r\n", text.len())),
            (Backend, "+ go\r\n".into()),
            (Client, format!("{text} more\r\n"))
        ])),
        sent.clone().prop_map(move |text| lines(vec![
            (Client, format!("a LOGIN {{{}}}\r\n", text.len())),
            (Backend, "+ go\r\n".into()),
            (Client, format!("{text} {{{}+}}\r\n{text}\r\n", text.len()))
        ])),
        sent.prop_map(move |text| lines(vec![
            (Client, "a FETCH 1 BODY[]\r\n".into()),
            (
                Backend,
                format!("* 1 FETCH (BODY[] {{{}}}\r\n{text} X {{{}}}\r\n{text})\r\na OK\r\n", text.len(), text.len())
            )
        ])),
        // What makes everybody doubt, now and then.
        "[a-z {}+*()\"]{0,12}".prop_map(move |text| lines(vec![(Client, format!("{text}\r\n"))])),
        "[a-z {}+*()\"]{0,12}".prop_map(move |text| lines(vec![(Backend, format!("{text}\r\n"))])),
    ]
}

proptest! {
    /// Whatever is fed, in whatever pieces, and whenever somebody begins to look.
    #[test]
    fn no_byte_of_a_literal_or_credential_is_ever_shown(
        turns in prop::collection::vec(turn(), 1..8),
        piece in 1..40_usize,
        begin in 0..60_usize,
    ) {
        let mut wire = Wire::default();
        let pieces = turns.iter().flatten().flat_map(|(voice, bytes)| bytes.chunks(piece).map(move |part| (*voice, part)));
        for (at, (voice, part)) in pieces.enumerate() {
            if at == begin {
                wire.follower.transcribe(true);
            }
            wire.say(voice, part);
        }
        prop_assert!(!wire.shown.iter().any(|line| line.contains('Q')), "{:?}", wire.shown);
    }

    /// The same before login.
    #[test]
    fn no_byte_of_a_credential_is_shown_before_login(
        turns in prop::collection::vec(turn(), 1..8),
        piece in 1..40_usize,
    ) {
        // A literal that was not asked for is a command, and its first word a tag.
        let turns: Vec<_> = turns.into_iter().filter(|turn| !turn[0].1.windows(2).any(|bytes| bytes == b"~{")).collect();
        let said: Vec<u8> = turns.concat().into_iter().filter(|(voice, _)| *voice == Voice::Client).flat_map(|(_, said)| said).collect();
        let lines = dialogue(&mut machine(), said.chunks(piece));
        prop_assert!(!lines.iter().any(|line| line.contains('Q')), "{lines:?}");
    }
}
