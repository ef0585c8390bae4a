//! `tortie ipam split`: a pool becomes several smaller ones; with calicoctl's meaning.
//! In: everything as it is now, a pool, a number. Out: what was done, or would be.
//! Invariant: Calico's objects are locked meanwhile, where a lock is heeded; cut short, it is taken up by the same command.
//! Never: writes without `--yes`; changes a block.

use super::Scene;
use anyhow::{Result, anyhow, bail};
use datastore::{
    Object,
    settings::{Change, Setting},
};
use ipam::split::split;
use model::{Cidr, IpPool};
use std::fmt::Write as _;

/// Which pool.
pub enum Which {
    Name(String),
    Cidr(Cidr),
}

/// How to lock, for who did not.
const LOCK: &str = "lock it first, so that nobody gives addresses out meanwhile: `calicoctl datastore migrate lock`, or set spec.datastoreReady of \
                    ClusterInformation default to false; and back afterwards";

/// Splits it.
pub fn pool(scene: &Scene, which: &Which, number: u32, yes: bool) -> Result<String> {
    let pools = &scene.ledger.pools;
    let is_it = |pool: &&IpPool| match which {
        Which::Name(name) => pool.name == *name,
        Which::Cidr(cidr) => pool.cidr == *cidr && !is_part(pool, pools.values()),
    };
    let pool = pools.values().find(is_it).ok_or_else(|| match which {
        Which::Name(name) => anyhow!("there is no IPPool {name}: `tortie ipam show` says which there are"),
        Which::Cidr(cidr) => anyhow!("no IPPool has the network {cidr}: `tortie ipam show` says which there are"),
    })?;
    let parts = split(pool, number, pools.values(), scene.ledger.blocks.keys().copied())?;
    let store = scene.allocator.objects();
    let stored = store.settings(Setting::Pool)?;
    let found = |name: &str| stored.iter().find(|object| object.metadata.name == name);
    let old = found(&pool.name).ok_or_else(|| anyhow!("IPPool {} is gone meanwhile", pool.name))?;
    let mut said = format!("IPPool {} ({}) is split into {number}:\n", pool.name, pool.cidr);
    for (name, cidr) in &parts {
        writeln!(said, "  IPPool {name} with {cidr}")?;
    }
    if pool.disabled {
        writeln!(said, "The pool is disabled, and its parts will not be.")?;
    }
    if scene.heeds_lock && !scene.report.datastore_locked {
        if yes {
            bail!("the datastore is not locked: {LOCK}");
        }
        writeln!(said, "The datastore is not locked: {LOCK}.")?;
    }
    if !yes {
        return Ok(format!("{said}Nothing was done: give --yes"));
    }
    // Nobody who does not heed the lock takes addresses of it any more.
    if old.spec["disabled"] != true {
        store.set(&[Change::of(Setting::Pool, old, Some(with(old, "disabled", true.into())))])?;
    }
    let stored = store.settings(Setting::Pool)?;
    let old_now = stored.iter().find(|object| object.metadata.name == pool.name);
    let old_now = old_now.ok_or_else(|| anyhow!("IPPool {} is gone meanwhile", pool.name))?;
    let is_new = |(name, _): &&(String, Cidr)| found(name).is_none();
    let part = |(name, cidr): &(String, Cidr)| {
        let mut spec = old_now.spec.clone();
        spec["cidr"] = cidr.to_string().into();
        // As in Calico: one that was cut short was disabled by that, and nothing says how it was before.
        spec["disabled"] = false.into();
        Change::new(Setting::Pool, name, spec)
    };
    let mut changes: Vec<_> = parts.iter().filter(is_new).map(part).collect();
    changes.push(Change::of(Setting::Pool, old_now, None));
    store.set(&changes)?;
    let mut done = format!("IP Pool {} was successfully split into {number} smaller pools.\n", pool.name);
    for (name, cidr) in &parts {
        writeln!(done, "Created {name} with CIDR {cidr}.")?;
    }
    Ok(done.trim_end().to_owned())
}

/// Of two with one network the one is meant that is to be split.
fn is_part<'a>(pool: &IpPool, mut pools: impl Iterator<Item = &'a IpPool>) -> bool {
    pools.any(|other| other.name != pool.name && pool.name.starts_with(&format!("split-{}-", other.name)))
}

/// What the object says, with one field as it is given.
pub fn with(object: &Object, field: &str, value: serde_json::Value) -> serde_json::Value {
    let mut spec = object.spec.clone();
    spec[field] = value;
    spec
}
