//! The phase the process is in. One `watch` tells it to everybody.

/// What the process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// No new connections; those that are logged in live on.
    Draining,
    /// Everything ends now.
    Stopped,
}
