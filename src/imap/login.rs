//! What the pre-auth dialogue finds out: who asks to be let in, how, and with what proof.

use super::{Secret, UserName};

/// One attempt to log in, as the client made it.
#[derive(Debug)]
pub struct Login {
    /// How the client asked.
    pub mechanism: Mechanism,
    /// Who the client says it is (SASL's authentication identity).
    pub user: UserName,
    /// As whom it wants to act, when that was said and differs from nothing (SASL's authorization identity, PLAIN only).
    pub authzid: Option<UserName>,
    /// The proof.
    pub credentials: Credentials,
}

/// The ways to log in that mailmux knows. `as_str` is the name on the wire, in logs and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// The LOGIN command (RFC 9051 6.2.3).
    LoginCommand,
    /// RFC 4616.
    Plain,
    /// AUTHENTICATE LOGIN, never standardised, wanted by Exchange and Outlook.
    Login,
    /// Google's and Microsoft's token mechanism.
    XOAuth2,
    /// RFC 7628.
    OAuthBearer,
    /// RFC 4422 appendix A: the client's TLS certificate.
    External,
    /// RFC 5802; relayed, since only client and backend can compute it.
    ScramSha1,
    /// RFC 7677; relayed.
    ScramSha256,
}

/// What a client proves itself with.
#[derive(Debug)]
pub enum Credentials {
    /// LOGIN, PLAIN, AUTHENTICATE LOGIN.
    Password(Secret),
    /// XOAUTH2, OAUTHBEARER: the bearer token alone, without the words around it.
    Token(Secret),
    /// EXTERNAL: the TLS handshake was the proof.
    Certificate,
    /// SCRAM: the client's first message, as it was sent (decoded). The rest of the exchange is relayed.
    ScramFirst(Secret),
}

impl Mechanism {
    /// Every mechanism, in the order in which AUTH= lists them.
    pub const ALL: [Self; 8] = [
        Self::LoginCommand,
        Self::Plain,
        Self::Login,
        Self::XOAuth2,
        Self::OAuthBearer,
        Self::External,
        Self::ScramSha1,
        Self::ScramSha256,
    ];

    /// The SASL name, or `LOGIN-COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoginCommand => "LOGIN-COMMAND",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::XOAuth2 => "XOAUTH2",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::External => "EXTERNAL",
            Self::ScramSha1 => "SCRAM-SHA-1",
            Self::ScramSha256 => "SCRAM-SHA-256",
        }
    }
}

impl Credentials {
    /// The bytes that tell one attempt from another, for keyed hashes; empty for a certificate.
    pub fn proof(&self) -> &[u8] {
        match self {
            Self::Password(secret) | Self::Token(secret) | Self::ScramFirst(secret) => secret.reveal(),
            Self::Certificate => &[],
        }
    }
}
