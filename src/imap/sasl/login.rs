//! LOGIN, never standardised (draft-murchison-sasl-login): two prompts, two bare answers. Outlook and Exchange want it.
//! Some clients send the user name as an initial response.

use zeroize::Zeroizing;

use super::Malformed;
use crate::imap::{Credentials, Login, Mechanism, Secret, UserName};

/// The words every client has heard from its servers; some look at them.
pub(super) const ASK_USER: &[u8] = b"Username:";
pub(super) const ASK_PASSWORD: &[u8] = b"Password:";

/// The attempt made of both answers.
pub(super) fn finish(user: UserName, password: Zeroizing<Vec<u8>>) -> Result<Login, Malformed> {
    let credentials = Credentials::Password(Secret::new(password)?);
    Ok(Login { mechanism: Mechanism::Login, user, authzid: None, credentials })
}
