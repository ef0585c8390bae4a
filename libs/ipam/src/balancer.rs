//! Addresses of load balancers, by Calico's rules (kube-controllers/pkg/controllers/loadbalancer).
//! In: a service's wish. Out: its addresses, in blocks that are no node's, and what of the wish cannot be met.
//! Invariant: what a service holds it keeps while its wish allows it; only pools for load balancers give.
//! Never: gives a pod's address; refuses one family because another cannot be had.

use crate::{AffinityState, AssignError, Block, BlockAffinity, Kept, Ledger};
use model::{Cidr, Family, IpPool, NodeName, ServiceId};
use std::{collections::BTreeMap, net::IpAddr};

/// Whose the blocks are.
const OWNER: &str = "virtual:load-balancer";
const OWNER_NAME: &str = "load-balancer";
const OWNER_TYPE: &str = "virtual";

/// What a service may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalancerWish {
    /// Its handle.
    pub handle: String,
    /// What is stored beside the addresses.
    pub secondary: BTreeMap<String, String>,
    /// One address of each.
    pub families: Vec<Family>,
    /// Exactly these instead; empty: any.
    pub addresses: Vec<IpAddr>,
    /// Only of these pools, by name or network; empty: of any that gives by itself.
    pub pools: Vec<String>,
    /// First sequence number of a block that has to be made.
    pub sequence: u64,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balanced {
    /// All that the service holds now.
    pub addresses: Vec<IpAddr>,
    /// What it cannot have, and why.
    pub missing: Vec<AssignError>,
}

impl Ledger {
    /// Gives a service what it wants, as far as it can be had, and takes back what it may not keep.
    pub fn balance(&mut self, wish: &BalancerWish) -> Balanced {
        let mut missing = Vec::new();
        let pools = self.pools_of_wish(wish, &mut missing);
        for held in self.held_by(&wish.handle) {
            if !self.may_keep(held, wish, &pools) {
                self.release_one(held, &wish.handle);
            }
        }
        if wish.addresses.is_empty() {
            for family in &wish.families {
                if self.held_by(&wish.handle).iter().any(|held| Family::of(*held) == *family) {
                    continue;
                }
                let pools: Vec<_> = pools.iter().filter(|pool| pool.cidr.family() == *family).collect();
                missing.extend(self.give_one(&pools, wish).err());
            }
        } else {
            for address in &wish.addresses {
                missing.extend(self.give_this(*address, wish).err());
            }
        }
        Balanced { addresses: self.held_by(&wish.handle), missing }
    }

    /// Services that hold addresses of load balancers, by handle.
    #[must_use]
    pub fn balanced(&self) -> BTreeMap<String, ServiceId> {
        let mut services = BTreeMap::new();
        let own = self.blocks.values().map(|kept| &kept.value);
        for held in own.filter(|block| is_balancers(block) && block.check().is_ok()).flat_map(|block| &block.attributes)
        {
            let part = |name: &str| held.secondary.get(name).cloned();
            if let (Some(handle), Some(namespace), Some(name)) = (&held.handle_id, part("namespace"), part("service")) {
                services.insert(handle.clone(), ServiceId { namespace: namespace.as_str().into(), name });
            }
        }
        services
    }

    /// Pools that may give, in the order in which they are asked.
    fn pools_of_wish(&self, wish: &BalancerWish, missing: &mut Vec<AssignError>) -> Vec<IpPool> {
        let usable = |pool: &&IpPool| pool.uses.load_balancer && !pool.disabled;
        if wish.pools.is_empty() {
            return self.pools.values().filter(usable).filter(|pool| !pool.manual).cloned().collect();
        }
        let mut named = Vec::new();
        for text in &wish.pools {
            let is_meant = |pool: &&IpPool| pool.name == *text || text.parse() == Ok(pool.cidr);
            match self.pools.values().filter(usable).find(is_meant) {
                Some(pool) => named.push(pool.clone()),
                None => missing.push(AssignError::UnknownPool { pool: text.clone() }),
            }
        }
        named
    }

    fn may_keep(&self, held: IpAddr, wish: &BalancerWish, pools: &[IpPool]) -> bool {
        if !wish.addresses.is_empty() {
            return wish.addresses.contains(&held);
        }
        if !wish.families.contains(&Family::of(held)) {
            return false;
        }
        if !wish.pools.is_empty() {
            return pools.iter().any(|pool| pool.cidr.contains(held));
        }
        // One of a pool that is gone or disabled meanwhile stays.
        self.pools.values().find(|pool| pool.cidr.contains(held)).is_none_or(|pool| !pool.manual)
    }

    fn release_one(&mut self, address: IpAddr, handle: &str) {
        let cidr = self.block_of(address).map(|(cidr, _)| cidr);
        let clock = self.clock.clone();
        if let Some(kept) = cidr.and_then(|cidr| self.blocks.get_mut(&cidr)) {
            kept.value.release_address(address, handle, clock.stamp(self.config));
        }
    }

    /// Of the first pool that has one: out of a block of load balancers, else out of a new one.
    fn give_one(&mut self, pools: &[&IpPool], wish: &BalancerWish) -> Result<(), AssignError> {
        let mut full = AssignError::NoBalancerPool;
        for pool in pools {
            let has_room = |block: &&Kept<Block>| {
                let block = &block.value;
                is_balancers(block)
                    && !block.deleted
                    && pool.cidr.covers(&block.cidr)
                    && block.check().is_ok()
                    && self.first_of(block).is_some()
            };
            let known = self.blocks.values().find(has_room).map(|kept| kept.value.cidr);
            let Some(cidr) = known.or_else(|| self.free_block(pool, OWNER_NAME)) else {
                full = AssignError::BalancerPoolFull { pool: pool.name.clone() };
                continue;
            };
            let fresh = Block::of(cidr, OWNER.to_owned(), wish.sequence);
            let Some(place) = self.first_of(self.blocks.get(&cidr).map_or(&fresh, |kept| &kept.value)) else {
                continue;
            };
            self.balancers_block(cidr, wish.sequence)
                .map(|block| block.assign_at(place, &wish.handle, &wish.secondary));
            self.claim_for_balancers(cidr);
            return Ok(());
        }
        Err(full)
    }

    fn give_this(&mut self, address: IpAddr, wish: &BalancerWish) -> Result<(), AssignError> {
        let usable = |pool: &&IpPool| pool.uses.load_balancer && !pool.disabled && pool.cidr.contains(address);
        let pool = self.pools.values().find(usable).ok_or(AssignError::NotInPool { address })?;
        let known = self.block_of(address).map(|(cidr, _)| cidr);
        let cidr = known.unwrap_or(Cidr::new(address, pool.block_size).unwrap_or(Cidr::host(address)));
        let taken = AssignError::Taken { address, block: cidr };
        let Some(block) = self.balancers_block(cidr, wish.sequence) else { return Err(taken) };
        block.check()?;
        let own = is_balancers(block);
        block.take(address, &wish.handle, &wish.secondary).ok_or(taken)?;
        if own {
            self.claim_for_balancers(cidr);
        }
        Ok(())
    }

    fn balancers_block(&mut self, cidr: Cidr, sequence: u64) -> Option<&mut Block> {
        if !self.blocks.contains_key(&cidr) {
            let value = Block::of(cidr, OWNER.to_owned(), sequence);
            self.blocks.insert(cidr, Kept { revision: None, value });
        }
        self.blocks.get_mut(&cidr).map(|kept| &mut kept.value)
    }

    fn claim_for_balancers(&mut self, cidr: Cidr) {
        let node = NodeName(OWNER_NAME.into());
        let affinity = BlockAffinity {
            affinity_type: OWNER_TYPE.to_owned(),
            ..BlockAffinity::new(&node, cidr, AffinityState::Confirmed)
        };
        let known = self.affinities.get(&affinity.name());
        if known.is_none_or(|known| known.value != affinity) {
            let revision = known.and_then(|kept| kept.revision.clone());
            self.affinities.insert(affinity.name(), Kept { revision, value: affinity });
        }
    }
}

fn is_balancers(block: &Block) -> bool {
    block.affinity.as_deref() == Some(OWNER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use model::PoolUses;

    fn pool(name: &str, cidr: &str, block_size: u8, manual: bool) -> IpPool {
        let uses = PoolUses { workload: false, load_balancer: true, tunnel: false };
        IpPool { uses, manual, ..IpPool::of_pods(name, cidr.parse().expect("a network"), block_size) }
    }

    fn ledger(pools: Vec<IpPool>) -> Ledger {
        let pools = pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect();
        Ledger { pools, ..Ledger::default() }
    }

    fn two_pools() -> Ledger {
        ledger(vec![
            pool("a4", "192.0.2.128/28", 28, false),
            pool("a6", "2001:db8::80/124", 124, false),
            pool("by-hand", "192.0.2.160/28", 28, true),
        ])
    }

    fn wish(name: &str) -> BalancerWish {
        BalancerWish { handle: name.into(), families: vec![Family::V4, Family::V6], ..BalancerWish::default() }
    }

    fn texts(balanced: &Balanced) -> (Vec<String>, usize) {
        (balanced.addresses.iter().map(ToString::to_string).collect(), balanced.missing.len())
    }

    #[test]
    fn a_service_gets_one_address_a_family_and_keeps_it() {
        let mut ledger = two_pools();
        let first = ledger.balance(&wish("x"));
        assert_eq!((first.addresses.len(), first.missing.len()), (2, 0));
        assert_eq!(ledger.balance(&wish("x")), first);
        assert_ne!(ledger.balance(&wish("y")).addresses, first.addresses);
        let block = ledger.blocks.values().next().expect("a block");
        assert_eq!(block.value.affinity.as_deref(), Some("virtual:load-balancer"));
        assert!(ledger.affinities.values().all(|kept| kept.value.affinity_type == "virtual"));
        ledger.release("x");
        assert!(ledger.held_by("x").is_empty() && !ledger.held_by("y").is_empty());
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_once_and_from_pools_for_load_balancers_alone() {
        let mut ledger = two_pools();
        ledger.pools.insert("pods".into(), IpPool::of_pods("pods", "10.65.0.0/16".parse().expect("a network"), 26));
        let asks = |name: &str, address: &str| BalancerWish {
            addresses: vec![address.parse().expect("an address")],
            ..wish(name)
        };
        let own = |texts: &[&str], missing| (texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), missing);
        assert_eq!(texts(&ledger.balance(&asks("x", "192.0.2.129"))), own(&["192.0.2.129"], 0));
        assert_eq!(texts(&ledger.balance(&asks("y", "192.0.2.129"))), own(&[], 1), "it is taken");
        assert_eq!(texts(&ledger.balance(&asks("y", "10.65.0.9"))), own(&[], 1), "it is for pods");
        assert_eq!(texts(&ledger.balance(&asks("y", "192.0.2.161"))), own(&["192.0.2.161"], 0), "by hand is asked for");
        assert_eq!(texts(&ledger.balance(&asks("x", "192.0.2.130"))), own(&["192.0.2.130"], 0), "another wish");
        assert_eq!(texts(&ledger.balance(&asks("y", "192.0.2.129"))), own(&["192.0.2.129"], 0), "it is free again");
        // Without the wish what was given by hand is taken back.
        ledger.balance(&asks("z", "192.0.2.165"));
        let after = ledger.balance(&wish("z"));
        assert!(after.addresses.len() == 2 && !after.addresses.contains(&[192, 0, 2, 165].into()), "{after:?}");
    }

    #[test]
    fn pools_that_are_named_give_and_no_others() {
        let mut ledger = two_pools();
        let first = ledger.balance(&wish("x"));
        let named = BalancerWish { pools: vec!["by-hand".into(), "2001:db8::80/124".into()], ..wish("x") };
        let second = ledger.balance(&named);
        assert!(second.addresses[0].to_string().starts_with("192.0.2.16"), "{second:?}");
        assert_eq!((second.addresses[1], second.missing.len()), (first.addresses[1], 0));
        let unknown = BalancerWish { pools: vec!["nowhere".into()], families: vec![Family::V4], ..wish("y") };
        let nothing = ledger.balance(&unknown);
        assert_eq!((nothing.addresses.len(), nothing.missing.len()), (0, 2), "{nothing:?}");
    }

    #[test]
    fn a_full_pool_is_followed_by_the_next_and_pods_get_nothing_of_either() {
        let mut ledger = ledger(vec![pool("a", "192.0.2.128/31", 32, false), pool("b", "192.0.2.130/32", 32, false)]);
        let only_v4 = |name: &str| BalancerWish { families: vec![Family::V4], ..wish(name) };
        let given: Vec<_> = ["x", "y", "z"].map(|name| ledger.balance(&only_v4(name)).addresses).into();
        assert!(given.iter().all(|addresses| addresses.len() == 1), "{given:?}");
        let none = ledger.balance(&only_v4("w"));
        assert_eq!(none.missing, [AssignError::BalancerPoolFull { pool: "b".into() }]);
        ledger.release("y");
        assert_eq!(ledger.balance(&only_v4("w")).addresses, given[1]);
        let services = ledger.balanced();
        assert!(services.is_empty(), "attributes without a service are nobody's: {services:?}");
    }

    #[test]
    fn ipam_13_pods_are_not_served_by_pools_for_load_balancers() {
        let mut ledger = two_pools();
        ledger.balance(&wish("x"));
        let request = Request { node: "load-balancer".into(), owner: "pod".into(), sequence: 1, ..Request::default() };
        assert_eq!(ledger.assign(&request), Err(AssignError::NoPool));
        let asked = Request { wanted: vec![[192, 0, 2, 140].into()], ..request };
        assert!(ledger.assign(&asked).is_err());
    }
}
