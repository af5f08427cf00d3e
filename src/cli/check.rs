//! `mailmux check`: everything that can be known without starting.

use std::process::ExitCode;

use super::File;
use super::out::print;
use crate::server::Plan;

/// Read the configuration and everything it names.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: File,
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let config = match self.file.load() {
            Ok(config) => config,
            Err(findings) => {
                eprint!("{findings}");
                return ExitCode::FAILURE;
            }
        };
        match Plan::load(config) {
            Ok(plan) => {
                if !plan.warnings().is_empty() {
                    eprint!("{}", self.file.show(plan.warnings().to_vec()));
                }
                print(&format!("{}: ok\n", self.file.config.display()), ExitCode::SUCCESS)
            }
            Err(findings) => {
                eprint!("{}", self.file.show(findings));
                ExitCode::FAILURE
            }
        }
    }
}
