//! `mailmux limits` and `pardon`: who is held off for guessing passwords and the like, and who is let in again.

use std::process::ExitCode;

use super::admin::{Ask, EXIT_CODES, Limit, Path, Said, number};
use super::table::{Column, Kind, Look, table};

const COLUMNS: [Column; 7] = [
    Column::new("KIND", "/kind", Kind::Text),
    Column::new("WHO", "/key", Kind::Text),
    Column::new("LIMIT", "/limit", Kind::Text).spare(1),
    Column::new("FAILURES", "/failures", Kind::Number),
    Column::new("SINCE", "/since_at", Kind::Ago).spare(2),
    Column::new("ENDS IN", "/until_at", Kind::In),
    Column::new("REASON", "/reason", Kind::Text),
];

/// Networks and users that are held off by limits, since when, why and until when.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Limits {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    limit: Limit,
}

impl Limits {
    pub(super) fn run(self) -> ExitCode {
        let path = Path::new(&["limits"]);
        self.ask
            .list(&path, "held", "nobody is held off", &self.limit, false, |held| table(&COLUMNS, held, Look::here()))
    }
}

/// Forget the failures of a network or of a user, so that they are let in again.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Pardon {
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    whom: Whom,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// An address, or a network.
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// A user.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

impl Pardon {
    pub(super) fn run(self) -> ExitCode {
        let Whom { network, user } = self.whom;
        let path = Path::new(&["limits", "pardon"]).with("network", network.as_ref()).with("user", user.as_ref());
        let whom = network.or(user).unwrap_or_default();
        self.ask.post(&path, |said| match number(said, "pardoned") {
            0 => Said::Nothing(format!("{whom}: nothing was counted against it")),
            _ => Said::Done(format!("{whom}: pardoned")),
        })
    }
}
