//! The query as it is written (`:user`, `:local`, `:domain`) and as a database takes it (`?` or `$1`). Only places for
//! values are exchanged: no value ever becomes part of the text. Not here: connections, answers.
//!
//! What stands in quotes and comments is left alone, so each database's own kinds of them are known here.

use super::Dialect;

/// What of a user's name stands at a place of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameter {
    User,
    Local,
    Domain,
}

/// A query, ready to be prepared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) sql: String,
    /// What is bound, in this order.
    pub(super) parameters: Vec<Parameter>,
}

impl Query {
    /// # Errors
    /// Every mistake in it.
    pub(super) fn read(text: &str, dialect: Dialect) -> Result<Self, Vec<String>> {
        let mut reader =
            Reader { text, at: 0, dialect, sql: String::new(), parameters: Vec::new(), mistakes: Vec::new() };
        reader.run();
        let Reader { sql, parameters, mut mistakes, .. } = reader;
        if sql.trim().is_empty() {
            mistakes = vec!["there is no query".to_owned()];
        } else if parameters.is_empty() && mistakes.is_empty() {
            mistakes.push("the query asks the same of everybody\nexpected :user, :local or :domain in it".to_owned());
        }
        if mistakes.is_empty() { Ok(Self { sql, parameters }) } else { Err(mistakes) }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    dialect: Dialect,
    sql: String,
    parameters: Vec<Parameter>,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    fn run(&mut self) {
        let mut has_ended = false;
        while let Some(next) = self.rest().chars().next() {
            if let Some(length) = self.opaque() {
                has_ended = self.is_late(has_ended, !self.is_comment());
                self.copy(length);
                continue;
            }
            match next {
                ':' => self.colon(),
                '?' if self.dialect != Dialect::Postgres => self.foreign("?"),
                '$' if self.is_foreign_dollar() => self.foreign("$"),
                '@' if self.dialect == Dialect::Sqlite && self.starts_word(1, true) => self.foreign("@"),
                _ => self.copy(next.len_utf8()),
            }
            has_ended = if next == ';' { true } else { self.is_late(has_ended, !next.is_whitespace()) };
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn copy(&mut self, length: usize) {
        let end = (self.at + length).min(self.text.len());
        self.sql.push_str(&self.text[self.at..end]);
        self.at = end;
    }

    /// Whether the statement has ended, and no mistake was made of it yet: something stands behind its end.
    fn is_late(&mut self, has_ended: bool, says_something: bool) -> bool {
        if has_ended && says_something {
            self.mistakes.push("more than one statement\nexpected one query".to_owned());
        }
        has_ended && !says_something
    }

    /// `:user`; `::` is a cast, `:=` and the `:2` of a slice are nothing of ours either.
    fn colon(&mut self) {
        let is_name = self.starts_word(1, self.dialect == Dialect::Sqlite);
        if self.rest().starts_with("::") {
            return self.copy(2);
        }
        if !is_name {
            return self.copy(1);
        }
        let name = word(&self.rest()[1..]);
        let parameter = match name {
            "user" => Parameter::User,
            "local" => Parameter::Local,
            "domain" => Parameter::Domain,
            other => {
                let mistake = format!("no such parameter: `:{other}`\nexpected :user, :local or :domain");
                self.mistakes.push(mistake);
                self.at += 1 + other.len();
                return;
            }
        };
        self.at += 1 + name.len();
        self.place(parameter);
    }

    fn place(&mut self, parameter: Parameter) {
        if self.dialect != Dialect::Postgres {
            self.parameters.push(parameter);
            return self.sql.push('?');
        }
        let known = self.parameters.iter().position(|known| *known == parameter);
        let index = known.unwrap_or_else(|| {
            self.parameters.push(parameter);
            self.parameters.len() - 1
        });
        self.sql.push('$');
        self.sql.push_str(&(index + 1).to_string());
    }

    /// A place for a value as the database itself writes it: nobody would fill it.
    fn foreign(&mut self, sign: &str) {
        self.mistakes.push(format!("`{sign}` is a parameter that nobody fills\nexpected :user, :local or :domain"));
        self.at += sign.len();
    }

    /// Names of columns may hold a `$`.
    fn is_foreign_dollar(&self) -> bool {
        !self.follows_word()
            && match self.dialect {
                Dialect::Sqlite => self.starts_word(1, true),
                Dialect::Postgres => self.rest().as_bytes().get(1).is_some_and(u8::is_ascii_digit),
                Dialect::MySql => false,
            }
    }

    fn starts_word(&self, offset: usize, or_digit: bool) -> bool {
        let next = self.rest().as_bytes().get(offset);
        next.is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_' || (or_digit && byte.is_ascii_digit()))
    }

    fn is_comment(&self) -> bool {
        let rest = self.rest();
        let is_dashes = rest.starts_with("--") && (self.dialect != Dialect::MySql || is_mysql_comment(rest));
        is_dashes || rest.starts_with("/*") || (self.dialect == Dialect::MySql && rest.starts_with('#'))
    }

    /// How long the quoted text or comment is that begins here; what does not end goes to the end.
    fn opaque(&mut self) -> Option<usize> {
        let rest = &self.text[self.at..];
        let found = if self.is_comment() {
            if rest.starts_with("/*") { comment(rest, self.dialect == Dialect::Postgres) } else { Some(line(rest)) }
        } else {
            let has_escapes = self.dialect == Dialect::MySql;
            match rest.as_bytes().first()? {
                b'\'' => quoted(rest, b'\'', has_escapes || self.is_escape_string()),
                b'"' => quoted(rest, b'"', has_escapes),
                b'`' if self.dialect != Dialect::Postgres => quoted(rest, b'`', false),
                b'[' if self.dialect == Dialect::Sqlite => rest.find(']').map(|end| end + 1),
                b'$' => {
                    let mark = self.dollar_mark()?;
                    rest[mark.len()..].find(mark).map(|end| mark.len() + end + mark.len())
                }
                _ => return None,
            }
        };
        Some(found.unwrap_or_else(|| {
            self.mistakes.push("a quote or comment does not end".to_owned());
            rest.len()
        }))
    }

    /// PostgreSQL's `E'...'`.
    fn is_escape_string(&self) -> bool {
        let mut before = self.text[..self.at].bytes().rev();
        self.dialect == Dialect::Postgres
            && before.next().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'e'))
            && !before.next().is_some_and(is_word_byte)
    }

    /// The `$tag$` with which a text of PostgreSQL begins and ends; `$1` begins none.
    fn dollar_mark(&self) -> Option<&'a str> {
        let rest = self.rest();
        let length = rest[1..].find('$')?;
        let tag = &rest[1..=length];
        let is_tag = tag.bytes().all(|byte| byte != b'$' && is_word_byte(byte))
            && !tag.starts_with(|first: char| first.is_ascii_digit());
        (self.dialect == Dialect::Postgres && !self.follows_word() && is_tag).then(|| &rest[..length + 2])
    }

    fn follows_word(&self) -> bool {
        self.text[..self.at].bytes().next_back().is_some_and(is_word_byte)
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

fn word(text: &str) -> &str {
    &text[..text.bytes().position(|byte| !is_word_byte(byte)).unwrap_or(text.len())]
}

/// To MySQL `5--1` is a sum.
fn is_mysql_comment(text: &str) -> bool {
    text[2..].chars().next().is_none_or(|next| next.is_whitespace() || next.is_control())
}

fn line(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// A quote that is written twice does not end the text.
fn quoted(text: &str, quote: u8, has_escapes: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        let is_double = bytes[at] == quote && bytes.get(at + 1) == Some(&quote);
        if is_double || (has_escapes && bytes[at] == b'\\') {
            at += 2;
        } else if bytes[at] == quote {
            return Some(at + 1);
        } else {
            at += 1;
        }
    }
    None
}

fn comment(text: &str, nests: bool) -> Option<usize> {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        let rest = text.as_bytes().get(at..).filter(|rest| !rest.is_empty())?;
        if rest.starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else if nests && rest.starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else {
            at += 1;
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, dialect: Dialect) -> (String, Vec<Parameter>) {
        let query = Query::read(text, dialect).expect("sound");
        (query.sql, query.parameters)
    }

    fn mistakes(text: &str, dialect: Dialect) -> Vec<String> {
        Query::read(text, dialect).expect_err("mistaken")
    }

    const ALL: [Dialect; 3] = [Dialect::Sqlite, Dialect::Postgres, Dialect::MySql];

    #[test]
    fn names_become_places() {
        use Parameter::{Domain, Local, User};
        let text = "SELECT host FROM users WHERE name=:user OR (local = :local AND domain=:domain) OR alias = :user;\n";
        let question = "SELECT host FROM users WHERE name=? OR (local = ? AND domain=?) OR alias = ?;\n".to_owned();
        let numbers = "SELECT host FROM users WHERE name=$1 OR (local = $2 AND domain=$3) OR alias = $1;\n".to_owned();
        for dialect in [Dialect::Sqlite, Dialect::MySql] {
            assert_eq!(read(text, dialect), (question.clone(), vec![User, Local, Domain, User]));
        }
        assert_eq!(read(text, Dialect::Postgres), (numbers, vec![User, Local, Domain]));
    }

    #[test]
    fn quotes_comments_and_casts_stay() {
        for (dialect, before) in [
            (
                Dialect::Sqlite,
                "SELECT ':user', ':us''er', \"a:user\"\"b\", [:user], `:user` -- :user ?\n /* :user ; ' */",
            ),
            (
                Dialect::Postgres,
                "SELECT ':user\\', \":user\", E':a\\':b''\\\\', $$:user'$$, $t$ $$ :user $t$, x::text, a[1:2], b ? 'k' \
                 /* /* :user */ ' */ -- :user",
            ),
            (
                Dialect::MySql,
                "SELECT ':user\\':a', \":user\\\":b\", `:us``er`, 5--1, @v := 3 # :user '\n -- :user '\n /* :user /* */",
            ),
        ] {
            let text = format!("{before}\nFROM t WHERE n = :user");
            let place = if dialect == Dialect::Postgres { "$1" } else { "?" };
            assert_eq!(read(&text, dialect), (format!("{before}\nFROM t WHERE n = {place}"), vec![Parameter::User]));
        }
        let cast = read("SELECT 1 FROM t WHERE n = :user::citext AND a1$b$ = :local", Dialect::Postgres);
        assert_eq!(cast.0, "SELECT 1 FROM t WHERE n = $1::citext AND a1$b$ = $2");
    }

    #[test]
    fn every_mistake_is_told() {
        for dialect in ALL {
            let told = mistakes("SELECT :name, :User, :user_id FROM t WHERE u = :user", dialect);
            let expected = ["name", "User", "user_id"]
                .map(|name| format!("no such parameter: `:{name}`\nexpected :user, :local or :domain"));
            assert_eq!(told, expected);
            assert_eq!(
                mistakes("SELECT 1 WHERE :user; DROP TABLE t", dialect)[0].split('\n').next(),
                Some("more than one statement")
            );
            assert_eq!(mistakes("SELECT 1 WHERE :user = 'x", dialect), ["a quote or comment does not end"]);
            assert_eq!(mistakes("SELECT 1 /* :user", dialect), ["a quote or comment does not end"]);
            assert!(mistakes("SELECT ':user' FROM t", dialect)[0].starts_with("the query asks the same of everybody"));
            assert_eq!(mistakes(" \n", dialect), ["there is no query"]);
            assert!(Query::read("SELECT :user; -- done\n ; ", dialect).is_ok());
        }
        for (text, dialect) in [
            ("SELECT :user, ?", Dialect::Sqlite),
            ("SELECT :user, ?1", Dialect::MySql),
            ("SELECT :user, $x", Dialect::Sqlite),
            ("SELECT :user, @x", Dialect::Sqlite),
            ("SELECT :user, $2", Dialect::Postgres),
        ] {
            assert!(mistakes(text, dialect)[0].contains("is a parameter that nobody fills"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_nothing_else_changes(
            text in "(:user|:local|:domain|::|:|'|\"|`|\\[|\\]|--|#|/\\*|\\*/|\\$\\$|\\$a\\$|e'|\\\\|\n|;| |a|7|ä|x=){0,24}",
        ) {
            for dialect in ALL {
                if let Ok(query) = Query::read(&text, dialect) {
                    let mut back = query.sql.clone();
                    let names = |parameter: &Parameter| match parameter {
                        Parameter::User => ":user",
                        Parameter::Local => ":local",
                        Parameter::Domain => ":domain",
                    };
                    if dialect == Dialect::Postgres {
                        for (index, parameter) in query.parameters.iter().enumerate() {
                            back = back.replace(&format!("${}", index + 1), names(parameter));
                        }
                    } else {
                        for parameter in &query.parameters {
                            back = back.replacen('?', names(parameter), 1);
                        }
                    }
                    prop_assert_eq!(back, text.clone());
                }
            }
        }
    }
}
