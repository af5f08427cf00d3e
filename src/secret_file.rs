//! Secrets that stand in files of their own, so that none has to stand in the configuration.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use zeroize::Zeroizing;

use crate::imap::Secret;

/// The most that is read of standard input: a buffer that grows leaves copies behind that nobody wipes.
const LONGEST: usize = 64 * 1024;

/// Reads a secret. One line break at the file's end is not part of it.
///
/// # Errors
/// Why it cannot be had, in words: unreadable, empty, or not one line.
pub fn read(path: &Path) -> Result<Secret, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    one_line(Zeroizing::new(bytes), &path.display().to_string())
}

/// The same from standard input.
///
/// # Errors
/// As [`read`].
pub fn read_standard_input() -> Result<Secret, String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST));
    let read = io::stdin().lock().take(LONGEST as u64).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read standard input: {error}"))?;
    one_line(bytes, "standard input")
}

fn one_line(mut bytes: Zeroizing<Vec<u8>>, place: &str) -> Result<Secret, String> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(format!("{place} is empty; a secret of one line is expected"));
    }
    Secret::new(bytes).map_err(|_| format!("{place} is not one line; a secret of one line is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> Result<Secret, String> {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("secret");
        fs::write(&path, bytes).expect("written");
        read(&path)
    }

    #[test]
    fn one_line_break_at_the_end_is_not_the_secret() {
        for bytes in [&b"hunter2"[..], b"hunter2\n", b"hunter2\r\n"] {
            assert_eq!(written(bytes).expect("a secret").reveal(), b"hunter2");
        }
    }

    #[test]
    fn an_empty_file_and_two_lines_are_refused_with_a_reason() {
        assert!(written(b"\n").expect_err("empty").contains("is empty"));
        assert!(written(b"one\ntwo\n").expect_err("two lines").contains("not one line"));
        assert!(read(Path::new("/nonexistent")).expect_err("no such file").contains("cannot read"));
    }
}
