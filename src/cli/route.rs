//! `mailmux route USER`: where a user would go, and why. It asks the sources that the configuration names; of backends it
//! knows nothing but the configuration, so that all of them count as well.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use super::File;
use crate::backend::Route as Way;
use crate::imap::{Credentials, Login, Mechanism, UserName};
use crate::origin::Origin;
use crate::routing::{Asker, Router};
use crate::secret_file;
use crate::server::Plan;

/// Say where a user would go, and why.
#[derive(Debug, clap::Args)]
pub(super) struct Route {
    #[command(flatten)]
    file: File,
    /// The user, as typed into a mail program.
    user: String,
    /// The listener that the client connects to; the first one by default.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// The name that the client asks for by SNI.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// A file with the user's password, to have it checked where mailmux checks passwords.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Route {
    pub(super) fn run(self) -> ExitCode {
        match self.explain() {
            Ok(found) => {
                if found {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                }
            }
            Err(problem) => {
                eprint!("{problem}");
                ExitCode::FAILURE
            }
        }
    }

    /// Whether there is a way.
    fn explain(&self) -> Result<bool, String> {
        let config = self.file.load().map_err(|findings| findings.to_string())?;
        let listener = match &self.listener {
            Some(name) if config.listeners.iter().any(|listener| listener.name == *name) => name.clone(),
            Some(name) => return Err(format!("no listener has the name {name:?}\n")),
            None => config.listeners.first().map(|listener| listener.name.clone()).unwrap_or_default(),
        };
        let login = self.login()?;
        let plan = Plan::load(config).map_err(|findings| self.file.show(findings).to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start: {error}\n"))?;
        let mut origin = Origin::new(SocketAddr::new(self.client, 0), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        origin.server_name.clone_from(&self.server_name);
        origin.secure = true;
        let asker = Asker { login: &login, listener: &listener, origin: &origin, tls: None, attempt: 1 };
        Ok(runtime.block_on(tell(plan.router(), &asker)))
    }

    /// Without a password nothing is checked; a certificate's owner has none either.
    fn login(&self) -> Result<Login, String> {
        let user =
            UserName::new(self.user.as_bytes()).map_err(|_| "USER is empty or holds a line break\n".to_owned())?;
        let (mechanism, credentials) = match &self.password_file {
            Some(file) => {
                let password = secret_file::read(file).map_err(|error| format!("{error}\n"))?;
                (Mechanism::Plain, Credentials::Password(password))
            }
            None => (Mechanism::External, Credentials::Certificate),
        };
        Ok(Login { mechanism, user, authzid: None, credentials })
    }
}

async fn tell(router: &Router, asker: &Asker<'_>) -> bool {
    let way = router.explained(asker, &mut |step| println!("{step}")).await;
    match &way {
        Ok(way) => {
            println!("=> {}", shown(way));
            true
        }
        Err(no) => {
            println!("=> nowhere: {no}");
            false
        }
    }
}

fn shown(way: &Way) -> String {
    let backend = &way.backend.config;
    let login = &way.login;
    let group = way.group.as_ref().map_or_else(String::new, |group| format!(" of group {}", group.name));
    format!("backend {}{group} ({}:{}) as \"{}\", with {login}", backend.name, backend.host, backend.port, way.user)
}
