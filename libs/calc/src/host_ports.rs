//! Host ports: ports of this node that lead to one of its pods.
//! In: attachments with what the runtime asked for, this node's addresses. Out: frontends with that pod behind them.
//! Invariant: only of pods that are served; where the node gets or loses an address, it follows.
//! Never: an address that this host does not have; a loopback address for anybody but the node itself.

use crate::World;
use model::{Attachment, Family, HostPort, PodId, ServicePortId};
use service::{Backend, Balance, Frontend};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Where the node asks itself.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Pods of this node that have any.
pub(crate) fn pods(world: &World) -> BTreeSet<PodId> {
    holders(world).map(|attachment| attachment.pod.clone()).collect()
}

/// Every frontend of theirs. Of two pods that want the same, which no ADD lets happen, the smaller attachment has it.
pub(crate) fn frontends(world: &World) -> BTreeMap<Frontend, Arc<Balance>> {
    let mut found = BTreeMap::new();
    for attachment in holders(world) {
        for port in &attachment.host_ports {
            let of = || ServicePortId::of_pod(&attachment.pod, port.to_string());
            for address in &attachment.addresses {
                let backend = Backend { address: *address, port: port.target };
                for at in own_addresses(world, port, Family::of(*address)) {
                    let frontend = Frontend { address: at, protocol: port.protocol, port: port.port };
                    let balance = || Arc::new(Balance::of_host_port(of(), backend, !at.is_loopback()));
                    found.entry(frontend).or_insert_with(balance);
                }
            }
        }
    }
    found
}

fn holders(world: &World) -> impl Iterator<Item = &Attachment> {
    let is_finished = |id: &PodId| world.pods.get(id).is_some_and(|pod| pod.finished);
    let served = world.attachments.values().filter(|attachment| attachment.committed);
    served.filter(move |attachment| !attachment.host_ports.is_empty() && !is_finished(&attachment.pod))
}

fn own_addresses(world: &World, port: &HostPort, family: Family) -> impl Iterator<Item = IpAddr> {
    // Any address of this network is the host's own.
    let written = port.address.filter(IpAddr::is_loopback);
    let own = world.host.iter().copied().chain(LOOPBACKS).filter(move |at| Some(*at) != written).chain(written);
    own.filter(move |address| Family::of(*address) == family && port.is_at(*address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{AttachmentId, IfaceName, Mac, Pod, Protocol, Resource, ResourceKey, Update};
    use service::Kind;

    fn world(asked: &[&str]) -> World {
        let mut world = World::new("n1".into(), false);
        world.set_host_addresses(
            ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|text| text.parse().expect("one")).into(),
        );
        let port = |text: &&str| HostPort {
            address: (!text.is_empty()).then(|| text.parse().expect("an address")),
            protocol: Protocol::TCP,
            port: 8080,
            target: 80,
        };
        world.attach(Attachment {
            id: AttachmentId { network: "net".into(), container: "c1".into(), interface: "eth0".into() },
            pod: PodId::new("x", "web"),
            host_interface: IfaceName("cali1".into()),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: ["10.65.0.2", "fd00:65::2"].map(|text| text.parse().expect("one")).into(),
            mtu: 1500,
            labels: Default::default(),
            delegated: false,
            host_ports: asked.iter().map(port).collect(),
            floating_ips: false,
            named: false,
            committed: true,
        });
        world
    }

    fn served(asked: &[&str]) -> Vec<String> {
        let shown = |(frontend, balance): (&Frontend, &Arc<Balance>)| {
            let to = balance.inside.chosen.iter().map(ToString::to_string).collect::<String>();
            format!("{frontend} -> {to}{}", if balance.outside.is_some() { "" } else { " inside" })
        };
        frontends(&world(asked)).iter().map(shown).collect()
    }

    #[test]
    fn cni_90_host_ports_are_at_the_addresses_that_are_asked_for_as_far_as_the_node_has_them() {
        let v4 = [
            "127.0.0.1:8080/TCP -> 10.65.0.2:80 inside",
            "192.0.2.1:8080/TCP -> 10.65.0.2:80",
            "192.0.2.2:8080/TCP -> 10.65.0.2:80",
        ];
        let v6 = ["[::1]:8080/TCP -> [fd00:65::2]:80 inside", "[2001:db8::1]:8080/TCP -> [fd00:65::2]:80"];
        assert_eq!(served(&[""]), [&v4[..], &v6].concat());
        assert_eq!(
            (served(&["0.0.0.0"]), served(&["::"])),
            (v4.map(str::to_owned).into(), v6.map(str::to_owned).into())
        );
        assert_eq!(served(&["192.0.2.2"]), v4[2..]);
        assert_eq!(served(&["127.0.0.1"]), v4[..1]);
        assert_eq!(served(&["127.0.0.9"]), ["127.0.0.9:8080/TCP -> 10.65.0.2:80 inside"]);
        assert_eq!(served(&["192.0.2.9"]), [""; 0], "the node has no such address");
    }

    #[test]
    fn one_that_is_not_committed_or_is_over_has_none() {
        let mut world = world(&[""]);
        let id = world.attachments.keys().next().cloned().expect("an attachment");
        let attachment = world.attachments[&id].clone();
        world.attach(Attachment { committed: false, ..attachment.clone() });
        assert!(frontends(&world).is_empty() && pods(&world).is_empty());
        world.attach(attachment);
        let balance = frontends(&world).into_values().next().expect("a frontend");
        assert_eq!((balance.of.to_string().as_str(), balance.kind), ("x/web:8080/TCP", Kind::HostPort));
        let over = Pod { finished: true, ..Pod::bare(PodId::new("x", "web"), None) };
        world.apply(Update::Set(Resource::Pod(over.into())));
        assert!(frontends(&world).is_empty() && pods(&world).is_empty(), "it is over");
        world.apply(Update::Gone(ResourceKey::Pod(PodId::new("x", "web"))));
        assert!(!frontends(&world).is_empty(), "nobody says so any more");
        world.detach(&id);
        assert!(frontends(&world).is_empty());
    }

    #[test]
    fn of_two_that_want_one_the_smaller_attachment_has_it() {
        let mut world = world(&["192.0.2.1"]);
        let own = world.attachments.values().next().cloned().expect("an attachment");
        let holder = |world: &World| frontends(world).into_values().map(|at| at.of.to_string()).collect::<Vec<_>>();
        let other = |container: &str, pod: &str| Attachment {
            id: AttachmentId { container: container.into(), ..own.id.clone() },
            pod: PodId::new("x", pod),
            addresses: vec!["10.65.0.9".parse().expect("one")],
            ..own.clone()
        };
        world.attach(other("c2", "any"));
        assert_eq!(holder(&world), ["x/web:192.0.2.1:8080/TCP"]);
        world.attach(other("c0", "zoo"));
        assert_eq!(holder(&world), ["x/zoo:192.0.2.1:8080/TCP"]);
    }
}
