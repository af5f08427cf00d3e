//! `mailmux doctor` before backends with faults that real servers do not have on demand. Real ones: `tests/real/doctor.py`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::support::backend::{Backend, Call};
use crate::support::program::{free_port, mailmux, run, run_by};
use crate::support::{hear_end, show};

const PASSWORD: &str = "hunter2-secret";
/// Longer than any step takes that is well.
const SLOWLY: Duration = Duration::from_millis(2300);

/// How a backend behaves; what is not said here is as it should be.
#[derive(Debug, Clone, Copy)]
struct Manner {
    greeting: Option<&'static str>,
    greets_after: Duration,
    capabilities: &'static str,
    /// The answer to the login, behind the tag.
    login: Option<&'static str>,
    lets_in_after: Duration,
    /// What it announces then.
    then: &'static str,
    inbox: Option<&'static str>,
    opens_after: Duration,
    idle: Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    Well,
    WithoutPlus,
    HangsUp,
    NeverDone,
    Refused,
}

const WELL: Manner = Manner {
    greeting: Some("* OK friendly\r\n"),
    greets_after: Duration::ZERO,
    capabilities: "IMAP4rev1 SASL-IR LITERAL+ ID AUTH=PLAIN",
    login: Some("OK in"),
    lets_in_after: Duration::ZERO,
    then: "IMAP4rev1 IDLE UNSELECT",
    inbox: Some("OK [READ-ONLY] opened"),
    opens_after: Duration::ZERO,
    idle: Idle::Well,
};

impl Manner {
    async fn serve(self, mut call: Call) {
        sleep(self.greets_after).await;
        let Some(greeting) = self.greeting else {
            call.hear_end().await;
            return;
        };
        call.say(greeting.as_bytes()).await;
        let mut inside = false;
        while let Some(command) = heard(&mut call).await {
            let word = command.split(' ').next().unwrap_or_default();
            let answer = match word {
                "CAPABILITY" => {
                    let list = if inside { self.then } else { self.capabilities };
                    call.say(format!("* CAPABILITY {list}\r\n").as_bytes()).await;
                    "OK"
                }
                "LOGIN" | "AUTHENTICATE" => {
                    sleep(self.lets_in_after).await;
                    let Some(answer) = self.login else {
                        call.hear_end().await;
                        return;
                    };
                    inside = answer.starts_with("OK");
                    answer
                }
                "EXAMINE" => {
                    sleep(self.opens_after).await;
                    self.inbox.unwrap_or("OK")
                }
                "IDLE" => match self.idle {
                    Idle::Refused => "NO not today",
                    Idle::WithoutPlus => {
                        call.hear_end().await;
                        return;
                    }
                    Idle::HangsUp => {
                        call.say(b"+ idling\r\n* 1 EXISTS\r\n").await;
                        return;
                    }
                    Idle::Well | Idle::NeverDone => {
                        call.say(b"+ idling\r\n* 1 EXISTS\r\n").await;
                        call.hear(b"DONE\r\n").await;
                        if self.idle == Idle::NeverDone {
                            call.hear_end().await;
                            return;
                        }
                        "OK done"
                    }
                },
                _ => "OK",
            };
            call.say(format!("{} {answer}\r\n", call.tag).as_bytes()).await;
        }
    }
}

/// The next command, until the caller hangs up.
async fn heard(call: &mut Call) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(call.tcp.read_u8().await.ok()?);
    }
    let line = String::from_utf8(line).ok()?;
    let (tag, command) = line.trim_end().split_once(' ')?;
    tag.clone_into(&mut call.tag);
    Some(command.to_owned())
}

struct World {
    folder: TempDir,
}

impl World {
    /// With this backend alone; its listener is not there.
    fn new(section: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let config = format!(
            "[[listener]]\nname = \"plain\"\naddress = \"{}\"\ntls = \"none\"\n[timeouts]\nbackend_connect = \"1s\"\n\
             backend_login = \"3s\"\n{section}[[route]]\nbackend = \"blue\"\n{more}",
            free_port()
        );
        std::fs::write(folder.path().join("mailmux.toml"), config).expect("written");
        std::fs::write(folder.path().join("password"), PASSWORD).expect("written");
        Self { folder }
    }

    async fn before(manner: Manner) -> Self {
        let backend = Backend::listen().await;
        let world = Self::new(&backend.section("blue"), "");
        backend.each_call(move |call| manner.serve(call));
        world
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_str().expect("UTF-8").to_owned()
    }

    /// What it says of the backend and of the login there: the kinds, and all of its words.
    async fn examined(&self, words: &[&str]) -> (BTreeSet<String>, String) {
        let (config, password) = (self.path("mailmux.toml"), self.path("password"));
        let mut arguments = vec!["doctor", "--config", &config, "--json", "--timeout", "3s", "--idle", "100ms"];
        arguments.extend(["--user", "ann", "--password-file", &password]);
        arguments.extend(words);
        let (_, said, complaints) = run_by(mailmux().args(arguments)).await;
        assert_eq!(complaints, "");
        assert!(!said.contains(PASSWORD), "{said}");
        let report: Value = serde_json::from_str(&said).expect("JSON");
        let troubles = report["troubles"].as_array().expect("troubles");
        let of_the_backend =
            troubles.iter().filter(|trouble| trouble["section"] == "backend" || trouble["section"] == "login");
        let kinds = of_the_backend.map(|trouble| trouble["kind"].as_str().expect("a kind").to_owned());
        (kinds.collect(), said)
    }
}

/// What is found at a backend, but for what is slow: that depends on the machine that tests.
async fn found(manner: Manner) -> (BTreeSet<String>, String) {
    let (kinds, said) = World::before(manner).await.examined(&[]).await;
    (kinds.into_iter().filter(|kind| !kind.starts_with("slow_")).collect(), said)
}

async fn finds(manner: Manner, kinds: &[&str]) -> String {
    let (found, said) = found(manner).await;
    assert_eq!(found, kinds.iter().map(|kind| (*kind).to_owned()).collect(), "{manner:?}: {said}");
    said
}

#[tokio::test]
async fn a_backend_that_is_well() {
    let said = finds(WELL, &[]).await;
    assert!(said.contains("let in as ann") && said.contains("begins with + and holds"), "{said}");
}

#[tokio::test]
async fn it_cannot_connect() {
    let cases: [(Option<&'static str>, &str); 5] = [
        (None, "no_greeting"),
        (Some("* BYE too many of you\r\n"), "bye"),
        (Some("* PREAUTH welcome\r\n"), "preauth"),
        (Some("220 mail.example.org ESMTP\r\n"), "no_imap"),
        (Some("* OK \x1b[31mred\r\n"), ""),
    ];
    for (greeting, kind) in cases {
        let kinds: &[&str] = if kind.is_empty() { &[] } else { &[kind] };
        let said = finds(Manner { greeting, ..WELL }, kinds).await;
        assert!(!said.contains("\\u001b"), "what peers say is escaped: {said}");
    }
}

#[tokio::test]
async fn it_does_not_sync() {
    finds(Manner { then: "IMAP4rev1 UNSELECT", ..WELL }, &["no_idle"]).await;
    for (idle, kind) in [
        (Idle::WithoutPlus, "idle_silent"),
        (Idle::NeverDone, "idle_silent"),
        (Idle::HangsUp, "idle_broke"),
        (Idle::Refused, "idle_refused"),
    ] {
        finds(Manner { idle, ..WELL }, &[kind]).await;
    }
    let said = finds(Manner { inbox: Some("NO [SERVERBUG] the index is gone"), ..WELL }, &["inbox_refused"]).await;
    assert!(said.contains("the index is gone"), "in the server's own words: {said}");
}

#[tokio::test]
async fn links_cannot_be_used_again_without_unselect() {
    let backend = Backend::listen().await;
    let world = World::new(&backend.section("blue"), "pool = \"reuse\"\n");
    backend.each_call(|call| Manner { then: "IMAP4rev1 IDLE", ..WELL }.serve(call));
    let (kinds, said) = world.examined(&[]).await;
    assert!(kinds.contains("no_unselect"), "{said}");
}

#[tokio::test]
async fn it_is_slow() {
    for (manner, kind) in [
        (Manner { greets_after: SLOWLY, ..WELL }, "slow_greeting"),
        (Manner { lets_in_after: SLOWLY, ..WELL }, "slow_login"),
        (Manner { opens_after: SLOWLY, ..WELL }, "slow_inbox"),
    ] {
        let (kinds, said) = World::before(manner).await.examined(&[]).await;
        assert!(kinds.contains(kind), "{kind}: {said}");
    }
}

#[tokio::test]
async fn logins_are_refused() {
    let disabled = Manner { capabilities: "IMAP4rev1 LOGINDISABLED", ..WELL };
    finds(disabled, &["login_disabled", "mechanism"]).await;
    finds(Manner { login: Some("NO [EXPIRED] pay first"), ..WELL }, &["backend_refuses"]).await;
    finds(Manner { login: Some("NO [UNAVAILABLE] later"), ..WELL }, &["backend_unavailable"]).await;
    finds(Manner { login: Some("NO [LIMIT] you have ten"), ..WELL }, &["backend_limit"]).await;
    finds(Manner { login: None, ..WELL }, &["login_silent"]).await;
    let said = finds(Manner { login: Some("NO no ann here"), ..WELL }, &["wrong_password"]).await;
    assert!(said.contains("no ann here"), "{said}");
}

#[tokio::test]
async fn a_password_that_is_repeated_is_not_shown() {
    let said = finds(Manner { login: Some("NO HUNTER2-secret is wrong"), ..WELL }, &["wrong_password"]).await;
    assert!(said.contains("its words repeat the password") && !said.to_lowercase().contains(PASSWORD), "{said}");
}

/// A mailmux that tells of itself by the rules of the API.
async fn telling(answers: &'static [(&'static str, &'static str)]) -> std::net::SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = socket.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = tcp.read_u8().await else { break };
                head.push(byte);
            }
            let head = show(&head);
            let path = head.split(' ').nth(1).unwrap_or_default();
            let found = answers.iter().find(|(known, _)| path == *known);
            let (status, body) = found.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", *body));
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = tcp.write_all(answer.as_bytes()).await;
            hear_end(&mut tcp, "the admin port").await;
        }
    });
    address
}

#[tokio::test]
async fn what_the_running_one_knows() {
    let admin = telling(&[
        ("/healthz", "ok"),
        ("/readyz", "ready"),
        ("/metrics", "process_max_fds 1024\nprocess_open_fds 1000\nmailmux_sessions{listener=\"plain\"} 3\n"),
        ("/api/v1/config", r#"{"file": "FILE", "loaded_at": 1.5, "toml": ""}"#),
        (
            "/api/v1/users/ann",
            r#"{"user": "ann", "sessions": 50, "held_until_at": 2e9, "moved_to": "green", "session_list": []}"#,
        ),
        (
            "/api/v1/limits?limit=1000",
            r#"{"held": [{"kind": "user", "key": "ann", "limit": "failures_per_user", "failures": 12}]}"#,
        ),
        (
            "/api/v1/users/ann/route?listener=plain&client=127.0.0.1",
            r#"{"steps": [], "backend": null, "error": "no rule sends this user anywhere"}"#,
        ),
        (
            "/api/v1/backends/blue",
            r#"{"name": "blue", "state": "down", "health": {"up": false, "reason": "no greeting\u001b"}, "links": 0}"#,
        ),
    ])
    .await;
    let backend = Backend::listen().await;
    let section = format!("{}[limits]\nsessions = 400\n[admin]\naddress = \"{admin}\"\n", backend.section("blue"));
    let world = World::new(&section, "");
    backend.each_call(|call| WELL.serve(call));
    let config = world.path("mailmux.toml");
    let (code, said, _) = run(&["doctor", "--config", &config, "--json", "--user", "ann"]).await;
    assert_eq!(code, Some(1));
    let report: Value = serde_json::from_str(&said).expect("JSON");
    let troubles = report["troubles"].as_array().expect("troubles");
    let kinds: BTreeSet<_> = troubles.iter().map(|trouble| trouble["kind"].as_str().expect("a kind")).collect();
    for kind in [
        "descriptors_used_up",
        "other_configuration",
        "held",
        "limited_sessions_per_user",
        "limited_failures",
        "no_route",
        "backend_down",
        "refused",
    ] {
        assert!(kinds.contains(kind), "{kind}: {said}");
    }
    assert!(said.contains("by hand to green") && !said.contains("\\u001b"), "{said}");
}
