//! Neighbours: which MAC answers for an address on a link.
//! In: permanent entries to be there or to go. Out: entries as they are.
//! Invariant: a permanent entry is never changed by what comes over the wire.
//! Never: lists proxy entries or a bridge's forwarding table.

use crate::{Error, Socket, address::family_of, error::deleted, socket::About};
use model::{Ifindex, Mac};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteType,
};
use std::net::IpAddr;

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// On this link.
    pub interface: Ifindex,
    /// Who is asked for.
    pub address: IpAddr,
    /// Who answers, if that is known.
    pub mac: Option<Mac>,
    /// Put there by hand: never learnt, never aged.
    pub permanent: bool,
}

impl Socket {
    /// All neighbour entries of both families.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        let about = About { operation: "list", object: &"neighbours" };
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = NeighbourMessage::default();
            question.header.family = family;
            found.extend(self.dump(about, &Message::GetNeighbour(question))?.iter().filter_map(neighbour_of));
        }
        Ok(found)
    }

    /// Puts a permanent entry there, whatever was there before.
    ///
    /// # Errors
    /// The interface is not there, or the kernel refuses.
    pub fn replace_neighbour(&mut self, interface: Ifindex, address: IpAddr, mac: Mac) -> Result<(), Error> {
        let mut message = message_of(interface, address);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let object = format!("{address} {mac} on interface {}", interface.0);
        let about = About { operation: "replace neighbour", object: &object };
        self.change(about, Message::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Deletes an entry. `false`: it was not there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_neighbour(&mut self, interface: Ifindex, address: IpAddr) -> Result<bool, Error> {
        let object = format!("{address} on interface {}", interface.0);
        let about = About { operation: "delete neighbour", object: &object };
        deleted(self.change(about, Message::DelNeighbour(message_of(interface, address)), 0))
    }
}

fn message_of(interface: Ifindex, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = interface.0;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

/// The entry a message is about.
pub(crate) fn neighbour_of(message: &Message) -> Option<Neighbour> {
    let (Message::NewNeighbour(message) | Message::DelNeighbour(message)) = message else { return None };
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
            _ => {}
        }
    }
    Some(Neighbour {
        interface: Ifindex(message.header.ifindex),
        address: address?,
        mac,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}
