//! The interfaces under a packet table: the uplink and every pod's veth pair.
//! In: names and MACs. Out: links that are up, with the node's addresses and routes.
//! Invariant: all of them live in the calling thread's namespace, their other ends in the pods'.
//! Never: attaches a program.

use crate::{
    cast::{NODE, OUTSIDE},
    kernel::UPLINK,
};
use model::{IfaceName, Ifindex, Mac};
use netlink::{LinkChange, Route, Socket, VethSpec, namespace};
use std::os::fd::{AsFd as _, OwnedFd};

/// The uplink, with the node's addresses and a default route by a known neighbour.
pub fn make_uplink(socket: &mut Socket, outside: &OwnedFd) {
    let name = IfaceName(UPLINK.into());
    socket
        .create_veth(&VethSpec {
            name: &name,
            mac: NODE.mac,
            mtu: 1500,
            peer_name: &IfaceName("outside".into()),
            peer_mac: Some(OUTSIDE.mac),
            peer_namespace: outside.as_fd(),
        })
        .expect("the uplink can be made");
    let uplink = up(socket, &name);
    namespace::inside(outside.as_fd(), || {
        let mut socket = Socket::open().expect("netlink answers");
        up(&mut socket, &IfaceName("outside".into()));
    })
    .expect("the other end's namespace can be entered");
    for (own, all) in NODE.addresses().into_iter().zip([24, 64]) {
        socket.add_address(uplink, own, all, true).expect("the node's address can be set");
    }
    for (gateway, all) in OUTSIDE.addresses().into_iter().zip(["0.0.0.0/0", "::/0"]) {
        socket.replace_neighbour(uplink, gateway, OUTSIDE.mac).expect("a neighbour can be set");
        let destination = all.parse().expect("a valid network");
        let route = Route { gateway: Some(gateway), ..Route::new(destination, uplink, 4) };
        socket.replace_route(&route).expect("a default route can be set");
    }
}

/// A pod's veth pair, its inner end in the pods' namespace.
pub fn make_pod(socket: &mut Socket, name: &IfaceName, peer: &str, mac: Mac, pods: &OwnedFd) {
    let peer = IfaceName(peer.into());
    socket
        .create_veth(&VethSpec {
            name,
            mac: Mac([0xee; 6]),
            mtu: 1500,
            peer_name: &peer,
            peer_mac: Some(mac),
            peer_namespace: pods.as_fd(),
        })
        .expect("a pod's interface can be made");
    namespace::inside(pods.as_fd(), || {
        let mut socket = Socket::open().expect("netlink answers");
        up(&mut socket, &peer);
    })
    .expect("the pods' namespace can be entered");
}

fn up(socket: &mut Socket, name: &IfaceName) -> Ifindex {
    let link = socket.link(name).expect("links are listed").unwrap_or_else(|| panic!("no interface {name}"));
    socket.set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }).expect("it comes up");
    link.index
}
