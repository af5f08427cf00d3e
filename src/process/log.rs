//! Where log lines go: standard error, as text or as JSON.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::util::TryInitError;

use crate::config::{Log, LogFormat, LogLevel};

/// Starts the log of this process.
///
/// # Errors
/// A log was started before.
pub fn start_log(log: &Log) -> Result<(), TryInitError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // A line that cannot be written (a full disk, a pipe nobody reads) is lost. Complaining of it to standard error, as is
    // the default, panics when that is what cannot be written to, and takes the session with it.
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).log_internal_errors(false);
    match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).with_target(false).finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
}
