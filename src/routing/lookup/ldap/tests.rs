//! Against directories that follow a script. A real one is asked by `tests/real/lookups.py`.

use std::num::NonZeroU32;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{At, LdapScope, Site};

const ANN: &str = "uid=ann,dc=example,dc=org";

fn at<T>(key: &str, value: T) -> At<T> {
    At { value, site: Site { key: key.to_owned(), span: 0..0 } }
}

fn settings(url: &str) -> config::LdapLookup {
    config::LdapLookup {
        url: at("url", url.to_owned()),
        start_tls: false,
        ca: None,
        bind: None,
        base: "dc=example,dc=org".to_owned(),
        scope: LdapScope::Sub,
        filter: at("filter", "(mail={user})".to_owned()),
        attributes: vec![("MAILHOST".to_owned(), "host".to_owned()), ("mail".to_owned(), "user".to_owned())],
        connections: NonZeroU32::MIN,
    }
}

fn ldap(settings: &config::LdapLookup) -> Ldap {
    match Ldap::new(settings) {
        Ok(ldap) => ldap,
        Err(findings) => panic!("{findings:?}"),
    }
}

fn name(text: &str) -> UserName {
    UserName::new(text.as_bytes()).expect("a name")
}

fn secret(text: &[u8]) -> Secret {
    Secret::new(text.to_vec().into()).expect("clean")
}

/// The entry's name and its fields, as text.
async fn ask(ldap: &Ldap, user: &str) -> Result<Option<(String, Vec<String>)>, String> {
    let field = |(name, value): (String, Zeroizing<Vec<u8>>)| format!("{name}={}", escape(&value));
    let entry = ldap.ask(&name(user)).await?;
    Ok(entry.map(|entry| (entry.dn, entry.fields.0.into_iter().map(field).collect())))
}

/// The name alone, of somebody who is there.
async fn dn(ldap: &Ldap, user: &str) -> String {
    ask(ldap, user).await.expect("an answer").expect("an entry").0
}

// Messages, as a directory sends them. None is longer than 127 bytes.

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).expect("short")], content].concat()
}

fn message(id: u8, operation: &[u8]) -> Vec<u8> {
    tlv(0x30, &[&[2, 1, id], operation].concat())
}

/// `BindResponse` (0x61), `SearchResultDone` (0x65) or `ExtendedResponse` (0x78).
fn result(id: u8, operation: u8, code: u8, text: &str) -> Vec<u8> {
    message(id, &tlv(operation, &[&[10, 1, code, 4, 0], &*tlv(4, text.as_bytes())].concat()))
}

fn entry(id: u8, dn: &str, attribute: &str, values: &[&[u8]]) -> Vec<u8> {
    let values = values.iter().flat_map(|value| tlv(4, value)).collect::<Vec<_>>();
    let attribute = tlv(0x30, &[tlv(4, attribute.as_bytes()), tlv(0x31, &values)].concat());
    message(id, &tlv(0x64, &[tlv(4, dn.as_bytes()), tlv(0x30, &attribute)].concat()))
}

fn found(id: u8) -> Vec<u8> {
    [entry(id, ANN, "mailHost", &[b"\xff\0", b"second"]), result(id, 0x65, 0, "")].concat()
}

/// The next request; `None` at the end.
async fn request(tcp: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(length) = guard::message(&bytes).expect("LDAP") {
            assert_eq!(length, bytes.len(), "one request at a time");
            return Some(bytes);
        }
        if tcp.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A directory that answers the requests of each connection, one after the other, with these bytes and then hangs up.
/// It gives the requests as they came.
async fn directory(script: Vec<Vec<Vec<u8>>>) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ldap://{}", listener.local_addr().expect("bound"));
    let requests = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answers in script {
            let (mut tcp, _) = listener.accept().await.expect("somebody");
            for answer in answers {
                requests.push(request(&mut tcp).await.expect("a request"));
                tcp.write_all(&answer).await.expect("room");
            }
        }
        requests
    });
    (url, requests)
}

#[tokio::test]
async fn the_first_value_of_each_attribute_is_a_field_and_bytes_stay_bytes() {
    let (url, requests) = directory(vec![vec![found(1), result(2, 0x65, 0, "")]]).await;
    let ldap = ldap(&settings(&url));
    let fields = vec!["host=\\xff\\x00".to_owned()];
    assert_eq!(ask(&ldap, "ann").await, Ok(Some((ANN.to_owned(), fields))));
    assert_eq!(ask(&ldap, "bob").await, Ok(None), "on the same connection");
    let requests = requests.await.expect("served");
    let has = |request: &[u8], text: &[u8]| request.windows(text.len()).any(|window| window == text);
    assert!(has(&requests[0], b"\x04\x03ann") && has(&requests[1], b"\x04\x03bob"));
    assert!(has(&requests[0], b"\x02\x01\x02\x02\x01\x00"), "no more than two entries");
    assert!(has(&requests[0], b"\x04\x08MAILHOST\x04\x04mail"), "and no other attributes");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_no_question() {
    let script = vec![vec![found(1)], vec![found(1)], vec![found(1)]];
    let (url, requests) = directory(script).await;
    let ldap = ldap(&settings(&url));
    for _ in 0..3 {
        assert_eq!(dn(&ldap, "ann").await, ANN);
    }
    assert_eq!(requests.await.expect("served").len(), 3);
    // A new one that breaks is not tried again.
    let (url, requests) = directory(vec![vec![Vec::new()]]).await;
    let error = ask(&self::ldap(&settings(&url)), "ann").await.expect_err("no answer");
    assert_eq!(error, "the directory closed the connection");
    assert_eq!(requests.await.expect("served").len(), 1);
}

#[tokio::test]
async fn a_question_that_is_given_up_takes_its_connection_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let ldap = ldap(&settings(&format!("ldap://{}", listener.local_addr().expect("bound"))));
    let (asked, mut is_asked) = watch::channel(false);
    let directory = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.expect("somebody");
        request(&mut first).await.expect("a request");
        asked.send_replace(true);
        assert!(request(&mut first).await.is_none(), "hung up on");
        let (mut second, _) = listener.accept().await.expect("somebody");
        request(&mut second).await.expect("a request");
        // The answer to the first question, had it been waited for, would come here.
        second.write_all(&found(1)).await.expect("room");
        request(&mut second).await
    });
    let ann = name("somebody else");
    tokio::select! {
        _ = ldap.ask(&ann) => panic!("not answered"),
        asked = is_asked.wait_for(|asked| *asked) => drop(asked.expect("asked")),
    }
    assert_eq!(dn(&ldap, "ann").await, ANN);
    drop(ldap);
    assert_eq!(directory.await.expect("served"), None);
}

#[tokio::test]
async fn no_more_connections_are_open_than_allowed() {
    let script = vec![vec![found(1), found(2)], vec![result(1, 0x61, 0, ""), Vec::new()], vec![found(1)]];
    let (url, requests) = directory(script).await;
    let ldap = ldap(&settings(&url));
    let (ann, bob) = tokio::join!(dn(&ldap, "ann"), dn(&ldap, "bob"));
    assert_eq!((ann.as_str(), bob.as_str()), (ANN, ANN));
    assert_eq!(ldap.bind(ANN, &secret(b"x")).await, Ok(true));
    // The bind took the place of the connection that was idle, and did not become one.
    assert!(ldap.take_idle().is_none());
    assert_eq!(dn(&ldap, "ann").await, ANN);
    assert_eq!(requests.await.expect("served").len(), 5);
}

#[tokio::test]
async fn only_an_answer_about_the_user_is_a_no() {
    let codes = [(0, Some(true)), (49, Some(false)), (53, Some(false)), (50, Some(false)), (19, Some(false))];
    let more = [(48, Some(false)), (32, Some(false)), (1, None), (8, None), (13, None), (51, None), (52, None)];
    for (code, expected) in codes.into_iter().chain(more) {
        let (url, _requests) = directory(vec![vec![result(1, 0x61, code, "\u{1b}[31m why"), Vec::new()]]).await;
        let right = ldap(&settings(&url)).bind(ANN, &secret(b"hunter2")).await;
        if let Some(expected) = expected {
            assert_eq!(right, Ok(expected), "{code}");
        } else {
            let error = right.expect_err("cannot tell");
            assert!(error.contains(&format!("rc={code} ")) && error.contains("\\x1b[31m why"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

#[tokio::test]
async fn without_a_password_nobody_is_asked() {
    // Nobody listens there.
    let ldap = ldap(&settings("ldap://127.0.0.1:1"));
    assert_eq!(ldap.bind(ANN, &secret(b"")).await, Ok(false));
    assert_eq!(ldap.bind("", &secret(b"x")).await, Ok(false));
    assert_eq!(ldap.bind(ANN, &secret(b"\xff")).await, Ok(false));
    assert!(ldap.bind(ANN, &secret(b"x")).await.expect_err("nobody there").starts_with("cannot connect: "));
    assert!(ldap.ask(&UserName::new(&b"j\xf6rg"[..]).expect("a name")).await.expect("known").is_none());
}

#[tokio::test]
async fn answers_that_are_none_are_errors() {
    let two = [entry(1, ANN, "mail", &[b"a"]), entry(1, "uid=bob", "mail", &[b"a"])].concat();
    let deep = (0..20).fold(Vec::new(), |inner, _| tlv(0x30, &inner));
    let cases = [
        ([two.clone(), result(1, 0x65, 0, "")].concat(), "more than one entry"),
        ([two, result(1, 0x65, 4, "")].concat(), "more than one entry"),
        (result(1, 0x65, 4, ""), "rc=4 (sizeLimitExceeded)"),
        (result(1, 0x65, 32, "\r\nno"), "rc=32 (noSuchObject), dn: \\\"\\\", text: \\\"\\r\\nno\\\""),
        (result(1, 0x65, 10, ""), "refers us elsewhere"),
        (result(1, 0x65, 52, ""), "the directory cannot search: rc=52"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "no LDAP"),
        (b"\x30\x84\x7f\xff\xff\xff".to_vec(), "too long"),
        (deep, "nested too deep"),
        (b"\x30\x05\x02\x01\x01\x64\x05".to_vec(), "malformed"),
        // Each of these makes the library's reader panic.
        (b"\x30\x00".to_vec(), "the directory's answer is no LDAP"),
        (b"\x30\x03\x02\x01\x01".to_vec(), "the directory's answer is no LDAP"),
        (message(1, b"\x66\x00"), "the directory's answer is no LDAP"),
        (message(1, b"\x65\x00"), "the directory's answer is no LDAP"),
        (result(1, 0x65, 0, "").into_iter().map(|byte| if byte == 10 { 4 } else { byte }).collect(), "no LDAP"),
        ([message(1, b"\x64\x02\x04\x00"), result(1, 0x65, 0, "")].concat(), "an entry is malformed"),
        ([message(1, b"\x64\x05\x04\x01\xff\x30\x00"), result(1, 0x65, 0, "")].concat(), "an entry is malformed"),
    ];
    for (answer, expected) in cases {
        let (url, _requests) = directory(vec![vec![answer.clone()]]).await;
        let error = ask(&ldap(&settings(&url)), "ann").await.expect_err("no answer");
        assert!(error.contains(expected), "{}: {error}", escape(&answer));
    }
}

#[tokio::test]
async fn references_to_other_directories_are_left_out() {
    let reference = message(1, &tlv(0x73, &tlv(4, b"ldap://elsewhere.example")));
    let (url, _requests) = directory(vec![vec![[reference, found(1)].concat()]]).await;
    assert_eq!(dn(&ldap(&settings(&url)), "ann").await, ANN);
}

#[tokio::test]
async fn start_tls_is_never_done_without() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, crate::tls::testing::Authority::new().pem()).expect("a scratch folder");
    let accepted = result(1, 0x78, 0, "");
    for (answer, expected) in [
        (result(1, 0x78, 2, ""), "the directory refuses StartTLS"),
        ([accepted.clone(), found(2)].concat(), "the directory goes on talking in clear"),
        (Vec::new(), "StartTLS: the directory closed the connection"),
        (result(2, 0x78, 0, ""), "StartTLS: the answer is malformed"),
        (result(1, 0x65, 0, ""), "StartTLS: the answer is malformed"),
        (b"\x30\x00".to_vec(), "StartTLS: the answer is malformed"),
        (b"* OK IMAP4rev1".to_vec(), "no LDAP"),
        (accepted, "TLS: "),
    ] {
        let (url, requests) = directory(vec![vec![answer]]).await;
        let mut settings = settings(&url);
        (settings.start_tls, settings.ca) = (true, Some(at("ca", ca.clone())));
        let error = ldap(&settings).bind(ANN, &secret(b"x")).await.expect_err("no TLS");
        assert!(error.contains(expected), "{error}");
        assert_eq!(requests.await.expect("served").len(), 1);
    }
}

#[test]
fn settings_that_cannot_work_are_found_at_their_place() {
    let messages = |settings: &config::LdapLookup| {
        let findings = Ldap::new(settings).err().unwrap_or_default();
        let shown = |finding: Finding| {
            format!("{}: {}", finding.site.map(|site| site.key).unwrap_or_default(), finding.message)
        };
        findings.into_iter().map(shown).collect::<Vec<_>>()
    };
    for (url, expected) in [
        ("http://localhost", "url: not a URL of this kind"),
        ("localhost", "url: not a URL"),
        ("ldap://", "url: "),
        ("ldap://localhost:0x", "url: "),
        ("ldap://localhost/dc=example", "url: more than a host"),
        ("ldap://ann@localhost", "url: more than a host"),
        ("ldapi://", "url: not a path"),
        ("ldapi://run%2Fldapi", "url: not a path"),
        ("ldapi://%2Frun%2", "url: not a path"),
        ("ldapi://%2Frun%00", "url: not a path"),
    ] {
        let messages = messages(&settings(url));
        assert!(messages.len() == 1 && messages[0].starts_with(expected), "{url}: {messages:?}");
    }
    for url in ["ldap://localhost", "ldap://[::1]:3389/", "ldap://192.0.2.1", "ldapi://%2Frun%2Fldapi", "ldap://[::1]"]
    {
        assert_eq!(messages(&settings(url)), Vec::<String>::new(), "{url}");
    }
    let mut all = settings("ldaps://localhost");
    all.start_tls = true;
    all.filter = at("filter", "(uid={name})".to_owned());
    all.bind = Some(("cn=x".to_owned(), at("password_file", "/nonexistent".into())));
    let found = messages(&all);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("url: StartTLS is for ldap://"));
    assert!(found[1].starts_with("filter: a brace"));
    assert!(found[2].starts_with("password_file: cannot read /nonexistent"));
    let mut clear = settings("ldap://localhost");
    clear.ca = Some(at("ca", "/nonexistent".into()));
    assert!(messages(&clear)[0].contains("no use for `ca`"));
    clear.start_tls = true;
    assert!(messages(&clear)[0].starts_with("ca: /nonexistent"));
}
