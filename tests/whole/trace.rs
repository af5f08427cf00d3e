//! A user's sessions as an operator sees them while they happen: whole lines of this user's, no credential, no mail; bounded,
//! and of no weight for the session that is looked at.

use std::time::Duration;

use mailmux::imap::UserName;
use mailmux::steer::Filter;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use crate::support::backend::{Backend, Call};
use crate::support::client::{Client, GREETING};
use crate::support::server::Running;
use crate::support::soon;

const OK: &str = "OK [CAPABILITY IMAP4rev1 IDLE] in";

struct World {
    server: Running,
    backend: Backend,
    folder: TempDir,
}

/// A trace as its reader has it.
struct Look(BufReader<UnixStream>);

impl World {
    async fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let backend = Backend::listen().await;
        let config = format!(
            "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{}[[route]]\nbackend = \"blue\"\n{more}\n\
             [admin]\naddress = \"127.0.0.1:0\"\nsocket = \"admin.sock\"\n",
            backend.section("blue")
        );
        let server = Running::start(folder.path(), &config);
        Self { server, backend, folder }
    }

    /// HTTP/1.0, whose answers are what they are, without chunks.
    async fn ask(&self, path: &str) -> (u16, Look) {
        let mut stream = UnixStream::connect(self.folder.path().join("admin.sock")).await.expect("the socket");
        stream.write_all(format!("POST /api/v1/{path} HTTP/1.0\r\n\r\n").as_bytes()).await.expect("taken");
        let mut look = Look(BufReader::new(stream));
        let head = look.raw_line().await;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        while look.raw_line().await != "\r\n" {}
        (status, look)
    }

    async fn trace(&self, path: &str) -> Look {
        let (status, mut look) = self.ask(path).await;
        assert_eq!(status, 200);
        let first = look.line().await;
        assert!(first.starts_with("# the sessions of "), "{first}");
        look
    }

    async fn client(&self) -> Client<TcpStream> {
        let mut client = Client::connect(self.server.at("plain")).await;
        client.hear(GREETING).await;
        client
    }

    async fn log_in(&self) -> (Client<TcpStream>, Call) {
        let mut client = self.client().await;
        client.say("a LOGIN ann pass\r\n").await;
        let (call, _) = self.backend.let_in().await;
        client.hear(&format!("a {OK}\r\n")).await;
        (client, call)
    }
}

impl Look {
    async fn raw_line(&mut self) -> String {
        let mut line = String::new();
        soon("a line of the trace", self.0.read_line(&mut line)).await.expect("UTF-8");
        line
    }

    /// The next line, without its time and its session.
    async fn line(&mut self) -> String {
        let line = self.raw_line().await;
        let line = line.trim_end();
        if line.starts_with(['#', '…']) || line.is_empty() {
            return line.to_owned();
        }
        let mut words = line.splitn(3, ' ');
        let (time, session) = (words.next().expect("a time"), words.next().expect("a session"));
        assert!(time.len() == "2026-11-26T14:00:00.123Z".len() && time.ends_with('Z'), "{line}");
        assert_eq!(session.len(), 16, "{line}");
        words.next().expect("what was said").to_owned()
    }

    async fn expect(&mut self, lines: &[&str]) {
        for expected in lines {
            assert_eq!(&self.line().await, expected);
        }
    }

    /// To its end.
    async fn rest(mut self) -> String {
        let mut rest = String::new();
        soon("the end of the trace", self.0.read_to_string(&mut rest)).await.expect("UTF-8");
        rest
    }
}

#[tokio::test]
async fn a_login_and_what_follows_is_shown_without_secrets() {
    let world = World::new("").await;
    let mut look = world.trace("users/ann/trace").await;
    let mut client = world.client().await;
    client.say("a CAPABILITY\r\n").await;
    client.hear_line().await;
    client.hear("a OK Capability completed.\r\n").await;
    client.say("b LOGIN Ann \"se cr\\\"et\"\r\n").await;
    let (mut call, command) = world.backend.let_in().await;
    assert!(command.starts_with("AUTHENTICATE PLAIN "), "{command}");
    client.hear_line().await;
    client.hear(&format!("b {OK}\r\n")).await;
    client.say("c SELECT INBOX\r\n").await;
    call.hear(b"c SELECT INBOX\r\n").await;
    call.say(b"* 1 EXISTS\r\nc OK [READ-WRITE] done\r\n").await;
    client.hear("* 1 EXISTS\r\nc OK [READ-WRITE] done\r\n").await;
    assert!(look.line().await.starts_with("←mailmux * OK [CAPABILITY IMAP4rev1 "), "the greeting");
    look.expect(&["client→ a CAPABILITY"]).await;
    assert!(look.line().await.starts_with("←mailmux * CAPABILITY IMAP4rev1 "));
    look.expect(&["←mailmux a OK Capability completed.", "client→ b LOGIN ***"]).await;
    assert!(look.line().await.starts_with("←mailmux * CAPABILITY IMAP4rev1 IDLE"));
    look.expect(&["←mailmux b OK [CAPABILITY IMAP4rev1 IDLE] in", "— logged in at blue"]).await;
    look.expect(&["client→ c SELECT INBOX", "←backend * 1 EXISTS", "←backend c OK [READ-WRITE] done"]).await;
    // Literals of all kinds, in both directions.
    client.say("d APPEND INBOX (\\Seen) {310}\r\n").await;
    call.hear(b"d APPEND INBOX (\\Seen) {310}\r\n").await;
    call.say(b"+ go\r\n").await;
    client.hear("+ go\r\n").await;
    let mail = format!("Subject: se cret\r\n\r\nx LOGIN ann {}\r\n", "s".repeat(276));
    assert_eq!(mail.len(), 310);
    client.say(format!("{mail}\r\n")).await;
    call.hear(format!("{mail}\r\n").as_bytes()).await;
    call.say(b"d OK done\r\n").await;
    client.hear("d OK done\r\n").await;
    look.expect(&["client→ d APPEND INBOX (\\Seen) {310}", "←backend + go", "client→ {310} ‹310 bytes›"]).await;
    look.expect(&["←backend d OK done"]).await;
    client.say("e APPEND INBOX {6+}\r\nsecret\r\nf APPEND INBOX ~{4+}\r\n\0\n\r\n (x)\r\n").await;
    call.hear(b"e APPEND INBOX {6+}\r\nsecret\r\nf APPEND INBOX ~{4+}\r\n\0\n\r\n (x)\r\n").await;
    call.say(b"* 1 FETCH (BODY[] {12}\r\nsecret\r\n)\r\nx UID 7)\r\n").await;
    client.hear("* 1 FETCH (BODY[] {12}\r\nsecret\r\n)\r\nx UID 7)\r\n").await;
    look.expect(&["client→ e APPEND INBOX {6+} ‹6 bytes›", "client→ f APPEND INBOX ~{4+} ‹4 bytes› (x)"]).await;
    look.expect(&["←backend * 1 FETCH (BODY[] {12} ‹12 bytes› UID 7)"]).await;
    drop((client, call));
    look.expect(&["— no more of this session"]).await;
}

#[tokio::test]
async fn sasl_is_masked_however_it_comes_and_a_refusal_is_shown() {
    let world = World::new("").await;
    let mut look = world.trace("users/ann/trace?for=1m&bytes=1MB").await;
    let refuse = async || {
        let mut call = world.backend.accept().await;
        call.say(b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] friendly\r\n").await;
        call.hear_command().await;
        call.say(format!("{} NO\r\n", call.tag).as_bytes()).await;
    };
    let mut client = world.client().await;
    // "\0ann\0secret"
    client.say("a AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=\r\n").await;
    refuse().await;
    let no = client.hear_line().await;
    client.say("b AUTHENTICATE PLAIN\r\n").await;
    client.hear("+ \r\n").await;
    client.say("AGFubgBzZWNyZXQ=\r\n").await;
    refuse().await;
    client.hear_line().await;
    client.say("c LOGIN {3}\r\n").await;
    client.hear("+ OK\r\n").await;
    client.say("ann {6+}\r\nsecret\r\n").await;
    refuse().await;
    client.hear_line().await;
    assert!(look.line().await.starts_with("←mailmux * OK"));
    let words = no.trim_end().strip_prefix("a ").expect("its tag");
    let answers = ["a", "b", "c"].map(|tag| format!("←mailmux {tag} {words}"));
    look.expect(&["client→ a AUTHENTICATE PLAIN ***", &answers[0]]).await;
    look.expect(&["client→ b AUTHENTICATE PLAIN", "←mailmux +", "client→ ***", &answers[1]]).await;
    look.expect(&["client→ c LOGIN ***", "←mailmux + OK", "client→ ***", &answers[2]]).await;
    // The same connection, as somebody else: of no interest.
    client.say("d LOGIN bob secret\r\n").await;
    let (mut call, _) = world.backend.let_in().await;
    client.hear(&format!("d {OK}\r\n")).await;
    look.expect(&["client→ d LOGIN ***", "— no more of this session"]).await;
    client.say("e SELECT private\r\n").await;
    call.hear(b"e SELECT private\r\n").await;
    let (_ann, _call) = world.log_in().await;
    assert!(look.line().await.starts_with("←mailmux * OK"), "the next that is shown is the next of ann's");
    look.expect(&["client→ a LOGIN ***"]).await;
}

#[tokio::test]
async fn a_session_that_is_in_the_middle_of_something_is_shown_from_its_next_line_on() {
    let world = World::new("").await;
    let (mut client, mut call) = world.log_in().await;
    client.say("a APPEND INBOX {12}\r\n").await;
    call.hear(b"a APPEND INBOX {12}\r\n").await;
    call.say(b"* 1 FETCH (BODY[] {20}\r\nsecret").await;
    client.hear("* 1 FETCH (BODY[] {20}\r\nsecret").await;
    let mut look = world.trace("users/ANN/trace").await;
    call.say(b" and\r\nsecret\r\n)\r\n+ go\r\n").await;
    client.hear(" and\r\nsecret\r\n)\r\n+ go\r\n").await;
    client.say("secret\r\nb X {\r\nc NOOP\r\n").await;
    call.hear(b"secret\r\nb X {\r\nc NOOP\r\n").await;
    look.expect(&["←backend + go", "client→ c NOOP"]).await;
}

#[tokio::test]
async fn it_ends_when_its_time_or_its_size_is_over_and_says_so() {
    let world = World::new("").await;
    let look = world.trace("users/ann/trace?for=50ms").await;
    assert_eq!(look.rest().await, "# the end: its time is over\n");
    let (mut client, mut call) = world.log_in().await;
    let look = world.trace("users/ann/trace?bytes=1kB").await;
    for _ in 0..100 {
        client.say("a NOOP\r\n").await;
        call.hear(b"a NOOP\r\n").await;
    }
    let shown = look.rest().await;
    assert!(shown.len() < 1100 && shown.ends_with("\n# the end: so many bytes were asked for\n"), "{shown}");
    for (query, words) in [
        ("for=2h", "for:"),
        ("for=0s", "for:"),
        ("for=x", "for:"),
        ("bytes=65MB", "bytes:"),
        ("bytes=0", "bytes:"),
        ("bytes=x", "bytes:"),
    ] {
        let (status, look) = world.ask(&format!("users/ann/trace?{query}")).await;
        let said = look.rest().await;
        assert!(status == 400 && said.contains(words), "{query}: {status} {said}");
    }
    assert_eq!(world.ask("users/%00/trace").await.0, 400);
}

#[tokio::test]
async fn a_reader_that_does_not_read_does_not_slow_the_session() {
    let world = World::new("").await;
    let (mut client, mut call) = world.log_in().await;
    let mut look = world.trace("users/ann/trace?for=1h&bytes=64MB").await;
    // Far more lines than wait anywhere: in the socket, in the trace.
    let line = b"* 1 FETCH (FLAGS ())\r\n".repeat(1000);
    let all = 200;
    let say = async {
        for _ in 0..all {
            call.tcp.write_all(&line).await.expect("taken");
        }
        call
    };
    let hear = async {
        let mut heard = vec![0; line.len()];
        for _ in 0..all {
            client.stream.read_exact(&mut heard).await.expect("all of it");
            assert!(heard == line);
        }
        client
    };
    let (_call, mut client) = soon("200,000 lines to pass", async { tokio::join!(say, hear) }).await;
    let (mut seen, mut lost, mut asked) = (0_u64, 0_u64, 0_u64);
    while seen + lost < 200_000 {
        // What was lost is told with the next line that finds room.
        client.say("a NOOP\r\n").await;
        asked += 1;
        let next = look.line().await;
        match next.strip_prefix("… ") {
            Some(words) => {
                lost += words.split(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a count");
            }
            None => seen += 1,
        }
    }
    assert!(seen > 1000 && lost > 1000 && seen + lost <= 200_000 + asked, "{seen} shown, {lost} lost");
}

#[tokio::test]
async fn eight_at_once_and_one_whose_reader_has_gone_makes_room() {
    let world = World::new("").await;
    let mut looks = Vec::new();
    for _ in 0..8 {
        looks.push(world.trace("users/ann/trace").await);
    }
    let (status, look) = world.ask("users/bob/trace").await;
    let said = look.rest().await;
    assert!(status == 429 && said.contains("as many traces as there may be"), "{status} {said}");
    looks.pop();
    let bob = UserName::new(&b"bob"[..]).expect("a name");
    soon("room for one more", async {
        while world.server.steering.trace(&bob, Duration::from_secs(1), 1).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_mailmux_says_itself_is_shown_too() {
    let world = World::new("pool = \"reuse\"\n").await;
    let (mut client, _call) = world.log_in().await;
    let mut look = world.trace("users/ann/trace").await;
    client.say("x LOGOUT\r\n").await;
    client.hear("* BYE Logging out\r\nx OK Logout completed.\r\n").await;
    look.expect(&["client→ x LOGOUT", "←mailmux * BYE Logging out", "←mailmux x OK Logout completed."]).await;
    look.expect(&["— no more of this session"]).await;
    let mut client = world.client().await;
    client.say("a LOGIN bob pass\r\n").await;
    let (_call, _) = world.backend.let_in().await;
    client.hear(&format!("a {OK}\r\n")).await;
    drop(look);
    let mut look = world.trace("users/bob/trace").await;
    let bob = UserName::new(&b"bob"[..]).expect("a name");
    assert_eq!(world.server.steering.kick(&Filter::of_user(bob)).await.told, 1);
    let bye = client.hear_line().await;
    look.expect(&[&format!("←mailmux {}", bye.trim_end()), "— no more of this session"]).await;
}
