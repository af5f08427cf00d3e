//! The arrows of `src/lib.rs`, held: which room may import which, and the one home of each outside crate. A step never
//! imports another step; only `session` knows their order. Test code may import more.

#![allow(clippy::expect_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// A room (a file or folder in `src/`) and what it may import of the others.
const ROOMS: [(&str, &[&str]); 36] = [
    // Below everything. `imap` knows one thing outside: the closed list of how a session ends.
    ("imap", &["outcome"]),
    ("stream", &[]),
    ("config", &[]),
    ("outcome", &[]),
    ("notice", &["outcome"]),
    ("pulse", &["notice"]),
    ("random", &[]),
    ("network", &[]),
    ("secret_file", &["imap"]),
    ("tally", &[]),
    ("trace", &["imap"]),
    ("metrics", &["imap", "outcome"]),
    ("process", &["config"]),
    // The steps.
    ("proxy_header", &[]),
    ("listener", &["config", "process", "proxy_header"]),
    ("origin", &["proxy_header"]),
    ("admission", &["config", "network", "outcome", "tally"]),
    ("tls", &["config", "imap"]),
    ("dialogue", &["imap", "outcome", "process", "stream", "trace"]),
    ("limits", &["config", "imap", "network", "outcome", "tally"]),
    ("backend", &["config", "imap", "metrics", "outcome", "random", "tls"]),
    ("sessions", &["backend", "imap", "outcome", "pulse", "random"]),
    ("routing", &["backend", "config", "imap", "metrics", "network", "origin", "secret_file", "tls"]),
    ("link", &["backend", "config", "imap", "metrics", "outcome", "proxy_header", "random", "stream", "tls"]),
    ("pool", &["backend", "config", "imap", "link", "metrics", "random"]),
    ("history", &["metrics", "outcome"]),
    ("probe", &["backend", "config", "imap", "link", "metrics", "random", "secret_file"]),
    ("relay", &["imap", "notice", "outcome", "pulse", "trace"]),
    ("record", &["backend", "imap", "metrics", "outcome"]),
    // Those who know the others.
    (
        "session",
        &[
            "admission",
            "backend",
            "config",
            "dialogue",
            "imap",
            "limits",
            "link",
            "listener",
            "metrics",
            "origin",
            "outcome",
            "pool",
            "process",
            "random",
            "record",
            "relay",
            "routing",
            "server",
            "sessions",
            "stream",
            "tls",
            "trace",
        ],
    ),
    (
        "server",
        &[
            "admin",
            "admission",
            "backend",
            "config",
            "history",
            "imap",
            "limits",
            "link",
            "listener",
            "metrics",
            "origin",
            "outcome",
            "pool",
            "probe",
            "process",
            "routing",
            "secret_file",
            "session",
            "sessions",
            "steer",
            "tls",
            "trace",
        ],
    ),
    (
        "steer",
        &[
            "backend", "config", "history", "imap", "limits", "metrics", "network", "origin", "outcome", "process",
            "routing", "server", "sessions", "tls", "trace",
        ],
    ),
    ("admin", &["config", "imap", "metrics", "network", "process", "pulse", "steer", "tally", "trace"]),
    ("conduct", &["process", "steer"]),
    (
        "doctor",
        &[
            "backend",
            "config",
            "imap",
            "link",
            "metrics",
            "origin",
            "outcome",
            "routing",
            "secret_file",
            "server",
            "tls",
        ],
    ),
    (
        "cli",
        &["backend", "conduct", "config", "doctor", "imap", "origin", "process", "routing", "secret_file", "server"],
    ),
];

/// An outside crate and the files or folders that may name it.
const HOMES: [(&str, &[&str]); 43] = [
    ("hickory_resolver", &["link/resolve.rs"]),
    ("quick_cache", &["routing/lookup/cache.rs"]),
    ("sqlx", &["routing/lookup/sql.rs", "routing/lookup/sql/"]),
    ("argon2", &["routing/password.rs"]),
    ("bcrypt", &["routing/password.rs"]),
    ("scrypt", &["routing/password.rs"]),
    ("sha_crypt", &["routing/password.rs"]),
    ("tokio_rustls", &["tls/"]),
    ("rustls", &["tls/"]),
    ("webpki_roots", &["tls/connect.rs"]),
    ("rustls_native_certs", &["tls/connect.rs"]),
    ("x509_parser", &["tls/"]),
    ("rcgen", &["tls/"]),
    ("aws_lc_rs", &["tls/", "limits.rs", "random.rs", "admin/", "backend/group.rs", "pool/", "routing/lookup/"]),
    ("imap_proto", &["imap/response.rs"]),
    ("memchr", &["imap/follower/lines.rs"]),
    ("base64", &["imap/sasl/"]),
    (
        "dashmap",
        &[
            "tally.rs",
            "tally/",
            "limits.rs",
            "limits/",
            "sessions/",
            "backend/places.rs",
            "pool/",
            "routing/",
            "link/resolve.rs",
        ],
    ),
    ("governor", &["tally/"]),
    ("prometheus", &["metrics/"]),
    ("axum", &["admin/"]),
    ("serde_json", &["admin/", "cli/", "doctor/"]),
    ("hyper", &["admin/", "cli/admin/", "doctor/ask.rs", "routing/lookup/http.rs", "routing/lookup/http/"]),
    ("hyper_util", &["admin/", "cli/admin/", "doctor/ask.rs", "routing/lookup/http.rs"]),
    ("hyper_rustls", &["routing/lookup/http.rs"]),
    ("http_body_util", &["cli/admin/", "doctor/ask.rs", "routing/lookup/http.rs"]),
    ("ldap3", &["routing/lookup/ldap.rs", "routing/lookup/ldap/"]),
    ("serde", &["config/file/", "admin/api/"]),
    ("toml", &["config/file/"]),
    ("humantime", &["config/", "cli/units.rs", "trace/"]),
    (
        "ipnet",
        &[
            "config/",
            "network.rs",
            "admission.rs",
            "limits/",
            "steer/limits.rs",
            "routing/lookup/fields.rs",
            "sessions/",
        ],
    ),
    ("clap", &["cli/", "main.rs"]),
    ("clap_complete", &["cli/completions.rs"]),
    ("ratatui", &["cli/out.rs", "cli/top/"]),
    ("unicode_width", &["cli/table.rs", "cli/top/"]),
    ("tracing_subscriber", &["process/log.rs"]),
    ("socket2", &["listener.rs", "link/connect.rs", "server/admin_doors.rs"]),
    ("nix", &["link/connect.rs", "process/privileges.rs"]),
    ("rustix", &["process/", "link/connect.rs", "server/admin_doors.rs"]),
    ("tracing_appender", &["process/log.rs"]),
    ("landlock", &["process/confine.rs"]),
    ("sd_notify", &["process/systemd.rs"]),
    ("listenfd", &["process/systemd.rs"]),
];

/// The files of `src/` without their tests, by path from there.
fn sources() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("tests.rs")
                && !path.ends_with("testing.rs")
            {
                let name = path.strip_prefix(&src).expect("in src").to_str().expect("UTF-8").to_owned();
                sources.push((name, fs::read_to_string(path).expect("UTF-8")));
            }
        }
    }
    sources
}

/// The lines of a file that are code and no test, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().enumerate().map(|(at, line)| (at + 1, line.trim_start()));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

/// The words that follow `prefix` in a line, where it stands on its own.
fn words_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).filter_map(move |(at, _)| {
        let alone = !line[..at].ends_with(|before: char| before.is_alphanumeric() || matches!(before, '_' | ':'));
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|after: char| !after.is_alphanumeric() && after != '_').unwrap_or(rest.len());
        alone.then_some(&rest[..end])
    })
}

#[test]
fn rooms_import_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let room = file.split('/').next().expect("a name").trim_end_matches(".rs");
        if matches!(room, "lib" | "main") {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("src/{file}: the room \"{room}\" is not in the table"));
            continue;
        };
        for (number, line) in code(&text) {
            for import in words_after(line, "crate::").filter(|import| *import != room && !allowed.contains(import)) {
                wrong.push(format!("src/{file}:{number}: {room} → {import}; it may import {allowed:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows against the flow:\n{}", wrong.join("\n"));
}

#[test]
fn each_outside_crate_has_one_home() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (name, homes) in HOMES {
            if homes.iter().any(|home| file.starts_with(home)) {
                continue;
            }
            let prefix = format!("{name}::");
            for (number, line) in code(&text) {
                if words_after(line, &prefix).next().is_some() {
                    wrong.push(format!("src/{file}:{number}: {name} is at home in {homes:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "crates away from home:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_speaks_of_rooms_that_exist() {
    let sources = sources();
    for (room, imports) in ROOMS {
        let exists = |room: &str| {
            sources.iter().any(|(file, _)| *file == format!("{room}.rs") || file.starts_with(&format!("{room}/")))
        };
        assert!(exists(room) && imports.iter().all(|import| exists(import)), "{room}: {imports:?}");
    }
}
