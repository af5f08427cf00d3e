//! The protocol: words read and words said, without I/O, clock, configuration, metrics or log. Everything here takes
//! bytes and gives bytes, so that a test, a fuzzer and a socket drive the same code.

mod login;
pub mod response;
mod secret;

pub use login::{Credentials, Login, Mechanism};
pub use secret::{ForbiddenByte, Secret, UserName, escape};
