//! Choice: to which backend of a service something new goes.
//! In: a frontend's key, a client, and the services' tables at one generation. Out: a balancer; a backend's slot.
//! Invariant: who asks for a client that is kept to a backend gets that one as long as new flows may go there.
//! Never: knows whether a packet or a socket asks; writes.

use abi::service::{BACKEND_CHOSEN, BALANCER_NONE, FRONTEND_NONE, FRONTENDS_PORTS};
use abi::{AffinityKey, Backend, Balancer, DropReason, Frontend, ServiceKey};

use crate::parse::Packet;
use crate::tables::{Services, Tables};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A pod, or this node.
    Inside,
    /// Somebody whose packets come by the uplink.
    Outside,
}

impl Side {
    #[inline(always)]
    fn of<T: Services>(self, tables: &T, frontend: &Frontend, generation: u64) -> u32 {
        let word = if self == Self::Outside { &frontend.outside } else { &frontend.inside };
        tables.word(word).at(generation)
    }
}

/// Whether this node has any service for pods and for itself.
#[inline(always)]
pub fn any<T: Services>(tables: &T, generation: u64) -> Result<bool, DropReason> {
    Ok(any_for(Side::Inside, tables, generation)? & FRONTENDS_PORTS != 0)
}

/// What this node has at all for those who ask: `FRONTENDS_*`.
#[inline(always)]
pub fn any_for<T: Services>(side: Side, tables: &T, generation: u64) -> Result<u32, DropReason> {
    let none = tables.frontend(FRONTEND_NONE).ok_or(DropReason::TableCorrupt)?;
    Ok(side.of(tables, none, generation))
}

/// What a frontend has for pods and for this node, and its slot.
#[inline(always)]
pub fn inside<'a, T: Services>(
    tables: &'a T,
    key: &ServiceKey,
    generation: u64,
) -> Result<Option<(u32, &'a Balancer)>, DropReason> {
    balancer_for(Side::Inside, tables, key, generation)
}

/// What a frontend has for those who ask, and its slot.
#[inline(always)]
pub fn balancer_for<'a, T: Services>(
    side: Side,
    tables: &'a T,
    key: &ServiceKey,
    generation: u64,
) -> Result<Option<(u32, &'a Balancer)>, DropReason> {
    let Some(slot) = tables.service(key) else {
        return Ok(None);
    };
    let frontend = tables.frontend(slot).ok_or(DropReason::TableCorrupt)?;
    match side.of(tables, frontend, generation) {
        BALANCER_NONE => Ok(None),
        id => tables.balancer(id).map(|balancer| Some((slot, balancer))).ok_or(DropReason::TableCorrupt),
    }
}

/// Any member, but for one.
#[inline(always)]
pub fn member<T: Services>(tables: &T, balancer: &Balancer, but: u32) -> Result<u32, DropReason> {
    member_by(tables, balancer, tables.random(), but)
}

/// The member for a number, but for one.
#[inline(always)]
pub fn member_by<T: Services>(tables: &T, balancer: &Balancer, number: u32, but: u32) -> Result<u32, DropReason> {
    let index = ((u64::from(number) * u64::from(balancer.len)) >> 32) as u32;
    let at = |index: u32| tables.member(balancer.offset.wrapping_add(index)).ok_or(DropReason::TableCorrupt);
    let found = at(index)?.backend;
    if but == 0 || found != but {
        return Ok(found);
    }
    Ok(at(if index + 1 < balancer.len { index + 1 } else { 0 })?.backend)
}

/// The same number for a flow every time, and on every node. Whoever leaves out the client's port has one for all its flows.
#[inline(always)]
pub fn hash(packet: &Packet, source_port: u16) -> u32 {
    let (source, destination) = (packet.source.0, packet.destination.0);
    let mixed = source[0] ^ source[1] ^ destination[0].rotate_left(21) ^ destination[1].rotate_left(9);
    let ports = u64::from(source_port) << 16 | u64::from(packet.destination_port);
    let mixed = (mixed ^ ports ^ u64::from(packet.protocol) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Once more: a client's next port differs in few bits.
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 32) as u32
}

/// The backend that a client keeps to, if it was there in time and new flows may still go there.
#[inline(always)]
pub fn kept<T: Tables>(tables: &T, balancer: &Balancer, client: &AffinityKey, generation: u64) -> Option<u32> {
    let kept = tables.affinity(client)?;
    let idle_s = tables.now_s().wrapping_sub(kept.seen_s) as i32;
    let backend = tables.backend(kept.backend)?;
    let is_there = standing(tables, backend, generation) & BACKEND_CHOSEN != 0 && backend.was_there(kept.stamp);
    let is_kept = is_there && backend.of == balancer.of && idle_s <= balancer.affinity_s as i32;
    if is_kept { Some(kept.backend) } else { None }
}

/// The backend in a slot that a list in force names: it stands.
#[inline(always)]
pub fn standing_at<T: Services>(tables: &T, slot: u32, generation: u64) -> Result<&Backend, DropReason> {
    let backend = tables.backend(slot).ok_or(DropReason::TableCorrupt)?;
    if standing(tables, backend, generation) == 0 { Err(DropReason::TableCorrupt) } else { Ok(backend) }
}

/// `BACKEND_*`.
#[inline(always)]
pub fn standing<T: Services>(tables: &T, backend: &Backend, generation: u64) -> u32 {
    tables.word(&backend.standing).at(generation)
}
