//! The command reader against imap-codec, another reading of the same grammar: on commands put together from it, and on
//! the same commands after a few bytes of them were changed, both must read the same or both refuse. Where they differ
//! for a reason, [`known`] has the reason; a difference it does not name fails.

use imap_codec::CommandCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::command::CommandBody;
use imap_codec::imap_types::core::NString;
use mailmux::imap::command::{Command, Line, scope};
use mailmux::imap::framer::{Frame, Framer, LINE_MAX, TAG_MAX};
use mailmux::imap::sasl;
use proptest::prelude::*;

/// What both readers say in the same words: the tag, the name, the strings, and how many bytes were read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    tag: Vec<u8>,
    name: String,
    strings: Vec<Option<Vec<u8>>>,
    used: usize,
}

fn said(tag: &[u8], name: &str, strings: Vec<Option<Vec<u8>>>, used: usize) -> Said {
    Said { tag: tag.to_vec(), name: name.to_ascii_uppercase(), strings, used }
}

fn ours(text: &[u8]) -> Option<Said> {
    let mut framer = Framer::new(scope);
    framer.push(text);
    let held = loop {
        match framer.pop()? {
            Frame::Command(held) => break held,
            Frame::Waits if Line::new(framer.held()).may_go_on() => framer.permit(),
            _ => return None,
        }
    };
    let line = Line::new(&held);
    let (name, strings) = match line.parse().ok()? {
        Command::Capability => ("CAPABILITY".to_owned(), vec![]),
        Command::Noop => ("NOOP".to_owned(), vec![]),
        Command::Logout => ("LOGOUT".to_owned(), vec![]),
        Command::StartTls => ("STARTTLS".to_owned(), vec![]),
        Command::Id(pairs) => {
            ("ID".to_owned(), pairs.into_iter().flat_map(|(key, value)| [Some(key), Some(value)]).collect())
        }
        Command::Login { user, password } => ("LOGIN".to_owned(), vec![Some(user.to_vec()), Some(password.to_vec())]),
        Command::Authenticate { mechanism, initial } => {
            let initial = match initial.as_deref().map(Vec::as_slice) {
                None => None,
                Some(b"=") => Some(Vec::new()),
                Some(text) => Some(sasl::decode_base64(text)?.to_vec()),
            };
            (format!("AUTHENTICATE {}", String::from_utf8(mechanism).ok()?), vec![initial])
        }
    };
    Some(said(line.tag?, &name, strings, text.len() - framer.unread().len()))
}

fn theirs(text: &[u8]) -> Option<Said> {
    let (rest, command) = CommandCodec::default().decode(text).ok()?;
    let (name, strings) = match command.body {
        CommandBody::Capability => ("CAPABILITY".to_owned(), vec![]),
        CommandBody::Noop => ("NOOP".to_owned(), vec![]),
        CommandBody::Logout => ("LOGOUT".to_owned(), vec![]),
        CommandBody::StartTLS => ("STARTTLS".to_owned(), vec![]),
        CommandBody::Id { parameters } => {
            let mut strings = Vec::new();
            for (key, value) in parameters.unwrap_or_default() {
                // A pair without a value says nothing; ours drops it.
                if let Some(value) = value.0 {
                    strings.extend([Some(key.as_ref().to_vec()), Some(value.as_ref().to_vec())]);
                }
            }
            ("ID".to_owned(), strings)
        }
        CommandBody::Login { username, password } => {
            let strings = vec![Some(username.as_ref().to_vec()), Some(password.declassify().as_ref().to_vec())];
            ("LOGIN".to_owned(), strings)
        }
        CommandBody::Authenticate { mechanism, initial_response } => {
            let initial = initial_response.map(|message| message.declassify().to_vec());
            (format!("AUTHENTICATE {mechanism}"), vec![initial])
        }
        // Commands for after login, which ours knows by name only.
        _ => return None,
    };
    Some(said(command.tag.as_ref().as_bytes(), &name, strings, text.len() - rest.len()))
}

/// Words that begin a line of another protocol and end the session, although they could be tags.
const VERBS: [&[u8]; 10] =
    [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH", b"TRACE", b"PROXY"];

/// Why the two readers may differ on this text; `None` is a fault.
fn known(text: &[u8], we: Option<&Said>, they: Option<&Said>) -> Option<&'static str> {
    match (we, they) {
        // Ours reads more: 8-bit passwords need no literal, NUL in one is refused by the type of the credentials and not
        // by the reader, and a line may end with LF alone, as people type. Without these three both must agree.
        (Some(_), None) => {
            let plain: Vec<u8> = text.iter().map(|byte| if matches!(byte, 1..=127) { *byte } else { b'x' }).collect();
            let plain_ours = ours(&plain)?;
            agree_on_line_ends(&plain, plain_ours, 4).then_some("8 bits, NUL, or LF alone")
        }
        // Ours reads less.
        (None, Some(theirs)) if theirs.tag.len() > TAG_MAX => Some("a tag is bounded"),
        (None, Some(theirs)) if theirs.tag.iter().any(|byte| b"<>&".contains(byte)) => {
            Some("a tag is sent back, perhaps to a browser")
        }
        (None, Some(theirs)) if VERBS.contains(&theirs.tag.as_slice()) => Some("a browser was sent here"),
        (None, Some(theirs)) if theirs.used > LINE_MAX => Some("a command is bounded"),
        (None, Some(theirs)) if text[..theirs.used].ends_with(b" \r\n") && theirs.name.starts_with("AUTHENTICATE ") => {
            Some("an empty initial response is written \"=\" (RFC 4959 section 3)")
        }
        (None, Some(_)) if is_unusual_id(text) => Some("ID is bounded, and holds no line breaks"),
        _ => None,
    }
}

/// Whether the other reader says the same once at most `most` LFs that stood alone got their CR.
fn agree_on_line_ends(text: &[u8], mut expected: Said, most: usize) -> bool {
    if theirs(text).as_ref() == Some(&expected) {
        return true;
    }
    expected.used += 1;
    (0..expected.used.min(text.len())).filter(|at| most > 0 && text[*at] == b'\n').any(|at| {
        let with_cr = [&text[..at], b"\r", &text[at..]].concat();
        agree_on_line_ends(&with_cr, expected.clone(), most - 1)
    })
}

/// An ID with more, longer or other strings than ours takes.
fn is_unusual_id(text: &[u8]) -> bool {
    let Ok((_, command)) = CommandCodec::default().decode(text) else { return false };
    let CommandBody::Id { parameters: Some(pairs) } = command.body else { return false };
    let unusual = |string: &[u8], max: usize| string.len() > max || string.iter().any(|byte| b"\r\n".contains(byte));
    let value = |value: &NString<'_>| value.0.as_ref().is_some_and(|value| unusual(value.as_ref(), 1024));
    pairs.len() > 30 || pairs.iter().any(|pair| unusual(pair.0.as_ref(), 30) || value(&pair.1))
}

fn compare(text: &[u8]) -> Result<(), TestCaseError> {
    let (ours, theirs) = (ours(text), theirs(text));
    if ours != theirs {
        let why = known(text, ours.as_ref(), theirs.as_ref());
        prop_assert!(why.is_some(), "{}\nours:   {ours:?}\ntheirs: {theirs:?}", text.escape_ascii());
    }
    Ok(())
}

/// A string in one of its spellings; `atoms` where the grammar has them.
fn string(atoms: bool) -> BoxedStrategy<Vec<u8>> {
    let quoted = "[ -!#-\\[\\]-~\t]{0,12}".prop_map(|text| format!("\"{text}\"").into_bytes());
    let escaped = r#"([a-z ]|\\\\|\\"){0,6}"#.prop_map(|text| format!("\"{text}\"").into_bytes());
    let literal = (prop::collection::vec(1..=255_u8, 0..12), any::<bool>()).prop_map(|(text, waits)| {
        let plus = if waits { "" } else { "+" };
        [format!("{{{}{plus}}}\r\n", text.len()).as_bytes(), &text].concat()
    });
    let atom = "[A-Za-z0-9@.+\\]_=-]{1,12}".prop_map(String::into_bytes);
    if atoms {
        prop_oneof![atom, quoted, escaped, literal].boxed()
    } else {
        prop_oneof![quoted, escaped, literal].boxed()
    }
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    let bare = "(CAPABILITY|NOOP|LOGOUT|STARTTLS|capability|NoOp)".prop_map(String::into_bytes);
    let login =
        (string(true), string(true)).prop_map(|(user, password)| [b"LOGIN ", &user[..], b" ", &password].concat());
    let mechanism = "(PLAIN|plain|LOGIN|XOAUTH2|OAUTHBEARER|EXTERNAL|SCRAM-SHA-256|X-Y_Z)";
    let initial = prop_oneof![
        Just(String::new()),
        Just(" =".to_owned()),
        any::<Vec<u8>>()
            .prop_filter("an empty one is \"=\"", |raw| !raw.is_empty())
            .prop_map(|raw| { format!(" {}", String::from_utf8_lossy(&sasl::base64(&raw))) }),
    ];
    let authenticate =
        (mechanism, initial).prop_map(|(mechanism, initial)| format!("AUTHENTICATE {mechanism}{initial}").into_bytes());
    let value = prop_oneof![3 => string(false), 1 => "(NIL|nil)".prop_map(String::into_bytes)];
    let pairs = prop::collection::vec((string(false), value), 0..4);
    let id = prop_oneof![
        1 => Just(b"ID NIL".to_vec()),
        4 => pairs.prop_map(|pairs| {
            let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| [&key[..], b" ", &value].concat()).collect();
            [b"ID (", &pairs.join(&b' ')[..], b")"].concat()
        }),
    ];
    let body = prop_oneof![1 => bare, 4 => login, 3 => authenticate, 2 => id];
    ("[A-Za-z0-9.]{1,8}", body).prop_map(|(tag, body)| [tag.as_bytes(), b" ", &body, b"\r\n"].concat())
}

/// A byte put in, taken out, or put over another.
fn mutate(mut text: Vec<u8>, changes: &[(u8, prop::sample::Index, u8)]) -> Vec<u8> {
    for (what, at, byte) in changes {
        let at = at.index(text.len().max(1));
        match what {
            0 => text.insert(at.min(text.len()), *byte),
            1 if at < text.len() => drop(text.remove(at)),
            _ if at < text.len() => text[at] = *byte,
            _ => {}
        }
    }
    text
}

#[test]
fn the_readers_can_agree() {
    for text in [
        &b"a LOGIN ann \"p\\\"w\"\r\n"[..],
        b"a AUTHENTICATE PLAIN =\r\n",
        b"a ID (\"k\" {1}\r\nv)\r\n",
        b"a starttls\r\nb",
    ] {
        assert!(ours(text).is_some(), "{}", text.escape_ascii());
        assert_eq!(ours(text), theirs(text));
    }
}

/// Each difference is one, so that the list above does not outlive its reasons.
#[test]
fn the_known_differences_are_there() {
    let long_tag = format!("{} NOOP\r\n", "t".repeat(65));
    let long_line = format!("a LOGIN ann \"{}\"\r\n", "x".repeat(9000));
    let many = format!("a ID ({})\r\n", vec!["\"k\" NIL"; 31].join(" "));
    let wider: [&[u8]; 4] =
        [b"a NOOP\n", b"a LOGIN ann \"\xe4\"\r\n", b"a LOGIN ann \xe4\r\n", b"a LOGIN ann {1}\r\n\0\r\n"];
    let narrower: [&[u8]; 8] = [
        b"PUT CAPABILITY\r\n",
        long_tag.as_bytes(),
        b"<b> NOOP\r\n",
        long_line.as_bytes(),
        b"a AUTHENTICATE PLAIN \r\n",
        many.as_bytes(),
        b"a ID (\"k\" {2}\r\n\r\n)\r\n",
        b"a ID (\"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\" \"v\")\r\n",
    ];
    for (text, is_wider) in
        wider.into_iter().map(|text| (text, true)).chain(narrower.into_iter().map(|text| (text, false)))
    {
        let (ours, theirs) = (ours(text), theirs(text));
        assert_eq!((ours.is_some(), theirs.is_some()), (is_wider, !is_wider), "{}", text.escape_ascii());
        assert!(known(text, ours.as_ref(), theirs.as_ref()).is_some(), "{}", text.escape_ascii());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_are_read_alike(text in command()) {
        prop_assert!(theirs(&text).is_some(), "the generator is wrong: {}", text.escape_ascii());
        compare(&text)?;
    }

    #[test]
    fn broken_commands_are_refused_alike(
        text in command(),
        changes in prop::collection::vec((0..3_u8, any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(b" \"\\{}()+\r\n0=~".to_vec())]), 1..4),
    ) {
        compare(&mutate(text, &changes))?;
    }
}
