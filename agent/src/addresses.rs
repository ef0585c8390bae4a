//! `tortie ipam`: what is given out, what is wrong with it, and what is taken back by hand; with the meaning of calicoctl's commands.
//! In: the agent's own settings, which say where the datastore is. Out: tables, a report, and addresses that are free again.
//! Invariant: no agent has to run; nothing is written before it was shown, and asked for by `--yes`.
//! Never: takes back what somebody has, unless that is forced, address by address.

mod check;
mod configure;
mod migrate;
mod release;
mod show;
mod split;

use crate::{
    allocate::Allocator,
    config::{Config, Datastore, Settings},
    journal::{self, Journal},
    show::Output,
    source::Source,
};
use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use datastore::{Store, census::INFORMATION, settings::Setting};
use ipam::{Ledger, audit::Census, audit::report::Report, owner_of};
use model::{Cidr, IpamConfig};
use std::{net::IpAddr, path::PathBuf, process::ExitCode};

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Show how full pools and blocks are, or who has an address
    Show {
        /// Blocks, too
        #[arg(long)]
        show_blocks: bool,
        /// Addresses that lie in another node's block
        #[arg(long)]
        show_borrowed: bool,
        /// Who has this address
        #[arg(long)]
        ip: Option<IpAddr>,
        /// How nodes take blocks
        #[arg(long)]
        show_configuration: bool,
        /// How to print the answer
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
        #[command(flatten)]
        place: Box<Place>,
    },
    /// Compare what is given out with what pods have; exit 0 whatever is found, 1 if somebody could not be asked
    Check {
        /// Name every address
        #[arg(long)]
        show_all_ips: bool,
        /// Name addresses that are leaked, or not given out and in use
        #[arg(long)]
        show_problem_ips: bool,
        /// Write a report here, which release takes
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        place: Box<Place>,
    },
    /// Take back an address, or all that reports say that nobody has: says what it would do, and does it with --yes
    Release {
        /// This address
        #[arg(long, conflicts_with = "from_report", required_unless_present = "from_report")]
        ip: Option<IpAddr>,
        /// What this report says that nobody has; of several, what all say
        #[arg(long, value_name = "FILE")]
        from_report: Vec<PathBuf>,
        /// Though somebody has the address; though another version wrote the report
        #[arg(long)]
        force: bool,
        /// Do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Box<Place>,
    },
    /// Split a pool into so many of equal size, a power of two: says what it would do, and does it with --yes
    Split {
        /// How many
        number: u32,
        /// The pool with this network
        #[arg(long, required_unless_present = "name")]
        cidr: Option<Cidr>,
        /// The pool of this name
        #[arg(long, conflicts_with = "cidr")]
        name: Option<String>,
        /// Do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Box<Place>,
    },
    /// Bring pods' addresses from nodes' own networks to blocks, or from one pool to another
    Migrate {
        #[command(subcommand)]
        from: migrate::From,
    },
    /// Say how nodes take blocks: says what it would change, and does it with --yes
    Configure {
        #[command(flatten)]
        wanted: configure::Wanted,
        /// Do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Box<Place>,
    },
}

/// Where the datastore is, as the agent is told of it.
#[derive(Args)]
pub struct Place {
    /// Settings as YAML; flags and TORTIE_* variables win over it
    #[arg(long, env = "TORTIE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Everything that a command looks at.
struct Scene {
    allocator: Allocator,
    ledger: Ledger,
    census: Census,
    /// Of which cluster, without what is given out.
    report: Report,
    /// Agents write nothing while the datastore is locked; in a directory nobody asks, nor where there is no ClusterInformation.
    heeds_lock: bool,
}

impl Place {
    fn open(self) -> Result<Scene> {
        let (config, store) = self.store()?;
        let survey = store.survey()?;
        let mut census = survey.census;
        // Whoever gives the command knows all nodes that there are; where there is none, nobody does.
        census.here = census.nodes.first().cloned();
        if config.state_dir.join(journal::FOLDER).is_dir() {
            let (journal, _) = Journal::open(&config.state_dir)?;
            census.held = journal.all().map(|own| owner_of(&own.id).to_lowercase()).collect();
        }
        let report = report_of(&store)?;
        let stored = store.settings(Setting::Config)?;
        let stored = stored.iter().find(|object| object.metadata.name == IpamConfig::NAME);
        let seconds = stored.and_then(|object| object.spec["ipCooldownSeconds"].as_u64());
        let cooldown = seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or_default();
        // Where nobody says whether it is locked, nobody can lock it.
        let is_said = !report.cluster_information_revision.is_empty();
        let heeds_lock = is_said && !matches!(config.datastore, Datastore::Directory(_));
        let mut allocator = Allocator::new(store, config.node);
        allocator.rules.pools.clone_from(&survey.pools);
        allocator.rules.config.cooldown = cooldown;
        let mut ledger = allocator.ledger(true)?;
        ledger.pools = survey.pools;
        Ok(Scene { allocator, ledger, census, report, heeds_lock })
    }

    fn store(self) -> Result<(Config, Store)> {
        let config = Config::load(self.config.as_deref(), self.settings)?;
        let store = Source::find(&config.datastore)?.objects()?;
        Ok((config, store))
    }
}

fn report_of(store: &Store) -> Result<Report> {
    let found = store.default_of(INFORMATION)?;
    let said = |field: &str| {
        let text = found.as_ref().and_then(|found| found.spec.get(field)?.as_str());
        text.unwrap_or_default().to_owned()
    };
    let is_locked = found.as_ref().is_some_and(|found| found.spec["datastoreReady"] == false);
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_guid: said("clusterGUID"),
        datastore_locked: is_locked,
        cluster_information_revision: found
            .as_ref()
            .and_then(|own| own.metadata.resource_version.clone())
            .unwrap_or_default(),
        cluster_type: said("clusterType"),
        ..Report::default()
    })
}

/// Does what is asked: exit 0 done, 1 not.
pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Show { show_configuration: true, output, place, .. } => {
            println!("{}", show::configuration(&configure::current(&place.store()?.1)?.1, output));
        }
        Command::Show { show_blocks, show_borrowed, ip, output, place, .. } => {
            let Scene { ledger, .. } = place.open()?;
            match ip {
                Some(address) => println!("{}", show::address(&ledger, address, output)),
                None if show_borrowed => println!("{}", show::borrowed(&ledger, output)),
                None => println!("{}", show::usage(&ledger, show_blocks, output)),
            }
        }
        Command::Check { show_all_ips, show_problem_ips, output, place } => {
            let Scene { ledger, census, report, .. } = place.open()?;
            let found = check::findings(&ledger, &census, report);
            print!("{}", check::said(&ledger, &found, check::Named { all: show_all_ips, problems: show_problem_ips }));
            if let Some(path) = output {
                check::write(&path, &found.report)?;
            }
        }
        Command::Release { ip, from_report, force, yes, place } => {
            let scene = place.open()?;
            let done = match ip {
                Some(address) => release::address(&scene, address, release::How { force, yes })?,
                None => release::of_reports(&scene, &from_report, release::How { force, yes })?,
            };
            println!("{done}");
        }
        Command::Split { number, cidr, name, yes, place } => {
            let which = name.map(split::Which::Name).or(cidr.map(split::Which::Cidr));
            let which = which.ok_or_else(|| anyhow!("give --cidr or --name of the pool to split"))?;
            println!("{}", split::pool(&place.open()?, &which, number, yes)?);
        }
        Command::Migrate { from } => println!("{}", migrate::run(from)?),
        Command::Configure { wanted, yes, place } => {
            println!("{}", configure::set(&place.store()?.1, wanted, yes)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
