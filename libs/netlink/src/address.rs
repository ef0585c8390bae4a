//! Addresses of interfaces.
//! In: an interface, an address, a prefix length. Out: addresses as they are.
//! Invariant: adding what is there already succeeds.
//! Never: waits for duplicate address detection.

use crate::{Error, Socket, error::deleted, socket::About};
use model::Ifindex;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};
use std::net::{IpAddr, Ipv4Addr};

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: Ifindex,
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix_len: u8,
    /// Usable everywhere: neither link-local nor of the host alone.
    pub global: bool,
    /// Still being checked for duplicates, or found to be one.
    pub tentative: bool,
    /// By what name it is listed; of IPv4 alone, the interface's where nobody gave another.
    pub label: String,
}

impl Socket {
    /// All addresses of both families.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let about = About { operation: "list", object: &"addresses" };
        let listing = self.dump(about, &Message::GetAddress(AddressMessage::default()))?;
        Ok(listing.iter().filter_map(address_of).collect())
    }

    /// Gives an interface an address. `no_dad`: an IPv6 address is usable at once.
    ///
    /// # Errors
    /// The interface is not there, or the kernel refuses the address.
    pub fn add_address(
        &mut self,
        interface: Ifindex,
        address: IpAddr,
        prefix_len: u8,
        no_dad: bool,
    ) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = family_of(address);
        message.header.prefix_len = prefix_len;
        message.header.index = interface.0;
        // The kernel reads `Local` for IPv4 and either for IPv6; without a peer both are the same address.
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        if no_dad && address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let object = format!("{address}/{prefix_len} to interface {}", interface.0);
        let about = About { operation: "add address", object: &object };
        self.change(about, Message::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Gives an interface an IPv4 address of its own alone, which is listed by this name (15 letters at most).
    ///
    /// # Errors
    /// The interface is not there, or the kernel refuses the address.
    pub fn add_labelled_address(&mut self, interface: Ifindex, address: Ipv4Addr, label: &str) -> Result<(), Error> {
        let mut message = single(interface, address);
        message.attributes.push(AddressAttribute::Label(label.to_owned()));
        let object = format!("{address} to interface {}", interface.0);
        let about = About { operation: "add address", object: &object };
        self.change(about, Message::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes such an address away. `false`: it was not there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_address(&mut self, interface: Ifindex, address: Ipv4Addr) -> Result<bool, Error> {
        let object = format!("{address} of interface {}", interface.0);
        let about = About { operation: "delete address", object: &object };
        deleted(self.change(about, Message::DelAddress(single(interface, address)), 0))
    }
}

/// A message about an address that is its own network.
fn single(interface: Ifindex, address: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = interface.0;
    message.attributes = vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    message
}

pub(crate) fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The address a message is about.
pub(crate) fn address_of(message: &Message) -> Option<Address> {
    let (Message::NewAddress(message) | Message::DelAddress(message)) = message else { return None };
    // `Local` is the own address where there is a peer, in which case `Address` is the peer's.
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let any = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let attributes = &message.attributes;
    let address = attributes.iter().find_map(own).or_else(|| attributes.iter().find_map(any))?;
    let label = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Label(label) => Some(label.clone()),
        _ => None,
    });
    Some(Address {
        label: label.unwrap_or_default(),
        interface: Ifindex(message.header.index),
        address,
        prefix_len: message.header.prefix_len,
        global: message.header.scope == AddressScope::Universe,
        tentative: message.header.flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed),
    })
}
