//! The mailmux that runs, as far as it tells of itself: is it reached, ready, of this configuration; are its descriptors and
//! places enough; what does it think of its backends. What it does not tell (an older version) is passed over.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::ask::{AdminPort, part};
use super::certificate::now;
use super::report::{Section, Trouble};
use crate::config::{Config, LookupSource};
use crate::secret_file;

/// A session has two connections, and TLS, logs and lookups need a few files besides.
const DESCRIPTORS_EACH: f64 = 2.0;
const DESCRIPTORS_BESIDE: f64 = 200.0;
/// From so much of a limit on it is soon reached.
const NEARLY: f64 = 0.9;
/// RFC 9051 5.4: clients in IDLE are to be left alone for at least 30 minutes; they speak after 29.
const IDLING: Duration = Duration::from_mins(29);

/// What is known of it.
#[derive(Default)]
pub(super) struct Running {
    /// There when it is reached.
    pub(super) port: Option<AdminPort>,
    metrics: HashMap<String, f64>,
}

impl Running {
    /// Asks; all of it stands in the section.
    pub(super) async fn look(config: &Config, time: Duration) -> (Self, Section) {
        let mut section = Section::new("mailmux", "", "the one that runs");
        idle_time(&mut section, config);
        let port = reach(&mut section, config, time).await;
        let mut running = Self { port, metrics: HashMap::new() };
        running.ready(&mut section).await;
        running.configured(&mut section, config).await;
        running.measure(&mut section).await;
        running.room(&mut section, config);
        (running, section)
    }

    async fn ready(&self, section: &mut Section) {
        let Some(port) = &self.port else { return };
        match port.get("/readyz").await {
            Ok(answer) if answer.status == 200 => section.well("ready", "yes"),
            Ok(answer) => {
                let trouble = Trouble::new(
                    "not_ready",
                    "mailmux is stopping: it takes no new connections.",
                    "Start it again (systemctl start mailmux), unless somebody is just doing that.",
                );
                section.fail("ready", answer.text.trim().escape_debug().to_string(), trouble);
            }
            Err(why) => section.skip("ready", why),
        }
    }

    /// Whether it runs with what is on disk.
    async fn configured(&self, section: &mut Section, config: &Config) {
        let Some(port) = &self.port else { return };
        let (Some(said), Some(file)) = (port.value("config").await, &config.file) else {
            section.skip("configuration", "it does not say with what it runs");
            return;
        };
        let theirs = said.get("file").and_then(Value::as_str).unwrap_or_default();
        if !is_same_file(Path::new(theirs), file) {
            let cause = format!("mailmux runs with {}, and this is about {}.", theirs.escape_debug(), file.display());
            let remedy = "Name the same file with --config, or start mailmux with this one.";
            section.warn("configuration", "another file", Trouble::new("other_configuration", cause, remedy));
            return;
        }
        let Some(loaded) = said.get("loaded_at").and_then(Value::as_f64) else { return };
        let mut files = vec![file.clone()];
        files.extend(config.lookups.iter().filter_map(|lookup| match &lookup.source {
            LookupSource::File { path } => Some(path.value.clone()),
            _ => None,
        }));
        match files.iter().find(|file| changed(file).is_some_and(|changed| changed > loaded)) {
            None => section.well("configuration", "as it is on disk"),
            Some(file) => {
                let cause = format!("{} has changed since mailmux read it.", file.display());
                let remedy = "mailmux reload; it says what is wrong, if something is.";
                section.warn("configuration", "older than its file", Trouble::new("not_reloaded", cause, remedy));
            }
        }
    }

    async fn measure(&mut self, section: &mut Section) {
        let Some(port) = &self.port else { return };
        match port.get("/metrics").await {
            Ok(answer) if answer.status == 200 => {
                let read = |line: &str| {
                    let (name, value) = line.rsplit_once(' ')?;
                    Some((name.to_owned(), value.parse().ok()?))
                };
                self.metrics = answer.text.lines().filter(|line| !line.starts_with('#')).filter_map(read).collect();
            }
            Ok(answer) if answer.status == 401 => {
                let trouble = Trouble::new(
                    "token_refused",
                    "mailmux does not take the token that stands in [admin] token_file.",
                    "The file has changed since mailmux read it: mailmux reload over the socket, or systemctl reload mailmux.",
                );
                section.warn("token", "refused", trouble);
            }
            Ok(answer) => section.skip("metrics", format!("answered with {}", answer.status)),
            Err(why) => section.skip("metrics", why),
        }
    }

    /// Whether it has descriptors and places enough.
    fn room(&self, section: &mut Section, config: &Config) {
        let Some(most) = self.metrics.get("process_max_fds") else { return };
        let wanted = to_f64(config.limits.sessions) * DESCRIPTORS_EACH + DESCRIPTORS_BESIDE;
        let open = self.metrics.get("process_open_fds").copied().unwrap_or_default();
        let text = format!("{open} of {most} descriptors in use");
        if open > most * NEARLY {
            let trouble = Trouble::new(
                "descriptors_used_up",
                format!("mailmux has {open} of {most} descriptors in use; without one nobody gets in."),
                "Raise LimitNOFILE of its unit, or lower limits.sessions, so that clients hear a reason.",
            );
            section.fail("descriptors", text, trouble);
        } else if config.limits.sessions > 0 && wanted > *most {
            let trouble = Trouble::new(
                "few_descriptors",
                format!(
                    "limits.sessions = {} takes about {wanted} descriptors, and mailmux may have {most}.",
                    config.limits.sessions
                ),
                "Raise LimitNOFILE of its unit, or lower limits.sessions, so that clients hear a reason when it is full.",
            );
            section.warn("descriptors", text, trouble);
        } else {
            section.well("descriptors", text);
        }
        let sessions: f64 = self.series("mailmux_sessions{").map(|(_, value)| value).sum();
        let limit = config.limits.sessions;
        let text = format!("{sessions} of {limit}");
        if limit > 0 && sessions > to_f64(limit) * NEARLY {
            let trouble = Trouble::new(
                "sessions_used_up",
                format!(
                    "{sessions} of {limit} sessions are in use (limits.sessions); whoever comes beyond is sent away."
                ),
                "Raise limits.sessions, or find who opens so many (mailmux users, mailmux sessions).",
            );
            section.fail("sessions", text, trouble);
        } else {
            section.well("sessions", text);
        }
    }

    fn series<'a>(&'a self, start: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.metrics
            .iter()
            .filter(move |(name, _)| name.starts_with(start))
            .map(|(name, value)| (name.as_str(), *value))
    }

    /// What it thinks of a backend.
    pub(super) async fn judge(&self, section: &mut Section, backend: &str) {
        let Some(port) = &self.port else { return };
        let said = port.value(&format!("backends/{}", part(backend.as_bytes()))).await;
        let text = |key: &str| {
            let health = said.as_ref().and_then(|said| said.get("health"));
            health
                .and_then(|health| health.get(key))
                .and_then(Value::as_str)
                .map(|text| text.escape_debug().to_string())
        };
        let state = said.as_ref().and_then(|said| said.get("state")).and_then(Value::as_str);
        let is_up = match state {
            Some("draining") => {
                let trouble = Trouble::new(
                    "draining",
                    "It is being drained: mailmux sends nobody there.",
                    format!("When that is over: mailmux undrain {backend}"),
                );
                section.warn("health", "draining", trouble);
                return;
            }
            Some(state) => state == "up",
            None => match self.metrics.get(&format!("mailmux_backend_up{{backend=\"{backend}\"}}")) {
                Some(up) => *up > 0.0,
                None => return,
            },
        };
        if !is_up {
            let why = text("reason").map(|why| format!(" ({why})")).unwrap_or_default();
            let trouble = Trouble::new(
                "backend_down",
                format!("mailmux takes it for down{why}: users who live there cannot log in."),
                "If it answers here, mailmux finds out by itself within a minute; else what is wrong with it stands below.",
            );
            section.fail("health", format!("down{why}"), trouble);
            return;
        }
        let number =
            |key: &str| said.as_ref().and_then(|said| said.get(key)).and_then(Value::as_u64).unwrap_or_default();
        let (links, most, queue) = (number("links"), number("max_links"), number("queue"));
        if most > 0 && (links >= most || queue > 0) {
            let trouble = Trouble::new(
                "backend_full",
                format!(
                    "All its places are taken: {links} of {most} links (max_links), and {queue} logins wait for one."
                ),
                "Raise max_links of the backend, if the server can have more; or find who holds so many (mailmux users).",
            );
            section.warn("health", format!("full: {links} of {most} links"), trouble);
            return;
        }
        section.well("health", "up, as mailmux sees it");
    }
}

fn idle_time(section: &mut Section, config: &Config) {
    let time = config.timeouts.relay_idle;
    if time < IDLING {
        let minutes = time.as_secs() / 60;
        let trouble = Trouble::new(
            "relay_idle_short",
            format!(
                "timeouts.relay_idle is {minutes} minutes: mail programs in IDLE are cut off before they speak, after 29."
            ),
            "Write relay_idle = \"35m\".",
        );
        section.warn("idle time", "shorter than a client's IDLE", trouble);
    }
}

async fn reach(section: &mut Section, config: &Config, time: Duration) -> Option<AdminPort> {
    let Some(admin) = &config.admin else {
        section.skip("admin port", "the configuration has none, so that a running mailmux cannot be asked anything");
        return None;
    };
    let token = match &admin.token_file {
        None => None,
        Some(file) => match secret_file::read(&file.value) {
            Ok(token) => Some(token),
            Err(why) => {
                let remedy = "Run this as root, or as somebody who may read it.";
                section.warn("token", "cannot be read", Trouble::new("token_unreadable", format!("{why}."), remedy));
                None
            }
        },
    };
    let mut failed = Vec::new();
    for port in AdminPort::ways(admin, token.as_ref(), time) {
        match port.get("/healthz").await {
            Ok(_) => {
                section.well("admin port", format!("{} answers", port.name()));
                return Some(port);
            }
            Err(why) => failed.push(format!("{}: {why}", port.name())),
        }
    }
    let text = failed.join("; ");
    let trouble = Trouble::new(
        "admin_unreachable",
        format!("No mailmux answers at its admin port ({text})."),
        "mailmux does not run (systemctl status mailmux), runs with another configuration, or you may not open its socket (be root). \
         What it knows of users, limits and health is missing here.",
    );
    section.fail("admin port", text, trouble);
    None
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

/// When a file was written, in seconds since 1970.
fn changed(file: &PathBuf) -> Option<f64> {
    let changed = fs::metadata(file).ok()?.modified().ok()?;
    Some(changed.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())
}

/// Whether the clock is behind a file of ours.
pub(super) fn clock(section: &mut Section, config: &Config) {
    let newest = config.file.iter().filter_map(changed).fold(0.0, f64::max);
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let behind = newest - now() as f64;
    if behind > 60.0 {
        let cause =
            format!("The clock of this machine is at least {behind:.0} s behind: the configuration was written later.");
        let remedy = "Set it (timedatectl, chrony); certificates and limits go by it.";
        section.warn("clock", "behind", Trouble::new("clock_behind", cause, remedy));
    } else {
        section.well("clock", "not behind the configuration file");
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of sessions are far below 2^52")]
fn to_f64(count: usize) -> f64 {
    count as f64
}
