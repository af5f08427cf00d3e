//! `mailmux serve`: from the configuration to a running server, and to its end.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use tokio::sync::watch;
use tracing::{info, warn};

use super::File;
use crate::conduct::Conductor;
use crate::config::{Config, Finding, Findings, host_and_port};
use crate::process::{
    Confinement, MemoryWatch, Notifier, Phase, Predecessor, Privileges, Program, Role, Signals, harden,
    inherited_sockets, start_log, too_much,
};
use crate::server::{Plan, Server, Surroundings, Workers};

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
    #[error("mailmux: the sockets that were handed over (LISTEN_FDS) cannot be used: {0}")]
    Inherited(io::Error),
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
        // What concerns a thread alone comes before there is another: the log is the first to start one.
        let notifier = Notifier::from_environment();
        let program = Program::of_this_process().map_err(StartError::Inherited)?;
        let inherited = Inherited::take().map_err(StartError::Inherited)?;
        let config = match &self.backend {
            Some((host, port)) => Config::for_one_backend(host, *port),
            None => self.file.load().map_err(StartError::Configuration)?,
        };
        let file = self.backend.is_none().then_some(self.file.config.as_path());
        let privileges = Privileges::drop_to(&config.server).map_err(|finding| self.show(vec![finding]))?;
        if let Some(file) = file {
            readable_still(file).map_err(|finding| self.show(vec![finding]))?;
        }
        let socket = config.admin.as_ref().and_then(|admin| admin.socket.as_ref()).map(|socket| socket.value.as_path());
        let confinement = Confinement::begin(&config, file, socket.as_slice());
        let (log, _log_end) = start_log(&config.log).map_err(|error| StartError::Log(error.to_string()))?;
        let descriptors = harden();
        let memory = MemoryWatch::new(config.limits.memory).limit();
        info!(version = env!("CARGO_PKG_VERSION"), descriptors, memory, "mailmux starts");
        privileges.log();
        confinement.log();
        for words in too_much(&config.limits, descriptors, memory) {
            warn!("{words}");
        }
        let (workers, _threads) = Workers::start(config.server.workers).map_err(StartError::Runtime)?;
        // For all that is not a session.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let served = runtime.block_on(async {
            let signals = Signals::take().map_err(StartError::Runtime)?;
            let Inherited { sockets, elders } = inherited;
            let surroundings = Surroundings {
                sockets,
                log: Some(log.clone()),
                confinement: Some(confinement),
                workers: Some(workers),
            };
            let server = self.build(config, surroundings)?;
            if let Some(pem) = server.self_signed() {
                println!("{pem}");
                info!(
                    "the certificate above was made for this run; give it to clients, for example curl --cacert FILE"
                );
            }
            let (phase, watching) = watch::channel(Phase::Running);
            let conductor = Conductor { steering: server.steering(), phase, notifier, program, log, elders };
            tokio::select! {
                () = server.run(watching) => {}
                () = conductor.conduct(signals) => {}
            }
            Ok(())
        });
        runtime.shutdown_background();
        info!("mailmux has stopped");
        served
    }

    fn build(&self, config: Config, surroundings: Surroundings) -> Result<Server, StartError> {
        let show = |findings| self.show(findings);
        let plan = Plan::load(config).map_err(show)?;
        for warning in plan.warnings() {
            warn!(key = warning.site.as_ref().map(|site| site.key.as_str()), "{}", warning.message);
        }
        plan.bind(surroundings).map_err(show)
    }

    /// Without a file there are no places to show.
    fn show(&self, findings: Vec<Finding>) -> StartError {
        StartError::Configuration(match self.backend {
            Some(_) => Findings::new("mailmux".into(), String::new(), findings),
            None => self.file.show(findings),
        })
    }
}

/// As whoever we are now. A reload would fail otherwise, on a day when nobody expects it.
fn readable_still(file: &Path) -> Result<(), Finding> {
    let whole = |error| Finding { site: None, message: format!("cannot be read any more as [server] user: {error}") };
    fs::File::open(file).map(drop).map_err(whole)
}

/// What is there already: sockets, and lines to processes that were here before, the youngest first.
struct Inherited {
    sockets: Vec<(Option<Role>, OwnedFd)>,
    elders: Vec<UnixStream>,
}

impl Inherited {
    fn take() -> io::Result<Self> {
        let systemds = inherited_sockets()?.into_iter().map(|socket| (None, OwnedFd::from(socket)));
        let mut inherited = Self { sockets: systemds.collect(), elders: Vec::new() };
        let Some(predecessor) = Predecessor::find()? else { return Ok(inherited) };
        inherited.elders.push(predecessor.line);
        for (role, socket) in predecessor.sockets {
            if role == Role::Elder {
                inherited.elders.push(UnixStream::from(socket));
            } else {
                inherited.sockets.push((Some(role), socket));
            }
        }
        Ok(inherited)
    }
}
