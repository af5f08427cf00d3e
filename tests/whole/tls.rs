//! TLS with clients: certificates, ALPN, STARTTLS, client certificates.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio_rustls::rustls;

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::client::{Client, GREETING, GREETING_BEFORE_TLS};
use crate::support::server::Running;
use crate::support::show;

struct World {
    server: Running,
    backend: Backend,
    authority: Authority,
    _folder: TempDir,
}

async fn world(tls: &str, routes: &str) -> World {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let authority = Authority::new();
    authority.write(folder.path());
    authority.issue_server(folder.path(), "default", &["mail.example.org"]);
    authority.issue_server(folder.path(), "other", &["other.example.net", "*.wild.example.net"]);
    std::fs::write(folder.path().join("master"), "master-secret\n").expect("written");
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n\
         [[listener]]\nname = \"imap\"\naddress = \"127.0.0.1:0\"\ntls = \"starttls\"\n\
         [tls]\n{tls}\n\
         [[tls.certificate]]\nchain = \"default.pem\"\nkey = \"default.key\"\n\
         [[tls.certificate]]\nchain = \"other.pem\"\nkey = \"other.key\"\n{}\
         [[route]]\nbackend = \"blue\"\n{routes}\n",
        backend.section("blue"),
    );
    let server = Running::start(folder.path(), &config);
    World { server, backend, authority, _folder: folder }
}

#[tokio::test]
async fn certificates_are_chosen_by_sni() {
    let world = world("", "").await;
    for (name, fits) in [
        ("mail.example.org", true),
        ("other.example.net", true),
        ("a.wild.example.net", true),
        ("a.b.wild.example.net", false),
        ("unknown.example.org", false),
    ] {
        let client = Client::connect(world.server.at("imaps")).await;
        let secured = client.secure(world.authority.client(&["imap"], None), name).await;
        assert_eq!(secured.is_ok(), fits, "{name}");
    }
    world.server.until_metric("mailmux_sessions{listener=\"imaps\"}", 0.0).await;
}

#[tokio::test]
async fn alpn() {
    let world = world("", "").await;
    for (offered, fits) in
        [(&[][..], true), (&["imap"], true), (&["http/1.1", "imap"], true), (&["http/1.1", "h2"], false)]
    {
        let client = Client::connect(world.server.at("imaps")).await;
        let secured = client.secure(world.authority.client(offered, None), "mail.example.org").await;
        match secured {
            Ok(mut client) => {
                assert!(fits, "{offered:?}");
                client.hear(GREETING).await;
            }
            Err(error) => assert!(!fits && error.to_string().contains("NoApplicationProtocol"), "{offered:?}: {error}"),
        }
    }
    let refused = "mailmux_tls_handshakes_total{listener=\"imaps\",outcome=\"alpn_refused\",version=\"none\"}";
    world.server.until_metric(refused, 1.0).await;
}

#[tokio::test]
async fn starttls_and_then_a_login() {
    let world = world("", "").await;
    let mut client = Client::connect(world.server.at("imap")).await;
    client.hear(GREETING_BEFORE_TLS).await;
    client.say("a STARTTLS\r\n").await;
    client.hear("a OK Begin TLS negotiation now.\r\n").await;
    let mut client = client.secure(world.authority.client(&[], None), "mail.example.org").await.expect("secured");
    client.say("b LOGIN ann pass\r\n").await;
    let (mut call, command) = world.backend.let_in().await;
    assert_eq!(command, "AUTHENTICATE PLAIN AGFubgBwYXNz");
    client.hear("b OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    client.say("c NOOP\r\n").await;
    call.hear(b"c NOOP\r\n").await;
}

#[tokio::test]
async fn before_tls_no_secret_is_invited() {
    let world = world("", "").await;
    let mut client = Client::connect(world.server.at("imap")).await;
    client.hear(GREETING_BEFORE_TLS).await;
    for command in
        ["LOGIN ann pass", "LOGIN ann {4}", "LOGIN {3}", "AUTHENTICATE PLAIN", "AUTHENTICATE PLAIN AGFubgBwYXNz"]
    {
        client.say(format!("a {command}\r\n")).await;
        client.hear("a NO [PRIVACYREQUIRED] Plaintext authentication is not allowed without TLS.\r\n").await;
    }
    assert!(world.backend.has_not_been_called());
}

#[tokio::test]
async fn what_is_sent_in_clear_behind_starttls_ends_the_session() {
    let world = world("", "").await;
    for behind in ["b LOGIN ann pass\r\n", "b", "\r\n"] {
        let mut client = Client::connect(world.server.at("imap")).await;
        client.hear(GREETING_BEFORE_TLS).await;
        client.say(format!("a STARTTLS\r\n{behind}")).await;
        assert_eq!(show(&client.hear_end().await), "");
    }
    world
        .server
        .until_metric("mailmux_sessions_closed_total{reason=\"starttls_injection\",side=\"client\"}", 3.0)
        .await;
    assert!(world.backend.has_not_been_called());
}

#[tokio::test]
async fn nothing_said_in_clear_counts_under_tls() {
    let world = world("", "").await;
    let mut client = Client::connect(world.server.at("imap")).await;
    client.hear(GREETING_BEFORE_TLS).await;
    client.say("a CAPABILITY\r\n").await;
    client.hear_line().await;
    client.hear_line().await;
    client.say("b STARTTLS\r\n").await;
    client.hear("b OK Begin TLS negotiation now.\r\n").await;
    let mut client = client.secure(world.authority.client(&[], None), "mail.example.org").await.expect("secured");
    client.say("c LOGIN ann pass\r\n").await;
    let _call = world.backend.let_in().await;
    // Had the question in clear counted, an untagged CAPABILITY would come first.
    client.hear("c OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
}

#[tokio::test]
async fn a_client_certificate_and_a_master_user() {
    let tls = "client_auth = \"optional\"\nclient_ca = \"ca.pem\"\n";
    let routes = "login = \"master\"\nmaster_user = \"master\"\nmaster_password_file = \"master\"\n";
    let world = world(tls, routes).await;
    let with_certificate = world.authority.client(&[], Some(world.authority.issue_client("ann@example.org")));
    let client = Client::connect(world.server.at("imaps")).await;
    let mut client = client.secure(with_certificate, "mail.example.org").await.expect("secured");
    assert!(client.hear_line().await.contains(" AUTH=EXTERNAL]"));
    client.say("a AUTHENTICATE EXTERNAL =\r\n").await;
    let (_call, command) = world.backend.let_in().await;
    // ann@example.org NUL master NUL master-secret
    assert_eq!(command, "AUTHENTICATE PLAIN YW5uQGV4YW1wbGUub3JnAG1hc3RlcgBtYXN0ZXItc2VjcmV0");
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;

    // Without a certificate there is no EXTERNAL, and a password opens nothing here.
    let client = Client::connect(world.server.at("imaps")).await;
    let mut client = client.secure(world.authority.client(&[], None), "mail.example.org").await.expect("secured");
    client.hear(GREETING).await;
    client.say("a AUTHENTICATE EXTERNAL =\r\n").await;
    client.hear("a NO Unsupported authentication mechanism.\r\n").await;
    client.say("b LOGIN ann@example.org anything\r\n").await;
    client.hear("b NO [AUTHENTICATIONFAILED] Authentication failed.\r\n").await;
}

#[tokio::test]
async fn a_demanded_certificate_and_an_old_version() {
    let world = world("min_version = \"1.3\"\nclient_auth = \"required\"\nclient_ca = \"ca.pem\"\n", "").await;
    let stranger = Authority::new();
    let identities = [None, Some(stranger.issue_client("ann@example.org"))];
    for identity in identities {
        let client = Client::connect(world.server.at("imaps")).await;
        let config = world.authority.client(&[], identity);
        // In TLS 1.3 the client learns of it only when it reads.
        if let Ok(mut client) = client.secure(config, "mail.example.org").await {
            let mut byte = [0];
            assert!(matches!(client.stream.read(&mut byte).await, Err(_) | Ok(0)), "let in without a certificate");
        }
    }
    let old = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("a version")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = Client::connect(world.server.at("imaps")).await;
    let error = client.secure(Arc::new(old), "mail.example.org").await.err().expect("refused");
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}
