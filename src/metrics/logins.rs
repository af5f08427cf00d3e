//! The metrics of logins and of what clients say before, and of how sessions end.

use prometheus::IntCounterVec;

use super::families::{Families, Made};
use crate::imap::{Heard, Mechanism, Mistake, command};
use crate::outcome::{Ending, LOGIN_OUTCOMES};

/// The families of logins.
pub(super) struct Logins {
    pub(super) attempts: IntCounterVec,
    pub(super) sessions_closed: IntCounterVec,
    commands: IntCounterVec,
    mistakes: IntCounterVec,
}

impl Logins {
    pub(super) fn new(families: &Families<'_>) -> Made<Self> {
        let logins = Self {
            attempts: families.counters(
                "mailmux_logins_total",
                "Attempts to log in, by mechanism (LOGIN-COMMAND: the command LOGIN) and how they ended.",
                &["mechanism", "outcome"],
            )?,
            sessions_closed: families.counters(
                "mailmux_sessions_closed_total",
                "Client connections that have ended, by who ended them and why.",
                &["side", "reason"],
            )?,
            commands: families.counters(
                "mailmux_preauth_commands_total",
                "Commands of clients before login; after_login: one that needs a login, unknown: none at all. Counted when the login \
                 succeeds or the connection ends.",
                &["command"],
            )?,
            mistakes: families.counters(
                "mailmux_preauth_errors_total",
                "Commands before login that were answered BAD or NO, but for logins that were refused. Counted when the login succeeds or \
                 the connection ends.",
                &["reason"],
            )?,
        };
        for mechanism in Mechanism::ALL {
            for outcome in LOGIN_OUTCOMES {
                logins.attempts.with_label_values(&[mechanism.as_str(), outcome]);
            }
        }
        for ending in Ending::ALL {
            logins.sessions_closed.with_label_values(&[ending.side().as_str(), ending.label()]);
        }
        for command in command::Name::ALL {
            logins.commands.with_label_values(&[command.as_str()]);
        }
        for mistake in Mistake::ALL {
            logins.mistakes.with_label_values(&[mistake.as_str()]);
        }
        Ok(logins)
    }

    pub(super) fn heard(&self, heard: &Heard) {
        for (command, times) in heard.commands().filter(|(_, times)| *times > 0) {
            self.commands.with_label_values(&[command.as_str()]).inc_by(times.into());
        }
        for (mistake, times) in heard.mistakes().filter(|(_, times)| *times > 0) {
            self.mistakes.with_label_values(&[mistake.as_str()]).inc_by(times.into());
        }
    }
}
