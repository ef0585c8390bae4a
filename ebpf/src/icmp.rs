//! ICMP errors: which flow does an error complain about?
//! In: an ICMP error and the head of the packet it quotes. Out: whether a tracked, allowed flow sent that packet.
//! Invariant: an error is related only if it goes to the end that sent the quoted packet.
//! Never: makes or changes an entry.

use abi::Address;
use abi::conntrack::CT_HIGH_OPENED;

use crate::conntrack;
use crate::entry::Flow;
use crate::parse::{Fragment, L3, Packet, has_ports};
use crate::tables::{Frame, Tables};
use crate::walk::State;

/// Bytes from an ICMP header to the packet it quotes.
pub const QUOTE: u32 = 8;
/// The IPv6 extension header of a fragment (RFC 8200 §4.5).
const FRAGMENT: u8 = 44;

/// Whether a packet is an ICMP error (RFC 792, RFC 4443).
#[inline(always)]
#[must_use]
pub const fn is_error(packet: &Packet) -> bool {
    let error =
        if packet.v6 { matches!(packet.icmp_type(), 1..=4) } else { matches!(packet.icmp_type(), 3 | 4 | 5 | 11 | 12) };
    packet.is_icmp() && error
}

/// The allowed flow of its receiver that an error is about, and whether its opener sent the quoted packet. `from_end`: the
/// error's sender has to be the flow's other end (a pod is no router; outside, any router on the way may complain).
#[inline(always)]
pub fn flow_of<'a, T: Tables, F: Frame>(
    tables: &'a T,
    frame: &F,
    state: &mut State,
    from_end: bool,
) -> Option<(&'a Flow, bool)> {
    let (error, quoted) = (&state.packet, &mut state.quoted);
    if matches!(error.fragment, Fragment::Later) {
        return None;
    }
    quote(frame, error, quoted)?;
    if quoted.source != error.destination || (from_end && quoted.destination != error.source) {
        return None;
    }
    let from_low = conntrack::key(quoted, &mut state.key);
    let flow = conntrack::allowed(tables, &state.key)?;
    Some((flow, from_low == (flow.flags.get() & CT_HIGH_OPENED == 0)))
}

/// The quoted packet, as far as a flow key needs it.
#[inline(always)]
fn quote<F: Frame>(frame: &F, error: &Packet, quoted: &mut Packet) -> Option<()> {
    let (at, end) = (error.l4 + QUOTE, L3 + error.length);
    quoted.forget();
    quoted.v6 = error.v6;
    let header = if error.v6 { 40 } else { 20 };
    // What lies in the frame behind the packet's end is nobody's word.
    if at + header > end {
        return None;
    }
    if error.v6 {
        quote_v6(frame, at, quoted)?
    } else {
        quote_v4(frame, at, quoted)?
    }
    if quoted.l4 + 8 > end {
        return None;
    }
    let head = frame.load_at::<8>(quoted.l4)?;
    if quoted.is_icmp() {
        quoted.source_port = u16::from_ne_bytes([head[4], head[5]]);
        quoted.destination_port = quoted.source_port;
    } else if has_ports(quoted.protocol) {
        quoted.source_port = u16::from_ne_bytes([head[0], head[1]]);
        quoted.destination_port = u16::from_ne_bytes([head[2], head[3]]);
    }
    Some(())
}

#[inline(always)]
fn quote_v4<F: Frame>(frame: &F, at: u32, quoted: &mut Packet) -> Option<()> {
    let header = frame.load_at::<20>(at)?;
    let header_len = u32::from(header[0] & 0x0f) * 4;
    let later = header[6] & 0x1f != 0 || header[7] != 0;
    if header[0] >> 4 != 4 || header_len < 20 || later {
        return None;
    }
    quoted.source = Address::from_v4([header[12], header[13], header[14], header[15]]);
    quoted.destination = Address::from_v4([header[16], header[17], header[18], header[19]]);
    if header[6] & 0x20 != 0 {
        quoted.fragment = Fragment::First;
    }
    quoted.length = u32::from(u16::from_be_bytes([header[2], header[3]]));
    quoted.protocol = header[9];
    quoted.l4 = at + header_len;
    Some(())
}

#[inline(always)]
fn quote_v6<F: Frame>(frame: &F, at: u32, quoted: &mut Packet) -> Option<()> {
    let header = frame.load_at::<8>(at)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    quoted.source = Address::from_bytes(frame.load_at::<16>(at + 8)?);
    quoted.destination = Address::from_bytes(frame.load_at::<16>(at + 24)?);
    quoted.length = 40 + u32::from(u16::from_be_bytes([header[4], header[5]]));
    quoted.protocol = header[6];
    quoted.l4 = at + 40;
    if quoted.protocol == FRAGMENT {
        let [next, _, offset, low] = frame.load_at::<4>(quoted.l4)?;
        if offset != 0 || low >> 3 != 0 {
            return None;
        }
        if low & 1 != 0 {
            quoted.fragment = Fragment::First;
        }
        quoted.protocol = next;
        quoted.l4 += 8;
    }
    Some(())
}
