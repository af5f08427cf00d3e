//! Another configuration while the server runs: what is new counts at once, what is there lives on, and a mistake changes
//! nothing.

use std::path::Path;

use mailmux::config::Config;

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::soon;
use tokio::net::TcpStream;

const FRONT: &str = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n";

impl Running {
    /// Puts another configuration in place; gives the words of what is wrong with it.
    async fn adopt(&self, folder: &Path, config: &str) -> Result<(), String> {
        let text = Self::complete(config);
        let config = Config::parse(&text, &folder.join("mailmux.toml")).map_err(|findings| findings.to_string())?;
        let adopted = soon("the configuration to be adopted", self.steering.adopt(config)).await;
        adopted.map(drop).map_err(|findings| findings.into_iter().map(|finding| finding.message).collect())
    }
}

fn one_route(backend: &Backend, more: &str) -> String {
    format!("{FRONT}{}[[route]]\nbackend = \"blue\"\n{more}", backend.section("blue"))
}

async fn logged_in(mailmux: &Running, listener: &str, backend: &Backend) -> (Client<TcpStream>, Call) {
    let mut client = Client::connect(mailmux.at(listener)).await;
    client.hear(GREETING).await;
    client.say("a LOGIN ann pass\r\n").await;
    let (call, _) = backend.let_in().await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    (client, call)
}

async fn talk(client: &mut Client<TcpStream>, call: &mut Call) {
    client.say("x NOOP\r\n").await;
    call.hear(b"x NOOP\r\n").await;
    call.say(b"x OK\r\n").await;
    client.hear("x OK\r\n").await;
}

#[tokio::test]
async fn new_logins_go_the_new_way_and_sessions_live_on() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let mailmux = Running::start(folder.path(), &one_route(&blue, ""));
    let (mut old, mut old_call) = logged_in(&mailmux, "plain", &blue).await;
    let mut waiting = Client::connect(mailmux.at("plain")).await;
    waiting.hear(GREETING).await;

    mailmux.adopt(folder.path(), &one_route(&green, "")).await.expect("fine");
    let (mut new, mut new_call) = logged_in(&mailmux, "plain", &green).await;
    talk(&mut old, &mut old_call).await;
    talk(&mut new, &mut new_call).await;
    // Also who had connected before: what counts is when it logs in.
    waiting.say("a LOGIN bob pass\r\n").await;
    let (_call, _) = green.let_in().await;
    waiting.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    assert!(mailmux.metric("mailmux_sessions{listener=\"plain\"}").await > 2.0, "all are counted in one place");
}

#[tokio::test]
async fn a_mistake_changes_nothing_and_shows_no_backend_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let mailmux = Running::start(folder.path(), &one_route(&backend, ""));
    let broken = format!(
        "{FRONT}{}{}[[route]]\nlookup = \"users\"\n[[lookup]]\nname = \"users\"\ntype = \"file\"\npath = \"users.map\"\n",
        backend.section("blue"),
        backend.section("red")
    );
    std::fs::write(folder.path().join("users.map"), "ann\tnowhere\n").expect("written");
    let words = mailmux.adopt(folder.path(), &broken).await.expect_err("a bad map");
    assert!(words.contains("users.map:1: no such backend"), "{words}");
    let (_, metrics) = mailmux.get("/metrics", "").await;
    assert!(!metrics.contains("mailmux_backend_up{backend=\"red\"}"), "{metrics}");
    let (mut client, mut call) = logged_in(&mailmux, "plain", &backend).await;
    talk(&mut client, &mut call).await;
}

#[tokio::test]
async fn series_go_with_the_last_session_of_what_is_not_named_any_more() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let config = |backend: &Backend, name: &str| {
        format!(
            "{}{}[[lookup]]\nname = \"{name}-users\"\ntype = \"file\"\npath = \"{name}.map\"\n[[route]]\nlookup = \"{name}-users\"\n",
            FRONT.replace("plain", &format!("{name}-door")),
            backend.section(name)
        )
    };
    for name in ["blue", "green"] {
        std::fs::write(folder.path().join(format!("{name}.map")), format!("ann\t{name}\n")).expect("written");
    }
    let mailmux = Running::start(folder.path(), &config(&blue, "blue"));
    let (mut client, mut call) = logged_in(&mailmux, "blue-door", &blue).await;
    mailmux.adopt(folder.path(), &config(&green, "green")).await.expect("fine");
    // How it is nobody asks any more; its session is still counted.
    let (_, text) = mailmux.get("/metrics", "").await;
    for gone in ["mailmux_backend_up", "mailmux_backend_weight", "mailmux_backend_sessions", "mailmux_backend_draining"]
    {
        assert!(!text.contains(&format!("{gone}{{backend=\"blue\"")), "{gone} in:\n{text}");
    }
    for there in [
        "mailmux_sessions{listener=\"blue-door\"} 1",
        "mailmux_backend_links{backend=\"blue\",state=\"active\"} 1",
        "mailmux_backend_up{backend=\"green\"} 1",
        "mailmux_sessions{listener=\"green-door\"} 0",
        "mailmux_lookup_seconds_count{lookup=\"green-users\",outcome=\"found\"} 0",
    ] {
        assert!(text.contains(there), "{there} is missing in:\n{text}");
    }
    talk(&mut client, &mut call).await;
    // Back for a moment: it counts on where it was.
    mailmux.adopt(folder.path(), &config(&blue, "blue")).await.expect("fine");
    mailmux.until_metric("mailmux_login_seconds_count{backend=\"blue\"}", 1.0).await;
    mailmux.until_metric("mailmux_backend_up{backend=\"blue\"}", 1.0).await;
    mailmux.adopt(folder.path(), &config(&green, "green")).await.expect("fine");
    drop(client);
    call.hear_end().await;
    drop(call);
    soon("all series of blue to go", async {
        while mailmux.get("/metrics", "").await.1.contains("=\"blue") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_change_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let mailmux = Running::start(folder.path(), &one_route(&backend, ""));
    let other = one_route(&backend, "[server]\nworkers = 77\n[log]\nformat = \"json\"\n");
    let words = mailmux.adopt(folder.path(), &other).await.expect_err("they cannot");
    assert!(words.contains("server.workers") && words.contains("log.format"), "{words}");
}

#[tokio::test]
async fn listeners_come_and_go() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let mut mailmux = Running::start(folder.path(), &one_route(&backend, ""));
    let (mut client, mut call) = logged_in(&mailmux, "plain", &backend).await;
    let second = format!("[[listener]]\nname = \"second\"\naddress = \"{free}\"\ntls = \"none\"\n");
    mailmux.adopt(folder.path(), &one_route(&backend, &second)).await.expect("fine");
    mailmux.addresses.insert("second".to_owned(), free);
    let (_there, _call) = logged_in(&mailmux, "second", &backend).await;

    // The same socket under another name, and the first one gone.
    let renamed =
        format!("{second}{}[[route]]\nbackend = \"blue\"\n", backend.section("blue")).replace("second", "only");
    mailmux.adopt(folder.path(), &renamed).await.expect("fine");
    soon("the first to refuse", async {
        while TcpStream::connect(mailmux.at("plain")).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    talk(&mut client, &mut call).await;
    let (mut last, mut last_call) = logged_in(&mailmux, "second", &backend).await;
    talk(&mut last, &mut last_call).await;
    mailmux.until_metric("mailmux_sessions{listener=\"only\"}", 1.0).await;
}

#[tokio::test]
async fn a_port_that_is_taken_keeps_everything_as_it_is() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let mailmux = Running::start(folder.path(), &one_route(&backend, ""));
    let second = format!("[[listener]]\nname = \"second\"\naddress = \"{address}\"\ntls = \"none\"\n");
    let words = mailmux.adopt(folder.path(), &one_route(&backend, &second)).await.expect_err("taken");
    assert!(words.contains(&format!("cannot listen on {address}")), "{words}");
    let (mut client, mut call) = logged_in(&mailmux, "plain", &backend).await;
    talk(&mut client, &mut call).await;
}

#[tokio::test]
async fn who_is_in_is_counted_by_the_limits_that_come() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let mailmux = Running::start(folder.path(), &one_route(&backend, ""));
    let _inside = logged_in(&mailmux, "plain", &backend).await;
    let stricter = one_route(&backend, "[limits]\nsessions_per_user = 1\n");
    mailmux.adopt(folder.path(), &stricter).await.expect("fine");
    let mut client = Client::connect(mailmux.at("plain")).await;
    client.hear(GREETING).await;
    client.say("a LOGIN ann pass\r\n").await;
    let _call = backend.let_in().await;
    client.hear("a NO [LIMIT] Too many sessions of this user.\r\n").await;
}

#[tokio::test]
async fn what_operators_have_done_outlives_a_reload() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let both = |weight: u32| {
        let sections = format!("{}weight = {weight}\n{}", blue.section("blue"), green.section("green"));
        format!(
            "{FRONT}{sections}[[group]]\nname = \"g\"\nmembers = [\"blue\", \"green\"]\nchoose = \"first_healthy\"\n[[route]]\ngroup = \"g\"\n"
        )
    };
    let mailmux = Running::start(folder.path(), &both(1));
    let (mut old, mut old_call) = logged_in(&mailmux, "plain", &blue).await;
    let draining = mailmux.steering.drain("blue", std::time::Duration::from_mins(1));
    let mut draining = Box::pin(draining);
    assert!(futures_pending(&mut draining).await, "somebody is there");
    mailmux.adopt(folder.path(), &both(2)).await.expect("fine");
    let (mut new, mut new_call) = logged_in(&mailmux, "plain", &green).await;
    talk(&mut new, &mut new_call).await;
    talk(&mut old, &mut old_call).await;
    drop((old, old_call));
    soon("the drain to see the last one go", draining).await.expect("it is there");
}

#[tokio::test]
async fn a_held_login_goes_where_the_rules_say_when_it_is_let_in() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let mailmux = Running::start(folder.path(), &one_route(&blue, ""));
    let user = mailmux::imap::UserName::new(&b"ann"[..]).expect("a name");
    mailmux.steering.hold(&user);
    let mut client = Client::connect(mailmux.at("plain")).await;
    client.hear(GREETING).await;
    client.say("a LOGIN ann pass\r\n").await;
    // It has come so far when somebody else's login, sent later, is through.
    let mut other = Client::connect(mailmux.at("plain")).await;
    other.hear(GREETING).await;
    other.say("a LOGIN bob pass\r\n").await;
    let _bobs = blue.let_in().await;
    other.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    mailmux.adopt(folder.path(), &one_route(&green, "")).await.expect("fine");
    assert!(mailmux.steering.release(&user));
    let _anns = green.let_in().await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
}

/// Whether it is not ready when it is asked.
async fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test]
async fn links_that_wait_live_on_if_their_backend_does() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let config = |ttl: &str| one_route(&backend, &format!("pool = \"reuse\"\n[pool]\nreuse_ttl = \"{ttl}\"\n"));
    let mailmux = Running::start(folder.path(), &config("60s"));
    let (mut client, call) = logged_in(&mailmux, "plain", &backend).await;
    client.say("b LOGOUT\r\n").await;
    client.hear("* BYE Logging out\r\nb OK Logout completed.\r\n").await;
    call.answer_everything_with_ok();
    mailmux.until_metric("mailmux_backend_links{backend=\"blue\",state=\"idle\"}", 1.0).await;
    mailmux.adopt(folder.path(), &config("50s")).await.expect("fine");
    let mut again = Client::connect(mailmux.at("plain")).await;
    again.hear(GREETING).await;
    again.say("a LOGIN ann pass\r\n").await;
    again.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    mailmux.until_metric("mailmux_pool_checkouts_total{backend=\"blue\",outcome=\"hit\"}", 1.0).await;
}
