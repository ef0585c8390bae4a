//! Translation: how a packet through a service differs from what its sender wrote.
//! In: a frontend and a backend. Out: the packet as one to the backend, and back.
//! Invariant: `packet` has the backend, wherever the frontend stands; what is needed to undo that is kept.
//! Never: reads a table; touches the packet's bytes.

use abi::conntrack::{NAT_AHEAD, NAT_BY_HOST, NAT_MASQUERADED, NAT_TRANSLATED};
use abi::{Address, AffinityKey, ConntrackEntry, ServiceKey};
use core::mem;

use crate::conntrack::Socket;
use crate::parse::Packet;
use crate::walk::State;

/// Which end of a packet is to be rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Translated {
    /// None.
    #[default]
    Nothing,
    /// Its destination: it was sent to the frontend, and is seen as sent to the backend.
    Destination,
    /// Its source: it is the backend's, and goes on as the frontend's.
    Source,
    /// None any more: it comes with the frontend's address, and is seen as the backend's.
    Before,
    /// The destination that it quotes, being an error about what a client sent: the backend, and goes on as the frontend. Its own
    /// source likewise, where that is the backend.
    QuotedDestination,
    /// Its destination, and the source that it quotes, being an error about an answer: the frontend, and goes on as the backend.
    QuotedSource,
    /// Its source: a pod's, which goes on as this node's (`masquerade`).
    Masked,
    /// Its destination: this node's, and is the pod's.
    Unmasked,
    /// Its source, and the destination that it quotes, being an error of a pod's about what came to it: the pod, and goes on as this
    /// node.
    QuotedMasked,
    /// Its destination, and the source that it quotes, being an error about what a pod sent: this node, and goes on as the pod.
    QuotedUnmasked,
    /// None here: the packet is at a gate, behind which the uplink's program translates and judges it.
    Ahead,
    /// None here: the host's stack translates. It is seen as its sender wrote it, and judged where it comes out.
    ByHost,
}

/// How a packet is translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Which end.
    pub end: Translated,
    /// What the client sees.
    pub frontend: Address,
    /// Its port, as in the packet; that of the backend, where that is to be quoted.
    pub port: u16,
    /// Slot of the frontend.
    pub at: u32,
    /// Slot of the backend.
    pub backend: u32,
    /// Generation that chose it.
    pub stamp: u32,
    /// The client is seen by the backend as `mask` and its port, an address of this node's.
    pub is_masked: bool,
    /// What stands for the client.
    pub mask: Address,
    /// Its port, as in the packet; 0: not known yet. Of an error about what a masked client sent: the client's own, to be quoted.
    pub mask_port: u16,
    /// The backend is the client: it is seen, and hears itself, as the frontend's address.
    pub is_hairpin: bool,
    /// New flows may go to that backend.
    pub(crate) is_chosen: bool,
    /// The entry that leads there lies in `NEWFLOW`.
    pub(crate) is_half_open: bool,
    /// Nobody is told that there is no backend.
    pub is_silent: bool,
    /// Whom the service keeps to one backend; number 0: nobody.
    pub(crate) client: AffinityKey,
    /// Scratch for a look-up.
    pub(crate) key: ServiceKey,
}

impl Translation {
    /// The client is its own backend.
    #[inline(always)]
    pub fn sends_back(&self) -> bool {
        self.is_hairpin && self.end != Translated::Nothing
    }
}

impl Translation {
    /// Tells the entry of a flow that is opened so.
    #[inline(always)]
    pub(crate) fn tell(&self, opened: &mut ConntrackEntry) {
        match self.end {
            Translated::ByHost => opened.nat_kind = NAT_BY_HOST,
            Translated::Ahead => opened.nat_kind = NAT_AHEAD,
            Translated::Masked => (opened.nat_kind, opened.nat) = (NAT_MASQUERADED, self.mask),
            Translated::Destination => {
                opened.nat_kind = NAT_TRANSLATED;
                (opened.nat, opened.nat_port) = (self.frontend, self.port.to_ne_bytes());
            }
            _ => {}
        }
    }
}

impl State {
    /// The packet as its sender wrote it, or back again.
    #[inline(always)]
    pub fn swap_ends(&mut self) {
        let Self { packet, translation, .. } = self;
        let is_clients = translation.end == Translated::Source && translation.is_masked;
        if is_clients || translation.end == Translated::Unmasked {
            mem::swap(&mut packet.destination, &mut translation.mask);
            let port = translation.mask_port;
            translation.mask_port = packet.destination_port;
            packet.come_to(port);
        }
        if translation.end != Translated::Destination {
            return;
        }
        let destination = packet.destination;
        if translation.is_hairpin {
            (packet.source, packet.destination) = (packet.destination, packet.source);
        } else {
            packet.destination = translation.frontend;
            translation.frontend = destination;
        }
        translation.port = packet.see_port(translation.port);
    }

    /// The client of a flow through a service, whose packet this is.
    #[inline(always)]
    pub(crate) fn client(&self) -> Socket {
        let Self { packet, translation, .. } = self;
        (if translation.is_hairpin { packet.destination } else { packet.source }, packet.source_port)
    }

    /// The packet as one to the backend. `is_pods`: its sender may be that backend.
    #[inline(always)]
    pub(crate) fn see_backend(&mut self, (address, port): Socket, is_pods: bool) {
        let Self { packet, translation, .. } = self;
        translation.end = Translated::Destination;
        translation.is_hairpin = is_pods && address == packet.source;
        if translation.is_hairpin {
            packet.source = translation.frontend;
        }
        packet.destination = address;
        packet.see_port(port);
    }
}

impl Packet {
    /// Puts the port at its receiver there: of ICMP, the identifier.
    #[inline(always)]
    pub(crate) fn come_to(&mut self, port: u16) {
        self.destination_port = port;
        if self.is_icmp() {
            self.source_port = port;
        } else {
            self.detail = u16::from_be(port);
        }
    }

    /// Puts another destination port in the place of the one that stands there, which it gives. Where that is the same, rules go
    /// on seeing what they saw: of ICMP it is no port.
    #[inline(always)]
    fn see_port(&mut self, port: u16) -> u16 {
        let former = self.destination_port;
        if port != former {
            self.destination_port = port;
            self.detail = u16::from_be(port);
        }
        former
    }
}
