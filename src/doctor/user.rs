//! One user: where routing sends it and why, and what the mailmux that runs knows of it: held, moved, limited, too many
//! sessions. Not here: logging in.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;

use super::Patient;
use super::ask::part;
use super::report::{Section, Trouble};
use super::running::Running;
use crate::backend::{LoginAs, Route};
use crate::config::Config;
use crate::imap::{Credentials, Login, Mechanism, Secret, UserName};
use crate::origin::Origin;
use crate::routing::{Asker, NoRoute, Router};

/// A login as this user; without a password nothing is checked.
pub(super) fn login(patient: &Patient) -> Login {
    let password = patient.password.as_ref().and_then(copied);
    let (mechanism, credentials) = match password {
        Some(password) => (Mechanism::Plain, Credentials::Password(password)),
        None => (Mechanism::External, Credentials::Certificate),
    };
    Login { mechanism, user: patient.user.clone(), authzid: None, credentials }
}

pub(super) fn copied(secret: &Secret) -> Option<Secret> {
    Secret::new(secret.reveal().to_vec().into()).ok()
}

/// Where the user goes by the configuration on disk.
pub(super) async fn route(section: &mut Section, router: &Router, patient: &Patient, listener: &str) -> Option<Route> {
    let mut origin =
        Origin::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    origin.secure = true;
    let login = login(patient);
    let asker = Asker { login: &login, listener, origin: &origin, tls: None, attempt: 1 };
    let mut steps = Vec::new();
    let found = router.explained(&asker, &mut |step| steps.push(step)).await;
    for step in steps {
        section.well("rule", step);
    }
    match found {
        Ok(route) => {
            let config = &route.backend.config;
            let group = route.group.as_ref().map(|group| format!(" of group {}", group.name)).unwrap_or_default();
            let how = match &route.login {
                LoginAs::Client => "its own credentials".to_owned(),
                LoginAs::Given { .. } => "a password that the lookup gives".to_owned(),
                LoginAs::Master { user, .. } => format!("the master user {user}"),
            };
            let text = format!("to backend {}{group} as {}, with {how}", config.name, route.user);
            section.well("route", text);
            Some(route)
        }
        Err(no) => {
            let (text, trouble) = nowhere(&no);
            section.fail("route", text, trouble);
            None
        }
    }
}

fn nowhere(no: &NoRoute) -> (String, Trouble) {
    match no {
        NoRoute::Unmatched => (
            "nowhere: no rule sends this user anywhere".to_owned(),
            Trouble::new(
                "no_route",
                "No rule sends this user anywhere; it hears \"Authentication failed\", as after a wrong password.",
                "Add the user to the lookup or map, or a [[route]] for it; the lines above say what each rule thinks of it. The name \
                 counts as it is typed, with its domain or without.",
            ),
        ),
        NoRoute::Rejected(text) => (
            format!("rejected: {text}"),
            Trouble::new(
                "rejected",
                format!("A rule turns this user away: {text}"),
                "If that is not wanted, change the rule or what the lookup says of the user.",
            ),
        ),
        NoRoute::WrongPassword(text, _) => (
            "the source of routes says that the password is wrong".to_owned(),
            Trouble::new(
                "wrong_password",
                format!(
                    "The lookup, which checks passwords itself, says that this one is wrong{}.",
                    text.as_ref().map(|text| format!(" ({})", text.escape_debug())).unwrap_or_default()
                ),
                "Try the password where the lookup has it from (the database, the directory); a new one may take effect only when \
                 the kept answer has aged: mailmux flush.",
            ),
        ),
        NoRoute::Unproven(why) => (
            format!("nowhere: {why}"),
            Trouble::new(
                "unproven",
                format!("This user's route needs mailmux to know who it is: {why}."),
                "Give its password with --password-file. If mail programs hear this: they must send a password, since SCRAM and \
                 tokens prove nothing to mailmux.",
            ),
        ),
        NoRoute::LookupFailed(why) => (
            format!("lookup {why}"),
            Trouble::new(
                "lookup_failed",
                format!("A lookup gives no answer: {why}; whoever logs in hears that the account is unavailable."),
                "Look at that database, directory or responder, and the way to it; or it names a host that allow does not admit.",
            ),
        ),
        NoRoute::GroupDown(group) => (
            format!("no backend of group {group} takes users"),
            Trouble::new(
                "group_down",
                format!("No backend of group {group} takes users."),
                "mailmux backends says why.",
            ),
        ),
    }
}

/// What the mailmux that runs knows of the user.
pub(super) async fn known(section: &mut Section, running: &Running, config: &Config, user: &UserName, listener: &str) {
    let Some(port) = &running.port else {
        section.skip("held", "no running mailmux can be asked");
        return;
    };
    let path = part(user.as_bytes());
    if let Some(said) = port.value(&format!("users/{path}")).await {
        state(section, &said, config, user);
    } else {
        section.well("held", "nothing is known of the user at the moment");
    }
    let held = port.value("limits?limit=1000").await;
    limited(section, held.as_ref(), user);
    let asked = format!("users/{path}/route?listener={}&client=127.0.0.1", part(listener.as_bytes()));
    let Some(said) = port.value(&asked).await else { return };
    match (said.get("backend").and_then(Value::as_str), said.get("error").and_then(Value::as_str)) {
        (Some(backend), _) => {
            section.well("running", format!("the mailmux that runs sends it to {}", backend.escape_debug()));
        }
        (None, error) => {
            let why = error.unwrap_or("no backend").escape_debug().to_string();
            // Once is enough.
            if section.has("no_route") {
                section.skip("running", format!("the mailmux that runs sends it nowhere either: {why}"));
                return;
            }
            let trouble = Trouble::new(
                "no_route",
                format!("The mailmux that runs sends this user nowhere: {why}."),
                "If the line above says otherwise, it has another configuration: mailmux reload.",
            );
            section.fail("running", format!("nowhere: {why}"), trouble);
        }
    }
}

fn state(section: &mut Section, said: &Value, config: &Config, user: &UserName) {
    if said.get("held_until_at").is_some_and(|held| !held.is_null()) {
        let trouble = Trouble::new(
            "held",
            "Somebody holds this user's logins back (mailmux hold, or a move that is going on): they wait.",
            format!("If nobody is moving it: mailmux release {user}"),
        );
        section.fail("held", "its logins are held back", trouble);
    } else {
        section.well("held", "no");
    }
    if let Some(to) = said.get("moved_to").and_then(Value::as_str) {
        section.well("moved", format!("by hand to {}, whatever the rules say", to.escape_debug()));
    }
    let sessions = said.get("sessions").and_then(Value::as_u64).unwrap_or_default();
    let most = config.limits.sessions_per_user;
    let text = if most > 0 { format!("{sessions} of {most}") } else { sessions.to_string() };
    if most > 0 && usize::try_from(sessions).is_ok_and(|sessions| sessions >= most) {
        let trouble = Trouble::new(
            "limited_sessions_per_user",
            format!("It has {sessions} sessions, and limits.sessions_per_user is {most}: one more is refused."),
            "See who holds them (mailmux users USER), end those that hang (mailmux kick USER), or raise the limit: each device \
             has one for each folder that it watches.",
        );
        section.warn("sessions", text, trouble);
    } else {
        section.well("sessions", text);
    }
}

fn limited(section: &mut Section, said: Option<&Value>, user: &UserName) {
    let Some(held) = said.and_then(|said| said.get("held")).and_then(Value::as_array) else { return };
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = |entry: &&Value| {
        text(entry, "kind") == "user" && text(entry, "key").as_bytes().eq_ignore_ascii_case(user.as_bytes())
    };
    match held.iter().find(own) {
        None => section.well("limited", "no"),
        Some(entry) => {
            let limit = text(entry, "limit").escape_debug().to_string();
            let failures = entry.get("failures").and_then(Value::as_u64).unwrap_or_default();
            let trouble = Trouble::new(
                "limited_failures",
                format!(
                    "mailmux lets this user in from nowhere new for the moment: {failures} wrong passwords (limits.{limit})."
                ),
                format!(
                    "Find who tries them (\"login refused\" in the log: client=); an old password in a forgotten device is one. Then: \
                     mailmux pardon --user {user}"
                ),
            );
            section.fail("limited", format!("by {limit}"), trouble);
        }
    }
}
