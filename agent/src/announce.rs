//! Announces addresses of load balancers at the uplink: takes their leases, has the programs answer, and calls out.
//! In: addresses, and whether this node may have each. Out: who has them; ARP and neighbour discovery answered for its own.
//! Invariant: the kernel is told until when it may answer before it is told for what; who may not act any more has told it to stop.
//! Never: makes the owner wait; beats while there is no address to announce.

use crate::assign::{self, Assigner};
use anyhow::{Context as _, Result};
use dataplane::{Announced, Caller, announced::ROOM};
use datastore::{
    Objects,
    lease::{Leases, Timing, of_address},
};
use model::{IfaceName, Ifindex, Mac, NodeName};
use netlink::Socket;
use rustix::time::{ClockId, clock_gettime};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use tracing::{info, warn};

/// When to call out, counted from the take-over: neighbours may be slow to believe, or miss one.
const CALLS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// Calls in one turn: the rest follow in the next ones.
const CALLS_AT_ONCE: usize = 64;
/// Between two looks at the uplink's number and MAC.
const LOOK: Duration = Duration::from_secs(1);

/// Who has an address, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: String,
    /// It is this one, and it answers.
    pub here: bool,
}

/// The way to the thread that announces.
#[derive(Debug)]
pub struct Announcer {
    /// Where.
    pub uplink: IfaceName,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    told: Mutex<Told>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Told {
    wanted: BTreeMap<IpAddr, bool>,
    holders: BTreeMap<IpAddr, Holder>,
    problem: Option<String>,
    /// Look, though there is nothing to announce.
    awake: bool,
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announcer {
    /// At this uplink, in the calling thread's namespace, over the maps pinned below `bpffs`.
    pub fn start(
        objects: Objects,
        node: &NodeName,
        bpffs: &Path,
        uplink: IfaceName,
        assigner: Assigner,
    ) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let mut worker = Worker {
            // Silent from here on: what a former agent held is held by a new life, or not at all.
            table: Announced::open(bpffs).context("announced addresses")?,
            leases: Leases::open(objects, &node.0, Timing::FAST),
            socket: Socket::open()?,
            uplink: uplink.clone(),
            caller: None,
            looked: None,
            calls: BTreeMap::new(),
            assigner,
        };
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("announce".into()).spawn(move || worker.run(&theirs))?;
        Ok(Self { uplink, shared })
    }

    /// Somebody may have to give addresses.
    pub fn wake(&self) {
        self.shared.told().awake = true;
        self.shared.news.notify_one();
    }

    /// What there is to announce from now on.
    pub fn want(&self, wanted: BTreeMap<IpAddr, bool>) {
        let mut told = self.shared.told();
        if told.wanted != wanted {
            told.wanted = wanted;
            self.shared.news.notify_one();
        }
    }

    /// Who has this address.
    pub fn holder(&self, address: IpAddr) -> Option<Holder> {
        self.shared.told().holders.get(&address).cloned()
    }

    /// Whether nodes of this network announce it.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.shared.told().wanted.contains_key(&address)
    }

    /// What keeps this node from announcing.
    pub fn problem(&self) -> Option<String> {
        self.shared.told().problem.clone()
    }
}

struct Worker {
    table: Announced,
    leases: Leases<Objects>,
    socket: Socket,
    uplink: IfaceName,
    caller: Option<Caller>,
    /// When the uplink was looked at.
    looked: Option<Duration>,
    /// Since when each address is held, and how often that was called out.
    calls: BTreeMap<IpAddr, (Duration, usize)>,
    /// Told whether this node is the one that gives addresses.
    assigner: Assigner,
}

impl Worker {
    fn run(&mut self, shared: &Shared) {
        let mut idle = true;
        loop {
            let wanted = {
                let told = shared.told();
                let mut told = if idle {
                    let nothing = |told: &mut Told| told.wanted.is_empty() && !told.awake;
                    shared.news.wait_while(told, nothing).unwrap_or_else(PoisonError::into_inner)
                } else {
                    shared.news.wait_timeout(told, Timing::FAST.renew).unwrap_or_else(PoisonError::into_inner).0
                };
                told.awake = false;
                told.wanted.clone()
            };
            let assigns = self.assigner.has_work();
            let turned = self.turn(&wanted, assigns);
            self.assigner.hold(assigns && self.leases.holds(assign::LEASE, now()));
            idle = turned.is_ok() && wanted.is_empty() && !assigns;
            let problem = turned.err().map(|error| format!("{error:#}"));
            let mut told = shared.told();
            if let Some(problem) = problem.as_ref().filter(|problem| told.problem.as_ref() != Some(*problem)) {
                warn!("addresses of load balancers are not announced as they should be: {problem}");
            }
            told.problem = problem;
            told.holders = self.holders(&wanted);
        }
    }

    fn holders(&self, wanted: &BTreeMap<IpAddr, bool>) -> BTreeMap<IpAddr, Holder> {
        let holder = |address: &IpAddr| {
            let node = self.leases.holders().get(&of_address(*address))?.node.clone();
            Some((*address, Holder { node, here: self.table.held().contains(address) }))
        };
        wanted.keys().filter_map(holder).collect()
    }

    /// One heartbeat, one look at all leases.
    fn turn(&mut self, wanted: &BTreeMap<IpAddr, bool>, assigns: bool) -> Result<()> {
        let place = self.look_at_uplink()?;
        let may = |address: &IpAddr| place.is_some() && wanted.get(address).is_some_and(|wanted| *wanted);
        if !self.leases.believes(now()) {
            // It ended by itself. What was held then may be another's by now.
            self.hold(BTreeSet::new())?;
        }
        let beaten = if wanted.is_empty() && !assigns { Ok(()) } else { self.leases.beat(now) };
        if let (Some((interface, mac)), Some(until)) = (place, self.leases.believes_until()) {
            self.table.last_until(until, interface, mac)?;
        }
        let kept = self.table.held().iter().copied().filter(may).collect();
        self.hold(kept)?;
        let room = wanted.keys().filter(|address| may(address)).take(ROOM).copied().collect::<BTreeSet<_>>();
        let names = wanted.keys().map(|address| (of_address(*address), room.contains(address)));
        let names = names.chain(assigns.then(|| (assign::LEASE.to_owned(), true))).collect();
        let looked = self.leases.look(&names, now);
        let holds = |address: &IpAddr| self.leases.holds(&of_address(*address), now());
        let held = room.iter().copied().filter(holds).collect();
        self.hold(held)?;
        self.call();
        beaten.and(looked).map_err(Into::into)
    }

    /// The programs answer for exactly these.
    fn hold(&mut self, held: BTreeSet<IpAddr>) -> Result<()> {
        let before = self.table.held().clone();
        let done = self.table.hold(&held);
        for gone in before.difference(self.table.held()) {
            info!(address = %gone, "is announced by this node no more");
            self.calls.remove(gone);
            self.hear(*gone, false);
        }
        for new in self.table.held().difference(&before) {
            info!(address = %new, "is announced by this node now");
            self.calls.insert(*new, (now(), 0));
            self.hear(*new, true);
        }
        Ok(done?)
    }

    fn hear(&self, address: IpAddr, heard: bool) {
        let Some(caller) = &self.caller else { return };
        if let Err(error) = caller.hear(address, heard) {
            warn!(%address, "its solicitations may not be heard: {error}");
        }
    }

    /// Says what is due of what was taken over lately.
    fn call(&mut self) {
        let Some(caller) = &self.caller else { return };
        let now = now();
        let due = |(since, called): &(Duration, usize)| {
            CALLS.get(*called).is_some_and(|after| now >= since.saturating_add(*after))
        };
        for (address, calls) in self.calls.iter_mut().filter(|(_, calls)| due(calls)).take(CALLS_AT_ONCE) {
            calls.1 += 1;
            if let Err(error) = caller.call(*address) {
                warn!(%address, "is not called out: {error}");
            }
        }
        self.calls.retain(|_, (_, called)| *called < CALLS.len());
    }

    /// The uplink's number and MAC; `None`: it is not there.
    fn look_at_uplink(&mut self) -> Result<Option<(Ifindex, Mac)>> {
        let now = now();
        if self.looked.is_none_or(|looked| now >= looked + LOOK) {
            let link = self.socket.link(&self.uplink)?.filter(|link| link.up);
            let place = link.and_then(|link| Some((link.index, link.mac?)));
            if self.caller.as_ref().map(Caller::place) != place {
                // Those who know the old MAC hear of the new one.
                self.hold(BTreeSet::new())?;
                self.caller = place.map(|(interface, mac)| Caller::open(interface, mac)).transpose()?;
            }
            self.looked = Some(now);
        }
        Ok(self.caller.as_ref().map(Caller::place))
    }
}

/// The clock of the programs.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) =
        (u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default());
    Duration::new(seconds, nanos)
}
