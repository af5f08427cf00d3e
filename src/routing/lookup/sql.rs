//! Databases: one query with bound parameters, one row at most, columns as fields of a route. SQLite, PostgreSQL and MySQL,
//! through sqlx. `query.rs` puts parameters into the dialect. What users are called never becomes part of a statement. Not
//! here: what fields mean, caches, deadlines (the caller's).

mod query;

use std::str::FromStr;
use std::sync::OnceLock;

use futures_util::TryStreamExt as _;
use sqlx::database::HasStatementCache;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{
    AssertSqlSafe, Column, ColumnIndex, ConnectOptions, Database, Decode, Encode, Executor, IntoArguments, Pool, Row,
    Type,
};
use zeroize::Zeroizing;

use self::query::{Dialect, Query, Value};
use super::fields::Fields;
use crate::config::{self, DatabaseUrl, Finding};
use crate::imap::{UserName, escape};
use crate::secret_file;

/// The longest error text of a database that is passed on.
const LONGEST_ERROR: usize = 300;

/// A database.
pub(super) struct Sql {
    database: Kind,
    query: Query,
    connections: u32,
}

/// A pool needs a runtime, and there is none yet when settings are read; so each is made at the first question.
enum Kind {
    Sqlite(Box<SqliteConnectOptions>, OnceLock<SqlitePool>),
    Postgres(Box<PgConnectOptions>, OnceLock<PgPool>),
    MySql(Box<MySqlConnectOptions>, OnceLock<MySqlPool>),
}

impl Sql {
    /// Checks the settings; nothing is asked yet, and a database that is away is no mistake.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(super) fn new(config: &config::SqlLookup) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let database = match read_url(&config.url) {
            Ok(database) => Some(database),
            Err(finding) => {
                findings.push(finding);
                None
            }
        };
        // Mistakes in the query are found with any dialect.
        let dialect = database.as_ref().map_or(Dialect::Question, Kind::dialect);
        let query = Query::parse(&config.query.value, dialect);
        let query =
            query.map_err(|message| findings.push(Finding { site: Some(config.query.site.clone()), message })).ok();
        let (Some(database), Some(query)) = (database, query) else { return Err(findings) };
        Ok(Self { database, query, connections: config.connections.get() })
    }

    /// Asks for a user's row; `None` when there is none, or can be none since the name is not UTF-8.
    ///
    /// # Errors
    /// Why there is no answer, for the log; no password, no URL.
    pub(super) async fn ask(&self, user: &UserName) -> Result<Option<Fields>, String> {
        let name = user.normalised();
        let Ok(name) = std::str::from_utf8(&name) else { return Ok(None) };
        let values = self.query.values(name);
        let most = self.connections;
        let text = &self.query.text;
        match &self.database {
            Kind::Sqlite(options, pool) => {
                let open = || pool_options().max_connections(most).connect_lazy_with((**options).clone());
                one_row(pool.get_or_init(open), text, &values).await
            }
            Kind::Postgres(options, pool) => {
                let open = || pool_options().max_connections(most).connect_lazy_with((**options).clone());
                one_row(pool.get_or_init(open), text, &values).await
            }
            Kind::MySql(options, pool) => {
                let open = || pool_options().max_connections(most).connect_lazy_with((**options).clone());
                one_row(pool.get_or_init(open), text, &values).await
            }
        }
    }
}

impl Kind {
    fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(..) | Self::MySql(..) => Dialect::Question,
            Self::Postgres(..) => Dialect::Numbered,
        }
    }
}

fn pool_options<DB: Database>() -> sqlx::pool::PoolOptions<DB> {
    sqlx::pool::PoolOptions::new()
}

fn read_url(url: &DatabaseUrl) -> Result<Kind, Finding> {
    let (text, site) = match url {
        DatabaseUrl::Written(url) => (Zeroizing::new(url.value.clone().into_bytes()), &url.site),
        DatabaseUrl::File(file) => {
            let finding = |message| Finding { site: Some(file.site.clone()), message };
            let secret = secret_file::read(&file.value).map_err(finding)?;
            (Zeroizing::new(secret.reveal().to_vec()), &file.site)
        }
    };
    let finding = |message: &str| Finding { site: Some(site.clone()), message: message.to_owned() };
    // The URL itself may hold a password and stands in no message.
    let broken = |_: sqlx::Error| finding("this is no URL of a database that can be read");
    let text = std::str::from_utf8(&text).map_err(|_| finding("this is no URL of a database: not UTF-8"))?;
    let (scheme, _) = text.split_once(':').unwrap_or_default();
    match scheme {
        "sqlite" => {
            let options = SqliteConnectOptions::from_str(text).map_err(broken)?;
            Ok(Kind::Sqlite(Box::new(options.read_only(true).disable_statement_logging()), OnceLock::new()))
        }
        "postgres" | "postgresql" => {
            let options = PgConnectOptions::from_str(text).map_err(broken)?;
            let options = options.application_name("mailmux").disable_statement_logging();
            Ok(Kind::Postgres(Box::new(options), OnceLock::new()))
        }
        "mysql" | "mariadb" => {
            let options = MySqlConnectOptions::from_str(text).map_err(broken)?;
            Ok(Kind::MySql(Box::new(options.disable_statement_logging()), OnceLock::new()))
        }
        _ => Err(finding("this is no URL of a database\nexpected sqlite:FILE, postgres://... or mysql://...")),
    }
}

/// The only row, if there is one.
async fn one_row<DB>(pool: &Pool<DB>, text: &str, values: &[Value<'_>]) -> Result<Option<Fields>, String>
where
    DB: Database + HasStatementCache,
    for<'c> &'c Pool<DB>: Executor<'c, Database = DB>,
    DB::Arguments: IntoArguments<DB>,
    for<'v> &'v str: Encode<'v, DB> + Type<DB>,
    for<'v> String: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    for<'v> Vec<u8>: Decode<'v, DB> + Type<DB>,
    for<'v> i64: Decode<'v, DB> + Type<DB>,
    for<'v> i32: Decode<'v, DB> + Type<DB>,
    for<'v> i16: Decode<'v, DB> + Type<DB>,
    for<'v> bool: Decode<'v, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    // It is the operator's text; what users say is bound.
    // Not kept prepared: tables change while we run, and what was prepared before then fails, or finds nobody.
    let mut query = sqlx::query::<DB>(AssertSqlSafe(text.to_owned())).persistent(false);
    for value in values {
        query = query.bind(value.as_ref().to_owned());
    }
    let mut rows = query.fetch(pool);
    let Some(row) = rows.try_next().await.map_err(explain)? else { return Ok(None) };
    if rows.try_next().await.map_err(explain)?.is_some() {
        return Err("the query gives more than one row for this user".to_owned());
    }
    let mut fields = Fields::default();
    for (index, column) in row.columns().iter().enumerate() {
        if let Some(value) = column_text::<DB>(&row, index)
            .map_err(|()| format!("column \"{}\" is neither text nor a number", escape(column.name().as_bytes())))?
        {
            fields.0.push((column.name().to_ascii_lowercase(), value));
        }
    }
    Ok(Some(fields))
}

/// A column as text; `None`: NULL.
fn column_text<DB>(row: &DB::Row, index: usize) -> Result<Option<Zeroizing<Vec<u8>>>, ()>
where
    DB: Database,
    for<'v> String: Decode<'v, DB> + Type<DB>,
    for<'v> Vec<u8>: Decode<'v, DB> + Type<DB>,
    for<'v> i64: Decode<'v, DB> + Type<DB>,
    for<'v> i32: Decode<'v, DB> + Type<DB>,
    for<'v> i16: Decode<'v, DB> + Type<DB>,
    for<'v> bool: Decode<'v, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    let number = |number: String| Zeroizing::new(number.into_bytes());
    if let Ok(value) = row.try_get::<Option<String>, _>(index) {
        return Ok(value.map(|text| Zeroizing::new(text.into_bytes())));
    }
    if let Ok(value) = row.try_get::<Option<Vec<u8>>, _>(index) {
        return Ok(value.map(Zeroizing::new));
    }
    if let Ok(value) = row.try_get::<Option<i64>, _>(index) {
        return Ok(value.map(|value| number(value.to_string())));
    }
    if let Ok(value) = row.try_get::<Option<i32>, _>(index) {
        return Ok(value.map(|value| number(value.to_string())));
    }
    if let Ok(value) = row.try_get::<Option<i16>, _>(index) {
        return Ok(value.map(|value| number(value.to_string())));
    }
    let value = row.try_get::<Option<bool>, _>(index).map_err(|_| ())?;
    Ok(value.map(|value| number(if value { "yes" } else { "no" }.to_owned())))
}

/// A database's error in one bounded line.
#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn explain(error: sqlx::Error) -> String {
    let text = match &error {
        sqlx::Error::Configuration(_) => "the URL cannot be used".to_owned(),
        sqlx::Error::PoolTimedOut => "all connections are in use or cannot be made".to_owned(),
        error => error.to_string(),
    };
    let text: Vec<u8> = text.into_bytes().into_iter().take(LONGEST_ERROR).collect();
    escape(&text).to_string()
}

#[cfg(test)]
mod tests;
