//! A backend's share of its groups' users: what the configuration says, until an operator says otherwise. That outlives
//! reloads, but for one that brings another weight. Not here: what a share means (`group.rs`).

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

/// The weight of all backends of one name.
#[derive(Debug)]
pub(super) struct Weight {
    now: AtomicU32,
    /// What the configuration said last.
    configured: AtomicU32,
}

impl Weight {
    pub(super) fn new(configured: NonZeroU32) -> Self {
        Self { now: AtomicU32::new(configured.get()), configured: AtomicU32::new(configured.get()) }
    }

    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, weight: u32) {
        self.now.store(weight, Ordering::Relaxed);
    }

    /// The configuration says this from now on. It counts if that is news.
    pub(super) fn adapt(&self, configured: NonZeroU32) {
        if self.configured.swap(configured.get(), Ordering::Relaxed) != configured.get() {
            self.set(configured.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_says_holds_until_the_configuration_says_something_new() {
        let [one, three] = [1, 3].map(|weight| NonZeroU32::new(weight).expect("a weight"));
        let weight = Weight::new(one);
        weight.set(0);
        weight.adapt(one);
        assert_eq!(weight.now(), 0, "a reload that says the same");
        weight.adapt(three);
        assert_eq!(weight.now(), 3, "one that says something else");
        weight.set(7);
        weight.adapt(three);
        assert_eq!(weight.now(), 7);
        weight.adapt(one);
        assert_eq!(weight.now(), 1);
    }
}
