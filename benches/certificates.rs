//! What it measures: 5,000 certificates in a directory: how long it takes to load them, to load them again when nothing and
//! when one of them has changed, to see that nothing has changed, to find one by its name; and how much memory they hold.
//!
//! How: pairs of P-256 keys, each with a chain of two (the leaf, and the authority between it and the root), as public
//! authorities give them out, are written, and loaded as `serve` and a reload do it. Memory is the difference of the process's
//! resident set before and after the first load. Names are asked for in an order that is not the directory's.
//!
//! What would make it lie: a debug build; keys of another kind (with RSA of 2048 bits a pair takes several times as long);
//! files that are not in the kernel's cache, whose reading is then the disk's time; cores that others use (the load takes
//! all of them: `taskset -c 0` shows what one does). Files of one name length and certificates of one name each: those with
//! a hundred names take more memory.
//!
//! `cargo bench --bench certificates`. Without `--bench` (that is, as a test) it runs once with a few.

use std::error::Error;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailmux::config::{At, CertificateName, ClientAuth, Site, Tls, TlsVersion};
use mailmux::tls::{Certificates, Stamp};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::time::Instant;

/// Prime, so that steps of this length meet every pair before one comes again.
const STEP: usize = 7919;

fn main() -> Result<(), Box<dyn Error>> {
    let in_earnest = std::env::args().any(|arg| arg == "--bench");
    let pairs = if in_earnest { 5000 } else { 50 };
    let folder = tempfile::tempdir()?;
    let authority = authority()?;
    for number in 0..pairs {
        write_pair(folder.path(), number, &authority)?;
    }
    let tls = tls(folder.path().into());
    let cores = std::thread::available_parallelism()?;
    println!("{pairs} pairs, {cores} cores");

    let before = resident()?;
    let (first, took) = load(&tls, None)?;
    let held = resident()?.saturating_sub(before);
    say("first load", took);
    println!("memory               {:8.1} MB, {} bytes a pair", megabytes(held), held / u64::try_from(pairs)?);

    let (second, took) = load(&tls, Some(&first))?;
    say("nothing changed", took);
    write_pair(folder.path(), pairs / 2, &authority)?;
    let (third, took) = load(&tls, Some(&second))?;
    say("one changed", took);

    let started = Instant::now();
    let stamp = Stamp::of(&tls);
    say("a look", started.elapsed());
    assert_eq!(stamp, Stamp::of(&tls), "nobody else writes here");

    for (what, host) in [("found by its name", host as fn(usize) -> String), ("by no name", stranger)] {
        let hosts: Vec<_> = (0..pairs).map(|number| host(number * STEP % pairs)).collect();
        let started = Instant::now();
        for host in &hosts {
            black_box(third.shown_for(black_box(host)));
        }
        let nanoseconds = started.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(pairs)?);
        println!("{what:20} {nanoseconds:8.0} ns");
    }
    assert_eq!(third.shown_for(&host(pairs - 1)), format!("{:05}", pairs - 1), "the right one");
    Ok(())
}

fn host(number: usize) -> String {
    format!("mail.customer{number:05}.example.org")
}

fn stranger(number: usize) -> String {
    format!("mail.stranger{number:05}.example.org")
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// One that a root vouches for.
fn authority() -> Result<Authority, rcgen::Error> {
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
        params
    };
    let root = CertifiedIssuer::self_signed(params("root"), KeyPair::generate()?)?;
    CertifiedIssuer::signed_by(params("between"), KeyPair::generate()?, &root)
}

/// A key and a chain of two for the host of this number.
fn write_pair(folder: &Path, number: usize, authority: &Authority) -> Result<(), Box<dyn Error>> {
    let mut params = CertificateParams::new([host(number)])?;
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, authority)?;
    let path = folder.join(format!("{number:05}"));
    std::fs::write(path.with_extension("pem"), leaf.pem() + &authority.pem())?;
    std::fs::write(path.with_extension("key"), key.serialize_pem())?;
    Ok(())
}

fn tls(directory: PathBuf) -> Tls {
    let site = Site { key: "tls.directory".to_owned(), span: 0..0 };
    Tls {
        min_version: TlsVersion::V12,
        client_auth: ClientAuth::Off,
        client_name: CertificateName::Email,
        certificates: Vec::new(),
        directory: Some(At { value: directory, site }),
        watch: None,
    }
}

fn load(tls: &Tls, before: Option<&Certificates>) -> io::Result<(Certificates, Duration)> {
    let started = Instant::now();
    let (certificates, warnings) =
        Certificates::load(tls, before).map_err(|findings| io::Error::other(format!("{findings:?}")))?;
    let took = started.elapsed();
    assert_eq!(warnings, [], "all pairs are well");
    Ok((certificates, took))
}

fn say(what: &str, took: Duration) {
    println!("{what:20} {:8.1} ms", took.as_secs_f64() * 1e3);
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
