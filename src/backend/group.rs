//! A group: backends that share users, and the choice among them. A choice depends on nothing but the user, the members and
//! how they are, so that every mailmux in front of the same group chooses alike.

use std::cmp::Ordering;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::Backend;
use crate::config::Choose;
use crate::metrics::GroupStanding;

/// Backends that share users.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    members: Vec<Arc<Backend>>,
    standby: Vec<Arc<Backend>>,
    choose: Choose,
}

impl Group {
    /// A group of these.
    pub fn new(name: String, members: Vec<Arc<Backend>>, standby: Vec<Arc<Backend>>, choose: Choose) -> Self {
        Self { name, members, standby, choose }
    }

    /// Where this user goes now, by its normalised name; `None`: nobody is well, standby included.
    pub fn choose(&self, user: &[u8]) -> Option<&Arc<Backend>> {
        self.ranked(user).into_iter().chain(&self.standby).find(|backend| backend.takes_users())
    }

    /// The first that is well for certain: nobody who may be down still.
    pub fn well(&self, user: &[u8]) -> Option<&Arc<Backend>> {
        let is_well = |backend: &&Arc<Backend>| backend.is_up() && !backend.is_draining();
        self.ranked(user).into_iter().chain(&self.standby).find(is_well)
    }

    /// The members, first the one where this user belongs when all are well, then the one that would come after it.
    pub fn ranked(&self, user: &[u8]) -> Vec<&Arc<Backend>> {
        let mut members: Vec<_> = self.members.iter().collect();
        match self.choose {
            Choose::FirstHealthy => {}
            Choose::Hash => members.sort_by_cached_key(|backend| Score(score(backend, user))),
            // Per weight; equals by the user's name, or all newcomers would go to the first of many idle ones.
            Choose::LeastSessions => members.sort_by_cached_key(|backend| {
                let sessions = f64::from(u32::try_from(backend.sessions()).unwrap_or(u32::MAX));
                (Score(-sessions / f64::from(backend.config.weight.get())), Score(score(backend, user)))
            }),
        }
        members
    }

    /// How it is, for the metrics.
    pub fn standing(&self) -> GroupStanding {
        let is_well = |backend: &&Arc<Backend>| backend.is_up() && !backend.is_draining();
        GroupStanding { backends: self.backends().count(), up: self.backends().filter(is_well).count() }
    }

    /// All of them, members first.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.members.iter().chain(&self.standby)
    }
}

/// The largest comes first.
#[derive(PartialEq)]
struct Score(f64);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.total_cmp(&self.0)
    }
}

/// Weighted rendezvous hashing: each member draws a number for each user, and the best draw wins. Who leaves takes only its
/// own users along, and they scatter over the others by weight. SHA-256, so that draws are the same everywhere and for ever.
fn score(backend: &Backend, user: &[u8]) -> f64 {
    // No name holds a NUL.
    let hash = digest(&SHA256, &[backend.config.name.as_bytes(), b"\0", user].concat());
    let head = hash.as_ref().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let drawn = ((head >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(backend.config.weight.get()) / drawn.ln()
}

#[cfg(test)]
mod tests;
