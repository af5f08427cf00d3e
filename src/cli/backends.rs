//! `mailmux backends`, `drain`, `undrain` and `weight`: how backends are, and how much of the work they get.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

use super::admin::{Ask, EXIT_CODES, Path, Said, counted, number};
use super::table::{Column, Kind, Look, facts, table};
use crate::config::duration;

const COLUMNS: [Column; 14] = [
    Column::new("BACKEND", "/name", Kind::Text),
    Column::new("ADDRESS", "/address", Kind::Text),
    Column::new("STATE", "/state", Kind::State),
    Column::new("SINCE", "/health/since_at", Kind::Ago).spare(3),
    Column::new("GROUPS", "/groups", Kind::Text).spare(7),
    Column::new("WEIGHT", "/weight", Kind::Number).spare(5),
    Column::new("SESSIONS", "/sessions", Kind::Number),
    Column::new("LINKS", "/links", Kind::Number).spare(8),
    Column::new("QUEUE", "/queue", Kind::Number).spare(2),
    Column::new("LOGINS", "/logins_total", Kind::Number).spare(4),
    Column::new("P95", "/login_seconds/p95", Kind::Latency).spare(1),
    Column::new("TO CLIENT", "/bytes/to_client", Kind::Bytes).spare(6),
    Column::new("TO BACKEND", "/bytes/to_backend", Kind::Bytes).spare(9),
    Column::new("REASON", "/health/reason", Kind::Text),
];

const FACTS: [Column; 23] = [
    Column::new("backend", "/name", Kind::Text),
    Column::new("address", "/address", Kind::Text),
    Column::new("tls", "/tls", Kind::Text),
    Column::new("groups", "/groups", Kind::Text),
    Column::new("state", "/state", Kind::State),
    Column::new("healthy", "/health/up", Kind::Text),
    Column::new("for", "/health/since_at", Kind::Ago),
    Column::new("reason", "/health/reason", Kind::Text),
    Column::new("checked ago", "/health/last_check_at", Kind::Ago),
    Column::new("weight", "/weight", Kind::Text),
    Column::new("configured weight", "/configured_weight", Kind::Text),
    Column::new("sessions", "/sessions", Kind::Text),
    Column::new("links", "/links", Kind::Text),
    Column::new("most links", "/max_links", Kind::Text),
    Column::new("queue", "/queue", Kind::Text),
    Column::new("pool", "/pool", Kind::Text),
    Column::new("logins", "/logins_total", Kind::Text),
    Column::new("errors", "/errors_total", Kind::Text),
    Column::new("login, median", "/login_seconds/p50", Kind::Latency),
    Column::new("login, p95", "/login_seconds/p95", Kind::Latency),
    Column::new("login, p99", "/login_seconds/p99", Kind::Latency),
    Column::new("bytes to clients", "/bytes/to_client", Kind::Bytes),
    Column::new("bytes to backend", "/bytes/to_backend", Kind::Bytes),
];

const HISTORY: [Column; 3] = [
    Column::new("CHANGED (UTC)", "/at", Kind::Moment),
    Column::new("STATE", "/state", Kind::State),
    Column::new("REASON", "/reason", Kind::Text),
];

/// The backends: whether they are up, and what they have to do; or one of them, with its history.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Backends {
    #[command(flatten)]
    ask: Ask,
    /// All that is known of this one.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    backend: Option<String>,
}

impl Backends {
    pub(super) fn run(self) -> ExitCode {
        if let Some(backend) = &self.backend {
            return self.ask.get(&Path::new(&["backends", backend]), |said| Said::Done(one(said, Look::here())));
        }
        self.ask.get(&Path::new(&["backends"]), |said| {
            let backends = said.get("backends").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            Said::Done(table(&COLUMNS, backends, Look::here()))
        })
    }
}

fn one(said: &Value, look: Look) -> String {
    let mut text = facts(&FACTS, said, look);
    let history = said.get("history").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !history.is_empty() {
        let states: Vec<Value> = history.iter().cloned().map(with_state).collect();
        text.push_str("\n\n");
        text.push_str(&table(&HISTORY, &states, look));
    }
    text
}

/// A change of health, in the words of a state.
fn with_state(mut change: Value) -> Value {
    let is_up = change.get("up").and_then(Value::as_bool).unwrap_or_default();
    if let Some(change) = change.as_object_mut() {
        change.insert("state".to_owned(), if is_up { "up" } else { "down" }.into());
    }
    change
}

/// A backend to be taken out of use.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    #[command(flatten)]
    backend: Backend,
    /// How long its sessions may go on; then they are told to leave.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = checked)]
    r#for: String,
}

/// A backend.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Backend {
    #[command(flatten)]
    ask: Ask,
    /// The backend, by its name in the configuration.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    backend: String,
}

/// How much of a group's users a backend gets.
#[derive(Debug, clap::Args)]
pub(super) struct Weight {
    #[command(flatten)]
    backend: Backend,
    /// 0 to 1000, until mailmux ends or reloads its configuration; "configured": what that says.
    #[arg(value_name = "N", value_parser = weight)]
    to: String,
}

impl Drain {
    pub(super) fn run(self) -> ExitCode {
        self.backend.ask.post(&self.backend.path("drain").with("for", Some(&self.r#for)), |said| {
            let dismissed = counted(number(said, "dismissed"), "session");
            Said::Done(format!("{}: empty; {dismissed} had to be told to leave", self.backend.backend))
        })
    }
}

impl Backend {
    pub(super) fn undrain(self) -> ExitCode {
        self.ask.post(&self.path("undrain"), |_| Said::Done(format!("{}: in use again", self.backend)))
    }

    fn path(&self, what: &str) -> Path {
        Path::new(&["backends", &self.backend, what])
    }
}

impl Weight {
    pub(super) fn run(self) -> ExitCode {
        let said = match self.to.as_str() {
            "configured" => format!("{}: weighs what the configuration says", self.backend.backend),
            to => format!("{}: weighs {to}, until mailmux reloads or ends", self.backend.backend),
        };
        self.backend.ask.post(&self.backend.path("weight").with("to", Some(&self.to)), |_| Said::Done(said))
    }
}

/// A duration, as it was written.
pub(super) fn checked(text: &str) -> Result<String, String> {
    duration(text).map(|_| text.to_owned())
}

fn weight(text: &str) -> Result<String, String> {
    match text.parse::<u16>() {
        Ok(0..=1000) => Ok(text.to_owned()),
        _ if text == "configured" => Ok(text.to_owned()),
        _ => Err("a number from 0 to 1000 is expected, or \"configured\"".to_owned()),
    }
}
