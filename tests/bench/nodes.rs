//! `bench nodes`: what a packet to another node costs, and one to who is outside of all pools.
//! In: the built programs. Out: rates of two policed pods, and ratios to the kernel's routing, VXLAN and masquerade without rules; of
//! IPIP, which not every kernel has, to our own routes.
//! Invariant: what is compared has the same uplinks, the same segment between them, and was measured in turns in one run.
//! Never: judges.

mod kernel;
mod tortie;

use crate::{figures::Figures, progress, rounds::Rounds, setups::Setup};
use ::tests::{Binaries, traffic::Row};
use anyhow::Result;
use clap::{Args, ValueEnum};
use kernel::Kernel;
use serde_json::json;
use std::collections::BTreeMap;
use tortie::Tortie;

#[derive(Debug, Args)]
pub struct Nodes {
    #[command(flatten)]
    rounds: Rounds,
    /// Parts to run.
    #[arg(long, value_enum, default_values_t = Part::ALL, value_delimiter = ',')]
    only: Vec<Part>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What lies between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Part {
    /// Routes from node to node.
    Direct,
    /// VXLAN from node to node.
    Vxlan,
    /// IPIP from node to node.
    Ipip,
    /// The node's own address, before a host outside.
    Nat,
}

impl Part {
    const ALL: [Self; 4] = [Self::Direct, Self::Vxlan, Self::Ipip, Self::Nat];

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
            Self::Ipip => "ipip",
            Self::Nat => "nat",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Direct => "Between pods of two nodes of one segment, by routes:",
            Self::Vxlan => "The same by VXLAN:",
            Self::Ipip => "The same by IPIP, of the way without:",
            Self::Nat => "From a pod to a host outside, as the node:",
        }
    }

    /// What it is measured against twice, so that a run tells its own noise.
    fn run(self, rounds: &Rounds, binaries: &Binaries) -> Result<Figures> {
        let names = match self {
            Self::Direct => ["kernel routing, no rules", "the same once more", "Tortie, a policy at each end"],
            Self::Vxlan => ["kernel VXLAN, no rules", "the same once more", "Tortie, a policy at each end"],
            Self::Ipip => ["Tortie by routes, a policy at each end", "the same once more", "the same by IPIP"],
            Self::Nat => ["nft masquerade, no rules", "the same once more", "Tortie, a policy at the pod"],
        };
        let (first, again): (Box<dyn Setup>, Box<dyn Setup>) = match self {
            Self::Ipip => (
                Box::new(Tortie::create(names[0], Self::Direct, "one", binaries)?),
                Box::new(Tortie::create(names[1], Self::Direct, "again", binaries)?),
            ),
            Self::Direct | Self::Vxlan | Self::Nat => {
                (Box::new(Kernel::create(names[0], self, "one")?), Box::new(Kernel::create(names[1], self, "again")?))
            }
        };
        let setups = [first, again, Box::new(Tortie::create(names[2], self, "tortie", binaries)?)];
        rounds.run(&Row::ALL, &setups.iter().map(Box::as_ref).collect::<Vec<_>>())
    }
}

/// Runs it.
pub fn run(nodes: &Nodes, binaries: &Binaries) -> Result<()> {
    let mut parts = BTreeMap::new();
    for part in &nodes.only {
        progress(part.name());
        parts.insert(*part, part.run(&nodes.rounds, binaries)?);
    }
    if nodes.json {
        let parts: BTreeMap<_, _> = parts.iter().map(|(part, figures)| (part.name(), figures)).collect();
        println!("{}", serde_json::to_string_pretty(&json!(parts))?);
        return Ok(());
    }
    for (part, figures) in parts {
        println!("{}\n{figures}", part.title());
    }
    Ok(())
}
