//! Signals: SIGTERM and SIGINT begin a drain, a second one ends everything at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::info;

use super::Phase;

/// The signals that ask for an end.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over SIGTERM and SIGINT. Must be called within a runtime.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn take() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Moves `phase` on: to draining at the first signal, to stopped at the second one or when the time for draining is
    /// over.
    pub async fn follow(mut self, phase: &watch::Sender<Phase>, drain_timeout: Duration) {
        self.next().await;
        info!(timeout_s = drain_timeout.as_secs(), "draining: no new connections, waiting for sessions to end");
        phase.send_replace(Phase::Draining);
        let again = timeout(drain_timeout, self.next()).await.is_ok();
        let why = if again { "second signal" } else { "the time for draining is over" };
        info!(why, "ending the sessions that are left");
        phase.send_replace(Phase::Stopped);
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
