//! What it measures: what the parts without I/O cost, each with what it ordinarily gets and with the worst that somebody
//! may send or write down: what is cut most unluckily, nested most deeply, longest, or most numerous.
//!
//! How: criterion, one module for each part. Where bytes go in, criterion says how many go through a second; the same part
//! is to have about the same pace with all of them, or a reason. Inputs are made up, the same each time.
//!
//! What would make it lie: a debug build; other processes on the same cores (criterion shows how much its samples differ);
//! that the processor has learnt an input by heart which it sees a thousand times in a row.
//!
//! `cargo bench --bench pure`, or some of it: `cargo bench --bench pure -- follower`. Without `--bench` (that is, as a test)
//! everything runs once, and that with little data.

#![allow(clippy::expect_used, reason = "a bench fails by panicking")]

mod follower;
mod framer;
mod group;
mod map;
mod preauth;
mod rates;
mod responses;
mod sasl;

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

/// What is read from a socket at once where bytes move in bulk.
const PIECE: usize = 64 * 1024;
const MIB: usize = 1024 * 1024;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(30)
        .configure_from_args();
    framer::bench(&mut criterion);
    preauth::bench(&mut criterion);
    sasl::bench(&mut criterion);
    responses::bench(&mut criterion);
    follower::bench(&mut criterion);
    map::bench(&mut criterion);
    group::bench(&mut criterion);
    rates::bench(&mut criterion);
    criterion.final_summary();
}

/// So many where it is a measurement, few where it is a test.
fn in_earnest(many: usize, few: usize) -> usize {
    if std::env::args().any(|arg| arg == "--bench") { many } else { few }
}

/// Times `work` on these bytes.
fn time_bytes<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, bytes: &[u8], mut work: impl FnMut(&[u8]) -> T) {
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function(name, |bencher| bencher.iter(|| work(black_box(bytes))));
}

/// Times `work`, which does so many things at once.
fn time<T>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, things: usize, mut work: impl FnMut() -> T) {
    group.throughput(Throughput::Elements(things as u64));
    group.bench_function(name, |bencher| bencher.iter(&mut work));
}
