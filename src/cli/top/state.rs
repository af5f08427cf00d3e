//! What `top` knows and how it is looked at: the last looks, and what keys have chosen. Not here: the screen.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::asking::Snapshot;
use super::model::Model;
use super::rows::{BACKENDS, Column, Row, USERS, ordered};

/// So many looks may be late before that is worth a word.
const LATE: u32 = 3;

/// Everything that is on the screen follows from this.
#[derive(Debug)]
pub(super) struct State {
    every: Duration,
    last: Option<Snapshot>,
    /// What was seen last.
    pub(super) model: Model,
    /// Since when, and why, nothing was seen.
    missed: Option<(f64, String)>,
    /// In Unix seconds.
    pub(super) now: f64,
    /// The two tables, backends and users.
    pub(super) tables: [Table; 2],
    /// Which of them keys are about.
    pub(super) chosen: usize,
    /// What keys do.
    pub(super) mode: Mode,
    /// What is seen stays as it is.
    pub(super) is_paused: bool,
    /// It is to end.
    pub(super) is_over: bool,
}

/// What keys do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each its own.
    Watching,
    /// They are a word, by which rows are chosen.
    Typing,
    /// They are explained; the next one ends that.
    Help,
}

/// How a table is looked at.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The column by which it is ordered.
    pub(super) by: usize,
    /// What the names of its rows must hold.
    pub(super) words: String,
    /// How many rows are above the first that is shown.
    pub(super) above: usize,
}

impl State {
    pub(super) fn new(every: Duration) -> Self {
        // Backends by name; users by what they move to clients.
        let tables = [Table::default(), Table { by: 2, ..Table::default() }];
        Self {
            every,
            last: None,
            model: Model::default(),
            missed: None,
            now: 0.0,
            tables,
            chosen: 1,
            mode: Mode::Watching,
            is_paused: false,
            is_over: false,
        }
    }

    pub(super) fn saw(&mut self, snapshot: Snapshot) {
        self.missed = None;
        if !self.is_paused {
            self.model = Model::new(&snapshot, self.last.as_ref());
        }
        self.now = self.now.max(snapshot.at);
        self.last = Some(snapshot);
    }

    pub(super) fn missed(&mut self, why: String, at: f64) {
        let since = self.missed.take().map_or(at, |(since, _)| since);
        self.missed = Some((since, why));
    }

    /// Since when nothing was seen, and why, if that is worth a word.
    pub(super) fn trouble(&self) -> Option<(f64, &str)> {
        if let Some((since, why)) = &self.missed {
            return Some((*since, why));
        }
        let last = self.last.as_ref()?.at;
        (self.now - last > (self.every * LATE).as_secs_f64() + 1.0).then_some((last, "no answer yet"))
    }

    /// The columns of a table, and its rows as they are chosen and ordered.
    pub(super) fn table(&self, at: usize) -> (&'static [Column], Vec<&Row>) {
        let (columns, rows) = match at {
            0 => (BACKENDS.as_slice(), &self.model.backends),
            _ => (USERS.as_slice(), &self.model.users),
        };
        (columns, ordered(rows, &self.tables[at].words, self.tables[at].by))
    }

    pub(super) fn press(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            self.is_over = true;
            return;
        }
        match self.mode {
            Mode::Watching => self.act(key.code),
            Mode::Typing => self.type_on(key.code),
            Mode::Help => self.mode = Mode::Watching,
        }
    }

    fn type_on(&mut self, key: KeyCode) {
        let table = &mut self.tables[self.chosen];
        table.above = 0;
        match key {
            KeyCode::Enter => self.mode = Mode::Watching,
            KeyCode::Esc => {
                self.mode = Mode::Watching;
                table.words.clear();
            }
            KeyCode::Backspace => {
                table.words.pop();
            }
            KeyCode::Char(character) => table.words.push(character),
            _ => {}
        }
    }

    fn act(&mut self, key: KeyCode) {
        let count = self.table(self.chosen).1.len();
        let table = &mut self.tables[self.chosen];
        let move_to = |above: usize| above.min(count.saturating_sub(1));
        match key {
            KeyCode::Char('q') => self.is_over = true,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.mode = Mode::Typing,
            KeyCode::Esc => table.words.clear(),
            KeyCode::Char('s') => {
                // What has no head is nothing to order by.
                let columns: &[Column] = if self.chosen == 0 { &BACKENDS } else { &USERS };
                let count = columns.iter().filter(|column| !column.head.is_empty()).count();
                table.by = (table.by + 1) % count;
            }
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => self.chosen = 1 - self.chosen,
            KeyCode::Down => table.above = move_to(table.above + 1),
            KeyCode::Up => table.above = table.above.saturating_sub(1),
            KeyCode::PageDown => table.above = move_to(table.above + 10),
            KeyCode::PageUp => table.above = table.above.saturating_sub(10),
            KeyCode::Home => table.above = 0,
            KeyCode::End => table.above = move_to(count),
            _ => {}
        }
    }
}
