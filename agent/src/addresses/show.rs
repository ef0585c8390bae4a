//! What `tortie ipam show` prints.
//! In: the ledger. Out: tables for people, rows for scripts.
//! Invariant: a pool is as full as its blocks say; what contradicts itself counts as nothing given out.
//! Never: says who an address is of by more than what stands beside it.

use crate::show::{self, Output};
use datastore::calendar::rfc3339;
use ipam::{
    Ledger,
    audit::{
        holdings, owner,
        report::{Usage, usage as all_usage},
    },
    hold::{held_for, held_until},
};
use serde_json::{Value, json};
use std::net::IpAddr;

/// How full pools are, and blocks.
pub fn usage(ledger: &Ledger, with_blocks: bool, output: Output) -> String {
    let mut rows = Vec::new();
    for (pool, usage, blocks) in all_usage(ledger) {
        if let Some(pool) = pool {
            rows.push(row("IP Pool", &pool.cidr.to_string(), usage));
        }
        if with_blocks {
            rows.extend(blocks.iter().map(|(cidr, usage)| row("Block", &cidr.to_string(), *usage)));
        }
    }
    show::print(&Value::Array(rows), output, show::table)
}

fn row(grouping: &str, cidr: &str, Usage { total, used, cooling }: Usage) -> Value {
    // No exact figure is lost that anybody could use: a pool of IPv6 has more addresses than a number of JSON may be.
    let percent = |part: u128| part.saturating_mul(100) / total.max(1);
    let free = total.saturating_sub(used).saturating_sub(cooling);
    let mut row = json!({
        "grouping": grouping, "cidr": cidr, "ipsTotal": figure(total),
        "ipsInUse": format!("{} ({}%)", figure(used), percent(used)),
        "ipsFree": format!("{} ({}%)", figure(free), percent(free)),
    });
    // Calico's table has no such column: it is there where it says something.
    if cooling > 0 {
        row["ipsCoolingDown"] = format!("{} ({}%)", figure(cooling), percent(cooling)).into();
    }
    row
}

/// As it is, or where that says nothing any more, to five digits.
fn figure(number: u128) -> String {
    match number {
        0..100_000_000 => number.to_string(),
        #[expect(clippy::cast_precision_loss, reason = "five digits are shown")]
        _ => format!("{:.4e}", number as f64),
    }
}

/// Who has an address.
pub fn address(ledger: &Ledger, address: IpAddr, output: Output) -> String {
    let found =
        ledger.blocks.values().flat_map(|kept| holdings(&kept.value)).find(|holding| holding.address == address);
    let Some(holding) = found else {
        let block = ledger.blocks.iter().find(|(cidr, _)| cidr.contains(address));
        let cooling = block.and_then(|(_, kept)| kept.value.cooling_down().find(|(cooling, _)| *cooling == address));
        let since = cooling.map(|(_, since)| since);
        let report =
            json!({ "ip": address, "assigned": false, "block": block.map(|(cidr, _)| cidr), "releasedAt": since });
        let cools = since.map(|since| {
            let seconds = ledger.config.cooldown;
            format!("; it was given back at {since} and is given again {seconds} s later (ipCooldownSeconds)")
        });
        return show::print(&report, output, |_| {
            format!("{address} is not assigned{}", cools.as_deref().unwrap_or_default())
        });
    };
    let report = json!({
        "ip": address, "assigned": true, "handle": holding.attribute.handle_id, "block": holding.block.cidr,
        "blockOwner": holding.block.affinity, "sequenceNumber": holding.sequence, "attributes": holding.attribute.secondary,
    });
    show::print(&report, output, |_| {
        let handle = holding.attribute.handle_id.as_deref().unwrap_or("<none>");
        let said = holding.attribute.secondary.iter().map(|(key, value)| format!("\n  {key}: {value}"));
        if let (Some(name), Some(until)) = (held_for(holding.attribute), held_until(holding.attribute)) {
            return format!("IP {address} is held for {name} until {}\nHandle ID: {handle}", rfc3339(until));
        }
        format!("IP {address} is in use\nHandle ID: {handle}\nAttributes:{}", said.collect::<String>())
    })
}

/// How nodes take blocks, field by field.
pub fn configuration(spec: &Value, output: Output) -> String {
    let row = |(property, value): (&String, &Value)| json!({ "property": property, "value": value });
    let rows = spec.as_object().into_iter().flatten().map(row);
    show::print(&Value::Array(rows.collect()), output, show::table)
}

/// Addresses that lie in another node's block.
pub fn borrowed(ledger: &Ledger, output: Output) -> String {
    let all = ledger.blocks.values().flat_map(|kept| holdings(&kept.value)).filter(|holding| holding.is_borrowed());
    let row = |holding: ipam::audit::Holding<'_>| {
        json!({
            "ip": holding.address, "borrowingNode": holding.node(), "block": holding.block.cidr,
            "blockOwner": owner(holding.block), "type": holding.said("type").or(holding.pod().map(|_| "pod")),
            "allocatedTo": holding.pod().map(|pod| pod.to_string()),
        })
    };
    show::print(&Value::Array(all.map(row).collect()), output, show::table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_exact_while_that_says_anything() {
        assert_eq!([0, 65_536, 1 << 64].map(figure), ["0", "65536", "1.8447e19"]);
        let row = row("Block", "10.65.0.0/26", Usage { total: 64, used: 16, cooling: 3 });
        assert_eq!((&row["ipsInUse"], &row["ipsFree"]), (&json!("16 (25%)"), &json!("45 (70%)")));
    }
}
