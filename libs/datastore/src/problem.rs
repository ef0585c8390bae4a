//! What is wrong with a manifest, for the person who wrote it.
//! In: a file, a line, an object, a message. Out: one line of text.
//! Invariant: names at least the file; the same problem has the same text, on one line whatever the manifest says.
//! Never: stops anything; what can be read is still delivered.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
};

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
        one_line(f, &self.file.to_string_lossy())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        for part in self.object.iter().chain([&self.message]) {
            f.write_str(": ")?;
            one_line(f, part)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// Names come from the manifest: one that has a line's end in it would be a line of its own in the agent's log.
fn one_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_lines_end_stays_on_its_line() {
        let problem = Problem {
            file: "a.yaml".into(),
            line: Some(3),
            object: Some("IPPool x\n2026 INFO all is well".to_owned()),
            message: "bad\r\u{85}".to_owned(),
        };
        assert_eq!(problem.to_string(), "a.yaml:3: IPPool x\\n2026 INFO all is well: bad\\r\\u{85}");
    }
}
