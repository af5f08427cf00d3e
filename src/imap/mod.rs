//! The protocol: words read and words said, without I/O, clock, configuration, metrics or log. Everything here takes
//! bytes and gives bytes, so that a test, a fuzzer and a socket drive the same code.

mod capability;
pub mod command;
pub mod follower;
pub mod framer;
mod heard;
mod login;
mod preauth;
mod reply;
pub mod response;
pub mod sasl;
mod secret;
mod tag;
mod tracker;
mod transcript;

pub use capability::Capabilities;
pub use follower::{Remains, Reset};
pub use heard::{Heard, Mistake};
pub use login::{Credentials, Login, Mechanism};
pub use preauth::{Event, Offer, Preauth};
pub use reply::Welcome;
pub use secret::{ForbiddenByte, Secret, UserName, escape};
pub use transcript::{Spoken, Voice, said};
