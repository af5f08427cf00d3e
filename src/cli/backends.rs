//! `mailmux drain` and `undrain`: a backend is taken out of use and put back.

use std::process::ExitCode;

use super::File;
use super::admin::{self, escaped, number};
use crate::config::duration;

/// A backend to be taken out of use.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    #[command(flatten)]
    backend: Backend,
    /// How long its sessions may go on; then they are told to leave.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = checked)]
    r#for: String,
}

/// A backend.
#[derive(Debug, clap::Args)]
pub(super) struct Backend {
    #[command(flatten)]
    file: File,
    /// The backend, by its name in the configuration.
    backend: String,
}

impl Drain {
    pub(super) fn run(self) -> ExitCode {
        let path = format!("backends/{}/drain?for={}", escaped(&self.backend.backend), escaped(&self.r#for));
        admin::ask(&self.backend.file, &path, |said| {
            let dismissed = number(said, "dismissed");
            format!("{}: empty; {dismissed} sessions had to be told to leave", self.backend.backend)
        })
    }
}

impl Backend {
    pub(super) fn undrain(self) -> ExitCode {
        let path = format!("backends/{}/undrain", escaped(&self.backend));
        admin::ask(&self.file, &path, |_| format!("{}: in use again", self.backend))
    }
}

fn checked(text: &str) -> Result<String, String> {
    duration(text).map(|_| text.to_owned())
}
