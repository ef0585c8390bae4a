//! Starts: how long from the start of an agent to the first connection that it lets in.
//! In: a node whose datastore holds everything. Out: seconds.
//! Invariant: nothing of an earlier agent is left in the kernel: tables, programs, routes; its records of pods are.
//! Never: counts what the earlier agent let in.

use super::place::Place;
use crate::{
    figures::Spread,
    manifests::{self, WALL, somebody},
    progress,
    setups::Tortie,
};
use ::tests::{Binaries, Node};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::time::{Duration, Instant};

const POLICIES: usize = 125;
const RULES: usize = 100;

/// Starts at one place.
#[derive(Serialize)]
pub struct Started {
    pub place: String,
    pub seconds: Spread,
}

/// A node whose one server has 12,500 rules.
pub fn rules(times: u32, binaries: &Binaries) -> Result<Started> {
    progress("12,500 rules");
    let mut setup = Tortie::create("12,500 rules", "start", WALL, binaries.clone())?;
    setup.cluster.manifest("rules", &manifests::list(manifests::server(POLICIES, RULES, somebody)))?;
    setup.door().until_connects(true, Instant::now())?;
    let mut seconds = Vec::new();
    for _ in 0..times {
        clear(&mut setup.node)?;
        setup.door().until_connects(false, Instant::now())?;
        let begun = Instant::now();
        setup.node.agent.start()?;
        seconds.push(setup.door().until_connects(true, begun)?.as_secs_f64());
        setup.node.wait_ready()?;
    }
    Ok(Started { place: "12,500 rules of one pod".to_owned(), seconds: Spread::of(seconds) })
}

/// A node of a cluster.
pub fn place(place: &mut Place, times: u32) -> Result<Started> {
    let mut seconds = Vec::new();
    for time in 0..times {
        progress(&format!("{}: start {} of {times}", place.name(), time + 1));
        clear(&mut place.node)?;
        place.here().until_connects(false, Instant::now())?;
        let begun = Instant::now();
        place.node.agent.start()?;
        let took: Duration = place.here().until_connects(true, begun)?;
        seconds.push(took.as_secs_f64());
        place.node.wait_ready()?;
    }
    Ok(Started { place: place.name(), seconds: Spread::of(seconds) })
}

/// Stops the agent and takes away what it left. Packets may meet its programs for a moment yet: the kernel takes them away
/// once nothing runs them.
fn clear(node: &mut Node) -> Result<()> {
    node.agent.stop()?;
    let output = node.cleanup()?;
    ensure!(output.status.success(), "tortie cleanup: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
