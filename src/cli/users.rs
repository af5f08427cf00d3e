//! `mailmux users`, `hold`, `release` and `move`: who there is, and what can be done about one of them. Kicking is in
//! `sessions.rs`.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

use super::admin::{Ask, EXIT_CODES, Limit, Path, Said, counted, number};
use super::sessions;
use super::table::{Column, Kind, Look, facts, table};

const COLUMNS: [Column; 6] = [
    Column::new("USER", "/user", Kind::Text),
    Column::new("SESSIONS", "/sessions", Kind::Number),
    Column::new("TO CLIENT", "/bytes_to_client", Kind::Bytes),
    Column::new("TO BACKEND", "/bytes_to_backend", Kind::Bytes),
    Column::new("HELD FOR", "/held_until_at", Kind::In).spare(1),
    Column::new("MOVED TO", "/moved_to", Kind::Text).spare(2),
];

/// The users who have sessions, are held back or were moved; or one of them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Users {
    #[command(flatten)]
    ask: Ask,
    /// All that is known of this one.
    #[arg(conflicts_with_all = ["sort", "held", "limit"], value_parser = NonEmptyStringValueParser::new())]
    user: Option<String>,
    /// Whom to list first.
    #[arg(long, value_name = "BY", default_value = "bytes", value_parser = ["bytes", "sessions"])]
    sort: String,
    /// Only those whose logins are held back.
    #[arg(long)]
    held: bool,
    #[command(flatten)]
    limit: Limit,
}

impl Users {
    pub(super) fn run(self) -> ExitCode {
        if let Some(user) = &self.user {
            return self.ask.get(&Path::new(&["users", user]), |said| Said::Done(one(said, Look::here())));
        }
        let held = self.held.then_some("true");
        let path = Path::new(&["users"]).with("sort", Some(&self.sort)).with("held", held);
        self.ask.list(&path, "users", "no users", &self.limit, self.held, |users| table(&COLUMNS, users, Look::here()))
    }
}

fn one(said: &Value, look: Look) -> String {
    let mut text = facts(&COLUMNS, said, look);
    if let Some(sessions) = said.get("session_list").and_then(Value::as_array).filter(|sessions| !sessions.is_empty()) {
        text.push_str("\n\n");
        text.push_str(&table(&sessions::COLUMNS, sessions, look));
    }
    text
}

/// A user.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct User {
    #[command(flatten)]
    ask: Ask,
    /// The user, as typed into a mail program.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    user: String,
}

impl User {
    pub(super) fn hold(self) -> ExitCode {
        let said = format!("{}: logins wait, until they are released or for 15 minutes", self.user);
        self.ask.post(&self.path("hold"), |_| Said::Done(said))
    }

    pub(super) fn release(self) -> ExitCode {
        self.ask.post(&self.path("release"), |said| {
            if said.get("was_held").and_then(Value::as_bool).unwrap_or_default() {
                Said::Done(format!("{}: logins are let in", self.user))
            } else {
                Said::Nothing(format!("{}: logins were not held", self.user))
            }
        })
    }

    fn path(&self, what: &str) -> Path {
        Path::new(&["users", &self.user, what])
    }
}

/// Where a user goes.
#[derive(Debug, clap::Args)]
pub(super) struct Move {
    #[command(flatten)]
    user: User,
    /// The backend where the user is from now on, until mailmux ends; without it: where the rules say.
    #[arg(long, value_name = "BACKEND")]
    to: Option<String>,
}

impl Move {
    pub(super) fn run(self) -> ExitCode {
        let path = self.user.path("move").with("to", self.to.as_deref());
        self.user.ask.post(&path, |said| {
            let where_to = self.to.as_ref().map_or_else(|| "where the rules say".to_owned(), |to| format!("at {to}"));
            let left = match number(said, "dismissed") {
                1 => "1 session has left".to_owned(),
                count => format!("{} have left", counted(count, "session")),
            };
            Said::Done(format!("{}: {left}; from now on {where_to}", self.user.user))
        })
    }
}
