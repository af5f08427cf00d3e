//! A mistake in the configuration, shown with its place.

use std::fmt::{self, Write as _};
use std::ops::Range;
use std::path::PathBuf;

/// A place in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The key's path, such as `route[3].backend`; empty where the text is no TOML.
    pub key: String,
    /// Byte range of the value in the file's text.
    pub span: Range<usize>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where; `None` when it is about the file as a whole.
    pub site: Option<Site>,
    /// What was found. A second line, if there is one, says what is expected and is shown beside the value.
    pub message: String,
}

/// All mistakes of one file, and what is needed to show them.
///
/// ```text
/// config/proxy.toml:42:11: route[3].backend: no such backend
/// 42 | backend = "mx-9"
///    |           ^^^^^^ expected one of: mx-1, mx-2
/// ```
#[derive(Debug)]
pub struct Findings {
    path: PathBuf,
    text: String,
    all: Vec<Finding>,
}

impl Findings {
    /// The mistakes found in the file with this path and text.
    pub fn new(path: PathBuf, text: String, findings: Vec<Finding>) -> Self {
        Self { path, text, all: findings }
    }

    /// The mistakes.
    pub fn findings(&self) -> &[Finding] {
        &self.all
    }

    /// Each with its place, as people read it.
    pub fn shown(&self) -> Vec<String> {
        struct One<'a>(&'a Findings, &'a Finding);
        impl fmt::Display for One<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.show(self.1, f)
            }
        }
        self.all.iter().map(|finding| One(self, finding).to_string().trim_end().to_owned()).collect()
    }

    fn show(&self, finding: &Finding, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (problem, expected) = finding.message.split_once('\n').unwrap_or((&finding.message, ""));
        let path = self.path.display();
        let Some(site) = &finding.site else {
            write!(f, "{path}: {}", clean(problem))?;
            return if expected.is_empty() { Ok(()) } else { write!(f, " ({})", clean(expected)) };
        };
        let place = Place::of(&self.text, &site.span);
        write!(f, "{path}:{}:{}: ", place.line_number, place.column)?;
        if !site.key.is_empty() {
            write!(f, "{}: ", clean(&site.key))?;
        }
        writeln!(f, "{}", clean(problem))?;
        let number = place.line_number.to_string();
        writeln!(f, "{number} | {}", clean(&hide_secret(place.line)))?;
        write!(f, "{:width$} | {}{}", "", place.indent, "^".repeat(place.carets), width = number.len())?;
        if expected.is_empty() { Ok(()) } else { write!(f, " {}", clean(expected)) }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.all.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            self.show(finding, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}

/// A byte range as people see it.
struct Place<'a> {
    /// From 1.
    line_number: usize,
    /// From 1, in characters.
    column: usize,
    line: &'a str,
    /// As wide as what stands before it in the line: tabs stay tabs.
    indent: String,
    carets: usize,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, span: &Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let end = text.floor_char_boundary(span.end).max(start);
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = text.get(line_start..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let lead = text.get(line_start..start).unwrap_or_default();
        let marked = text.get(start..end).unwrap_or_default();
        let marked = marked.split(['\r', '\n']).next().unwrap_or_default();
        Self {
            line_number: before.matches('\n').count() + 1,
            column: lead.chars().count() + 1,
            line,
            indent: lead.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect(),
            carets: marked.chars().count().max(1),
        }
    }
}

/// Passwords do not belong into the file, but somebody will try: such a line is shown up to its `=`. A URL may hold one
/// before its `@`.
fn hide_secret(line: &str) -> String {
    let Some((key, value)) = line.split_once('=') else { return line.into() };
    let name = key.trim().to_ascii_lowercase();
    let secret = ["password", "secret", "token"].iter().any(|word| name.contains(word)) && !name.ends_with("_file");
    let secret = secret || value.split_once(':').is_some_and(|(_, rest)| rest.starts_with("//") && rest.contains('@'));
    if secret { format!("{key}= •••") } else { line.into() }
}

/// Control characters would let a file speak to the terminal; one character stays one character.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_may_hold_a_secret_are_shown_up_to_it() {
        for line in ["password = \"hunter2\"", "url = \"postgres://mailmux:hunter2@localhost/mail\""] {
            let shown = hide_secret(line);
            assert!(shown.ends_with("= •••") && !shown.contains("hunter2"), "{shown}");
        }
        for line in ["url = \"sqlite:users.db\"", "password_file = \"secret\"", "user = \"*@example.org\""] {
            assert_eq!(hide_secret(line), line);
        }
    }
}
