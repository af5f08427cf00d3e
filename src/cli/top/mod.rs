//! `mailmux top`: the mailmux that runs, live. Keys and answers come from threads of their own, one after the other, into one
//! `State`; `view` draws that. Here: the arguments, the loop, and that the terminal is as it was before, however it ends.

mod asking;
mod model;
mod rows;
mod state;
mod view;

use std::io::{self, IsTerminal as _, stdout};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::{DefaultTerminal, crossterm};

use self::asking::{Last, News, ask, keys, look};
use self::state::State;
use self::view::{as_text, view};
use super::admin::{Asked, EXIT_CODES, whichever};
use super::out::{UNREACHABLE, print};
use super::units::now;
use crate::config::duration;

/// The least time between two looks, so that nobody keeps a server busy by accident.
const SHORTEST: Duration = Duration::from_millis(200);
/// Where nobody says how large: what `--once` fills.
const SIZE: (u16, u16) = (80, 24);
/// What moves by itself moves so often.
const TICK: Duration = Duration::from_secs(1);

/// The mailmux that runs, live.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Top {
    #[command(flatten)]
    asked: Asked,
    /// The time between two looks.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = pause)]
    every: Duration,
    /// Print what there is to see once, as text, after two looks; as large as the terminal, or as COLUMNS and LINES say, or 80x24.
    #[arg(long)]
    once: bool,
}

impl Top {
    pub(super) fn run(self) -> ExitCode {
        if !self.once && (!stdout().is_terminal() || !io::stdin().is_terminal()) {
            eprintln!("mailmux: top needs a terminal; --once prints one frame as text");
            return ExitCode::from(UNREACHABLE);
        }
        whichever(if self.once { self.once() } else { self.watch() })
    }

    /// Rates take two looks.
    fn once(&self) -> Result<ExitCode, ExitCode> {
        let line = self.asked.line(false, false)?;
        let mut state = State::new(self.every);
        state.saw(line.with(look)?);
        std::thread::sleep(self.every);
        state.saw(line.with(look)?);
        state.now = now();
        let (width, height) = size();
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        view(&state, buffer.area, &mut buffer);
        Ok(print(&as_text(&buffer), ExitCode::SUCCESS))
    }

    /// The first look is had before the terminal is taken: who has mistyped something is told so in the ordinary way.
    fn watch(self) -> Result<ExitCode, ExitCode> {
        let first = self.asked.line(false, false)?.with(look)?;
        let (news, heard) = channel();
        let mut state = State::new(self.every);
        state.saw(first);
        let failed = |error: io::Error| {
            eprintln!("mailmux: {error}");
            ExitCode::from(UNREACHABLE)
        };
        let keyboard = Last(news.clone());
        // It listens to signals, too, and does so before there is a terminal to be restored.
        let server = Last(news);
        std::thread::spawn(move || ask(&self.asked, self.every, &server.0));
        // Which restores it in a panic, too.
        let mut terminal = ratatui::try_init().map_err(failed)?;
        std::thread::spawn(move || keys(&keyboard.0));
        let watched = watch(&mut terminal, &heard, state);
        ratatui::restore();
        watched.map(|()| ExitCode::SUCCESS).map_err(failed)
    }
}

fn watch(terminal: &mut DefaultTerminal, heard: &Receiver<News>, mut state: State) -> io::Result<()> {
    loop {
        state.now = now();
        terminal.draw(|frame| view(&state, frame.area(), frame.buffer_mut()))?;
        match heard.recv_timeout(TICK) {
            Ok(News::Seen(snapshot)) => state.saw(*snapshot),
            Ok(News::Unseen(why)) => state.missed(why, now()),
            Ok(News::Key(key)) => state.press(key),
            Ok(News::Resized) | Err(RecvTimeoutError::Timeout) => {}
            Ok(News::Over) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if state.is_over {
            return Ok(());
        }
    }
}

fn size() -> (u16, u16) {
    let terminal = stdout().is_terminal().then(crossterm::terminal::size).and_then(Result::ok);
    let said = |name: &str| std::env::var(name).ok()?.parse().ok().filter(|size| (1..=1000).contains(size));
    terminal.unwrap_or_else(|| (said("COLUMNS").unwrap_or(SIZE.0), said("LINES").unwrap_or(SIZE.1)))
}

fn pause(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(time) if time < SHORTEST => Err("the shortest is 200ms".to_owned()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
