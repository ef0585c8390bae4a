//! `tortie ipam release`: takes back an address, or what reports say that nobody has.
//! In: everything as it is now, an address or reports. Out: what was done, or would be.
//! Invariant: what a report says is looked at again, and asked for again, before it is done; an owner's addresses go all or none.
//! Never: writes without `--yes`.

use super::Scene;
use crate::allocate::Taken;
use anyhow::{Result, anyhow, bail};
use ipam::{
    audit::{
        Release, Verdict, holdings,
        report::{Report, pointless, releases},
    },
    hold::{held_for, held_until},
};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// How sure who asks is.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Though something speaks against it.
    pub force: bool,
    /// It is done.
    pub yes: bool,
}

/// One address.
pub fn address(scene: &Scene, address: IpAddr, how: How) -> Result<String> {
    let Scene { ledger, census, allocator, .. } = scene;
    let all = || ledger.blocks.values().flat_map(|kept| holdings(&kept.value));
    let Some(holding) = all().find(|holding| holding.address == address) else {
        bail!("IP address {address} is not assigned");
    };
    let (Some(handle), Some(owner)) = (&holding.attribute.handle_id, holding.attribute.owner()) else {
        bail!("IP address {address} has no handle: edit IPAMBlock {} by hand", holding.block.cidr);
    };
    let held = held_for(holding.attribute).filter(|_| held_until(holding.attribute).is_some());
    let whose = match (held, holding.pod()) {
        (Some(name), _) => format!("{name}, which is to come again, handle {owner}"),
        (None, Some(pod)) => format!("pod {pod}, handle {owner}"),
        (None, None) => format!("handle {owner}"),
    };
    let against = match census.judge(&holding) {
        Verdict::InUse => Some(format!("is in use by {whose}")),
        Verdict::Unknown => Some(format!("is of {whose}, and nobody can say whether it is in use")),
        Verdict::Leaked(_) => None,
    };
    if let Some(against) = against.filter(|_| !how.force) {
        bail!("IP address {address} {against}: nothing is done; --force takes it back, and another may get it");
    }
    if !how.yes {
        return Ok(format!("{address} of {whose} would be released; nothing was done: give --yes"));
    }
    if allocator.take_back_one(address, handle, owner, holding.sequence)? {
        Ok(format!("Successfully released IP address {address}"))
    } else {
        bail!("IP address {address} was given out anew meanwhile: nothing is done")
    }
}

/// All that these reports say, as far as it still holds.
pub fn of_reports(scene: &Scene, paths: &[PathBuf], how: How) -> Result<String> {
    let Scene { ledger, census, allocator, report: own, .. } = scene;
    let reports = paths.iter().map(|path| read(path, own, how)).collect::<Result<Vec<_>>>()?;
    let due = releases(&reports, ledger, census);
    let handles = pointless(&reports, ledger);
    let mut said = String::new();
    for Release { owner, given, why, .. } in &due {
        for (_, address, _) in given {
            writeln!(said, "  {address} of {owner}: {why}")?;
        }
    }
    for (handle, _) in &handles {
        writeln!(said, "  handle {handle}: no block knows it")?;
    }
    let count: usize = due.iter().map(|release| release.given.len()).sum();
    if due.is_empty() && handles.is_empty() {
        return Ok("No addresses need to be released.".to_owned());
    }
    if !how.yes {
        return Ok(format!(
            "{said}{count} IPs and {} handles would be released; nothing was done: give --yes",
            handles.len()
        ));
    }
    let pods = due.iter().flat_map(|release| &release.pods).cloned().collect();
    let newer = census.renewed(&BTreeSet::new(), allocator.objects().census(&BTreeSet::new(), &pods)?);
    let Taken { freed, held } = allocator.take_back(&due, &newer)?;
    let mut gone = 0;
    for (name, revision) in &handles {
        gone += usize::from(allocator.drop_handle(name, revision.as_deref())?);
    }
    let held =
        if held.is_empty() { String::new() } else { format!(" {} IPs are held for their pods' names.", held.len()) };
    Ok(format!("{said}Released {} IPs and {gone} handles.{held}", freed.len()))
}

fn read(path: &Path, own: &Report, how: How) -> Result<Report> {
    let text = fs::read_to_string(path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    let report: Report =
        serde_json::from_str(&text).map_err(|error| anyhow!("{}: is no report: {error}", path.display()))?;
    if report.cluster_guid != own.cluster_guid {
        bail!(
            "{}: it is of another cluster ({:?}, and this one is {:?})",
            path.display(),
            report.cluster_guid,
            own.cluster_guid
        );
    }
    if report.version != own.version && !how.force {
        bail!(
            "{}: version {:?} wrote it, and this is {}; --force takes it",
            path.display(),
            report.version,
            own.version
        );
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocate::Allocator;
    use ipam::{Block, Kept, Ledger, audit::Census};
    use std::sync::Arc;

    #[test]
    fn an_address_of_which_nobody_can_say_whether_it_is_in_use_is_taken_back_only_by_force() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store: datastore::Store = Arc::new(datastore::Objects::open(dir.path()).expect("a store"));
        let (cidr, held) = ("10.65.0.0/26".parse().expect("a network"), "10.65.0.3".parse().expect("an address"));
        let mut block = Block::new(cidr, &"n1".into(), 1);
        let of = [("node", "n1"), ("vmi", "machine")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        block.take(held, "somebodys", &of.into()).expect("free");
        let ledger = Ledger {
            blocks: [(cidr, Kept { revision: None, value: block })].into_iter().collect(),
            ..Ledger::default()
        };
        let allocator = Allocator::new(store, "n1".into());
        let scene =
            Scene { allocator, ledger, census: Census::default(), report: Report::default(), heeds_lock: false };
        let refused = address(&scene, held, How { force: false, yes: true }).expect_err("nobody can say").to_string();
        assert!(refused.contains("of handle somebodys") && refused.contains("--force"), "{refused}");
        let dry = address(&scene, held, How { force: true, yes: false }).expect("it would be done");
        assert!(dry.contains("nothing was done"), "{dry}");
    }
}
