//! Who may hold what: one agent's part in the leases that agents share. Pure.
//! In: what was read of leases and heartbeats, with this machine's monotonic time around each reading. Out: what to write, and
//! until when this node may act as a holder.
//! Invariant: while the rates of two clocks differ by less than `expire / believe`, no two nodes believe in one lease.
//! Never: compares clocks of two nodes; reads or writes; trusts a writing that it did not see succeed.

use std::{collections::BTreeMap, fmt, time::Duration};

/// How long things hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats.
    pub renew: Duration,
    /// So long after it began to write a heartbeat that was written, a node believes that it lives in the eyes of the others.
    pub believe: Duration,
    /// So long the others must have seen one and the same heartbeat before what its node holds is vacant.
    pub expire: Duration,
    /// What is vacant is taken by the first at once, by the last after so long: a node's turn is by its name and the lease's,
    /// so that many nodes neither write at once nor leave everything to one of them.
    pub spread: Duration,
}

impl Timing {
    /// What a node holds that dies is another's in less than two seconds; clocks may differ in their rates by a third.
    pub const FAST: Self = Self {
        renew: Duration::from_millis(150),
        believe: Duration::from_millis(800),
        expire: Duration::from_millis(1100),
        spread: Duration::ZERO,
    };

    /// The same, where a heartbeat is a write to an API server that every node hears of: 120 a minute for each node that holds
    /// something. A heartbeat may take 600 ms; one that dies is followed in less than two seconds.
    pub const SPARING: Self = Self {
        renew: Duration::from_millis(500),
        believe: Duration::from_millis(1100),
        expire: Duration::from_millis(1500),
        spread: Duration::from_millis(200),
    };
}

/// A node, and which of its lives: one that could not renew in time begins another, in which it holds nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The node's name.
    pub node: String,
    /// The number of its life.
    pub term: u64,
}

impl Holder {
    /// As it stands in `holderIdentity`.
    #[must_use]
    pub fn read(identity: &str) -> Option<Self> {
        let (node, term) = identity.rsplit_once('_')?;
        Some(Self { node: node.to_owned(), term: term.parse().ok()? })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.node, self.term)
    }
}

/// A node's heartbeat as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Its version in the store.
    pub version: String,
    /// The node's life.
    pub term: u64,
    /// What its writer asks the others to wait, where that is more than their own measure.
    pub expire: Duration,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is another's, or nobody's business here.
    Leave,
    /// It is held here.
    Hold,
    /// Write it as ours, over the version that was read.
    Take,
    /// Give it back, over the version that was read.
    Release,
}

/// What is known of another node's heartbeat: which one, and since when.
#[derive(Clone, Debug)]
struct Seen {
    heartbeat: Option<Heartbeat>,
    since: Duration,
}

/// One agent's part.
#[derive(Clone, Debug)]
pub struct Keeper {
    node: String,
    timing: Timing,
    term: u64,
    /// Of the own heartbeat, as it was seen last.
    version: Option<String>,
    /// When the last heartbeat that was written in this life began to be.
    renewed: Option<Duration>,
    seen: BTreeMap<String, Seen>,
}

impl Keeper {
    /// A node that has not lived yet.
    #[must_use]
    pub fn new(node: &str, timing: Timing) -> Self {
        Self { node: node.to_owned(), timing, term: 0, version: None, renewed: None, seen: BTreeMap::new() }
    }

    /// Who this node is in its present life.
    #[must_use]
    pub fn identity(&self) -> Holder {
        Holder { node: self.node.clone(), term: self.term }
    }

    /// What it is timed by.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Until when this node may act as a holder of what it holds.
    #[must_use]
    pub fn believes_until(&self) -> Option<Duration> {
        self.renewed.map(|renewed| renewed + self.timing.believe)
    }

    /// Whether it may now.
    #[must_use]
    pub fn believes(&self, now: Duration) -> bool {
        self.believes_until().is_some_and(|until| now < until)
    }

    /// Whether it is time for another heartbeat, if there is anything to hold by it.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.renewed.is_none_or(|renewed| now >= renewed + self.timing.renew)
    }

    /// The life that a heartbeat begun now speaks of, and the version that it is written over.
    #[must_use]
    pub fn beat(&self, now: Duration) -> (u64, Option<&str>) {
        let term = if self.believes(now) { self.term } else { self.term + 1 };
        (term, self.version.as_deref())
    }

    /// That heartbeat was written, with this version.
    pub fn beaten(&mut self, began: Duration, term: u64, version: String) {
        self.term = term;
        self.version = Some(version);
        self.renewed = Some(began);
    }

    /// Something else stands in its place: that of an agent of this node before, or nothing any more. This life is over.
    pub fn overtaken(&mut self, found: Option<&Heartbeat>) {
        self.term = self.term.max(found.map_or(0, |found| found.term));
        self.version = found.map(|found| found.version.clone());
        self.renewed = None;
    }

    /// Another node's heartbeat was read; `after`: when the reading was over.
    pub fn saw(&mut self, node: &str, heartbeat: Option<Heartbeat>, after: Duration) {
        let is_news = self.seen.get(node).is_none_or(|seen| seen.heartbeat != heartbeat);
        if is_news {
            self.seen.insert(node.to_owned(), Seen { heartbeat, since: after });
        }
    }

    /// Forgets nodes that hold nothing of interest.
    pub fn forget_all_but(&mut self, nodes: impl Fn(&str) -> bool) {
        self.seen.retain(|node, _| nodes(node));
    }

    /// What to do about a lease that was read before its holder's heartbeat was; `before`: when both readings began.
    #[must_use]
    pub fn judge(&self, holder: Option<&Holder>, wanted: bool, before: Duration) -> Step {
        let is_own = holder.is_some_and(|holder| holder.node == self.node);
        if is_own && holder == Some(&self.identity()) && self.believes(before) {
            return if wanted { Step::Hold } else { Step::Release };
        }
        match (self.is_vacant(holder, before), wanted && self.believes(before)) {
            (true, true) => Step::Take,
            (true, false) if is_own && !wanted => Step::Release,
            _ => Step::Leave,
        }
    }

    /// Whether nobody holds a lease by right: what an earlier life of this node held is over with it.
    #[must_use]
    pub fn is_vacant(&self, holder: Option<&Holder>, before: Duration) -> bool {
        let is_held = holder == Some(&self.identity()) && self.believes(before);
        let is_over = |holder: &Holder| holder.node == self.node || self.is_over(holder, before);
        !is_held && holder.is_none_or(is_over)
    }

    /// Whether a holder believes no more: it has begun another life, or was seen silent for long enough.
    fn is_over(&self, holder: &Holder, before: Duration) -> bool {
        let Some(seen) = self.seen.get(&holder.node) else { return false };
        let (term, asked) = match &seen.heartbeat {
            Some(heartbeat) => (heartbeat.term, heartbeat.expire),
            None => (holder.term, Duration::ZERO),
        };
        let silent = before.saturating_sub(seen.since);
        term != holder.term || silent >= self.timing.expire.max(asked)
    }
}

#[cfg(test)]
mod prop;
