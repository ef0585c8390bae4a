//! A strict stand-in for a node's kernel: network, guards and tables over one state, with one list of what was done.
//! In: the reconciler's calls. Out: a state to look at; a panic for a call that would open something or touch another's.
//! Invariant: every call can be made to fail, and one that fails changes nothing.
//! Never: more forgiving than the kernel.

use super::{
    HOST_HOOKS,
    ipip::IPIP_HOOKS,
    tunnel::{self, TUNNEL_HOOKS},
};
use crate::{
    host::{self, NODE_ROUTE_PROTOCOL, ROUTE_PROTOCOL},
    links::{AttachError, Guards},
    network::{self, Network, Seen},
    programs::Hook,
    tables::{Key, Keyed, Sizes, Snapshot, Store, StoreError, Write, fake::FakeStore, prefix},
};
use abi::endpoint::{ENDPOINT_HOST, ENDPOINT_READY, SLOT_NONE};
use abi::{NetKey, TunnelEnd};
use model::{Cidr, IfaceName, Ifindex, Mac};
use netlink::{Error, Link, Neighbour, Reason, Route, RouteKind, VxlanSpec, sysctl::SysctlError, watch::Event};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
};

#[derive(Clone, Default)]
pub struct Kernel {
    pub seen: Seen,
    pub settings: BTreeMap<String, String>,
    /// Addresses of links, in the order they were given.
    pub addresses: Vec<(u32, IpAddr)>,
    /// Those of a name of their own.
    pub labelled: BTreeSet<(u32, Ipv4Addr)>,
    pub attached: BTreeSet<(u32, Hook)>,
    pub tables: FakeStore,
    /// What was changed, in order.
    pub done: Vec<String>,
    /// Calls so far, those that only look included.
    pub calls: usize,
    /// Fails the call of this number, once.
    pub fail_at: Option<usize>,
    /// Fails every change whose text holds this.
    pub refuses: Option<&'static str>,
    /// State directories of its agents, gone with it.
    pub folders: Vec<std::rc::Rc<tempfile::TempDir>>,
}

impl Kernel {
    pub fn add_link(&mut self, index: u32, name: &str) {
        let name = IfaceName(name.to_owned());
        let conf = ["ipv4/forwarding", "ipv4/proxy_arp", "ipv4/rp_filter", "ipv6/disable_ipv6", "ipv6/forwarding"];
        for setting in conf.into_iter().chain(["ipv6/force_forwarding", "ipv6/accept_ra", "ipv6/accept_dad"]) {
            let (family, setting) = setting.split_once('/').expect("family and name");
            let value = if setting.contains("forwarding") { "0" } else { "1" };
            self.settings.insert(format!("{family}/conf/{name}/{setting}"), value.to_owned());
        }
        let link = Link {
            index: Ifindex(index),
            name: name.clone(),
            mac: Some(Mac([2, 0, 0, 0, 0, 9])),
            mtu: 1500,
            up: false,
            kind: "veth".into(),
            alias: String::new(),
            peer: None,
            peer_namespace: None,
            vxlan_port: None,
            qdisc: "noop".into(),
        };
        self.seen.links.insert(name, link);
    }

    pub fn remove_link(&mut self, index: u32) {
        self.seen.links.retain(|_, link| link.index.0 != index);
        self.seen.routes.retain(|route| route.interface.0 != index);
        Arc::make_mut(&mut self.seen.node_routes).retain(|route| route.interface.0 != index);
        self.seen.neighbours.retain(|neighbour| neighbour.interface.0 != index);
        self.attached.retain(|(at, _)| *at != index);
    }

    pub fn link(&mut self, index: Ifindex) -> Option<&mut Link> {
        self.seen.links.values_mut().find(|link| link.index == index)
    }

    /// The interface by which the tables reach an address.
    pub fn leads_to(&self, address: IpAddr) -> Option<u32> {
        let (_, slot) = self.tables.resolve(prefix::address_key(address).expect("a plain address"));
        (slot != SLOT_NONE).then(|| self.tables.held.endpoints[&slot].ifindex)
    }

    pub fn is_guarded(&self, index: u32) -> bool {
        [Hook::FromWorkload, Hook::ToWorkload].iter().all(|hook| self.attached.contains(&(index, *hook)))
    }

    /// An interface of the node's own has its programs.
    pub fn is_gated(&self, index: u32) -> bool {
        HOST_HOOKS.iter().all(|hook| self.attached.contains(&(index, *hook)))
    }

    /// A policy of its own judges what passes the interface.
    pub fn is_in_force(&self, index: u32) -> bool {
        let held = &self.tables.held;
        let endpoint = held.interfaces.get(&index).and_then(|slot| held.endpoints.get(slot));
        let judged =
            |found: &abi::Endpoint| found.ingress.at(held.generation) != 0 && found.egress.at(held.generation) != 0;
        endpoint.is_some_and(|found| found.flags & ENDPOINT_READY != 0 && found.ifindex == index && judged(found))
    }

    /// Counts a call; an errno for one that is to fail.
    fn call(&mut self, change: Option<String>) -> Result<(), io::Error> {
        let number = self.calls;
        self.calls += 1;
        let refused = change.as_ref().zip(self.refuses).is_some_and(|(text, refuses)| text.contains(refuses));
        if self.fail_at == Some(number) || refused {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.done.extend(change);
        Ok(())
    }

    fn change(&mut self, what: String) -> Result<(), Error> {
        self.call(Some(what.clone())).map_err(|error| Error {
            operation: "fake",
            object: what,
            reason: Reason::Kernel(error),
        })
    }
}

/// A handle on the kernel; as guards, with the memory of one process.
#[derive(Clone)]
pub struct Handle {
    pub kernel: Rc<RefCell<Kernel>>,
    remembered: BTreeSet<(u32, Hook)>,
}

impl Handle {
    pub fn new(kernel: &Rc<RefCell<Kernel>>) -> Self {
        Self { kernel: Rc::clone(kernel), remembered: BTreeSet::new() }
    }
}

fn gone() -> Error {
    Error { operation: "fake", object: "interface".into(), reason: Reason::Kernel(io::Error::from_raw_os_error(19)) }
}

impl Network for Handle {
    fn list(&mut self) -> Result<Arc<Seen>, Error> {
        let mut kernel = self.kernel.borrow_mut();
        let failed = |error| Error { operation: "list", object: "all".into(), reason: Reason::Kernel(error) };
        kernel.call(None).map_err(failed)?;
        Ok(Arc::new(kernel.seen.clone()))
    }

    fn addresses(&mut self, index: Ifindex) -> Result<Vec<IpAddr>, Error> {
        let mut kernel = self.kernel.borrow_mut();
        let failed = |error| Error { operation: "list", object: "addresses".into(), reason: Reason::Kernel(error) };
        kernel.call(None).map_err(failed)?;
        Ok(kernel.addresses.iter().filter(|(at, _)| *at == index.0).map(|(_, address)| *address).collect())
    }

    fn setting(&self, path: &str) -> Result<Option<String>, SysctlError> {
        let mut kernel = self.kernel.borrow_mut();
        let failed = |source| SysctlError::Access { operation: "read", path: path.into(), source };
        kernel.call(None).map_err(failed)?;
        Ok(kernel.settings.get(path).cloned())
    }

    fn set(&mut self, path: &str, value: &str) -> Result<(), SysctlError> {
        let mut kernel = self.kernel.borrow_mut();
        assert!(
            ["/conf/cali", "/conf/eth0/", "/conf/lo/", "/conf/vxlan.calico/"].iter().any(|own| path.contains(own)),
            "{path} is not ours to set"
        );
        let failed = |source| SysctlError::Access { operation: "write", path: path.into(), source };
        kernel.call(Some(format!("set {path} {value}"))).map_err(failed)?;
        kernel.settings.insert(path.into(), value.into());
        Ok(())
    }

    fn set_mac(&mut self, index: Ifindex, mac: Mac) -> Result<(), Error> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.change(format!("mac {}", index.0))?;
        kernel.link(index).ok_or_else(gone)?.mac = Some(mac);
        Ok(())
    }

    fn set_up(&mut self, index: Ifindex) -> Result<(), Error> {
        let mut kernel = self.kernel.borrow_mut();
        let is_tunnel = tunnel::device(&kernel.seen) == Some(index);
        let is_watched = TUNNEL_HOOKS.iter().all(|hook| kernel.attached.contains(&(index.0, *hook)));
        assert!(is_tunnel && is_watched || kernel.is_guarded(index.0), "{} is set up without programs", index.0);
        assert!(is_tunnel || kernel.is_in_force(index.0), "{} is set up before its policy is in force", index.0);
        kernel.change(format!("up {}", index.0))?;
        let link = kernel.link(index).ok_or_else(gone)?;
        (link.up, link.qdisc) = (true, "noqueue".into());
        Ok(())
    }

    fn set_mtu(&mut self, index: Ifindex, mtu: u32) -> Result<(), Error> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.change(format!("mtu {} {mtu}", index.0))?;
        kernel.link(index).ok_or_else(gone)?.mtu = mtu;
        Ok(())
    }

    fn create_tunnel(&mut self, spec: &VxlanSpec<'_>) -> Result<(), Error> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.change(format!("create {}", spec.name))?;
        assert!(!kernel.seen.links.contains_key(spec.name), "{} is there", spec.name);
        let index = kernel.seen.indexes().last().copied().unwrap_or_default() + 1;
        kernel.add_link(index, &spec.name.0);
        let link = kernel.link(Ifindex(index)).ok_or_else(gone)?;
        (link.mac, link.mtu, link.kind, link.alias) = (Some(spec.mac), spec.mtu, "vxlan".into(), spec.alias.into());
        link.vxlan_port = Some(spec.port);
        Ok(())
    }

    fn delete_link(&mut self, index: Ifindex) -> Result<bool, Error> {
        let mut kernel = self.kernel.borrow_mut();
        let is_tunnel = kernel.link(index).is_some_and(|link| link.name.0 == tunnel::DEVICE);
        assert!(is_tunnel, "{} is not ours to delete", index.0);
        kernel.change(format!("delete link {}", index.0))?;
        kernel.remove_link(index.0);
        kernel.addresses.retain(|(at, _)| *at != index.0);
        Ok(true)
    }

    fn add_address(&mut self, index: Ifindex, address: IpAddr) -> Result<(), Error> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.change(format!("address {} {address}", index.0))?;
        kernel.addresses.push((index.0, address));
        Ok(())
    }

    fn labelled(&mut self, index: Ifindex, _: &str) -> Result<Vec<Ipv4Addr>, Error> {
        let mut kernel = self.kernel.borrow_mut();
        let failed = |error| Error { operation: "list", object: "addresses".into(), reason: Reason::Kernel(error) };
        kernel.call(None).map_err(failed)?;
        Ok(kernel.labelled.iter().filter(|(at, _)| *at == index.0).map(|(_, address)| *address).collect())
    }

    fn add_labelled(&mut self, index: Ifindex, address: Ipv4Addr, label: &str) -> Result<(), Error> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.change(format!("address {} {address} {label}", index.0))?;
        kernel.labelled.insert((index.0, address));
        Ok(())
    }

    fn delete_address(&mut self, index: Ifindex, address: Ipv4Addr) -> Result<bool, Error> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.change(format!("delete address {} {address}", index.0))?;
        Ok(kernel.labelled.remove(&(index.0, address)))
    }

    fn replace_neighbour(&mut self, index: Ifindex, address: IpAddr, mac: Mac) -> Result<(), Error> {
        let mut kernel = self.kernel.borrow_mut();
        assert!(kernel.is_in_force(index.0), "a neighbour on {} before its policy is in force", index.0);
        kernel.change(format!("neighbour {} {address}", index.0))?;
        kernel.link(index).filter(|link| link.up).ok_or_else(gone)?;
        kernel.seen.neighbours.retain(|old| (old.interface, old.address) != (index, address));
        kernel.seen.neighbours.insert(Neighbour { interface: index, address, mac: Some(mac), permanent: true });
        Ok(())
    }

    fn delete_neighbour(&mut self, index: Ifindex, address: IpAddr) -> Result<bool, Error> {
        let mut kernel = self.kernel.borrow_mut();
        let is_pods = kernel.link(index).is_some_and(|link| host::is_pods(link));
        assert!(is_pods, "a neighbour on {} is not ours to delete", index.0);
        assert_ne!(kernel.leads_to(address), Some(index.0), "the tables still lead to {address}");
        kernel.change(format!("delete neighbour {} {address}", index.0))?;
        let before = kernel.seen.neighbours.len();
        kernel.seen.neighbours.retain(|old| (old.interface, old.address) != (index, address));
        Ok(kernel.seen.neighbours.len() < before)
    }

    fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let mut kernel = self.kernel.borrow_mut();
        if route.protocol == NODE_ROUTE_PROTOCOL {
            kernel.change(format!("route {} {}", route.interface.0, route.destination))?;
            let is_replaced = |old: &&Route| (old.table, old.metric) == (route.table, route.metric);
            let another = network::to(&kernel.seen.routes, route.destination).find(is_replaced);
            assert_eq!(another, None, "the route to {} is another's", route.destination);
            if route.kind == RouteKind::Unicast {
                kernel.link(route.interface).filter(|link| link.up).ok_or_else(gone)?;
                let is_wrapped = IPIP_HOOKS.iter().all(|hook| kernel.attached.contains(&(route.interface.0, *hook)));
                assert!(route.mtu == 0 || is_wrapped, "a route by IPIP before anything is wrapped");
            }
            kernel.seen.learn(Event::Route(route.clone()));
            return Ok(());
        }
        assert!(kernel.is_in_force(route.interface.0), "a route to {} before it is in force", route.destination);
        kernel.change(format!("route {} {}", route.interface.0, route.destination))?;
        kernel.link(route.interface).filter(|link| link.up).ok_or_else(gone)?;
        kernel.seen.routes.insert(route.clone());
        Ok(())
    }

    fn delete_route(&mut self, route: &Route) -> Result<bool, Error> {
        let mut kernel = self.kernel.borrow_mut();
        if route.protocol == NODE_ROUTE_PROTOCOL {
            kernel.change(format!("delete route {} {}", route.interface.0, route.destination))?;
            let was_there = kernel.seen.node_routes.contains(route);
            kernel.seen.learn(Event::RouteGone(route.clone()));
            return Ok(was_there);
        }
        assert_eq!(route.protocol, ROUTE_PROTOCOL, "the route to {} is another's", route.destination);
        let address = route.destination.network();
        assert_ne!(kernel.leads_to(address), Some(route.interface.0), "the tables still lead to {address}");
        kernel.change(format!("delete route {} {}", route.interface.0, route.destination))?;
        Ok(kernel.seen.routes.remove(route))
    }
}

impl Guards for Handle {
    fn attach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        if self.remembered.contains(&(ifindex, hook)) {
            return Ok(());
        }
        let mut kernel = self.kernel.borrow_mut();
        let failed = |error: io::Error| AttachError { program: hook.program(), ifindex, reason: error.to_string() };
        kernel.call(Some(format!("attach {} {ifindex}", hook.program()))).map_err(failed)?;
        kernel.link(Ifindex(ifindex)).ok_or_else(|| failed(io::Error::from_raw_os_error(19)))?;
        kernel.attached.insert((ifindex, hook));
        self.remembered.insert((ifindex, hook));
        Ok(())
    }

    fn mend(&mut self, hook: Hook, ifindex: u32) -> Result<Option<&'static str>, AttachError> {
        if self.kernel.borrow().attached.contains(&(ifindex, hook)) {
            return Ok(None);
        }
        self.remembered.remove(&(ifindex, hook));
        self.attach(hook, ifindex).map(|()| Some("it was detached"))
    }

    fn upgrade(&mut self) -> Result<bool, AttachError> {
        Ok(false)
    }

    fn mend_pins(&mut self) -> Result<Vec<&'static str>, String> {
        Ok(Vec::new())
    }

    fn is_attached(&self, hook: Hook, ifindex: u32) -> bool {
        self.remembered.contains(&(ifindex, hook))
    }

    fn detach(&mut self, hook: Hook, ifindex: u32) -> Result<(), AttachError> {
        let mut kernel = self.kernel.borrow_mut();
        assert!(super::hosts::may_be_released(hook), "{} is closed by its programs", hook.program());
        let is_judged = HOST_HOOKS.contains(&hook) && kernel.tables.held.interfaces.contains_key(&ifindex);
        assert!(!is_judged, "the tables still judge {ifindex}");
        assert!(!kernel.tables.has_old_packets(), "a packet may have been judged by the other program of {ifindex}");
        let failed = |error: io::Error| AttachError { program: hook.program(), ifindex, reason: error.to_string() };
        kernel.call(Some(format!("detach {} {ifindex}", hook.program()))).map_err(failed)?;
        kernel.attached.remove(&(ifindex, hook));
        self.remembered.remove(&(ifindex, hook));
        Ok(())
    }

    fn held(&self) -> BTreeSet<(u32, Hook)> {
        self.kernel.borrow().attached.clone()
    }

    fn forget_others(&mut self, present: &BTreeSet<u32>) {
        self.remembered.retain(|(index, _)| present.contains(index));
    }

    fn sweep(&mut self, present: &BTreeSet<u32>) -> Result<(), Vec<(PathBuf, io::Error)>> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.call(None).map_err(|error| vec![(PathBuf::from("links"), error)])?;
        kernel.attached.retain(|(index, _)| present.contains(index));
        Ok(())
    }
}

impl Store for Handle {
    fn read(&self) -> Result<Snapshot, StoreError> {
        let mut kernel = self.kernel.borrow_mut();
        kernel.call(None).map_err(|error| StoreError { map: "FAKE", reason: error.to_string() })?;
        kernel.tables.read()
    }

    fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        let mut kernel = self.kernel.borrow_mut();
        if let Write::Endpoint(_, endpoint) = write {
            let left = endpoint.ifindex == 0 || kernel.link(Ifindex(endpoint.ifindex)).is_none();
            let served = endpoint.ingress.new() != 0 && endpoint.flags & ENDPOINT_HOST == 0;
            assert!(left || !served || kernel.is_guarded(endpoint.ifindex), "{} is served unguarded", endpoint.ifindex);
        }
        if let Write::Interface(index, slot) = write {
            let flags = kernel.tables.held.endpoints.get(slot).map(|entry| entry.flags).unwrap_or_default();
            assert!(flags & ENDPOINT_HOST == 0 || kernel.is_gated(*index), "{index} is judged without programs");
        }
        let told = kernel.call(Some(format!("{write:?}")));
        told.map_err(|error| StoreError { map: "FAKE", reason: error.to_string() })?;
        kernel.tables.write(write)
    }

    fn tunnels(&self) -> Result<BTreeMap<NetKey, TunnelEnd>, StoreError> {
        self.kernel.borrow().tables.tunnels()
    }

    fn ask_grace(&mut self) -> u64 {
        self.kernel.borrow_mut().tables.ask_grace()
    }

    fn graces_over(&self) -> Result<u64, StoreError> {
        self.kernel.borrow().tables.graces_over()
    }

    fn await_grace(&mut self, grace: u64) -> Result<(), StoreError> {
        self.kernel.borrow_mut().tables.await_grace(grace)
    }

    fn holds(&self, write: &Write) -> Result<bool, StoreError> {
        self.kernel.borrow().tables.holds(write)
    }

    fn mend(&mut self, write: &Write) -> Result<(), StoreError> {
        let mut kernel = self.kernel.borrow_mut();
        let told = kernel.call(Some(format!("mend {write:?}")));
        told.map_err(|error| StoreError { map: "FAKE", reason: error.to_string() })?;
        kernel.tables.mend(write)
    }

    fn keys(&self, table: Keyed, after: Option<&Key>, most: usize) -> Result<Vec<Key>, StoreError> {
        self.kernel.borrow().tables.keys(table, after, most)
    }

    fn sizes(&self) -> Sizes {
        self.kernel.borrow().tables.sizes()
    }
}

/// A route that some other daemon made.
pub fn foreign_route(interface: u32, destination: &str, protocol: u8) -> Route {
    let destination: Cidr = destination.parse().expect("a network");
    Route::new(destination, Ifindex(interface), protocol)
}
