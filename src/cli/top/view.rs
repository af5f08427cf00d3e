//! The screen of `top`, out of its state: the same state and size give the same screen. What does not fit is left out, from the
//! least important on. Not here: where the numbers come from.

use std::borrow::Cow;

use ratatui::buffer::{Buffer, Cell};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, RenderDirection, Sparkline, Widget as _, Wrap};
use unicode_width::UnicodeWidthStr as _;

use super::super::out::safe;
use super::super::table::cut;
use super::super::units::{moment, span};
use super::model::Past;
use super::rows::{Column, Row};
use super::state::{Mode, State};

/// The least that one sparkline takes, with the gap behind it.
const SPARK: u16 = 16;
/// Rows of the sparklines: a title, and the bars.
const SPARK_ROWS: u16 = 3;
/// Below so many rows there are no sparklines.
const LOW: u16 = 14;
/// What the last column has at least, before others are left out for it.
const LAST: usize = 12;
/// The widest that the first column gets while there are others.
const FIRST: usize = 36;

const KEYS: [(&str, &str); 8] = [
    ("q", "end (Ctrl-C, too)"),
    ("Tab, ← →", "the other table"),
    ("↑ ↓, PgUp PgDn", "move in it"),
    ("s", "order it by the next column"),
    ("/", "only rows whose name holds ...; Esc: all"),
    ("p", "pause, and go on"),
    ("?", "this"),
    ("", "Users: the 200 that have moved most."),
];

/// Draws it all.
pub(super) fn view(state: &State, area: Rect, buffer: &mut Buffer) {
    let area = area.intersection(buffer.area);
    let facts = packed(&state.model.head.facts, usize::from(area.width));
    let sparks = if area.height < LOW { 0 } else { SPARK_ROWS };
    let fixed = 1 + length(facts.len()) + sparks + 1;
    let rest = area.height.saturating_sub(fixed);
    // Each table has a line of heads; backends get what they need, and half of the room at most while there are users.
    let wanted = length(state.table(0).1.len()).saturating_add(1);
    let backends = if state.model.users.is_empty() { rest } else { wanted.min(rest / 2) };
    let [top, words, past, upper, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(length(facts.len())),
        Constraint::Length(sparks),
        Constraint::Length(backends),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    first_line(state, top.width).render(top, buffer);
    Paragraph::new(facts.into_iter().map(Line::from).collect::<Vec<_>>()).render(words, buffer);
    sparklines(&state.model.past, past, buffer);
    table(state, 0, upper, buffer);
    table(state, 1, lower, buffer);
    last_line(state).render(foot, buffer);
    if state.mode == Mode::Help {
        help(area, buffer);
    }
}

/// A screen as lines of text.
pub(super) fn as_text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in buffer.area.rows() {
        let mut line = String::new();
        let mut hidden = 0;
        for place in y.columns() {
            // Behind a wide character stands a place that is part of it.
            if hidden > 0 {
                hidden -= 1;
                continue;
            }
            let symbol = buffer.cell(place.as_position()).map_or(" ", Cell::symbol);
            hidden = symbol.width().saturating_sub(1);
            line.push_str(symbol);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn first_line(state: &State, width: u16) -> Line<'static> {
    if let Some((since, why)) = state.trouble() {
        let clock = moment(since).unwrap_or_default().chars().skip(11).collect::<String>();
        let words = format!("unreachable since {clock} UTC ({}): {}", span(state.now - since), safe(why));
        return Line::styled(
            cut(&words, usize::from(width)),
            Style::new().fg(Color::Red).add_modifier(Modifier::REVERSED),
        );
    }
    let head = &state.model.head;
    let clock = moment(state.now).unwrap_or_default();
    let colour = if head.phase == "running" { Color::Green } else { Color::Yellow };
    let mut spans = vec![
        Span::styled(format!("mailmux {}", head.version), Modifier::BOLD),
        Span::raw("  "),
        Span::styled(head.phase.clone(), colour),
        Span::raw(format!("  up {}  {clock} UTC", head.up)),
    ];
    if state.is_paused {
        spans.push(Span::styled("  paused", Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD)));
    }
    Line::from(spans)
}

fn last_line(state: &State) -> Line<'static> {
    let words = &state.tables[state.chosen].words;
    if state.mode == Mode::Typing {
        return Line::from(format!("/{}_", safe(words)));
    }
    let keys = [
        ("q", "end"),
        ("Tab", "table"),
        ("↑↓", "move"),
        ("s", "order"),
        ("/", "search"),
        ("p", "pause"),
        ("?", "help"),
    ];
    let mut spans = Vec::new();
    for (key, what) in keys {
        spans.push(Span::styled(key, Modifier::BOLD));
        spans.push(Span::raw(format!(" {what}  ")));
    }
    Line::from(spans)
}

/// Facts, as many on a line as fit.
fn packed(facts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for fact in facts {
        match lines.last_mut() {
            Some(line) if line.width() + 2 + fact.width() <= width => {
                line.push_str("  ");
                line.push_str(fact);
            }
            _ => lines.push(fact.clone()),
        }
    }
    lines
}

fn sparklines(past: &[Past], area: Rect, buffer: &mut Buffer) {
    if area.is_empty() || past.is_empty() {
        return;
    }
    let count = usize::from(area.width / SPARK).clamp(1, past.len());
    let places = Layout::horizontal(vec![Constraint::Fill(1); count]).spacing(2).split(area);
    for (past, place) in past.iter().zip(places.iter()) {
        let [title, bars] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(*place);
        Line::styled(past.title.clone(), Modifier::DIM).render(title, buffer);
        let latest: Vec<u64> =
            past.values.iter().rev().take(usize::from(bars.width)).map(|value| thousandths(*value)).collect();
        // The newest on the right, whatever room there is.
        Sparkline::default()
            .data(&latest)
            .direction(RenderDirection::RightToLeft)
            .style(Color::Cyan)
            .render(bars, buffer);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a height, of what is not below 0")]
fn thousandths(value: f64) -> u64 {
    (value.max(0.0) * 1000.0) as u64
}

/// A row of heads, and as many rows as there is room for.
fn table(state: &State, at: usize, area: Rect, buffer: &mut Buffer) {
    let (columns, rows) = state.table(at);
    let look = &state.tables[at];
    let visible: Vec<&Row> =
        rows.iter().skip(look.above).take(usize::from(area.height.saturating_sub(1))).copied().collect();
    let widths = widths(columns, &rows, look.by, usize::from(area.width));
    let mut lines = Vec::new();
    let style = if state.chosen == at { Modifier::REVERSED } else { Modifier::BOLD };
    let heads = columns.iter().enumerate().map(|(column, Column { head, .. })| {
        let mark = if column == look.by { "▾" } else { "" };
        Cow::Owned(format!("{head}{mark}"))
    });
    let mut heads = line(heads.collect(), columns, &widths).to_string();
    if !look.words.is_empty() {
        heads = format!("{heads}  /{}", safe(&look.words));
    }
    let gap = usize::from(area.width).saturating_sub(heads.width());
    lines.push(Line::styled(format!("{heads}{}", " ".repeat(gap)), style));
    for row in visible {
        lines.push(line(row.cells.iter().map(|cell| Cow::Borrowed(cell.shown.as_str())).collect(), columns, &widths));
    }
    Paragraph::new(lines).render(area, buffer);
}

/// The width of each column, 0 for those that are left out. The last one has what the others leave.
fn widths(columns: &[Column], rows: &[&Row], by: usize, width: usize) -> Vec<usize> {
    let last = columns.len().saturating_sub(1);
    let wanted = |at: usize| {
        let widest =
            rows.iter().filter_map(|row| row.cells.get(at)).map(|cell| cell.shown.width()).max().unwrap_or_default();
        widest.max(columns[at].head.width() + usize::from(at == by))
    };
    let mut widths: Vec<usize> = (0..columns.len()).map(wanted).collect();
    if let Some(first) = widths.first_mut() {
        *first = (*first).min(FIRST);
    }
    if let Some(last) = widths.last_mut() {
        *last = (*last).min(LAST);
    }
    let used = |widths: &[usize]| widths.iter().filter(|width| **width > 0).map(|width| width + 2).sum::<usize>();
    while used(&widths) > width + 2 {
        let sparest = (0..columns.len()).filter(|at| widths[*at] > 0).max_by_key(|at| columns[*at].spare);
        match sparest {
            Some(at) if columns[at].spare > 0 => widths[at] = 0,
            _ => break,
        }
    }
    if widths[last] > 0 {
        widths[last] += (width + 2).saturating_sub(used(&widths));
    }
    widths
}

fn line<'a>(cells: Vec<Cow<'a, str>>, columns: &[Column], widths: &[usize]) -> Line<'a> {
    let mut spans = Vec::new();
    for ((cell, column), width) in cells.into_iter().zip(columns).zip(widths).filter(|(_, width)| **width > 0) {
        let cell = if cell.width() > *width { Cow::Owned(cut(&cell, *width)) } else { cell };
        let gap = " ".repeat(width.saturating_sub(cell.width()));
        let style = style_of(column, &cell);
        if !spans.is_empty() {
            spans.push(Span::raw("  "));
        }
        if column.is_number {
            spans.push(Span::raw(gap));
            spans.push(Span::styled(cell, style));
        } else {
            spans.push(Span::styled(cell, style));
            spans.push(Span::raw(gap));
        }
    }
    Line::from(spans)
}

fn style_of(column: &Column, cell: &str) -> Style {
    match cell.split([' ', ':']).next().filter(|_| column.head == "STATE") {
        Some("up") => Style::new().fg(Color::Green),
        Some("down") => Style::new().fg(Color::Red),
        Some("draining") => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

fn help(area: Rect, buffer: &mut Buffer) {
    let widest = KEYS.iter().map(|(key, _)| key.width()).max().unwrap_or_default();
    let lines: Vec<Line<'_>> = KEYS
        .iter()
        .map(|(key, what)| Line::from(format!("{key}{}  {what}", " ".repeat(widest - key.width()))))
        .collect();
    let width = lines.iter().map(Line::width).max().unwrap_or_default();
    let (width, height) = (length(width + 4).min(area.width), length(lines.len() + 2).min(area.height));
    let place = Rect::new(area.x + (area.width - width) / 2, area.y + (area.height - height) / 2, width, height);
    Clear.render(place, buffer);
    Paragraph::new(lines).wrap(Wrap { trim: false }).block(Block::bordered().title(" Keys ")).render(place, buffer);
}

fn length(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
