//! Rows that can be ordered and searched, and the columns of the two tables. Not here: what is in them, where they stand.

use std::cmp::Ordering;

/// A column: its head, and how readily it is left out where there is no room (0: never).
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) head: &'static str,
    pub(super) spare: u8,
    pub(super) is_number: bool,
}

const fn text(head: &'static str, spare: u8) -> Column {
    Column { head, spare, is_number: false }
}

const fn number(head: &'static str, spare: u8) -> Column {
    Column { head, spare, is_number: true }
}

/// Of the table of backends. Bytes are per second.
pub(super) const BACKENDS: [Column; 8] = [
    text("BACKEND", 0),
    number("SESS", 1),
    number("QUEUE", 4),
    number("LOGIN/S", 2),
    number("P95", 5),
    number("CLIENT/S", 3),
    number("BACKEND/S", 6),
    text("STATE", 0),
];

/// Of the table of users.
pub(super) const USERS: [Column; 6] = [
    text("USER", 0),
    number("SESS", 1),
    number("CLIENT/S", 2),
    number("BACKEND/S", 4),
    number("BYTES", 3),
    text("", 5),
];

/// A row; its first cell is its name.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) cells: Vec<Cell>,
}

/// What is shown, and what it is ordered by.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) shown: String,
    number: Option<f64>,
}

impl Row {
    pub(super) fn new(cells: Vec<Cell>) -> Self {
        Self { cells }
    }

    fn has(&self, words: &str) -> bool {
        self.cells.first().is_some_and(|name| name.shown.to_lowercase().contains(&words.to_lowercase()))
    }
}

impl Cell {
    pub(super) fn text(shown: String) -> Self {
        Self { shown, number: None }
    }

    pub(super) fn number(number: Option<f64>, show: impl FnOnce(f64) -> String) -> Self {
        Self { shown: number.map_or_else(|| "-".to_owned(), show), number }
    }
}

/// Those whose name holds these words, ordered by a column: texts from the front, numbers from the largest.
pub(super) fn ordered<'a>(rows: &'a [Row], words: &str, by: usize) -> Vec<&'a Row> {
    let mut rows: Vec<&Row> = rows.iter().filter(|row| row.has(words)).collect();
    rows.sort_by(|one, other| match (one.cells.get(by), other.cells.get(by)) {
        (Some(one), Some(other)) => order(one, other),
        _ => Ordering::Equal,
    });
    rows
}

fn order(one: &Cell, other: &Cell) -> Ordering {
    match (one.number, other.number) {
        (Some(one), Some(other)) => other.total_cmp(&one),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.shown.cmp(&other.shown),
    }
}
