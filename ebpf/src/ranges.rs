//! Ranges: whether a client is among those whom a service lets in at an address of its load balancer.
//! In: a balancer, a client. Out: yes or no.
//! Invariant: the number of ranges costs a packet halvings, and one that names none nothing.
//! Never: asked about a flow that is there.

use abi::service::{BOUND_STEPS, BOUND_WORDS};
use abi::{Address, Balancer, DropReason};

use crate::tables::Services;

/// Whether new flows of this client may go to a balancer's members.
#[inline(always)]
pub fn lets_in<T: Services>(tables: &T, balancer: &Balancer, client: &Address) -> Result<bool, DropReason> {
    let bounds = balancer.bounds();
    if bounds == 0 {
        return Ok(true);
    }
    let at = balancer.offset.wrapping_add(balancer.len);
    let place = u64::from(at) << 32 | u64::from(bounds);
    match tables.bounds_before(place, u64::from_be(client.0[0]), u64::from_be(client.0[1])) {
        CORRUPT => Err(DropReason::TableCorrupt),
        before => Ok(before & 1 != 0),
    }
}

/// No number of bounds.
const CORRUPT: u32 = u32::MAX;

/// How many of the bounds that lie there are at or before an address. In the programs apart, called with numbers.
#[inline(always)]
pub fn before<T: Services>(tables: &T, place: u64, high: u64, low: u64) -> u32 {
    let (at, mut left) = ((place >> 32) as u32, place as u32);
    let mut first = 0u32;
    for _ in 0..BOUND_STEPS {
        if left == 0 {
            break;
        }
        let half = left / 2;
        let bound = at.wrapping_add(first.wrapping_add(half).wrapping_mul(BOUND_WORDS));
        // Subtracted digit by digit, the lowest first: what is left in the end is whether the address is below. Each digit is
        // checked before the next is read: else the verifier would follow every set of those that are not there.
        let mut borrow = 0;
        for digit in (0..BOUND_WORDS).rev() {
            let Some(word) = tables.member(bound.wrapping_add(digit)) else { return CORRUPT };
            borrow = borrow_of(digit_of(high, low, digit), word.backend, borrow);
        }
        // All ones where it is at or before the address, without a branch that the verifier would follow up both ways.
        let is_before = (borrow as u32).wrapping_sub(1);
        first = first.wrapping_add(half.wrapping_add(1) & is_before);
        left = half ^ ((half ^ left.wrapping_sub(half.wrapping_add(1))) & is_before);
    }
    first
}

/// One of an address's words, the highest first.
#[inline(always)]
const fn digit_of(high: u64, low: u64, digit: u32) -> u32 {
    let half = if digit < BOUND_WORDS / 2 { high } else { low };
    (if digit.is_multiple_of(2) { half >> 32 } else { half }) as u32
}

/// What a subtraction takes from the next digit: 1 or 0.
#[inline(always)]
const fn borrow_of(from: u32, what: u32, borrow: u64) -> u64 {
    (from as u64).wrapping_sub(what as u64 + borrow) >> 63
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use abi::service::BALANCER_BOUNDS_AT;
    use abi::{Balancer, Member};

    use super::{BOUND_WORDS, borrow_of, digit_of, lets_in};
    use crate::fake::Node;

    fn split(number: u128) -> (u64, u64) {
        ((number >> 64) as u64, number as u64)
    }

    fn is_less(a: (u64, u64), b: (u64, u64)) -> u64 {
        let digits = |at| (digit_of(a.0, a.1, at), digit_of(b.0, b.1, at));
        (0..BOUND_WORDS).rev().map(digits).fold(0, |borrow, (a, b)| borrow_of(a, b, borrow))
    }

    /// Numbers that are alike often, at either end.
    fn numbers() -> impl Iterator<Item = u128> {
        let mut number = 7u64;
        let mut next = move || {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u128::from(number >> 16)
        };
        std::iter::repeat_with(move || {
            let (word, shift, end) = (next(), next() % 128, next());
            match end % 3 {
                0 => (word % 5) << shift,
                1 => u128::MAX - ((word % 5) << shift),
                _ => word << 80 ^ end << 32 ^ word,
            }
        })
    }

    #[test]
    fn less_is_less() {
        let mut numbers = numbers();
        for _ in 0..100_000 {
            let (a, b) = (numbers.next().expect("endless"), numbers.next().expect("endless"));
            assert_eq!(is_less(split(a), split(b)), u64::from(a < b), "{a:#x} {b:#x}");
            assert_eq!(is_less(split(a), split(a)), 0);
        }
    }

    #[test]
    fn a_client_is_let_in_from_every_other_bound_on() {
        let mut numbers = numbers();
        for turn in 0..2000u32 {
            let mut bounds: Vec<u128> = numbers.by_ref().take(1 + turn as usize % 40).collect();
            bounds.sort_unstable();
            bounds.dedup();
            let words = |bound: &u128| [96, 64, 32, 0].map(|shift| (bound >> shift) as u32);
            let members = bounds.iter().flat_map(words).map(|backend| Member { backend, pad: 0 });
            let mut node = Node::new();
            node.members = [Member::default(); 3].into_iter().chain(members).collect();
            let flags = (bounds.len() as u32) << BALANCER_BOUNDS_AT;
            let balancer = Balancer { offset: 1, len: 2, flags, ..Balancer::default() };
            let near: Vec<u128> =
                bounds.iter().flat_map(|bound| [bound.wrapping_sub(1), *bound, bound.wrapping_add(1)]).collect();
            for client in near.into_iter().chain(numbers.by_ref().take(5)) {
                let before = bounds.iter().filter(|bound| **bound <= client).count();
                let address = abi::Address::from_bytes(client.to_be_bytes());
                assert_eq!(lets_in(&node, &balancer, &address), Ok(before % 2 == 1), "{client:#x} in {bounds:x?}");
            }
        }
    }

    #[test]
    fn bounds_past_the_tables_end_let_nobody_in() {
        let flags = 2 << BALANCER_BOUNDS_AT;
        let balancer = Balancer { offset: 1, len: 2, flags, ..Balancer::default() };
        assert_eq!(lets_in(&Node::new(), &balancer, &abi::Address::default()), Err(abi::DropReason::TableCorrupt));
    }
}
