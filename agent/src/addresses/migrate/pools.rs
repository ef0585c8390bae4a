//! From one pool to another: the old one gives nothing more, and goes once nobody has an address of it.
//! In: two pools, what is given out. Out: the old pool disabled, enabled again, or gone.
//! Invariant: no pod that runs gets another address; while somebody has an address of it the old pool stays.
//! Never: makes a pod anew: its owner does.

use super::{DRY, Scene, Step, cooling, give_up, refuse_cooling};
use crate::addresses::split::with;
use anyhow::{Result, anyhow, bail};
use datastore::{
    Object,
    settings::{Change, Setting},
};
use ipam::audit::holdings;
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
    let cooling = cooling(blocks.iter().map(|(_, kept)| *kept));
    if cooling > 0 {
        writeln!(said, "  {cooling} addresses of it cool down")?;
    }
    if !yes {
        return Ok(said + DRY);
    }
    refuse_cooling(scene, &said, cooling)?;
    give_up(scene, &scene.ledger, blocks.iter().map(|(cidr, _)| **cidr))?;
    scene.allocator.objects().set(&[Change::of(Setting::Pool, old, None)])?;
    Ok(format!("IPPool {name} is gone."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocate::{Allocator, Wish};
    use datastore::Objects;
    use ipam::audit::{Census, report::Report};
    use model::{AttachmentId, PodId};
    use std::{fs, path::Path, sync::Arc};

    fn scene(dir: &Path, cooldown: u32) -> Scene {
        let mut allocator = Allocator::new(Arc::new(Objects::open(dir).expect("a store")), "n1".into());
        for (name, cidr, disabled) in [("old", "10.65.0.0/24", true), ("new", "10.66.0.0/24", false)] {
            let pool = IpPool { disabled, ..IpPool::of_pods(name, cidr.parse().expect("a network"), 29) };
            allocator.rules.pools.insert(name.into(), pool);
            let text = format!(
                "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n  cidr: {cidr}\n  blockSize: 29\n  \
                 disabled: {disabled}\n"
            );
            fs::write(dir.join(format!("pool-{name}.yaml")), text).expect("written");
        }
        allocator.rules.config.cooldown = cooldown;
        let ledger = allocator.ledger(true).expect("readable");
        Scene { allocator, ledger, census: Census::default(), report: Report::default(), heeds_lock: false }
    }

    #[test]
    fn what_cools_down_is_named_and_the_pool_goes_once_it_is_cold() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut before = scene(dir.path(), 600);
        before.allocator.rules.pools.values_mut().for_each(|pool| pool.disabled = pool.name == "new");
        let id = AttachmentId { network: "net".into(), container: "c".into(), interface: "eth0".into() };
        let wish = Wish::any(id.clone(), PodId::new("x", "web"));
        before.allocator.assign(&[wish], |_| {}).remove(0).expect("an address of old");
        before.allocator.release(&[id], &[], &[]).expect("released");
        let finish = |scene: &Scene, yes| migrate(scene, ("old", "new"), Step { finish: true, back: false, yes });
        let mut found = scene(dir.path(), 600);
        assert!(finish(&found, false).expect("said").contains("1 addresses of it cool down"));
        let said = finish(&found, true).expect_err("it is not cold").to_string();
        assert!(said.contains("cool down (ipCooldownSeconds is 600)") && !said.contains("meanwhile"), "{said}");
        assert!(dir.path().join("pool-old.yaml").exists());
        // As it is read once the time is over.
        let block = found.ledger.blocks.keys().copied().next().expect("a block");
        found.ledger.blocks.get_mut(&block).expect("there").value.thaw("9999-12-31T23:59:59Z");
        assert_eq!(finish(&found, true).expect("cold"), "IPPool old is gone.");
    }
}
