//! Rates by key, as limits hold them of addresses and users: few keys, as many as are told apart, and more than that.

use std::num::NonZeroU32;
use std::time::Duration;

use criterion::Criterion;
use mailmux::tally::{MOST_KEYS, Rates};

use crate::{in_earnest, time};

pub(super) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rates");
    let most = in_earnest(MOST_KEYS, 1000);
    for (kind, keys) in [("a thousand keys", 1000), ("the most keys", most)] {
        let rates = rates(most);
        (0..keys).for_each(|key| rates.charge(key));
        let mut key = 0;
        let mut next = || {
            key = (key + 7919) % keys;
            key
        };
        time(&mut group, &format!("take, {kind}"), 1, || rates.take(next()));
        time(&mut group, &format!("look, {kind}"), 1, || rates.has_one(next()));
        time(&mut group, &format!("charge, {kind}"), 1, || rates.charge(next()));
        let mut stranger = keys;
        time(&mut group, &format!("look for a stranger, {kind}"), 1, || {
            stranger += 1;
            rates.has_one(stranger)
        });
    }
    let full = rates(most);
    (0..most).for_each(|key| full.charge(key));
    let mut stranger = most;
    time(&mut group, "take for a stranger, the most keys", 1, || {
        stranger += 1;
        full.take(stranger)
    });
    group.sample_size(10);
    time(&mut group, "a sweep that finds nothing to forget", most, || full.sweep());
    time(&mut group, "a count of those held back", most, || full.exhausted());
}

/// One an hour: nothing comes back meanwhile.
fn rates(most: usize) -> Rates<usize> {
    Rates::with_most(Duration::from_hours(1), NonZeroU32::MIN, most).expect("a rate")
}
