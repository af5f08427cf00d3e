//! Whatever a client or a backend sends, other sessions do not notice, and nothing is left behind.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::backend::Backend;
use crate::support::client::{Client, GREETING};
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
    for gone in ["mailmux_sessions{listener=\"plain\"}", "mailmux_backend_links{backend=\"bad\",state=\"active\"}"] {
        server.until_metric(gone, 0.0).await;
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

#[tokio::test]
async fn a_backend_that_closes_at_any_byte() {
    const TALK: &[u8] = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n";
    let (server, bad) = world("backend_connect = \"2s\"\nbackend_login = \"2s\"").await;
    let lengths: Vec<_> = (0..TALK.len()).step_by(7).chain([TALK.len()]).collect();
    for length in lengths {
        let mut client = greeted(&server).await;
        client.say("a LOGIN ann pass\r\n").await;
        let hang_up = async {
            loop {
                let mut call = bad.accept().await;
                call.say(&TALK[..length]).await;
                if length == TALK.len() {
                    call.hear_command().await;
                }
            }
        };
        tokio::select! {
            () = hang_up => {}
            answer = client.hear_line() => assert_eq!(answer, format!("a {UNAVAILABLE}"), "after {length} bytes"),
        }
    }
    nothing_is_left(&server).await;
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
