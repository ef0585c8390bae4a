//! Corpus and regressions as text: an input a line, so that they can be read, compared and merged.
//! In: inputs. Out: lines of printable ASCII, and back.
//! Invariant: any bytes survive; a line that begins with `#` is a remark about what follows.
//! Never: decides which inputs are worth keeping; libFuzzer's merge does.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

/// Files of this crate.
fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

/// Where a target's corpus lies.
pub fn corpus(target: &str) -> PathBuf {
    folder("corpus").join(format!("{target}.txt"))
}

/// Where the inputs lie that once broke a promise of a target.
pub fn regressions(target: &str) -> PathBuf {
    folder("regressions").join(format!("{target}.txt"))
}

/// The inputs of a file; none where there is no file.
///
/// # Errors
/// Names the line that is not what [`line`] writes.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
    lines
        .map(|(at, line)| bytes(line).ok_or_else(|| format!("{}:{}: not an escaped input", path.display(), at + 1)))
        .collect()
}

/// An input as a line.
pub fn line(input: &[u8]) -> String {
    let mut text = String::new();
    for byte in input {
        match byte {
            b'#' if text.is_empty() => text.push_str("\\x23"),
            _ => write!(text, "{}", std::ascii::escape_default(*byte)).expect("a string takes every write"),
        }
    }
    text
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let (mut found, mut rest) = (Vec::new(), line.as_bytes());
    while let [first, after @ ..] = rest {
        let (byte, after) = match (*first, after) {
            (b'\\', [b'x', high, low, after @ ..]) => (16 * digit(*high)? + digit(*low)?, after),
            (b'\\', [b't', after @ ..]) => (b'\t', after),
            (b'\\', [b'r', after @ ..]) => (b'\r', after),
            (b'\\', [b'n', after @ ..]) => (b'\n', after),
            (b'\\', [quoted @ (b'\\' | b'\'' | b'"'), after @ ..]) => (*quoted, after),
            (b'\\', _) => return None,
            (plain, after) => (plain, after),
        };
        found.push(byte);
        rest = after;
    }
    Some(found)
}

fn digit(hexadecimal: u8) -> Option<u8> {
    char::from(hexadecimal).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_as_a_line() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(&line(&all)), Some(all));
        for input in [&b"#1"[..], b"", b"\\x", b"a'b\"c\n"] {
            let written = line(input);
            assert!(!written.starts_with('#') && !written.contains('\n'));
            assert_eq!(bytes(&written).as_deref(), Some(input));
        }
    }

    #[test]
    fn what_is_not_escaped_is_refused() {
        for wrong in ["\\", "\\q", "\\x1", "\\xgg"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
