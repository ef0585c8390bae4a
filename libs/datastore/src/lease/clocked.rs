//! Which clock reading an agent acts on: a store that takes its time, and what is acted on when it has answered.
//! In: two agents over one directory, each call of which takes as long as a test says. Out: who holds, and until when.
//! Invariant: what this node may do is counted from before a call, what others must have been silent from after it.
//! Never: waits for time to pass.

use super::*;
use crate::{
    Objects, Shared,
    census::Survey,
    settings::{Change, Setting},
};
use ipam::audit::Census;
use model::{Attachment, NodeAddresses, NodeName, NodeVteps, PodId, ServiceAddresses, ServiceId, WorkloadAddress};
use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

type Outcome = Result<(), Box<dyn Error>>;

/// A clock that moves while the store is asked.
#[derive(Debug)]
struct Slow {
    objects: Objects,
    at: Arc<AtomicU64>,
    took: Arc<AtomicU64>,
    /// What was heard of each object first, where nothing is heard any more.
    heard: Option<Mutex<BTreeMap<String, Option<Arc<Object>>>>>,
}

impl Slow {
    fn after<T>(&self, answer: T) -> T {
        self.at.fetch_add(self.took.load(Ordering::Relaxed), Ordering::Relaxed);
        answer
    }
}

impl Shared for Slow {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Object>, ObjectError> {
        let found = self.after(self.objects.get(kind, name))?;
        if let Some(heard) = &self.heard {
            heard.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), found.clone().map(Arc::new));
        }
        Ok(found)
    }
    fn known(&self, kind: &str, name: &str) -> Result<Option<Arc<Object>>, ObjectError> {
        let Some(heard) = &self.heard else { return Ok(self.get(kind, name)?.map(Arc::new)) };
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = heard.get(name) {
            return Ok(known.clone());
        }
        let known = self.objects.get(kind, name)?.map(Arc::new);
        heard.insert(name.to_owned(), known.clone());
        Ok(known)
    }
    fn list(&self, kind: &str) -> Result<Vec<Object>, ObjectError> {
        self.after(self.objects.list(kind))
    }
    fn create(&self, object: &Object) -> Result<Object, ObjectError> {
        self.after(Shared::create(&self.objects, object))
    }
    fn update(&self, object: &Object) -> Result<Object, ObjectError> {
        self.after(Shared::update(&self.objects, object))
    }
    fn delete(&self, kind: &str, name: &str, version: Option<&str>) -> Result<bool, ObjectError> {
        self.after(Shared::delete(&self.objects, kind, name, version))
    }
    fn publish(&self, pods: &[(WorkloadAddress, Attachment)]) -> Result<(), ObjectError> {
        self.after(Shared::publish(&self.objects, pods))
    }
    fn tell_vteps(&self, own: &NodeVteps) -> Result<(), ObjectError> {
        self.after(self.objects.tell_vteps(own))
    }

    fn tell_addresses(&self, own: &NodeAddresses) -> Result<(), ObjectError> {
        self.after(self.objects.tell_addresses(own))
    }
    fn withdraw(&self, pods: &[PodId], node: &NodeName) -> Result<(), ObjectError> {
        self.after(Shared::withdraw(&self.objects, pods, node))
    }
    fn give(&self, given: &ServiceAddresses) -> Result<(), ObjectError> {
        self.after(Shared::give(&self.objects, given))
    }
    fn take_back(&self, service: &ServiceId) -> Result<(), ObjectError> {
        self.after(Shared::take_back(&self.objects, service))
    }
    fn census(&self, nodes: &BTreeSet<NodeName>, pods: &BTreeSet<PodId>) -> Result<Census, ObjectError> {
        self.after(Shared::census(&self.objects, nodes, pods))
    }
    fn default_of(&self, kind: &str) -> Result<Option<Object>, ObjectError> {
        self.after(Shared::default_of(&self.objects, kind))
    }
    fn settings(&self, kind: Setting) -> Result<Vec<Object>, ObjectError> {
        self.after(Shared::settings(&self.objects, kind))
    }
    fn set(&self, changes: &[Change]) -> Result<(), ObjectError> {
        self.after(Shared::set(&self.objects, changes))
    }
    fn survey(&self) -> Result<Survey, ObjectError> {
        self.after(Shared::survey(&self.objects))
    }
}

/// An agent, its clock, and how long the store takes.
struct Agent {
    leases: Leases,
    at: Arc<AtomicU64>,
    took: Arc<AtomicU64>,
}

impl Agent {
    fn open(dir: &std::path::Path, node: &str) -> Self {
        Self::hearing(dir, node, None)
    }

    fn hearing(dir: &std::path::Path, node: &str, heard: Option<Mutex<BTreeMap<String, Option<Arc<Object>>>>>) -> Self {
        let (at, took) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let objects = Objects::open(dir).expect("a store");
        let slow = Slow { objects, at: Arc::clone(&at), took: Arc::clone(&took), heard };
        Self { leases: Leases::open(Arc::new(slow), node, Timing::FAST), at, took }
    }

    /// Calls from now on begin then, and take so long.
    fn calls(&self, at: u64, took: u64) {
        self.at.store(at, Ordering::Relaxed);
        self.took.store(took, Ordering::Relaxed);
    }

    fn beat(&mut self) -> Outcome {
        let at = Arc::clone(&self.at);
        Ok(self.leases.beat(move || millis(at.load(Ordering::Relaxed)))?)
    }

    fn look(&mut self, names: &[&str]) -> Outcome {
        let at = Arc::clone(&self.at);
        let wanted = names.iter().map(|name| ((*name).to_owned(), true)).collect();
        Ok(self.leases.look(&wanted, move || millis(at.load(Ordering::Relaxed)))?)
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_node_believes_from_when_it_began_to_write_not_from_when_that_was_done() -> Outcome {
    let dir = tempfile::tempdir()?;
    let mut one = Agent::open(dir.path(), "n1");
    one.calls(0, 300);
    one.beat()?;
    assert_eq!(one.leases.believes_until(), Some(millis(800)));
    // Over what a former agent left: the second try counts from its own beginning.
    let mut again = Agent::open(dir.path(), "n1");
    again.calls(0, 100);
    again.beat()?;
    assert_eq!(again.leases.believes_until(), Some(millis(200 + 800)), "a write that lost, a reading, a write");
    Ok(())
}

#[test]
fn what_is_held_may_be_acted_on_only_while_the_node_believes() -> Outcome {
    let dir = tempfile::tempdir()?;
    let mut one = Agent::open(dir.path(), "n1");
    one.beat()?;
    one.look(&["a"])?;
    assert!(one.leases.holds("a", millis(799)) && !one.leases.holds("a", millis(800)));
    assert!(!one.leases.holds("b", millis(1)));
    Ok(())
}

#[test]
fn silence_is_counted_from_after_the_first_reading_to_before_the_last() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (mut one, mut two) = (Agent::open(dir.path(), "n1"), Agent::open(dir.path(), "n2"));
    one.beat()?;
    one.look(&["a"])?;
    // Two readings of 100: the lease's, and the heartbeat's, which is over at 200.
    two.calls(0, 100);
    two.look(&["a"])?;
    for (begins, takes_it) in [(1100, false), (1299, false), (1300, true)] {
        two.calls(begins - 50, 0);
        two.beat()?;
        two.calls(begins, 100);
        two.look(&["a"])?;
        assert_eq!(two.leases.holders()["a"].node == "n2", takes_it, "the look that begins at {begins}");
    }
    Ok(())
}

#[test]
fn a_heartbeat_that_is_heard_late_is_no_silence() -> Outcome {
    let dir = tempfile::tempdir()?;
    let mut one = Agent::open(dir.path(), "n1");
    let mut two = Agent::hearing(dir.path(), "n2", Some(Mutex::default()));
    one.beat()?;
    one.look(&["a"])?;
    for at in (0..5000).step_by(150) {
        one.calls(at, 0);
        one.beat()?;
        two.calls(at + 75, 0);
        two.beat()?;
        two.look(&["a"])?;
        assert!(!two.leases.holds("a", millis(at + 75)), "at {at}");
    }
    // It falls silent indeed: what is asked for twice, and has not moved.
    for at in [6100, 7200] {
        two.calls(at, 0);
        two.beat()?;
        two.look(&["a"])?;
    }
    assert!(two.leases.holds("a", millis(7200)));
    Ok(())
}

#[test]
fn who_asks_for_more_patience_gets_it_and_who_asks_for_less_does_not() -> Outcome {
    for (asked, vacant) in [(0, 1100), (500, 1100), (3000, 3000)] {
        let dir = tempfile::tempdir()?;
        let (mut one, mut two) = (Agent::open(dir.path(), "n1"), Agent::open(dir.path(), "n2"));
        one.beat()?;
        one.look(&["a"])?;
        let objects = Objects::open(dir.path())?;
        let mut heartbeat = objects.get(KIND, "node.n1")?.ok_or("it was written")?;
        heartbeat.spec["leaseDurationMilliseconds"] = asked.into();
        Shared::update(&objects, &heartbeat)?;
        two.look(&["a"])?;
        for (at, takes_it) in [(vacant - 1, false), (vacant, true)] {
            two.calls(at, 0);
            two.beat()?;
            two.look(&["a"])?;
            assert_eq!(two.leases.holders()["a"].node == "n2", takes_it, "{asked} ms are asked for, at {at}");
        }
    }
    Ok(())
}

#[test]
fn a_lease_that_another_took_meanwhile_is_left_alone_when_nobody_here_names_it_any_more() -> Outcome {
    let dir = tempfile::tempdir()?;
    let (mut one, mut two) = (Agent::open(dir.path(), "n1"), Agent::open(dir.path(), "n2"));
    one.beat()?;
    one.look(&["a"])?;
    two.look(&["a"])?;
    two.calls(2000, 0);
    two.beat()?;
    two.look(&["a"])?;
    assert_eq!(two.leases.holders()["a"].node, "n2");
    one.calls(2000, 0);
    one.beat()?;
    one.look(&[])?;
    let left = Objects::open(dir.path())?.get(KIND, "a")?.ok_or("it is there")?;
    assert_eq!(left.spec["holderIdentity"], "n2_1");
    // And what is of nobody's shape is nobody's: it goes.
    two.look(&[])?;
    assert!(Objects::open(dir.path())?.get(KIND, "a")?.is_none());
    Ok(())
}

#[test]
fn a_heartbeat_that_was_overtaken_ends_this_life_and_the_next_is_numbered_above_what_was_found() {
    let mut keeper = Keeper::new("n1", Timing::FAST);
    keeper.beaten(millis(0), 1, "5".to_owned());
    assert!(keeper.believes(millis(1)));
    let found = |term| Heartbeat { version: "9".to_owned(), term, expire: Duration::ZERO };
    keeper.overtaken(Some(&found(7)));
    assert!(!keeper.believes(millis(1)) && keeper.believes_until().is_none());
    assert_eq!(keeper.beat(millis(2)), (8, Some("9")));
    // One that was numbered below: no number of this node's comes twice.
    keeper.overtaken(Some(&found(3)));
    assert_eq!(keeper.beat(millis(3)), (8, Some("9")));
    keeper.overtaken(None);
    assert_eq!(keeper.beat(millis(4)), (8, None));
}
