//! From text to the shapes of `mod.rs`, with every mistake of form found in one run. serde stops at the first mistake it
//! meets, so each table is read on its own, and after a mistake once more without the key that held it. Mistakes of
//! syntax leave nothing to go on with and are reported alone.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::File;
use crate::config::{Finding, Site};

const SECTIONS: [&str; 12] =
    ["server", "listener", "tls", "backend", "group", "lookup", "route", "limits", "timeouts", "pool", "admin", "log"];

/// One table of the file.
#[derive(Debug)]
pub(in crate::config) struct Section<T> {
    /// What was written in it, the broken keys aside.
    pub(in crate::config) keys: T,
    /// Its path, such as `listener[1]`.
    path: String,
    /// Its header; empty when the file has no such table.
    span: Range<usize>,
    /// The paths of keys (within it) that were broken and therefore left out.
    broken: Vec<String>,
}

impl<T> Section<T> {
    fn absent(path: &str, keys: T) -> Self {
        Self { keys, path: path.into(), span: 0..0, broken: Vec::new() }
    }

    /// The place of one of its keys.
    pub(in crate::config) fn site(&self, key: &str, span: &Range<usize>) -> Site {
        Site { key: format!("{}.{key}", self.path), span: span.clone() }
    }

    /// The place where a key should stand that does not.
    pub(in crate::config) fn site_of_missing(&self, key: &str) -> Site {
        self.site(key, &self.span)
    }

    /// The place of the table itself.
    pub(in crate::config) fn own_site(&self) -> Site {
        Site { key: self.path.clone(), span: self.span.clone() }
    }

    /// Whether a key was written but could not be read (or is one within it that could not), so that rules about it
    /// would only lead astray.
    pub(in crate::config) fn is_broken(&self, key: &str) -> bool {
        self.broken.iter().any(|path| path.is_empty() || is_within(path, key))
    }

    pub(in crate::config) fn path(&self) -> &str {
        &self.path
    }
}

/// Reads a file.
///
/// # Errors
/// A mistake of syntax. All others are in the list that comes with the file, which then lacks what they broke.
pub(in crate::config) fn parse(text: &str) -> Result<(File, Vec<Finding>), Finding> {
    let mut root = DeTable::parse(text).map_err(|error| syntax_error(&error, text))?.into_inner();
    let mut reader = Reader { findings: Vec::new() };
    let file = File {
        server: reader.table(&mut root, "server"),
        listeners: reader.tables(&mut root, "listener"),
        tls: reader.table(&mut root, "tls"),
        backends: reader.tables(&mut root, "backend"),
        groups: reader.tables(&mut root, "group"),
        lookups: reader.tables(&mut root, "lookup"),
        routes: reader.tables(&mut root, "route"),
        limits: reader.table(&mut root, "limits"),
        timeouts: reader.table(&mut root, "timeouts"),
        pool: reader.table(&mut root, "pool"),
        admin: root.contains_key("admin").then(|| reader.table(&mut root, "admin")),
        log: reader.table(&mut root, "log"),
    };
    for (key, _) in &root {
        let message = format!("unknown section\nexpected one of: {}", SECTIONS.join(", "));
        reader.report(key.get_ref().to_string(), key.span(), message);
    }
    Ok((file, reader.findings))
}

fn syntax_error(error: &toml::de::Error, text: &str) -> Finding {
    let span = error.span().unwrap_or(text.len()..text.len());
    Finding { site: Some(Site { key: String::new(), span }), message: explain(error.message()) }
}

struct Reader {
    findings: Vec<Finding>,
}

impl Reader {
    fn report(&mut self, key: String, span: Range<usize>, message: String) {
        self.findings.push(Finding { site: Some(Site { key, span }), message });
    }

    /// Takes `[name]` out of the document.
    fn table<T: DeserializeOwned + Default>(&mut self, root: &mut DeTable<'_>, name: &str) -> Section<T> {
        match root.remove(name) {
            Some(value) if value.get_ref().is_table() => self.section(name.into(), &value),
            Some(value) => {
                self.report(name.into(), value.span(), format!("found {}\nexpected one table, [{name}]", a(&value)));
                Section::absent(name, T::default())
            }
            None => Section::absent(name, T::default()),
        }
    }

    /// Takes every `[[name]]` out of the document.
    fn tables<T: DeserializeOwned + Default>(&mut self, root: &mut DeTable<'_>, name: &str) -> Vec<Section<T>> {
        let Some(value) = root.remove(name) else { return Vec::new() };
        let span = value.span();
        let wrong =
            |value: &Spanned<DeValue<'_>>| format!("found {}\nexpected tables, each headed [[{name}]]", a(value));
        let elements = match value.into_inner() {
            DeValue::Array(elements) => elements,
            other => {
                self.report(name.into(), span.clone(), wrong(&Spanned::new(span, other)));
                return Vec::new();
            }
        };
        let mut sections = Vec::new();
        for (index, element) in elements.into_iter().enumerate() {
            let path = format!("{name}[{index}]");
            if element.get_ref().is_table() {
                sections.push(self.section(path, &element));
            } else {
                self.report(path, element.span(), wrong(&element));
            }
        }
        sections
    }

    /// Reads one table, again and again, each time without the key that was wrong. Ends, because each round removes one.
    fn section<T: DeserializeOwned + Default>(&mut self, path: String, table: &Spanned<DeValue<'_>>) -> Section<T> {
        let span = table.span();
        let mut rest = table.clone();
        let mut broken: Vec<String> = Vec::new();
        loop {
            let error = match T::deserialize(ValueDeserializer::from(rest.clone())) {
                Ok(keys) => return Section { keys, path, span, broken },
                Err(error) => error,
            };
            let at = error.span().unwrap_or_else(|| span.clone());
            let key = path_to(table.get_ref(), &at).unwrap_or_default();
            // What is missing from a table because it was broken and removed is not missing.
            if !broken.iter().any(|before| is_within(before, &key)) {
                let full = if key.is_empty() { path.clone() } else { format!("{path}.{key}") };
                self.report(full, at.clone(), explain(error.message()));
            }
            broken.push(key);
            if !remove(rest.get_mut(), &at) {
                broken.push(String::new());
                return Section { keys: T::default(), path, span, broken };
            }
        }
    }
}

/// Whether `path` is `table`, or something within it.
fn is_within(path: &str, table: &str) -> bool {
    path.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn a(value: &Spanned<DeValue<'_>>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The path of the key or value that stands at `span`, within `value`. The recursion is as deep as the TOML, which its
/// parser bounds.
fn path_to(value: &DeValue<'_>, span: &Range<usize>) -> Option<String> {
    match value {
        DeValue::Table(table) => table.iter().find_map(|(key, value)| {
            if key.span() == *span || value.span() == *span {
                return Some(key.get_ref().to_string());
            }
            let rest = path_to(value.get_ref(), span)?;
            let dot = if rest.starts_with('[') { "" } else { "." };
            Some(format!("{}{dot}{rest}", key.get_ref()))
        }),
        DeValue::Array(array) => array.iter().enumerate().find_map(|(index, element)| {
            if element.span() == *span {
                return Some(format!("[{index}]"));
            }
            let rest = path_to(element.get_ref(), span)?;
            let dot = if rest.starts_with('[') { "" } else { "." };
            Some(format!("[{index}]{dot}{rest}"))
        }),
        _ => None,
    }
}

/// Removes what stands at `span`; false when nothing does.
fn remove(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => {
            let here = table.iter().find(|(key, value)| key.span() == *span || value.span() == *span);
            if let Some(key) = here.map(|(key, _)| key.clone()) {
                return table.remove(&key).is_some();
            }
            table.iter_mut().any(|(_, value)| remove(value.get_mut(), span))
        }
        DeValue::Array(array) => {
            if array.iter().any(|element| element.span() == *span) {
                *array = array.iter().filter(|element| element.span() != *span).cloned().collect();
                return true;
            }
            array.iter_mut().any(|element| remove(element.get_mut(), span))
        }
        _ => false,
    }
}

/// serde's and toml's words in ours: what was found, and on a second line what is expected.
fn explain(message: &str) -> String {
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("{key} is missing");
    }
    // Our own words; a key may hold anything, though, line breaks too.
    if message.contains('\n') && !message.starts_with("unknown field ") {
        return message.into();
    }
    let (problem, expected) = match message.rsplit_once(", expected ") {
        Some((problem, expected)) => (problem, Some(expected)),
        None => (message, None),
    };
    let problem = match problem.split_once(": ") {
        _ if problem.starts_with("unknown field ") => "unknown key".into(),
        Some(("invalid type" | "invalid value", found)) => format!("found {found}"),
        _ => problem.to_owned(),
    };
    match expected {
        Some(words) if problem == "unknown key" => {
            let words = words.trim_start_matches("one of ").replace('`', "").replace(" or ", ", ");
            format!("{problem}\nexpected one of: {words}")
        }
        Some("a boolean") => format!(
            "{problem}
expected true or false"
        ),
        Some("a sequence") => format!(
            "{problem}
expected a list, [...]"
        ),
        Some(expected) => format!("{problem}\nexpected {expected}"),
        None => problem,
    }
}
