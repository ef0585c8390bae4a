//! `bench served`: what an agent costs on a real API server, and how soon a policy that it took is in force.
//! In: the built programs. Out: from the server's acknowledgement to the first packet refused; memory and a start with a large
//! cluster; bytes and processor time while pods come and go elsewhere.
//! Invariant: etcd, API server and agent are as they are shipped, the agent with the rights of `deploy/base/rbac.yaml`.
//! Never: judges.

mod churn;
mod client;
mod place;

use crate::{
    figures::{Timed, Waits},
    manifests::Population,
    memory::Memory,
    progress,
};
use ::tests::Binaries;
use anyhow::Result;
use churn::Churned;
pub use churn::pod_of_bench;
use clap::{Args, ValueEnum};
pub use client::Client;
use place::Place;
use serde::Serialize;
use std::{fmt, time::Duration};

#[derive(Debug, Args)]
pub struct Served {
    /// Parts to run.
    #[arg(long, value_enum, default_values_t = Part::ALL, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often a policy is created.
    #[arg(long, default_value_t = 100)]
    changes: u32,
    /// Policies that are there meanwhile.
    #[arg(long, default_value_t = 1000)]
    policies: usize,
    /// Pods of the large cluster, and as many policies.
    #[arg(long, default_value_t = 30_000)]
    cluster: usize,
    /// Pods of its node.
    #[arg(long, default_value_t = 110)]
    locals: usize,
    /// Pods that come elsewhere in a second, and as many that go.
    #[arg(long, default_value_t = 100)]
    churn: u32,
    /// Everything as small as it goes.
    #[arg(long)]
    quick: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From the acknowledgement of a new policy to the first packet refused.
    Changes,
    /// A large cluster: memory, a start, pods that come and go.
    Cluster,
}

impl Part {
    const ALL: [Self; 2] = [Self::Changes, Self::Cluster];
}

/// What was measured; parts that were left out are not there.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Timed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Large>,
}

#[derive(Serialize)]
struct Large {
    place: String,
    /// From the start of an agent that has the programs of an earlier one to its readiness, seconds.
    start: f64,
    memory: Memory,
    churned: Churned,
}

/// Runs it.
pub fn run(served: &Served, binaries: &Binaries) -> Result<()> {
    let served = served.shrunk();
    let mut report = Report::default();
    if served.only.contains(&Part::Changes) {
        let place = Place::create("served", Population::of_node(served.policies, 10), binaries)?;
        report.changes.push(timed(&place, served.changes)?);
    }
    if served.only.contains(&Part::Cluster) {
        let population = Population::of_cluster(served.cluster, served.locals);
        let mut place = Place::create("large", population, binaries)?;
        report.changes.push(timed(&place, served.changes)?);
        let start = place.restarted()?.as_secs_f64();
        let churned = churn::churned(&place, served.churn)?;
        let memory = Memory::of(place.agent()?)?;
        report.cluster = Some(Large { place: place.name(), start, memory, churned });
    }
    progress("");
    if served.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

impl Served {
    fn shrunk(&self) -> Self {
        let Self { only, changes, policies, cluster, locals, churn, quick, json } = self;
        let (mut changes, mut policies, mut cluster, mut locals) = (*changes, *policies, *cluster, *locals);
        if *quick {
            (changes, policies, cluster, locals) = (3, 20, 100, 2);
        }
        Self { only: only.clone(), changes, policies, cluster, locals, churn: *churn, quick: *quick, json: *json }
    }
}

fn timed(place: &Place, times: u32) -> Result<Timed> {
    let mut took: Vec<Duration> = Vec::new();
    for time in 0..times {
        progress(&format!("{}: policy {} of {times}", place.name(), time + 1));
        took.push(place.refused()?);
    }
    Ok(Timed { place: place.name(), waits: Waits::of(&took) })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.changes.is_empty() {
            writeln!(
                f,
                "From the API server's acknowledgement of a policy to the first packet refused, milliseconds:"
            )?;
            writeln!(f, "{:56}  {}", "", Waits::head())?;
        }
        for Timed { place, waits } in &self.changes {
            writeln!(f, "{place:56}  {waits}")?;
        }
        if let Some(Large { place, start, memory, churned }) = &self.cluster {
            writeln!(f, "\n{place}:\nready again {start:.2} s after its start\n{memory}\n{churned}")?;
        }
        Ok(())
    }
}
