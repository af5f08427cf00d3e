//! `mailmux config`: the configuration that is in force.

use std::process::ExitCode;

use serde_json::Value;

use super::admin::{Ask, EXIT_CODES, Path, Said};
use super::out::{safe, safe_lines};
use super::units::moment;

/// The configuration that the mailmux that runs has loaded, with its secrets masked. The file may have been changed since.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Configuration {
    #[command(flatten)]
    ask: Ask,
}

impl Configuration {
    pub(super) fn run(self) -> ExitCode {
        self.ask.get(&Path::new(&["config"]), |said| {
            let text = |key| said.get(key).and_then(Value::as_str);
            let file = text("file").map_or_else(|| "without a file".to_owned(), safe);
            let when = said.get("loaded_at").and_then(Value::as_f64).and_then(moment).unwrap_or_default();
            Said::Done(format!("# {file}, loaded {when} UTC\n{}", safe_lines(text("toml").unwrap_or_default())))
        })
    }
}
