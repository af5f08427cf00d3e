mod servers;

use std::num::NonZeroU32;
use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;

use super::*;
use crate::config::At;

/// One question, in words that every database understands.
const QUERY: &str = "SELECT host, port, password AS \"Pass\", note FROM users WHERE name = :user";

/// A table with two users whose names are traps.
const TABLE: [&str; 4] = [
    "CREATE TABLE users (name VARCHAR(100), host VARCHAR(100), port INTEGER, password VARCHAR(100), note VARCHAR(100))",
    "INSERT INTO users VALUES ('ann@example.org', 'mx-1', 993, '$6$salt$hash', NULL)",
    "INSERT INTO users VALUES ('bob', 'mx-2', 143, 'x', 'twice')",
    "INSERT INTO users VALUES ('bob', 'mx-3', 143, 'x', 'twice')",
];

fn site(key: &str) -> Site {
    Site { key: key.to_owned(), span: 3..7 }
}

fn at<T>(value: T, key: &str) -> At<T> {
    At { value, site: site(key) }
}

fn config(url: &str, query: &str) -> SqlLookup {
    SqlLookup {
        url: DatabaseUrl::Written(at(url.to_owned(), "lookup[0].url")),
        query: at(query.to_owned(), "lookup[0].query"),
        connections: NonZeroU32::MIN.saturating_add(1),
    }
}

fn sql(url: &str, query: &str) -> Sql {
    Sql::new(&config(url, query)).unwrap_or_else(|findings| panic!("{findings:?}"))
}

fn findings(url: &str, query: &str) -> Vec<(String, String)> {
    let findings = Sql::new(&config(url, query)).err().expect("mistakes");
    findings.into_iter().map(|finding| (finding.site.expect("a place").key, finding.message)).collect()
}

fn user(name: impl AsRef<[u8]>) -> UserName {
    UserName::new(name.as_ref()).expect("clean")
}

/// The fields as text, in their order.
async fn ask(sql: &Sql, name: impl AsRef<[u8]>) -> Result<Option<Vec<(String, String)>>, String> {
    let fields = sql.ask(&user(name)).await?;
    let text = |value: Zeroizing<Vec<u8>>| String::from_utf8(value.to_vec()).expect("UTF-8");
    Ok(fields.map(|fields| fields.0.into_iter().map(|(name, value)| (name, text(value))).collect()))
}

#[expect(clippy::unnecessary_wraps, reason = "as `ask` gives them")]
fn pairs(fields: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    Some(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

/// Does what the administrator of a SQLite database would do.
async fn run(path: &Path, statements: &[&str]) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await.expect("a database");
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe((*statement).to_owned())).execute(&mut connection).await.expect("well formed");
    }
    connection.close().await.expect("written");
}

async fn sqlite(statements: &[&str]) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("users.db");
    run(&path, statements).await;
    let url = format!("sqlite:{}", path.display());
    (folder, url)
}

/// Names that would mean something if they became a part of the query.
const TRAPS: [&str; 14] = [
    "ann@example.org' OR '1'='1",
    "' OR 1=1 --",
    "'; DROP TABLE users; --",
    "\"; DROP TABLE users",
    "\\' OR 1=1 #",
    "\\",
    "\\\\",
    "%",
    "_nn@example.org",
    "$1",
    "?",
    ":user",
    "ann@example.org'/*",
    "ann\u{2019}\u{20ac}\u{1f600}@example.org",
];

/// What holds for every database, on one that holds the table.
async fn holds(sql: &Sql) {
    let ann = pairs(&[("host", "mx-1"), ("port", "993"), ("pass", "$6$salt$hash")]);
    assert_eq!(ask(sql, "Ann@Example.ORG").await, Ok(ann.clone()));
    assert_eq!(ask(sql, "nobody").await, Ok(None));
    assert_eq!(ask(sql, b"ann\xff").await, Ok(None));
    assert_eq!(ask(sql, "bob").await, Err("the query found more than one row".to_owned()));
    for trap in TRAPS {
        assert_eq!(ask(sql, trap).await, Ok(None), "{trap}");
    }
    assert_eq!(ask(sql, "ann@example.org").await, Ok(ann), "the table is still there");
}

#[tokio::test]
async fn a_user_is_found_whatever_others_call_themselves() {
    let (_folder, url) = sqlite(&TABLE).await;
    holds(&sql(&url, QUERY)).await;
}

#[tokio::test]
async fn the_parts_of_a_name_are_bound_each_for_itself() {
    let (_folder, url) = sqlite(&["CREATE TABLE empty (x)"]).await;
    let sql = sql(&url, "SELECT :domain AS d, :local AS l, :user AS u, :domain || '' AS again");
    let found = ask(&sql, "A@B@Example.org").await;
    let expected = [("d", "example.org"), ("l", "a@b"), ("u", "a@b@example.org"), ("again", "example.org")];
    assert_eq!(found, Ok(pairs(&expected)));
    let expected = [("d", ""), ("l", "ann"), ("u", "ann"), ("again", "")];
    assert_eq!(ask(&sql, "ann").await, Ok(pairs(&expected)));
}

#[tokio::test]
async fn every_kind_of_value_becomes_text_or_is_named() {
    let (_folder, url) = sqlite(&[
        "CREATE TABLE t (name TEXT, a BLOB, b INTEGER, c BOOLEAN, d BOOL, e TEXT)",
        "INSERT INTO t VALUES ('ann', x'4142', -7, 1, 0, '')",
    ])
    .await;
    let all = sql(&url, "SELECT a, b, c, d, e, NULL AS f, 2+2 AS \"SUM\" FROM t WHERE name = :user");
    let expected = [("a", "AB"), ("b", "-7"), ("c", "yes"), ("d", "no"), ("e", ""), ("sum", "4")];
    assert_eq!(ask(&all, "ann").await, Ok(pairs(&expected)));
    let real = sql(&url, "SELECT 0.5 AS secret FROM t WHERE name = :user");
    let why = "column \"secret\" is of type REAL; let the query cast it to text".to_owned();
    assert_eq!(ask(&real, "ann").await, Err(why));
    let long = sql(&url, "SELECT printf('%.70000c', 'x') AS big FROM t WHERE name = :user");
    assert_eq!(ask(&long, "ann").await, Err("column \"big\" holds more than 65536 bytes".to_owned()));
    let columns = (0..65).map(|n| format!("1 AS c{n}")).collect::<Vec<_>>().join(", ");
    let wide = sql(&url, &format!("SELECT {columns} FROM t WHERE name = :user"));
    assert_eq!(ask(&wide, "ann").await, Err("a row of more than 64 columns".to_owned()));
}

/// Reading such an answer to its end would take for ever.
#[tokio::test]
async fn an_endless_answer_is_not_read() {
    let (_folder, url) = sqlite(&["CREATE TABLE t (x)"]).await;
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x, :user FROM n";
    let sql = sql(&url, endless);
    for _ in 0..3 {
        assert_eq!(ask(&sql, "ann").await, Err("the query found more than one row".to_owned()));
    }
}

#[tokio::test]
async fn a_database_may_come_later_and_change() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("users.db");
    let sql = sql(&format!("sqlite:{}", path.display()), "SELECT * FROM users WHERE name = :user");
    let why = ask(&sql, "ann@example.org").await.expect_err("not there");
    assert_eq!(why, "the database refused (code 14): unable to open database file");
    run(&path, &["CREATE TABLE empty (x)"]).await;
    let why = ask(&sql, "ann@example.org").await.expect_err("not ready");
    assert_eq!(why, "the database refused (code 1): no such table: users");
    run(&path, &TABLE).await;
    assert!(ask(&sql, "ann@example.org").await.expect("there").is_some());
    run(&path, &["ALTER TABLE users ADD COLUMN backend TEXT", "UPDATE users SET backend = 'blue'"]).await;
    let found = ask(&sql, "ann@example.org").await.expect("there").expect("known");
    assert_eq!(found.last(), Some(&("backend".to_owned(), "blue".to_owned())));
    run(&path, &["DROP TABLE users", "CREATE TABLE users (password, name, host)"]).await;
    run(&path, &["INSERT INTO users VALUES ('$6$salt$hash', 'ann', 'mx-4')"]).await;
    let expected = [("password", "$6$salt$hash"), ("name", "ann"), ("host", "mx-4")];
    assert_eq!(ask(&sql, "ann").await, Ok(pairs(&expected)), "each value under its own name");
}

#[tokio::test]
async fn many_ask_at_once() {
    let (_folder, url) = sqlite(&TABLE).await;
    let sql = Arc::new(sql(&url, QUERY));
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let sql = Arc::clone(&sql);
            tokio::spawn(async move { ask(&sql, "ann@example.org").await })
        })
        .collect();
    for answer in asking {
        assert_eq!(answer.await.expect("asked").expect("answered").expect("known")[0].1, "mx-1");
    }
    let Source::Sqlite(source) = &sql.0 else { panic!("SQLite") };
    assert_eq!(source.connections.free_places(), 2, "as many as are configured");
}

#[tokio::test]
async fn a_question_given_up_gives_its_place_back() {
    let (_folder, url) = sqlite(&TABLE).await;
    let sql = sql(&url, QUERY);
    let Source::Sqlite(source) = &sql.0 else { panic!("SQLite") };
    for polls in 1..20 {
        let mut asking = Box::pin(ask(&sql, "bob"));
        for _ in 0..polls {
            if poll_once(asking.as_mut()).await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(asking);
        assert_eq!(source.connections.free_places(), 2);
        let ann = ask(&sql, "ann@example.org").await.expect("answered").expect("known");
        assert_eq!(ann[0].1, "mx-1", "{polls}");
    }
}

async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
}

#[test]
fn mistakes_point_at_their_keys_and_need_no_database() {
    let (url, query) = ("lookup[0].url", "lookup[0].query");
    let told = findings("sqlite:users.db", "SELECT :name, :pass FROM users");
    assert_eq!(told.len(), 2);
    assert!(told[0].0 == query && told[0].1.starts_with("no such parameter: `:name`\n"), "{told:?}");
    for (text, expected) in [
        ("users.db", "not a URL of a database that is known\nexpected sqlite:, postgres: or mysql:"),
        ("oracle://u:hunter2@h/d", "not a URL of a database that is known\nexpected sqlite:, postgres: or mysql:"),
        ("sqlite:users.db?mode=hunter2", "not a URL of a database\nexpected sqlite:PATH"),
        ("postgres://u:hunter2@h:port/d", "not a URL of a database\nexpected postgres://"),
        ("postgres:u:hunter2@h/d", "not a URL of a database\nexpected postgres://"),
        ("postgres://u@h/d?sslmode=hunter2", "not a URL of a database\nexpected postgres://"),
        ("postgres://u@h/d?ssl_mode=hunter2", "a parameter in the URL is not known"),
        ("postgres://u:hunter2?x@h/d", "a parameter in the URL is not known"),
        ("mysql://u:hunter2@h/d?sslmod=REQUIRED", "a parameter in the URL is not known"),
        ("mysql://u@h/d?ssl-mode=hunter2", "not a URL of a database\nexpected mysql://"),
    ] {
        let told = findings(text, QUERY);
        assert!(told.len() == 1 && told[0].0 == url && told[0].1.starts_with(expected), "{text}: {told:?}");
        assert!(!told[0].1.contains("hunter2"), "{told:?}");
    }
    for good in ["sqlite::memory:", "postgresql://h/d?sslmode=require&options[a]=b", "mariadb://h/d?ssl-mode=REQUIRED"]
    {
        assert!(Sql::new(&config(good, QUERY)).is_ok(), "{good}");
    }
}

#[test]
fn a_url_may_stand_in_a_file_that_must_be_there() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("url");
    let read = || {
        let url = DatabaseUrl::File(at(path.clone(), "lookup[0].url_file"));
        Sql::new(&SqlLookup { url, ..config("", QUERY) }).map(|_| ()).map_err(|findings| findings[0].clone())
    };
    let missing = read().expect_err("missing");
    assert_eq!(missing.site, Some(site("lookup[0].url_file")));
    assert!(missing.message.starts_with("cannot read "), "{}", missing.message);
    std::fs::write(&path, "postgres://mailmux:hunter2@[::1/mail\n").expect("written");
    let broken = read().expect_err("broken");
    assert!(!broken.message.contains("hunter2") && broken.site == missing.site, "{broken:?}");
    std::fs::write(&path, b"postgres://\xff\n").expect("written");
    assert!(read().expect_err("not text").message.ends_with("is not UTF-8 text"));
    std::fs::write(&path, "postgres://mailmux:hunter2@localhost/mail\n").expect("written");
    assert_eq!(read(), Ok(()));
}

#[tokio::test]
async fn a_database_that_is_down_says_so_at_once_and_not_who_we_are() {
    for scheme in ["postgres", "mysql"] {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let sql = sql(&format!("{scheme}://mailmux:hunter2@{address}/mail"), QUERY);
        let why = ask(&sql, "ann").await.expect_err("down");
        assert!(why.starts_with("the database cannot be reached: Connection refused"), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_for_a_place() {
    let connections = Connections::<SqliteConnection>::new(SqliteConnectOptions::new().in_memory(true), 0);
    assert!(matches!(connections.take().await, Err(Unconnected::Late)));
}
