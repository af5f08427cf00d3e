//! The process around the server: its phases, signals, log and privileges.

mod drain;
mod hardening;
mod log;
mod signals;

pub use drain::Phase;
pub use hardening::harden;
pub use log::start_log;
pub use signals::{Signal, Signals};
