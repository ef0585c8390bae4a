//! IPv4 options: may this packet say which way it wants to go? It may not.
//! In: an IPv4 header that is longer than 20 bytes. Out: nothing, or `RoutingHeader`, `Malformed`.
//! Invariant: a source route is found wherever it stands (RFC 7126 §4.3, §4.4); others are passed over.
//! Never: changes an option, or does what it asks: a route is not recorded, no time stamped.

use abi::DropReason;

use crate::parse::L3;
use crate::tables::Frame;

/// End of the list, and a byte of padding (RFC 791 §3.1).
const END: u8 = 0;
const PADDING: u8 = 1;
/// Loose and strict source route.
const LOOSE: u8 = 131;
const STRICT: u8 = 137;
/// No header has room for more.
const OPTIONS_MAX: u32 = 40;

/// Whether the options of a header of `header_len` bytes let the packet pass. Rare, and yet no function of its own in the
/// programs: it lies before everything else, and a verifier before Linux 6.5 cannot see back through a call.
#[inline(always)]
pub fn check<F: Frame>(frame: &F, header_len: u32) -> Result<(), DropReason> {
    let (mut at, end) = (L3 + 20, L3 + frame.unknown(header_len));
    for _ in 0..OPTIONS_MAX {
        at = frame.unknown(at);
        if at >= end {
            return Ok(());
        }
        let [kind] = frame.load_at::<1>(at).ok_or(DropReason::Malformed)?;
        match kind {
            END => return Ok(()),
            PADDING => at += 1,
            LOOSE | STRICT => return Err(DropReason::RoutingHeader),
            _ => {
                let [length] = frame.load_at::<1>(at + 1).ok_or(DropReason::Malformed)?;
                if length < 2 || at + u32::from(length) > end {
                    return Err(DropReason::Malformed);
                }
                at += u32::from(length);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Bytes;

    fn checked(options: &[u8]) -> Result<(), DropReason> {
        let mut frame = vec![0xff; 34];
        frame.extend(options);
        frame.extend([0xff; 8]);
        check(&Bytes(&frame), 20 + options.len() as u32)
    }

    #[test]
    fn pkt_40_a_source_route_is_refused_wherever_it_stands() {
        assert_eq!(checked(&[131, 7, 4, 10, 0, 0, 1, 0]), Err(DropReason::RoutingHeader));
        assert_eq!(checked(&[1, 1, 1, 137]), Err(DropReason::RoutingHeader));
        assert_eq!(checked(&[7, 3, 4, 131, 3, 4, 0, 0]), Err(DropReason::RoutingHeader));
        let last = [[1; 39].as_slice(), &[137]].concat();
        assert_eq!(checked(&last), Err(DropReason::RoutingHeader));
    }

    #[test]
    fn pkt_40_other_options_pass_and_torn_ones_do_not() {
        assert_eq!(checked(&[7, 7, 4, 131, 137, 131, 137, 0]), Ok(()), "a recorded route's bytes are no options");
        assert_eq!(checked(&[0, 131, 3, 4]), Ok(()), "nothing follows the end of the list");
        assert_eq!(checked(&[1; 40]), Ok(()));
        assert_eq!(checked(&[148, 4, 0, 0]), Ok(()), "a router alert");
        assert_eq!(checked(&[7, 1, 4, 0]), Err(DropReason::Malformed));
        assert_eq!(checked(&[7, 1, 0, 0]), Err(DropReason::Malformed), "no room for its own length");
        assert_eq!(checked(&[7, 0, 4, 0]), Err(DropReason::Malformed));
        assert_eq!(checked(&[7, 9, 4, 0, 0, 0, 0, 0]), Err(DropReason::Malformed));
    }
}
