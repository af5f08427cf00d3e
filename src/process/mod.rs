//! Starting, stopping, draining.

mod drain;

pub use drain::Phase;
