//! ClusterNetworkPolicies to lay over the cases: every action in both tiers and directions, and pairs that contradict.
//! In: whether addresses are IPv4. Out: sets of changes.
//! Invariant: no two policies of one tier have one priority: the API leaves open which comes first.
//! Never: a pod's flow to itself; the API leaves that alone (CNP-30).

use super::{Action, Change, ClusterNetworkPolicy, Decide, Number, Peer, Port, Wanted, cluster::address};
use model::{Cidr, Protocol};

const ACTIONS: [Action; 3] = [Action::Accept, Action::Deny, Action::Pass];

/// One tier alone, then both.
#[must_use]
pub fn overlays(v4: bool) -> Vec<Vec<Change>> {
    let in_tier = |is_admin| ACTIONS.into_iter().flat_map(move |action| in_tier(is_admin, action, v4));
    let (admin, baseline): (Vec<_>, Vec<_>) = (in_tier(true).collect(), in_tier(false).collect());
    let mut overlays: Vec<_> = admin.iter().chain(&baseline).map(|one| vec![one.clone()]).collect();
    for (at, first) in admin.iter().enumerate() {
        let (second, base) = (&admin[(at + 5) % admin.len()], &baseline[(at * 7 + 3) % baseline.len()]);
        let later = ClusterNetworkPolicy { name: "second", priority: first.priority + 1, ..second.clone() };
        overlays.push(vec![first.clone(), base.clone()]);
        overlays.push(vec![later, first.clone(), base.clone()]);
    }
    let changes = |policies: Vec<_>| policies.into_iter().map(Change::ClusterPolicy).collect();
    overlays.into_iter().map(changes).collect()
}

/// For x/a and x/b, by each way to say whom and what, in both directions where the API has it.
fn in_tier(is_admin: bool, action: Action, v4: bool) -> Vec<ClusterNetworkPolicy> {
    let namespaces = Peer::Pods { pods: None, namespaces: Some(Wanted::among("ns", true, &["y", "z"])) };
    let pods = Peer::Pods { pods: Some(Wanted::label("pod", "b")), namespaces: Some(Wanted::default()) };
    let everybody = Peer::Pods { pods: None, namespaces: Some(Wanted::default()) };
    let around_z_c = Cidr::new(address("z", "c", v4), if v4 { 28 } else { 124 }).expect("a network");
    let network = Peer::Block { net: around_z_c, except: vec![] };
    let tcp = |first, last| Port { protocol: Some(Protocol::TCP), number: Some(Number::Range(first, last)) };
    let udp = Port { protocol: Some(Protocol::UDP), number: Some(Number::Range(1, u16::MAX)) };
    let named = Port { protocol: None, number: Some(Number::Named("serve-81-sctp")) };
    let decide = |action, peers: &[&Peer], ports: &[Port]| {
        let peers = peers.iter().map(|peer| (*peer).clone()).collect();
        Decide { action, peers, ports: ports.to_vec() }
    };
    let rules = [
        vec![decide(action, &[&namespaces], &[])],
        vec![decide(action, &[&pods], &[tcp(80, 80), udp])],
        vec![decide(action, &[&everybody], &[named])],
        // A rule before it decides for some of them.
        vec![decide(other(action), &[&pods], &[tcp(53, 80)]), decide(action, &[&namespaces, &pods], &[tcp(80, 81)])],
    ];
    let policy = |ingress, egress| ClusterNetworkPolicy {
        name: if is_admin { "admin" } else { "baseline" },
        is_admin,
        priority: 10,
        subject: (Wanted::label("ns", "x"), Wanted::among("pod", true, &["a", "b"])),
        ingress,
        egress,
    };
    let one_way = rules.iter().flat_map(|rules| [policy(rules.clone(), vec![]), policy(vec![], rules.clone())]);
    let to_network =
        policy(vec![], vec![decide(action, &[&network], &[]), decide(other(action), &[&everybody], &[udp])]);
    let both_ways = policy(rules[0].clone(), rules[1].clone());
    one_way.chain([to_network, both_ways]).collect()
}

fn other(action: Action) -> Action {
    match action {
        Action::Accept => Action::Deny,
        Action::Deny => Action::Pass,
        Action::Pass => Action::Accept,
    }
}
