//! The promises of a pass, against a kernel that panics when one is broken.
//! In: small Desireds, and faults. Out: the order of calls, what stays closed, and what is reached in the end.
//! Invariant: the fake checks every single call; the tests look at order and outcome.
//! Never: a kernel, a time or a thread.

use super::{
    Reconciler,
    fake::{Handle, Kernel, foreign_route},
};
use crate::{
    Applied, DriftKind, Extent, OpenError, host::ROUTE_PROTOCOL, network::Seen, programs::Hook, tables::Tables, uplink,
};
use abi::endpoint::ENDPOINT_QUEUED;
use answers::{OWN, with_services};
use calc::{
    Desired, HostEndpointSpec, Judges, Latest, Touched,
    desired::{AddressSpec, EndpointSpec, Owner},
};
use model::{AttachmentId, Direction, IfaceName, Ifindex, Mac, PodId, Protocol, ServiceId, ServicePortId};
use netlink::Neighbour;
use policy::{Class, RuleSet};
use service::{Backend, Backends, Balance, Frontend, Kind};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};

mod answers;
mod ipip;
mod node_routes;
mod own;
mod tunnel;

const UPLINK: u32 = 2;
const OTHER: u32 = 3;

type Node = Reconciler<Handle, Handle, Handle>;

fn id(number: u32) -> AttachmentId {
    AttachmentId { network: "tortie".into(), container: format!("c{number}"), interface: "eth0".into() }
}

fn address(number: u32) -> IpAddr {
    format!("10.65.0.{number}").parse().expect("an address")
}

fn rule_set(direction: Direction) -> Arc<RuleSet> {
    Arc::new(RuleSet::new(direction))
}

/// Pods by number: interface `caliN` with index N and address 10.65.0.N.
fn pods(numbers: &[u32]) -> Desired {
    let mut desired = Desired::default();
    for number in numbers {
        let spec = EndpointSpec {
            masqueraded: [false; 2],
            pod: PodId::new("default", &number.to_string()),
            interface: IfaceName(format!("cali{number}")),
            mac: Mac([2, 0, 0, 0, 1, 1]),
            mtu: 1500,
            addresses: vec![address(*number)],
            floating: Vec::new(),
            ingress: rule_set(Direction::Ingress),
            egress: rule_set(Direction::Egress),
            sources: None,
            keep_established: false,
        };
        desired.endpoints.insert(id(*number), spec);
        let class = Arc::new(Class::default());
        desired.addresses.insert(address(*number), AddressSpec { class, owner: Owner::Endpoint(id(*number)) });
    }
    desired
}

/// With host endpoints on these interfaces of the node's own; `closed`: nothing is let in or out, not even on forward.
fn with_hosts(mut desired: Desired, interfaces: &[&str], closed: bool) -> Desired {
    let judges = || Judges { ingress: Some(rule_set(Direction::Ingress)), egress: Some(rule_set(Direction::Egress)) };
    for name in interfaces {
        let interface = IfaceName((*name).to_owned());
        let spec = HostEndpointSpec {
            name: format!("host-{name}"),
            interface: interface.clone(),
            untracked: Judges::default(),
            pre_dnat: Judges::default(),
            forward: if closed { judges() } else { Judges::default() },
            local: judges(),
            keep_established: false,
        };
        desired.host_endpoints.insert(interface, spec);
    }
    desired
}

/// A kernel with an uplink, another interface of its own, three pods' links, and things of other people.
fn kernel() -> Rc<RefCell<Kernel>> {
    let mut kernel = Kernel::default();
    kernel.add_link(UPLINK, "eth0");
    kernel.link(Ifindex(UPLINK)).expect("the uplink").up = true;
    kernel.add_link(OTHER, "eth1");
    for number in [11, 12, 13] {
        kernel.add_link(number, &format!("cali{number}"));
    }
    let foreign = [foreign_route(UPLINK, "0.0.0.0/0", 3), foreign_route(12, "10.65.0.12/32", 4)];
    kernel.seen.routes.extend(foreign);
    kernel.seen.neighbours.insert(neighbour(UPLINK, "192.0.2.1", true));
    kernel.seen.neighbours.insert(neighbour(11, "10.65.0.77", false));
    Rc::new(RefCell::new(kernel))
}

fn neighbour(interface: u32, address: &str, permanent: bool) -> Neighbour {
    let address = address.parse().expect("an address");
    Neighbour { interface: Ifindex(interface), address, mac: Some(Mac([6; 6])), permanent }
}

/// An agent that begins on this kernel, with nothing remembered.
fn node(kernel: &Rc<RefCell<Kernel>>) -> Node {
    let folder = Rc::new(tempfile::tempdir().expect("a directory"));
    kernel.borrow_mut().folders.push(folder.clone());
    node_in(kernel, folder.path().to_owned())
}

fn node_in(kernel: &Rc<RefCell<Kernel>>, state_dir: std::path::PathBuf) -> Node {
    let tables = Tables::adopt(Handle::new(kernel)).expect("tables that can be read");
    let uplink = Some(IfaceName("eth0".into()));
    let mut node = Reconciler::new(Handle::new(kernel), Handle::new(kernel), tables, uplink, state_dir);
    node.start().expect("the uplink is there");
    node
}

fn apply(node: &mut Node, desired: &Desired) -> Applied {
    let applied = node.apply(desired);
    node.settle().expect("a sweep");
    applied
}

fn position(kernel: &Rc<RefCell<Kernel>>, text: &str) -> usize {
    let kernel = kernel.borrow();
    let found = kernel.done.iter().position(|call| call.starts_with(text));
    found.unwrap_or_else(|| panic!("no {text:?} in {:#?}", kernel.done))
}

/// What matters of a kernel's state: not its ids and generations.
#[derive(Debug, PartialEq)]
struct Outcome {
    seen: Seen,
    settings: BTreeMap<String, String>,
    attached: BTreeSet<(u32, Hook)>,
    reached: Vec<Option<u32>>,
    /// Interfaces of the node's own that are judged.
    judged: Vec<u32>,
}

fn outcome(kernel: &Kernel) -> Outcome {
    let Kernel { seen, settings, attached, .. } = kernel.clone();
    let judged =
        [UPLINK, OTHER].into_iter().filter(|index| kernel.tables.held.interfaces.contains_key(index)).collect();
    let reached = (11..=13).map(|number| kernel.leads_to(address(number))).collect();
    Outcome { seen, settings, attached, reached, judged }
}

#[test]
fn programs_come_before_the_commit_and_the_commit_before_the_link_is_up_and_reached() {
    let kernel = kernel();
    let applied = apply(&mut node(&kernel), &pods(&[11]));
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let order = ["set ipv4/conf/cali11/forwarding", "attach from_workload 11", "Generation", "up 11", "neighbour 11"];
    let places: Vec<_> = order.iter().map(|text| position(&kernel, text)).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(position(&kernel, "attach to_workload 11") < position(&kernel, "Generation"));
    assert!(position(&kernel, "up 11") < position(&kernel, "route 11"));
}

#[test]
fn a_pod_that_leaves_is_forgotten_by_the_tables_before_the_way_to_it_goes() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11, 12]));
    kernel.borrow_mut().done.clear();
    apply(&mut node, &pods(&[12]));
    assert!(position(&kernel, "Generation") < position(&kernel, "delete route 11"));
    assert!(position(&kernel, "Generation") < position(&kernel, "delete neighbour 11"));
    assert_eq!(kernel.borrow().leads_to(address(11)), None);
}

#[test]
fn routes_neighbours_and_links_of_others_are_never_touched() {
    let kernel = kernel();
    let before = kernel.borrow().seen.clone();
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11, 12]));
    apply(&mut node, &Desired::default());
    let seen = &kernel.borrow().seen;
    assert_eq!(seen.routes, before.routes);
    assert_eq!(seen.neighbours, before.neighbours);
    assert_eq!(seen.links[&IfaceName("eth0".into())], before.links[&IfaceName("eth0".into())]);
}

#[test]
fn what_a_former_agent_left_and_nobody_wants_goes() {
    let kernel = kernel();
    let left = foreign_route(13, "10.65.0.99/32", ROUTE_PROTOCOL);
    kernel.borrow_mut().seen.routes.insert(left.clone());
    kernel.borrow_mut().seen.neighbours.insert(neighbour(13, "10.65.0.99", true));
    apply(&mut node(&kernel), &pods(&[11]));
    assert!(!kernel.borrow().seen.routes.contains(&left));
    assert!(!kernel.borrow().seen.neighbours.contains(&neighbour(13, "10.65.0.99", true)));
}

#[test]
fn the_same_desired_twice_changes_nothing() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11, 12]));
    kernel.borrow_mut().done.clear();
    apply(&mut node, &pods(&[11, 12]));
    assert_eq!(kernel.borrow().done, Vec::<String>::new());
}

/// What a look found.
fn look(node: &mut Node, desired: &Desired) -> Vec<(DriftKind, String)> {
    let looked = node.look(desired, Extent::Everything);
    assert!(looked.failed.is_empty(), "{:?}", looked.failed);
    node.settle().expect("a sweep");
    looked.repaired.into_iter().map(|drift| (drift.kind, drift.found)).collect()
}

#[test]
fn a_look_at_what_nobody_touched_finds_nothing_and_changes_nothing() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11, 12]));
    kernel.borrow_mut().done.clear();
    for _ in 0..3 {
        assert_eq!(look(&mut node, &pods(&[11, 12])), []);
    }
    assert_eq!(kernel.borrow().done, Vec::<String>::new());
}

#[test]
fn whatever_others_change_is_found_by_the_next_look_put_back_and_named() {
    type Hand = fn(&mut Kernel);
    let hands: [(DriftKind, &str, Hand); 16] = [
        (DriftKind::Setting, "ipv4/conf/cali11/forwarding was 0", |kernel| {
            kernel.settings.insert("ipv4/conf/cali11/forwarding".into(), "0".into());
        }),
        (DriftKind::Setting, "ipv4/conf/eth0/forwarding was 0", |kernel| {
            kernel.settings.insert("ipv4/conf/eth0/forwarding".into(), "0".into());
        }),
        (DriftKind::Program, "from_workload on cali11", |kernel| {
            kernel.attached.remove(&(11, Hook::FromWorkload));
        }),
        (DriftKind::Program, "to_workload on cali12", |kernel| {
            kernel.attached.remove(&(12, Hook::ToWorkload));
        }),
        (DriftKind::Program, "from_uplink on eth0", |kernel| {
            kernel.attached.remove(&(UPLINK, Hook::FromUplink));
        }),
        (DriftKind::Program, "to_uplink on eth0", |kernel| {
            kernel.attached.remove(&(UPLINK, Hook::ToUplink));
        }),
        (DriftKind::Program, "from_host_endpoint on eth0", |kernel| {
            kernel.attached.remove(&(UPLINK, Hook::FromHostEndpoint));
        }),
        (DriftKind::Program, "to_host_endpoint on eth1", |kernel| {
            kernel.attached.remove(&(OTHER, Hook::ToHostEndpoint));
        }),
        (DriftKind::Table, "INTERFACES entry 3", |kernel| {
            kernel.tables.held.interfaces.remove(&OTHER);
        }),
        (DriftKind::Route, "10.65.0.11 on cali11", |kernel| kernel.seen.routes.retain(|route| route.interface.0 != 11)),
        (DriftKind::Neighbour, "10.65.0.11 on cali11", |kernel| {
            kernel.seen.neighbours.retain(|found| !(found.interface.0 == 11 && found.permanent));
        }),
        (DriftKind::Link, "cali11 was down", |kernel| kernel.link(Ifindex(11)).expect("its link").up = false),
        (DriftKind::Link, "cali11 had another MAC", |kernel| {
            kernel.link(Ifindex(11)).expect("its link").mac = Some(Mac([2; 6]));
        }),
        (DriftKind::Table, "INTERFACES entry 11", |kernel| {
            kernel.tables.held.interfaces.remove(&11);
        }),
        (DriftKind::Table, "ADDRESSES entry 10.65.0.11", |kernel| {
            let key = crate::tables::prefix::address_key(address(11)).expect("a plain address");
            kernel.tables.held.addresses.remove(&key);
        }),
        (DriftKind::Table, "GENERATION", |kernel| kernel.tables.held.generation += 7),
    ];
    let wanted = with_services(with_hosts(pods(&[11, 12]), &["eth0", "eth1"], true), &[(OWN, OWN)]);
    let reference = kernel();
    apply(&mut node(&reference), &wanted);
    for (kind, text, hand) in hands {
        let kernel = kernel();
        let mut node = node(&kernel);
        apply(&mut node, &wanted);
        hand(&mut kernel.borrow_mut());
        let found = look(&mut node, &wanted);
        assert!(matches!(&found[..], [(of, says)] if *of == kind && says.contains(text)), "{text}: {found:?}");
        assert_eq!(outcome(&kernel.borrow()), outcome(&reference.borrow()), "{text}");
        assert_eq!(look(&mut node, &wanted), [], "{text}: found once");
    }
}

#[test]
fn a_look_at_what_the_kernel_told_of_asks_it_nothing_else() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11, 12]));
    kernel.borrow_mut().seen.routes.retain(|route| route.interface.0 != 11);
    kernel.borrow_mut().settings.insert("ipv4/conf/cali11/forwarding".into(), "0".into());
    let before = kernel.borrow().calls;
    let looked = node.look(&pods(&[11, 12]), Extent::Told);
    assert!(matches!(&looked.repaired[..], [drift] if drift.kind == DriftKind::Route), "{:?}", looked.repaired);
    assert_eq!(kernel.borrow().calls - before, 2, "a listing and the route");
    assert_eq!(look(&mut node, &pods(&[11, 12])).len(), 1, "the setting is found by one that asks");
}

#[test]
fn a_link_that_is_made_anew_is_guarded_and_served_anew() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11]));
    kernel.borrow_mut().remove_link(11);
    let looked = node.look(&pods(&[11]), Extent::Everything);
    assert_eq!((looked.repaired.len(), looked.applied.map(|applied| applied.failed.len())), (0, Some(1)));
    assert!(node.look(&pods(&[11]), Extent::Everything).applied.is_none(), "a pass a change, not a pass a look");
    kernel.borrow_mut().add_link(21, "cali11");
    let found = look(&mut node, &pods(&[11]));
    assert!(matches!(&found[..], [(DriftKind::Link, says)] if says.contains("is there again")), "{found:?}");
    assert_eq!(kernel.borrow().leads_to(address(11)), Some(21));
    assert!(kernel.borrow().is_guarded(21) && node.in_force.contains(&id(11)));
}

#[test]
fn an_endpoint_that_cannot_be_guarded_again_is_let_go() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11, 12]));
    kernel.borrow_mut().attached.remove(&(11, Hook::FromWorkload));
    kernel.borrow_mut().refuses = Some("attach from_workload 11");
    let looked = node.look(&pods(&[11, 12]), Extent::Everything);
    assert!(!looked.failed.is_empty() && looked.repaired.is_empty());
    node.settle().expect("a sweep");
    assert!(!kernel.borrow().is_in_force(11), "closed rather than unguarded");
    assert!(kernel.borrow().is_in_force(12));
    kernel.borrow_mut().refuses = None;
    assert!(apply(&mut node, &pods(&[11, 12])).failed.is_empty(), "and served again by the next pass");
    assert!(kernel.borrow().is_in_force(11));
}

#[test]
fn a_host_endpoint_is_guarded_before_it_is_judged_and_let_go_only_after_its_interface_was_opened() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let hosts = with_hosts(pods(&[11]), &["eth0", "eth1"], true);
    assert!(apply(&mut node, &hosts).failed.is_empty());
    for program in ["from_host_endpoint", "to_host_endpoint"] {
        assert!(position(&kernel, &format!("attach {program} {UPLINK}")) < position(&kernel, "Interface(2"));
        assert!(position(&kernel, &format!("attach {program} {OTHER}")) < position(&kernel, "Generation"));
    }
    assert_eq!(node.hosts_in_force.len(), 2);
    kernel.borrow_mut().done.clear();
    assert!(apply(&mut node, &with_hosts(pods(&[11]), &["eth1"], true)).failed.is_empty());
    // The fake refuses to detach before the tables have forgotten the interface and all packets of before are through.
    assert!(position(&kernel, "Generation") < position(&kernel, "DeleteInterface(2"));
    assert!(position(&kernel, "DeleteInterface(2") < position(&kernel, "detach from_host_endpoint 2"));
    let attached = kernel.borrow().attached.clone();
    assert_eq!([UPLINK, OTHER].map(|index| attached.contains(&(index, Hook::ToHostEndpoint))), [false, true]);
    assert!(attached.contains(&(UPLINK, Hook::FromUplink)), "the uplink's own stays");
}

#[test]
fn programs_stay_until_every_packet_that_one_of_them_judged_is_through() {
    let kernel = kernel();
    let mut node = node(&kernel);
    assert!(apply(&mut node, &with_hosts(pods(&[11]), &["eth0"], true)).failed.is_empty());
    kernel.borrow_mut().tables.slow = true;
    assert!(node.apply(&pods(&[11])).failed.is_empty());
    for graces in 0..2 {
        assert!(node.sweep().expect("a sweep"), "after {graces} graces");
        assert!(kernel.borrow().is_gated(UPLINK), "after {graces} graces");
        kernel.borrow_mut().tables.pass(1);
    }
    assert!(!node.sweep().expect("a sweep"));
    let attached = kernel.borrow().attached.clone();
    assert!(
        !attached.contains(&(UPLINK, Hook::FromHostEndpoint)) && !attached.contains(&(UPLINK, Hook::ToHostEndpoint))
    );
}

#[test]
fn programs_that_a_killed_agent_left_on_an_interface_without_host_endpoint_go_after_the_first_pass_and_not_before() {
    let kernel = kernel();
    let left = [Hook::FromHostEndpoint, Hook::ToHostEndpoint].map(|hook| (OTHER, hook));
    kernel.borrow_mut().attached.extend(left);
    let mut node = node(&kernel);
    assert!(
        kernel.borrow().done.contains(&format!("attach from_host_endpoint {OTHER}")),
        "the present program runs there"
    );
    node.settle().expect("a sweep");
    assert!(kernel.borrow().is_gated(OTHER), "nobody said yet what is wanted");
    assert!(apply(&mut node, &with_hosts(pods(&[11]), &["eth0"], false)).failed.is_empty());
    assert!(!kernel.borrow().attached.contains(&left[0]) && !kernel.borrow().attached.contains(&left[1]));
    assert!(kernel.borrow().is_gated(UPLINK));
}

#[test]
fn a_restart_opens_no_host_endpoint_until_the_datastore_said_everything() {
    let kernel = kernel();
    apply(&mut node(&kernel), &with_hosts(pods(&[11]), &["eth0"], true));
    let mut restarted = node(&kernel);
    restarted.settle().expect("a sweep");
    assert!(kernel.borrow().is_gated(UPLINK) && kernel.borrow().tables.held.interfaces.contains_key(&UPLINK));
    assert!(apply(&mut restarted, &pods(&[11])).failed.is_empty());
    assert!(!kernel.borrow().is_gated(UPLINK));
}

#[test]
fn an_interface_that_cannot_be_guarded_both_ways_stays_open_and_one_that_is_judged_stays_judged() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let hosts = with_hosts(pods(&[11]), &["eth0"], true);
    kernel.borrow_mut().refuses = Some("attach to_host_endpoint");
    let applied = apply(&mut node, &hosts);
    let named: Vec<_> = applied.failed.iter().map(|(item, _)| item.as_str()).collect();
    assert_eq!(named, ["host endpoint host-eth0 on eth0"], "named once");
    assert!(!kernel.borrow().tables.held.interfaces.contains_key(&UPLINK) && node.hosts_in_force.is_empty());
    kernel.borrow_mut().refuses = None;
    assert!(apply(&mut node, &hosts).failed.is_empty());
    assert_eq!(node.hosts_in_force.len(), 1);
    kernel.borrow_mut().attached.remove(&(UPLINK, Hook::ToHostEndpoint));
    kernel.borrow_mut().refuses = Some("attach to_host_endpoint");
    let looked = node.look(&hosts, Extent::Everything);
    assert!(!looked.failed.is_empty() && looked.repaired.is_empty());
    node.settle().expect("a sweep");
    assert!(kernel.borrow().tables.held.interfaces.contains_key(&UPLINK), "what comes in is judged on");
    assert!(node.hosts_in_force.is_empty(), "and what is half in force is not called so");
    kernel.borrow_mut().refuses = None;
    assert!(apply(&mut node, &hosts).failed.is_empty());
    assert_eq!(node.hosts_in_force.len(), 1);
}

/// Pods on a node where a foreign proxy translates.
fn beside(numbers: &[u32]) -> Desired {
    let mut desired = pods(numbers);
    desired.node.translates = true;
    desired
}

#[test]
fn every_way_off_the_node_has_a_program_before_anything_is_left_to_the_stack_and_keeps_it() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &beside(&[11]));
    let ways = [UPLINK, OTHER].map(|index| (index, Hook::ToHostEndpoint));
    for (index, _) in ways {
        assert!(position(&kernel, &format!("attach to_host_endpoint {index}")) < position(&kernel, "Generation"));
        assert!(!kernel.borrow().attached.contains(&(index, Hook::FromHostEndpoint)));
    }
    kernel.borrow_mut().attached.remove(&ways[1]);
    assert_eq!(look(&mut node, &beside(&[11])).len(), 1, "somebody detached it");
    assert!(ways.iter().all(|way| kernel.borrow().attached.contains(way)));
    // What was opened through the stack may still leave by it.
    apply(&mut node, &pods(&[11]));
    assert!(ways.iter().all(|way| kernel.borrow().attached.contains(way)));
    // The next agent serves by itself, and finds the other's rules.
    let mut resting = pods(&[11]);
    resting.node.beside = true;
    node = self::node(&kernel);
    apply(&mut node, &resting);
    assert!(ways.iter().all(|way| kernel.borrow().attached.contains(way)));
    assert!(!kernel.borrow().attached.contains(&(11, Hook::ToHostEndpoint)), "a pod's is no way off the node");
}

#[test]
fn nothing_is_left_to_the_stack_while_a_way_off_the_node_is_open() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let before = apply(&mut node, &pods(&[11])).generation;
    kernel.borrow_mut().refuses = Some("attach to_host_endpoint 3");
    let applied = apply(&mut node, &beside(&[11]));
    assert_eq!((applied.generation, applied.limited, applied.failed.len()), (before, true, 1));
    kernel.borrow_mut().refuses = None;
    assert!(apply(&mut node, &beside(&[11])).generation > before);
}

#[test]
fn settings_of_many_pods_are_looked_at_in_turn() {
    let kernel = kernel();
    let numbers: Vec<u32> = (11..111).collect();
    numbers.iter().skip(3).for_each(|number| kernel.borrow_mut().add_link(*number, &format!("cali{number}")));
    let mut node = node(&kernel);
    assert!(apply(&mut node, &pods(&numbers)).failed.is_empty());
    for number in &numbers {
        kernel.borrow_mut().settings.insert(format!("ipv4/conf/cali{number}/rp_filter"), "1".into());
    }
    let found: Vec<_> = (0..4).map(|_| look(&mut node, &pods(&numbers)).len()).collect();
    assert_eq!(found, [32, 32, 32, 4]);
}

#[test]
fn an_endpoint_that_cannot_be_guarded_is_closed_and_named_and_its_siblings_go_on() {
    for hook in ["attach from_workload 11", "attach to_workload 11"] {
        let kernel = kernel();
        kernel.borrow_mut().refuses = Some(hook);
        let mut node = node(&kernel);
        let applied = apply(&mut node, &pods(&[11, 12]));
        assert_eq!(applied.failed.iter().map(|(item, _)| item.clone()).collect::<Vec<_>>(), [id(11).to_string()]);
        assert_eq!([node.in_force.contains(&id(11)), node.in_force.contains(&id(12))], [false, true]);
        assert!(!kernel.borrow().is_in_force(11), "its slot is not ready");
        assert!(!kernel.borrow_mut().link(Ifindex(11)).expect("its link").up);
        kernel.borrow_mut().refuses = None;
        assert!(apply(&mut node, &pods(&[11, 12])).failed.is_empty(), "the next apply tries again");
        assert!(node.in_force.contains(&id(11)));
    }
}

#[test]
fn full_tables_leave_the_former_endpoints_in_force_and_the_new_one_out() {
    let kernel = kernel();
    kernel.borrow_mut().tables = crate::tables::fake::FakeStore::with_sizes(&[("INTERFACES", 1)]);
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11]));
    let applied = apply(&mut node, &pods(&[11, 12]));
    assert_eq!(applied.failed.len(), 1, "{:?}", applied.failed);
    assert_eq!([node.in_force.contains(&id(11)), node.in_force.contains(&id(12))], [true, false]);
    assert!(!kernel.borrow_mut().link(Ifindex(12)).expect("its link").up);
}

#[test]
fn without_a_commit_no_way_is_taken_away() {
    let kernel = kernel();
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11, 12]));
    kernel.borrow_mut().refuses = Some("Generation");
    let applied = node.apply(&pods(&[12]));
    assert_eq!(applied.failed.len(), 1, "{:?}", applied.failed);
    assert_eq!(kernel.borrow().leads_to(address(11)), Some(11), "the previous revision is in force");
    assert!(node.in_force.contains(&id(11)), "so its addresses are not free to be given away");
    assert!(kernel.borrow().seen.routes.contains(&crate::host::route(address(11), Ifindex(11))));
}

#[test]
fn an_interface_that_is_not_there_is_named_and_its_siblings_go_on() {
    let kernel = kernel();
    kernel.borrow_mut().remove_link(11);
    let mut node = node(&kernel);
    let applied = apply(&mut node, &pods(&[11, 12]));
    assert_eq!(applied.failed.len(), 1, "{:?}", applied.failed);
    assert_eq!(applied.ok, 1);
    kernel.borrow_mut().add_link(21, "cali11");
    assert!(apply(&mut node, &pods(&[11, 12])).failed.is_empty());
    assert_eq!(kernel.borrow().leads_to(address(11)), Some(21));
}

#[test]
fn a_missing_uplink_ends_a_start_but_not_a_pass() {
    let kernel = kernel();
    let mut running = node(&kernel);
    kernel.borrow_mut().remove_link(UPLINK);
    let applied = apply(&mut running, &pods(&[11]));
    assert_eq!((applied.ok, applied.failed.len()), (1, 1), "{:?}", applied.failed);
    let handle = || Handle::new(&kernel);
    let tables = Tables::adopt(handle()).expect("tables");
    let mut fresh = Reconciler::new(handle(), handle(), tables, Some(IfaceName("eth0".into())), "unused".into());
    assert!(matches!(fresh.start(), Err(OpenError::Uplink { .. })));
}

#[test]
fn a_restarted_agent_guards_again_and_changes_nothing_else() {
    let kernel = kernel();
    apply(&mut node(&kernel), &pods(&[11, 12]));
    kernel.borrow_mut().done.clear();
    let mut restarted = node(&kernel);
    let only_guards = |call: &String| call.starts_with("attach") || call == "Grace" || call.starts_with("FlushFlows");
    assert!(kernel.borrow().done.iter().all(only_guards), "{:?}", kernel.borrow().done);
    kernel.borrow_mut().done.clear();
    assert!(apply(&mut restarted, &pods(&[11, 12])).failed.is_empty());
    let network = ["set ", "mac", "up ", "neighbour", "route", "delete"];
    let touched = |call: &String| network.iter().any(|text| call.starts_with(text));
    assert!(!kernel.borrow().done.iter().any(touched), "{:?}", kernel.borrow().done);
}

#[test]
fn an_interface_with_a_queueing_discipline_is_marked_as_it_comes_and_goes() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let flags = |qdisc: &str, node: &mut Node| {
        kernel.borrow_mut().link(Ifindex(11)).expect("its link").qdisc = qdisc.into();
        apply(node, &pods(&[11]));
        let kernel = kernel.borrow();
        let slot = kernel.tables.held.interfaces[&11];
        kernel.tables.held.endpoints[&slot].flags & ENDPOINT_QUEUED
    };
    let seen = ["noop", "tbf", "noqueue"].map(|qdisc| flags(qdisc, &mut node));
    assert_eq!(seen, [0, ENDPOINT_QUEUED, 0]);
    kernel.borrow_mut().link(Ifindex(11)).expect("its link").qdisc = "fq".into();
    assert_eq!(look(&mut node, &pods(&[11])), [], "asked for, so no drift");
    let slot = kernel.borrow().tables.held.interfaces[&11];
    assert_eq!(kernel.borrow().tables.held.endpoints[&slot].flags & ENDPOINT_QUEUED, ENDPOINT_QUEUED);
}

#[test]
fn pkt_32_icmp_errors_come_from_an_address_that_is_the_hosts_own_now() {
    let kernel = kernel();
    let mut node = node(&kernel);
    let (mut number, mut before) = (0, Desired::default());
    let mut speaks = |host: &[&str], uplink: &[&str]| {
        let parse = |text: &&str| text.parse::<IpAddr>().expect("an address");
        kernel.borrow_mut().addresses = uplink.iter().map(|text| (UPLINK, parse(text))).collect();
        let mut desired = pods(&[11]);
        let own = || AddressSpec { class: Arc::new(Class::default()), owner: Owner::Host };
        desired.addresses.extend(host.iter().map(|text| (parse(text), own())));
        let differs = |key: &&IpAddr| before.addresses.get(*key) != desired.addresses.get(*key);
        let keys = before.addresses.keys().chain(desired.addresses.keys());
        let touched = Touched { addresses: keys.filter(differs).copied().collect(), ..Touched::default() };
        number += 1;
        assert!(node.apply(Latest::numbered(&desired, number, &touched)).failed.is_empty());
        before = desired;
        [0, 1].map(|family| kernel.borrow().tables.sources[&family])
    };
    let v4 = |last| abi::Address::from_v4([192, 0, 2, last]);
    let nobody = abi::Address::default();
    assert_eq!(speaks(&["192.0.2.1", "192.0.2.2"], &["192.0.2.2"]), [v4(2), nobody]);
    assert_eq!(speaks(&["192.0.2.1"], &[]), [v4(1), nobody]);
    assert_eq!(speaks(&["192.0.2.3"], &[]), [v4(3), nobody]);
    assert_eq!(speaks(&[], &[]), [nobody; 2]);
}

/// Pods come, one leaves, another comes; interfaces of the node's own get host endpoints and lose them.
fn steps() -> [Desired; 3] {
    [with_hosts(pods(&[11, 12]), &["eth0", "eth1"], false), with_hosts(pods(&[12, 13]), &["eth0"], true), pods(&[12])]
}

fn last() -> Desired {
    with_hosts(pods(&[11, 12, 13]), &["eth1"], false)
}

/// One life of an agent. What fails is left for the next pass.
fn life(node: &mut Node) {
    for desired in steps() {
        node.apply(&desired);
        let _ = node.settle();
    }
}

/// Interfaces that this life may set up are up only if they are guarded and judged, or their pod has left.
fn assert_closed(kernel: &Kernel, when: &str) {
    for link in kernel.seen.links.values().filter(|link| link.index.0 != UPLINK && link.up) {
        assert!(kernel.is_guarded(link.index.0), "{when}: {} is up without programs", link.name);
    }
    for route in kernel.seen.routes.iter().filter(|route| route.protocol == ROUTE_PROTOCOL) {
        assert!(kernel.is_guarded(route.interface.0), "{when}: a route to {} unguarded", route.destination);
    }
}

#[test]
fn a_fault_at_every_call_opens_nothing_and_the_next_pass_reaches_the_same() {
    let reference = kernel();
    let mut undisturbed = node(&reference);
    let start = reference.borrow().calls;
    life(&mut undisturbed);
    apply(&mut undisturbed, &last());
    let end = reference.borrow().calls;
    for at in start..end {
        let kernel = kernel();
        let mut node = node(&kernel);
        kernel.borrow_mut().fail_at = Some(at);
        life(&mut node);
        assert_closed(&kernel.borrow(), &format!("call {at}"));
        kernel.borrow_mut().fail_at = None;
        let applied = apply(&mut node, &last());
        assert!(applied.failed.is_empty(), "call {at}: {:?}", applied.failed);
        assert_eq!(outcome(&kernel.borrow()), outcome(&reference.borrow()), "call {at}");
    }
}

#[test]
fn an_agent_that_is_killed_at_any_call_is_followed_by_one_that_reaches_the_same() {
    let reference = kernel();
    let mut undisturbed = node(&reference);
    let start = reference.borrow().calls;
    life(&mut undisturbed);
    apply(&mut undisturbed, &last());
    for at in start..reference.borrow().calls {
        let kernel = kernel();
        let mut killed = node(&kernel);
        kernel.borrow_mut().fail_at = Some(at);
        // The first fault is the last thing that agent does: each later step runs on what the fault left.
        for desired in steps() {
            let applied = killed.apply(&desired);
            if !applied.failed.is_empty() || killed.settle().is_err() {
                break;
            }
        }
        drop(killed);
        kernel.borrow_mut().fail_at = None;
        let applied = apply(&mut node(&kernel), &last());
        assert!(applied.failed.is_empty(), "call {at}: {:?}", applied.failed);
        assert_eq!(outcome(&kernel.borrow()), outcome(&reference.borrow()), "call {at}");
    }
}

fn uplink_setting(kernel: &Rc<RefCell<Kernel>>, name: &str) -> String {
    kernel.borrow().settings[&format!("ipv6/conf/eth0/{name}")].clone()
}

#[test]
fn the_uplink_gets_back_what_it_had_before_the_first_agent() {
    let kernel = kernel();
    let before = kernel.borrow().settings.clone();
    let state = tempfile::tempdir().expect("a directory");
    for _ in 0..3 {
        drop(node_in(&kernel, state.path().into()));
        // Somebody else changes it while the agent is away: that is not what was before.
        kernel.borrow_mut().settings.insert("ipv6/conf/eth0/forwarding".into(), "9".into());
    }
    drop(node_in(&kernel, state.path().into()));
    assert_eq!(
        ["forwarding", "force_forwarding", "accept_ra"].map(|name| uplink_setting(&kernel, name)),
        ["1", "1", "2"]
    );
    uplink::give_back(&mut Handle::new(&kernel), state.path()).expect("settings");
    assert_eq!(kernel.borrow().settings, before);
}

#[test]
fn what_an_agent_set_is_never_taken_for_what_was_before() {
    let kernel = kernel();
    let state = tempfile::tempdir().expect("a directory");
    drop(node_in(&kernel, state.path().into()));
    std::fs::remove_file(state.path().join("sysctls.json")).expect("the file is there");
    drop(node_in(&kernel, state.path().into()));
    assert!(!state.path().join("sysctls.json").exists(), "nothing was changed, so nothing is written down");
}

#[test]
fn a_kernel_without_ipv6_or_with_an_older_one_has_those_settings_left_out() {
    let kernel = kernel();
    kernel.borrow_mut().settings.retain(|path, _| path.starts_with("ipv4"));
    assert!(apply(&mut node(&kernel), &pods(&[11])).failed.is_empty());
}

#[test]
fn where_the_whole_node_forwards_no_pods_interface_is_told_to_until_it_does_no_more() {
    let kernel = kernel();
    let told = || kernel.borrow().settings["ipv6/conf/cali11/force_forwarding"].clone();
    kernel.borrow_mut().settings.insert("ipv6/conf/all/forwarding".into(), "1".into());
    let mut node = node(&kernel);
    apply(&mut node, &pods(&[11]));
    assert_eq!(told(), "0");
    assert_eq!(look(&mut node, &pods(&[11])), []);
    // The kernel then says so of every interface.
    for path in ["all", "cali11"].map(|name| format!("ipv6/conf/{name}/forwarding")) {
        kernel.borrow_mut().settings.insert(path, "0".into());
    }
    assert!(!look(&mut node, &pods(&[11])).is_empty());
    assert_eq!(told(), "1");
}
