//! `bench services`: what a service costs a packet, a change, a start and the agent; with one service and with thousands.
//! In: the built programs. Out: rates to a service against those to its backends; from the write of a slice to the first packet
//! that goes by it; starts; memory.
//! Invariant: what is compared was measured in turns, in one run; direct and through the service, the same servers answer.
//! Never: judges.

mod changes;
mod neighbours;
mod place;
mod starts;

use crate::{
    figures::{Figures, Timed, Waits},
    memory::Memory,
    progress,
    rounds::Rounds,
    setups::Setup,
};
use ::tests::{Binaries, kube_proxy::Mode, traffic::Row};
use anyhow::Result;
use clap::{Args, ValueEnum};
use neighbours::Neighbour;
use place::{Asked, Place, Side};
use serde::Serialize;
use starts::Started;
use std::fmt;

/// What is measured of packets.
const ROWS: [Row; 4] = [Row::RoundTrips, Row::NewConnections, Row::UdpRoundTrips, Row::NewUdpFlows];

#[derive(Debug, Args)]
pub struct Services {
    #[command(flatten)]
    rounds: Rounds,
    /// Parts to run.
    #[arg(long, value_enum, default_values_t = Part::ALL, value_delimiter = ',')]
    only: Vec<Part>,
    /// How many services there are on the node of many.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Backends of each service, and servers behind the one that is asked.
    #[arg(long, default_value_t = 10)]
    backends: usize,
    /// How often a slice is changed.
    #[arg(long, default_value_t = 300)]
    changes: u32,
    /// How often an agent is started.
    #[arg(long, default_value_t = 5)]
    starts: u32,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Leaves the agents' steps in their logs, and says where those are.
    #[arg(long)]
    laps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Packets to a service against packets to its backends.
    Traffic,
    /// The same of the node's own sockets.
    Sockets,
    /// Changes of one service's backends.
    Changes,
    /// Starts.
    Starts,
    /// Packets to a service against packets that a real kube-proxy's rules translate. Not part of the rest.
    KubeProxy,
}

impl Part {
    const ALL: [Self; 4] = [Self::Traffic, Self::Sockets, Self::Changes, Self::Starts];
}

/// What was measured; parts that were left out are not there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<Figures>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Timed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    starts: Vec<Started>,
    memory: Vec<Held>,
    #[serde(skip_serializing_if = "Option::is_none")]
    neighbours: Option<Figures>,
}

/// What an agent holds.
#[derive(Serialize)]
struct Held {
    place: String,
    #[serde(flatten)]
    memory: Memory,
}

/// Runs it.
pub fn run(services: &Services, binaries: &Binaries) -> Result<()> {
    let quick = services.rounds.quick;
    let (many, few) = if quick { (200, 20) } else { (services.services, 100.min(services.services)) };
    let asks = |part: Part| services.only.contains(&part);
    let mut report = Report {
        traffic: None,
        sockets: None,
        changes: Vec::new(),
        starts: Vec::new(),
        memory: Vec::new(),
        neighbours: None,
    };
    let create = |stem, count| Place::create(stem, count, services.backends.max(2), services.laps, binaries);
    let mut many = create("many", many)?;
    if asks(Part::Traffic) {
        let one = create("one", 1)?;
        report.traffic = Some(traffic(&services.rounds, &one, &many)?);
        report.memory.push(held(&one)?);
    }
    if asks(Part::Sockets) {
        let one = create("own", 1)?;
        report.sockets = Some(sockets(&services.rounds, &one, &many)?);
    }
    if asks(Part::Changes) {
        let few = create("few", few)?;
        report.changes = changes::timed(&[&few, &many], if quick { 3 } else { services.changes })?;
    }
    report.memory.push(held(&many)?);
    if asks(Part::KubeProxy) {
        report.neighbours = Some(neighbours(&services.rounds, &many, services.backends, few, binaries)?);
    }
    if asks(Part::Starts) {
        let times = if quick { 1 } else { services.starts };
        let mut one = create("start", 1)?;
        report.starts = vec![starts::started(&mut one, times)?, starts::started(&mut many, times)?];
        report.starts.push(starts::at_once(&many, times)?);
    }
    progress("");
    if services.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// The first is there once more, so that a run tells its own noise.
fn traffic(rounds: &Rounds, one: &Place, many: &Place) -> Result<Figures> {
    let name = |name: String| -> &'static str { name.leak() };
    let setups = [
        Asked { name: "the backends", side: Side::Backends, place: one },
        Asked { name: "the backends, once more", side: Side::Backends, place: one },
        Asked { name: "the only service", side: Side::Service, place: one },
        Asked { name: name(format!("the backends, {} services", many.count)), side: Side::Backends, place: many },
        Asked { name: name(format!("one of {} services", many.count)), side: Side::Service, place: many },
    ];
    rounds.run(&ROWS, &setups.iter().map(|setup| setup as _).collect::<Vec<_>>())
}

/// The same services, translated by kube-proxy's rules on the way through the kernel's routing.
fn neighbours(rounds: &Rounds, many: &Place, backends: usize, few: usize, binaries: &Binaries) -> Result<Figures> {
    let name = format!("Tortie, one of {}", many.count).leak();
    let tortie = Asked { name, side: Side::Service, place: many };
    let mut standing = Vec::new();
    for count in [few, many.count] {
        for mode in [Mode::Nftables, Mode::Iptables] {
            standing.push(Neighbour::create(mode, count, backends, binaries)?);
        }
    }
    let mut setups: Vec<&dyn Setup> = vec![&tortie];
    setups.extend(standing.iter().map(|neighbour| neighbour as &dyn Setup));
    rounds.run(&ROWS, &setups)
}

fn sockets(rounds: &Rounds, one: &Place, many: &Place) -> Result<Figures> {
    let name = |name: String| -> &'static str { name.leak() };
    let setups = [
        Asked { name: "node: the backends", side: Side::NodeToBackends, place: one },
        Asked { name: "node: the backends, once more", side: Side::NodeToBackends, place: one },
        Asked { name: "node: the only service", side: Side::NodeToService, place: one },
        Asked { name: name(format!("node: one of {} services", many.count)), side: Side::NodeToService, place: many },
    ];
    rounds.run(&ROWS, &setups.iter().map(|setup| setup as _).collect::<Vec<_>>())
}

fn held(place: &Place) -> Result<Held> {
    Ok(Held { place: place.name(), memory: Memory::of(place.agent()?)? })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(traffic) = &self.traffic {
            writeln!(f, "{traffic}")?;
        }
        if let Some(sockets) = &self.sockets {
            writeln!(f, "{sockets}")?;
        }
        if !self.changes.is_empty() {
            writeln!(f, "From the write of a slice to the first packet that goes by it, milliseconds:")?;
            writeln!(f, "{:40}  {}", "", Waits::head())?;
        }
        for Timed { place, waits } in &self.changes {
            writeln!(f, "{place:40}  {waits}")?;
        }
        if !self.starts.is_empty() {
            writeln!(f, "\nTo the first connection through a service, seconds:")?;
        }
        for Started { place, from, seconds } in &self.starts {
            writeln!(f, "{place:40}  {from:40}  {}", seconds.with_digits(2))?;
        }
        if let Some(neighbours) = &self.neighbours {
            writeln!(f, "\n{neighbours}")?;
        }
        writeln!(f, "\nWhat the agent holds:")?;
        for Held { place, memory } in &self.memory {
            writeln!(f, "{place:40}  {memory}")?;
        }
        Ok(())
    }
}
