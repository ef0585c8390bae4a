//! `tortie`: the agent and its read commands.
//! In: arguments, TORTIE_* variables, a configuration file. Out: a running agent, or one answer.
//! Invariant: exit 0 done, 1 failed (explain: refused), 2 wrong arguments or configuration (explain, policy test: no answer).
//! Never: anything but wiring.
#![forbid(unsafe_code)]

mod addresses;
mod allocate;
mod announce;
mod assign;
mod bird;
mod boot;
mod chores;
mod config;
mod detect;
mod drift;
mod explain;
mod felix;
mod fewer;
mod further;
mod gates;
mod health;
mod health_ports;
mod http;
mod install;
mod journal;
mod kernel;
mod led;
mod listeners;
mod lock;
mod mailbox;
mod metrics;
mod mirror;
mod node_status;
mod notes;
mod object;
mod observe;
mod owner;
mod passage;
mod proxy;
mod publish;
mod reclaim;
mod remarks;
mod report;
mod requests;
mod rerouted;
mod run;
mod serve;
mod services;
mod setback;
mod show;
mod source;
mod through;
mod trial;
mod tunnel;
mod wanted;

use clap::{Args, Parser, Subcommand};
use cni::protocol::Query;
use config::{BPFFS, Config, LogFormat, MirrorSettings, SOCKET, STATE_DIR, Settings};
use model::{LogLevel, PodId};
use show::Output;
use std::{net::IpAddr, path::PathBuf, process::ExitCode};
use tracing_subscriber::EnvFilter;

/// Tortie: pod networking and network policy by eBPF.
#[derive(Parser)]
#[command(name = "tortie", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent of this node
    Run {
        /// Settings as YAML; flags and TORTIE_* variables win over it
        #[arg(long, env = "TORTIE_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Mirror what an API server says to an etcd, where the agents of a large cluster read it (`tortie run --mirror`)
    Mirror {
        #[command(flatten)]
        settings: Box<MirrorSettings>,
    },
    /// Show what the running agent knows and what the kernel's tables hold
    Show {
        /// The table
        #[arg(value_parser = ["status", "endpoints", "hostendpoints", "policies", "staged", "services", "backends", "classes", "rulesets", "conntrack", "drops", "capacity"])]
        table: String,
        /// Of services and backends: those of a NAMESPACE, or of NAMESPACE/NAME alone
        of: Option<String>,
        #[command(flatten)]
        answer: AnswerArgs,
    },
    /// Say whether a connection would pass, and by which rule: exit 0 allowed, 1 refused, 2 no answer
    Explain {
        /// The sender: NAMESPACE/POD, `host` for this node itself, or an address outside
        #[arg(long, value_parser = sender)]
        from: Sender,
        /// The receiver: NAMESPACE/POD, NAMESPACE/SERVICE or an address
        #[arg(long)]
        to: String,
        /// Destination port; for ICMP the type
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Protocol: a name or a number
        #[arg(long, default_value = "TCP")]
        proto: String,
        /// Source port, where rules or failsafe ports ask for it
        #[arg(long)]
        source_port: Option<u16>,
        #[command(flatten)]
        answer: AnswerArgs,
    },
    /// What of this node is set by the cluster
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Look after addresses: what is given out, what is wrong with it, what is taken back
    Ipam {
        #[command(subcommand)]
        command: addresses::Command,
    },
    /// Try policies before they are applied
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Put the CNI plugin that lies beside this program where container runtimes look for it
    Install {
        /// The runtime's folder of plugins
        #[arg(long, env = "TORTIE_CNI_BIN", value_name = "DIR", default_value = "/opt/cni/bin")]
        cni_bin: PathBuf,
    },
    /// Take away everything a stopped agent left in the kernel: its pods are then cut off until an agent runs again
    Cleanup {
        /// The agent's state directory
        #[arg(long, env = "TORTIE_STATE_DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
        /// The agent's pins
        #[arg(long, env = "TORTIE_BPFFS", default_value = BPFFS)]
        bpffs: PathBuf,
        /// The agent's socket
        #[arg(long, env = "TORTIE_SOCKET", default_value = SOCKET)]
        socket: PathBuf,
        /// The configuration for container runtimes, if the agent wrote one: it goes first
        #[arg(long, env = "TORTIE_CNI_CONF", value_name = "FILE")]
        cni_conf: Option<PathBuf>,
        /// The runtime's folder of plugins, if the plugin is to go, too: it stays as long as pods need it for their end
        #[arg(long, env = "TORTIE_CNI_BIN", value_name = "DIR")]
        cni_bin: Option<PathBuf>,
    },
    /// Let the agent, once it is started again, take up an etcd in which Calico began anew (another clusterGUID)
    ForgetCluster {
        /// The agent's state directory
        #[arg(long, env = "TORTIE_STATE_DIR", default_value = STATE_DIR)]
        state_dir: PathBuf,
    },
    /// Wait for a signal: what a DaemonSet's container does that has nothing to do and may not end
    #[command(hide = true)]
    Wait,
    /// Print the version
    Version,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Show whom this node speaks BGP with, and each field that FelixConfiguration sets for it
    Status {
        #[command(flatten)]
        answer: AnswerArgs,
    },
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Say what would change if these files were applied; nothing is: exit 0 no verdict, 1 something would be refused or let in, 2 no answer
    Test {
        /// Manifests; - is standard input
        #[arg(required = true)]
        files: Vec<String>,
        /// What if their objects were deleted
        #[arg(long)]
        delete: bool,
        /// Ask this directory of manifests (file:DIR) instead of a running agent
        #[arg(long)]
        datastore: Option<String>,
        #[command(flatten)]
        answer: AnswerArgs,
    },
}

#[derive(Args)]
struct AnswerArgs {
    /// The agent's socket
    #[arg(long, env = "TORTIE_SOCKET", default_value = SOCKET)]
    socket: PathBuf,
    /// How to print the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// Who sends.
#[derive(Clone, Debug)]
enum Sender {
    Pod(PodId),
    Host,
    Outside(IpAddr),
}

fn sender(text: &str) -> Result<Sender, String> {
    match (text.split_once('/'), text.parse()) {
        (Some((namespace, name)), _) if !namespace.is_empty() && !name.is_empty() => {
            Ok(Sender::Pod(PodId::new(namespace, name)))
        }
        (None, Ok(address)) => Ok(Sender::Outside(address)),
        (None, Err(_)) if text == "host" => Ok(Sender::Host),
        _ => Err("write it as NAMESPACE/POD, as an address, or as host".to_owned()),
    }
}

/// The allocator of the C library that is linked into the shipped program has one lock for all threads, and a start with many
/// objects takes nearly twice as long with it.
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config, settings } => run(config.as_deref(), *settings),
        Command::Mirror { settings } => mirror(*settings),
        Command::Show { table, of, answer } => show(&table, of.as_deref(), &answer),
        Command::Explain { from, to, port, proto: protocol, source_port, answer } => {
            let question = match from {
                Sender::Pod(from) => Query::Explain { from, to, port, protocol, source_port },
                Sender::Host => Query::ExplainHost { from: None, to, port, protocol, source_port },
                Sender::Outside(from) => Query::ExplainHost { from: Some(from), to, port, protocol, source_port },
            };
            explain(&question, &answer)
        }
        Command::Node { command: NodeCommand::Status { answer } } => node(&answer),
        Command::Policy { command: PolicyCommand::Test { files, delete, datastore, answer } } => {
            match test(&files, delete, datastore, &answer) {
                Ok(report) => {
                    println!("{}", show::print(&report, answer.output, trial::lines));
                    ExitCode::from(match report["verdict"].as_str() {
                        Some("same") => 0,
                        Some("differs") => 1,
                        _ => 2,
                    })
                }
                Err(error) => failed(2, Err(error)),
            }
        }
        Command::Ipam { command } => addresses::run(command).unwrap_or_else(|error| failed(1, Err(error))),
        Command::Install { cni_bin } => failed(1, install::plugin(&cni_bin).map(|done| println!("{done}"))),
        Command::Cleanup { state_dir, bpffs, socket, cni_conf, cni_bin } => {
            let left = run::Left {
                state_dir: &state_dir,
                bpffs: &bpffs,
                socket: &socket,
                cni_conf: cni_conf.as_deref(),
                cni_bin: cni_bin.as_deref(),
            };
            failed(1, run::cleanup(&left).map(|done| println!("{done}")))
        }
        Command::ForgetCluster { state_dir } => {
            failed(1, run::forget_cluster(&state_dir).map(|done| println!("{done}")))
        }
        Command::Wait => failed(1, run::wait_for_signal()),
        Command::Version => {
            println!("tortie {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn run(file: Option<&std::path::Path>, settings: Settings) -> ExitCode {
    let config = match Config::load(file, settings) {
        Ok(config) => config,
        Err(error) => return failed(2, Err(error.into())),
    };
    match log(&config.log, config.log_format) {
        Ok(reload) => failed(1, run::run(&config, changing(&config, reload))),
        Err(error) => failed(2, Err(error)),
    }
}

fn mirror(settings: MirrorSettings) -> ExitCode {
    let config = match settings.check() {
        Ok(config) => config,
        Err(error) => return failed(2, Err(error.into())),
    };
    match log(&config.log, config.log_format) {
        Ok(_reload) => failed(1, mirror::run(&config)),
        Err(error) => failed(2, Err(error)),
    }
}

/// What changes what is logged.
type Reload = Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send>;

/// Begins to log.
fn log(log: &str, format: LogFormat) -> anyhow::Result<Reload> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(log)?).with_writer(std::io::stderr);
    Ok(match format {
        LogFormat::Text => {
            let builder = builder.with_ansi(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| Ok(handle.reload(filter)?))
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| Ok(handle.reload(filter)?))
        }
    })
}

/// By the cluster, where the settings leave it to that.
fn changing(config: &Config, reload: Reload) -> Option<felix::Filter> {
    let begun = config.log.clone();
    let change = move |level: Option<LogLevel>| {
        let log = level.map_or_else(|| begun.clone(), |level| level.as_str().to_owned());
        reload(filter(&log)?)
    };
    (!config.log_is_given).then(|| -> felix::Filter { Box::new(change) })
}

fn filter(log: &str) -> anyhow::Result<EnvFilter> {
    // A plain level is meant for the agent: the ELF loader below it says thousands of lines at debug, and the API client says each
    // broken watch, of which the agent tells itself.
    let plain = log.chars().all(char::is_alphanumeric);
    let directives =
        if plain { format!("{log},aya=warn,aya_obj=warn,kube_client=off,kube_runtime=off") } else { log.to_owned() };
    EnvFilter::try_new(directives).map_err(|error| anyhow::anyhow!("--log: {log:?} is no level or filter: {error}"))
}

fn show(table: &str, of: Option<&str>, answer: &AnswerArgs) -> ExitCode {
    let report = match (table, of) {
        ("services" | "backends", of) => show::services(&answer.socket, of, table == "backends"),
        (_, None) => show::report(&answer.socket, Query::Show { table: table.to_owned() }),
        (_, Some(_)) => {
            return failed(2, Err(anyhow::anyhow!("show {table}: only services and backends are shown by name")));
        }
    };
    match report {
        Ok(report) => {
            println!("{}", show::print(&report, answer.output, show::table));
            ExitCode::SUCCESS
        }
        Err(error) => failed(1, Err(error.into())),
    }
}

fn node(answer: &AnswerArgs) -> ExitCode {
    match show::report(&answer.socket, Query::Show { table: "node".to_owned() }) {
        Ok(report) => {
            println!("{}", show::print(&report, answer.output, show::node));
            ExitCode::SUCCESS
        }
        Err(error) => failed(1, Err(error.into())),
    }
}

fn explain(question: &Query, answer: &AnswerArgs) -> ExitCode {
    match show::report(&answer.socket, question.clone()) {
        Ok(report) => {
            println!("{}", show::print(&report, answer.output, show::sentences));
            if report["verdict"] == "allowed" { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => failed(2, Err(error.into())),
    }
}

fn test(
    files: &[String],
    delete: bool,
    datastore: Option<String>,
    answer: &AnswerArgs,
) -> anyhow::Result<serde_json::Value> {
    let files = trial::files(files)?;
    Ok(match datastore {
        Some(given) => trial::of_directory(&config::manifests(&given)?, &files, delete)?,
        None => show::report(&answer.socket, Query::Test { files, delete })?,
    })
}

fn failed(code: u8, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Every error says its cause itself.
            eprintln!("tortie: {error}");
            ExitCode::from(code)
        }
    }
}
