//! Subcommands that ask a mailmux which runs, as an operator or a script meets them: what is asked, what is printed, the exit
//! code. Who answers does so by script, over a socket in the file system or over TCP; the answers are those of `admin/api/`.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::answerer::{Answerer, Done, Script, answer, run};
use crate::support::program::mailmux;
use crate::support::soon;

fn session(id: u32, user: &str) -> Value {
    json!({
        "id": id.to_string(), "user": user, "client": "192.0.2.7", "client_port": 50412, "listener": "imaps", "backend": "blue",
        "mechanism": "PLAIN", "tls": "1.3", "state": "idle", "since_at": 1, "duration_seconds": 200.4, "quiet_seconds": 12,
        "bytes_to_client": 1_234_567, "bytes_to_backend": 812,
    })
}

/// Pages of a list of so many sessions.
fn sessions(total: usize, question: &str) -> String {
    let value = |key: &str| question.split(['?', '&']).find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    let limit: usize = value("limit").map_or(100, |limit| limit.parse().expect("a number"));
    assert!((1..=1000).contains(&limit), "{question}");
    let first: usize = value("after").map_or(0, |after| after.trim_start_matches("at-").parse().expect("a place"));
    let end = total.min(first + limit);
    let page: Vec<Value> =
        (first..end).map(|id| session(u32::try_from(id).expect("small"), "ann@example.org")).collect();
    let next = (end < total).then(|| format!("at-{end}"));
    json!({ "total": total, "next": next, "sessions": page }).to_string()
}

#[tokio::test]
async fn sessions_are_listed_in_columns() {
    let all = Answerer::new(|question| (200, sessions(1, question)));
    let done = all.run(&["sessions"]).await;
    let expected = "\
ID  USER             CLIENT     LISTENER  BACKEND  TLS  STATE  FOR     QUIET  TO CLIENT  TO BACKEND
0   ann@example.org  192.0.2.7  imaps     blue     1.3  idle   3m 20s  12s       1.2 MB       812 B
";
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, expected, ""));
    assert_eq!(all.asked(), ["GET sessions?limit=100"]);
}

#[tokio::test]
async fn what_sessions_are_asked_for_is_asked_as_it_was_said() {
    let all = Answerer::new(|question| (200, sessions(1, question)));
    let words = ["sessions", "--user", "a&b=c/d@e", "--network", "2001:db8::/32", "--state", "idle", "--limit", "7"];
    assert_eq!(all.run(&words).await.code, 0);
    assert_eq!(all.asked(), ["GET sessions?user=a%26b%3Dc%2Fd@e&network=2001%3Adb8%3A%3A%2F32&state=idle&limit=7"]);
}

#[tokio::test]
async fn pages_are_fetched_until_there_are_enough() {
    let all = Answerer::new(|question| (200, sessions(2345, question)));
    let done = all.run(&["sessions"]).await;
    assert_eq!(done.out.lines().count(), 102);
    assert!(done.out.ends_with("\n… and 2245 more\n"));
    all.asked();
    let done = all.run(&["sessions", "--limit", "2100"]).await;
    assert_eq!(
        all.asked(),
        ["GET sessions?limit=1000", "GET sessions?limit=1000&after=at-1000", "GET sessions?limit=100&after=at-2000"]
    );
    assert!(done.out.ends_with("\n… and 245 more\n"));
    let done = all.run(&["sessions", "--limit", "5000", "--json"]).await;
    let said: Value = serde_json::from_str(&done.out).expect("one object");
    let ids: Vec<_> =
        said["sessions"].as_array().expect("a list").iter().map(|one| one["id"].as_str().expect("an id")).collect();
    assert_eq!((ids.len(), ids[0], ids[2344], &said["next"]), (2345, "0", "2344", &Value::Null));
}

#[tokio::test]
async fn nobody_is_no_error_unless_somebody_was_looked_for() {
    let none = Answerer::new(|question| (200, sessions(0, question)));
    let done = none.run(&["sessions"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "no sessions\n"));
    let done = none.run(&["sessions", "--user", "ann"]).await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (1, "", "mailmux: no sessions\n"));
    assert_eq!(none.run(&["sessions", "--user", "ann", "--json"]).await.code, 1);
}

#[tokio::test]
async fn no_name_commands_the_terminal() {
    let name = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}ann\n";
    let hostile = Answerer::new(move |question| match question {
        "POST users/x/release" => (404, json!({ "error": name }).to_string()),
        _ => (200, json!({ "total": 1, "next": null, "sessions": [session(1, name)] }).to_string()),
    });
    let dangerous = |text: &str| {
        text.chars().any(|character| (character.is_control() && character != '\n') || character == '\u{202e}')
    };
    let done = hostile.run(&["sessions"]).await;
    assert!(!dangerous(&done.out) && done.out.contains(r"\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}ann\n"), "{:?}", done.out);
    let done = hostile.run(&["sessions", "--json"]).await;
    let said: Value = serde_json::from_str(&done.out).expect("JSON");
    assert!(!dangerous(&done.out) && said["sessions"][0]["user"] == name, "{:?}", done.out);
    let done = hostile.run(&["release", "x"]).await;
    assert!(done.code == 1 && !dangerous(&done.err), "{:?}", done.err);
}

/// A command, what it asks, the status and the text of the answer, its exit code and what it says.
type Case<'a> = (&'a [&'a str], &'a str, u16, Value, i32, &'a str);

async fn each_says(cases: &[Case<'_>]) {
    for (words, question, status, answer, code, said) in cases {
        let scripted = Answerer::saying(*status, answer);
        let done = scripted.run(words).await;
        assert_eq!(scripted.asked(), [*question], "{words:?}");
        assert_eq!(done.code, *code, "{words:?}: {} {}", done.out, done.err);
        assert!(format!("{}{}", done.out, done.err).contains(said), "{words:?}: {} {}", done.out, done.err);
        let scripted = Answerer::saying(*status, answer);
        let done = scripted.run(&[*words, &["--json"]].concat()).await;
        assert_eq!(
            (done.code, done.out.trim()),
            (*code, if answer.is_object() { answer.to_string() } else { String::new() }.as_str())
        );
    }
}

#[tokio::test]
async fn what_is_done_to_users_is_asked_for_and_told() {
    each_says(&[
        (&["kick", "ann"], "POST users/ann/kick", 200, json!({ "dismissed": 1 }), 0, "1 session told to leave"),
        (&["kick", "ann"], "POST users/ann/kick", 200, json!({ "dismissed": 0 }), 1, "there is no such session"),
        (
            &["kick", "--id", "7f"],
            "POST sessions/kick?id=7f",
            200,
            json!({ "dismissed": 1 }),
            0,
            "1 session told to leave",
        ),
        (
            &["kick", "ann", "--network", "10.0.0.0/8", "--backend", "blue"],
            "POST sessions/kick?user=ann&network=10.0.0.0%2F8&backend=blue",
            200,
            json!({ "dismissed": 3 }),
            0,
            "3 sessions told to leave",
        ),
        (
            &["hold", "a/b"],
            "POST users/a%2Fb/hold",
            200,
            json!({}),
            0,
            "a/b: logins wait, until they are released or for 15 minutes",
        ),
        (&["release", "ann"], "POST users/ann/release", 200, json!({ "was_held": true }), 0, "ann: logins are let in"),
        (
            &["release", "ann"],
            "POST users/ann/release",
            200,
            json!({ "was_held": false }),
            1,
            "ann: logins were not held",
        ),
        (
            &["move", "ann", "--to", "green"],
            "POST users/ann/move?to=green",
            200,
            json!({ "dismissed": 2 }),
            0,
            "ann: 2 sessions have left; from now on at green",
        ),
        (
            &["move", "ann", "--to", "x"],
            "POST users/ann/move?to=x",
            404,
            json!({ "error": "no backend has the name \"x\"" }),
            1,
            "no backend has the name \"x\"",
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_is_done_to_backends_is_asked_for_and_told() {
    each_says(&[
        (
            &["drain", "blue", "--for", "1m"],
            "POST backends/blue/drain?for=1m",
            200,
            json!({ "dismissed": 4 }),
            0,
            "blue: empty; 4 sessions had to be told to leave",
        ),
        (&["undrain", "blue"], "POST backends/blue/undrain", 200, json!({}), 0, "blue: in use again"),
        (
            &["weight", "blue", "0"],
            "POST backends/blue/weight?to=0",
            200,
            json!({}),
            0,
            "blue: weighs 0, until mailmux reloads or ends",
        ),
        (
            &["weight", "blue", "configured"],
            "POST backends/blue/weight?to=configured",
            200,
            json!({}),
            0,
            "blue: weighs what the configuration says",
        ),
    ])
    .await;
}

#[tokio::test]
async fn whatever_else_is_asked_for_is_told() {
    each_says(&[
        (
            &["pardon", "--user", "ann"],
            "POST limits/pardon?user=ann",
            200,
            json!({ "pardoned": 1 }),
            0,
            "ann: pardoned",
        ),
        (
            &["pardon", "--network", "192.0.2.0/24"],
            "POST limits/pardon?network=192.0.2.0%2F24",
            200,
            json!({ "pardoned": 0 }),
            1,
            "192.0.2.0/24: nothing was counted against it",
        ),
        (&["flush"], "POST lookups/flush", 200, json!({ "flushed": 0 }), 0, "0 answers forgotten"),
        (
            &["flush", "--lookup", "db", "--user", "ann"],
            "POST lookups/flush?lookup=db&user=ann",
            200,
            json!({ "flushed": 1 }),
            0,
            "1 answer forgotten",
        ),
        (
            &["flush", "--user", "ann"],
            "POST lookups/flush?user=ann",
            200,
            json!({ "flushed": 0 }),
            1,
            "no answer about this user was kept",
        ),
        (
            &["log-level", "debug", "--for", "10m"],
            "POST log-level?to=debug&for=10m",
            200,
            json!({ "level": "debug" }),
            0,
            "log level debug, for 10m",
        ),
        (
            &["reload"],
            "POST reload",
            422,
            json!({ "error": "the configuration is refused, nothing has changed", "findings": ["mailmux.toml:1:1: a mistake"] }),
            1,
            "mailmux.toml:1:1: a mistake",
        ),
        (
            &["route", "ann", "--client", "192.0.2.7", "--server-name", "x"],
            "GET users/ann/route?client=192.0.2.7&server_name=x",
            200,
            json!({
                "steps": ["route[0]: applies"], "backend": "blue", "address": "10.0.0.11:143", "group": "eu", "as": "ann",
                "login": "the client's own credentials", "error": null,
            }),
            0,
            "route[0]: applies\n=> backend blue of group eu (10.0.0.11:143) as \"ann\", with the client's own credentials\n",
        ),
        (
            &["route", "ann"],
            "GET users/ann/route?client=127.0.0.1",
            200,
            json!({ "steps": ["route[0]: does not apply"], "backend": null, "error": "no rule sends this user anywhere" }),
            1,
            "route[0]: does not apply\n=> nowhere: no rule sends this user anywhere",
        ),
        (
            &["users", "ann"],
            "GET users/ann",
            404,
            json!({ "error": "nothing is known of this user" }),
            1,
            "nothing is known of this user",
        ),
        (
            &["kick", "--network", "x"],
            "POST sessions/kick?network=x",
            400,
            json!({ "error": "network: no" }),
            2,
            "network: no",
        ),
        (&["pool"], "GET pool", 401, Value::Null, 1, "mailmux: the token is wrong or missing\n"),
        (&["pool"], "GET pool", 404, Value::Null, 1, "does not know this question; is it older?\n"),
    ])
    .await;
}

#[tokio::test]
async fn what_there_is_to_see_is_shown() {
    let cases: &[(&[&str], Value, &str)] = &[
        (
            &["backends"],
            json!({ "backends": [{
                "name": "blue", "address": "10.0.0.11:143", "state": "down", "health": { "up": false, "reason": "refused", "since_at": null },
                "groups": ["eu", "us"], "weight": 1, "sessions": 0, "links": 2, "queue": 0, "logins_total": 12,
                "login_seconds": { "p95": 0.0123 }, "bytes": { "to_client": 1200, "to_backend": 0 },
            }] }),
            "BACKEND  ADDRESS        STATE  SINCE  GROUPS  WEIGHT  SESSIONS  LINKS  QUEUE  LOGINS    P95  TO CLIENT  TO BACKEND  REASON\n\
             blue     10.0.0.11:143  down   -      eu,us        1         0      2      0      12  12 ms     1.2 kB         0 B  refused\n",
        ),
        (
            &["pool"],
            json!({ "backends": [{
                "backend": "blue", "mode": "reuse", "warm": 4, "reusable": 2, "active": 1, "checkouts": { "hit": 10, "miss": 1 },
                "evictions": { "idle": 0 },
            }] }),
            "BACKEND  MODE   WARM  REUSABLE  ACTIVE  CHECKOUTS       EVICTIONS\n\
             blue     reuse     4         2       1  hit 10, miss 1  -\n",
        ),
        (
            &["certificates"],
            json!({ "certificates": [{
                "name": "mail", "names": ["mail.example.org", "*.example.net"], "file": "/etc/mailmux/certs/mail.pem", "issuer": "CN=x",
                "not_before_at": 1_790_000_000, "not_after_at": 1_797_000_000, "days_left": 15.1, "key": "ECDSA P-256",
            }] }),
            "CERTIFICATE  DAYS LEFT  FROM        UNTIL       KEY          ISSUER  FILE                         NAMES\n\
             mail                15  2026-09-21  2026-12-11  ECDSA P-256  CN=x    /etc/mailmux/certs/mail.pem  mail.example.org,*.example.net\n",
        ),
        (
            &["config"],
            json!({ "file": "/etc/mailmux/mailmux.toml", "loaded_at": 1_790_000_000, "toml": "[log]\nlevel = \"info\"\n" }),
            "# /etc/mailmux/mailmux.toml, loaded 2026-09-21 14:13:20 UTC\n[log]\nlevel = \"info\"\n",
        ),
        (&["limits"], json!({ "total": 0, "next": null, "held": [] }), "nobody is held off\n"),
    ];
    for (words, answer, expected) in cases {
        let scripted = Answerer::saying(200, answer);
        let done = scripted.run(words).await;
        assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, *expected, ""), "{words:?}");
    }
}

#[tokio::test]
async fn status_shows_what_has_happened_and_nothing_that_has_not() {
    let scripted = Answerer::saying(
        200,
        &json!({
            "version": "0.1.0", "phase": "running", "uptime_seconds": 100_000, "sessions": { "total": 3, "preauth": 1, "logged_in": 2 },
            "logins": { "ok": 12, "bad_credentials": 120, "no_route": 0 }, "predecessors": 0,
            "listeners": [{ "name": "imaps", "address": "[::]:993", "tls": "implicit", "sessions": 3, "preauth": 1, "accepted_total": 5 }],
        }),
    );
    let done = scripted.run(&["status"]).await;
    for words in [
        "mailmux            0.1.0\nphase              running\nup                 1d 3h\n",
        "  before login     1\n",
        "\n\nLISTENER  ADDRESS   TLS       SESSIONS  BEFORE LOGIN  ACCEPTED\nimaps     [::]:993  implicit         3             1         5\n",
        "\n\nLOGINS           SINCE START\nbad_credentials          120\nok                        12\n",
    ] {
        assert!(done.out.contains(words), "no {words:?} in\n{}", done.out);
    }
    assert!(!done.out.contains("no_route") && !done.out.contains("predecessors"), "{}", done.out);
}

#[tokio::test]
async fn a_trace_is_told_as_it_comes_and_harmless() {
    let scripted = Answerer::new(|_| (200, "C: a LOGIN \u{2022}\nS: a OK \u{1b}[2J\nhalf".to_owned()));
    let done = scripted.run(&["trace", "ann", "--for", "1m", "--bytes", "1MB"]).await;
    assert_eq!((done.code, done.out.as_str()), (0, "C: a LOGIN •\nS: a OK \\u{1b}[2J\nhalf"));
    assert_eq!(scripted.asked(), ["POST users/ann/trace?for=1m&bytes=1MB"]);
    let refusing = Answerer::saying(429, &json!({ "error": "too many traces" }));
    let done = refusing.run(&["trace", "ann"]).await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (1, "", "mailmux: too many traces\n"));
}

#[tokio::test]
async fn who_is_not_there_or_not_understood_is_2() {
    let nowhere = ["--admin", "/nonexistent/admin.sock"];
    let done = run(&[&["sessions"][..], &nowhere].concat()).await;
    assert_eq!(done.code, 2);
    assert!(
        done.err.contains("cannot reach mailmux at /nonexistent/admin.sock") && done.err.contains("does it run?"),
        "{}",
        done.err
    );
    for misuse in [
        &["kick"][..],
        &["kick", ""],
        &["kick", "--yes"],
        &["pardon"],
        &["pardon", "--user", "ann", "--network", "10.0.0.0/8"],
        &["weight", "blue", "1001"],
        &["sessions", "--state", "asleep"],
        &["sessions", "--limit", "0"],
        &["sessions", "--token-file", "/x"],
        &["sessions", "--config", "/x", "--admin", "/y"],
        &["drain", "blue", "--for", "soon"],
        &["log-level", "loud"],
        &["route", "ann", "--running", "--password-file", "x"],
        &["top", "--every", "1ms"],
    ] {
        assert_eq!(run(misuse).await.code, 2, "{misuse:?}");
    }
    // No terminal.
    let done = run(&[&["top"][..], &nowhere].concat()).await;
    assert!(done.code == 2 && done.err.contains("--once"), "{}", done.err);
}

#[tokio::test]
async fn over_tcp_the_token_goes_along_and_changes_need_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        let script: Script = Arc::new(|question: &str| (200, sessions(1, question)));
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&noted), Arc::clone(&script)));
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "hunter2\n").expect("written");
    let token = token.to_str().expect("UTF-8");
    assert_eq!(run(&["sessions", "--admin", &address, "--token-file", token]).await.code, 0);
    assert_eq!(run(&["sessions", "--admin", &address]).await.code, 0);
    let done = run(&["kick", "ann", "--admin", &address]).await;
    assert!(done.code == 2 && done.err.contains("--token-file"), "{}", done.err);
    assert_eq!(*asked.lock().expect("no panic"), ["GET sessions?limit=100 [Bearer hunter2]", "GET sessions?limit=100"]);
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let all = Answerer::new(|question| (200, sessions(100_000, question)));
    let socket = all.socket();
    let mut command = mailmux();
    command.args(["sessions", "--limit", "3000", "--admin"]).arg(&socket);
    let mut child = command.spawn().expect("started");
    // More than a pipe holds, and nobody reads it.
    drop(child.stdout.take());
    let done: Done = soon("its end", child.wait_with_output()).await.expect("ended").into();
    assert_eq!((done.code, done.err.as_str()), (0, ""));
}

#[tokio::test]
async fn top_shows_one_frame_to_scripts() {
    let scripted = Answerer::new(|question| {
        let answer = match question {
            "GET status" => {
                json!({ "version": "0.1.0", "phase": "running", "pid": 1, "uptime_seconds": 60, "sessions": { "total": 3, "preauth": 1 } })
            }
            "GET backends" => json!({ "backends": [{ "name": "blue", "state": "up", "sessions": 2 }] }),
            "GET users?sort=bytes&limit=200" => json!({ "users": [{ "user": "ann", "sessions": 2 }] }),
            _ => return (404, String::new()),
        };
        (200, answer.to_string())
    });
    let done = scripted.run(&["top", "--once", "--every", "200ms"]).await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(done.out.starts_with("mailmux 0.1.0  running  up 1m"), "{}", done.out);
    assert!(done.out.contains("\nblue ") && done.out.contains("\nann "), "{}", done.out);
}

/// What a shell would offer for the last of these words.
async fn completed(folder: &Path, words: &str) -> Vec<String> {
    let script = "source \"$1\"/mailmux.bash || exit; words=($2); [[ $2 == *' ' ]] && words+=(''); COMP_WORDS=(\"${words[@]}\")
        COMP_CWORD=$((${#words[@]} - 1)); COMP_LINE=$2; COMP_POINT=${#COMP_LINE}
        _mailmux mailmux \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"]).arg(folder).arg(words).stdin(Stdio::null());
    let done: Done = soon("bash", bash.output()).await.expect("bash").into();
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{words}");
    done.out.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn shells_complete_commands_and_options() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish"] {
        let done = run(&["completions", shell]).await;
        assert_eq!((done.code, done.err.as_str()), (0, ""));
        assert!(done.out.contains("log-level"), "{shell}");
        std::fs::write(folder.path().join(format!("mailmux.{shell}")), done.out).expect("written");
    }
    assert_eq!(completed(folder.path(), "mailmux undr").await, ["undrain"]);
    assert_eq!(completed(folder.path(), "mailmux sess").await, ["sessions"]);
    assert_eq!(completed(folder.path(), "mailmux sessions --net").await, ["--network"]);
    assert_eq!(completed(folder.path(), "mailmux sessions --state ").await, ["logging_in", "active", "idle"]);
    assert_eq!(run(&["completions", "powershell"]).await.code, 2);
}
