//! From one pool to another: the old one gives nothing more, and goes once nobody has an address of it.
//! In: two pools, what is given out. Out: the old pool disabled, enabled again, or gone.
//! Invariant: no pod that runs gets another address; while somebody has an address of it the old pool stays.
//! Never: makes a pod anew: its owner does.

use super::{DRY, Scene, Step};
use crate::addresses::split::with;
use anyhow::{Result, anyhow, bail};
use datastore::{
    Object,
    settings::{Change, Setting},
};
use ipam::audit::{Idle, holdings};
use model::IpPool;
use std::{collections::BTreeMap, fmt::Write as _};

/// Addresses that are named.
const NAMED: usize = 10;

pub fn migrate(scene: &Scene, (from, to): (&str, &str), step: Step) -> Result<String> {
    let store = scene.allocator.objects();
    let stored = store.settings(Setting::Pool)?;
    let object = |name: &str| stored.iter().find(|object| object.metadata.name == name);
    let absent = |name: &str| anyhow!("there is no IPPool {name}: `tortie ipam show` says which there are");
    let pool = |name: &str| scene.ledger.pools.get(name).ok_or_else(|| absent(name));
    let (old, old_object) = (pool(from)?, object(from).ok_or_else(|| absent(from))?);
    if step.back {
        return set_disabled(scene, old_object, false, step.yes);
    }
    let new = pool(to)?;
    let warnings = check(old, new)?;
    let mut left = BTreeMap::new();
    let mut named = String::new();
    for holding in scene.ledger.blocks.values().flat_map(|kept| holdings(&kept.value)) {
        if !old.cidr.contains(holding.address) {
            continue;
        }
        let count: &mut usize = left.entry(holding.node()).or_default();
        *count += 1;
        if left.values().sum::<usize>() <= NAMED {
            let whose = holding.pod().map_or_else(|| "nobody known".to_owned(), |pod| format!("pod {pod}"));
            writeln!(named, "  {} of {whose}", holding.address)?;
        }
    }
    let count: usize = left.values().sum();
    let mut said = warnings;
    writeln!(said, "{count} addresses of IPPool {from} are given out.")?;
    for (node, count) in &left {
        let node = node.as_ref().map_or("nobody's node", |node| &*node.0);
        writeln!(said, "  {node} has {count}")?;
    }
    if step.finish {
        return finish(scene, old_object, (count, &named, said), step.yes);
    }
    let room = 1_u128.checked_shl(u32::from(if new.cidr.is_v4() { 32 } else { 128 } - new.cidr.prefix_len()));
    if room.is_some_and(|room| room < count as u128) {
        bail!("{said}IPPool {to} ({}) has no room for them: make it larger", new.cidr);
    }
    if old.disabled {
        let next =
            if count == 0 { "Give --finish, and the pool goes." } else { "Make their pods anew, and look again." };
        return Ok(format!("{said}IPPool {from} is disabled: pods that are made get addresses of others. {next}"));
    }
    writeln!(
        said,
        "IPPool {from} would be disabled: pods keep their addresses, and those that are made get one of {to}."
    )?;
    if !step.yes {
        return Ok(said + DRY);
    }
    set_disabled(scene, old_object, true, true)
}

/// What stands in the way; and what is to be thought of.
fn check(old: &IpPool, new: &IpPool) -> Result<String> {
    let pair = format!("IPPool {} ({}) and {} ({})", old.name, old.cidr, new.name, new.cidr);
    if old.cidr.family() != new.cidr.family() {
        bail!("{pair} are of two families: pods would lose one");
    }
    if old.cidr.covers(&new.cidr) || new.cidr.covers(&old.cidr) {
        bail!("{pair} overlap: an address would be of both; give another network");
    }
    if new.disabled || new.uses != old.uses {
        bail!("IPPool {} gives nobody what {} gives: look at its disabled and allowedUses", new.name, old.name);
    }
    let differs = new.nodes != old.nodes || new.namespaces != old.namespaces || new.manual != old.manual;
    let warning = "They select other nodes or namespaces: pods for which no pool is left will not start.\n";
    Ok(if differs { warning.to_owned() } else { String::new() })
}

fn set_disabled(scene: &Scene, object: &Object, disabled: bool, yes: bool) -> Result<String> {
    let name = &object.metadata.name;
    let (is, will) = if disabled { ("disabled", "disabled") } else { ("enabled", "enabled again") };
    if object.spec["disabled"].as_bool().unwrap_or(false) == disabled {
        return Ok(format!("IPPool {name} is {is} already."));
    }
    if !yes {
        return Ok(format!("IPPool {name} would be {will}.\n{DRY}"));
    }
    let change = Change::of(Setting::Pool, object, Some(with(object, "disabled", disabled.into())));
    scene.allocator.objects().set(&[change])?;
    Ok(format!("IPPool {name} is {is}."))
}

fn finish(scene: &Scene, old: &Object, (count, named, said): (usize, &str, String), yes: bool) -> Result<String> {
    let name = &old.metadata.name;
    if old.spec["disabled"] != true {
        bail!("IPPool {name} still gives addresses: migrate it without --finish first");
    }
    if count > 0 {
        let more = if count > NAMED { "  and others\n" } else { "" };
        bail!("{said}{named}{more}IPPool {name} stays: make these pods anew first");
    }
    let network = scene.ledger.pools.get(name).map(|pool| pool.cidr);
    let within = |cidr: &model::Cidr| network.is_some_and(|network| network.covers(cidr));
    let blocks: Vec<_> = scene.ledger.blocks.iter().filter(|(cidr, _)| within(cidr)).collect();
    let mut said = said;
    writeln!(said, "IPPool {name} would go, and {} empty blocks of it.", blocks.len())?;
    if !yes {
        return Ok(said + DRY);
    }
    for (cidr, kept) in blocks {
        let idle = Idle { cidr: *cidr, sequence: kept.value.sequence_number, node: None };
        if !scene.allocator.give_up(&scene.ledger, &idle)? {
            bail!("block {cidr} is written meanwhile, and IPPool {name} stays: look again");
        }
    }
    scene.allocator.objects().set(&[Change::of(Setting::Pool, old, None)])?;
    Ok(format!("IPPool {name} is gone."))
}
