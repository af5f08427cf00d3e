//! Whatever a client or a backend sends, other sessions do not notice, and nothing is left behind.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::client::{Client, GREETING};
use crate::support::program::Program;
use crate::support::server::Running;
use crate::support::{SOON, soon};

const UNAVAILABLE: &str = "NO [UNAVAILABLE] Account is temporarily unavailable.\r\n";

async fn world(timeouts: &str) -> (Running, Backend) {
    let (bad, good) = (Backend::listen().await, Backend::listen().await);
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}{}\
         [[route]]\nuser = \"good*\"\nbackend = \"good\"\n[[route]]\nbackend = \"bad\"\n\
         [limits]\nlogins_per_user = \"off\"\nsessions_per_user = 0\n\
         [timeouts]\nrefusal_grid = \"10ms\"\n{timeouts}\n",
        bad.section("bad"),
        good.section("good")
    );
    let server = Running::start(Path::new("."), &config);
    good.echo_for_ever();
    (server, bad)
}

async fn greeted(server: &Running) -> Client<tokio::net::TcpStream> {
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client
}

/// A session that does its work beside all this.
async fn neighbour(server: &Running) -> Client<tokio::net::TcpStream> {
    let mut client = greeted(server).await;
    client.say("a LOGIN good pass\r\n").await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    client
}

async fn nothing_is_left(server: &Running) {
    server.until_metric("mailmux_sessions{listener=\"plain\"}", 0.0).await;
    let (_, metrics) = server.get("/metrics", "").await;
    let links = metrics.lines().filter(|line| line.starts_with("mailmux_backend_links"));
    for line in links {
        assert!(line.ends_with(" 0"), "{line}");
    }
    server.until_metric("mailmux_internal_errors_total", 0.0).await;
}

#[tokio::test]
async fn every_animal_of_the_zoo() {
    // Each answers every call with these bytes and then closes, or (None) stays silent.
    let animals: [(&str, Option<Vec<u8>>); 10] = [
        ("closes at once", Some(Vec::new())),
        ("is silent", None),
        ("says BYE", Some(b"* BYE go away\r\n".to_vec())),
        ("is no IMAP server", Some(b"220 smtp.example.org ESMTP\r\n".to_vec())),
        ("speaks TLS", Some(b"\x15\x03\x01\0\x02\x02\x46".to_vec())),
        ("has no line end", Some(vec![b'x'; 100_000])),
        ("never ends its greeting", Some(b"* OK hello\r\n".repeat(100_000))),
        ("sends a huge literal", Some(b"* OK [CAPABILITY IMAP4rev1] {99999999999}\r\n".to_vec())),
        ("nests", Some([&b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n* X "[..], &b"(".repeat(100_000)].concat())),
        (
            "answers before it is asked",
            Some(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\nL OK in\r\nA1 OK in\r\n".to_vec()),
        ),
    ];
    for (name, bytes) in animals {
        let (server, bad) = world("backend_connect = \"300ms\"\nbackend_login = \"600ms\"\nlogin = \"10s\"").await;
        let keeper = tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                let mut call = bad.accept().await;
                match &bytes {
                    Some(bytes) => {
                        let _ = timeout(Duration::from_secs(2), call.tcp.write_all(bytes)).await;
                    }
                    None => silent.push(call),
                }
            }
        });
        let mut beside = neighbour(&server).await;
        let mut client = greeted(&server).await;
        client.say("a LOGIN ann pass\r\n").await;
        beside.say("hello\r\n").await;
        beside.hear("hello\r\n").await;
        let answer = client.hear_line().await;
        assert_eq!(answer, format!("a {UNAVAILABLE}"), "a backend that {name}");
        client.say("b NOOP\r\n").await;
        client.hear("b OK Noop completed.\r\n").await;
        drop((client, beside));
        nothing_is_left(&server).await;
        keeper.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_or_resets_at_any_byte_of_a_login() {
    const GREETING_THERE: &[u8] = b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] x\r\n";
    const ANSWER: &[u8] = b" OK [CAPABILITY IMAP4rev1] in\r\n";
    const TAG: usize = 16;
    // One backend for each place, so that all are tried at the same time.
    let places = GREETING_THERE.len() + b"+ \r\n".len() + TAG + ANSWER.len();
    let mut sections = String::new();
    let mut backends = Vec::new();
    for place in 0..places {
        let backend = Backend::listen().await;
        let name = format!("at{place}");
        sections.push_str(&backend.section(&name));
        sections.extend(["[[route]]\nuser = \"", &name, "\"\nbackend = \"", &name, "\"\n"]);
        backends.push(backend);
    }
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{sections}\
         [limits]\nsessions_per_user = 0\n[timeouts]\nrefusal_grid = \"10ms\"\n"
    );
    let server = std::sync::Arc::new(Running::start(Path::new("."), &config));
    let mut trials = tokio::task::JoinSet::new();
    for (place, backend) in backends.into_iter().enumerate() {
        let server = std::sync::Arc::clone(&server);
        trials.spawn(async move {
            let mut client = greeted(&server).await;
            client.say(format!("a LOGIN at{place} pass\r\n")).await;
            let mut let_in = false;
            // Three tries: one that closes, one that resets, and one that is as it should be.
            for hang_up in [Some(false), Some(true), None] {
                let mut left = if hang_up.is_some() { place } else { usize::MAX };
                let mut call = backend.accept().await;
                let mut talk = async |call: &mut crate::support::backend::Call, words: &[u8]| {
                    let said = left.min(words.len());
                    call.say(&words[..said]).await;
                    left -= said;
                    said == words.len() && left > 0
                };
                let whole = talk(&mut call, GREETING_THERE).await
                    && {
                        call.hear_command().await;
                        talk(&mut call, b"+ \r\n").await
                    }
                    && {
                        call.hear(format!("{}\r\n", plain_for(place)).as_bytes()).await;
                        let answer = [call.tag.as_bytes(), ANSWER].concat();
                        talk(&mut call, &answer).await
                    };
                if whole {
                    let_in = true;
                    break;
                }
                if hang_up == Some(true) {
                    call.reset();
                }
            }
            let answer = client.hear_line().await;
            assert!(let_in && answer == "a OK [CAPABILITY IMAP4rev1] in\r\n", "at byte {place}: {answer}");
        });
    }
    trials.join_all().await;
    nothing_is_left(&server).await;
}

fn plain_for(place: usize) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("\0at{place}\0pass"))
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_read_from() {
    let (server, _bad) = world("").await;
    let mut beside = neighbour(&server).await;
    let client = greeted(&server).await;
    let (_read, mut write) = client.stream.into_split();
    // What the kernel and mailmux hold between them is bounded: at some point no more is taken.
    let flood = b"a CAPABILITY\r\n".repeat(10_000);
    let mut taken = 0_usize;
    while let Ok(Ok(n)) = timeout(Duration::from_millis(500), write.write(&flood)).await {
        taken += n;
        assert!(taken < 64 << 20, "it is read from for ever");
    }
    beside.say("hello\r\n").await;
    beside.hear("hello\r\n").await;
}

#[tokio::test]
async fn junk_from_clients() {
    let (server, bad) = world("").await;
    let mut beside = neighbour(&server).await;
    let junk: [&[u8]; 6] = [
        &b"\xff\xfe\x00junk\r\n".repeat(50),
        &[&b"a NOOP "[..], &b"(".repeat(20_000)].concat(),
        &b"a LOGIN {1000000+}\r\n".repeat(3),
        b"a AUTHENTICATE PLAIN\r\n\x80\x81\r\nb LOGIN \"\\\r\n",
        &b"\r\n".repeat(100),
        &b"a AUTHENTICATE PLAIN\r\n*\r\n".repeat(50),
    ];
    for bytes in junk {
        let mut client = greeted(&server).await;
        client.say(bytes).await;
        let _ = client.stream.shutdown().await;
        client.hear_end().await;
        beside.say("hello\r\n").await;
        beside.hear("hello\r\n").await;
    }
    drop(beside);
    nothing_is_left(&server).await;
    assert!(bad.has_not_been_called());
}

#[tokio::test]
async fn a_slow_drip_meets_the_deadline() {
    let (server, _bad) = world("login = \"1s\"\nbackend_login = \"900ms\"\nbackend_connect = \"900ms\"").await;
    let client = greeted(&server).await;
    let (mut read, mut write) = client.stream.into_split();
    // A NOOP now and then does not buy time.
    let drip = async {
        loop {
            if write.write_all(b"a NOOP\r\n").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let heard = async {
        let mut all = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut all).await;
        String::from_utf8_lossy(&all).into_owned()
    };
    tokio::select! {
        () = drip => {}
        heard = soon("the end", heard) => assert!(heard.ends_with("* BYE No login in time.\r\n"), "{heard}"),
    }
    server.until_metric("mailmux_sessions_closed_total{reason=\"login_timeout\",side=\"mailmux\"}", 1.0).await;
}

#[tokio::test]
async fn twenty_megabytes_each_way_and_a_stalled_neighbour() {
    const SIZE: usize = 20 << 20;
    let (server, _bad) = world("").await;
    let stalled = neighbour(&server).await;
    let (_unread, mut stuck) = stalled.stream.into_split();
    // Fills everything between the stalled client and its echo, and stays so.
    let flood = vec![b'x'; 1 << 20];
    while timeout(Duration::from_millis(300), stuck.write_all(&flood)).await.is_ok() {}
    let moving = neighbour(&server).await;
    let (mut read, mut write) = moving.stream.into_split();
    let sent: Vec<u8> = (0..=250).cycle().take(SIZE).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.expect("taken");
        write.shutdown().await.expect("taken");
    });
    let mut heard = Vec::with_capacity(SIZE);
    timeout(SOON * 3, tokio::io::AsyncReadExt::read_to_end(&mut read, &mut heard))
        .await
        .expect("in time")
        .expect("read");
    assert!(heard == expected, "the echo differs from what was sent");
    writer.await.expect("no panic");
}

#[tokio::test]
async fn an_idle_session_ends() {
    let (server, _bad) = world("relay_idle = \"500ms\"").await;
    let mut client = neighbour(&server).await;
    client.hear_end().await;
    server.until_metric("mailmux_sessions_closed_total{reason=\"idle_timeout\",side=\"mailmux\"}", 1.0).await;
}

#[tokio::test]
async fn a_client_that_sits_on_a_challenge_is_not_the_backends_fault() {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}[[route]]\nbackend = \"blue\"\n\
         [timeouts]\nrefusal_grid = \"10ms\"\nbackend_login = \"300ms\"\nbackend_connect = \"300ms\"\n",
        backend.section("blue")
    );
    let server = Running::start(Path::new("."), &config);
    let mut client = greeted(&server).await;
    client.say("a AUTHENTICATE XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgdG9rAQE=\r\n").await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] x\r\n").await;
    call.hear_command().await;
    call.say(b"+ e30=\r\n").await;
    client.hear("+ e30=\r\n").await;
    // Longer than a backend may take.
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.say("\r\n").await;
    call.hear(b"\r\n").await;
    call.say(format!("{} NO bad token\r\n", call.tag).as_bytes()).await;
    client.hear("a NO [AUTHENTICATIONFAILED] Authentication failed.\r\n").await;
    server.until_metric("mailmux_backend_up{backend=\"blue\"}", 1.0).await;
    server.until_metric("mailmux_backend_errors_total{backend=\"blue\",kind=\"timeout\"}", 0.0).await;

    // The backend's own time is bounded as before.
    client.say("b AUTHENTICATE XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgdG9rAQE=\r\n").await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] x\r\n").await;
    call.hear_command().await;
    call.say(b"+ e30=\r\n").await;
    client.hear("+ e30=\r\n").await;
    client.say("\r\n").await;
    client.hear(format!("b {UNAVAILABLE}")).await;
    server.until_metric("mailmux_backend_errors_total{backend=\"blue\",kind=\"timeout\"}", 1.0).await;
    client.say("c NOOP\r\n").await;
    client.hear("c OK Noop completed.\r\n").await;
}

#[tokio::test]
async fn a_backend_that_says_a_byte_now_and_then_meets_the_deadline() {
    let (server, bad) = world("backend_connect = \"400ms\"\nbackend_login = \"800ms\"").await;
    let mut client = greeted(&server).await;
    client.say("a LOGIN ann pass\r\n").await;
    let drip = async {
        loop {
            let mut call = bad.accept().await;
            for byte in b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] I take my time\r\n" {
                call.say(&[*byte]).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::select! {
        () = drip => {}
        answer = client.hear_line() => assert_eq!(answer, format!("a {UNAVAILABLE}")),
    }
}

#[tokio::test]
async fn ten_thousand_commands_at_once_are_answered_in_order() {
    let (server, _bad) = world("").await;
    let client = greeted(&server).await;
    let (mut read, mut write) = client.stream.into_split();
    let lines = |rest: &str| (0..10_000).map(|number| format!("{number} {rest}\r\n")).collect::<Vec<_>>().concat();
    let (all, expected) = (lines("NOOP"), lines("OK Noop completed."));
    let writing = tokio::spawn(async move {
        write.write_all(all.as_bytes()).await.expect("taken");
        write.shutdown().await.expect("an end");
    });
    let mut heard = String::new();
    soon("all answers", tokio::io::AsyncReadExt::read_to_string(&mut read, &mut heard)).await.expect("read");
    assert!(heard == expected, "answers are missing, doubled or out of order");
    writing.await.expect("no panic");
}

#[tokio::test]
async fn whoever_never_finishes_a_handshake_or_a_header_is_let_go() {
    let backend = Backend::listen().await;
    let folder = tempfile::tempdir().expect("a scratch folder");
    Authority::new().issue_server(folder.path(), "server", &["mail.example.org"]);
    let config = format!(
        "[[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"proxied\"\naddress = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.1\"]\n\
         [[tls.certificate]]\nchain = \"server.pem\"\nkey = \"server.key\"\n\
         {}[[route]]\nbackend = \"blue\"\n[timeouts]\ntls_handshake = \"300ms\"\nproxy_header = \"300ms\"\n",
        backend.section("blue")
    );
    let server = Running::start(folder.path(), &config);
    // The beginnings of a TLS hello, of a header in either version, nothing, and no TLS at all.
    for (listener, bytes) in [
        ("imaps", &b"\x16\x03\x01\x02\0"[..]),
        ("imaps", b""),
        ("imaps", b"a LOGIN ann pass\r\n"),
        ("proxied", b"PROXY TCP4 192.0"),
        ("proxied", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"),
        ("proxied", b""),
        ("proxied", b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 993\r\n\x16\x03\x01"),
    ] {
        let mut client = Client::connect(server.at(listener)).await;
        client.say(bytes).await;
        // At most an alert.
        let heard = client.hear_end().await;
        assert!(heard.len() <= 7, "{listener}: {heard:?}");
    }
    for (listener, series, times) in [
        ("imaps", "outcome=\"timeout\",version=\"none\"", 2.0),
        ("imaps", "outcome=\"failed\",version=\"none\"", 1.0),
        ("proxied", "outcome=\"timeout\",version=\"none\"", 1.0),
    ] {
        server.until_metric(&format!("mailmux_tls_handshakes_total{{listener=\"{listener}\",{series}}}"), times).await;
        server.until_metric(&format!("mailmux_sessions{{listener=\"{listener}\"}}"), 0.0).await;
    }
    server.until_metric("mailmux_proxy_protocol_headers_total{outcome=\"bad\"}", 3.0).await;
}

#[tokio::test]
async fn a_client_that_is_gone_before_its_login_is_answered() {
    let (server, bad) = world("").await;
    for reset in [false, true] {
        let mut client = greeted(&server).await;
        client.say("a LOGIN ann pass\r\n").await;
        let mut call = bad.accept().await;
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
        call.hear_command().await;
        call.say(format!("{} OK [CAPABILITY IMAP4rev1] in\r\n", call.tag).as_bytes()).await;
        call.hear_end().await;
        drop(call);
        nothing_is_left(&server).await;
    }
}

/// Memory and processor time of a process of its own, under everything that waits, nests, floods or stalls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_memory_nor_time_is_spent_on_those_who_wait() {
    const EACH: u32 = 40;
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let mut program =
        Program::start(folder.path(), &backend, "[limits]\nsessions_per_user = 0\nlogins_per_user = \"off\"").await;
    // Nobody would read all that is said there.
    program.close_log();
    let (memory, descriptors) =
        (program.metric("process_resident_memory_bytes").await, program.metric("process_open_fds").await);

    let mut held = Vec::new();
    let opening: [&[u8]; 4] = [
        &[&b"a NOOP "[..], &b"(".repeat(8000)].concat(),
        &[&b"a AUTHENTICATE PLAIN\r\n"[..], &b"A".repeat(60_000)].concat(),
        b"a LOGIN {8000}\r\n",
        &b"a CAPABILITY\r\n".repeat(20_000),
    ];
    for bytes in opening {
        for _ in 0..EACH {
            let mut client = Client::connect(program.address).await;
            client.hear(GREETING).await;
            // Who is not read from cannot write all of it.
            let _ = timeout(Duration::from_millis(20), client.stream.write_all(bytes)).await;
            held.push((client, None));
        }
    }
    // Logged in: idle, half closed, and flooded by the backend without reading.
    let flood = vec![b'x'; 1 << 20];
    for index in 0..EACH {
        let mut client = Client::connect(program.address).await;
        client.hear(GREETING).await;
        client.say("a LOGIN ann pass\r\n").await;
        let (mut call, _) = backend.let_in().await;
        client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
        match index % 3 {
            0 => {}
            1 => client.stream.shutdown().await.expect("an end"),
            _ => while timeout(Duration::from_millis(20), call.tcp.write_all(&flood)).await.is_ok() {},
        }
        held.push((client, Some(call)));
    }
    program.until_metric("mailmux_sessions{listener=\"plain\"}", 5.0 * f64::from(EACH)).await;

    let grown = program.metric("process_resident_memory_bytes").await - memory;
    assert!(
        grown < 5.0 * f64::from(EACH) * 64.0 * 1024.0,
        "{} KiB for each session",
        grown / 1024.0 / (5.0 * f64::from(EACH))
    );
    let before = program.metric("process_cpu_seconds_total").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = program.metric("process_cpu_seconds_total").await - before;
    assert!(spent <= 1.0, "{spent} s of processor time while nothing happened");

    drop(held);
    program.until_metric("mailmux_sessions{listener=\"plain\"}", 0.0).await;
    // Not more: the question before may have had one still when they were counted first.
    soon("all descriptors to be closed", async {
        while program.metric("process_open_fds").await > descriptors {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
