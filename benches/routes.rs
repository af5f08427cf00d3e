//! What it measures: a map file of a million users: how long it takes to load, how much memory it holds, and how long one
//! user's line takes to find: by the whole name, by the domain, by the line for everybody.
//!
//! How: the file is written, read and parsed as `serve` does it at its start. Memory is the difference of the process's
//! resident set before and after. Users are asked for in an order that is not the file's, so that the processor's caches
//! help no more than they would with real users; making the name of a user is part of what is timed, as it is of a login.
//!
//! What would make it lie: a debug build; another process that takes the processor's caches; a file that is not in the
//! kernel's cache, whose reading is then the disk's time.
//!
//! `cargo bench --bench routes`. Without `--bench` (that is, as a test) it runs once with little data.

use std::fmt::Write as _;
use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mailmux::imap::UserName;
use mailmux::routing::{Map, Places};
use tokio::time::Instant;

const BACKENDS: [&str; 4] = ["blue", "green", "red", "grey"];
/// Prime, so that steps of this length meet every user before one comes again.
const STEP: usize = 7_368_787;

fn main() -> io::Result<()> {
    let in_earnest = std::env::args().any(|arg| arg == "--bench");
    let users = if in_earnest { 1_000_000 } else { 1000 };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("users.map");
    std::fs::write(&path, map_file(users))?;

    let before = resident()?;
    let started = Instant::now();
    let map = load(&path)?;
    let took = started.elapsed();
    let held = resident()?.saturating_sub(before);
    let size = std::fs::metadata(&path)?.len();
    println!("{users} users, a file of {:.1} MB", megabytes(size));
    println!("load           {:8.0} ms", took.as_secs_f64() * 1e3);
    println!("memory         {:8.1} MB", megabytes(held));

    for (what, name) in [
        ("by name", name as fn(usize) -> String),
        ("by domain", |number| format!("stranger{number}@example.org")),
        ("for everybody", |number| format!("stranger{number}@example.net")),
    ] {
        let took = find_all(&map, users, name)?;
        println!("{what:14} {:8.0} ns", took.as_secs_f64() * 1e9 / f64::from(u32::try_from(users).unwrap_or(u32::MAX)));
    }
    Ok(())
}

fn name(number: usize) -> String {
    format!("firstname.lastname{number:07}@example.org")
}

fn map_file(users: usize) -> String {
    let mut text = String::from("# who lives where\n");
    for number in 0..users {
        let number = number * STEP % users;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}\t{}", name(number), BACKENDS[number % BACKENDS.len()]);
    }
    text.push_str("@example.org\tblue\n*\tgreen\n");
    text
}

fn load(path: &std::path::Path) -> io::Result<Map> {
    let places = Arc::new(Places::new(BACKENDS, []));
    Map::parse(std::fs::read(path)?, places).map_err(|errors| io::Error::other(format!("{:?}", errors.first())))
}

/// Finds each user; the time without that for writing their names.
fn find_all(map: &Map, users: usize, name: fn(usize) -> String) -> io::Result<Duration> {
    let names: Vec<_> = (0..users).map(|number| name(number * STEP % users)).collect();
    let started = Instant::now();
    for name in &names {
        let user = UserName::new(name.as_bytes()).map_err(io::Error::other)?;
        let answer = map.find(black_box(&user)).map_err(io::Error::other)?;
        assert!(black_box(answer).is_some(), "everybody is in the map");
    }
    Ok(started.elapsed())
}

/// The resident set of this process, in bytes.
fn resident() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kilobytes.ok_or_else(|| io::Error::other("no VmRSS"))? * 1024)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
