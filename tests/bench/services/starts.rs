//! Starts: how long until the first connection goes through a service.
//! In: a place. Out: seconds from the start of an agent that finds everything in the datastore, and from the one commit that
//! brings all services to a running one.
//! Invariant: nothing of an earlier agent is left in the kernel; no connection goes through before the clock starts.
//! Never: counts what the earlier agent let through.

use super::place::Place;
use crate::{figures::Spread, progress};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::time::Instant;

/// From what to the first connection.
#[derive(Serialize)]
pub struct Started {
    pub place: String,
    pub from: &'static str,
    pub seconds: Spread,
}

/// From the start of an agent.
pub fn started(place: &mut Place, times: u32) -> Result<Started> {
    let mut seconds = Vec::new();
    for time in 0..times {
        progress(&format!("{}: start {} of {times}", place.name(), time + 1));
        place.node.agent.stop()?;
        let output = place.node.cleanup()?;
        ensure!(output.status.success(), "tortie cleanup: {}", String::from_utf8_lossy(&output.stderr));
        place.until_not_served()?;
        let begun = Instant::now();
        place.node.agent.start()?;
        seconds.push(place.until_served(begun)?.as_secs_f64());
        place.node.wait_ready()?;
    }
    Ok(Started { place: place.name(), from: "from the agent's start", seconds: Spread::of(seconds) })
}

/// From one file that brings all of them to an agent that runs.
pub fn at_once(place: &Place, times: u32) -> Result<Started> {
    let all = place.all();
    place.withdraw()?;
    let mut seconds = Vec::new();
    for time in 0..times {
        progress(&format!("{}: at once, {} of {times}", place.name(), time + 1));
        place.until_not_served()?;
        place.cluster.manifest("all", &all)?;
        // The file is whole and in place: the clock starts.
        seconds.push(place.until_served(Instant::now())?.as_secs_f64());
        place.cluster.remove("all")?;
    }
    Ok(Started { place: place.name(), from: "from the rename of one file with all", seconds: Spread::of(seconds) })
}
