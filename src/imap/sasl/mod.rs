//! The SASL mechanisms mailmux speaks, one file each, both directions: read from a client (as its server) and written to
//! a backend (as its client). No tags, no line ends, no policy: messages in, [`Login`] out. Channel binding (`-PLUS`)
//! does not exist here: it binds to a TLS connection that ends at mailmux. RFC 4422.

mod base64;
mod external;
mod login;
mod oauthbearer;
mod plain;
mod saslname;
mod scram;
mod xoauth2;

use zeroize::Zeroizing;

pub use self::base64::{base64, decode_base64};
pub use self::oauthbearer::encode_oauthbearer;
pub use self::plain::encode_plain;
pub use self::xoauth2::encode_xoauth2;

use super::{ForbiddenByte, Login, Mechanism, UserName};

/// One AUTHENTICATE of a client, from its mechanism to the attempt it makes.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    /// AUTHENTICATE LOGIN alone takes two messages; this is the first.
    user: Option<UserName>,
}

/// What comes after a client's message.
#[derive(Debug)]
pub enum Turn {
    /// The client is to be asked once more; [`Exchange::prompt`] has the words.
    Ask,
    /// All is said.
    Done(Login),
}

/// A message is not what its mechanism's grammar says. There is nothing to add: the text of a refusal never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed SASL message")]
pub struct Malformed;

impl From<ForbiddenByte> for Malformed {
    fn from(_: ForbiddenByte) -> Self {
        Self
    }
}

impl Exchange {
    /// An exchange of which nothing was said yet.
    pub fn new(mechanism: Mechanism) -> Self {
        Self { mechanism, user: None }
    }

    /// What the client is asked, not yet base64: nothing at all in mechanisms where the client speaks first.
    pub fn prompt(&self) -> &'static [u8] {
        match (self.mechanism, &self.user) {
            (Mechanism::Login, None) => login::ASK_USER,
            (Mechanism::Login, Some(_)) => login::ASK_PASSWORD,
            _ => b"",
        }
    }

    /// Takes the client's message, decoded. `identity` is what its certificate proved, for EXTERNAL.
    ///
    /// # Errors
    /// [`Malformed`]: the exchange is over.
    pub fn hear(&mut self, message: Zeroizing<Vec<u8>>, identity: Option<&UserName>) -> Result<Turn, Malformed> {
        let login = match self.mechanism {
            Mechanism::Plain => plain::parse(&message)?,
            Mechanism::XOAuth2 => xoauth2::parse(&message)?,
            Mechanism::OAuthBearer => oauthbearer::parse(&message)?,
            Mechanism::External => external::parse(&message, identity.ok_or(Malformed)?)?,
            Mechanism::ScramSha1 | Mechanism::ScramSha256 => scram::parse_first(self.mechanism, message)?,
            Mechanism::Login => {
                let Some(user) = self.user.take() else {
                    self.user = Some(UserName::new(message.as_slice())?);
                    return Ok(Turn::Ask);
                };
                login::finish(user, message)?
            }
            // A command of its own, not a SASL mechanism.
            Mechanism::LoginCommand => return Err(Malformed),
        };
        Ok(Turn::Done(login))
    }
}

/// The mechanism of this name, in any case. Names with `-PLUS` are nobody's.
pub fn mechanism(name: &[u8]) -> Option<Mechanism> {
    let known = Mechanism::ALL.into_iter().filter(|mechanism| *mechanism != Mechanism::LoginCommand);
    known.into_iter().find(|mechanism| mechanism.as_str().as_bytes().eq_ignore_ascii_case(name))
}

/// One wiped buffer from parts, at its full size from the start: growing would leave copies behind.
fn join(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut message = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        message.extend_from_slice(part);
    }
    message
}
