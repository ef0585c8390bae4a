//! Numbers of frontends, balancers and backends, and room for lists of members.
//! In: what an image uses; what a plan takes; what has come free. Out: numbers and ranges that nobody has.
//! Invariant: what is given out is not given out again before it is given back.
//! Never: gives anything back by itself; a plan that is dropped has taken from a copy.

use super::{ended::At, image::Image};
use crate::tables::{ids::Ids, numbers::Room};
use abi::{Balancer, RowRef};

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub frontends: Ids,
    pub lists: Ids,
    pub backends: Ids,
    pub members: Room,
}

impl Numbers {
    /// Those that an image uses.
    pub fn of(image: &Image) -> Self {
        Self {
            frontends: image.frontends.values().map(|held| held.slot).collect(),
            lists: image.lists.keys().copied().collect(),
            backends: image.backends.keys().copied().collect(),
            members: Room::without(image.lists.values().map(|list| place(&list.entry))),
        }
    }
}

/// Numbers that no packet can read any more, and what they meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Free {
    pub frontends: Vec<u32>,
    pub lists: Vec<u32>,
    pub backends: Vec<u32>,
    pub members: Vec<RowRef>,
    /// Where the backends were.
    pub ended: Vec<At>,
}

impl Free {
    /// Gives them back.
    pub fn give_back(self, numbers: &mut Numbers) {
        self.frontends.into_iter().for_each(|slot| numbers.frontends.remove(slot));
        self.lists.into_iter().for_each(|id| numbers.lists.remove(id));
        self.backends.into_iter().for_each(|slot| numbers.backends.remove(slot));
        self.members.into_iter().for_each(|range| numbers.members.give_back(range));
    }
}

/// Where a balancer's list lies.
pub const fn place(balancer: &Balancer) -> RowRef {
    RowRef { offset: balancer.offset, len: balancer.entries() }
}
