//! Whose series are shown: of what the configuration names, and of what it does not name any more for as long as somebody is
//! there who counts on it, a session that has outlived a reload. Not here: series.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What has series, by name.
#[derive(Debug, Default)]
pub(super) struct Named(Mutex<BTreeMap<String, Known>>);

#[derive(Debug)]
struct Known {
    holder: Holder,
    is_named: bool,
}

/// Who may still count something. Series stay for as long as there is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Holder(Arc<()>);

impl Named {
    /// This name is in the configuration. `make` makes its series, while nobody can take them away.
    pub(super) fn enter<T>(&self, name: &str, make: impl FnOnce(Holder) -> T) -> T {
        let mut known = self.known();
        let known = known.entry(name.to_owned()).or_insert_with(|| Known { holder: Holder::default(), is_named: true });
        known.is_named = true;
        make(known.holder.clone())
    }

    /// The configuration has these names and no others; `ended` hears of each that was there until now.
    pub(super) fn only<'n>(&self, names: impl Iterator<Item = &'n str>, ended: impl Fn(&str)) {
        let kept: Vec<_> = names.collect();
        for (name, known) in &mut *self.known() {
            if known.is_named && !kept.contains(&name.as_str()) {
                known.is_named = false;
                ended(name);
            }
        }
    }

    /// Has `remove` take away the series of what is not named and of use to nobody any more.
    pub(super) fn forget(&self, remove: impl Fn(&str)) {
        self.known().retain(|name, known| {
            // The map's own alone.
            let stays = known.is_named || Arc::strong_count(&known.holder.0) > 1;
            if !stays {
                remove(name);
            }
            stays
        });
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_is_not_named_stays_until_nobody_needs_it() {
        let named = Named::default();
        let (blue, green) = (named.enter("blue", |holder| holder), named.enter("green", |holder| holder));
        let (ended, removed) = (RefCell::default(), RefCell::default());
        let note = |list: &RefCell<Vec<String>>, name: &str| list.borrow_mut().push(name.to_owned());
        let look = || named.forget(|name| note(&removed, name));
        for _ in 0..2 {
            named.only(["blue"].into_iter(), |name| note(&ended, name));
        }
        look();
        assert_eq!((ended.borrow().as_slice(), removed.borrow().as_slice()), (&["green".to_owned()][..], &[][..]));
        drop((blue, green));
        look();
        assert_eq!(removed.take(), ["green"], "blue is named still");
        let again = named.enter("green", |holder| holder);
        named.only(["green"].into_iter(), |name| note(&ended, name));
        look();
        assert_eq!(
            (ended.take(), removed.take()),
            (vec!["green".to_owned(), "blue".to_owned()], vec!["blue".to_owned()])
        );
        drop(again);
    }
}
