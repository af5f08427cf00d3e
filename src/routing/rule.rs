//! One rule: when it applies, where it leads, and what name the user has there.

use std::sync::Arc;

use super::Asker;
use crate::config::{self, Glob, MasterForm, Pooling, Rewrite, RewritePiece, Target, When};
use crate::imap::{Secret, UserName};
use crate::network::is_in;

/// A rule with everything loaded that it needs.
pub(super) struct Rule {
    when: When,
    rewrite: Option<Rewrite>,
    pub(super) target: Target,
    pub(super) master: Option<Master>,
    /// The lookup that checks passwords, whatever the target is.
    pub(super) authenticate: Option<usize>,
    pub(super) pool: Pooling,
}

/// Who logs in for the users of a rule.
pub(super) struct Master {
    pub(super) user: UserName,
    pub(super) password: Arc<Secret>,
    pub(super) form: MasterForm,
}

/// What a lookup gives to log in with.
pub(super) enum Given {
    /// The user's own password there.
    Own(Arc<Secret>),
    /// A master user and its password.
    Master(UserName, Arc<Secret>),
}

impl Rule {
    pub(super) fn new(route: &config::Route, master: Option<Master>) -> Self {
        Self {
            when: route.when.clone(),
            rewrite: route.rewrite.clone(),
            target: route.target.clone(),
            master,
            authenticate: route.authenticate,
            pool: route.pool,
        }
    }

    /// All that is given must match.
    pub(super) fn applies(&self, asker: &Asker<'_>) -> bool {
        let When { user, domain, listener, server_name, client } = &self.when;
        user.as_ref().is_none_or(|glob| matches(glob, asker.user().as_bytes()))
            && domain.as_ref().is_none_or(|glob| asker.user().domain().is_some_and(|domain| matches(glob, domain)))
            && listener.as_ref().is_none_or(|listener| listener == asker.listener)
            && server_name.as_ref().is_none_or(|glob| {
                asker.origin.server_name.as_deref().is_some_and(|name| matches(glob, name.as_bytes()))
            })
            && (client.is_empty() || is_in(asker.origin.client.ip(), client))
    }

    /// The user's name at the backend; `None` when nothing is left of it.
    pub(super) fn renamed(&self, user: &UserName) -> Option<UserName> {
        let Some(Rewrite(pieces)) = &self.rewrite else { return Some(user.clone()) };
        let mut name = Vec::new();
        for piece in pieces {
            name.extend_from_slice(match piece {
                RewritePiece::Text(text) => text.as_bytes(),
                RewritePiece::User => user.as_bytes(),
                RewritePiece::Local => user.local(),
                RewritePiece::Domain => user.domain().unwrap_or_default(),
            });
        }
        UserName::new(name).ok()
    }
}

/// Whether the pieces stand in the text in their order, the first at its beginning and the last at its end. The earliest
/// place is right for each piece between, so this takes one pass and no stack.
pub(super) fn matches(Glob(pieces): &Glob, text: &[u8]) -> bool {
    let text = text.to_ascii_lowercase();
    let [first, middle @ .., last] = &pieces[..] else {
        return pieces.first().is_some_and(|whole| **whole == *text);
    };
    let Some(mut rest) = text.strip_prefix(&**first) else { return false };
    for piece in middle {
        if piece.is_empty() {
            continue;
        }
        let Some(at) = rest.windows(piece.len()).position(|window| *window == **piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob(pattern.split('*').map(|piece| piece.as_bytes().into()).collect())
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("ann", "ann", true),
            ("ann", "Ann", true),
            ("ann", "anna", false),
            ("*", "", true),
            ("*@example.org", "ann@EXAMPLE.org", true),
            ("*@example.org", "ann@example.org.evil", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "acb", false),
            ("**x**", "aaxbb", true),
        ] {
            assert_eq!(matches(&glob(pattern), text.as_bytes()), expected, "{pattern} on {text}");
        }
    }

    /// The textbook definition, slow and plain.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| by_definition(rest, &text[skip..])),
            Some((byte, rest)) => {
                text.split_first().is_some_and(|(head, tail)| head == byte && by_definition(rest, tail))
            }
        }
    }

    proptest! {
        #[test]
        fn as_the_definition_says(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(&glob(&pattern), text.as_bytes()), by_definition(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
