//! Sockets: one of this node's own that asks for a service gets a backend, and hears of it by the service's address.
//! In: a socket's cookie, and the address it asks for or hears from. Out: the address in whose place that is put.
//! Invariant: a backend is chosen once for a connection, and for all datagrams of a socket to one frontend.
//! Never: a packet's way: what is connected costs nothing more; a socket of another network namespace (its hook sees to that).

use abi::endpoint::NODE_TRANSLATES;
use abi::service::BALANCER_SILENT;
use abi::socket::{SIDE_BACKEND, SIDE_FRONTEND};
use abi::{Address, Affinity, AffinityKey, Balancer, DropReason, ServiceKey, SocketKey, SocketPeer};

use crate::by_host::node_says;
use crate::choice;
use crate::conntrack::Socket;
use crate::parse::protocol;
use crate::ranges;
use crate::tables::Tables;

/// What is remembered of sockets.
pub trait Sockets: Tables {
    /// What stands for an end of a socket.
    fn peer(&self, key: &SocketKey) -> Option<SocketPeer>;
    /// Remembers it, in the place of what is known.
    fn insert_peer(&self, key: &SocketKey, peer: &SocketPeer);
    /// Forgets it.
    fn remove_peer(&self, key: &SocketKey);
}

/// What a socket asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The socket.
    pub cookie: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// Where to, the port in network order.
    pub to: Socket,
    /// It has another end already: what it sends without an address may come with that end's.
    pub is_connected: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It goes where it was meant to go.
    AsAsked,
    /// It goes there.
    To(Socket),
    /// Nobody is there.
    Refused,
    /// Nobody is there, and nobody says so.
    Unheard,
}

/// A socket is connected: its packets then go to the backend with nobody looking on.
#[inline(always)]
pub fn connects<T: Sockets>(tables: &T, asked: &Asked) -> Sent {
    ask(tables, asked, false)
}

/// A datagram is sent to an address of its own.
#[inline(always)]
pub fn sends<T: Sockets>(tables: &T, asked: &Asked) -> Sent {
    ask(tables, asked, true)
}

/// In whose name the other end is known to the socket, if that is another.
#[inline(always)]
pub fn hears<T: Sockets>(tables: &T, cookie: u64, from: Socket) -> Option<Socket> {
    let known = tables.peer(&key(cookie, from, SIDE_BACKEND))?;
    Some((known.address, u16::from_ne_bytes(known.port)))
}

#[inline(always)]
fn ask<T: Sockets>(tables: &T, asked: &Asked, by_datagram: bool) -> Sent {
    if !matches!(asked.protocol, protocol::TCP | protocol::UDP) {
        return Sent::AsAsked;
    }
    match answer(tables, asked, by_datagram) {
        Ok(sent) => sent,
        // What cannot be made out leads nowhere.
        Err(_) => Sent::Refused,
    }
}

#[inline(always)]
fn answer<T: Sockets>(tables: &T, asked: &Asked, by_datagram: bool) -> Result<Sent, DropReason> {
    let generation = tables.generation();
    if !choice::any(tables, generation)? {
        return Ok(Sent::AsAsked);
    }
    let (address, port) = (asked.to.0, asked.to.1.to_ne_bytes());
    let service = ServiceKey { address, port, protocol: asked.protocol, pad: [0; 5] };
    let Some((at, balancer)) = choice::inside(tables, &service, generation)? else {
        meant_itself(tables, asked);
        return Ok(Sent::AsAsked);
    };
    if by_datagram && let Some(backend) = former(tables, asked, generation) {
        return Ok(Sent::To(backend));
    }
    if node_says(tables, generation)? & NODE_TRANSLATES != 0 {
        // What leaves the stack is judged there, and answers go back through it.
        return Ok(Sent::AsAsked);
    }
    if balancer.len == 0 {
        tables.count_refused(at);
        return Ok(if balancer.flags & BALANCER_SILENT != 0 { Sent::Unheard } else { Sent::Refused });
    }
    choose(tables, asked, (at, balancer), (generation, by_datagram))
}

/// An address that no service has is itself, also for a socket that knew it in a service's name before.
#[inline(always)]
fn meant_itself<T: Sockets>(tables: &T, asked: &Asked) {
    let known = key(asked.cookie, asked.to, SIDE_BACKEND);
    if asked.protocol == protocol::UDP && !asked.is_connected && tables.peer(&known).is_some() {
        tables.remove_peer(&known);
    }
}

/// Where the socket's former datagrams to this frontend went, if that one is still there.
#[inline(always)]
fn former<T: Sockets>(tables: &T, asked: &Asked, generation: u64) -> Option<Socket> {
    let known = tables.peer(&key(asked.cookie, asked.to, SIDE_FRONTEND))?;
    let backend = tables.backend(known.backend)?;
    if choice::standing(tables, backend, generation) == 0 || !backend.was_there(known.stamp) {
        return None;
    }
    let to = (backend.address, u16::from_ne_bytes(backend.port));
    // What tells whose answer it is may be forgotten, or be another frontend's by now.
    if hears(tables, asked.cookie, to) != Some(asked.to) {
        remember(tables, asked, to, (known.backend, known.stamp), SIDE_BACKEND);
    }
    Some(to)
}

#[inline(always)]
fn choose<T: Sockets>(
    tables: &T,
    asked: &Asked,
    (at, balancer): (u32, &Balancer),
    (generation, by_datagram): (u64, bool),
) -> Result<Sent, DropReason> {
    // Whom it will speak as is not known before it has a route; the node's other addresses are few.
    let own = tables.own_address(!asked.to.0.is_v4());
    if balancer.bounds() != 0 && !own.is_some_and(|own| ranges::lets_in(tables, balancer, own) == Ok(true)) {
        tables.count_refused(at);
        return Ok(Sent::Unheard);
    }
    let client = AffinityKey { client: this_node(asked.to.0), of: balancer.of };
    let is_kept = balancer.affinity_s != 0;
    let kept = if is_kept { choice::kept(tables, balancer, &client, generation) } else { None };
    let slot = match kept {
        Some(slot) => slot,
        None => choice::member(tables, balancer, 0)?,
    };
    let backend = choice::standing_at(tables, slot, generation)?;
    let stamp = generation as u32;
    if is_kept {
        tables.insert_affinity(&client, &Affinity { backend: slot, stamp, seen_s: tables.now_s() });
    }
    tables.count_opened(at, slot);
    let to = (backend.address, u16::from_ne_bytes(backend.port));
    if by_datagram {
        remember(tables, asked, to, (slot, stamp), SIDE_FRONTEND);
    }
    remember(tables, asked, to, (slot, stamp), SIDE_BACKEND);
    Ok(Sent::To(to))
}

/// Remembers, of the frontend that was asked for and a backend, the one by the other.
#[inline(always)]
fn remember<T: Sockets>(tables: &T, asked: &Asked, to: Socket, (backend, stamp): (u32, u32), side: u8) {
    let (known, other) = if side == SIDE_BACKEND { (to, asked.to) } else { (asked.to, to) };
    let peer = SocketPeer { address: other.0, backend, stamp, port: other.1.to_ne_bytes(), pad: [0; 6] };
    tables.insert_peer(&key(asked.cookie, known, side), &peer);
}

/// This node as a client that keeps to a backend: one client in each family, whichever of its addresses it will speak by.
#[inline(always)]
pub(crate) fn this_node(of_family: Address) -> Address {
    if of_family.is_v4() { Address::from_v4([0; 4]) } else { Address::default() }
}

#[inline(always)]
fn key(cookie: u64, (address, port): Socket, side: u8) -> SocketKey {
    SocketKey { cookie, address, port: port.to_ne_bytes(), side, pad: [0; 5] }
}
