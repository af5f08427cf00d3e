//! What can go wrong with a backend, and how a login at one ends, as labels.

/// What can go wrong with a backend; the label `kind` of `mailmux_backend_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendError {
    /// TCP: refused, unreachable, no such name.
    Connect,
    /// No answer in time, at any step.
    Timeout,
    /// The handshake, or a certificate that does not verify.
    Tls,
    /// A greeting that is not `* OK`.
    Greeting,
    /// Anything else that is not IMAP as expected.
    Protocol,
    /// End of stream before the login was answered.
    Closed,
    /// STARTTLS wanted and not offered or refused.
    StartTls,
    /// `NO [UNAVAILABLE]`.
    Unavailable,
    /// `NO [SERVERBUG]`.
    ServerBug,
    /// Nothing of the backend's: this machine has no descriptor, port or memory for a link.
    Local,
}

impl BackendError {
    pub(super) const ALL: [Self; 10] = [
        Self::Connect,
        Self::Timeout,
        Self::Tls,
        Self::Greeting,
        Self::Protocol,
        Self::Closed,
        Self::StartTls,
        Self::Unavailable,
        Self::ServerBug,
        Self::Local,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::StartTls => "starttls",
            Self::Unavailable => "unavailable",
            Self::ServerBug => "serverbug",
            Self::Local => "local",
        }
    }
}

/// How a login at a backend ended; the label `outcome` of `mailmux_backend_logins_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendLogin {
    /// The user is in.
    Ok,
    /// NO without a code, or with one that says so.
    BadCredentials,
    /// NO with `[LIMIT]` or `[INUSE]`.
    Limit,
    /// NO with another code that the client is told.
    Refused,
    /// The user is at home elsewhere.
    Referral,
    /// The backend cannot do what the login needs.
    Unsupported,
    /// `NO [UNAVAILABLE]`.
    Unavailable,
    /// `NO [SERVERBUG]`.
    ServerBug,
    /// Not IMAP as expected.
    Protocol,
    /// The link ended.
    Closed,
    /// No answer in time.
    Timeout,
}

impl BackendLogin {
    pub(super) const ALL: [Self; 11] = [
        Self::Ok,
        Self::BadCredentials,
        Self::Limit,
        Self::Refused,
        Self::Referral,
        Self::Unsupported,
        Self::Unavailable,
        Self::ServerBug,
        Self::Protocol,
        Self::Closed,
        Self::Timeout,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::BadCredentials => "bad_credentials",
            Self::Limit => "limit",
            Self::Refused => "refused",
            Self::Referral => "referral",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::ServerBug => "serverbug",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
        }
    }
}
