//! A map file of a million lines: reading it, and finding users in it. `benches/routes.rs` says how much memory it takes.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput};
use mailmux::imap::UserName;
use mailmux::routing::{Map, Places};

use crate::{in_earnest, time};

/// Prime, so that steps of this length meet every line before one comes again.
const STEP: usize = 7_368_787;
/// The framer lets in no name that is much longer.
const LONGEST: usize = 8000;

pub(super) fn bench(criterion: &mut Criterion) {
    let lines = in_earnest(1_000_000, 1000);
    bench_reading(criterion, lines);
    bench_finding(criterion, lines);
}

fn bench_reading(criterion: &mut Criterion, lines: usize) {
    let mut group = criterion.benchmark_group("map, reading");
    group.sample_size(10);
    for (name, text, is_good) in [
        ("in order", in_order(lines), true),
        ("mixed", mixed(lines, &short), true),
        ("the longest names", mixed(lines / 200, &long), true),
        ("every line twice", in_order(lines / 2).repeat(2), false),
        ("nothing but mistakes", "x\n".repeat(lines), false),
        ("nothing but ends of lines", "\n".repeat(lines), true),
        ("mistakes at the end", in_order(lines) + &"x\n".repeat(20), false),
    ] {
        let places = places();
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            let read = |text| assert_eq!(Map::parse(text, Arc::clone(&places)).is_ok(), is_good);
            bencher.iter_batched(|| text.clone().into_bytes(), read, BatchSize::PerIteration);
        });
    }
}

fn bench_finding(criterion: &mut Criterion, lines: usize) {
    let mut group = criterion.benchmark_group("map, finding");
    let map = read(mixed(lines, &short) + "@example.org\tblue\n");
    for (name, user) in [
        ("the first", short(0)),
        ("the last", short(lines - 1)),
        ("by domain", "stranger@example.org".to_owned()),
        ("nobody", "stranger@example.net".to_owned()),
        ("nobody with the longest name", long(0)),
    ] {
        let user = UserName::new(user.as_bytes()).expect("a name");
        time(&mut group, name, 1, || map.find(black_box(&user)));
    }
    let mut number = 0;
    let users: Vec<_> = (0..lines).map(|number| UserName::new(short(number).as_bytes()).expect("a name")).collect();
    time(&mut group, "one after the other", 1, || {
        number = (number + STEP) % lines;
        assert!(map.find(&users[number]).is_ok_and(|answer| answer.is_some()));
    });
    let map = read(mixed(lines / 200, &long));
    let user = UserName::new(long(lines / 400).as_bytes()).expect("a name");
    time(&mut group, "among the longest names", 1, || map.find(black_box(&user)));
    let user = UserName::new(&b"stranger@example.net"[..]).expect("a name");
    time(&mut group, "nobody among the longest names", 1, || map.find(black_box(&user)));
}

fn short(number: usize) -> String {
    format!("firstname.lastname{number:07}@example.org")
}

/// They differ at their ends only.
fn long(number: usize) -> String {
    format!("{}{number:07}@example.org", "n".repeat(LONGEST - 19))
}

fn in_order(lines: usize) -> String {
    (0..lines).map(|number| short(number) + "\tblue\n").collect()
}

fn mixed(lines: usize, name: &dyn Fn(usize) -> String) -> String {
    (0..lines).map(|number| name(number * STEP % lines) + "\tblue\n").collect()
}

fn read(text: String) -> Map {
    Map::parse(text.into_bytes(), places()).expect("well formed")
}

fn places() -> Arc<Places> {
    Arc::new(Places::new(["blue", "green"], []))
}
