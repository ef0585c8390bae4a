//! `tortie ipam migrate`: nodes' own networks come to blocks, pods from one pool to another; and back.
//! In: everything as it is now, and which step is wanted. Out: a plan, what was done, or how far it is.
//! Invariant: everything that is wrong is named before anything is written; no step takes an address from a pod.
//! Never: writes without `--yes`; deletes a pool of which somebody has an address.

mod nodes;
mod pools;

use super::{Place, Scene};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use ipam::{Kept, Ledger, audit::Idle};
use model::Cidr;
use std::time::Duration;

/// From where to where.
#[derive(Subcommand)]
pub enum From {
    /// Nodes' podCIDRs (host-local, flannel) become blocks: says what it would write, and does it with --yes
    PodCidrs {
        /// A network that becomes a pool, with podCIDRs of nodes that come later; repeatable [default: what podCIDRs cover together]
        #[arg(long)]
        pool: Vec<Cidr>,
        /// Size of IPv4 blocks [default: as large as the smallest podCIDR]
        #[arg(long, value_parser = clap::value_parser!(u8).range(20..=32))]
        block_size: Option<u8>,
        /// Size of IPv6 blocks [default: 122 where podCIDRs are wide]
        #[arg(long, value_parser = clap::value_parser!(u8).range(116..=128))]
        block_size_v6: Option<u8>,
        /// With --finish: seconds until a pod that another plugin gave an address to just now has told of it
        #[arg(long, default_value_t = 30)]
        settle: u64,
        #[command(flatten)]
        step: Step,
        #[command(flatten)]
        place: Box<Place>,
    },
    /// Pods that are made from now on get addresses of another pool; says how far it is, and does each step with --yes
    Pool {
        /// The pool that is to be left
        #[arg(long)]
        from: String,
        /// The pool that is there for it
        #[arg(long)]
        to: String,
        #[command(flatten)]
        step: Step,
        #[command(flatten)]
        place: Box<Place>,
    },
}

/// Which step.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Step {
    /// The last one, once all nodes are set up for it, or nobody has an address of the old pool
    #[arg(long)]
    finish: bool,
    /// The way back
    #[arg(long, conflicts_with = "finish")]
    back: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// Does it.
pub fn run(from: From) -> Result<String> {
    match from {
        From::PodCidrs { pool, block_size, block_size_v6, settle, step, place } => {
            let scene = place.open()?;
            let sizes = [(model::Family::V4, block_size), (model::Family::V6, block_size_v6)];
            let sizes = sizes.into_iter().filter_map(|(family, size)| Some((family, size?))).collect();
            let wanted = nodes::Wanted { pools: pool, block_sizes: sizes, settle: Duration::from_secs(settle) };
            nodes::migrate(&scene, wanted, step)
        }
        From::Pool { from, to, step, place } => pools::migrate(&place.open()?, (&from, &to), step),
    }
}

const DRY: &str = "Nothing was done: give --yes";

/// What was given back of these blocks, and is given to nobody before it has cooled down.
fn cooling<'a>(blocks: impl IntoIterator<Item = &'a Kept<ipam::Block>>) -> usize {
    blocks.into_iter().map(|kept| kept.value.cooling_down().count()).sum()
}

/// A block with an address that cools down is not empty yet.
fn refuse_cooling(scene: &Scene, said: &str, count: usize) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let seconds = scene.allocator.rules.config.cooldown;
    bail!(
        "{said}Nobody has {count} of these addresses any more, and they cool down (ipCooldownSeconds is {seconds}): give the command once \
         more when that is over"
    )
}

/// Gives up blocks that nobody has an address of.
fn give_up(scene: &Scene, ledger: &Ledger, blocks: impl Iterator<Item = Cidr>) -> Result<()> {
    for cidr in blocks {
        let Some(kept) = ledger.blocks.get(&cidr) else { continue };
        let idle = Idle { cidr, sequence: kept.value.sequence_number, node: None };
        if !scene.allocator.give_up(ledger, &idle)? {
            bail!("block {cidr} is written meanwhile, and its pool stays: give the command once more");
        }
    }
    Ok(())
}
