//! `mailmux status`: the running server at a glance.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::admin::{Ask, EXIT_CODES, Path, Said};
use super::table::{Column, Kind, Look, facts, table};

const SERVER: [Column; 9] = [
    Column::new("mailmux", "/version", Kind::Text),
    Column::new("phase", "/phase", Kind::State),
    Column::new("up", "/uptime_seconds", Kind::Span),
    Column::new("process", "/pid", Kind::Text),
    Column::new("memory", "/resident_bytes", Kind::Bytes),
    Column::new("descriptors", "/open_descriptors", Kind::Text),
    Column::new("most descriptors", "/max_descriptors", Kind::Text),
    Column::new("log level", "/log_level", Kind::Text),
    Column::new("reloaded ago", "/reload/last_success_at", Kind::Ago),
];

const WORK: [Column; 11] = [
    Column::new("sessions", "/sessions/total", Kind::Text),
    Column::new("  logged in", "/sessions/logged_in", Kind::Text),
    Column::new("  before login", "/sessions/preauth", Kind::Text),
    Column::new("queue", "/queue", Kind::Text),
    Column::new("login, median", "/login_seconds/p50", Kind::Latency),
    Column::new("login, p95", "/login_seconds/p95", Kind::Latency),
    Column::new("login, p99", "/login_seconds/p99", Kind::Latency),
    Column::new("bytes to clients", "/bytes/to_client", Kind::Bytes),
    Column::new("bytes to backends", "/bytes/to_backend", Kind::Bytes),
    Column::new("reloads", "/reload/succeeded", Kind::Text),
    Column::new("  failed", "/reload/failed", Kind::Text),
];

const PREDECESSORS: [Column; 2] = [
    Column::new("predecessors", "/predecessors", Kind::Text),
    Column::new("  sessions", "/predecessor_sessions", Kind::Text),
];

const LISTENERS: [Column; 6] = [
    Column::new("LISTENER", "/name", Kind::Text),
    Column::new("ADDRESS", "/address", Kind::Text),
    Column::new("TLS", "/tls", Kind::Text),
    Column::new("SESSIONS", "/sessions", Kind::Number),
    Column::new("BEFORE LOGIN", "/preauth", Kind::Number),
    Column::new("ACCEPTED", "/accepted_total", Kind::Number),
];

/// What is counted since the start, a table each: its key, and its head.
const COUNTS: [(&str, &str); 3] = [("logins", "LOGINS"), ("closed", "SESSIONS CLOSED"), ("limited", "LIMITED")];

/// How the mailmux that runs is: sessions, logins, listeners, memory, reloads.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Status {
    #[command(flatten)]
    ask: Ask,
}

impl Status {
    pub(super) fn run(self) -> ExitCode {
        self.ask.get(&Path::new(&["status"]), |said| Said::Done(shown(said, Look::here())))
    }
}

fn shown(said: &Value, look: Look) -> String {
    let mut first = [SERVER.as_slice(), WORK.as_slice()].concat();
    if said.get("predecessors").and_then(Value::as_u64).unwrap_or_default() > 0 {
        first.extend(PREDECESSORS);
    }
    let mut parts = vec![facts(&first, said, look)];
    if let Some(listeners) = said.get("listeners").and_then(Value::as_array) {
        parts.push(table(&LISTENERS, listeners, look));
    }
    for (key, head) in COUNTS {
        let rows = said.get(key).and_then(Value::as_object).map(counts).unwrap_or_default();
        if !rows.is_empty() {
            parts.push(table(
                &[Column::new(head, "/what", Kind::Text), Column::new("SINCE START", "/count", Kind::Number)],
                &rows,
                look,
            ));
        }
    }
    parts.join("\n\n")
}

/// What has happened at all, the most frequent first.
fn counts(counts: &Map<String, Value>) -> Vec<Value> {
    let mut some: Vec<_> = counts
        .iter()
        .filter_map(|(what, count)| Some((what, count.as_u64()?)))
        .filter(|(_, count)| *count > 0)
        .collect();
    some.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    some.into_iter().map(|(what, count)| json!({ "what": what, "count": count })).collect()
}
