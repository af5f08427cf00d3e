//! What the lookups of a router keep, all of them together. Not here: routes.

use super::{LookupState, Router};

impl Router {
    /// How each lookup does, in the configuration's order.
    pub fn lookups(&self) -> Vec<LookupState> {
        self.lookups.iter().map(|lookup| lookup.state()).collect()
    }

    /// Whether there is a lookup of this name.
    pub fn has_lookup(&self, name: &str) -> bool {
        self.lookup(name).is_some()
    }

    /// Has the lookup of this name, or all, forget what they keep of a user (its name normalised), or of everybody; says how
    /// many answers that were. What is being asked now is not kept, either.
    pub fn forget(&self, lookup: Option<&str>, user: Option<&[u8]>) -> usize {
        let meant = self.lookups.iter().filter(|known| lookup.is_none_or(|name| known.name() == name));
        meant.map(|lookup| lookup.forget(user)).sum()
    }
}
