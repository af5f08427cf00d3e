//! What a lookup keeps, and what it has answered so far, for whoever asks; and how it forgets. Not here: keeping (`cache.rs`).

use super::cache::Cache;
use super::{Key, Lookup, Source};

/// How a source of routes does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupState {
    /// Its name.
    pub name: String,
    /// Its type, as the configuration writes it.
    pub kind: &'static str,
    /// How many answers are kept; `None`: none ever are.
    pub entries: Option<usize>,
    /// Answers since the start, by outcome.
    pub answers: Vec<(&'static str, u64)>,
    /// How answers that can be kept came about since the start.
    pub ways: Vec<(&'static str, u64)>,
}

impl Lookup {
    /// How it does.
    pub(in crate::routing) fn state(&self) -> LookupState {
        LookupState {
            name: self.config.name.clone(),
            kind: match &self.source {
                Source::File(_) => "file",
                Source::Http(_) => "http",
                Source::Sql(_) => "sql",
                Source::Ldap(_) => "ldap",
            },
            entries: self.cache.as_ref().map(Cache::len),
            answers: self.metrics.answers(),
            ways: self.metrics.ways(),
        }
    }

    /// Forgets what was kept of a user (its name normalised), or of everybody; says how many answers that were.
    pub(in crate::routing) fn forget(&self, user: Option<&[u8]>) -> usize {
        let is_such = |key: &Key| match user {
            // Names hold no NUL; what is behind one is what else the answer depends on.
            Some(user) => key.strip_prefix(user).is_some_and(|rest| matches!(rest.first(), None | Some(0))),
            None => true,
        };
        self.cache.as_ref().map_or(0, |cache| cache.forget_all(is_such))
    }
}
