//! The library against a real kernel, in namespaces made for one test and gone with it. Needs root.
//! In: fresh namespaces without a name. Out: what was put there reads back.
//! Invariant: nothing is left on the host.
//! Never: touches the namespace the tests run in.

use model::{Cidr, IfaceName, Ifindex, Mac};
use netlink::{
    Filter, LinkChange, MAIN_TABLE, Neighbour, Reason, Route, RouteKind, Scope, Side, Socket, VethSpec, namespace,
    sysctl::{self, SysctlError},
    watch,
};
use std::{
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

const HOST_MAC: Mac = Mac([0xee; 6]);
const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn name(text: &str) -> IfaceName {
    IfaceName(text.to_owned())
}

/// Two namespaces with a veth pair between them.
struct Pair {
    host: OwnedFd,
    pod: OwnedFd,
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            host: namespace::create().expect("a namespace: is this run by root?"),
            pod: namespace::create().expect("a namespace"),
        };
        pair.on_host(|socket| make_veth(socket, &pair.pod).expect("a veth pair"));
        pair
    }

    fn on_host<T: Send>(&self, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
        within(&self.host, work)
    }

    fn in_pod<T: Send>(&self, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
        within(&self.pod, work)
    }
}

fn within<T: Send>(namespace: &OwnedFd, work: impl FnOnce(&mut Socket) -> T + Send) -> T {
    namespace::inside(namespace, || work(&mut Socket::open().expect("a socket"))).expect("inside the namespace")
}

fn make_veth(socket: &mut Socket, pod: &OwnedFd) -> Result<(), netlink::Error> {
    socket.create_veth(&VethSpec {
        name: &name("cali0"),
        mac: HOST_MAC,
        mtu: 1440,
        peer_name: &name("eth0"),
        peer_mac: Some(POD_MAC),
        peer_namespace: pod.as_fd(),
    })
}

fn up(socket: &mut Socket, link: &str) -> Ifindex {
    let index = socket.link(&name(link)).expect("an answer").expect("the link").index;
    socket.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
    index
}

#[test]
fn a_veth_appears_in_both_namespaces_down_with_the_macs_and_mtu_asked_for() {
    let pair = Pair::new();
    let host = pair.on_host(|socket| socket.link(&name("cali0"))).expect("an answer").expect("the link");
    let pod = pair.in_pod(|socket| socket.link(&name("eth0"))).expect("an answer").expect("the link");
    assert_eq!((host.mac, host.mtu, host.up, host.kind.as_str()), (Some(HOST_MAC), 1440, false, "veth"));
    assert_eq!((pod.mac, pod.mtu, pod.up, pod.kind.as_str()), (Some(POD_MAC), 1440, false, "veth"));
    assert_eq!((host.peer, pod.peer), (Some(pod.index), Some(host.index)));
}

#[test]
fn a_veth_leads_to_its_own_other_end_and_not_to_one_of_the_same_index_elsewhere() {
    let (pair, other) = (Pair::new(), Pair::new());
    let index = |pair: &Pair| pair.in_pod(|socket| socket.link(&name("eth0"))).expect("an answer").expect("it").index;
    assert_eq!(index(&pair), index(&other), "indices repeat between namespaces");
    pair.on_host(|socket| {
        let host = socket.link(&name("cali0")).expect("an answer").expect("the link");
        assert!(socket.leads_to(&host, index(&pair), pair.pod.as_fd()).expect("an answer"));
        assert!(!socket.leads_to(&host, index(&pair), other.pod.as_fd()).expect("an answer"));
        assert!(!socket.leads_to(&host, Ifindex(4711), pair.pod.as_fd()).expect("an answer"));
    });
}

#[test]
fn a_second_veth_of_the_same_name_is_refused_as_present() {
    let pair = Pair::new();
    let error = pair.on_host(|socket| make_veth(socket, &pair.pod)).expect_err("the name is taken");
    assert!(error.is_present(), "{error}");
    assert!(error.to_string().contains("cali0"), "{error}");
}

#[test]
fn settings_read_back_and_a_link_is_found_by_index_name_and_listing() {
    let pair = Pair::new();
    pair.on_host(|socket| {
        let index = socket.link(&name("cali0")).expect("an answer").expect("the link").index;
        let alias = Some("net/c1/eth0");
        let new = name("cali1");
        let change = LinkChange { up: Some(true), mtu: Some(1300), name: Some(&new), alias, ..LinkChange::default() };
        socket.set_link(index, &change).expect("a changed link");
        let link = socket.link_by_index(index).expect("an answer").expect("the link");
        assert_eq!((link.up, link.mtu, link.alias.as_str(), &link.name), (true, 1300, "net/c1/eth0", &new));
        assert!(socket.links().expect("a listing").contains(&link));
        assert!(socket.link(&name("cali0")).expect("an answer").is_none(), "the old name is free");
        assert!(!socket.has_qdisc(index).expect("an answer"), "a bare veth queues nothing");
    });
}

#[test]
fn a_link_moves_to_another_namespace() {
    let pair = Pair::new();
    let elsewhere = namespace::create().expect("a namespace");
    pair.on_host(|socket| {
        let index = socket.link(&name("cali0")).expect("an answer").expect("the link").index;
        let change = LinkChange { namespace: Some(elsewhere.as_fd()), ..LinkChange::default() };
        socket.set_link(index, &change).expect("a moved link");
        assert!(socket.link(&name("cali0")).expect("an answer").is_none());
    });
    assert!(within(&elsewhere, |socket| socket.link(&name("cali0"))).expect("an answer").is_some());
}

#[test]
fn deleting_one_end_takes_the_other_and_deleting_again_says_it_was_not_there() {
    let pair = Pair::new();
    pair.on_host(|socket| {
        let index = socket.link(&name("cali0")).expect("an answer").expect("the link").index;
        assert!(socket.delete_link(index).expect("deleted"));
        assert!(!socket.delete_link(index).expect("nothing to delete"));
        assert!(socket.link_by_index(index).expect("an answer").is_none());
    });
    assert!(pair.in_pod(|socket| socket.link(&name("eth0"))).expect("an answer").is_none());
}

#[test]
fn addresses_of_both_families_are_there_at_once_and_adding_again_succeeds() {
    let pair = Pair::new();
    pair.in_pod(|socket| {
        let interface = up(socket, "eth0");
        for (address, length) in [(ip("10.65.0.2"), 32), (ip("fd00:65::2"), 128)] {
            socket.add_address(interface, address, length, true).expect("an address");
            socket.add_address(interface, address, length, true).expect("the same again");
            let found = socket.addresses().expect("a listing");
            let own: Vec<_> = found.iter().filter(|found| found.address == address).collect();
            assert_eq!(own.len(), 1, "{address}");
            assert_eq!((own[0].prefix_len, own[0].interface, own[0].tentative), (length, interface, false));
        }
    });
}

fn pod_routes(interface: Ifindex) -> [Route; 3] {
    let route = |destination: &str, gateway: Option<&str>, scope| {
        let destination = destination.parse().expect("a network");
        Route { gateway: gateway.map(ip), scope, ..Route::new(destination, interface, 3) }
    };
    [
        route("169.254.1.1/32", None, Scope::Link),
        route("0.0.0.0/0", Some("169.254.1.1"), Scope::Global),
        route("::/0", Some("fe80::ecee:eeff:feee:eeee"), Scope::Global),
    ]
}

#[test]
fn routes_of_both_families_read_back_equal_before_the_other_end_is_up() {
    let pair = Pair::new();
    pair.in_pod(|socket| {
        let interface = up(socket, "eth0");
        socket.add_address(interface, ip("10.65.0.2"), 32, true).expect("an address");
        socket.add_address(interface, ip("fd00:65::2"), 128, true).expect("an address");
        for route in pod_routes(interface) {
            socket.replace_route(&route).expect("a route");
            socket.replace_route(&route).expect("the same again");
            let found = socket.routes().expect("a listing");
            assert_eq!(found.iter().filter(|found| **found == route).count(), 1, "{route:?} in {found:#?}");
        }
        for route in pod_routes(interface).into_iter().rev() {
            assert!(socket.delete_route(&route).expect("deleted"), "{route:?}");
            assert!(!socket.delete_route(&route).expect("nothing to delete"), "{route:?}");
        }
    });
}

#[test]
fn routes_to_nowhere_and_of_a_metric_read_back_equal_and_stand_beside_others() {
    let pair = Pair::new();
    pair.on_host(|socket| {
        let interface = up(socket, "cali0");
        for destination in ["10.65.0.2/32", "fd00:65::2/128"] {
            let scope = if destination.contains(':') { Scope::Global } else { Scope::Link };
            let [beside, ..] = pod_routes(interface);
            let beside = Route { destination: destination.parse().expect("a network"), scope, ..beside };
            let nowhere = Route {
                interface: Ifindex(0),
                scope: Scope::Global,
                protocol: 85,
                kind: RouteKind::Blackhole,
                metric: u32::MAX,
                ..beside.clone()
            };
            let far = Route { metric: 2000, ..beside.clone() };
            for route in [&nowhere, &beside, &far] {
                socket.replace_route(route).expect("a route");
            }
            let found = socket.routes().expect("a listing");
            for route in [nowhere, far, beside] {
                assert_eq!(found.iter().filter(|found| **found == route).count(), 1, "{route:?} in {found:#?}");
                assert!(socket.delete_route(&route).expect("deleted"), "{route:?}");
                assert!(!socket.delete_route(&route).expect("nothing to delete"), "{route:?}");
            }
        }
    });
}

#[test]
fn a_route_of_another_protocol_or_table_is_not_deleted_in_its_place() {
    let pair = Pair::new();
    pair.on_host(|socket| {
        let interface = up(socket, "cali0");
        let destination = Cidr::host(ip("10.65.0.2"));
        let foreign = Route { scope: Scope::Link, table: 1000, ..Route::new(destination, interface, 4) };
        socket.replace_route(&foreign).expect("a route");
        assert!(!socket.delete_route(&Route { protocol: 3, ..foreign.clone() }).expect("no such route"));
        assert!(!socket.delete_route(&Route { table: MAIN_TABLE, ..foreign.clone() }).expect("no such route"));
        assert!(socket.routes().expect("a listing").contains(&foreign));
    });
}

#[test]
fn a_gateway_nobody_leads_to_needs_on_link() {
    let pair = Pair::new();
    pair.on_host(|socket| {
        let interface = up(socket, "cali0");
        // Until a namespace has its first address, the kernel takes no gateway for a unicast address.
        socket.add_address(interface, ip("198.51.100.1"), 32, false).expect("an address");
        let destination = "10.66.0.0/26".parse().expect("a network");
        let mut route = Route { gateway: Some(ip("192.0.2.9")), ..Route::new(destination, interface, 80) };
        let error = socket.replace_route(&route).expect_err("the gateway is unknown");
        assert!(matches!(error.reason, Reason::Kernel(_)) && error.to_string().contains("10.66.0.0/26"), "{error}");
        route.on_link = true;
        socket.replace_route(&route).expect("an on-link route");
        assert!(socket.routes().expect("a listing").contains(&route));
    });
}

#[test]
fn neighbours_are_permanent_replaced_in_place_and_deleted_once() {
    let pair = Pair::new();
    pair.on_host(|socket| {
        let interface = up(socket, "cali0");
        for address in [ip("10.65.0.2"), ip("fd00:65::2")] {
            socket.replace_neighbour(interface, address, HOST_MAC).expect("a neighbour");
            socket.replace_neighbour(interface, address, POD_MAC).expect("another MAC");
            let wanted = Neighbour { interface, address, mac: Some(POD_MAC), permanent: true };
            assert!(socket.neighbours().expect("a listing").contains(&wanted));
            assert!(socket.delete_neighbour(interface, address).expect("deleted"));
            assert!(!socket.delete_neighbour(interface, address).expect("nothing to delete"));
        }
    });
}

#[test]
fn what_belongs_to_an_absent_interface_is_an_error_that_says_absent() {
    let pair = Pair::new();
    pair.on_host(|socket| {
        let nowhere = Ifindex(4711);
        let error = socket.add_address(nowhere, ip("10.0.0.1"), 32, false).expect_err("no such interface");
        assert!(error.is_absent() && error.to_string().contains("10.0.0.1/32"), "{error}");
        let error = socket.replace_neighbour(nowhere, ip("10.0.0.1"), POD_MAC).expect_err("no such interface");
        assert!(error.is_absent(), "{error}");
        assert!(!socket.has_qdisc(nowhere).expect("an answer"));
    });
}

#[test]
fn sysctls_are_those_of_the_namespace_the_work_is_done_in() {
    let pair = Pair::new();
    namespace::inside(&pair.host, || {
        let held = sysctl::Families::open();
        held.write("ipv4/conf/cali0/forwarding", "1").expect("a sysctl");
        assert_eq!(sysctl::read("ipv4/conf/cali0/forwarding").expect("a sysctl"), "1");
        assert!(sysctl::read("ipv4/conf/eth0/forwarding").is_err(), "eth0 is in the other namespace");
        for (path, value) in [("ipv4/conf/cali0/forwarding", Some("1")), ("ipv6/conf/cali0/forwarding", Some("0"))] {
            assert_eq!(held.read(path).ok().as_deref(), value, "{path}");
        }
        held.write("ipv4/conf/cali0/forwarding", "0").expect("a sysctl");
        assert_eq!(held.read("ipv4/conf/cali0/forwarding").expect("a sysctl"), "0", "the value of now");
        assert!(held.read("ipv4/conf/eth0/forwarding").is_err(), "eth0 is in the other namespace");
        let refused = held.write("ipv4/conf/cali0/forwarding", "maybe").expect_err("no such value");
        assert!(refused.to_string().starts_with("write sysctl net/ipv4/conf/cali0/forwarding: "), "{refused}");
        assert!(matches!(held.read("ipv4/../core/somaxconn"), Err(SysctlError::Path(_))));
        assert!(held.read("core/somaxconn").is_ok(), "of no family");
    })
    .expect("inside");
    assert!(sysctl::read("ipv4/conf/cali0/forwarding").is_err(), "the caller's thread has not moved");
}

#[test]
fn a_namespace_is_itself_and_no_other_and_a_file_is_none() {
    let (one, other) = (namespace::create().expect("a namespace"), namespace::create().expect("a namespace"));
    assert!(namespace::same(one.as_fd(), one.as_fd()).expect("an answer"));
    assert!(!namespace::same(one.as_fd(), other.as_fd()).expect("an answer"));
    let file = namespace::open("/dev/null".as_ref()).expect("it opens");
    assert!(namespace::inside(&file, || ()).is_err(), "it is no namespace");
    let error = namespace::open("/run/netns/there-is-none".as_ref()).expect_err("nothing there");
    assert!(error.to_string().contains("there-is-none"), "{error}");
}

#[test]
fn a_watch_tells_of_links_addresses_routes_and_neighbours() {
    let pair = Pair::new();
    let mut watch = namespace::inside(&pair.host, watch::Watch::open).expect("inside").expect("a watch");
    pair.on_host(|socket| {
        let interface = up(socket, "cali0");
        socket.add_address(interface, ip("192.0.2.1"), 24, false).expect("an address");
        socket.replace_neighbour(interface, ip("192.0.2.9"), POD_MAC).expect("a neighbour");
        socket.delete_link(interface).expect("deleted");
    });
    let (mut address, mut route, mut neighbour) = (false, false, false);
    for event in &mut watch {
        match event.expect("an event") {
            watch::Event::Address(found) => address |= found.address == ip("192.0.2.1"),
            watch::Event::Route(found) => route |= found.destination.to_string() == "192.0.2.0/24",
            watch::Event::Neighbour(found) => neighbour |= found.mac == Some(POD_MAC) && found.permanent,
            watch::Event::LinkGone(link) if link.name == name("cali0") => break,
            _ => {}
        }
    }
    assert!(address && route && neighbour, "address {address}, route {route}, neighbour {neighbour}");
}

#[test]
fn a_clsact_is_made_once_listed_and_taken_away_once() {
    let pair = Pair::new();
    pair.on_host(|socket| {
        let index = socket.link(&name("cali0")).expect("an answer").expect("the link").index;
        assert!(socket.filtered_links().expect("a listing").is_empty());
        assert!(socket.add_clsact(index).expect("a clsact"));
        assert!(!socket.add_clsact(index).expect("an answer"), "there is one");
        assert_eq!(socket.filtered_links().expect("a listing"), [index].into());
        let side = Side::Egress;
        assert!(socket.filters(index, side).expect("a listing").is_empty());
        let absent = Filter { interface: index, side, priority: 1, handle: 1, name: "x".into(), program: None };
        assert!(!socket.delete_filter(&absent).expect("an answer"));
        assert!(socket.delete_clsact(index).expect("an answer"));
        assert!(!socket.delete_clsact(index).expect("an answer"));
        assert!(socket.add_clsact(Ifindex(4711)).expect_err("no such link").is_absent());
    });
}

#[test]
fn a_watch_tells_without_waiting_what_has_happened_so_far() {
    let pair = Pair::new();
    let mut watch = namespace::inside(&pair.host, watch::Watch::open).expect("inside").expect("a watch");
    assert_eq!(watch.so_far().expect("an answer"), [], "nothing has happened");
    let destination = Cidr::host(ip("10.65.0.2"));
    let route = |interface| Route { scope: Scope::Link, ..Route::new(destination, interface, 84) };
    let made = pair.on_host(|socket| {
        let made = route(up(socket, "cali0"));
        socket.replace_route(&made).expect("a route");
        made
    });
    // Events of our own changes are there when the change is.
    assert!(watch.so_far().expect("an answer").contains(&watch::Event::Route(made.clone())));
    pair.on_host(|_| run("tc qdisc add dev cali0 root tbf rate 1gbit burst 64kb latency 50ms"));
    assert!(watch.so_far().expect("an answer").contains(&watch::Event::Queue(made.interface)));
    pair.on_host(|_| run("ip route replace blackhole 10.65.0.2/32 proto 84"));
    let nowhere = Route { interface: Ifindex(0), scope: Scope::Global, kind: RouteKind::Blackhole, ..made };
    assert!(watch.so_far().expect("an answer").contains(&watch::Event::Route(nowhere.clone())), "it took its place");
    pair.on_host(|_| run("ip route replace unreachable 10.65.0.2/32 proto 84"));
    let refused = Route { kind: RouteKind::Other, ..nowhere };
    assert!(watch.so_far().expect("an answer").contains(&watch::Event::Route(refused)), "that took its place");
    pair.on_host(|_| run("ip link set lo up"));
    pair.on_host(|_| run("ip route replace 10.65.0.2/32 nexthop dev lo nexthop dev cali0"));
    let several = |event: &watch::Event| matches!(event, watch::Event::Route(route) if route.kind == RouteKind::Other);
    assert!(watch.so_far().expect("an answer").iter().any(several), "several next hops took its place");
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let mut command = std::process::Command::new(words.next().expect("a program"));
    assert!(command.args(words).status().expect("iproute2 is installed").success(), "{line}");
}

#[test]
fn changes_made_together_are_all_done_and_the_one_that_fails_is_named() {
    let pair = Pair::new();
    pair.in_pod(|socket| {
        let pod = socket.link(&name("eth0")).expect("an answer").expect("it is there").index;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        let missing = Ifindex(4711);
        let outcome = socket.together(|socket| {
            socket.set_link(netlink::LOOPBACK, &up)?;
            socket.set_link(pod, &up)?;
            socket.add_address(missing, ip("10.0.0.9"), 32, true)?;
            socket.add_address(pod, ip("10.0.0.7"), 32, true)?;
            socket.add_address(pod, ip("fd00::7"), 128, true)
        });
        let error = outcome.expect_err("no such interface").to_string();
        assert!(error.contains("10.0.0.9/32 to interface 4711"), "{error}");
        let addresses = socket.addresses().expect("listed");
        for wanted in ["10.0.0.7", "fd00::7", "127.0.0.1"] {
            assert!(addresses.iter().any(|found| found.address == ip(wanted)), "{wanted}: {addresses:?}");
        }
        assert!(socket.together(|_| Ok(())).is_ok(), "nothing is no change");
        let again = socket.together(|socket| socket.add_address(pod, ip("10.0.0.8"), 32, true));
        assert!(again.is_ok(), "what was asked before does not disturb: {again:?}");
    });
}
