//! What one decision costs in a large cluster: 10,000 blocks with 250,000 addresses.
//! In: nothing. Out: a line for each kind of decision, microseconds, median and slowest of many.
//! Invariant: what a decision would write is worked out, too.
//! Never: reads a ledger: how long that takes is its datastore's.

use ipam::{Block, IpamHandle, Kept, Ledger, Request, block::ATTACHMENT, cidr_name, node_handle, owner_of};
use model::{AttachmentId, Cidr, IpPool, Labels, NodeName};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const BLOCKS: usize = 10_000;
const EACH: usize = 25;

fn main() {
    let mut ledger = cluster();
    let addresses: usize = ledger.blocks.values().map(|kept| kept.value.allocations.iter().flatten().count()).sum();
    println!("{} blocks, {addresses} addresses; microseconds, median and slowest of 200", ledger.blocks.len());
    measure("an address of the node's own block", &mut ledger, |ledger, turn| {
        assert!(ledger.assign(&request("n9077", "own", turn)).is_ok());
    });
    measure("a new block", &mut ledger, |ledger, turn| {
        assert!(ledger.assign(&request(&format!("new{turn}"), "block", turn)).is_ok());
    });
    measure("a release", &mut ledger, |ledger, turn| {
        ledger.here = Some((format!("n{turn}").into(), Labels::default()));
        assert_eq!(ledger.release(&owner(turn, 3)).len(), 1);
    });
    full(&mut ledger);
    measure("a borrowed address, no block being free", &mut ledger, |ledger, turn| {
        assert!(ledger.assign(&request(&format!("more{turn}"), "lent", turn)).is_ok());
    });
    ledger.config.strict_affinity = true;
    measure("a refusal, the pool being exhausted", &mut ledger, |ledger, turn| {
        assert!(ledger.assign(&request(&format!("more{turn}"), "none", turn)).is_err());
    });
}

/// Each decision is made on the ledger as the one before left it, as if that had been written and read.
fn measure(what: &str, ledger: &mut Ledger, decide: impl Fn(&mut Ledger, usize)) {
    let mut laps = Vec::new();
    for turn in 0..200 {
        let start = Instant::now();
        decide(ledger, turn);
        std::hint::black_box(ledger.writes());
        laps.push(start.elapsed());
        settle(ledger);
    }
    laps.sort();
    let micros = |lap: Duration| lap.as_secs_f64() * 1e6;
    println!("{what}: {:.0}, {:.0}", micros(laps[laps.len() / 2]), micros(laps[laps.len() - 1]));
}

fn cluster() -> Ledger {
    let mut ledger = Ledger::default();
    // Of 16,384 blocks so many are taken.
    ledger.pools.insert("p".into(), IpPool::of_pods("p", net("10.0.0.0/12".into()), 26));
    for number in 0..BLOCKS {
        let cidr = block_at(number);
        let node: NodeName = format!("n{number}").into();
        let mut block = Block::new(cidr, &node, 1);
        for place in 0..EACH {
            let owner = owner(number, place);
            let secondary: BTreeMap<_, _> =
                [("pod", &*owner), ("namespace", "default"), ("node", "n"), (ATTACHMENT, &*owner)]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into();
            block.assign(&node_handle(&node), &secondary).expect("it has room");
        }
        let handle = node_handle(&node);
        let counted = IpamHandle { handle_id: handle.clone(), block: [(cidr, EACH as u32)].into(), deleted: false };
        if number < 200 {
            ledger.handles.insert(handle, stored(counted));
        }
        let claim = ipam::BlockAffinity::new(&node, cidr, ipam::AffinityState::Confirmed);
        ledger.affinities.insert(format!("n{number}-{}", cidr_name(cidr)), stored(claim));
        ledger.blocks.insert(cidr, stored(block));
    }
    settle(&mut ledger);
    ledger
}

/// Every other block is somebody's, and the pool no larger.
fn full(ledger: &mut Ledger) {
    ledger.pools.insert("p".into(), IpPool::of_pods("p", net("10.0.0.0/13".into()), 26));
    settle(ledger);
}

fn settle(ledger: &mut Ledger) {
    ledger.blocks.settle();
    ledger.affinities.settle();
    ledger.handles.settle();
}

fn stored<T>(value: T) -> Kept<T> {
    Kept { revision: Some("1".into()), value }
}

fn net(text: String) -> Cidr {
    text.parse().expect("a network")
}

fn block_at(number: usize) -> Cidr {
    let first = (10 << 24) + (number as u32) * 64;
    net(format!("{}/26", std::net::Ipv4Addr::from(first)))
}

fn owner(number: usize, place: usize) -> String {
    let container = format!("{number:032x}{place:032x}");
    owner_of(&AttachmentId { network: "net".into(), container, interface: "eth0".into() })
}

fn request(node: &str, what: &str, turn: usize) -> Request {
    Request { node: node.into(), owner: format!("{what}.{turn}"), sequence: 1, ..Request::default() }
}
