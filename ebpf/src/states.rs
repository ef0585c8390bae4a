//! States: what a packet says about its flow, from the first word to the last.
//! In: a packet that may pass, and its flow's entry. Out: the entry's state, timeout, counters.
//! Invariant: a flow that is over is believed again only after a new SYN, or when whoever sent the RST goes on.
//! Never: lets a packet pass or not; writes in a dry run.

use abi::Timeout;
use abi::conntrack::{
    CT_HIGH_FIN, CT_HIGH_RST, CT_LOW_FIN, CT_LOW_RST, CT_REFUSED, CT_RESET, STATE_ANSWERED, STATE_CLOSED, STATE_MIDWAY,
    STATE_NEW, STATE_TIME_WAIT,
};

use crate::conntrack::Tracked;
use crate::parse::{Packet, protocol, tcp};
use crate::tables::Tables;

const BOTH_FINS: u8 = CT_LOW_FIN | CT_HIGH_FIN;

impl Tracked<'_> {
    /// Writes what this packet says about the flow: counters, time, state.
    #[inline(always)]
    pub fn touch<T: Tables>(&self, packet: &Packet) {
        if T::DRY {
            return;
        }
        let flow = self.flow;
        let now_s = self.now_s;
        if flow.seen_s.get() != now_s {
            flow.seen_s.set(now_s);
        }
        flow.bytes.set(flow.bytes.get().wrapping_add(u64::from(packet.length)));
        flow.packets.set(flow.packets.get().wrapping_add(1));
        if packet.tcp_flags & (tcp::FIN | tcp::RST) != 0 {
            self.close(packet.tcp_flags);
        } else if flow.flags.get() & (CT_RESET | BOTH_FINS) != 0 {
            self.go_on_after_an_end();
        }
        if self.half_open && !self.from_opener() && self.answered_by(packet) {
            flow.state.set(STATE_ANSWERED);
        }
    }

    /// Whether a packet of the other end answers the opening. Where that was in the midst of a connection, any segment does.
    #[inline(always)]
    fn answered_by(&self, packet: &Packet) -> bool {
        match self.flow.state.get() {
            STATE_NEW => answers(packet),
            STATE_MIDWAY => packet.tcp_flags & tcp::RST == 0,
            _ => false,
        }
    }

    #[inline(always)]
    fn close(&self, tcp_flags: u8) {
        let flow = self.flow;
        let mut flags = flow.flags.get();
        if tcp_flags & tcp::RST != 0 {
            flags |= if self.from_low { CT_LOW_RST } else { CT_HIGH_RST };
        } else {
            flags |= if self.from_low { CT_LOW_FIN } else { CT_HIGH_FIN };
            if flags & BOTH_FINS == BOTH_FINS {
                flow.state.set(STATE_CLOSED);
            }
        }
        flow.flags.set(flags);
        flow.timeout.set(timeout_of(flow.state.get(), flags) as u8);
    }

    /// A segment that ends nothing, after one that did.
    #[inline(always)]
    fn go_on_after_an_end(&self) {
        if self.flow.flags.get() & CT_RESET != 0 {
            self.retract();
        }
        if self.flow.state.get() == STATE_CLOSED {
            self.flow.state.set(STATE_TIME_WAIT);
        }
    }

    /// Whoever sent a RST and goes on did not send it: somebody else forged it. What the other end had under way when it came
    /// says nothing.
    #[inline(always)]
    fn retract(&self) {
        let own = if self.from_low { CT_LOW_RST } else { CT_HIGH_RST };
        let flags = self.flow.flags.get() & !own;
        self.flow.flags.set(flags);
        self.flow.timeout.set(timeout_of(self.flow.state.get(), flags) as u8);
    }

    /// Whether a half-open flow is to be kept for good after this packet: both ends were heard, and one goes on. Of TCP that
    /// is the opener, whose acknowledgement shows that it is where it says it is.
    #[inline(always)]
    #[must_use]
    pub fn is_due(&self, packet: &Packet) -> bool {
        let acknowledges = packet.tcp_flags & (tcp::ACK | tcp::RST) == tcp::ACK;
        let goes_on = packet.protocol != protocol::TCP || (acknowledges && self.from_opener());
        self.half_open && self.flow.state.get() == STATE_ANSWERED && goes_on
    }

    /// Judged again and allowed.
    #[inline(always)]
    pub fn restamp<T: Tables>(&self, protocol: u8, generation: u64) {
        if T::DRY {
            return;
        }
        if self.is_refused() {
            let half_open = matches!(self.flow.state.get(), STATE_NEW | STATE_MIDWAY | STATE_ANSWERED);
            let timeout = if half_open { Timeout::at_opening(protocol) } else { Timeout::established(protocol) };
            self.flow.timeout.set(timeout as u8);
            self.flow.flags.set(self.flow.flags.get() & !CT_REFUSED);
        }
        self.flow.stamp.set(generation as u32);
    }

    /// Judged again and refused: the entry stays as a tombstone.
    #[inline(always)]
    pub fn refuse<T: Tables>(&self, generation: u64) {
        if !T::DRY {
            self.flow.flags.set(self.flow.flags.get() | CT_REFUSED);
            self.flow.timeout.set(Timeout::Refused as u8);
            self.flow.stamp.set(generation as u32);
            self.flow.seen_s.set(self.now_s);
        }
    }
}

/// How long a TCP flow lives that has come so far.
#[inline(always)]
const fn timeout_of(state: u8, flags: u8) -> Timeout {
    match state {
        _ if flags & CT_RESET != 0 => Timeout::TcpResetSeen,
        STATE_NEW | STATE_MIDWAY | STATE_ANSWERED => Timeout::TcpSynSent,
        STATE_CLOSED | STATE_TIME_WAIT => Timeout::TcpFinsSeen,
        _ => Timeout::TcpEstablished,
    }
}

/// Whether a packet of the other end answers an opening. Of TCP a SYN does, with its ACK or, where both open at once, without.
#[inline(always)]
const fn answers(packet: &Packet) -> bool {
    packet.protocol != protocol::TCP || packet.tcp_flags & tcp::SYN != 0
}
