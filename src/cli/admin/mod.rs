//! How subcommands speak to the mailmux that runs: by HTTP to its admin port, over the socket in the file system or with the
//! token. Where that is the configuration says, or `--admin`. From the answer follows what is printed and the exit code.
//! Not here: what is asked, and how an answer looks.

mod http;
mod path;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use hyper::StatusCode;
use serde_json::Value;
use tokio::runtime::Runtime;

pub(super) use self::http::{Answer, Client, Place, Unreachable};
pub(super) use self::path::Path;
use super::out::{UNREACHABLE, print, safe, safe_json, safe_lines};
use super::{DEFAULT_FILE, File};
use crate::config::{Admin, host_and_port};
use crate::secret_file;

/// Nothing was done, since the answer was no, or the configuration cannot be read.
const REFUSED: u8 = 1;
/// The most that one page of a list holds.
const PAGE: u64 = 1000;

/// What `--help` of each command here ends with.
pub(super) const EXIT_CODES: &str = "\
Exit code: 0 if it was done, 1 if mailmux refuses or what was named is not there, 2 if mailmux cannot be reached or the \
question is not understood.";

/// Which mailmux is asked.
#[derive(Debug, clap::Args)]
pub(super) struct Asked {
    /// The configuration file, whose section "admin" says where mailmux is asked.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Where mailmux is asked, in place of the configuration: HOST:PORT, or the path of its socket.
    #[arg(long, value_name = "ADDRESS|SOCKET", conflicts_with = "config", value_parser = place)]
    admin: Option<Place>,
    /// A file with the token that --admin asks for. The admin port speaks no TLS: to another machine, go through a tunnel.
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
}

/// Which mailmux is asked, and for whom.
#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    #[command(flatten)]
    asked: Asked,
    /// Print the answer as it came, in JSON.
    #[arg(long)]
    json: bool,
}

/// How much of a list is wanted.
#[derive(Debug, clap::Args)]
pub(super) struct Limit {
    /// The most that is listed.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// What an answer comes to, in words.
#[derive(Debug)]
pub(super) enum Said {
    /// It was done, or here it is.
    Done(String),
    /// Here it is, and it comes to a no.
    No(String),
    /// There was nobody, or nothing, to do it to.
    Nothing(String),
}

/// A list, all pages together.
#[derive(Debug)]
pub(super) struct List {
    /// What is in it.
    pub(super) items: Vec<Value>,
    /// How many there are besides.
    pub(super) more: u64,
    /// As it came; the items of all pages in one.
    text: String,
}

/// A line to the mailmux that runs. Whoever gets an exit code from it in place of an answer has nothing more to say.
#[derive(Debug)]
pub(super) struct Line {
    client: Client,
    runtime: Runtime,
    json: bool,
}

impl Asked {
    fn place(&self) -> String {
        self.admin.as_ref().map_or_else(|| self.config.display().to_string(), ToString::to_string)
    }

    fn file(&self) -> File {
        File { config: self.config.clone() }
    }

    /// Whom to ask; `needs_token`: where it is not known to be ourselves.
    pub(super) fn client(&self, needs_token: bool) -> Result<Client, Unreachable> {
        let (place, token_file) = match &self.admin {
            Some(place) => (place.clone(), self.token_file.clone()),
            None => configured(self.file().load().map_err(|all| Unreachable::Configuration(all.to_string()))?.admin)?,
        };
        let token = match (&place, token_file) {
            (Place::Address(_), Some(file)) => Some(secret_file::read(&file).map_err(Unreachable::Token)?),
            (Place::Address(_), None) if needs_token => return Err(Unreachable::NoToken),
            _ => None,
        };
        Ok(Client { place, token })
    }

    /// A line there; why there can be none is told.
    pub(super) fn line(&self, json: bool, needs_token: bool) -> Result<Line, ExitCode> {
        let client = self.client(needs_token).map_err(|why| unreachable(&why))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unreachable(&error.into()))?;
        Ok(Line { client, runtime, json })
    }
}

impl Ask {
    /// Whether a place is named that is not the configuration's.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.asked.admin.is_some()
    }

    /// Whether the answer is for a script.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// The configuration, for those who want to read it themselves.
    pub(super) fn file(&self) -> File {
        self.asked.file()
    }

    /// Where it is asked, as the caller has named it.
    pub(super) fn place(&self) -> String {
        self.asked.place()
    }

    /// A line for reading.
    pub(super) fn reader(&self) -> Result<Line, ExitCode> {
        self.asked.line(self.json, false)
    }

    /// A line for changes, too.
    pub(super) fn writer(&self) -> Result<Line, ExitCode> {
        self.asked.line(self.json, true)
    }

    /// Reads one thing and shows it.
    pub(super) fn get(&self, path: &Path, show: impl FnOnce(&Value) -> Said) -> ExitCode {
        whichever(self.reader().and_then(|line| line.get(path).map(|answer| line.show(&answer, show))))
    }

    /// Changes one thing and says what came of it.
    pub(super) fn post(&self, path: &Path, show: impl FnOnce(&Value) -> Said) -> ExitCode {
        whichever(self.writer().and_then(|line| line.post(path).map(|answer| line.show(&answer, show))))
    }

    /// Reads a list, which stands under this key, and shows it; `none` is said where it is empty. `is_narrow`: something is looked for, which may not be there.
    pub(super) fn list(
        &self,
        path: &Path,
        key: &str,
        none: &str,
        limit: &Limit,
        is_narrow: bool,
        show: impl FnOnce(&[Value]) -> String,
    ) -> ExitCode {
        whichever(self.reader().and_then(|line| {
            let list = line.list(path, key, limit.limit)?;
            let is_empty = list.items.is_empty();
            let words = || match (is_empty, list.more) {
                (true, _) => none.to_owned(),
                (false, 0) => show(&list.items),
                (false, more) => format!("{}\n… and {more} more", show(&list.items)),
            };
            Ok(if line.json {
                print(
                    &ended(safe_json(&list.text)),
                    if is_empty && is_narrow { REFUSED.into() } else { ExitCode::SUCCESS },
                )
            } else if is_empty && is_narrow {
                nothing(&words())
            } else {
                print(&ended(words()), ExitCode::SUCCESS)
            })
        }))
    }
}

impl Line {
    /// Whatever is asked; why there is no answer is told.
    pub(super) fn with<T>(&self, ask: impl AsyncFnOnce(&Client) -> Result<T, Unreachable>) -> Result<T, ExitCode> {
        self.runtime.block_on(ask(&self.client)).map_err(|why| unreachable(&why))
    }

    /// The answer to a question; one that says no is told.
    pub(super) fn get(&self, path: &Path) -> Result<Answer, ExitCode> {
        self.heard(self.runtime.block_on(self.client.get(path)))
    }

    /// The same for a change.
    pub(super) fn post(&self, path: &Path) -> Result<Answer, ExitCode> {
        self.heard(self.runtime.block_on(self.client.post(path)))
    }

    /// The pages of a list until there are so many items.
    pub(super) fn list(&self, path: &Path, key: &str, limit: u64) -> Result<List, ExitCode> {
        let mut items: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let left = limit - items.len() as u64;
            let page = path.clone().with("limit", Some(left.min(PAGE).to_string())).with("after", after.as_deref());
            let Answer { mut said, text, .. } = self.get(&page)?;
            let found = said.get_mut(key).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
            let next = said.get("next").and_then(Value::as_str).map(str::to_owned);
            let (was_first, was_empty) = (after.is_none(), found.is_empty());
            items.extend(found);
            let total = number(&said, "total");
            let more = total.saturating_sub(items.len() as u64);
            if next.is_none() || was_empty || items.len() as u64 >= limit {
                // Pages are not of one moment: what is gone by now is none of those that are left.
                let more = if next.is_none() { 0 } else { more };
                if was_first {
                    return Ok(List { items, more, text });
                }
                if let Some(place) = said.get_mut(key) {
                    *place = Value::Array(items.clone());
                }
                return Ok(List { items, more, text: said.to_string() });
            }
            after = next;
        }
    }

    /// Something that comes piece by piece, until it ends, `each` wants no more, or the caller is interrupted.
    pub(super) fn stream(&self, path: &Path, each: impl FnMut(&[u8]) -> std::io::Result<bool>) -> ExitCode {
        let streamed = self.runtime.block_on(async {
            tokio::select! {
                streamed = self.client.stream(path, each) => streamed,
                _ = tokio::signal::ctrl_c() => Ok(None),
            }
        });
        match streamed {
            Ok(None) => ExitCode::SUCCESS,
            Ok(Some(answer)) => self.heard(Ok(answer)).err().unwrap_or(ExitCode::SUCCESS),
            Err(why) => unreachable(&why),
        }
    }

    /// Prints an answer, and what follows from it.
    pub(super) fn show(&self, answer: &Answer, show: impl FnOnce(&Value) -> Said) -> ExitCode {
        let said = show(&answer.said);
        match (self.json, said) {
            (true, Said::Done(_)) => print(&ended(safe_json(&answer.text)), ExitCode::SUCCESS),
            (true, Said::No(_) | Said::Nothing(_)) => print(&ended(safe_json(&answer.text)), ExitCode::from(REFUSED)),
            (false, Said::Done(words)) => print(&ended(words), ExitCode::SUCCESS),
            (false, Said::No(words)) => print(&ended(words), ExitCode::from(REFUSED)),
            (false, Said::Nothing(words)) => nothing(&words),
        }
    }

    fn heard(&self, answer: Result<Answer, Unreachable>) -> Result<Answer, ExitCode> {
        let answer = answer.map_err(|why| unreachable(&why))?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        if self.json && answer.said.is_object() {
            print(&ended(safe_json(&answer.text)), ExitCode::SUCCESS);
        }
        for finding in strings(&answer.said, "findings") {
            complain(&safe_lines(finding));
        }
        complain(&format!("mailmux: {}", answer.why_not()));
        Err(ExitCode::from(match answer.status {
            StatusCode::BAD_REQUEST => UNREACHABLE,
            _ => REFUSED,
        }))
    }
}

impl Answer {
    /// Why it says no.
    pub(super) fn why_not(&self) -> String {
        let error = self.said.get("error").and_then(Value::as_str);
        match (error.unwrap_or_else(|| self.text.trim()), self.status) {
            ("", StatusCode::UNAUTHORIZED) => "the token is wrong or missing".to_owned(),
            ("", StatusCode::NOT_FOUND) => "the mailmux that runs does not know this question; is it older?".to_owned(),
            ("", status) => status.to_string(),
            (words, _) => safe(words),
        }
    }

    /// Whether it says yes.
    pub(super) fn is_ok(&self) -> bool {
        self.status.is_success()
    }
}

/// Nothing was found, or done.
pub(super) fn nothing(words: &str) -> ExitCode {
    complain(&format!("mailmux: {words}"));
    ExitCode::from(REFUSED)
}

/// The one or the other.
pub(super) fn whichever(code: Result<ExitCode, ExitCode>) -> ExitCode {
    code.unwrap_or_else(|code| code)
}

/// The texts of a list in an answer.
pub(super) fn strings<'a>(said: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    said.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The number of an answer.
pub(super) fn number(said: &Value, key: &str) -> u64 {
    said.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// `1 session`, `2 sessions`.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn unreachable(why: &Unreachable) -> ExitCode {
    match why {
        // Whoever runs would refuse it too.
        Unreachable::Configuration(findings) => {
            complain(findings.trim_end());
            ExitCode::from(REFUSED)
        }
        Unreachable::Refused(why) => nothing(why),
        why => {
            complain(&format!("mailmux: {why}"));
            ExitCode::from(UNREACHABLE)
        }
    }
}

/// To standard error, as long as there is any.
fn complain(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

fn ended(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Where the configuration says.
fn configured(admin: Option<Admin>) -> Result<(Place, Option<PathBuf>), Unreachable> {
    let admin = admin.ok_or(Unreachable::NoAdmin)?;
    if let Some(socket) = admin.socket {
        return Ok((Place::Socket(socket.value), None));
    }
    // One that listens everywhere is found on loopback.
    let mut address = admin.address.value;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok((Place::Address(address.to_string()), admin.token_file.map(|file| file.value)))
}

/// What has a slash is a path.
fn place(text: &str) -> Result<Place, String> {
    if text.contains('/') {
        return Ok(Place::Socket(text.into()));
    }
    host_and_port(text).map(|_| Place::Address(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_socket_or_an_address() {
        assert_eq!(place("/run/mailmux/admin.sock"), Ok(Place::Socket("/run/mailmux/admin.sock".into())));
        assert_eq!(place("./admin.sock"), Ok(Place::Socket("./admin.sock".into())));
        assert_eq!(place("mail.example.org:9143"), Ok(Place::Address("mail.example.org:9143".into())));
        assert_eq!(place("[::1]:9143"), Ok(Place::Address("[::1]:9143".into())));
        assert!(place("mail.example.org").is_err() && place("").is_err());
    }
}
