//! How a login is refused and how a session ends: two closed lists. Each entry has its label for metrics and log, its
//! level and its words to the client in an exhaustive `match`, so that a new entry does not compile until all are given.

use std::borrow::Cow;
use std::time::Duration;

/// Who ended a session, or who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The mail program.
    Client,
    /// The server behind us.
    Backend,
    /// We ourselves.
    Mailmux,
}

impl Side {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Mailmux => "mailmux",
        }
    }
}

/// A limit that was reached; the name is that of its key in `[limits]` or `[[backend]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the keys")]
pub enum Limit {
    Sessions,
    SessionsPerNetwork,
    SessionsPerUser,
    ConnectsPerNetwork,
    LoginsPerUser,
    FailuresPerNetwork,
    FailuresPerUser,
    MaxLinks,
    MaxLinksPerUser,
    Memory,
}

impl Limit {
    /// All of them, for metrics that exist before the first event.
    pub const ALL: [Self; 10] = [
        Self::Sessions,
        Self::SessionsPerNetwork,
        Self::SessionsPerUser,
        Self::ConnectsPerNetwork,
        Self::LoginsPerUser,
        Self::FailuresPerNetwork,
        Self::FailuresPerUser,
        Self::MaxLinks,
        Self::MaxLinksPerUser,
        Self::Memory,
    ];

    /// The label: the key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::SessionsPerNetwork => "sessions_per_network",
            Self::SessionsPerUser => "sessions_per_user",
            Self::ConnectsPerNetwork => "connects_per_network",
            Self::LoginsPerUser => "logins_per_user",
            Self::FailuresPerNetwork => "failures_per_network",
            Self::FailuresPerUser => "failures_per_user",
            Self::MaxLinks => "max_links",
            Self::MaxLinksPerUser => "max_links_per_user",
            Self::Memory => "memory",
        }
    }
}

/// Why a login did not succeed. The client's session goes on; it may try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The backend said NO without a code, or with `[AUTHENTICATIONFAILED]`.
    BadCredentials,
    /// No rule sends this user anywhere. Looks like a wrong password.
    NoRoute,
    /// A rule says `reject`.
    Rejected(String),
    /// A source of routes says that the password is wrong, and perhaps in what words; after so long, if it wants that.
    WrongPassword(Option<String>, Duration),
    /// The backend said NO with a code worth passing on: everything behind `NO `, no line end.
    Coded(Vec<u8>),
    /// The backend cannot do what this login needs (mechanism, authzid). Looks like a wrong password.
    Unsupported,
    /// The backend cannot be reached, is silent, spoke garbage or said `[UNAVAILABLE]`.
    BackendDown,
    /// The backend is not as the configuration says: no STARTTLS, a certificate that does not verify, `[SERVERBUG]`.
    BackendMisconfigured,
    /// The way leads back to mailmux.
    Loop,
    /// The source of routes did not answer.
    LookupFailed,
    /// A limit.
    Limited(Limit),
    /// The budget for logging in at the backend ran out.
    Timeout,
}

impl Refusal {
    /// The `outcome` label of `mailmux_logins_total`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::BadCredentials | Self::WrongPassword(..) => "bad_credentials",
            Self::NoRoute | Self::Rejected(_) => "no_route",
            Self::Coded(_) | Self::Unsupported => "backend_refused",
            Self::BackendDown | Self::BackendMisconfigured | Self::Loop => "backend_down",
            Self::LookupFailed => "lookup_failed",
            Self::Limited(_) => "limited",
            Self::Timeout => "timeout",
        }
    }

    /// What stands behind `NO ` in the client's tagged answer.
    pub fn reply(&self) -> Cow<'_, [u8]> {
        match self {
            Self::BadCredentials | Self::NoRoute | Self::Unsupported | Self::WrongPassword(None, _) => {
                b"[AUTHENTICATIONFAILED] Authentication failed.".into()
            }
            Self::WrongPassword(Some(text), _) => format!("[AUTHENTICATIONFAILED] {text}").into_bytes().into(),
            Self::Rejected(text) => text.as_bytes().into(),
            Self::Coded(line) => line.into(),
            Self::BackendDown | Self::LookupFailed | Self::Timeout => {
                b"[UNAVAILABLE] Account is temporarily unavailable.".into()
            }
            Self::BackendMisconfigured | Self::Loop => b"[SERVERBUG] Account is temporarily unavailable.".into(),
            Self::Limited(Limit::FailuresPerNetwork | Limit::FailuresPerUser) => {
                b"[LIMIT] Too many failed logins, try again later.".into()
            }
            Self::Limited(Limit::SessionsPerUser) => b"[LIMIT] Too many sessions of this user.".into(),
            Self::Limited(Limit::MaxLinks | Limit::MaxLinksPerUser) => {
                b"[LIMIT] All places are taken, try again later.".into()
            }
            Self::Limited(_) => b"[LIMIT] Too many logins, try again later.".into(),
        }
    }

    /// Whether it says something about the secret, so that it counts as a failed login.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::BadCredentials | Self::NoRoute | Self::WrongPassword(..))
    }

    /// The wait before trying the backend once more makes sense.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::BackendDown)
    }
}

/// The `outcome` labels of `mailmux_logins_total`, all of them.
pub const LOGIN_OUTCOMES: [&str; 9] = [
    "ok",
    "bad_credentials",
    "no_route",
    "backend_down",
    "backend_refused",
    "lookup_failed",
    "limited",
    "aborted",
    "timeout",
];

/// What a session hears that is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// Why.
    pub ending: Ending,
    /// It has so long to find a moment for its BYE.
    pub patience: Duration,
    /// Not in the middle of a command, if it can be helped; IDLE is none.
    pub gently: bool,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The client closed, before or after login.
    ClientClosed,
    /// The client's connection broke.
    ClientReset,
    /// The client said LOGOUT, and was answered here.
    ClientLogout,
    /// The TLS handshake failed.
    TlsFailed,
    /// The client offered ALPN protocols, `imap` not among them.
    AlpnRefused,
    /// The client sent more bytes in clear behind STARTTLS.
    StartTlsInjection,
    /// The client spoke another protocol (HTTP, a PROXY header from a peer that is not trusted).
    WrongProtocol,
    /// A trusted balancer sent no PROXY header, or a broken one.
    BadProxyHeader,
    /// A bound of the pre-auth dialogue: line, literal, SASL answer.
    TooLong,
    /// Too many bad commands or failed logins.
    TooManyErrors,
    /// A balancer's health check: a PROXY header that says LOCAL, and nothing else.
    HealthCheck,
    /// A limit on connections.
    Limited(Limit),
    /// No login within the time for it.
    LoginTimeout,
    /// Nothing moved for `relay_idle`.
    IdleTimeout,
    /// The peer did not take what was sent to it in time.
    WriteTimeout,
    /// The backend closed.
    BackendClosed,
    /// The link broke.
    BackendReset,
    /// mailmux is stopping.
    Stopping,
    /// The same, and there was no moment at which the client could be told.
    CutOff,
    /// An operator ended the user's sessions.
    Kicked,
    /// The user goes elsewhere from now on: it was moved, or its backend is taken out of use.
    Moved,
    /// A fault of our own; a bug.
    Internal,
}

impl Ending {
    /// All of them, for metrics that exist before the first event. [`Ending::Limited`] stands once for every limit.
    pub const ALL: [Self; 22] = [
        Self::ClientClosed,
        Self::ClientReset,
        Self::ClientLogout,
        Self::TlsFailed,
        Self::AlpnRefused,
        Self::StartTlsInjection,
        Self::WrongProtocol,
        Self::BadProxyHeader,
        Self::TooLong,
        Self::TooManyErrors,
        Self::HealthCheck,
        Self::Limited(Limit::Sessions),
        Self::LoginTimeout,
        Self::IdleTimeout,
        Self::WriteTimeout,
        Self::BackendClosed,
        Self::BackendReset,
        Self::Stopping,
        Self::CutOff,
        Self::Kicked,
        Self::Moved,
        Self::Internal,
    ];

    /// Who ended it.
    pub fn side(self) -> Side {
        match self {
            Self::ClientClosed
            | Self::ClientReset
            | Self::ClientLogout
            | Self::TlsFailed
            | Self::AlpnRefused
            | Self::StartTlsInjection
            | Self::WrongProtocol
            | Self::BadProxyHeader
            | Self::TooLong
            | Self::TooManyErrors
            | Self::HealthCheck => Side::Client,
            Self::BackendClosed | Self::BackendReset => Side::Backend,
            Self::Limited(_)
            | Self::LoginTimeout
            | Self::IdleTimeout
            | Self::WriteTimeout
            | Self::Stopping
            | Self::CutOff
            | Self::Kicked
            | Self::Moved
            | Self::Internal => Side::Mailmux,
        }
    }

    /// The `reason` in the log line and in `mailmux_sessions_closed_total`.
    pub fn label(self) -> &'static str {
        match self {
            Self::ClientClosed | Self::BackendClosed => "closed",
            Self::ClientReset | Self::BackendReset => "reset",
            Self::ClientLogout => "logout",
            Self::TlsFailed => "tls_failed",
            Self::AlpnRefused => "alpn_refused",
            Self::StartTlsInjection => "starttls_injection",
            Self::WrongProtocol => "wrong_protocol",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::TooLong => "too_long",
            Self::TooManyErrors => "too_many_errors",
            Self::HealthCheck => "health_check",
            Self::Limited(_) => "limited",
            Self::LoginTimeout => "login_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::Stopping => "stopping",
            Self::CutOff => "cut_off",
            Self::Kicked => "kicked",
            Self::Moved => "moved",
            Self::Internal => "internal",
        }
    }

    /// The level of the session's log line.
    pub fn level(self) -> tracing::Level {
        match self {
            Self::HealthCheck => tracing::Level::DEBUG,
            Self::BackendReset | Self::WriteTimeout | Self::CutOff => tracing::Level::WARN,
            Self::Internal => tracing::Level::ERROR,
            Self::ClientClosed
            | Self::ClientReset
            | Self::ClientLogout
            | Self::TlsFailed
            | Self::AlpnRefused
            | Self::StartTlsInjection
            | Self::WrongProtocol
            | Self::BadProxyHeader
            | Self::TooLong
            | Self::TooManyErrors
            | Self::Limited(_)
            | Self::LoginTimeout
            | Self::IdleTimeout
            // After LOGOUT it is the server that closes first.
            | Self::BackendClosed
            | Self::Stopping
            | Self::Kicked
            | Self::Moved => tracing::Level::INFO,
        }
    }

    /// The untagged BYE for a client that has not been handed over yet; `None` where there is nobody to talk to.
    pub fn bye(self) -> Option<&'static [u8]> {
        match self {
            // LOGOUT has a BYE of its own, before its tagged OK.
            Self::ClientLogout
            | Self::ClientClosed
            | Self::ClientReset
            | Self::TlsFailed
            | Self::AlpnRefused
            | Self::StartTlsInjection
            | Self::WrongProtocol
            | Self::BadProxyHeader
            | Self::HealthCheck
            | Self::WriteTimeout
            | Self::CutOff
            | Self::BackendClosed
            | Self::BackendReset => None,
            Self::TooLong => Some(b"* BYE Input too long.\r\n"),
            Self::TooManyErrors => Some(b"* BYE Too many errors.\r\n"),
            Self::Limited(_) => Some(b"* BYE [LIMIT] Too many connections.\r\n"),
            Self::LoginTimeout => Some(b"* BYE No login in time.\r\n"),
            Self::IdleTimeout => Some(b"* BYE Idle for too long.\r\n"),
            Self::Stopping => Some(b"* BYE Server is shutting down.\r\n"),
            Self::Kicked => Some(b"* BYE Closed by the administrator.\r\n"),
            Self::Moved => Some(b"* BYE Account is moving, please log in again.\r\n"),
            Self::Internal => Some(b"* BYE [SERVERBUG] Internal error.\r\n"),
        }
    }
}
