//! The program as it is started: arguments, signals, log.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::support::backend::Backend;
use crate::support::client::{Client, GREETING};
use crate::support::program::{Program, free_port, mailmux, run};
use crate::support::server::get;
use crate::support::{SOON, show, soon};

#[tokio::test]
async fn sigterm_drains_and_a_second_one_ends_at_once() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let mut program = Program::start(folder.path(), &backend, "").await;
    let mut inside = Client::connect(program.address).await;
    inside.hear(GREETING).await;
    inside.say("a LOGIN ann pass\r\n").await;
    let (mut call, _) = backend.let_in().await;
    inside.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    let mut outside = Client::connect(program.address).await;
    outside.hear(GREETING).await;

    program.signal("-TERM");
    outside.hear("* BYE Server is shutting down.\r\n").await;
    inside.say("b NOOP\r\n").await;
    call.hear(b"b NOOP\r\n").await;
    // Sessions and listeners hear of it in no particular order.
    soon("no new connections to be taken", async {
        while TcpStream::connect(program.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    program.signal("-TERM");
    inside.hear("* BYE Server is shutting down.\r\n").await;
    inside.hear_end().await;
    let log = program.ended().await;
    assert!(log.contains("reason=stopping") && log.contains("mailmux has stopped"), "{log}");
}

#[tokio::test]
async fn no_line_of_the_log_can_be_forged_and_no_secret_is_in_it() {
    for log in ["level = \"trace\"", "level = \"trace\"\nformat = \"json\""] {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let backend = Backend::listen().await;
        let mut program = Program::start(folder.path(), &backend, log).await;
        let mut client = Client::connect(program.address).await;
        client.hear(GREETING).await;
        client.say("a LOGIN \"x\x1b[31m\\\" user=root reason=ok\" hunter2-wrong\r\n").await;
        let mut call = backend.accept().await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
        call.hear_command().await;
        call.say(format!("{} NO hunter2-wrong is wrong\r\n", call.tag).as_bytes()).await;
        client.hear("a NO [AUTHENTICATIONFAILED] Authentication failed.\r\n").await;
        client.say("b LOGIN ann hunter2-right\r\n").await;
        let call = backend.let_in().await;
        client.hear("b OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
        drop((client, call));
        let refused = program.lines.len();
        program.line_with("session closed").await;
        program.signal("-TERM");
        let mut all = program.lines.concat();
        all.push_str(&program.ended().await);
        assert_eq!(all.matches("login refused").count(), 1, "{all}");
        assert_eq!(all.matches("session closed").count(), 1, "{all}");
        assert!(refused > 0 && !all.contains('\x1b'), "{all}");
        // In JSON the backslashes of the escapes are escaped once more.
        assert!(all.contains("x\\x1b[31m") || all.contains("x\\\\x1b[31m"), "{all}");
        for secret in ["hunter2", "AGFubgBodW50ZXIy", "aHVudGVyMi"] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
    }
}

#[tokio::test]
async fn check_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("mailmux.toml");
    let good =
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n[[route]]\nreject = \"no\"\n";
    fs::write(&path, good).expect("written");
    let path = path.to_str().expect("UTF-8");
    assert_eq!(run(&["check", "--config", path]).await, (Some(0), format!("{path}: ok\n"), String::new()));

    let bad = "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n[[tls.certificate]]\nchain = \"no.pem\"\nkey = \"no.key\"\n\
               [[lookup]]\nname = \"users\"\ntype = \"file\"\npath = \"users.map\"\n[[route]]\nlookup = \"users\"\n";
    fs::write(path, bad).expect("written");
    fs::write(folder.path().join("users.map"), "ann\tnowhere\n").expect("written");
    let (code, _, shown) = run(&["check", "--config", path]).await;
    assert_eq!(code, Some(1));
    for words in [
        "mailmux.toml:5:9: tls.certificate[0].chain:",
        "no.pem",
        "mailmux.toml:10:8: lookup[0].path:",
        "users.map:1: no such backend",
    ] {
        assert!(shown.contains(words), "{words} is missing in:\n{shown}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("mailmux.toml");
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"{address}\"\ntls = \"none\"\n[[route]]\nreject = \"no\"\n"
    );
    fs::write(&path, config).expect("written");
    let (code, _, shown) = run(&["serve", "--config", path.to_str().expect("UTF-8")]).await;
    assert_eq!(code, Some(1));
    assert!(shown.contains("mailmux.toml:3:11: listener[0].address: cannot listen on"), "{shown}");
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_told_so() {
    for (arguments, words) in [
        (&["serve", "--backend", "nowhere"][..], "nowhere"),
        (&["serve", "--backend", "a:1", "--config", "b"], "cannot be used with"),
        (&["check", "--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (&["fly"], "unrecognized subcommand"),
    ] {
        let (code, _, shown) = run(arguments).await;
        assert!(code.is_some_and(|code| code > 0) && shown.contains(words), "{}", show(shown.as_bytes()));
    }
}

#[tokio::test]
async fn it_serves_on_when_its_log_goes_nowhere() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let mut program = Program::start(folder.path(), &backend, "level = \"trace\"").await;
    program.close_log();
    for _ in 0..3 {
        let mut client = Client::connect(program.address).await;
        client.hear(GREETING).await;
        // A refusal is logged in the middle of a session.
        client.say("a LOGIN ann wrong\r\n").await;
        let mut call = backend.accept().await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
        call.hear_command().await;
        call.say(format!("{} NO wrong\r\n", call.tag).as_bytes()).await;
        client.hear("a NO [AUTHENTICATIONFAILED] Authentication failed.\r\n").await;
        client.say("b LOGIN ann pass\r\n").await;
        let (mut call, _) = backend.let_in().await;
        client.hear("b OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
        client.say("c NOOP\r\n").await;
        call.hear(b"c NOOP\r\n").await;
        drop(client);
        call.hear_end().await;
    }
    program.until_metric("mailmux_sessions_closed_total{reason=\"closed\",side=\"client\"}", 3.0).await;
}

#[tokio::test]
async fn it_serves_on_when_nobody_reads_its_log() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let mut program = Program::start(folder.path(), &backend, "level = \"trace\"").await;
    assert!(program.metric("mailmux_log_lines_dropped_total").await.abs() < f64::EPSILON);
    let address = program.address;
    // The pipe fills, then the queue: each connection is a line, and some thousands are needed, which takes a while where
    // other tests run beside this one.
    let callers: Vec<_> =
        (0..16).map(|_| tokio::spawn(async move { while TcpStream::connect(address).await.is_ok() {} })).collect();
    let lost = async {
        while program.metric("mailmux_log_lines_dropped_total").await < 1.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON * 6, lost).await.expect("lines to be lost");
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    backend.session(address).await;
    // What could be kept is there to be read, and it ends although nobody has read it yet.
    program.signal("-TERM");
    program.signal("-TERM");
    let log = program.ended().await;
    assert!(log.lines().count() > 1000, "{}", log.lines().count());
}

#[tokio::test]
async fn it_serves_on_when_the_disk_under_its_log_is_full() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let (address, admin) = (free_port(), free_port());
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"{address}\"\ntls = \"none\"\n{}[[route]]\nbackend = \"blue\"\n\
         [admin]\naddress = \"{admin}\"\n",
        backend.section("blue")
    );
    fs::write(folder.path().join("mailmux.toml"), config).expect("written");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    let mut command = mailmux();
    command.args(["serve", "--config"]).arg(folder.path().join("mailmux.toml")).stderr(Stdio::from(full));
    let mut child = command.spawn().expect("started");
    soon("it to listen", async {
        while TcpStream::connect(address).await.is_err() || TcpStream::connect(admin).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    backend.session(address).await;
    soon("the lines that were lost", async {
        loop {
            let (_, text) = get(admin, "/metrics", "").await;
            let lost = text.lines().find_map(|line| line.strip_prefix("mailmux_log_lines_dropped_total "));
            if lost.and_then(|lost| lost.parse::<u64>().ok()).expect("a number") > 2 {
                break;
            }
        }
    })
    .await;
    assert!(child.try_wait().expect("a status").is_none());
    child.kill().await.expect("killed");
}
