//! A pool becomes several smaller ones (calicoctl/calicoctl/commands/ipam/split.go).
//! In: a pool, the blocks there are, the pools there are. Out: name and network of each part.
//! Invariant: the parts are of one size and cover the pool; every block lies in one of them.
//! Never: makes a part that is smaller than the pool's blocks.

use crate::block::nth_address;
use model::{Cidr, IpPool};

/// Names of objects are no longer than this.
const NAME_MAX: usize = 240;

/// Why a pool cannot be split so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The number.
    #[error("{0} is no power of two above 1: give 2, 4, 8 and so on")]
    Number(u32),
    /// The pool is too small.
    #[error(
        "IPPool {pool} ({cidr}) cannot be split into {number}: each part would be smaller than its blocks (blockSize {block_size})"
    )]
    Small {
        /// The pool.
        pool: String,
        /// Its network.
        cidr: Cidr,
        /// Parts.
        number: u32,
        /// Its blocks.
        block_size: u8,
    },
    /// A block lies over parts.
    #[error("IPAMBlock {0} is wider than each part would be: split into fewer, or give the block up first")]
    Block(Cidr),
    /// Another pool has the name of a part.
    #[error("there is an IPPool {0} already, with another network: rename it first")]
    Name(String),
}

/// The parts of `pool`. One that is among `pools` already, as a split that was cut short left it, is as good as new.
///
/// # Errors
/// It cannot be split so.
pub fn split<'a>(
    pool: &IpPool,
    number: u32,
    pools: impl Iterator<Item = &'a IpPool> + Clone,
    mut blocks: impl Iterator<Item = Cidr>,
) -> Result<Vec<(String, Cidr)>, SplitError> {
    if !number.is_power_of_two() || number == 1 {
        return Err(SplitError::Number(number));
    }
    let longer = u8::try_from(number.trailing_zeros()).unwrap_or(u8::MAX);
    let prefix = pool.cidr.prefix_len().saturating_add(longer);
    if prefix > pool.block_size {
        let (pool, cidr, block_size) = (pool.name.clone(), pool.cidr, pool.block_size);
        return Err(SplitError::Small { pool, cidr, number, block_size });
    }
    if let Some(block) = blocks.find(|block| pool.cidr.covers(block) && block.prefix_len() < prefix) {
        return Err(SplitError::Block(block));
    }
    let bits: u8 = if pool.cidr.is_v4() { 32 } else { 128 };
    let part = |index: u32| {
        let first = nth_address(pool.cidr, u128::from(index) << (bits - prefix));
        let cidr = Cidr::new(first, prefix).unwrap_or(pool.cidr);
        let name = format!("split-{}-{index}", pool.name);
        let name = if name.len() <= NAME_MAX { name } else { format!("split-{:.225}-{index}", pool.name) };
        match pools.clone().find(|known| known.name == name) {
            Some(known) if known.cidr != cidr => Err(SplitError::Name(name)),
            _ => Ok((name, cidr)),
        }
    };
    (0..number).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str, block_size: u8) -> IpPool {
        IpPool::of_pods("p", cidr.parse().expect("a network"), block_size)
    }

    fn parts(pool: &IpPool, number: u32) -> Result<Vec<String>, SplitError> {
        let parts = split(pool, number, [].into_iter(), [].into_iter())?;
        Ok(parts.into_iter().map(|(name, cidr)| format!("{name} {cidr}")).collect())
    }

    #[test]
    fn parts_are_equal_and_cover_the_pool() {
        let expected = [
            "split-p-0 10.65.0.0/18",
            "split-p-1 10.65.64.0/18",
            "split-p-2 10.65.128.0/18",
            "split-p-3 10.65.192.0/18",
        ];
        assert_eq!(parts(&pool("10.65.0.0/16", 26), 4), Ok(expected.map(str::to_owned).into()));
        let expected = ["split-p-0 fd00::/65", "split-p-1 fd00::8000:0:0:0/65"];
        assert_eq!(parts(&pool("fd00::/64", 122), 2), Ok(expected.map(str::to_owned).into()));
        assert_eq!(parts(&pool("0.0.0.0/0", 26), 2).expect("two")[1], "split-p-1 128.0.0.0/1");
        let long = IpPool { name: "x".repeat(253), ..pool("10.65.0.0/16", 26) };
        let long = split(&long, 2, [].into_iter(), [].into_iter()).expect("two");
        assert!(long[0].0.len() <= 240 && long[0].0 != long[1].0);
    }

    #[test]
    fn what_cannot_be_split_is_named() {
        for number in [0, 1, 3, 6] {
            assert_eq!(parts(&pool("10.65.0.0/16", 26), number), Err(SplitError::Number(number)));
        }
        assert!(matches!(parts(&pool("10.65.0.0/25", 26), 4), Err(SplitError::Small { .. })));
        let wide = "10.65.0.0/20".parse().expect("a network");
        let blocks = [wide].into_iter();
        assert_eq!(split(&pool("10.65.0.0/16", 26), 32, [].into_iter(), blocks), Err(SplitError::Block(wide)));
        let other = IpPool { name: "split-p-1".to_owned(), ..pool("10.99.0.0/16", 26) };
        let same = IpPool { name: "split-p-0".to_owned(), ..pool("10.65.0.0/17", 26) };
        let split = |known: &[IpPool]| super::split(&pool("10.65.0.0/16", 26), 2, known.iter(), [].into_iter());
        assert_eq!(split(&[other]), Err(SplitError::Name("split-p-1".to_owned())));
        assert!(split(&[same]).is_ok(), "it was begun before");
    }
}
