//! What a running server says of itself over its admin port, and what can be changed there: limits, lookups, certificates, its
//! configuration, its log.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use mailmux::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::backend::Backend;
use crate::support::certs::Authority;
use crate::support::client::{Client, GREETING};
use crate::support::program::Program;
use crate::support::server::{Running, ask};
use crate::support::soon;

const FRONT: &str = "[admin]\naddress = \"127.0.0.1:0\"\nsocket = \"admin.sock\"\n\
                     [[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n";
const TOO_MANY: &str = "a NO [LIMIT] Too many failed logins, try again later.\r\n";

/// A server that is asked over a socket.
struct Asked {
    folder: TempDir,
    server: Running,
}

impl Asked {
    fn start(folder: TempDir, config: &str) -> Self {
        let server = Running::start(folder.path(), &format!("{FRONT}{config}"));
        Self { folder, server }
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        ask(&self.folder.path().join("admin.sock"), method, path).await
    }

    /// What it says where all is well.
    async fn said(&self, method: &str, path: &str) -> Value {
        let (status, said) = self.ask(method, path).await;
        assert_eq!(status, 200, "{method} {path}: {said}");
        said
    }

    /// These requests are refused with this status and a word on why.
    async fn refuses(&self, status: u16, method: &str, paths: &[&str]) {
        for path in paths {
            let (found, said) = self.ask(method, path).await;
            assert_eq!(found, status, "{path}: {said}");
            assert!(said["error"].as_str().is_some_and(|why| !why.is_empty()), "{path}: {said}");
        }
    }

    async fn client(&self) -> Client<TcpStream> {
        let mut client = Client::connect(self.server.at("plain")).await;
        client.hear(GREETING).await;
        client
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64()
}

fn about(value: &Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|value| (value - expected).abs() < 60.0)
}

#[tokio::test]
async fn who_guesses_is_held_shown_with_the_reason_and_pardoned() {
    let backend = Backend::listen().await;
    let config = format!(
        "{}[[route]]\nbackend = \"blue\"\n[limits]\nexempt = []\nfailures_per_network = {{ rate = \"1/h\", burst = 2 }}\n\
         failures_per_user = {{ rate = \"1/h\", burst = 2 }}\n",
        backend.section("blue")
    );
    let asked = Asked::start(folder(), &config);
    assert_eq!(asked.said("GET", "/limits").await, json!({ "total": 0, "next": null, "held": [] }));
    let mut client = asked.client().await;
    for guess in ["one", "two"] {
        client.say(format!("a LOGIN Ann {guess}\r\n")).await;
        let mut call = backend.accept().await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] x\r\n").await;
        call.hear_command().await;
        call.say(format!("{} NO\r\n", call.tag).as_bytes()).await;
        client.hear("a NO [AUTHENTICATIONFAILED] Authentication failed.\r\n").await;
    }
    client.say("a LOGIN ann right\r\n").await;
    client.hear(TOO_MANY).await;

    let mut page = asked.said("GET", "/limits").await;
    for held in page["held"].as_array_mut().expect("a list") {
        assert!(about(&held["since_at"].take(), now()) && about(&held["until_at"].take(), now() + 3600.0), "{held}");
    }
    let network = json!({ "kind": "network", "key": "127.0.0.1", "limit": "failures_per_network", "failures": 2,
        "since_at": null, "until_at": null, "reason": "2 distinct wrong passwords from this network" });
    let user = json!({ "kind": "user", "key": "ann", "limit": "failures_per_user", "failures": 2,
        "since_at": null, "until_at": null, "reason": "2 distinct wrong passwords for this user" });
    assert_eq!(page, json!({ "total": 2, "next": null, "held": [network, user] }));
    // The same in two pages.
    let first = asked.said("GET", "/limits?limit=1").await;
    let next = first["next"].as_str().expect("there is more");
    assert_eq!(
        (&first["total"], &first["held"][0]["key"], &first["held"][1]),
        (&json!(2), &json!("127.0.0.1"), &Value::Null)
    );
    let second = asked.said("GET", &format!("/limits?limit=1&after={next}")).await;
    assert_eq!(
        (&second["total"], &second["held"][0]["key"], &second["next"]),
        (&json!(2), &json!("ann"), &Value::Null)
    );

    assert_eq!(asked.said("POST", "/limits/pardon?network=127.0.0.0/8").await, json!({ "pardoned": 1 }));
    client.say("a LOGIN ann right\r\n").await;
    client.hear(TOO_MANY).await;
    assert_eq!(asked.said("POST", "/limits/pardon?user=ANN").await, json!({ "pardoned": 1 }));
    assert_eq!(asked.said("POST", "/limits/pardon?user=ann").await, json!({ "pardoned": 0 }));
    assert_eq!(asked.said("GET", "/limits").await["total"], 0);
    client.say("a LOGIN ann right\r\n").await;
    let _call = backend.let_in().await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;

    let reads = ["/limits?limit=0", "/limits?limit=1001", "/limits?limit=x", "/limits?after=x", "/limits?after=99.00"];
    asked.refuses(400, "GET", &reads).await;
    let changes = ["", "?network=127.0.0.1&user=ann", "?network=here", "?network=10.0.0.1/8", "?user=", "?user=a%0Ab"];
    asked
        .refuses(400, "POST", &changes.map(|change| format!("/limits/pardon{change}")).each_ref().map(String::as_str))
        .await;
}

/// A responder that sends everybody to this backend and counts how often it is asked.
async fn responder(backend: &Backend) -> (String, Arc<AtomicUsize>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/auth?key=hunter2", socket.local_addr().expect("bound"));
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, to) = (Arc::clone(&asked), backend.address);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = socket.accept().await {
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                let Ok(byte) = tcp.read_u8().await else { break };
                question.push(byte);
            }
            count.fetch_add(1, Ordering::SeqCst);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\nContent-Length: 0\r\n\
                 Connection: close\r\n\r\n",
                to.ip(),
                to.port()
            );
            let _ = tcp.write_all(answer.as_bytes()).await;
        }
    });
    (url, asked)
}

#[tokio::test]
async fn a_flush_makes_the_next_login_ask_again() {
    let (backend, folder) = (Backend::listen().await, folder());
    let (url, questions) = responder(&backend).await;
    std::fs::write(folder.path().join("users.map"), "bob\tblue\n").expect("written");
    let config = format!(
        "{}[[lookup]]\nname = \"map\"\ntype = \"file\"\npath = \"users.map\"\n\
         [[lookup]]\nname = \"web\"\ntype = \"http\"\nurl = \"{url}\"\n\
         [[route]]\nlookup = \"map\"\n[[route]]\nlookup = \"web\"\n",
        backend.section("blue")
    );
    let asked = Asked::start(folder, &config);
    let log_in = async |user: &str| {
        let mut client = asked.client().await;
        client.say(format!("a LOGIN {user} pass\r\n")).await;
        let _call = backend.let_in().await;
        client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
        questions.load(Ordering::SeqCst)
    };
    assert_eq!((log_in("ann").await, log_in("Ann").await, log_in("bob").await), (1, 1, 1));
    let map = json!({ "name": "map", "kind": "file", "cached": false, "entries": null,
        "answers": { "found": 1, "unknown": 2, "refused": 0, "failed": 0 },
        "cache": { "hit": 0, "miss": 0, "shared": 0, "stale": 0 } });
    let web = json!({ "name": "web", "kind": "http", "cached": true, "entries": 1,
        "answers": { "found": 2, "unknown": 0, "refused": 0, "failed": 0 },
        "cache": { "hit": 1, "miss": 1, "shared": 0, "stale": 0 } });
    assert_eq!(asked.said("GET", "/lookups").await, json!({ "lookups": [map, web] }));

    assert_eq!(asked.said("POST", "/lookups/flush?user=an").await, json!({ "flushed": 0 }));
    assert_eq!(asked.said("POST", "/lookups/flush?lookup=map").await, json!({ "flushed": 0 }));
    assert_eq!(log_in("ann").await, 1, "nothing of hers was forgotten");
    assert_eq!(asked.said("POST", "/lookups/flush?user=ANN&lookup=web").await, json!({ "flushed": 1 }));
    assert_eq!(asked.said("GET", "/lookups").await["lookups"][1]["entries"], 0);
    assert_eq!((log_in("ann").await, log_in("cid").await), (2, 3));
    assert_eq!(asked.said("POST", "/lookups/flush").await, json!({ "flushed": 2 }));
    assert_eq!((log_in("ann").await, log_in("cid").await), (4, 5));
    asked.refuses(404, "POST", &["/lookups/flush?lookup=nowhere"]).await;
    asked.refuses(400, "POST", &["/lookups/flush?user="]).await;
}

#[tokio::test]
async fn certificates_are_told_of_as_clients_meet_them() {
    let folder = folder();
    let authority = Authority::new();
    authority.issue_server(folder.path(), "mail", &["mail.example.org", "*.mail.example.org"]);
    let config = "[[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:0\"\n\
                  [[tls.certificate]]\nchain = \"mail.pem\"\nkey = \"mail.key\"\n[[route]]\nreject = \"No.\"\n";
    let asked = Asked::start(folder, config);
    let said = asked.said("GET", "/certificates").await;
    let certificates = said["certificates"].as_array().expect("a list");
    let [one] = &certificates[..] else { panic!("{said}") };
    assert_eq!((&one["name"], &one["key"]), (&json!("mail"), &json!("ECDSA P-256")));
    assert_eq!(one["names"], json!(["mail.example.org", "*.mail.example.org"]));
    assert_eq!(one["file"], asked.folder.path().join("mail.pem").display().to_string());
    assert!(one["issuer"].as_str().is_some_and(|issuer| issuer.contains('=')), "{one}");
    let [from, to] = ["not_before_at", "not_after_at"].map(|key| one[key].as_f64().expect("a moment"));
    assert!(from < now() && to > now(), "{one}");
    let days = one["days_left"].as_f64().expect("a number");
    assert!((days - (to - now()) / 86_400.0).abs() <= 1.0, "{one}");

    let without = Asked::start(self::folder(), "[[route]]\nreject = \"No.\"\n");
    assert_eq!(without.said("GET", "/certificates").await, json!({ "certificates": [] }));
}

#[tokio::test]
async fn the_configuration_is_shown_as_it_is_in_use_without_its_secrets() {
    let route = "# hunter2\n[[route]] # hunter2\nreject = \"No.\"\n";
    let lookup = "[[lookup]]\nname = \"web\"\ntype = \"http\"\nurl = \"http://127.0.0.1/auth?key=hunter2\"\n\
                  headers = { X-Key = \"hunter2\" }\n";
    let asked = Asked::start(folder(), &format!("{route}{lookup}"));
    let said = asked.said("GET", "/config").await;
    let file = asked.folder.path().join("mailmux.toml");
    assert_eq!(said["file"], file.display().to_string());
    assert!(about(&said["loaded_at"], now()), "{said}");
    let text = said["toml"].as_str().expect("text");
    assert!(!text.contains("hunter2"), "{text}");
    for line in
        ["[[route]]", "reject = \"No.\"", "url = \"http://127.0.0.1/auth?key=***\"", "headers = { X-Key = \"***\" }"]
    {
        assert!(text.lines().any(|shown| shown == line), "{line} in:\n{text}");
    }
    // What stands in the file is not in use before a reload.
    let other = Running::complete(&format!("{FRONT}[[route]]\nreject = \"Closed.\"\n"));
    std::fs::write(&file, &other).expect("written");
    assert_eq!(asked.said("GET", "/config").await["toml"], text);
    let config = Config::load(&file).unwrap_or_else(|findings| panic!("{findings}"));
    asked.server.steering.adopt(config).await.expect("fine");
    let text = asked.said("GET", "/config").await["toml"].as_str().expect("text").to_owned();
    assert!(text.contains("Closed.") && !text.contains("No."), "{text}");
    asked.refuses(409, "POST", &["/log-level?to=debug"]).await;
}

#[tokio::test]
async fn how_much_is_logged_is_changed_and_comes_back_by_itself_and_by_a_reload() {
    let folder = folder();
    let backend = Backend::listen().await;
    let config = format!("{}[[route]]\nbackend = \"blue\"\n[log]\nlevel = \"info\"\n", backend.section("blue"));
    let file: PathBuf = folder.path().join("mailmux.toml");
    let mut program = Program::start_with(folder.path(), &config, |command| {
        let text = std::fs::read_to_string(&file).expect("written before");
        std::fs::write(&file, text.replace("[admin]\n", "[admin]\nsocket = \"admin.sock\"\n")).expect("written");
        command
    })
    .await;
    let socket = folder.path().join("admin.sock");
    let set = async |query: &str| ask(&socket, "POST", &format!("/log-level{query}")).await;
    let session = async |program: &Program, count: f64| {
        backend.session(program.address).await;
        program.until_metric("mailmux_sessions_closed_total{reason=\"closed\",side=\"client\"}", count).await;
    };
    assert_eq!(set("?to=error").await, (200, json!({ "level": "error" })));
    session(&program, 1.0).await;
    // Told of at the level that is there then: the session's line would stand before it.
    assert_eq!(set("?to=info").await, (200, json!({ "level": "info" })));
    program.line_with("the log's level was chosen").await;
    assert!(!program.lines.concat().contains("session closed"), "{:#?}", program.lines);
    session(&program, 2.0).await;
    program.line_with("session closed").await;

    assert_eq!(set("?to=error&for=10ms").await, (200, json!({ "level": "error" })));
    program.line_with("the log's level is the configured one again").await;
    session(&program, 3.0).await;
    program.line_with("session closed").await;

    assert_eq!(set("?to=error&for=1h").await, (200, json!({ "level": "error" })));
    program.signal("-HUP");
    soon("the reload", program.line_with("the configuration was reloaded")).await;
    for query in ["", "?to=loud", "?to=", "?for=5m", "?to=info&for=5"] {
        let (status, said) = set(query).await;
        assert!(status == 400 && said["error"].is_string(), "{query}: {status} {said}");
    }
}
