//! Real databases: SQLite here; PostgreSQL and MySQL where the environment names one.

use std::num::NonZeroU32;

use super::*;
use crate::config::{At, Site};

const TABLE: &str = "CREATE TABLE users (name VARCHAR(200) PRIMARY KEY, host VARCHAR(100), port INTEGER, note TEXT)";
const ROWS: &str =
    "INSERT INTO users VALUES ('ann@example.org', '10.0.0.1', 143, NULL), ('o''neil', 'mail.example.net', NULL, 'x'),
    ('jörg@example.org', '10.0.0.3', 993, NULL)";

fn at<T>(value: T) -> At<T> {
    At { value, site: Site { key: "lookup[0].x".to_owned(), span: 0..0 } }
}

fn sql(url: &str, query: &str) -> Result<Sql, Vec<Finding>> {
    Sql::new(&config::SqlLookup {
        url: DatabaseUrl::Written(at(url.to_owned())),
        query: at(query.to_owned()),
        connections: NonZeroU32::MIN,
    })
}

async fn ask(sql: &Sql, user: &[u8]) -> Result<Option<Vec<(String, String)>>, String> {
    let fields = sql.ask(&UserName::new(user).expect("a name")).await?;
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("text");
    Ok(fields.map(|fields| fields.0.iter().map(|(name, value)| (name.clone(), text(value))).collect()))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// All that is true of every database.
async fn the_same_everywhere(url: &str) {
    let users = sql(url, "SELECT host, port, note FROM users WHERE name = :user").expect("sound");
    assert_eq!(ask(&users, b"Ann@Example.ORG").await, Ok(Some(pairs(&[("host", "10.0.0.1"), ("port", "143")]))));
    assert_eq!(ask(&users, b"o'neil").await, Ok(Some(pairs(&[("host", "mail.example.net"), ("note", "x")]))));
    assert_eq!(
        ask(&users, "jörg@example.org".as_bytes()).await,
        Ok(Some(pairs(&[("host", "10.0.0.3"), ("port", "993")])))
    );
    for stranger in [
        &b"bob"[..],
        b"ann' OR '1'='1",
        b"x'; DROP TABLE users; --",
        b"x\"; DROP TABLE users; --",
        b"%",
        b"\\",
        b"\\' OR 1=1 --",
        b"ann@example.org\x1b",
        b"j\xf6rg@example.org",
    ] {
        assert_eq!(ask(&users, stranger).await, Ok(None), "{}", stranger.escape_ascii());
    }
    assert!(ask(&users, b"ann@example.org").await.expect("an answer").is_some(), "the table is still there");

    let by_parts = sql(url, "SELECT host FROM users WHERE name = CONCAT(:local, '@', :domain) AND 'a:user' <> :user");
    let by_parts = by_parts.expect("sound");
    assert_eq!(ask(&by_parts, b"ann@example.org").await, Ok(Some(pairs(&[("host", "10.0.0.1")]))));

    let many = sql(url, "SELECT host FROM users WHERE name <> :user").expect("sound");
    assert!(ask(&many, b"nobody").await.expect_err("three rows").contains("more than one row"));
    let broken = sql(url, "SELECT host FROM nowhere WHERE name = :user").expect("sound so far");
    let error = ask(&broken, b"ann").await.expect_err("no such table");
    assert!(error.contains("nowhere") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn sqlite() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("users.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.expect("made");
    for statement in [TABLE, ROWS] {
        sqlx::query(statement).execute(&pool).await.expect("done");
    }
    let url = format!("sqlite:{}", path.display());
    the_same_everywhere(&url).await;

    let all = sql(&url, "SELECT * FROM users WHERE name = :user").expect("sound");
    assert!(ask(&all, b"ann@example.org").await.expect("an answer").is_some());
    for change in ["ALTER TABLE users ADD COLUMN ssl TEXT DEFAULT 'yes'", "UPDATE users SET note = 'y'"] {
        sqlx::query(change).execute(&pool).await.expect("done");
    }
    let fields = ask(&all, b"ann@example.org").await.expect("an answer").expect("still known");
    assert!(fields.contains(&("ssl".to_owned(), "yes".to_owned())), "a table may change: {fields:?}");
    pool.close().await;

    let gone = sql("sqlite:/nonexistent/users.db", "SELECT 1 WHERE 'x' = :user").expect("no mistake yet");
    assert!(ask(&gone, b"x").await.is_err());
}

#[tokio::test]
#[ignore = "needs a PostgreSQL whose URL is in MAILMUX_TEST_POSTGRES_URL"]
async fn postgres() {
    let url = std::env::var("MAILMUX_TEST_POSTGRES_URL").expect("a URL");
    let pool = PgPool::connect(&url).await.expect("there");
    for statement in ["DROP TABLE IF EXISTS users", TABLE, ROWS] {
        sqlx::query(statement).execute(&pool).await.expect("done");
    }
    the_same_everywhere(&url).await;
    let boolean =
        sql(&url, "SELECT true AS ssl, 7::smallint AS port, NULL::int AS x WHERE 'x' = :user").expect("sound");
    assert_eq!(ask(&boolean, b"x").await, Ok(Some(pairs(&[("ssl", "yes"), ("port", "7")]))));
    let odd = sql(&url, "SELECT now() AS host WHERE 'x' = :user").expect("sound");
    assert!(ask(&odd, b"x").await.expect_err("a date").contains("column \"host\""));
}

#[tokio::test]
#[ignore = "needs a MySQL whose URL is in MAILMUX_TEST_MYSQL_URL"]
async fn mysql() {
    let url = std::env::var("MAILMUX_TEST_MYSQL_URL").expect("a URL");
    let pool = MySqlPool::connect(&url).await.expect("there");
    for statement in ["DROP TABLE IF EXISTS users", TABLE, ROWS] {
        sqlx::query(statement).execute(&pool).await.expect("done");
    }
    the_same_everywhere(&url).await;
}

#[test]
fn mistakes_are_found_before_anything_is_asked_and_tell_no_password() {
    for url in ["oracle://x", "users.db", "postgres://u:secret@[::1", "mysql://u:secret@h:99999/x", ""] {
        let findings = sql(url, "SELECT 1 WHERE 'x' = :name").err().expect("mistakes");
        assert_eq!(findings.len(), 2, "{url}: {findings:?}");
        assert!(findings.iter().all(|finding| !finding.message.contains("secret")), "{findings:?}");
    }
}
