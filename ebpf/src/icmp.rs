//! ICMP errors: which flow does an error complain about?
//! In: an ICMP error and the head of the packet it quotes. Out: whether a tracked, allowed flow sent that packet.
//! Invariant: an error is related only if it goes to the end that sent the quoted packet.
//! Never: makes or changes an entry.

use abi::Address;

use crate::conntrack;
use crate::parse::{Fragment, L3, Packet, has_ports};
use crate::tables::{Frame, Tables};
use crate::walk::State;

/// Bytes from an ICMP header to the packet it quotes.
const QUOTE: u32 = 8;

/// Whether a packet is an ICMP error (RFC 792, RFC 4443).
#[inline(always)]
#[must_use]
pub const fn is_error(packet: &Packet) -> bool {
    let error =
        if packet.v6 { matches!(packet.icmp_type(), 1..=4) } else { matches!(packet.icmp_type(), 3 | 4 | 5 | 11 | 12) };
    packet.is_icmp() && error
}

/// Whether an error is about an allowed flow of its receiver. `from_end`: the sender has to be the flow's other end
/// (a pod is no router; outside, any router on the way may complain).
#[inline(always)]
pub fn is_related<T: Tables, F: Frame>(tables: &T, frame: &F, state: &mut State, from_end: bool) -> bool {
    let (error, quoted) = (&state.packet, &mut state.quoted);
    if matches!(error.fragment, Fragment::Later) || quote(frame, error, quoted).is_none() {
        return false;
    }
    if quoted.source != error.destination || (from_end && quoted.destination != error.source) {
        return false;
    }
    conntrack::key(quoted, &mut state.key);
    conntrack::is_allowed(tables, &state.key)
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
    quoted.protocol = header[6];
    quoted.l4 = at + 40;
    Some(())
}
