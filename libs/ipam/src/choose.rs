//! Which block a node claims: blocks of the pool in turn, from a place that depends on the node's name.
//! In: a pool and a node. Out: the pool's blocks, each once.
//! Invariant: the same node starts at the same block, so a node that lost its claims finds its way back.
//! Never: knows which blocks are taken.

use crate::block::nth_address;
use model::{Cidr, IpPool, NodeName};

/// A pool may be a /8 or a /64: nobody looks further than this for a free block.
const LOOK_AT: u128 = 1 << 16;

/// The blocks of `pool` in the order in which `node` tries them.
pub fn candidates(pool: &IpPool, node: &NodeName) -> impl Iterator<Item = Cidr> {
    let (cidr, block_size) = (pool.cidr, pool.block_size);
    let bits = if cidr.is_v4() { 32 } else { 128 };
    let blocks = 1_u128 << u32::from(block_size.saturating_sub(cidr.prefix_len())).min(100);
    let start = u128::from(seed(&node.0)) % blocks;
    let addresses = 1_u128 << u32::from(bits - block_size.min(bits)).min(100);
    (0..blocks.min(LOOK_AT)).filter_map(move |step| {
        let number = (start + step) % blocks;
        Cidr::new(nth_address(cidr, number * addresses), block_size).ok()
    })
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

    #[test]
    fn every_block_of_the_pool_comes_once() {
        let pool = pool("10.65.0.0/24", 26);
        let blocks: Vec<_> = candidates(&pool, &"n1".into()).collect();
        assert_eq!(blocks.len(), 4);
        assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), 4);
        assert!(blocks.iter().all(|block| pool.cidr.covers(block)));
    }

    #[test]
    fn a_huge_pool_ends_and_two_nodes_start_apart() {
        let pool = pool("fd00::/48", 122);
        assert_eq!(candidates(&pool, &"n1".into()).count(), 1 << 16);
        assert_ne!(candidates(&pool, &"n1".into()).next(), candidates(&pool, &"n2".into()).next());
    }
}
