//! `mailmux route USER`: where a user would go, and why. By itself it asks the sources that the configuration names; of
//! backends it knows nothing but the configuration then, so that all of them count as well. The mailmux that runs, if that is
//! asked, knows which are up, which are drained, and who was moved.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::admin::{Ask, EXIT_CODES, Path, Said, strings};
use super::out::{print, safe};
use crate::backend::Route as Way;
use crate::imap::{Credentials, Login, Mechanism, UserName};
use crate::origin::Origin;
use crate::routing::{Asker, Router};
use crate::secret_file;
use crate::server::Plan;

/// Say where a user would go, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Route {
    #[command(flatten)]
    ask: Ask,
    /// Ask the mailmux that runs: it knows which backends are up or drained, and who was moved. With --admin that is so anyway.
    #[arg(long)]
    running: bool,
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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["running", "admin"])]
    password_file: Option<PathBuf>,
}

impl Route {
    pub(super) fn run(self) -> ExitCode {
        if self.running || self.ask.is_elsewhere() {
            let client = self.client.to_string();
            let path = Path::new(&["users", &self.user, "route"]);
            let path = path.with("listener", self.listener.as_ref()).with("client", Some(client));
            let path = path.with("server_name", self.server_name.as_ref());
            return self.ask.get(&path, told);
        }
        self.explain().unwrap_or_else(|problem| {
            eprint!("{problem}");
            ExitCode::FAILURE
        })
    }

    /// Whether there is a way.
    fn explain(&self) -> Result<ExitCode, String> {
        let file = self.ask.file();
        let config = file.load().map_err(|findings| findings.to_string())?;
        let listener = match &self.listener {
            Some(name) if config.listeners.iter().any(|listener| listener.name == *name) => name.clone(),
            Some(name) => return Err(format!("no listener has the name {name:?}\n")),
            None => config.listeners.first().map(|listener| listener.name.clone()).unwrap_or_default(),
        };
        let login = self.login()?;
        let plan = Plan::load(config).map_err(|findings| file.show(findings).to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start: {error}\n"))?;
        let mut origin = Origin::new(SocketAddr::new(self.client, 0), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        origin.server_name.clone_from(&self.server_name);
        origin.secure = true;
        let asker = Asker { login: &login, listener: &listener, origin: &origin, tls: None, attempt: 1 };
        Ok(runtime.block_on(tell(plan.router(), &asker, self.ask.is_json())))
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

/// Tells the steps as they are taken; for scripts all of it at the end, in the form that the mailmux that runs answers in.
async fn tell(router: &Router, asker: &Asker<'_>, is_json: bool) -> ExitCode {
    let mut steps = Vec::new();
    let way = router
        .explained(asker, &mut |step| {
            if is_json {
                steps.push(step);
            } else {
                print(&format!("{}\n", safe(&step)), ExitCode::SUCCESS);
            }
        })
        .await;
    let code = if way.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let text = match &way {
        Ok(way) if is_json => json!({
            "steps": steps,
            "backend": way.backend.config.name,
            "address": format!("{}:{}", way.backend.config.host, way.backend.config.port),
            "group": way.group.as_ref().map(|group| group.name.clone()),
            "as": way.user.to_string(),
            "login": way.login.to_string(),
            "error": null,
        })
        .to_string(),
        Err(no) if is_json => json!({
            "steps": steps, "backend": null, "address": null, "group": null, "as": null, "login": null, "error": no.to_string(),
        })
        .to_string(),
        Ok(way) => format!("=> {}", shown(way)),
        Err(no) => format!("=> nowhere: {no}"),
    };
    print(&format!("{text}\n"), code)
}

/// What the mailmux that runs says.
fn told(said: &Value) -> Said {
    let text = |key| said.get(key).and_then(Value::as_str).map(safe);
    let mut lines: Vec<String> = strings(said, "steps").map(safe).collect();
    let Some(backend) = text("backend") else {
        lines.push(format!("=> nowhere: {}", text("error").unwrap_or_default()));
        return Said::No(lines.join("\n"));
    };
    let group = text("group").map_or_else(String::new, |group| format!(" of group {group}"));
    let address = text("address").map_or_else(String::new, |address| format!(" ({address})"));
    let user = text("as").map_or_else(String::new, |user| format!(" as \"{user}\""));
    let login = text("login").map_or_else(String::new, |login| format!(", with {login}"));
    lines.push(format!("=> backend {backend}{group}{address}{user}{login}"));
    Said::Done(lines.join("\n"))
}

fn shown(way: &Way) -> String {
    let backend = &way.backend.config;
    let login = &way.login;
    let group = way.group.as_ref().map_or_else(String::new, |group| format!(" of group {}", group.name));
    format!("backend {}{group} ({}:{}) as \"{}\", with {login}", backend.name, backend.host, backend.port, way.user)
}
