//! YAML text to JSON values and back: the only place that knows the YAML library.
//! In: one document. Out: a value, or the line and what is wrong there.
//! Invariant: a document is read as JSON would be: quoted is a string, unquoted numbers are numbers.
//! Never: more than one document a call; unbounded aliases.

use serde::Serialize;
use serde_json::Value;

/// Text that is no YAML document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Line within the text, from 1.
    pub line: Option<u64>,
    /// What is wrong.
    pub message: String,
}

/// Reads one document. Text without content is `Value::Null`.
///
/// # Errors
/// The text is no YAML, or uses a mapping with keys that are no strings.
pub fn parse(text: &str) -> Result<Value, SyntaxError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
        let message = error.without_snippet().to_string();
        SyntaxError { line, message: message.lines().next().unwrap_or("not readable as YAML").to_owned() }
    })
}

/// Writes one document.
///
/// # Errors
/// The value has a form that YAML cannot hold.
pub fn print(value: &impl Serialize) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quoted_numbers_stay_strings_and_survive_printing() {
        let value = json!({"a": "1", "b": 1, "c": "true", "d": null, "e": "::1", "f": [], "g": "", "h": "1e3", "i": {}, "j": "y", "k": "off", "l": "0x1f", "m": "~", "n": "a: b # c", "o": " x\n"});
        let text = print(&value).expect("plain JSON prints");
        assert_eq!(parse(&text), Ok(value), "{text}");
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = parse("a: 1\nb: [1, 2\nc: 3\n").expect_err("the bracket is never closed");
        assert!(error.line.is_some_and(|line| line >= 2), "{error:?}");
    }

    #[test]
    fn text_without_content_is_null() {
        assert_eq!(parse("# only a comment\n"), Ok(Value::Null));
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        assert!(parse("a: 1\na: 2\n").is_err());
    }
}
