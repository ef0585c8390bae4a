//! A block: the addresses of one small network, and who holds each; Calico's IPAMBlock.
//! In: a handle and its attributes. Out: an address, or nothing when the block is full.
//! Invariant: an ordinal is either allocated or exactly once in the queue; a block read from outside is checked first.
//! Never: reuses an address while one that was free for longer is left.

use model::{Cidr, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Beside an address that is counted under its node's handle: whose it is, as [`crate::owner_of`] says.
pub const ATTACHMENT: &str = "tortie.dev/attachment";
/// When an address was given back that is not given again yet; it stays in its block until then, and is nobody's.
const RELEASED: &str = "releasedAt";
/// Largest block Calico allows: /20 or /116.
const MAX_BITS: u8 = 12;

/// Who holds addresses of a block, and what is known of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllocationAttribute {
    /// Under which handle they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// `pod`, `namespace`, `node`, `timestamp`: Calico's collector of leaked addresses reads them (IPAM-23).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secondary: BTreeMap<String, String>,
    /// Fields of Calico that mean nothing here: kept as they came.
    #[serde(flatten)]
    pub other: BTreeMap<String, Opaque>,
}

impl AllocationAttribute {
    /// What is known of addresses that are counted under `handle`.
    pub(crate) fn new(handle: &str, secondary: &BTreeMap<String, String>) -> Self {
        Self { handle_id: Some(handle.to_owned()), secondary: secondary.clone(), other: BTreeMap::new() }
    }

    /// Of addresses that cool down since `at`.
    fn released(at: &str) -> Self {
        let other = BTreeMap::from([(RELEASED.to_owned(), Opaque::Text(at.to_owned()))]);
        Self { handle_id: None, secondary: BTreeMap::new(), other }
    }

    /// When they were given back, where they cool down.
    #[must_use]
    pub fn released_at(&self) -> Option<&str> {
        match self.other.get(RELEASED) {
            Some(Opaque::Text(at)) if !at.is_empty() => Some(at),
            _ => None,
        }
    }

    /// Whose they are: the attachment that stands beside them, else whoever has the handle for itself.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        let owner = self.secondary.get(ATTACHMENT).or(self.handle_id.as_ref()).map(String::as_str);
        owner.filter(|_| self.released_at().is_none())
    }
}

/// `spec` of a `crd.projectcalico.org/v1` IPAMBlock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Its network.
    #[schemars(with = "String")]
    pub cidr: Cidr,
    /// `host:<node>`, or nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// When it was claimed; Calico's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// Ordinal -> index into `attributes`.
    pub allocations: Vec<Option<usize>>,
    /// Free ordinals; the next one to give out comes first.
    pub unallocated: Vec<usize>,
    /// Owners.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub attributes: Vec<AllocationAttribute>,
    /// Counts writes.
    #[serde(default)]
    pub sequence_number: u64,
    /// Ordinal -> sequence number at which it was given out: tells a reuse from the allocation before it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// Given up, waiting to be removed.
    #[serde(default)]
    pub deleted: bool,
    /// Calico's old place for the cluster's setting.
    #[serde(default)]
    pub strict_affinity: bool,
}

/// A value that is handed through: a string, a map of strings, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Opaque {
    /// A string.
    Text(String),
    /// A map of strings.
    Map(BTreeMap<String, String>),
    /// `null`.
    Null,
}

/// A block that contradicts itself. Nothing is given out of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("IPAMBlock {cidr}: {problem}; no address of it is given out until it is repaired")]
pub struct InvalidBlock {
    /// Which block.
    pub cidr: Cidr,
    /// What is wrong.
    pub problem: String,
}

impl Block {
    /// An empty block of `node`. `sequence` starts its counter: a block made anew must not repeat an old one's numbers.
    #[must_use]
    pub fn new(cidr: Cidr, node: &NodeName, sequence: u64) -> Self {
        Self::of(cidr, format!("host:{node}"), sequence)
    }

    /// The same with this affinity.
    #[must_use]
    pub fn of(cidr: Cidr, affinity: String, sequence: u64) -> Self {
        let size = size_of(cidr);
        Self {
            cidr,
            affinity: Some(affinity),
            affinity_claim_time: None,
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            sequence_number: sequence,
            sequence_number_for_allocation: BTreeMap::new(),
            deleted: false,
            strict_affinity: false,
        }
    }

    /// Whether the block is `node`'s.
    #[must_use]
    pub fn belongs_to(&self, node: &NodeName) -> bool {
        self.affinity.as_deref().and_then(|text| text.strip_prefix("host:")) == Some(&*node.0)
    }

    /// Whether lists and indexes agree with each other.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn check(&self) -> Result<(), InvalidBlock> {
        let invalid = |problem: String| Err(InvalidBlock { cidr: self.cidr, problem });
        if host_bits(self.cidr) > MAX_BITS {
            return invalid(format!("it is wider than {} addresses", 1 << MAX_BITS));
        }
        if self.allocations.len() != size_of(self.cidr) {
            return invalid(format!("{} allocations for {} addresses", self.allocations.len(), size_of(self.cidr)));
        }
        if let Some(index) = self.allocations.iter().flatten().find(|index| **index >= self.attributes.len()) {
            return invalid(format!("an allocation names attribute {index} of {}", self.attributes.len()));
        }
        let mut seen = vec![false; self.allocations.len()];
        for ordinal in &self.unallocated {
            match self.allocations.get(*ordinal) {
                Some(None) if !std::mem::replace(&mut seen[*ordinal], true) => {}
                _ => return invalid(format!("unallocated names {ordinal}, which is taken, twice there or outside")),
            }
        }
        Ok(())
    }

    /// Gives out the address that has been free for longest.
    pub fn assign(&mut self, handle: &str, secondary: &BTreeMap<String, String>) -> Option<IpAddr> {
        (!self.unallocated.is_empty()).then(|| self.assign_at(0, handle, secondary))
    }

    /// Gives out the address at this place of the queue of free ones.
    pub(crate) fn assign_at(&mut self, place: usize, handle: &str, secondary: &BTreeMap<String, String>) -> IpAddr {
        let ordinal = self.unallocated.remove(place);
        self.give(ordinal, handle, secondary)
    }

    /// Whether nobody holds an address of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allocations.iter().all(Option::is_none)
    }

    /// Gives out exactly `address`. `None`: it is another's, or outside.
    pub fn take(&mut self, address: IpAddr, handle: &str, secondary: &BTreeMap<String, String>) -> Option<IpAddr> {
        let attribute = AllocationAttribute::new(handle, secondary);
        if attribute.owner().is_some_and(|owner| self.held_by(owner).contains(&address)) {
            return Some(address);
        }
        let place = self.unallocated.iter().position(|ordinal| self.address(*ordinal) == address)?;
        let ordinal = self.unallocated.remove(place);
        Some(self.give(ordinal, handle, secondary))
    }

    fn give(&mut self, ordinal: usize, handle: &str, secondary: &BTreeMap<String, String>) -> IpAddr {
        let index = self.index_of(AllocationAttribute::new(handle, secondary));
        self.allocations[ordinal] = Some(index);
        self.sequence_number_for_allocation.insert(ordinal.to_string(), self.sequence_number);
        self.address(ordinal)
    }

    fn index_of(&mut self, attribute: AllocationAttribute) -> usize {
        let known = self.attributes.iter().position(|known| *known == attribute);
        known.unwrap_or_else(|| {
            self.attributes.push(attribute);
            self.attributes.len() - 1
        })
    }

    /// The addresses that `owner` has, lowest first.
    #[must_use]
    pub fn held_by(&self, owner: &str) -> Vec<IpAddr> {
        self.ordinals_of(owner).into_iter().map(|ordinal| self.address(ordinal)).collect()
    }

    /// How many addresses are counted under each handle.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for index in self.allocations.iter().flatten() {
            let attribute = self.attributes.get(*index).filter(|attribute| attribute.released_at().is_none());
            if let Some(handle) = attribute.and_then(|attribute| attribute.handle_id.as_deref()) {
                *counts.entry(handle).or_default() += 1;
            }
        }
        counts
    }

    /// Takes back all that `owner` has; its addresses go to the back of the queue, with `at` once they have cooled down since then.
    pub fn release(&mut self, owner: &str, at: Option<&str>) -> Vec<IpAddr> {
        let released = self.held_by(owner);
        self.free(&self.ordinals_of(owner), at);
        released
    }

    /// Takes back this address alone, if `owner` has it.
    pub fn release_address(&mut self, address: IpAddr, owner: &str, at: Option<&str>) {
        let ordinals = self.ordinals_of(owner).into_iter().filter(|ordinal| self.address(*ordinal) == address);
        self.free(&ordinals.collect::<Vec<_>>(), at);
    }

    /// Takes back this address alone, if it is still given out as it was when somebody looked: to this owner, at this count of
    /// writes. `Ok(false)`: it is free.
    ///
    /// # Errors
    /// It was given anew since: to whom.
    pub fn release_given(
        &mut self,
        address: IpAddr,
        owner: &str,
        sequence: u64,
        at: Option<&str>,
    ) -> Result<bool, String> {
        let place = self.allocations.iter().enumerate().find(|(ordinal, _)| self.address(*ordinal) == address);
        let Some((ordinal, index)) = place.and_then(|(ordinal, index)| Some((ordinal, (*index)?))) else {
            return Ok(false);
        };
        if self.attributes[index].released_at().is_some() {
            return Ok(false);
        }
        let holder = self.attributes[index].owner().unwrap_or_default().to_owned();
        let now = self.sequence_number_for_allocation.get(&ordinal.to_string()).copied().unwrap_or(0);
        if holder != owner || now != sequence {
            return Err(holder);
        }
        self.free(&[ordinal], at);
        Ok(true)
    }

    /// As Calico does it: what cools down stays taken, by nobody.
    fn free(&mut self, ordinals: &[usize], at: Option<&str>) {
        let index = at.filter(|_| !ordinals.is_empty()).map(|at| self.index_of(AllocationAttribute::released(at)));
        for ordinal in ordinals {
            self.allocations[*ordinal] = index;
            if index.is_some() {
                self.sequence_number_for_allocation.insert(ordinal.to_string(), self.sequence_number);
            } else {
                self.unallocated.push(*ordinal);
                self.sequence_number_for_allocation.remove(&ordinal.to_string());
            }
        }
        self.drop_unused_attributes();
    }

    /// What was given back before this time is free, in the order in which it was given back. Both times are of one form, in UTC: what
    /// is earlier sorts first.
    pub fn thaw(&mut self, before: &str) {
        let is_over = |at: &str| at.len() == before.len() && at < before;
        if self.attributes.iter().any(|attribute| attribute.released_at().is_some_and(is_over)) && self.check().is_ok()
        {
            let mut cooled: Vec<(String, usize)> =
                self.cooling().map(|(ordinal, at)| (at.to_owned(), ordinal)).collect();
            cooled.retain(|(at, _)| is_over(at));
            cooled.sort();
            self.free(&cooled.into_iter().map(|(_, ordinal)| ordinal).collect::<Vec<_>>(), None);
        }
    }

    /// This address is free at once, if it cools down: who has it all the same says so.
    pub(crate) fn thaw_address(&mut self, address: IpAddr) {
        let found = self.cooling().find(|(ordinal, _)| self.address(*ordinal) == address).map(|(ordinal, _)| ordinal);
        if let Some(ordinal) = found {
            self.free(&[ordinal], None);
        }
    }

    /// What cools down, by ordinal, and since when.
    fn cooling(&self) -> impl Iterator<Item = (usize, &str)> {
        self.allocations
            .iter()
            .enumerate()
            .filter_map(|(ordinal, index)| Some((ordinal, self.attributes.get((*index)?)?.released_at()?)))
    }

    /// Addresses that cool down, and since when.
    pub fn cooling_down(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.cooling().map(|(ordinal, at)| (self.address(ordinal), at))
    }

    fn ordinals_of(&self, owner: &str) -> Vec<usize> {
        let held: Vec<bool> = self.attributes.iter().map(|attribute| attribute.owner() == Some(owner)).collect();
        let taken = self.allocations.iter().enumerate();
        let holds = |index: &Option<usize>| index.is_some_and(|index| held[index]);
        taken.filter(|(_, index)| holds(index)).map(|(ordinal, _)| ordinal).collect()
    }

    pub(crate) fn drop_unused_attributes(&mut self) {
        let used: BTreeSet<usize> = self.allocations.iter().flatten().copied().collect();
        let renumbered: BTreeMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let mut index = 0;
        self.attributes.retain(|_| {
            index += 1;
            used.contains(&(index - 1))
        });
        for allocation in self.allocations.iter_mut().flatten() {
            *allocation = renumbered[allocation];
        }
    }

    pub(crate) fn address(&self, ordinal: usize) -> IpAddr {
        nth_address(self.cidr, ordinal as u128)
    }
}

/// Go writes an empty list or map that was never filled as `null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The address `offset` above the network's first.
pub(crate) fn nth_address(cidr: Cidr, offset: u128) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset as u32)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset)).into(),
    }
}

fn host_bits(cidr: Cidr) -> u8 {
    if cidr.is_v4() { 32 - cidr.prefix_len() } else { 128 - cidr.prefix_len() }
}

fn size_of(cidr: Cidr) -> usize {
    1 << host_bits(cidr).min(MAX_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        Block::new("10.65.3.0/30".parse().expect("a valid network"), &"n1".into(), 7)
    }

    fn give(block: &mut Block, handle: &str) -> String {
        block.assign(handle, &BTreeMap::new()).map_or("full".to_owned(), |address| address.to_string())
    }

    #[test]
    fn ipam_7_a_released_address_goes_to_the_back() {
        let mut block = block();
        assert_eq!(give(&mut block, "a"), "10.65.3.0");
        assert_eq!(give(&mut block, "b"), "10.65.3.1");
        block.release("a", None);
        assert_eq!(["c", "d", "e", "f"].map(|h| give(&mut block, h)), ["10.65.3.2", "10.65.3.3", "10.65.3.0", "full"]);
    }

    #[test]
    fn what_was_given_back_cools_down_as_calico_writes_it_and_is_free_once_it_is_cold() {
        let mut block = block();
        let at = |second: u8| format!("2026-11-27T08:00:{second:02}Z");
        assert_eq!(["a", "b", "c"].map(|handle| give(&mut block, handle))[2], "10.65.3.2");
        block.release("b", Some(&at(7)));
        block.release("a", Some(&at(5)));
        assert!(block.check().is_ok() && !block.is_empty() && block.held_by("a").is_empty());
        assert_eq!(block.counts(), [("c", 1)].into());
        assert_eq!(block.unallocated, [3]);
        let stored = serde_json::to_value(&block).expect("JSON");
        let cold = |at: String| serde_json::json!({ "releasedAt": at });
        assert_eq!((&stored["attributes"][1], &stored["attributes"][2]), (&cold(at(7)), &cold(at(5))));
        let address = "10.65.3.0".parse().expect("an address");
        assert_eq!(block.release_given(address, "a", 7, None), Ok(false), "twice is no error");
        block.thaw(&at(5));
        assert_eq!(block.unallocated, [3], "that very second is not over");
        block.thaw(&at(6));
        assert_eq!(block.unallocated, [3, 0]);
        block.thaw("9");
        block.thaw(&at(9));
        assert_eq!((&*block.unallocated, block.attributes.len()), (&[3, 0, 1][..], 1));
    }

    #[test]
    fn a_release_keeps_the_others_attributes_in_place() {
        let mut block = block();
        for handle in ["a", "b", "c"] {
            give(&mut block, handle);
        }
        block.release("b", None);
        assert_eq!(block.allocations, [Some(0), None, Some(1), None]);
        assert_eq!(block.held_by("c"), ["10.65.3.2".parse::<IpAddr>().expect("a valid address")]);
        assert_eq!(block.check(), Ok(()));
    }

    #[test]
    fn a_block_that_contradicts_itself_is_refused() {
        let broken: [fn(&mut Block); 5] = [
            |block| block.allocations.truncate(3),
            |block| {
                give(block, "a");
                block.unallocated.push(0);
            },
            |block| block.allocations[0] = Some(5),
            |block| block.unallocated.push(0),
            |block| block.unallocated[0] = 99,
        ];
        for damage in broken {
            let mut block = block();
            damage(&mut block);
            assert!(block.check().is_err(), "{block:?}");
        }
    }
}
