//! The tunnel device: one for both families, of which every packet says itself where it goes; the programs say it.
//! In: this node's end and the ways by tunnels, as desired; the device as it is. Out: the device, guarded before it is up; `TUNNELS`.
//! Invariant: a network stands in `TUNNELS` before a route leads there, and goes after it.
//! Never: leaves a device of that name that is not ours beside a tunnel that is wanted: two cannot have the port.

use super::{Pass, Reconciler, ipip};
use crate::{
    ApplyError, DriftKind,
    drift::Looked,
    links::Guards,
    network::{Network, Seen},
    programs::{Hook, in_full},
    tables::{Store, StoreError, Write, prefix},
};
use abi::{
    NetKey, TunnelEnd,
    tunnel::{ANYONE, FROM_IPIP, FROM_VXLAN, TunnelLocal, VXLAN_PORT},
};
use calc::{IpipSpec, Latest, NodeRoute, TunnelSpec};
use model::{Cidr, IfaceName, Ifindex, Mac};
use netlink::{Link, VxlanSpec};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// As Calico calls it for IPv4.
pub const DEVICE: &str = "vxlan.calico";
/// By which it is known that a device is ours, and as it has to be.
const ALIAS: &str = "tortie: tunnels of every node";
/// Which programs are at it.
pub const TUNNEL_HOOKS: [Hook; 2] = [Hook::FromTunnel, Hook::ToTunnel];

/// Settings of the device: it forwards, and takes sources that are routed elsewhere. It has IPv6 only if it is asked for that.
const SYSCTLS: [(&str, &str, &str); 5] = [
    ("ipv4", "forwarding", "1"),
    ("ipv4", "rp_filter", "0"),
    ("ipv6", "forwarding", "1"),
    ("ipv6", "force_forwarding", "1"),
    ("ipv6", "accept_ra", "0"),
];

/// How far the kernel has what is wanted.
#[derive(Debug, Default)]
pub struct Tunnel {
    /// The Desired of which `TUNNELS` has the ways; `None` within: it stands alone. `None`: some are not there.
    heard: Option<Option<u64>>,
    /// What `TUNNELS` holds; `None`: nobody has looked.
    held: Option<BTreeMap<NetKey, TunnelEnd>>,
    /// What is to go once no route leads there.
    stale: BTreeSet<NetKey>,
    /// Who may send, and from where this node does, as `TUNNELS` and `TUNNEL_LOCAL` have it.
    ends: Ends,
    /// This node's end as it was wanted last, and whether the device is so.
    spec: Option<Arc<TunnelSpec>>,
    is_up: bool,
}

impl Tunnel {
    /// Whether one is wanted.
    pub fn is_wanted(&self) -> bool {
        self.spec.is_some()
    }
}

fn name() -> IfaceName {
    IfaceName(DEVICE.to_owned())
}

fn failed(step: &str, reason: impl ToString) -> ApplyError {
    ApplyError { step: step.to_owned(), reason: reason.to_string() }
}

/// Ours, by its mark.
fn is_ours(link: &Link) -> bool {
    link.kind == "vxlan" && link.alias == ALIAS
}

/// How this node takes part in VXLAN and in IPIP.
#[derive(Clone, Debug, Default)]
struct Ends {
    vxlan: Option<Arc<TunnelSpec>>,
    ipip: Option<Arc<IpipSpec>>,
}

impl Ends {
    fn of(desired: Latest<'_>) -> Self {
        Self { vxlan: desired.tunnel.clone(), ipip: desired.ipip.clone() }
    }

    fn is_none(&self) -> bool {
        self.vxlan.is_none() && self.ipip.is_none()
    }

    /// The same, not only equal.
    fn is(&self, other: &Self) -> bool {
        self.vxlan.as_ref().map(Arc::as_ptr) == other.vxlan.as_ref().map(Arc::as_ptr)
            && self.ipip.as_ref().map(Arc::as_ptr) == other.ipip.as_ref().map(Arc::as_ptr)
    }

    /// From there packets come.
    fn peers(&self) -> BTreeMap<NetKey, TunnelEnd> {
        let by_vxlan = self.vxlan.iter().flat_map(|spec| &spec.peers).filter_map(|peer| {
            let remote = prefix::address_key(*peer)?;
            Some(TunnelEnd { remote, ways: FROM_VXLAN, ..TunnelEnd::default() })
        });
        let by_ipip = self.ipip.iter().flat_map(|spec| &spec.peers).map(|peer| ipip::of_peer(*peer));
        let nodes = by_vxlan.chain(by_ipip).map(|end| (prefix::host(end.remote), end));
        let mut peers = BTreeMap::<_, TunnelEnd>::new();
        // What is said of a node goes over what is said of its address.
        for (net, end) in self.externals().chain(nodes) {
            let ways = peers.get(&net).map_or(0, |known| known.ways) | end.ways;
            peers.insert(net, TunnelEnd { ways, ..end });
        }
        peers
    }

    /// Who may send, and is no node.
    fn externals(&self) -> impl Iterator<Item = (NetKey, TunnelEnd)> {
        let by_vxlan = self.vxlan.iter().flat_map(|spec| &spec.externals).map(|net| (net, FROM_VXLAN));
        let by_ipip = self.ipip.iter().flat_map(|spec| &spec.externals).map(|net| (net, FROM_IPIP));
        by_vxlan.chain(by_ipip).filter_map(|(net, way)| {
            Some((prefix::net_key(net)?, TunnelEnd { ways: way | ANYONE, ..TunnelEnd::default() }))
        })
    }

    /// From where this node sends, and in which network.
    fn local(&self) -> [TunnelLocal; 2] {
        let vni = self.vxlan.as_ref().and_then(|spec| spec.vni).unwrap_or_default();
        let of = |is_v4: bool| {
            let by_vxlan = self.vxlan.iter().flat_map(|spec| &spec.local).copied();
            let by_ipip = self.ipip.iter().map(|spec| IpAddr::V4(spec.local));
            let own = by_vxlan.chain(by_ipip).find(|address| address.is_ipv4() == is_v4);
            TunnelLocal { address: own.and_then(prefix::address_key).unwrap_or_default(), vni, pad: 0 }
        };
        [of(true), of(false)]
    }
}

fn of_route(route: Option<&NodeRoute>) -> Option<TunnelEnd> {
    match route {
        Some(NodeRoute::Tunnel(end)) => {
            let remote = prefix::address_key(end.remote)?;
            Some(TunnelEnd { remote, mac: end.mac.0, ..TunnelEnd::default() })
        }
        Some(NodeRoute::Ipip { remote }) => Some(ipip::of_way(*remote)),
        _ => None,
    }
}

/// What the device has to be, as far as it shows.
struct Shape {
    mac: Mac,
    mtu: u32,
    port: u16,
}

impl<N: Network, G: Guards, S: Store> Reconciler<N, G, S> {
    /// Before the commit, and before routes lead there. What fails is named; the rest of the revision goes on.
    pub(super) fn guard_tunnel(&mut self, pass: &mut Pass, desired: Latest<'_>) {
        let was_up = self.tunnel.is_up;
        self.tunnel.spec.clone_from(&desired.tunnel);
        let done = self.learn_tunnels(desired).map_err(|error| failed("write its tables", error));
        let done = done.and_then(|()| match &desired.tunnel {
            Some(spec) => self.make_device(pass, spec),
            None => self.drop_device(pass),
        });
        self.tunnel.is_up = done.is_ok() && desired.tunnel.is_some();
        if self.tunnel.is_up && !was_up {
            tracing::info!(interface = DEVICE, "packets go to other nodes by tunnels");
        }
        if let Err(error) = done {
            pass.failed.push((DEVICE.to_owned(), error));
        }
    }

    /// What a network lies behind is known before packets go there.
    fn learn_tunnels(&mut self, desired: Latest<'_>) -> Result<(), StoreError> {
        let heard = self.tunnel.heard.take();
        if self.tunnel.held.is_none() {
            self.tunnel.held = Some(self.tables.store_mut().tunnels()?);
        }
        let held = self.tunnel.held.as_ref();
        let ends = Ends::of(desired);
        if ends.is_none() && held.is_none_or(BTreeMap::is_empty) {
            self.tunnel.ends = ends;
            self.tunnel.heard = Some(desired.number());
            return Ok(());
        }
        match heard.and_then(|number| desired.since(number)) {
            Some(touched) => {
                for cidr in &touched.routes {
                    self.learn(*cidr, of_route(desired.routes.get(cidr)))?;
                }
            }
            None => self.learn_all(desired)?,
        }
        if !self.tunnel.ends.is(&ends) {
            self.learn_ends(ends)?;
        }
        self.tunnel.heard = Some(desired.number());
        Ok(())
    }

    /// All ways, and what else stands there goes.
    fn learn_all(&mut self, desired: Latest<'_>) -> Result<(), StoreError> {
        let ways = desired.routes.iter().filter_map(|(cidr, route)| Some((*cidr, of_route(Some(route))?)));
        for (cidr, end) in ways.collect::<Vec<_>>() {
            self.learn(cidr, Some(end))?;
        }
        let ends = Ends::of(desired);
        let peers = ends.peers().into_keys();
        let ways = desired.routes.iter().filter(|(_, route)| of_route(Some(route)).is_some());
        let wanted: BTreeSet<_> = ways.filter_map(|(cidr, _)| prefix::net_key(cidr)).chain(peers).collect();
        let held = self.tunnel.held.iter().flat_map(|held| held.keys());
        self.tunnel.stale.extend(held.filter(|net| !wanted.contains(*net)).copied().collect::<Vec<_>>());
        self.tunnel.ends = Ends::default();
        self.learn_ends(ends)
    }

    /// Who may send, and from where this node does.
    fn learn_ends(&mut self, ends: Ends) -> Result<(), StoreError> {
        let (before, wanted) = (self.tunnel.ends.peers(), ends.peers());
        for (net, end) in &wanted {
            self.put_tunnel(*net, Some(*end))?;
        }
        self.tunnel.stale.extend(before.keys().filter(|net| !wanted.contains_key(net)));
        if !ends.is_none() {
            for (family, own) in (0..).zip(ends.local()) {
                self.tables.store_mut().write(&Write::TunnelLocal(family, own))?;
            }
        }
        self.tunnel.ends = ends;
        Ok(())
    }

    fn learn(&mut self, cidr: Cidr, end: Option<TunnelEnd>) -> Result<(), StoreError> {
        match (prefix::net_key(&cidr), end) {
            (Some(net), Some(end)) => self.put_tunnel(net, Some(end)),
            (Some(net), None) => {
                self.tunnel.stale.insert(net);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    fn put_tunnel(&mut self, net: NetKey, end: Option<TunnelEnd>) -> Result<(), StoreError> {
        self.tunnel.stale.remove(&net);
        let held = self.tunnel.held.get_or_insert_default();
        if held.get(&net) == end.as_ref() {
            return Ok(());
        }
        self.tables.store_mut().write(&Write::Tunnel(net, end))?;
        match end {
            Some(end) => drop(held.insert(net, end)),
            None => drop(held.remove(&net)),
        }
        Ok(())
    }

    /// After the routes: what no route leads to any more.
    pub(super) fn forget_tunnels(&mut self, pass: &mut Pass) {
        for net in std::mem::take(&mut self.tunnel.stale) {
            if let Err(error) = self.put_tunnel(net, None) {
                self.tunnel.heard = None;
                return pass.fail(DEVICE.to_owned(), "forget who is gone", &error);
            }
        }
    }

    fn shape(&self, seen: &Seen, spec: &TunnelSpec) -> Option<Shape> {
        let uplink = seen.links.get(self.uplink.as_ref()?)?;
        Some(Shape { mac: spec.mac()?, mtu: spec.mtu_over(uplink.mtu), port: spec.port.unwrap_or(VXLAN_PORT) })
    }

    /// Up only when it is guarded: until then it takes nothing.
    fn make_device(&mut self, pass: &mut Pass, spec: &TunnelSpec) -> Result<(), ApplyError> {
        let no_uplink = "this node has no uplink: give the node's own with --uplink";
        let shape = self.shape(&pass.seen, spec).ok_or_else(|| failed("make it", no_uplink))?;
        let addresses: BTreeSet<IpAddr> = spec.own.all().map(|end| end.address).collect();
        let link = match self.kept_device(pass, &shape, &addresses)? {
            Some(link) => link,
            None => self.new_device(pass, &shape)?,
        };
        for hook in TUNNEL_HOOKS {
            self.guards.attach(hook, link.index.0).map_err(|error| failed("guard it", in_full(&error)))?;
        }
        let is_changed = self.dress_device(&link, &shape, spec)?;
        if is_changed {
            self.list_again(pass)?;
        }
        Ok(())
    }

    /// The device that is there, if it is as it has to be, or can be made so; one that cannot goes.
    fn kept_device(
        &mut self,
        pass: &mut Pass,
        shape: &Shape,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Option<Link>, ApplyError> {
        let Some(link) = pass.seen.links.get(&name()).cloned() else { return Ok(None) };
        let listed = self.network.addresses(link.index);
        let listed = listed.map_err(|error| failed("list its addresses", in_full(&error)))?;
        let is_it = is_ours(&link) && link.mac == Some(shape.mac) && link.vxlan_port == Some(shape.port);
        if is_it && listed.iter().all(|address| addresses.contains(address) || is_link_local(*address)) {
            return Ok(Some(link));
        }
        if !is_ours(&link) {
            let kind = &link.kind;
            tracing::warn!(interface = DEVICE, kind, "a device of that name that is not ours is replaced");
        }
        let deleted = self.network.delete_link(link.index);
        deleted.map_err(|error| failed("replace the device of that name", in_full(&error)))?;
        self.list_again(pass)?;
        Ok(None)
    }

    fn new_device(&mut self, pass: &mut Pass, shape: &Shape) -> Result<Link, ApplyError> {
        let name = name();
        let spec = VxlanSpec { name: &name, mac: shape.mac, mtu: shape.mtu, port: shape.port, alias: ALIAS };
        self.network.create_tunnel(&spec).map_err(|error| failed("make it", in_full(&error)))?;
        self.list_again(pass)?;
        pass.seen.links.get(&name).cloned().ok_or_else(|| failed("make it", "it is gone again"))
    }

    /// Everything that is seen of it. Whether anything had to be done.
    fn dress_device(&mut self, link: &Link, shape: &Shape, spec: &TunnelSpec) -> Result<bool, ApplyError> {
        let own_v6 = ("ipv6", "disable_ipv6", if spec.is_v6() { "0" } else { "1" });
        for (family, setting, value) in SYSCTLS.into_iter().chain([own_v6]) {
            let path = format!("{family}/conf/{DEVICE}/{setting}");
            let step = || format!("set {path}");
            let found = self.network.setting(&path).map_err(|error| failed(&step(), in_full(&error)))?;
            if found.is_some_and(|found| found != value) {
                self.network.set(&path, value).map_err(|error| failed(&step(), in_full(&error)))?;
            }
        }
        let mut is_changed = false;
        if link.mtu != shape.mtu {
            self.network.set_mtu(link.index, shape.mtu).map_err(|error| failed("set its MTU", in_full(&error)))?;
            is_changed = true;
        }
        let listed = self.network.addresses(link.index);
        let listed = listed.map_err(|error| failed("list its addresses", in_full(&error)))?;
        for end in spec.own.all().filter(|end| !listed.contains(&end.address)) {
            let added = self.network.add_address(link.index, end.address);
            added.map_err(|error| failed("give it its address", in_full(&error)))?;
        }
        if !link.up {
            self.network.set_up(link.index).map_err(|error| {
                let reason = in_full(&error);
                let why =
                    format!("{reason}; another VXLAN device may have UDP port {} (ours is by vxlanPort)", shape.port);
                failed("set it up", why)
            })?;
            is_changed = true;
        }
        Ok(is_changed)
    }

    fn drop_device(&mut self, pass: &mut Pass) -> Result<(), ApplyError> {
        let Some(link) = pass.seen.links.get(&name()).filter(|link| is_ours(link)) else { return Ok(()) };
        let deleted = self.network.delete_link(link.index);
        deleted.map_err(|error| failed("take it away", in_full(&error)))?;
        self.list_again(pass)
    }

    fn list_again(&mut self, pass: &mut Pass) -> Result<(), ApplyError> {
        pass.seen = self.network.list().map_err(|error| failed("list what is there", in_full(&error)))?;
        // The index of one that is gone may come again.
        self.guards.forget_others(&pass.seen.indexes());
        Ok(())
    }

    /// Whether the device is not as it was left.
    pub(super) fn look_at_tunnel(&self, seen: &Seen, looked: &mut Looked) -> bool {
        let Some(spec) = self.tunnel.spec.as_ref().filter(|_| self.tunnel.is_up) else { return false };
        let Some(link) = seen.links.get(&name()) else {
            looked.repaired(DriftKind::Link, format!("{DEVICE} was gone"));
            return true;
        };
        let Some(shape) = self.shape(seen, spec) else { return false };
        let off = [
            (!is_ours(link), "is another's"),
            (!link.up, "was down"),
            (link.mtu != shape.mtu, "had another MTU"),
            (link.mac != Some(shape.mac), "had another MAC"),
            (link.vxlan_port != Some(shape.port), "had another port"),
        ];
        let off: Vec<_> = off.into_iter().filter(|(is_off, _)| *is_off).collect();
        off.iter().for_each(|(_, what)| looked.repaired(DriftKind::Link, format!("{DEVICE} {what}")));
        !off.is_empty()
    }

    /// Where its programs are to be.
    pub(super) fn tunnel_link<'s>(&self, seen: &'s Seen) -> Option<&'s Link> {
        seen.links.get(&name()).filter(|link| self.tunnel.is_wanted() && is_ours(link))
    }

    pub(super) fn tunnel_name(&self) -> Option<&'static IfaceName> {
        static NAME: std::sync::LazyLock<IfaceName> = std::sync::LazyLock::new(name);
        self.tunnel.is_wanted().then(|| &*NAME)
    }
}

/// The kernel's own.
const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Our device, whoever wants it: for who takes everything away.
pub fn device(seen: &Seen) -> Option<Ifindex> {
    seen.links.get(&name()).filter(|link| is_ours(link)).map(|link| link.index)
}
