//! What has become of a backend's health, and when, for people: bounded, whatever happens. Not here: what being well means
//! (`health.rs`).

use std::collections::VecDeque;
use std::time::SystemTime;

use super::health::Change;

/// So many changes are remembered, the last ones.
pub const CHANGES: usize = 32;
/// The longest reason, in bytes; what is longer is cut.
const LONGEST: usize = 300;

/// What is known of a backend's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether it is well, as far as is known.
    pub is_up: bool,
    /// What was wrong with it last, and where; only while it is down.
    pub reason: Option<String>,
    /// Since when it is as it is; `None`: since it has been known.
    pub since: Option<SystemTime>,
    /// When a probe or a login last told something of it.
    pub last_check: Option<SystemTime>,
}

/// One change of a backend's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// When.
    pub at: SystemTime,
    /// To what.
    pub is_up: bool,
    /// Why it went down.
    pub reason: Option<String>,
}

/// The last changes, and the last look.
#[derive(Debug, Default)]
pub(super) struct History {
    turns: VecDeque<Turn>,
    last_check: Option<SystemTime>,
}

impl History {
    /// Something was learnt, and perhaps it was a change.
    pub(super) fn note(&mut self, change: Option<&Change>, now: SystemTime) {
        self.last_check = Some(now);
        let reason = match change {
            None => return,
            Some(Change::Up(_)) => None,
            Some(Change::Down(why)) => Some(why.clone()),
        };
        if self.turns.len() >= CHANGES {
            self.turns.pop_front();
        }
        self.turns.push_back(Turn { at: now, is_up: reason.is_none(), reason });
    }

    pub(super) fn report(&self, is_up: bool, why_down: Option<&str>) -> HealthReport {
        HealthReport {
            is_up,
            reason: why_down.map(str::to_owned),
            since: self.turns.back().map(|turn| turn.at),
            last_check: self.last_check,
        }
    }

    pub(super) fn turns(&self) -> Vec<Turn> {
        self.turns.iter().cloned().collect()
    }
}

/// As much of a reason as is kept.
pub(super) fn bounded(why: &str) -> &str {
    why.get(..why.floor_char_boundary(LONGEST)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn looks_are_noted_and_changes_kept() {
        let mut history = History::default();
        let nothing = HealthReport { is_up: true, reason: None, since: None, last_check: None };
        assert_eq!(history.report(true, None), nothing);
        history.note(None, at(5));
        assert_eq!(history.report(true, None), HealthReport { last_check: Some(at(5)), ..nothing });
        history.note(Some(&Change::Down("refused".to_owned())), at(6));
        history.note(None, at(7));
        let down = HealthReport {
            is_up: false,
            reason: Some("unreachable".to_owned()),
            since: Some(at(6)),
            last_check: Some(at(7)),
        };
        assert_eq!(history.report(false, Some("unreachable")), down, "the last reason, since the first");
        history.note(Some(&Change::Up(Duration::ZERO)), at(8));
        let turns = [
            Turn { at: at(6), is_up: false, reason: Some("refused".to_owned()) },
            Turn { at: at(8), is_up: true, reason: None },
        ];
        assert_eq!(history.turns(), turns);
    }

    #[test]
    fn only_the_last_changes_are_kept() {
        let mut history = History::default();
        for second in 0..1000 {
            history.note(Some(&Change::Down(second.to_string())), at(second));
        }
        let turns = history.turns();
        assert_eq!(turns.len(), CHANGES);
        assert_eq!(turns.first().and_then(|turn| turn.reason.as_deref()), Some("968"));
        assert_eq!(turns.last().and_then(|turn| turn.reason.as_deref()), Some("999"));
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        assert_eq!(bounded("refused"), "refused");
        let long = format!("x{}", "é".repeat(LONGEST));
        assert_eq!(bounded(&long).len(), LONGEST - 1);
    }
}
