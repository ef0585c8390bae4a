//! Requests against a kernel that only remembers: what is answered when, and what is left behind.
//! In: batches of requests. Out: replies, the fake kernel's endpoints, the records and the blocks.
//! Invariant: every test starts with an empty directory.
//! Never: a real kernel, a socket, a thread.

use super::*;
use crate::{
    allocate::Allocator,
    journal::Journal,
    metrics::Metrics,
    owner::{Event, Node},
    proxy::{Proxy, Services},
    publish::Publisher,
};
use calc::{Latest, Live};
use cni::protocol::{Prepare, Prepared};
use dataplane::{
    Applied, ApplyError, AttachedBy, Commit, Drift, DriftKind, Extent, Looked, Platform, Question, ReportError,
    TwinAnswer, TwinError,
};
use datastore::Objects;
use model::{
    Attachment, HostPort, IfaceName, IpPool, Mac, PodId, Protocol, Resource, ResourceKey, ServiceId, ServicePortId,
    Update,
};
use serde_json::Value;
use service::Frontend;
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    time::Duration,
};

mod asks;
mod floating;
mod ports;
mod waiting;

#[derive(Default)]
struct FakeKernel {
    endpoints: BTreeSet<AttachmentId>,
    broken: bool,
    stuck: bool,
    /// What is staged does not fit beside what is enforced.
    full: bool,
    previews: usize,
    unwired: Vec<AttachmentId>,
    /// Does not lead where it should.
    lost: Option<Frontend>,
    looks: u32,
    /// Frontends that there is room for, and service ports in force.
    room: Option<usize>,
    served: BTreeSet<ServicePortId>,
}

impl Kernel for FakeKernel {
    fn apply(&mut self, desired: Latest<'_>) -> Applied {
        let failed =
            |what: &str| vec![(what.to_owned(), ApplyError { step: "attach".into(), reason: "refused".into() })];
        if self.stuck {
            return Applied { failed: failed("commit"), limited: true, ..Applied::default() };
        }
        let sets = desired.endpoints.values().flat_map(|spec| [&spec.ingress, &spec.egress]);
        let previews = sets.filter(|set| set.preview.is_some()).count();
        if self.full && previews > 0 {
            return Applied { commit: Commit::Refused, failed: failed("policies"), ..Applied::default() };
        }
        self.previews = previews;
        if !self.has_room_for_services(desired) {
            let (failed, commit) = (failed("the tables"), Commit::Refused);
            return Applied { commit, failed, services_full: true, ..Applied::default() };
        }
        self.served = desired.services.values().map(|balance| balance.of.clone()).collect();
        let wanted: BTreeSet<_> = desired.endpoints.keys().cloned().collect();
        self.endpoints.retain(|id| wanted.contains(id));
        if self.broken {
            return Applied { failed: failed("cali"), ..Applied::default() };
        }
        self.endpoints = wanted;
        Applied::default()
    }
    fn look(&mut self, desired: Latest<'_>, _: Extent) -> Looked {
        self.looks += 1;
        let drift = Drift { kind: DriftKind::Route, found: format!("route {}", self.looks) };
        Looked { repaired: vec![drift], applied: Some(self.apply(desired)), ..Looked::default() }
    }
    fn sweep(&mut self) -> bool {
        false
    }
    fn upgrade(&mut self) -> bool {
        false
    }
    fn in_force(&self, id: &AttachmentId) -> bool {
        self.endpoints.contains(id)
    }
    fn serves(&self, port: &ServicePortId) -> bool {
        self.served.contains(port)
    }
    fn has_room_for_services(&self, desired: Latest<'_>) -> bool {
        self.room.is_none_or(|room| desired.services.len() <= room)
    }
    fn leads(&self, frontend: &Frontend) -> bool {
        self.lost.as_ref() != Some(frontend)
    }
    fn explain(&self, _: &Question) -> Result<TwinAnswer, TwinError> {
        Err(TwinError::NoUplink)
    }
    fn report(&self, _: &str) -> Result<Value, ReportError> {
        Ok(Value::Null)
    }
    fn unwire(&mut self, attachment: &Attachment) -> Result<(), netlink::Error> {
        self.unwired.push(attachment.id.clone());
        Ok(())
    }
}

struct Bench {
    dir: tempfile::TempDir,
    agent: Agent<FakeKernel>,
}

impl Bench {
    fn before_the_datastore_has_spoken() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let agent = agent(dir.path(), &[]);
        Self { dir, agent }
    }

    fn new() -> Self {
        let mut bench = Self::before_the_datastore_has_spoken();
        bench.sync();
        bench
    }

    fn sync(&mut self) {
        let cidr = "10.65.0.0/16".parse().expect("a valid network");
        let pool = IpPool::of_pods("p", cidr, 26);
        self.agent.take(vec![Event::Updates(vec![Update::Set(Resource::IpPool(pool)), Update::InSync])]);
    }

    /// The next agent over the same directories, on a host that has these interfaces.
    fn restarted(mut self, interfaces: &[IfaceName]) -> Self {
        self.agent = agent(self.dir.path(), interfaces);
        self.sync();
        self
    }

    fn ask(&mut self, operation: Operation) -> Reply {
        self.ask_all(vec![operation]).remove(0)
    }

    fn ask_all(&mut self, operations: Vec<Operation>) -> Vec<Reply> {
        let (events, replies): (Vec<_>, Vec<Receiver<Reply>>) = operations.into_iter().map(asked).unzip();
        self.agent.take(events);
        self.agent.publisher.settle();
        replies.iter().map(|reply| reply.try_recv().expect("every ask is answered in its batch")).collect()
    }

    fn prepared(&mut self, container: &str, pod: &str) -> Prepared {
        match self.ask(prepare(container, pod)) {
            Ok(Answer::Prepared(prepared)) => prepared,
            other => panic!("{other:?}"),
        }
    }

    fn attached(&mut self, container: &str, pod: &str) -> Prepared {
        let prepared = self.prepared(container, pod);
        assert_eq!(self.ask(commit(container)), Ok(Answer::Done));
        prepared
    }

    fn held(&self, container: &str) -> usize {
        self.agent.allocator.held_by(&id(container)).expect("readable").len()
    }
}

fn agent(dir: &Path, interfaces: &[IfaceName]) -> Agent<FakeKernel> {
    let (journal, damaged) = Journal::open(&dir.join("state")).expect("the journal opens");
    let damaged = damaged.iter().map(ToString::to_string).collect();
    let platform = Platform { release: "6.1".into(), attached_by: AttachedBy::Clsact, lacks: Vec::new() };
    let (name, problems, metrics) = ("n1".into(), Box::new(Vec::new), Metrics::default());
    let proxy = Proxy::find(Services::Tortie);
    let node = Node { name, mtu: 1400, platform, problems, damaged, metrics, proxy };
    let objects = Objects::open(&dir.join("store")).expect("a store");
    let world = Live::new("n1".into(), false);
    let objects: datastore::Store = Arc::new(objects);
    let publisher = Publisher::start(objects.clone()).expect("a thread");
    let allocator = Allocator::new(objects, "n1".into());
    Agent::new(
        node,
        world,
        FakeKernel::default(),
        (allocator, publisher),
        journal,
        &interfaces.iter().cloned().collect(),
    )
}

fn asked(operation: Operation) -> (Event, Receiver<Reply>) {
    let (reply, answer) = sync_channel(1);
    let deadline = Instant::now() + Duration::from_secs(3600);
    (Event::Ask(Box::new(Ask { operation, deadline, reply })), answer)
}

fn id(container: &str) -> AttachmentId {
    AttachmentId { network: "net".into(), container: container.into(), interface: "eth0".into() }
}

fn prepare(container: &str, pod: &str) -> Operation {
    Operation::Prepare(Prepare {
        id: id(container),
        pod: PodId::new("default", pod),
        labels: [("app".to_owned(), pod.to_owned())].into(),
        mtu: None,
        mac: None,
        ips: Vec::new(),
        delegated: false,
        host_ports: Vec::new(),
        floating_ips: false,
        ip_addrs_no_ipam: false,
        pools: Default::default(),
        families: Vec::new(),
        pod_cidrs: Vec::new(),
    })
}

fn commit(container: &str) -> Operation {
    Operation::Commit { id: id(container), mac: Mac([2, 0, 0, 0, 0, 1]), addresses: Vec::new() }
}

fn check(container: &str) -> Operation {
    Operation::Check { id: id(container), host_ports: Vec::new() }
}

fn del(container: &str) -> Operation {
    Operation::Del { id: id(container) }
}

fn code(reply: &Reply) -> u32 {
    reply.as_ref().expect_err("a refusal").code
}

#[test]
fn nothing_is_made_before_the_datastore_has_said_everything() {
    let mut bench = Bench::before_the_datastore_has_spoken();
    for operation in [prepare("c1", "a"), commit("c1"), del("c1")] {
        assert_eq!(code(&bench.ask(operation)), TRY_AGAIN);
    }
    assert_eq!(
        code(&bench.ask(Operation::Status { network: "net".into(), delegated: false, pod_cidrs: vec![] })),
        TRY_AGAIN
    );
    bench.sync();
    assert_eq!(
        bench.ask(Operation::Status { network: "net".into(), delegated: false, pod_cidrs: vec![] }),
        Ok(Answer::Done)
    );
}

#[test]
fn what_pods_have_is_claimed_again_when_the_datastore_was_listed_anew_before_anybody_gets_anything() {
    let mut bench = Bench::new();
    let first = bench.attached("c1", "a");
    let store = bench.dir.path().join("store/.tortie");
    let restore = || {
        for kind in std::fs::read_dir(&store).expect("listed").map(|entry| entry.expect("listed").path()) {
            if kind.is_dir() {
                std::fs::remove_dir_all(kind).expect("what was written since the backup is gone");
            }
        }
    };
    restore();
    bench.agent.take(vec![Event::Updates(vec![Update::Anew { listed: false }])]);
    assert_eq!(bench.held("c1"), 1);
    bench.agent.publisher.settle();
    assert!(store.join("WorkloadAddress/default.a.yaml").is_file(), "and other nodes are told of it again");
    assert_eq!(code(&bench.ask(prepare("c2", "b"))), TRY_AGAIN, "others claim theirs");
    bench.agent.claims.until = Some(Instant::now());
    assert_ne!(bench.prepared("c2", "b").addresses, first.addresses);
    bench.agent.take(vec![Event::Updates(vec![Update::Anew { listed: false }])]);
    bench.prepared("c4", "d");
    bench.agent.take(vec![Event::Updates(vec![Update::Anew { listed: true }])]);
    assert_eq!(code(&bench.ask(prepare("c5", "e"))), TRY_AGAIN, "what is listed anew may lack what others gave");
    // An agent that begins does it, too.
    restore();
    let mut bench = bench.restarted(&[first.host_interface]);
    assert_eq!(bench.held("c1"), 1);
    assert_ne!(bench.prepared("c3", "c").addresses, first.addresses);
}

#[test]
fn prepare_puts_nothing_in_force_and_repeating_it_gives_the_same_answer() {
    let mut bench = Bench::new();
    let first = bench.prepared("c1", "a");
    assert_eq!(bench.prepared("c1", "a"), first);
    assert_eq!((first.addresses.len(), first.mtu), (1, 1400));
    assert!(bench.agent.kernel.endpoints.is_empty());
}

#[test]
fn an_add_for_another_pod_under_an_identity_that_is_attached_is_refused_and_changes_nothing() {
    let mut bench = Bench::new();
    let first = bench.attached("c1", "a");
    assert_eq!(code(&bench.ask(prepare("c1", "b"))), INVALID_CONFIG);
    assert_eq!(bench.prepared("c1", "a").addresses, first.addresses, "the one that is attached is told as before");
    assert_eq!(bench.agent.kernel.endpoints, [id("c1")].into());
}

#[test]
fn the_agent_chooses_a_mac_keeps_it_and_takes_another_that_the_wiring_tells() {
    let mut bench = Bench::new();
    let mac = bench.prepared("c1", "a").mac.expect("a MAC");
    assert_eq!(mac.0[0] & 3, 2, "unicast, of local administration");
    assert_eq!(bench.prepared("c1", "a").mac, Some(mac));
    assert_ne!(bench.prepared("c2", "b").mac, Some(mac));
    assert_eq!(bench.ask(commit("c1")), Ok(Answer::Done));
    let told = Mac([2, 0, 0, 0, 0, 1]);
    let kept = bench.prepared("c1", "a");
    assert_eq!(kept.mac, Some(told), "as an older plugin, or another behind it, has it");
    let bench = bench.restarted(&[kept.host_interface]);
    assert_eq!(bench.agent.journal.get(&id("c1")).map(|known| known.mac), Some(told));
}

#[test]
fn all_prepares_of_a_batch_get_addresses_of_their_own() {
    let mut bench = Bench::new();
    let asks = (0..20).map(|pod| prepare(&format!("c{pod}"), &format!("p{pod}"))).collect();
    let given = bench.ask_all(asks).into_iter().map(|reply| match reply {
        Ok(Answer::Prepared(prepared)) => prepared.addresses,
        other => panic!("{other:?}"),
    });
    let addresses: BTreeSet<_> = given.collect();
    assert_eq!(addresses.len(), 20);
}

#[test]
fn calc_22_commit_is_answered_when_it_is_in_force_and_other_nodes_are_told() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    assert!(bench.agent.kernel.in_force(&id("c1")));
    assert_eq!(bench.ask(check("c1")), Ok(Answer::Done));
    let told = bench.agent.allocator.objects().list("WorkloadAddress").expect("readable");
    assert_eq!(told.len(), 1);
}

#[test]
fn calc_22_a_commit_that_does_not_come_into_force_is_refused_with_the_reason_and_taken_back() {
    let mut bench = Bench::new();
    bench.prepared("c1", "a");
    bench.agent.kernel.broken = true;
    let reply = bench.ask(commit("c1"));
    assert_eq!(code(&reply), TRY_AGAIN);
    assert!(reply.is_err_and(|fault| fault.message.contains("refused")));
    bench.agent.kernel.broken = false;
    bench.agent.tick();
    assert!(bench.agent.kernel.endpoints.is_empty(), "it does not come into force behind the runtime's back");
    assert_eq!(bench.ask(Operation::Abort { id: id("c1") }), Ok(Answer::Done));
    assert_eq!(bench.held("c1"), 0);
}

#[test]
fn a_commit_of_what_was_never_prepared_is_refused() {
    assert_eq!(code(&Bench::new().ask(commit("c1"))), TRY_AGAIN);
}

#[test]
fn cni_40_cni_44_del_succeeds_twice_and_for_what_was_never_there() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    for container in ["c1", "c1", "never"] {
        assert_eq!(bench.ask(del(container)), Ok(Answer::Done));
    }
    assert_eq!(bench.held("c1"), 0);
    assert!(bench.agent.kernel.endpoints.is_empty());
    assert!(bench.agent.allocator.objects().list("WorkloadAddress").expect("readable").is_empty());
}

#[test]
fn an_address_is_kept_while_its_endpoint_cannot_leave_the_kernel() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    bench.agent.kernel.stuck = true;
    assert_eq!(code(&bench.ask(del("c1"))), TRY_AGAIN);
    assert_eq!(bench.held("c1"), 1);
    bench.agent.kernel.stuck = false;
    assert_eq!(bench.ask(del("c1")), Ok(Answer::Done));
    assert_eq!(bench.held("c1"), 0);
}

#[test]
fn all_dels_of_a_batch_are_released_together_and_what_is_stuck_by_itself() {
    let mut bench = Bench::new();
    for pod in 0..5 {
        bench.attached(&format!("c{pod}"), &format!("p{pod}"));
    }
    let sequence = |bench: &Bench| {
        let blocks = bench.agent.allocator.objects().list("IPAMBlock").expect("readable");
        blocks[0].spec["sequenceNumber"].as_u64().expect("a number")
    };
    let before = sequence(&bench);
    let dels = (0..4).map(|pod| del(&format!("c{pod}"))).collect();
    assert!(bench.ask_all(dels).iter().all(Result::is_ok));
    assert_eq!(sequence(&bench), before + 1, "one write of the block");
    bench.agent.kernel.stuck = true;
    let replies = bench.ask_all(vec![del("c4"), del("never")]);
    assert_eq!((code(&replies[0]), &replies[1]), (TRY_AGAIN, &Ok(Answer::Done)));
    assert_eq!((bench.held("c0"), bench.held("c4")), (0, 1));
}

#[test]
fn a_new_container_of_a_pod_takes_the_place_of_the_old_one_whose_del_comes_late() {
    let mut bench = Bench::new();
    bench.attached("old", "a");
    bench.attached("new", "a");
    assert_eq!((bench.held("old"), bench.held("new")), (0, 1));
    assert_eq!(bench.ask(del("old")), Ok(Answer::Done));
    assert!(bench.agent.kernel.in_force(&id("new")));
    assert_eq!(bench.agent.allocator.objects().list("WorkloadAddress").expect("readable").len(), 1);
}

#[test]
fn cni_61_gc_removes_what_is_not_listed_of_its_own_network_only() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    bench.attached("c2", "b");
    let gc = |network: &str| Operation::Gc { network: network.into(), keep: vec![("c2".into(), "eth0".into())] };
    assert_eq!(bench.ask(gc("other")), Ok(Answer::Done));
    assert_eq!(bench.agent.kernel.endpoints.len(), 2);
    assert_eq!(bench.ask(gc("net")), Ok(Answer::Done));
    assert_eq!(bench.agent.kernel.endpoints, [id("c2")].into());
}

#[test]
fn a_restart_keeps_what_was_committed_and_undoes_what_was_only_prepared() {
    let mut bench = Bench::new();
    let kept = bench.attached("c1", "a");
    let undone = bench.prepared("c2", "b");
    let mut bench = bench.restarted(&[kept.host_interface, undone.host_interface]);
    assert_eq!(bench.agent.kernel.endpoints, [id("c1")].into());
    assert_eq!((bench.held("c1"), bench.held("c2")), (1, 0));
    assert_eq!(bench.ask(check("c1")), Ok(Answer::Done));
}

#[test]
fn a_pod_whose_interface_did_not_outlive_a_reboot_gives_its_address_back() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    let bench = bench.restarted(&[]);
    assert!(bench.agent.kernel.endpoints.is_empty());
    assert_eq!(bench.held("c1"), 0);
}

#[test]
fn a_damaged_record_opens_nothing_and_shows_in_status() {
    let mut bench = Bench::new();
    let kept = bench.attached("c1", "a");
    let torn = bench.dir.path().join("state/attachments/cali0.json");
    std::fs::write(&torn, "{\"version\":1,").expect("written");
    let mut bench = bench.restarted(&[kept.host_interface]);
    assert_eq!(bench.agent.kernel.endpoints, [id("c1")].into());
    let status = Operation::Query(cni::protocol::Query::Show { table: "status".into() });
    let Ok(Answer::Report { report }) = bench.ask(status) else { panic!("no report") };
    assert!(report["damagedRecords"][0].as_str().is_some_and(|text| text.contains("cali0.json")), "{report}");
}

#[test]
fn a_prepare_that_nobody_waits_for_is_not_begun() {
    let mut bench = Bench::new();
    let (reply, answer) = sync_channel(1);
    bench.agent.take(vec![Event::Ask(Box::new(Ask {
        operation: prepare("c1", "a"),
        deadline: Instant::now(),
        reply,
    }))]);
    assert_eq!(code(&answer.try_recv().expect("answered")), TRY_AGAIN);
    assert_eq!(bench.held("c1"), 0);
}

#[test]
fn what_was_prepared_for_somebody_who_never_came_back_is_undone() {
    let mut bench = Bench::new();
    bench.prepared("c1", "a");
    bench.attached("c2", "b");
    bench.agent.tick();
    assert_eq!(bench.held("c1"), 1, "its asker may still commit");
    for end in bench.agent.abandoned.values_mut() {
        *end = Instant::now();
    }
    bench.agent.tick();
    assert_eq!((bench.held("c1"), bench.held("c2")), (0, 1));
    assert_eq!(bench.agent.kernel.unwired, [id("c1")]);
}

#[test]
fn what_was_prepared_for_a_plugin_that_died_before_its_answer_is_undone_soon_and_nothing_else() {
    let mut bench = Bench::new();
    bench.attached("c0", "z");
    let (event, answer) = asked(prepare("c1", "a"));
    let Event::Ask(ask) = &event else { panic!("an ask") };
    let deadline = ask.deadline;
    bench.agent.take(vec![event]);
    assert!(answer.recv().expect("an answer").is_ok());
    // Of another asker, or of what is committed.
    let gone = |id, deadline| Event::Gone(id, deadline);
    bench.agent.take(vec![gone(id("c1"), deadline - Duration::from_secs(1)), gone(id("c0"), deadline)]);
    bench.agent.tick();
    assert_eq!((bench.held("c0"), bench.held("c1")), (1, 1));
    bench.agent.take(vec![gone(id("c1"), deadline)]);
    bench.agent.tick();
    assert_eq!((bench.held("c0"), bench.held("c1")), (1, 0));
}

#[test]
fn names_that_cannot_name_an_object_are_refused() {
    let mut bench = Bench::new();
    for container in ["", "../x", "a b"] {
        assert_eq!(code(&bench.ask(prepare(container, "a"))), INVALID_CONFIG);
    }
}

fn interface(container: &str, interface: &str) -> AttachmentId {
    AttachmentId { interface: interface.into(), ..id(container) }
}

/// A prepare, changed.
fn prepare_as(container: &str, pod: &str, change: impl FnOnce(&mut Prepare)) -> Operation {
    let Operation::Prepare(mut wish) = prepare(container, pod) else { panic!("no prepare") };
    change(&mut wish);
    Operation::Prepare(wish)
}

fn commit_with(id: AttachmentId, addresses: &[&str]) -> Operation {
    let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
    Operation::Commit { id, mac: Mac([2, 0, 0, 0, 0, 1]), addresses }
}

fn told(bench: &Bench) -> Vec<String> {
    let told = bench.agent.allocator.objects().list("WorkloadAddress").expect("readable");
    let addresses = told.iter().filter_map(|object| object.spec["addresses"].as_array());
    addresses.flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn cni_23_addresses_of_another_ipam_come_with_the_commit_and_the_same_answer_is_given_again() {
    let mut bench = Bench::new();
    let wish = || prepare_as("c1", "a", |wish| wish.delegated = true);
    let Ok(Answer::Prepared(first)) = bench.ask(wish()) else { panic!("not prepared") };
    assert!(first.addresses.is_empty());
    assert_eq!(bench.ask(commit_with(id("c1"), &["10.88.0.5", "fd00:88::5"])), Ok(Answer::Done));
    assert_eq!(told(&bench), ["10.88.0.5", "fd00:88::5"]);
    assert_eq!(bench.ask(check("c1")), Ok(Answer::Done));
    let Ok(Answer::Prepared(again)) = bench.ask(wish()) else { panic!("not prepared") };
    assert_eq!(again.addresses.len(), 2, "so that the plugin is not asked for more");
    assert_eq!(bench.held("c1"), 0, "no pool has them");
    let mut bench = bench.restarted(&[first.host_interface]);
    assert!(bench.agent.kernel.in_force(&id("c1")));
    assert_eq!(bench.ask(del("c1")), Ok(Answer::Done));
    assert!(told(&bench).is_empty());
}

#[test]
fn an_address_of_another_ipam_that_somebody_has_is_refused_by_the_holders_name() {
    let mut bench = Bench::new();
    let ours = bench.attached("c1", "a").addresses[0].to_string();
    let addresses = ["192.0.2.1".parse().expect("an address")].into();
    bench.agent.take(vec![Event::Host(crate::observe::Host { addresses, ..crate::observe::Host::default() })]);
    bench.ask(prepare_as("c2", "b", |wish| wish.delegated = true)).expect("prepared");
    bench.ask(prepare_as("c3", "c", |wish| wish.delegated = true)).expect("prepared");
    assert_eq!(bench.ask(commit_with(id("c2"), &["10.88.0.5"])), Ok(Answer::Done));
    for (address, holder) in [(ours.as_str(), "default/a"), ("10.88.0.5", "default/b"), ("192.0.2.1", "this node")] {
        let fault = bench.ask(commit_with(id("c3"), &[address])).expect_err(address);
        assert_eq!(fault.code, TRY_AGAIN);
        assert!(fault.message.contains(holder), "{fault}");
        assert!(!bench.agent.kernel.in_force(&id("c3")));
    }
    for bad in [
        &[][..],
        &["10.88.0.6", "10.88.0.6"],
        &["10.88.0.6"; 17],
        &["169.254.1.1"],
        &["127.0.0.1"],
        &["fe80::1"],
        &["224.0.0.1"],
    ] {
        assert_eq!(code(&bench.ask(commit_with(id("c3"), bad))), INVALID_CONFIG, "{bad:?}");
    }
}

#[test]
fn an_address_of_another_ipam_that_a_pool_has_is_never_given_by_us() {
    let mut bench = Bench::new();
    let next = bench.prepared("c1", "a").addresses[0].to_string();
    bench.ask(Operation::Abort { id: id("c1") }).expect("undone");
    bench.ask(prepare_as("c2", "b", |wish| wish.delegated = true)).expect("prepared");
    assert_eq!(bench.ask(commit_with(id("c2"), &[&next])), Ok(Answer::Done));
    assert_eq!(bench.held("c2"), 1);
    let given: BTreeSet<_> =
        (0..63).map(|pod| bench.prepared(&format!("d{pod}"), &format!("p{pod}")).addresses).collect();
    assert_eq!(given.len(), 63);
    assert!(!given.iter().flatten().any(|address| address.to_string() == next));
    assert_eq!(bench.ask(del("c2")), Ok(Answer::Done));
    assert_eq!(bench.prepared("c3", "c").addresses[0].to_string(), next, "and then it is free");
}

#[test]
fn cni_94_an_address_asked_for_is_given_or_refused_with_the_reason() {
    let mut bench = Bench::new();
    let ask = |container: &str, pod: &str, address: &str| {
        let address = address.parse().expect("an address");
        prepare_as(container, pod, |wish| wish.ips = vec![address])
    };
    let Ok(Answer::Prepared(given)) = bench.ask(ask("c1", "a", "10.65.3.7")) else { panic!("not prepared") };
    assert_eq!(given.addresses, ["10.65.3.7".parse::<std::net::IpAddr>().expect("an address")]);
    assert_eq!(code(&bench.ask(ask("c2", "b", "10.65.3.7"))), TRY_AGAIN);
    assert_eq!(code(&bench.ask(ask("c2", "b", "10.66.0.1"))), INVALID_CONFIG);
    assert_eq!((bench.held("c1"), bench.held("c2")), (1, 0));
    assert!(bench.agent.journal.get(&id("c2")).is_none(), "nothing is left of a refusal");
}

#[test]
fn calc_15_several_interfaces_of_a_container_are_attached_and_told_of_together() {
    let mut bench = Bench::new();
    let first = bench.attached("c1", "a");
    let wish = prepare_as("c1", "a", |wish| wish.id = interface("c1", "net1"));
    let Ok(Answer::Prepared(second)) = bench.ask(wish) else { panic!("not prepared") };
    assert_eq!(bench.ask(commit_with(interface("c1", "net1"), &[])), Ok(Answer::Done));
    assert_ne!((&first.host_interface, &first.addresses), (&second.host_interface, &second.addresses));
    assert_eq!(bench.agent.kernel.endpoints.len(), 2);
    assert_eq!(told(&bench).len(), 2);
    assert_eq!(bench.ask(Operation::Del { id: interface("c1", "net1") }), Ok(Answer::Done));
    assert_eq!(told(&bench), [first.addresses[0].to_string()]);
    assert!(bench.agent.kernel.in_force(&id("c1")));
    assert_eq!(bench.ask(check("c1")), Ok(Answer::Done));
}

#[test]
fn two_identities_whose_names_join_to_the_same_are_not_both_served() {
    let mut bench = Bench::new();
    bench.attached("c1.net1", "a");
    let wish = prepare_as("c1", "b", |wish| wish.id = interface("c1", "net1"));
    assert_eq!(code(&bench.ask(wish)), INVALID_CONFIG);
}

#[test]
fn cni_66_gc_before_the_datastore_has_spoken_takes_nothing_away() {
    let mut bench = Bench::new();
    let kept = bench.attached("c1", "a");
    bench.agent = agent(bench.dir.path(), &[kept.host_interface]);
    let gc = Operation::Gc { network: "net".into(), keep: vec![] };
    assert_eq!(code(&bench.ask(gc.clone())), TRY_AGAIN);
    bench.sync();
    assert_eq!(bench.held("c1"), 1);
    assert_eq!(bench.ask(gc), Ok(Answer::Done));
    assert_eq!(bench.held("c1"), 0);
}

#[test]
fn cni_65_an_add_that_a_gc_overtakes_is_told_to_try_again() {
    let mut bench = Bench::new();
    bench.prepared("c1", "a");
    assert_eq!(bench.ask(Operation::Gc { network: "net".into(), keep: vec![] }), Ok(Answer::Done));
    assert_eq!(code(&bench.ask(commit("c1"))), TRY_AGAIN);
    assert_eq!(bench.held("c1"), 0);
    let both = bench.ask_all(vec![prepare("c2", "b"), Operation::Gc { network: "net".into(), keep: vec![] }]);
    assert!(both.iter().all(Result::is_ok), "{both:?}");
    assert_eq!(bench.held("c2"), 0, "what came before it in the same batch is seen");
    bench.ask_all(vec![Operation::Gc { network: "net".into(), keep: vec![] }, prepare("c3", "c")]);
    assert_eq!(bench.held("c3"), 1, "what came after is not stale");
}

#[test]
fn own_13_gc_of_one_network_leaves_another_that_shares_its_pools() {
    let mut bench = Bench::new();
    let other = |container: &str| AttachmentId { network: "other".into(), ..id(container) };
    bench.attached("c1", "a");
    bench.ask(prepare_as("c1", "b", |wish| wish.id = other("c1"))).expect("prepared");
    assert_eq!(bench.ask(commit_with(other("c1"), &[])), Ok(Answer::Done));
    assert_eq!(bench.ask(Operation::Gc { network: "net".into(), keep: vec![] }), Ok(Answer::Done));
    assert_eq!(bench.agent.kernel.endpoints, [other("c1")].into());
    assert_eq!((bench.held("c1"), bench.agent.allocator.held_by(&other("c1")).expect("readable").len()), (0, 1));
}

#[test]
fn cni_52_check_sees_an_endpoint_out_of_force_and_a_lost_reservation() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    let check = || check("c1");
    bench.agent.kernel.endpoints.clear();
    assert!(bench.ask(check()).expect_err("not in force").message.contains("not in force"));
    bench.agent.look(Extent::Everything);
    assert_eq!(bench.ask(check()), Ok(Answer::Done));
    bench.agent.allocator.release(&[id("c1")], &[], &[]).expect("released");
    assert!(bench.ask(check()).expect_err("no reservation").message.contains("10.65."));
}

#[test]
fn cni_71_72_e50_status_says_that_the_addresses_are_exhausted_exactly_when_they_are() {
    let mut bench = Bench::new();
    let cidr = "10.77.0.0/30".parse().expect("a valid network");
    let pool = IpPool::of_pods("p", cidr, 30);
    bench.agent.take(vec![Event::Updates(vec![Update::Set(Resource::IpPool(pool))])]);
    let status = |delegated| Operation::Status { network: "net".into(), delegated, pod_cidrs: vec![] };
    for pod in 0..4 {
        assert_eq!(bench.ask(status(false)), Ok(Answer::Done), "{pod} of 4 are taken");
        bench.attached(&format!("c{pod}"), &format!("p{pod}"));
    }
    assert_eq!(code(&bench.ask(status(false))), NOT_AVAILABLE);
    assert_eq!(bench.ask(status(true)), Ok(Answer::Done), "another plugin's addresses are not ours to count");
    assert_eq!(code(&bench.ask(prepare("c4", "p4"))), TRY_AGAIN);
    assert_eq!(bench.ask(del("c0")), Ok(Answer::Done), "a DEL is served all the same");
    assert_eq!(bench.ask(status(false)), Ok(Answer::Done));
    bench.attached("c4", "p4");
}

#[test]
fn cni_73_e51_status_tells_of_limited_pods_only_when_it_lasts() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    let status = || Operation::Status { network: "net".into(), delegated: false, pod_cidrs: vec![] };
    bench.agent.kernel.stuck = true;
    bench.agent.look(Extent::Everything);
    assert_eq!(bench.ask(status()), Ok(Answer::Done), "for a moment that is no news");
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).expect("the machine is up for a minute");
    bench.agent.limited = Some(long_ago);
    bench.agent.tick();
    let fault = bench.ask(status()).expect_err("it lasts");
    assert_eq!(fault.code, LIMITED);
    assert!(fault.message.contains("refused"), "{fault}");
    bench.agent.kernel.stuck = false;
    bench.agent.tick();
    assert_eq!(bench.ask(status()), Ok(Answer::Done));
}

#[test]
fn nothing_is_looked_at_before_the_datastore_has_spoken_and_what_was_put_back_is_counted() {
    let mut bench = Bench::before_the_datastore_has_spoken();
    bench.agent.look(Extent::Everything);
    bench.agent.tick();
    assert_eq!(bench.agent.kernel.looks, 0, "what is wanted is not known");
    bench.sync();
    bench.agent.look(Extent::Everything);
    bench.agent.look(Extent::Everything);
    let status = bench.ask(Operation::Query(cni::protocol::Query::Show { table: "status".into() }));
    let Ok(Answer::Report { report }) = status else { panic!("{status:?}") };
    let row = &report["driftRepaired"][0];
    assert_eq!((&row["kind"], &row["count"], &row["last"]), (&"route".into(), &2.into(), &"route 2".into()));
    assert!(bench.agent.ready(), "drift that was put back is no reason to be passed over");
}

fn policy(kind: &str, spec: &str) -> Event {
    let text = format!("{{apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{name: p}}, spec: {spec}}}");
    let objects = datastore::snapshot::file(Path::new("p.yaml"), &text).expect("the test writes a policy");
    Event::Updates(objects.into_iter().map(Update::Set).collect())
}

#[test]
fn what_is_only_staged_gives_way_to_what_is_enforced_where_there_is_no_room_for_both() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    let staged = || policy("StagedGlobalNetworkPolicy", "{selector: all(), ingress: [{action: Deny}]}");
    bench.agent.take(vec![staged()]);
    assert_eq!(bench.agent.kernel.previews, 1, "there is room");
    bench.agent.kernel.full = true;
    bench.agent.take(vec![policy("GlobalNetworkPolicy", "{selector: all(), order: 1, ingress: [{action: Allow}]}")]);
    assert_eq!((bench.agent.kernel.previews, &bench.agent.outcome.failed), (0, &vec![]), "the change is in force");
    assert!(bench.agent.problems().iter().any(|said| said.contains("staged policies are not tried")));
    bench.agent.kernel.full = false;
    bench.agent.take(vec![policy("GlobalNetworkPolicy", "{selector: all(), order: 2, ingress: [{action: Allow}]}")]);
    assert_eq!(bench.agent.kernel.previews, 1, "there is room again");
    assert!(bench.agent.problems().is_empty());
}
