//! `bench policy`: what policies cost a connection, a change, a start and the agent, on a node and in a cluster of many.
//! In: the built programs. Out: rates with many policies against one; p50 and p99 from the write of a file to the first
//! packet refused; starts; memory; all of it at a tenth of the cluster, too.
//! Invariant: what is compared was measured in turns, in one run; a change is timed by packets alone.
//! Never: judges.

mod changes;
mod connections;
mod place;
mod starts;

use crate::{
    figures::{Figures, Waits},
    manifests::Population,
    memory::Memory,
    progress,
    rounds::Rounds,
};
use ::tests::Binaries;
use anyhow::Result;
use changes::{Change, Timed, timed};
use clap::{Args, ValueEnum};
use place::Place;
use serde::Serialize;
use starts::Started;
use std::fmt;

#[derive(Debug, Args)]
pub struct Policy {
    #[command(flatten)]
    rounds: Rounds,
    /// Parts to run.
    #[arg(long, value_enum, default_values_t = Part::ALL, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often each change is made.
    #[arg(long, default_value_t = 100)]
    changes: u32,
    /// How often an agent is started.
    #[arg(long, default_value_t = 5)]
    starts: u32,
    /// Pods of the node on which changes are timed.
    #[arg(long, default_value_t = 250)]
    endpoints: usize,
    /// Policies there.
    #[arg(long, default_value_t = 1000)]
    policies: usize,
    /// Pods of the cluster, and as many policies; a tenth is measured beside it.
    #[arg(long, default_value_t = 30_000)]
    cluster: usize,
    /// Pods of a node of the cluster.
    #[arg(long, default_value_t = 110)]
    locals: usize,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Leaves the agents' steps in their logs, and says where those are.
    #[arg(long)]
    laps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// New connections to a pod with many policies.
    Connections,
    /// Changes on a node with many pods and policies.
    Changes,
    /// Starts with many rules.
    Starts,
    /// A cluster with many pods and policies.
    Cluster,
}

impl Part {
    const ALL: [Self; 4] = [Self::Connections, Self::Changes, Self::Starts, Self::Cluster];
}

/// What was measured; parts that were left out are not there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Figures>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Timed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    starts: Vec<Started>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    memory: Vec<Held>,
}

/// What an agent holds.
#[derive(Serialize)]
struct Held {
    place: String,
    #[serde(flatten)]
    memory: Memory,
}

/// Runs it.
pub fn run(policy: &Policy, binaries: &Binaries) -> Result<()> {
    let mut report = Report { connections: None, changes: Vec::new(), starts: Vec::new(), memory: Vec::new() };
    let policy = policy.shrunk();
    let asks = |part: Part| policy.only.contains(&part);
    if asks(Part::Connections) {
        report.connections = Some(connections::run(&policy.rounds, binaries)?);
    }
    if asks(Part::Changes) {
        let population = Population::of_node(policy.policies, policy.endpoints);
        let place = Place::create("node", population, policy.laps, binaries)?;
        report.changes.extend(timed(&[&place], &[Change::Refusal, Change::RefusalOfAll], policy.changes)?);
        report.memory.push(held(&place)?);
    }
    if asks(Part::Starts) {
        report.starts.push(starts::rules(policy.starts, binaries)?);
    }
    if asks(Part::Cluster) {
        policy.cluster(&mut report, binaries)?;
    }
    progress("");
    if policy.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

impl Policy {
    fn shrunk(&self) -> Self {
        let Self { rounds, only, json, laps, .. } = self;
        let (rounds, only, json, laps) = (rounds.clone(), only.clone(), *json, *laps);
        if rounds.quick {
            let (changes, starts, endpoints, policies, cluster, locals) = (2, 1, 10, 20, 500, 10);
            return Self { rounds, only, changes, starts, endpoints, policies, cluster, locals, json, laps };
        }
        let Self { changes, starts, endpoints, policies, cluster, locals, .. } = *self;
        Self { rounds, only, changes, starts, endpoints, policies, cluster, locals, json, laps }
    }

    fn cluster(&self, report: &mut Report, binaries: &Binaries) -> Result<()> {
        let mut places = Vec::new();
        for (stem, pods) in [("tenth", self.cluster / 10), ("whole", self.cluster)] {
            let population = Population::of_cluster(pods, self.locals.min(pods / 10));
            places.push(Place::create(stem, population, self.laps, binaries)?);
        }
        for place in &mut places {
            report.starts.push(starts::place(place, self.starts)?);
        }
        let places: Vec<_> = places.iter().collect();
        report.changes.extend(timed(&places, &Change::OF_CLUSTER, self.changes)?);
        for place in places {
            report.memory.push(held(place)?);
        }
        Ok(())
    }
}

fn held(place: &Place) -> Result<Held> {
    Ok(Held { place: place.name(), memory: Memory::of(place.agent()?)? })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(connections) = &self.connections {
            writeln!(f, "{connections}")?;
        }
        if !self.changes.is_empty() {
            writeln!(f, "From the write of a manifest to the first packet refused, milliseconds:")?;
            writeln!(f, "{:52}  {:28}  {}", "", "", Waits::head())?;
        }
        for Timed { place, change, waits } in &self.changes {
            writeln!(f, "{place:52}  {change:28}  {waits}")?;
        }
        if !self.starts.is_empty() {
            writeln!(
                f,
                "\nFrom the start of an agent, with nothing of an earlier one, to the first connection let in, seconds:"
            )?;
        }
        for Started { place, seconds } in &self.starts {
            writeln!(f, "{place:52}  {}", seconds.with_digits(2))?;
        }
        if !self.memory.is_empty() {
            writeln!(f, "\nWhat the agent holds:")?;
        }
        for Held { place, memory } in &self.memory {
            writeln!(f, "{place:52}  {memory}")?;
        }
        Ok(())
    }
}
