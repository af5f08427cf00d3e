//! What was found: a line for each check, and for each trouble its cause and what to do. As text and as JSON. Not here:
//! checking.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::normal::Normal;

/// All that was found.
#[derive(Debug, Default)]
pub struct Report {
    sections: Vec<Section>,
}

/// One part of the way.
#[derive(Debug)]
pub(super) struct Section {
    /// `machine`, `mailmux`, `listener`, `user`, `backend` or `login`.
    kind: &'static str,
    name: String,
    about: String,
    checks: Vec<Check>,
}

#[derive(Debug)]
struct Check {
    name: &'static str,
    status: Status,
    text: String,
    took: Option<Duration>,
    trouble: Option<Trouble>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    Warn,
    Fail,
    Skipped,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// For machines; never changes.
    kind: &'static str,
    /// In plain words.
    cause: String,
    /// In plain words.
    remedy: String,
}

impl Trouble {
    pub(super) fn new(kind: &'static str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, cause: cause.into(), remedy: remedy.into() }
    }
}

impl Report {
    pub(super) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// Whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.checks().all(|(_, check)| matches!(check.status, Status::Ok | Status::Skipped))
    }

    fn checks(&self) -> impl Iterator<Item = (&Section, &Check)> {
        self.sections.iter().flat_map(|section| section.checks.iter().map(move |check| (section, check)))
    }

    fn troubles(&self) -> impl Iterator<Item = (&Section, &Check, &Trouble)> {
        self.checks().filter_map(|(section, check)| Some((section, check, check.trouble.as_ref()?)))
    }

    /// All of it as data.
    pub fn json(&self) -> Value {
        let check = |check: &Check| {
            json!({
                "check": check.name,
                "status": check.status.word(),
                "text": check.text,
                "took_seconds": check.took.map(|took| took.as_secs_f64()),
            })
        };
        let section = |section: &Section| {
            let checks: Vec<_> = section.checks.iter().map(check).collect();
            json!({ "kind": section.kind, "name": section.name, "about": section.about, "checks": checks })
        };
        let trouble = |(section, check, trouble): (&Section, &Check, &Trouble)| {
            json!({
                "kind": trouble.kind,
                "section": section.kind,
                "name": section.name,
                "check": check.name,
                "status": check.status.word(),
                "cause": trouble.cause,
                "remedy": trouble.remedy,
            })
        };
        json!({
            "well": self.is_well(),
            "sections": self.sections.iter().map(section).collect::<Vec<_>>(),
            "troubles": self.troubles().map(trouble).collect::<Vec<_>>(),
        })
    }
}

/// For people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "{}", section.title())?;
            for check in &section.checks {
                let took = check.took.map(|took| format!("  ({})", shown(took))).unwrap_or_default();
                writeln!(f, "  {:<4}  {:<12}  {}{took}", check.status.short(), check.name, check.text)?;
            }
            writeln!(f)?;
        }
        if self.is_well() {
            return write!(f, "Nothing is wrong.");
        }
        writeln!(f, "What is wrong")?;
        for (number, (section, _, trouble)) in self.troubles().enumerate() {
            writeln!(f, "{:>3}. {}: {}", number + 1, section.short_title(), trouble.cause)?;
            writeln!(f, "     What to do: {}", trouble.remedy)?;
        }
        Ok(())
    }
}

impl Section {
    pub(super) fn new(kind: &'static str, name: impl Into<String>, about: impl Into<String>) -> Self {
        Self { kind, name: name.into(), about: about.into(), checks: Vec::new() }
    }

    fn short_title(&self) -> String {
        if self.name.is_empty() { self.kind.to_owned() } else { format!("{} {}", self.kind, self.name) }
    }

    fn title(&self) -> String {
        let about = if self.about.is_empty() { String::new() } else { format!(" ({})", self.about) };
        format!("{}{about}", self.short_title())
    }

    /// This is as it should be.
    pub(super) fn well(&mut self, check: &'static str, text: impl Into<String>) {
        self.push(check, Status::Ok, text.into(), None, None);
    }

    /// This is as it should be, if it did not take too long.
    pub(super) fn took(&mut self, check: &'static str, text: impl Into<String>, took: Duration) {
        let text = text.into();
        match Normal::of(check).filter(|normal| took > normal.time) {
            None => self.push(check, Status::Ok, text, Some(took), None),
            Some(normal) => {
                let cause = format!("{} takes {}; below {} is normal.", normal.what, shown(took), shown(normal.time));
                let text = format!("{text}; slow");
                let trouble = Trouble::new(normal.kind, cause, normal.remedy);
                self.push(check, Status::Warn, text, Some(took), Some(trouble));
            }
        }
    }

    /// It works, and somebody will notice all the same.
    pub(super) fn warn(&mut self, check: &'static str, text: impl Into<String>, trouble: Trouble) {
        self.push(check, Status::Warn, text.into(), None, Some(trouble));
    }

    /// It does not work.
    pub(super) fn fail(&mut self, check: &'static str, text: impl Into<String>, trouble: Trouble) {
        self.push(check, Status::Fail, text.into(), None, Some(trouble));
    }

    /// It does not work, after so long; why is told elsewhere, if it is known.
    pub(super) fn failed(
        &mut self,
        check: &'static str,
        text: impl Into<String>,
        took: Duration,
        trouble: Option<Trouble>,
    ) {
        self.push(check, Status::Fail, text.into(), Some(took), trouble);
    }

    /// Whether it has been found to be wrong in this way already.
    pub(super) fn has(&self, kind: &str) -> bool {
        self.checks.iter().any(|check| check.trouble.as_ref().is_some_and(|trouble| trouble.kind == kind))
    }

    /// It could not be looked at, or there was no need; why.
    pub(super) fn skip(&mut self, check: &'static str, why: impl Into<String>) {
        self.push(check, Status::Skipped, why.into(), None, None);
    }

    fn push(
        &mut self,
        name: &'static str,
        status: Status,
        text: String,
        took: Option<Duration>,
        trouble: Option<Trouble>,
    ) {
        self.checks.push(Check { name, status, text, took, trouble });
    }
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Skipped => "-",
            other => other.word(),
        }
    }
}

/// A span for people: three digits, about.
pub(super) fn shown(span: Duration) -> String {
    let ms = span.as_secs_f64() * 1000.0;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", span.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_its_remedy_and_where() {
        let mut section = Section::new("backend", "blue", "127.0.0.1:143");
        section.well("name", "an address");
        section.fail("connect", "refused", Trouble::new("refused", "Nobody listens.", "Start it."));
        section.skip("tls", "not reached");
        let mut report = Report::default();
        report.add(section);
        let text = report.to_string();
        assert!(text.contains("\n  fail  connect       refused\n  -     tls           not reached\n"), "{text}");
        assert!(text.ends_with("  1. backend blue: Nobody listens.\n     What to do: Start it.\n"), "{text}");
        let json = report.json();
        assert_eq!((&json["well"], &json["troubles"][0]["kind"]), (&json!(false), &json!("refused")));
        assert_eq!(json["sections"][0]["checks"][2]["status"], "skipped");
    }

    #[test]
    fn what_is_slow_is_a_trouble_and_what_is_not_is_none() {
        let mut report = Report::default();
        let mut section = Section::new("backend", "blue", "");
        section.took("login", "let in", Duration::from_millis(20));
        report.add(section);
        assert!(report.is_well() && report.to_string().contains("let in  (20 ms)\n\nNothing is wrong."), "{report}");
        let mut section = Section::new("backend", "blue", "");
        section.took("login", "let in", Duration::from_secs(9));
        report.add(section);
        assert!(!report.is_well());
        assert_eq!(report.json()["troubles"][0]["kind"], "slow_login");
    }

    #[test]
    fn spans_are_shown_as_people_say_them() {
        let spans = [Duration::from_micros(300), Duration::from_millis(42), Duration::from_millis(1240)];
        assert_eq!(spans.map(shown), ["0.3 ms", "42 ms", "1.2 s"]);
    }
}
