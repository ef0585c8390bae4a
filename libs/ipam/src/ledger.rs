//! The ledger: pools, blocks, affinities and handles as last read; decisions are made on it and become writes.
//! In: wishes by handle. Out: addresses, and the writes that make them true, each with the revision it was decided on.
//! Invariant: the same handle always gets the same addresses; a wish for several families is met whole or not at all.
//! Never: writes; a writer that finds another revision throws the decision away and asks again on a fresh ledger.

use crate::{
    AffinityState, AllocationAttribute, Block, BlockAffinity, InvalidBlock, IpamHandle, affinity::cidr_name,
    choose::candidates,
};
use model::{Cidr, IpPool, NodeName};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// An object and the revision it was read at; `None`: it is not stored yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    /// `metadata.resourceVersion`.
    pub revision: Option<String>,
    /// The object.
    pub value: T,
}

/// Everything a decision needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// By name.
    pub pools: BTreeMap<String, IpPool>,
    /// By network.
    pub blocks: BTreeMap<Cidr, Kept<Block>>,
    /// By object name.
    pub affinities: BTreeMap<String, Kept<BlockAffinity>>,
    /// By handle.
    pub handles: BTreeMap<String, Kept<IpamHandle>>,
}

/// A wish: one address of every family that has an enabled pool, or was asked for by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The node that asks.
    pub node: NodeName,
    /// The owner.
    pub handle: String,
    /// What is stored beside the addresses.
    pub secondary: BTreeMap<String, String>,
    /// Exactly these, at most one a family.
    pub wanted: Vec<IpAddr>,
    /// First sequence number of a block that has to be made: the caller's clock, so that no block repeats an old one's.
    pub sequence: u64,
}

/// Why no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// No pool.
    #[error("no enabled IPPool: put an IPPool manifest into the datastore")]
    NoPool,
    /// The node's block has no free address.
    #[error("block {block} of node {node} is full: remove pods from the node, or use a larger blockSize for new pools")]
    BlockFull {
        /// The block.
        block: Cidr,
        /// The node.
        node: NodeName,
    },
    /// Every block of the pool is another node's.
    #[error("every block of IPPool {pool} belongs to another node: add a pool or remove nodes' claims")]
    PoolFull {
        /// The pool.
        pool: String,
    },
    /// An address was asked for that no pool has.
    #[error("address {address} was asked for and lies in no enabled IPPool: ask for another, or add a pool")]
    NotInPool {
        /// Which.
        address: IpAddr,
    },
    /// An address was asked for that somebody has.
    #[error("address {address} is taken: see who holds it in IPAMBlock {block}, or ask for another")]
    Taken {
        /// Which.
        address: IpAddr,
        /// Where it is held.
        block: Cidr,
    },
    /// No pool gives addresses to load balancers.
    #[error(
        "no enabled IPPool gives addresses of this family to load balancers: add one with allowedUses: [LoadBalancer]"
    )]
    NoBalancerPool,
    /// None is left for a load balancer.
    #[error("IPPool {pool} has no address left for load balancers: add a pool, or remove services")]
    BalancerPoolFull {
        /// The pool.
        pool: String,
    },
    /// A pool was named that there is not.
    #[error("there is no enabled IPPool {pool} with allowedUses: [LoadBalancer]")]
    UnknownPool {
        /// As it was written.
        pool: String,
    },
    /// The node's block is damaged.
    #[error(transparent)]
    Invalid(#[from] InvalidBlock),
}

/// One object to write or to remove, if it is still at `revision` (`None`: if it does not exist).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A block.
    Block(String, Kept<Block>),
    /// A claim.
    Affinity(String, Kept<BlockAffinity>),
    /// The claim that was written as pending earlier in the same list: confirmed now.
    Confirm(String, BlockAffinity),
    /// A handle.
    Handle(String, Kept<IpamHandle>),
    /// A handle that holds nothing any more.
    RemoveHandle(String, Option<String>),
    /// A claim on a block that another node won.
    RemoveAffinity(String, Option<String>),
}

impl Ledger {
    /// Decides addresses for `request`. On an error the ledger is as before.
    ///
    /// # Errors
    /// There is no pool, or no address left.
    pub fn assign(&mut self, request: &Request) -> Result<Vec<IpAddr>, AssignError> {
        let pools = self.pools_by_family();
        if pools.is_empty() {
            return Err(AssignError::NoPool);
        }
        let mut chosen = Vec::new();
        for v4 in [true, false] {
            if let Some(address) = request.wanted.iter().find(|address| address.is_ipv4() == v4) {
                let pool = self.pool_of(*address).filter(is_of_pods);
                chosen.push((pool.ok_or(AssignError::NotInPool { address: *address })?, Some(*address)));
            } else if let Some(pool) = pools.iter().find(|pool| pool.cidr.is_v4() == v4) {
                chosen.push((pool.clone(), None));
            }
        }
        // Asked first, for a wish is met whole or not at all: families have blocks of their own.
        for (pool, wanted) in &chosen {
            self.can_give(pool, *wanted, request)?;
        }
        self.drop_lost_claims(&request.node);
        let give = |(pool, wanted): (IpPool, Option<IpAddr>)| match wanted {
            Some(address) => self.take(address, &pool, request),
            None => self.assign_from(&pool, request),
        };
        let addresses = chosen.into_iter().map(give).collect::<Result<Vec<_>, _>>()?;
        self.recount(&request.handle);
        Ok(addresses)
    }

    /// What [`Ledger::take`] and [`Ledger::assign_from`] would refuse.
    fn can_give(&self, pool: &IpPool, wanted: Option<IpAddr>, request: &Request) -> Result<(), AssignError> {
        let cidr = match wanted {
            Some(address) => self.blocks.keys().find(|cidr| cidr.contains(address)).copied(),
            None => Some(self.block_for(pool, request)?),
        };
        // A fresh block has room.
        let Some(block) = cidr.and_then(|cidr| self.blocks.get(&cidr)).map(|kept| &kept.value) else { return Ok(()) };
        block.check()?;
        match wanted {
            Some(address) if !block.can_take(address, &request.handle) => {
                Err(AssignError::Taken { address, block: block.cidr })
            }
            None if block.unallocated.is_empty() && block.held_by(&request.handle).is_empty() => {
                Err(AssignError::BlockFull { block: block.cidr, node: request.node.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Marks the wanted addresses that lie in a pool as the handle's: somebody else has given them out. On an error the
    /// ledger is as before.
    ///
    /// # Errors
    /// One of them is another handle's.
    pub fn claim_wanted(&mut self, request: &Request) -> Result<(), AssignError> {
        let mut next = self.clone();
        for address in &request.wanted {
            if let Some(pool) = next.pool_of(*address) {
                next.take(*address, &pool, request)?;
            }
        }
        next.recount(&request.handle);
        *self = next;
        Ok(())
    }

    /// Takes back everything `handle` holds; a handle that holds nothing is no error.
    pub fn release(&mut self, handle: &str) -> Vec<IpAddr> {
        let sound = self.blocks.values_mut().filter(|block| block.value.check().is_ok());
        let released: Vec<_> = sound.flat_map(|block| block.value.release(handle)).collect();
        self.recount(handle);
        released
    }

    /// The handles of what the blocks say that pods of `node` hold.
    #[must_use]
    pub fn handles_of_pods(&self, node: &NodeName) -> BTreeSet<String> {
        let sound = self.blocks.values().filter(|block| block.value.check().is_ok());
        let held = sound.flat_map(|block| block.value.attributes.iter());
        let is_pods = |held: &&AllocationAttribute| {
            held.secondary.get("node").is_some_and(|held| **held == *node.0) && held.secondary.contains_key("pod")
        };
        held.filter(is_pods).filter_map(|held| held.handle_id.clone()).collect()
    }

    /// The addresses `handle` holds.
    #[must_use]
    pub fn held_by(&self, handle: &str) -> Vec<IpAddr> {
        let sound = self.blocks.values().filter(|block| block.value.check().is_ok());
        sound.flat_map(|block| block.value.held_by(handle)).collect()
    }

    /// First enabled pool of each family, by name; IPv4 first.
    fn pools_by_family(&self) -> Vec<IpPool> {
        let first = |v4| self.pools.values().find(|pool| is_of_pods(pool) && !pool.manual && pool.cidr.is_v4() == v4);
        [true, false].into_iter().filter_map(first).cloned().collect()
    }

    fn pool_of(&self, address: IpAddr) -> Option<IpPool> {
        self.pools.values().find(|pool| pool.cidr.contains(address)).cloned()
    }

    /// Exactly this address, out of whosever block it lies in; out of a new one of this node where there is none.
    fn take(&mut self, address: IpAddr, pool: &IpPool, request: &Request) -> Result<IpAddr, AssignError> {
        let known = self.blocks.keys().find(|cidr| cidr.contains(address)).copied();
        let fresh = || Cidr::new(address, pool.block_size).unwrap_or(Cidr::host(address));
        let cidr = known.unwrap_or_else(fresh);
        let made = || Kept { revision: None, value: Block::new(cidr, &request.node, request.sequence) };
        let block = &mut self.blocks.entry(cidr).or_insert_with(made).value;
        block.check()?;
        let taken = AssignError::Taken { address, block: cidr };
        let own = block.belongs_to(&request.node);
        block.take(address, &request.handle, &request.secondary).ok_or(taken)?;
        if own {
            self.claim(cidr, &request.node);
        }
        Ok(address)
    }

    fn assign_from(&mut self, pool: &IpPool, request: &Request) -> Result<IpAddr, AssignError> {
        let cidr = self.block_for(pool, request)?;
        let fresh = || Kept { revision: None, value: Block::new(cidr, &request.node, request.sequence) };
        let block = &mut self.blocks.entry(cidr).or_insert_with(fresh).value;
        block.check()?;
        if let Some(held) = block.held_by(&request.handle).first() {
            return Ok(*held);
        }
        let full = AssignError::BlockFull { block: cidr, node: request.node.clone() };
        let address = block.assign(&request.handle, &request.secondary).ok_or(full)?;
        self.claim(cidr, &request.node);
        Ok(address)
    }

    /// The node's block in this pool (where it has several: the handle's, else one with room), else the first that nobody
    /// has.
    fn block_for(&self, pool: &IpPool, request: &Request) -> Result<Cidr, AssignError> {
        let own = |block: &&Kept<Block>| {
            block.value.belongs_to(&request.node) && !block.value.deleted && pool.cidr.covers(&block.value.cidr)
        };
        let held = |block: &&Kept<Block>| !block.value.held_by(&request.handle).is_empty();
        let room = |block: &&Kept<Block>| !block.value.unallocated.is_empty();
        let sound: Vec<_> = self.blocks.values().filter(own).filter(|block| block.value.check().is_ok()).collect();
        let chosen = sound.iter().copied().find(held).or_else(|| sound.iter().copied().find(room));
        if let Some(block) = chosen.or_else(|| self.blocks.values().find(own)) {
            return Ok(block.value.cidr);
        }
        let free = |cidr: &Cidr| !self.blocks.keys().any(|taken| taken.covers(cidr) || cidr.covers(taken));
        candidates(pool, &request.node).find(free).ok_or_else(|| AssignError::PoolFull { pool: pool.name.clone() })
    }

    /// The node's claim on a block that is its own.
    fn claim(&mut self, cidr: Cidr, node: &NodeName) {
        let affinity = BlockAffinity::new(node, cidr, AffinityState::Confirmed);
        let revision = self.affinities.get(&affinity.name()).and_then(|kept| kept.revision.clone());
        self.affinities.insert(affinity.name(), Kept { revision, value: affinity });
    }

    /// Claims on blocks that turned out to be another node's.
    fn drop_lost_claims(&mut self, node: &NodeName) {
        let blocks = &self.blocks;
        let lost = |claim: &BlockAffinity| {
            claim.node == *node && blocks.get(&claim.cidr).is_some_and(|block| !block.value.belongs_to(node))
        };
        self.affinities.retain(|_, kept| !lost(&kept.value));
    }

    /// A handle counts what the blocks say, so a count that a crash left behind heals with the next decision.
    pub(crate) fn recount(&mut self, handle: &str) {
        let count = |block: &Kept<Block>| u32::try_from(block.value.held_by(handle).len()).unwrap_or(u32::MAX);
        let sound = self.blocks.iter().filter(|(_, block)| block.value.check().is_ok());
        let block: BTreeMap<Cidr, u32> =
            sound.map(|(cidr, block)| (*cidr, count(block))).filter(|(_, count)| *count > 0).collect();
        if block.is_empty() {
            self.handles.remove(handle);
            return;
        }
        let value = IpamHandle { handle_id: handle.to_owned(), block, deleted: false };
        let revision = self.handles.get(handle).and_then(|kept| kept.revision.clone());
        self.handles.insert(handle.to_owned(), Kept { revision, value });
    }

    /// What to write to get from `before` to `self`, in the order that a crash anywhere leaves nothing given twice and
    /// nothing held without a trace: claim (pending), handles, blocks, claim (confirmed), then what is gone.
    #[must_use]
    pub fn writes_since(&self, before: &Ledger) -> Vec<Write> {
        let mut writes = Vec::new();
        let (new, known): (Vec<_>, Vec<_>) =
            changed(&self.affinities, &before.affinities).partition(|(_, kept)| kept.revision.is_none());
        for (name, kept) in &new {
            let pending = BlockAffinity { state: AffinityState::Pending, ..kept.value.clone() };
            writes.push(Write::Affinity((*name).clone(), Kept { revision: None, value: pending }));
        }
        for (id, kept) in changed(&self.handles, &before.handles) {
            writes.push(Write::Handle(id.to_lowercase(), kept.clone()));
        }
        for (cidr, kept) in changed(&self.blocks, &before.blocks) {
            let mut kept = kept.clone();
            // Wraps as Calico's does: a file may say any number.
            kept.value.sequence_number = kept.value.sequence_number.wrapping_add(1);
            writes.push(Write::Block(cidr_name(*cidr), kept));
        }
        writes.extend(new.iter().map(|(name, kept)| Write::Confirm((*name).clone(), kept.value.clone())));
        writes.extend(known.iter().map(|(name, kept)| Write::Affinity((*name).clone(), (*kept).clone())));
        writes.extend(gone(&self.handles, &before.handles).map(|(id, at)| Write::RemoveHandle(id.to_lowercase(), at)));
        writes.extend(gone(&self.affinities, &before.affinities).map(|(name, at)| Write::RemoveAffinity(name, at)));
        writes
    }
}

/// Whether pods get addresses of it (IPAM-13).
fn is_of_pods(pool: &IpPool) -> bool {
    pool.uses.workload && !pool.disabled
}

fn gone<T>(
    after: &BTreeMap<String, Kept<T>>,
    before: &BTreeMap<String, Kept<T>>,
) -> impl Iterator<Item = (String, Option<String>)> {
    let missing = before.iter().filter(|(key, _)| !after.contains_key(*key));
    missing.map(|(key, kept)| (key.clone(), kept.revision.clone()))
}

fn changed<'a, K: Ord, T: PartialEq>(
    after: &'a BTreeMap<K, Kept<T>>,
    before: &'a BTreeMap<K, Kept<T>>,
) -> impl Iterator<Item = (&'a K, &'a Kept<T>)> {
    after.iter().filter(|(key, kept)| before.get(key) != Some(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::PoolUses;

    fn request(node: &str, handle: &str) -> Request {
        let (handle, secondary, wanted) = (handle.into(), BTreeMap::new(), Vec::new());
        Request { node: node.into(), handle, secondary, wanted, sequence: 1 }
    }

    fn wish(handle: &str, wanted: &str) -> Request {
        Request { wanted: vec![wanted.parse().expect("an address")], ..request("n1", handle) }
    }

    fn ledger(pools: &[(&str, u8)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (number, (cidr, block_size)) in pools.iter().enumerate() {
            let cidr = cidr.parse().expect("a valid network");
            let name = format!("pool{number}");
            let pool = IpPool::of_pods(&name, cidr, *block_size);
            ledger.pools.insert(name, pool);
        }
        ledger
    }

    fn kinds(writes: &[Write]) -> Vec<&'static str> {
        let kind = |write: &Write| match write {
            Write::Block(..) => "block",
            Write::Affinity(_, kept) if kept.value.state == AffinityState::Pending => "pending",
            Write::Affinity(..) | Write::Confirm(..) => "confirmed",
            Write::Handle(..) => "handle",
            Write::RemoveHandle(..) => "no handle",
            Write::RemoveAffinity(..) => "no claim",
        };
        writes.iter().map(kind).collect()
    }

    #[test]
    fn the_same_handle_gets_the_same_addresses_of_both_families() {
        let mut ledger = ledger(&[("10.65.0.0/24", 26), ("fd00:65::/64", 122)]);
        let first = ledger.assign(&request("n1", "a"));
        assert_eq!(first.as_ref().map(Vec::len), Ok(2));
        assert_eq!(ledger.assign(&request("n1", "a")), first);
        assert_ne!(ledger.assign(&request("n1", "b")), first);
    }

    #[test]
    fn ipam_18_a_claim_is_pending_until_its_block_is_written() {
        let before = ledger(&[("10.65.0.0/24", 26)]);
        let mut after = before.clone();
        assert!(after.assign(&request("n1", "a")).is_ok());
        assert_eq!(kinds(&after.writes_since(&before)), ["pending", "handle", "block", "confirmed"]);
    }

    #[test]
    fn the_last_sequence_number_is_followed_by_the_first() {
        let mut before = ledger(&[("10.65.0.0/24", 26)]);
        before.assign(&Request { sequence: u64::MAX, ..request("n1", "a") }).expect("an address");
        let writes = before.writes_since(&ledger(&[("10.65.0.0/24", 26)]));
        let number =
            |write: &Write| if let Write::Block(_, kept) = write { Some(kept.value.sequence_number) } else { None };
        assert_eq!(writes.iter().find_map(number), Some(0));
    }

    #[test]
    fn a_release_removes_the_handle_after_the_block_is_written() {
        let mut before = ledger(&[("10.65.0.0/24", 26)]);
        before.assign(&request("n1", "a")).expect("an address");
        let mut after = before.clone();
        assert_eq!(after.release("a").len(), 1);
        assert_eq!(kinds(&after.writes_since(&before)), ["block", "no handle"]);
        assert!(after.release("a").is_empty());
    }

    #[test]
    fn a_dual_stack_wish_is_met_whole_or_not_at_all() {
        let mut ledger = ledger(&[("10.65.0.0/24", 26), ("fd00:65::/128", 128)]);
        assert!(ledger.assign(&request("n1", "a")).is_ok());
        let before = ledger.clone();
        assert!(matches!(ledger.assign(&request("n1", "b")), Err(AssignError::BlockFull { .. })));
        assert_eq!(ledger, before);
    }

    #[test]
    fn cni_94_an_address_asked_for_by_number_is_given_once_and_the_other_family_in_turn() {
        let mut ledger = ledger(&[("10.65.0.0/24", 26), ("fd00:65::/64", 122)]);
        let given = ledger.assign(&wish("a", "10.65.0.77")).expect("free");
        assert_eq!((given[0].to_string().as_str(), given.len()), ("10.65.0.77", 2));
        assert_eq!(ledger.assign(&wish("a", "10.65.0.77")), Ok(given), "its own is no other's");
        let before = ledger.clone();
        assert!(matches!(ledger.assign(&wish("b", "10.65.0.77")), Err(AssignError::Taken { .. })));
        assert!(matches!(ledger.assign(&wish("b", "10.66.0.1")), Err(AssignError::NotInPool { .. })));
        assert_eq!(ledger, before);
        ledger.release("a");
        assert!(ledger.assign(&wish("b", "10.65.0.77")).is_ok());
    }

    #[test]
    fn an_address_that_others_gave_out_is_marked_where_a_pool_has_it() {
        let mut ledger = ledger(&[("10.65.0.0/30", 30)]);
        assert_eq!(ledger.claim_wanted(&wish("x", "10.9.9.9")), Ok(()));
        assert!(ledger.held_by("x").is_empty(), "no pool has it");
        assert_eq!(ledger.claim_wanted(&wish("x", "10.65.0.0")), Ok(()));
        let ours: Vec<_> = ["a", "b", "c", "d"].map(|handle| ledger.assign(&request("n1", handle)).is_ok()).into();
        assert_eq!(ours, [true, true, true, false], "the fourth is taken");
        assert!(matches!(ledger.claim_wanted(&wish("y", "10.65.0.0")), Err(AssignError::Taken { .. })));
    }

    #[test]
    fn ipam_13_pods_get_no_address_of_a_pool_that_is_not_for_them() {
        let mut ledger = ledger(&[("192.0.2.128/28", 28)]);
        for pool in ledger.pools.values_mut() {
            pool.uses = PoolUses { workload: false, load_balancer: true };
        }
        assert_eq!(ledger.assign(&request("n1", "a")), Err(AssignError::NoPool));
        assert!(matches!(ledger.assign(&wish("a", "192.0.2.130")), Err(AssignError::NoPool)));
        let pods = IpPool::of_pods("pods", "10.65.0.0/24".parse().expect("a network"), 26);
        ledger.pools.insert("pods".into(), pods.clone());
        assert!(matches!(ledger.assign(&wish("a", "192.0.2.130")), Err(AssignError::NotInPool { .. })));
        // One whose addresses have to be asked for gives none by itself.
        ledger.pools.insert("pods".into(), IpPool { manual: true, ..pods });
        assert_eq!(ledger.assign(&request("n1", "a")), Err(AssignError::NoPool));
    }

    #[test]
    fn ipam_8_a_block_of_a_deleted_pool_gives_nothing_but_takes_back() {
        let mut ledger = ledger(&[("10.65.0.0/24", 26)]);
        ledger.assign(&request("n1", "a")).expect("an address");
        ledger.pools.clear();
        assert_eq!(ledger.assign(&request("n1", "b")), Err(AssignError::NoPool));
        assert_eq!(ledger.release("a").len(), 1);
    }

    #[test]
    fn ipam_18_the_loser_of_a_block_takes_the_next_and_drops_its_claim() {
        let mut before = ledger(&[("10.65.0.0/25", 26)]);
        before.assign(&request("n1", "a")).expect("an address");
        let block = before.blocks.values().next().expect("one block").value.cidr;
        let lost = BlockAffinity::new(&"n2".into(), block, AffinityState::Pending);
        before.affinities.insert(lost.name(), Kept { revision: Some("3".into()), value: lost });
        let mut after = before.clone();
        after.assign(&request("n2", "b")).expect("an address");
        assert!(kinds(&after.writes_since(&before)).contains(&"no claim"));
        assert!(matches!(after.assign(&request("n3", "c")), Err(AssignError::PoolFull { .. })));
    }
}
