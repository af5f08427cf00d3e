//! The query of an operator: `:user`, `:local` and `:domain` become parameters of the dialect. Strings, quoted names,
//! comments and casts (`::text`) are left alone. Pure.

use std::borrow::Cow;

/// How a dialect writes parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `?`, each time it occurs.
    Question,
    /// `$1`, the same number for the same value.
    Numbered,
}

/// A query in its dialect, and what stands for its parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) text: String,
    parameters: Vec<Parameter>,
}

/// What a query is told of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameter {
    User,
    Local,
    Domain,
}

/// What a parameter stands for in one question.
pub(super) type Value<'a> = Cow<'a, str>;

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(query: &str, dialect: Dialect) -> Result<Self, String> {
        let mut parsed = Self { text: String::with_capacity(query.len() + 8), parameters: Vec::new() };
        let mut rest = query;
        while let Some(first) = rest.chars().next() {
            let skipped = inert(rest)?;
            if skipped > 0 {
                parsed.text.push_str(&rest[..skipped]);
                rest = &rest[skipped..];
                continue;
            }
            let name = rest.strip_prefix(':').map(|rest| &rest[..word(rest)]).filter(|name| !name.is_empty());
            let Some(name) = name else {
                parsed.text.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            };
            let parameter = match name {
                "user" => Parameter::User,
                "local" => Parameter::Local,
                "domain" => Parameter::Domain,
                _ => return Err(format!(":{name} stands for nothing\nexpected :user, :local or :domain")),
            };
            parsed.put(parameter, dialect);
            rest = &rest[1 + name.len()..];
        }
        if parsed.parameters.is_empty() {
            return Err("asks for nobody\nexpected :user, :local or :domain in it".to_owned());
        }
        Ok(parsed)
    }

    fn put(&mut self, parameter: Parameter, dialect: Dialect) {
        match dialect {
            Dialect::Question => {
                self.parameters.push(parameter);
                self.text.push('?');
            }
            Dialect::Numbered => {
                let known = self.parameters.iter().position(|known| *known == parameter);
                let place = known.unwrap_or_else(|| {
                    self.parameters.push(parameter);
                    self.parameters.len() - 1
                });
                self.text.push('$');
                self.text.push_str(&(place + 1).to_string());
            }
        }
    }

    /// What is to be bound, in order, for this user.
    pub(super) fn values<'a>(&self, user: &'a str) -> Vec<Value<'a>> {
        let (local, domain) = user.rsplit_once('@').unwrap_or((user, ""));
        let value = |parameter: &Parameter| match parameter {
            Parameter::User => user,
            Parameter::Local => local,
            Parameter::Domain => domain,
        };
        self.parameters.iter().map(|parameter| Cow::Borrowed(value(parameter))).collect()
    }
}

/// How much at the beginning is a string, a quoted name, a comment or a cast, in which nothing is looked for.
fn inert(text: &str) -> Result<usize, String> {
    let up_to = |open: &str, close: &str| {
        let end = text[open.len()..].find(close).map(|at| open.len() + at + close.len());
        end.ok_or_else(|| format!("a {open} without its {close}"))
    };
    match text.as_bytes() {
        [b'\'', ..] => up_to("'", "'"),
        [b'"', ..] => up_to("\"", "\""),
        [b'`', ..] => up_to("`", "`"),
        [b'/', b'*', ..] => up_to("/*", "*/"),
        [b'-', b'-', ..] => Ok(text.find('\n').unwrap_or(text.len())),
        [b':', b':', ..] => Ok(2),
        _ => Ok(0),
    }
}

fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(query: &str, dialect: Dialect) -> String {
        Query::parse(query, dialect).expect("sound").text
    }

    #[test]
    fn parameters_of_both_dialects() {
        let query = "SELECT host FROM u WHERE name = :user OR (l = :local AND d = :domain) OR alias = :user";
        assert_eq!(
            text(query, Dialect::Question),
            "SELECT host FROM u WHERE name = ? OR (l = ? AND d = ?) OR alias = ?"
        );
        assert_eq!(
            text(query, Dialect::Numbered),
            "SELECT host FROM u WHERE name = $1 OR (l = $2 AND d = $3) OR alias = $1"
        );
        let values = |dialect| Query::parse(query, dialect).expect("sound").values("a@b@c").join(",");
        assert_eq!(values(Dialect::Question), "a@b@c,a@b,c,a@b@c");
        assert_eq!(values(Dialect::Numbered), "a@b@c,a@b,c");
        assert_eq!(Query::parse(query, Dialect::Numbered).expect("sound").values("ann").join(","), "ann,ann,");
    }

    #[test]
    fn strings_names_comments_and_casts_are_left_alone() {
        for inert in ["':user'", "'it''s :user'", "\":user\"", "`:user`", "/* :user */", "-- :user\n", "a::user"] {
            let query = format!("SELECT {inert} WHERE x = :user");
            assert_eq!(text(&query, Dialect::Question), format!("SELECT {inert} WHERE x = ?"));
        }
        assert_eq!(text("SELECT ä, :user", Dialect::Question), "SELECT ä, ?");
    }

    #[test]
    fn mistakes() {
        for (query, expected) in [
            ("SELECT 1", "asks for nobody"),
            ("SELECT :password", ":password stands for nothing"),
            ("SELECT ':user", "a ' without its '"),
            ("SELECT :user /*", "a /* without its */"),
        ] {
            let error = Query::parse(query, Dialect::Question).expect_err(query);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(query in "[:a-z'\"`/*\n $ä-]{0,40}") {
            let _ = Query::parse(&query, Dialect::Numbered);
        }
    }
}
