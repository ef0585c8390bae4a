//! This node's addresses as others reach it, looked for at its interfaces by the settings' methods, and these interfaces themselves: told.
//! In: what the datastore says of nodes and the host of its networks, from the owner; interfaces and sources, from the kernel. Out: addresses,
//! told.
//! Invariant: an address that another node says is not told as this one's; what was told before stays until there is something better.
//! Never: makes the owner wait; looks more often than its host changes, but for once a minute.

use crate::mailbox::{Mailbox, put};
use anyhow::Result;
use calc::{
    World,
    autodetection::{Interface, Method},
};
use datastore::{NodeInterfaces, ObjectError, Store};
use model::{Cidr, Family, IfaceName, NodeAddresses, NodeName, ToldAddresses};
use netlink::Socket;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// Names may lead elsewhere, and routes another way, without a word.
const LOOK: Duration = Duration::from_secs(60);
/// After what failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Nothing is sent there: the kernel is asked for the source alone.
const PORT: u16 = 80;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// How the addresses of each family are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Methods {
    /// Of IPv4.
    pub v4: Method,
    /// Of IPv6.
    pub v6: Method,
}

impl Methods {
    fn of(&self, family: Family) -> &Method {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Whether anything is to be found.
    #[must_use]
    pub fn look(&self) -> bool {
        *self != Self::default()
    }
}

/// What it has to go by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// What the datastore says now.
    said: ToldAddresses,
    /// What other nodes say of this host's addresses.
    claimants: BTreeMap<IpAddr, NodeName>,
    addresses: BTreeSet<IpAddr>,
    nets: BTreeMap<IfaceName, BTreeSet<Cidr>>,
    /// What host endpoints may be made of.
    interfaces: BTreeMap<IfaceName, BTreeSet<IpAddr>>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
struct Found {
    told: ToldAddresses,
    problems: Vec<String>,
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct Detector {
    heard: Arc<Mailbox<Option<Known>>>,
    found: Arc<Mutex<Found>>,
    methods: Methods,
}

impl Detector {
    /// Over the objects that agents share.
    pub fn start(objects: Store, node: NodeName, methods: Methods) -> Result<Self> {
        let (heard, found) = (Arc::<Mailbox<Option<Known>>>::default(), Arc::<Mutex<Found>>::default());
        let (hears, finds) = (Arc::clone(&heard), Arc::clone(&found));
        let mut worker = Worker { objects, node, methods: methods.clone(), told: None, interfaces: None };
        thread::Builder::new().name("detect".into()).spawn(move || worker.run(&hears, &finds))?;
        Ok(Self { heard, found, methods })
    }

    /// What it has to go by. Nothing, as long as the datastore has not said everything, or knows no such node.
    pub fn follow(&self, world: &World) {
        let Some(node) = world.own_node().filter(|_| world.in_sync().is_some()) else { return };
        // Where nothing is looked for, what was told once is to go, and that alone is known.
        let said = if self.methods.look() { node.told } else { world.told_addresses() };
        let claimants = world.claimants().map(|(address, node)| (address, node.clone())).collect();
        let (addresses, nets) = (world.host_addresses().clone(), world.networks().clone());
        let interfaces = world.own_interfaces();
        self.heard.tell(|known| put(known, Some(Known { said, claimants, addresses, nets, interfaces })));
    }

    /// What is told of this node, for families of which something is to be found; nothing of a family of which nothing is.
    pub fn told(&self) -> BTreeMap<Family, Option<String>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let looked_for = FAMILIES.into_iter().filter(|family| *self.methods.of(*family) != Method::InternalIp);
        looked_for.map(|family| (family, found.told.of(family).map(|address| address.to_string()))).collect()
    }

    /// What is wrong.
    pub fn problems(&self) -> Vec<String> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).problems.clone()
    }
}

struct Worker {
    objects: Store,
    node: NodeName,
    methods: Methods,
    /// What was told last.
    told: Option<ToldAddresses>,
    /// Likewise of interfaces.
    interfaces: Option<BTreeMap<IfaceName, BTreeSet<IpAddr>>>,
}

impl Worker {
    fn run(&mut self, hears: &Mailbox<Option<Known>>, finds: &Mutex<Found>) {
        let mut rest = None;
        loop {
            let known = hears.hear(rest).value.clone();
            let Some(known) = known else { continue };
            let mut found = self.look(&known);
            rest = self.methods.look().then_some(if found.problems.is_empty() { LOOK } else { AGAIN });
            if let Err(error) = self.tell(found.told, known.said) {
                found.problems.push(format!("this node's addresses cannot be told to the others: {error}"));
                rest = Some(AGAIN);
            }
            if let Err(error) = self.tell_interfaces(&known.interfaces) {
                found.problems.push(format!("this node's interfaces cannot be told: {error}"));
                rest = Some(AGAIN);
            }
            let before = std::mem::replace(&mut *finds.lock().unwrap_or_else(PoisonError::into_inner), found.clone());
            for problem in found.problems.iter().filter(|problem| !before.problems.contains(problem)) {
                tracing::warn!("{problem}");
            }
        }
    }

    /// What is found takes the place of what was said; where nothing is, that stays.
    fn look(&self, known: &Known) -> Found {
        let interfaces = if self.methods.look() { interfaces() } else { Ok(Vec::new()) };
        let mut found = Found::default();
        for family in FAMILIES {
            let method = self.methods.of(family);
            if *method == Method::InternalIp {
                continue;
            }
            let place = found.told.of_mut(family);
            *place = known.said.of(family);
            let reached = method.destination().map_or(Ok(unspecified(family)), |host| source(host, family));
            let chosen = interfaces
                .as_ref()
                .map_err(ToString::to_string)
                .and_then(|interfaces| method.find(family, interfaces, reached).map_err(|error| error.to_string()));
            let claimant = |address: &IpAddr| known.claimants.get(address);
            match chosen.map(|address| address.map(|address| (address, claimant(&address.address())))) {
                // Said already, it stays: which of the two is to go is for people to say.
                Ok(Some((address, None))) => *place = Some(address),
                Ok(Some((address, Some(other)))) => {
                    let own = address.address();
                    let becomes =
                        if known.said.of(family) == Some(address) { "stays" } else { "is not told as this node's" };
                    found.problems.push(format!(
                        "{method} finds {own}, which node {other} says is its own: it {becomes}; give one of the two another"
                    ));
                }
                Ok(None) => {}
                Err(why) => found.problems.push(format!("no address is found for this node by {method}: {why}")),
            }
        }
        found
    }

    fn tell(&mut self, found: ToldAddresses, said: ToldAddresses) -> Result<(), ObjectError> {
        if found != said {
            self.objects.tell_addresses(&NodeAddresses { node: self.node.clone(), told: found })?;
        }
        if self.methods.look() && self.told.replace(found) != Some(found) {
            let found: Vec<_> = found.all().map(|address| address.to_string()).collect();
            tracing::info!(?found, "this node is reached there");
        }
        Ok(())
    }

    /// Whether the datastore has another word of them already it finds out itself.
    fn tell_interfaces(&mut self, now: &BTreeMap<IfaceName, BTreeSet<IpAddr>>) -> Result<(), ObjectError> {
        if self.interfaces.as_ref() != Some(now) {
            self.objects.tell_interfaces(&NodeInterfaces { node: self.node.clone(), interfaces: now.clone() })?;
            self.interfaces = Some(now.clone());
        }
        Ok(())
    }
}

/// All there are, in the kernel's order.
fn interfaces() -> Result<Vec<Interface>, netlink::Error> {
    let mut socket = Socket::open()?;
    let mut links: Vec<_> = socket.links()?;
    links.sort_by_key(|link| link.index);
    let addresses = socket.addresses()?;
    let of = |link: netlink::Link| {
        let own = addresses.iter().filter(|address| address.interface == link.index);
        let own = own.filter_map(|own| model::Prefixed::new(own.address, own.prefix_len)).collect();
        Interface { name: link.name, addresses: own }
    };
    Ok(links.into_iter().map(of).collect())
}

const fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Which source the kernel takes towards a host: a socket is connected, and nothing sent.
fn source(host: &str, family: Family) -> Result<IpAddr, String> {
    let ask = || -> std::io::Result<Option<IpAddr>> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let Some(there) = (bare, PORT).to_socket_addrs()?.find(|there| Family::of(there.ip()) == family) else {
            return Ok(None);
        };
        let socket = UdpSocket::bind(SocketAddr::new(unspecified(family), 0))?;
        socket.connect(there)?;
        Ok(Some(socket.local_addr()?.ip()))
    };
    match ask() {
        Ok(Some(source)) => Ok(source),
        Ok(None) => Err("it has no address of the family".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
