//! Gives addresses to load balancers and takes them back: by the one agent that holds the lease for it.
//! In: what services ask, and the pools. Out: blocks that say who has what, and beside each Service what it has.
//! Invariant: every write is by compare-and-swap, so two who believe that they give never give one address twice; what a service
//! holds is taken back only when it was seen to be gone for some time: an agent that hears late takes nothing away.
//! Never: makes the owner wait, or who announces.

use crate::{
    allocate::{AllocateError, Allocator},
    mailbox::{Mailbox, put},
};
use anyhow::Result;
use calc::World;
use datastore::{Store, calendar::go_time};
use ipam::{Balanced, BalancerWish};
use model::{
    Family, IpPool, IpamConfig, NodeName, Resource, ResourceKey, Service, ServiceAddresses, ServiceId, ServiceKind,
    Update,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tracing::{info, warn};

/// The lease.
pub const LEASE: &str = "load-balancer-addresses";
/// Classes of load balancers that are served here: Calico's, and ours.
const CLASSES: [&str; 2] = ["calico", "tortie"];
/// A service must have been gone for so long before its addresses are free.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks while something was not done, or is to be taken back.
const SOON: Duration = Duration::from_secs(1);
/// Between two looks otherwise: other hands may have changed a block.
const LATE: Duration = Duration::from_secs(30);

/// What services ask.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Pools of the datastore.
    pub pools: BTreeMap<String, IpPool>,
    /// How addresses are given again.
    pub config: IpamConfig,
    /// Services that are to have addresses.
    pub wishes: BTreeMap<ServiceId, BalancerWish>,
    /// Services that keep what they have until what they ask can be read.
    pub kept: BTreeMap<ServiceId, String>,
    /// Load balancers of which somebody else says where they are: what blocks hold for them is not ours to free.
    pub others: BTreeSet<ServiceId>,
    /// What was given, as far as this node has heard.
    pub given: BTreeMap<ServiceId, ServiceAddresses>,
}

/// What changed of what services ask.
#[derive(Debug, Default)]
pub struct Changed {
    services: BTreeSet<ServiceId>,
    pools: bool,
}

impl Changed {
    /// Before the World takes in a change.
    pub fn note(&mut self, world: &World, update: &Update) {
        let balances = |service: &Service| service.kind == ServiceKind::LoadBalancer;
        let did = |id: &ServiceId| world.service(id).is_some_and(balances);
        let service = match update {
            Update::Set(Resource::Service(service)) if balances(service) || did(&service.id) => &service.id,
            Update::Gone(ResourceKey::Service(id)) if did(id) => id,
            Update::Set(Resource::ServiceAddresses(ServiceAddresses { service, .. }))
            | Update::Gone(ResourceKey::ServiceAddresses(service)) => service,
            Update::Set(Resource::IpPool(_) | Resource::IpamConfig(..))
            | Update::Gone(ResourceKey::IpPool(_) | ResourceKey::IpamConfig(_)) => return self.pools = true,
            _ => return,
        };
        self.services.insert(service.clone());
    }
}

impl Work {
    /// Takes in what changed. Whether it is another now.
    pub fn follow(&mut self, world: &World, changed: Changed) -> bool {
        let pools = || world.pools().map(|pool| (pool.name.clone(), pool.clone())).collect();
        let mut is_other = changed.pools && put(&mut self.pools, pools());
        is_other |= put(&mut self.config, world.ipam_config());
        for id in changed.services {
            is_other |= self.follow_service(world, &id);
        }
        is_other
    }

    fn follow_service(&mut self, world: &World, id: &ServiceId) -> bool {
        let awaiting = world.unaddressed_service(id);
        let (wish, kept) = awaiting.and_then(wished).unwrap_or_default();
        let balances = world.service(id).is_some_and(|service| service.kind == ServiceKind::LoadBalancer);
        let is_others = awaiting.is_none() && balances;
        let others = if is_others { self.others.insert(id.clone()) } else { self.others.remove(id) };
        let (wish, kept) = (set(&mut self.wishes, id, wish), set(&mut self.kept, id, kept));
        let given = set(&mut self.given, id, world.given_to(id).cloned());
        others || wish || kept || given
    }

    /// Whether somebody has to give or take.
    pub fn is_some(&self) -> bool {
        let has_pool = self.pools.values().any(|pool| pool.uses.load_balancer);
        !self.given.is_empty() || has_pool && !self.wishes.is_empty()
    }
}

/// What a service asks of us, or the handle of what it keeps until that can be read.
fn wished(service: &Service) -> Option<(Option<BalancerWish>, Option<String>)> {
    let request = service.request.as_ref()?;
    if request.class.as_deref().is_some_and(|class| !CLASSES.contains(&class)) {
        return None;
    }
    let handle = balancer_handle(&service.id, &request.uid);
    if request.unread.is_some() {
        return Some((None, Some(handle)));
    }
    let families: BTreeSet<Family> = service.cluster_ips.iter().copied().map(Family::of).collect();
    let wish = BalancerWish {
        handle,
        secondary: BTreeMap::new(),
        families: families.into_iter().collect(),
        addresses: request.addresses.clone(),
        pools: request.pools.clone(),
        sequence: 0,
    };
    Some((Some(wish), None))
}

/// Whether it was otherwise.
fn set<T: PartialEq>(map: &mut BTreeMap<ServiceId, T>, id: &ServiceId, value: Option<T>) -> bool {
    if map.get(id) == value.as_ref() {
        return false;
    }
    match value {
        Some(value) => drop(map.insert(id.clone(), value)),
        None => drop(map.remove(id)),
    }
    true
}

/// The way to the thread that gives.
#[derive(Clone, Debug)]
pub struct Assigner(Arc<Mailbox<Told>>);

#[derive(Debug, Default)]
struct Told {
    work: Work,
    /// This node holds the lease.
    is_holder: bool,
    /// When it last gave, something was held that is ours to take back: by a service that nobody knows any more, perhaps.
    holds: bool,
}

impl Told {
    fn has_work(&self) -> bool {
        self.work.is_some() || self.holds
    }
}

impl Assigner {
    /// Over the objects that agents share.
    pub fn start(objects: Store, node: NodeName) -> Result<Self> {
        let shared = Arc::<Mailbox<Told>>::default();
        let theirs = Arc::clone(&shared);
        let mut worker = Worker { allocator: Allocator::new(objects, node), gone: BTreeMap::new() };
        thread::Builder::new().name("assign".into()).spawn(move || worker.run(&theirs))?;
        Ok(Self(shared))
    }

    /// What services ask from now on, where it changed.
    pub fn follow(&self, world: &World, changed: Changed) {
        self.0.tell(|told| told.work.follow(world, changed));
    }

    /// Whether this node is the one that gives.
    pub fn hold(&self, is_holder: bool) {
        self.0.tell(|told| put(&mut told.is_holder, is_holder));
    }

    /// Whether somebody has to.
    pub fn has_work(&self) -> bool {
        self.0.look().value.has_work()
    }
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Done {
    /// Nothing is left to do.
    all: bool,
    /// Services of ours hold something.
    holds: bool,
}

struct Worker {
    allocator: Allocator,
    /// Since when services are seen to be gone that hold addresses.
    gone: BTreeMap<ServiceId, Instant>,
}

impl Worker {
    fn run(&mut self, shared: &Mailbox<Told>) {
        let mut rest = LATE;
        let mut reported = None;
        loop {
            let work = {
                let told = &shared.hear(Some(rest)).value;
                (told.is_holder && told.has_work()).then(|| told.work.clone())
            };
            let Some(work) = work else {
                self.gone.clear();
                rest = LATE;
                continue;
            };
            let done = self.turn(&work);
            if let Ok(Done { holds, .. }) = done {
                shared.look().value.holds = holds;
            }
            rest = if matches!(done, Ok(Done { all: true, .. })) { LATE } else { SOON };
            let problem = done.err().map(|error| error.to_string());
            if let Some(problem) = problem.as_ref().filter(|problem| reported.as_ref() != Some(*problem)) {
                warn!("addresses of load balancers: {problem}");
            }
            reported = problem;
        }
    }

    /// One look at everything.
    fn turn(&mut self, work: &Work) -> Result<Done, AllocateError> {
        self.allocator.rules.pools.clone_from(&work.pools);
        self.allocator.rules.config = work.config;
        let objects = self.allocator.objects().clone();
        let held = self.allocator.balanced()?;
        let is_there = |id: &ServiceId| work.wishes.contains_key(id) || work.kept.contains_key(id);
        let is_others = |id: &ServiceId| work.others.contains(id);
        let handles: BTreeSet<&String> =
            work.wishes.values().map(|wish| &wish.handle).chain(work.kept.values()).collect();
        let ours = || held.values().filter(|id| !is_others(id));
        let known = ours().chain(work.given.keys().filter(|id| !is_others(id)));
        let gone: BTreeSet<_> = known.filter(|id| !is_there(id)).cloned().collect();
        let freed = self.freed(&gone);
        // A service that was made anew under its name has another handle, and its former one is nobody's.
        let is_free = |(handle, id): &(&String, &ServiceId)| {
            !handles.contains(handle) && (is_there(id) || freed.contains(*id)) && !is_others(id)
        };
        let free: Vec<_> = held.iter().filter(is_free).map(|(handle, _)| handle.clone()).collect();
        // Who asks for an address by name comes before those who take any.
        let (named, others): (Vec<_>, Vec<_>) = work.wishes.iter().partition(|(_, wish)| !wish.addresses.is_empty());
        let wishes: Vec<_> = named.into_iter().chain(others).map(|(id, wish)| (id, stamped(id, wish))).collect();
        let asked: Vec<_> = wishes.iter().map(|(_, wish)| wish.clone()).collect();
        let balanced = self.allocator.balance(&asked, &free)?;
        // One that cannot be told is no reason to keep the others.
        let mut told = Ok(());
        for ((id, _), Balanced { addresses, missing }) in wishes.iter().zip(balanced) {
            let remarks = missing.iter().map(ToString::to_string).collect();
            let given = ServiceAddresses { service: (*id).clone(), addresses, remarks };
            if work.given.get(*id) != Some(&given) {
                told = told.and(objects.give(&given));
            }
        }
        for id in &freed {
            told = told.and(objects.take_back(id));
            info!(service = %id, "its addresses are free again");
        }
        told?;
        Ok(Done { all: freed.len() == gone.len(), holds: ours().any(|id| !freed.contains(id)) })
    }

    /// Those that have been gone for long enough.
    fn freed(&mut self, gone: &BTreeSet<ServiceId>) -> BTreeSet<ServiceId> {
        self.gone.retain(|id, _| gone.contains(id));
        let now = Instant::now();
        for id in gone {
            self.gone.entry(id.clone()).or_insert(now);
        }
        self.gone.iter().filter(|(_, since)| now >= **since + GRACE).map(|(id, _)| id.clone()).collect()
    }
}

/// With what Calico's controller stores beside an address.
fn stamped(id: &ServiceId, wish: &BalancerWish) -> BalancerWish {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let secondary = [
        ("service", id.name.clone()),
        ("namespace", id.namespace.to_string()),
        ("type", "LoadBalancer".to_owned()),
        ("timestamp", go_time(now)),
    ];
    BalancerWish {
        secondary: secondary.map(|(key, value)| (key.to_owned(), value)).into(),
        sequence: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2),
        ..wish.clone()
    }
}

/// The handle of a service's addresses, as Calico's controller makes it: of name, namespace and UID; what lies in a directory has
/// no UID, mostly.
fn balancer_handle(service: &ServiceId, uid: &str) -> String {
    let text = format!("{}-{}-{uid}", service.name, service.namespace).to_lowercase();
    format!("lb-{}", letters(&Sha256::digest(text.as_bytes())))
}

/// Base64 without what is neither letter nor digit, and without padding.
fn letters(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = [0, 1, 2].map(|at| u32::from(*chunk.get(at).unwrap_or(&0)));
        let word = word[0] << 16 | word[1] << 8 | word[2];
        for place in 0..=chunk.len() {
            let digit = word >> (18 - 6 * place) & 63;
            let letter = usize::try_from(digit).ok().and_then(|digit| ALPHABET.get(digit));
            text.extend(letter.map(|letter| char::from(*letter)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{BalancerRequest, PoolUses};

    fn id(name: &str) -> ServiceId {
        ServiceId { namespace: "shop".into(), name: name.into() }
    }

    fn work(wishes: &[(&str, &[&str])]) -> Work {
        let uses = PoolUses { workload: false, load_balancer: true, tunnel: false };
        let pool = IpPool { uses, ..IpPool::of_pods("lb", "192.0.2.128/30".parse().expect("a network"), 30) };
        let wish = |(name, addresses): &(&str, &[&str])| {
            let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
            let handle = balancer_handle(&id(name), "");
            (id(name), BalancerWish { handle, families: vec![Family::V4], addresses, ..BalancerWish::default() })
        };
        Work { pools: [("lb".to_owned(), pool)].into(), wishes: wishes.iter().map(wish).collect(), ..Work::default() }
    }

    fn worker(dir: &std::path::Path) -> Worker {
        let objects = std::sync::Arc::new(datastore::Objects::open(dir).expect("a store"));
        Worker { allocator: Allocator::new(objects, "n1".into()), gone: BTreeMap::new() }
    }

    /// What stands beside the services: addresses, and how many remarks.
    fn told(worker: &Worker) -> Vec<(String, Vec<String>, usize)> {
        let objects = worker.allocator.objects();
        let read = |id: ServiceId| {
            let found =
                objects.get("ServiceAddresses", &format!("shop.{}", id.name)).expect("readable").expect("there");
            let given: ServiceAddresses = serde_json::from_value(found.spec).expect("in its shape");
            (id.name, given.addresses.iter().map(ToString::to_string).collect(), given.remarks.len())
        };
        let names = objects.list("ServiceAddresses").expect("listed").into_iter().map(|object| object.metadata.name);
        names.filter_map(|name| name.strip_prefix("shop.").map(id)).map(read).collect()
    }

    /// One that asks for an address, or has one by somebody else; `class`: of whose it shall be.
    fn balancer(name: &str, kind: ServiceKind, class: Option<&str>, has: &[&str]) -> Update {
        let request = BalancerRequest { class: class.map(str::to_owned), ..BalancerRequest::default() };
        let service = Service {
            cluster_ips: vec![[10, 96, 0, 7].into()],
            load_balancer: has.iter().map(|text| text.parse().expect("an address")).collect(),
            request: (kind == ServiceKind::LoadBalancer).then(|| Arc::new(request)),
            ..Service::bare(id(name), kind)
        };
        Update::Set(Resource::Service(service.into()))
    }

    /// What there is to do of each, as `name: what`.
    fn shown(work: &Work) -> Vec<String> {
        let names = |what: &str, ids: Vec<&ServiceId>| ids.iter().map(|id| format!("{what} {}", id.name)).collect();
        let all: [Vec<String>; 4] = [
            names("wishes", work.wishes.keys().collect()),
            names("others'", work.others.iter().collect()),
            names("given", work.given.keys().collect()),
            work.pools.keys().map(|name| format!("pool {name}")).collect(),
        ];
        all.concat()
    }

    #[test]
    fn what_services_ask_follows_each_change_and_is_what_it_would_be_from_the_beginning() {
        let asks = ServiceKind::LoadBalancer;
        let given = ServiceAddresses { service: id("a"), addresses: vec![], remarks: vec!["full".into()] };
        let pool = IpPool::of_pods("lb", "192.0.2.128/30".parse().expect("a network"), 30);
        let steps: [(Update, &[&str]); 9] = [
            (balancer("a", asks, None, &[]), &["wishes a"]),
            (balancer("b", ServiceKind::ClusterIp, None, &[]), &["wishes a"]),
            (balancer("b", asks, Some("calico"), &[]), &["wishes a", "wishes b"]),
            (Update::Set(Resource::IpPool(pool)), &["wishes a", "wishes b", "pool lb"]),
            (Update::Set(Resource::ServiceAddresses(given)), &["wishes a", "wishes b", "given a", "pool lb"]),
            (balancer("b", asks, None, &["203.0.113.7"]), &["wishes a", "others' b", "given a", "pool lb"]),
            (balancer("b", ServiceKind::ClusterIp, None, &[]), &["wishes a", "given a", "pool lb"]),
            (Update::Gone(ResourceKey::Service(id("a"))), &["given a", "pool lb"]),
            (Update::Gone(ResourceKey::ServiceAddresses(id("a"))), &["pool lb"]),
        ];
        let (mut world, mut kept) = (World::new("n1".into(), false), Work::default());
        for (update, expected) in steps {
            let mut changed = Changed::default();
            changed.note(&world, &update);
            let is_news = world.apply(update) && expected != shown(&kept);
            assert_eq!(kept.follow(&world, changed), is_news, "{expected:?}");
            assert_eq!(shown(&kept), expected);
            let mut anew = Work::default();
            anew.follow(&world, Changed { services: [id("a"), id("b")].into(), pools: true });
            assert_eq!(kept, anew, "{expected:?}");
        }
        assert!(!kept.follow(&world, Changed { services: [id("a"), id("b")].into(), pools: true }));
    }

    #[test]
    fn the_handle_is_calicos() {
        let service = ServiceId { namespace: "default".into(), name: "svc".into() };
        // printf svc-default-1234 | openssl sha256 -binary | basenc --base64url | tr -d '_=-'
        assert_eq!(balancer_handle(&service, "1234"), "lb-tlM9EImjL3fJVw93q97djyFD5fkFbT1p2XOxC164");
        assert_ne!(balancer_handle(&service, ""), balancer_handle(&service, "1234"));
    }

    #[test]
    fn what_is_given_stands_beside_the_service_and_survives_whoever_gives() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut first = worker(dir.path());
        let asked = work(&[("a", &[]), ("b", &["192.0.2.128"]), ("c", &["192.0.2.128"])]);
        assert_eq!(first.turn(&asked).ok().map(|done| done.all), Some(true));
        let given = told(&first);
        let of = |name: &str| given.iter().find(|(own, ..)| own == name).cloned().expect("it is told");
        assert_eq!(of("b"), ("b".into(), vec!["192.0.2.128".into()], 0), "by name before by chance");
        assert_eq!(of("c"), ("c".into(), vec![], 1), "it is taken");
        assert_eq!((of("a").1.len(), of("a").2), (1, 0));
        let mut next = worker(dir.path());
        assert_eq!(next.turn(&asked).ok().map(|done| done.all), Some(true));
        assert_eq!(told(&next), given);
    }

    #[test]
    fn what_a_service_held_is_free_once_it_was_gone_for_some_time_and_not_before() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut worker = worker(dir.path());
        worker.turn(&work(&[("a", &[]), ("b", &[])])).expect("given");
        let before = told(&worker);
        // One who hears late: the service is there, and this agent does not know it yet.
        assert_eq!(worker.turn(&work(&[("b", &[])])).ok().map(|done| done.all), Some(false));
        assert_eq!(told(&worker), before);
        worker.turn(&work(&[("a", &[]), ("b", &[])])).expect("given");
        assert_eq!(told(&worker), before);
        worker.turn(&work(&[("b", &[])])).expect("looked");
        for since in worker.gone.values_mut() {
            *since -= GRACE;
        }
        assert_eq!(worker.turn(&work(&[("b", &[])])).ok().map(|done| done.all), Some(true));
        assert_eq!(told(&worker).len(), 1);
        assert_eq!(worker.allocator.balanced().expect("readable").len(), 1);
        // The last is followed, too, though nobody asks for anything any more.
        assert!(worker.turn(&Work::default()).is_ok_and(|done| done.holds && !done.all));
        for since in worker.gone.values_mut() {
            *since -= GRACE;
        }
        assert_eq!(worker.turn(&Work::default()).ok(), Some(Done { all: true, holds: false }));
    }

    #[test]
    fn a_service_whose_wish_cannot_be_read_keeps_what_it_has() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut worker = worker(dir.path());
        worker.turn(&work(&[("a", &[])])).expect("given");
        let before = told(&worker);
        let kept = [(id("a"), balancer_handle(&id("a"), ""))].into();
        assert_eq!(worker.turn(&Work { kept, ..work(&[]) }).ok().map(|done| done.all), Some(true));
        assert_eq!(told(&worker), before);
    }

    #[test]
    fn what_blocks_hold_for_a_service_that_somebody_else_speaks_for_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut worker = worker(dir.path());
        worker.turn(&work(&[("a", &[])])).expect("given");
        let others = Work { others: [id("a")].into(), ..work(&[]) };
        for _ in 0..2 {
            assert_eq!(worker.turn(&others).ok().map(|done| done.all), Some(true));
            for since in worker.gone.values_mut() {
                *since -= GRACE;
            }
        }
        assert_eq!(worker.allocator.balanced().expect("readable").len(), 1);
    }
}
