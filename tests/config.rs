//! The configuration as operators meet it: good files load, bad ones show every mistake, what is shipped in `config/`
//! works, and its reference knows every key and tells the true defaults.
//!
//! `tests/config/invalid/NAME.txt` holds what NAME.toml gets. After a wanted change of the texts, write them anew with
//! `UPDATE_EXPECTED=1 cargo test --test config` and read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailmux::config::{
    At, BackendTls, CertificateName, ClientAuth, Config, ListenerTls, LogFormat, LogLevel, LoginAs, Mechanism, Memory,
    Pooling, ProxyVersion, Roots, Target, TlsVersion,
};
use proptest::prelude::*;

/// All TOML files in a folder of the project.
fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).expect("folder");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(!files.is_empty(), "{folder} holds no example");
    files
}

/// Findings as text, with the file's name alone as its path.
fn findings(text: &str, name: &str) -> String {
    Config::parse(text, Path::new(name)).map_or_else(|findings| findings.to_string(), |_| String::new())
}

/// What is meant, without the places where it was written.
fn meaning(text: &str) -> String {
    let config = Config::parse(text, Path::new("x.toml")).unwrap_or_else(|findings| panic!("{findings}"));
    let debug = format!("{config:?}");
    let mut pieces = debug.split("Site {");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |meaning, piece| meaning + piece.split_once('}').expect("a site ends").1)
}

#[test]
fn good_files_load() {
    for path in files("tests/config/valid").iter().chain(&files("config")).chain(&files("config/migrate")) {
        if let Err(findings) = Config::load(path) {
            panic!("{findings}");
        }
    }
}

#[test]
fn the_first_configuration_of_the_readme_loads() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```toml\n").expect("a configuration");
    let (text, _) = rest.split_once("```").expect("its end");
    assert_eq!(findings(text, "README.md"), "");
}

/// What the README shows of routing, among what it needs around it.
#[test]
fn the_readmes_routing_loads() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("## Where users go").expect("a chapter");
    let (_, rest) = rest.split_once("```toml\n").expect("a configuration");
    let (text, _) = rest.split_once("```").expect("its end");
    let mut whole = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:1143\"\ntls = \"none\"\n".to_owned();
    for name in ["blue", "green", "red"] {
        whole.extend(["[[backend]]\nname = \"", name, "\"\naddress = \"192.0.2.1:143\"\ntls = \"none\"\n"]);
    }
    assert_eq!(findings(&(whole + text), "README.md"), "");
}

/// The README's pool, likewise.
#[test]
fn the_readmes_pool_loads() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("## Links that wait").expect("a chapter");
    let (_, rest) = rest.split_once("```toml\n").expect("a configuration");
    let (text, _) = rest.split_once("```").expect("its end");
    let mut whole = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:1143\"\ntls = \"none\"\n".to_owned();
    for name in ["blue", "green"] {
        whole.extend(["[[backend]]\nname = \"", name, "\"\naddress = \"192.0.2.1:143\"\ntls = \"none\"\n"]);
    }
    assert_eq!(findings(&(whole + text), "README.md"), "");
}

#[test]
fn every_mistake_is_shown_with_its_place() {
    for path in files("tests/config/invalid") {
        let text = fs::read_to_string(&path).expect("readable");
        let name = path.file_name().expect("name").to_str().expect("UTF-8");
        let found = findings(&text, name) + "\n";
        let beside = path.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&beside, &found).expect("writable");
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        assert_eq!(found, expected, "{name}:\n{found}");
        assert_ne!(found, "\n", "{name} is taken for good");
    }
}

const REFERENCE: &str = include_str!("../config/reference.toml");

/// Of the reference, what has no default.
const MANDATORY: &str = r#"
    [[listener]]
    name = "imaps"
    address = "[::]:993"
    [[tls.certificate]]
    chain = "certs/mail.pem"
    key = "certs/mail.key"
    [[backend]]
    name = "blue"
    address = "mail.example.net:993"
    [[group]]
    name = "eu"
    members = ["blue"]
    choose = "hash"
    [[lookup]]
    name = "users"
    type = "file"
    path = "users.map"
    [[route]]
    lookup = "users"
    [[route]]
    backend = "blue"
    [admin]
"#;

#[test]
fn the_reference_tells_the_true_defaults() {
    assert_eq!(meaning(REFERENCE), meaning(MANDATORY));
}

/// The keys of a section, as mailmux itself names them when it meets one that it does not know.
fn known_keys(header: &str) -> BTreeSet<String> {
    let shown = findings(&format!("{header}\nno-such-key = 1\n"), "x.toml");
    let keys = shown.split_once("no-such-key: unknown key").expect("refused").1;
    let keys = keys.split_once("expected one of: ").expect("keys").1;
    keys.lines().next().expect("a line").split(", ").map(str::to_owned).collect()
}

/// The keys that stand in the reference under a header, written out or behind a `#`.
fn reference_keys(header: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut inside = false;
    let mut prose = Vec::new();
    for line in REFERENCE.lines() {
        if line.starts_with('[') {
            inside = line.starts_with(header);
            // The keys of a route are told before its first table.
            if inside && header == "[[route]]" {
                keys.extend(prose.drain(..).filter_map(key_of));
            }
        } else if line.starts_with("# ---") {
            prose.clear();
            inside = false;
        }
        if inside {
            keys.extend(key_of(line));
        }
        prose.push(line);
    }
    keys
}

/// `key = ...`, `# key = ...`
fn key_of(line: &str) -> Option<String> {
    let (key, _) = line.trim_start_matches(['#', ' ']).split_once(" = ")?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    is_key.then(|| key.to_owned())
}

#[test]
fn the_reference_knows_every_key() {
    let headers = [
        "[server]",
        "[[listener]]",
        "[tls]",
        "[[tls.certificate]]",
        "[[backend]]",
        "[[group]]",
        "[[lookup]]",
        "[[route]]",
        "[limits]",
        "[timeouts]",
        "[pool]",
        "[admin]",
        "[log]",
    ];
    for header in headers {
        let mut known = known_keys(header);
        // It has a header of its own.
        known.remove("certificate");
        assert_eq!(reference_keys(header), known, "{header}");
    }
    let sections = findings("no-such-section = 1", "x.toml");
    let sections = sections.split_once("expected one of: ").expect("sections").1;
    for section in sections.lines().next().expect("a line").split(", ") {
        assert!(headers.iter().any(|header| header.trim_matches(['[', ']']) == section), "{section} is not looked at");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_finding() {
    let folder = tempfile::tempdir().expect("folder");
    let missing = Config::load(&folder.path().join("none.toml")).expect_err("missing").to_string();
    assert!(missing.ends_with("none.toml: cannot be read: No such file or directory (os error 2)"), "{missing}");
    let binary = folder.path().join("binary.toml");
    fs::write(&binary, b"[server]\nworkers = 1\n# \xff\n").expect("writable");
    let binary = Config::load(&binary).expect_err("binary").to_string();
    assert!(binary.ends_with("binary.toml: is not UTF-8 text (line 3)"), "{binary}");
}

#[test]
fn paths_are_taken_from_the_folder_of_the_file() {
    let config = Config::parse(MANDATORY, Path::new("/etc/mailmux/mailmux.toml")).expect("good");
    assert_eq!(config.tls.certificates[0].chain.value, Path::new("/etc/mailmux/certs/mail.pem"));
    let absolute = MANDATORY.replace("certs/mail.key", "/run/mail.key");
    let config = Config::parse(&absolute, Path::new("/etc/mailmux/mailmux.toml")).expect("good");
    assert_eq!(config.tls.certificates[0].key.value, Path::new("/run/mail.key"));
}

/// A file that is forgotten there could not be opened by a process that has confined itself. What stands in the
/// configuration with a relative path has this folder before it when it is loaded, which is how this test knows them.
#[test]
fn all_files_that_are_named_are_listed() {
    const FOLDER: &str = "/folder-of-the-file/";
    let mut texts = String::new();
    for path in files("tests/config/valid").iter().chain(&files("config")) {
        let text = fs::read_to_string(path).expect("readable");
        let config = Config::parse(&text, &Path::new(FOLDER).join("x.toml")).expect("good");
        let listed: BTreeSet<_> = config.files().into_iter().map(|file| file.path.display().to_string()).collect();
        let debug = format!("{config:?}");
        for (at, _) in debug.match_indices(FOLDER) {
            let named = debug[at..].split(['"', '?']).next().expect("a path");
            // The file itself, and the socket that is made, are asked for apart.
            if named.ends_with("x.toml") || named.ends_with("admin.sock") {
                continue;
            }
            assert!(listed.contains(named), "{named} is not listed: {listed:#?}");
        }
        texts.push_str(&text);
    }
    // Were one of them in no example, nobody would notice.
    let headers = ["[server]", "[tls]", "[[tls.certificate]]", "[[backend]]", "[[lookup]]", "[[route]]", "[admin]"];
    for key in headers.iter().flat_map(|header| known_keys(header)) {
        let is_path = ["file", "path", "chain", "key", "ca", "directory", "read"].iter().any(|end| key.ends_with(end));
        let written = format!("{key} = ");
        let mut places = texts.match_indices(&written).map(|(at, _)| &texts[..at]);
        let is_there = places.any(|before| before.ends_with(['\n', '{', ' ', ',']) && !before.ends_with("# "));
        assert!(!is_path || is_there, "{key} is in none of the examples");
    }
}

#[test]
fn every_value_arrives_where_it_belongs() {
    let text = include_str!("config/valid/everything.toml");
    let config = Config::parse(text, Path::new("/etc/x.toml")).unwrap_or_else(|findings| panic!("{findings}"));
    assert_eq!((config.server.workers, config.server.drain_timeout), (3, Duration::ZERO));
    let name = |name: &Option<At<String>>| name.as_ref().map(|at| (at.value.clone(), at.site.key.clone()));
    assert_eq!(name(&config.server.user), Some(("mailmux".into(), "server.user".into())));
    assert_eq!(name(&config.server.group), Some(("mail".into(), "server.group".into())));
    assert!(!config.server.confine && config.server.read[0].value == Path::new("/srv/certs"));

    let listener = &config.listeners[0];
    assert_eq!((listener.name.as_str(), listener.tls, listener.allow_plaintext), ("a", ListenerTls::None, true));
    assert_eq!(format!("{:?}", listener.proxy_protocol_from), "[192.0.2.1/32, 2001:db8::/32]");
    assert_eq!(format!("{:?}", listener.id_from), "[0.0.0.0/0]");
    assert_eq!(listener.mechanisms, [Mechanism::ScramSha256, Mechanism::ScramSha1, Mechanism::Plain]);
    assert_eq!(config.listeners[1].tls, ListenerTls::StartTls);

    assert_eq!((config.tls.min_version, config.tls.client_name), (TlsVersion::V13, CertificateName::CommonName));
    assert!(matches!(&config.tls.client_auth, ClientAuth::Optional { ca } if ca.value == Path::new("/etc/ca.pem")));
    assert_eq!(config.tls.directory.as_ref().map(|at| at.site.key.as_str()), Some("tls.directory"));
    assert_eq!(config.tls.watch, None);

    let [first, second] = &config.backends[..] else { panic!("two backends") };
    assert_eq!((first.host.as_str(), first.port, first.forward_id), ("2001:db8::7", 993, false));
    assert_eq!((first.proxy_protocol, second.proxy_protocol), (Some(ProxyVersion::V1), Some(ProxyVersion::V2)));
    assert_eq!(first.source.len(), 2);
    let BackendTls::Implicit(client) = &first.tls else { panic!("implicit") };
    assert_eq!((client.name.as_str(), client.verify), ("mail.example.org", false));
    assert!(matches!(client.roots, Roots::System));
    assert!(client.client.as_ref().is_some_and(|files| files.key.value == Path::new("/etc/key.pem")));
    let BackendTls::StartTls(client) = &second.tls else { panic!("starttls") };
    assert_eq!((client.name.as_str(), client.verify), ("under_score.example.org", true));
    assert!(matches!(&client.roots, Roots::File(ca) if ca.value == Path::new("/etc/ca.pem")));
    assert!(client.client.is_none() && second.forward_id);
    assert_eq!((first.max_links, second.max_links, second.max_links_per_user), (0, 300, 20));

    let [lookup, reject, rest] = &config.routes[..] else { panic!("three routes") };
    assert_eq!((&lookup.target, &rest.target), (&Target::Lookup(0), &Target::Backend(0)));
    assert_eq!(reject.target, Target::Reject("No.".into()));
    assert_eq!(lookup.when.listener.as_deref(), Some("a"));
    assert_ne!(lookup.when.user, lookup.when.domain);
    assert!(lookup.when.server_name.is_some() && lookup.when.client.len() == 1);
    assert!(matches!(&lookup.login, LoginAs::Master { user, .. } if user == "root"));
    assert!(matches!(rest.login, LoginAs::Passthrough));
    assert_eq!((lookup.pool, rest.pool), (Pooling::Reuse, Pooling::Off));

    let pool = &config.pool;
    assert_eq!((pool.warm, pool.reuse_max, pool.reuse_per_user), (1000, 0, 999));
    let minutes = [pool.warm_ttl, pool.reuse_ttl, pool.reuse_lifetime].map(|time| time.as_secs() / 60);
    assert_eq!(minutes, [2, 5, 60]);

    let limits = &config.limits;
    assert_eq!((limits.sessions, limits.connects_per_network, limits.logins_per_user), (0, None, None));
    assert_eq!(limits.failures_per_network.map(|rate| rate.every), Some(Duration::from_hours(1)));
    assert_eq!(limits.failures_per_user.map(|rate| rate.burst.get()), Some(1_000_000));
    assert!(limits.exempt.is_empty() && limits.memory == Memory::Bytes(512 << 20));

    let times = &config.timeouts;
    let milliseconds = [
        times.proxy_header,
        times.tls_handshake,
        times.login,
        times.backend_connect,
        times.backend_login,
        times.relay_idle,
        times.refusal_grid,
    ]
    .map(|time| time.as_millis());
    assert_eq!(milliseconds, [1, 1000, 90_000, 80_000, 85_000, 86_400_000, 2]);

    let admin = config.admin.expect("admin");
    assert_eq!(admin.address.value.to_string(), "[::1]:0");
    assert_eq!(admin.token_file.map(|at| at.value), Some("/etc/admin.token".into()));
    assert_eq!(admin.socket.map(|at| at.value), Some("/etc/admin.sock".into()));
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Trace));
}

/// Pieces of which files are made, so that random ones get beyond the TOML parser.
fn piece() -> impl Strategy<Value = String> {
    let sections =
        ["[server]", "[[listener]]", "[tls]", "[[tls.certificate]]", "[[backend]]", "[[lookup]]", "[[route]]"];
    let more = ["[limits]", "[timeouts]", "[admin]", "[log]", "[[tls]]", "[listener]", "[limits.connects_per_network]"];
    let keys =
        ["name", "address", "tls", "client", "exempt", "certificate", "rate", "burst", "login", "backend", "user"];
    let values =
        ["\"a\"", "\"[::]:1\"", "1", "-1", "1.5", "true", "[]", "[1, \"é\"]", "{}", "{ rate = \"1/s\" }", "1979-05-27"];
    let section = prop::sample::select([sections, more].concat()).prop_map(str::to_owned);
    let entry = (prop::sample::select(keys.to_vec()), prop::sample::select(values.to_vec()))
        .prop_map(|(key, value)| format!("{key} = {value}"));
    prop_oneof![1 => section, 3 => entry, 1 => ".{0,12}"]
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Err(findings) = Config::parse(&text, Path::new("x.toml")) {
            prop_assert!(!findings.to_string().is_empty());
        }
    }

    #[test]
    fn nothing_that_looks_like_a_configuration_panics(pieces in prop::collection::vec(piece(), 0..12)) {
        if let Err(findings) = Config::parse(&pieces.join("\n"), Path::new("x.toml")) {
            prop_assert!(!findings.to_string().is_empty());
        }
    }

    #[test]
    fn a_good_file_with_one_byte_changed_does_not_panic(at in 0..REFERENCE.len(), byte in 0u8..128) {
        let mut text = REFERENCE.as_bytes().to_vec();
        text[at] = byte;
        if let Err(findings) = Config::parse(&String::from_utf8(text).expect("ASCII"), Path::new("x.toml")) {
            prop_assert!(!findings.to_string().is_empty());
        }
    }
}
