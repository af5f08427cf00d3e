//! `mailmux completions`: what a shell completes.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::{Shell as Script, generate};

use super::{Arguments, out};

/// What a shell completes.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub(super) fn run(self) -> ExitCode {
        let shell = match self.shell {
            Shell::Bash => Script::Bash,
            Shell::Zsh => Script::Zsh,
            Shell::Fish => Script::Fish,
        };
        let mut script = Vec::new();
        generate(shell, &mut Arguments::command(), "mailmux", &mut script);
        out::print(&String::from_utf8_lossy(&script), ExitCode::SUCCESS)
    }
}
