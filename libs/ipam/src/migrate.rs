//! Nodes that give addresses out of their own networks (podCIDRs: host-local, flannel) come to blocks.
//! In: the ledger, each node's podCIDRs, addresses of pods that run, shapes that are wanted. Out: pools, reservations, and the ledger with
//! blocks that hold all of it; or all that is wrong.
//! Invariant: every address that a pod has is written into a block before a pool gives any; each block is its podCIDR's node's.
//! Never: changes what somebody else holds; takes a pool that gives addresses already for one that is to be filled.

mod problem;
#[cfg(test)]
mod tests;

pub use problem::Problem;

use crate::{Block, Kept, Ledger, affinity, block::nth_address};
use model::{Cidr, Family, IpPool, NodeName, PodId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Before the handle of an address that was written down for a pod of which no attachment is known.
pub const HANDLES: &str = "migrated.";
/// Blocks of one podCIDR that its node claims; where there would be more, the podCIDR is a pool for its node alone.
const CLAIMED_MAX: u32 = 16;

/// A pod's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// It.
    pub address: IpAddr,
    /// Whose.
    pub pod: PodId,
    /// Where that runs.
    pub node: NodeName,
}

/// How things are.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The networks of each node.
    pub nodes: BTreeMap<NodeName, Vec<Cidr>>,
    /// Addresses of pods that run, but those that are their nodes' own.
    pub pods: Vec<Held>,
}

/// What is wanted where nothing says how it is.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Networks that become pools; those of no podCIDR among them are for nodes that come later.
    pub pools: Vec<Cidr>,
    /// Sizes of blocks, by family; else as large as podCIDRs, within Calico's bounds.
    pub block_sizes: BTreeMap<Family, u8>,
    /// First count of writes of a block that is made.
    pub sequence: u64,
    /// When, as Calico writes it beside addresses.
    pub timestamp: String,
    /// When, as a block says it.
    pub now: String,
}

/// A pool that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPool {
    /// Its name.
    pub name: String,
    /// Its network.
    pub cidr: Cidr,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// The only node that it is for.
    pub node: Option<NodeName>,
}

/// What is to be done. Blocks, claims and handles are in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Pools to make.
    pub pools: Vec<NewPool>,
    /// Pools that have to give once all is written: new ones, and those that are there and disabled.
    pub enabled: Vec<String>,
    /// Blocks to claim.
    pub blocks: Vec<(Cidr, NodeName)>,
    /// Addresses to write into blocks.
    pub addresses: Vec<Held>,
    /// What nodes and broadcasts have of each podCIDR: nobody gets it unasked.
    pub reserved: Vec<Cidr>,
}

/// The handle of an address of this pod that nobody else has written down.
#[must_use]
pub fn handle_of(pod: &PodId) -> String {
    affinity::handle_of(HANDLES, &format!("{}.{}", pod.namespace, pod.name))
}

/// A pool of a podCIDR, or of several that lie side by side.
#[derive(Clone, Debug)]
struct Place {
    cidr: Cidr,
    block_size: u8,
    node: Option<NodeName>,
}

/// Plans it. On success the ledger holds what is to be written; otherwise it is as before.
///
/// # Errors
/// All that is wrong.
pub fn plan(ledger: &mut Ledger, found: &Found, shape: &Shape) -> Result<Plan, Vec<Problem>> {
    ledger.begin();
    let planned = planned(ledger, found, shape);
    ledger.end(planned.is_ok());
    planned
}

fn planned(ledger: &mut Ledger, found: &Found, shape: &Shape) -> Result<Plan, Vec<Problem>> {
    let own: Vec<(Cidr, &NodeName)> =
        found.nodes.iter().flat_map(|(node, cidrs)| cidrs.iter().map(move |cidr| (*cidr, node))).collect();
    let mut problems = overlaps(&own);
    if own.is_empty() {
        problems.push(Problem::NoPodCidr);
    }
    problems.extend(strangers(&own, &found.pods));
    let (places, refused) = places(ledger, &own, shape);
    problems.extend(refused);
    problems.extend(named_in_vain(&shape.pools, &places));
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut plan = Plan { reserved: own.iter().flat_map(|(cidr, _)| reserved(*cidr)).collect(), ..Plan::default() };
    for place in &places {
        match ledger.pools.values().find(|pool| pool.cidr.covers(&place.cidr)) {
            Some(pool) if pool.disabled => plan.enabled.push(pool.name.clone()),
            Some(_) => {}
            None => {
                let name = format!("podcidr-{}", crate::cidr_name(place.cidr));
                plan.enabled.push(name.clone());
                let Place { cidr, block_size, node } = place.clone();
                plan.pools.push(NewPool { name, cidr, block_size, node });
            }
        }
    }
    plan.enabled.dedup();
    let size_at =
        |address: IpAddr| places.iter().find(|place| place.cidr.contains(address)).map(|place| place.block_size);
    for (cidr, node) in &own {
        let Some(size) = size_at(cidr.network()) else { continue };
        let within = 1_u32 << u32::from(size - cidr.prefix_len()).min(31);
        let every = (0..within).map(|index| block_at(*cidr, index, size)).take_while(|_| within <= CLAIMED_MAX);
        let used = found.pods.iter().filter(|held| cidr.contains(held.address));
        let used = used.filter_map(|held| Cidr::new(held.address, size).ok());
        for block in every.chain(used).collect::<BTreeSet<_>>() {
            match claim(ledger, block, node, shape) {
                Ok(true) => plan.blocks.push((block, (*node).clone())),
                Ok(false) => {}
                Err(problem) => problems.push(problem),
            }
        }
    }
    for held in &found.pods {
        match write_down(ledger, held, shape) {
            Ok(true) => plan.addresses.push(held.clone()),
            Ok(false) => {}
            Err(problem) => problems.push(problem),
        }
    }
    // A pool that gives already might give just now what is about to be written down.
    if !plan.blocks.is_empty() || !plan.addresses.is_empty() {
        let gives = |pool: &&IpPool| !pool.disabled && own.iter().any(|(cidr, _)| pool.cidr.covers(cidr));
        problems.extend(ledger.pools.values().filter(gives).map(|pool| Problem::Gives { pool: pool.name.clone() }));
    }
    if problems.is_empty() { Ok(plan) } else { Err(problems) }
}

fn overlaps(own: &[(Cidr, &NodeName)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, (cidr, node)) in own.iter().enumerate() {
        for (other, others) in &own[index + 1..] {
            if cidr.covers(other) || other.covers(cidr) {
                let (node, other_node) = ((*node).clone(), (*others).clone());
                problems.push(Problem::Overlap { cidr: *cidr, node, other: *other, other_node });
            }
        }
    }
    problems
}

/// Pools that were named and overlap, or that nothing lies in.
fn named_in_vain(pools: &[Cidr], places: &[Place]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, network) in pools.iter().enumerate() {
        let overlaps = |other: &&Cidr| other.covers(network) || network.covers(other);
        if let Some(other) = pools[index + 1..].iter().find(overlaps) {
            problems.push(Problem::PoolTwice { network: *network, other: *other });
        } else if places.iter().all(|place| place.cidr != *network) {
            problems.push(Problem::Unused { network: *network });
        }
    }
    problems
}

/// Addresses of no podCIDR, and of two pods.
fn strangers(own: &[(Cidr, &NodeName)], pods: &[Held]) -> Vec<Problem> {
    let mut seen: BTreeMap<IpAddr, &PodId> = BTreeMap::new();
    let mut problems = Vec::new();
    for Held { address, pod, .. } in pods {
        if !own.iter().any(|(cidr, _)| cidr.contains(*address)) {
            problems.push(Problem::Outside { address: *address, pod: pod.clone() });
        }
        if let Some(other) = seen.insert(*address, pod).filter(|other| *other != pod) {
            problems.push(Problem::Twice { address: *address, pod: pod.clone(), other: other.clone() });
        }
    }
    problems
}

/// The pools that there will be, with the sizes of their blocks.
fn places(ledger: &Ledger, own: &[(Cidr, &NodeName)], shape: &Shape) -> (Vec<Place>, Vec<Problem>) {
    let (mut places, mut problems): (Vec<Place>, Vec<Problem>) = Default::default();
    let mut free: Vec<(Cidr, &NodeName, u8)> = Vec::new();
    for (cidr, node) in own {
        let related = ledger.pools.values().find(|pool| pool.cidr.covers(cidr) || cidr.covers(&pool.cidr));
        let size = match related {
            Some(pool) if !pool.cidr.covers(cidr) || !crate::migrate::serves(pool) => {
                problems.push(Problem::Pool { pool: pool.name.clone(), network: pool.cidr, cidr: *cidr });
                continue;
            }
            Some(pool) => pool.block_size,
            None => shape.block_sizes.get(&cidr.family()).copied().unwrap_or_else(|| size_for(own, cidr.family())),
        };
        if cidr.prefix_len() > size {
            problems.push(Problem::Multiple { node: (*node).clone(), cidr: *cidr, block_size: size });
            continue;
        }
        match related {
            Some(pool) if places.iter().all(|place| place.cidr != pool.cidr) => {
                places.push(Place { cidr: pool.cidr, block_size: size, node: None });
            }
            Some(_) => {}
            None => free.push((*cidr, node, size)),
        }
    }
    for pool in &shape.pools {
        if let Some(known) = ledger
            .pools
            .values()
            .find(|known| known.cidr != *pool && (known.cidr.covers(pool) || pool.covers(&known.cidr)))
        {
            problems.push(Problem::Pool { pool: known.name.clone(), network: known.cidr, cidr: *pool });
        }
    }
    let mut exact = BTreeMap::new();
    for (cidr, node, size) in free {
        let is_wide = size - cidr.prefix_len() > CLAIMED_MAX.trailing_zeros() as u8;
        match shape.pools.iter().find(|pool| pool.covers(&cidr)) {
            Some(pool) if places.iter().all(|place| place.cidr != *pool) => {
                places.push(Place { cidr: *pool, block_size: size, node: None });
            }
            Some(_) => {}
            None if is_wide => places.push(Place { cidr, block_size: size, node: Some(node.clone()) }),
            None => drop(exact.insert(cidr, size)),
        }
    }
    places.extend(joined(exact).into_iter().map(|(cidr, block_size)| Place { cidr, block_size, node: None }));
    (places, problems)
}

/// Whether pods get addresses of it once it is enabled.
fn serves(pool: &IpPool) -> bool {
    pool.uses.workload
}

/// Two halves are one network, as long as there are two.
fn joined(mut exact: BTreeMap<Cidr, u8>) -> BTreeMap<Cidr, u8> {
    loop {
        let half = exact.iter().find_map(|(cidr, size)| {
            let whole = Cidr::new(cidr.network(), cidr.prefix_len().checked_sub(1)?).ok()?;
            let other = block_at(whole, 1, cidr.prefix_len());
            (whole.network() == cidr.network() && exact.get(&other) == Some(size))
                .then_some((*cidr, other, whole, *size))
        });
        let Some((one, other, whole, size)) = half else { return exact };
        exact.remove(&one);
        exact.remove(&other);
        exact.insert(whole, size);
    }
}

/// As large as the smallest podCIDR of the family, within Calico's bounds.
fn size_for(own: &[(Cidr, &NodeName)], family: Family) -> u8 {
    let smallest = own.iter().map(|(cidr, _)| cidr).filter(|cidr| cidr.family() == family).map(Cidr::prefix_len).max();
    let (least, usual) = if family == Family::V4 { (20, 26) } else { (116, 122) };
    match smallest {
        Some(length) if length >= least => length,
        // More blocks than a node may have: of the usual size.
        Some(length) if least - length > CLAIMED_MAX.trailing_zeros() as u8 => usual,
        _ => least,
    }
}

fn block_at(cidr: Cidr, index: u32, size: u8) -> Cidr {
    let bits: u32 = if cidr.is_v4() { 32 } else { 128 };
    let first = nth_address(cidr, u128::from(index).checked_shl(bits - u32::from(size)).unwrap_or_default());
    Cidr::new(first, size).unwrap_or(cidr)
}

/// What host-local gives to nobody: the network's own address, the bridge's, and the broadcast's.
fn reserved(cidr: Cidr) -> Vec<Cidr> {
    let bits = if cidr.is_v4() { 32 } else { 128 };
    if bits - cidr.prefix_len() < 2 {
        return Vec::new();
    }
    let first = Cidr::new(cidr.network(), bits - 1).unwrap_or(cidr);
    let last = cidr.is_v4().then(|| Cidr::host(cidr.last()));
    [first].into_iter().chain(last).collect()
}

/// The block is the node's. False: it was.
fn claim(ledger: &mut Ledger, cidr: Cidr, node: &NodeName, shape: &Shape) -> Result<bool, Problem> {
    let is_its = match ledger.blocks.get(&cidr) {
        None => {
            let over = cidr.supernets().find(|over| ledger.blocks.contains_key(over));
            if let Some(other) = over.or_else(|| ledger.blocks_in(cidr).next().map(|(cidr, _)| *cidr)) {
                return Err(Problem::Size { cidr, other });
            }
            let mut value = Block::new(cidr, node, shape.sequence);
            value.affinity_claim_time = Some(shape.now.clone()).filter(|now| !now.is_empty());
            ledger.blocks.insert(cidr, Kept { revision: None, value });
            false
        }
        Some(kept) => {
            kept.value.check()?;
            if !kept.value.belongs_to(node) {
                let owner = kept.value.affinity.clone().unwrap_or_else(|| "nobody".to_owned());
                return Err(Problem::Owned { cidr, owner, node: node.clone() });
            }
            true
        }
    };
    ledger.claim(cidr, node);
    Ok(!is_its)
}

/// The address is the pod's. False: it was.
fn write_down(ledger: &mut Ledger, held: &Held, shape: &Shape) -> Result<bool, Problem> {
    let Held { address, pod, node } = held;
    let Some(cidr) = ledger.block_of(*address).map(|(cidr, _)| cidr) else {
        return Err(Problem::Outside { address: *address, pod: pod.clone() });
    };
    let Some(kept) = ledger.blocks.get_mut(&cidr) else { return Ok(false) };
    kept.value.check()?;
    let holder = crate::audit::holdings(&kept.value).find(|known| known.address == *address).map(|known| known.pod());
    match holder {
        Some(known) if known.as_ref() == Some(pod) => return Ok(false),
        Some(known) => {
            let holder = known.map_or_else(|| "somebody who is no pod".to_owned(), |known| format!("pod {known}"));
            return Err(Problem::Taken { address: *address, pod: pod.clone(), holder });
        }
        // The pod has it: it cools down for nobody.
        None => kept.value.thaw_address(*address),
    }
    let handle = handle_of(pod);
    let secondary = [
        ("pod", pod.name.to_string()),
        ("namespace", pod.namespace.to_string()),
        ("node", node.to_string()),
        ("timestamp", shape.timestamp.clone()),
    ];
    let secondary = secondary.map(|(key, value)| (key.to_owned(), value)).into();
    let taken = || {
        let holder = "somebody whom its block does not name".to_owned();
        Problem::Taken { address: *address, pod: pod.clone(), holder }
    };
    kept.value.take(*address, &handle, &secondary).map(|_| true).ok_or_else(taken)
}
