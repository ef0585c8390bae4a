//! CRC32c, by which SCTP is summed (RFC 9260 §6.8): what becomes of it when ports change.
//! In: four bytes that change, and how long the packet is. Out: what its sum changes by.
//! Invariant: the sum is linear: two packets' sums differ as the sum, from nothing, of their difference, which the bytes behind it
//! shift. The work is the same for every length, two multiplications, and reads no byte of the packet.
//! Never: sums a packet; branches: a verifier would walk every way of each length.

/// The polynomial, and every other one here, lowest bit last: the highest power is bit 0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// What shifts a polynomial by as many bytes, and by 256 times as many.
static SHIFTS: [[u32; 256]; 2] = shifts();

/// What a packet's sum changes by as its first four bytes do; both as they lie in the packet. `length`: of the packet from there
/// on, less than 64 KiB.
#[inline(always)]
#[must_use]
pub fn change(bytes: [u8; 4], length: u32) -> [u8; 4] {
    let [low, high] = [length & 0xff, length >> 8 & 0xff];
    let changed = times(u32::from_le_bytes(bytes), SHIFTS[0][low as usize]);
    times(changed, SHIFTS[1][high as usize]).to_le_bytes()
}

const fn shifts() -> [[u32; 256]; 2] {
    let mut shifts = [[ONE; 256]; 2];
    let (mut digit, mut step) = (0, ONE >> 8);
    while digit < 2 {
        let mut value = 1;
        while value < 256 {
            shifts[digit][value] = times(shifts[digit][value - 1], step);
            value += 1;
        }
        step = times(shifts[digit][255], step);
        digit += 1;
    }
    shifts
}

/// The product of two polynomials, modulo the polynomial.
#[inline(always)]
const fn times(mut one: u32, mut other: u32) -> u32 {
    let (mut product, mut bit) = (0, 0);
    while bit < 32 {
        product ^= other & (one as i32 >> 31) as u32;
        one <<= 1;
        other = other >> 1 ^ POLYNOMIAL & (other & 1).wrapping_neg();
        bit += 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    /// Bit by bit, as the standard has it.
    fn sum(bytes: &[u8]) -> u32 {
        let mut sum = u32::MAX;
        for byte in bytes {
            sum ^= u32::from(*byte);
            for _ in 0..8 {
                sum = if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ POLYNOMIAL };
            }
        }
        !sum
    }

    #[test]
    fn the_reference_is_crc32c() {
        // RFC 3720 §B.4.
        assert_eq!(sum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(sum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(sum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn pkt_59_a_sum_follows_any_change_of_its_first_bytes_at_any_length() {
        let mut state = 9u64;
        for length in (4..200).chain([255, 256, 257, 1452, 1480, 4096, 9000, 65_515, 65_535]) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let before: Vec<u8> = (0..length).map(|at| (at as u64 ^ state >> (at % 56)) as u8).collect();
            let [a, b, c, d, ..] = state.to_le_bytes();
            for change_of in [[a, b, 0, 0], [0, 0, c, d], [a, b, c, d], [0; 4]] {
                let mut after = before.clone();
                after.iter_mut().zip(change_of).for_each(|(byte, change)| *byte ^= change);
                let changed = (sum(&before) ^ sum(&after)).to_le_bytes();
                assert_eq!(change(change_of, length), changed, "{length} bytes, {change_of:?}");
            }
        }
        assert_eq!(change([1, 2, 3, 4], 0), [1, 2, 3, 4]);
        assert_eq!(vec![times(ONE, 77), times(77, ONE)], [77, 77]);
    }
}
