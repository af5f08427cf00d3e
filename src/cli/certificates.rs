//! `mailmux certificates`: what clients are shown, and until when it is good.

use std::process::ExitCode;

use serde_json::Value;

use super::admin::{Ask, EXIT_CODES, Path, Said};
use super::table::{Column, Kind, Look, table};

const COLUMNS: [Column; 8] = [
    Column::new("CERTIFICATE", "/name", Kind::Text),
    Column::new("DAYS LEFT", "/days_left", Kind::DaysLeft),
    Column::new("FROM", "/not_before_at", Kind::Day).spare(5),
    Column::new("UNTIL", "/not_after_at", Kind::Day),
    Column::new("KEY", "/key", Kind::Text).spare(3),
    Column::new("ISSUER", "/issuer", Kind::Text).spare(4),
    Column::new("FILE", "/file", Kind::Text).spare(2),
    Column::new("NAMES", "/names", Kind::Text),
];

/// The certificates that clients are shown.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Certificates {
    #[command(flatten)]
    ask: Ask,
}

impl Certificates {
    pub(super) fn run(self) -> ExitCode {
        self.ask.get(&Path::new(&["certificates"]), |said| {
            let all = said.get("certificates").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            Said::Done(if all.is_empty() { "no certificates".to_owned() } else { table(&COLUMNS, all, Look::here()) })
        })
    }
}
