//! What goes out and comes in besides IMAP: the phases, the wish to go on, percentiles, and what went wrong, in words.

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;

/// What was not as it must be.
#[derive(Debug, Clone)]
pub(crate) struct Wrong(String);

impl Wrong {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// The other side has gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.ends_with("closed")
    }

    /// The same, with where it was in front.
    pub(crate) fn at(self, place: &str) -> Self {
        Self(format!("{place}: {}", self.0))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<E: Error> From<E> for Wrong {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// The lines of standard input.
pub(crate) struct Driver {
    lines: tokio::io::BufReader<tokio::io::Stdin>,
}

impl Driver {
    pub(crate) fn new() -> Self {
        Self { lines: tokio::io::BufReader::new(tokio::io::stdin()) }
    }

    /// Says where we are and waits until we shall go on.
    pub(crate) async fn phase(&mut self, name: &str) -> Result<(), Wrong> {
        self.phase_with(json!({"phase": name})).await
    }

    pub(crate) async fn phase_with(&mut self, what: Value) -> Result<(), Wrong> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{what}")?;
        out.flush()?;
        drop(out);
        self.lines.read_line(&mut String::new()).await?;
        Ok(())
    }
}

/// Of these times, in µs.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> Result<Value, Wrong> {
    if times.is_empty() {
        return Err(Wrong::new("nothing was measured"));
    }
    times.sort_unstable();
    let at = |per_mille: usize| {
        let place = (times.len() * per_mille).div_ceil(1000).max(1) - 1;
        times[place].as_secs_f64() * 1e6
    };
    Ok(json!({"p50": at(500), "p90": at(900), "p99": at(990), "p999": at(999), "max": at(1000)}))
}
