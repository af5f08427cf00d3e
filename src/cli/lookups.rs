//! `mailmux lookups` and `flush`: what the sources of routes have answered, and what is kept of it.

use std::process::ExitCode;

use serde_json::Value;

use super::admin::{Ask, EXIT_CODES, Path, Said, counted, number};
use super::table::{Column, Kind, Look, table};

const COLUMNS: [Column; 12] = [
    Column::new("LOOKUP", "/name", Kind::Text),
    Column::new("KIND", "/kind", Kind::Text),
    Column::new("FOUND", "/answers/found", Kind::Number),
    Column::new("UNKNOWN", "/answers/unknown", Kind::Number),
    Column::new("REFUSED", "/answers/refused", Kind::Number).spare(3),
    Column::new("FAILED", "/answers/failed", Kind::Number),
    Column::new("CACHED", "/cached", Kind::Text),
    Column::new("ENTRIES", "/entries", Kind::Number),
    Column::new("HIT", "/cache/hit", Kind::Number).spare(1),
    Column::new("MISS", "/cache/miss", Kind::Number).spare(2),
    Column::new("SHARED", "/cache/shared", Kind::Number).spare(5),
    Column::new("STALE", "/cache/stale", Kind::Number).spare(4),
];

/// The lookups: what they have answered, and how much came from their caches.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Lookups {
    #[command(flatten)]
    ask: Ask,
}

impl Lookups {
    pub(super) fn run(self) -> ExitCode {
        self.ask.get(&Path::new(&["lookups"]), |said| {
            let lookups = said.get("lookups").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            Said::Done(if lookups.is_empty() {
                "no lookups".to_owned()
            } else {
                table(&COLUMNS, lookups, Look::here())
            })
        })
    }
}

/// Forget answers of lookups, so that the next login asks anew; all of them, if nothing else is said.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Flush {
    #[command(flatten)]
    ask: Ask,
    /// Only those of this one.
    #[arg(long, value_name = "NAME")]
    lookup: Option<String>,
    /// Only those about this user.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

impl Flush {
    pub(super) fn run(self) -> ExitCode {
        let path =
            Path::new(&["lookups", "flush"]).with("lookup", self.lookup.as_ref()).with("user", self.user.as_ref());
        self.ask.post(&path, |said| match number(said, "flushed") {
            0 if self.user.is_some() => Said::Nothing("no answer about this user was kept".to_owned()),
            flushed => Said::Done(format!("{} forgotten", counted(flushed, "answer"))),
        })
    }
}
