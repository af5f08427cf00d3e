//! Tables for people: what stands in an answer, a row for each item, in columns that line up. A row is never wrapped: what is
//! too long is cut, but in the last column, and a terminal that is too narrow is shown fewer columns. Not here: which columns
//! an answer has.

use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use super::out::{is_coloured, safe, terminal_width};
use super::units::{bytes, latency, moment, now, span};

/// The widest that a cell may be, unless it is the last one.
const WIDEST: usize = 64;
/// Where there is nothing to show.
const NOTHING: &str = "-";
/// Certificates that end so soon are shown in red, and in yellow.
const DAYS: (f64, f64) = (7.0, 30.0);

/// A column: its head, and where in an item it stands (a JSON pointer).
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    head: &'static str,
    at: &'static str,
    kind: Kind,
    spare: u8,
}

/// How something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is; a list with commas, an object as the counts in it that are not 0.
    Text,
    /// As it is, with units below each other.
    Number,
    /// So many bytes.
    Bytes,
    /// How long something takes, in seconds.
    Latency,
    /// A span in seconds.
    Span,
    /// A moment, as the time since then.
    Ago,
    /// A moment, as the time until then.
    In,
    /// A moment, as it is in UTC.
    Moment,
    /// A moment, as its day.
    Day,
    /// `up` is good, `down` is not.
    State,
    /// So many days are left.
    DaysLeft,
}

/// How and when it is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Whether there may be colours.
    pub(super) coloured: bool,
    /// In Unix seconds.
    pub(super) now: f64,
    /// How many columns of characters there are, where that is known.
    pub(super) width: Option<usize>,
}

impl Look {
    /// At standard output, now.
    pub(super) fn here() -> Self {
        Self { coloured: is_coloured(), now: now(), width: terminal_width() }
    }
}

impl Column {
    pub(super) const fn new(head: &'static str, at: &'static str, kind: Kind) -> Self {
        Self { head, at, kind, spare: 0 }
    }

    /// One that is left out where there is no room: the higher the number, the sooner.
    pub(super) const fn spare(self, spare: u8) -> Self {
        Self { spare, ..self }
    }
}

/// A table with its heads.
pub(super) fn table(all: &[Column], rows: &[Value], look: Look) -> String {
    let last = all.len().saturating_sub(1);
    // By column: its cells, and how wide they are.
    let mut columns: Vec<(Column, Vec<String>, usize)> = Vec::with_capacity(all.len());
    for (at, column) in all.iter().enumerate() {
        let cells: Vec<String> = rows.iter().map(|row| cell(*column, row, look, at == last)).collect();
        let widest = cells.iter().map(|cell| cell.width()).max().unwrap_or_default();
        columns.push((*column, cells, widest.max(column.head.width())));
    }
    let left_out = leave_out(&mut columns, look.width.unwrap_or(usize::MAX));
    let widths: Vec<usize> = columns.iter().map(|(_, _, width)| *width).collect();
    let kept: Vec<Column> = columns.iter().map(|(column, ..)| *column).collect();
    let mut lines = vec![line(kept.iter().map(|column| column.head), &kept, &widths, None)];
    for row in 0..rows.len() {
        lines.push(line(columns.iter().map(|(_, cells, _)| cells[row].as_str()), &kept, &widths, Some(look)));
    }
    if !left_out.is_empty() {
        lines.push(format!("(no room for {}; --json has them)", left_out.join(", ")));
    }
    lines.join("\n")
}

/// Leaves columns out until the others fit, if that is possible; gives their heads.
fn leave_out(columns: &mut Vec<(Column, Vec<String>, usize)>, room: usize) -> Vec<&'static str> {
    let mut left_out = Vec::new();
    while columns.iter().map(|(_, _, width)| width + 2).sum::<usize>() > room.saturating_add(2) {
        let sparest = columns.iter().enumerate().max_by_key(|(_, (column, ..))| column.spare);
        let Some((at, (column, ..))) = sparest.filter(|(_, (column, ..))| column.spare > 0) else { break };
        left_out.push(column.head);
        columns.remove(at);
    }
    left_out
}

/// What is known of one thing, one fact a line.
pub(super) fn facts(columns: &[Column], item: &Value, look: Look) -> String {
    let widest = columns.iter().map(|column| column.head.width()).max().unwrap_or_default();
    let lines = columns.iter().map(|column| {
        let shown = cell(*column, item, look, true);
        let shown = painted(&shown, column.kind, look.coloured);
        format!("{}{}  {shown}", column.head, " ".repeat(widest - column.head.width()))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A part of an answer, shown.
pub(super) fn shown(value: Option<&Value>, kind: Kind, look: Look) -> String {
    let Some(value) = value.filter(|value| !value.is_null()) else { return NOTHING.to_owned() };
    let number = value.as_f64();
    let text = match (kind, number) {
        (Kind::Bytes, Some(count)) => bytes(count),
        (Kind::Latency, Some(seconds)) => latency(seconds),
        (Kind::Span, Some(seconds)) => span(seconds),
        (Kind::Ago, Some(then)) => span(look.now - then),
        (Kind::In, Some(then)) => span(then - look.now),
        (Kind::Moment, Some(then)) => moment(then).unwrap_or_default(),
        (Kind::Day, Some(then)) => moment(then).unwrap_or_default().chars().take(10).collect(),
        (Kind::DaysLeft, Some(days)) => format!("{:.0}", days.floor()),
        _ => words(value),
    };
    if text.is_empty() { NOTHING.to_owned() } else { text }
}

fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(is_so) => if *is_so { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => safe(text),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(","),
        Value::Object(counts) => {
            let some = counts.iter().filter(|(_, count)| !count.is_null() && count.as_f64() != Some(0.0));
            some.map(|(what, count)| format!("{} {}", safe(what), words(count))).collect::<Vec<_>>().join(", ")
        }
    }
}

fn cell(column: Column, row: &Value, look: Look, is_last: bool) -> String {
    let text = shown(row.pointer(column.at), column.kind, look);
    if is_last || text.width() <= WIDEST { text } else { cut(&text, WIDEST) }
}

/// As much of a text as fits, with a sign that there was more.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for character in text.chars() {
        kept.push(character);
        if kept.width() >= width {
            kept.pop();
            break;
        }
    }
    kept.push('…');
    kept
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, columns: &[Column], widths: &[usize], look: Option<Look>) -> String {
    let mut line = String::new();
    for ((cell, column), width) in cells.zip(columns).zip(widths) {
        let gap = " ".repeat(width - cell.width().min(*width));
        let cell = painted(cell, column.kind, look.is_some_and(|look| look.coloured));
        let (before, after) = if is_number(column.kind) { (gap, String::new()) } else { (String::new(), gap) };
        line.extend([before, cell, after, "  ".to_owned()]);
    }
    line.truncate(line.trim_end().len());
    line
}

fn is_number(kind: Kind) -> bool {
    matches!(kind, Kind::Number | Kind::Bytes | Kind::Latency | Kind::DaysLeft)
}

fn painted(cell: &str, kind: Kind, coloured: bool) -> String {
    match tone(cell, kind) {
        Some(colour) if coloured => format!("\x1b[{colour}m{cell}\x1b[0m"),
        _ => cell.to_owned(),
    }
}

/// Green, yellow or red, as terminals number them.
fn tone(cell: &str, kind: Kind) -> Option<u8> {
    let (good, bad) = match kind {
        Kind::State => (matches!(cell, "up" | "running"), matches!(cell, "down" | "stopped")),
        Kind::DaysLeft => {
            let days: f64 = cell.parse().ok()?;
            if days >= DAYS.1 {
                return None;
            }
            (false, days < DAYS.0)
        }
        _ => return None,
    };
    let known = good || bad || kind == Kind::DaysLeft || matches!(cell, "draining" | "succeeded");
    known.then_some(if good {
        32
    } else if bad {
        31
    } else {
        33
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LOOK: Look = Look { coloured: false, now: 10_000.0, width: None };
    const COLOURED: Look = Look { coloured: true, ..LOOK };
    const COLUMNS: [Column; 4] = [
        Column::new("NAME", "/name", Kind::Text),
        Column::new("STATE", "/state", Kind::State),
        Column::new("BYTES", "/bytes/to_client", Kind::Bytes),
        Column::new("REASON", "/health/reason", Kind::Text),
    ];

    #[test]
    fn columns_line_up_whatever_script_stands_in_them() {
        let rows = [
            json!({ "name": "blue", "state": "up", "bytes": { "to_client": 1_234_567 }, "health": { "reason": null } }),
            json!({ "name": "山田", "state": "down", "bytes": { "to_client": 12 }, "health": { "reason": "connection refused" } }),
            json!({ "name": "green" }),
        ];
        let expected = "\
NAME   STATE   BYTES  REASON
blue   up     1.2 MB  -
山田   down     12 B  connection refused
green  -           -  -";
        assert_eq!(table(&COLUMNS, &rows, LOOK), expected);
    }

    #[test]
    fn no_row_holds_what_a_terminal_would_obey_but_our_own_colours() {
        let rows =
            [json!({ "name": "\x1b[2J\nann\u{202e}", "state": "up\x1b[5m", "health": { "reason": "\x1b]0;x\x07" } })];
        let plain = table(&COLUMNS, &rows, LOOK);
        assert_eq!(plain.lines().count(), 2);
        assert!(!plain.contains(|character: char| character.is_control() && character != '\n'), "{plain:?}");
        assert!(!plain.contains('\u{202e}'));
        let coloured = table(&COLUMNS, &[json!({ "name": "up", "state": "up" })], COLOURED);
        assert_eq!(
            coloured.lines().nth(1),
            Some("up    \x1b[32mup\x1b[0m         -  -"),
            "and only where it is a state"
        );
    }

    #[test]
    fn a_long_cell_is_cut_and_the_last_one_is_not() {
        let long = "x".repeat(200);
        let text = table(&COLUMNS, &[json!({ "name": long, "health": { "reason": long } })], LOOK);
        let row = text.lines().nth(1).expect("a row");
        assert!(row.starts_with(&format!("{}…  -", "x".repeat(WIDEST - 1))), "{row}");
        assert!(row.ends_with(&long));
        assert_eq!(cut("山田山田", 6), "山田…");
    }

    #[test]
    fn things_are_shown_as_what_they_are() {
        let value = json!({
            "then": 9800, "later": 10_125.5, "counts": { "hit": 10, "miss": 0, "full": 2 }, "groups": ["eu", "us"], "so": true,
            "took": 0.123,
        });
        let show = |key: &str, kind| shown(value.get(key), kind, LOOK);
        assert_eq!(show("then", Kind::Ago), "3m 20s");
        assert_eq!(show("later", Kind::In), "2m 6s");
        assert_eq!(show("counts", Kind::Text), "full 2, hit 10");
        assert_eq!(show("groups", Kind::Text), "eu,us");
        assert_eq!(show("so", Kind::Text), "yes");
        assert_eq!(show("took", Kind::Latency), "123 ms");
        assert_eq!(show("none", Kind::Bytes), "-");
        assert_eq!(show("then", Kind::Day), "1970-01-01");
    }

    #[test]
    fn certificates_that_end_soon_are_red() {
        let days = [Column::new("DAYS", "/days_left", Kind::DaysLeft)];
        let rows = [json!({ "days_left": 6.9 }), json!({ "days_left": 29 }), json!({ "days_left": 80 })];
        let text = table(&days, &rows, COLOURED);
        assert_eq!(text, "DAYS\n   \x1b[31m6\x1b[0m\n  \x1b[33m29\x1b[0m\n  80");
    }

    #[test]
    fn a_narrow_terminal_is_shown_fewer_columns_and_told_so() {
        let columns = [
            Column::new("NAME", "/name", Kind::Text),
            Column::new("MORE", "/more", Kind::Text).spare(2),
            Column::new("LESS", "/less", Kind::Text).spare(1),
        ];
        let rows = [json!({ "name": "blue", "more": "x", "less": "y" })];
        let shown = |width| table(&columns, &rows, Look { width: Some(width), ..LOOK });
        assert_eq!(shown(16), "NAME  MORE  LESS\nblue  x     y");
        assert_eq!(shown(15), "NAME  LESS\nblue  y\n(no room for MORE; --json has them)");
        assert_eq!(shown(1), "NAME\nblue\n(no room for MORE, LESS; --json has them)");
    }

    #[test]
    fn facts_stand_below_each_other() {
        let item = json!({ "name": "blue", "state": "down", "health": { "reason": "a\nb" } });
        assert_eq!(facts(&COLUMNS, &item, LOOK), "NAME    blue\nSTATE   down\nBYTES   -\nREASON  a\\nb");
    }
}
