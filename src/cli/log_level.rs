//! `mailmux log-level`: how much is logged, at run time.

use std::process::ExitCode;

use serde_json::Value;

use super::admin::{Ask, EXIT_CODES, Path, Said};
use super::backends::checked;
use super::out::safe;

/// Have the mailmux that runs log more, or less.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Level {
    #[command(flatten)]
    ask: Ask,
    /// The least that is logged.
    #[arg(value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    to: String,
    /// Go back to the configured level after this time.
    #[arg(long, value_name = "DURATION", value_parser = checked)]
    r#for: Option<String>,
}

impl Level {
    pub(super) fn run(self) -> ExitCode {
        let path = Path::new(&["log-level"]).with("to", Some(&self.to)).with("for", self.r#for.as_ref());
        self.ask.post(&path, |said| {
            let level = safe(said.get("level").and_then(Value::as_str).unwrap_or(&self.to));
            let until = self
                .r#for
                .as_ref()
                .map_or_else(|| "until mailmux reloads or ends".to_owned(), |time| format!("for {time}"));
            Said::Done(format!("log level {level}, {until}"))
        })
    }
}
