//! The kernel under a packet table: a node's namespace with real interfaces, the agent's own commit, test runs.
//! In: a scenario, then packets at hooks. Out: what the live programs did, and everything they wrote.
//! Invariant: namespaces, mounts and pins belong to one test at a time and end with the process, however a test ends.
//! Never: attaches anything that a real node would not; reads the compiler's mind.

use crate::{
    cast::Actor,
    scenario::{Scenario, interface},
    table::{Action, By, Hook},
    wiring::{make_pod, make_uplink},
};
use abi::{
    Answer, ConntrackEntry, DropReason, Endpoint, FlowKey, FragmentKey, FragmentPorts, Ticket, Timeout, Timeouts,
    conntrack::QUOTA_ALL,
    maps::{self, Sizing},
    verdict::DROP_REASONS,
};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, Queue},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use calc::World;
use dataplane::{Applied, Attach, Cgroup, Dataplane, Extent, Options, Sizes};
use model::{IfaceName, Ifindex, Mac};
use netlink::{Socket, namespace, sysctl::Families};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

pub mod guard;
mod mirror;
mod station;
mod summed;
mod wipe;

pub use station::{OWN_FOLDER, ip, on_a_node};
use station::{Place, Pods};

/// Nothing here takes so long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Half-open flows that fit.
pub const NEWFLOW_ENTRIES: u32 = 512;
/// Flows that an endpoint may own.
pub const FLOW_QUOTA: u32 = 40;

/// Small tables: enough for a scenario, quick to make.
pub const ENTRIES: [(&str, u32); 11] = [
    ("ENDPOINTS", 64),
    ("INTERFACES", 64),
    ("ADDRESSES", 1024),
    ("NETS", 1024),
    ("CLASSES", 4096),
    ("SETS", 1024),
    ("ROWS", 16384),
    ("SPANS", 65536),
    ("CONNTRACK", 1024),
    ("NEWFLOW", NEWFLOW_ENTRIES),
    ("HITS", 1024),
];

/// The interface towards the network.
pub const UPLINK: &str = "uplink0";

/// What a program did with a packet.
#[derive(Clone, Debug)]
pub struct Ran {
    pub action: Action,
    pub bytes: Vec<u8>,
    pub mark: u32,
}

struct TestRun {
    result: u32,
    bytes: Vec<u8>,
    mark: u32,
    cb: [u32; 5],
    /// Of one run, as the kernel's clock says.
    took: Duration,
}

/// Everything the programs write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub entries: BTreeMap<FlowKey, ConntrackEntry>,
    pub fragments: Vec<FragmentKey>,
    pub drops: BTreeMap<(u32, DropReason), u64>,
    pub judged: u64,
}

/// A node with its pods' interfaces, and the programs over its tables.
pub struct Kernel {
    pub dataplane: Dataplane,
    /// Bytes of each segment that the packets which are run are to be cut into; 0: they are whole.
    pub segment: u32,
    /// What the control block of a packet that is run begins with.
    words: [u32; 2],
    /// For its maps.
    programs: Ebpf,
    /// The dataplane's programs that were run so far.
    loaded: RefCell<BTreeMap<String, Rc<SchedClassifier>>>,
    indexes: BTreeMap<IfaceName, Ifindex>,
    slots: BTreeMap<u32, Actor>,
    actors: Vec<Actor>,
    pods: Pods,
    sizes: BTreeMap<String, u32>,
    /// Goes last.
    place: Place,
}

impl Kernel {
    /// A node in the calling thread's namespaces, with this scenario in force. Call it inside [`on_a_node`].
    pub fn new(scenario: &Scenario) -> Self {
        let mut kernel = Self::bare();
        kernel.commit(scenario);
        kernel
    }

    /// The same, which has every program verified for itself.
    pub fn alone(scenario: &Scenario) -> Self {
        let mut kernel = Self::attached(Attach::Auto);
        kernel.commit(scenario);
        kernel
    }

    /// A node without pods.
    pub fn bare() -> Self {
        Self::with(&[], Attach::Auto, Place::lasting())
    }

    /// The same, with tables of these sizes instead of [`ENTRIES`].
    pub fn sized(sizes: &[(&str, u32)]) -> Self {
        Self::with(sizes, Attach::Auto, Place::new())
    }

    /// One with programs attached in a certain way, all of them verified for it.
    pub fn attached(attach: Attach) -> Self {
        Self::with(&[], attach, Place::new())
    }

    fn with(sizes: &[(&str, u32)], attach: Attach, place: Place) -> Self {
        let sizes: BTreeMap<_, _> =
            ENTRIES.iter().chain(sizes).map(|(name, entries)| ((*name).to_owned(), *entries)).collect();
        let pods = Pods::new();
        // The pods' own stacks keep quiet: every packet here is a row's.
        namespace::inside(pods.as_fd(), || Families::open().write("ipv6/conf/default/disable_ipv6", "1"))
            .expect("the pods' namespace can be entered")
            .expect("IPv6 can be switched off");
        let settings = Families::open();
        // Nor does the node ask for routers: before Linux 6.11 that comes in the midst of a test's run, on its memory.
        settings.write("ipv6/conf/default/router_solicitations", "0").expect("they can be switched off");
        // Nor does it ask, up to two seconds after an interface is up, whether somebody else has its address there.
        settings.write("ipv6/conf/default/dad_transmits", "0").expect("it can be switched off");
        // Nor does it say again, a second after an interface is up, which groups it listens to.
        for version in ["mldv1", "mldv2"] {
            let path = format!("ipv6/conf/default/{version}_unsolicited_report_interval");
            settings.write(&path, "2000000000").expect("it can be put off");
        }
        let mut socket = Socket::open().expect("netlink answers");
        make_uplink(&mut socket, &pods);
        let dataplane = open(&place, &sizes, attach);
        let programs = over_the_pins(&place.bpffs(), &sizes);
        let loaded = RefCell::default();
        let (indexes, slots, actors) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { dataplane, segment: 0, words: [0; 2], programs, loaded, indexes, slots, actors, pods, sizes, place }
    }

    /// Another agent takes over, which attaches in this way.
    pub fn restart(&mut self, attach: Attach) {
        self.place.spoil();
        self.dataplane = open(&self.place, &self.sizes, attach);
    }

    /// Another agent takes over, whose programs are told of other lifetimes.
    pub fn restart_told(&mut self, timeouts: Timeouts) {
        self.place.spoil();
        let options = Options { timeouts, ..options(&self.place, &self.sizes, Attach::Auto) };
        self.dataplane = Dataplane::open(options).expect("the dataplane opens");
        self.loaded.take();
    }

    /// Another agent takes over, with every table of a setting twice as large. Gives the former programs.
    pub fn grow(&mut self) -> Ebpf {
        self.place.spoil();
        for map in maps::MAPS.iter().filter(|map| matches!(map.sizing, Sizing::Setting | Sizing::CoversEndpoints)) {
            let entries = self.sizes.get(map.name).copied().unwrap_or(map.default_entries);
            self.sizes.insert(map.name.to_owned(), 2 * entries);
        }
        self.restart(Attach::Auto);
        let grown = over_the_pins(&self.place.bpffs(), &self.sizes);
        self.loaded.take();
        std::mem::replace(&mut self.programs, grown)
    }

    /// What a start leaves that dies before it has filled a larger table: here it is of the wrong size.
    pub fn leave_a_map_half_made(&mut self) {
        self.place.spoil();
        let flows: HashMap<&mut MapData, FlowKey, ConntrackEntry> = map_mut(&mut self.programs, &maps::CONNTRACK);
        let pin = format!("{}-v{}-new", maps::CONNTRACK.name, maps::CONNTRACK.version);
        let pin = self.place.bpffs().join("maps").join(pin);
        flows.pin(pin).expect("it can be pinned");
    }

    /// An agent that asks for this size of one table.
    pub fn reopen(&self, map: &str, entries: u32) -> Result<(), String> {
        self.place.spoil();
        let mut sizes = self.sizes.clone();
        sizes.insert(map.to_owned(), entries);
        Dataplane::open(options(&self.place, &sizes, Attach::Auto)).map(drop).map_err(|error| error.to_string())
    }

    /// A flow that only the former programs' tables have, which are pinned as a start that died would have left them.
    pub fn leave_a_former_flow(&self, former: &mut Ebpf, ticket: &Ticket) {
        let Ticket { key, serial, .. } = *ticket;
        let seen =
            ConntrackEntry { seen_s: u32::MAX / 4, timeout: Timeout::Generic as u8, ..ConntrackEntry::default() };
        let pin = |map: &maps::MapSpec| self.pins_dir().join(format!("{}-v{}-former", map.name, map.version));
        let mut flows: HashMap<&mut MapData, FlowKey, ConntrackEntry> = map_mut(former, &maps::CONNTRACK);
        flows.insert(&key, &ConntrackEntry { serial, low_slot: 2, high_slot: 3, ..seen }, 0).expect("there is room");
        flows.pin(pin(&maps::CONNTRACK)).expect("it can be pinned");
        let mut tickets: Queue<&mut MapData, Ticket> = map_mut(former, &maps::CTQ);
        tickets.push(ticket, 0).expect("there is room");
        tickets.pin(pin(&maps::CTQ)).expect("it can be pinned");
        let accounts: Array<&mut MapData, u64> = map_mut(former, &maps::QUOTA);
        accounts.pin(pin(&maps::QUOTA)).expect("it can be pinned");
    }

    /// Whether the cursor will look at this entry. It may hold the ticket in its hand for a moment.
    pub fn has_ticket(&mut self, key: &FlowKey) -> bool {
        let mut tickets: Queue<&mut MapData, Ticket> = map_mut(&mut self.programs, &maps::CTQ);
        (0..1000).any(|_| {
            let held: Vec<Ticket> = std::iter::from_fn(|| tickets.pop(0).ok()).collect();
            held.iter().for_each(|ticket| tickets.push(ticket, 0).expect("there was room"));
            held.iter().any(|ticket| ticket.key == *key)
        })
    }

    /// Where maps are pinned.
    pub fn pins_dir(&self) -> PathBuf {
        self.place.bpffs().join("maps")
    }

    /// What `tortie cleanup` does.
    pub fn cleanup(&self) {
        self.place.spoil();
        dataplane::cleanup(&self.place.bpffs(), &self.place.state()).expect("nothing is left");
    }

    /// Puts a scenario in force on the same node.
    pub fn commit(&mut self, scenario: &Scenario) {
        for cast in scenario.local() {
            self.wire(&interface(cast.actor), cast.actor.name, cast.actor.mac);
        }
        self.put_in_force(&scenario.world());
        self.actors = scenario.local().map(|cast| cast.actor).collect();
        self.slots = self.read_slots();
    }

    /// Makes a pod's veth pair, unless it is there.
    pub fn wire(&mut self, name: &IfaceName, peer: &str, mac: Mac) {
        if !self.indexes.contains_key(name) {
            let mut socket = Socket::open().expect("netlink answers");
            make_pod(&mut socket, name, peer, mac, &self.pods);
            self.indexes.insert(name.clone(), Ifindex(0));
        }
    }

    /// What an agent does with a scenario that may not fit.
    pub fn apply(&mut self, scenario: &Scenario) -> Applied {
        let world = scenario.world();
        let applied = self.dataplane.apply(&calc::desired(world.in_sync().expect("the world is complete")));
        self.dataplane.settle();
        applied
    }

    /// What an agent does now and then: says what it put back.
    pub fn look(&mut self, scenario: &Scenario) -> Vec<String> {
        let world = scenario.world();
        let looked =
            self.dataplane.look(&calc::desired(world.in_sync().expect("the world is complete")), Extent::Everything);
        self.dataplane.settle();
        assert!(looked.failed.is_empty(), "{:?}", looked.failed);
        looked.repaired.into_iter().map(|drift| drift.found).collect()
    }

    /// Moves one program to its final way of attachment. `false`: all are there.
    pub fn upgrade(&mut self) -> bool {
        self.dataplane.upgrade()
    }

    /// Detaches a link as anybody may, by its pin.
    pub fn detach_link(&self, index: Ifindex, program: &str) {
        self.place.spoil();
        let pin = self.place.bpffs().join("links").join(format!("{}-{program}", index.0));
        let status = std::process::Command::new("bpftool").args(["link", "detach", "pinned"]).arg(pin).status();
        assert!(status.expect("bpftool is installed").success(), "the link can be detached");
    }

    /// What an agent does with a World.
    pub fn put_in_force(&mut self, world: &World) {
        let desired = calc::desired(world.in_sync().expect("the world is complete"));
        let applied = self.dataplane.apply(&desired);
        assert!(applied.failed.is_empty(), "not in force: {:?}", applied.failed);
        self.dataplane.settle();
        for id in desired.endpoints.keys() {
            assert!(self.dataplane.in_force(id), "{id} is not in force");
        }
        let links = Socket::open().and_then(|mut socket| socket.links()).expect("links are listed");
        self.indexes = links.into_iter().map(|link| (link.name, link.index)).collect();
    }

    fn read_slots(&self) -> BTreeMap<u32, Actor> {
        let endpoints: Array<&MapData, Endpoint> = map(&self.programs, &maps::ENDPOINTS);
        let slots = (0..endpoints.len()).filter_map(|slot| Some((slot, endpoints.get(&slot, 0).ok()?)));
        let whose = |mac| self.actors.iter().find(|actor| actor.mac.0 == mac).copied();
        slots.filter_map(|(slot, endpoint)| Some((slot, whose(endpoint.mac)?))).collect()
    }

    /// As if no packet had ever been seen.
    pub fn fresh(&mut self) {
        let mut kept = 0;
        for spec in [&maps::NEWFLOW, &maps::CONNTRACK] {
            let mut flows: HashMap<&mut MapData, FlowKey, ConntrackEntry> = map_mut(&mut self.programs, spec);
            let keys: Vec<_> = flows.keys().filter_map(Result::ok).collect();
            kept = keys.len();
            for key in keys {
                // What has expired, the cursor may remove first.
                let _gone = flows.remove(&key);
            }
        }
        if kept > 0 {
            let mut accounts: Array<&mut MapData, u64> = map_mut(&mut self.programs, &maps::QUOTA);
            for slot in 0..accounts.len() {
                accounts.set(slot, &0, 0).expect("an account can be cleared");
            }
        }
        let mut pieces: HashMap<&mut MapData, FragmentKey, FragmentPorts> =
            map_mut(&mut self.programs, &maps::FRAGMENTS);
        let keys: Vec<_> = pieces.keys().filter_map(Result::ok).collect();
        for key in keys {
            pieces.remove(&key).expect("a listed fragment can be removed");
        }
    }

    /// As if every fragment had been seen this many seconds before.
    pub fn age_fragments(&mut self, by_s: u32) {
        let mut pieces: HashMap<&mut MapData, FragmentKey, FragmentPorts> =
            map_mut(&mut self.programs, &maps::FRAGMENTS);
        let seen: Vec<_> = pieces.iter().filter_map(Result::ok).collect();
        for (key, ports) in seen {
            let older = FragmentPorts { seen_s: ports.seen_s.wrapping_sub(by_s), ..ports };
            pieces.insert(&key, &older, 0).expect("a fragment can be written");
        }
    }

    /// Flows of nobody until not one more fits into CONNTRACK.
    pub fn fill_conntrack(&mut self) {
        let mut flows: HashMap<&mut MapData, FlowKey, ConntrackEntry> = map_mut(&mut self.programs, &maps::CONNTRACK);
        let entry =
            ConntrackEntry { seen_s: u32::MAX / 4, timeout: Timeout::Generic as u8, ..ConntrackEntry::default() };
        let key = |number: u16| FlowKey { high_port: number.to_be_bytes(), protocol: 253, ..FlowKey::default() };
        let full = (0..=u16::MAX).find(|number| flows.insert(&key(*number), &entry, 0).is_err());
        assert!(full.is_some(), "the conntrack of a test is small");
        let all = flows.keys().count() as u64;
        let mut accounts: Array<&mut MapData, u64> = map_mut(&mut self.programs, &maps::QUOTA);
        accounts.set(QUOTA_ALL, &all, 0).expect("an account can be written");
    }

    /// Writes an endpoint's slot as no commit would.
    pub fn change_endpoint(&mut self, actor: Actor, change: impl FnOnce(&mut Endpoint)) {
        let slot = self.slot_of(actor);
        let mut endpoints: Array<&mut MapData, Endpoint> = map_mut(&mut self.programs, &maps::ENDPOINTS);
        let mut endpoint = endpoints.get(&slot, 0).expect("a slot can be read");
        change(&mut endpoint);
        endpoints.set(slot, &endpoint, 0).expect("a slot can be written");
    }

    /// The index of an interface.
    pub fn index(&self, interface: &IfaceName) -> Ifindex {
        *self.indexes.get(interface).unwrap_or_else(|| panic!("no interface {interface}"))
    }

    /// A program of the dataplane's own, as it is pinned: what is tested is what is attached, and the verifier walks once.
    pub fn program(&self, name: &str) -> Rc<SchedClassifier> {
        let pinned = || {
            self.dataplane.load(name).unwrap_or_else(|error| panic!("{error}"));
            let pin = self.programs_folder().join(name);
            Rc::new(SchedClassifier::from_pin(pin).expect("what is loaded is pinned"))
        };
        Rc::clone(self.loaded.borrow_mut().entry(name.to_owned()).or_insert_with(pinned))
    }

    /// Where the present programs are pinned: the only folder there. Whoever asks may touch them.
    pub fn programs_dir(&self) -> PathBuf {
        self.place.spoil();
        self.programs_folder()
    }

    fn programs_folder(&self) -> PathBuf {
        let folders = std::fs::read_dir(self.place.bpffs().join("programs")).expect("the folder is there");
        let folders: Vec<_> = folders.map(|folder| folder.expect("it can be listed").path()).collect();
        let [folder] = folders.as_slice() else { panic!("programs of several objects: {folders:?}") };
        folder.clone()
    }

    /// Where the other ends of all interfaces are.
    pub fn pods(&self) -> BorrowedFd<'_> {
        self.pods.as_fd()
    }

    /// Runs the live program of a hook.
    pub fn run(&mut self, hook: Hook, bytes: &[u8]) -> Ran {
        let (program, interface, by) = program_of(hook);
        self.run_by(program, &interface, by.as_ref(), bytes)
    }

    /// Runs the live program of a hook on a packet whose control block begins with these words; also as it leaves them.
    pub fn run_handing(&mut self, hook: Hook, bytes: &[u8], words: [u32; 2]) -> (Ran, [u32; 2]) {
        let (program, interface, by) = program_of(hook);
        self.words = words;
        let TestRun { result, bytes, mark, cb, .. } = self.test_run(program, &interface, by.as_ref(), bytes);
        self.words = [0; 2];
        (Ran { action: action_of(program, result), bytes, mark }, [cb[0], cb[1]])
    }

    /// Runs a live program as if it sat on this interface.
    pub fn run_at(&mut self, program: &str, interface: &IfaceName, bytes: &[u8]) -> Ran {
        self.run_by(program, interface, None, bytes)
    }

    /// The same, for a packet that this node forwards from an interface.
    pub fn run_by(&mut self, program: &str, interface: &IfaceName, by: Option<&IfaceName>, bytes: &[u8]) -> Ran {
        let TestRun { result, bytes, mark, .. } = self.test_run(program, interface, by, bytes);
        Ran { action: action_of(program, result), bytes, mark }
    }

    /// Runs the live program of a hook on the same packet many times; says what it did the last time.
    pub fn repeat(&mut self, hook: Hook, bytes: &[u8], times: u32) -> Action {
        let (program, interface, by) = program_of(hook);
        action_of(program, self.test_run_times(program, &interface, by.as_ref(), bytes, times).result)
    }

    /// Runs the live program of a hook; says what it did, and how long it took.
    pub fn time(&mut self, hook: Hook, bytes: &[u8]) -> (Action, Duration) {
        let (program, interface, by) = program_of(hook);
        let TestRun { result, took, .. } = self.test_run(program, &interface, by.as_ref(), bytes);
        (action_of(program, result), took)
    }

    /// The indexes of all interfaces.
    pub fn interfaces(&self) -> BTreeMap<IfaceName, u32> {
        self.indexes.iter().map(|(name, index)| (name.clone(), index.0)).collect()
    }

    /// Runs the dry twin of a hook.
    pub fn ask(&mut self, hook: Hook, bytes: &[u8]) -> Answer {
        let (program, interface, by) = program_of(hook);
        let TestRun { bytes: out, cb, .. } = self.test_run(&format!("{program}_dry"), &interface, by.as_ref(), bytes);
        assert_eq!(out, bytes, "the dry twin changed the packet");
        Answer::from_cb(cb).expect("the dry twin answers")
    }

    fn index_of(&self, interface: &IfaceName) -> [u8; 4] {
        self.index(interface).0.to_ne_bytes()
    }

    fn test_run(&mut self, program: &str, interface: &IfaceName, by: Option<&IfaceName>, bytes: &[u8]) -> TestRun {
        self.test_run_times(program, interface, by, bytes, 1)
    }

    fn test_run_times(
        &mut self,
        program: &str,
        interface: &IfaceName,
        by: Option<&IfaceName>,
        bytes: &[u8],
        times: u32,
    ) -> TestRun {
        let mut context = [0; SK_BUFF];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&self.index_of(interface));
        context[MARK..MARK + 4].copy_from_slice(&7u32.to_ne_bytes());
        context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&self.segment.to_ne_bytes());
        for (place, word) in context[CB..].chunks_mut(4).zip(self.words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        if let Some(by) = by {
            context[INGRESS_IFINDEX..INGRESS_IFINDEX + 4].copy_from_slice(&self.index_of(by));
        }
        let program = self.program(program);
        let mut context_out = [0; SK_BUFF];
        let mut out = vec![0; bytes.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(bytes);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_out);
        options.repeat = times;
        let result = program.test_run(options).expect("the kernel runs the program");
        out.truncate(result.data_size_out as usize);
        let word = |at: usize| u32::from_ne_bytes(context_out[at..at + 4].try_into().expect("four bytes"));
        let cb = std::array::from_fn(|n| word(CB + 4 * n));
        let took = result.duration;
        TestRun { result: result.return_value, bytes: out, mark: word(MARK), cb, took }
    }

    /// What the programs wrote so far.
    pub fn seen(&self) -> Seen {
        let entries = self.tracked();
        let pieces: HashMap<&MapData, FragmentKey, FragmentPorts> = map(&self.programs, &maps::FRAGMENTS);
        let hits: PerCpuArray<&MapData, u64> = map(&self.programs, &maps::HITS);
        let judged = (0..hits.len()).map(|hit| sum(&hits, hit)).sum();
        let drops: PerCpuArray<&MapData, u64> = map(&self.programs, &maps::DROPS);
        let counted = (0..drops.len()).filter_map(|index| {
            let count = sum(&drops, index);
            let reason = DropReason::from_number(index % DROP_REASONS);
            (count > 0).then(|| ((index / DROP_REASONS, reason.expect("only known reasons are counted")), count))
        });
        let fragments = pieces.keys().filter_map(Result::ok).collect();
        Seen { entries, fragments, drops: counted.collect(), judged }
    }

    /// Packets dropped for this reason, by slot.
    pub fn dropped(&self, why: DropReason) -> BTreeMap<u32, u64> {
        let of_it = self.seen().drops.into_iter().filter(|((_, reason), _)| *reason == why);
        of_it.map(|((slot, _), packets)| (slot, packets)).collect()
    }

    /// Counts a drop on a slot's account, as a program would on any processor.
    pub fn count_drop(&mut self, slot: u32, why: DropReason) {
        let mut drops: PerCpuArray<&mut MapData, u64> = map_mut(&mut self.programs, &maps::DROPS);
        let index = slot * DROP_REASONS + why as u32;
        let mut counted = drops.get(&index, 0).expect("a counter can be read").to_vec();
        *counted.last_mut().expect("there is a processor") += 1;
        let counted = PerCpuValues::try_from(counted).expect("one for each processor");
        drops.set(index, counted, 0).expect("a counter can be written");
    }

    /// The flows that are known, in order, half-open ones as well.
    pub fn flows(&self) -> Vec<FlowKey> {
        let both = [&maps::CONNTRACK, &maps::NEWFLOW].map(|spec| self.entries(spec));
        let known = both.into_iter().flatten().filter(|(_, entry)| entry.timeout != Timeout::Gone as u8);
        known.map(|(key, _)| key).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Instructions that the verifier walked, by program.
    pub fn verified(&self) -> BTreeMap<String, u32> {
        let counted = |name: &str| {
            let info = self.program(name).info().expect("the kernel tells of a loaded program");
            (name.to_owned(), info.verified_instruction_count().expect("Linux 5.16 and later count them"))
        };
        Dataplane::programs().map(counted).collect()
    }

    /// Entries of both flow tables that are not declared gone.
    fn tracked(&self) -> BTreeMap<FlowKey, ConntrackEntry> {
        let both = [&maps::CONNTRACK, &maps::NEWFLOW].map(|spec| self.entries(spec));
        both.into_iter().flatten().filter(|(_, entry)| entry.timeout != Timeout::Gone as u8).collect()
    }

    /// Entries of CONNTRACK or NEWFLOW.
    pub fn entries(&self, spec: &maps::MapSpec) -> BTreeMap<FlowKey, ConntrackEntry> {
        let flows: HashMap<&MapData, FlowKey, ConntrackEntry> = map(&self.programs, spec);
        flows.iter().filter_map(Result::ok).collect()
    }

    /// Flows counted on an account.
    pub fn account(&self, slot: u32) -> u64 {
        let accounts: Array<&MapData, u64> = map(&self.programs, &maps::QUOTA);
        accounts.get(&slot, 0).expect("an account can be read")
    }

    /// A local pod's slot.
    pub fn slot_of(&self, actor: Actor) -> u32 {
        *self.slots.iter().find(|(_, whose)| **whose == actor).expect("the actor is a local pod").0
    }

    /// As if so many seconds had passed since each entry's last packet.
    pub fn age(&mut self, spec: &maps::MapSpec, seconds: u32) {
        let entries = self.entries(spec);
        let mut flows: HashMap<&mut MapData, FlowKey, ConntrackEntry> = map_mut(&mut self.programs, spec);
        for (key, entry) in entries {
            let aged = ConntrackEntry { seen_s: entry.seen_s.wrapping_sub(seconds), ..entry };
            flows.insert(&key, &aged, 0).expect("an entry can be written");
        }
    }

    /// Runs what the agent runs at its start.
    pub fn arm_again(&mut self) {
        let program = self.program("expire");
        let mut options = TestRunOptions::new();
        let frame = [0; 15];
        options.data_in = Some(&frame);
        let ran = program.test_run(options).expect("the kernel runs the program");
        assert_eq!(ran.return_value, 0, "the timer that runs is taken over");
    }

    /// Waits until CONNTRACK holds so many entries.
    pub fn wait_for_the_cursor(&self, entries: usize) {
        let end = Instant::now() + PATIENCE;
        while self.entries(&maps::CONNTRACK).len() != entries {
            assert!(Instant::now() < end, "the cursor does not remove {:?}", self.entries(&maps::CONNTRACK));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whose MAC this is: a pod's.
    pub fn pod_with_mac(&self, mac: &[u8]) -> Option<Actor> {
        self.actors.iter().find(|actor| actor.mac.0 == mac).copied()
    }

    /// Whose slot this is.
    pub fn pod_in_slot(&self, slot: u32) -> Option<Actor> {
        self.slots.get(&slot).copied()
    }
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h), as far as its size and these fields go.
const SK_BUFF: usize = 192;
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
const CB: usize = 48;
const GSO_SIZE: usize = 176;

fn action_of(program: &str, result: u32) -> Action {
    match result {
        0xffff_ffff => Action::PassOn,
        2 => Action::Drop,
        7 => Action::Redirect,
        other => panic!("{program} returned {other}"),
    }
}

fn program_of(hook: Hook) -> (&'static str, IfaceName, Option<IfaceName>) {
    let uplink = || IfaceName(UPLINK.into());
    match hook {
        Hook::Pod(actor) => ("from_workload", interface(actor), None),
        Hook::ToPod(actor, by) => ("to_workload", interface(actor), came_by(by)),
        Hook::Uplink => ("from_uplink", uplink(), None),
        Hook::In => ("from_host_endpoint", uplink(), None),
        Hook::Out(by) => ("to_host_endpoint", uplink(), came_by(by)),
        Hook::Up(by) => ("to_uplink", uplink(), came_by(by)),
        Hook::Node => ("from_node", uplink(), None),
        Hook::Loop => ("from_node", IfaceName("lo".into()), None),
    }
}

/// The interface a packet came in by.
fn came_by(by: By) -> Option<IfaceName> {
    match by {
        By::Host => None,
        By::Uplink => Some(IfaceName(UPLINK.into())),
        By::Pod(sender) => Some(interface(sender)),
    }
}

fn open(place: &Place, sizes: &BTreeMap<String, u32>, attach: Attach) -> Dataplane {
    Dataplane::open(options(place, sizes, attach)).expect("the dataplane opens")
}

fn options(place: &Place, sizes: &BTreeMap<String, u32>, attach: Attach) -> Options {
    Options {
        bpffs: place.bpffs(),
        object: object(),
        entries: sizes.clone(),
        uplink: Some(IfaceName(UPLINK.into())),
        state_dir: place.state(),
        attach,
        timeouts: Timeouts::DEFAULT,
        flow_quota: Some(FLOW_QUOTA),
        log_rate: 100,
        cgroup: Cgroup::Off,
    }
}

/// The programs, as they are built.
pub fn object() -> Vec<u8> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(default_target, PathBuf::from);
    let path = target.join("bpf/tortie.o");
    std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}; run `cargo xtask build-ebpf` first", path.display()))
}

fn default_target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// The object over the maps that the dataplane pinned: for the maps. Its programs are not loaded a second time.
fn over_the_pins(bpffs: &Path, sizes: &BTreeMap<String, u32>) -> Ebpf {
    let object = object();
    let pins: Vec<_> =
        maps::MAPS.iter().map(|map| bpffs.join("maps").join(format!("{}-v{}", map.name, map.version))).collect();
    let mut loader = EbpfLoader::new();
    for (map, pin) in maps::MAPS.iter().zip(&pins) {
        loader.map_pin_path(map.name, pin.as_path());
    }
    let sizes = Sizes::asked(sizes).expect("the sizes of a test make sense");
    for map in maps::MAPS {
        loader.map_max_entries(map.name, sizes.of(map));
    }
    loader.load(&object).expect("the object loads over the pinned maps")
}

/// A map of the object.
pub fn map<'a, T: TryFrom<&'a Map>>(programs: &'a Ebpf, spec: &maps::MapSpec) -> T
where
    T::Error: std::fmt::Debug,
{
    programs.map(spec.name).expect("the object has every map").try_into().expect("the map has its kind")
}

/// The same, to be written.
pub fn map_mut<'a, T: TryFrom<&'a mut Map>>(programs: &'a mut Ebpf, spec: &maps::MapSpec) -> T
where
    T::Error: std::fmt::Debug,
{
    programs.map_mut(spec.name).expect("the object has every map").try_into().expect("the map has its kind")
}

fn sum<V: Pod + Into<u64> + Copy>(array: &PerCpuArray<&MapData, V>, index: u32) -> u64 {
    let values: PerCpuValues<V> = array.get(&index, 0).expect("a counter can be read");
    values.iter().map(|value| (*value).into()).sum()
}
