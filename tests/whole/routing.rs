//! Who is sent where, as far as more than one backend is needed to show it; single rules are played in the transcripts.

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::show;

const REFUSED: &str = "NO [AUTHENTICATIONFAILED] Authentication failed.\r\n";

/// Two backends, `blue` and `green`, two listeners, `plain` and `other`, and a map with these lines.
async fn world(routes: &str, map: &str) -> (Running, Backend, Backend) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(folder.path().join("users.map"), map).expect("written");
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         [[listener]]\nname = \"other\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         [[lookup]]\nname = \"users\"\ntype = \"file\"\npath = \"users.map\"\n{}{}{routes}",
        blue.section("blue"),
        green.section("green")
    );
    (Running::start(folder.path(), &config), blue, green)
}

/// Logs in from a new client; what the backend hears, where it is this one that is called.
async fn sent(server: &Running, listener: &str, user: &str, backend: &Backend) -> String {
    let mut client = Client::connect(server.at(listener)).await;
    client.hear(GREETING).await;
    client.say(format!("a LOGIN \"{user}\" pass\r\n")).await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1] friendly\r\n").await;
    let command = call.hear_command().await;
    call.say(format!("{} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n", call.tag).as_bytes()).await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    command
}

#[tokio::test]
async fn by_map() {
    let map = "# who lives where\nann@example.org\tblue\nbob@example.org\tgreen user=robert\n@example.net\tgreen\n\
               old name\tblue\n";
    let (server, blue, green) = world("[[route]]\nlookup = \"users\"\n", map).await;
    assert_eq!(sent(&server, "plain", "ANN@example.org", &blue).await, "LOGIN \"ANN@example.org\" \"pass\"");
    assert_eq!(sent(&server, "plain", "bob@example.org", &green).await, "LOGIN \"robert\" \"pass\"");
    assert_eq!(sent(&server, "plain", "who@example.net", &green).await, "LOGIN \"who@example.net\" \"pass\"");
    assert_eq!(sent(&server, "plain", "Old Name", &blue).await, "LOGIN \"Old Name\" \"pass\"");
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say("a LOGIN nobody@example.org pass\r\n").await;
    client.hear(format!("a {REFUSED}")).await;
    server.until_metric("mailmux_lookup_seconds_count{lookup=\"users\",outcome=\"found\"}", 4.0).await;
    server.until_metric("mailmux_lookup_seconds_count{lookup=\"users\",outcome=\"unknown\"}", 1.0).await;
    server.until_metric("mailmux_logins_total{mechanism=\"LOGIN-COMMAND\",outcome=\"no_route\"}", 1.0).await;
}

#[tokio::test]
async fn by_map_first_and_rules_behind_it() {
    let routes = "[[route]]\nlookup = \"users\"\n[[route]]\nlistener = \"other\"\nbackend = \"green\"\n\
                  [[route]]\ndomain = \"example.*\"\nbackend = \"blue\"\n";
    let (server, blue, green) = world(routes, "ann\tblue\n").await;
    sent(&server, "other", "ann", &blue).await;
    sent(&server, "other", "bob@example.org", &green).await;
    sent(&server, "plain", "bob@example.org", &blue).await;
}

#[tokio::test]
async fn by_the_name_the_client_asked_for() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let authority = Authority::new();
    authority.issue_server(folder.path(), "both", &["blue.example.org", "green.example.org"]);
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let config = format!(
        "[[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:0\"\n\
         [[tls.certificate]]\nchain = \"both.pem\"\nkey = \"both.key\"\n{}{}\
         [[route]]\nserver_name = \"green.*\"\nbackend = \"green\"\n[[route]]\nbackend = \"blue\"\n",
        blue.section("blue"),
        green.section("green")
    );
    let server = Running::start(folder.path(), &config);
    for (name, backend) in [("blue.example.org", &blue), ("GREEN.example.org", &green)] {
        let client = Client::connect(server.at("imaps")).await;
        let mut client = client.secure(authority.client(&[], None), name).await.expect("secured");
        client.hear(GREETING).await;
        client.say("a LOGIN ann pass\r\n").await;
        let _call = backend.let_in().await;
        client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    }
}

#[tokio::test]
async fn a_referral_to_a_backend_of_ours_is_followed() {
    let (server, blue, green) = world("[[route]]\nbackend = \"blue\"\n", "").await;
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say("a LOGIN ann pass\r\n").await;
    let mut call = blue.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
    call.hear_command().await;
    let referral = format!("{} NO [REFERRAL imap://ann@{}/] moved\r\n", call.tag, green.address);
    call.say(referral.as_bytes()).await;
    let (_call, command) = green.let_in().await;
    assert_eq!(command, "AUTHENTICATE PLAIN AGFubgBwYXNz");
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
}

#[tokio::test]
async fn backends_that_send_each_other_round_are_a_loop() {
    let (server, blue, green) = world("[[route]]\nbackend = \"blue\"\n", "").await;
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say("a LOGIN ann pass\r\n").await;
    for (here, there) in [(&blue, &green), (&green, &blue), (&blue, &green), (&green, &blue)] {
        let mut call = here.accept().await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
        call.hear_command().await;
        call.say(format!("{} NO [REFERRAL imap://{}/] there\r\n", call.tag, there.address).as_bytes()).await;
        assert_eq!(show(&call.hear_end().await), "");
    }
    client.hear("a NO [SERVERBUG] Account is temporarily unavailable.\r\n").await;
}

#[tokio::test]
async fn a_refusal_takes_its_time_whether_or_not_there_is_such_a_user() {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}\
         [[route]]\nuser = \"ann\"\nbackend = \"blue\"\n[timeouts]\nrefusal_grid = \"200ms\"\n",
        backend.section("blue")
    );
    let server = Running::start(std::path::Path::new("."), &config);
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    let mut took = Vec::new();
    for user in ["nobody", "ann", "nobody"] {
        let began = tokio::time::Instant::now();
        client.say(format!("a LOGIN {user} wrong\r\n")).await;
        if user == "ann" {
            let mut call = backend.accept().await;
            call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
            call.hear_command().await;
            // A backend that takes its time over wrong passwords, as most do.
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            call.say(format!("{} NO wrong\r\n", call.tag).as_bytes()).await;
        }
        client.hear(format!("a {REFUSED}")).await;
        took.push(began.elapsed().as_millis());
    }
    assert!(took[0] >= 200 && took[1] >= 400 && took[2] >= 400, "{took:?}");
}
