//! An audit's verdicts and plans, case by case.
//! In: ledgers of a few addresses. Out: what is taken back, and when.
//! Invariant: each case is one sentence of what Calico's collector does, or of what it must not do.
//! Never: needs a clock.

use super::{Census, Graces, Living, Plan, Suspicions, Verdict, Why, by_owner, holdings};
use crate::{AffinityState, Block, BlockAffinity, IpamHandle, Kept, Ledger, Request, hold::Sticky};
use model::{Cidr, IpPool, NodeName, PodId};
use std::{collections::BTreeMap, time::Duration};

const GRACES: Graces = Graces { leak: Some(Duration::from_secs(900)), node: Duration::from_secs(60) };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One address of a pod `shop/POD` on a node, in the container of this number.
fn give(ledger: &mut Ledger, node: &str, pod: &str, container: u64) -> String {
    give_as(ledger, node, &format!("net.{container:064x}"), &[("pod", pod), ("namespace", "shop"), ("node", node)])
}

fn give_as(ledger: &mut Ledger, node: &str, owner: &str, said: &[(&str, &str)]) -> String {
    let secondary = said.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let request = Request { node: node.into(), owner: owner.into(), secondary, sequence: 1, ..Request::default() };
    ledger.assign(&request).expect("an address");
    ledger.recount();
    owner.to_owned()
}

fn ledger() -> Ledger {
    let pool = IpPool::of_pods("p", "10.65.0.0/24".parse().expect("a network"), 29);
    Ledger { pools: [("p".to_owned(), pool)].into(), ..Ledger::default() }
}

fn census(nodes: &[&str]) -> Census {
    let nodes = nodes.iter().map(|node| NodeName::from(*node)).collect();
    Census { here: Some("n1".into()), nodes, ..Census::default() }
}

fn verdict(ledger: &Ledger, census: &Census, handle: &str) -> Verdict {
    let all = by_owner(ledger);
    census.judge(&all[handle][0])
}

fn freed(plan: &Plan) -> Vec<&str> {
    plan.releases.iter().map(|release| &*release.owner).collect()
}

#[test]
fn ipam_23_an_address_is_leaked_once_its_pod_is_gone_or_elsewhere_or_has_others() {
    let mut ledger = ledger();
    let handle = give(&mut ledger, "n1", "web", 1);
    let address = ledger.held_by(&handle)[0];
    let web = || PodId::new("shop", "web");
    let with = |node: Option<&str>, addresses: Vec<std::net::IpAddr>| {
        let mut census = census(&["n1", "n2"]);
        census.saw(web(), Living { node: node.map(NodeName::from), addresses, is_apart: false });
        verdict(&ledger, &census, &handle)
    };
    let other = vec!["10.65.9.9".parse().expect("an address")];
    assert_eq!(verdict(&ledger, &census(&["n1"]), &handle), Verdict::Leaked(Why::PodGone));
    assert_eq!(with(Some("n1"), vec![address]), Verdict::InUse);
    assert_eq!(with(Some("n2"), vec![address]), Verdict::InUse, "it says that it has it");
    assert_eq!(with(Some("n1"), vec![]), Verdict::InUse, "it has said nothing yet");
    assert_eq!(with(None, vec![]), Verdict::InUse, "nor where it is");
    assert_eq!(
        with(Some("n2"), vec![]),
        Verdict::Leaked(Why::PodElsewhere),
        "it may wait there for what its name keeps"
    );
    assert_eq!(with(Some("n2"), other.clone()), Verdict::Leaked(Why::PodElsewhere));
    assert_eq!(with(Some("n1"), other.clone()), Verdict::Leaked(Why::PodHasOthers));
    // One witness is enough.
    let mut two = census(&["n1"]);
    two.saw(web(), Living { node: None, addresses: other, is_apart: false });
    two.saw(web(), Living { node: None, addresses: vec![address], is_apart: false });
    assert_eq!(verdict(&ledger, &two, &handle), Verdict::InUse);
}

#[test]
fn what_the_node_itself_serves_is_in_use_whatever_others_say() {
    let mut ledger = ledger();
    let handle = give(&mut ledger, "n1", "web", 0xabc);
    let census = Census { held: [handle.to_lowercase()].into(), ..census(&["n1"]) };
    assert_eq!(verdict(&ledger, &census, &handle), Verdict::InUse);
}

#[test]
fn what_is_no_pods_or_not_understood_is_left_alone() {
    let mut ledger = ledger();
    let further = format!("net.{:064x}.net1", 7);
    let cases: [(&str, &[(&str, &str)]); 5] = [
        ("windows-reserved-ipam-handle", &[]),
        ("by-hand", &[("node", "n1")]),
        ("lb-x", &[("service", "web"), ("namespace", "shop"), ("type", "LoadBalancer")]),
        ("vm", &[("pod", "virt"), ("namespace", "shop"), ("node", "n1"), ("vmi", "virt")]),
        ("kept", &[("pod", "db-0"), ("namespace", "shop"), ("node", "n1"), ("held-until", "2027")]),
    ];
    for (handle, said) in cases {
        give_as(&mut ledger, "n1", handle, said);
        assert_eq!(verdict(&ledger, &census(&["n1"]), handle), Verdict::Unknown, "{handle}");
    }
    // No pod says which address its further interfaces have.
    give_as(&mut ledger, "n1", &further, &[("pod", "web"), ("namespace", "shop"), ("node", "n1")]);
    let mut census = census(&["n1"]);
    census.saw(
        PodId::new("shop", "web"),
        Living { node: Some("n1".into()), addresses: vec![[10, 9, 9, 9].into()], is_apart: false },
    );
    assert_eq!(verdict(&ledger, &census, &further), Verdict::InUse);
}

#[test]
fn ipam_23_a_leak_is_taken_back_after_its_grace_and_one_that_comes_back_is_watched_anew() {
    let mut ledger = ledger();
    let handle = give(&mut ledger, "n1", "web", 1);
    let mut suspicions = Suspicions::default();
    let gone = census(&["n1"]);
    let mut look = |census: &Census, at| suspicions.look(&ledger, census, GRACES, seconds(at));
    let first = look(&gone, 5000);
    assert!(first.is_empty() && first.next == Some(seconds(5900)), "{first:?}");
    assert!(look(&gone, 5899).is_empty());
    let mut back = gone.clone();
    back.saw(PodId::new("shop", "web"), Living::default());
    assert!(look(&back, 5900).is_empty());
    assert!(look(&gone, 5901).is_empty(), "it is watched anew");
    assert_eq!(freed(&look(&gone, 6801)), [&handle]);
    let never = Graces { leak: None, ..GRACES };
    assert!(Suspicions::default().look(&ledger, &gone, never, seconds(9000)).next.is_none());
}

#[test]
fn an_address_that_was_given_out_anew_is_another() {
    let mut ledger = ledger();
    let handle = give(&mut ledger, "n1", "web", 1);
    let mut suspicions = Suspicions::default();
    suspicions.look(&ledger, &census(&["n1"]), GRACES, seconds(1));
    let plan = suspicions.look(&ledger, &census(&["n1"]), GRACES, seconds(901));
    assert!(plan.releases[0].holds(&ledger, &census(&["n1"])));
    ledger.release(&handle);
    for kept in ledger.blocks.values_mut() {
        kept.value.sequence_number += 1;
        kept.value.unallocated.rotate_right(1);
    }
    assert_eq!(give(&mut ledger, "n1", "web", 1), handle);
    assert!(!plan.releases[0].holds(&ledger, &census(&["n1"])), "IPAM-9: its number is another");
    assert!(suspicions.look(&ledger, &census(&["n1"]), GRACES, seconds(902)).is_empty());
}

#[test]
fn of_a_handle_all_is_taken_back_or_none() {
    let mut ledger = ledger();
    let v6 = IpPool::of_pods("v6", "fd00::/64".parse().expect("a network"), 122);
    ledger.pools.insert("v6".to_owned(), v6);
    let handle = give(&mut ledger, "n1", "web", 1);
    let addresses = ledger.held_by(&handle);
    assert_eq!(addresses.len(), 2);
    let mut half = census(&["n1"]);
    half.saw(
        PodId::new("shop", "web"),
        Living { node: Some("n1".into()), addresses: vec![addresses[1]], is_apart: false },
    );
    let mut suspicions = Suspicions::default();
    for at in [1, 10_000] {
        assert!(suspicions.look(&ledger, &half, GRACES, seconds(at)).releases.is_empty());
    }
    let gone = census(&["n1"]);
    suspicions.look(&ledger, &gone, GRACES, seconds(20_000));
    let plan = suspicions.look(&ledger, &gone, GRACES, seconds(30_000));
    assert_eq!(plan.releases[0].given.len(), 2);
}

#[test]
fn of_a_node_that_is_gone_the_addresses_go_then_the_tunnels_then_the_blocks() {
    let mut ledger = ledger();
    let pod = give(&mut ledger, "n2", "web", 1);
    let tunnel = give_as(&mut ledger, "n2", "vxlan-tunnel-addr-n2", &[("node", "n2"), ("type", "vxlanTunnelAddress")]);
    give(&mut ledger, "n1", "own", 2);
    let mut alive = census(&["n1"]);
    alive.saw(PodId::new("shop", "own"), Living::default());
    let mut with_pod = alive.clone();
    with_pod.saw(PodId::new("shop", "web"), Living { node: Some("n2".into()), addresses: vec![], is_apart: false });
    let mut suspicions = Suspicions::default();
    let mut look = |ledger: &Ledger, census: &Census, at| suspicions.look(ledger, census, GRACES, seconds(at));
    for at in [1, 100, 5000] {
        assert!(look(&ledger, &with_pod, at).is_empty(), "a pod of it is still there");
    }
    assert!(look(&ledger, &alive, 5001).is_empty(), "seen once");
    let plan = look(&ledger, &alive, 5002);
    assert_eq!(freed(&plan), [&pod, &tunnel], "the node has been away for long");
    assert!(plan.blocks.is_empty(), "it is not empty yet");
    assert!(!plan.releases[0].holds(&ledger, &census(&["n1", "n2"])), "the node is back");
    for release in plan.releases {
        ledger.release(&release.owner);
    }
    look(&ledger, &alive, 5003);
    let plan = look(&ledger, &alive, 5004);
    let block = &ledger.blocks.values().find(|kept| kept.value.belongs_to(&"n2".into())).expect("a block").value;
    let idle = super::Idle { cidr: block.cidr, sequence: block.sequence_number, node: Some("n2".into()) };
    assert_eq!(plan.blocks, [idle]);
}

#[test]
fn who_does_not_know_itself_knows_of_no_node_that_it_is_gone() {
    let mut ledger = ledger();
    give(&mut ledger, "n2", "web", 1);
    for nodes in [&[][..], &["n3"]] {
        let mut suspicions = Suspicions::default();
        for at in [1, 100, 800] {
            assert!(suspicions.look(&ledger, &census(nodes), GRACES, seconds(at)).is_empty(), "{nodes:?}");
        }
    }
}

#[test]
fn of_empty_blocks_a_node_keeps_one_and_one_that_is_written_to_is_watched_anew() {
    let mut ledger = ledger();
    for (place, text) in ["10.65.0.0/29", "10.65.0.8/29", "10.65.0.16/29"].iter().enumerate() {
        let cidr: Cidr = text.parse().expect("a network");
        let block = Block::new(cidr, &"n1".into(), place as u64);
        ledger.blocks.insert(cidr, Kept { revision: Some("1".into()), value: block });
    }
    let mut suspicions = Suspicions::default();
    let census = census(&["n1"]);
    assert!(suspicions.look(&ledger, &census, GRACES, seconds(1)).is_empty());
    ledger.blocks.values_mut().next().expect("a block").value.sequence_number = 70;
    let plan = suspicions.look(&ledger, &census, GRACES, seconds(901));
    let cidrs: Vec<_> = plan.blocks.iter().map(|idle| idle.cidr.to_string()).collect();
    assert_eq!(cidrs, ["10.65.0.8/29", "10.65.0.16/29"]);
}

#[test]
fn a_handle_that_is_shared_and_counts_too_much_is_counted_anew_after_its_grace() {
    for said in [None, Some(Duration::from_secs(60))] {
        let mut ledger = ledger();
        let sticky = said.map(|held| Sticky { name: PodId::new("shop", "db-0"), is_machine: false, held });
        let request = Request { node: "n1".into(), owner: "net.a".into(), sticky, sequence: 1, ..Request::default() };
        ledger.assign(&request).expect("an address");
        ledger.recount();
        let (cidr, handle) = (*ledger.blocks.keys().next().expect("a block"), request.handle());
        ledger.handles.get_mut(&handle).expect("it counts").value.block.insert(cidr, 2);
        let mut suspicions = Suspicions::default();
        assert!(suspicions.look(&ledger, &census(&["n1"]), GRACES, seconds(1)).miscounted.is_empty());
        let plan = suspicions.look(&ledger, &census(&["n1"]), GRACES, seconds(901));
        assert_eq!(plan.miscounted, [(handle.clone(), [cidr].into())]);
        ledger.mend(&handle, [cidr]);
        assert_eq!(ledger.handles[&handle].value.block, [(cidr, 1)].into());
    }
}

#[test]
fn claims_of_a_node_that_is_gone_and_handles_that_point_nowhere_go_and_a_damaged_block_keeps_handles() {
    let mut ledger = ledger();
    let handle = give(&mut ledger, "n1", "own", 2);
    let cidr = *ledger.blocks.keys().next().expect("a block");
    let lost = BlockAffinity::new(&"n2".into(), cidr, AffinityState::Pending);
    let balancers = BlockAffinity {
        affinity_type: "virtual".into(),
        ..BlockAffinity::new(&"lb".into(), cidr, AffinityState::Confirmed)
    };
    for claim in [&lost, &balancers] {
        ledger.affinities.insert(claim.name(), Kept { revision: Some("3".into()), value: claim.clone() });
    }
    let value = IpamHandle { handle_id: "nowhere".into(), block: BTreeMap::new(), deleted: false };
    ledger.handles.insert("nowhere".into(), Kept { revision: Some("4".into()), value });
    let census = Census { held: [handle].into(), ..census(&["n1"]) };
    let mut suspicions = Suspicions::default();
    suspicions.look(&ledger, &census, GRACES, seconds(1));
    let plan = suspicions.look(&ledger, &census, GRACES, seconds(901));
    assert_eq!(plan.claims, [(lost.name(), "n2".into())]);
    assert_eq!(plan.handles, [("nowhere".to_owned(), Some("4".to_owned()))]);
    ledger.blocks.values_mut().next().expect("a block").value.unallocated.push(99);
    let plan = suspicions.look(&ledger, &census, GRACES, seconds(9999));
    assert!(plan.handles.is_empty() && plan.releases.is_empty(), "{plan:?}");
    assert_eq!(holdings(&ledger.blocks.values().next().expect("a block").value).count(), 0);
}
