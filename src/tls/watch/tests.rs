//! What a look notices, and when it is acted upon.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::config::{At, CertificateFiles, CertificateName, Site, TlsVersion};

fn at(value: PathBuf) -> At<PathBuf> {
    At { value, site: Site { key: String::new(), span: 0..0 } }
}

/// `[tls]` with a pair, a file of authorities, and a directory, in this folder.
fn tls(folder: &TempDir) -> config::Tls {
    let file = |name: &str| at(folder.path().join(name));
    config::Tls {
        min_version: TlsVersion::V12,
        client_auth: ClientAuth::Optional { ca: file("clients.pem") },
        client_name: CertificateName::Email,
        certificates: vec![CertificateFiles { chain: file("a.pem"), key: file("a.key") }],
        directory: Some(file("more")),
        watch: None,
    }
}

/// All of it, in place.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a scratch folder");
    fs::create_dir(folder.path().join("more")).expect("a scratch folder");
    for name in ["clients.pem", "a.pem", "a.key", "more/b.pem", "more/b.key"] {
        fs::write(folder.path().join(name), "same length").expect("a scratch folder");
    }
    folder
}

/// Puts a link in the place of another at once, as Kubernetes and certbot do.
fn swap(link: &Path, target: &str) {
    let beside = link.with_file_name("beside");
    symlink(target, &beside).expect("a scratch folder");
    fs::rename(&beside, link).expect("a scratch folder");
}

#[test]
fn every_change_of_every_file_is_noticed() {
    let folder = folder();
    let (tls, path) = (tls(&folder), |name: &str| folder.path().join(name));
    let mut last = Stamp::of(&tls);
    let mut changed = |what: &str| {
        let now = Stamp::of(&tls);
        assert_ne!(now, last, "{what}");
        assert_eq!(now, Stamp::of(&tls), "{what}: only once");
        last = now;
    };
    for name in ["clients.pem", "a.pem", "a.key", "more/b.pem", "more/b.key"] {
        fs::write(path("another"), "SAME LENGTH").expect("a scratch folder");
        fs::rename(path("another"), path(name)).expect("a scratch folder");
        changed(name);
        fs::write(path(name), "in its place").expect("a scratch folder");
        changed(name);
    }
    fs::set_permissions(path("a.key"), Permissions::from_mode(0o400)).expect("ours");
    changed("may be read now");
    fs::write(path("more/c.pem"), "").expect("a scratch folder");
    changed("a new pair");
    fs::write(path("more/c.key"), "").expect("a scratch folder");
    changed("its key");
    fs::rename(path("more/c.pem"), path("more/d.pem")).expect("there");
    changed("another name");
    fs::remove_file(path("more/b.key")).expect("there");
    changed("a key gone");
    fs::remove_file(path("clients.pem")).expect("there");
    changed("a file gone");
    fs::rename(path("more"), path("less")).expect("there");
    changed("the directory gone");
}

#[test]
fn what_is_no_pair_does_not_matter() {
    let folder = folder();
    let tls = tls(&folder);
    let before = Stamp::of(&tls);
    for name in ["more/readme.txt", "more/.hidden.pem", "more/alone.key", "other.pem"] {
        fs::write(folder.path().join(name), "").expect("a scratch folder");
    }
    assert_eq!(Stamp::of(&tls), before);
}

#[test]
fn a_swapped_link_is_noticed_however_far_up_it_is() {
    let folder = folder();
    let (tls, path) = (tls(&folder), |name: &str| folder.path().join(name));
    // certbot: live/NAME.pem is a link to archive/NAME2.pem.
    for name in ["a1.pem", "a2.pem"] {
        fs::write(path(name), "same length").expect("a scratch folder");
    }
    swap(&path("a.pem"), "a1.pem");
    let first = Stamp::of(&tls);
    swap(&path("a.pem"), "a2.pem");
    let second = Stamp::of(&tls);
    assert_ne!(first, second);

    // Kubernetes: the file is a link to ..data/NAME.pem, and ..data one to a folder.
    for version in ["..1", "..2"] {
        fs::create_dir(path("more").join(version)).expect("a scratch folder");
        fs::write(path("more").join(version).join("tls.pem"), "same length").expect("a scratch folder");
    }
    swap(&path("more/..data"), "..1");
    symlink("..data/tls.pem", path("more/tls.pem")).expect("a scratch folder");
    let first = Stamp::of(&tls);
    swap(&path("more/..data"), "..2");
    assert_ne!(Stamp::of(&tls), first);
}

fn stamp(number: u8) -> Stamp {
    Stamp([number; 32])
}

/// Which of the looks, one after the other, say that the files are to be read.
fn looks(watch: &mut Watch, stamps: &[u8]) -> Vec<bool> {
    stamps.iter().map(|number| watch.look(stamp(*number))).collect()
}

#[test]
fn files_are_read_when_they_have_changed_and_settled() {
    let mut watch = Watch::new(stamp(0));
    assert_eq!(looks(&mut watch, &[0, 0, 0]), [false; 3], "nothing new");
    assert_eq!(looks(&mut watch, &[1, 1, 1, 1]), [false, true, false, false], "once");
    assert_eq!(looks(&mut watch, &[2, 3, 3, 3]), [false, false, true, false], "not in the midst");
    assert_eq!(looks(&mut watch, &[4, 3, 4, 3]), [false; 4], "as they were read");
    assert_eq!(looks(&mut watch, &[4, 4]), [false, true]);
}

#[test]
fn files_that_never_settle_are_read_in_the_end() {
    let mut watch = Watch::new(stamp(0));
    let found = looks(&mut watch, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 13, 13]);
    let read: Vec<_> = found.iter().enumerate().filter(|(_, read)| **read).map(|(at, _)| at + 1).collect();
    assert_eq!(read, [6, 12, 14]);
}
