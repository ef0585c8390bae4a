//! Rewrite: what changes in checksums when an address takes another's place (RFC 1624).
//! In: the address before and after. Out: their difference in one's complement, and the header's checksum after it.
//! Invariant: a right checksum stays right, a wrong one stays wrong.
//! Never: sums a packet.

use abi::Address;

use crate::icmp_error::halves;

/// What the sum of 16-bit words, as they lie in memory, grows by. Both families alike: what two IPv4 addresses have in common
/// counts nothing.
#[inline(always)]
#[must_use]
pub const fn difference(from: Address, to: Address) -> u32 {
    let less = halves(!from.0[0]) + halves(!from.0[1]);
    let sum = less + halves(to.0[0]) + halves(to.0[1]);
    let sum = halves(sum);
    halves(sum) as u32
}

/// The same of one such word.
#[inline(always)]
#[must_use]
pub const fn word_difference(from: u16, to: u16) -> u32 {
    !from as u32 + to as u32
}

/// What two such changes are together.
#[inline(always)]
#[must_use]
pub const fn both(one: u32, other: u32) -> u32 {
    halves(one as u64 + other as u64) as u32
}

/// A checksum after such a change.
#[inline(always)]
#[must_use]
pub const fn header_checksum(checksum: [u8; 2], changed: u32) -> [u8; 2] {
    let sum = !u16::from_ne_bytes(checksum) as u32 as u64 + changed as u64;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn checksum(words: &[u8]) -> [u8; 2] {
        let pairs = words.chunks(2).map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]])));
        let mut sum: u64 = pairs.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_ne_bytes()
    }

    #[test]
    fn pkt_34_a_headers_checksum_is_right_after_any_change_of_address() {
        let mut state = 7u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [a, b, c, d, e, f, g, h] = state.to_le_bytes();
            let header =
                |last: [u8; 4]| -> Vec<u8> { [&[0x45, a, b, h, c, d, e, f, 10, 65, 0, g][..], &last].concat() };
            let (from, to) = ([e, b, c, d], [h, a, g, 255]);
            let changed = difference(Address::from_v4(from), Address::from_v4(to));
            assert_eq!(header_checksum(checksum(&header(from)), changed), checksum(&header(to)), "{from:?} {to:?}");
        }
    }

    #[test]
    fn an_ipv6_addresss_difference_is_that_of_its_words() {
        let (from, to) =
            (Address::from_bytes(*b"\xfd\x00abcdefghijklmn"), Address::from_bytes(*b"\xfd\x01ponmlkjihgfe\xff\xff"));
        let rest = [7, 9, 11, 250];
        let of = |address: Address| checksum(&[&address.to_bytes()[..], &rest].concat());
        assert_eq!(header_checksum(of(from), difference(from, to)), of(to));
    }
}
