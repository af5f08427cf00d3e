//! What leaves for the terminal, or for whatever standard output is: whole texts, without colour where nobody sees it, and
//! nothing in them that a terminal would obey. Not here: what the texts say.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;

use ratatui::crossterm::terminal::size;

/// Nothing could be told, or nobody be asked.
pub(super) const UNREACHABLE: u8 = 2;

/// Writes a text, and gives the exit code; another one if it could not be written. Whoever closes the pipe has read enough.
pub(super) fn print(text: &str, code: ExitCode) -> ExitCode {
    match try_print(text) {
        Ok(_) => code,
        Err(error) => {
            eprintln!("mailmux: standard output: {error}");
            ExitCode::from(UNREACHABLE)
        }
    }
}

/// Writes a text; false: nobody reads any more.
///
/// # Errors
/// It cannot be written.
pub(super) fn try_print(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true),
    }
}

/// Whether standard output is somebody who likes colours.
pub(super) fn is_coloured() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

/// How wide standard output is, where that is a terminal.
pub(super) fn terminal_width() -> Option<usize> {
    let size = io::stdout().is_terminal().then(size)?.ok()?;
    Some(usize::from(size.0)).filter(|width| *width > 0)
}

/// A text that came from elsewhere, on one line: control characters, what reverses the direction of writing and what cannot be
/// seen are shown as Rust writes them. Quotes and backslashes stay: they command no terminal.
pub(super) fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(KEPT) {
        let plain = piece.trim_end_matches(KEPT);
        shown.extend(plain.escape_debug());
        shown.push_str(&piece[plain.len()..]);
    }
    shown
}

/// The same for a text of several lines.
pub(super) fn safe_lines(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(['\n', '\t']) {
        let plain = piece.trim_end_matches(['\n', '\t']);
        shown.push_str(&safe(plain));
        shown.push_str(&piece[plain.len()..]);
    }
    shown
}

/// JSON that says the same and is harmless: what [`safe`] would show otherwise can stand in strings alone, where it is
/// written as JSON writes it.
pub(super) fn safe_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if matches!(character, '\n' | '\t') || character.is_ascii_graphic() || character == ' ' || is_shown(character) {
            shown.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // A String takes everything.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
    shown
}

const KEPT: [char; 3] = ['"', '\'', '\\'];

/// Accents that stand alone count as not shown; JSON has another way to write them.
fn is_shown(character: char) -> bool {
    character.escape_debug().count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_comes_from_elsewhere_commands_the_terminal() {
        for (hostile, shown) in [
            ("\x1b[2J\x1b]0;title\x07", r"\u{1b}[2J\u{1b}]0;title\u{7}"),
            ("8-bit \u{9b}31m", r"8-bit \u{9b}31m"),
            ("a\r\nb\tc\0", r"a\r\nb\tc\0"),
            ("ann\u{202e}gro.elpmaxe", r"ann\u{202e}gro.elpmaxe"),
            ("\u{2066}\u{200b}\u{feff}\u{2028}", r"\u{2066}\u{200b}\u{feff}\u{2028}"),
            ("\x7f", r"\u{7f}"),
        ] {
            assert_eq!(safe(hostile), shown);
        }
    }

    #[test]
    fn names_that_people_have_stay_as_they_are() {
        for name in
            ["ann@example.org", r#"DOMAIN\ann "o'neill""#, "jürgen@münchen.example", "山田@例え.jp", "e\u{301}va"]
        {
            assert_eq!(safe(name), name);
        }
    }

    #[test]
    fn texts_of_several_lines_keep_their_lines() {
        assert_eq!(safe_lines("a\tb\n\n\x1b[mc\n"), "a\tb\n\n\\u{1b}[mc\n");
    }

    #[test]
    fn harmless_json_says_the_same() {
        let said = serde_json::json!({ "user": "\u{9b}31m\u{202e}\x7f\u{e0041}é山\"\\", "more": [1, null] });
        let text = serde_json::to_string_pretty(&said).expect("JSON");
        let shown = safe_json(&text);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), said);
        assert!(shown.contains("é山") && !shown.contains(['\u{9b}', '\u{202e}', '\x7f', '\u{e0041}']), "{shown}");
    }
}
