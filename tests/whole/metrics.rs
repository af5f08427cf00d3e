//! What operators see: the admin port.

use std::path::Path;

use mailmux::process::Phase;

use crate::support::backend::Backend;
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::show;

async fn world(more: &str) -> (Running, Backend) {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}[[route]]\nbackend = \"blue\"\n{more}",
        backend.section("blue")
    );
    (Running::start(Path::new("."), &config), backend)
}

#[tokio::test]
async fn every_series_is_there_from_the_start() {
    let (server, _backend) = world("").await;
    let (status, text) = server.get("/metrics", "").await;
    assert_eq!(status, 200);
    for series in [
        "mailmux_build_info{version=\"",
        "mailmux_sessions{listener=\"plain\"} 0",
        "mailmux_sessions_total{listener=\"plain\"} 0",
        "mailmux_session_seconds_count{backend=\"blue\"} 0",
        "mailmux_tls_handshakes_total{listener=\"plain\",outcome=\"ok\",version=\"1.3\"} 0",
        "mailmux_tls_handshake_seconds_count{listener=\"plain\"} 0",
        "mailmux_logins_total{mechanism=\"PLAIN\",outcome=\"bad_credentials\"} 0",
        "mailmux_login_seconds_count{backend=\"blue\"} 0",
        "mailmux_relay_bytes_total{backend=\"blue\",direction=\"to_client\"} 0",
        "mailmux_backend_up{backend=\"blue\"} 1",
        "mailmux_backend_links{backend=\"blue\",state=\"active\"} 0",
        "mailmux_backend_connect_seconds_count{backend=\"blue\"} 0",
        "mailmux_backend_connects_total{backend=\"blue\",outcome=\"failed\"} 0",
        "mailmux_backend_logins_total{backend=\"blue\",outcome=\"referral\"} 0",
        "mailmux_backend_sessions{backend=\"blue\"} 0",
        "mailmux_backend_draining{backend=\"blue\"} 0",
        "mailmux_backend_weight{backend=\"blue\"} 1",
        "mailmux_backend_circuit_open{backend=\"blue\"} 0",
        "mailmux_backend_queue_seconds_count{backend=\"blue\"} 0",
        "mailmux_backend_queue_timeouts_total{backend=\"blue\"} 0",
        "mailmux_pool_reset_seconds_count{backend=\"blue\"} 0",
        "mailmux_pool_idle_seconds_count{backend=\"blue\"} 0",
        "mailmux_preauth_seconds_count{listener=\"plain\"} 0",
        "mailmux_preauth_commands_total{command=\"authenticate\"} 0",
        "mailmux_preauth_errors_total{reason=\"in_clear\"} 0",
        "mailmux_config_last_reload_successful 1",
        "mailmux_certificate_last_reload_successful 1",
        "mailmux_limit_holds_total{limit=\"failures_per_user\"} 0",
        "mailmux_limit_held{limit=\"failures_per_network\"} 0",
        "mailmux_limit_keys{limit=\"sessions_per_user\"} 0",
        "mailmux_backend_errors_total{backend=\"blue\",kind=\"timeout\"} 0",
        "mailmux_limited_total{limit=\"sessions_per_user\"} 0",
        "mailmux_sessions_closed_total{reason=\"idle_timeout\",side=\"mailmux\"} 0",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(text.contains(series), "{series} is missing in:\n{text}");
    }
    // What is not there: handshakes with a backend without TLS, checks of one that is not probed, limits that are not set.
    for family in [
        "mailmux_backend_tls_handshake_seconds",
        "mailmux_backend_probe",
        "mailmux_backend_links_limit",
        "mailmux_group",
    ] {
        assert!(!text.contains(&format!("{family}_")) && !text.contains(&format!("{family}{{")), "{family}:\n{text}");
    }
}

#[tokio::test]
async fn what_is_set_shows() {
    let (one, two) = (Backend::listen().await, Backend::listen().await);
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         {}max_links = 7\nweight = 3\n{}[[group]]\nname = \"both\"\nchoose = \"hash\"\nmembers = [\"blue\"]\nstandby = [\"green\"]\n\
         [[route]]\ngroup = \"both\"\n[limits]\nsessions = 9\nlogins_per_user = \"off\"\n",
        one.section("blue"),
        two.section("green")
            .replace("tls = \"none\"", "tls = \"implicit\"\ntls_verify = false")
            .replace("health = \"off\"", "health = { interval = \"1h\" }"),
    );
    let server = Running::start(Path::new("."), &config);
    for (series, value) in [
        ("mailmux_backend_links_limit{backend=\"blue\"}", 7.0),
        ("mailmux_backend_weight{backend=\"blue\"}", 3.0),
        ("mailmux_sessions_limit", 9.0),
        ("mailmux_group_backends{group=\"both\"}", 2.0),
        ("mailmux_group_backends_up{group=\"both\"}", 2.0),
    ] {
        server.until_metric(series, value).await;
    }
    let (_, text) = server.get("/metrics", "").await;
    for there in [
        "mailmux_backend_tls_handshake_seconds_count{backend=\"green\"} 0",
        "mailmux_backend_probes_total{backend=\"green\",kind=\"greeting\",outcome=\"ok\"}",
    ] {
        assert!(text.contains(there), "{there} is missing in:\n{text}");
    }
    assert!(!text.contains("mailmux_limit_keys{limit=\"logins_per_user\"}"), "{text}");
    let drained = server.steering.drain("blue", std::time::Duration::from_secs(1)).await;
    assert!(drained.is_ok(), "{drained:?}");
    server.until_metric("mailmux_backend_draining{backend=\"blue\"}", 1.0).await;
    server.until_metric("mailmux_group_backends_up{group=\"both\"}", 1.0).await;
}

#[tokio::test]
async fn what_happens_moves_them() {
    let (server, backend) = world("").await;
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say("x SELECT inbox\r\n").await;
    client.hear("x BAD Log in first.\r\n").await;
    client.say("a LOGIN ann wrong\r\n").await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
    call.hear_command().await;
    call.say(format!("{} NO wrong\r\n", call.tag).as_bytes()).await;
    client.hear("a NO [AUTHENTICATIONFAILED] Authentication failed.\r\n").await;
    client.say("b LOGIN ann pass\r\n").await;
    let (mut call, _) = backend.let_in().await;
    client.hear("b OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    server.until_metric("mailmux_backend_links{backend=\"blue\",state=\"active\"}", 1.0).await;
    client.say("c NOOP\r\n").await;
    call.hear(b"c NOOP\r\n").await;
    call.say(b"c OK done\r\n").await;
    client.hear("c OK done\r\n").await;
    drop(client);
    call.hear_end().await;
    drop(call);
    for (series, value) in [
        ("mailmux_sessions{listener=\"plain\"}", 0.0),
        ("mailmux_sessions_total{listener=\"plain\"}", 1.0),
        ("mailmux_sessions_closed_total{reason=\"closed\",side=\"client\"}", 1.0),
        ("mailmux_session_seconds_count{backend=\"blue\"}", 1.0),
        ("mailmux_logins_total{mechanism=\"LOGIN-COMMAND\",outcome=\"bad_credentials\"}", 1.0),
        ("mailmux_logins_total{mechanism=\"LOGIN-COMMAND\",outcome=\"ok\"}", 1.0),
        ("mailmux_login_seconds_count{backend=\"blue\"}", 1.0),
        ("mailmux_backend_connect_seconds_count{backend=\"blue\"}", 2.0),
        ("mailmux_backend_connects_total{backend=\"blue\",outcome=\"ok\"}", 2.0),
        ("mailmux_backend_logins_total{backend=\"blue\",outcome=\"bad_credentials\"}", 1.0),
        ("mailmux_backend_logins_total{backend=\"blue\",outcome=\"ok\"}", 1.0),
        ("mailmux_preauth_seconds_count{listener=\"plain\"}", 1.0),
        ("mailmux_preauth_commands_total{command=\"login\"}", 2.0),
        ("mailmux_preauth_commands_total{command=\"after_login\"}", 1.0),
        ("mailmux_preauth_errors_total{reason=\"not_logged_in\"}", 1.0),
        ("mailmux_backend_sessions{backend=\"blue\"}", 0.0),
        ("mailmux_relay_bytes_total{backend=\"blue\",direction=\"to_backend\"}", 8.0),
        ("mailmux_relay_bytes_total{backend=\"blue\",direction=\"to_client\"}", 11.0),
        ("mailmux_backend_links{backend=\"blue\",state=\"active\"}", 0.0),
    ] {
        server.until_metric(series, value).await;
    }
}

#[tokio::test]
async fn draining_shows_and_lets_sessions_live_on() {
    let (mut server, backend) = world("").await;
    let mut inside = Client::connect(server.at("plain")).await;
    inside.hear(GREETING).await;
    inside.say("a LOGIN ann pass\r\n").await;
    let (mut call, _) = backend.let_in().await;
    inside.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    let mut outside = Client::connect(server.at("plain")).await;
    outside.hear(GREETING).await;
    assert_eq!(server.get("/readyz", "").await.0, 200);

    server.phase.send_replace(Phase::Draining);
    outside.hear("* BYE Server is shutting down.\r\n").await;
    assert_eq!(show(&outside.hear_end().await), "");
    assert_eq!(server.get("/readyz", "").await, (503, "draining".to_owned()));
    assert_eq!(server.get("/healthz", "").await.0, 200);
    inside.say("b NOOP\r\n").await;
    call.hear(b"b NOOP\r\n").await;

    drop(inside);
    assert_eq!(show(&call.hear_end().await), "");
    drop(call);
    server.ended().await;
}

#[tokio::test]
async fn stopping_ends_everybody() {
    let (mut server, backend) = world("").await;
    let mut inside = Client::connect(server.at("plain")).await;
    inside.hear(GREETING).await;
    inside.say("a LOGIN ann pass\r\n").await;
    let (mut call, _) = backend.let_in().await;
    inside.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    server.phase.send_replace(Phase::Stopped);
    inside.hear("* BYE Server is shutting down.\r\n").await;
    inside.hear_end().await;
    call.hear_end().await;
    server.ended().await;
}
