//! Screens of `top`, drawn into memory.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr as _;

use super::asking::Snapshot;
use super::state::Mode;
use super::*;

/// 2026-11-26 14:03:22 UTC.
const NOON: f64 = 1_795_701_802.0;

fn backend(name: &str, sessions: u64, logins: u64, bytes: u64) -> Value {
    json!({
        "name": name, "state": "up", "sessions": sessions, "queue": 0, "logins_total": logins,
        "health": { "up": true, "reason": null, "since_at": NOON - 9000.0 },
        "login_seconds": { "p50": 0.004, "p95": 0.0123, "p99": 0.2 },
        "bytes": { "to_client": bytes, "to_backend": bytes / 10 },
    })
}

fn user(name: &str, sessions: u64, bytes: u64) -> Value {
    json!({
        "user": name, "sessions": sessions, "bytes_to_client": bytes, "bytes_to_backend": 1000,
        "held_until_at": null, "moved_to": null,
    })
}

/// What is seen two seconds apart.
fn looks() -> [Snapshot; 2] {
    let status = |logins: u64, bytes: u64| {
        json!({
            "version": "0.1.0", "pid": 7, "started_at": NOON - 100_000.0, "uptime_seconds": 100_000, "phase": "running",
            "open_descriptors": 512, "max_descriptors": 65_536, "queue": 3,
            "sessions": { "total": 214, "preauth": 2, "logged_in": 212 },
            "logins": { "ok": logins, "bad_credentials": logins / 100, "no_route": 0 },
            "bytes": { "to_client": bytes, "to_backend": bytes / 10 }, "predecessors": 0, "predecessor_sessions": 0,
        })
    };
    let mut down = backend("green", 0, 500, 0);
    down["state"] = "down".into();
    down["health"] = json!({ "up": false, "reason": "connection refused", "since_at": NOON - 200.0 });
    let look = |at: f64, status: Value, blue: Value, ann: u64| Snapshot {
        at,
        status,
        history: json!({
            "step_seconds": 10, "sessions": [1, 50, 100, 214], "logins_ok": [1.0, 2.0, 12.0], "logins_failed": [0.1, 0.0, 0.4],
            "bytes_to_client": [1e6, 2e6], "bytes_to_backend": [1e5, 2e5],
        }),
        backends: json!({ "backends": [blue, down.clone()] }),
        users: json!({ "users": [user("bob@example.org", 1, 9_000_000), user("ann@example.org", 7, ann)] }),
    };
    [
        look(NOON - 2.0, status(1000, 40_000_000), backend("blue", 200, 1000, 40_000_000), 1_000_000),
        look(NOON, status(1100, 42_400_000), backend("blue", 214, 1024, 42_400_000), 3_000_000),
    ]
}

fn state() -> State {
    let mut state = State::new(Duration::from_secs(2));
    for look in looks() {
        state.saw(look);
    }
    state
}

/// As a terminal of this size shows it.
fn screen(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view(state, frame.area(), frame.buffer_mut())).expect("drawn");
    as_text(terminal.backend().buffer())
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\t' => KeyCode::Tab,
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            other => KeyCode::Char(other),
        };
        state.press(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

/// The first words of the rows below the head that begins so.
fn names(screen: &str, head: &str) -> Vec<String> {
    let rows = screen.lines().skip_while(|line| !line.starts_with(head)).skip(1);
    rows.take_while(|line| !line.starts_with("USER") && !line.is_empty() && !line.starts_with("q end"))
        .map(|line| line.split_whitespace().next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_screen_of_the_common_size_holds_it_all() {
    let shown = screen(&state(), 80, 24);
    for words in [
        "mailmux 0.1.0  running  up 1d 3h  2026-11-26 14:03:22 UTC",
        "sessions 214 (2 before login)  logins/s 50 ok, 0.5 failed  queue 3",
        "bytes/s 1.2 MB to clients, 120 kB to backends  descriptors 512 of 65536",
        "sessions 214         logins/s 50         failed/s 0.5         bytes/s 1.3 MB",
        "BACKEND▾  SESS  QUEUE  LOGIN/S    P95  CLIENT/S  BACKEND/S  STATE\n",
        "blue       214      0       12  12 ms    1.2 MB     120 kB  up\n",
        "green        0      0      0.0  12 ms       0 B        0 B  down 3m 20s: connec…\n",
        "USER             SESS  CLIENT/S▾  BACKEND/S   BYTES\n",
        "ann@example.org     7     1.0 MB        0 B  3.0 MB\n",
        "q end  Tab table",
    ] {
        assert!(shown.contains(words), "no {words:?} in\n{shown}");
    }
    assert!(shown.lines().count() <= 24 && shown.lines().all(|line| line.width() <= 80), "{shown}");
    assert!(shown.contains('█'), "bars\n{shown}");
}

#[test]
fn a_reason_is_shown_whole_where_there_is_room() {
    assert!(screen(&state(), 140, 40).contains("down 3m 20s: connection refused"));
}

#[test]
fn every_size_can_be_drawn() {
    let mut state = state();
    for _ in 0..2 {
        for width in [1, 2, 7, 15, 16, 17, 31, 33, 40, 60, 79, 200, 500] {
            for height in [1, 2, 3, 5, 8, 13, 14, 24, 60] {
                let shown = screen(&state, width, height);
                assert!(shown.lines().all(|line| line.width() <= usize::from(width)));
            }
        }
        state.mode = Mode::Help;
        state.missed("x".repeat(300), NOON);
    }
}

#[test]
fn in_a_narrow_terminal_the_names_and_states_are_left() {
    let shown = screen(&state(), 36, 24);
    assert!(
        shown.contains("blue") && shown.contains("down") && !shown.contains("P95") && !shown.contains("BACKEND/S"),
        "{shown}"
    );
}

#[test]
fn rates_are_those_between_two_looks_of_one_process() {
    let [first, second] = looks();
    let mut state = State::new(Duration::from_secs(2));
    state.saw(first);
    let shown = screen(&state, 80, 24);
    assert!(
        shown.contains("logins/s 12 ok, 0.4 failed") && shown.contains("bytes/s - to clients"),
        "by its history\n{shown}"
    );
    let mut restarted = second;
    restarted.status["pid"] = 8.into();
    state.saw(restarted);
    let shown = screen(&state, 80, 24);
    assert!(shown.contains("bytes/s - to clients"), "counts of another process\n{shown}");
}

#[test]
fn a_server_that_is_away_is_told_of_until_it_is_back() {
    let mut state = state();
    state.missed("cannot reach mailmux at /run/x: refused".to_owned(), NOON + 2.0);
    state.missed("cannot reach mailmux at /run/x: refused".to_owned(), NOON + 4.0);
    state.now = NOON + 14.0;
    let shown = screen(&state, 80, 24);
    assert!(
        shown.starts_with("unreachable since 14:03:24 UTC (12s): cannot reach mailmux at /run/x: refused"),
        "{shown}"
    );
    assert!(shown.contains("ann@example.org"), "what was seen last stays\n{shown}");
    state.saw(Snapshot { at: NOON + 14.0, ..looks()[1].clone() });
    assert!(screen(&state, 80, 24).starts_with("mailmux 0.1.0"));
    state.now = NOON + 74.0;
    assert!(screen(&state, 80, 24).starts_with("unreachable since 14:03:36 UTC (1m)"), "and one that says nothing");
}

#[test]
fn tables_are_ordered_by_the_column_that_is_chosen() {
    let mut state = state();
    assert_eq!(names(&screen(&state, 80, 24), "USER"), ["ann@example.org", "bob@example.org"], "by bytes per second");
    press(&mut state, "ss");
    assert!(screen(&state, 80, 24).contains("BYTES▾"));
    assert_eq!(names(&screen(&state, 80, 24), "USER"), ["bob@example.org", "ann@example.org"], "by bytes");
    press(&mut state, "\ts");
    let shown = screen(&state, 80, 24);
    assert!(shown.contains("SESS▾"), "{shown}");
    assert_eq!(names(&shown, "BACKEND"), ["blue", "green"]);
    press(&mut state, "sssssss");
    assert!(screen(&state, 80, 24).contains("BACKEND▾"), "all round");
}

#[test]
fn rows_are_searched_by_name() {
    let mut state = state();
    press(&mut state, "/ANq");
    assert!(screen(&state, 80, 24).ends_with("/ANq_\n"), "what is typed is no command");
    state.press(KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE));
    press(&mut state, "\n");
    assert_eq!(names(&screen(&state, 80, 24), "USER"), ["ann@example.org"]);
    press(&mut state, "\x1b");
    assert_eq!(names(&screen(&state, 80, 24), "USER").len(), 2);
}

#[test]
fn a_table_is_moved_in_and_never_out_of() {
    let mut state = state();
    press(&mut state, "↓");
    assert_eq!(names(&screen(&state, 80, 24), "USER"), ["bob@example.org"]);
    press(&mut state, "↓↓↓");
    assert_eq!(names(&screen(&state, 80, 24), "USER"), ["bob@example.org"]);
    press(&mut state, "↑↑↑↑");
    assert_eq!(names(&screen(&state, 80, 24), "USER").len(), 2);
}

#[test]
fn a_pause_keeps_what_is_seen() {
    let [first, second] = looks();
    let mut state = State::new(Duration::from_secs(2));
    state.saw(first);
    press(&mut state, "p");
    state.saw(second);
    let shown = screen(&state, 80, 24);
    assert!(shown.contains("paused") && shown.contains("\nblue       200"), "{shown}");
    press(&mut state, "p");
    state.saw(looks()[1].clone());
    assert!(screen(&state, 80, 24).contains("\nblue       214"));
}

#[test]
fn keys_explain_themselves_and_end_it() {
    let mut state = state();
    press(&mut state, "?");
    assert!(screen(&state, 80, 24).contains("order it by the next column"));
    press(&mut state, "q");
    assert!(!state.is_over && state.mode == Mode::Watching, "the first key closes the help");
    press(&mut state, "/");
    state.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(state.is_over);
}

#[test]
fn no_name_commands_the_terminal() {
    let [first, mut second] = looks();
    second.users = json!({ "users": [user("\x1b[2J\u{202e}山田\n", 1, 1)] });
    second.backends["backends"][1]["health"]["reason"] = "\x1b]0;x\x07".into();
    let mut state = State::new(Duration::from_secs(2));
    state.saw(first);
    state.saw(second);
    state.missed("\x1b[m".to_owned(), NOON);
    let shown = screen(&state, 140, 24);
    assert!(shown.contains(r"\u{1b}[2J\u{202e}山田\n") && shown.contains(r"\u{1b}]0;x"), "{shown}");
    assert!(!shown.contains(|character: char| character == '\u{202e}' || character.is_control() && character != '\n'));
}

#[test]
fn a_server_that_tells_its_status_alone_is_shown_as_well() {
    let mut state = State::new(Duration::from_secs(2));
    state.saw(Snapshot { at: NOON, status: json!({ "version": "0.1.0", "phase": "draining" }), ..Snapshot::default() });
    assert!(screen(&state, 80, 24).contains("draining"));
}
