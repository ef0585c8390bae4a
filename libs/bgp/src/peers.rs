//! Sessions: with whom this node speaks, and how.
//! In: [`Facts`]. Out: sessions of one family, in order of their addresses; what could not be made so.
//! Invariant: one session an address and port: an object for this node goes before one for all, and any before the mesh. Of two
//! nodes that speak with each other the one with the lesser text of its address begins, as in Calico.
//! Never: a session with itself; one without the password that its object asks for.

use crate::{facts::Facts, text::string};
use model::{AsNumber, BgpPeer, NextHop, Node, Password, PeerNodes, PeerWith, SecretKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// Why there is a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An object for some nodes asks for it.
    Node,
    /// One for all does.
    Global,
    /// All nodes speak with all.
    Mesh,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Node, Self::Global, Self::Mesh];

    /// The beginning of the names of its sessions.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Node => "Node_",
            Self::Global => "Global_",
            Self::Mesh => "Mesh_",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node specific",
            Self::Global => "global",
            Self::Mesh => "node-to-node mesh",
        })
    }
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// Who asks for it, for people.
    pub(crate) of: String,
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
    pub(crate) as_number: AsNumber,
    pub(crate) local_as: AsNumber,
    pub(crate) source: Option<IpAddr>,
    pub(crate) waits: bool,
    pub(crate) hops: Option<u8>,
    pub(crate) restart: Option<u32>,
    pub(crate) keepalive: Option<u32>,
    pub(crate) password: Option<Password>,
    pub(crate) reflects: Option<Ipv4Addr>,
    pub(crate) next_hop: NextHop,
    pub(crate) allowed_local_as: u32,
    pub(crate) filters: Vec<String>,
    /// A filter that it names is not there.
    pub(crate) is_closed: bool,
    pub(crate) reachable_by: Option<IpAddr>,
}

/// Passwords of sessions that this node is to have, wherever they are.
#[must_use]
pub fn secrets(facts: &Facts) -> BTreeSet<SecretKey> {
    let mut asked = BTreeSet::new();
    for here in [true, false].into_iter().filter_map(|is_v4| Here::of(facts, is_v4)) {
        let speaks = |peer: &&BgpPeer| peer.password.is_some() && !here.found(peer, &mut Vec::new()).is_empty();
        asked.extend(facts.peers.values().filter(speaks).filter_map(|peer| peer.password.clone()));
        asked.extend(here.mesh_password().filter(|_| here.is_of_mesh()).cloned());
    }
    asked
}

pub(crate) fn sessions(facts: &Facts, is_v4: bool, problems: &mut Vec<String>) -> Vec<Peer> {
    let Some(here) = Here::of(facts, is_v4) else { return Vec::new() };
    let mut all: Vec<Peer> = facts.peers.values().flat_map(|peer| here.of_object(peer, problems)).collect();
    all.extend(here.mesh(problems));
    all.sort_by_key(|peer| peer.kind);
    let mut taken = BTreeMap::<(IpAddr, Option<u16>), String>::new();
    all.retain(|peer| {
        let key = (peer.address, peer.port.filter(|port| *port != 179));
        match taken.get(&key) {
            Some(before) => {
                if peer.kind != Kind::Mesh {
                    problems.push(format!("{}: {} is spoken with as {before} asks", peer.of, peer.address));
                }
                false
            }
            None => taken.insert(key, peer.of.clone()).is_none(),
        }
    });
    all.sort_by_key(|peer| (peer.address, peer.port));
    all
}

/// From where it is looked.
struct Here<'a> {
    facts: &'a Facts,
    own: &'a Node,
    address: IpAddr,
    is_v4: bool,
}

impl<'a> Here<'a> {
    /// `None`: nobody has described this node, or it has no address of the family.
    fn of(facts: &'a Facts, is_v4: bool) -> Option<Self> {
        let own = facts.own()?;
        Some(Self { facts, own, address: Facts::address_of(own, is_v4)?, is_v4 })
    }

    fn is_of_mesh(&self) -> bool {
        let is_on = self.facts.cluster().and_then(|cluster| cluster.mesh).unwrap_or(true);
        is_on && self.own.bgp.cluster_id.is_none()
    }

    fn mesh_password(&self) -> Option<&'a SecretKey> {
        self.facts.cluster().and_then(|cluster| cluster.mesh_password.as_ref())
    }

    fn mesh(&self, problems: &mut Vec<String>) -> Vec<Peer> {
        if !self.is_of_mesh() {
            return Vec::new();
        }
        let secret = self.mesh_password();
        let Ok(password) = self.password("BGPConfiguration default", secret, problems) else { return Vec::new() };
        let cluster = self.facts.cluster();
        let restart = cluster.and_then(|cluster| cluster.mesh_restart);
        let others = self.facts.nodes.values().filter(|node| node.bgp.cluster_id.is_none());
        let peer = |node: &Node| Some(Peer { password: password.clone(), restart, ..self.with_node(node)? });
        others.filter_map(peer).collect()
    }

    /// A session with a node of the cluster, of which nothing more is said.
    fn with_node(&self, node: &Node) -> Option<Peer> {
        let address = Facts::address_of(node, self.is_v4).filter(|address| *address != self.address)?;
        if node.name == self.own.name {
            return None;
        }
        Some(Peer {
            port: self.facts.port_of(node),
            // As text: that is how Calico's nodes compare.
            waits: address.to_string() > self.address.to_string(),
            ..self.with(Kind::Mesh, format!("node {}", node.name), address, self.facts.as_of(node))
        })
    }

    fn with(&self, kind: Kind, of: String, address: IpAddr, as_number: AsNumber) -> Peer {
        Peer {
            kind,
            of,
            address,
            port: None,
            as_number,
            local_as: self.facts.as_of(self.own),
            source: Some(self.address),
            waits: false,
            hops: None,
            restart: None,
            keepalive: None,
            password: None,
            reflects: None,
            next_hop: NextHop::Auto,
            allowed_local_as: 0,
            filters: Vec::new(),
            is_closed: false,
            reachable_by: None,
        }
    }

    /// Whom an object has this node speak with, of which nothing more is said.
    fn found(&self, object: &BgpPeer, problems: &mut Vec<String>) -> Vec<Peer> {
        let of = format!("BGPPeer {}", object.name);
        let is_for = |node: &Node| match &object.nodes {
            PeerNodes::All => true,
            PeerNodes::Named(name) => *node.name.0 == **name,
            PeerNodes::Selected(selector) => Facts::has(node, selector),
        };
        let kind = if object.nodes == PeerNodes::All { Kind::Global } else { Kind::Node };
        match &object.with {
            PeerWith::Workloads if is_for(self.own) => {
                problems.push(format!("{of}: localWorkloadSelector is not served"));
                Vec::new()
            }
            PeerWith::Address(address, port, as_number) if is_for(self.own) => {
                self.at(kind, &of, *address, *port, *as_number).into_iter().collect()
            }
            PeerWith::Workloads | PeerWith::Address(..) => Vec::new(),
            PeerWith::Nodes(selector) => {
                let speaks = is_for(self.own);
                let is_spoken_to = object.reverses && Facts::has(self.own, selector);
                let with = |node: &&Node| speaks && Facts::has(node, selector) || is_spoken_to && is_for(node);
                let nodes = self.facts.nodes.values().filter(with);
                nodes.filter_map(|node| Some(Peer { kind, ..self.with_node(node)? })).collect()
            }
        }
    }

    fn of_object(&self, object: &BgpPeer, problems: &mut Vec<String>) -> Vec<Peer> {
        let of = format!("BGPPeer {}", object.name);
        let found = self.found(object, problems);
        if found.is_empty() {
            return found;
        }
        let Ok(password) = self.password(&of, object.password.as_ref(), problems) else { return Vec::new() };
        let missing: Vec<_> = object.filters.iter().filter(|name| !self.facts.filters.contains_key(*name)).collect();
        if let Some(name) = missing.first() {
            problems
                .push(format!("{of}: there is no BGPFilter {name}; nothing is taken from this peer nor told to it"));
        }
        let is_closed = !missing.is_empty();
        let filled = |peer| self.filled(Peer { is_closed, password: password.clone(), of: of.clone(), ..peer }, object);
        found.into_iter().map(filled).collect()
    }

    /// A peer that is said by its address. One that is a node of this cluster is spoken to at its port.
    fn at(&self, kind: Kind, of: &str, address: IpAddr, port: Option<u16>, as_number: AsNumber) -> Option<Peer> {
        if address.is_ipv4() != self.is_v4 || address == self.address {
            return None;
        }
        let is_it =
            |node: &&Node| Facts::address_of(node, self.is_v4) == Some(address) && self.facts.as_of(node) == as_number;
        let of_node = || self.facts.nodes.values().find(is_it).and_then(|node| self.facts.port_of(node));
        Some(Peer { port: port.or_else(of_node), ..self.with(kind, of.to_owned(), address, as_number) })
    }

    fn filled(&self, peer: Peer, object: &BgpPeer) -> Peer {
        let local_as = object.local_as.unwrap_or(peer.local_as);
        let is_internal = peer.as_number == local_as;
        let other = self.facts.nodes.values().find(|node| Facts::address_of(node, self.is_v4) == Some(peer.address));
        let theirs = other.and_then(|node| node.bgp.cluster_id);
        // A peer of the same cluster of reflectors is no client.
        let reflects = self.own.bgp.cluster_id.filter(|own| is_internal && theirs != Some(*own));
        Peer {
            local_as,
            reflects,
            source: peer.source.filter(|_| !object.any_source),
            hops: object.ttl_security,
            restart: object.restart,
            keepalive: object.keepalive,
            next_hop: match object.next_hop {
                NextHop::KeepOutside if is_internal => NextHop::Auto,
                NextHop::KeepOutside => NextHop::Keep,
                other => other,
            },
            allowed_local_as: object.allowed_local_as,
            filters: object.filters.clone(),
            reachable_by: object.reachable_by.filter(|by| by.is_ipv4() == self.is_v4),
            ..peer
        }
    }

    /// `Err`: it is asked for and cannot be had, which has been told.
    fn password(
        &self,
        of: &str,
        secret: Option<&SecretKey>,
        problems: &mut Vec<String>,
    ) -> Result<Option<Password>, ()> {
        let Some(secret) = secret else { return Ok(None) };
        let told = |problems: &mut Vec<String>, why: &str| {
            let SecretKey { name, key } = secret;
            problems
                .push(format!("{of}: its password, key {key} of Secret {name}, {why}; there is no session without it"));
        };
        match self.facts.passwords.get(secret) {
            Some(Ok(password)) if string(password.text()).is_some() => Ok(Some(password.clone())),
            Some(Ok(_)) => {
                told(problems, "has a quote or a control character, which BIRD cannot be told");
                Err(())
            }
            Some(Err(why)) => {
                told(problems, why);
                Err(())
            }
            None => {
                told(problems, "is not there");
                Err(())
            }
        }
    }
}
