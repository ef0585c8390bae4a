//! Churn: what pods that come and go elsewhere cost a node's agent.
//! In: a place. Out: bytes that came to its node and processor time of its agent, by the second.
//! Invariant: nothing else happens on the cluster meanwhile.
//! Never: counts what the agent asks for at its start.

use super::place::{self, Place};
use crate::idle;
use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;
use std::{
    fmt, fs, thread,
    time::{Duration, Instant},
};

/// Pods come and go for so long.
const SECONDS: u32 = 10;
/// Numbers that no pod of a place has.
const FIRST: usize = 60_000;

/// By the second.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Churned {
    /// Pods that came, and as many that went.
    pods: f64,
    kilobytes: f64,
    /// Of one processor, in hundredths.
    processor: f64,
}

impl fmt::Display for Churned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pods, kilobytes, processor } = self;
        write!(
            f,
            "{pods:.0} pods a second come elsewhere, and as many go: {kilobytes:.0} kB a second from the API server, \
             {processor:.1} % of a processor"
        )
    }
}

/// So many pods come in a second, and go.
pub fn churned(place: &Place, rate: u32) -> Result<Churned> {
    let client = place.asked()?;
    let pods = |second: u32| -> Vec<Value> {
        let first = FIRST + second as usize * rate as usize;
        (first..first + rate as usize).map(pod_of_bench).collect()
    };
    let (bytes, spent, begun) = (received(place)?, idle::times(place.agent()?)?, Instant::now());
    for second in 0..SECONDS {
        client.create(pods(second))?;
        client.delete(pods(second))?;
        let next = begun + Duration::from_secs(1) * (second + 1);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let took = begun.elapsed().as_secs_f64();
    let (bytes, spent) =
        (received(place)? - bytes, idle::times(place.agent()?)?.iter().sum::<f64>() - spent.iter().sum::<f64>());
    let pods = f64::from(SECONDS * rate) / took;
    Ok(Churned { pods, kilobytes: bytes / took / 1e3, processor: 100.0 * spent / took })
}

/// In this namespace, for there are no others for numbers that no place has.
pub fn pod_of_bench(number: usize) -> Value {
    let mut pod = place::pod(number);
    pod["metadata"]["namespace"] = "bench".into();
    pod
}

/// Bytes that came to the node from outside.
fn received(place: &Place) -> Result<f64> {
    let text = place.node.namespace().inside(|| fs::read_to_string("/proc/thread-self/net/dev").context("counting"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("the node has no uplink")?;
    line.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).context("no count of bytes")
}
