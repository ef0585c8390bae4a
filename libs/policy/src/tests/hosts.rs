//! Host endpoints with a small cast: what each layer says, and how rules find them.
//! In: policies as a test writes them. Out: what a layer of a host endpoint says of a flow, in a word.
//! Invariant: every question is asked of the evaluator and of the rows, and both agree.
//! Never: the way of a packet through the layers; programs have that.

use super::cast::{
    Cast, Draft, HOST, STRANGER, TCP, UDP, cidr, does, end, end_nets, end_ports, global, labels, policy, written,
};
use crate::{
    AtHost, DEFAULT_ALLOW, Failsafes, Flow, HostLayer, compiled::Compiled, evaluate_at, nearest::isolation_at,
};
use model::{
    Action, Direction, EntityMatch, Failsafe, HostEndpoint, HostInterface, IfaceName, Layer, NamedPort, PortMatch,
    Profile, Protocol, Rule, Selector,
};
use std::net::IpAddr;

use Direction::{Egress, Ingress};
use HostLayer::{Forward, Local, PreDnat, Untracked};

const FAR: &str = "198.51.100.1";

/// `eth0` of this node, expected at its address, with the label `host`.
fn eth0() -> HostEndpoint {
    HostEndpoint {
        name: "eth0".into(),
        node: "here".into(),
        interface: Some(HostInterface::Named(IfaceName("eth0".into()))),
        expected_ips: vec![HOST.parse().unwrap()],
        labels: labels(&[("host", "here")]),
        profiles: vec![],
        ports: vec![],
    }
}

/// A policy for every host endpoint, asked in this layer.
fn at(layer: Layer, name: &str) -> Draft {
    let mut draft = global("default", name).selecting("has(host)");
    draft.0.layer = layer;
    draft
}

const PLAIN: Layer = Layer::Ordinary { on_forward: false };
const ON_FORWARD: Layer = Layer::Ordinary { on_forward: true };

fn with(host: HostEndpoint, policies: impl IntoIterator<Item = Draft>) -> Cast {
    let mut cast = Cast::new(policies);
    cast.0.host_endpoints.push(host);
    cast
}

/// Protocol, port, source port.
type What = (Protocol, u16, u16);

/// What is said there of a flow; `-`: nothing is asked.
fn says(cast: &Cast, (layer, direction): (HostLayer, Direction), (from, to): (&str, &str), what: What) -> String {
    let address = |text: &str| -> IpAddr { text.parse().expect("because the test writes an address") };
    let (protocol, detail, source_port) = what;
    let flow = Flow { source: address(from), destination: address(to), protocol, detail, source_port };
    let question = AtHost { host: &cast.0.host_endpoints[0], layer, direction };
    let said = evaluate_at(&cast.0, question, &flow);
    let found = Compiled::of(&cast.0).at_host(0, layer, direction, &flow);
    assert_eq!(said, found, "evaluator and rows differ on {flow:?}");
    said.map_or("-".to_owned(), |said| said.verdict.to_string())
}

/// What comes in for this node's TCP port, from a stranger.
fn comes_in(cast: &Cast, layer: HostLayer, port: u16) -> String {
    says(cast, (layer, Ingress), (STRANGER, HOST), (TCP, port, 40_000))
}

/// What this node sends to a stranger's TCP port.
fn goes_out(cast: &Cast, layer: HostLayer, port: u16) -> String {
    says(cast, (layer, Egress), (HOST, STRANGER), (TCP, port, 40_000))
}

/// What is forwarded from one stranger to another's TCP port.
fn goes_through(cast: &Cast, direction: Direction, port: u16) -> String {
    says(cast, (Forward, direction), (STRANGER, FAR), (TCP, port, 40_000))
}

#[test]
fn hep_1_hep_2_without_policy_and_profile_nothing_passes_to_or_from_the_host_but_failsafes() {
    let cast = with(eth0(), []);
    assert_eq!([comes_in(&cast, Local, 80), goes_out(&cast, Local, 80)], ["deny", "deny"]);
    assert_eq!([comes_in(&cast, Local, 6443), goes_out(&cast, Local, 6443)], ["allow", "allow"]);
    for layer in [Untracked, PreDnat, Forward] {
        assert_eq!([comes_in(&cast, layer, 80), goes_out(&cast, layer, 80)], ["-", "-"]);
    }
}

#[test]
fn hep_3_protocols_without_ports_are_policed() {
    let rule = Rule { protocol: Some(Protocol(253)), ..does(Action::Allow) };
    let cast = with(eth0(), [at(PLAIN, "p").into([rule])]);
    let of = |number| says(&cast, (Local, Ingress), (STRANGER, HOST), (Protocol(number), 0, 0));
    assert_eq!([of(253), of(254)], ["allow", "deny"]);
}

#[test]
fn hep_4_hep_5_only_what_applies_on_forward_is_asked_of_what_is_forwarded_and_each_direction_by_itself() {
    let deny = || [does(Action::Deny)];
    let cast = with(eth0(), [at(PLAIN, "plain").into(deny()).out(deny())]);
    assert_eq!([goes_through(&cast, Ingress, 80), goes_through(&cast, Egress, 80)], ["-", "-"]);
    let web = Rule { protocol: Some(TCP), destination: end_ports(&[(80, 80)], &[]), ..does(Action::Allow) };
    let cast = with(eth0(), [at(ON_FORWARD, "forward").into([web])]);
    assert_eq!([goes_through(&cast, Ingress, 80), goes_through(&cast, Ingress, 81)], ["allow", "deny"]);
    assert_eq!(goes_through(&cast, Egress, 81), "-");
    assert_eq!(
        [comes_in(&cast, Local, 80), comes_in(&cast, Local, 81)],
        ["allow", "deny"],
        "it is asked of the host too"
    );
}

#[test]
fn hep_5_what_every_tier_passes_on_is_forwarded() {
    let cast = with(eth0(), [at(ON_FORWARD, "p").into([does(Action::Pass)])]);
    assert_eq!([goes_through(&cast, Ingress, 80), comes_in(&cast, Local, 80)], ["allow", "deny"]);
}

#[test]
fn hep_7_failsafe_ports_stay_open_to_the_host_alone_each_in_its_direction_and_network() {
    let deny = || [does(Action::Deny)];
    let mut cast = with(eth0(), [at(ON_FORWARD, "p").into(deny()).out(deny())]);
    assert_eq!([comes_in(&cast, Local, 22), goes_out(&cast, Local, 22)], ["allow", "deny"]);
    assert_eq!([goes_through(&cast, Ingress, 22), goes_through(&cast, Egress, 6443)], ["deny", "deny"]);
    let near = Failsafe { protocol: TCP, port: 22, net: Some(cidr("10.0.0.0/8")) };
    cast.0.failsafes = Failsafes { inbound: vec![near], outbound: vec![] };
    let from = |source| says(&cast, (Local, Ingress), (source, HOST), (TCP, 22, 40_000));
    assert_eq!([from("10.1.2.3"), from(STRANGER)], ["allow", "deny"]);
    assert_eq!([comes_in(&cast, Local, 6443), goes_out(&cast, Local, 6443)], ["deny", "deny"], "the list is replaced");
    assert_eq!(says(&cast, (Local, Ingress), ("10.1.2.3", HOST), (UDP, 22, 40_000)), "deny");
}

#[test]
fn hep_7_hep_9_a_policy_before_nat_does_not_close_a_failsafe_port() {
    let cast = with(eth0(), [at(Layer::PreDnat, "p").into([does(Action::Deny)])]);
    assert_eq!([comes_in(&cast, PreDnat, 22), comes_in(&cast, PreDnat, 80)], ["next", "deny"]);
}

#[test]
fn hep_8_untracked_policies_close_no_failsafe_port_nor_its_answers() {
    let deny = || [does(Action::Deny)];
    let cast = with(eth0(), [at(Layer::Untracked, "p").into(deny()).out(deny())]);
    let both = |port: u16, back: u16| {
        let there = says(&cast, (Untracked, Ingress), (STRANGER, HOST), (TCP, port, back));
        [there, says(&cast, (Untracked, Egress), (HOST, STRANGER), (TCP, back, port))]
    };
    assert_eq!(both(22, 40_000), ["next", "next"], "who comes by SSH is answered");
    assert_eq!(both(40_000, 2379), ["next", "next"], "etcd answers");
    assert_eq!(both(80, 40_000), ["deny", "deny"]);
    assert_eq!(goes_out(&cast, Untracked, 22), "deny", "from node to node by SSH: inbound alone is open");
    assert_eq!(comes_in(&cast, Local, 80), "deny", "and the others are asked as ever");
}

#[test]
fn hep_8_what_no_untracked_rule_decides_is_left_to_the_other_layers_in_both_directions() {
    let web = Rule { protocol: Some(TCP), destination: end_ports(&[(80, 80)], &[]), ..does(Action::Allow) };
    let cast = with(eth0(), [at(Layer::Untracked, "p").into([web])]);
    assert_eq!([comes_in(&cast, Untracked, 80), comes_in(&cast, Untracked, 81)], ["allow", "next"]);
    assert_eq!(goes_out(&cast, Untracked, 80), "next", "one direction makes the layer");
    let all = HostEndpoint { interface: Some(HostInterface::Any), ..eth0() };
    let cast = with(all, [at(Layer::Untracked, "p").into([does(Action::Deny)])]);
    assert_eq!(comes_in(&cast, Untracked, 80), "-", "it is for named interfaces");
}

#[test]
fn hep_9_before_nat_what_comes_in_is_asked_and_no_tier_has_an_end() {
    let node_port = Rule { protocol: Some(TCP), destination: end_ports(&[(32010, 32010)], &[]), ..does(Action::Allow) };
    let web = Rule { protocol: Some(TCP), destination: end_ports(&[(80, 80)], &[]), ..does(Action::Deny) };
    let cast = with(eth0(), [at(Layer::PreDnat, "p").into([node_port, web])]);
    let said = [32010, 80, 81].map(|port| comes_in(&cast, PreDnat, port));
    assert_eq!(said, ["allow", "deny", "next"]);
    assert_eq!(goes_out(&cast, PreDnat, 80), "-");
}

#[test]
fn hep_13_profiles_are_asked_in_the_order_of_the_list_and_one_that_is_not_there_denies() {
    let deny = Profile { name: "shut".into(), ingress: vec![does(Action::Deny)], egress: vec![], labels: labels(&[]) };
    let said = |names: &[&str]| {
        let profiles = names.iter().map(|name| (*name).to_owned()).collect();
        let mut cast = with(HostEndpoint { profiles, ..eth0() }, []);
        cast.0.profiles.push(deny.clone());
        [comes_in(&cast, Local, 80), goes_out(&cast, Local, 80)]
    };
    assert_eq!(said(&[DEFAULT_ALLOW]), ["allow", "allow"]);
    assert_eq!(said(&["shut", DEFAULT_ALLOW]), ["deny", "allow"]);
    assert_eq!(said(&["nobodys", DEFAULT_ALLOW]), ["deny", "deny"]);
    assert_eq!(said(&["kns.x"]), ["allow", "allow"]);
    assert_eq!(said(&["kns.nowhere"]), ["deny", "deny"]);
    let profiles = vec![DEFAULT_ALLOW.to_owned()];
    let cast = with(HostEndpoint { profiles, ..eth0() }, [at(PLAIN, "p").into([does(Action::Pass)])]);
    assert_eq!([comes_in(&cast, Local, 80), goes_out(&cast, Local, 80)], ["allow", "allow"], "after the last tier");
}

#[test]
fn hep_11_a_rule_finds_a_host_endpoint_at_its_expected_addresses_alone() {
    let from_host = Rule { source: end("host == 'here'"), ..does(Action::Allow) };
    let mut cast = with(eth0(), [global("default", "p").into([from_host])]);
    cast.0.host.clear();
    assert!(cast.lets(HOST, "x/a", TCP, 80));
    assert!(!cast.lets(STRANGER, "x/a", TCP, 80));
    cast.0.host_endpoints[0].expected_ips.clear();
    assert!(!cast.lets(HOST, "x/a", TCP, 80), "the addresses of its interface do not count");
}

#[test]
fn hep_11_the_own_end_of_a_rule_is_whatever_address_the_packet_has_there() {
    let to_far = Rule { destination: end_nets(&[&format!("{FAR}/32")], &[]), ..does(Action::Allow) };
    let to_here = Rule { destination: end("host == 'here'"), ..does(Action::Allow) };
    let cast = with(eth0(), [at(ON_FORWARD, "p").into([to_far, to_here])]);
    let through = |to| says(&cast, (Forward, Ingress), (STRANGER, to), (TCP, 80, 40_000));
    assert_eq!([through(FAR), through("198.51.100.2")], ["allow", "deny"]);
    assert_eq!([comes_in(&cast, Local, 80)], ["allow"]);
    assert_eq!(
        says(&cast, (Local, Ingress), (STRANGER, "192.168.7.2"), (TCP, 80, 40_000)),
        "deny",
        "not an expected one"
    );
}

#[test]
fn cal_25_port_names_of_a_host_endpoint_count_at_its_expected_addresses_on_either_side() {
    let port = NamedPort { name: "http".into(), protocol: TCP, port: 8055 };
    let named = EntityMatch { ports: Some([PortMatch::Named("http".into())].into()), ..EntityMatch::default() };
    let rule = || Rule { protocol: Some(TCP), destination: named.clone(), ..does(Action::Allow) };
    for interface in [Some(HostInterface::Named(IfaceName("eth0".into()))), Some(HostInterface::Any)] {
        let host = HostEndpoint { ports: vec![port.clone()], interface, ..eth0() };
        let policies = [at(PLAIN, "in").into([rule()]).out([rule()]), global("default", "out").out([rule()])];
        let cast = with(host, policies);
        assert_eq!([comes_in(&cast, Local, 8055), comes_in(&cast, Local, 80)], ["allow", "deny"], "its own");
        assert_eq!(says(&cast, (Local, Ingress), (STRANGER, "192.168.7.2"), (TCP, 8055, 40_000)), "deny");
        assert_eq!(says(&cast, (Local, Egress), (STRANGER, HOST), (TCP, 8055, 40_000)), "allow", "a peer's");
        assert_eq!(goes_out(&cast, Local, 8055), "deny", "a stranger has no names");
        assert!(cast.lets("x/a", HOST, TCP, 8055) && !cast.lets("x/a", HOST, TCP, 80), "for a pod that sends");
    }
}

#[test]
fn cal_38_policies_of_kubernetes_find_pods_alone_and_those_of_calico_find_host_endpoints_too() {
    let kubernetes = policy("x", "k").ingress([super::cast::all()]);
    let cast = with(eth0(), [kubernetes]);
    assert_eq!(comes_in(&cast, Local, 80), "deny", "no policy applies, and no profile");
    let everybody = global("default", "g").selecting("all()").into([does(Action::Allow)]);
    assert_eq!(comes_in(&with(eth0(), [everybody]), Local, 80), "allow");
    let unscoped = global("default", "g").selecting("!has(projectcalico.org/namespace)").into([does(Action::Allow)]);
    assert_eq!(comes_in(&with(eth0(), [unscoped]), Local, 80), "allow", "it is in no namespace");
    let pods = Selector::all_of(vec![Selector::pods(), written("all()")]).to_string();
    let of_pods = global("default", "g").selecting(&pods).into([does(Action::Allow)]);
    assert_eq!(comes_in(&with(eth0(), [of_pods]), Local, 80), "deny");
}

#[test]
fn what_a_layer_refuses_names_who_isolates_it_and_what_the_nearest_rule_asks_for() {
    let https = Rule { protocol: Some(TCP), destination: end_ports(&[(443, 443)], &[]), ..does(Action::Allow) };
    let near = Rule { source: end_nets(&["203.0.113.0/24"], &[]), ..https.clone() };
    let far = Rule { source: end_nets(&["198.51.100.0/24"], &[]), ..https };
    let why = |cast: &Cast, layer| {
        let (source, destination) = (STRANGER.parse().unwrap(), HOST.parse().unwrap());
        let flow = Flow { source, destination, protocol: TCP, detail: 80, source_port: 40_000 };
        let question = AtHost { host: &cast.0.host_endpoints[0], layer, direction: Ingress };
        let refused = evaluate_at(&cast.0, question, &flow).expect("the layer is asked");
        let isolation = isolation_at(&cast.0, question, &flow, &refused.decider).expect("no rule matched");
        let texts = isolation.nearest.iter().flat_map(|near| near.lacks.iter().map(|lack| lack.text.clone()));
        (isolation.by.join(" "), texts.collect::<Vec<_>>())
    };
    let cast = with(eth0(), [at(ON_FORWARD, "web").into([far, near])]);
    let port = "asks for port 443, this is for 80";
    let network = "asks for a sender in 198.51.100.0/24; 203.0.113.7 is not";
    for layer in [Local, Forward] {
        let said = why(&cast, layer);
        assert_eq!(said, ("GlobalNetworkPolicy web".into(), vec![port.into(), network.into(), port.into()]));
    }
    assert_eq!(why(&with(eth0(), []), Local), (String::new(), vec![]), "a host endpoint by itself");
    let profile = |rule| Profile { name: "own".into(), labels: labels(&[]), ingress: vec![rule], egress: vec![] };
    let mut named = with(HostEndpoint { profiles: vec!["own".into()], ..eth0() }, []);
    named.0.profiles = vec![profile(Rule { protocol: Some(UDP), ..does(Action::Allow) })];
    assert_eq!(why(&named, Local), ("Profile own".into(), vec!["asks for UDP, this is TCP".into()]));
}
