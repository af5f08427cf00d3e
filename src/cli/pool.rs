//! `mailmux pool`: links that wait.

use std::process::ExitCode;

use serde_json::Value;

use super::admin::{Ask, EXIT_CODES, Path, Said};
use super::table::{Column, Kind, Look, table};

const COLUMNS: [Column; 7] = [
    Column::new("BACKEND", "/backend", Kind::Text),
    Column::new("MODE", "/mode", Kind::Text),
    Column::new("WARM", "/warm", Kind::Number),
    Column::new("REUSABLE", "/reusable", Kind::Number),
    Column::new("ACTIVE", "/active", Kind::Number),
    Column::new("CHECKOUTS", "/checkouts", Kind::Text),
    Column::new("EVICTIONS", "/evictions", Kind::Text).spare(1),
];

/// The links to each backend: those that wait, those in use, and what became of others.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Pool {
    #[command(flatten)]
    ask: Ask,
}

impl Pool {
    pub(super) fn run(self) -> ExitCode {
        self.ask.get(&Path::new(&["pool"]), |said| {
            let backends = said.get("backends").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            Said::Done(table(&COLUMNS, backends, Look::here()))
        })
    }
}
