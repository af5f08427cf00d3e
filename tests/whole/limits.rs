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
    for series in ["mailmux_limit_holds_total", "mailmux_limit_held", "mailmux_limit_keys"] {
        server.until_metric(&format!("{series}{{limit=\"failures_per_network\"}}"), 1.0).await;
    }
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

/// A server behind a balancer, which says from where each client comes.
async fn behind_a_balancer(limits: &str) -> (Running, Backend) {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nallow_plaintext = true\n\
         proxy_protocol_from = [\"127.0.0.0/8\"]\n{}[[route]]\nbackend = \"blue\"\n[limits]\n\
         logins_per_user = \"off\"\n{limits}\n",
        backend.section("blue")
    );
    (Running::start(Path::new("."), &config), backend)
}

async fn come(server: &Running, from: &str) -> Client<tokio::net::TcpStream> {
    let mut client = Client::connect(server.at("plain")).await;
    let (family, to) = if from.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "192.0.2.1") };
    client.say(format!("PROXY {family} {from} {to} 4711 143\r\n")).await;
    client
}

async fn greeted_from(server: &Running, from: &str) -> Client<tokio::net::TcpStream> {
    let mut client = come(server, from).await;
    client.hear(GREETING).await;
    client
}

/// Tries this password, which is wrong unless it is `right`.
async fn attempt(client: &mut Client<tokio::net::TcpStream>, backend: &Backend, user: &str, password: &str) {
    client.say(format!("a LOGIN {user} {password}\r\n")).await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
    call.hear_command().await;
    if password == "right" {
        call.say(format!("{} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n", call.tag).as_bytes()).await;
        client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    } else {
        call.say(format!("{} NO\r\n", call.tag).as_bytes()).await;
        client.hear(format!("a{REFUSED}")).await;
    }
}

const TOO_MANY: &str = "a NO [LIMIT] Too many failed logins, try again later.\r\n";

#[tokio::test]
async fn an_ipv6_network_is_a_64() {
    let (server, _backend) = behind_a_balancer("sessions_per_network = 1\nexempt = []").await;
    let first = greeted_from(&server, "2001:db8:0:1::1").await;
    come(&server, "2001:db8:0:1:ffff::2").await.hear("* BYE [LIMIT] Too many connections.\r\n").await;
    let _other = greeted_from(&server, "2001:db8:0:2::1").await;
    // An IPv4 client is one however its address is written.
    let _v4 = greeted_from(&server, "192.0.2.7").await;
    come(&server, "::ffff:192.0.2.7").await.hear("* BYE [LIMIT] Too many connections.\r\n").await;
    drop(first);
    server.until_metric("mailmux_sessions{listener=\"plain\"}", 2.0).await;
    let _again = greeted_from(&server, "2001:db8:0:1::3").await;
}

#[tokio::test]
async fn exempt_networks_are_counted_in_all_only() {
    let (server, backend) = behind_a_balancer(
        "sessions = 4\nsessions_per_network = 1\nconnects_per_network = { rate = \"1/h\", burst = 1 }\n\
         failures_per_network = { rate = \"1/h\", burst = 1 }\nfailures_per_user = { rate = \"1/h\", burst = 1 }\n\
         exempt = [\"203.0.113.0/24\", \"2001:db8::/32\"]",
    )
    .await;
    let mut inside = greeted_from(&server, "203.0.113.9").await;
    let _second = greeted_from(&server, "203.0.113.9").await;
    let _third = greeted_from(&server, "2001:db8::5").await;
    for guess in ["one", "two", "three"] {
        attempt(&mut inside, &backend, "ann", guess).await;
    }
    let _fourth = greeted_from(&server, "203.0.113.200").await;
    assert_eq!(show(&come(&server, "203.0.113.9").await.hear_end().await), "", "the bound on all holds for all");
}

#[tokio::test]
async fn whoever_guesses_a_users_password_does_not_lock_the_user_out() {
    let (server, backend) = behind_a_balancer("failures_per_user = { rate = \"1/h\", burst = 2 }\nexempt = []").await;
    let mut home = greeted_from(&server, "203.0.113.9").await;
    attempt(&mut home, &backend, "ann", "right").await;

    let mut stranger = greeted_from(&server, "198.51.100.1").await;
    for guess in ["one", "two"] {
        attempt(&mut stranger, &backend, "Ann", guess).await;
    }
    stranger.say("a LOGIN ann three\r\n").await;
    stranger.hear(TOO_MANY).await;
    // Nor from elsewhere, nor with the right password: guessing it would be all there is to do.
    let mut another = greeted_from(&server, "198.51.100.77").await;
    another.say("a LOGIN ann right\r\n").await;
    another.hear(TOO_MANY).await;
    server.until_metric("mailmux_limited_total{limit=\"failures_per_user\"}", 2.0).await;

    let mut home = greeted_from(&server, "203.0.113.9").await;
    attempt(&mut home, &backend, "ann", "mistyped").await;
    attempt(&mut home, &backend, "ann", "right").await;
}

#[tokio::test]
async fn a_network_that_logs_in_is_forgiven() {
    let (server, backend) =
        behind_a_balancer("failures_per_network = { rate = \"1/h\", burst = 2 }\nexempt = []").await;
    let mut client = greeted_from(&server, "203.0.113.9").await;
    attempt(&mut client, &backend, "ann", "one").await;
    attempt(&mut client, &backend, "ann", "right").await;
    let mut client = greeted_from(&server, "203.0.113.9").await;
    for guess in ["three", "four"] {
        attempt(&mut client, &backend, "bob", guess).await;
    }
    client.say("a LOGIN bob five\r\n").await;
    client.hear(TOO_MANY).await;
    // Others are not concerned, and neither is who is known there.
    let mut other = greeted_from(&server, "203.0.113.10").await;
    attempt(&mut other, &backend, "bob", "six").await;
    attempt(&mut client, &backend, "ann", "right").await;
}

#[tokio::test]
async fn behind_webmail_its_clients_count_and_not_itself() {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nid_from = [\"127.0.0.0/8\"]\n\
         {}[[route]]\nbackend = \"blue\"\n[limits]\nlogins_per_user = \"off\"\nexempt = []\n\
         failures_per_network = {{ rate = \"1/h\", burst = 1 }}\n",
        backend.section("blue")
    );
    let server = Running::start(Path::new("."), &config);
    let mut webmail = greeted(&server).await;
    // One connection, and one address after the other.
    for from in ["203.0.113.1", "203.0.113.2", "203.0.113.3"] {
        webmail.say(format!("i ID (\"x-originating-ip\" \"{from}\")\r\n")).await;
        webmail.hear("* ID (\"name\" \"mailmux\")\r\ni OK ID completed.\r\n").await;
        attempt(&mut webmail, &backend, "ann", &format!("guess-from-{from}")).await;
    }
    webmail.say("a LOGIN ann another\r\n").await;
    webmail.hear(TOO_MANY).await;
}

#[tokio::test]
async fn over_ipv6() {
    // Not every machine has it.
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let config = "[[listener]]\nname = \"six\"\naddress = \"[::1]:0\"\ntls = \"none\"\n\
                  [[listener]]\nname = \"both\"\naddress = \"[::]:0\"\ntls = \"none\"\n[[route]]\nreject = \"No.\"\n\
                  [limits]\nsessions_per_network = 1\nexempt = []\n";
    let server = Running::start(Path::new("."), config);
    let mut six = Client::connect(server.at("six")).await;
    six.hear(GREETING).await;
    let both = server.at("both").port();
    Client::connect(([0, 0, 0, 0, 0, 0, 0, 1], both).into())
        .await
        .hear("* BYE [LIMIT] Too many connections.\r\n")
        .await;
    // On loopback by IPv4 too, so that a login in clear is offered.
    let mut four = Client::connect(([127, 0, 0, 1], both).into()).await;
    four.hear(GREETING).await;
    four.say("a LOGIN ann pass\r\n").await;
    four.hear("a NO No.\r\n").await;
}
