//! Floating addresses: addresses at which pods of this node are reached beside their own.
//! In: pods that ask for some, their attachments, whose addresses are whose already. Out: frontends with that pod behind them.
//! Invariant: an address floats to one pod, and never from anybody who has it: this node or another, a pod, a service; of two
//! pods that want one the older has it, then the smaller name.
//! Never: while FelixConfiguration does not say `floatingIPs: Enabled`; to an address of the other family.

use crate::{World, host};
use model::{Attachment, AttachmentId, FIRST_INTERFACE, Family, FloatingIps, PodId, ServiceId, ServicePortId};
use service::{Balance, Frontend, Kind};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// What has an address already.
pub(crate) struct Held<'a, P> {
    /// The pod that has it.
    pub(crate) pod: P,
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

/// What a pod that is attached here asks for.
pub(crate) fn asked<'a>(world: &'a World, id: &PodId) -> Option<&'a FloatingIps> {
    let asked = world.pods.get(id).filter(|pod| !pod.finished)?.floating.as_deref()?;
    own(world, id).next().map(|_| asked)
}

/// Pods of this node that ask for any.
pub(crate) fn pods(world: &World) -> impl Iterator<Item = &PodId> {
    world.attached.keys().filter(|id| asked(world, id).is_some())
}

/// Its attachments, those of Calico's only interface first.
fn own<'a>(world: &'a World, id: &PodId) -> impl Iterator<Item = &'a Attachment> + use<'a> {
    let ids = world.attached.get(id).into_iter().flatten();
    let mut all: Vec<_> = ids.filter_map(|id| world.attachments.get(id)).filter(|known| known.committed).collect();
    all.sort_by_key(|known| (known.id.interface != FIRST_INTERFACE, &known.id));
    all.into_iter()
}

/// What floats to these pods.
pub(crate) fn settle<'a, P>(world: &World, pods: impl Iterator<Item = &'a PodId>, held: &Held<'_, P>) -> Floating
where
    P: Fn(IpAddr) -> Option<PodId>,
{
    let mut asking: Vec<_> = pods.filter_map(|id| Some((asked(world, id)?, id))).collect();
    asking.sort_by_key(|(asked, id)| (asked.created, *id));
    let mut floating = Floating::default();
    for (asked, id) in asking {
        for address in &asked.addresses {
            match floating.place(world, (id, *address), held) {
                Ok(()) => {}
                Err(why) => floating.remarks.push(format!("pod {id}: {address} does not float to it: {why}")),
            }
        }
    }
    floating
}

impl Floating {
    fn place<P>(&mut self, world: &World, (id, address): (&PodId, IpAddr), held: &Held<'_, P>) -> Result<(), String>
    where
        P: Fn(IpAddr) -> Option<PodId>,
    {
        if !world.floats() {
            return Err("FelixConfiguration does not say floatingIPs: Enabled".to_owned());
        }
        let family = Family::of(address);
        let inner = |known: &'_ Attachment| known.addresses.iter().copied().find(|own| Family::of(*own) == family);
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        let found = own(world, id).find_map(|known| Some((known.id.clone(), inner(known)?)));
        let (attachment, inner) = found.ok_or_else(|| format!("it has no {name} address"))?;
        let frontend = Frontend::floating(address);
        if let Some(holder) = self.frontends.get(&frontend) {
            let holder = &holder.of.service;
            let is_own = *holder == named(id);
            return if is_own { Ok(()) } else { Err(format!("it floats to the pod {holder}, which is older")) };
        }
        if let Some(holder) = held.who(world, address) {
            return Err(format!("it is {holder}"));
        }
        let of = ServicePortId { service: named(id), port: address.to_string() };
        self.frontends.insert(frontend, Arc::new(Balance::of_floating_ip(of, inner)));
        self.of.entry(attachment).or_default().push(address);
        Ok(())
    }

    /// Keeps what is still so, for who compares by the pointer.
    pub(crate) fn sharing(mut self, before: &Self) -> Self {
        for (frontend, balance) in &mut self.frontends {
            if let Some(known) = before.frontends.get(frontend).filter(|known| *known == balance) {
                *balance = Arc::clone(known);
            }
        }
        self
    }
}

fn named(PodId { namespace, name }: &PodId) -> ServiceId {
    ServiceId { namespace: namespace.clone(), name: name.to_string() }
}

impl<P: Fn(IpAddr) -> Option<PodId>> Held<'_, P> {
    /// Who has an address, in words.
    fn who(&self, world: &World, address: IpAddr) -> Option<String> {
        if world.host.contains(&address) {
            return Some("this node's own".to_owned());
        }
        if let Some(node) = world.nodes.values().find(|node| node.addresses.contains(&address)) {
            return Some(format!("the node {}'s", node.name));
        }
        if let Some(pod) = (self.pod)(address) {
            return Some(format!("the pod {pod}'s"));
        }
        let at = self.services.range(Frontend::floating(address)..).take_while(|(at, _)| at.address == address);
        let of = at.map(|(_, balance)| balance).find(|balance| balance.kind != Kind::FloatingIp)?;
        Some(format!("an address of the service {}", of.of.service))
    }
}

impl World {
    /// What a pod says of floating addresses, if it says anything.
    #[must_use]
    pub fn floating_of(&self, id: &PodId) -> Option<&FloatingIps> {
        self.pods.get(id)?.floating.as_deref()
    }

    /// Whether pods are reached at floating addresses (Calico's default: no).
    #[must_use]
    pub fn floats(&self) -> bool {
        host::chosen(self, |felix| felix.floating_ips).unwrap_or(false)
    }

    /// Which floating addresses do not float, worked out from the beginning; [`crate::Live`] keeps it.
    #[must_use]
    pub fn floating_remarks(&self) -> Vec<String> {
        let pods_here = self.pods_by_address();
        let held = Held { pod: |address| pods_here.get(&address).cloned(), services: &crate::serve::services(self) };
        settle(self, pods(self), &held).remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Desired;
    use model::{
        Created, FelixConfiguration, IfaceName, Labels, Mac, Node, Pod, Protocol, Resource, Service, ServiceKind,
        ServicePort, TrafficPolicy, Update,
    };

    fn at(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn pod(name: &str, created: &str, floating: &[&str]) -> Pod {
        let created = Created::read(created);
        let addresses = floating.iter().map(|text| at(text)).collect();
        Pod {
            id: PodId::new("x", name),
            node: Some("n1".into()),
            labels: Labels::default(),
            service_account: None,
            addresses: [].into(),
            ports: [].into(),
            host_network: false,
            finished: false,
            floating: Some(Box::new(FloatingIps { addresses, unread: None, created })),
        }
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
    fn an_address_that_somebody_has_does_not_float() {
        let mut world = world(&["192.0.2.1", "192.0.2.50", "10.65.0.3", "10.96.0.7"]);
        let node = Node { name: "n2".into(), addresses: vec![at("192.0.2.50")], labels: Labels::default() };
        world.apply(Update::Set(Resource::Node(node)));
        world.attach(attachment("zoo", 3, FIRST_INTERFACE));
        let port = ServicePort { name: "".into(), protocol: Protocol::TCP, port: 80, node_port: None };
        let service = Service {
            id: ServiceId { namespace: "shop".into(), name: "web".into() },
            created: Created::UNKNOWN,
            kind: ServiceKind::ClusterIp,
            cluster_ips: vec![at("10.96.0.7")],
            external_ips: vec![],
            load_balancer: vec![],
            request: None,
            source_ranges: vec![],
            ports: [port].into(),
            affinity_s: None,
            internal: TrafficPolicy::Cluster,
            external: TrafficPolicy::Cluster,
            distribution: None,
            health_check_port: None,
            unproxied: false,
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
