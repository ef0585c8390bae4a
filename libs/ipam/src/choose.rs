//! Which block a node claims: the next free one of the pool, from a place that depends on the node's name.
//! In: a pool, a node's name, what is taken of the pool. Out: a block.
//! Invariant: the same node starts at the same block, so a node that lost its claims finds its way back; every block is found.
//! Never: walks over what is taken block by block: a pool may be a /8.

use crate::block::nth_address;
use model::{Cidr, IpPool};
use std::{iter::once, net::IpAddr};

/// Nobody looks further than this for a block that may be given out of.
const LOOK_AT: u32 = 1 << 16;

/// The first block of `pool` from where `name` begins that is not `taken` and `may_be`. `taken` is in the order of networks, and
/// lies in the pool.
pub(crate) fn first_free(
    pool: &IpPool,
    name: &str,
    taken: impl Iterator<Item = Cidr> + Clone,
    may_be: impl Fn(Cidr) -> bool,
) -> Option<Cidr> {
    let grid = Grid::of(pool);
    let start = u128::from(seed(name)) % grid.blocks;
    let mut looks = LOOK_AT;
    let mut gap = |from: u128, to: u128| {
        let mut at = from;
        let taken = taken.clone().map(|cidr| grid.places(cidr));
        for (first, last) in taken.chain(once((to, to))) {
            while at < first.min(to) {
                let cidr = grid.block(at)?;
                if may_be(cidr) {
                    return Some(cidr);
                }
                looks = looks.checked_sub(1)?;
                at += 1;
            }
            at = at.max(last.saturating_add(1));
        }
        None
    };
    gap(start, grid.blocks).or_else(|| gap(0, start))
}

/// Where a node begins in a pool: what it looks through is seen from there on first.
pub(crate) fn start(pool: &IpPool, name: &str) -> Cidr {
    let grid = Grid::of(pool);
    grid.block(u128::from(seed(name)) % grid.blocks).unwrap_or(pool.cidr)
}

/// A pool as a row of blocks.
struct Grid {
    pool: Cidr,
    block_size: u8,
    blocks: u128,
    /// Bits of an address within its block.
    shift: u32,
}

impl Grid {
    fn of(pool: &IpPool) -> Self {
        let bits = if pool.cidr.is_v4() { 32 } else { 128 };
        let blocks = 1_u128 << u32::from(pool.block_size.saturating_sub(pool.cidr.prefix_len())).min(100);
        let shift = u32::from(bits - pool.block_size.min(bits)).min(100);
        Self { pool: pool.cidr, block_size: pool.block_size, blocks, shift }
    }

    /// First and last block that it lies in.
    fn places(&self, cidr: Cidr) -> (u128, u128) {
        let place = |address: IpAddr| number(address).saturating_sub(number(self.pool.network())) >> self.shift;
        (place(cidr.network()), place(cidr.last()))
    }

    fn block(&self, place: u128) -> Option<Cidr> {
        Cidr::new(nth_address(self.pool, place << self.shift), self.block_size).ok()
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// FNV-1a, 64 bits: spreads names evenly and is the same in every version.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn pool(cidr: &str, block_size: u8) -> IpPool {
        IpPool::of_pods("p", cidr.parse().expect("a valid network"), block_size)
    }

    /// Takes what comes until nothing comes.
    fn all(pool: &IpPool, name: &str, mut taken: BTreeSet<Cidr>) -> Vec<Cidr> {
        let mut found = Vec::new();
        while let Some(cidr) = first_free(pool, name, taken.iter().copied(), |_| true) {
            assert!(taken.insert(cidr), "{cidr} twice");
            found.push(cidr);
        }
        found
    }

    #[test]
    fn every_block_of_the_pool_comes_once_for_whoever_asks() {
        let pool = pool("10.65.0.0/24", 26);
        for name in ["n1", "n2", "n3", "n4", "n5"] {
            let blocks = all(&pool, name, BTreeSet::new());
            assert_eq!(blocks.len(), 4);
            assert!(blocks.iter().all(|block| pool.cidr.covers(block)));
            assert_eq!(blocks[0], start(&pool, name));
        }
    }

    #[test]
    fn what_lies_over_blocks_or_in_one_takes_them() {
        let taken = ["10.65.0.0/25", "10.65.0.200/29"].map(|text| text.parse().expect("a network"));
        let found = all(&pool("10.65.0.0/24", 26), "n1", taken.into());
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.65.0.128/26"]);
    }

    #[test]
    fn a_huge_pool_ends_and_two_nodes_start_apart() {
        let pool = pool("fd00::/48", 122);
        assert_eq!(first_free(&pool, "n1", std::iter::empty(), |_| false), None);
        assert_ne!(start(&pool, "n1"), start(&pool, "n2"));
    }
}
