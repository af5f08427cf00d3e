//! `mailmux serve`: from the configuration to a running server, and to its end.

use std::io;
use std::process::ExitCode;

use tokio::sync::watch;
use tracing::{info, warn};

use super::File;
use crate::conduct::conduct;
use crate::config::{Config, Findings, host_and_port};
use crate::process::{Phase, Signals, harden, start_log};
use crate::server::{Plan, Server};

/// Run the proxy in the foreground.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    #[command(flatten)]
    file: File,
    /// No file: listen on 127.0.0.1:1993 with a certificate made for the occasion, and send everyone to this backend.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config", value_parser = host_and_port)]
    backend: Option<(String, u16)>,
}

/// What keeps mailmux from starting.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0}")]
    Configuration(Findings),
    #[error("mailmux: cannot start the log: {0}")]
    Log(String),
    #[error("mailmux: cannot start the runtime: {0}")]
    Runtime(io::Error),
}

impl Serve {
    pub(super) fn run(self) -> ExitCode {
        match self.serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprint!("{}", error.to_string().trim_end());
                eprintln!();
                ExitCode::FAILURE
            }
        }
    }

    fn serve(self) -> Result<(), StartError> {
        let config = match &self.backend {
            Some((host, port)) => Config::for_one_backend(host, *port),
            None => self.file.load().map_err(StartError::Configuration)?,
        };
        start_log(&config.log).map_err(|error| StartError::Log(error.to_string()))?;
        let descriptors = harden();
        info!(version = env!("CARGO_PKG_VERSION"), descriptors, "mailmux starts");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.server.workers)
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let served = runtime.block_on(async {
            let signals = Signals::take().map_err(StartError::Runtime)?;
            let server = self.build(config)?;
            if let Some(pem) = server.self_signed() {
                println!("{pem}");
                info!(
                    "the certificate above was made for this run; give it to clients, for example curl --cacert FILE"
                );
            }
            let (phase, watching) = watch::channel(Phase::Running);
            let steering = server.steering();
            tokio::join!(server.run(watching), conduct(signals, steering, phase));
            Ok(())
        });
        runtime.shutdown_background();
        info!("mailmux has stopped");
        served
    }

    fn build(&self, config: Config) -> Result<Server, StartError> {
        // Without a file there are no places to show.
        let show = |findings| match self.backend {
            Some(_) => StartError::Configuration(Findings::new("mailmux".into(), String::new(), findings)),
            None => StartError::Configuration(self.file.show(findings)),
        };
        let plan = Plan::load(config).map_err(show)?;
        for warning in plan.warnings() {
            warn!(key = warning.site.as_ref().map(|site| site.key.as_str()), "{}", warning.message);
        }
        plan.bind().map_err(show)
    }
}
