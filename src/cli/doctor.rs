//! `mailmux doctor`: walks the way of a login and says what is wrong with it, and what to do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{File, out};
use crate::config::duration;
use crate::doctor::{Patient, Report, Settings, examine, without_configuration};
use crate::imap::UserName;
use crate::secret_file;

/// The command line or the machine does not let it begin.
const MISUSE: u8 = 2;

/// Walk the way of a login, from the listeners to the backends and with a password into the mailbox, and say in plain words what
/// is wrong and what to do. Nothing is changed. Run it where mailmux runs, best as root.
///
/// The exit code is 0 when nothing is wrong, 1 when something is, 2 when it could not begin.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    file: File,
    /// A user who has troubles, as typed into a mail program: where it goes, whether it is held or limited.
    #[arg(long)]
    user: Option<String>,
    /// A file with the user's password ("-": standard input), to log in through mailmux and at the backend.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Look at this backend alone.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Look at this listener alone; the user's login goes through it.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The name of mailmux in mail programs; by default one that its first certificate is for.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// The authorities that mail programs trust, as PEM; by default those of this machine.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The longest wait for each step.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// How long IDLE is held, to see whether something on the way cuts it off; firewalls take minutes.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    idle: Duration,
    /// Tell it as JSON.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> ExitCode {
        let json = self.json;
        match self.report() {
            Ok(report) => {
                let text = if json {
                    format!("{:#}\n", report.json())
                } else {
                    format!("{}\n", report.to_string().trim_end())
                };
                out::print(&text, if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Err(problem) => {
                eprintln!("mailmux: {problem}");
                ExitCode::from(MISUSE)
            }
        }
    }

    fn report(self) -> Result<Report, String> {
        let patient = self.user.as_deref().map(|user| patient(user, self.password_file.as_deref())).transpose()?;
        let config = match self.file.load() {
            Ok(config) => config,
            Err(findings) => return Ok(without_configuration(&findings)),
        };
        let settings = Settings {
            timeout: self.timeout,
            idle: self.idle,
            backend: self.backend,
            listener: self.listener,
            server_name: self.server_name,
            ca: self.ca,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
        runtime.block_on(examine(config, settings, patient))
    }
}

fn patient(user: &str, password_file: Option<&Path>) -> Result<Patient, String> {
    let user = UserName::new(user.as_bytes()).map_err(|_| "the user is empty or holds a line break".to_owned())?;
    let password = match password_file {
        None => None,
        Some(file) if file == Path::new("-") => Some(secret_file::read_standard_input()?),
        Some(file) => Some(secret_file::read(file)?),
    };
    Ok(Patient { user, password })
}
