//! `mailmux reload`: the mailmux that runs reads its configuration anew.

use std::process::ExitCode;

use super::admin::{Ask, EXIT_CODES, Path, Said, strings};
use super::out::safe_lines;

/// Have the mailmux that runs read its configuration anew, with all that it names. Sessions live on; a configuration with a
/// mistake changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Reload {
    #[command(flatten)]
    ask: Ask,
}

impl Reload {
    pub(super) fn run(self) -> ExitCode {
        self.ask.post(&Path::new(&["reload"]), |said| {
            let mut lines: Vec<_> = strings(said, "warnings").map(safe_lines).collect();
            lines.push(format!("{}: reloaded", self.ask.place()));
            Said::Done(lines.join("\n"))
        })
    }
}
