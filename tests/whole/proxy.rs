//! Addresses: PROXY headers in and out, ID in and out, and ways that lead back to us.

use crate::support::backend::Backend;
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::show;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x12\x67\0\x8f";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn world(listener: &str, backend_settings: &str) -> (Running, Backend) {
    let backend = Backend::listen().await;
    let section = backend.section("blue").replace("forward_id = false\n", "");
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nallow_plaintext = true\n{listener}\n\
         {section}{backend_settings}\n[[route]]\nbackend = \"blue\"\n"
    );
    (Running::start(std::path::Path::new("."), &config), backend)
}

const FROM_ALL: &str = "proxy_protocol_from = [\"127.0.0.0/8\"]";

#[tokio::test]
async fn headers_in_are_believed_and_go_out_again() {
    for (header, wanted) in [(&b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 143\r\n"[..], "v1"), (V2, "v2")] {
        let (server, backend) = world(FROM_ALL, &format!("forward_id = false\nproxy_protocol = \"{wanted}\"")).await;
        let mut client = Client::connect(server.at("plain")).await;
        for byte in header {
            client.say([*byte]).await;
        }
        client.hear(GREETING).await;
        client.say("a LOGIN ann pass\r\n").await;
        let mut call = backend.accept().await;
        call.hear(header).await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
        assert_eq!(call.hear_command().await, "AUTHENTICATE PLAIN AGFubgBwYXNz");
        assert!(
            (server.metric(&format!("mailmux_proxy_protocol_headers_total{{outcome=\"{wanted}\"}}")).await - 1.0).abs()
                < 0.1
        );
    }
}

#[tokio::test]
async fn what_comes_behind_the_header_in_one_packet_is_kept() {
    let (server, backend) = world(FROM_ALL, "forward_id = false").await;
    let mut client = Client::connect(server.at("plain")).await;
    client.say("PROXY TCP4 192.0.2.1 192.0.2.2 4711 143\r\na LOGIN ann pass\r\n").await;
    client.hear(GREETING).await;
    let _call = backend.let_in().await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
}

#[tokio::test]
async fn a_balancer_must_send_a_header_and_a_second_one_is_data() {
    let (server, _backend) = world(&format!("{FROM_ALL}\n"), "").await;
    let mut client = Client::connect(server.at("plain")).await;
    client.say("a NOOP\r\n").await;
    assert_eq!(show(&client.hear_end().await), "", "no header, no greeting");
    let mut client = Client::connect(server.at("plain")).await;
    client.say("PROXY TCP4 192.0.2.1 192.0.2.2 4711 143\r\nPROXY TCP4 192.0.2.9 192.0.2.2 4711 143\r\n").await;
    client.hear(GREETING).await;
    assert_eq!(show(&client.hear_end().await), "");
    server.until_metric("mailmux_proxy_protocol_headers_total{outcome=\"bad\"}", 1.0).await;
    server.until_metric("mailmux_sessions_closed_total{reason=\"bad_proxy_header\",side=\"client\"}", 1.0).await;
    server.until_metric("mailmux_sessions_closed_total{reason=\"wrong_protocol\",side=\"client\"}", 1.0).await;
}

#[tokio::test]
async fn strangers_send_none() {
    let (server, backend) = world("proxy_protocol_from = [\"192.0.2.0/24\"]", "").await;
    for header in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 143\r\n"[..], V2] {
        let mut client = Client::connect(server.at("plain")).await;
        client.hear(GREETING).await;
        client.say(header).await;
        assert_eq!(show(&client.hear_end().await), "");
    }
    assert!(backend.has_not_been_called());
}

#[tokio::test]
async fn a_balancers_health_check() {
    let (server, _backend) = world(FROM_ALL, "").await;
    let mut client = Client::connect(server.at("plain")).await;
    client.say(V2_LOCAL).await;
    client.hear(GREETING).await;
    drop(client);
    server.until_metric("mailmux_sessions_closed_total{reason=\"health_check\",side=\"client\"}", 1.0).await;
}

/// Logs in with this ID before, and gives what the backend is told by ID.
async fn told_by_id(listener: &str, id: &str) -> String {
    let (server, backend) = world(listener, "").await;
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say(format!("i ID ({id})\r\na LOGIN ann pass\r\n")).await;
    client.hear("* ID (\"name\" \"mailmux\")\r\ni OK ID completed.\r\n").await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR ID AUTH=PLAIN] x\r\n").await;
    let told = call.hear_command().await;
    call.say(format!("* ID NIL\r\n{} OK x\r\n", call.tag).as_bytes()).await;
    assert_eq!(call.hear_command().await, "AUTHENTICATE PLAIN AGFubgBwYXNz");
    told
}

#[tokio::test]
async fn the_backend_is_told_the_clients_address_and_not_what_a_stranger_claims() {
    let told = told_by_id("", r#""name" "mutt" "x-originating-ip" "203.0.113.9" "x-session-id" "mine""#).await;
    assert!(told.starts_with(r#"ID ("name" "mutt" "x-session-id" ""#), "{told}");
    assert!(told.contains(r#""x-originating-ip" "127.0.0.1""#) && told.contains(r#""x-proxy-ttl" "6""#), "{told}");
    assert!(told.contains(r#""x-client-transport" "insecure""#), "{told}");
    assert!(!told.contains("203.0.113.9") && !told.contains("mine") && !told.contains("x-multiplex"), "{told}");
}

#[tokio::test]
async fn a_trusted_webmail_names_its_client() {
    let id = r#""x-originating-ip" "203.0.113.9" "x-originating-port" "99" "x-session-id" "theirs" "x-proxy-ttl" "5""#;
    let told = told_by_id("id_from = [\"127.0.0.0/8\"]", id).await;
    for pair in [
        r#""x-session-id" "theirs""#,
        r#""x-originating-ip" "203.0.113.9""#,
        r#""x-originating-port" "99""#,
        r#""x-proxy-ttl" "4""#,
    ] {
        assert!(told.contains(pair), "{told}");
    }
}

#[tokio::test]
async fn a_login_that_has_come_round_is_refused() {
    let (server, backend) = world("", "").await;
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say("i ID (\"x-proxy-ttl\" \"1\")\r\na LOGIN ann pass\r\n").await;
    client.hear("* ID (\"name\" \"mailmux\")\r\ni OK ID completed.\r\n").await;
    client.hear("a NO [SERVERBUG] Account is temporarily unavailable.\r\n").await;
    assert!(backend.has_not_been_called());
}
