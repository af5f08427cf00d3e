//! Rendezvous: which member of a group a user goes to. Each login asks once, and every member draws a number for it.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use criterion::Criterion;
use mailmux::backend::{Backend, Group};
use mailmux::config::{self, Choose};
use mailmux::metrics::Metrics;

use crate::time;

pub(super) fn bench(criterion: &mut Criterion) {
    let metrics = Metrics::new().expect("distinct names");
    let user = b"firstname.lastname@example.org";
    let longest = vec![b'n'; 8000];
    for (kind, choose) in
        [("hash", Choose::Hash), ("least sessions", Choose::LeastSessions), ("first healthy", Choose::FirstHealthy)]
    {
        let mut group = criterion.benchmark_group(format!("group, by {kind}"));
        for members in [2, 16, 256] {
            let all = of(&metrics, members, choose, false);
            time(&mut group, &format!("{members} members"), members, || all.choose(black_box(user)).is_some());
        }
        let all = of(&metrics, 256, choose, true);
        time(&mut group, "256 members, half of them without weight", 256, || all.choose(black_box(user)).is_some());
        time(&mut group, "256 members, the longest name", 256, || all.choose(black_box(&longest)).is_some());
    }
}

/// Weights from 1 to 7; or none for each second one.
fn of(metrics: &Metrics, members: usize, choose: Choose, weightless: bool) -> Group {
    let member = |number: usize| {
        let name = format!("mail{number:03}.example.org");
        let weight = u32::try_from(number % 7).expect("small") + 1;
        let weight = NonZeroU32::new(weight).expect("positive");
        let backend = Backend::new(
            config::Backend { name: name.clone(), weight, ..config::Backend::usual() },
            None,
            metrics.backend(&name),
        );
        if weightless && number.is_multiple_of(2) {
            backend.set_weight(Some(0));
        }
        Arc::new(backend)
    };
    Group::new("all".to_owned(), (0..members).map(member).collect(), Vec::new(), choose)
}
