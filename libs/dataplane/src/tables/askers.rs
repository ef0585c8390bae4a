//! Who asks whom: the rule sets and classes that have a row of their own between them, found without asking each pair.
//! In: rule sets and classes as they come and go. Out: the sets that ask something of a class, the classes that a set finds.
//! Invariant: a set answers a class that is not found here with its default row.
//! Never: compiles.

use policy::{Class, Question, RuleSet};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Contents by number, and the numbers by what is asked.
#[derive(Debug)]
pub struct Numbered<T> {
    by_id: BTreeMap<u32, Arc<T>>,
    by_question: BTreeMap<Question, Vec<u32>>,
}

/// What can be asked for by questions.
pub trait Questioned {
    /// Its questions, some of them more than once.
    fn questions_of(&self) -> impl Iterator<Item = Question> + '_;
}

impl Questioned for RuleSet {
    fn questions_of(&self) -> impl Iterator<Item = Question> + '_ {
        self.questions()
    }
}

impl Questioned for Class {
    fn questions_of(&self) -> impl Iterator<Item = Question> + '_ {
        self.found()
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { by_id: BTreeMap::new(), by_question: BTreeMap::new() }
    }
}

impl<T: Questioned> Numbered<T> {
    /// Takes one in.
    pub fn add(&mut self, id: u32, content: &Arc<T>) {
        for question in content.questions_of() {
            let ids = self.by_question.entry(question).or_default();
            if ids.last() != Some(&id) {
                ids.push(id);
            }
        }
        self.by_id.insert(id, Arc::clone(content));
    }

    /// Forgets one.
    pub fn remove(&mut self, id: u32) {
        let Some(content) = self.by_id.remove(&id) else { return };
        for question in content.questions_of() {
            if let Some(ids) = self.by_question.get_mut(&question) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_question.remove(&question);
                }
            }
        }
    }

    /// The content of a number.
    pub fn get(&self, id: u32) -> Option<&Arc<T>> {
        self.by_id.get(&id)
    }

    /// Those that share a question with it.
    pub fn met(&self, other: &impl Questioned) -> BTreeSet<u32> {
        other.questions_of().filter_map(|question| self.by_question.get(&question)).flatten().copied().collect()
    }
}
