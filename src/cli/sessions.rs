//! `mailmux sessions` and `kick`: who is logged in, and who is told to leave.

use std::io::{IsTerminal as _, stderr, stdin};
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

use super::admin::{Ask, EXIT_CODES, Limit, Line, Path, Said, counted, nothing, number, whichever};
use super::table::{Column, Kind, Look, table};

/// Of one session.
pub(super) const COLUMNS: [Column; 11] = [
    Column::new("ID", "/id", Kind::Text),
    Column::new("USER", "/user", Kind::Text),
    Column::new("CLIENT", "/client", Kind::Text),
    Column::new("LISTENER", "/listener", Kind::Text).spare(4),
    Column::new("BACKEND", "/backend", Kind::Text).spare(1),
    Column::new("TLS", "/tls", Kind::Text).spare(5),
    Column::new("STATE", "/state", Kind::Text),
    Column::new("FOR", "/duration_seconds", Kind::Span),
    Column::new("QUIET", "/quiet_seconds", Kind::Span).spare(3),
    Column::new("TO CLIENT", "/bytes_to_client", Kind::Bytes).spare(2),
    Column::new("TO BACKEND", "/bytes_to_backend", Kind::Bytes).spare(6),
];

/// The sessions that have a user: those who are logged in, and those who are logging in.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Sessions {
    #[command(flatten)]
    ask: Ask,
    /// Only this user's.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only those from this address, or from this network.
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Only those at this backend.
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Only those that came in through this listener.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Only those in this state; idle: in IDLE.
    #[arg(long, value_name = "STATE", value_parser = ["logging_in", "active", "idle"])]
    state: Option<String>,
    /// Only this one.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

impl Sessions {
    pub(super) fn run(self) -> ExitCode {
        let all = [
            ("user", &self.user),
            ("network", &self.network),
            ("backend", &self.backend),
            ("listener", &self.listener),
            ("state", &self.state),
            ("id", &self.id),
        ];
        let path = Path::new(&["sessions"]);
        let path = all.iter().fold(path, |path, (key, value)| path.with(key, value.as_deref()));
        let is_narrow = all.iter().any(|(_, value)| value.is_some());
        self.ask.list(&path, "sessions", "no sessions", &self.limit, is_narrow, |sessions| {
            table(&COLUMNS, sessions, Look::here())
        })
    }
}

/// Sessions that are told to leave.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Kick {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    which: Which,
    /// Do not ask whether it is meant, where several users are told to leave.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Which {
    /// The user, as typed into a mail program.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    user: Option<String>,
    /// The session with this id.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Sessions from this address, or from this network.
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Sessions at this backend.
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
}

impl Kick {
    pub(super) fn run(self) -> ExitCode {
        whichever(self.ask.writer().and_then(|line| self.kick(&line)))
    }

    fn kick(&self, line: &Line) -> Result<ExitCode, ExitCode> {
        let Which { user, id, network, backend } = &self.which;
        let may_be_many = user.is_none() && id.is_none();
        if may_be_many && !self.yes && stdin().is_terminal() && stderr().is_terminal() && !self.is_meant(line)? {
            return Ok(nothing("nobody was told to leave"));
        }
        let path = match (user, id, network, backend) {
            // Links that wait for the user go with its sessions.
            (Some(user), None, None, None) => Path::new(&["users", user, "kick"]),
            _ => self.which.narrow(Path::new(&["sessions", "kick"])),
        };
        let answer = line.post(&path)?;
        Ok(line.show(&answer, |said| match number(said, "dismissed") {
            0 => Said::Nothing("there is no such session".to_owned()),
            dismissed => Said::Done(format!("{} told to leave", counted(dismissed, "session"))),
        }))
    }

    /// Asks, where it is about more than one user.
    fn is_meant(&self, line: &Line) -> Result<bool, ExitCode> {
        let first = line.get(&self.which.narrow(Path::new(&["sessions"])).with("limit", Some("1000")))?.said;
        let users = first.get("sessions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let is_one = users.iter().all(|session| session.get("user") == users[0].get("user"));
        let total = number(&first, "total");
        if is_one && total <= users.len() as u64 {
            return Ok(true);
        }
        eprint!("kick {}? [y/N] ", counted(total, "session"));
        let mut answer = String::new();
        let read = stdin().read_line(&mut answer);
        Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

impl Which {
    fn narrow(&self, path: Path) -> Path {
        let all = [("id", &self.id), ("user", &self.user), ("network", &self.network), ("backend", &self.backend)];
        all.iter().fold(path, |path, (key, value)| path.with(key, value.as_deref()))
    }
}
