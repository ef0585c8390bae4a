//! Floating addresses: addresses at which pods of this node are reached beside their own.
//! In: pods that ask for some, their attachments, whose addresses are whose already. Out: frontends with that pod behind them.
//! Invariant: an address floats to one pod, and never from anybody who has it: this node or another, a pod, a service that is
//! served here; of pods that want one, on this node or another, the older has it, then the smaller name.
//! Never: while FelixConfiguration does not say `floatingIPs: Enabled`; to a pod whose network's configuration does not allow it; to
//! an address of the other family, or that is not the pod's; more than [`MOST`].

use crate::{World, host, workload::described};
use model::{Attachment, AttachmentId, Created, FIRST_INTERFACE, Family, FloatingIps, NodeName, PodId, ServicePortId};
use service::{Balance, Frontend, Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// At most so many on a node: what pods are annotated with leaves services the room they have in the kernel's tables.
pub(crate) const MOST: usize = 1024;

const NOT_OF_NETWORK: &str =
    "the CNI configuration that it was attached by does not say \"feature_control\": {\"floating_ips\": true}";

/// Which pods ask for an address, wherever they are.
pub(crate) type Asking = BTreeMap<IpAddr, BTreeSet<PodId>>;

/// What has an address already.
pub(crate) struct Held<'a> {
    /// The pod that has it.
    pub(crate) pod: &'a dyn Fn(IpAddr) -> Option<&'a PodId>,
    /// The node that has it.
    pub(crate) node: &'a dyn Fn(IpAddr) -> Option<&'a NodeName>,
    /// Pods that want it.
    pub(crate) asking: &'a Asking,
    /// Where services are reached.
    pub(crate) services: &'a BTreeMap<Frontend, Arc<Balance>>,
}

/// All of this node's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floating {
    /// Where they are reached.
    pub(crate) frontends: BTreeMap<Frontend, Arc<Balance>>,
    /// Those of each attachment.
    pub(crate) of: BTreeMap<AttachmentId, Vec<IpAddr>>,
    /// Those that do not float, and why.
    pub(crate) remarks: Vec<String>,
}

/// A pod that is attached here, and what it has.
struct Pod<'a> {
    id: &'a PodId,
    created: Created,
    own: Vec<&'a Attachment>,
}

/// What a pod that is attached here asks for.
pub(crate) fn asked<'a>(world: &'a World, id: &PodId) -> Option<&'a FloatingIps> {
    let asked = described(world, id).filter(|pod| !pod.finished)?.floating.as_deref()?;
    own(world, id).next().map(|_| asked)
}

/// What a pod asks for, wherever it is.
pub(crate) fn wanted<'a>(world: &'a World, id: &PodId) -> Option<&'a FloatingIps> {
    world.pods.get(id).filter(|pod| !pod.finished)?.floating.as_deref()
}

/// Its attachments, those of Calico's only interface first.
fn own<'a>(world: &'a World, id: &PodId) -> impl Iterator<Item = &'a Attachment> + use<'a> {
    let ids = world.attached.get(id).into_iter().flatten();
    let mut all: Vec<_> = ids.filter_map(|id| world.attachments.get(id)).filter(|known| known.committed).collect();
    all.sort_by_key(|known| (known.id.interface != FIRST_INTERFACE, &known.id));
    all.into_iter()
}

/// What floats to these pods.
pub(crate) fn settle<'a>(world: &'a World, pods: impl Iterator<Item = &'a PodId>, held: &Held<'_>) -> Floating {
    let mut asking: Vec<_> = pods.filter_map(|id| Some((asked(world, id)?, id))).collect();
    asking.sort_by_key(|(asked, id)| (asked.created, *id));
    let is_on = world.floats();
    let mut floating = Floating::default();
    for (asked, id) in asking {
        let may = |known: &&Attachment| known.floating_ips;
        let pod = Pod { id, created: asked.created, own: own(world, id).filter(may).collect() };
        for address in &asked.addresses {
            let placed = match (is_on, pod.own.is_empty()) {
                (false, _) => Err("FelixConfiguration does not say floatingIPs: Enabled".to_owned()),
                (true, true) => Err(NOT_OF_NETWORK.to_owned()),
                (true, false) => floating.place(world, &pod, *address, held),
            };
            if let Err(why) = placed {
                floating.remarks.push(format!("pod {id}: {address} does not float to it: {why}"));
            }
        }
    }
    floating
}

/// The same, from the beginning.
pub(crate) fn fresh(world: &World, services: &BTreeMap<Frontend, Arc<Balance>>) -> Floating {
    let pods = world.pods_by_address();
    let node_at = |address| world.nodes.values().find(|node| node.addresses.contains(&address));
    let mut asking = Asking::new();
    for id in world.pods.keys() {
        for address in wanted(world, id).into_iter().flat_map(|asked| &asked.addresses) {
            asking.entry(*address).or_default().insert(id.clone());
        }
    }
    let asks = world.attached.keys().filter(|id| asked(world, id).is_some());
    let held = Held {
        pod: &|address| pods.get(&address),
        node: &|address| node_at(address).map(|node| &node.name),
        asking: &asking,
        services,
    };
    settle(world, asks, &held)
}

impl Floating {
    fn place(&mut self, world: &World, pod: &Pod<'_>, address: IpAddr, held: &Held<'_>) -> Result<(), String> {
        let family = Family::of(address);
        let is_its = |at: &IpAddr| !world.host.contains(at) && (held.pod)(*at) == Some(pod.id);
        let inner =
            |known: &Attachment| known.addresses.iter().copied().find(|at| Family::of(*at) == family && is_its(at));
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let found = pod.own.iter().find_map(|known| Some((&known.id, inner(known)?)));
        let (attachment, inner) = found.ok_or_else(|| format!("it has no {name} address of its own"))?;
        let frontend = Frontend::floating(address);
        let of = ServicePortId::of_pod(pod.id, address.to_string());
        if let Some(holder) = self.frontends.get(&frontend).map(|balance| &balance.of) {
            let older = || Err(format!("it floats to the pod {}, which is older", holder.service));
            return if *holder == of { Ok(()) } else { older() };
        }
        if let Some(holder) = held.who(world, address) {
            return Err(format!("it is {holder}"));
        }
        if let Some(older) = held.older(world, pod, address) {
            return Err(format!("it floats to the pod {older} elsewhere, which is older"));
        }
        if self.frontends.len() >= MOST {
            return Err(format!("the node has {MOST} floating addresses already"));
        }
        self.frontends.insert(frontend, Arc::new(Balance::of_floating_ip(of, inner)));
        self.of.entry(attachment.clone()).or_default().push(address);
        Ok(())
    }
}

impl Held<'_> {
    /// Who has an address, in words.
    fn who(&self, world: &World, address: IpAddr) -> Option<String> {
        if world.host.contains(&address) {
            return Some("this node's own".to_owned());
        }
        if let Some(node) = (self.node)(address) {
            return Some(format!("the node {node}'s"));
        }
        if let Some(pod) = (self.pod)(address) {
            return Some(format!("the pod {pod}'s"));
        }
        let at = self.services.range(Frontend::floating(address)..).take_while(|(at, _)| at.address == address);
        let of = at.map(|(_, balance)| balance).find(|balance| balance.kind != Kind::FloatingIp)?;
        Some(format!("an address of the service {}", of.of.service))
    }

    /// A pod of another node to which the address floats there, as far as can be known here.
    fn older(&self, world: &World, pod: &Pod<'_>, address: IpAddr) -> Option<&PodId> {
        let asking = self.asking.get(&address)?.iter().filter(|id| is_elsewhere(world, id, Family::of(address)));
        let since = asking.filter_map(|id| Some((wanted(world, id)?.created, id)));
        since.filter(|other| *other < (pod.created, pod.id)).min().map(|(_, id)| id)
    }
}

/// Whether a pod is on another node, and has an address of this family.
fn is_elsewhere(world: &World, id: &PodId, family: Family) -> bool {
    let Some(pod) = world.pods.get(id) else { return false };
    let published = world.published.get(id).into_iter().flat_map(|told| &told.addresses);
    let mut known = pod.addresses.iter().chain(published);
    pod.node.as_ref().is_some_and(|node| *node != world.node)
        && !pod.host_network
        && known.any(|at| Family::of(*at) == family)
}

impl World {
    /// What a pod says of floating addresses, if it says anything.
    #[must_use]
    pub fn floating_of(&self, id: &PodId) -> Option<&FloatingIps> {
        self.pods.get(id)?.floating.as_deref()
    }

    /// Whether pods are reached at floating addresses (Calico's default: no).
    fn floats(&self) -> bool {
        host::chosen(self, |felix| felix.floating_ips).unwrap_or(false)
    }

    /// Which floating addresses do not float, worked out from the beginning; [`crate::Live`] keeps it.
    #[must_use]
    pub fn floating_remarks(&self) -> Vec<String> {
        fresh(self, &crate::serve::services(self)).remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Desired;
    use model::{
        FelixConfiguration, IfaceName, Labels, Mac, Node, Pod, Protocol, Resource, Service, ServiceId, ServiceKind,
        ServicePort, Update, WorkloadAddress,
    };

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn pod(name: &str, created: &str, floating: &[&str]) -> Pod {
        let created = Created::read(created);
        let addresses = floating.iter().map(|text| at(text)).collect();
        let floating = Some(Box::new(FloatingIps { addresses, unread: None, created }));
        Pod { floating, ..Pod::bare(PodId::new("x", name), Some("n1".into())) }
    }

    fn attachment(pod: &str, last: u8, interface: &str) -> Attachment {
        let (v4, v6) = (at(&format!("10.65.0.{last}")), at(&format!("fd00:65::{last}")));
        Attachment {
            id: AttachmentId { network: "net".into(), container: format!("c{pod}"), interface: interface.into() },
            pod: PodId::new("x", pod),
            host_interface: IfaceName(format!("cali{last}")),
            mac: Mac([2, 0, 0, 0, 0, last]),
            addresses: if interface == FIRST_INTERFACE { vec![v4, v6] } else { vec![v4] },
            mtu: 1500,
            labels: Labels::default(),
            delegated: false,
            host_ports: Vec::new(),
            floating_ips: true,
            named: false,
            committed: true,
        }
    }

    fn felix(on: bool) -> Update {
        let name = FelixConfiguration::DEFAULT.into();
        let felix = FelixConfiguration { name, floating_ips: Some(on), ..FelixConfiguration::default() };
        Update::Set(Resource::FelixConfiguration(felix))
    }

    /// A node with the pod `web` at .2, for which these addresses shall float.
    fn world(floating: &[&str]) -> World {
        let mut world = World::new("n1".into(), false);
        world.set_host_addresses([at("192.0.2.1")].into());
        world.apply(Update::Set(Resource::Pod(pod("web", "2026-01-02T00:00:00Z", floating).into())));
        world.attach(attachment("web", 2, FIRST_INTERFACE));
        world.apply(felix(true));
        world.apply(Update::InSync);
        world
    }

    fn desired(world: &World) -> Desired {
        crate::desired(world.in_sync().expect("it is"))
    }

    fn floating(world: &World) -> Vec<String> {
        let shown = |(frontend, balance): (&Frontend, &Arc<Balance>)| {
            let to = balance.inside.chosen.iter().map(ToString::to_string).collect::<String>();
            assert!(balance.outside.as_ref() == Some(&balance.inside) && balance.kind == Kind::FloatingIp);
            format!("{frontend} -> {to} {}", balance.of)
        };
        let desired = desired(world);
        let of_endpoints = desired.endpoints.values().flat_map(|endpoint| &endpoint.floating);
        assert_eq!(of_endpoints.count(), desired.services.len(), "endpoints know them, too");
        desired.services.iter().map(shown).collect()
    }

    fn remarked(world: &World, what: &str) {
        let said = world.floating_remarks();
        assert!(said.iter().any(|text| text.contains(what)), "{said:?}");
    }

    #[test]
    fn spf_4_an_address_floats_to_the_pods_own_of_its_family_while_that_is_switched_on() {
        let mut world = world(&["192.0.2.7", "2001:db8::21", "192.0.2.7"]);
        let both = ["192.0.2.7 -> 10.65.0.2 x/web:192.0.2.7", "2001:db8::21 -> fd00:65::2 x/web:2001:db8::21"];
        assert_eq!(floating(&world), both);
        assert_eq!(world.floating_remarks(), [""; 0]);
        world.apply(felix(false));
        assert_eq!(floating(&world), [""; 0]);
        remarked(&world, "pod x/web: 192.0.2.7 does not float to it: FelixConfiguration does not say");
        world.apply(Update::Gone(model::ResourceKey::FelixConfiguration("default".into())));
        assert_eq!(floating(&world), [""; 0], "as Calico has it by default");
    }

    #[test]
    fn spf_4_only_to_a_pod_that_is_attached_here_and_not_over_and_has_the_family() {
        let mut world = world(&["192.0.2.7"]);
        world.attach(Attachment { committed: false, ..attachment("web", 2, FIRST_INTERFACE) });
        assert_eq!((floating(&world), world.floating_remarks()), (vec![], vec![]));
        world.attach(attachment("web", 2, FIRST_INTERFACE));
        let over = Pod { finished: true, ..pod("web", "2026-01-02T00:00:00Z", &["192.0.2.7"]) };
        world.apply(Update::Set(Resource::Pod(over.into())));
        assert_eq!(floating(&world), [""; 0]);
        let mut world = self::world(&["2001:db8::21"]);
        world.attach(Attachment { addresses: vec![at("10.65.0.2")], ..attachment("web", 2, FIRST_INTERFACE) });
        assert_eq!(floating(&world), [""; 0]);
        remarked(&world, "it has no IPv6 address");
    }

    #[test]
    fn spf_4_a_pod_that_asks_after_it_was_attached_by_a_network_without_them_has_none() {
        let mut world = world(&[]);
        world.attach(Attachment { floating_ips: false, ..attachment("web", 2, FIRST_INTERFACE) });
        let asks = pod("web", "2026-01-02T00:00:00Z", &["192.0.2.7"]);
        world.apply(Update::Set(Resource::Pod(asks.into())));
        assert_eq!(floating(&world), [""; 0]);
        remarked(&world, "pod x/web: 192.0.2.7 does not float to it: the CNI configuration that it was attached by");
        // Of another of its networks that has them.
        world.attach(attachment("web", 9, "a9"));
        assert_eq!(floating(&world), ["192.0.2.7 -> 10.65.0.9 x/web:192.0.2.7"]);
    }

    #[test]
    fn it_is_the_first_interface_that_an_address_floats_to() {
        let mut world = world(&["192.0.2.7"]);
        world.attach(attachment("web", 9, "a9"));
        assert_eq!(floating(&world), ["192.0.2.7 -> 10.65.0.2 x/web:192.0.2.7"]);
        world.detach(&attachment("web", 2, FIRST_INTERFACE).id);
        assert_eq!(floating(&world), ["192.0.2.7 -> 10.65.0.9 x/web:192.0.2.7"], "without one, another");
    }

    #[test]
    fn of_two_pods_the_older_has_it_and_the_other_gets_it_when_that_is_gone() {
        let mut world = world(&["192.0.2.7"]);
        let older = pod("zoo", "2026-01-01T00:00:00Z", &["192.0.2.7"]);
        world.apply(Update::Set(Resource::Pod(older.into())));
        world.attach(attachment("zoo", 3, FIRST_INTERFACE));
        assert_eq!(floating(&world), ["192.0.2.7 -> 10.65.0.3 x/zoo:192.0.2.7"]);
        remarked(&world, "pod x/web: 192.0.2.7 does not float to it: it floats to the pod x/zoo, which is older");
        world.detach(&attachment("zoo", 3, FIRST_INTERFACE).id);
        assert_eq!(floating(&world), ["192.0.2.7 -> 10.65.0.2 x/web:192.0.2.7"]);
        assert_eq!(world.floating_remarks(), [""; 0]);
    }

    #[test]
    fn of_two_pods_on_two_nodes_the_older_has_it_so_that_both_nodes_say_the_same() {
        let older = "2026-01-01T00:00:00Z";
        let elsewhere = |name: &str, created: &str, addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| at(text)).collect();
            Pod { node: Some("n2".into()), addresses, ..pod(name, created, &["192.0.2.7"]) }
        };
        let said = "192.0.2.7 does not float to it: it floats to the pod x/zoo elsewhere, which is older";
        let own = ["192.0.2.7 -> 10.65.0.2 x/web:192.0.2.7"];
        let after = |told: Pod| {
            let mut world = self::world(&["192.0.2.7"]);
            world.apply(Update::Set(Resource::Pod(told.into())));
            world
        };
        let mut world = after(elsewhere("zoo", older, &["10.65.9.9"]));
        assert_eq!(floating(&world), [""; 0]);
        remarked(&world, said);
        world.apply(Update::Gone(model::ResourceKey::Pod(PodId::new("x", "zoo"))));
        assert_eq!(floating(&world), own, "once the other is gone");
        let same = after(elsewhere("any", "2026-01-02T00:00:00Z", &["10.65.9.9"]));
        remarked(&same, "x/any elsewhere");
        let mut bare = after(elsewhere("zoo", older, &[]));
        assert_eq!(floating(&bare), own, "it has no address that it could float to");
        bare.apply(Update::Set(Resource::WorkloadAddress(WorkloadAddress {
            pod: PodId::new("x", "zoo"),
            node: "n2".into(),
            addresses: vec![at("10.65.9.9")],
            labels: Labels::default(),
        })));
        assert_eq!(floating(&bare), [""; 0], "its node has said which it has");
        let web = PodId::new("x", "web");
        for (told, why) in [
            (elsewhere("zoo", "2026-01-03T00:00:00Z", &["10.65.9.9"]), "it is younger"),
            (elsewhere("zoo", "2026-01-02T00:00:00Z", &["10.65.9.9"]), "as old, and its name is greater"),
            (elsewhere("zoo", older, &["fd00:65::99"]), "of the other family"),
            (Pod { finished: true, ..elsewhere("zoo", older, &["10.65.9.9"]) }, "it is over"),
            (Pod { host_network: true, ..elsewhere("zoo", older, &["10.65.9.9"]) }, "nothing floats to a node"),
            (Pod { node: Some("n1".into()), ..elsewhere("zoo", older, &["10.65.9.9"]) }, "it is none of here"),
            (Pod { id: web, ..elsewhere("", "2026-01-02T00:00:00Z", &["10.65.9.9"]) }, "it is the same pod"),
        ] {
            assert_eq!(floating(&after(told)), own, "{why}");
        }
    }

    #[test]
    fn more_than_a_node_has_room_for_do_not_float_and_the_oldest_keep_theirs() {
        let addresses = |from: usize, to: usize| (from..to).map(|n| format!("198.18.{}.{}", n / 250, n % 250 + 1));
        let all: Vec<_> = addresses(0, MOST - 1).collect();
        let mut world = world(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let more: Vec<_> = addresses(MOST, MOST + 2).collect();
        let younger = pod("zoo", "2026-01-03T00:00:00Z", &[&more[0], &more[1], &more[0]]);
        world.apply(Update::Set(Resource::Pod(younger.into())));
        world.attach(attachment("zoo", 3, FIRST_INTERFACE));
        assert_eq!(floating(&world).len(), MOST);
        let said = format!("pod x/zoo: {} does not float to it: the node has 1024 floating addresses already", more[1]);
        assert_eq!(world.floating_remarks(), [said]);
    }

    #[test]
    fn it_floats_to_no_inner_address_that_somebody_else_has() {
        let mut world = world(&["192.0.2.7"]);
        world.attach(Attachment { addresses: vec![at("10.65.0.2")], ..attachment("any", 9, FIRST_INTERFACE) });
        assert_eq!(floating(&world), [""; 0]);
        remarked(&world, "it has no IPv4 address of its own");
        world.detach(&attachment("any", 9, FIRST_INTERFACE).id);
        assert_eq!(floating(&world).len(), 1);
        world.set_host_addresses([at("10.65.0.2")].into());
        assert_eq!(floating(&world), [""; 0]);
        remarked(&world, "it has no IPv4 address of its own");
    }

    #[test]
    fn an_address_that_somebody_has_does_not_float() {
        let mut world = world(&["192.0.2.1", "192.0.2.50", "10.65.0.3", "10.96.0.7"]);
        let node = Node {
            name: "n2".into(),
            addresses: vec![at("192.0.2.50")],
            labels: Labels::default(),
            pod_cidrs: vec![],
            bgp: Default::default(),
            vteps: Default::default(),
            told: Default::default(),
        };
        world.apply(Update::Set(Resource::Node(node)));
        world.attach(attachment("zoo", 3, FIRST_INTERFACE));
        let port = ServicePort { name: "".into(), protocol: Protocol::TCP, port: 80, node_port: None };
        let service = Service {
            cluster_ips: vec![at("10.96.0.7")],
            ports: [port].into(),
            ..Service::bare(ServiceId { namespace: "shop".into(), name: "web".into() }, ServiceKind::ClusterIp)
        };
        let key = model::ResourceKey::Service(service.id.clone());
        world.apply(Update::Set(Resource::Service(service.into())));
        let of = desired(&world).services.into_values().map(|balance| balance.kind).collect::<Vec<_>>();
        assert_eq!(of, [Kind::ClusterIp]);
        for who in ["this node's own", "the node n2's", "the pod x/zoo's", "an address of the service shop/web"] {
            remarked(&world, &format!("it is {who}"));
        }
        world.apply(Update::Gone(key));
        assert_eq!(floating(&world), ["10.96.0.7 -> 10.65.0.2 x/web:10.96.0.7"]);
    }
}
