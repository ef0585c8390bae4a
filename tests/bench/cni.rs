//! `bench cni`: how long a runtime waits for ADD, against the bare wiring of the same veths.
//! In: the CNI binary, the agent, the bare wiring. Out: p50 and p99 for one, fifty and two hundred at once, as ratios, and what
//! an ADD spent where.
//! Invariant: a ratio compares two crowds of one round; both sides start a process for each pod in the same way.
//! Never: judges.

use crate::{
    crowd::{Crowd, Side, Wait},
    figures::{Spread, percentile},
    progress,
    spent::{self, Spent},
};
use ::tests::Binaries;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::{collections::BTreeMap, fmt, path::Path};

/// One at a time is no crowd: this many in a row make a round.
const IN_A_ROW: usize = 40;

#[derive(Debug, Args)]
pub struct Cni {
    /// Rounds; each measures every crowd on both sides once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How many at once.
    #[arg(long, default_values_t = [1, 50, 200], value_delimiter = ',')]
    at_once: Vec<usize>,
    /// On a real API server, with blocks of Calico's sizes: what each crowd writes to it, too.
    #[arg(long)]
    served: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(cni: &Cni, binaries: Binaries, bare: &Path) -> Result<()> {
    let most = cni.at_once.iter().copied().max().unwrap_or(1).max(IN_A_ROW);
    progress(&format!("{most} pods"));
    let crowd = Crowd::create(binaries, bare, most, cni.served)?;
    let mut rows: Vec<_> = cni.at_once.iter().map(|at_once| Row::new(*at_once)).collect();
    for round in 0..cni.rounds {
        for row in &mut rows {
            progress(&format!("round {} of {}: {} at once", round + 1, cni.rounds, row.at_once));
            let sides = if round % 2 == 0 { [Side::Bare, Side::Tortie] } else { [Side::Tortie, Side::Bare] };
            for side in sides {
                let logged = crowd.log().len();
                let before = if cni.served { crowd.asked()? } else { BTreeMap::new() };
                let waits = wire(&crowd, side, row.at_once)?;
                if cni.served && side == Side::Tortie {
                    row.asked(&before, &crowd.asked()?, waits.len());
                }
                row.record(side, &waits, &crowd.log()[logged..]);
                crowd.clear(side, waits.len())?;
            }
            row.loops.push(crowd.wire_in_a_loop(row.wired())?.as_secs_f64() * 1e3);
            crowd.clear(Side::Bare, row.wired())?;
        }
    }
    progress("");
    let report: Vec<_> = rows.iter().map(Row::report).collect();
    if cni.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", Table(&report));
    }
    Ok(())
}

/// One crowd of one side.
fn wire(crowd: &Crowd, side: Side, at_once: usize) -> Result<Vec<Wait>> {
    if at_once == 1 { (0..IN_A_ROW).map(|number| crowd.one(side, number)).collect() } else { crowd.wire(side, at_once) }
}

/// The rounds of one size of crowd, by side: p50 and p99 in milliseconds.
struct Row {
    at_once: usize,
    bare: Vec<[f64; 2]>,
    tortie: Vec<[f64; 2]>,
    /// From the start of all to the end of the last, of those that start at once: bare, ADD.
    walls: [Vec<f64>; 2],
    /// The same pods, one after the other in one process.
    loops: Vec<f64>,
    /// Written to the API server for each ADD, by resource.
    asked: BTreeMap<String, Vec<f64>>,
    spent: Spent,
}

impl Row {
    fn new(at_once: usize) -> Self {
        let (bare, tortie, walls, loops) = Default::default();
        Self { at_once, bare, tortie, walls, loops, asked: BTreeMap::new(), spent: Spent::default() }
    }

    /// How many pods a round wires.
    fn wired(&self) -> usize {
        if self.at_once == 1 { IN_A_ROW } else { self.at_once }
    }

    #[expect(clippy::cast_precision_loss, reason = "a few hundred ADDs")]
    fn asked(&mut self, before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, adds: usize) {
        for (resource, count) in after {
            let more = count - before.get(resource).copied().unwrap_or_default();
            if more > 0.0 {
                self.asked.entry(resource.clone()).or_default().push(more / adds as f64);
            }
        }
    }

    fn record(&mut self, side: Side, waits: &[Wait], log: &str) {
        let took: Vec<_> = waits.iter().map(|wait| wait.took).collect();
        let figures = [percentile(&took, 50), percentile(&took, 99)];
        let wall = took.iter().max().map_or(0.0, |took| took.as_secs_f64() * 1e3);
        self.walls[usize::from(side == Side::Tortie)].push(wall);
        match side {
            Side::Bare => self.bare.push(figures),
            Side::Tortie => {
                self.tortie.push(figures);
                waits.iter().for_each(|wait| self.spent.add(wait.took, &wait.said));
                self.spent.log(log);
            }
        }
    }

    fn report(&self) -> Report {
        let of = |rounds: &[[f64; 2]], which: usize| Spread::of(rounds.iter().map(|round| round[which]).collect());
        let ratio = |which: usize| {
            let pairs = self.tortie.iter().zip(&self.bare);
            Spread::of(pairs.map(|(tortie, bare)| tortie[which] / bare[which]).collect())
        };
        Report {
            at_once: self.at_once,
            bare_ms: [of(&self.bare, 0), of(&self.bare, 1)],
            add_ms: [of(&self.tortie, 0), of(&self.tortie, 1)],
            ratio: [ratio(0), ratio(1)],
            batch: (self.at_once > 1).then(|| self.batch()),
            asked: self.asked.iter().map(|(name, counts)| (name.clone(), Spread::of(counts.clone()))).collect(),
            spent: self.spent.report(),
        }
    }
}

impl Row {
    fn batch(&self) -> Batch {
        let over = |floor: &[f64]| Spread::of(self.walls[1].iter().zip(floor).map(|(add, bare)| add / bare).collect());
        Batch {
            loop_ms: Spread::of(self.loops.clone()),
            bare_ms: Spread::of(self.walls[0].clone()),
            add_ms: Spread::of(self.walls[1].clone()),
            ratio: [over(&self.loops), over(&self.walls[0])],
        }
    }
}

/// All of a crowd, from its start to the end of the last.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch {
    loop_ms: Spread,
    bare_ms: Spread,
    add_ms: Spread,
    /// To the loop, to the processes.
    ratio: [Spread; 2],
}

/// p50 and p99 of each.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    at_once: usize,
    bare_ms: [Spread; 2],
    add_ms: [Spread; 2],
    ratio: [Spread; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<Batch>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    asked: BTreeMap<String, Spread>,
    spent: spent::Report,
}

struct Table<'a>(&'a [Report]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CNI ADD against the bare wiring of the same veths: median of the rounds [lowest - highest].")?;
        writeln!(
            f,
            "Bare: a static program a pod that makes the pair, addresses, routes and neighbours and sets both"
        )?;
        writeln!(
            f,
            "ends up, one netlink request after the other; no sysctl, no program, no policy, nothing on disk.\n"
        )?;
        let columns = ["bare p50, ms", "bare p99, ms", "ADD p50, ms", "ADD p99, ms", "ratio p50", "ratio p99"];
        write!(f, "{:>7}", "at once")?;
        for column in columns {
            write!(f, "  {column:>22}")?;
        }
        for report in self.0 {
            write!(f, "\n{:>7}", report.at_once)?;
            for spread in report.bare_ms.iter().chain(&report.add_ms) {
                write!(f, "  {:>22}", spread.with_digits(1))?;
            }
            for spread in &report.ratio {
                write!(f, "  {:>22}", spread.with_digits(2))?;
            }
        }
        writeln!(
            f,
            "\n\nWhere an ADD spends it, in milliseconds. The plugin's own steps: median of all ADDs [lowest - highest];"
        )?;
        writeln!(
            f,
            "process: start, reading, writing, end. The agent's one thread, all its work by the number of ADDs:"
        )?;
        writeln!(f, "begin has disk in it; apply is list, guard, commit, connect and sweep.\n")?;
        for report in self.0 {
            write!(f, "{} at once\n{}", report.at_once, report.spent)?;
            if let Some(Batch { loop_ms, bare_ms, add_ms, ratio: [to_loop, to_bare] }) = &report.batch {
                writeln!(
                    f,
                    "  all of them, ms: one bare loop {}  bare processes {}  ADD {}; ratio to the loop {}, to the processes {}",
                    loop_ms.with_digits(0),
                    bare_ms.with_digits(0),
                    add_ms.with_digits(0),
                    to_loop.with_digits(2),
                    to_bare.with_digits(2)
                )?;
            }
            for (resource, each) in &report.asked {
                writeln!(f, "  the API server for each ADD: {resource} {}", each.with_digits(3))?;
            }
        }
        Ok(())
    }
}
