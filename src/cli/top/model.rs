//! What `top` shows, out of what was answered: of two looks, what has happened per second between them. Not here: how it looks.

use serde_json::Value;

use super::super::out::safe;
use super::super::table::{Kind, Look, shown};
use super::super::units::{bytes, latency, rate, span};
use super::asking::{Snapshot, USERS};
use super::rows::{Cell, Row};

/// The numbers of one look.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    /// The first lines.
    pub(super) head: Head,
    /// The last minutes, the oldest first: what it is, what it is now, and how it was.
    pub(super) past: Vec<Past>,
    /// By `BACKENDS`.
    pub(super) backends: Vec<Row>,
    /// By `USERS`.
    pub(super) users: Vec<Row>,
}

/// The server itself, in words.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) version: String,
    pub(super) phase: String,
    pub(super) up: String,
    pub(super) facts: Vec<String>,
}

/// One number over time.
#[derive(Debug, Clone, Default)]
pub(super) struct Past {
    pub(super) title: String,
    pub(super) values: Vec<f64>,
}

impl Model {
    /// What was seen, with what was seen before by the same process.
    pub(super) fn new(seen: &Snapshot, before: Option<&Snapshot>) -> Self {
        let between = Between { seen, before: before.filter(|before| is_same_process(before, seen)) };
        let logins = Logins::new(&between);
        Self {
            head: head(&between, &logins),
            past: past(&between, &logins),
            backends: list(&seen.backends, "backends").iter().map(|now| backend(now, &between)).collect(),
            users: list(&seen.users, "users").iter().map(|now| user(now, &between)).collect(),
        }
    }
}

/// Two looks; without the first one there are no rates yet.
struct Between<'a> {
    seen: &'a Snapshot,
    before: Option<&'a Snapshot>,
}

impl Between<'_> {
    /// How much a count has moved per second.
    fn rate(&self, now: Option<f64>, before: impl FnOnce(&Snapshot) -> Option<f64>) -> Option<f64> {
        let earlier = self.before?;
        let time = self.seen.at - earlier.at;
        let moved = now? - before(earlier)?;
        // A count that has gone back was begun anew.
        (time > 0.0 && moved >= 0.0).then(|| moved / time)
    }

    fn rate_at(&self, pointer: &str) -> Option<f64> {
        self.rate(number(&self.seen.status, pointer), |before| number(&before.status, pointer))
    }
}

/// Logins per second: by two looks, else by what the server says of its last seconds.
struct Logins {
    ok: Option<f64>,
    failed: Option<f64>,
}

impl Logins {
    fn new(between: &Between<'_>) -> Self {
        let failed = |status: &Value| {
            let outcomes = status.pointer("/logins").and_then(Value::as_object)?;
            Some(outcomes.iter().filter(|(outcome, _)| *outcome != "ok").filter_map(|(_, count)| count.as_f64()).sum())
        };
        let latest = |key| numbers(&between.seen.history, key).last().copied();
        let ok = between.rate_at("/logins/ok");
        let not_ok = between.rate(failed(&between.seen.status), |before| failed(&before.status));
        Self { ok: ok.or_else(|| latest("logins_ok")), failed: not_ok.or_else(|| latest("logins_failed")) }
    }
}

fn is_same_process(before: &Snapshot, seen: &Snapshot) -> bool {
    ["/pid", "/started_at"].iter().all(|at| before.status.pointer(at) == seen.status.pointer(at))
}

fn head(between: &Between<'_>, logins: &Logins) -> Head {
    let status = &between.seen.status;
    let look = Look { coloured: false, now: between.seen.at, width: None };
    let text = |at: &str| shown(status.pointer(at), Kind::Text, look);
    let mut facts = vec![
        format!("sessions {} ({} before login)", text("/sessions/total"), text("/sessions/preauth")),
        format!("logins/s {} ok, {} failed", shown_rate(logins.ok), shown_rate(logins.failed)),
        format!("queue {}", text("/queue")),
        format!(
            "bytes/s {} to clients, {} to backends",
            shown_bytes(between.rate_at("/bytes/to_client")),
            shown_bytes(between.rate_at("/bytes/to_backend"))
        ),
        format!("descriptors {} of {}", text("/open_descriptors"), text("/max_descriptors")),
    ];
    if number(status, "/predecessors").is_some_and(|count| count > 0.0) {
        facts.push(format!("predecessors {} ({} sessions)", text("/predecessors"), text("/predecessor_sessions")));
    }
    Head {
        version: text("/version"),
        phase: text("/phase"),
        up: shown(status.pointer("/uptime_seconds"), Kind::Span, look),
        facts,
    }
}

fn past(between: &Between<'_>, logins: &Logins) -> Vec<Past> {
    let history = &between.seen.history;
    let [sessions, ok, failed] = ["sessions", "logins_ok", "logins_failed"].map(|key| numbers(history, key));
    let [to_client, to_backend] = ["bytes_to_client", "bytes_to_backend"].map(|key| numbers(history, key));
    let both = to_client.iter().zip(&to_backend).map(|(one, other)| one + other).collect::<Vec<_>>();
    let now = number(&between.seen.status, "/sessions/total");
    let moved =
        between.rate_at("/bytes/to_client").zip(between.rate_at("/bytes/to_backend")).map(|(one, other)| one + other);
    vec![
        Past {
            title: format!("sessions {}", now.map_or_else(|| "-".to_owned(), |now| format!("{now:.0}"))),
            values: sessions,
        },
        Past { title: format!("logins/s {}", shown_rate(logins.ok)), values: ok },
        Past { title: format!("failed/s {}", shown_rate(logins.failed)), values: failed },
        Past { title: format!("bytes/s {}", shown_bytes(moved.or_else(|| both.last().copied()))), values: both },
    ]
}

fn backend(now: &Value, between: &Between<'_>) -> Row {
    let name = now.get("name").and_then(Value::as_str).unwrap_or_default();
    let moved = |pointer: &str| {
        let before = |before: &Snapshot| number(find(&before.backends, "backends", "name", name)?, pointer);
        between.rate(number(now, pointer), before)
    };
    let logins = moved("/logins_total").or_else(|| {
        let history = between.seen.history.get("backends").and_then(|all| all.get(name))?;
        numbers(history, "logins").last().copied()
    });
    Row::new(vec![
        Cell::text(safe(name)),
        Cell::number(number(now, "/sessions"), |count| format!("{count:.0}")),
        Cell::number(number(now, "/queue"), |count| format!("{count:.0}")),
        Cell::number(logins, rate),
        Cell::number(number(now, "/login_seconds/p95"), latency),
        Cell::number(moved("/bytes/to_client"), bytes),
        Cell::number(moved("/bytes/to_backend"), bytes),
        Cell::text(state(now, between.seen.at)),
    ])
}

/// With the reason and for how long, where it is not up.
fn state(backend: &Value, at: f64) -> String {
    let text = |pointer: &str| backend.pointer(pointer).and_then(Value::as_str).map(safe);
    let state = text("/state").unwrap_or_else(|| "-".to_owned());
    let reason = text("/health/reason").filter(|reason| !reason.is_empty());
    let since = number(backend, "/health/since_at").filter(|_| state == "down").map(|since| span(at - since));
    match (since, reason) {
        (Some(since), Some(reason)) => format!("{state} {since}: {reason}"),
        (Some(since), None) => format!("{state} {since}"),
        (None, Some(reason)) => format!("{state}: {reason}"),
        (None, None) => state,
    }
}

fn user(now: &Value, between: &Between<'_>) -> Row {
    let name = now.get("user").and_then(Value::as_str).unwrap_or_default();
    let moved = |pointer: &str| {
        // Who was not there before has come since, with all that it has moved.
        let before = |before: &Snapshot| match find(&before.users, "users", "user", name) {
            Some(user) => number(user, pointer),
            None if list(&before.users, "users").len() < USERS => Some(0.0),
            None => None,
        };
        between.rate(number(now, pointer), before)
    };
    let [to_client, to_backend] =
        ["/bytes_to_client", "/bytes_to_backend"].map(|at| number(now, at).unwrap_or_default());
    Row::new(vec![
        Cell::text(safe(name)),
        Cell::number(number(now, "/sessions"), |count| format!("{count:.0}")),
        Cell::number(moved("/bytes_to_client"), bytes),
        Cell::number(moved("/bytes_to_backend"), bytes),
        Cell::number(Some(to_client + to_backend), bytes),
        Cell::text(remark(now, between.seen.at)),
    ])
}

fn remark(user: &Value, at: f64) -> String {
    let held = number(user, "/held_until_at").map(|until| format!("held for {}", span(until - at)));
    let moved = user.get("moved_to").and_then(Value::as_str).map(|to| format!("moved to {}", safe(to)));
    held.into_iter().chain(moved).collect::<Vec<_>>().join(", ")
}

fn shown_rate(per_second: Option<f64>) -> String {
    per_second.map_or_else(|| "-".to_owned(), rate)
}

fn shown_bytes(per_second: Option<f64>) -> String {
    per_second.map_or_else(|| "-".to_owned(), bytes)
}

fn number(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64)
}

fn numbers(value: &Value, key: &str) -> Vec<f64> {
    list(value, key).iter().map(|number| number.as_f64().unwrap_or_default()).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn find<'a>(value: &'a Value, list_key: &str, key: &str, name: &str) -> Option<&'a Value> {
    list(value, list_key).iter().find(|item| item.get(key).and_then(Value::as_str) == Some(name))
}
