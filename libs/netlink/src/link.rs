//! Links: what interfaces there are, veth pairs, and their settings.
//! In: names, indices, specifications. Out: links as they are.
//! Invariant: a link keeps its index for life within its namespace; a name may move on to another.
//! Never: renames or deletes by pattern.

use crate::{Error, Reason, Socket, error::deleted, socket::About};
use model::{IfaceName, Ifindex, Mac};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use std::os::fd::{AsRawFd, BorrowedFd};

/// An interface as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: Ifindex,
    /// Its name.
    pub name: IfaceName,
    /// Its link-layer address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Set up by its owner (not: has a carrier).
    pub up: bool,
    /// The driver's word for it: "veth", "vxlan"; empty for hardware and loopback.
    pub kind: String,
    /// The alias, or empty.
    pub alias: String,
    /// For a veth: the index of its other end, in the other end's namespace. Indices repeat between namespaces:
    /// [`Socket::leads_to`] says whether it is a given link.
    pub peer: Option<Ifindex>,
    /// Where the other end is, as the socket's namespace numbers others; `None`: in the same one.
    pub peer_namespace: Option<i32>,
    /// For a VXLAN device: its UDP port.
    pub vxlan_port: Option<u16>,
    /// Root queueing discipline: "noqueue" for a bare veth.
    pub qdisc: String,
}

/// A veth pair to be made; both ends start down.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// Name of the end in the socket's namespace.
    pub name: &'a IfaceName,
    /// Its MAC.
    pub mac: Mac,
    /// MTU of both ends.
    pub mtu: u32,
    /// Name of the other end.
    pub peer_name: &'a IfaceName,
    /// MAC of the other end; `None`: the kernel chooses.
    pub peer_mac: Option<Mac>,
    /// Namespace that the other end is made in.
    pub peer_namespace: BorrowedFd<'a>,
}

/// A VXLAN device of which every packet says itself where it goes, to be made; it starts down.
#[derive(Clone, Copy, Debug)]
pub struct VxlanSpec<'a> {
    /// Its name.
    pub name: &'a IfaceName,
    /// Its MAC.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// UDP port, at which it takes packets of both families.
    pub port: u16,
    /// Whose it is.
    pub alias: &'a str,
}

/// What to change; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct LinkChange<'a> {
    /// Up or down.
    pub up: Option<bool>,
    /// MAC.
    pub mac: Option<Mac>,
    /// MTU.
    pub mtu: Option<u32>,
    /// New name.
    pub name: Option<&'a IfaceName>,
    /// Alias, at most 255 bytes.
    pub alias: Option<&'a str>,
    /// Namespace to move it to.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl Socket {
    /// All links.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let about = About { operation: "list", object: &"links" };
        let listing = self.dump(about, &Message::GetLink(LinkMessage::default()))?;
        Ok(listing.iter().filter_map(link_of).collect())
    }

    /// The link of this name, if there is one.
    ///
    /// # Errors
    /// The kernel gives another answer than the link or its absence.
    pub fn link(&mut self, name: &IfaceName) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.0.clone()));
        self.one_link(About { operation: "get link", object: name }, message)
    }

    /// The link of this index, if there is one.
    ///
    /// # Errors
    /// The kernel gives another answer than the link or its absence.
    pub fn link_by_index(&mut self, index: Ifindex) -> Result<Option<Link>, Error> {
        self.one_link(About { operation: "get link", object: &index_text(index) }, indexed(index))
    }

    /// Whether a link takes packets: up, with a carrier, its queue at work. Where a carrier came just now, the kernel sets the
    /// queue to work before it answers (Linux 6.7 and later), or soon after.
    ///
    /// # Errors
    /// As [`Socket::link_by_index`].
    pub fn is_running(&mut self, index: Ifindex) -> Result<bool, Error> {
        let about = About { operation: "get link", object: &index_text(index) };
        let answer = self.get(about, Message::GetLink(indexed(index)))?;
        Ok(matches!(answer, Message::NewLink(link) if link.header.flags.contains(LinkFlags::Running)))
    }

    /// Makes a veth pair whose other end appears straight in another namespace. Both ends are down.
    ///
    /// # Errors
    /// A name is taken (`is_present`; the kernel does not say on which side), or the kernel refuses.
    pub fn create_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), Error> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(spec.peer_name.0.clone()));
        peer.attributes.push(LinkAttribute::Mtu(spec.mtu));
        peer.attributes.push(LinkAttribute::NetNsFd(spec.peer_namespace.as_raw_fd()));
        peer.attributes.extend(spec.peer_mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(spec.name.0.clone()),
            LinkAttribute::Mtu(spec.mtu),
            LinkAttribute::Address(spec.mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let object = format!("{} with {} in the other namespace", spec.name, spec.peer_name);
        let about = About { operation: "create veth", object: &object };
        self.change(about, Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a VXLAN device that asks no neighbour: what it is to send has its receiver's MAC from elsewhere.
    ///
    /// # Errors
    /// The name is taken (`is_present`), or the kernel refuses: it may have no VXLAN.
    pub fn create_vxlan(&mut self, spec: &VxlanSpec<'_>) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp;
        message.attributes = vec![
            LinkAttribute::IfName(spec.name.0.clone()),
            LinkAttribute::Mtu(spec.mtu),
            LinkAttribute::Address(spec.mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vec![
                    InfoVxlan::CollectMetadata(true),
                    InfoVxlan::Learning(false),
                    InfoVxlan::Port(spec.port),
                    InfoVxlan::UDPZeroCsumRX(true),
                ])),
            ]),
        ];
        let about = About { operation: "create vxlan", object: spec.name };
        self.change(about, Message::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
        self.set_alias(spec.name, spec.alias)
    }

    /// Changes a link's settings in one request.
    ///
    /// # Errors
    /// The link is not there, or the kernel refuses a setting.
    pub fn set_link(&mut self, index: Ifindex, change: &LinkChange<'_>) -> Result<(), Error> {
        let mut message = indexed(index);
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.0.clone())));
        attributes.extend(change.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        attributes.extend(change.namespace.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
        self.change(About { operation: "change link", object: &index_text(index) }, Message::SetLink(message), 0)
    }

    /// Says whose a link is, by its name: for who made it just now.
    ///
    /// # Errors
    /// The link is not there, or the kernel refuses the alias.
    pub fn set_alias(&mut self, name: &IfaceName, alias: &str) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.0.clone()), LinkAttribute::IfAlias(alias.to_owned())];
        self.change(About { operation: "set the alias of", object: name }, Message::SetLink(message), 0)
    }

    /// Deletes a link, and with it its other end. `false`: it was not there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn delete_link(&mut self, index: Ifindex) -> Result<bool, Error> {
        let about = About { operation: "delete link", object: &index_text(index) };
        deleted(self.change(about, Message::DelLink(indexed(index)), 0))
    }

    /// Whether packets to this link pass a queueing discipline that `bpf_redirect_peer` would skip.
    /// `false` for a link that is not there.
    ///
    /// # Errors
    /// As [`Socket::link_by_index`].
    pub fn has_qdisc(&mut self, index: Ifindex) -> Result<bool, Error> {
        Ok(self.link_by_index(index)?.is_some_and(|link| !["", "noop", "noqueue"].contains(&link.qdisc.as_str())))
    }

    /// Whether the other end of `link` is the interface `index` of `namespace`, another than the socket's.
    ///
    /// # Errors
    /// The kernel does not say how it numbers the namespace.
    pub fn leads_to(&mut self, link: &Link, index: Ifindex, namespace: BorrowedFd<'_>) -> Result<bool, Error> {
        let Some(number) = link.peer_namespace else { return Ok(false) };
        Ok(link.peer == Some(index) && self.namespace_number(namespace)? == Some(number))
    }

    /// How the socket's namespace numbers another; `None` where it never met it.
    fn namespace_number(&mut self, namespace: BorrowedFd<'_>) -> Result<Option<i32>, Error> {
        let about = About { operation: "get number of", object: &"network namespace" };
        let fd = u32::try_from(namespace.as_raw_fd()).expect("because an open descriptor is not negative");
        let mut question = NsidMessage::default();
        question.attributes.push(NsidAttribute::Fd(fd));
        let Message::NewNsId(answer) = self.get(about, Message::GetNsId(question))? else { return Ok(None) };
        let number = |attribute: &NsidAttribute| match attribute {
            NsidAttribute::Id(number) if *number >= 0 => Some(*number),
            _ => None,
        };
        Ok(answer.attributes.iter().find_map(number))
    }

    fn one_link(&mut self, about: About<'_>, message: LinkMessage) -> Result<Option<Link>, Error> {
        match self.get(about, Message::GetLink(message)) {
            Ok(answer) => link_of(&answer).map(Some).ok_or_else(|| {
                about.failed(Reason::Unreadable("it answers a question for a link with something else".to_owned()))
            }),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The loopback interface of every namespace has this index (LOOPBACK_IFINDEX, include/net/net_namespace.h).
pub const LOOPBACK: Ifindex = Ifindex(1);

fn indexed(index: Ifindex) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index.0;
    message
}

pub(crate) fn index_text(index: Ifindex) -> String {
    format!("interface {}", index.0)
}

/// The link a message is about.
pub(crate) fn link_of(message: &Message) -> Option<Link> {
    let (Message::NewLink(message) | Message::DelLink(message)) = message else { return None };
    let mut link = Link {
        index: Ifindex(message.header.index),
        name: IfaceName(String::new()),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        kind: String::new(),
        alias: String::new(),
        peer: None,
        peer_namespace: None,
        vxlan_port: None,
        qdisc: String::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = IfaceName(name.clone()),
            LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Qdisc(qdisc) => link.qdisc.clone_from(qdisc),
            LinkAttribute::Link(peer) => link.peer = Some(Ifindex(*peer)).filter(|peer| peer.0 != 0),
            LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(*number),
            LinkAttribute::LinkInfo(infos) => (link.kind, link.vxlan_port) = (kind_of(infos), vxlan_port_of(infos)),
            _ => {}
        }
    }
    Some(link)
}

fn vxlan_port_of(infos: &[LinkInfo]) -> Option<u16> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    data.iter().find_map(|said| if let InfoVxlan::Port(port) = said { Some(*port) } else { None })
}

fn kind_of(infos: &[LinkInfo]) -> String {
    infos
        .iter()
        .find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind.to_string()) } else { None })
        .unwrap_or_default()
}
