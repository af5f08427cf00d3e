//! Search filters made from a template and a user's name. What comes from the name is escaped as RFC 4515 section 3 has
//! it, always; nothing can turn that off. Not here: what is searched, and where.

use ldap3::{ldap_escape, parse_filter};

use crate::imap::UserName;

/// A template: `(&(objectClass=person)(mail={user}))`.
#[derive(Debug)]
pub(super) struct Filter(Vec<Piece>);

#[derive(Debug)]
enum Piece {
    Text(String),
    User,
    Local,
    Domain,
}

impl Filter {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn read(template: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (text, tail) = rest.split_at(at);
            pieces.push(Piece::Text(text.to_owned()));
            let (piece, length) = placeholder(tail)?;
            // A name in place of an attribute would choose what is compared.
            let before = &template[..template.len() - tail.len()];
            if !before.rsplit('(').next().is_some_and(|comparison| comparison.contains('=')) {
                return Err("a user's name stands only where a value does\nexpected (ATTRIBUTE={user})".to_owned());
            }
            pieces.push(piece);
            rest = &tail[length..];
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let filter = Self(pieces);
        parse_filter(filter.filled("a", "a", "a"))
            .map_err(|()| "not a search filter\nexpected something like (mail={user})".to_owned())?;
        Ok(filter)
    }

    /// The filter for a user; `None` for those whom no entry can match: their name is no text, or lacks a part that is
    /// asked for.
    pub(super) fn fill(&self, user: &UserName) -> Option<String> {
        let part = |bytes| str::from_utf8(bytes).ok();
        let (whole, local) = (part(user.as_bytes())?, part(user.local())?);
        let domain = part(user.domain().unwrap_or_default())?;
        let lacks = |piece: &Piece| match piece {
            Piece::Local => local.is_empty(),
            Piece::Domain => domain.is_empty(),
            Piece::Text(_) | Piece::User => false,
        };
        if self.0.iter().any(lacks) { None } else { Some(self.filled(whole, local, domain)) }
    }

    fn filled(&self, user: &str, local: &str, domain: &str) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.into(),
            Piece::User => ldap_escape(user),
            Piece::Local => ldap_escape(local),
            Piece::Domain => ldap_escape(domain),
        });
        pieces.collect()
    }
}

/// The placeholder that a text begins with, and how long it is there.
fn placeholder(text: &str) -> Result<(Piece, usize), String> {
    let known = [("{user}", Piece::User), ("{local}", Piece::Local), ("{domain}", Piece::Domain)];
    let found = known.into_iter().find(|(name, _)| text.starts_with(name));
    found.map(|(name, piece)| (piece, name.len())).ok_or_else(|| {
        "a brace that begins no placeholder\nexpected {user}, {local} or {domain}; a brace itself is \\7b or \\7d"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(template: &str, user: &[u8]) -> Option<String> {
        Filter::read(template).expect("a template").fill(&UserName::new(user).expect("a name"))
    }

    #[test]
    fn placeholders_are_the_parts_of_the_name() {
        let template = "(&(objectClass=person)(|(mail={user})(uid={local}))(dc=x{domain}y*))";
        assert_eq!(
            fill(template, b"ann@home@example.org").as_deref(),
            Some("(&(objectClass=person)(|(mail=ann@home@example.org)(uid=ann@home))(dc=xexample.orgy*))")
        );
        assert_eq!(fill(template, b"ann"), None, "there is no domain");
        assert_eq!(fill(template, b"@example.org"), None, "there is no local part");
        assert_eq!(fill("(uid={user})", b"@").as_deref(), Some("(uid=@)"));
        assert_eq!(fill("uid={user}", "jörg".as_bytes()).as_deref(), Some("uid=jörg"));
        assert_eq!(fill("(uid={user})", b"j\xf6rg"), None, "not UTF-8, so nobody's name");
    }

    #[test]
    fn a_name_never_says_more_than_a_name() {
        for (name, expected) in [
            ("*", "(uid=\\2a)"),
            ("ann)(uid=*", "(uid=ann\\29\\28uid=\\2a)"),
            ("\\2a", "(uid=\\5c2a)"),
            ("a*))(|(objectClass=*)", "(uid=a\\2a\\29\\29\\28|\\28objectClass=\\2a\\29)"),
            ("{user}{domain}", "(uid={user}{domain})"),
            ("\u{13}\u{1b}&|!~<>=", "(uid=\u{13}\u{1b}&|!~<>=)"),
        ] {
            let filter = fill("(uid={user})", name.as_bytes()).expect("a filter");
            assert_eq!(filter, expected);
            assert!(parse_filter(&filter).is_ok(), "{filter:?}");
        }
    }

    #[test]
    fn templates_that_cannot_work_are_told() {
        for (template, expected) in [
            ("(uid={name})", "a brace that begins no placeholder"),
            ("(uid={user)", "a brace"),
            ("(uid=user})", "a brace"),
            ("(uid={{user}})", "a brace"),
            ("({user}=x)", "only where a value"),
            ("{user}", "only where a value"),
            ("(&(uid=x)({local}=x))", "only where a value"),
            ("(uid={user}", "not a search filter"),
            ("", "not a search filter"),
            ("(uid=({user}))", "only where a value"),
        ] {
            let error = Filter::read(template).expect_err("wrong");
            assert!(error.contains(expected), "{template}: {error}");
        }
    }

    proptest! {
        /// Whatever the name, what goes on the wire is one comparison, and its value is the name to the last byte.
        #[test]
        fn the_value_compared_is_the_name(name in "[^\r\n\0]{1,40}|[*()\\\\&|!={}a-f0-9]{1,40}") {
            let filter = fill("(uid={user})", name.as_bytes()).expect("a filter");
            let plain = format!("{:?}", parse_filter("(uid=X)").expect("a filter"));
            let value = |bytes: &[u8]| format!("inner: {bytes:?}");
            prop_assert_eq!(
                format!("{:?}", parse_filter(&filter).expect("a filter")),
                plain.replace(&value(b"X"), &value(name.as_bytes()))
            );
        }
    }
}
