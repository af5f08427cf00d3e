//! `mailmux trace`: what one user's client and backend say to each other, as it is said.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;

use super::admin::{Asked, EXIT_CODES, Path, whichever};
use super::backends::checked;
use super::out::{safe_lines, try_print};

/// The wire of one user.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Trace {
    #[command(flatten)]
    asked: Asked,
    /// The user, as typed into a mail program.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    user: String,
    /// For how long.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = checked)]
    r#for: String,
    /// The most that is told: 500kB, 1MB ...
    #[arg(long, value_name = "SIZE")]
    bytes: Option<String>,
}

impl Trace {
    pub(super) fn run(self) -> ExitCode {
        let path = Path::new(&["users", &self.user, "trace"]);
        let path = path.with("for", Some(&self.r#for)).with("bytes", self.bytes.as_ref());
        let mut rest = Vec::new();
        whichever(self.asked.line(false, true).map(|line| {
            let code = line.stream(&path, |piece| {
                rest.extend_from_slice(piece);
                try_print(&safe_lines(&whole_lines(&mut rest)))
            });
            // What a line lacks its end of was said, too.
            let _ = try_print(&safe_lines(&String::from_utf8_lossy(&rest)));
            code
        }))
    }
}

/// Takes the lines that have their end, so that no character is torn.
fn whole_lines(bytes: &mut Vec<u8>) -> String {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines: Vec<u8> = bytes.drain(..end).collect();
    String::from_utf8_lossy(&lines).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_and_no_character_is_torn() {
        let mut rest = Vec::new();
        let mut heard = Vec::new();
        for piece in "eins\nzw\u{f6}lf\nd".as_bytes().chunks(1) {
            rest.extend_from_slice(piece);
            heard.push(whole_lines(&mut rest));
        }
        assert_eq!(heard.concat(), "eins\nzw\u{f6}lf\n");
        assert_eq!(rest, b"d");
    }
}
