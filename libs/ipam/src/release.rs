//! Addresses are taken back: all of an owner, or one as it was given out.
//! In: an owner; or an address with its owner and the count at which it was given. Out: what is free again.
//! Invariant: an old release never frees a new owner's address: an owner is one container, a count one giving (IPAM-9, IPAM-10).
//! Never: keeps an empty block that is nobody's, or that is this node's in a pool that selects it no more (IPAM-11, IPAM-12).

use crate::{Ledger, affinity::node_handle};
use model::Cidr;
use std::{collections::BTreeSet, net::IpAddr};

impl Ledger {
    /// Takes back everything that `owner` has; one that has nothing is no error.
    pub fn release(&mut self, owner: &str) -> Vec<IpAddr> {
        let node = self.here.as_ref().map(|(node, _)| node);
        let handle = node.map(node_handle).unwrap_or_default();
        let mut near = self.places(&[&handle, owner], node);
        if self.is_partial {
            // A name's handle counts it, and no node's.
            near.extend(self.blocks.iter().filter(|(_, kept)| kept.value.keeps(owner)).map(|(cidr, _)| *cidr));
        }
        let mut places = self.places_of(owner, near);
        let is_sticky = |cidr: &Cidr| self.blocks.get(cidr).is_some_and(|kept| kept.value.keeps(owner));
        if !self.is_partial && places.iter().any(is_sticky) {
            // The name's handle counts it, and no node's.
            places = self.places_of(owner, self.blocks.keys().copied().collect());
        } else if places.is_empty() && self.is_partial {
            self.is_short = true;
        } else if places.is_empty() {
            // What no handle names anybody may have written: all blocks are asked.
            places = self.places_of(owner, self.blocks.keys().copied().collect());
        }
        self.release_in(&places, owner)
    }

    /// The same in what the node that decides has, and nowhere else: a name that is not one container's.
    pub fn release_here(&mut self, owner: &str) -> Vec<IpAddr> {
        let Some(node) = self.here.as_ref().map(|(node, _)| node) else { return Vec::new() };
        let places = self.places_of(owner, self.places(&[&node_handle(node)], Some(node)));
        self.release_in(&places, owner)
    }

    fn release_in(&mut self, places: &[Cidr], owner: &str) -> Vec<IpAddr> {
        let mut released = Vec::new();
        let clock = self.clock.clone();
        let at = clock.stamp(self.config);
        for cidr in places {
            let (now, may_be_held) = (self.clock.at, self.may_be_held(*cidr));
            if let Some(kept) = self.blocks.get_mut(cidr) {
                released.extend(kept.value.part_with(owner, now, may_be_held, at));
                self.leave(*cidr);
            }
        }
        released
    }

    /// In which of these blocks `owner` has something.
    fn places_of(&self, owner: &str, places: BTreeSet<Cidr>) -> Vec<Cidr> {
        let holds = |cidr: &Cidr| {
            let block = self.blocks.get(cidr).map(|kept| &kept.value);
            block.is_some_and(|block| block.check().is_ok() && !block.held_by(owner).is_empty())
        };
        places.into_iter().filter(holds).collect()
    }

    /// Takes back one address, if it is still given out as somebody saw it. `Ok(false)`: it is free already.
    ///
    /// # Errors
    /// It was given anew since; the owner who has it.
    pub fn release_seen(&mut self, address: IpAddr, owner: &str, sequence: u64) -> Result<bool, String> {
        let Some((cidr, kept)) = self.block_of(address) else { return Ok(false) };
        if let Err(invalid) = kept.value.check() {
            return Err(invalid.to_string());
        }
        let clock = self.clock.clone();
        let Some(kept) = self.blocks.get_mut(&cidr) else { return Ok(false) };
        let released = kept.value.release_given(address, owner, sequence, clock.stamp(self.config))?;
        if released {
            self.leave(cidr);
        }
        Ok(released)
    }

    /// What becomes of a block that may be empty now.
    pub(crate) fn leave(&mut self, cidr: Cidr) {
        let Some(block) = self.blocks.get(&cidr).map(|kept| &kept.value).filter(|block| block.is_empty()) else {
            return;
        };
        let is_left = match (&block.affinity, &self.here) {
            (None, _) => true,
            (Some(_), Some((node, labels))) => block.belongs_to(node) && !self.selects(cidr, labels),
            (Some(_), None) => false,
        };
        if is_left {
            self.give_up(cidr);
        }
    }
}
