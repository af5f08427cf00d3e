//! The phase the process is in. One `watch` tells it to everybody.

/// What the process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// Another process accepts; sessions live on here, also those that are about to log in.
    Succeeded,
    /// No new connections; those who have not logged in are sent away, the others live on.
    Draining,
    /// Everything ends now.
    Stopped,
}
