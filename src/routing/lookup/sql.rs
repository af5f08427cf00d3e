//! A database as a source of routes: SQLite, PostgreSQL, MySQL or MariaDB, asked by a prepared query whose columns are
//! the fields of a route. What a client typed goes there as a value and nothing else. Not here: what the fields mean.
//!
//! An error is for the log, and must tell nothing that is a secret: the URL (it may hold a password) and what the
//! database says of values (they may be hashes) stay out of it.

mod columns;
mod connections;
mod query;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::mysql::{MySqlConnection, MySqlDatabaseError};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnection, SqliteError};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Database, Encode, Executor, IntoArguments, SqlSafeStr, SqlStr, Type,
};
use tokio::time;
use zeroize::Zeroizing;

use self::columns::Texts;
use self::connections::{Connections, Taken, Unconnected};
use self::query::{Parameter, Query};
use super::fields::Fields;
use crate::config::{DatabaseUrl, Finding, Site, SqlLookup};
use crate::imap::{UserName, escape};
use crate::secret_file;

/// As much of what a database says as anybody wants to read in a log.
const LONGEST_MESSAGE: usize = 300;

/// SQLite's thread is asked whether it lives when it has nothing else to do.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// A database, and what it is asked.
pub(super) struct Sql(Source);

enum Source {
    Sqlite(Prepared<SqliteConnection>),
    Postgres(Prepared<PgConnection>),
    MySql(Prepared<MySqlConnection>),
}

/// The languages that databases speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
    MySql,
}

/// A query, and the connections on which it is asked.
struct Prepared<C: Connection> {
    dialect: Dialect,
    connections: Connections<C>,
    sql: SqlStr,
    parameters: Vec<Parameter>,
}

/// What a query found; of several rows none is read.
enum Found<R> {
    Nobody,
    One(R),
    Several,
}

type RowOf<C> = <<C as Connection>::Database as Database>::Row;

/// What the parameters of a query are for one user.
struct Who<'a> {
    user: &'a str,
    local: &'a str,
    domain: &'a str,
}

impl Sql {
    /// Reads what the configuration says. Nothing is connected: a database that is down now may be up when it is asked.
    ///
    /// # Errors
    /// What is wrong with the URL and the query.
    pub(super) fn new(config: &SqlLookup) -> Result<Self, Vec<Finding>> {
        let (url, site) = read_url(&config.url).map_err(|finding| vec![finding])?;
        let wrong_url = |message: String| vec![Finding { site: Some(site.clone()), message }];
        let dialect = Dialect::of(&url).map_err(wrong_url)?;
        let query = Query::read(&config.query.value, dialect).map_err(|mistakes| {
            let finding = |message| Finding { site: Some(config.query.site.clone()), message };
            mistakes.into_iter().map(finding).collect::<Vec<_>>()
        })?;
        let most = usize::try_from(config.connections.get()).unwrap_or(usize::MAX);
        let source = match dialect {
            Dialect::Sqlite => Prepared::<SqliteConnection>::new(&url, query, most, dialect).map(Source::Sqlite),
            Dialect::Postgres => Prepared::<PgConnection>::new(&url, query, most, dialect).map(Source::Postgres),
            Dialect::MySql => Prepared::<MySqlConnection>::new(&url, query, most, dialect).map(Source::MySql),
        };
        source.map(Self).map_err(|()| wrong_url(dialect.mistaken_url()))
    }

    /// The row about a user, as fields; `None` when there is none. A name that is not UTF-8 is in no database.
    ///
    /// The future may be dropped; the connection it used is then closed.
    ///
    /// # Errors
    /// Why it cannot be told, for the log.
    pub(super) async fn ask(&self, user: &UserName) -> Result<Option<Fields>, String> {
        let name = user.normalised();
        let Ok(name) = str::from_utf8(&name) else { return Ok(None) };
        let who = Who::new(name);
        match &self.0 {
            Source::Sqlite(source) => source.ask(&who).await,
            Source::Postgres(source) => source.ask(&who).await,
            Source::MySql(source) => source.ask(&who).await,
        }
    }
}

impl<'a> Who<'a> {
    fn new(user: &'a str) -> Self {
        let (local, domain) = user.rsplit_once('@').unwrap_or((user, ""));
        Self { user, local, domain }
    }

    fn value(&self, parameter: Parameter) -> String {
        let value = match parameter {
            Parameter::User => self.user,
            Parameter::Local => self.local,
            Parameter::Domain => self.domain,
        };
        value.to_owned()
    }
}

impl<C: Connection> Prepared<C> {
    fn new(url: &str, query: Query, connections: usize, dialect: Dialect) -> Result<Self, ()> {
        // sqlx would log what it is asked and how long it took; we have metrics for that.
        let options = url.parse::<C::Options>().map_err(|_| ())?.disable_statement_logging();
        let connections = Connections::new(options, connections);
        Ok(Self {
            dialect,
            connections,
            sql: AssertSqlSafe(Arc::<str>::from(query.sql)).into_sql_str(),
            parameters: query.parameters,
        })
    }
}

impl<C> Prepared<C>
where
    C: Connection,
    for<'c> &'c mut C: Executor<'c, Database = C::Database>,
    <C::Database as Database>::Arguments: IntoArguments<C::Database>,
    <C::Database as Database>::Row: Texts,
    for<'q> String: Encode<'q, C::Database> + Type<C::Database>,
{
    async fn ask(&self, who: &Who<'_>) -> Result<Option<Fields>, String> {
        let mut taken = self.connections.take().await.map_err(unconnected)?;
        let mut found = self.find(&mut taken, who).await;
        // A connection that was kept may be dead, or know tables as they were once: a new one tells the truth.
        if taken.was_kept && found.is_err() {
            taken = self.connections.renew(taken).await.map_err(unconnected)?;
            found = self.find(&mut taken, who).await;
        }
        let row = match found.map_err(|error| describe(&error))? {
            Found::Nobody => None,
            Found::One(row) => Some(row),
            Found::Several => return Err("the query found more than one row".to_owned()),
        };
        // A SQLite connection that is kept knows tables as they were: values of a table that has changed since would come
        // under the names of others. To open a new one costs no round trip.
        if self.dialect != Dialect::Sqlite {
            self.connections.put_back(taken);
        }
        row.as_ref().map(columns::fields).transpose()
    }

    /// Reading ends at a second row: a query that forgot its condition would otherwise bring in the whole table.
    async fn find(&self, taken: &mut Taken<'_, C>, who: &Who<'_>) -> Result<Found<RowOf<C>>, sqlx::Error> {
        let mut query = sqlx::query::<C::Database>(self.sql.clone());
        for parameter in &self.parameters {
            query = query.bind(who.value(*parameter));
        }
        let mut count = 0;
        let only = query.try_map(|row| {
            count += 1;
            if count == 1 { Ok(row) } else { Err(sqlx::Error::RowNotFound) }
        });
        match only.fetch_all(&mut taken.connection).await {
            Ok(rows) if rows.is_empty() && self.dialect == Dialect::Sqlite => is_alive(&mut taken.connection).await,
            Ok(mut rows) => Ok(rows.pop().map_or(Found::Nobody, Found::One)),
            Err(sqlx::Error::RowNotFound) => Ok(Found::Several),
            Err(sqlx::Error::Database(error)) if !who.user.is_ascii() && is_about_letters(&*error) => Ok(Found::Nobody),
            Err(error) => Err(error),
        }
    }
}

impl Dialect {
    /// The language of the database with this URL, which is checked as far as the driver would be silent.
    fn of(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once(':').unwrap_or_default();
        let dialect = match scheme.to_ascii_lowercase().as_str() {
            "sqlite" => return Ok(Self::Sqlite),
            "postgres" | "postgresql" => Self::Postgres,
            "mysql" | "mariadb" => Self::MySql,
            _ => return Err("not a URL of a database that is known\nexpected sqlite:, postgres: or mysql:".to_owned()),
        };
        if !rest.starts_with("//") {
            return Err(dialect.mistaken_url());
        }
        // A misspelt `sslmode` would mean no TLS, and the driver would log what stands behind it.
        let rest = rest.split('#').next().unwrap_or_default();
        let query = rest.split_once('?').map_or("", |(_, query)| query);
        let mut keys = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
        if keys.all(|key| dialect.knows_key(key)) {
            Ok(dialect)
        } else {
            Err("a parameter in the URL is not known, or a `?` in the password is not written as %3F".to_owned())
        }
    }

    fn knows_key(self, key: &str) -> bool {
        let both = [
            "",
            "sslmode",
            "ssl-mode",
            "ssl-ca",
            "sslcert",
            "ssl-cert",
            "sslkey",
            "ssl-key",
            "statement-cache-capacity",
        ];
        let postgres = [
            "sslrootcert",
            "ssl-root-cert",
            "host",
            "hostaddr",
            "port",
            "dbname",
            "user",
            "password",
            "application_name",
            "options",
        ];
        let mysql = ["sslca", "charset", "collation", "socket", "timezone", "time-zone"];
        both.contains(&key)
            || match self {
                Self::Sqlite => false,
                Self::Postgres => postgres.contains(&key) || key.starts_with("options["),
                Self::MySql => mysql.contains(&key),
            }
    }

    fn mistaken_url(self) -> String {
        let expected = match self {
            Self::Sqlite => "sqlite:PATH or sqlite:PATH?mode=ro",
            Self::Postgres => "postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full, special characters as %XX",
            Self::MySql => "mysql://USER:PASSWORD@HOST/DATABASE?ssl-mode=VERIFY_IDENTITY, special characters as %XX",
        };
        format!("not a URL of a database\nexpected {expected}")
    }
}

/// The URL, which may be a secret, and where it stands.
fn read_url(url: &DatabaseUrl) -> Result<(Zeroizing<String>, &Site), Finding> {
    match url {
        DatabaseUrl::Written(at) => Ok((Zeroizing::new(at.value.clone()), &at.site)),
        DatabaseUrl::File(at) => {
            let finding = |message| Finding { site: Some(at.site.clone()), message };
            let secret = secret_file::read(&at.value).map_err(finding)?;
            let url = str::from_utf8(secret.reveal())
                .map_err(|_| finding(format!("{} is not UTF-8 text", at.value.display())))?;
            Ok((Zeroizing::new(url.to_owned()), &at.site))
        }
    }
}

/// Whether an empty answer of SQLite is one. When a table changes while it is read, the thread that reads panics, and
/// that looks the same; what is then asked of the dead thread may wait for ever.
async fn is_alive<C: Connection, R>(connection: &mut C) -> Result<Found<R>, sqlx::Error> {
    let alive = time::timeout(LONGEST_SILENCE, connection.ping()).await;
    alive.unwrap_or(Err(sqlx::Error::WorkerCrashed)).map(|()| Found::Nobody)
}

/// Whether a database complains that a name has letters which its own character set lacks. Then it knows no such user.
fn is_about_letters(error: &dyn DatabaseError) -> bool {
    if let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() {
        // An illegal mix of collations; a conversion that is impossible.
        return matches!(error.number(), 1267 | 1270 | 1271 | 3988);
    }
    matches!(error.code().as_deref(), Some("22P05" | "22021"))
}

fn unconnected(reason: Unconnected) -> String {
    match reason {
        Unconnected::Late => "no connection to the database came free or came up in time".to_owned(),
        // Before anything was asked, what does not fit the protocol is no answer, and tells what is missing.
        Unconnected::Failed(sqlx::Error::Protocol(message)) => format!("the database: {}", brief(&message)),
        Unconnected::Failed(error) => describe(&error),
    }
}

/// An error in words that hold neither the URL nor a value.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => describe_refusal(&**error),
        sqlx::Error::Io(error) => format!("the database cannot be reached: {}", brief(error)),
        sqlx::Error::Tls(error) => format!("TLS with the database failed: {}", brief(error)),
        sqlx::Error::Configuration(_) => "the database's URL cannot be used".to_owned(),
        sqlx::Error::WorkerCrashed => "the thread that reads the database has died".to_owned(),
        _ => "what the database answered makes no sense".to_owned(),
    }
}

/// What a database says of itself, the query and our rights is shown; what it says of values is not.
fn describe_refusal(error: &dyn DatabaseError) -> String {
    let code = error.code().unwrap_or_default();
    let number = error.try_downcast_ref::<MySqlDatabaseError>().map(|error| format!("/{}", error.number()));
    let code = format!("{}{}", brief(&code), number.unwrap_or_default());
    let is_harmless = error.try_downcast_ref::<SqliteError>().is_some()
        || ["08", "28", "3D", "3F", "42", "53", "57"].iter().any(|class| code.starts_with(class));
    let message = if is_harmless { format!(": {}", brief(error.message())) } else { String::new() };
    format!("the database refused (code {code}){message}")
}

fn brief(text: impl fmt::Display) -> String {
    let text = text.to_string();
    escape(&text.as_bytes()[..text.len().min(LONGEST_MESSAGE)]).to_string()
}

#[cfg(test)]
mod tests;
