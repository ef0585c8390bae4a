//! What a commit of services leaves for later: words to settle, keys to delete, numbers to free, each after its grace.
//! In: the steps that came into force. Out: the writes that are due, and what a later step may not touch meanwhile.
//! Invariant: a number is free again two graces after the step that dropped it; a word changes only once it is settled.
//! Never: waits.

use super::{
    numbers::{Free, place},
    order,
    step::Step,
    write::ServiceWrite,
};
use abi::ServiceKey;
use std::collections::BTreeSet;

/// What is left of one step.
#[derive(Debug)]
struct Left {
    /// The grace it waits for.
    grace: u64,
    /// Due after the first grace; `None`: done, and the second is waited for.
    settle: Option<Vec<ServiceWrite>>,
    /// Keys and backends whose words are not settled.
    keys: BTreeSet<ServiceKey>,
    backends: BTreeSet<u32>,
    /// Whether slot 0 is not.
    has_flag: bool,
    /// Keys that go, or are gone: the element of each is given to the next key.
    gone: BTreeSet<ServiceKey>,
    free: Free,
}

/// What all of them have left.
#[derive(Debug, Default)]
pub struct Lefts(Vec<Left>);

impl Lefts {
    /// Takes in what a step leaves until `grace` and the one after it.
    pub fn add(&mut self, step: &Step, grace: u64) {
        if !step.takes_generation() {
            return;
        }
        let gone = step.frontends.iter().filter(|(_, (_, is))| is.is_none());
        let lists = step.lists.iter().filter_map(|(id, (was, is))| Some((*id, was.as_ref().filter(|_| is.is_none())?)));
        let backends = step.backends.iter().filter(|(_, (_, is))| is.is_none());
        let free = Free {
            frontends: gone.clone().filter_map(|(_, (was, _))| Some(was.as_ref()?.slot)).collect(),
            members: lists.clone().map(|(_, list)| place(&list.entry)).collect(),
            lists: lists.map(|(id, _)| id).collect(),
            ended: backends.clone().filter_map(|(_, (was, _))| Some(was.as_ref()?.at)).collect(),
            backends: backends.map(|(slot, _)| *slot).collect(),
        };
        self.0.push(Left {
            grace,
            settle: Some(order::after(step)),
            keys: step.frontends.keys().copied().collect(),
            backends: step.backends.keys().copied().collect(),
            has_flag: step.any.0 != step.any.1,
            gone: gone.map(|(key, _)| *key).collect(),
            free,
        });
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys that are not free yet.
    pub fn keys(&self) -> usize {
        self.0.iter().map(|left| left.gone.len()).sum()
    }

    /// The last grace that something waits for.
    pub fn last(&self) -> Option<u64> {
        self.0.iter().map(|left| left.grace).max()
    }

    /// The next that is due: its writes, where it waits on, and what is free from now on.
    pub fn due(&mut self, over: u64) -> Option<(Vec<ServiceWrite>, Option<usize>, Free)> {
        let at = self.0.iter().position(|left| left.grace <= over)?;
        match self.0[at].settle.take() {
            Some(writes) => Some((writes, Some(at), Free::default())),
            None => Some((Vec::new(), None, self.0.remove(at).free)),
        }
    }

    /// The second grace of the one at this place.
    pub fn wait(&mut self, at: usize, grace: u64) {
        if let Some(left) = self.0.get_mut(at) {
            left.grace = grace;
        }
    }

    /// Whether a step touches what a packet under way may still read, or would insert a key in the place of one.
    pub fn forbid(&self, step: &Step) -> bool {
        let open = || self.0.iter().filter(|left| left.settle.is_some());
        let touches = |left: &Left| {
            step.frontends.keys().any(|key| left.keys.contains(key))
                || step.backends.keys().any(|slot| left.backends.contains(slot))
                || (left.has_flag && step.any.0 != step.any.1)
        };
        let reuses = |left: &Left| {
            let is_deleted = left.settle.is_none() && !left.gone.is_empty();
            step.fresh_keys().any(|key| is_deleted || left.gone.contains(key))
        };
        open().any(touches) || self.0.iter().any(reuses)
    }
}
