//! Clusters of podCIDRs that come to blocks, and what keeps one from it.
//! In: podCIDRs, pods, pools, blocks. Out: plans, what nodes give then, problems.
//! Invariant: no test compares a sequence or a time.
//! Never: reads a datastore.

use super::*;
use crate::Request;

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a network")
}

fn found(nodes: &[(&str, &[&str])], pods: &[(&str, &str, &str)]) -> Found {
    let nodes = nodes.iter().map(|(node, cidrs)| ((*node).into(), cidrs.iter().map(|text| cidr(text)).collect()));
    let held = |(pod, node, address): &(&str, &str, &str)| Held {
        address: address.parse().expect("an address"),
        pod: PodId::new("x", pod),
        node: (*node).into(),
    };
    Found { nodes: nodes.collect(), pods: pods.iter().map(held).collect() }
}

fn two() -> Found {
    let nodes: [(&str, &[&str]); 2] =
        [("n1", &["10.244.0.0/24", "fd00:244::/64"]), ("n2", &["10.244.1.0/24", "fd00:244:0:1::/64"])];
    found(&nodes, &[("a", "n1", "10.244.0.5"), ("a", "n1", "fd00:244::5"), ("b", "n2", "10.244.1.2")])
}

fn problems(ledger: &Ledger, found: &Found, shape: &Shape) -> Vec<String> {
    let mut after = ledger.clone();
    let refused = plan(&mut after, found, shape).expect_err("something is wrong");
    assert!(after == *ledger && after.writes() == ledger.clone().writes(), "nothing is written");
    refused.iter().map(ToString::to_string).collect()
}

fn enabled(ledger: &mut Ledger, plan: &Plan) {
    for pool in &plan.pools {
        let nodes =
            pool.node.as_ref().map_or(model::Selector::All, |node| format!("name == '{node}'").parse().expect("one"));
        let made = IpPool { nodes, ..IpPool::of_pods(&pool.name, pool.cidr, pool.block_size) };
        ledger.pools.insert(pool.name.clone(), made);
    }
    ledger.reserved.clone_from(&plan.reserved);
}

fn asks(node: &str, handle: &str) -> Request {
    let node_labels = model::Labels::from([("name", node)]);
    Request { node: node.into(), node_labels, owner: handle.into(), sequence: 9, ..Request::default() }
}

#[test]
fn podcidrs_side_by_side_are_one_pool_each_a_block_of_its_nodes_and_wide_ones_are_their_nodes_own() {
    let mut ledger = Ledger::default();
    let plan = plan(&mut ledger, &two(), &Shape::default()).expect("a plan");
    let pools: Vec<_> =
        plan.pools.iter().map(|pool| (pool.cidr.to_string(), pool.block_size, pool.node.is_some())).collect();
    assert_eq!(
        pools,
        [
            ("fd00:244::/64".into(), 122, true),
            ("fd00:244:0:1::/64".into(), 122, true),
            ("10.244.0.0/23".into(), 24, false)
        ]
    );
    let blocks: Vec<_> = plan.blocks.iter().map(|(cidr, node)| format!("{cidr} {node}")).collect();
    assert_eq!(blocks, ["10.244.0.0/24 n1", "fd00:244::/122 n1", "10.244.1.0/24 n2"]);
    assert_eq!(plan.enabled, ["podcidr-fd00-244---64", "podcidr-fd00-244-0-1---64", "podcidr-10-244-0-0-23"]);
    let reserved: Vec<_> = plan.reserved.iter().map(ToString::to_string).filter(|text| text.contains('.')).collect();
    assert_eq!(reserved, ["10.244.0.0/31", "10.244.0.255/32", "10.244.1.0/31", "10.244.1.255/32"]);
    assert_eq!(plan.addresses.len(), 3);
    // What comes now is nobody's, and in the networks of its own node.
    enabled(&mut ledger, &plan);
    for (node, own) in [("n1", ["10.244.0.2", "fd00:244::2"]), ("n2", ["10.244.1.3", "fd00:244:0:1:"])] {
        let given: Vec<_> =
            ledger.assign(&asks(node, node)).expect("an address").iter().map(ToString::to_string).collect();
        assert_eq!(given[0], own[0]);
        assert!(given[1].starts_with(own[1]), "{given:?}");
    }
    let mut more = Vec::new();
    while let Ok(given) =
        ledger.assign(&Request { families: vec![Family::V4], ..asks("n1", &format!("more{}", more.len())) })
    {
        assert!(!given.iter().any(|address| two().pods.iter().any(|held| held.address == *address)), "{given:?}");
        more.extend(given);
    }
    assert_eq!(more.len(), 506 - 4, "all but reserved ones and those that somebody has");
}

#[test]
fn what_is_written_already_is_not_written_again_and_what_came_since_is() {
    let mut ledger = Ledger::default();
    let first = plan(&mut ledger, &two(), &Shape::default()).expect("a plan");
    enabled(&mut ledger, &first);
    ledger.pools.values_mut().for_each(|pool| pool.disabled = true);
    let again = plan(&mut ledger, &two(), &Shape::default()).expect("the same");
    assert_eq!((again.pools.len(), again.blocks.len(), again.addresses.len(), again.enabled.len()), (0, 0, 0, 3));
    let mut late = two();
    late.pods.push(Held { address: [10, 244, 1, 9].into(), pod: PodId::new("x", "late"), node: "n2".into() });
    assert_eq!(plan(&mut ledger, &late, &Shape::default()).expect("one more").addresses, late.pods[3..]);
    // Enabled, nothing more is written.
    ledger.pools.values_mut().for_each(|pool| pool.disabled = false);
    assert!(plan(&mut ledger, &late, &Shape::default()).expect("all is there").enabled.is_empty());
    late.pods.push(Held { address: [10, 244, 1, 10].into(), pod: PodId::new("x", "later"), node: "n2".into() });
    assert!(problems(&ledger, &late, &Shape::default())[0].contains("set disabled: true"));
}

#[test]
fn a_network_that_is_asked_for_is_one_pool_and_blocks_may_be_smaller_than_podcidrs() {
    let shape =
        Shape { pools: vec![cidr("10.244.0.0/16")], block_sizes: [(Family::V4, 26)].into(), ..Shape::default() };
    let nodes: [(&str, &[&str]); 2] = [("n1", &["10.244.0.0/24"]), ("n2", &["10.244.7.0/25"])];
    let plan = plan(&mut Ledger::default(), &found(&nodes, &[]), &shape).expect("a plan");
    assert_eq!((plan.pools.len(), plan.pools[0].cidr, plan.pools[0].block_size), (1, cidr("10.244.0.0/16"), 26));
    assert_eq!(plan.blocks.len(), 4 + 2);
    // Of several sizes the smallest is a block.
    let plan = super::plan(&mut Ledger::default(), &found(&nodes, &[]), &Shape::default()).expect("a plan");
    assert!(plan.pools.iter().all(|pool| pool.block_size == 25), "{plan:?}");
    let wide = found(&[("n1", &["10.0.0.0/16"])], &[]);
    let plan = super::plan(&mut Ledger::default(), &wide, &Shape::default()).expect("a plan");
    assert_eq!((plan.pools[0].block_size, plan.blocks.len()), (20, 16));
}

#[test]
fn ipam_19_what_stands_in_the_way_is_named_all_of_it_and_nothing_is_planned() {
    let nodes: [(&str, &[&str]); 3] =
        [("n1", &["10.244.0.0/24"]), ("n2", &["10.244.0.128/25"]), ("n3", &["10.250.0.0/24"])];
    let pods = [("a", "n1", "10.244.0.5"), ("b", "n1", "10.244.0.5"), ("c", "n3", "192.0.2.9")];
    let said = problems(&Ledger::default(), &found(&nodes, &pods), &Shape::default());
    let parts = [
        "10.244.0.0/24 of node n1 and 10.244.0.128/25 of node n2 overlap",
        "10.244.0.5 is of two pods, x/a and x/b",
        "pod x/c has 192.0.2.9",
    ];
    assert!(parts.iter().all(|part| said.iter().any(|line| line.contains(part))), "{said:#?}");
    assert!(problems(&Ledger::default(), &Found::default(), &Shape::default())[0].contains("spec.podCIDRs"));
    let large = Shape { block_sizes: [(Family::V4, 23)].into(), ..Shape::default() };
    assert!(
        problems(&Ledger::default(), &two(), &large)[0]
            .contains("10.244.0.0/24 of node n1 is smaller than a block (/23)")
    );
}

#[test]
fn pools_and_blocks_that_are_there_already_are_kept_to_or_named() {
    let with = |text: &str, size: u8| {
        let pool = IpPool { disabled: true, ..IpPool::of_pods("own", cidr(text), size) };
        Ledger { pools: [("own".to_owned(), pool)].into(), ..Ledger::default() }
    };
    let nodes: [(&str, &[&str]); 1] = [("n1", &["10.244.0.0/24"])];
    let one = found(&nodes, &[("a", "n1", "10.244.0.5")]);
    let used = plan(&mut with("10.244.0.0/16", 26), &one, &Shape::default()).expect("a plan");
    assert_eq!((used.pools.len(), used.blocks.len(), used.enabled), (0, 4, vec!["own".to_owned()]));
    assert!(problems(&with("10.244.0.0/25", 26), &one, &Shape::default())[0].contains("IPPool own (10.244.0.0/25)"));
    assert!(problems(&with("10.244.0.0/16", 23), &one, &Shape::default())[0].contains("smaller than a block"));
    let mut owned = with("10.244.0.0/16", 24);
    owned.blocks.insert(
        cidr("10.244.0.0/24"),
        Kept { revision: None, value: Block::new(cidr("10.244.0.0/24"), &"n9".into(), 1) },
    );
    assert!(problems(&owned, &one, &Shape::default())[0].contains("is of host:n9"));
    let mut taken = with("10.244.0.0/16", 24);
    let mut block = Block::new(cidr("10.244.0.0/24"), &"n1".into(), 1);
    let of = [("pod", "z"), ("namespace", "x")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    block.take([10, 244, 0, 5].into(), "somebodys", &of.into()).expect("free");
    taken.blocks.insert(block.cidr, Kept { revision: None, value: block });
    assert!(problems(&taken, &one, &Shape::default())[0].contains("by its block pod x/z has it"));
    let mut sized = with("10.244.0.0/16", 24);
    sized.blocks.insert(
        cidr("10.244.0.0/26"),
        Kept { revision: None, value: Block::new(cidr("10.244.0.0/26"), &"n1".into(), 1) },
    );
    assert!(problems(&sized, &one, &Shape::default())[0].contains("--block-size 26"));
}

#[test]
fn an_address_that_was_written_down_for_a_pod_becomes_its_attachments_and_nobody_elses() {
    let mut ledger = Ledger::default();
    let plan = plan(&mut ledger, &two(), &Shape::default()).expect("a plan");
    enabled(&mut ledger, &plan);
    let of =
        |pod: &str| [("pod", pod), ("namespace", "x")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let claims =
        |pod: &str| Request { wanted: vec![[10, 244, 1, 2].into()], secondary: of(pod), ..asks("n2", "net.c1") };
    assert!(ledger.claim_wanted(&claims("c")).is_err(), "it is b's");
    ledger.claim_wanted(&claims("b")).expect("it is its");
    assert_eq!(ledger.held_by("net.c1").len(), 1);
    assert!(ledger.held_by(&handle_of(&PodId::new("x", "b"))).is_empty());
    assert_eq!(ledger.release("net.c1").len(), 1);
}

#[test]
fn a_damaged_block_is_named_and_what_cools_down_is_the_pods_that_has_it() {
    let mut ledger = Ledger::default();
    let shape = Shape { now: "2026-01-01T00:00:00Z".into(), ..Shape::default() };
    plan(&mut ledger, &two(), &shape).expect("a plan");
    let cidr = cidr("10.244.0.0/24");
    let mut cooling = ledger.clone();
    let block = &mut cooling.blocks.get_mut(&cidr).expect("n1's").value;
    block.release("migrated.x.a", Some("2026-01-01T00:00:00Z"));
    assert_eq!(block.cooling_down().count(), 1);
    plan(&mut cooling, &two(), &shape).expect("a plan");
    assert_eq!(cooling.held_by("migrated.x.a").len(), 2);
    ledger.blocks.get_mut(&cidr).expect("n1's").value.allocations.truncate(7);
    let found = problems(&ledger, &two(), &shape);
    assert!(found.iter().any(|line| line.contains("10.244.0.0/24")), "{found:?}");
}

#[test]
fn pools_that_are_named_twice_or_in_vain_are_named() {
    let named = |pools: &[&str]| Shape { pools: pools.iter().map(|text| cidr(text)).collect(), ..Shape::default() };
    let said = |pools: &[&str]| problems(&Ledger::default(), &two(), &named(pools));
    assert_eq!(
        said(&["10.244.0.0/16", "10.244.0.0/23"])[0],
        "--pool 10.244.0.0/16 and --pool 10.244.0.0/23 overlap: name each network once"
    );
    assert_eq!(said(&["10.99.0.0/16"]), ["--pool 10.99.0.0/16 holds no node's podCIDR: leave it out, or correct it"]);
}
