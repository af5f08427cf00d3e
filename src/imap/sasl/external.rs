//! EXTERNAL (RFC 4422 appendix A): the message is the authorization identity, or nothing.

use super::Malformed;
use crate::imap::UserName;

/// Reads a client's message.
///
/// # Errors
/// [`Malformed`].
pub fn parse_external(message: &[u8]) -> Result<Option<UserName>, Malformed> {
    match message {
        [] => Ok(None),
        name => UserName::new(name).map(Some).map_err(|_| Malformed),
    }
}
