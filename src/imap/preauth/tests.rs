//! The dialogue before login, as a client sees it.

use proptest::prelude::*;

use super::*;
use crate::imap::Capabilities;

fn offer() -> Offer {
    Offer {
        starttls: false,
        login: true,
        mechanisms: vec![
            Mechanism::Plain,
            Mechanism::Login,
            Mechanism::XOAuth2,
            Mechanism::OAuthBearer,
            Mechanism::ScramSha256,
        ],
        certificate: None,
    }
}

fn clear() -> Offer {
    Offer { starttls: true, ..Offer::default() }
}

/// Feeds the machine and gives what it said and what happened, up to the first event that waits for somebody.
fn talk(machine: &mut Preauth, bytes: &[u8]) -> (String, Vec<Event>) {
    let (mut out, mut events) = (Vec::new(), Vec::new());
    machine.push(bytes);
    while let Some(event) = machine.step(&mut out) {
        let over = !matches!(event, Event::Id(_) | Event::Answer(None));
        events.push(event);
        if over {
            break;
        }
    }
    (String::from_utf8(out).expect("ASCII"), events)
}

fn says(offer: Offer, bytes: &[u8]) -> String {
    talk(&mut Preauth::new(offer), bytes).0
}

/// The one login that these bytes make, and what was said before it.
fn login_in(bytes: &[u8]) -> (String, Login) {
    let (said, events) = talk(&mut Preauth::new(offer()), bytes);
    match events.into_iter().next() {
        Some(Event::Login(login)) => (said, login),
        other => panic!("no login but {other:?}, saying {said:?}"),
    }
}

fn b64(raw: &[u8]) -> String {
    String::from_utf8(sasl::base64(raw).to_vec()).expect("ASCII")
}

#[test]
fn the_greeting_tells_what_is_obeyed() {
    let mut out = Vec::new();
    Preauth::new(offer()).greet(&mut out);
    Preauth::new(clear()).greet(&mut out);
    let with_certificate = Offer { certificate: UserName::new(&b"ann"[..]).ok(), login: true, ..Offer::default() };
    Preauth::new(with_certificate).greet(&mut out);
    assert_eq!(
        String::from_utf8(out).expect("ASCII"),
        "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2 AUTH=OAUTHBEARER AUTH=SCRAM-SHA-256] mailmux ready\r\n\
         * OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE STARTTLS LOGINDISABLED] mailmux ready\r\n\
         * OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE AUTH=EXTERNAL] mailmux ready\r\n"
    );
}

#[test]
fn small_talk() {
    let said = says(offer(), b"1 CAPABILITY\r\n2 noop\r\n3 ID NIL\r\n4 SELECT INBOX\r\n5 STARTTLS\r\n");
    assert_eq!(
        said,
        "* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2 AUTH=OAUTHBEARER AUTH=SCRAM-SHA-256\r\n\
         1 OK Capability completed.\r\n\
         2 OK Nothing done.\r\n\
         * ID (\"name\" \"mailmux\")\r\n\
         3 OK Pleased to meet you.\r\n\
         4 BAD Log in first.\r\n\
         5 BAD There is no STARTTLS here.\r\n"
    );
}

#[test]
fn logout_says_bye_first() {
    let (said, events) = talk(&mut Preauth::new(offer()), b"1 LOGOUT\r\n2 NOOP\r\n");
    assert_eq!(said, "* BYE Logging out.\r\n1 OK Logged out.\r\n");
    assert!(matches!(events[..], [Event::End(Ending::ClientLogout)]));
}

#[test]
fn login_in_every_spelling() {
    for (bytes, said) in [
        (&b"1 LOGIN ann pass\r\n"[..], ""),
        (b"1 login \"ann\" \"pass\"\r\n", ""),
        (b"1 LOGIN {3}\r\nann {4}\r\npass\r\n", "+ Go ahead.\r\n+ Go ahead.\r\n"),
        (b"1 LOGIN {3+}\r\nann {4+}\r\npass\r\n", ""),
        (b"1 LOGIN ann {4}\r\npass\r\n", "+ Go ahead.\r\n"),
    ] {
        let (heard, login) = login_in(bytes);
        assert_eq!(heard, said);
        assert_eq!((login.user.as_bytes(), login.credentials.proof()), (&b"ann"[..], &b"pass"[..]));
        assert_eq!(login.mechanism, Mechanism::LoginCommand);
    }
}

#[test]
fn a_password_passes_as_it_is() {
    let (_, login) = login_in(b"1 LOGIN ann {7}\r\np\xe4 \"\\\x01{\r\n");
    assert_eq!(login.credentials.proof(), b"p\xe4 \"\\\x01{");
}

#[test]
fn line_breaks_and_nul_never_pass() {
    for bytes in
        [&b"1 LOGIN {5}\r\na\r\nbb pass\r\n"[..], b"1 LOGIN ann {5+}\r\na\r\nbb\r\n", b"1 LOGIN ann {3}\r\na\0b\r\n"]
    {
        let (said, events) = talk(&mut Preauth::new(offer()), bytes);
        assert!(said.ends_with("1 BAD CR, LF and NUL are not allowed here.\r\n"), "{said}");
        assert!(events.is_empty());
    }
    let plain = format!("1 AUTHENTICATE PLAIN {}\r\n", b64(b"\0ann\0pa\r\nss"));
    assert_eq!(says(offer(), plain.as_bytes()), "1 BAD Malformed SASL message.\r\n");
}

#[test]
fn a_literal_over_the_bound_is_refused_before_it_is_sent() {
    assert_eq!(
        says(offer(), b"1 LOGIN ann {9000}\r\n2 NOOP\r\n"),
        "1 BAD [TOOBIG] Literal too big.\r\n2 OK Nothing done.\r\n"
    );
    assert_eq!(says(offer(), b"1 LOGIN {99999999999999999999}\r\n"), "1 BAD [TOOBIG] Literal too big.\r\n");
    let two = [&b"1 LOGIN {5000}\r\n"[..], &[b'a'; 5000], b" {5000}\r\n"].concat();
    assert_eq!(says(offer(), &two), "+ Go ahead.\r\n1 BAD [TOOBIG] Literal too big.\r\n");
}

#[test]
fn a_literal_that_comes_unasked_is_read_past() {
    let bytes = [&b"1 LOGIN ann {5000+}\r\n"[..], &b"2 NOOP\r\n".repeat(625), b"\r\n3 NOOP\r\n"].concat();
    let mut machine = Preauth::new(offer());
    assert_eq!(talk(&mut machine, &bytes).0, "1 BAD [TOOBIG] Literal too big.\r\n3 OK Nothing done.\r\n");
    assert_eq!(
        says(offer(), b"1 NOOP {3+}\r\n2 N\r\n3 NOOP\r\n"),
        "1 BAD Malformed command.\r\n3 OK Nothing done.\r\n"
    );
    let (said, events) = talk(&mut Preauth::new(offer()), b"1 LOGIN ann {2000000+}\r\n");
    assert_eq!(said, "* BYE Input too long.\r\n");
    assert!(matches!(events[..], [Event::End(Ending::TooLong)]));
}

#[test]
fn lines_are_bounded() {
    for bytes in [vec![b'a'; 8194], [&b"1 NOOP "[..], &b"(".repeat(9000)].concat()] {
        let (said, events) = talk(&mut Preauth::new(offer()), &bytes);
        assert_eq!(said, "* BYE Input too long.\r\n");
        assert!(matches!(events[..], [Event::End(Ending::TooLong)]));
    }
    let mut machine = Preauth::new(offer());
    talk(&mut machine, b"1 AUTHENTICATE PLAIN\r\n");
    assert!(talk(&mut machine, &[b'A'; 65000]).1.is_empty());
    assert!(matches!(talk(&mut machine, &[b'A'; 1000]).1[..], [Event::End(Ending::TooLong)]));
}

#[test]
fn before_tls_no_secret_is_invited() {
    for bytes in [
        &b"1 LOGIN ann pass\r\n"[..],
        b"1 LOGIN {3}\r\n",
        b"1 LOGIN ann {4}\r\n",
        b"1 AUTHENTICATE PLAIN\r\n",
        b"1 AUTHENTICATE PLAIN AGFubgBwYXNz\r\n",
        b"1 LOGIN ann {4+}\r\npass\r\n",
    ] {
        let (said, events) = talk(&mut Preauth::new(clear()), bytes);
        assert_eq!(said, "1 NO [PRIVACYREQUIRED] Use TLS before you log in.\r\n", "{}", bytes.escape_ascii());
        assert!(events.is_empty());
    }
}

#[test]
fn starttls_tells_whether_anything_was_sent_in_clear_behind_it() {
    for (bytes, expected) in [(&b"1 STARTTLS\r\n"[..], true), (b"1 STARTTLS\r\n2", false), (b"1 starttls\n\n", false)] {
        let (said, events) = talk(&mut Preauth::new(clear()), bytes);
        assert_eq!(said, "1 OK Begin TLS now.\r\n");
        assert!(matches!(events[..], [Event::StartTls { clean }] if clean == expected));
    }
    assert_eq!(says(clear(), b"1 STARTTLS now\r\n"), "1 BAD Malformed command.\r\n");
}

#[test]
fn plain_with_and_without_an_initial_response() {
    let message = b64(b"bob\0ann\0pass");
    for (bytes, said) in [
        (format!("1 AUTHENTICATE PLAIN {message}\r\n"), ""),
        (format!("1 authenticate plain\r\n{message}\r\n"), "+ \r\n"),
    ] {
        let (heard, login) = login_in(bytes.as_bytes());
        assert_eq!(heard, said);
        assert_eq!(login.authzid.expect("kept").as_bytes(), b"bob");
        assert_eq!((login.user.as_bytes(), login.credentials.proof()), (&b"ann"[..], &b"pass"[..]));
    }
}

#[test]
fn the_login_mechanism_prompts_twice() {
    let (user, password) = (b64(b"ann"), b64(b"pass"));
    for (bytes, said) in [
        (format!("1 AUTHENTICATE LOGIN\r\n{user}\r\n{password}\r\n"), "+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n"),
        (format!("1 AUTHENTICATE LOGIN {user}\r\n{password}\r\n"), "+ UGFzc3dvcmQ6\r\n"),
    ] {
        let (heard, login) = login_in(bytes.as_bytes());
        assert_eq!(heard, said);
        assert_eq!((login.user.as_bytes(), login.credentials.proof()), (&b"ann"[..], &b"pass"[..]));
    }
}

#[test]
fn tokens_and_scram() {
    let (_, login) =
        login_in(format!("1 AUTHENTICATE XOAUTH2 {}\r\n", b64(b"user=ann\x01auth=Bearer tok\x01\x01")).as_bytes());
    assert_eq!((login.user.as_bytes(), login.credentials.proof()), (&b"ann"[..], &b"tok"[..]));
    let (_, login) =
        login_in(format!("1 AUTHENTICATE OAUTHBEARER {}\r\n", b64(b"n,a=ann,\x01auth=Bearer tok\x01\x01")).as_bytes());
    assert_eq!((login.mechanism, login.credentials.proof()), (Mechanism::OAuthBearer, &b"tok"[..]));
    let (_, login) = login_in(format!("1 AUTHENTICATE SCRAM-SHA-256 {}\r\n", b64(b"n,,n=ann,r=x")).as_bytes());
    assert!(matches!(login.credentials, Credentials::ScramFirst(_)));
    assert_eq!(login.user.as_bytes(), b"ann");
}

#[test]
fn what_is_wrong_with_sasl_is_said() {
    assert_eq!(says(offer(), b"1 AUTHENTICATE PLAIN\r\n*\r\n"), "+ \r\n1 BAD Authentication cancelled.\r\n");
    assert_eq!(says(offer(), b"1 AUTHENTICATE PLAIN\r\n!\r\n"), "+ \r\n1 BAD Malformed base64.\r\n");
    assert_eq!(says(offer(), b"1 AUTHENTICATE PLAIN =\r\n"), "1 BAD Malformed SASL message.\r\n");
    assert_eq!(says(offer(), b"1 AUTHENTICATE PLAIN {4}\r\n"), "1 BAD Malformed command.\r\n");
    for unknown in ["CRAM-MD5", "SCRAM-SHA-256-PLUS", "EXTERNAL", "LOGIN-COMMAND", "SCRAM-SHA-1"] {
        let bytes = format!("1 AUTHENTICATE {unknown}\r\n");
        assert_eq!(says(offer(), bytes.as_bytes()), "1 NO [CANNOT] Mechanism not offered.\r\n");
    }
}

#[test]
fn a_certificate_speaks_for_the_one_it_names() {
    let with_certificate = || Offer { certificate: UserName::new(&b"ann@example.org"[..]).ok(), ..offer() };
    for message in ["=".to_owned(), b64(b"Ann@example.org")] {
        let bytes = format!("1 AUTHENTICATE EXTERNAL {message}\r\n");
        let (_, events) = talk(&mut Preauth::new(with_certificate()), bytes.as_bytes());
        match &events[..] {
            [Event::Login(login)] => assert_eq!(login.user.as_bytes(), b"ann@example.org"),
            other => panic!("{other:?}"),
        }
    }
    let bytes = format!("1 AUTHENTICATE EXTERNAL {}\r\n", b64(b"bob@example.org"));
    assert_eq!(
        says(with_certificate(), bytes.as_bytes()),
        "1 NO [AUTHORIZATIONFAILED] The certificate is not this user's.\r\n"
    );
}

#[test]
fn a_client_may_try_again() {
    let mut machine = Preauth::new(offer());
    let (_, events) = talk(&mut machine, b"1 LOGIN ann wrong\r\n2 LOGIN ann right\r\n3 SELECT INBOX\r\n");
    assert_eq!(events.len(), 1);
    let mut out = Vec::new();
    machine.refuse(b"[AUTHENTICATIONFAILED] Authentication failed.", &mut out);
    assert_eq!(out, b"1 NO [AUTHENTICATIONFAILED] Authentication failed.\r\n");
    let (_, events) = talk(&mut machine, b"");
    assert!(matches!(&events[..], [Event::Login(login)] if login.credentials.proof() == b"right"));
    let welcome = Welcome {
        text: b"Logged in".to_vec(),
        capabilities: Capabilities::parse(b"IMAP4rev1 IDLE"),
        ..Welcome::default()
    };
    let mut out = Vec::new();
    assert_eq!(machine.accept(&welcome, &mut out), b"3 SELECT INBOX\r\n", "pipelined bytes go on whole");
    assert_eq!(out, b"* CAPABILITY IMAP4rev1 IDLE\r\n2 OK Logged in\r\n");
}

#[test]
fn challenges_are_relayed() {
    let mut machine = Preauth::new(offer());
    talk(&mut machine, format!("1 AUTHENTICATE SCRAM-SHA-256 {}\r\n", b64(b"n,,n=ann,r=x")).as_bytes());
    let mut out = Vec::new();
    machine.challenge(b"r=xy,s=c2FsdA==,i=4096", &mut out);
    assert_eq!(String::from_utf8_lossy(&out), format!("+ {}\r\n", b64(b"r=xy,s=c2FsdA==,i=4096")));
    let (_, events) = talk(&mut machine, format!("{}\r\n", b64(b"c=biws,r=xy,p=cHJvb2Y=")).as_bytes());
    assert!(matches!(&events[..], [Event::Answer(Some(answer))] if answer.as_slice() == b"c=biws,r=xy,p=cHJvb2Y="));
    machine.challenge(b"v=c2ln", &mut out);
    let (said, events) = talk(&mut machine, b"*\r\n2 NOOP\r\n");
    assert_eq!(said, "1 BAD Authentication cancelled.\r\n2 OK Nothing done.\r\n");
    assert!(matches!(events[..], [Event::Answer(None)]));
}

#[test]
fn too_many_errors_end_it() {
    let (said, events) = talk(&mut Preauth::new(offer()), &b"1 SELECT INBOX\r\n".repeat(30));
    assert_eq!(said.matches("1 BAD").count(), 20);
    assert!(said.ends_with("* BYE Too many errors.\r\n"));
    assert!(matches!(events[..], [Event::End(Ending::TooManyErrors)]));
}

#[test]
fn other_protocols_get_no_answer() {
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"POST /x HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
        b"\x16\x03\x01\x02\x00",
    ] {
        let (said, events) = talk(&mut Preauth::new(offer()), bytes);
        assert_eq!(said, "");
        assert!(matches!(events[..], [Event::End(Ending::WrongProtocol)]), "{}", bytes.escape_ascii());
    }
}

#[test]
fn nothing_but_a_valid_tag_comes_back() {
    assert_eq!(
        says(offer(), b"<script>x NOOP\r\n\x1b[31m NOOP\r\n\r\na\r\n"),
        "* BAD Malformed command.\r\n".repeat(3) + "a BAD Malformed command.\r\n"
    );
}

#[test]
fn an_identity_is_given_on() {
    let (said, events) = talk(&mut Preauth::new(offer()), b"1 ID (\"name\" \"mutt\")\r\n");
    assert!(said.ends_with("1 OK Pleased to meet you.\r\n"));
    assert!(matches!(&events[..], [Event::Id(pairs)] if pairs == &[(b"name".to_vec(), b"mutt".to_vec())]));
}

fn story(machine: &mut Preauth, chunks: &[&[u8]]) -> (Vec<u8>, Vec<String>) {
    let (mut out, mut events) = (Vec::new(), Vec::new());
    for chunk in chunks {
        machine.push(chunk);
        while let Some(event) = machine.step(&mut out) {
            events.push(match &event {
                Event::Login(login) => format!("{login:?} {:?}", login.credentials.proof()),
                Event::StartTls { .. } => return (out, events),
                other => format!("{other:?}"),
            });
            match event {
                Event::Login(_) | Event::Answer(Some(_)) => machine.refuse(b"no", &mut out),
                Event::End(_) => return (out, events),
                _ => {}
            }
        }
    }
    (out, events)
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "1 ",
        "LOGIN ",
        "ann ",
        "\"pass\"",
        "\r\n",
        "{3}\r\n",
        "{3+}\r\n",
        "{9999+}\r\n",
        "AUTHENTICATE ",
        "PLAIN ",
        "AGFubgBweA==",
        "=",
        "*\r\n",
        "ID ",
        "(\"a\" \"b\")",
        "NIL",
        "CAPABILITY",
        "LOGOUT",
        "\0",
        "\x7f",
        "((((",
        "{",
        "}",
        "NOOP\r\n",
        "\n",
        "\\",
        "\"",
    ]);
    prop::collection::vec(words, 0..60).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_story(bytes in hostile(), size in 1_usize..9) {
        let whole = story(&mut Preauth::new(offer()), &[&bytes]);
        let split = story(&mut Preauth::new(offer()), &bytes.chunks(size).collect::<Vec<_>>());
        prop_assert_eq!(whole, split);
    }

    #[test]
    fn nothing_panics_and_little_is_held(bytes in prop::collection::vec(any::<u8>(), 0..3000), clear_text: bool) {
        let mut machine = Preauth::new(if clear_text { clear() } else { offer() });
        story(&mut machine, &bytes.chunks(100).collect::<Vec<_>>());
        prop_assert!(machine.buffered() <= LONGEST_SASL_LINE + 100);
    }

    #[test]
    fn what_a_client_quotes_is_what_comes_out(
        user in prop::collection::vec(any::<u8>().prop_filter("clean", |byte| !matches!(byte, 0 | 10 | 13)), 1..50),
        password in prop::collection::vec(any::<u8>().prop_filter("clean", |byte| !matches!(byte, 0 | 10 | 13)), 0..50),
    ) {
        let quote = |bytes: &[u8]| bytes.iter().flat_map(|byte| match byte {
            b'"' | b'\\' => vec![b'\\', *byte],
            _ => vec![*byte],
        }).collect::<Vec<_>>();
        let line = [b"1 LOGIN \"", &quote(&user)[..], b"\" \"", &quote(&password), b"\"\r\n"].concat();
        let (_, login) = login_in(&line);
        prop_assert_eq!((login.user.as_bytes(), login.credentials.proof()), (&user[..], &password[..]));
    }
}
