//! What a caller of the admin port sees of sessions and users, and whom it can kick. Clients come from wherever a balancer
//! says.

use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::backend::{Backend, Call};
use crate::support::certs::Authority;
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::{show, soon};

const KICKED: &str = "* BYE Closed by the administrator.\\r\\n";
const TOKEN: &str = "Authorization: Bearer s3cret\r\n";

struct World {
    server: Running,
    authority: Authority,
    _folder: TempDir,
}

impl World {
    /// Users whose names begin with a `b` are at `blue`, the others at `green`.
    async fn new(more: &str) -> Self {
        let (blue, green) = (Backend::listen().await, Backend::listen().await);
        let folder = tempfile::tempdir().expect("a scratch folder");
        let authority = Authority::new();
        authority.write(folder.path());
        authority.issue_server(folder.path(), "default", &["mail.example.org"]);
        std::fs::write(folder.path().join("token"), "s3cret\n").expect("written");
        let config = format!(
            "[[listener]]\nname = \"balanced\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nallow_plaintext = true\n\
             proxy_protocol_from = [\"127.0.0.0/8\"]\n\
             [[listener]]\nname = \"imaps\"\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n\
             [[tls.certificate]]\nchain = \"default.pem\"\nkey = \"default.key\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"token\"\n\
             [limits]\nsessions_per_user = 0\nsessions_per_network = 0\nlogins_per_user = \"off\"\nconnects_per_network = \"off\"\n\
             {}{}[[route]]\nuser = \"b*\"\nbackend = \"blue\"\n{more}\n[[route]]\nbackend = \"green\"\n{more}\n",
            blue.section("blue"),
            green.section("green")
        );
        blue.each_call(serve);
        green.each_call(serve);
        Self { server: Running::start(folder.path(), &config), authority, _folder: folder }
    }

    /// A client at this address, logged in.
    async fn log_in(&self, user: &str, client: &str) -> Client<TcpStream> {
        log_in(self.server.at("balanced"), user, client).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        ask(self.server.admin, "GET", path).await
    }

    async fn post(&self, path: &str) -> (u16, Value) {
        ask(self.server.admin, "POST", path).await
    }

    /// What is said of all sessions that match.
    async fn sessions(&self, query: &str) -> Vec<Value> {
        let (status, answer) = self.get(&format!("/api/v1/sessions?{query}")).await;
        assert_eq!(status, 200, "{answer}");
        let sessions = answer["sessions"].as_array().expect("a list").clone();
        assert_eq!((&answer["total"], &answer["next"]), (&json!(sessions.len()), &Value::Null), "{query}");
        sessions
    }

    /// Whose sessions match.
    async fn users(&self, query: &str) -> Vec<String> {
        self.sessions(query).await.iter().map(|session| text(session, "user")).collect()
    }

    /// The first session of a user, once it says this of it.
    async fn until(&self, user: &str, key: &str, value: Value) -> Value {
        soon(&format!("{key} to be {value}"), async {
            loop {
                let session = self.sessions(&format!("user={user}")).await.swap_remove(0);
                if session[key] == value {
                    return session;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

/// One session at a backend that takes everybody.
async fn serve(mut call: Call) {
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
    let (read, mut write) = call.tcp.split();
    let (mut lines, mut idle) = (BufReader::new(read).lines(), String::new());
    while let Ok(Some(line)) = lines.next_line().await {
        let (tag, command) = line.split_once(' ').unwrap_or((&idle, &line));
        let answer = match command {
            "IDLE" => "+ idling\r\n".to_owned(),
            "LOGOUT" => format!("* BYE bye\r\n{tag} OK out\r\n"),
            _ if command.starts_with("AUTHENTICATE") => format!("{tag} OK [CAPABILITY IMAP4rev1 UNSELECT IDLE] in\r\n"),
            _ => format!("{tag} OK done\r\n"),
        };
        let _ = write.write_all(answer.as_bytes()).await;
        if command == "IDLE" {
            idle = tag.to_owned();
        }
    }
}

async fn log_in(address: SocketAddr, user: &str, client: &str) -> Client<TcpStream> {
    let (from, port) = client.rsplit_once(':').expect("a port");
    let mut client = Client::connect(address).await;
    client.say(format!("PROXY TCP4 {from} 192.0.2.250 {port} 143\r\n")).await;
    client.hear(GREETING).await;
    client.say(format!("a LOGIN {user} pass\r\n")).await;
    client.hear("a OK [CAPABILITY IMAP4rev1 UNSELECT IDLE] in\r\n").await;
    client
}

/// Asks the admin port as somebody who may; status and answer.
async fn ask(admin: SocketAddr, method: &str, path: &str) -> (u16, Value) {
    let mut tcp = TcpStream::connect(admin).await.expect("the admin port");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{TOKEN}Content-Length: 0\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    soon("the admin port's answer", tcp.read_to_string(&mut answer)).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("\r\ncontent-type: application/json"), "{head}");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).expect("JSON"))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}")).to_owned()
}

async fn is_alive(client: &mut Client<TcpStream>) {
    client.say("n NOOP\r\n").await;
    client.hear("n OK done\r\n").await;
}

#[tokio::test]
async fn a_session_is_shown_as_it_is() {
    let world = World::new("").await;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_secs_f64();
    let mut bob = world.log_in("Bob", "192.0.2.7:4711").await;
    let mut session = world.sessions("").await.swap_remove(0);
    let number = |value: Value| value.as_f64().expect("a number");
    let (since, lasted) = (number(session["since_at"].take()), number(session["duration_seconds"].take()));
    let quiet = number(session["quiet_seconds"].take());
    assert!(since > before - 1.0 && since < before + 60.0, "{since} after {before}");
    assert!((0.0..60.0).contains(&lasted) && (0.0..=lasted).contains(&quiet), "{quiet} of {lasted}");
    let id = session["id"].take();
    assert_eq!(id.as_str().map(str::len), Some(16));
    let mut expected = json!({
        "id": null, "user": "bob", "client": "192.0.2.7", "client_port": 4711, "listener": "balanced",
        "backend": "blue", "mechanism": "LOGIN-COMMAND", "tls": null, "state": "active", "since_at": null,
        "duration_seconds": null, "quiet_seconds": null, "bytes_to_client": 0, "bytes_to_backend": 0,
    });
    assert_eq!(session, expected);

    is_alive(&mut bob).await;
    session = world.until("bob", "bytes_to_client", json!(11)).await;
    expected["bytes_to_client"] = json!(11);
    expected["bytes_to_backend"] = json!(8);
    assert_eq!(session["id"], id);
    assert_eq!(session["bytes_to_backend"], 8);
    for key in ["id", "since_at", "duration_seconds", "quiet_seconds"] {
        session[key].take();
    }
    assert_eq!(session, expected);

    let client = Client::connect(world.server.at("imaps")).await;
    let mut ann = client.secure(world.authority.client(&[], None), "mail.example.org").await.expect("secured");
    ann.hear(GREETING).await;
    ann.say("a AUTHENTICATE PLAIN AGFubgBwYXNz\r\n").await;
    ann.hear("a OK [CAPABILITY IMAP4rev1 UNSELECT IDLE] in\r\n").await;
    let session = world.sessions("user=ann").await.swap_remove(0);
    let shown = ["client", "listener", "backend", "mechanism", "tls"].map(|key| text(&session, key));
    assert_eq!(shown, ["127.0.0.1", "imaps", "green", "PLAIN", "1.3"]);
    drop(bob);
    soon("bob to be gone", async {
        while world.users("").await != ["ann"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_waits_in_idle_is_shown_as_idle() {
    let world = World::new("").await;
    let mut ann = world.log_in("ann", "192.0.2.1:1").await;
    let mut bob = world.log_in("bob", "192.0.2.2:2").await;
    ann.say("i IDLE\r\n").await;
    ann.hear("+ idling\r\n").await;
    world.until("ann", "state", json!("idle")).await;
    is_alive(&mut bob).await;
    assert_eq!(world.users("state=idle").await, ["ann"]);
    assert_eq!(world.users("state=active").await, ["bob"]);
    ann.say("DONE\r\n").await;
    ann.hear("i OK done\r\n").await;
    world.until("ann", "state", json!("active")).await;
}

/// A server that sends everybody to this backend.
fn in_front_of(backend: &Backend, folder: &Path) -> Running {
    std::fs::write(folder.join("token"), "s3cret\n").expect("written");
    let config = format!(
        "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"token\"\n{}[[route]]\nbackend = \"blue\"\n",
        backend.section("blue")
    );
    Running::start(folder, &config)
}

#[tokio::test]
async fn a_login_under_way_is_shown() {
    let silent = Backend::listen().await;
    let folder = tempfile::tempdir().expect("a scratch folder");
    let server = in_front_of(&silent, folder.path());
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    let (_, nobody) = ask(server.admin, "GET", "/api/v1/sessions").await;
    assert_eq!(nobody, json!({ "total": 0, "next": null, "sessions": [] }), "it has not said who it is");
    client.say("a LOGIN ann pass\r\n").await;
    let mut call = silent.accept().await;
    let (_, answer) = ask(server.admin, "GET", "/api/v1/sessions?state=logging_in").await;
    assert_eq!(text(&answer["sessions"][0], "user"), "ann", "{answer}");
    assert_eq!(text(&answer["sessions"][0], "backend"), "blue");
    // Who is kicked now hears it once it is in.
    let (_, kicked) = ask(server.admin, "POST", "/api/v1/users/ann/kick").await;
    assert_eq!(kicked, json!({ "dismissed": 1 }));
    call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
    call.hear_command().await;
    call.say(format!("{} OK [CAPABILITY IMAP4rev1 IDLE] in\r\n", call.tag).as_bytes()).await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    assert_eq!(show(&client.hear_end().await), KICKED);
}

#[tokio::test]
async fn sessions_are_filtered() {
    let world = World::new("").await;
    let mut clients = Vec::new();
    for (user, client) in [
        ("ann", "10.1.0.1:1"),
        ("bob", "10.1.0.2:2"),
        ("ann", "10.2.0.1:3"),
        ("cid", "192.0.2.1:4"),
        ("bea", "10.1.0.1:5"),
    ] {
        clients.push(world.log_in(user, client).await);
    }
    let id = text(&world.sessions("user=cid").await[0], "id");
    for (query, expected) in [
        ("", &["ann", "bob", "ann", "cid", "bea"][..]),
        ("user=ANN", &["ann", "ann"]),
        ("user=nobody", &[]),
        ("network=10.0.0.0/8", &["ann", "bob", "ann", "bea"]),
        ("network=10.1.0.1", &["ann", "bea"]),
        ("backend=blue", &["bob", "bea"]),
        ("backend=red", &[]),
        ("backend=blue&network=10.1.0.1", &["bea"]),
        ("user=ann&network=10.2.0.0/16&backend=green&listener=balanced&state=active", &["ann"]),
        ("listener=imaps", &[]),
        ("listener=balanced", &["ann", "bob", "ann", "cid", "bea"]),
        (&format!("id={id}"), &["cid"]),
        (&format!("id={id}&user=ann"), &[]),
    ] {
        assert_eq!(world.users(query).await, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_everybody_who_stays_once() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("four descriptors for each of them");
    let world = World::new("").await;
    let address = world.server.at("balanced");
    let mut staying = Vec::new();
    for number in 0..250 {
        staying.push(log_in(address, &format!("stay{number}"), "192.0.2.1:1").await);
        if number % 10 == 0 {
            // Gone again before the pages are read, or while they are.
            log_in(address, "gone", "192.0.2.2:2").await.say("z LOGOUT\r\n").await;
        }
    }
    let crowd = tokio::spawn(async move {
        loop {
            let mut client = log_in(address, "comes", "192.0.2.3:3").await;
            client.say("z LOGOUT\r\n").await;
            client.hear_end().await;
        }
    });
    for filter in ["", "&network=192.0.2.0/24"] {
        let (mut after, mut seen) = (String::new(), Vec::new());
        loop {
            let (_, page) = world.get(&format!("/api/v1/sessions?limit=16{filter}{after}")).await;
            assert!(page["total"].as_u64().is_some_and(|total| total >= 250), "{page}");
            let sessions = page["sessions"].as_array().expect("a list");
            seen.extend(sessions.iter().map(|session| text(session, "user")).filter(|user| user.starts_with("stay")));
            let Some(next) = page["next"].as_str() else { break };
            assert_eq!(sessions.len(), 16);
            after = format!("&after={next}");
        }
        let everybody: Vec<_> = (0..250).map(|number| format!("stay{number}")).collect();
        assert_eq!(seen, everybody, "in the order in which they came");
    }
    crowd.abort();
}

#[tokio::test]
async fn who_matches_is_kicked_and_nobody_else() {
    let world = World::new("").await;
    for (query, met) in [
        ("user=ann", &[0, 2][..]),
        ("network=10.1.0.0/16", &[0, 1, 4]),
        ("network=192.0.2.1", &[3]),
        ("backend=blue", &[1, 4]),
        ("user=ann&network=10.1.0.0/16", &[0]),
        ("backend=blue&network=10.1.0.1&user=bea", &[4]),
        ("user=ann&backend=blue", &[]),
        ("id=ID&user=CID", &[3]),
        ("id=ID&user=ann", &[]),
        ("id=nobodys", &[]),
    ] {
        let mut clients = Vec::new();
        for (user, client) in [
            ("ann", "10.1.0.1:1"),
            ("bob", "10.1.0.2:2"),
            ("ann", "10.2.0.1:3"),
            ("cid", "192.0.2.1:4"),
            ("bea", "10.1.0.1:5"),
        ] {
            clients.push(world.log_in(user, client).await);
        }
        let id = text(&world.sessions("user=cid").await[0], "id");
        let (status, answer) =
            world.post(&format!("/api/v1/sessions/kick?{}", query.replace("ID&", &format!("{id}&")))).await;
        assert_eq!((status, answer), (200, json!({ "dismissed": met.len() })), "{query}");
        for (at, client) in clients.iter_mut().enumerate() {
            if met.contains(&at) {
                assert_eq!(show(&client.hear_end().await), KICKED, "{query}: {at}");
            } else {
                is_alive(client).await;
            }
        }
        drop(clients);
        soon("everybody to be gone", async {
            while !world.users("").await.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn one_session_is_kicked_by_its_id() {
    let world = World::new("").await;
    let mut ann = world.log_in("ann", "192.0.2.1:1").await;
    let mut too = world.log_in("ann", "192.0.2.1:2").await;
    let sessions = world.sessions("").await;
    let kick = format!("/api/v1/sessions/{}/kick", text(&sessions[1], "id"));
    assert_eq!(world.post(&kick).await, (200, json!({ "dismissed": 1 })));
    assert_eq!(show(&too.hear_end().await), KICKED);
    is_alive(&mut ann).await;
    soon("the session to be gone", async {
        while world.users("").await.len() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let gone = json!({ "error": "there is no session of this id" });
    assert_eq!(world.post(&kick).await, (404, gone));
}

#[tokio::test]
async fn a_kick_waits_for_a_moment_in_which_it_can_be_said() {
    let backend = Backend::listen().await;
    let folder = tempfile::tempdir().expect("a scratch folder");
    let server = in_front_of(&backend, folder.path());
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say("a LOGIN ann pass\r\n").await;
    let (mut call, _) = backend.let_in().await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    call.say(b"* 1 FETCH (BODY[] {6}\r\n123").await;
    client.hear("* 1 FETCH (BODY[] {6}\r\n123").await;
    let (_, kicked) = ask(server.admin, "POST", "/api/v1/sessions/kick?network=127.0.0.0/8").await;
    assert_eq!(kicked, json!({ "dismissed": 1 }));
    call.say(b"456)\r\n").await;
    client.hear("456)\r\n").await;
    assert_eq!(show(&client.hear_end().await), KICKED);
}

#[tokio::test]
async fn links_that_wait_for_who_is_kicked_are_let_go() {
    let world = World::new("pool = \"reuse\"").await;
    // Metrics take the token, too.
    let series = "mailmux_backend_links{backend=\"green\",state=\"idle\"} ";
    let waiting = async |count: &str| {
        soon(&format!("{count} links that wait"), async {
            loop {
                let (_, text) = world.server.get("/metrics", TOKEN).await;
                if text.lines().any(|line| line.strip_prefix(series) == Some(count)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    let mut ann = world.log_in("ann", "192.0.2.1:1").await;
    for (user, client) in [("ann", "192.0.2.1:2"), ("cid", "192.0.2.1:3"), ("dan", "192.0.2.1:4")] {
        world.log_in(user, client).await.say("z LOGOUT\r\n").await;
    }
    waiting("3").await;
    assert_eq!(world.post("/api/v1/sessions/kick?network=192.0.2.1").await.1, json!({ "dismissed": 1 }));
    assert_eq!(show(&ann.hear_end().await), KICKED);
    waiting("2").await;
    // Of whom nobody is in.
    assert_eq!(world.post("/api/v1/sessions/kick?user=cid").await.1, json!({ "dismissed": 0 }));
    waiting("1").await;
    assert_eq!(world.post("/api/v1/users/dan/kick").await.1, json!({ "dismissed": 0 }));
    waiting("0").await;
}

#[tokio::test]
async fn users_are_shown() {
    let world = World::new("").await;
    let mut clients = Vec::new();
    for (user, client, noops) in
        [("ann", "192.0.2.1:1", 1), ("bob", "192.0.2.2:2", 5), ("ANN", "192.0.2.1:3", 2), ("cid", "192.0.2.3:4", 0)]
    {
        let mut client = world.log_in(user, client).await;
        for _ in 0..noops {
            is_alive(&mut client).await;
        }
        world.until(user, "state", json!("active")).await;
        clients.push(client);
    }
    assert_eq!(world.post("/api/v1/users/eve/hold").await.0, 200);
    assert_eq!(world.post("/api/v1/users/fay/move?to=blue").await.0, 200);
    let row = |user: &str, sessions: u32, noops: u32, moved_to: Value| {
        json!({ "user": user, "sessions": sessions, "bytes_to_client": noops * 11, "bytes_to_backend": noops * 8,
                "held_until_at": null, "moved_to": moved_to })
    };
    let [ann, bob, cid] = [row("ann", 2, 3, json!(null)), row("bob", 1, 5, json!(null)), row("cid", 1, 0, json!(null))];
    let (eve, fay) = (row("eve", 0, 0, json!(null)), row("fay", 0, 0, json!("blue")));
    let users = async |query: &str| {
        let (status, mut answer) = world.get(&format!("/api/v1/users{query}")).await;
        assert_eq!(status, 200, "{answer}");
        for user in answer["users"].as_array_mut().expect("a list") {
            assert_eq!(user["held_until_at"].take().is_number(), user["user"] == "eve", "who is held");
        }
        answer
    };
    soon("all bytes to be counted", async {
        while users("").await["users"][1] != bob || users("").await["users"][0] != ann {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let all = json!({ "total": 5, "next": null, "users": [ann, bob, cid, eve, fay] });
    assert_eq!(users("").await, all);
    let names = |answer: &Value| -> Vec<_> {
        answer["users"].as_array().expect("a list").iter().map(|user| text(user, "user")).collect()
    };
    assert_eq!(names(&users("?sort=bytes").await), ["bob", "ann", "cid", "eve", "fay"]);
    assert_eq!(names(&users("?sort=sessions").await), ["ann", "bob", "cid", "eve", "fay"]);
    assert_eq!(users("?held=true").await, json!({ "total": 1, "next": null, "users": [eve] }));
    let first = users("?sort=bytes&limit=2").await;
    assert_eq!((names(&first), &first["total"]), (vec!["bob".to_owned(), "ann".to_owned()], &json!(5)));
    let next = users(&format!("?sort=bytes&limit=2&after={}", text(&first, "next"))).await;
    assert_eq!(names(&next), ["cid", "eve"]);
    let last = users(&format!("?sort=bytes&limit=2&after={}", text(&next, "next"))).await;
    assert_eq!((names(&last), &last["next"]), (vec!["fay".to_owned()], &Value::Null));

    let (status, mut one) = world.get("/api/v1/users/Ann").await;
    let sessions = one.as_object_mut().and_then(|one| one.remove("session_list")).expect("a list");
    assert_eq!((status, one), (200, ann));
    let ports: Vec<_> = sessions.as_array().expect("a list").iter().map(|session| &session["client_port"]).collect();
    assert_eq!(ports, [1, 3]);
    assert_eq!(world.get("/api/v1/users/fay").await.1["moved_to"], "blue");
    assert_eq!(world.get("/api/v1/users/nobody").await.0, 404);
    assert_eq!(world.post("/api/v1/users/eve/release").await.1, json!({ "was_held": true }));
    assert_eq!(world.get("/api/v1/users/eve").await.0, 404, "nothing is known of her now");
}

#[tokio::test]
async fn a_name_is_known_as_the_log_shows_it() {
    let world = World::new("").await;
    let mut clients = Vec::new();
    for name in [r#""CORP\\Tom""#, r#""it's""#, "\"J\u{f6}rg\""] {
        clients.push(world.log_in(name, "192.0.2.1:1").await);
    }
    let shown = [r"corp\\tom", r"it\'s", r"j\xc3\xb6rg"];
    assert_eq!(world.users("").await, shown);
    let encoded = ["CORP%5CTom", "it%27s", "J%C3%B6rg"];
    let written = [r"corp%5C%5Ctom", r"it%5C's", r"j%5Cxc3%5Cxb6rg"];
    for (index, name) in shown.iter().enumerate() {
        for path in [encoded[index], written[index]] {
            assert_eq!(world.users(&format!("user={path}")).await, [*name]);
            assert_eq!(world.get(&format!("/api/v1/users/{path}")).await.1["user"], *name);
        }
        let kick = format!("/api/v1/users/{}/kick", written[index]);
        assert_eq!(world.post(&kick).await.1, json!({ "dismissed": 1 }), "{name}");
        assert_eq!(show(&clients[index].hear_end().await), KICKED);
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_and_kicks_nobody() {
    let world = World::new("").await;
    let mut ann = world.log_in("ann", "192.0.2.1:1").await;
    for query in ["", "user=", "user=a%0Ab", "network=10.0.0.0/33", "network=ann", "network=", "backed=blue&user=ann"] {
        let (status, answer) = world.post(&format!("/api/v1/sessions/kick?{query}")).await;
        assert!(status == 400 && answer["error"].is_string(), "{query}: {status} {answer}");
    }
    for path in [
        "sessions?limit=0",
        "sessions?limit=1001",
        "sessions?limit=many",
        "sessions?after=x",
        "sessions?state=asleep",
        "sessions?network=1.2.3",
        "sessions?user=",
        "sessions?user=ann&user=bob",
        "sessions?usr=ann",
        "users?sort=height",
        "users?held=perhaps",
        "users?after=x",
        "users?limit=0",
        "users/a%00b",
        "users/%FF",
    ] {
        let (status, answer) = world.get(&format!("/api/v1/{path}")).await;
        assert!(status == 400 && answer["error"].is_string(), "{path}: {status} {answer}");
    }
    assert_eq!(world.post("/api/v1/sessions/%FF/kick").await.0, 400);
    is_alive(&mut ann).await;
}
