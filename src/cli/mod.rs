//! The command line: one file per subcommand, each from arguments to an exit code.

mod admin;
mod backends;
mod check;
mod doctor;
mod reload;
mod route;
mod serve;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Finding, Findings};

/// Where the configuration is looked for when no other place is named.
const DEFAULT_FILE: &str = "/etc/mailmux/mailmux.toml";

/// IMAP reverse proxy and connection multiplexer.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy in the foreground.
    Serve(serve::Serve),
    /// Read the configuration and everything it names, say what is wrong with it, and start nothing.
    Check(check::Check),
    /// Walk the way of a login and say what is wrong with it, and what to do.
    Doctor(doctor::Doctor),
    /// Say where a user would go, and why.
    Route(route::Route),
    /// Have the mailmux that runs read its configuration anew.
    Reload(reload::Reload),
    /// Hold a user's logins back, for 15 minutes at most.
    Hold(users::User),
    /// Let a user's logins in again.
    Release(users::User),
    /// Tell a user's sessions to leave; they may come back at once.
    Kick(users::User),
    /// Tell a user's sessions to leave, and send it elsewhere from then on.
    Move(users::Move),
    /// Give a backend no new sessions, and wait until it has none.
    Drain(backends::Drain),
    /// Put a backend back in use.
    Undrain(backends::Backend),
}

impl Arguments {
    /// Does what was asked for.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Route(route) => route.run(),
            Command::Reload(reload) => reload.run(),
            Command::Hold(user) => user.hold(),
            Command::Release(user) => user.release(),
            Command::Kick(user) => user.kick(),
            Command::Move(user) => user.run(),
            Command::Drain(backend) => backend.run(),
            Command::Undrain(backend) => backend.undrain(),
        }
    }
}

/// Where the configuration is.
#[derive(Debug, clap::Args)]
struct File {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

impl File {
    fn load(&self) -> Result<Config, Findings> {
        Config::load(&self.config)
    }

    /// Findings of later rooms, shown with their places in the file.
    fn show(&self, findings: Vec<Finding>) -> Findings {
        let text = std::fs::read_to_string(&self.config).unwrap_or_default();
        Findings::new(self.config.clone(), text, findings)
    }
}
