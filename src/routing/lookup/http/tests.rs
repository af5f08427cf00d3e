//! Questions to responders on loopback that follow a script, and every answer that can be read.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{At, CertificateFiles, CertificateName, ClientAuth, Site, TlsVersion};
use crate::tls::testing::{Authority, Wanted};
use crate::tls::{Acceptor, Certificates, ClientCertificate};

const GREEN: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAuth-Status: OK\r\nAuth-Server: 192.0.2.9\r\nAuth-Port: 143\r\n\r\n";
const NO: &str = "HTTP/1.0 200 OK\r\nAuth-Status: Invalid login or password\r\n\r\n";
const WAIT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAuth-Status: WAIT\r\n\r\n";

fn at<T>(value: T) -> At<T> {
    At { value, site: Site { key: "lookup[0].url".to_owned(), span: 3..7 } }
}

fn settings(url: &str) -> config::HttpLookup {
    config::HttpLookup {
        url: at(url.to_owned()),
        headers: Vec::new(),
        headers_file: None,
        pass_client_certificate: false,
        ca: None,
        connections: NonZeroU32::MIN,
    }
}

fn http(settings: &config::HttpLookup) -> Http {
    Http::new(settings).expect("good settings")
}

fn secret(text: &str) -> Secret {
    Secret::new(Zeroizing::new(text.as_bytes().to_vec())).expect("clean")
}

fn question(user: &[u8]) -> Question<'_> {
    Question {
        user,
        password: None,
        method: "plain",
        attempt: 1,
        client: "203.0.113.7:4000".parse().expect("an address"),
        proxied: None,
        tls: None,
        secure: false,
    }
}

/// For each connection that it takes, one after the other, its answers; after the last of them it hangs up.
type Script = &'static [&'static [&'static str]];

/// A responder with a script. At its end it gives the questions as they came.
async fn responder(script: Script) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/auth", listener.local_addr().expect("bound"));
    let heads = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answers in script {
            let (mut tcp, _) = listener.accept().await.expect("somebody");
            for answer in *answers {
                heads.push(head(&mut tcp).await.expect("a question"));
                tcp.write_all(answer.as_bytes()).await.expect("room");
            }
        }
        heads
    });
    (url, heads)
}

/// The next question, all of it; `None` at the end.
async fn head(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).expect("ASCII"))
}

fn is_green(said: &Said) -> bool {
    matches!(said, Said::Server { address, user: None, password: None } if address.to_string() == "192.0.2.9:143")
}

/// A question that is never answered otherwise.
async fn ask_green(http: &Http) {
    let said = http.ask(&question(b"ann")).await.expect("an answer");
    assert!(is_green(&said), "{said:?}");
}

#[tokio::test]
async fn a_question_has_the_headers_that_nginx_sends() {
    let (url, heads) = responder(&[&[GREEN, GREEN]]).await;
    let mut settings = settings(&url);
    settings.headers.push(("X-Auth-Key".to_owned(), "open sesame".to_owned()));
    let http = http(&settings);
    let password = secret("pä ss%word");
    let full = Question {
        password: Some(&password),
        attempt: 3,
        proxied: Some(("[2001:db8::7]:999".parse().expect("one"), "192.0.2.1:993".parse().expect("one"))),
        secure: true,
        ..question(b"ann@example.org")
    };
    assert!(is_green(&http.ask(&full).await.expect("an answer")));
    ask_green(&http).await;
    let host = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/auth")).expect("as made");
    let heads = heads.await.expect("served");
    assert_eq!(
        heads[0],
        format!(
            "GET /auth HTTP/1.1\r\nHost: {host}\r\nAuth-Method: plain\r\nAuth-User: ann@example.org\r\n\
             Auth-Pass: p%C3%A4%20ss%25word\r\nAuth-Protocol: imap\r\nAuth-Login-Attempt: 3\r\n\
             Client-Ip: 203.0.113.7\r\nProxy-Protocol-Addr: 2001:db8::7\r\nProxy-Protocol-Port: 999\r\n\
             Proxy-Protocol-Server-Addr: 192.0.2.1\r\nProxy-Protocol-Server-Port: 993\r\nAuth-Ssl: on\r\n\
             X-Auth-Key: open sesame\r\n\r\n"
        )
    );
    assert_eq!(
        heads[1],
        format!(
            "GET /auth HTTP/1.1\r\nHost: {host}\r\nAuth-Method: plain\r\nAuth-User: ann\r\nAuth-Protocol: imap\r\n\
             Auth-Login-Attempt: 1\r\nClient-Ip: 203.0.113.7\r\nX-Auth-Key: open sesame\r\n\r\n"
        )
    );
}

#[tokio::test]
async fn what_is_known_of_tls_is_told_and_the_certificate_only_on_demand() {
    let certificate = ClientCertificate {
        subject: "CN=Ann 100%,O=Example".to_owned(),
        issuer: "CN=CA".to_owned(),
        serial: "0A".to_owned(),
        fingerprint: "ff00".to_owned(),
        pem: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned(),
    };
    let facts =
        |client_certificate| Facts { protocol: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", client_certificate };
    let always = "Auth-Ssl: on\r\nAuth-Ssl-Protocol: TLSv1.3\r\nAuth-Ssl-Cipher: TLS_AES_128_GCM_SHA256\r\n";
    let names = "Auth-Ssl-Verify: SUCCESS\r\nAuth-Ssl-Subject: CN=Ann 100%,O=Example\r\nAuth-Ssl-Issuer: CN=CA\r\n\
                 Auth-Ssl-Serial: 0A\r\nAuth-Ssl-Fingerprint: ff00\r\n";
    let whole = "Auth-Ssl-Cert: -----BEGIN%20CERTIFICATE-----%0AAA==%0A-----END%20CERTIFICATE-----%0A\r\n";
    for (verified, pass, expected) in [
        (Verified::NotAsked, true, String::new()),
        (Verified::None, true, "Auth-Ssl-Verify: NONE\r\n".to_owned()),
        (Verified::By(Box::new(certificate.clone())), false, names.to_owned()),
        (Verified::By(Box::new(certificate.clone())), true, format!("{names}{whole}")),
    ] {
        let (url, heads) = responder(&[&[GREEN]]).await;
        let http = http(&config::HttpLookup { pass_client_certificate: pass, ..settings(&url) });
        let facts = facts(verified);
        let told = Question { tls: Some(&facts), secure: true, method: "external", ..question(b"ann") };
        http.ask(&told).await.expect("an answer");
        let head = heads.await.expect("served").remove(0);
        assert!(head.contains("Auth-Method: external\r\n"), "{head}");
        let told = &head[head.find("Auth-Ssl: on").expect("told")..];
        assert_eq!(told, format!("{always}{expected}\r\n"));
    }
}

#[tokio::test]
async fn no_user_name_gets_out_of_its_header() {
    let (url, heads) = responder(&[&[GREEN; 5]]).await;
    let http = http(&settings(&url));
    let names: [&[u8]; 5] = [
        b"ann Auth-Status: OK",
        b"100%0d%0aAuth-Pass: x",
        b"\xe4\x85\xa0\xff\x7f\x80",
        b"\x1b[31m\t\x01",
        b"\"ann\"\\:,;'<>?&=+@#",
    ];
    for name in names {
        http.ask(&question(name)).await.expect("an answer");
    }
    let sent = heads.await.expect("served").into_iter().map(|head| {
        assert_eq!(head.lines().count(), 8, "{head}");
        head.lines().nth(3).and_then(|line| line.strip_prefix("Auth-User: ")).expect("in its place").to_owned()
    });
    assert_eq!(
        sent.collect::<Vec<_>>(),
        [
            "ann%20Auth-Status:%20OK",
            "100%250d%250aAuth-Pass:%20x",
            "%E4%85%A0%FF%7F%80",
            "%1B[31m%09%01",
            "\"ann\"\\:,;'<>?&=+@#",
        ]
    );
}

#[tokio::test]
async fn a_connection_serves_again_with_and_without_a_body() {
    const BODY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nAuth-Status: OK\r\nAuth-Server: 192.0.2.9\r\n\
                        Auth-Port: 143\r\n\r\nhello";
    let (url, heads) = responder(&[&[GREEN, BODY, GREEN, BODY, GREEN]]).await;
    let http = http(&settings(&url));
    for _ in 0..5 {
        ask_green(&http).await;
    }
    assert_eq!(heads.await.expect("served").len(), 5);
}

#[tokio::test]
async fn a_responder_that_hangs_up_after_each_answer_serves() {
    const OLD: &str = "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: 192.0.2.9\r\nAuth-Port: 143\r\n\r\nbody";
    // What says that it stays, and does not, races with the next question.
    let (url, heads) = responder(&[&[OLD], &[OLD], &[GREEN], &[GREEN], &[GREEN], &[OLD], &[GREEN], &[GREEN]]).await;
    let http = http(&settings(&url));
    for _ in 0..8 {
        ask_green(&http).await;
    }
    assert_eq!(heads.await.expect("served").len(), 8);
}

#[tokio::test]
async fn a_question_lost_on_a_kept_connection_is_asked_again_on_a_new_one() {
    // Takes the second question, and hangs up instead of answering.
    let (url, heads) = responder(&[&[GREEN, ""], &[GREEN]]).await;
    let http = http(&settings(&url));
    ask_green(&http).await;
    ask_green(&http).await;
    let heads = heads.await.expect("served");
    assert_eq!(heads[1], heads[2]);
    // Only once: a responder that always hangs up is broken.
    let (url, heads) = responder(&[&[""], &[""]]).await;
    let error = self::http(&settings(&url)).ask(&question(b"ann")).await.expect_err("no answer");
    assert!(error.contains("connection closed before message completed"), "{error}");
    assert_eq!(heads.await.expect("served").len(), 2);
}

#[tokio::test]
async fn no_more_questions_than_allowed_are_asked_at_a_time() {
    // With two at a time there would be two connections.
    let (url, heads) = responder(&[&[GREEN, GREEN, GREEN]]).await;
    let http = http(&settings(&url));
    tokio::join!(ask_green(&http), ask_green(&http), ask_green(&http));
    assert_eq!(heads.await.expect("served").len(), 3);
}

#[tokio::test]
async fn wait_means_ask_again_but_not_for_ever() {
    let (url, heads) = responder(&[&[WAIT, WAIT, GREEN]]).await;
    ask_green(&http(&settings(&url))).await;
    assert_eq!(heads.await.expect("served").len(), 3);
    let (url, heads) = responder(&[&[WAIT; 11]]).await;
    let error = http(&settings(&url)).ask(&question(b"ann")).await.expect_err("for ever");
    assert_eq!(error, "the responder said WAIT more than 10 times");
    heads.await.expect("served");
}

#[tokio::test]
async fn garbage_is_an_error_that_names_no_secret() {
    const ENDLESS: &str = "HTTP/1.1 200 OK\r\nX: ";
    let (url, heads) = responder(&[
        &["SSH-2.0-OpenSSH_9.2\r\n\r\n"],
        &["HTTP/1.1 200 OK\r\n\r\n"],
        &["HTTP/1.1 200 OK\r\nAuth-Status: OK\r\n\r\n"],
        &["* BYE \x1b[31mno\r\n"],
    ])
    .await;
    let mut settings = settings(&url);
    settings.headers.push(("X-Auth-Key".to_owned(), "sesame".to_owned()));
    let http = http(&settings);
    let password = secret("hunter2");
    for expected in ["invalid HTTP version", "no Auth-Status", "no Auth-Server", "invalid HTTP version"] {
        let error = http.ask(&Question { password: Some(&password), ..question(b"ann") }).await.expect_err("garbage");
        assert!(error.contains(expected), "{error}");
        assert!(error.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("sesame"), "{error}");
    }
    heads.await.expect("served");
    // Bound, but nobody listens.
    let silent = TcpSocket::new_v4().expect("a socket");
    silent.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let closed = silent.local_addr().expect("bound");
    let error = self::http(&self::settings(&format!("http://{closed}/"))).ask(&question(b"ann")).await;
    assert!(error.expect_err("nobody there").contains("refused"));

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let http = self::http(&self::settings(&format!("http://{}/", listener.local_addr().expect("bound"))));
    let flood = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("somebody");
        head(&mut tcp).await.expect("a question");
        tcp.write_all(ENDLESS.as_bytes()).await.expect("room");
        let mut sent = 0_usize;
        while tcp.write_all(&[b'x'; 1024]).await.is_ok() && sent < 1 << 26 {
            sent += 1024;
        }
        sent
    });
    let error = http.ask(&question(b"ann")).await.expect_err("too long");
    assert!(error.contains("message head is too large"), "{error}");
    assert!(flood.await.expect("served") < 1 << 26, "hung up on");
}

#[tokio::test]
async fn an_answer_may_come_byte_by_byte_and_an_endless_body_delays_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let http = http(&settings(&format!("http://{}/", listener.local_addr().expect("bound"))));
    let asked = Arc::new(Notify::new());
    let ask = Arc::clone(&asked);
    let slow = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("somebody");
        tcp.set_nodelay(true).expect("a socket");
        head(&mut tcp).await.expect("a question");
        for byte in NO.bytes() {
            tcp.write_all(&[byte]).await.expect("room");
            tokio::task::yield_now().await;
        }
        // No end of the body: it waits to be hung up on.
        tcp.read_u8().await.expect_err("hung up on");
        // Somebody gives up while the question is out.
        let (mut tcp, _) = listener.accept().await.expect("somebody");
        head(&mut tcp).await.expect("a question");
        ask.notify_one();
        tcp.read_u8().await.expect_err("hung up on")
    });
    let said = http.ask(&question(b"ann")).await.expect("an answer");
    assert!(matches!(&said, Said::Refused { text, .. } if text == "Invalid login or password"), "{said:?}");
    let question = question(b"ann");
    tokio::select! {
        said = http.ask(&question) => panic!("not answered: {said:?}"),
        () = asked.notified() => {}
    }
    slow.await.expect("served");
}

fn answer(lines: &[(&'static str, &str)]) -> Result<Answer, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    answer::read(&headers)
}

fn said(lines: &[(&'static str, &str)]) -> Said {
    match answer(lines).expect("an answer") {
        Answer::Said(said) => said,
        Answer::Wait(_) => panic!("not WAIT"),
    }
}

#[test]
fn a_server_is_an_address_and_perhaps_a_name_and_a_password() {
    let server = |server, more: &[(&'static str, &str)]| {
        let mut lines = vec![("auth-status", "OK"), ("auth-server", server), ("auth-port", "993"), ("x-other", "?")];
        lines.extend(more);
        match said(&lines) {
            Said::Server { address, user, password } => (
                address.to_string(),
                user.map(|user| user.to_string()),
                password.map(|password| String::from_utf8(password.reveal().to_vec()).expect("text")),
            ),
            Said::Refused { .. } => panic!("not refused"),
        }
    };
    assert_eq!(server("192.0.2.9", &[]), ("192.0.2.9:993".to_owned(), None, None));
    assert_eq!(server(" 2001:db8::1 ", &[]).0, "[2001:db8::1]:993");
    assert_eq!(server("[2001:db8::1]", &[]).0, "[2001:db8::1]:993");
    let both = [("auth-user", "robert%20"), ("auth-pass", "p ä")];
    // Nothing is unescaped: nginx does not.
    assert_eq!(server("::1", &both).1.as_deref(), Some("robert%20"));
    assert_eq!(server("::1", &both).2.as_deref(), Some("p ä"));
    assert_eq!(server("::1", &[("auth-user", ""), ("auth-pass", "")]), ("[::1]:993".to_owned(), None, None));
}

#[test]
fn an_answer_that_leads_nowhere_is_an_error() {
    let (ok, ip, port) = (("auth-status", "OK"), ("auth-server", "192.0.2.9"), ("auth-port", "143"));
    for (lines, expected) in [
        (vec![], "the answer has no Auth-Status"),
        (vec![("auth-status", " ")], "the answer has no Auth-Status"),
        (vec![ok, port], "the answer is OK, but has no Auth-Server"),
        (vec![ok, ip], "the answer is OK, but has no Auth-Port"),
        (
            vec![ok, ("auth-server", "mail\u{e9}.example"), port],
            "is \"mail\\xc3\\xa9.example\", which is no IP address",
        ),
        (vec![ok, ("auth-server", "unix:/run/imap"), port], "which is no IP address"),
        (vec![ok, ("auth-server", "192.0.2.9:143"), port], "which is no IP address"),
        (vec![ok, ("auth-server", "[192.0.2.9]"), port], "which is no IP address"),
        (vec![ok, ("auth-server", "192.0.2.09"), port], "which is no IP address"),
        (vec![ok, ip, ("auth-server", "192.0.2.8"), port], "the answer has two different auth-server"),
        (vec![ok, ip, ("auth-port", "0")], "Auth-Port is \"0\", which is no port"),
        (vec![ok, ip, ("auth-port", "65536")], "which is no port"),
        (vec![ok, ip, ("auth-port", "+143")], "which is no port"),
        (vec![ok, ip, ("auth-port", "99999999999999999999999")], "which is no port"),
    ] {
        let error = answer(&lines).expect_err("leads nowhere");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn everything_but_ok_and_wait_is_a_refusal_in_its_own_words() {
    let refusal = |status, seconds| match said(&[("auth-status", status), ("auth-wait", seconds)]) {
        Said::Refused { text, wait } => (text, wait.as_secs()),
        Said::Server { .. } => panic!("refused"),
    };
    assert_eq!(refusal("Invalid login", ""), ("Invalid login".to_owned(), 0));
    assert_eq!(refusal("ok", "3"), ("ok".to_owned(), 3));
    assert_eq!(refusal("Wait", "-3"), ("Wait".to_owned(), 0));
    assert_eq!(refusal("Zugriff verw\u{e4}hrt\tx", "1e9"), ("Zugriff verw??hrt?x".to_owned(), 0));
    assert_eq!(refusal("no", "99999999999999999999"), ("no".to_owned(), 60));
    assert_eq!(refusal(&"x".repeat(5000), "1").0.len(), 200);
    for (seconds, expected) in [("", 0), ("2", 2), ("86400", 60)] {
        let answer = answer(&[("auth-status", "WAIT"), ("auth-wait", seconds)]).expect("an answer");
        assert!(matches!(answer, Answer::Wait(wait) if wait.as_secs() == expected), "{answer:?}");
    }
}

#[test]
fn settings_that_cannot_work_are_found_at_their_place() {
    for (url, expected) in [
        ("ftp://example.org/", "expected http:// or https://"),
        ("/auth", "expected http:// or https://"),
        ("http://", "not a URL"),
        ("http:///auth", "not a URL"),
        ("http://ann:pw@example.org/", "a user name in the URL"),
        ("http://example.org:/", "no port"),
        ("http://example.org:99999/", "no port"),
        ("http://exa mple/", "not a URL"),
    ] {
        let findings = Http::new(&settings(url)).err().expect("wrong");
        assert_eq!(findings.len(), 1, "{url}");
        assert!(findings[0].message.contains(expected), "{url}: {}", findings[0].message);
        assert_eq!(findings[0].site.as_ref().map(|site| site.key.as_str()), Some("lookup[0].url"));
    }
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let clear = config::HttpLookup { ca: Some(at("/nonexistent.pem".into())), ..settings("http://example.org/") };
    assert!(Http::new(&clear).err().expect("wrong")[0].message.contains("no use for `ca`"));
    let mut settings = settings("https://example.org/");
    settings.headers =
        vec![header("bad name", "x"), header("Auth-User", "x"), header("X-Key", "ses\name"), header("X-Good", "x")];
    settings.ca = Some(at("/nonexistent.pem".into()));
    let findings = Http::new(&settings).err().expect("wrong");
    let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(messages.len(), 4, "{messages:?}");
    assert!(messages[0].contains("\"bad name\": not the name"));
    assert!(messages[1].contains("\"Auth-User\": is set by mailmux"));
    assert!(messages[2].contains("\"X-Key\": its value") && !messages[2].contains("ses"));
    assert!(messages[3].contains("/nonexistent.pem"));
}

/// An HTTPS responder for one question, with a certificate for `name`.
async fn https(ca: &Authority, name: &str, folder: &Path) -> (String, JoinHandle<Option<String>>) {
    let files = CertificateFiles { chain: at(folder.join("web.pem")), key: at(folder.join("web.key")) };
    ca.issue(Wanted { dns: &[name], ..Wanted::default() }).write(&files.chain.value, &files.key.value);
    let tls = config::Tls {
        min_version: TlsVersion::V12,
        client_auth: ClientAuth::Off,
        client_name: CertificateName::Email,
        certificates: vec![files],
        directory: None,
        watch: None,
    };
    let (certificates, _) = Certificates::load(&tls, None).expect("good certificates");
    let acceptor = Acceptor::new(Arc::new(certificates), &tls, None).expect("good settings");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://localhost:{}/auth", listener.local_addr().expect("bound").port());
    let head = tokio::spawn(async move {
        let (tcp, _): (TcpStream, _) = listener.accept().await.expect("somebody");
        let mut stream = acceptor.accept(tcp).await.ok()?.stream;
        let head = head(&mut stream).await?;
        stream.write_all(GREEN.as_bytes()).await.expect("room");
        stream.flush().await.expect("room");
        Some(head)
    });
    (url, head)
}

#[tokio::test]
async fn https_is_verified_against_the_authority_given_and_nothing_else() {
    let (ca, folder) = (Authority::new(), tempfile::tempdir().expect("a scratch folder"));
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ca.pem()).expect("a scratch folder");
    let ours = |url: &str| http(&config::HttpLookup { ca: Some(at(file.clone())), ..settings(url) });

    let (url, head) = https(&ca, "localhost", folder.path()).await;
    ask_green(&ours(&url)).await;
    assert!(head.await.expect("served").expect("asked").starts_with("GET /auth HTTP/1.1\r\nHost: localhost:"));

    for (name, trusted) in [("other.example", true), ("localhost", false)] {
        let (url, head) = https(&ca, name, folder.path()).await;
        let http = if trusted { ours(&url) } else { http(&settings(&url)) };
        let error = http.ask(&question(b"ann")).await.expect_err("not verified");
        assert!(error.contains("invalid peer certificate"), "{error}");
        assert_eq!(head.await.expect("served"), None, "it was asked nothing");
    }
}
