//! The command line: a file for each thing that there are subcommands about, from arguments to an exit code. What those have in
//! common that ask a mailmux that runs is in `admin/`; how things are shown, in `table.rs`, `units.rs` and `out.rs`.

mod admin;
mod backends;
mod certificates;
mod check;
mod completions;
mod config;
mod doctor;
mod limits;
mod log_level;
mod lookups;
mod out;
mod pool;
mod reload;
mod route;
mod serve;
mod sessions;
mod status;
mod table;
mod top;
mod trace;
mod units;
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
    ///
    /// By the configuration and the sources that it names, as if all backends were up; with --running or --admin, by what the
    /// mailmux that runs knows of them.
    Route(route::Route),
    /// Show how the mailmux that runs is: sessions, logins, listeners, memory, reloads.
    Status(status::Status),
    /// Watch the mailmux that runs: rates, backends, the busiest users.
    ///
    /// It goes on over a restart of mailmux. Keys: q ends it, ? explains the others.
    Top(top::Top),
    /// List sessions.
    Sessions(sessions::Sessions),
    /// List users, or show one.
    Users(users::Users),
    /// List backends with their health, or show one with its history.
    Backends(backends::Backends),
    /// Show the links that wait.
    Pool(pool::Pool),
    /// List who is held off, and why.
    Limits(limits::Limits),
    /// Show the lookups and their caches.
    Lookups(lookups::Lookups),
    /// Show the certificates and the days they have left.
    Certificates(certificates::Certificates),
    /// Show the configuration that is in force, without its secrets.
    Config(config::Configuration),
    /// Watch what a user's client and backend say to each other.
    ///
    /// Credentials and the contents of literals are masked. It ends after a time, after so many bytes, or by Ctrl-C.
    Trace(trace::Trace),
    /// Have the mailmux that runs read its configuration anew.
    Reload(reload::Reload),
    /// Tell sessions to leave; their clients may come back at once.
    ///
    /// What is said of them must all be so: "kick ann --backend blue" is about Ann's sessions at blue. On a terminal it asks
    /// before several users are told to leave.
    Kick(sessions::Kick),
    /// Hold a user's logins back, for 15 minutes at most.
    Hold(users::User),
    /// Let a user's logins in again.
    Release(users::User),
    /// Tell a user's sessions to leave, and send it elsewhere from then on.
    Move(users::Move),
    /// Give a backend no new sessions, and wait until it has none.
    Drain(backends::Drain),
    /// Put a backend back in use.
    Undrain(backends::Backend),
    /// Change how much of its groups' users a backend gets.
    Weight(backends::Weight),
    /// Let somebody in again who is held off.
    Pardon(limits::Pardon),
    /// Forget answers of lookups.
    Flush(lookups::Flush),
    /// Change how much is logged.
    LogLevel(log_level::Level),
    /// Print what a shell needs to complete all this.
    ///
    /// The Debian package has installed it. Else, for bash: mailmux completions bash >
    /// ~/.local/share/bash-completion/completions/mailmux
    Completions(completions::Completions),
}

impl Arguments {
    /// Does what was asked for.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Route(route) => route.run(),
            Command::Status(status) => status.run(),
            Command::Top(top) => top.run(),
            Command::Sessions(sessions) => sessions.run(),
            Command::Users(users) => users.run(),
            Command::Backends(backends) => backends.run(),
            Command::Pool(pool) => pool.run(),
            Command::Limits(limits) => limits.run(),
            Command::Lookups(lookups) => lookups.run(),
            Command::Certificates(certificates) => certificates.run(),
            Command::Config(config) => config.run(),
            Command::Trace(trace) => trace.run(),
            Command::Reload(reload) => reload.run(),
            Command::Kick(kick) => kick.run(),
            Command::Hold(user) => user.hold(),
            Command::Release(user) => user.release(),
            Command::Move(user) => user.run(),
            Command::Drain(backend) => backend.run(),
            Command::Undrain(backend) => backend.undrain(),
            Command::Weight(weight) => weight.run(),
            Command::Pardon(pardon) => pardon.run(),
            Command::Flush(flush) => flush.run(),
            Command::LogLevel(level) => level.run(),
            Command::Completions(completions) => completions.run(),
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
