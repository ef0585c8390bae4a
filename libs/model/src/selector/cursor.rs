//! A place in a selector's text, and what stands there.
//! In: text. Out: one lexical part after the other, or where it is not what was expected.
//! Invariant: blanks are skipped before a part is looked at, never inside a name or a value.
//! Never: knows the grammar; which parts may follow is the parser's.

use super::{InvalidSelector, Selector};

/// What may stand in a label, of a selector's text.
fn is_label(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_./-".contains(c)
}

#[derive(Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, rest: text }
    }

    /// Blanks are spaces and tabs only, as in Calico.
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest.is_empty()
    }

    /// Goes past `sign` if it stands here.
    pub(super) fn sign(&mut self, sign: &str) -> bool {
        self.skip_blanks();
        let found = self.rest.strip_prefix(sign);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// Goes past `words` if they stand here, with blanks or without between them, and no more letters behind.
    pub(super) fn words(&mut self, words: &[&str]) -> bool {
        self.skip_blanks();
        let before = self.rest;
        let found = words.iter().all(|word| self.sign(word)) && !self.rest.starts_with(is_label);
        if !found {
            self.rest = before;
        }
        found
    }

    pub(super) fn label(&mut self, expected: &'static str) -> Result<String, InvalidSelector> {
        self.skip_blanks();
        let end = self.rest.find(|c| !is_label(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(self.unexpected(expected));
        }
        if end > Selector::LABEL_MAX {
            return Err(self.unexpected("a label of at most 512 characters"));
        }
        let (label, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(label.to_owned())
    }

    /// Whether a value stands here.
    pub(super) fn at_value(&mut self) -> bool {
        self.skip_blanks();
        self.rest.starts_with(['"', '\''])
    }

    /// A quoted value. There are no escapes; the other quote may stand inside.
    pub(super) fn value(&mut self) -> Result<String, InvalidSelector> {
        const EXPECTED: &str = "a value in quotes";
        if !self.at_value() {
            return Err(self.unexpected(EXPECTED));
        }
        let (quote, inside) = self.rest.split_at(1);
        let Some((value, rest)) = inside.split_once(quote) else {
            return Err(self.unexpected("a value with a quote at its end"));
        };
        self.rest = rest;
        Ok(value.to_owned())
    }

    /// That something else was expected here.
    pub(super) fn unexpected(&mut self, expected: &'static str) -> InvalidSelector {
        self.skip_blanks();
        InvalidSelector::new(self.text, self.text.len() - self.rest.len(), expected)
    }
}
