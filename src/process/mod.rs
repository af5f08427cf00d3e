//! The process around the server: its phases, signals, log, privileges, memory, and whoever started it.

mod confine;
mod drain;
mod handover;
mod hardening;
mod log;
mod memory;
mod privileges;
mod signals;
mod systemd;

pub use confine::Confinement;
pub use drain::Phase;
pub use handover::{
    Heir, Predecessor, Program, Role, Successor, UpgradeError, go_own_way, goes_its_way, hear, say_ready, tell,
};
pub use hardening::{harden, too_much};
pub use log::{LogEnd, LogHandle, start_log};
pub use memory::{EVERY as MEMORY_LOOKS, MemoryWatch};
pub use privileges::Privileges;
pub use signals::{Signal, Signals};
pub use systemd::{Notifier, inherited_sockets};
