//! What changes in the kernel's network, as it changes.
//! In: the kernel's notifications for links, addresses, routes, neighbours and queueing disciplines. Out: one [`Event`] each.
//! Invariant: events that were lost are reported as [`Event::Lost`]; the reader lists again.
//! Never: ends by itself; blocks the kernel.

use crate::{
    Address, Error, Link, Neighbour, Reason, Route, address::address_of, link::link_of, neighbour::neighbour_of,
    route::route_of, socket::messages,
};
use model::Ifindex;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    route::{RouteFlags, RouteHeader, RouteType},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::net::sockopt;
use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd},
};

/// Multicast groups (rtnetlink's `RTNLGRP_*`): link, neighbour, traffic control, IPv4 address and route, IPv6 address and
/// route.
const GROUPS: [u32; 7] = [1, 3, 4, 5, 7, 9, 11];
/// Room for bursts, such as a hundred links made at once.
const RECEIVE_BUFFER: usize = 4 << 20;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link is new or has changed.
    Link(Link),
    /// A link is gone.
    LinkGone(Link),
    /// An address is new or has changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route is new or has changed.
    Route(Route),
    /// A route is gone.
    RouteGone(Route),
    /// A neighbour is new or has changed.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// A queueing discipline of this interface came or went. The link's own event does not follow: ask for the link.
    Queue(Ifindex),
    /// Some events did not fit or could not be read: list what you need again.
    Lost,
}

/// A blocking iterator over changes in the namespace it was opened in.
#[derive(Debug)]
pub struct Watch {
    inner: netlink_sys::Socket,
    waiting: VecDeque<Event>,
}

impl Watch {
    /// Begins to listen. List after opening, not before, to miss nothing.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::new("watch", "links, addresses, routes, neighbours", error);
        let mut inner = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(failed)?;
        inner.bind_auto().map_err(failed)?;
        // A smaller buffer than asked for only means that `Lost` comes sooner.
        let _ = sockopt::set_socket_recv_buffer_size_force(&inner, RECEIVE_BUFFER);
        for group in GROUPS {
            inner.add_membership(group).map_err(failed)?;
        }
        Ok(Self { inner, waiting: VecDeque::new() })
    }

    /// All that has happened up to now, without waiting: the kernel queues an event before it answers who caused it.
    ///
    /// # Errors
    /// The socket failed.
    pub fn so_far(&mut self) -> Result<Vec<Event>, Error> {
        let blocking = |watch: &Self, yes: bool| {
            let set = watch.inner.set_non_blocking(!yes);
            set.map_err(|error| Error::new("receive", "network events", error))
        };
        blocking(self, false)?;
        let mut received = Ok(true);
        while let Ok(true) = received {
            received = self.receive();
        }
        blocking(self, true)?;
        received.map(|_| self.waiting.drain(..).collect())
    }

    /// Takes the next datagram apart. `false`: there is none, and the socket does not wait.
    fn receive(&mut self) -> Result<bool, Error> {
        let lost = rustix::io::Errno::NOBUFS.raw_os_error();
        match self.inner.recv_from_full() {
            Ok((bytes, _)) => self.waiting.extend(events(&bytes)),
            Err(error) if error.raw_os_error() == Some(lost) => self.waiting.push_back(Event::Lost),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(Error::new("receive", "network events", Reason::Kernel(error))),
        }
        Ok(true)
    }
}

impl AsFd for Watch {
    /// Readable when there is an event to come, beside those already taken in.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Iterator for Watch {
    type Item = Result<Event, Error>;

    /// Waits for the next change; never `None`.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(Ok(event));
            }
            if let Err(error) = self.receive() {
                return Some(Err(error));
            }
        }
    }
}

fn events(bytes: &[u8]) -> Vec<Event> {
    let Ok(packets) = messages(bytes) else { return vec![Event::Lost] };
    let of = |payload| match payload {
        NetlinkPayload::InnerMessage(message) => event_of(&message),
        NetlinkPayload::Overrun(_) => Some(Event::Lost),
        _ => None,
    };
    packets.into_iter().filter_map(|packet| of(packet.payload)).collect()
}

fn event_of(message: &Message) -> Option<Event> {
    match message {
        // A port's messages to its bridge are not about the link itself.
        Message::NewLink(head) | Message::DelLink(head) if head.header.interface_family == AddressFamily::Bridge => {
            None
        }
        Message::NewLink(_) => link_of(message).map(Event::Link),
        Message::DelLink(_) => link_of(message).map(Event::LinkGone),
        Message::NewAddress(_) => address_of(message).map(Event::Address),
        Message::DelAddress(_) => address_of(message).map(Event::AddressGone),
        Message::NewRoute(head) => {
            // One that is not read here may have taken the place of one to a single host.
            let strange = || is_to_one_host(&head.header).then_some(Event::Lost);
            route_of(message).map(Event::Route).or_else(strange)
        }
        Message::DelRoute(_) => route_of(message).map(Event::RouteGone),
        Message::NewNeighbour(_) => neighbour_of(message).map(Event::Neighbour),
        Message::DelNeighbour(_) => neighbour_of(message).map(Event::NeighbourGone),
        Message::NewQueueDiscipline(head) | Message::DelQueueDiscipline(head) => {
            u32::try_from(head.header.index).ok().map(|index| Event::Queue(Ifindex(index)))
        }
        _ => None,
    }
}

/// Made by somebody, unlike local, broadcast and cached routes, which the kernel makes beside the addresses.
fn is_to_one_host(header: &RouteHeader) -> bool {
    let whole = if header.address_family == AddressFamily::Inet { 32 } else { 128 };
    let kernels = [RouteType::Local, RouteType::Broadcast, RouteType::Anycast, RouteType::Multicast];
    header.destination_prefix_length == whole
        && !kernels.contains(&header.kind)
        && !header.flags.contains(RouteFlags::Cloned)
}
