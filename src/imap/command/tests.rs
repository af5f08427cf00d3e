//! What is a command, to the letter.

use proptest::prelude::*;

use super::*;

fn parse(text: &[u8]) -> Result<Command, Wrong> {
    Line::new(text).parse()
}

fn login(user: &[u8], password: &[u8]) -> Command {
    Command::Login { user: Zeroizing::new(user.to_vec()), password: Zeroizing::new(password.to_vec()) }
}

fn authenticate(mechanism: &[u8], initial: Option<&[u8]>) -> Command {
    let initial = initial.map(|text| Zeroizing::new(text.to_vec()));
    Command::Authenticate { mechanism: mechanism.to_vec(), initial }
}

#[test]
fn names_have_no_case_and_no_arguments() {
    assert_eq!(parse(b"a capability"), Ok(Command::Capability));
    assert_eq!(parse(b"a NoOp"), Ok(Command::Noop));
    assert_eq!(parse(b"a LOGOUT"), Ok(Command::Logout));
    assert_eq!(parse(b"a StartTLS"), Ok(Command::StartTls));
    for text in
        [&b"a NOOP "[..], b"a NOOP x", b"a STARTTLS x", b"a CAPABILITY (", b"a LOGIN", b"a ID", b"a AUTHENTICATE"]
    {
        assert_eq!(parse(text), Err(Wrong::Arguments), "{}", text.escape_ascii());
    }
    assert_eq!(parse(b"a SELECT INBOX"), Err(Wrong::TooEarly));
    assert_eq!(parse(b"a enable UTF8=ACCEPT"), Err(Wrong::TooEarly));
    for text in [&b"a NOOPS"[..], b"a  NOOP", b"a", b"", b" ", b"a XYZZYXYZZYXYZZYXYZZYXYZZY", b"a NOOP\0", b"a\tNOOP"]
    {
        assert_eq!(parse(text), Err(Wrong::Unknown), "{}", text.escape_ascii());
    }
}

#[test]
fn an_id_takes_no_more_memory_than_it_says() {
    let pairs = (0..30).map(|number| format!("\"key{number}\" \"{}\"", "v".repeat(200)));
    let said = format!("a ID ({})", pairs.collect::<Vec<_>>().join(" "));
    let Ok(Command::Id(pairs)) = parse(said.as_bytes()) else { panic!("it is one") };
    let held: usize = pairs.iter().map(|(key, value)| key.capacity() + value.capacity()).sum();
    assert!(pairs.len() == 30 && held < said.len(), "{held}");
}

#[test]
fn a_tag_is_sent_back_only_when_it_is_one() {
    let longest = "t".repeat(TAG_MAX);
    for tag in ["a", "A0001", "1.2", "a-b_c:d/e~#", "]", &longest] {
        assert_eq!(Line::new(format!("{tag} NOOP").as_bytes()).tag, Some(tag.as_bytes()));
    }
    let too_long = "t".repeat(TAG_MAX + 1);
    for tag in [
        "", "+", "a+", "*", "a%", "(a)", "\"a\"", "a\\", "{3}", "<b>", "a&b", "\u{e9}", "a\0", "a\r", "a\x7f",
        &too_long,
    ] {
        assert_eq!(Line::new(format!("{tag} NOOP").as_bytes()).tag, None, "{tag:?}");
    }
}

#[test]
fn login_takes_every_kind_of_string() {
    for text in [
        &b"a LOGIN ann pass"[..],
        b"a login \"ann\" \"pass\"",
        b"a LOGIN {3}\r\nann {4+}\r\npass",
        b"a LOGIN ann {4}\r\npass",
        b"a LOGIN {003+}\r\nann \"pass\"",
    ] {
        assert_eq!(parse(text), Ok(login(b"ann", b"pass")), "{}", text.escape_ascii());
    }
    assert_eq!(parse(b"a LOGIN \"a\\\"\\\\b\" \"\""), Ok(login(b"a\"\\b", b"")));
    assert_eq!(parse(b"a LOGIN a]b+c@d {0}\r\n"), Ok(login(b"a]b+c@d", b"")));
    assert_eq!(parse(b"a LOGIN NIL nil"), Ok(login(b"NIL", b"nil")));
}

#[test]
fn eight_bits_pass_unchanged() {
    let password = b"\xe9\xc3\xa9\xff\x80";
    for quote in [&b""[..], b"\"", b"{5+}\r\n"] {
        let close = if quote == b"\"" { quote } else { b"" };
        assert_eq!(parse(&[b"a LOGIN ann ", quote, password, close].concat()), Ok(login(b"ann", password)));
    }
    // What a literal holds is read as it is; the types of credentials refuse what must not go further.
    assert_eq!(parse(b"a LOGIN ann {4}\r\na\r\n\0"), Ok(login(b"ann", b"a\r\n\0")));
}

#[test]
fn login_refuses_everything_else() {
    let wrong = [
        &b"a LOGIN ann"[..],
        b"a LOGIN ann ",
        b"a LOGIN  ann pw",
        b"a LOGIN ann  pw",
        b"a LOGIN ann pw ",
        b"a LOGIN ann pw x",
        b"a LOGIN ann p(w",
        b"a LOGIN ann p{w",
        b"a LOGIN ann p%w",
        b"a LOGIN ann p*w",
        b"a LOGIN ann p\"w",
        b"a LOGIN ann p\\w",
        b"a LOGIN ann \"pw",
        b"a LOGIN ann \"p\\w\"",
        b"a LOGIN ann \"pw\\\"",
        b"a LOGIN ann \"pw\"x",
        b"a LOGIN \"ann\"\"pw\"",
        b"a LOGIN ann \"p\0w\"",
        b"a LOGIN ann \"p\rw\"",
        b"a LOGIN ann p\rw",
        b"a LOGIN ann p\0w",
        b"a LOGIN ann p\tw",
        b"a LOGIN ann {}\r\n",
        b"a LOGIN ann {+}\r\n",
        b"a LOGIN ann {-1}\r\nx",
        b"a LOGIN ann {1++}\r\nx",
        b"a LOGIN ann {1}x",
        b"a LOGIN ann {2}\r\nx",
        b"a LOGIN ann {1}\r\nxy",
        b"a LOGIN ann ~{1}\r\nx",
        b"a LOGIN ann {99999999999999999999}\r\nx",
        b"a LOGIN (ann) pw",
        b"a LOGIN ann\x7f pw",
    ];
    for text in wrong {
        assert_eq!(parse(text), Err(Wrong::Arguments), "{}", text.escape_ascii());
    }
}

#[test]
fn a_literal_is_invited_only_where_one_belongs() {
    let fine = [
        &b"a LOGIN {3}\r\n"[..],
        b"a LOGIN {0}\r\n",
        b"a LOGIN ann {3}\r\n",
        b"a LOGIN {3+}\r\nann {3}\r\n",
        b"a ID ({4}\r\n",
        b"a ID (\"name\" {4}\r\n",
    ];
    for text in fine {
        assert!(Line::new(text).may_go_on(), "{}", text.escape_ascii());
    }
    let wrong = [
        &b"a LOGIN ann pw {3}\r\n"[..],
        b"a LOGIN  {3}\r\n",
        b"a LOGIN ann{3}\r\n",
        b"a LOGIN \"{3}\r\n",
        b"a LOGIN ~{3}\r\n",
        b"a AUTHENTICATE {3}\r\n",
        b"a AUTHENTICATE PLAIN {3}\r\n",
        b"a ID {3}\r\n",
        b"a ID (NIL {3}\r\n",
        b"a NOOP {3}\r\n",
        b"a SELECT {3}\r\n",
        b"a LOGIN a\0b {3}\r\n",
        b"a LOGIN (x) {3}\r\n",
        b"{3}\r\n",
    ];
    for text in wrong {
        assert!(!Line::new(text).may_go_on(), "{}", text.escape_ascii());
    }
}

#[test]
fn authenticate_may_bring_its_first_message() {
    assert_eq!(parse(b"a AUTHENTICATE PLAIN"), Ok(authenticate(b"PLAIN", None)));
    assert_eq!(parse(b"a authenticate scram-sha-256 biws"), Ok(authenticate(b"scram-sha-256", Some(b"biws"))));
    assert_eq!(parse(b"a AUTHENTICATE EXTERNAL ="), Ok(authenticate(b"EXTERNAL", Some(b"="))));
    for text in [
        &b"a AUTHENTICATE "[..],
        b"a AUTHENTICATE PLAIN ",
        b"a AUTHENTICATE  PLAIN",
        b"a AUTHENTICATE PLAIN AA== x",
        b"a AUTHENTICATE \"PLAIN\"",
        b"a AUTHENTICATE PL\xc3IN",
    ] {
        assert_eq!(parse(text), Err(Wrong::Arguments), "{}", text.escape_ascii());
    }
}

#[test]
fn id_is_read_within_its_bounds() {
    let pairs = |pairs: &[(&str, &str)]| {
        Ok(Command::Id(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()))
    };
    assert_eq!(parse(b"a ID NIL"), pairs(&[]));
    assert_eq!(parse(b"a id ()"), pairs(&[]));
    assert_eq!(parse(b"a ID (\"k\" \"v\" )"), pairs(&[("k", "v")]));
    assert_eq!(parse(b"a ID (\"name\" \"x\\\"y\" \"os\" nil \"v\" {1}\r\n1)"), pairs(&[("name", "x\"y"), ("v", "1")]));
    let value = |len: usize| format!("a ID (\"{}\" \"{}\")", "k".repeat(len / 30), "v".repeat(len));
    assert!(parse(value(900).as_bytes()).is_ok());
    assert_eq!(parse(value(930).as_bytes()), Err(Wrong::Arguments), "a key of 31 bytes");
    assert!(parse(format!("a ID (\"k\" \"{}\")", "v".repeat(1024)).as_bytes()).is_ok());
    assert_eq!(parse(format!("a ID (\"k\" \"{}\")", "v".repeat(1025)).as_bytes()), Err(Wrong::Arguments));
    let many = |count: usize| format!("a ID ({})", vec!["\"k\" NIL"; count].join(" "));
    assert!(parse(many(30).as_bytes()).is_ok());
    assert_eq!(parse(many(31).as_bytes()), Err(Wrong::Arguments));
    let wrong = [
        &b"a ID "[..],
        b"a ID (",
        b"a ID (\"k\")",
        b"a ID (\"k\" \"v\"",
        b"a ID (\"k\" \"v\") ",
        b"a ID (  )",
        b"a ID (\"k\" \"v\"  )",
        b"a ID (k v)",
        b"a ID (NIL \"v\")",
        b"a ID \"k\" \"v\"",
        b"a ID ((\"k\" \"v\"))",
        b"a ID (\"k\" {3}\r\na\r\n)",
        b"a ID NILS",
    ];
    for text in wrong {
        assert_eq!(parse(text), Err(Wrong::Arguments), "{}", text.escape_ascii());
    }
}

#[test]
fn only_what_is_read_is_held() {
    assert_eq!(scope(b"a LOGIN "), Scope::Whole(LINE_MAX));
    assert_eq!(scope(b"a authenticate "), Scope::Whole(SASL_MAX + 2 * TAG_MAX));
    assert_eq!(scope(b"a ID "), Scope::Whole(LINE_MAX));
    for head in [&b"a NOOP "[..], b"a APPEND ", b"a", b"", b" ", b"a  "] {
        assert_eq!(scope(head), Scope::Head);
        assert_eq!(scope_in_clear(head), Scope::Head);
    }
    assert_eq!(scope_in_clear(b"a LOGIN "), Scope::Head);
    assert_eq!(scope_in_clear(b"a AUTHENTICATE "), Scope::Head);
    assert_eq!(scope_in_clear(b"a ID "), Scope::Whole(LINE_MAX));
}

#[test]
fn a_password_is_not_shown() {
    assert_eq!(format!("{:?}", parse(b"a LOGIN ann hunter2")), "Ok(Login(..))");
}

/// One of the ways to write a string that can hold it.
fn print(text: &[u8], way: u8) -> Vec<u8> {
    let atom = !text.is_empty() && text.iter().all(|byte| is_astring(*byte));
    let quotable = !text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
    match way {
        0 if atom => text.to_vec(),
        0 | 1 if quotable => {
            let mut quoted = b"\"".to_vec();
            for byte in text {
                if matches!(byte, b'"' | b'\\') {
                    quoted.push(b'\\');
                }
                quoted.push(*byte);
            }
            quoted.push(b'"');
            quoted
        }
        2 => [format!("{{{}}}\r\n", text.len()).as_bytes(), text].concat(),
        _ => [format!("{{{}+}}\r\n", text.len()).as_bytes(), text].concat(),
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(user: Vec<u8>, password: Vec<u8>, ways in (0..4_u8, 0..4_u8)) {
        let text = [b"a LOGIN ", &print(&user, ways.0)[..], b" ", &print(&password, ways.1)].concat();
        prop_assert_eq!(parse(&text), Ok(login(&user, &password)));
    }

    #[test]
    fn no_bytes_panic(head in "[aA1]? ?(LOGIN|ID|AUTHENTICATE|NOOP|X)? ?", bytes: Vec<u8>) {
        let text = [head.as_bytes(), &bytes].concat();
        let line = Line::new(&text);
        let _ = (line.parse(), line.may_go_on());
    }

    #[test]
    fn no_arguments_panic(arguments in r#"[a" (){}+0-9NIL\r\n\\]{0,40}"#, name in "LOGIN|ID|AUTHENTICATE") {
        let text = format!("a {name} {arguments}");
        let line = Line::new(text.as_bytes());
        let _ = (line.parse(), line.may_go_on());
    }
}
