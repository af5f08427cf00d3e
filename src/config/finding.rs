//! A mistake in the configuration, shown with its place.

use std::fmt;
use std::path::PathBuf;

/// A place in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The key's path, such as `route[3].backend`.
    pub key: String,
    /// Byte range of the value in the file's text.
    pub span: std::ops::Range<usize>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where; `None` when it is about the file as a whole.
    pub site: Option<Site>,
    /// What was found and what is expected.
    pub message: String,
}

/// All mistakes of one file, and what is needed to show them.
#[derive(Debug)]
pub struct Findings {
    path: PathBuf,
    text: String,
    findings: Vec<Finding>,
}

impl Findings {
    /// The mistakes found in the file with this path and text.
    pub fn new(path: PathBuf, text: String, findings: Vec<Finding>) -> Self {
        Self { path, text, findings }
    }

    /// The mistakes.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({} bytes)", self.path.display(), self.findings.len(), self.text.len())
    }
}

impl std::error::Error for Findings {}
