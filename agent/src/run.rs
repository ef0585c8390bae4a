//! `tortie run`: opens everything, connects the inputs to the owner, and loops.
//! In: [`Config`]. Out: a node whose kernel follows its datastore, until a signal.
//! Invariant: ending, in whatever way, leaves the kernel as it is: traffic goes on.
//! Never: ends because one manifest, record or pod is broken.

use crate::{
    allocate::Allocator,
    announce::Announcer,
    assign::Assigner,
    bird::{self, Speaker},
    boot,
    chores::Chorer,
    config::{Config, NodeRoutes},
    detect::Detector,
    felix::{Filter, Logging},
    health::Health,
    health_ports::HealthPorts,
    install::{self, Conflist},
    journal::{self, Journal},
    lock,
    metrics::Metrics,
    node_status::Answerer,
    object,
    observe::{self, Change},
    owner::{Agent, Event, Node, Reboot},
    proxy::{self, Proxy, Services},
    publish::Publisher,
    serve,
    source::{Ended, Opened, Source},
    tunnel::Tunneller,
};
use anyhow::{Result, bail};
use calc::Live;
use dataplane::{Dataplane, Extent, Gauges};
use datastore::Updates;
use netlink::{Link, Socket};
use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Between two looks at what failed.
const TICK: Duration = Duration::from_secs(5);
/// Between two looks at everything that other hands may have changed.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at least, however much the kernel tells: a hundred links made at once are one change.
const LOOK_REST: Duration = Duration::from_millis(50);
/// Between two tries to take away what commits replaced: about what packets under way take to end.
const SWEEP: Duration = Duration::from_millis(10);
/// Events that wait for the owner; more make their sender wait.
const QUEUE: usize = 1024;
/// Events taken in one batch.
const BATCH: usize = 512;
/// The last good policies, within the state directory.
const LAST_GOOD: &str = "last-good";
/// What pods get where there is no uplink to ask.
const MTU: u32 = 1500;

/// Runs the agent until a signal ends it; `filter` changes what is logged.
pub fn run(config: &Config, filter: Option<Filter>) -> Result<()> {
    raise_open_files();
    let _state = lock::lock(&config.state_dir)?;
    // Before anything is touched: an agent that has these pins keeps them.
    drop(lock::pins(&config.bpffs)?);
    let mut netlink = Socket::open()?;
    let uplink = uplink(config, &mut netlink)?;
    let source = Source::find(&config.datastore)?;
    let reading = source.clone().read(config.node.clone(), config.state_dir.join(LAST_GOOD))?;
    let mut agent = open(config, &source, &mut netlink, uplink.as_ref())?;
    // The dataplane may have mounted a file system over the directory: this is the one that holds the pins.
    let _pins = lock::lock(&config.bpffs)?;

    let (owner, events) = sync_channel(QUEUE);
    let opened = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let Opened { problems, updates, ended, teller } = opened;
    (agent.node.problems, agent.teller) = (problems, teller);
    agent.logging = Logging::by(filter);
    let health = Health::default();
    agent.health_ports = HealthPorts::new(health.clone())?;
    agent.take(vec![Event::Host(observe::host(&mut netlink)?)]);
    forward(updates, ended, owner.clone())?;
    observe::watch({
        let owner = owner.clone();
        move |change| {
            let event = match change {
                Change::Host(host) => Event::Host(host),
                Change::Network => Event::Look,
            };
            owner.send(event).is_ok()
        }
    })?;
    if config.services != Services::KubeProxy {
        proxy::watch(config.services, agent.node.proxy.clone(), owner.clone())?;
    }
    stop_on_signals(owner.clone())?;
    let metrics = agent.node.metrics.clone();
    metrics.writes_are(Box::new(move || source.writes()));
    serve::listen(&config.socket, owner, metrics.clone())?;
    info!(node = %config.node, socket = %config.socket.display(), "running");
    if let Some(address) = config.health_address
        && let Err(error) = health.serve(address)
    {
        warn!("health cannot be asked at {address}: {error}");
    }
    if let Some(address) = config.metrics_address
        && let Err(error) = measure(&metrics, address, &config.bpffs)
    {
        warn!("metrics cannot be asked at {address}: {error}");
    }
    let conflist = config.cni_conf.as_deref().map(|path| Conflist::new(path, &config.socket));
    follow(&mut agent, &events, &health, conflist.as_ref())
}

/// Metrics read the maps by handles of their own.
fn measure(metrics: &Metrics, address: SocketAddr, bpffs: &Path) -> Result<()> {
    metrics.serve(address, Gauges::open(bpffs)?)?;
    Ok(())
}

/// Two links a pod are held open, and 1024 descriptors are what a shell gives. What the limit forbids is met later.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!("open files stay limited: {error}");
    }
}

fn open(config: &Config, source: &Source, netlink: &mut Socket, uplink: Option<&Link>) -> Result<Agent<Dataplane>> {
    let interfaces = netlink.links()?.into_iter().map(|link| link.name).collect();
    let rebooted = boot::is_another(&config.state_dir);
    if rebooted {
        Journal::drop_unwritten(&config.state_dir)?;
    }
    let (journal, damaged) = Journal::open(&config.state_dir)?;
    let damaged: Vec<_> = damaged.iter().map(ToString::to_string).collect();
    damaged.iter().for_each(|error| tracing::error!("{error}"));
    let objects = source.objects()?;
    let name = uplink.map(|link| link.name.clone());
    let has_uplink = name.is_some();
    let kernel = Dataplane::open(config.dataplane(object::bytes(), name.clone()))?;
    let assigner = name.is_some().then(|| Assigner::start(objects.clone(), config.node.clone())).transpose()?;
    let announcer = name.zip(assigner.clone()).map(|(name, assigner)| {
        Announcer::start((objects.clone(), source.timing()), &config.node, &config.bpffs, name, assigner)
    });
    let announcer = announcer.transpose()?;
    let (problems, metrics) = (Box::new(Vec::new), Metrics::default());
    let chorer = config
        .does_chores()
        .then(|| Chorer::start(objects.clone(), config.node.clone(), config.chores, metrics.clone()))
        .transpose()?;
    let tunneller = has_uplink.then(|| Tunneller::start(objects.clone(), config.node.clone())).transpose()?;
    let detector = Detector::start(objects.clone(), config.node.clone(), config.detection.clone())?;
    let mtu = config.mtu.or(uplink.map(|link| link.mtu)).unwrap_or(MTU);
    let platform = kernel.platform().clone();
    info!(kernel = platform.release, attachment = %platform.attached_by, lacks = ?platform.lacks, "probed");
    info!("the node's own sockets {}", kernel.sockets());
    let proxy = Proxy::find(config.services);
    info!(by = proxy.by(), reason = proxy.reason, "services");
    let neighbour = proxy.neighbour;
    let node = Node { name: config.node.clone(), mtu, platform, problems, damaged, metrics, proxy };
    let mut world = Live::new(config.node.clone(), config.keep_established);
    world.set_node_ports(config.node_port_addresses.clone());
    world.set_proxy(neighbour);
    world.set_profiles_told(source.tells_profiles());
    world.use_pod_cidrs(config.pod_cidrs.into());
    world.leave_routes(config.node_routes == NodeRoutes::Off);
    world.leave_far_nodes(config.bird.is_some());
    let publisher = Publisher::start(objects.clone())?;
    let folder = bird::folder(&config.state_dir);
    let secrets = objects.clone();
    let answerer = Answerer::start(objects.clone(), config.node.clone(), folder.clone())?;
    let mut allocator = Allocator::new(objects, config.node.clone());
    allocator.sticky = config.sticky_addresses;
    let mut agent = Agent::new(node, world, kernel, (allocator, publisher), journal, &interfaces);
    agent.service_metrics = config.service_metrics;
    (agent.announcer, agent.assigner) = (announcer, assigner);
    agent.chorer = chorer;
    agent.tunneller = tunneller;
    agent.detector = Some(detector);
    let speak = |settings: &bird::Settings| Speaker::start(settings.clone(), &folder, secrets.clone());
    agent.speaker = config.bird.as_ref().map(speak).transpose()?;
    agent.answerer = Some(answerer);
    agent.mtu_is_said = config.mtu.is_some();
    agent.reboot = Reboot { happened: rebooted, state_dir: Some(config.state_dir.clone()) };
    Ok(agent)
}

/// The interface that was named, which must be there; else that of the default route.
fn uplink(config: &Config, netlink: &mut Socket) -> Result<Option<Link>> {
    let Some(name) = &config.uplink else {
        let found = observe::uplink(netlink)?;
        match &found {
            Some(link) => info!(uplink = %link.name, "by the default route"),
            None => warn!(
                "no uplink: there is no default route and --uplink is not set; pods are reached from this host only"
            ),
        }
        return Ok(found);
    };
    match netlink.link(name)? {
        Some(link) => Ok(Some(link)),
        None => {
            let names: Vec<_> = netlink.links()?.into_iter().map(|link| link.name.to_string()).collect();
            bail!("--uplink {name}: there is no such interface; there are {}", names.join(", "))
        }
    }
}

/// Batches of the datastore, to the owner.
fn forward(updates: Updates, ended: Ended, owner: SyncSender<Event>) -> Result<()> {
    let run = move || {
        for batch in updates {
            if owner.send(Event::Updates(batch)).is_err() {
                return;
            }
        }
        let _ = owner.send(Event::Broken(ended()));
    };
    thread::Builder::new().name("updates".into()).spawn(run)?;
    Ok(())
}

fn stop_on_signals(owner: SyncSender<Event>) -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let run = move || {
        for _ in signals.forever() {
            if owner.send(Event::Stop).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(run)?;
    Ok(())
}

/// Runtimes call for pods from then on. What keeps them from it is said once for as long as it lasts.
fn invite(agent: &Agent<Dataplane>, conflist: &Conflist, told: &mut Option<String>) {
    let put = conflist.of(&agent.world).and_then(|conflist| conflist.put());
    if let Ok(true) = put {
        info!("runtimes may call for pods: their configuration is written");
    }
    let why = put.err().map(|error| error.to_string());
    if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(*why)) {
        warn!("runtimes do not call for pods: {why}");
    }
    *told = why;
}

fn follow(
    agent: &mut Agent<Dataplane>,
    events: &Receiver<Event>,
    health: &Health,
    conflist: Option<&Conflist>,
) -> Result<()> {
    let mut tick = Instant::now() + TICK;
    let mut looked = Instant::now();
    let mut look = looked + LOOK;
    let (mut is_lean, mut is_invited, mut uninvited) = (false, false, None);
    // When to look at what the kernel told of.
    let mut told = None;
    loop {
        health.beat(agent.ready());
        if let Some(conflist) = conflist.filter(|_| agent.ready() && !is_invited) {
            invite(agent, conflist, &mut uninvited);
            is_invited = true;
        }
        let sweep = if agent.to_sweep { Instant::now() + SWEEP } else { look };
        // While a sweep waits no program is moved: what is due then must not wake us again and again.
        let upgrade = agent.to_upgrade.filter(|_| !agent.to_sweep);
        let next = tick.min(look).min(told.unwrap_or(look)).min(sweep).min(upgrade.unwrap_or(look));
        match events.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(event) => {
                let batch: Vec<_> = std::iter::once(event).chain(events.try_iter().take(BATCH)).collect();
                if batch.iter().any(|event| matches!(event, Event::Stop)) {
                    info!("stopping; programs and tables stay, traffic goes on");
                    return Ok(());
                }
                if let Some(Event::Broken(what)) = batch.iter().find(|event| matches!(event, Event::Broken(_))) {
                    bail!("{what}; start the agent again");
                }
                if batch.iter().any(|event| matches!(event, Event::Look)) {
                    told.get_or_insert(looked + LOOK_REST);
                }
                agent.take(batch);
            }
            // Only when nothing else is to be done.
            Err(RecvTimeoutError::Timeout) => {
                if agent.to_sweep {
                    agent.sweep();
                } else if upgrade.is_some_and(|at| Instant::now() >= at) {
                    agent.upgrade();
                }
            }
            Err(RecvTimeoutError::Disconnected) => bail!("all inputs have ended; start the agent again"),
        }
        let now = Instant::now();
        if now >= look || told.is_some_and(|at| now >= at) {
            agent.look(if now >= look { Extent::Everything } else { Extent::Told });
            looked = Instant::now();
            look = if now >= look { looked + LOOK } else { look };
            told = None;
        }
        if Instant::now() >= tick {
            agent.tick();
            // Not while the first revision is waited for.
            if agent.ready() && !std::mem::replace(&mut is_lean, true) {
                dataplane::heap::give_back();
            }
            // What others took away is written again, and what failed is tried.
            is_invited = false;
            tick = Instant::now() + TICK;
        }
    }
}

/// `tortie forget-cluster`: an agent that starts takes up whichever cluster's objects it finds.
pub fn forget_cluster(state_dir: &Path) -> Result<&'static str> {
    let folder = state_dir.join(LAST_GOOD);
    match datastore::forget_cluster(&folder) {
        Ok(true) => Ok("forgotten; start the agent again"),
        Ok(false) => Ok("nothing was written down"),
        Err(error) => bail!("{}: whose objects came into force cannot be forgotten: {error}", folder.display()),
    }
}

/// What an agent left, and where.
pub struct Left<'a> {
    /// Its private state.
    pub state_dir: &'a Path,
    /// Its pins.
    pub bpffs: &'a Path,
    /// Its socket.
    pub socket: &'a Path,
    /// The configuration for runtimes, if it wrote one.
    pub cni_conf: Option<&'a Path>,
    /// The folder of the plugin, if it is to go.
    pub cni_bin: Option<&'a Path>,
}

/// Until a signal ends this program.
pub fn wait_for_signal() -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    signals.forever().next();
    Ok(())
}

/// `tortie cleanup`: everything an agent left, with the agent stopped. Says what went and what stays.
pub fn cleanup(left: &Left<'_>) -> Result<String> {
    let Left { state_dir, bpffs, socket, cni_conf, cni_bin } = *left;
    let _state = lock::lock(state_dir)?;
    drop(lock::pins(bpffs)?);
    // First of all that goes: nobody shall call for a pod that cannot be served.
    let conflist = cni_conf.map(|path| Ok::<_, anyhow::Error>((path, install::remove_conflist(path)?))).transpose()?;
    serve::clear(socket)?;
    dataplane::cleanup(bpffs, state_dir)?;
    let speaker = bird::cleanup(&bird::folder(state_dir))?;
    let last_good = state_dir.join(LAST_GOOD);
    match fs::remove_dir_all(&last_good) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            bail!("{}: {error}; remove it by hand", last_good.display())
        }
        _ => {}
    }
    let (journal, damaged) = Journal::open(state_dir)?;
    let records = journal.all().count() + damaged.len();
    if let Some(folder) = cni_bin.filter(|_| records == 0) {
        install::remove_plugin(folder)?;
    }
    let mut removed = format!(
        "removed  programs and tables pinned in {}; routes and neighbours of pods; the uplink's settings; {}; {}",
        bpffs.display(),
        socket.display(),
        last_good.display()
    );
    if let Some(said) = speaker {
        removed = format!("{removed}\n{said}");
    }
    if let Some((path, false)) = conflist {
        removed = format!("{removed}\nkept     {}: it is another network's", path.display());
    }
    Ok(match records {
        0 => removed,
        records => format!(
            "{removed}\nkept     {records} records of pods in {}, and their addresses in the datastore: an agent started \
             later serves these pods again",
            state_dir.join(journal::FOLDER).display()
        ),
    })
}
