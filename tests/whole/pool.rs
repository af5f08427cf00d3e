//! Links that wait: who gets them, what is done to them before, and what ends them. The backends are scripted, so that each
//! byte that reaches them is accounted for.

use std::path::Path;

use mailmux::imap::UserName;
use mailmux::steer::Filter;
use tokio::net::TcpStream;

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;

const IN: &str = "[CAPABILITY IMAP4rev1 UNSELECT IDLE] in";
const IDLE: &str = "mailmux_backend_links{backend=\"blue\",state=\"idle\"}";
const WARM: &str = "mailmux_backend_links{backend=\"blue\",state=\"warm\"}";

/// One backend, one route to it.
async fn world(pool: &str, backend_keys: &str, more: &str) -> (Running, Backend) {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         {}{backend_keys}\n[[route]]\nbackend = \"blue\"\npool = \"{pool}\"\n{more}",
        backend.section("blue")
    );
    (Running::start(Path::new("."), &config), backend)
}

/// Asks to be let in.
async fn ask(server: &Running, user: &str, password: &str) -> Client<TcpStream> {
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say(format!("a LOGIN {user} {password}\r\n")).await;
    client
}

/// Logs in on a link of its own.
async fn enter(server: &Running, backend: &Backend, user: &str, password: &str) -> (Client<TcpStream>, Call) {
    let mut client = ask(server, user, password).await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] friendly\r\n").await;
    assert_eq!(call.hear_command().await, "AUTHENTICATE PLAIN");
    call.say(b"+ \r\n").await;
    call.hear_line().await;
    call.say(format!("{} OK {IN}\r\n", call.tag).as_bytes()).await;
    client.hear(format!("a OK {IN}\r\n")).await;
    (client, call)
}

/// Logs in on a link that has waited.
async fn enter_again(server: &Running, user: &str, password: &str) -> Client<TcpStream> {
    let mut client = ask(server, user, password).await;
    client.hear(format!("a OK {IN}\r\n")).await;
    client
}

/// One command and its answer.
async fn talk(client: &mut Client<TcpStream>, call: &mut Call, command: &str, untagged: &str) {
    client.say(format!("b {command}\r\n")).await;
    assert_eq!(call.hear_command().await, command);
    assert_eq!(call.tag, "b", "the client's own tag");
    call.say(format!("{untagged}b OK done\r\n").as_bytes()).await;
    client.hear(format!("{untagged}b OK done\r\n")).await;
}

async fn log_out(client: &mut Client<TcpStream>) {
    client.say("z LOGOUT\r\n").await;
    client.hear("* BYE Logging out\r\nz OK Logout completed.\r\n").await;
    assert_eq!(client.hear_end().await, b"");
}

/// The link is made clean, by this.
async fn clean(call: &mut Call, command: &str) {
    assert_eq!(call.hear_command().await, command);
    assert!(call.tag.len() > 10, "a tag that nobody can guess");
    call.say(format!("{} OK done\r\n", call.tag).as_bytes()).await;
}

#[tokio::test]
async fn the_same_user_gets_its_link_again_and_the_backend_hears_of_no_login() {
    let (server, backend) = world("reuse", "", "").await;
    let (mut client, mut call) = enter(&server, &backend, "ann", "secret").await;
    for round in 0..3 {
        talk(&mut client, &mut call, "SELECT INBOX", "* 3 EXISTS\r\n").await;
        log_out(&mut client).await;
        clean(&mut call, "UNSELECT").await;
        server.until_metric(IDLE, 1.0).await;
        client = enter_again(&server, "ann", "secret").await;
        talk(&mut client, &mut call, "NOOP", "").await;
        server
            .until_metric("mailmux_pool_checkouts_total{backend=\"blue\",outcome=\"hit\"}", f64::from(round + 1))
            .await;
    }
    assert!(backend.has_not_been_called());
}

#[tokio::test]
async fn other_users_and_other_passwords_get_links_of_their_own() {
    let (server, backend) = world("reuse", "", "").await;
    let (mut ann, mut anns) = enter(&server, &backend, "ann", "secret").await;
    log_out(&mut ann).await;
    clean(&mut anns, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    let (_bob, _) = enter(&server, &backend, "bob", "secret").await;
    // A wrong password is the backend's to refuse, and touches nothing.
    let mut stranger = ask(&server, "ann", "guess").await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
    call.hear_command().await;
    call.say(format!("{} NO wrong\r\n", call.tag).as_bytes()).await;
    stranger.hear("a NO [AUTHENTICATIONFAILED] Authentication failed.\r\n").await;
    let mut ann = enter_again(&server, "ann", "secret").await;
    log_out(&mut ann).await;
    clean(&mut anns, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    // A right one that is new ends what was made with the old one.
    let (_ann, _) = enter(&server, &backend, "ann", "changed").await;
    assert_eq!(anns.hear_command().await, "LOGOUT");
    server.until_metric(IDLE, 0.0).await;
}

#[tokio::test]
async fn a_link_that_was_in_use_while_the_password_changed_is_not_kept() {
    let (server, backend) = world("reuse", "", "").await;
    let (mut old, mut olds) = enter(&server, &backend, "ann", "secret").await;
    let (_new, _) = enter(&server, &backend, "ann", "changed").await;
    log_out(&mut old).await;
    clean(&mut olds, "NOOP").await;
    assert_eq!(olds.hear_command().await, "LOGOUT");
    let refused = "mailmux_pool_evictions_total{backend=\"blue\",reason=\"credential\"}";
    server.until_metric(refused, 1.0).await;
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_leaves_its_link_behind_if_it_can_be_cleaned() {
    let (server, backend) = world("reuse", "", "").await;
    let (client, mut call) = enter(&server, &backend, "ann", "secret").await;
    drop(client);
    clean(&mut call, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    // In IDLE.
    let mut client = enter_again(&server, "ann", "secret").await;
    talk(&mut client, &mut call, "SELECT INBOX", "").await;
    client.say("c IDLE\r\n").await;
    assert_eq!(call.hear_command().await, "IDLE");
    call.say(b"+ idling\r\n").await;
    client.hear("+ idling\r\n").await;
    client.reset();
    call.hear(b"DONE\r\n").await;
    call.say(b"c OK idled\r\n").await;
    clean(&mut call, "UNSELECT").await;
    server.until_metric(IDLE, 1.0).await;
    // In the middle of a command.
    let mut client = enter_again(&server, "ann", "secret").await;
    client.say("c APPEND INBOX {10+}\r\nhalf").await;
    assert_eq!(call.hear_command().await, "APPEND INBOX {10+}");
    call.hear(b"half").await;
    drop(client);
    assert_eq!(call.hear_end().await, b"", "the link is closed");
    drop(call);
    server.until_metric("mailmux_pool_evictions_total{backend=\"blue\",reason=\"dirty\"}", 1.0).await;
}

#[tokio::test]
async fn a_logout_behind_other_commands_waits_for_their_answers() {
    let (server, backend) = world("reuse", "", "").await;
    let (mut client, mut call) = enter(&server, &backend, "ann", "secret").await;
    client.say("b NOOP\r\nc SELECT INBOX\r\nd LOGO").await;
    call.hear(b"b NOOP\r\nc SELECT INBOX\r\n").await;
    client.say("UT\r\nmore that nobody needs\r\n").await;
    call.say(b"b OK\r\n").await;
    client.hear("b OK\r\n").await;
    call.say(b"* 1 EXISTS\r\nc OK selected\r\n").await;
    client.hear("* 1 EXISTS\r\nc OK selected\r\n* BYE Logging out\r\nd OK Logout completed.\r\n").await;
    clean(&mut call, "UNSELECT").await;
    server.until_metric(IDLE, 1.0).await;
}

#[tokio::test]
async fn what_cannot_be_undone_ends_the_link_and_the_backend_hears_the_logout() {
    let (server, backend) = world("reuse", "", "").await;
    let (mut client, mut call) = enter(&server, &backend, "ann", "secret").await;
    talk(&mut client, &mut call, "LANGUAGE de", "").await;
    client.say("d LOGOUT\r\n").await;
    assert_eq!(call.hear_command().await, "LOGOUT");
    call.say(b"* BYE bye\r\nd OK out\r\n").await;
    drop(call);
    client.hear("* BYE bye\r\nd OK out\r\n").await;
    assert_eq!(client.hear_end().await, b"");
    assert!(server.metric(IDLE).await < 1.0);
}

#[tokio::test]
async fn a_link_that_dies_while_it_waits_is_not_given_to_anybody() {
    let (server, backend) = world("reuse", "", "").await;
    let (mut client, mut call) = enter(&server, &backend, "ann", "secret").await;
    log_out(&mut client).await;
    clean(&mut call, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    call.say(b"* BYE Idle for too long\r\n").await;
    server.until_metric(IDLE, 0.0).await;
    assert_eq!(call.hear_end().await, b"");
    let (_client, _) = enter(&server, &backend, "ann", "secret").await;
    server.until_metric("mailmux_pool_evictions_total{backend=\"blue\",reason=\"dead\"}", 1.0).await;
}

#[tokio::test]
async fn who_is_kicked_and_what_is_drained_keeps_no_link() {
    let (server, backend) = world("reuse", "", "").await;
    let ann = UserName::new(&b"Ann"[..]).expect("a name");
    let (mut client, mut call) = enter(&server, &backend, "ann", "secret").await;
    log_out(&mut client).await;
    clean(&mut call, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    server.steering.kick(&Filter::of_user(ann.clone())).await;
    assert_eq!(call.hear_command().await, "LOGOUT");
    let (mut client, mut call) = enter(&server, &backend, "ann", "secret").await;
    server.steering.kick(&Filter::of_user(ann.clone())).await;
    client.hear("* BYE Closed by the administrator.\r\n").await;
    assert_eq!(call.hear_end().await, b"", "a session that is sent away leaves nothing behind");
    let (mut client, mut call) = enter(&server, &backend, "ann", "secret").await;
    log_out(&mut client).await;
    clean(&mut call, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    server.steering.drain("blue", std::time::Duration::ZERO).await.expect("empty");
    assert_eq!(call.hear_command().await, "LOGOUT");
}

#[tokio::test]
async fn warm_links_are_greeted_before_anybody_comes_and_replaced_when_one_has() {
    let (server, backend) = world("warm", "", "[pool]\nwarm = 1\n").await;
    let mut calls = Vec::new();
    for user in ["ann", "bob"] {
        let mut call = backend.accept().await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
        server.until_metric(WARM, 1.0).await;
        let mut client = ask(&server, user, "secret").await;
        assert!(call.hear_command().await.starts_with("AUTHENTICATE PLAIN "));
        call.say(format!("{} OK {IN}\r\n", call.tag).as_bytes()).await;
        client.hear(format!("a OK {IN}\r\n")).await;
        talk(&mut client, &mut call, "NOOP", "").await;
        // Warm only: what is over is over.
        client.say("d LOGOUT\r\n").await;
        assert_eq!(call.hear_command().await, "LOGOUT");
        calls.push(call);
    }
    server.until_metric("mailmux_pool_checkouts_total{backend=\"blue\",outcome=\"warm\"}", 2.0).await;
}

#[tokio::test]
async fn a_warm_link_that_was_closed_costs_nobody_a_login() {
    let (server, backend) = world("warm", "", "[pool]\nwarm = 1\n").await;
    let mut warm = backend.accept().await;
    warm.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
    server.until_metric(WARM, 1.0).await;
    let mut client = ask(&server, "ann", "secret").await;
    warm.hear_command().await;
    drop(warm);
    // Whoever comes first: the link that takes its place in the stock, or the one for ann.
    for _ in 0..2 {
        let mut call = backend.accept().await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
        tokio::spawn(async move {
            call.hear_command().await;
            call.say(format!("{} OK {IN}\r\n", call.tag).as_bytes()).await;
            call.hear_end().await;
        });
    }
    client.hear(format!("a OK {IN}\r\n")).await;
}

#[tokio::test]
async fn who_finds_no_place_waits_its_turn() {
    let (server, backend) = world("off", "max_links = 1\n", "").await;
    let (ann, anns) = enter(&server, &backend, "ann", "secret").await;
    let mut bob = ask(&server, "bob", "secret").await;
    server.until_metric("mailmux_backend_queue{backend=\"blue\"}", 1.0).await;
    drop((ann, anns));
    let (_call, _) = backend.let_in().await;
    bob.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    server.until_metric("mailmux_backend_queue{backend=\"blue\"}", 0.0).await;
}

#[tokio::test]
async fn and_not_for_ever() {
    let timeouts = "[timeouts]\nbackend_connect = \"100ms\"\nrefusal_grid = \"10ms\"\n";
    for (keys, limit, user) in
        [("max_links = 1\n", "max_links", "bob"), ("max_links_per_user = 1\n", "max_links_per_user", "Ann")]
    {
        let (server, backend) = world("off", keys, timeouts).await;
        let (_ann, _call) = enter(&server, &backend, "ann", "secret").await;
        let mut other = ask(&server, user, "secret").await;
        other.hear("a NO [LIMIT] All places are taken, try again later.\r\n").await;
        server.until_metric(&format!("mailmux_limited_total{{limit=\"{limit}\"}}"), 1.0).await;
        assert!(backend.has_not_been_called());
    }
}

#[tokio::test]
async fn a_link_that_waits_gives_its_place_to_who_needs_it() {
    let (server, backend) = world("reuse", "max_links = 1\n", "").await;
    let (mut ann, mut anns) = enter(&server, &backend, "ann", "secret").await;
    log_out(&mut ann).await;
    clean(&mut anns, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    let mut bob = ask(&server, "bob", "secret").await;
    assert_eq!(anns.hear_command().await, "LOGOUT");
    anns.say(format!("* BYE bye\r\n{} OK out\r\n", anns.tag).as_bytes()).await;
    let (_call, _) = backend.let_in().await;
    bob.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    server.until_metric("mailmux_pool_evictions_total{backend=\"blue\",reason=\"wanted\"}", 1.0).await;
}

#[tokio::test]
async fn as_many_wait_as_may() {
    let (server, backend) = world("reuse", "", "[pool]\nreuse_per_user = 1\n").await;
    let (mut one, mut ones) = enter(&server, &backend, "ann", "secret").await;
    let (mut two, mut twos) = enter(&server, &backend, "ann", "secret").await;
    log_out(&mut one).await;
    clean(&mut ones, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    log_out(&mut two).await;
    clean(&mut twos, "NOOP").await;
    assert_eq!(twos.hear_command().await, "LOGOUT");
    server.until_metric("mailmux_pool_evictions_total{backend=\"blue\",reason=\"full\"}", 1.0).await;
}

#[tokio::test]
async fn a_lookup_can_say_pool_too_and_a_backend_that_is_told_addresses_is_never_pooled() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("users.map"), "ann\tblue pool=reuse\n").expect("written");
    for (proxy, kept) in [("off", true), ("v1", false)] {
        let backend = Backend::listen().await;
        let config = format!(
            "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
             {}proxy_protocol = \"{proxy}\"\n\
             [[lookup]]\nname = \"users\"\ntype = \"file\"\npath = \"users.map\"\n[[route]]\nlookup = \"users\"\n",
            backend.section("blue")
        );
        let server = Running::start(folder.path(), &config);
        let mut client = ask(&server, "ann", "secret").await;
        let mut call = backend.accept().await;
        if !kept {
            assert!(call.hear_line().await.starts_with("PROXY TCP4 "));
        }
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
        call.hear_command().await;
        call.say(format!("{} OK {IN}\r\n", call.tag).as_bytes()).await;
        client.hear(format!("a OK {IN}\r\n")).await;
        client.say("z LOGOUT\r\n").await;
        assert_eq!(call.hear_command().await, if kept { "NOOP" } else { "LOGOUT" });
    }
}

#[tokio::test]
async fn a_link_ends_in_time_however_soon_it_might_be_wanted_again() {
    let (server, backend) = world("reuse", "", "[pool]\nreuse_ttl = \"1h\"\nreuse_lifetime = \"100ms\"\n").await;
    let (mut client, mut call) = enter(&server, &backend, "ann", "secret").await;
    log_out(&mut client).await;
    clean(&mut call, "NOOP").await;
    assert_eq!(call.hear_command().await, "LOGOUT");
    server.until_metric("mailmux_pool_evictions_total{backend=\"blue\",reason=\"age\"}", 1.0).await;
}

#[tokio::test]
async fn a_new_password_ends_older_links_however_the_name_is_spelled_and_whatever_the_route() {
    let backend = Backend::listen().await;
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         [[listener]]\nname = \"other\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         {}[[route]]\nlistener = \"plain\"\nbackend = \"blue\"\npool = \"reuse\"\n\
         [[route]]\nbackend = \"blue\"\n",
        backend.section("blue")
    );
    let server = Running::start(Path::new("."), &config);
    let (mut old, mut olds) = enter(&server, &backend, "ANN", "secret").await;
    log_out(&mut old).await;
    clean(&mut olds, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    let (mut new, mut news) = enter(&server, &backend, "ann", "changed").await;
    assert_eq!(olds.hear_command().await, "LOGOUT");
    log_out(&mut new).await;
    clean(&mut news, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    // By a way on which nothing is pooled.
    let mut client = Client::connect(server.at("other")).await;
    client.hear(GREETING).await;
    client.say("a LOGIN Ann changed-again\r\n").await;
    let (_call, _) = backend.let_in().await;
    assert_eq!(news.hear_command().await, "LOGOUT");
}

#[tokio::test]
async fn who_comes_from_elsewhere_gets_a_link_of_its_own_where_the_backend_is_told_so() {
    for forward in [true, false] {
        let backend = Backend::listen().await;
        let config = format!(
            "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
             id_from = [\"127.0.0.1\"]\nallow_plaintext = true\n\
             {}[[route]]\nbackend = \"blue\"\npool = \"reuse\"\n",
            backend.section("blue").replace("forward_id = false", &format!("forward_id = {forward}"))
        );
        let server = Running::start(Path::new("."), &config);
        for (round, address) in ["192.0.2.1", "192.0.2.2"].into_iter().enumerate() {
            let mut client = Client::connect(server.at("plain")).await;
            client.hear(GREETING).await;
            client.say(format!("i ID (\"x-originating-ip\" \"{address}\")\r\n")).await;
            client.hear("* ID (\"name\" \"mailmux\")\r\ni OK ID completed.\r\n").await;
            client.say("a LOGIN ann secret\r\n").await;
            if forward || round == 0 {
                let mut call = backend.accept().await;
                call.say(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] friendly\r\n").await;
                call.hear_command().await;
                call.say(format!("{} OK {IN}\r\n", call.tag).as_bytes()).await;
                client.hear(format!("a OK {IN}\r\n")).await;
                log_out(&mut client).await;
                clean(&mut call, "NOOP").await;
                server.until_metric(IDLE, if round == 0 { 1.0 } else { 2.0 }).await;
                tokio::spawn(async move { call.hear_end().await });
            } else {
                client.hear(format!("a OK {IN}\r\n")).await;
            }
        }
    }
}

#[tokio::test]
async fn a_link_that_hangs_is_given_up_for_a_new_one_and_is_no_failure_of_the_backend() {
    let timeouts = "[timeouts]\nbackend_connect = \"1s\"\nbackend_login = \"3s\"\n";
    let (server, backend) = world("reuse", "", timeouts).await;
    let mut client = ask(&server, "ann", "secret").await;
    let mut call = backend.accept().await;
    call.say(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR ID] friendly\r\n").await;
    call.hear_command().await;
    call.say(format!("{} OK [CAPABILITY IMAP4rev1 UNSELECT ID] in\r\n", call.tag).as_bytes()).await;
    client.hear("a OK [CAPABILITY IMAP4rev1 UNSELECT ID] in\r\n").await;
    log_out(&mut client).await;
    clean(&mut call, "NOOP").await;
    server.until_metric(IDLE, 1.0).await;
    // Another client: the backend is told so, and is silent from now on, on this link.
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say("i ID (\"name\" \"another\")\r\n").await;
    client.hear("* ID (\"name\" \"mailmux\")\r\ni OK ID completed.\r\n").await;
    client.say("a LOGIN ann secret\r\n").await;
    assert!(call.hear_command().await.contains("\"another\""));
    let (_call, _) = backend.let_in().await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    server.until_metric("mailmux_backend_errors_total{backend=\"blue\",kind=\"timeout\"}", 0.0).await;
    server.until_metric("mailmux_pool_checkouts_total{backend=\"blue\",outcome=\"dead\"}", 1.0).await;
}

#[tokio::test]
async fn a_backend_that_greets_and_closes_is_not_stormed() {
    let (_server, backend) = world("warm", "", "[pool]\nwarm = 1\n").await;
    let mut last = None;
    for least in [0, 800, 1600] {
        let mut call = backend.accept().await;
        let came = std::time::Instant::now();
        assert!(last.is_none_or(|last| came - last >= std::time::Duration::from_millis(least)), "too soon");
        last = Some(came);
        call.say(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] friendly\r\n* BYE too many\r\n").await;
    }
}
