//! What the process does to itself before it serves: whose it is, what it may open, whom it tells.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::net::UnixDatagram;

use crate::support::backend::Backend;
use crate::support::client::{Client, GREETING};
use crate::support::program::{Program, mailmux, run, run_by};
use crate::support::soon;

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("proc").uid() == 0
}

#[tokio::test]
async fn root_becomes_a_user_who_has_low_ports_and_nothing_else_of_root() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let config = format!("{}[[route]]\nbackend = \"blue\"\n[server]\nuser = \"nobody\"\n", backend.section("blue"));
    if !is_root() {
        let path = folder.path().join("mailmux.toml");
        fs::write(&path, format!("[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{config}"))
            .expect("written");
        let (code, _, shown) = run(&["serve", "--config", path.to_str().expect("UTF-8")]).await;
        assert!(code == Some(1) && shown.contains("server.user: has the ids"), "{shown}");
        return;
    }
    // It must be able to read its configuration as that user, and says so when it is not.
    let path = folder.path().join("mailmux.toml");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("its folder");
    fs::write(&path, format!("[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n{config}"))
        .expect("written");
    let (code, _, shown) = run(&["serve", "--config", path.to_str().expect("UTF-8")]).await;
    assert!(code == Some(1) && shown.contains("cannot be read any more as [server] user"), "{shown}");

    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its folder");
    let mut program = Program::start_with(folder.path(), &config, |command| command).await;
    backend.session(program.address).await;
    let nobody = fs::read_to_string("/etc/passwd").expect("accounts");
    let nobody = nobody.lines().find_map(|line| line.strip_prefix("nobody:x:")).expect("nobody");
    let [uid, gid] = [0, 1].map(|at| nobody.split(':').nth(at).expect("a number"));
    assert_eq!(program.status("Uid"), [uid; 4].join(" "));
    assert_eq!(program.status("Gid"), [gid; 4].join(" "));
    assert_eq!(program.status("Groups"), gid);
    // CAP_NET_BIND_SERVICE is bit 10.
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(program.status(set), "0000000000000400", "{set}");
    }
    assert_eq!(program.status("NoNewPrivs"), "1");
    program.signal("-TERM");
    program.signal("-TERM");
    let log = program.lines.concat() + &program.ended().await;
    assert!(log.contains("no more privileges than these") && log.contains("low_ports=true"), "{log}");
}

#[tokio::test]
async fn whoever_runs_it_as_root_is_told_what_to_write_and_no_user_can_be_misspelt() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let mut program = Program::start(folder.path(), &backend, "").await;
    assert_eq!(program.status("NoNewPrivs"), "1");
    program.signal("-TERM");
    let log = program.lines.concat() + &program.ended().await;
    assert_eq!(log.contains("[server] user names whom it should become"), is_root(), "{log}");

    let path = folder.path().join("mailmux.toml");
    let text = fs::read_to_string(&path).expect("written") + "[server]\nuser = \"no-such-user\"\n";
    fs::write(&path, text).expect("written");
    let (code, _, shown) = run(&["serve", "--config", path.to_str().expect("UTF-8")]).await;
    assert!(code == Some(1) && shown.contains("server.user: there is no such user"), "{shown}");
}

async fn database(path: &Path, backend: &str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("a database");
    let sql = format!("CREATE TABLE users (name TEXT, backend TEXT); INSERT INTO users VALUES ('ann', '{backend}')");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("a table");
    connection.close().await.expect("closed");
}

/// The database is opened for each question, so that a link in its place shows what the process can open.
#[tokio::test]
async fn what_it_has_not_named_at_its_start_it_cannot_open() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let elsewhere = tempfile::tempdir().expect("a scratch folder");
    database(&folder.path().join("users.db"), "blue").await;
    database(&elsewhere.path().join("users.db"), "blue").await;
    let backend = Backend::listen().await;
    for confine in [true, false] {
        let config = format!(
            "{}[[lookup]]\nname = \"users\"\ntype = \"sql\"\nurl = \"sqlite:users.db\"\ncache = \"off\"\n\
             query = \"SELECT backend FROM users WHERE name = :user\"\n[[route]]\nlookup = \"users\"\n\
             [server]\nconfine = {confine}\n",
            backend.section("blue")
        );
        let mut program = Program::start_with(folder.path(), &config, |command| command).await;
        let has_landlock = !program.lines.concat().contains("the kernel has no Landlock");
        backend.session(program.address).await;
        fs::rename(folder.path().join("users.db"), folder.path().join("aside.db")).expect("moved");
        symlink(elsewhere.path().join("users.db"), folder.path().join("users.db")).expect("a link");
        if confine && has_landlock {
            let mut client = Client::connect(program.address).await;
            client.hear(GREETING).await;
            client.say("a LOGIN ann pass\r\n").await;
            client.hear("a NO [UNAVAILABLE]").await;
            program.line_with("login refused").await;
        } else {
            backend.session(program.address).await;
        }
        fs::rename(folder.path().join("aside.db"), folder.path().join("users.db")).expect("moved back");
    }
}

#[tokio::test]
async fn systemd_hears_when_it_serves() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let outside = tempfile::tempdir().expect("a scratch folder");
    let socket = outside.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).expect("a socket");
    let backend = Backend::listen().await;
    let config = format!("{}[[route]]\nbackend = \"blue\"\n", backend.section("blue"));
    let program = Program::start_with(folder.path(), &config, |command| command.env("NOTIFY_SOCKET", &socket)).await;
    let mut told = [0; 200];
    let length = soon("a word to systemd", systemd.recv(&mut told)).await.expect("a message");
    let told = String::from_utf8_lossy(&told[..length]);
    assert!(told.starts_with("READY=1\n") && told.contains("\nSTATUS="), "{told}");
    backend.session(program.address).await;
}

#[tokio::test]
async fn sockets_that_are_none_are_told_so() {
    let mailmux = mailmux();
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", "exec 3</dev/null; LISTEN_FDS=1 exec \"$0\" serve"]).arg(mailmux.as_std().get_program());
    let (code, _, shown) = run_by(&mut shell).await;
    assert!(code == Some(1) && shown.contains("LISTEN_FDS") && shown.contains("is not a socket"), "{shown}");
}

#[tokio::test]
async fn more_sessions_than_there_can_be_are_said_beforehand() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let backend = Backend::listen().await;
    let config = format!(
        "{}[[route]]\nbackend = \"blue\"\n[limits]\nsessions = 4000000\nmemory = \"1GiB\"\n",
        backend.section("blue")
    );
    let program = Program::start_with(folder.path(), &config, |command| command).await;
    let log = program.lines.concat();
    assert!(log.contains("memory=1073741824"), "{log}");
    assert!(log.contains("limits.sessions = 4000000 may need 250000 MiB of memory, and there are 1024"), "{log}");
}
