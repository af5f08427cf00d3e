//! `mailmux hold`, `release`, `kick` and `move`: what can be done about one user's sessions.

use std::process::ExitCode;

use super::File;
use super::admin::{self, escaped, number};

/// A user.
#[derive(Debug, clap::Args)]
pub(super) struct User {
    #[command(flatten)]
    file: File,
    /// The user, as typed into a mail program.
    user: String,
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

impl User {
    pub(super) fn hold(self) -> ExitCode {
        self.ask("hold", |_| format!("{}: logins wait, until they are released or for 15 minutes", self.user))
    }

    pub(super) fn release(self) -> ExitCode {
        self.ask("release", |said| {
            let was_held = said.get("was_held").and_then(serde_json::Value::as_bool).unwrap_or_default();
            let what = if was_held { "logins are let in" } else { "logins were not held" };
            format!("{}: {what}", self.user)
        })
    }

    pub(super) fn kick(self) -> ExitCode {
        self.ask("kick", |said| format!("{}: {} sessions told to leave", self.user, number(said, "dismissed")))
    }

    fn ask(&self, what: &str, show: impl Fn(&serde_json::Value) -> String) -> ExitCode {
        admin::ask(&self.file, &format!("users/{}/{what}", escaped(&self.user)), show)
    }
}

impl Move {
    pub(super) fn run(self) -> ExitCode {
        let to = self.to.as_ref().map_or_else(String::new, |to| format!("?to={}", escaped(to)));
        self.user.ask(&format!("move{to}"), |said| {
            let where_to = self.to.as_ref().map_or_else(|| "where the rules say".to_owned(), |to| format!("at {to}"));
            format!("{}: {} sessions have left; from now on {where_to}", self.user.user, number(said, "dismissed"))
        })
    }
}
