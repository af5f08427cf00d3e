//! What the running server tells of its backends, its pool and its ways, asked over its socket; and weights.

use std::collections::HashSet;

use mailmux::config::Config;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::support::backend::Backend;
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::soon;

const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\nsocket = \"admin.sock\"\n";
const PLAIN: &str = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n";

/// A server with a socket for operators.
struct World {
    server: Running,
    folder: TempDir,
}

impl World {
    fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let server = Running::start(folder.path(), &format!("{PLAIN}{config}{ADMIN}"));
        Self { server, folder }
    }

    async fn reload(&self, config: &str) {
        let text = Running::complete(&format!("{PLAIN}{config}{ADMIN}"));
        let config = Config::parse(&text, &self.folder.path().join("mailmux.toml")).expect("a good one");
        soon("a reload", self.server.steering.adopt(config)).await.expect("adopted");
    }

    /// Asks for a path below `/api/v1`; status and answer.
    async fn ask(&self, method: &str, path: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.folder.path().join("admin.sock")).await.expect("the socket");
        let request = format!("{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("taken");
        let mut answer = String::new();
        soon("an answer", stream.read_to_string(&mut answer)).await.expect("UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{method} {path}: {answer}")))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn post(&self, path: &str) {
        assert_eq!(self.ask("POST", path).await, (200, json!({})), "{path}");
    }

    /// Asks again and again until the answer is like that.
    async fn until(&self, path: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        soon(what, async {
            loop {
                let answer = self.get(path).await;
                if is_so(&answer) {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

/// Logs in.
async fn log_in(server: &Running, user: &str) -> Client<TcpStream> {
    let mut client = Client::connect(server.at("plain")).await;
    client.hear(GREETING).await;
    client.say(format!("a LOGIN {user} pass\r\n")).await;
    client
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// A port on which nobody listens yet.
fn silent_port() -> (Socket, std::net::SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&SockAddr::from(any)).expect("a port");
    let address = socket.local_addr().expect("bound").as_socket().expect("an address");
    (socket, address)
}

/// Greets everybody who comes.
fn greet(socket: Socket) {
    socket.listen(16).expect("a listening socket");
    socket.set_nonblocking(true).expect("an option");
    let listener = TcpListener::from_std(socket.into()).expect("a socket");
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.write_all(b"* OK [CAPABILITY IMAP4rev1] friendly\r\n").await;
        }
    });
}

#[tokio::test]
async fn a_backend_that_refuses_is_down_for_a_reason_and_what_it_was_stays_known() {
    let (socket, address) = silent_port();
    let config = |fall: u32| {
        format!(
            "[[backend]]\nname = \"blue\"\naddress = \"{address}\"\ntls = \"none\"\n\
             health = {{ interval = \"20ms\", timeout = \"2s\", rise = 1, fall = {fall} }}\n[[route]]\nbackend = \"blue\"\n"
        )
    };
    let world = World::start(&config(2));
    let down = world.until("backends/blue", "the backend to be down", |blue| blue["state"] == "down").await;
    let reason = format!("connecting to {address}: Connection refused (os error 111)");
    assert_eq!(down["health"]["up"], false);
    assert_eq!(down["health"]["reason"], reason.as_str());
    let since = number(&down["health"]["since_at"]);
    assert!(since > 1.7e9 && number(&down["health"]["last_check_at"]) >= since, "{down}");
    assert_eq!(down["history"], json!([{ "at": since, "up": false, "reason": reason }]));
    assert_eq!(down["address"], address.to_string());

    world.reload(&config(3)).await;
    let after = world.get("backends/blue").await;
    assert_eq!((&after["history"], &after["health"]["since_at"]), (&down["history"], &down["health"]["since_at"]));

    greet(socket);
    let up = world.until("backends/blue", "the backend to be up", |blue| blue["state"] == "up").await;
    let back = number(&up["health"]["since_at"]);
    assert!(back > since, "{up}");
    assert_eq!(up["health"]["reason"], Value::Null);
    assert_eq!(
        up["history"],
        json!([{ "at": since, "up": false, "reason": reason }, { "at": back, "up": true, "reason": null }])
    );
    let all = world.get("backends").await;
    assert_eq!(all["backends"].as_array().map(Vec::len), Some(1));
    assert!(all["backends"][0]["history"].is_null() && all["backends"][0]["name"] == "blue", "{all}");
}

/// Each step of the way to a backend is named, with the place where it failed.
#[tokio::test]
async fn a_reason_names_the_step_and_the_address() {
    for (says, step) in [
        (&b"* BYE go away\r\n"[..], "greeting: * BYE go away"),
        (b"", "instead of a greeting: it closed the connection"),
        (b"* OK [CAPABILITY IMAP4rev1] in clear\r\n", "it does not offer STARTTLS"),
    ] {
        let tls = if step.contains("STARTTLS") { "starttls" } else { "none" };
        let backend = Backend::listen().await;
        let address = backend.address;
        backend.each_call(move |mut call| async move { call.say(says).await });
        let config = format!(
            "[[backend]]\nname = \"blue\"\naddress = \"{address}\"\ntls = \"{tls}\"\n\
             health = {{ interval = \"20ms\", fall = 1 }}\n[[route]]\nbackend = \"blue\"\n"
        );
        let world = World::start(&config);
        let down = world.until("backends/blue", "the backend to be down", |blue| blue["state"] == "down").await;
        assert_eq!(down["health"]["reason"], format!("{address}: {step}"));
    }
    let nowhere = "[[backend]]\nname = \"blue\"\naddress = \"nowhere.invalid:143\"\ntls = \"none\"\n\
                   health = { interval = \"20ms\", timeout = \"500ms\", fall = 1 }\n[[route]]\nbackend = \"blue\"\n";
    let world = World::start(nowhere);
    let down = world.until("backends/blue", "the backend to be down", |blue| blue["state"] == "down").await;
    let reason = down["health"]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("DNS: nowhere.invalid: "), "{reason}");
    assert_eq!(down["address"], "nowhere.invalid:143");
}

#[tokio::test]
async fn a_backend_that_fails_every_login_says_so() {
    let backend = Backend::listen().await;
    let (address, section) = (backend.address, backend.section("blue"));
    backend.each_call(|mut call| async move {
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
        call.hear_command().await;
        call.say(format!("{} NO [UNAVAILABLE] storage is away\r\n", call.tag).as_bytes()).await;
    });
    let world = World::start(&format!("{section}[[route]]\nbackend = \"blue\"\n"));
    // One user's trouble would not be the backend's.
    let _clients =
        [log_in(&world.server, "ann").await, log_in(&world.server, "bob").await, log_in(&world.server, "cid").await];
    let blue = world.until("backends/blue", "the backend to be down", |blue| blue["state"] == "down").await;
    assert_eq!(blue["health"]["up"], false);
    assert_eq!(blue["health"]["reason"], format!("login at {address}: NO [UNAVAILABLE]"));
    assert_eq!((&blue["logins_total"], &blue["login_seconds"]), (&json!(0), &Value::Null));
    assert!(number(&blue["errors_total"]) >= 3.0, "{blue}");
}

#[tokio::test]
async fn a_weight_moves_new_logins_away_and_back() {
    let (blue, green) = (Backend::listen().await, Backend::listen().await);
    let config = |weight: u32| {
        format!(
            "{}weight = {weight}\n{}[[group]]\nname = \"eu\"\nmembers = [\"blue\", \"green\"]\nchoose = \"hash\"\n\
             [[route]]\ngroup = \"eu\"\n",
            blue.section("blue"),
            green.section("green"),
        )
    };
    let world = World::start(&config(1));
    // Somebody who lives at blue.
    let mut users = (0..).map(|number| format!("user{number}"));
    let user = loop {
        let user = users.next().expect("there is no end of them");
        if world.get(&format!("users/{user}/route")).await["backend"] == "blue" {
            break user;
        }
    };
    let arrives = async |backend: &Backend| {
        let mut client = log_in(&world.server, &user).await;
        let (call, _) = backend.let_in().await;
        client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
        (client, call)
    };
    let _first = arrives(&blue).await;
    world.post("backends/blue/weight?to=0").await;
    let shown = world.get("backends/blue").await;
    assert_eq!((&shown["weight"], &shown["configured_weight"]), (&json!(0), &json!(1)));
    assert_eq!((&shown["state"], &shown["sessions"]), (&json!("up"), &json!(1)), "who is there stays");
    let _second = arrives(&green).await;
    let route = world.get(&format!("users/{user}/route")).await;
    assert_eq!((&route["backend"], &route["group"]), (&json!("green"), &json!("eu")));
    assert!(route["steps"].to_string().contains("blue: up, 1 sessions, weight 0 instead of 1"), "{route}");

    world.reload(&config(1)).await;
    let _third = arrives(&green).await;
    let drain = world.server.steering.drain("green", std::time::Duration::from_hours(1));
    tokio::pin!(drain);
    let begun = tokio::time::timeout(std::time::Duration::ZERO, &mut drain).await;
    assert!(begun.is_err(), "somebody is there");
    let _fourth = arrives(&blue).await;
    world.post("backends/green/undrain").await;
    let _fifth = arrives(&green).await;

    world.post("backends/blue/weight?to=configured").await;
    let _sixth = arrives(&blue).await;
    world.post("backends/blue/weight?to=0").await;
    world.reload(&config(500)).await;
    let shown = world.get("backends/blue").await;
    assert_eq!((&shown["weight"], &shown["configured_weight"]), (&json!(500), &json!(500)), "the file says so now");
    let _seventh = arrives(&blue).await;
}

#[tokio::test]
async fn what_cannot_be_understood_changes_nothing() {
    let backend = Backend::listen().await;
    let world = World::start(&format!("{}[[route]]\nbackend = \"blue\"\n", backend.section("blue")));
    let before = world.get("backends").await;
    for path in [
        "backends/blue/weight",
        "backends/blue/weight?to=",
        "backends/blue/weight?to=1001",
        "backends/blue/weight?to=-1",
        "backends/blue/weight?to=much",
        "backends/blue/weight?to=1&to=2",
        "backends/blue/drain?for=ever",
        "backends/blue/drain?for=1s&for=2s",
    ] {
        let (status, answer) = world.ask("POST", path).await;
        assert!(status == 400 && answer["error"].is_string(), "{path}: {status} {answer}");
    }
    for (method, path) in [
        ("POST", "backends/red/weight?to=1"),
        ("POST", "backends/red/drain"),
        ("GET", "backends/red"),
        ("GET", "users/ann/route?listener=other"),
    ] {
        let (status, answer) = world.ask(method, path).await;
        assert!(status == 404 && answer["error"].is_string(), "{path}: {status} {answer}");
    }
    let (status, answer) = world.ask("GET", "users/ann/route?client=home").await;
    assert_eq!((status, answer), (400, json!({ "error": "client: expected an IP address" })));
    assert_eq!(world.get("backends").await, before);
}

#[tokio::test]
async fn the_pool_and_the_links_are_counted() {
    let backend = Backend::listen().await;
    let config = format!("{}max_links = 7\n[[route]]\nbackend = \"blue\"\npool = \"reuse\"\n", backend.section("blue"));
    let world = World::start(&config);
    let nothing = world.get("pool").await;
    let nobody = json!({ "hit": 0, "warm": 0, "miss": 0, "wrong_credential": 0, "dead": 0 });
    assert_eq!(nothing["backends"][0]["checkouts"], nobody);
    let whys: HashSet<_> =
        nothing["backends"][0]["evictions"].as_object().expect("reasons").keys().map(String::as_str).collect();
    assert!(whys.contains("age") && whys.contains("closing"), "{whys:?}");

    let mut client = log_in(&world.server, "ann").await;
    let (mut call, _) = backend.let_in().await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    client.say("b NOOP\r\n").await;
    call.hear(b"b NOOP\r\n").await;
    call.say(b"b OK done\r\n").await;
    client.hear("b OK done\r\n").await;
    let links = |blue: &Value| (blue["links"].clone(), blue["links_by_state"].clone(), blue["queue"].clone());
    let by_state =
        |active: u32, idle: u32| json!({ "connecting": 0, "warm": 0, "active": active, "resetting": 0, "idle": idle });
    let blue = world.get("backends/blue").await;
    assert_eq!(links(&blue), (json!(1), by_state(1, 0), json!(0)));
    assert_eq!((&blue["sessions"], &blue["max_links"], &blue["logins_total"]), (&json!(1), &json!(7), &json!(1)));
    assert_eq!(blue["pool"], json!({ "mode": "reuse", "warm": 0, "reusable": 0, "active": 1 }));
    assert_eq!(blue["bytes"], json!({ "to_client": 11, "to_backend": 8 }));
    let took = |share: &str| number(&blue["login_seconds"][share]);
    assert!(took("p50") > 0.0 && took("p50") < took("p95") && took("p95") < took("p99"), "{blue}");

    client.say("z LOGOUT\r\n").await;
    assert_eq!(call.hear_command().await, "NOOP");
    call.say(format!("{} OK done\r\n", call.tag).as_bytes()).await;
    let waits = world.until("backends/blue", "a link to wait", |blue| blue["pool"]["reusable"] == 1).await;
    assert_eq!(links(&waits), (json!(1), by_state(0, 1), json!(0)), "the same link");
    let mut client = log_in(&world.server, "ann").await;
    client.hear("a OK [CAPABILITY IMAP4rev1 IDLE] in\r\n").await;
    let is_back = |pool: &Value| pool["backends"][0]["active"] == 1 && pool["backends"][0]["reusable"] == 0;
    let pool = world.until("pool", "the link to be used again", is_back).await;
    let blue = &pool["backends"][0];
    assert_eq!((&blue["backend"], &blue["mode"], &blue["warm"]), (&json!("blue"), &json!("reuse"), &json!(0)));
    assert_eq!((&blue["checkouts"]["hit"], &blue["checkouts"]["miss"]), (&json!(1), &json!(1)));
    drop(client);
    call.hear_command().await;
    drop(call);
    world.until("pool", "it to be counted out", |pool| pool["backends"][0]["evictions"]["reset_failed"] == 1).await;
    world.until("backends/blue", "no link to be left", |blue| blue["links"] == 0).await;
}

#[tokio::test]
async fn a_way_is_told_as_the_running_server_has_it() {
    let backends = [Backend::listen().await, Backend::listen().await];
    let [blue, green] = &backends;
    let config = format!(
        "[[listener]]\nname = \"other\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}{}\
         [[group]]\nname = \"eu\"\nmembers = [\"blue\", \"green\"]\nchoose = \"first_healthy\"\n\
         [[route]]\nclient = [\"192.0.2.0/24\"]\nreject = \"Not from there.\"\n\
         [[route]]\nlistener = \"other\"\nuser = \"*@example.org\"\nbackend = \"green\"\nrewrite = \"{{local}}\"\n\
         [[route]]\nlistener = \"plain\"\ngroup = \"eu\"\n",
        blue.section("blue"),
        green.section("green"),
    );
    let world = World::start(&config);
    let plain = world.get("users/ann%40example.org/route").await;
    assert_eq!(
        plain,
        json!({
            "steps": [
                "route[0]: does not apply",
                "route[1]: does not apply",
                "route[2]: applies",
                "group eu: blue: up, 0 sessions",
                "group eu: green: up, 0 sessions",
            ],
            "backend": "blue",
            "address": blue.address.to_string(),
            "group": "eu",
            "as": "ann@example.org",
            "login": "the client's own credentials",
            "error": null,
        })
    );
    let other = world.get("users/ann@example.org/route?listener=other").await;
    assert_eq!((&other["backend"], &other["as"], &other["group"]), (&json!("green"), &json!("ann"), &Value::Null));
    let rejected = world.get("users/ann@example.org/route?client=192.0.2.9").await;
    assert_eq!((&rejected["error"], &rejected["backend"]), (&json!("rejected: Not from there."), &Value::Null));
    let nowhere = world.get("users/bob/route?listener=other").await;
    assert_eq!(nowhere["error"], "no rule sends this user anywhere");

    // What has been done to the server counts.
    world.server.steering.drain("blue", std::time::Duration::ZERO).await.expect("nobody is there");
    assert_eq!(world.get("users/bob/route").await["backend"], "green");
    assert_eq!(world.ask("POST", "users/bob/move?to=blue").await.0, 200);
    let moved = world.get("users/bob/route").await;
    assert_eq!((&moved["backend"], &moved["group"]), (&json!("blue"), &Value::Null));
    assert!(moved["steps"].to_string().contains("was moved by hand to blue"), "{moved}");
    assert!(backends.into_iter().all(Backend::has_not_been_called), "nobody was sent anywhere");
}
