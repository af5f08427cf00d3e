//! The text of a configuration with nothing secret in it, for people who are to see what is in use: comments are left out, and
//! what may be a secret is "***". Which strings those are is decided by the keys that they stand under; where they begin and
//! end, and what is a comment, by the TOML as it was parsed, never by what a line looks like. `masks.rs` knows what to hide of
//! a URL and of a query.

mod masks;

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What stands in place of a secret.
const MASK: &str = "***";

/// The text of a configuration with nothing secret in it. Two are equal whatever they say: what a configuration means is in
/// its other parts.
#[derive(Clone)]
pub struct Masked(Arc<str>);

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Masked")
    }
}

impl PartialEq for Masked {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What is hidden of the strings under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    /// Nothing, unless it looks like a URL.
    Nothing,
    /// Nothing, whatever the keys are called.
    Never,
    All,
    /// Passwords and parameters.
    OfUrl,
    /// Constants and comments.
    OfQuery,
}

impl Masked {
    /// What may be shown of this text. Of one that is no TOML: nothing.
    pub fn of(text: &str) -> Self {
        Self(masked(text).unwrap_or_default().into())
    }

    /// The text, in TOML.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Hidden {
    fn under(self, key: &str) -> Self {
        let name = key.to_ascii_lowercase();
        let names_a_secret = ["password", "passphrase", "passwd", "secret", "token", "credential"]
            .iter()
            .any(|word| name.contains(word));
        match name.as_str() {
            _ if matches!(self, Self::All | Self::Never) => self,
            "headers" => Self::All,
            "url" => Self::OfUrl,
            "query" => Self::OfQuery,
            // The names of attributes and fields, `userPassword` among them.
            "attributes" => Self::Never,
            _ if names_a_secret && !name.ends_with("_file") => Self::All,
            _ => self,
        }
    }

    /// What is shown in place of a string; `None`: the string.
    fn mask(self, text: &str) -> Option<String> {
        let shown = match self {
            Self::All => MASK.to_owned(),
            Self::OfQuery => masks::query(text),
            Self::OfUrl => masks::url(text),
            Self::Nothing if text.contains("://") => masks::url(text),
            Self::Nothing | Self::Never => return None,
        };
        (shown != text).then_some(shown)
    }
}

/// A key or a value that is no list and no table: where it stands, and what to put there.
type Token = (Range<usize>, Option<String>);

fn masked(text: &str) -> Option<String> {
    let root = DeTable::parse(text).ok()?;
    let mut tokens = Vec::new();
    of_table(root.get_ref(), Hidden::Nothing, &mut tokens);
    tokens.sort_by_key(|(span, _)| (span.start, span.end));
    let mut shown = String::with_capacity(text.len());
    let mut at = 0;
    for (span, mask) in tokens {
        // Nothing is shown of what is not understood.
        add_between(&mut shown, text.get(at..span.start)?);
        match mask {
            Some(mask) => add_string(&mut shown, &mask),
            None => shown.push_str(text.get(span.clone())?),
        }
        at = span.end;
    }
    add_between(&mut shown, text.get(at..)?);
    shown.truncate(shown.trim_end().len());
    shown.push('\n');
    Some(shown)
}

/// The recursion is as deep as the TOML, which its parser bounds.
fn of_table(table: &DeTable<'_>, hidden: Hidden, tokens: &mut Vec<Token>) {
    for (key, value) in table {
        tokens.push((key.span(), None));
        of_value(value, hidden.under(key.get_ref()), tokens);
    }
}

fn of_value(value: &Spanned<DeValue<'_>>, hidden: Hidden, tokens: &mut Vec<Token>) {
    match value.get_ref() {
        DeValue::Table(table) => of_table(table, hidden, tokens),
        DeValue::Array(array) => array.iter().for_each(|element| of_value(element, hidden, tokens)),
        DeValue::String(text) => tokens.push((value.span(), hidden.mask(text))),
        _ => tokens.push((value.span(), (hidden == Hidden::All).then(|| MASK.to_owned()))),
    }
}

/// What stands between keys and values holds no string, so that a `#` in it begins a comment. A line that has nothing but a
/// comment is left out, and so are blank lines that would stand in a row.
fn add_between(shown: &mut String, between: &str) {
    for line in between.split_inclusive('\n') {
        let is_at_start = shown.is_empty() || shown.ends_with('\n');
        match line.split_once('#') {
            Some((before, _)) if is_at_start && before.trim().is_empty() => {}
            Some((before, _)) => {
                shown.push_str(before.trim_end());
                if line.ends_with('\n') {
                    shown.push('\n');
                }
            }
            None if line.ends_with('\n') && line.trim().is_empty() && (shown.is_empty() || shown.ends_with("\n\n")) => {
            }
            None => shown.push_str(line),
        }
    }
}

/// A string as TOML writes it.
fn add_string(shown: &mut String, text: &str) {
    let has_lines = text.contains('\n');
    shown.push_str(if has_lines { "\"\"\"\n" } else { "\"" });
    for character in text.chars() {
        match character {
            '"' | '\\' => shown.extend(['\\', character]),
            '\n' | '\t' => shown.push(character),
            control if control.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(shown, "\\u{:04X}", u32::from(control));
            }
            other => shown.push(other),
        }
    }
    shown.push_str(if has_lines { "\"\"\"" } else { "\"" });
}

#[cfg(test)]
mod tests;
