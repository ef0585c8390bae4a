//! Properties that hold for every history of wishes and releases.
//! In: random histories over few nodes and owners. Out: nothing, or the shortest history that breaks a promise.
//! Invariant: the ledger is only touched through its face.
//! Never: knows how a block keeps its lists.

use crate::{Ledger, Request};
use model::IpPool;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

#[derive(Clone, Debug)]
enum Step {
    Assign { node: u8, pod: u8 },
    Release { node: u8, pod: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<bool>(), 0..3_u8, 0..8_u8).prop_map(|(assign, node, pod)| match assign {
        true => Step::Assign { node, pod },
        false => Step::Release { node, pod },
    });
    proptest::collection::vec(step, 0..120)
}

fn pools() -> Ledger {
    let mut ledger = Ledger::default();
    for (name, cidr, block_size) in [("v4", "10.65.0.0/27", 29), ("v6", "fd00::/125", 126)] {
        let cidr = cidr.parse().expect("a valid network");
        ledger.pools.insert(name.into(), IpPool::of_pods(name, cidr, block_size));
    }
    ledger
}

fn wish(node: u8, pod: u8) -> Request {
    let node = format!("n{node}");
    let owner = format!("net.{node}-{pod}");
    Request { node: node.as_str().into(), owner, sequence: 1, ..Request::default() }
}

proptest! {
    #[test]
    fn an_address_is_never_given_twice(steps in steps()) {
        let mut ledger = pools();
        let mut held: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Assign { node, pod } => {
                    let request = wish(node, pod);
                    if let Ok(addresses) = ledger.assign(&request) {
                        let before = held.insert(request.owner, addresses.clone());
                        prop_assert!(before.is_none_or(|before| before == addresses));
                    }
                }
                Step::Release { node, pod } => {
                    let owner = wish(node, pod).owner;
                    let mut released = ledger.release(&owner);
                    released.sort();
                    prop_assert_eq!(released, held.remove(&owner).unwrap_or_default());
                }
            }
            let all: Vec<_> = held.values().flatten().collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            for block in ledger.blocks.values() {
                prop_assert_eq!(block.value.check(), Ok(()));
            }
        }
    }

    #[test]
    fn a_release_undoes_an_assign(steps in steps()) {
        let mut ledger = pools();
        for step in steps {
            if let Step::Assign { node, pod } = step {
                let _ = ledger.assign(&wish(node, pod));
            }
        }
        for (node, pod) in (0..3).flat_map(|node| (0..8).map(move |pod| (node, pod))) {
            ledger.release(&wish(node, pod).owner);
        }
        ledger.recount();
        prop_assert!(ledger.handles.is_empty());
        for block in ledger.blocks.values() {
            prop_assert!(block.value.attributes.is_empty());
            prop_assert_eq!(block.value.unallocated.len(), block.value.allocations.len());
        }
    }

    #[test]
    fn ipam_7_the_address_free_for_longest_comes_next(steps in steps()) {
        let mut ledger = pools();
        ledger.pools.remove("v6");
        let mut queue: Vec<IpAddr> = Vec::new();
        for step in steps {
            match step {
                Step::Assign { pod, .. } => {
                    let known = ledger.held_by(&wish(0, pod).owner);
                    let Ok(addresses) = ledger.assign(&wish(0, pod)) else { continue };
                    if known.is_empty() && queue.contains(&addresses[0]) {
                        // An address that was used before comes again only as the head of what was released.
                        prop_assert_eq!(queue.remove(0), addresses[0]);
                    }
                }
                Step::Release { pod, .. } => queue.extend(ledger.release(&wish(0, pod).owner)),
            }
        }
    }
}
