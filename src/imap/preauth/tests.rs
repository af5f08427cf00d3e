//! The dialogue as a client sees it, each played whole and byte by byte.

use proptest::prelude::*;

use super::*;
use crate::imap::sasl::base64;

fn offer() -> Offer {
    use Mechanism::{Login, OAuthBearer, Plain, ScramSha1, ScramSha256, XOAuth2};
    let mechanisms = vec![Plain, Login, XOAuth2, OAuthBearer, ScramSha1, ScramSha256];
    Offer { starttls: false, login: true, mechanisms, certificate: None }
}

fn in_clear() -> Offer {
    Offer { starttls: true, login: false, ..offer() }
}

fn b64(text: &[u8]) -> String {
    String::from_utf8(base64(text).to_vec()).expect("ASCII")
}

/// A driver that refuses every login, and writes down what happened.
struct Client {
    machine: Preauth,
    out: Vec<u8>,
    events: Vec<String>,
}

impl Client {
    fn new(offer: Offer) -> Self {
        Self { machine: Preauth::new(offer), out: Vec::new(), events: Vec::new() }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.machine.push(bytes);
        while let Some(event) = self.machine.step(&mut self.out) {
            self.events.push(show(&event));
            if matches!(event, Event::Login(_)) {
                self.machine.refuse(b"[AUTHENTICATIONFAILED] Authentication failed.", &mut self.out);
            }
        }
    }

    fn said(&mut self) -> String {
        mem::take(&mut self.out).escape_ascii().to_string().replace("\\r\\n", "\n").replace("\\\"", "\"")
    }
}

fn show(event: &Event) -> String {
    match event {
        Event::Login(login) => {
            let authzid = login.authzid.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
            let proof = login.credentials.proof().escape_ascii();
            format!("{} {}{authzid} {proof}", login.mechanism.as_str(), login.user)
        }
        Event::Answer(answer) => format!("answer {:?}", answer.as_deref().map(|text| text.escape_ascii().to_string())),
        Event::Id(pairs) => format!("id {}", pairs.len()),
        Event::StartTls { clean } => format!("starttls {clean}"),
        Event::End(ending) => format!("end {ending:?}"),
    }
}

/// The answers and the events, the same whole and byte by byte.
fn talk(offer: &Offer, bytes: &[u8]) -> (String, Vec<String>) {
    let play = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut client = Client::new(offer.clone());
        pieces.for_each(|piece| client.send(piece));
        (client.said(), client.events)
    };
    let whole = play(&mut [bytes].into_iter());
    // A machine that is byte by byte cannot know what will be pipelined.
    if !whole.1.iter().any(|event| event.starts_with("starttls")) {
        assert_eq!(play(&mut bytes.chunks(1)), whole, "byte by byte");
    }
    whole
}

fn said(offer: &Offer, bytes: &[u8]) -> String {
    talk(offer, bytes).0
}

/// The event of the one attempt in `bytes`, if it is one.
fn attempt(bytes: &[u8]) -> Option<String> {
    let (said, mut events) = talk(&offer(), bytes);
    assert!(events.len() <= 1, "{events:?}");
    if events.is_empty() {
        assert!(
            said.lines().last().is_some_and(|line| line.starts_with("a BAD ") || line.starts_with("a NO ")),
            "{said}"
        );
    }
    events.pop()
}

#[test]
fn the_greeting_says_what_is_obeyed() {
    let greeting = |offer| {
        let mut client = Client::new(offer);
        client.machine.greet(&mut client.out);
        client.said()
    };
    assert_eq!(
        greeting(offer()),
        "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2 AUTH=OAUTHBEARER \
         AUTH=SCRAM-SHA-1 AUTH=SCRAM-SHA-256] mailmux ready\n"
    );
    let clear = "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE STARTTLS LOGINDISABLED] mailmux ready\n";
    assert_eq!(greeting(in_clear()), clear);
    let ann = UserName::new(&b"ann"[..]).expect("clean");
    assert_eq!(greeting(Offer { certificate: Some(ann.clone()), ..in_clear() }), clear, "no AUTH= in clear");
    let few = Offer { mechanisms: vec![Mechanism::Login, Mechanism::Plain], certificate: Some(ann), ..offer() };
    assert!(greeting(few).contains(" AUTH=LOGIN AUTH=PLAIN AUTH=EXTERNAL]"), "in the order given");
}

#[test]
fn small_commands_are_answered() {
    let (said, events) = talk(
        &Offer { mechanisms: vec![Mechanism::Plain], ..offer() },
        b"1 CAPABILITY\r\n2 NOOP\r\n3 logout\r\n4 NOOP\r\n",
    );
    assert_eq!(
        said,
        "* CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE AUTH=PLAIN\n1 OK Capability completed.\n2 OK Noop completed.\n\
         * BYE Logging out.\n3 OK Logout completed.\n"
    );
    assert_eq!(events, ["end ClientLogout"], "nothing is read behind it");
}

#[test]
fn id_is_answered_and_told() {
    let (said, events) = talk(&offer(), b"1 ID (\"name\" \"x\" \"os\" NIL)\r\n2 ID NIL\r\n3 ID (x)\r\n");
    let ours = "* ID (\"name\" \"mailmux\")\n";
    assert_eq!(said, format!("{ours}1 OK ID completed.\n{ours}2 OK ID completed.\n3 BAD Invalid arguments.\n"));
    assert_eq!(events, ["id 1", "id 0"]);
}

#[test]
fn commands_for_later_and_for_nobody_are_bad() {
    assert_eq!(
        said(&offer(), b"1 SELECT INBOX\r\n2 ENABLE X\r\n3 XYZZY (((\r\n4 NOOP x\r\n5 APPEND x {3}\r\n6 STARTTLS\r\n"),
        "1 BAD Log in first.\n2 BAD Log in first.\n3 BAD Unknown command.\n4 BAD Invalid arguments.\n5 BAD Log in first.\n\
         6 BAD STARTTLS is not available.\n"
    );
}

#[test]
fn nothing_but_a_valid_tag_is_sent_back() {
    let bad = "* BAD Invalid tag.\n";
    for line in ["<script>alert(1)</script> x", "\x1b[31m NOOP", "+ NOOP", "* NOOP", " ", "a\"b LOGIN x y", "ab\0 NOOP"]
    {
        assert_eq!(said(&offer(), format!("{line}\r\n").as_bytes()), bad, "{line:?}");
        assert_eq!(said(&offer(), format!("{line} {{3}}\r\n").as_bytes()), bad, "{line:?}");
    }
    let said =
        said(&offer(), b"a hunter2 hunter2\r\nb LOGIN hunter2 hunter2 hunter2\r\nc AUTHENTICATE hunter2 hunter2\r\n");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn login_in_every_spelling_is_the_same_login() {
    for line in ["a LOGIN ann pw", "a login \"ann\" \"pw\"", "a LOGIN {3+}\r\nann {2+}\r\npw", "a LOGIN ann {2+}\r\npw"]
    {
        let (said, events) = talk(&offer(), format!("{line}\r\n").as_bytes());
        assert_eq!(events, ["LOGIN-COMMAND ann pw"], "{line}");
        assert_eq!(said, "a NO [AUTHENTICATIONFAILED] Authentication failed.\n");
    }
    let mut client = Client::new(offer());
    client.send(b"a LOGIN {3}\r\n");
    assert_eq!(client.said(), "+ OK\n");
    client.send(b"ann {2}\r\n");
    assert_eq!(client.said(), "+ OK\n");
    client.send(b"pw\r\n");
    assert_eq!(client.events, ["LOGIN-COMMAND ann pw"]);
}

#[test]
fn eight_bit_passwords_arrive_unchanged() {
    assert_eq!(attempt(b"a LOGIN ann \"p\xe4\xc3\xa4\"\r\n").as_deref(), Some(r"LOGIN-COMMAND ann p\xe4\xc3\xa4"));
    assert_eq!(
        attempt(b"a LOGIN a\xc3\xa4 {2+}\r\n\xff\x01\r\n").as_deref(),
        Some(r"LOGIN-COMMAND a\xc3\xa4 \xff\x01")
    );
}

#[test]
fn no_line_break_and_no_nul_in_a_login() {
    for line in [
        "a LOGIN {4+}\r\na\r\nb pw",
        "a LOGIN ann {4+}\r\na\r\nb",
        "a LOGIN ann {2+}\r\n\0b",
        "a LOGIN {2+}\r\na\n pw",
        "a LOGIN \"\" pw",
    ] {
        let (said, events) = talk(&offer(), format!("{line}\r\n").as_bytes());
        assert_eq!((said.as_str(), events.len()), ("a BAD Invalid user name or password.\n", 0), "{line:?}");
    }
    for message in ["\0a\r\n\0pw", "\0ann\0p\nw", "z\r\0ann\0pw", "user=a\n\x01auth=Bearer t\x01\x01"] {
        let mechanism = if message.starts_with("user") { "XOAUTH2" } else { "PLAIN" };
        let line = format!("a AUTHENTICATE {mechanism} {}\r\n", b64(message.as_bytes()));
        assert_eq!(attempt(line.as_bytes()), None, "{message:?}");
    }
}

#[test]
fn a_literal_is_refused_before_its_plus() {
    assert_eq!(said(&offer(), b"a LOGIN {8193}\r\n"), "a BAD Literal too long.\n");
    assert_eq!(said(&offer(), b"a LOGIN x y {1}\r\n"), "a BAD Invalid arguments.\n");
    assert_eq!(said(&offer(), b"a LOGIN {5+}\r\nann\r\n {1}\r\n"), "+ OK\n", "what is in it shows only later");
    assert_eq!(said(&offer(), b"a AUTHENTICATE {5}\r\n"), "a BAD Invalid arguments.\n");
    assert_eq!(said(&offer(), b"a SELECT {5}\r\nb NOOP\r\n"), "a BAD Log in first.\nb OK Noop completed.\n");
    let swallowed = [b"a LOGIN ann {5000+}\r\n", &b"b NOOP\r\n"[..].repeat(625)[..], b"\r\nc NOOP\r\n"].concat();
    assert_eq!(said(&offer(), &swallowed), "a BAD Literal too long.\nc OK Noop completed.\n");
}

#[test]
fn bounds_end_the_session() {
    let bye = "* BYE Input too long.\n";
    for bytes in ["x".repeat(9000), format!("a LOGIN {}", "x".repeat(9000)), "a LOGIN {1048577+}\r\n".into()] {
        let (said, events) = talk(&offer(), bytes.as_bytes());
        assert_eq!((said.as_str(), events), (bye, vec!["end TooLong".to_owned()]));
    }
    let mut client = Client::new(offer());
    client.send(b"a AUTHENTICATE PLAIN\r\n");
    assert_eq!(client.said(), "+ \n");
    for _ in 0..17 {
        client.send(&[b'A'; 4096]);
    }
    assert_eq!((client.said().as_str(), client.events.as_slice()), (bye, &["end TooLong".to_owned()][..]));
}

#[test]
fn twenty_errors_are_enough() {
    let (said, events) = talk(&offer(), &b"a XYZZY\r\n".repeat(25));
    assert_eq!(said, format!("{}* BYE Too many errors.\n", "a BAD Unknown command.\n".repeat(20)));
    assert_eq!(events, ["end TooManyErrors"]);

    let (said, events) = talk(&offer(), &b"a LOGIN ann pw\r\nb XYZZY\r\n*\r\nc AUTHENTICATE X\r\n".repeat(6));
    assert_eq!(events.len(), 6, "five failed logins among them: {events:?}");
    assert!(said.ends_with("c NO Unsupported authentication mechanism.\n* BYE Too many errors.\n"), "{said}");
    assert_eq!(said.lines().count(), 21);
}

#[test]
fn other_protocols_get_no_answer() {
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"\x16\x03\x01\x02\0\x01",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21",
    ] {
        let (said, events) = talk(&offer(), bytes);
        assert_eq!((said.as_str(), events), ("", vec!["end WrongProtocol".to_owned()]));
    }
}

#[test]
fn in_clear_nobody_is_invited_to_send_a_secret() {
    let no = "NO [PRIVACYREQUIRED] Plaintext authentication is not allowed without TLS.\n";
    for line in [
        "LOGIN ann pw",
        "LOGIN {3}",
        "LOGIN ann {3}",
        "LOGIN {3+}\r\nann {2+}\r\npw",
        "LOGIN",
        "AUTHENTICATE PLAIN",
        "AUTHENTICATE PLAIN AGFubgBwdw==",
        "AUTHENTICATE LOGIN",
        "authenticate X",
    ] {
        let (said, events) = talk(&in_clear(), format!("a {line}\r\n").as_bytes());
        assert_eq!((said, events.len()), (format!("a {no}"), 0), "{line:?}");
    }
    assert_eq!(said(&in_clear(), b"a ID ({4}\r\n"), "a BAD Invalid arguments.\n", "whatever the literal is for");
    let mut client = Client::new(in_clear());
    client.send(b"a LOGIN ann hunter2");
    assert!(client.machine.buffered() <= b"a LOGIN ".len(), "and what is sent all the same is not held");
}

#[test]
fn starttls_knows_what_was_pipelined() {
    assert_eq!(
        talk(&in_clear(), b"a STARTTLS\r\n"),
        ("a OK Begin TLS negotiation now.\n".into(), vec!["starttls true".into()])
    );
    for behind in [&b"b NOOP\r\n"[..], b"\n", b" ", b"\x16"] {
        let (said, events) = talk(&in_clear(), &[b"a starttls\r\n", behind].concat());
        assert_eq!((said.as_str(), events), ("a OK Begin TLS negotiation now.\n", vec!["starttls false".to_owned()]));
    }
    assert_eq!(said(&in_clear(), b"a STARTTLS \r\n"), "a BAD Invalid arguments.\n");
    let mut client = Client::new(in_clear());
    client.send(b"a STARTTLS\r\n");
    client.said();
    client.send(b"b NOOP\r\n");
    assert_eq!(client.said(), "", "the machine is of no more use");
}

#[test]
fn plain_with_and_without_an_initial_response() {
    let message = b64(b"boss\0ann\0p\xe4");
    for text in [format!("a AUTHENTICATE plain {message}\r\n"), format!("a AUTHENTICATE PLAIN\r\n{message}\r\n")] {
        assert_eq!(attempt(text.as_bytes()).as_deref(), Some(r"PLAIN ann as boss p\xe4"));
    }
    let (said, _) = talk(&offer(), format!("a AUTHENTICATE PLAIN\r\n{message}\r\nb NOOP\r\n").as_bytes());
    assert_eq!(said, "+ \na NO [AUTHENTICATIONFAILED] Authentication failed.\nb OK Noop completed.\n");
    assert_eq!(
        attempt(format!("a AUTHENTICATE PLAIN {}\r\n", b64(b"ann\0ann\0pw")).as_bytes()).as_deref(),
        Some("PLAIN ann as ann pw")
    );
}

#[test]
fn login_asks_twice() {
    let (said, events) =
        talk(&offer(), format!("a AUTHENTICATE LOGIN\r\n{}\r\n{}\r\n", b64(b"ann"), b64(b"pw")).as_bytes());
    assert_eq!(events, ["LOGIN ann pw"]);
    assert!(said.starts_with("+ VXNlcm5hbWU6\n+ UGFzc3dvcmQ6\na NO "), "{said}");
    let (said, events) =
        talk(&offer(), format!("a AUTHENTICATE LOGIN {}\r\n{}\r\n", b64(b"ann"), b64(b"pw")).as_bytes());
    assert_eq!(events, ["LOGIN ann pw"]);
    assert!(said.starts_with("+ UGFzc3dvcmQ6\na NO "), "{said}");
    assert_eq!(attempt(b"a AUTHENTICATE LOGIN =\r\n"), None, "an empty name is none");
}

#[test]
fn external_is_there_with_a_certificate_only() {
    let ann = UserName::new(&b"ann"[..]).expect("clean");
    let known = Offer { certificate: Some(ann), ..offer() };
    for line in ["=", "", "YW5u", "YW5u\r\n"] {
        let text = if line == "=" || line == "YW5u" {
            format!("a AUTHENTICATE EXTERNAL {line}\r\n")
        } else {
            format!("a AUTHENTICATE EXTERNAL\r\n{line}\r\n")
        };
        assert!(talk(&known, text.as_bytes()).1.contains(&"EXTERNAL ann ".to_owned()), "{text:?}");
    }
    assert_eq!(talk(&known, b"a AUTHENTICATE EXTERNAL Ym9i\r\n").1, [""; 0], "bob is not ann");
    assert_eq!(said(&offer(), b"a AUTHENTICATE EXTERNAL =\r\n"), "a NO Unsupported authentication mechanism.\n");
}

#[test]
fn mechanisms_that_are_not_offered_are_refused() {
    let few = Offer { mechanisms: vec![Mechanism::Plain], ..offer() };
    for name in
        ["LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "CRAM-MD5", "LOGIN-COMMAND", "ANONYMOUS"]
    {
        let line = format!("a AUTHENTICATE {name}\r\n");
        assert_eq!(said(&few, line.as_bytes()), "a NO Unsupported authentication mechanism.\n", "{name}");
        if !matches!(name, "LOGIN" | "SCRAM-SHA-256") {
            assert_eq!(said(&offer(), line.as_bytes()), "a NO Unsupported authentication mechanism.\n", "{name}");
        }
    }
}

#[test]
fn a_star_aborts() {
    assert_eq!(
        talk(&offer(), b"a AUTHENTICATE PLAIN\r\n*\r\nb NOOP\r\n"),
        ("+ \na BAD Authentication aborted.\nb OK Noop completed.\n".into(), vec![])
    );
    assert!(said(&offer(), b"a AUTHENTICATE LOGIN YW5u\r\n*\r\n").ends_with("a BAD Authentication aborted.\n"));
}

#[test]
fn base64_is_canonical_or_bad() {
    for text in ["AGFubgBwdw", "AGFubgBwdw=", "AGFubgBwdw==AA==", "AGFubgBwdx==", "!", "==", "AGFu\tbgBwdw=="] {
        assert_eq!(
            said(&offer(), format!("a AUTHENTICATE PLAIN {text}\r\n").as_bytes()),
            "a BAD Invalid authentication message.\n"
        );
        let answer = format!("a AUTHENTICATE PLAIN\r\n{text}\r\nb NOOP\r\n");
        assert_eq!(
            said(&offer(), answer.as_bytes()),
            "+ \na BAD Invalid authentication message.\nb OK Noop completed.\n"
        );
    }
    assert_eq!(
        said(&offer(), b"a AUTHENTICATE PLAIN\r\n=\r\n"),
        "+ \na BAD Invalid authentication message.\n",
        "only an initial response"
    );
}

#[test]
fn a_long_token_arrives() {
    let token = "t".repeat(40_000);
    let message = b64(format!("user=ann\x01auth=Bearer {token}\x01\x01").as_bytes());
    for line in [format!("a AUTHENTICATE XOAUTH2 {message}\r\n"), format!("a AUTHENTICATE XOAUTH2\r\n{message}\r\n")] {
        assert_eq!(attempt(line.as_bytes()), Some(format!("XOAUTH2 ann {token}")));
    }
}

/// A machine whose attempt has been handed out, and its answers so far thrown away.
fn attempting(text: &str) -> Client {
    let mut client = Client::new(offer());
    client.machine.push(text.as_bytes());
    let event = client.machine.step(&mut client.out);
    assert!(matches!(event, Some(Event::Login(_))), "{event:?}");
    client.out.clear();
    client
}

#[test]
fn a_token_failure_is_explained_before_it_is_refused() {
    let json = br#"{"status":"401"}"#;
    let bearer = format!("a AUTHENTICATE OAUTHBEARER {}\r\n", b64(b"n,a=ann,\x01auth=Bearer t\x01\x01"));
    for (answer, heard) in [("", Some("")), ("AQ==", Some("\\x01")), ("*", None), ("!", None), ("c2VjcmV0", None)] {
        let mut client = attempting(&bearer);
        client.machine.challenge(json, &mut client.out);
        assert_eq!(client.said(), format!("+ {}\n", b64(json)));
        client.send(format!("{answer}\r\n").as_bytes());
        assert_eq!(client.events, [format!("answer {heard:?}")], "{answer}");
        if heard.is_some() {
            client.machine.refuse(b"[AUTHENTICATIONFAILED] Authentication failed.", &mut client.out);
            assert_eq!(client.said(), "a NO [AUTHENTICATIONFAILED] Authentication failed.\n");
        } else {
            assert_eq!(client.said(), "a BAD Authentication aborted.\n");
        }
        client.send(b"b NOOP\r\n");
        assert_eq!(client.said(), "b OK Noop completed.\n", "the dialogue goes on");
    }
}

#[test]
fn scram_is_relayed_as_often_as_it_takes() {
    let first = b"n,,n=ann,r=abc";
    let mut client = attempting(&format!("a AUTHENTICATE SCRAM-SHA-256\r\n{}\r\n", b64(first)));
    client.machine.challenge(b"r=abcdef,s=c2FsdA==,i=4096", &mut client.out);
    client.send(format!("{}\r\n", b64(b"c=biws,r=abcdef,p=cHJvb2Y=")).as_bytes());
    client.machine.challenge(b"v=c2ln", &mut client.out);
    client.send(b"\r\n");
    assert_eq!(client.events, ["answer Some(\"c=biws,r=abcdef,p=cHJvb2Y=\")", "answer Some(\"\")"]);
    client.said();
    let ok = Welcome { text: b"Welcome.".to_vec(), ..Welcome::default() };
    client.machine.accept(&ok, &mut client.out);
    assert_eq!(client.out, b"a OK Welcome.\r\n");
}

#[test]
fn nothing_is_read_while_an_attempt_is_out() {
    let mut client = attempting("a LOGIN ann pw\r\nb NOOP\r\nc LOGIN bob pw\r\n");
    assert!(client.machine.step(&mut client.out).is_none());
    assert_eq!(client.said(), "");
    client.machine.refuse(b"[UNAVAILABLE] Later.", &mut client.out);
    client.send(b"");
    assert_eq!(
        client.said(),
        "a NO [UNAVAILABLE] Later.\nb OK Noop completed.\nc NO [AUTHENTICATIONFAILED] Authentication failed.\n"
    );
    assert_eq!(client.events, ["LOGIN-COMMAND bob pw"]);
    client.machine.refuse(b"x", &mut client.out);
    client.machine.challenge(b"x", &mut client.out);
    assert_eq!(client.said(), "", "there is nothing to refuse or to ask");
}

#[test]
fn a_client_that_is_let_in_hears_what_counts_now() {
    let list = Capabilities::parse(b"IMAP4rev1 IDLE");
    let told = Welcome {
        text: b"[CAPABILITY IMAP4rev1 IDLE] Hello".to_vec(),
        ok_had_capabilities: true,
        capabilities: list.clone(),
        untagged: b"* OK [ALERT] x\r\n".to_vec(),
    };
    let untold =
        Welcome { text: b"Hello".to_vec(), ok_had_capabilities: false, capabilities: list, untagged: Vec::new() };
    let never = Welcome { text: b"Hello".to_vec(), ..Welcome::default() };
    let accept = |before: &str, ok: &Welcome| {
        let mut client = attempting(&format!("{before}a LOGIN ann pw\r\nb SELECT {{3}}\r\nGET \r\n"));
        let rest = client.machine.accept(ok, &mut client.out);
        assert_eq!(rest, b"b SELECT {3}\r\nGET \r\n", "byte for byte the backend's");
        String::from_utf8(client.out).expect("ASCII")
    };
    assert_eq!(accept("", &told), "* OK [ALERT] x\r\na OK [CAPABILITY IMAP4rev1 IDLE] Hello\r\n");
    assert_eq!(
        accept("c CAPABILITY\r\n", &told),
        "* OK [ALERT] x\r\n* CAPABILITY IMAP4rev1 IDLE\r\na OK [CAPABILITY IMAP4rev1 IDLE] Hello\r\n"
    );
    assert_eq!(accept("", &untold), "* CAPABILITY IMAP4rev1 IDLE\r\na OK Hello\r\n");
    assert_eq!(accept("c CAPABILITY\r\n", &never), "a OK Hello\r\n");
}

#[test]
fn nothing_secret_is_shown() {
    let mut client = Client::new(offer());
    client.machine.push(b"a LOGIN ann hunter2\r\nb LOGIN ann hunter2");
    let event = client.machine.step(&mut client.out);
    let text = format!("{event:?} {:?}", client.machine);
    assert!(!text.contains("hunter2") && !text.contains("104, 117"), "{text}");
    let answer = Event::Answer(Some(Zeroizing::new(b"hunter2".to_vec())));
    assert_eq!(format!("{answer:?}"), "Answer(Some(7) bytes)");
}

/// Pieces that make a dialogue go somewhere.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "a LOGIN ann pw\r\n", "a LOGIN {3}\r\n", "ann {2+}\r\n", "pw\r\n", "a AUTHENTICATE PLAIN\r\n", "a AUTHENTICATE LOGIN YW5u\r\n",
            "AGFubgBwdw==\r\n", "*\r\n", "\r\n", "a NOOP\r\n", "a CAPABILITY\r\n", "a ID (\"k\" \"v\")\r\n", "a STARTTLS\r\n", "a LOGIN x {5000+}\r\n",
            "a AUTHENTICATE SCRAM-SHA-1 biwsbj1hbm4scj1hYmM=\r\n", "a LOGOUT\r\n", "a", " ", "\n", "{3}", "+ NOOP\r\n", "a SELECT x\r\n",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_dialogue(bytes in wire(), size in 1..50_usize) {
        let whole = talk(&offer(), &bytes);
        let mut client = Client::new(offer());
        bytes.chunks(size).for_each(|piece| client.send(piece));
        prop_assert_eq!((client.said(), client.events), whole);
    }

    #[test]
    fn every_answer_is_whole_lines(bytes in wire(), clear: bool) {
        let mut client = Client::new(if clear { in_clear() } else { offer() });
        client.send(&bytes);
        prop_assert!(client.out.is_empty() || client.out.ends_with(b"\r\n"));
        for line in client.out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            prop_assert!(line.ends_with(b"\r") && line.is_ascii(), "{}", line.escape_ascii());
            prop_assert!(!clear || !line.starts_with(b"+ "), "an invitation in clear");
        }
    }
}
