//! The host's network as the reconciler meets it: what is there, and the few changes it makes.
//! In: links, routes, neighbours and settings by name. Out: the kernel's answer, one call at a time.
//! Invariant: what is listed is one look; what changes after it is found by the next.
//! Never: decides; tells ours from another's; lists anew what the kernel told it.

use crate::host::NODE_ROUTE_PROTOCOL;
use model::{Cidr, IfaceName, Ifindex, Mac};
use netlink::{
    Error, Link, LinkChange, Neighbour, Route, Socket, VxlanSpec,
    sysctl::{Families, SysctlError},
    watch::{Event, Watch},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long what was listed is kept right by events alone: should the kernel ever be silent about a change, it is found
/// after this time.
const LISTING_LASTS: Duration = Duration::from_secs(60);

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Links by name.
    pub links: BTreeMap<IfaceName, Link>,
    /// Routes of all tables, but for those to other nodes that are ours.
    pub routes: BTreeSet<Route>,
    /// Those: they change by the node, and others by the pod.
    pub node_routes: Arc<BTreeSet<Route>>,
    /// Neighbours of all interfaces.
    pub neighbours: BTreeSet<Neighbour>,
}

impl Seen {
    /// The indexes of all links.
    #[must_use]
    pub fn indexes(&self) -> BTreeSet<u32> {
        self.links.values().map(|link| link.index.0).collect()
    }

    /// Takes in one change. Where the kernel is not clear about what else went, the rest is taken for gone too: what is
    /// put there again does no harm.
    pub fn learn(&mut self, event: Event) {
        match event {
            Event::Link(link) => {
                self.links.retain(|_, known| known.index != link.index);
                if !link.up {
                    // IPv4 routes go without a word.
                    self.forget(link.index);
                }
                self.links.insert(link.name.clone(), link);
            }
            Event::LinkGone(link) => {
                self.links.retain(|_, known| known.index != link.index);
                self.forget(link.index);
            }
            Event::Route(route) => {
                // It may have taken the place of another, which has no event of its own.
                for old in self.routes_to(&route) {
                    self.drop_route(&old);
                }
                if is_node_route(&route) {
                    Arc::make_mut(&mut self.node_routes).insert(route);
                } else {
                    self.routes.insert(route);
                }
            }
            Event::RouteGone(route) => self.drop_route(&route),
            Event::Neighbour(neighbour) => {
                self.forget_neighbour(&neighbour);
                self.neighbours.insert(neighbour);
            }
            Event::NeighbourGone(neighbour) => self.forget_neighbour(&neighbour),
            Event::Address(_) | Event::AddressGone(_) | Event::Queue(_) | Event::Lost => {}
        }
    }

    fn drop_route(&mut self, route: &Route) {
        if !is_node_route(route) {
            self.routes.remove(route);
        } else if self.node_routes.contains(route) {
            Arc::make_mut(&mut self.node_routes).remove(route);
        }
    }

    fn forget(&mut self, interface: Ifindex) {
        self.routes.retain(|route| route.interface != interface);
        if self.node_routes.iter().any(|route| route.interface == interface) {
            Arc::make_mut(&mut self.node_routes).retain(|route| route.interface != interface);
        }
        self.neighbours.retain(|neighbour| neighbour.interface != interface);
    }

    fn forget_neighbour(&mut self, neighbour: &Neighbour) {
        let first = Neighbour { mac: None, permanent: false, ..neighbour.clone() };
        let same = |old: &&Neighbour| (old.interface, old.address) == (neighbour.interface, neighbour.address);
        let old: Vec<_> = self.neighbours.range(first..).take_while(same).cloned().collect();
        for old in old {
            self.neighbours.remove(&old);
        }
    }

    /// Known routes whose place this one takes: to the same destination, in the same table, of the same metric.
    fn routes_to(&self, route: &Route) -> Vec<Route> {
        let mut found = to(&self.routes, route.destination).chain(to(&self.node_routes, route.destination));
        found.by_ref().filter(|old| (old.table, old.metric) == (route.table, route.metric)).cloned().collect()
    }
}

/// Those of a set that lead to exactly this destination.
pub fn to(routes: &BTreeSet<Route>, destination: Cidr) -> impl Iterator<Item = &Route> {
    let first = Route { table: 0, ..Route::new(destination, Ifindex(0), 0) };
    routes.range(first..).take_while(move |route| route.destination == destination)
}

/// With an IPv4 address routes by its neighbours go, of which the kernel says nothing.
fn takes_more_than_it_says(event: &Event) -> bool {
    match event {
        Event::Lost => true,
        Event::AddressGone(gone) => gone.address.is_ipv4(),
        _ => false,
    }
}

const fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn is_node_route(route: &Route) -> bool {
    route.protocol == NODE_ROUTE_PROTOCOL
}

/// The calls.
pub trait Network {
    /// What there is at this moment.
    fn list(&mut self) -> Result<Arc<Seen>, Error>;
    /// The addresses of a link that others may use, in the kernel's order.
    fn addresses(&mut self, index: Ifindex) -> Result<Vec<IpAddr>, Error>;
    /// A setting's value; `None`: there is no such setting (no IPv6, an older kernel, or the interface is gone).
    fn setting(&self, path: &str) -> Result<Option<String>, SysctlError>;
    /// Makes a setting.
    fn set(&mut self, path: &str, value: &str) -> Result<(), SysctlError>;
    /// Gives a link its MAC.
    fn set_mac(&mut self, index: Ifindex, mac: Mac) -> Result<(), Error>;
    /// Sets a link up.
    fn set_up(&mut self, index: Ifindex) -> Result<(), Error>;
    /// Changes a link's MTU.
    fn set_mtu(&mut self, index: Ifindex, mtu: u32) -> Result<(), Error>;
    /// Makes a tunnel device, down.
    fn create_tunnel(&mut self, spec: &VxlanSpec<'_>) -> Result<(), Error>;
    /// Takes a link away. `false`: it was gone.
    fn delete_link(&mut self, index: Ifindex) -> Result<bool, Error>;
    /// Gives a link an address of its own alone.
    fn add_address(&mut self, index: Ifindex, address: IpAddr) -> Result<(), Error>;
    /// The IPv4 addresses of a link that are listed by this name.
    fn labelled(&mut self, index: Ifindex, label: &str) -> Result<Vec<Ipv4Addr>, Error>;
    /// Gives a link an IPv4 address of its own alone, which is listed by this name.
    fn add_labelled(&mut self, index: Ifindex, address: Ipv4Addr, label: &str) -> Result<(), Error>;
    /// Takes such an address away. `false`: it was gone.
    fn delete_address(&mut self, index: Ifindex, address: Ipv4Addr) -> Result<bool, Error>;
    /// Makes a permanent neighbour, or changes it into one.
    fn replace_neighbour(&mut self, index: Ifindex, address: IpAddr, mac: Mac) -> Result<(), Error>;
    /// Takes a neighbour away. `false`: it was gone.
    fn delete_neighbour(&mut self, index: Ifindex, address: IpAddr) -> Result<bool, Error>;
    /// Makes a route, or changes it.
    fn replace_route(&mut self, route: &Route) -> Result<(), Error>;
    /// Takes exactly this route away. `false`: it was gone.
    fn delete_route(&mut self, route: &Route) -> Result<bool, Error>;
}

/// The network namespace this value was made in.
pub struct KernelNetwork {
    socket: Socket,
    /// What was listed, and the events since; `None`: list.
    known: Option<Known>,
    /// A look reads some hundred settings.
    settings: Families,
}

struct Known {
    seen: Arc<Seen>,
    watch: Watch,
    listed: Instant,
}

impl KernelNetwork {
    /// Serves the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no netlink socket to be had.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()?, known: None, settings: Families::open() })
    }
}

impl Known {
    /// Listens first, then lists: what changes in between is not missed.
    fn list(socket: &mut Socket) -> Result<Self, Error> {
        let watch = Watch::open()?;
        let links = socket.links()?.into_iter().map(|link| (link.name.clone(), link)).collect();
        let (node_routes, routes): (BTreeSet<_>, _) = socket.routes()?.into_iter().partition(is_node_route);
        let neighbours = socket.neighbours()?.into_iter().collect();
        let seen = Seen { links, routes, node_routes: Arc::new(node_routes), neighbours };
        Ok(Self { seen: Arc::new(seen), watch, listed: Instant::now() })
    }

    /// What has changed since. `None`: that is not known.
    fn follow(&mut self, socket: &mut Socket) -> Result<Option<()>, Error> {
        let events = self.watch.so_far()?;
        if events.iter().any(takes_more_than_it_says) || self.listed.elapsed() > LISTING_LASTS {
            return Ok(None);
        }
        if events.is_empty() {
            return Ok(Some(()));
        }
        let seen = Arc::make_mut(&mut self.seen);
        let mut queues = BTreeSet::new();
        for event in events {
            if let Event::Queue(index) = event {
                queues.insert(index);
            }
            seen.learn(event);
        }
        // One that is gone has told so itself.
        queues.retain(|index| seen.links.values().any(|link| link.index == *index));
        for index in queues {
            if let Some(link) = socket.link_by_index(index)? {
                seen.learn(Event::Link(link));
            }
        }
        Ok(Some(()))
    }
}

impl Network for KernelNetwork {
    fn list(&mut self) -> Result<Arc<Seen>, Error> {
        // A fresh socket each pass: an answer that came too late for the last one is not read by this one.
        self.socket = Socket::open()?;
        // Taken out: after an error all is listed again.
        if let Some(mut known) = self.known.take()
            && known.follow(&mut self.socket)?.is_some()
        {
            return Ok(Arc::clone(&self.known.insert(known).seen));
        }
        let known = Known::list(&mut self.socket)?;
        Ok(Arc::clone(&self.known.insert(known).seen))
    }

    fn addresses(&mut self, index: Ifindex) -> Result<Vec<IpAddr>, Error> {
        let listed = self.socket.addresses()?;
        let usable = listed.into_iter().filter(|found| found.interface == index && found.global && !found.tentative);
        Ok(usable.map(|found| found.address).collect())
    }

    fn setting(&self, path: &str) -> Result<Option<String>, SysctlError> {
        match self.settings.read(path) {
            Ok(value) => Ok(Some(value)),
            Err(SysctlError::Access { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set(&mut self, path: &str, value: &str) -> Result<(), SysctlError> {
        self.settings.write(path, value)
    }

    fn set_mac(&mut self, index: Ifindex, mac: Mac) -> Result<(), Error> {
        self.socket.set_link(index, &LinkChange { mac: Some(mac), ..LinkChange::default() })
    }

    fn set_up(&mut self, index: Ifindex) -> Result<(), Error> {
        self.socket.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    fn set_mtu(&mut self, index: Ifindex, mtu: u32) -> Result<(), Error> {
        self.socket.set_link(index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() })
    }

    fn create_tunnel(&mut self, spec: &VxlanSpec<'_>) -> Result<(), Error> {
        self.socket.create_vxlan(spec)
    }

    fn delete_link(&mut self, index: Ifindex) -> Result<bool, Error> {
        self.socket.delete_link(index)
    }

    fn add_address(&mut self, index: Ifindex, address: IpAddr) -> Result<(), Error> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        self.socket.add_address(index, address, length, true)
    }

    fn labelled(&mut self, index: Ifindex, label: &str) -> Result<Vec<Ipv4Addr>, Error> {
        let listed = self.socket.addresses()?;
        let is_it = |found: &netlink::Address| found.interface == index && found.label == label;
        Ok(listed.into_iter().filter(is_it).filter_map(|found| v4(found.address)).collect())
    }

    fn add_labelled(&mut self, index: Ifindex, address: Ipv4Addr, label: &str) -> Result<(), Error> {
        self.socket.add_labelled_address(index, address, label)
    }

    fn delete_address(&mut self, index: Ifindex, address: Ipv4Addr) -> Result<bool, Error> {
        self.socket.delete_address(index, address)
    }

    fn replace_neighbour(&mut self, index: Ifindex, address: IpAddr, mac: Mac) -> Result<(), Error> {
        self.socket.replace_neighbour(index, address, mac)
    }

    fn delete_neighbour(&mut self, index: Ifindex, address: IpAddr) -> Result<bool, Error> {
        self.socket.delete_neighbour(index, address)
    }

    fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        self.socket.replace_route(route)
    }

    fn delete_route(&mut self, route: &Route) -> Result<bool, Error> {
        self.socket.delete_route(route)
    }
}
