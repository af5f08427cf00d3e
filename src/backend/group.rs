//! A group: backends that share users, and the choice among them. A choice depends on nothing but the user, the members and
//! how they are, so that every mailmux in front of the same group chooses alike.

use std::cmp::Ordering;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::Backend;
use crate::config::Choose;

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
        self.candidates(user).into_iter().find(|backend| backend.takes_users())
    }

    /// Where it would go; nobody is sent anywhere by that.
    pub fn would_choose(&self, user: &[u8]) -> Option<&Arc<Backend>> {
        self.candidates(user).into_iter().find(|backend| backend.would_take_users())
    }

    /// The first that is well for certain: nobody who may be down still.
    pub fn well(&self, user: &[u8]) -> Option<&Arc<Backend>> {
        self.candidates(user).into_iter().find(|backend| backend.is_up() && !backend.is_draining())
    }

    /// The members, first the one where this user belongs when all are well, then the one that would come after it. Those whose
    /// weight was taken away come last.
    pub fn ranked(&self, user: &[u8]) -> Vec<&Arc<Backend>> {
        let mut members: Vec<_> = self.members.iter().collect();
        match self.choose {
            Choose::FirstHealthy => {}
            Choose::Hash => members.sort_by_cached_key(|backend| Score(score(backend, user))),
            // Per weight; equals by the user's name, or all newcomers would go to the first of many idle ones.
            Choose::LeastSessions => members.sort_by_cached_key(|backend| {
                let sessions = f64::from(u32::try_from(backend.sessions()).unwrap_or(u32::MAX));
                (Score(-sessions / share(backend)), Score(score(backend, user)))
            }),
        }
        weightless_last(&mut members);
        members
    }

    /// Members and standby in the order in which they are asked. Standby comes before members whose weight was taken away: these
    /// get those whom nobody else takes.
    fn candidates(&self, user: &[u8]) -> Vec<&Arc<Backend>> {
        let mut candidates = self.ranked(user);
        candidates.extend(&self.standby);
        weightless_last(&mut candidates);
        candidates
    }

    /// All of them, members first.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.members.iter().chain(&self.standby)
    }
}

/// The others stay in their order. Each is asked once: its weight may change meanwhile.
fn weightless_last(backends: &mut [&Arc<Backend>]) {
    backends.sort_by_cached_key(|backend| backend.weight() == 0);
}

/// A weight to reckon with; without any they share evenly.
fn share(backend: &Backend) -> f64 {
    f64::from(backend.weight().max(1))
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
    -share(backend) / drawn.ln()
}

#[cfg(test)]
mod tests;
