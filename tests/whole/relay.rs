//! What moves after login: all of it, unchanged, in both directions, and nothing is held for those who wait.

use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::backend::{Backend, Call};
use crate::support::certs::Authority;
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::{SOON, hear_end, show};

async fn world() -> (Running, Client<tokio::net::TcpStream>, Call) {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}[[route]]\nbackend = \"blue\"\n",
        backend.section("blue")
    );
    let server = Running::start(Path::new("."), &config);
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say("a LOGIN ann pass\r\n").await;
    let (call, _) = backend.let_in().await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    (server, client, call)
}

/// The `index`th 64 KiB of something that never repeats itself.
fn block(index: u32) -> Vec<u8> {
    let mut state = index.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..64 * 1024).map(next).collect()
}

async fn send(mut stream: impl tokio::io::AsyncWrite + Unpin, blocks: u32) -> Vec<u8> {
    let mut sum = Context::new(&SHA256);
    for index in 0..blocks {
        let block = block(index);
        sum.update(&block);
        stream.write_all(&block).await.expect("taken");
    }
    stream.shutdown().await.expect("an end");
    sum.finish().as_ref().to_vec()
}

async fn receive(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut sum = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await.expect("bytes") {
            0 => return sum.finish().as_ref().to_vec(),
            n => sum.update(&buffer[..n]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_megabytes_each_way_at_once_under_tls_on_both_sides() {
    const BLOCKS: u32 = 512;
    let folder = tempfile::tempdir().expect("a scratch folder");
    let authority = Authority::new();
    authority.write(folder.path());
    authority.issue_server(folder.path(), "server", &["mail.example.org", "backend.example.org"]);
    let backend = Backend::listen().await;
    let tls = "tls = \"implicit\"\nca = \"ca.pem\"\ntls_name = \"backend.example.org\"";
    let config = format!(
        "[[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:0\"\n{}[[route]]\nbackend = \"blue\"\n\
         [[tls.certificate]]\nchain = \"server.pem\"\nkey = \"server.key\"\n",
        backend.section("blue").replace("tls = \"none\"", tls)
    );
    let server = Running::start(folder.path(), &config);
    let client = Client::connect(server.at("imaps")).await;
    let mut client = client.secure(authority.client(&["imap"], None), "mail.example.org").await.expect("secured");
    client.hear(GREETING).await;
    client.say("a LOGIN ann pass\r\n").await;
    let tcp = backend.accept().await.tcp;
    let mut call = Client { stream: authority.accept(folder.path(), "server", tcp).await };
    call.say("* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
    let command = call.hear_line().await;
    let (tag, _) = command.split_once(' ').expect("a tag");
    call.say(format!("{tag} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n")).await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;

    let (client_reads, client_writes) = tokio::io::split(client.stream);
    let (backend_reads, backend_writes) = tokio::io::split(call.stream);
    let all = async {
        tokio::join!(
            tokio::spawn(send(client_writes, BLOCKS)),
            tokio::spawn(send(backend_writes, BLOCKS)),
            tokio::spawn(receive(backend_reads)),
            tokio::spawn(receive(client_reads)),
        )
    };
    let (to_backend, to_client, at_backend, at_client) = timeout(SOON * 3, all).await.expect("in time");
    assert_eq!(at_backend.expect("no panic"), to_backend.expect("no panic"));
    assert_eq!(at_client.expect("no panic"), to_client.expect("no panic"));
    let bytes = f64::from(BLOCKS) * 65536.0;
    server.until_metric("mailmux_relay_bytes_total{backend=\"blue\",direction=\"to_backend\"}", bytes).await;
    server.until_metric("mailmux_relay_bytes_total{backend=\"blue\",direction=\"to_client\"}", bytes).await;
}

#[tokio::test]
async fn what_a_backend_said_before_it_closed_reaches_a_client_that_reads_slowly() {
    const BLOCKS: u32 = 128;
    let (server, mut client, call) = world().await;
    let sent = tokio::spawn(send(call.tcp, BLOCKS));
    let mut heard = Vec::new();
    while heard.len() < 1 << 20 {
        heard.push(client.stream.read_u8().await.expect("a byte"));
    }
    heard.extend(hear_end(&mut client.stream, "the client").await);
    assert_eq!(heard.len(), 128 * 64 * 1024);
    assert_eq!(digest(&SHA256, &heard).as_ref(), sent.await.expect("no panic"));
    drop(client);
    server.until_metric("mailmux_sessions_closed_total{reason=\"closed\",side=\"backend\"}", 1.0).await;
}

#[tokio::test]
async fn a_client_may_go_on_speaking_to_a_backend_that_has_said_all() {
    let (_server, mut client, mut call) = world().await;
    call.tcp.shutdown().await.expect("an end");
    assert_eq!(show(&client.hear_end().await), "");
    client.say("b IDLE\r\n").await;
    call.hear(b"b IDLE\r\n").await;
    client.say("DONE\r\n").await;
    call.hear(b"DONE\r\n").await;
    drop(client);
    assert_eq!(show(&call.hear_end().await), "");
}

#[tokio::test]
async fn a_reset_of_one_side_ends_the_other_at_once() {
    let (server, mut client, call) = world().await;
    call.reset();
    assert_eq!(show(&client.hear_end().await), "");
    drop(client);
    server.until_metric("mailmux_sessions_closed_total{reason=\"reset\",side=\"backend\"}", 1.0).await;

    let (server, client, mut call) = world().await;
    client.reset();
    assert_eq!(show(&call.hear_end().await), "");
    drop(call);
    server.until_metric("mailmux_sessions_closed_total{reason=\"reset\",side=\"client\"}", 1.0).await;
}
