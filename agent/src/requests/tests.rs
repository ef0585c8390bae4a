//! Requests against a kernel that only remembers: what is answered when, and what is left behind.
//! In: batches of requests. Out: replies, the fake kernel's endpoints, the records and the blocks.
//! Invariant: every test starts with an empty directory.
//! Never: a real kernel, a socket, a thread.

use super::*;
use crate::{
    allocate::Allocator,
    journal::Journal,
    owner::{Event, Node},
};
use calc::{Desired, World};
use cni::protocol::{Prepare, Prepared};
use dataplane::{Applied, ApplyError, Question, ReportError, TwinAnswer, TwinError};
use datastore::Objects;
use model::{Attachment, IfaceName, IpPool, Mac, PodId, Resource, Update};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::Path,
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

#[derive(Default)]
struct FakeKernel {
    endpoints: BTreeSet<AttachmentId>,
    broken: bool,
    stuck: bool,
    unwired: Vec<AttachmentId>,
}

impl Kernel for FakeKernel {
    fn apply(&mut self, desired: &Desired) -> Applied {
        let failed =
            |what: &str| vec![(what.to_owned(), ApplyError { step: "attach".into(), reason: "refused".into() })];
        if self.stuck {
            return Applied { failed: failed("commit"), ..Applied::default() };
        }
        let wanted: BTreeSet<_> = desired.endpoints.keys().cloned().collect();
        self.endpoints.retain(|id| wanted.contains(id));
        if self.broken {
            return Applied { failed: failed("cali"), ..Applied::default() };
        }
        self.endpoints = wanted;
        Applied::default()
    }
    fn settle(&mut self) {}
    fn in_force(&self, id: &AttachmentId) -> bool {
        self.endpoints.contains(id)
    }
    fn sweep_conntrack(&mut self) -> usize {
        0
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
        let pool = IpPool { name: "p".into(), cidr, block_size: 26, disabled: false };
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
    let node = Node { name: "n1".into(), mtu: 1400, problems: Box::new(Vec::new), damaged };
    let objects = Objects::open(&dir.join("store")).expect("a store");
    let world = World::new("n1".into(), false);
    let allocator = Allocator::new(objects, "n1".into());
    Agent::new(node, world, FakeKernel::default(), allocator, journal, &interfaces.iter().cloned().collect())
}

fn asked(operation: Operation) -> (Event, Receiver<Reply>) {
    let (reply, answer) = sync_channel(1);
    let deadline = Instant::now() + Duration::from_secs(3600);
    (Event::Ask(Ask { operation, deadline, reply }), answer)
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
    })
}

fn commit(container: &str) -> Operation {
    Operation::Commit { id: id(container), mac: Mac([2, 0, 0, 0, 0, 1]) }
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
    assert_eq!(code(&bench.ask(Operation::Status { network: "net".into() })), NOT_AVAILABLE);
    bench.sync();
    assert_eq!(bench.ask(Operation::Status { network: "net".into() }), Ok(Answer::Done));
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
fn commit_is_answered_when_it_is_in_force_and_other_nodes_are_told() {
    let mut bench = Bench::new();
    bench.attached("c1", "a");
    assert!(bench.agent.kernel.in_force(&id("c1")));
    assert_eq!(bench.ask(Operation::Check { id: id("c1") }), Ok(Answer::Done));
    let told = bench.agent.allocator.objects().list("WorkloadAddress").expect("readable");
    assert_eq!(told.len(), 1);
}

#[test]
fn a_commit_that_does_not_come_into_force_is_refused_with_the_reason_and_taken_back() {
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
    assert_eq!(bench.ask(Operation::Check { id: id("c1") }), Ok(Answer::Done));
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
    bench.agent.take(vec![Event::Ask(Ask { operation: prepare("c1", "a"), deadline: Instant::now(), reply })]);
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
fn names_that_cannot_name_an_object_are_refused() {
    let mut bench = Bench::new();
    for container in ["", "../x", "a b"] {
        assert_eq!(code(&bench.ask(prepare(container, "a"))), INVALID_CONFIG);
    }
}
