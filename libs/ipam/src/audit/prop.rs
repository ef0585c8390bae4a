//! What an audit may never do, and what it has done in the end, for every history.
//! In: random ledgers, pods and nodes that come and go between looks. Out: nothing, or the history that breaks a promise.
//! Invariant: what is alive is decided here by what the test has made, not by what the audit thinks.
//! Never: asks the audit's own verdict whether an address is alive.

use super::{Census, Graces, Living, Plan, Suspicions};
use crate::{Ledger, Request, block::Opaque};
use model::{IpPool, NodeName, PodId};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

const NODES: u8 = 3;
const LEAK: u64 = 20;
const NODE: u64 = 5;

/// What happens between looks.
#[derive(Clone, Debug)]
enum Step {
    /// A pod comes to a node.
    Come { node: u8, pod: u8 },
    /// The same where what stands beside its address is not understood.
    ComeOddly { node: u8, pod: u8 },
    /// A pod says what addresses it has.
    Say { pod: u8 },
    /// A pod goes, and its address stays.
    Vanish { pod: u8 },
    /// A pod goes with its address.
    Leave { pod: u8 },
    /// A node comes or goes.
    Node { node: u8, there: bool },
    /// Time goes by, and all is looked at.
    Look { seconds: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..NODES, 0..8_u8).prop_map(|(node, pod)| Step::Come { node, pod }),
        1 => (0..NODES, 0..8_u8).prop_map(|(node, pod)| Step::ComeOddly { node, pod }),
        2 => (0..8_u8).prop_map(|pod| Step::Say { pod }),
        3 => (0..8_u8).prop_map(|pod| Step::Vanish { pod }),
        2 => (0..8_u8).prop_map(|pod| Step::Leave { pod }),
        2 => (0..NODES, any::<bool>()).prop_map(|(node, there)| Step::Node { node, there }),
        4 => (0..15_u64).prop_map(|seconds| Step::Look { seconds }),
    ];
    proptest::collection::vec(step, 0..80)
}

/// A cluster and its addresses.
struct Run {
    ledger: Ledger,
    nodes: BTreeSet<NodeName>,
    /// Pods that are there: where, and whether they have said what they have.
    pods: BTreeMap<u8, (NodeName, bool)>,
    /// The handle of each pod that is there.
    handles: BTreeMap<u8, String>,
    /// Handles that nobody may touch.
    odd: BTreeSet<String>,
    made: u32,
    now: Duration,
    suspicions: Suspicions,
}

fn node(number: u8) -> NodeName {
    format!("n{number}").into()
}

fn pod(number: u8) -> PodId {
    PodId::new("shop", &format!("p{number}"))
}

impl Run {
    fn new() -> Self {
        let mut ledger = Ledger::default();
        for (name, cidr, block_size) in [("v4", "10.65.0.0/26", 30), ("v6", "fd00::/122", 126)] {
            let cidr = cidr.parse().expect("a network");
            ledger.pools.insert(name.into(), IpPool::of_pods(name, cidr, block_size));
        }
        Self {
            ledger,
            nodes: (0..NODES).map(node).collect(),
            pods: BTreeMap::new(),
            handles: BTreeMap::new(),
            odd: BTreeSet::new(),
            made: 0,
            now: Duration::from_secs(1),
            suspicions: Suspicions::default(),
        }
    }

    fn come(&mut self, at: u8, number: u8, is_odd: bool) {
        if self.pods.contains_key(&number) {
            return;
        }
        self.made += 1;
        let handle = format!("net.{:040x}", self.made);
        let id = pod(number);
        let said =
            [("pod", id.name.to_string()), ("namespace", id.namespace.to_string()), ("node", node(at).to_string())];
        let mut secondary: BTreeMap<_, _> = said.map(|(key, value)| (key.to_owned(), value)).into();
        if is_odd && self.made.is_multiple_of(2) {
            secondary.insert("held-until".to_owned(), "x".to_owned());
        }
        let request = Request {
            node: node(at),
            owner: handle.clone(),
            secondary,
            sequence: self.made.into(),
            ..Request::default()
        };
        if self.ledger.assign(&request).is_err() {
            return;
        }
        if is_odd {
            self.odd.insert(handle.clone());
            let blocks = self.ledger.blocks.values_mut().flat_map(|kept| &mut kept.value.attributes);
            for attribute in blocks.filter(|own| own.owner() == Some(&handle) && !self.made.is_multiple_of(2)) {
                let owner = BTreeMap::from([("pod".to_owned(), "other".to_owned())]);
                attribute.other.insert("alternate".to_owned(), Opaque::Map(owner));
            }
        }
        self.pods.insert(number, (node(at), false));
        self.handles.insert(number, handle);
    }

    fn census(&self) -> Census {
        let mut census = Census { here: Some(node(0)), nodes: self.nodes.clone(), ..Census::default() };
        for (number, (node, has_said)) in &self.pods {
            let held = self.handles.get(number).map(|handle| self.ledger.held_by(handle)).unwrap_or_default();
            let addresses = if *has_said { held } else { Vec::new() };
            census.saw(pod(*number), Living { node: Some(node.clone()), addresses, is_apart: false });
        }
        census
    }

    fn look(&mut self) -> Plan {
        let graces = Graces { leak: Some(Duration::from_secs(LEAK)), node: Duration::from_secs(NODE) };
        let census = self.census();
        let plan = self.suspicions.look(&self.ledger, &census, graces, self.now);
        for release in &plan.releases {
            assert!(release.holds(&self.ledger, &census), "what is planned holds at once: {release:?}");
            self.ledger.release(&release.owner);
        }
        for super::Idle { cidr, .. } in &plan.blocks {
            let block = self.ledger.blocks.remove(cidr).expect("it is there").value;
            assert!(block.allocations.iter().all(Option::is_none), "it is empty: {block:?}");
            self.ledger.affinities.retain(|_, kept| kept.value.cidr != *cidr);
        }
        for (name, _) in &plan.claims {
            self.ledger.affinities.remove(name);
        }
        for (name, _) in &plan.handles {
            self.ledger.handles.remove(name);
        }
        plan
    }

    fn addresses(&self) -> BTreeMap<u8, Vec<IpAddr>> {
        self.handles.iter().map(|(number, handle)| (*number, self.ledger.held_by(handle))).collect()
    }

    fn blocks_of(&self, node: &NodeName) -> BTreeSet<bool> {
        let own = self.ledger.blocks.values().filter(|kept| kept.value.belongs_to(node));
        own.map(|kept| kept.value.cidr.is_v4()).collect()
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Come { node, pod } => self.come(node, pod, false),
            Step::ComeOddly { node, pod } => self.come(node, pod, true),
            Step::Say { pod } => {
                if let Some((_, has_said)) = self.pods.get_mut(&pod) {
                    *has_said = true;
                }
            }
            Step::Vanish { pod } => {
                self.pods.remove(&pod);
                self.handles.remove(&pod);
            }
            Step::Leave { pod } => {
                self.pods.remove(&pod);
                if let Some(handle) = self.handles.remove(&pod) {
                    self.ledger.release(&handle);
                }
            }
            Step::Node { node: number, there } => {
                if there {
                    self.nodes.insert(node(number));
                } else {
                    self.nodes.remove(&node(number));
                }
            }
            Step::Look { seconds } => {
                self.now += Duration::from_secs(seconds);
                let alive = self.addresses();
                let odd: Vec<_> = self.odd.iter().map(|handle| self.ledger.held_by(handle)).collect();
                let blocks: Vec<_> = self.nodes.iter().map(|node| (node.clone(), self.blocks_of(node))).collect();
                self.look();
                prop_assert_eq!(self.addresses(), alive, "a live address stays");
                let after: Vec<_> = self.odd.iter().map(|handle| self.ledger.held_by(handle)).collect();
                prop_assert_eq!(after, odd, "what is not understood stays");
                for (node, families) in blocks {
                    prop_assert_eq!(self.blocks_of(&node), families, "the last block of a node that is there stays");
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn ipam_23_no_live_address_is_ever_taken_back_and_none_that_is_not_understood(steps in steps()) {
        let mut run = Run::new();
        for step in steps {
            run.step(step)?;
        }
    }

    #[test]
    fn ipam_23_in_the_end_nothing_is_left_of_pods_and_nodes_that_are_gone(steps in steps()) {
        let mut run = Run::new();
        for step in steps {
            run.step(step)?;
        }
        // Where nobody knows of itself, nobody says of others that they are gone.
        run.nodes.insert(node(0));
        // A pod that has said nothing yet may have any address that was given to its name.
        run.pods.values_mut().for_each(|(_, has_said)| *has_said = true);
        for _ in 0..8 {
            run.now += Duration::from_secs(LEAK);
            run.look();
        }
        let known: BTreeSet<_> = run.handles.values().chain(&run.odd).collect();
        for (handle, _) in super::by_owner(&run.ledger) {
            prop_assert!(known.contains(&handle.to_owned()), "{} is nobody's", handle);
        }
        let used: BTreeSet<_> =
            super::by_owner(&run.ledger).values().flatten().filter_map(super::Holding::node).collect();
        for number in 0..NODES {
            if !run.nodes.contains(&node(number)) && !used.contains(&node(number)) {
                prop_assert!(run.blocks_of(&node(number)).is_empty(), "n{} has a block", number);
                let claims = run.ledger.affinities.values().filter(|kept| kept.value.node == node(number));
                prop_assert_eq!(claims.count(), 0);
            }
        }
        prop_assert!(run.ledger.handles.keys().all(|handle| known.contains(handle)), "a handle points nowhere");
    }
}
