//! Announces addresses at the uplink: takes the leases of load balancers', has the programs answer, and calls out.
//! In: addresses of load balancers, and whether this node may have each; addresses of its pods. Out: who has them; ARP and
//! neighbour discovery answered for its own.
//! Invariant: the kernel is told until when it may answer before it is told for what; who may not act any more has told it to stop.
//! Never: makes the owner wait; beats while it holds nothing and may take nothing.

use crate::{
    assign::{self, Assigner},
    mailbox::{Mailbox, put},
    wanted::Wanted,
};
use anyhow::{Context as _, Result};
use dataplane::{
    Announced, Caller,
    announced::{Lasts, ROOM},
};
use datastore::{
    Store,
    lease::{Leases, Timing, of_address},
};
use model::{IfaceName, Ifindex, Mac, NodeName};
use netlink::Socket;
use rustix::time::{ClockId, clock_gettime};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
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
/// Likewise for a pod, of whose address nobody has known another place mostly.
const CALLS_OF_PODS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(1)];
/// Calls in one turn: the rest follow in the next ones.
const CALLS_AT_ONCE: usize = 64;
/// Between two looks at the uplink's number and MAC.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at leases.
const TURN: Duration = Duration::from_millis(150);

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
    shared: Arc<Mailbox<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    /// `None`: nobody knows yet, and what a former agent left for pods goes on.
    wanted: Option<Arc<Wanted>>,
    holders: BTreeMap<IpAddr, Holder>,
    problem: Option<String>,
}

impl Announcer {
    /// At this uplink, in the calling thread's namespace, over the maps pinned below `bpffs`.
    pub fn start(
        (objects, timing): (Store, Timing),
        node: &NodeName,
        bpffs: &Path,
        uplink: IfaceName,
        assigner: Assigner,
    ) -> Result<Self> {
        let shared = Arc::<Mailbox<Told>>::default();
        // What a former agent held is held by a new life, or not at all.
        let table = Announced::open(bpffs).context("announced addresses")?;
        let (socket, theirs) = (Socket::open()?, Arc::clone(&shared));
        let (node, place) = (node.0.clone(), uplink.clone());
        let run = move || {
            // A store that does not answer makes nobody wait but this thread.
            let leases = Leases::open(objects, &node, timing);
            let (caller, looked, calls) = (None, None, BTreeMap::new());
            Worker { table, leases, socket, uplink: place, caller, looked, calls, assigner }.run(&theirs);
        };
        thread::Builder::new().name("announce".into()).spawn(run)?;
        Ok(Self { uplink, shared })
    }

    /// Somebody may have to give addresses.
    pub fn wake(&self) {
        self.shared.tell(|_| true);
    }

    /// What there is to announce from now on.
    pub fn want(&self, wanted: Wanted) {
        self.shared.tell(|told| put(&mut told.wanted, Some(Arc::new(wanted))));
    }

    /// Who has this address.
    pub fn holder(&self, address: IpAddr) -> Option<Holder> {
        self.shared.look().value.holders.get(&address).cloned()
    }

    /// Whether nodes of this network announce it.
    pub fn knows(&self, address: IpAddr) -> bool {
        let said = self.shared.look();
        said.value.wanted.as_ref().is_some_and(|wanted| wanted.leased.contains_key(&address))
    }

    /// Whether it is a pod's, and this node answers for it.
    pub fn answers_for_pod(&self, address: IpAddr) -> bool {
        let said = self.shared.look();
        said.value.wanted.as_ref().is_some_and(|wanted| wanted.pods.contains(&address))
    }

    /// What keeps this node from announcing.
    pub fn problem(&self) -> Option<String> {
        self.shared.look().value.problem.clone()
    }
}

/// How often an address was called out.
#[derive(Clone, Copy, Debug)]
struct Calls {
    since: Duration,
    count: usize,
    last: Duration,
}

impl Calls {
    /// When the next is due. What is a pod's is said again and again, for as long as the pod is here.
    fn due(&self, lasts: Lasts, refresh: Option<Duration>) -> Option<Duration> {
        let first: &[Duration] = if lasts == Lasts::Leased { &CALLS } else { &CALLS_OF_PODS };
        let again = refresh.filter(|_| lasts == Lasts::WithPod).map(|every| self.last + every);
        first.get(self.count).map(|after| self.since + *after).or(again)
    }
}

struct Worker {
    table: Announced,
    leases: Leases,
    socket: Socket,
    uplink: IfaceName,
    caller: Option<Caller>,
    /// When the uplink was looked at.
    looked: Option<Duration>,
    /// Of each address that is answered for, and heard of by `caller`.
    calls: BTreeMap<IpAddr, Calls>,
    /// Told whether this node is the one that gives addresses.
    assigner: Assigner,
}

impl Worker {
    fn run(&mut self, shared: &Mailbox<Told>) {
        let mut rest = None;
        loop {
            let Some(wanted) = shared.hear(rest).value.wanted.clone() else { continue };
            let assigns = self.assigner.has_work();
            let was_due = self.leases.is_due(now());
            let turned = self.turn(&wanted, assigns);
            self.assigner.hold(assigns && self.leases.holds(assign::LEASE, now()));
            rest = if turned.is_ok() && !was_due && self.leases.is_due(now()) {
                // It was seen just now that there is something to take.
                Some(Duration::ZERO)
            } else if turned.is_err() || !wanted.leased.is_empty() || assigns {
                Some(TURN)
            } else {
                (!wanted.pods.is_empty()).then_some(LOOK)
            };
            let problem = turned.err().map(|error| format!("{error:#}")).or_else(|| crowded(&wanted));
            let mut said = shared.look();
            if let Some(problem) = problem.as_ref().filter(|problem| said.value.problem.as_ref() != Some(*problem)) {
                warn!("addresses are not announced as they should be: {problem}");
            }
            said.value.problem = problem;
            said.value.holders = self.holders(&wanted);
        }
    }

    fn holders(&self, wanted: &Wanted) -> BTreeMap<IpAddr, Holder> {
        let holder = |address: &IpAddr| {
            let node = self.leases.holders().get(&of_address(*address))?.node.clone();
            Some((*address, Holder { node, here: self.table.held().contains_key(address) }))
        };
        wanted.leased.keys().filter_map(holder).collect()
    }

    /// One heartbeat, if it is time for one, and one look at all leases.
    fn turn(&mut self, wanted: &Wanted, assigns: bool) -> Result<()> {
        let place = self.look_at_uplink()?;
        let is_there = |_: &&IpAddr| place.is_some();
        let pods: BTreeSet<IpAddr> = wanted.pods.iter().filter(is_there).take(ROOM).copied().collect();
        let may = |address: &IpAddr| {
            let wanted = wanted.leased.get(address).is_some_and(|wanted| *wanted);
            place.is_some() && wanted && !pods.contains(address)
        };
        if !self.leases.believes(now()) {
            // It ended by itself. What was held then may be another's by now.
            self.hold(&pods, BTreeSet::new())?;
        }
        let beaten = if self.leases.is_due(now()) { self.leases.beat(now) } else { Ok(()) };
        match (place, self.leases.believes_until()) {
            (Some((interface, mac)), Some(until)) => self.table.last_until(until, interface, mac)?,
            (Some((interface, mac)), None) => self.table.answer_at(interface, mac)?,
            (None, _) => {}
        }
        let is_leased = |(_, lasts): &(&IpAddr, &Lasts)| **lasts == Lasts::Leased;
        let held = self.table.held().iter().filter(is_leased).map(|(address, _)| *address);
        let kept = held.filter(may).collect();
        self.hold(&pods, kept)?;
        let left = ROOM - pods.len();
        let room = wanted.leased.keys().filter(|address| may(address)).take(left).copied().collect::<BTreeSet<_>>();
        let names = wanted.leased.keys().map(|address| (of_address(*address), room.contains(address)));
        let names = names.chain(assigns.then(|| (assign::LEASE.to_owned(), true))).collect();
        let looked = self.leases.look(&names, now);
        let holds = |address: &IpAddr| self.leases.holds(&of_address(*address), now());
        let held = room.iter().copied().filter(holds).collect();
        self.hold(&pods, held)?;
        if wanted.leased.is_empty() && pods.is_empty() {
            self.table.be_silent()?;
        }
        self.call(wanted.refresh);
        beaten.and(looked).map_err(Into::into)
    }

    /// The programs answer for exactly these.
    fn hold(&mut self, pods: &BTreeSet<IpAddr>, leased: BTreeSet<IpAddr>) -> Result<()> {
        let of_pods = pods.iter().map(|address| (*address, Lasts::WithPod));
        let held = leased.into_iter().map(|address| (address, Lasts::Leased)).chain(of_pods).collect();
        let done = self.table.hold(&held);
        let gone: Vec<_> = self.calls.keys().filter(|own| !self.table.held().contains_key(*own)).copied().collect();
        for gone in gone {
            info!(address = %gone, "is announced by this node no more");
            self.calls.remove(&gone);
            self.hear(gone, false);
        }
        let new: Vec<_> = self.table.held().keys().filter(|own| !self.calls.contains_key(*own)).copied().collect();
        for new in new {
            info!(address = %new, "is announced by this node now");
            let since = now();
            self.calls.insert(new, Calls { since, count: 0, last: since });
            self.hear(new, true);
        }
        Ok(done?)
    }

    fn hear(&self, address: IpAddr, heard: bool) {
        let Some(caller) = &self.caller else { return };
        if let Err(error) = caller.hear(address, heard) {
            warn!(%address, "its solicitations may not be heard: {error}");
        }
    }

    /// Says what is due.
    fn call(&mut self, refresh: Option<Duration>) {
        let Self { caller: Some(caller), calls, table, .. } = self else { return };
        let now = now();
        let is_due = |(address, calls): &(&IpAddr, &mut Calls)| {
            let lasts = table.held().get(*address).copied().unwrap_or(Lasts::Leased);
            calls.due(lasts, refresh).is_some_and(|due| now >= due)
        };
        for (address, calls) in calls.iter_mut().filter(is_due).take(CALLS_AT_ONCE) {
            (calls.count, calls.last) = (calls.count.saturating_add(1), now);
            if let Err(error) = caller.call(*address) {
                warn!(%address, "is not called out: {error}");
            }
        }
    }

    /// The uplink's number and MAC; `None`: it is not there.
    fn look_at_uplink(&mut self) -> Result<Option<(Ifindex, Mac)>> {
        let now = now();
        if self.looked.is_none_or(|looked| now >= looked + LOOK) {
            let link = self.socket.link(&self.uplink)?.filter(|link| link.up);
            let place = link.and_then(|link| Some((link.index, link.mac?)));
            if self.caller.as_ref().map(Caller::place) != place {
                if self.caller.is_some() {
                    // Those who know the old MAC hear of the new one.
                    self.hold(&BTreeSet::new(), BTreeSet::new())?;
                }
                self.caller = place.map(|(interface, mac)| Caller::open(interface, mac)).transpose()?;
            }
            self.looked = Some(now);
        }
        Ok(self.caller.as_ref().map(Caller::place))
    }
}

/// What does not fit.
fn crowded(wanted: &Wanted) -> Option<String> {
    let over = wanted.pods.len().checked_sub(ROOM).filter(|over| *over > 0)?;
    Some(format!("{over} addresses of pods are not answered for: there is room for {ROOM}"))
}

/// The clock of the programs.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) =
        (u64::try_from(now.tv_sec).unwrap_or_default(), u32::try_from(now.tv_nsec).unwrap_or_default());
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_address_is_said_twice_and_then_at_every_refresh_and_what_is_leased_six_times() {
        let second = Duration::from_secs;
        let due = |count, lasts, refresh| Calls { since: second(100), count, last: second(160) }.due(lasts, refresh);
        let refresh = Some(second(120));
        let of_pod = |count| due(count, Lasts::WithPod, refresh);
        assert_eq!([0, 1, 2, 9].map(of_pod), [100, 101, 280, 280].map(|at| Some(second(at))));
        assert_eq!(due(2, Lasts::WithPod, None), None, "no refresh is wanted");
        let leased = |count| due(count, Lasts::Leased, refresh);
        assert_eq!([0, 5].map(leased), [100, 104].map(|at| Some(second(at))));
        assert_eq!(leased(6), None);
    }
}
