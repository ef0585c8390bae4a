//! What the stages ask of the tables and of the frame: the two doors through which the world comes in.
//! In: keys and offsets. Out: values as the agent or an earlier packet left them.
//! Invariant: a packet's generation is read once, first; every word is read by [`Tables::word`], in one load.
//! Never: decides anything.

use abi::address::ClassEntry;
use abi::fragment::{FragmentKey, FragmentPorts};
use abi::{
    Address, Affinity, AffinityKey, Announcing, Backend, Balancer, ConntrackEntry, DropReason, Endpoint, FlowKey,
    Frontend, Masquerade, Member, RowKey, RowRef, ServiceKey, SetEntry, Span, Ticket, TunnelEnd, Word,
};

use crate::conntrack::Socket;
use crate::entry::Flow;
use crate::options;
use crate::parse::Packet;
use crate::policy;
use crate::ranges;
use crate::recent::Note;
use crate::walk::{State, Walk};

/// What became of an entry for a key that had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is there.
    New,
    /// It has one by now.
    Known,
    /// There is no room.
    Full,
}

/// What became of an entry in the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It is there.
    Done,
    /// There is no other any more.
    Gone,
    /// The table is locked under our feet; the other is still there.
    Busy,
}

/// The tables of services.
pub trait Services {
    /// Slot of the frontend that this address, port and protocol have.
    fn service(&self, key: &ServiceKey) -> Option<u32>;
    /// The frontend in this slot; `None` past the table's end.
    fn frontend(&self, slot: u32) -> Option<&Frontend>;
    /// A balancer; `None` past the table's end.
    fn balancer(&self, id: u32) -> Option<&Balancer>;
    /// The entry of a balancer's list at this index; `None` past the table's end.
    fn member(&self, index: u32) -> Option<Member>;
    /// The backend in this slot; `None` past the table's end.
    fn backend(&self, slot: u32) -> Option<&Backend>;
    /// Which backend a client keeps to.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Remembers which backend a client keeps to.
    fn insert_affinity(&self, key: &AffinityKey, kept: &Affinity);
    /// Counts a flow that was opened to a backend, there and at its frontend.
    fn count_opened(&self, frontend: u32, backend: u32);
    /// Counts a packet to a frontend without a backend.
    fn count_refused(&self, frontend: u32);
    /// The address by which this node speaks for itself, if it has one of that family.
    fn own_address(&self, v6: bool) -> Option<&Address>;
    /// As whom this node stands for its pods outside; all zero: as nobody.
    fn masquerade(&self, v6: bool) -> Option<&Masquerade>;
    /// Behind which node an address lies, if tunnels lead there.
    fn tunnel_behind(&self, address: &Address) -> Option<&TunnelEnd>;
    /// A number that nobody can foretell.
    fn random(&self) -> u32;

    /// [`crate::ranges::before`], apart where a verifier shall walk it once.
    fn bounds_before(&self, place: u64, high: u64, low: u64) -> u32
    where
        Self: Sized,
    {
        ranges::before(self, place, high, low)
    }

    /// A word as it stands, in one load.
    fn word(&self, word: &Word) -> Word {
        *word
    }
}

/// The addresses that this node answers for at its uplink.
pub trait Announcements {
    /// How long, where and as whom.
    fn announcing(&self) -> Option<&Announcing>;
    /// How it is one of them: `ANNOUNCED_*`.
    fn announced(&self, address: &Address) -> Option<u32>;
    /// Nanoseconds of the monotonic clock.
    fn now_ns(&self) -> u64;
}

/// The tables of `abi::maps`: the kernel's own in the programs, a fake in memory under test.
pub trait Tables: Services + Announcements {
    /// A dry run: nothing may be written.
    const DRY: bool;

    /// The generation in force.
    fn generation(&self) -> u64;
    /// Seconds of the monotonic clock, as the cursor's last tick wrote them down.
    fn now_s(&self) -> u32;
    /// Slot of the endpoint behind this interface.
    fn slot_of_interface(&self, ifindex: u32) -> Option<u32>;
    /// The endpoint in this slot; `None` past the table's end.
    fn endpoint(&self, slot: u32) -> Option<&Endpoint>;
    /// `CLASSES` slot of exactly this address.
    fn class_of_address(&self, address: &Address) -> Option<u32>;
    /// `CLASSES` slot of the longest prefix over this address.
    fn class_of_net(&self, address: &Address) -> Option<u32>;
    /// The class entry in this slot; `None` past the table's end.
    fn class(&self, slot: u32) -> Option<&ClassEntry>;
    /// A rule set; `None` past the table's end.
    fn set(&self, id: u32) -> Option<&SetEntry>;
    /// A set's own row for a class.
    fn row(&self, key: &RowKey) -> Option<RowRef>;
    /// The span at this index; `None` past the table's end.
    fn span(&self, index: u32) -> Option<Span>;
    /// A place for the note of a recent flow, this processor's own.
    fn note(&self, place: u32) -> Option<&Note>;
    /// [`Note::pay_former`], apart where a verifier shall walk it once.
    fn pay_former(&self, note: &Note, scratch: &mut FlowKey)
    where
        Self: Sized,
    {
        note.pay_former(self, scratch);
    }
    /// A number that grows with each flow that the endpoint in this slot opens.
    fn openings(&self, slot: u32) -> u32;
    /// Counts one.
    fn count_opening(&self, slot: u32);
    /// What `CONNTRACK` remembers of a flow.
    fn flow(&self, key: &FlowKey) -> Option<&Flow>;
    /// What `NEWFLOW` remembers of a flow.
    fn new_flow(&self, key: &FlowKey) -> Option<&Flow>;
    /// Remembers a half-open flow, in the place of an older one of the same key, or of whichever was idle longest.
    /// `false`: not even that gave room.
    fn insert_new_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> bool;
    /// The same; `is_first`: only if there is no entry of that key. `false`: there is one, or no room.
    fn insert_new_flow_at(&self, key: &FlowKey, entry: &ConntrackEntry, is_first: bool) -> bool;
    /// Remembers a flow of which `CONNTRACK` has no entry.
    fn insert_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> Inserted;
    /// Puts an entry in the place of another of the same key.
    fn replace_flow(&self, key: &FlowKey, entry: &ConntrackEntry) -> Replaced;
    /// Takes the number of an entry's ticket and leaves 0, in one step. Whoever gets a number that is not 0 may put another
    /// entry in its place, or remove it.
    fn claim(&self, flow: &Flow) -> u32;
    /// Forgets a flow of `CONNTRACK`; whether it was there.
    fn remove_flow(&self, key: &FlowKey) -> bool;
    /// Puts a ticket at the queue's end; `false` if there is no room.
    fn push_ticket(&self, ticket: &Ticket) -> bool;
    /// A number for a ticket, not 0, and hardly ever the one before of the same key.
    fn serial(&self) -> u32;
    /// Flows counted on an account.
    fn flows_of(&self, account: u32) -> i64;
    /// Counts on an account; how many there were before.
    fn count_flow(&self, account: u32, by: i64) -> i64;
    /// Flows an endpoint may own.
    fn flow_quota(&self) -> u32;
    /// Seconds that an entry with this [`abi::Timeout`] lives.
    fn lifetime_s(&self, timeout: u8) -> i32;
    /// The ports a packet's first fragment had.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    /// Remembers a first fragment's ports.
    fn insert_fragment(&self, key: &FragmentKey, ports: &FragmentPorts);
    /// [`policy::referred`], apart where a verifier shall walk it once.
    fn referred(&self, span: u64, own: u32, x: u32, source_port: u32) -> u64
    where
        Self: Sized,
    {
        policy::referred(self, span, own, x, source_port)
    }
    /// [`policy::speaks_for`], apart likewise.
    fn speaks_for(&self, slot: u32, class: u32, generation: u64) -> bool
    where
        Self: Sized,
    {
        policy::speaks_for(self, slot, class, generation)
    }
    /// Counts one decision of a rule.
    fn count_hit(&self, hit: u32);
    /// Writes down what was noted of a packet's judgements.
    fn write_log(&self, _: &mut State) {}
}

/// The bytes of a frame, from its Ethernet header on.
pub trait Frame {
    /// Length of the frame in bytes, with its Ethernet header.
    fn len(&self) -> u32;
    /// `N` bytes from offset `at`; `None` if the frame is shorter.
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
    /// The same for an offset that was read from the packet, which the verifier wants to see bounded.
    fn load_at<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.load(at)
    }
    /// The same number, of which the verifier knows nothing any more: else it follows every turn of a loop up apart.
    fn unknown(&self, number: u32) -> u32 {
        number
    }
    /// Whether a socket of the host's would hear what the packet's destination sends to this address and port of its own.
    fn has_socket(&self, _: &Packet, _: Socket) -> bool {
        false
    }
    /// [`options::check`], apart where a verifier shall walk it once.
    ///
    /// # Errors
    /// The packet may not say what they say.
    fn check_options(&self, header_len: u32) -> Result<(), DropReason>
    where
        Self: Sized,
    {
        options::check(self, header_len)
    }
    /// What becomes of a packet that no entry in force lets pass at once: asked apart, where a verifier shall walk that by itself.
    ///
    /// # Errors
    /// It goes no further.
    #[inline(always)]
    fn ask<T: Tables>(
        &self,
        walk: &Walk<'_, T, Self>,
        state: &mut State,
        is_new: bool,
    ) -> Result<Option<u32>, DropReason>
    where
        Self: Sized,
    {
        walk.asked_about(state, is_new)
    }
    /// Whether the frame has no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the hook says of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// The interface the program sits on.
    pub ifindex: u32,
    /// The interface the packet came in by; 0 if this host made it.
    pub ingress_ifindex: u32,
    /// A VLAN tag was taken off the frame.
    pub vlan: bool,
    /// That tag has a priority and no VLAN: the stack takes the frame for an untagged one.
    pub untagged: bool,
    /// The frame is not for this interface: sent to another's MAC, or to a group's.
    pub foreign: bool,
    /// It was sent to another's MAC, and no group's: the stack will not take it.
    pub overheard: bool,
    /// What the stack takes the frame's content for.
    pub ethertype: u16,
    /// The first words of the control block, as the program before left them.
    pub handed: [u32; 2],
    /// The packet's mark.
    pub mark: u32,
}
