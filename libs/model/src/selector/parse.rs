//! Reading: text to a selector, in Calico's grammar (libcalico-go/lib/selector; SEL-1 to SEL-6).
//! In: text. Out: a selector, or the character where it stops being one, and what was expected there.
//! Invariant: `!` binds closest, then `&&`, then `||`; text without content is `all()`.
//! Never: reads something else into text that Calico refuses; recurses without bound.

use super::{Selector, cursor::Cursor};
use std::{collections::BTreeSet, str::FromStr};

/// Parentheses that may be open at once: far more than anybody writes, far fewer than the stack has room for.
const DEPTH_MAX: usize = 128;
/// Characters of a text that an error repeats.
const SHOWN_MAX: usize = 80;

/// Text that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a selector: at character {position} stands {found}, expected was {expected}")]
pub struct InvalidSelector {
    /// The text, cut where it is long.
    pub text: String,
    /// Which character is wrong, from 1; one past the last at the end.
    pub position: usize,
    /// What stands there: some characters in quotes, or "the end".
    pub found: String,
    /// What could stand there.
    pub expected: &'static str,
}

impl InvalidSelector {
    /// `at`: bytes before the wrong character.
    pub(super) fn new(text: &str, at: usize, expected: &'static str) -> Self {
        let (before, rest) = text.split_at(at);
        let found = if rest.is_empty() { "the end".to_owned() } else { format!("{:?}", cut(rest, 12)) };
        Self { text: cut(text, SHOWN_MAX), position: before.chars().count() + 1, found, expected }
    }
}

fn cut(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        let mut parser = Parser { cursor: Cursor::new(text), depth: 0 };
        if parser.cursor.at_end() {
            return Ok(Self::All);
        }
        let selector = parser.any_of()?;
        if parser.cursor.at_end() { Ok(selector) } else { Err(parser.cursor.unexpected("&&, || or the end")) }
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    depth: usize,
}

impl Parser<'_> {
    fn any_of(&mut self) -> Result<Selector, InvalidSelector> {
        let mut parts = vec![self.all_of()?];
        while self.cursor.sign("||") {
            parts.push(self.all_of()?);
        }
        Ok(Selector::any_of(parts))
    }

    fn all_of(&mut self) -> Result<Selector, InvalidSelector> {
        let mut parts = vec![self.term()?];
        while self.cursor.sign("&&") {
            parts.push(self.term()?);
        }
        Ok(Selector::all_of(parts))
    }

    fn term(&mut self) -> Result<Selector, InvalidSelector> {
        let mut negated = false;
        while self.cursor.sign("!") {
            negated = !negated;
        }
        let term = self.operand()?;
        Ok(if negated { term.negated() } else { term })
    }

    /// A call's parenthesis follows its name at once; `has == "x"` is about a label called `has`.
    fn operand(&mut self) -> Result<Selector, InvalidSelector> {
        if self.cursor.sign("(") {
            self.parenthesis()
        } else if self.cursor.sign("has(") {
            let label = self.cursor.label("a label")?;
            self.close(Selector::Has(label))
        } else if self.cursor.sign("all(") {
            self.close(Selector::All)
        } else if self.cursor.sign("global(") {
            self.close(Selector::Global)
        } else {
            let label = self.cursor.label("a label, has(), all(), global(), ! or (")?;
            self.comparison(label)
        }
    }

    fn parenthesis(&mut self) -> Result<Selector, InvalidSelector> {
        if self.depth == DEPTH_MAX {
            return Err(self.cursor.unexpected("no more than 128 open parentheses"));
        }
        self.depth += 1;
        let inner = self.any_of()?;
        self.depth -= 1;
        if self.cursor.sign(")") { Ok(inner) } else { Err(self.cursor.unexpected("&&, || or )")) }
    }

    fn close(&mut self, call: Selector) -> Result<Selector, InvalidSelector> {
        if self.cursor.sign(")") { Ok(call) } else { Err(self.cursor.unexpected(")")) }
    }

    fn comparison(&mut self, label: String) -> Result<Selector, InvalidSelector> {
        let cursor = &mut self.cursor;
        if cursor.sign("==") {
            Ok(Selector::Equals(label, cursor.value()?))
        } else if cursor.sign("!=") {
            Ok(Selector::NotEquals(label, cursor.value()?))
        } else if cursor.words(&["contains"]) {
            Ok(Selector::Contains(label, cursor.value()?))
        } else if cursor.words(&["starts", "with"]) {
            Ok(Selector::StartsWith(label, cursor.value()?))
        } else if cursor.words(&["ends", "with"]) {
            Ok(Selector::EndsWith(label, cursor.value()?))
        } else if cursor.words(&["not", "in"]) {
            Ok(Selector::NotIn(label, self.values()?))
        } else if cursor.words(&["in"]) {
            Ok(Selector::In(label, self.values()?))
        } else {
            Err(cursor.unexpected("==, !=, in, not in, contains, starts with or ends with"))
        }
    }

    /// There may be no value, and a comma behind the last.
    fn values(&mut self) -> Result<BTreeSet<String>, InvalidSelector> {
        if !self.cursor.sign("{") {
            return Err(self.cursor.unexpected("a set such as {\"a\", \"b\"}"));
        }
        let mut values = BTreeSet::new();
        while self.cursor.at_value() {
            values.insert(self.cursor.value()?);
            if !self.cursor.sign(",") {
                break;
            }
        }
        if self.cursor.sign("}") { Ok(values) } else { Err(self.cursor.unexpected("a value in quotes, or }")) }
    }
}
