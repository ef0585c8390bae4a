//! What a dry twin says about a packet: written into the packet's control block, and nowhere else.
//! In: `cb[0..5]` of the context that BPF_PROG_TEST_RUN gives back. Out: [`Answer`].
//! Invariant: `cb[0]` carries [`MAGIC`], so an unanswered run is never read as an answer.
//! Never: written by a live program.

use crate::verdict::DropReason;

/// In the high 16 bits of `cb[0]`.
pub const MAGIC: u32 = 0x7047;

/// Where an allowed packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Dropped.
    Drop(DropReason),
    /// To the local endpoint in this slot.
    ToEndpoint(u32),
    /// On: to the next program at the hook, or to the host's stack.
    ToHost,
    /// Out by the routing table, to this interface.
    ToInterface(u32),
    /// Answered on the spot (ARP, neighbour discovery).
    Answered,
}

/// A dry run's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What would happen.
    pub outcome: Outcome,
    /// Egress judgement of the source: hit id, if it was made.
    pub egress_hit: Option<u32>,
    /// Ingress judgement of the destination: hit id, if it was made.
    pub ingress_hit: Option<u32>,
    /// A tracked flow decided, without a new judgement.
    pub tracked: bool,
    /// Generation (low 32 bits) by which it was judged.
    pub generation: u32,
}

/// Bits of the low half of `cb[0]`: kind of outcome (3), then these flags.
const EGRESS_JUDGED: u32 = 1 << 4;
const INGRESS_JUDGED: u32 = 1 << 5;
const TRACKED: u32 = 1 << 6;

impl Answer {
    /// As the five control-block words. `cb[3]` is the slot, interface or drop reason of the outcome.
    #[inline(always)]
    #[must_use]
    pub const fn to_cb(self) -> [u32; 5] {
        let (kind, detail) = match self.outcome {
            Outcome::Drop(reason) => (1, reason as u32),
            Outcome::ToEndpoint(slot) => (2, slot),
            Outcome::ToHost => (3, 0),
            Outcome::ToInterface(ifindex) => (4, ifindex),
            Outcome::Answered => (5, 0),
        };
        let (egress_flag, egress) = match self.egress_hit {
            Some(hit) => (EGRESS_JUDGED, hit),
            None => (0, 0),
        };
        let (ingress_flag, ingress) = match self.ingress_hit {
            Some(hit) => (INGRESS_JUDGED, hit),
            None => (0, 0),
        };
        let tracked = if self.tracked { TRACKED } else { 0 };
        [MAGIC << 16 | kind | egress_flag | ingress_flag | tracked, egress, ingress, detail, self.generation]
    }

    /// Reads the control block of a dry run; `None` if the program gave no answer.
    #[must_use]
    pub fn from_cb(cb: [u32; 5]) -> Option<Self> {
        let [head, egress, ingress, detail, generation] = cb;
        if head >> 16 != MAGIC {
            return None;
        }
        let outcome = match head & 0xf {
            1 => Outcome::Drop(DropReason::from_number(detail)?),
            2 => Outcome::ToEndpoint(detail),
            3 => Outcome::ToHost,
            4 => Outcome::ToInterface(detail),
            5 => Outcome::Answered,
            _ => return None,
        };
        Some(Self {
            outcome,
            egress_hit: (head & EGRESS_JUDGED != 0).then_some(egress),
            ingress_hit: (head & INGRESS_JUDGED != 0).then_some(ingress),
            tracked: head & TRACKED != 0,
            generation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_the_control_block() {
        let answer = Answer {
            outcome: Outcome::Drop(DropReason::IngressPolicy),
            egress_hit: Some(3),
            ingress_hit: Some(0),
            tracked: false,
            generation: 41,
        };
        assert_eq!(Answer::from_cb(answer.to_cb()), Some(answer));
        assert_eq!(Answer::from_cb([0; 5]), None);
    }
}
