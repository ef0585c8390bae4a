//! A file's documents: split by hand, so that a syntax error in one hides no other.
//! In: a file's text. Out: each document's objects, members of a `List` apart, with the line they start at.
//! Invariant: documents come in the order of the file; line numbers are the file's.
//! Never: gives up a file for one of its documents; reads one that is larger than any object can be.

use crate::yaml;
use serde::Deserialize;
use serde_json::Value;
use std::ops::RangeInclusive;

/// Larger objects no API server takes (k8s.io/apiserver: 3 MiB of a request). A list may be of any size: it is many objects.
pub(crate) const OBJECT_MAX: usize = 3 * 1024 * 1024;

/// One document.
#[derive(Debug)]
pub(crate) struct Document {
    /// Line of its first content, from 1.
    pub(crate) line: u64,
    /// Its objects stand in a list.
    pub(crate) is_list: bool,
    /// Its objects, or why there are none.
    pub(crate) content: Result<Vec<Value>, Unreadable>,
}

/// A document that is no YAML.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// Line of the error.
    pub(crate) line: u64,
    /// What is wrong.
    pub(crate) message: String,
    /// The object it seems to be, by a look at its text.
    pub(crate) object: Option<String>,
}

/// The documents of a YAML or JSON file. Documents without content are left out.
pub(crate) fn documents(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(value) = json(text) {
        return vec![Document { line: 1, is_list: lists(&value), content: Ok(members(value)) }];
    }
    split(text).into_iter().filter(|part| part.has_content()).map(|part| part.read()).collect()
}

/// JSON may be indented by tabs, which YAML does not take.
fn json(text: &str) -> Option<Value> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let is_list = || serde_json::from_str(text).is_ok_and(|Kind { kind }| is_list(&kind));
    let is_json = text.trim_start().starts_with(['{', '[']) && (text.len() <= OBJECT_MAX || is_list());
    is_json.then(|| serde_json::from_str(text).ok()).flatten()
}

fn is_list(kind: &str) -> bool {
    kind.ends_with("List")
}

/// Lines of one document; `first` is the number of the first of them.
#[derive(Debug)]
struct Part {
    first: u64,
    text: String,
}

fn split(text: &str) -> Vec<Part> {
    let mut parts = vec![Part { first: 1, text: String::new() }];
    for (number, line) in (1..).zip(text.lines()) {
        let part = parts.last_mut().expect("there is one from the start");
        match marker(line) {
            None => {
                part.text.push_str(line);
                part.text.push('\n');
            }
            // What follows the marker on its line is content; the marker's place is kept for column numbers.
            Some(rest) => parts.push(Part { first: number, text: format!("   {rest}\n") }),
        }
    }
    parts
}

/// What follows a document marker (`---` or `...`) at the start of a line.
fn marker(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."))?;
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some(rest)
}

/// The text of each document without the markers between, and the lines of the file that it has.
pub(crate) fn raw(text: &str) -> Vec<(RangeInclusive<u64>, String)> {
    let without_marker = |(index, Part { first, text }): (usize, Part)| match text.split_once('\n') {
        Some((head, rest)) if index > 0 && head.trim().is_empty() => (first + 1, rest.to_owned()),
        Some((head, rest)) if index > 0 => (first, format!("{}\n{rest}", head.trim())),
        _ => (first, text),
    };
    let with_lines = |(first, part): (u64, String)| (first..=first + part.lines().count() as u64 - 1, part);
    let parts = split(text).into_iter().enumerate().map(without_marker);
    parts.filter(|(_, part)| !part.trim().is_empty()).map(with_lines).collect()
}

impl Part {
    fn content_lines(&self) -> impl Iterator<Item = (u64, &str)> {
        let content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        (self.first..).zip(self.text.lines()).filter(move |(_, line)| content(line))
    }

    fn has_content(&self) -> bool {
        self.content_lines().any(|(_, line)| !line.starts_with('%'))
    }

    fn read(&self) -> Document {
        let line = self.content_lines().next().map_or(self.first, |(line, _)| line);
        if self.text.len() > OBJECT_MAX && !self.field("kind").is_some_and(|kind| is_list(&kind)) {
            let message = format!("{} bytes are more than an object's {OBJECT_MAX}; divide it", self.text.len());
            return Document { line, is_list: false, content: Err(Unreadable { line, message, object: self.guess() }) };
        }
        let parsed = yaml::parse(&self.text);
        let is_list = parsed.as_ref().is_ok_and(lists);
        let content = parsed.map(members).map_err(|error| Unreadable {
            line: error.line.map_or(line, |within| self.first + within - 1),
            message: error.message,
            object: self.guess(),
        });
        Document { line, is_list, content }
    }

    fn field(&self, name: &str) -> Option<String> {
        self.text.lines().find_map(|line| {
            let value = line.trim().strip_prefix(name)?.strip_prefix(':')?.trim().trim_matches(['"', '\'']);
            (!value.is_empty()).then(|| value.to_owned())
        })
    }

    /// `kind` and `metadata.name`, as far as lines of their usual form show them.
    fn guess(&self) -> Option<String> {
        let kind = self.field("kind")?;
        let name = self.field("name").map_or(String::new(), |name| format!(" {name}"));
        let namespace = self.field("namespace").filter(|_| !name.is_empty());
        Some(namespace.map_or(format!("{kind}{name}"), |namespace| format!("{kind} {namespace}/{}", name.trim())))
    }
}

fn lists(value: &Value) -> bool {
    value.get("kind").and_then(Value::as_str).is_some_and(is_list)
}

/// A `List` is its members; everything else is itself.
fn members(value: Value) -> Vec<Value> {
    let is_list = lists(&value);
    match value {
        Value::Null => Vec::new(),
        Value::Object(mut fields) if is_list => match fields.remove("items") {
            Some(Value::Array(items)) => items,
            None | Some(Value::Null) => Vec::new(),
            // Not a list of objects: left for the converter to refuse.
            Some(other) => vec![other],
        },
        other => vec![other],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(u64, Result<Vec<String>, u64>)> {
        let kind = |value: &Value| value["kind"].as_str().unwrap_or("?").to_owned();
        let row = |document: Document| {
            let content = document.content.map(|values| values.iter().map(kind).collect());
            (document.line, content.map_err(|error| error.line))
        };
        documents(text).into_iter().map(row).collect()
    }

    #[test]
    fn a_syntax_error_hides_no_other_document_and_names_its_own_line() {
        let text = "# head\nkind: A\n---\nkind: B\nx: [1,\n--- \n# note\nkind: C\n";
        let found = kinds(text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], (2, Ok(vec!["A".into()])));
        assert!(matches!(found[1], (4, Err(line)) if (4..=6).contains(&line)), "{:?}", found[1]);
        assert_eq!(found[2], (8, Ok(vec!["C".into()])));
    }

    #[test]
    fn members_of_a_list_stand_for_themselves_and_empty_documents_for_nothing() {
        let text = "---\n---\nkind: List\nitems: [{kind: A}, {kind: B}]\n...\n# end\n";
        assert_eq!(kinds(text), [(3, Ok(vec!["A".into(), "B".into()]))]);
        assert_eq!(kinds("\u{feff}{\"kind\": \"A\"}\n"), [(1, Ok(vec!["A".into()]))]);
    }

    #[test]
    fn text_that_looks_like_a_marker_inside_a_value_splits_nothing() {
        assert_eq!(kinds("kind: A\ndata: |\n  ---\n  x\n----: 1\n"), [(1, Ok(vec!["A".into()]))]);
    }

    #[test]
    fn an_object_that_is_larger_than_any_is_not_read_and_a_list_of_that_size_is() {
        let nets = |kind: &str| {
            let many: String =
                (0..300_000).map(|number| format!("  - 10.{}.{}.0/24\n", number >> 8 & 255, number & 255)).collect();
            format!("kind: {kind}\nmetadata:\n  name: many\nspec:\n  nets:\n{many}---\nkind: B\n")
        };
        let found = documents(&nets("GlobalNetworkSet"));
        let error = found[0].content.as_ref().expect_err("it is too large");
        assert_eq!((error.object.as_deref(), error.line), (Some("GlobalNetworkSet many"), 1));
        assert!(error.message.contains("are more than an object's"), "{}", error.message);
        assert!(found[1].content.is_ok(), "the other document is read");
        let json = |kind: &str| format!("{{\"kind\": \"{kind}\", \"items\": [{}1]}}", "1, ".repeat(1_100_000));
        assert!(documents(&json("PodList"))[0].content.as_ref().is_ok_and(|items| items.len() == 1_100_001));
        assert!(documents(&json("Pod"))[0].content.is_err());
    }

    #[test]
    fn a_broken_document_is_named_by_its_text() {
        let text = "kind: NetworkPolicy\nmetadata:\n  namespace: shop\n  name: web\nspec: [\n";
        let document = documents(text).remove(0);
        let error = document.content.expect_err("the bracket is never closed");
        assert_eq!(error.object.as_deref(), Some("NetworkPolicy shop/web"));
    }
}
