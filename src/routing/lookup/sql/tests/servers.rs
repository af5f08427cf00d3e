//! The same questions to real servers, whose URLs are in the environment: `tests/real/databases.py cargo test --lib
//! servers -- --ignored` starts such servers. Each test has a schema (a database, in MySQL) of its own.

use std::env;
use std::time::Duration;

use tokio::time;

use super::*;

/// Does what the administrator of a database would do.
async fn administer<C>(url: &str, statements: &[&str])
where
    C: Connection,
    for<'c> &'c mut C: Executor<'c, Database = C::Database>,
    <C::Database as Database>::Arguments: IntoArguments<C::Database>,
{
    let mut connection = C::connect(url).await.expect("a server");
    for statement in statements {
        let done = sqlx::raw_sql(AssertSqlSafe((*statement).to_owned())).execute(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    connection.close().await.expect("said goodbye");
}

/// The URL of a schema that is new.
async fn postgres(schema: &str, statements: &[&str]) -> String {
    let url = env::var("MAILMUX_TEST_POSTGRES_URL").expect("a URL in MAILMUX_TEST_POSTGRES_URL");
    let (drop, create) = (format!("DROP SCHEMA IF EXISTS {schema} CASCADE"), format!("CREATE SCHEMA {schema}"));
    administer::<PgConnection>(&url, &[&drop, &create]).await;
    let url = format!("{url}?options[search_path]={schema}");
    administer::<PgConnection>(&url, statements).await;
    url
}

async fn mysql(table: &str, statements: &[&str]) -> String {
    let url = env::var("MAILMUX_TEST_MYSQL_URL").expect("a URL in MAILMUX_TEST_MYSQL_URL");
    administer::<MySqlConnection>(&url, &[&format!("DROP TABLE IF EXISTS {table}")]).await;
    administer::<MySqlConnection>(&url, statements).await;
    url
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn postgres_finds_a_user_whatever_others_call_themselves() {
    let url = postgres("users_test", &TABLE).await;
    holds(&sql(&url, QUERY)).await;
}

#[tokio::test]
#[ignore = "needs a MySQL server"]
async fn mysql_finds_a_user_whatever_others_call_themselves() {
    let url = mysql("users", &TABLE).await;
    holds(&sql(&url, &QUERY.replace('"', "`"))).await;
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn postgres_types_become_text() {
    let url = postgres(
        "types_test",
        &[
            "CREATE TYPE mode AS ENUM ('implicit', 'starttls')",
            "CREATE DOMAIN port AS integer CHECK (VALUE BETWEEN 1 AND 65535)",
            "CREATE TABLE t (name text, a varchar(9), b char(4), c bytea, d smallint, e bigint, f bool, g mode, h port, i inet)",
            "INSERT INTO t VALUES ('ann', 'ä', 'b', '\\x4142', -1, 9000000000, false, 'starttls', 993, '::1')",
        ],
    )
    .await;
    let all = sql(&url, "SELECT a, b, c, d, e, f, g, h, host(i) AS i, NULL AS j, 'x' AS k FROM t WHERE name = :user");
    let expected = [
        ("a", "ä"),
        ("b", "b   "),
        ("c", "AB"),
        ("d", "-1"),
        ("e", "9000000000"),
        ("f", "no"),
        ("g", "starttls"),
        ("h", "993"),
        ("i", "::1"),
        ("k", "x"),
    ];
    assert_eq!(ask(&all, "ann").await, Ok(pairs(&expected)));
    let inet = sql(&url, "SELECT i FROM t WHERE name = :user");
    let why = "column \"i\" is of type INET; let the query cast it to text".to_owned();
    assert_eq!(ask(&inet, "ann").await, Err(why));
    let parts =
        sql(&url, "SELECT :domain::text AS d, :local || '' AS l, '::' || :user::varchar AS u, :domain || '' AS e");
    let expected = [("d", "example.org"), ("l", "ann"), ("u", "::ann@example.org"), ("e", "example.org")];
    assert_eq!(ask(&parts, "ann@example.org").await, Ok(pairs(&expected)));
}

#[tokio::test]
#[ignore = "needs a MySQL server"]
async fn mysql_types_become_text() {
    let url = mysql(
        "types_test",
        &[
            "CREATE TABLE types_test (name varchar(20), a varchar(9), b char(4), c varbinary(9), d smallint, \
             e bigint unsigned, f boolean, g enum('implicit', 'starttls'), h mediumint unsigned, i text, j decimal(5,2))",
            "INSERT INTO types_test VALUES ('ann', 'ä', 'b', x'4142', -1, 18000000000000000000, true, 'starttls', 993, 'i', 1.5)",
        ],
    )
    .await;
    let all = sql(&url, "SELECT a, b, c, d, e, f, g, h, i, NULL AS k, 1+1 AS l FROM types_test WHERE name = :user");
    let expected = [
        ("a", "ä"),
        ("b", "b"),
        ("c", "AB"),
        ("d", "-1"),
        ("e", "18000000000000000000"),
        ("f", "yes"),
        ("g", "starttls"),
        ("h", "993"),
        ("i", "i"),
        ("l", "2"),
    ];
    assert_eq!(ask(&all, "ann").await, Ok(pairs(&expected)));
    let decimal = sql(&url, "SELECT j FROM types_test WHERE name = :user");
    let why = "column \"j\" is of type DECIMAL; let the query cast it to text".to_owned();
    assert_eq!(ask(&decimal, "ann").await, Err(why));
    let parts = sql(&url, "SELECT :domain AS d, :local AS l, :user AS u, concat(:domain, '') AS e");
    let expected = [("d", "example.org"), ("l", "ann"), ("u", "ann@example.org"), ("e", "example.org")];
    assert_eq!(ask(&parts, "ann@example.org").await, Ok(pairs(&expected)));
}

/// Tables change and connections are cut while we keep ours.
#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn postgres_may_change_and_restart_behind_our_back() {
    let url = postgres("change_test", &TABLE).await;
    let sql = sql(&url, "SELECT * FROM users WHERE name = :user");
    assert_eq!(ask(&sql, "ann@example.org").await.expect("up").expect("known").len(), 4);
    administer::<PgConnection>(&url, &["ALTER TABLE users ADD COLUMN backend text DEFAULT 'blue'"]).await;
    assert_eq!(ask(&sql, "ann@example.org").await.expect("up").expect("known").len(), 5);
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
               AND query LIKE '%users WHERE name%'";
    administer::<PgConnection>(&url, &[cut]).await;
    assert_eq!(ask(&sql, "ann@example.org").await.expect("up").expect("known").len(), 5);
}

#[tokio::test]
#[ignore = "needs a MySQL server"]
async fn mysql_may_change_and_restart_behind_our_back() {
    let table = TABLE.map(|statement| statement.replace("users", "change_test"));
    let url = mysql("change_test", &table.each_ref().map(String::as_str)).await;
    let sql = sql(&url, "SELECT * FROM change_test WHERE name = :user");
    assert_eq!(ask(&sql, "ann@example.org").await.expect("up").expect("known").len(), 4);
    administer::<MySqlConnection>(&url, &["ALTER TABLE change_test ADD COLUMN backend text DEFAULT 'blue' FIRST"])
        .await;
    let found = ask(&sql, "ann@example.org").await.expect("up").expect("known");
    assert_eq!((found.len(), &*found[0].0, &*found[0].1), (5, "backend", "blue"));
    let Source::MySql(source) = &sql.0 else { panic!("MySQL") };
    let mut taken = source.connections.take().await.unwrap_or_else(|_| panic!("up"));
    let id: u64 =
        sqlx::query_scalar("SELECT connection_id()").fetch_one(&mut taken.connection).await.expect("a number");
    source.connections.put_back(taken);
    administer::<MySqlConnection>(&url, &[&format!("KILL {id}")]).await;
    assert_eq!(ask(&sql, "ann@example.org").await.expect("up").expect("known").len(), 5);
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn postgres_tells_no_secrets_in_errors() {
    let url = postgres("errors_test", &TABLE).await;
    for (query, expected) in [
        ("SELECT password::int FROM users WHERE name = :user", "the database refused (code 22P02)"),
        (
            "SELECT x FROM nowhere WHERE name = :user",
            "the database refused (code 42P01): relation \\\"nowhere\\\" does not exist",
        ),
        (
            "SELECT host FROM users WHERE port = :user",
            "the database refused (code 42883): operator does not exist: integer = text",
        ),
    ] {
        let sql = sql(&url, query);
        for _ in 0..2 {
            assert_eq!(ask(&sql, "ann@example.org").await, Err(expected.to_owned()));
        }
    }
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (_, address) = rest.split_once('@').expect("a user");
    let wrong = sql(&format!("{scheme}://mailmux:hunter2@{address}"), QUERY);
    let expected = "the database refused (code 28P01): password authentication failed for user \\\"mailmux\\\"";
    assert_eq!(ask(&wrong, "ann@example.org").await, Err(expected.to_owned()));
    let why = ask(&sql(&format!("{url}&sslmode=require"), QUERY), "ann").await.expect_err("no TLS there");
    assert!(why.starts_with("TLS with the database failed: "), "{why}");
}

#[tokio::test]
#[ignore = "needs a MySQL server"]
async fn mysql_tells_no_secrets_in_errors() {
    let table = TABLE.map(|statement| statement.replace("users", "errors_test"));
    let url = mysql("errors_test", &table.each_ref().map(String::as_str)).await;
    let rows = sql(&url, "SELECT (SELECT password FROM errors_test) FROM errors_test WHERE name = :user");
    assert_eq!(ask(&rows, "ann@example.org").await, Err("the database refused (code 21000/1242)".to_owned()));
    let nowhere = sql(&url, "SELECT x FROM nowhere WHERE name = :user");
    let why = ask(&nowhere, "ann@example.org").await.expect_err("no table");
    assert!(why.starts_with("the database refused (code 42S02/1146): Table"), "{why}");
    let (_, address) = url.split_once('@').expect("a user");
    let wrong = sql(&format!("mysql://mailmux:hunter2@{address}"), QUERY);
    let why = ask(&wrong, "ann@example.org").await.expect_err("a wrong password");
    assert!(why.starts_with("the database refused (code 28000/1045): Access denied"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");
}

/// A name that the database could not even write down is nobody's; it is no failure of the database.
#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn postgres_with_a_small_character_set_knows_nobody_with_other_letters() {
    let url = env::var("MAILMUX_TEST_POSTGRES_URL").expect("a URL in MAILMUX_TEST_POSTGRES_URL");
    administer::<PgConnection>(&url, &["DROP DATABASE IF EXISTS latin"]).await;
    administer::<PgConnection>(&url, &["CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"]).await;
    let url = format!("{}/latin", url.rsplit_once('/').expect("a database").0);
    administer::<PgConnection>(&url, &TABLE).await;
    let sql = sql(&url, QUERY);
    assert_eq!(ask(&sql, "ann\u{1f600}").await, Ok(None));
    let Source::Postgres(source) = &sql.0 else { panic!("PostgreSQL") };
    assert_eq!(source.connections.kept_now(), 1, "nobody can make us connect again and again with such names");
    assert!(ask(&sql, "ann@example.org").await.expect("up").is_some());
}

#[tokio::test]
#[ignore = "needs a MySQL server"]
async fn mysql_with_a_small_character_set_knows_nobody_with_other_letters() {
    let url = mysql(
        "latin_test",
        &[
            "CREATE TABLE latin_test (name varchar(20) CHARACTER SET latin1, host text)",
            "INSERT INTO latin_test VALUES ('ann?', 'mx-1'), ('ann', 'mx-2')",
        ],
    )
    .await;
    let sql = sql(&url, "SELECT host FROM latin_test WHERE name = :user");
    assert_eq!(ask(&sql, "ann\u{1f600}").await, Ok(None));
    assert_eq!(ask(&sql, "ann").await, Ok(pairs(&[("host", "mx-2")])));
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server"]
async fn postgres_answers_given_up_reach_nobody() {
    let url = postgres("slow_test", &["CREATE TABLE t (x int)"]).await;
    let query = "SELECT :user AS name, CASE WHEN :local = 'slow' THEN pg_sleep(20)::text END AS nap";
    let sql = sql(&url, query);
    for _ in 0..4 {
        assert!(time::timeout(Duration::from_millis(100), ask(&sql, "slow")).await.is_err());
        assert_eq!(ask(&sql, "ann").await, Ok(pairs(&[("name", "ann")])));
    }
    let Source::Postgres(source) = &sql.0 else { panic!("PostgreSQL") };
    assert_eq!(source.connections.kept_now(), 1);
}
