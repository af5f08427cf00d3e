//! `mailmux reload`: the mailmux that runs reads its configuration anew.

use std::process::ExitCode;

use super::{File, admin};

/// Have the mailmux that runs read its configuration anew, with all that it names. Sessions live on; a configuration with a
/// mistake changes nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Reload {
    #[command(flatten)]
    file: File,
}

impl Reload {
    pub(super) fn run(self) -> ExitCode {
        admin::ask(&self.file, "reload", |said| {
            let mut lines: Vec<_> = admin::strings(said, "warnings").map(str::to_owned).collect();
            lines.push(format!("{}: reloaded", self.file.config.display()));
            lines.join("\n")
        })
    }
}
