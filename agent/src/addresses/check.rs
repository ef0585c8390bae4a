//! What `tortie ipam check` prints and writes.
//! In: what a check found. Out: lines for people; a report for release.
//! Invariant: a report is whole, or not there.
//! Never: changes anything.

use anyhow::{Result, anyhow};
use datastore::calendar::rfc3339;
use ipam::{
    Ledger,
    audit::{
        Census,
        report::{Findings, Report, check},
    },
};
use std::{
    fmt::{self, Write as _},
    fs,
    net::IpAddr,
    path::Path,
};

/// Nodes that are told by how many addresses they have.
const NODES: usize = 20;

/// Which addresses are named.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// All.
    pub all: bool,
    /// Those with a problem.
    pub problems: bool,
}

/// Looks at everything; `report` says of which cluster.
pub fn findings(ledger: &Ledger, census: &Census, report: Report) -> Findings {
    let mut found = check(ledger, census);
    found.report =
        Report { allocations: found.report.allocations, leaked_handles: found.report.leaked_handles, ..report };
    found
}

/// What is printed.
pub fn said(ledger: &Ledger, found: &Findings, named: Named) -> String {
    let mut text = String::new();
    // A string takes all that is written to it.
    let _never = write(&mut text, ledger, found, named);
    return text;

    fn write(text: &mut String, ledger: &Ledger, found: &Findings, named: Named) -> fmt::Result {
        let Findings { report, leaked, unknown, cooling, .. } = found;
        let is_named = named.all || named.problems;
        let given = report.allocations.values().map(Vec::len).sum::<usize>();
        writeln!(
            text,
            "{} IPAM blocks record {given} allocations, of {} IP pools.",
            ledger.blocks.len(),
            ledger.pools.len()
        )?;
        for allocation in report.allocations.values().flatten().filter(|_| named.all) {
            let owners =
                if allocation.owners.is_empty() { "nobody known".to_owned() } else { allocation.owners.join(", ") };
            writeln!(text, "  {} allocated to {}; belongs to {owners}", allocation.ip, allocation.handle)?;
        }
        write_nodes(text, found)?;
        write_holds(text, ledger, is_named)?;
        writeln!(text, "Found {} IPs that are allocated in IPAM but not actually in use.", leaked.len())?;
        for (address, why) in leaked.iter().filter(|_| is_named) {
            let of = report.allocations.get(address).and_then(|all| all.first());
            let of = of.map(|own| format!("{}/{} on {}", own.namespace, own.pod, own.node)).unwrap_or_default();
            writeln!(text, "  {address} leaked; it was of {of}: {why}")?;
        }
        writeln!(
            text,
            "Found {} IPs of which nobody can say whether they are in use; they are left alone.",
            unknown.len()
        )?;
        for address in unknown.iter().filter(|_| is_named) {
            writeln!(text, "  {address}")?;
        }
        write_cooling(text, cooling, named)?;
        write_owners(text, found, is_named)?;
        write_handles(text, found, is_named)?;
        writeln!(text, "Check complete; found {} problems.", found.problems())
    }
}

fn write_owners(text: &mut String, found: &Findings, is_named: bool) -> fmt::Result {
    let Findings { foreign, unallocated, shared, .. } = found;
    writeln!(text, "Found {} in-use IPs that are not in active IP pools.", foreign.len())?;
    for (address, owner) in foreign.iter().filter(|_| is_named) {
        writeln!(text, "  {address} in use by {owner}")?;
    }
    writeln!(
        text,
        "Found {} in-use IPs that are in active IP pools but have no corresponding IPAM allocation.",
        unallocated.len()
    )?;
    for (address, owner) in unallocated.iter().filter(|_| is_named) {
        writeln!(text, "  {address} in use by {owner}")?;
    }
    for (address, owners) in shared.iter().filter(|_| is_named) {
        writeln!(text, "  {address} has multiple owners: {}", owners.join(", "))?;
    }
    Ok(())
}

fn write_handles(text: &mut String, found: &Findings, is_named: bool) -> fmt::Result {
    let Findings { report, missing_handles, contradictions, .. } = found;
    writeln!(text, "Found {} handles with no matching IPs.", report.leaked_handles.len())?;
    for handle in report.leaked_handles.iter().filter(|_| is_named) {
        writeln!(text, "  {handle}")?;
    }
    writeln!(text, "Found {} handles mentioned in blocks with no matching handle resource.", missing_handles.len())?;
    for handle in missing_handles.iter().filter(|_| is_named) {
        writeln!(text, "  {handle}")?;
    }
    for contradiction in contradictions {
        writeln!(text, "Contradiction: {contradiction}")?;
    }
    Ok(())
}

fn write_cooling(text: &mut String, cooling: &[(IpAddr, String)], named: Named) -> fmt::Result {
    writeln!(text, "Found {} IPs that were released and cool down before they are given again.", cooling.len())?;
    for (address, since) in cooling.iter().filter(|_| named.all) {
        writeln!(text, "  {address} since {since}")?;
    }
    Ok(())
}

fn write_nodes(text: &mut String, found: &Findings) -> fmt::Result {
    let mut nodes: Vec<_> = found.by_node.iter().collect();
    nodes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (node, count) in nodes.iter().take(NODES) {
        writeln!(text, "  {node} has {count} allocations")?;
    }
    Ok(())
}

/// What is held for names whose pods are gone.
fn write_holds(text: &mut String, ledger: &Ledger, is_named: bool) -> fmt::Result {
    let holds: Vec<_> = ledger.holds().collect();
    if !holds.is_empty() {
        writeln!(text, "{} of them are held for pods that are to come again.", holds.len())?;
    }
    for hold in holds.iter().filter(|_| is_named) {
        writeln!(text, "  {} held for {} until {}", hold.address, hold.name, rfc3339(hold.until))?;
    }
    Ok(())
}

/// Beside, and renamed into place.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    let beside = path.with_extension("new");
    fs::write(&beside, text).map_err(|error| anyhow!("{}: {error}", beside.display()))?;
    fs::rename(&beside, path).map_err(|error| anyhow!("{}: {error}", path.display()))
}
