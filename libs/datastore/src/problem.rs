//! What is wrong with a manifest, for the person who wrote it.
//! In: a file, a line, an object, a message. Out: one line of text.
//! Invariant: names at least the file; the same problem has the same text.
//! Never: stops anything; what can be read is still delivered.

use std::{fmt, path::PathBuf};

/// One thing wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// First line of the document, or the line of the syntax error.
    pub line: Option<u64>,
    /// The object, such as `NetworkPolicy default/web`, as far as it could be told.
    pub object: Option<String>,
    /// What is wrong, and what holds meanwhile.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        write!(f, ": {}", self.message)
    }
}
