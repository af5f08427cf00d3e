//! Limits: each is reached, says so, and gives its places back.

use std::path::Path;

use crate::support::backend::Backend;
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::show;

const REFUSED: &str = " NO [AUTHENTICATIONFAILED] Authentication failed.\r\n";

async fn world(limits: &str) -> (Running, Backend) {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         {}[[route]]\ndomain = \"example.org\"\nbackend = \"blue\"\n[limits]\nexempt = []\n{limits}\n",
        backend.section("blue")
    );
    (Running::start(Path::new("."), &config), backend)
}

async fn greeted(server: &Running) -> Client<tokio::net::TcpStream> {
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client
}

#[tokio::test]
async fn sessions_in_all() {
    let (server, _backend) = world("sessions = 2").await;
    let (first, _second) = (greeted(&server).await, greeted(&server).await);
    let mut third = Client::connect(server.at("plain")).await;
    assert_eq!(show(&third.hear_end().await), "", "closed without a word: it must cost nothing");
    server.until_metric("mailmux_limited_total{limit=\"sessions\"}", 1.0).await;
    drop(first);
    server.until_metric("mailmux_sessions{listener=\"plain\"}", 1.0).await;
    greeted(&server).await;
}

#[tokio::test]
async fn sessions_of_a_network() {
    let (server, _backend) = world("sessions_per_network = 1").await;
    let first = greeted(&server).await;
    let mut second = Client::connect(server.at("plain")).await;
    second.hear("* BYE [LIMIT] Too many connections.\r\n").await;
    assert_eq!(show(&second.hear_end().await), "");
    drop(first);
    server.until_metric("mailmux_sessions{listener=\"plain\"}", 0.0).await;
    greeted(&server).await;
}

#[tokio::test]
async fn new_connections_of_a_network() {
    let (server, _backend) = world("connects_per_network = { rate = \"1/h\", burst = 2 }").await;
    greeted(&server).await;
    greeted(&server).await;
    let mut third = Client::connect(server.at("plain")).await;
    third.hear("* BYE [LIMIT] Too many connections.\r\n").await;
    server.until_metric("mailmux_limited_total{limit=\"connects_per_network\"}", 1.0).await;
}

#[tokio::test]
async fn sessions_of_a_user() {
    let (server, backend) = world("sessions_per_user = 1").await;
    let mut first = greeted(&server).await;
    first.say("a LOGIN ann@example.org pass\r\n").await;
    let call = backend.let_in().await;
    first.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    let mut second = greeted(&server).await;
    second.say("a LOGIN Ann@example.org pass\r\n").await;
    let _refused = backend.let_in().await;
    second.hear("a NO [LIMIT] Too many sessions of this user.\r\n").await;
    second.say("b LOGIN bob@example.org pass\r\n").await;
    let _other = backend.let_in().await;
    second.hear("b OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    drop((first, call));
    server.until_metric("mailmux_sessions{listener=\"plain\"}", 1.0).await;
    let mut third = greeted(&server).await;
    third.say("a LOGIN ann@example.org pass\r\n").await;
    let _again = backend.let_in().await;
    third.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
}

#[tokio::test]
async fn attempts_of_a_user() {
    let (server, _backend) = world("logins_per_user = { rate = \"1/h\", burst = 2 }").await;
    let mut client = greeted(&server).await;
    for (tag, answer) in [("a", REFUSED), ("b", REFUSED), ("c", " NO [LIMIT] Too many logins, try again later.\r\n")] {
        client.say(format!("{tag} LOGIN nobody wrong\r\n")).await;
        client.hear(format!("{tag}{answer}")).await;
    }
    client.say("d LOGIN somebody wrong\r\n").await;
    client.hear(format!("d{REFUSED}")).await;
    server.until_metric("mailmux_logins_total{mechanism=\"LOGIN-COMMAND\",outcome=\"limited\"}", 1.0).await;
}

#[tokio::test]
async fn failures_are_counted_by_distinct_secrets() {
    let limits = "failures_per_network = { rate = \"1/h\", burst = 3 }\nlogins_per_user = \"off\"";
    let (server, _backend) = world(limits).await;
    let mut client = greeted(&server).await;
    for _ in 0..6 {
        client.say("a LOGIN nobody old\r\n").await;
        client.hear(format!("a{REFUSED}")).await;
    }
    for secret in ["guess1", "guess2"] {
        client.say(format!("b LOGIN nobody {secret}\r\n")).await;
        client.hear(format!("b{REFUSED}")).await;
    }
    client.say("c LOGIN other guess3\r\n").await;
    client.hear("c NO [LIMIT] Too many failed logins, try again later.\r\n").await;
    server.until_metric("mailmux_limited_total{limit=\"failures_per_network\"}", 1.0).await;
}

#[tokio::test]
async fn plain_text_off_loopback() {
    // The kernel routes the machine's own addresses over loopback; the client's address is what counts.
    let config = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
                  proxy_protocol_from = [\"127.0.0.0/8\"]\n[[route]]\nreject = \"no\"\n";
    let server = Running::start(Path::new("."), config);
    let mut client = Client::connect(server.at("plain")).await;
    client.say("PROXY TCP4 192.0.2.1 192.0.2.2 4711 143\r\n").await;
    client.hear("* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE LOGINDISABLED] mailmux ready\r\n").await;
    client.say("a LOGIN {3}\r\n").await;
    client.hear("a NO [PRIVACYREQUIRED] Plaintext authentication is not allowed without TLS.\r\n").await;
}
