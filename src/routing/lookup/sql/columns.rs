//! What a row says, as text: each database has its own types and its own way to hand them over. Not here: what the
//! fields mean.

use sqlx::mysql::MySqlRow;
use sqlx::postgres::{PgRow, PgTypeInfo, PgTypeKind};
use sqlx::sqlite::SqliteRow;
use sqlx::{Column, Row, TypeInfo, ValueRef};
use zeroize::Zeroizing;

use super::super::fields::Fields;
use crate::imap::escape;

/// More columns than any route has fields.
const MOST_COLUMNS: usize = 64;

/// No field is longer: a certificate would fit, a picture would not.
const LONGEST_VALUE: usize = 64 * 1024;

/// A value as text; nothing if it is NULL; or the name of a type that cannot be text.
pub(super) type Text = Result<Option<Zeroizing<Vec<u8>>>, String>;

/// A row whose values can be had as text.
pub(super) trait Texts: Row {
    /// The value in this column, if it is text, bytes, a whole number or a truth.
    fn text(&self, index: usize) -> Text;
}

/// The columns that hold something, by name.
///
/// # Errors
/// What cannot be read; names of columns and types, never a value.
pub(super) fn fields(row: &impl Texts) -> Result<Fields, String> {
    if row.columns().len() > MOST_COLUMNS {
        return Err(format!("a row of more than {MOST_COLUMNS} columns"));
    }
    let mut fields = Vec::new();
    for (index, column) in row.columns().iter().enumerate() {
        let name = column.name().to_lowercase();
        let shown = escape(name.as_bytes()).to_string();
        let value = row.text(index).map_err(|kind| {
            format!("column \"{shown}\" is of type {}; let the query cast it to text", escape(kind.as_bytes()))
        })?;
        let Some(value) = value else { continue };
        if value.len() > LONGEST_VALUE {
            return Err(format!("column \"{shown}\" holds more than {LONGEST_VALUE} bytes"));
        }
        fields.push((name, value));
    }
    Ok(Fields(fields))
}

impl Texts for SqliteRow {
    fn text(&self, index: usize) -> Text {
        let value = self.try_get_raw(index).map_err(|_| unreadable())?;
        if value.is_null() {
            return Ok(None);
        }
        // The type of the value itself; that a number stands for a truth is known of the column alone.
        let kind = value.type_info().name().to_owned();
        let is_truth = self.columns().get(index).is_some_and(|column| column.type_info().name() == "BOOLEAN");
        match kind.as_str() {
            "TEXT" | "BLOB" => bytes(self.try_get_unchecked(index)),
            "INTEGER" if is_truth => truth(self.try_get_unchecked::<i64, _>(index).map(|number| number != 0)),
            "INTEGER" => number(self.try_get_unchecked::<i64, _>(index)),
            _ => Err(kind),
        }
    }
}

impl Texts for PgRow {
    fn text(&self, index: usize) -> Text {
        let value = self.try_get_raw(index).map_err(|_| unreadable())?;
        if value.is_null() {
            return Ok(None);
        }
        let info = value.type_info();
        let base = base_type(&info);
        match base.name() {
            "BOOL" => truth(self.try_get_unchecked(index)),
            "INT2" => number(self.try_get_unchecked::<i16, _>(index)),
            "INT4" => number(self.try_get_unchecked::<i32, _>(index)),
            "INT8" => number(self.try_get_unchecked::<i64, _>(index)),
            "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN" | "BYTEA" => bytes(self.try_get_unchecked(index)),
            _ if base.name().eq_ignore_ascii_case("citext") || matches!(base.kind(), PgTypeKind::Enum(_)) => {
                bytes(self.try_get_unchecked(index))
            }
            other => Err(other.to_owned()),
        }
    }
}

/// A domain is a type with conditions; they have been checked.
fn base_type(info: &PgTypeInfo) -> &PgTypeInfo {
    let mut base = info;
    while let PgTypeKind::Domain(inner) = base.kind() {
        base = inner;
    }
    base
}

impl Texts for MySqlRow {
    fn text(&self, index: usize) -> Text {
        let value = self.try_get_raw(index).map_err(|_| unreadable())?;
        if value.is_null() {
            return Ok(None);
        }
        let kind = value.type_info().name().to_owned();
        match kind.as_str() {
            "BOOLEAN" => truth(self.try_get_unchecked::<i64, _>(index).map(|number| number != 0)),
            "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => number(self.try_get_unchecked::<i64, _>(index)),
            "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED" | "BIGINT UNSIGNED" => {
                number(self.try_get_unchecked::<u64, _>(index))
            }
            "CHAR" | "VARCHAR" | "TINYTEXT" | "TEXT" | "MEDIUMTEXT" | "LONGTEXT" | "BINARY" | "VARBINARY"
            | "TINYBLOB" | "BLOB" | "MEDIUMBLOB" | "LONGBLOB" | "ENUM" | "SET" => bytes(self.try_get_unchecked(index)),
            _ => Err(kind),
        }
    }
}

fn bytes(value: sqlx::Result<Vec<u8>>) -> Text {
    value.map(|bytes| Some(Zeroizing::new(bytes))).map_err(|_| unreadable())
}

fn number(value: sqlx::Result<impl ToString>) -> Text {
    value.map(|number| Some(Zeroizing::new(number.to_string().into_bytes()))).map_err(|_| unreadable())
}

fn truth(value: sqlx::Result<bool>) -> Text {
    let word = |is_true| if is_true { b"yes".to_vec() } else { b"no".to_vec() };
    value.map(|is_true| Some(Zeroizing::new(word(is_true)))).map_err(|_| unreadable())
}

/// In place of a type's name: what was sent does not fit the type that it is said to have.
fn unreadable() -> String {
    "something else than it says".to_owned()
}
