//! From podCIDRs to blocks.
//! In: Nodes, pods that run, this machine's host-local leases. Out: pools that give nothing yet, blocks with what pods have; then pools that give.
//! Invariant: a pool gives only after another look has found every address that a pod has in its block.
//! Never: takes back what somebody has got out of a block.

use super::{DRY, Scene, Step, cooling, give_up, refuse_cooling};
use crate::addresses::split::with;
use anyhow::{Result, bail};
use datastore::{
    calendar::{go_time, rfc3339},
    settings::{Change, Setting},
};
use ipam::{
    audit::holdings,
    migrate::{Found, HANDLES, Held, NewPool, Plan, Shape, plan},
};
use model::{Cidr, Family, NodeName};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What keeps the addresses that nodes have.
const RESERVATION: &str = "podcidrs";
/// Pools that are made here.
const POOLS: &str = "podcidr-";
/// Looks, while pods come that other plugins give addresses to.
const LOOKS: u32 = 10;

/// What is wanted.
pub struct Wanted {
    pub pools: Vec<Cidr>,
    pub block_sizes: BTreeMap<Family, u8>,
    /// So long after the last pod of the other plugin its address is told by everybody.
    pub settle: Duration,
}

pub fn migrate(scene: &Scene, wanted: Wanted, step: Step) -> Result<String> {
    if step.back {
        return back(scene, step.yes);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let sequence = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2);
    let Wanted { pools, block_sizes, settle } = wanted;
    let shape = Shape { pools, block_sizes, sequence, timestamp: go_time(now), now: rfc3339(now) };
    let mut ledger = scene.ledger.clone();
    let found = found(scene, &scene.census)?;
    let plan = planned(plan(&mut ledger, &found, &shape))?;
    let mut said = describe(&plan)?;
    if !step.yes {
        let next = if step.finish { "They would be enabled then.\n" } else { "" };
        return Ok(format!("{said}{next}{DRY}"));
    }
    write_settings(scene, &plan)?;
    let mut is_settled = !step.finish || plan.enabled.is_empty();
    for _ in 0..LOOKS {
        let (look, written) = look_again(scene, &shape)?;
        if written > 0 {
            writeln!(said, "{written} addresses written into blocks.")?;
            continue;
        }
        if !step.finish {
            let next = "All is written, and pools give nothing yet: set up all nodes for ipam.type tortie, then give --finish.";
            return Ok(said + next);
        }
        if !is_settled {
            thread::sleep(settle);
            is_settled = true;
            continue;
        }
        enable(scene, &look.enabled)?;
        let next = if look.enabled.is_empty() {
            "All is done already."
        } else {
            "Pools are enabled: pods that are made get addresses of them."
        };
        return Ok(said + next);
    }
    bail!("{said}Pods kept coming that another plugin gave addresses to: set up all nodes for ipam.type tortie first")
}

/// What is there now, written down. How many addresses that were; none: the plan of what is left.
fn look_again(scene: &Scene, shape: &Shape) -> Result<(Plan, usize)> {
    let survey = scene.allocator.objects().survey()?;
    let found = found(scene, &survey.census)?;
    let decide = |ledger: &mut ipam::Ledger| {
        ledger.pools.clone_from(&survey.pools);
        plan(ledger, &found, shape)
    };
    let look = planned(scene.allocator.decide_whole(decide)?)?;
    let written = look.addresses.len() + look.blocks.len();
    Ok((look, written))
}

fn planned<T>(plan: Result<T, Vec<ipam::migrate::Problem>>) -> Result<T> {
    plan.or_else(|problems| {
        let said: String = problems.iter().map(|problem| format!("  {problem}\n")).collect();
        bail!("{} things stand in the way, and nothing was written:\n{}", problems.len(), said.trim_end())
    })
}

/// Nodes' networks, and what their pods have.
fn found(scene: &Scene, census: &ipam::audit::Census) -> Result<Found> {
    let mut nodes: BTreeMap<NodeName, Vec<Cidr>> = BTreeMap::new();
    for node in scene.allocator.objects().settings(Setting::Node)? {
        let name = &node.metadata.name;
        let many = node.spec["podCIDRs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let one = if many.is_empty() { std::slice::from_ref(&node.spec["podCIDR"]) } else { many };
        for text in one.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()) {
            let Ok(cidr) = text.parse() else { bail!("Node {name}: spec.podCIDRs: {text:?} is no network") };
            nodes.entry(name.as_str().into()).or_default().push(cidr);
        }
    }
    let mut pods = BTreeSet::new();
    for (pod, living) in &census.pods {
        for living in living.iter().filter(|living| !living.is_apart) {
            let Some(node) = &living.node else { continue };
            let held = |address: &std::net::IpAddr| Held { address: *address, pod: pod.clone(), node: node.clone() };
            pods.extend(living.addresses.iter().map(held));
        }
    }
    // Several witnesses of a pod say the same.
    Ok(Found { nodes, pods: pods.into_iter().collect() })
}

fn describe(plan: &Plan) -> Result<String> {
    let mut said = String::new();
    for NewPool { name, cidr, block_size, node } in &plan.pools {
        let whose = node.as_ref().map_or_else(String::new, |node| format!(", for node {node} alone"));
        writeln!(said, "IPPool {name} with {cidr} in blocks of /{block_size}{whose}")?;
    }
    for (cidr, node) in &plan.blocks {
        writeln!(said, "IPAMBlock {cidr} of node {node}")?;
    }
    for Held { address, pod, node } in &plan.addresses {
        writeln!(said, "  {address} of pod {pod} on {node}")?;
    }
    let (pools, blocks, addresses) = (plan.pools.len(), plan.blocks.len(), plan.addresses.len());
    writeln!(
        said,
        "{pools} pools, {blocks} blocks and {addresses} addresses to write; {} pools to enable.",
        plan.enabled.len()
    )?;
    Ok(said)
}

/// Pools, disabled, and what keeps the addresses of nodes.
fn write_settings(scene: &Scene, plan: &Plan) -> Result<()> {
    let store = scene.allocator.objects();
    let mut changes = Vec::new();
    let reserved: Vec<_> = plan.reserved.iter().map(ToString::to_string).collect();
    let spec = json!({ "reservedCIDRs": reserved });
    match store.settings(Setting::Reservation)?.iter().find(|known| known.metadata.name == RESERVATION) {
        Some(known) if known.spec == spec => {}
        Some(known) => changes.push(Change::of(Setting::Reservation, known, Some(spec))),
        None => changes.push(Change::new(Setting::Reservation, RESERVATION, spec)),
    }
    for NewPool { name, cidr, block_size, node } in &plan.pools {
        let mut spec = json!({ "cidr": cidr.to_string(), "blockSize": block_size, "disabled": true });
        if let Some(node) = node {
            spec["nodeSelector"] = format!("kubernetes.io/hostname == '{node}'").into();
        }
        changes.push(Change::new(Setting::Pool, name, spec));
    }
    store.set(&changes)?;
    Ok(())
}

fn enable(scene: &Scene, names: &[String]) -> Result<()> {
    let store = scene.allocator.objects();
    let pools = store.settings(Setting::Pool)?;
    let due = pools.iter().filter(|pool| names.contains(&pool.metadata.name));
    let changes: Vec<_> =
        due.map(|pool| Change::of(Setting::Pool, pool, Some(with(pool, "disabled", false.into())))).collect();
    store.set(&changes)?;
    Ok(())
}

/// Pools give nothing more; once nobody has an address out of a block, all goes that was made here.
fn back(scene: &Scene, yes: bool) -> Result<String> {
    let store = scene.allocator.objects();
    let stored = store.settings(Setting::Pool)?;
    let own: Vec<_> = stored.iter().filter(|pool| pool.metadata.name.starts_with(POOLS)).collect();
    let networks: Vec<Cidr> =
        own.iter().filter_map(|pool| Some(scene.ledger.pools.get(&pool.metadata.name)?.cidr)).collect();
    let is_own = |cidr: &Cidr| networks.iter().any(|network| network.covers(cidr));
    let blocks: Vec<_> = scene.ledger.blocks.iter().filter(|(cidr, _)| is_own(cidr)).collect();
    let (mut said, mut handles, mut others) = (String::new(), BTreeSet::new(), Vec::new());
    for holding in blocks.iter().flat_map(|(_, kept)| holdings(&kept.value)) {
        match holding.attribute.handle_id.as_deref().filter(|handle| handle.starts_with(HANDLES)) {
            Some(handle) => drop(handles.insert(handle.to_owned())),
            None => others.push(holding),
        }
    }
    let enabled: Vec<_> = own.iter().filter(|pool| pool.spec["disabled"] != true).collect();
    writeln!(
        said,
        "{} pools, {} blocks and {} addresses that were written down would go.",
        own.len(),
        blocks.len(),
        handles.len()
    )?;
    for holding in &others {
        let whose = holding.pod().map_or_else(|| "somebody".to_owned(), |pod| format!("pod {pod}"));
        writeln!(said, "  {} is given out to {whose} since", holding.address)?;
    }
    let cooling = cooling(blocks.iter().map(|(_, kept)| *kept));
    if cooling > 0 {
        writeln!(said, "  {cooling} more cool down")?;
    }
    if !yes {
        return Ok(said + DRY);
    }
    let disable =
        |pool: &&&datastore::Object| Change::of(Setting::Pool, pool, Some(with(pool, "disabled", true.into())));
    store.set(&enabled.iter().map(disable).collect::<Vec<_>>())?;
    if !others.is_empty() {
        bail!(
            "{said}Pools give nothing more now. Set up nodes for their former plugin, and delete these pods: it does not know that they have \
             addresses of podCIDRs; then give the command once more"
        );
    }
    refuse_cooling(scene, &said, cooling)?;
    let handles: Vec<String> = handles.into_iter().collect();
    let freed = scene.allocator.take_back_all(&handles)?;
    let ledger = scene.allocator.ledger(true)?;
    give_up(scene, &ledger, ledger.blocks.keys().filter(|cidr| is_own(cidr)).copied())?;
    let mut changes = Vec::new();
    let now = store.settings(Setting::Pool)?;
    let goes = |pool: &&datastore::Object| pool.metadata.name.starts_with(POOLS);
    changes.extend(now.iter().filter(goes).map(|pool| Change::of(Setting::Pool, pool, None)));
    let reservations = store.settings(Setting::Reservation)?;
    let own = reservations.iter().filter(|known| known.metadata.name == RESERVATION);
    changes.extend(own.map(|known| Change::of(Setting::Reservation, known, None)));
    store.set(&changes)?;
    Ok(format!("{} addresses, {} blocks and {} pools are gone.", freed.len(), blocks.len(), networks.len()))
}
