//! What a check of all addresses finds, as calicoctl's `ipam check` says and writes it.
//! In: ledger, who lives. Out: [`Findings`], with a [`Report`] that a later release takes.
//! Invariant: `inUse` is false only for an address that nobody has; one of which nobody can say is in use.
//! Never: decides what is taken back.

use super::{Census, Holding, Release, Verdict, Why, by_handle, by_owner, holdings};
use crate::{Block, Ledger, block::ATTACHMENT};
use model::{Cidr, IpPool, NodeName};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// A report in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Of what wrote it.
    pub version: String,
    /// Which cluster it is of.
    #[serde(rename = "clusterGUID")]
    pub cluster_guid: String,
    /// Calico's objects were locked.
    pub datastore_locked: bool,
    /// The version of the ClusterInformation.
    #[serde(rename = "clusterInformationRevision")]
    pub cluster_information_revision: String,
    /// Its cluster's type.
    pub cluster_type: String,
    /// What is given out.
    pub allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    /// Handles that no block knows.
    pub leaked_handles: Vec<String>,
}

/// An address that is given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// It.
    pub ip: IpAddr,
    /// Under which handle it is counted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub handle: String,
    /// To whom, where others have the handle, too.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub attachment: String,
    /// When, as its block counts.
    #[serde(default)]
    pub sequence_number: u64,
    /// What stands beside it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Likewise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Likewise, else the node whose block it lies in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Likewise.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Likewise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub creation_timestamp: String,
    /// Somebody has it, or nobody can say.
    pub in_use: bool,
    /// It lies in another node's block.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub borrowed: bool,
    /// Who has it.
    #[serde(default)]
    pub owners: Vec<String>,
}

/// What is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// For a file.
    pub report: Report,
    /// Given out, and nobody has it.
    pub leaked: Vec<(IpAddr, Why)>,
    /// Given out, and nobody can say who has it.
    pub unknown: Vec<IpAddr>,
    /// Given back, and not given again yet; since when.
    pub cooling: Vec<(IpAddr, String)>,
    /// Somebody has it, and it lies in no pool that gives addresses.
    pub foreign: Vec<(IpAddr, String)>,
    /// Somebody has it, and no block says so.
    pub unallocated: Vec<(IpAddr, String)>,
    /// Several have it.
    pub shared: Vec<(IpAddr, Vec<String>)>,
    /// Handles that blocks name and that are not there.
    pub missing_handles: Vec<String>,
    /// Blocks that contradict themselves, handles that count otherwise than blocks, pools that cannot be: a sentence each.
    pub contradictions: Vec<String>,
    /// Addresses that are given out, by node.
    pub by_node: BTreeMap<String, usize>,
}

impl Findings {
    /// How many problems, as calicoctl counts them, and contradictions.
    #[must_use]
    pub fn problems(&self) -> usize {
        self.leaked.len()
            + self.foreign.len()
            + self.unallocated.len()
            + self.report.leaked_handles.len()
            + self.contradictions.len()
    }
}

/// Looks at everything. The ledger has all handles.
#[must_use]
pub fn check(ledger: &Ledger, census: &Census) -> Findings {
    let owners = owners(census);
    let mut findings = Findings::default();
    let sound = ledger.blocks.values().map(|kept| &kept.value).filter(|block| block.check().is_ok());
    findings.cooling =
        sound.flat_map(Block::cooling_down).map(|(address, since)| (address, since.to_owned())).collect();
    for holding in ledger.blocks.values().flat_map(|kept| holdings(&kept.value)) {
        let verdict = census.judge(&holding);
        match verdict {
            Verdict::InUse => {}
            Verdict::Unknown => findings.unknown.push(holding.address),
            Verdict::Leaked(why) => findings.leaked.push((holding.address, why)),
        }
        let own = owners.get(&holding.address).cloned().unwrap_or_default();
        let allocation = allocation(&holding, verdict, own);
        *findings.by_node.entry(allocation.node.clone()).or_default() += 1;
        findings.report.allocations.entry(holding.address).or_default().push(allocation);
    }
    let pools: Vec<&IpPool> = ledger.pools.values().filter(|pool| !pool.disabled).collect();
    for (address, names) in &owners {
        if names.len() > 1 {
            findings.shared.push((*address, names.clone()));
        }
        if findings.report.allocations.contains_key(address) {
            continue;
        }
        let name = names.first().cloned().unwrap_or_default();
        let is_of_pool = pools.iter().any(|pool| pool.cidr.contains(*address));
        let list = if is_of_pool { &mut findings.unallocated } else { &mut findings.foreign };
        list.push((*address, name));
    }
    handles(ledger, &mut findings);
    contradictions(ledger, &mut findings);
    findings
}

/// Who has which address, of those that blocks have to give.
fn owners(census: &Census) -> BTreeMap<IpAddr, Vec<String>> {
    let mut owners: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
    for (pod, living) in &census.pods {
        for address in living.iter().filter(|living| !living.is_apart).flat_map(|living| &living.addresses) {
            owners.entry(*address).or_default().insert(format!("Workload({pod})"));
        }
    }
    owners.into_iter().map(|(address, names)| (address, names.into_iter().collect())).collect()
}

fn allocation(holding: &Holding<'_>, verdict: Verdict, mut owners: Vec<String>) -> Allocation {
    let said = |key: &str| holding.said(key).unwrap_or_default().to_owned();
    let node = holding.node().as_ref().map(NodeName::to_string).unwrap_or_default();
    if verdict == Verdict::InUse && holding.said("type").is_some() {
        owners.push(format!("Node({node})"));
    }
    Allocation {
        ip: holding.address,
        handle: holding.attribute.handle_id.clone().unwrap_or_default(),
        attachment: said(ATTACHMENT),
        sequence_number: holding.sequence,
        pod: said("pod"),
        namespace: said("namespace"),
        node,
        kind: said("type"),
        creation_timestamp: said("timestamp"),
        in_use: !matches!(verdict, Verdict::Leaked(_)),
        borrowed: holding.is_borrowed(),
        owners,
    }
}

fn handles(ledger: &Ledger, findings: &mut Findings) {
    let held = by_handle(ledger);
    let known: BTreeMap<String, usize> =
        held.iter().map(|(handle, holdings)| (handle.to_lowercase(), holdings.len())).collect();
    let stored: BTreeSet<String> = ledger.handles.keys().map(|name| name.to_lowercase()).collect();
    for (name, kept) in &ledger.handles {
        let counted: u64 = kept.value.block.values().map(|count| u64::from(*count)).sum();
        match known.get(&name.to_lowercase()) {
            None => findings.report.leaked_handles.push(name.clone()),
            Some(count) if u64::try_from(*count).is_ok_and(|count| count == counted) => {}
            Some(count) => {
                findings
                    .contradictions
                    .push(format!("IPAMHandle {name} counts {counted} addresses, and blocks say {count}"));
            }
        }
    }
    let missing = held.keys().filter(|handle| !stored.contains(&handle.to_lowercase()));
    findings.missing_handles = missing.map(|handle| (*handle).to_owned()).collect();
}

fn contradictions(ledger: &Ledger, findings: &mut Findings) {
    let said = &mut findings.contradictions;
    for block in ledger.blocks.values().map(|kept| &kept.value) {
        if let Err(error) = block.check() {
            said.push(error.to_string());
            continue;
        }
        let taken = block.allocations.iter().filter(|slot| slot.is_some()).count();
        if taken + block.unallocated.len() != block.allocations.len() {
            said.push(format!(
                "IPAMBlock {}: {taken} addresses are given out and {} are free, of {}",
                block.cidr,
                block.unallocated.len(),
                block.allocations.len()
            ));
        }
        if !ledger.pools.values().any(|pool| pool.cidr.covers(&block.cidr)) {
            said.push(format!("IPAMBlock {} lies in no IPPool", block.cidr));
        }
    }
    let all: Vec<&IpPool> = ledger.pools.values().collect();
    for (place, pool) in all.iter().enumerate() {
        if pool.cidr.prefix_len() > pool.block_size {
            said.push(format!(
                "IPPool {} is {}, which is smaller than its blocks of /{}",
                pool.name, pool.cidr, pool.block_size
            ));
        }
        for other in all.iter().skip(place + 1).filter(|other| overlap(&pool.cidr, &other.cidr)) {
            said.push(format!("IPPool {} ({}) and {} ({}) overlap", pool.name, pool.cidr, other.name, other.cidr));
        }
    }
}

fn overlap(one: &Cidr, other: &Cidr) -> bool {
    one.covers(other) || other.covers(one)
}

/// What all these reports say that nobody has, and nobody has by a newer ledger and census either.
#[must_use]
pub fn releases(reports: &[Report], ledger: &Ledger, census: &Census) -> Vec<Release> {
    let is_said = |report: &Report, holding: &Holding<'_>| {
        let all = report.allocations.get(&holding.address).into_iter().flatten();
        all.into_iter().any(|said| {
            !said.in_use
                && said.sequence_number == holding.sequence
                && Some(&said.handle) == holding.attribute.handle_id.as_ref()
                && said.attachment == holding.said(ATTACHMENT).unwrap_or_default()
        })
    };
    let mut releases = Vec::new();
    for (owner, holdings) in by_owner(ledger) {
        let why = holdings.iter().map(|holding| match census.judge(holding) {
            Verdict::Leaked(why) if reports.iter().all(|report| is_said(report, holding)) => Some(why),
            _ => None,
        });
        let Some(why) = why.collect::<Option<Vec<_>>>().and_then(|whys| whys.first().copied()) else { continue };
        releases.push(Release::of(owner, &holdings, BTreeSet::new(), why));
    }
    releases
}

/// Handles that all these reports say that no block knows, and no block knows now.
#[must_use]
pub fn pointless(reports: &[Report], ledger: &Ledger) -> Vec<(String, Option<String>)> {
    let known: BTreeSet<String> = by_handle(ledger).keys().map(|handle| handle.to_lowercase()).collect();
    let is_said = |report: &Report, name: &String| report.leaked_handles.iter().any(|said| said == name);
    let is_free =
        |name: &String| !known.contains(&name.to_lowercase()) && reports.iter().all(|report| is_said(report, name));
    let is_sound = ledger.blocks.values().all(|kept| kept.value.check().is_ok());
    let free = ledger.handles.iter().filter(|(name, _)| is_sound && is_free(name));
    free.map(|(name, kept)| (name.clone(), kept.revision.clone())).collect()
}

/// How full a network is: addresses in all, given out, cooling down; the rest is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In all.
    pub total: u128,
    /// Given out.
    pub used: u128,
    /// Given back, and not given again yet.
    pub cooling: u128,
}

/// A pool and its blocks.
pub type PoolUsage<'a> = (Option<&'a IpPool>, Usage, Vec<(Cidr, Usage)>);

/// Each pool with its blocks, and the blocks of no pool under none.
#[must_use]
pub fn usage(ledger: &Ledger) -> Vec<PoolUsage<'_>> {
    let of_block = |cidr: &Cidr| {
        let Some(block) = ledger.blocks.get(cidr).map(|kept| &kept.value) else { return Usage::default() };
        let cooling = if block.check().is_ok() { block.cooling_down().count() } else { 0 };
        Usage { total: size(cidr), used: holdings(block).count() as u128, cooling: cooling as u128 }
    };
    let blocks_in = |is_in: &dyn Fn(&Cidr) -> bool| -> Vec<(Cidr, Usage)> {
        ledger.blocks.keys().filter(|cidr| is_in(cidr)).map(|cidr| (*cidr, of_block(cidr))).collect()
    };
    let mut rows = Vec::new();
    for pool in ledger.pools.values() {
        let blocks = blocks_in(&|cidr| pool.cidr.covers(cidr));
        let used = blocks.iter().map(|(_, usage)| usage.used).sum();
        let cooling = blocks.iter().map(|(_, usage)| usage.cooling).sum();
        rows.push((Some(pool), Usage { total: size(&pool.cidr), used, cooling }, blocks));
    }
    let lost = blocks_in(&|cidr| !ledger.pools.values().any(|pool| pool.cidr.covers(cidr)));
    if !lost.is_empty() {
        rows.push((None, Usage::default(), lost));
    }
    rows
}

fn size(cidr: &Cidr) -> u128 {
    let bits = if cidr.is_v4() { 32 } else { 128 };
    1_u128.checked_shl(u32::from(bits - cidr.prefix_len())).unwrap_or(u128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IpamHandle, Kept, Request, audit::Living};
    use model::PodId;

    fn ledger() -> Ledger {
        let pool = IpPool::of_pods("p", "10.65.0.0/24".parse().expect("a network"), 29);
        let mut ledger = Ledger { pools: [("p".to_owned(), pool)].into(), ..Ledger::default() };
        for (pod, node) in [("a", "n1"), ("b", "n1"), ("c", "n2")] {
            let said = [("pod", pod), ("namespace", "x"), ("node", node)];
            let secondary = said.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let handle = format!("net.{pod}{:039}", 0);
            let request = Request { node: node.into(), owner: handle, secondary, sequence: 1, ..Request::default() };
            ledger.assign(&request).expect("an address");
        }
        ledger.recount();
        ledger
    }

    fn census(ledger: &Ledger, pods: &[&str]) -> Census {
        let mut census =
            Census { here: Some("n1".into()), nodes: ["n1".into(), "n2".into()].into(), ..Census::default() };
        for pod in pods {
            let addresses = ledger.held_by(&format!("net.{pod}{:039}", 0));
            census.saw(PodId::new("x", pod), Living { addresses, ..Living::default() });
        }
        census
    }

    #[test]
    fn a_check_names_what_is_leaked_and_what_is_used_and_not_given_out() {
        let mut ledger = ledger();
        let mut census = census(&ledger, &["a", "c"]);
        let stray = |text: &str| Living { addresses: vec![text.parse().expect("an address")], ..Living::default() };
        let taken: Vec<IpAddr> = by_owner(&ledger).values().flatten().map(|holding| holding.address).collect();
        let free = (0..=255).map(|last| IpAddr::from([10, 65, 0, last])).find(|free| !taken.contains(free));
        let free = free.expect("one is free");
        census.saw(PodId::new("x", "stray"), stray(&free.to_string()));
        census.saw(PodId::new("x", "foreign"), stray("10.99.0.1"));
        census.saw(PodId::new("x", "host"), Living { is_apart: true, ..stray("192.0.2.1") });
        census.saw(PodId::new("x", "twin"), stray(&ledger.held_by(&format!("net.a{:039}", 0))[0].to_string()));
        let value = IpamHandle { handle_id: "nowhere".into(), block: BTreeMap::new(), deleted: false };
        ledger.handles.insert("nowhere".into(), Kept { revision: None, value });
        ledger.handles.remove(&"tortie-node-n2".to_owned());
        let found = check(&ledger, &census);
        assert_eq!(found.leaked.iter().map(|(_, why)| *why).collect::<Vec<_>>(), [Why::PodGone]);
        assert_eq!(found.unallocated, [(free, "Workload(x/stray)".to_owned())]);
        assert_eq!(found.foreign.len(), 1);
        assert_eq!(found.shared.len(), 1);
        assert_eq!((found.report.leaked_handles.len(), found.missing_handles.len()), (1, 1));
        assert_eq!(found.problems(), 4);
        assert_eq!(found.by_node, [("n1".to_owned(), 2), ("n2".to_owned(), 1)].into());
        let text = serde_json::to_value(&found.report).expect("JSON");
        let leaked = &text["allocations"][found.leaked[0].0.to_string()][0];
        assert_eq!(
            (&leaked["inUse"], &leaked["pod"], &leaked["sequenceNumber"]),
            (&false.into(), &"b".into(), &1.into())
        );
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let mut ledger = ledger();
        let odd = IpPool::of_pods("odd", "10.65.0.128/30".parse().expect("a network"), 26);
        ledger.pools.insert("odd".into(), odd);
        let block = ledger.blocks.values_mut().next().expect("a block");
        block.value.unallocated.pop();
        let count = ledger.handles.values_mut().next().expect("a handle");
        count.value.block.values_mut().for_each(|count| *count += 1);
        let found = check(&ledger, &census(&ledger, &["a", "b", "c"]));
        let said = found.contradictions.join("\n");
        for part in
            ["counts 3 addresses, and blocks say 2", "are given out and", "smaller than its blocks of /26", "overlap"]
        {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
    }

    #[test]
    fn a_release_takes_what_all_reports_and_the_present_agree_on() {
        let ledger = ledger();
        let (early, late) = (census(&ledger, &[]), census(&ledger, &["a"]));
        let reports = [check(&ledger, &early).report, check(&ledger, &late).report];
        let freed = |reports: &[Report], census: &Census| {
            releases(reports, &ledger, census).iter().map(|release| release.owner[4..5].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(freed(&reports, &early), ["b", "c"], "a was in use in one of them");
        assert_eq!(freed(&reports, &census(&ledger, &["b"])), ["c"], "b is back");
        let mut older = reports[0].clone();
        older.allocations.values_mut().flatten().for_each(|said| said.sequence_number += 1);
        assert!(freed(&[older], &early).is_empty(), "IPAM-9: they were given out anew since");
    }

    #[test]
    fn a_pool_is_as_full_as_its_blocks() {
        let ledger = ledger();
        let rows = usage(&ledger);
        assert_eq!(rows[0].1, Usage { total: 256, used: 3, cooling: 0 });
        assert_eq!(rows[0].2.iter().map(|(_, usage)| usage.used).collect::<BTreeSet<_>>(), [1, 2].into());
        let lost = Ledger { pools: BTreeMap::new(), ..ledger.clone() };
        assert!(usage(&lost)[0].0.is_none());
        assert_eq!(size(&"fd00::/64".parse().expect("a network")), 1 << 64);
    }
}
