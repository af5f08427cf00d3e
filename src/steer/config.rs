//! The configuration as it is in use, and the one setting that can be changed without it: how much is logged.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::{SteerError, Steering};
use crate::config::{LogLevel, Masked};
use crate::process::LogHandle;

/// The configuration that is in use.
#[derive(Debug, Clone)]
pub struct ShownConfig {
    /// The file that it was read from, if it was.
    pub file: Option<PathBuf>,
    /// When, in seconds since 1970.
    pub loaded_at: f64,
    /// Its text of then, with nothing secret in it.
    pub text: Masked,
}

impl Steering {
    /// The configuration that is in use.
    pub fn shown_config(&self) -> ShownConfig {
        let state = self.state();
        let loaded_at = state.metrics.life().configured_at();
        ShownConfig { file: state.config.file.clone(), loaded_at, text: state.config.shown.clone() }
    }

    /// How much is logged.
    pub fn log_level(&self) -> LogLevel {
        let state = self.state();
        state.log.as_ref().map_or(state.config.log.level, LogHandle::level)
    }

    /// From now on so much is logged: for so long, if a time is given, else until a reload; then what the configuration says.
    ///
    /// # Errors
    /// The log is not this server's to change.
    pub fn set_log_level(&self, level: LogLevel, time: Option<Duration>) -> Result<(), SteerError> {
        let state = self.state();
        let log = state.log.as_ref().ok_or(SteerError::NoLog)?;
        log.set_level(level, time.map(|time| Instant::now() + time));
        info!(level = level.as_str(), seconds = time.map(|time| time.as_secs()), "the log's level was chosen");
        Ok(())
    }
}
