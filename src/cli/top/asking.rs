//! What `top` hears of: looks at the mailmux that runs, keys, and signals, each from a thread of its own.

use std::sync::mpsc::Sender;
use std::time::Duration;

use ratatui::crossterm::event::{Event, KeyEvent, read};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::super::admin::{Asked, Client, Path, Unreachable};
use super::super::units::now;

/// How many of the busiest users are asked for.
pub(super) const USERS: usize = 200;

/// What there is to know at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    /// When it was seen, in Unix seconds.
    pub(super) at: f64,
    /// `/status`
    pub(super) status: Value,
    /// `/history`
    pub(super) history: Value,
    /// `/backends`
    pub(super) backends: Value,
    /// `/users`
    pub(super) users: Value,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum News {
    Seen(Box<Snapshot>),
    /// Why nothing was seen.
    Unseen(String),
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// It is to end.
    Over,
}

/// However a thread ends, in a panic too: it is over then.
pub(super) struct Last(pub(super) Sender<News>);

impl Drop for Last {
    fn drop(&mut self) {
        // An error: it has ended already.
        let _ = self.0.send(News::Over);
    }
}

/// Looks again and again, until nobody listens, or a signal says that it is enough.
pub(super) fn ask(asked: &Asked, every: Duration, news: &Sender<News>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        tokio::select! {
            () = look_again(asked, every, news) => {}
            () = told_to_end() => {}
        }
    });
}

async fn look_again(asked: &Asked, every: Duration, news: &Sender<News>) {
    let mut client = None;
    loop {
        sleep(every).await;
        // After a failure the configuration and the token are read anew: there may be others by now.
        let seen = async {
            let known = client.take().map_or_else(|| asked.client(false), Ok)?;
            let snapshot = look(&known).await?;
            client = Some(known);
            Ok::<_, Unreachable>(snapshot)
        };
        let told = match seen.await {
            Ok(snapshot) => news.send(News::Seen(Box::new(snapshot))),
            Err(why) => news.send(News::Unseen(why.to_string())),
        };
        if told.is_err() {
            return;
        }
    }
}

/// One look. What this mailmux does not tell is left out, but for its status.
pub(super) async fn look(client: &Client) -> Result<Snapshot, Unreachable> {
    let status = client.get(&Path::new(&["status"])).await?;
    if !status.is_ok() {
        return Err(Unreachable::Refused(status.why_not()));
    }
    let mut rest = [Value::Null, Value::Null, Value::Null];
    for (part, path) in rest.iter_mut().zip(paths()) {
        let answer = client.get(&path).await?;
        *part = if answer.is_ok() { answer.said } else { Value::Null };
    }
    let [history, backends, users] = rest;
    Ok(Snapshot { at: now(), status: status.said, history, backends, users })
}

fn paths() -> [Path; 3] {
    let users = Path::new(&["users"]).with("sort", Some("bytes")).with("limit", Some(USERS.to_string()));
    [Path::new(&["history"]), Path::new(&["backends"]), users]
}

async fn told_to_end() {
    let signals = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut hangup), Ok(mut interrupt)] = signals else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Passes keys on until the terminal is gone.
pub(super) fn keys(news: &Sender<News>) {
    loop {
        let told = match read() {
            Ok(Event::Key(key)) => news.send(News::Key(key)),
            Ok(Event::Resize(..)) => news.send(News::Resized),
            Ok(_) => Ok(()),
            Err(_) => news.send(News::Over),
        };
        if told.is_err() {
            return;
        }
    }
}
