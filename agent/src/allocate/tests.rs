//! Addresses in a directory: given, taken back, claimed again, and how much is written for that.
//! In: attachments of few nodes. Out: what blocks and handles say then, and what was written.
//! Invariant: what Calico or an older version has written is found and released, and never rewritten.
//! Never: looks into a decision; `libs/ipam` does.

use super::*;
use datastore::{
    Objects, Shared,
    census::Survey,
    settings::{Change, Setting},
};
use ipam::audit::Census;
use model::{Attachment, ServiceAddresses, WorkloadAddress};
use std::sync::Arc;

fn allocator(dir: &std::path::Path, node: &str) -> Allocator {
    let mut allocator =
        Allocator::new(std::sync::Arc::new(datastore::Objects::open(dir).expect("a store")), node.into());
    let cidr = "10.65.0.0/16".parse().expect("a valid network");
    let pool = IpPool::of_pods("p", cidr, 26);
    allocator.rules.pools.insert("p".into(), pool);
    allocator
}

fn wish(container: &str) -> Wish {
    let id = AttachmentId { network: "net".into(), container: container.into(), interface: "eth0".into() };
    Wish::any(id, PodId::new("default", container))
}

fn one(allocator: &Allocator, container: &str) -> Vec<IpAddr> {
    let mut all = allocator.assign(&[wish(container)], |_| {});
    all.remove(0).expect("an address")
}

#[test]
fn an_address_survives_the_agent_and_goes_back_with_its_handle() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let first = one(&allocator(dir.path(), "n1"), "a");
    let again = allocator(dir.path(), "n1");
    assert_eq!(one(&again, "a"), first);
    assert_eq!(again.release(&[wish("a").id], &[], &[]).expect("released"), first);
    assert_eq!(again.release(&[wish("a").id], &[], &[]).expect("twice is no error"), Vec::<IpAddr>::new());
    assert_ne!(one(&again, "b"), first, "a released address goes to the back");
}

#[test]
fn what_is_given_back_cools_down_and_what_was_only_written_down_is_free_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut allocator = allocator(dir.path(), "n1");
    allocator.rules.config.cooldown = 600;
    let cooling = || {
        let ledger = allocator.ledger(false).expect("readable");
        ledger.blocks.values().map(|kept| kept.value.cooling_down().count()).sum::<usize>()
    };
    for container in ["a", "b"] {
        one(&allocator, container);
    }
    allocator.release(&[wish("a").id], &[], &[]).expect("released");
    assert_eq!(cooling(), 1);
    assert_eq!(allocator.take_back_all(&[owner_of(&wish("b").id)]).expect("taken back").len(), 1);
    assert_eq!(cooling(), 1);
}

#[test]
fn ipam_18_two_nodes_that_race_never_share_an_address() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let work = |node: &'static str| {
        let dir = dir.path().to_owned();
        std::thread::spawn(move || {
            let allocator = allocator(&dir, node);
            (0..10).flat_map(|pod| one(&allocator, &format!("{node}-{pod}"))).collect::<Vec<_>>()
        })
    };
    // Two agents of one node name race for one block, the third for another.
    let threads = [work("n1"), work("n2"), work("n3")];
    let mut all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 30);
}

#[test]
fn what_the_blocks_know_of_pods_that_went_with_the_machine_is_taken_back_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (own, other) = (allocator(dir.path(), "n1"), allocator(dir.path(), "n2"));
    let [kept, lost, elsewhere] = [one(&own, "kept"), one(&own, "lost"), one(&other, "elsewhere")];
    let known = [owner_of(&wish("kept").id).to_lowercase()].into();
    assert_eq!(own.release_strangers(&known).expect("released"), lost);
    assert_eq!(own.release_strangers(&known).expect("nothing is left to release"), Vec::<IpAddr>::new());
    assert_eq!(own.held_by(&wish("kept").id).expect("readable"), kept);
    assert_eq!(other.held_by(&wish("elsewhere").id).expect("readable"), elsewhere);
}

#[test]
fn what_attachments_have_is_held_again_where_the_blocks_have_forgotten_it_and_taken_from_nobody() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (own, other) = (allocator(dir.path(), "n1"), allocator(dir.path(), "n2"));
    let known: Vec<_> = ["a", "b"].map(|name| Wish { wanted: one(&own, name), ..wish(name) }).into();
    let is_held = |wish: &Wish| own.held_by(&wish.id).expect("readable") == wish.wanted;
    let revisions = || {
        let blocks = own.objects.list(BLOCK).expect("readable").into_iter();
        blocks.map(|block| block.metadata.resource_version).collect::<Vec<_>>()
    };
    let forget = || {
        for kind in [BLOCK, AFFINITY, HANDLE] {
            std::fs::remove_dir_all(dir.path().join(".tortie").join(kind)).expect("removed");
        }
    };
    let before = revisions();
    assert_eq!(own.claim_all(&known).expect("readable"), Claimed::default());
    let elsewhere = Wish { wanted: vec![[192, 0, 2, 9].into()], ..wish("e") };
    assert_eq!(own.claim_all(&[elsewhere]).expect("readable"), Claimed::default(), "it is no pool's");
    assert_eq!(revisions(), before, "what is held is not written");
    forget();
    assert_eq!(own.claim_all(&known).expect("written"), Claimed { lacking: 2, refused: vec![] });
    assert!(known.iter().all(is_held));
    let next = one(&own, "c");
    assert!(known.iter().all(|wish| wish.wanted != next), "nothing is given twice");
    forget();
    other.claim(&Wish { id: wish("theirs").id, ..known[0].clone() }).expect("another node was faster");
    let Claimed { refused, lacking } = own.claim_all(&known).expect("written");
    assert_eq!(lacking, 1, "what somebody else has is not claimed again and again");
    assert!(matches!(&refused[..], [(pod, AssignError::Taken { .. })] if *pod == known[0].pod), "{refused:?}");
    assert!(!is_held(&known[0]) && is_held(&known[1]));
}

#[test]
fn all_who_wait_are_served_by_one_write_of_the_block() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let allocator = allocator(dir.path(), "n1");
    let wishes: Vec<_> = (0..5).map(|pod| wish(&format!("c{pod}"))).collect();
    assert!(allocator.assign(&wishes, |_| {}).iter().all(Result::is_ok));
    let ledger = allocator.read(About::own(&[]), Reach::Whole).expect("readable");
    let block = &ledger.blocks.values().next().expect("one block").value;
    assert_eq!(block.sequence_number_for_allocation.values().min(), Some(&(block.sequence_number - 1)));
}

#[test]
fn a_block_under_another_blocks_name_is_named_and_gives_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let allocator = allocator(dir.path(), "n1");
    one(&allocator, "a");
    let blocks = dir.path().join(".tortie").join(BLOCK);
    let file = std::fs::read_dir(&blocks).expect("listed").next().expect("one block").expect("readable").path();
    let text = std::fs::read_to_string(&file).expect("readable");
    // As somebody copies a file to make another.
    let copied = text.replace(&*file.file_stem().expect("a name").to_string_lossy(), "10-65-99-0-26");
    std::fs::write(blocks.join("10-65-99-0-26.yaml"), copied).expect("written");
    // Who knows its own block writes that, under its own name; who looks for one among all does not know which is meant.
    let fresh = self::allocator(dir.path(), "n1");
    let error = fresh.assign(&[wish("b")], |_| {}).remove(0).expect_err("two say that they are one");
    assert!(
        error.to_string().contains("IPAMBlock 10-65-99-0-26: cannot be read: it says that it is 10.65."),
        "{error}"
    );
    assert!(fresh.release(&[wish("a").id], &[], &[]).is_err(), "nor is anything given back by it");
}

#[test]
fn a_damaged_block_is_named_and_gives_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let allocator = allocator(dir.path(), "n1");
    one(&allocator, "a");
    let mut object = allocator.objects.list(BLOCK).expect("readable").remove(0);
    object.spec["unallocated"] = serde_json::json!([0, 0, 500]);
    allocator.objects.write_all(&[object]).expect("written");
    let error = allocator.assign(&[wish("b")], |_| {}).remove(0).expect_err("a damaged block");
    assert!(error.to_string().contains("IPAMBlock 10.65."), "{error}");
}

/// Counts what is written, by kind, and what is read.
#[derive(Debug)]
struct Counted(Objects, Mutex<BTreeMap<String, usize>>);

impl Counted {
    fn note(&self, kind: &str) {
        *self.1.lock().expect("no panic").entry(kind.to_owned()).or_default() += 1;
    }

    fn taken(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.1.lock().expect("no panic"))
    }
}

impl Shared for Counted {
    fn get(&self, kind: &str, name: &str) -> Result<Option<Object>, ObjectError> {
        self.note("read");
        Shared::get(&self.0, kind, name)
    }
    fn list(&self, kind: &str) -> Result<Vec<Object>, ObjectError> {
        self.note("read");
        Shared::list(&self.0, kind)
    }
    fn create(&self, object: &Object) -> Result<Object, ObjectError> {
        self.note(&object.kind);
        Shared::create(&self.0, object)
    }
    fn update(&self, object: &Object) -> Result<Object, ObjectError> {
        self.note(&object.kind);
        Shared::update(&self.0, object)
    }
    fn delete(&self, kind: &str, name: &str, version: Option<&str>) -> Result<bool, ObjectError> {
        self.note(kind);
        Shared::delete(&self.0, kind, name, version)
    }
    fn publish(&self, pods: &[(WorkloadAddress, Attachment)]) -> Result<(), ObjectError> {
        Shared::publish(&self.0, pods)
    }
    fn tell_vteps(&self, own: &model::NodeVteps) -> Result<(), ObjectError> {
        Shared::tell_vteps(&self.0, own)
    }
    fn tell_addresses(&self, own: &model::NodeAddresses) -> Result<(), ObjectError> {
        Shared::tell_addresses(&self.0, own)
    }
    fn withdraw(&self, pods: &[PodId], node: &NodeName) -> Result<(), ObjectError> {
        Shared::withdraw(&self.0, pods, node)
    }
    fn give(&self, given: &ServiceAddresses) -> Result<(), ObjectError> {
        Shared::give(&self.0, given)
    }
    fn take_back(&self, service: &ServiceId) -> Result<(), ObjectError> {
        Shared::take_back(&self.0, service)
    }
    fn census(&self, nodes: &BTreeSet<NodeName>, pods: &BTreeSet<PodId>) -> Result<Census, ObjectError> {
        Shared::census(&self.0, nodes, pods)
    }
    fn default_of(&self, kind: &str) -> Result<Option<Object>, ObjectError> {
        Shared::default_of(&self.0, kind)
    }
    fn settings(&self, which: Setting) -> Result<Vec<Object>, ObjectError> {
        Shared::settings(&self.0, which)
    }
    fn set(&self, changes: &[Change]) -> Result<(), ObjectError> {
        Shared::set(&self.0, changes)
    }
    fn survey(&self) -> Result<Survey, ObjectError> {
        Shared::survey(&self.0)
    }
}

fn counts(counted: &Counted) -> [usize; 3] {
    let taken = counted.taken();
    [AFFINITY, BLOCK, HANDLE].map(|kind| taken.get(kind).copied().unwrap_or_default())
}

#[test]
fn five_hundred_adds_write_their_blocks_once_and_one_handle_and_a_refusal_writes_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let counted = Arc::new(Counted(Objects::open(dir.path()).expect("a store"), Mutex::default()));
    let mut own = Allocator::new(counted.clone(), "n1".into());
    own.rules = allocator(dir.path(), "n1").rules;
    let wishes = |from: usize, to: usize| (from..to).map(|pod| wish(&format!("c{pod}"))).collect::<Vec<_>>();
    assert!(own.assign(&wishes(0, 500), |_| {}).iter().all(Result::is_ok));
    assert_eq!(counts(&counted), [16, 8, 1], "8 claims, pending and confirmed, 8 blocks, one handle: 0.05 an ADD");
    assert!(own.assign(&wishes(500, 510), |_| {}).iter().all(Result::is_ok));
    assert_eq!(counts(&counted), [0, 1, 1], "of a block that it has");
    let ids: Vec<_> = wishes(0, 510).into_iter().map(|wish| wish.id).collect();
    assert_eq!(own.release(&ids[..500], &[], &[]).expect("released").len(), 500);
    assert_eq!(counts(&counted), [0, 8, 1]);
    own.rules.pools.insert("p".into(), IpPool::of_pods("p", "10.66.0.0/26".parse().expect("a network"), 26));
    assert!(own.assign(&wishes(600, 664), |_| {}).iter().all(Result::is_ok));
    counts(&counted);
    assert!(own.assign(&wishes(700, 800), |_| {}).iter().all(Result::is_err));
    assert_eq!(counts(&counted), [0, 0, 0], "refused");
}

#[test]
fn who_gave_addresses_reads_nothing_to_give_more_until_others_write_there_and_refuses_nobody_unread() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let counted = Arc::new(Counted(Objects::open(dir.path()).expect("a store"), Mutex::default()));
    let mut own = Allocator::new(counted.clone(), "n1".into());
    own.rules.pools.insert("p".into(), IpPool::of_pods("p", "10.66.0.0/30".parse().expect("a network"), 30));
    let reads = || counted.taken().get("read").copied().unwrap_or_default();
    let mut same_node = Allocator::new(counted.clone(), "n1".into());
    same_node.rules = own.rules.clone();
    one(&own, "a");
    assert!(reads() > 0, "it does not know yet what it has");
    one(&own, "b");
    assert_eq!(reads(), 0);
    let third = one(&same_node, "c");
    reads();
    let fourth = one(&own, "d");
    assert!(reads() > 0 && fourth != third, "another has written since");
    // The block is full, for all that this one knows.
    assert_eq!(same_node.release(&[wish("c").id], &[], &[]).expect("released"), third);
    assert_eq!(one(&own, "e"), third);
    assert!(own.assign(&[wish("f")], |_| {}).remove(0).is_err(), "now it is");
}

/// As Calico, or an older version, gave it out: under a handle of its own.
fn given_before(allocator: &Allocator, address: IpAddr, handle: &str, node: &str) {
    let mut ledger = allocator.ledger(true).expect("readable");
    let (cidr, kept) = ledger.blocks.iter().find(|(cidr, _)| cidr.contains(address)).expect("its block");
    let (cidr, mut kept) = (*cidr, kept.clone());
    let beside = [("pod", "old"), ("namespace", "default"), ("node", node)];
    let beside = beside.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    kept.value.take(address, handle, &beside).expect("it is free");
    ledger.blocks.insert(cidr, kept);
    allocator.write_all(&ledger.writes()).expect("written");
}

#[test]
fn ipam_27_what_was_given_under_a_handle_of_its_own_is_found_released_and_never_rewritten() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (own, other) = (allocator(dir.path(), "n1"), allocator(dir.path(), "n2"));
    let at = |allocator: &Allocator, pod: &str| {
        let IpAddr::V4(given) = one(allocator, pod)[0] else { panic!("IPv4") };
        IpAddr::from([given.octets()[0], given.octets()[1], given.octets()[2], given.octets()[3] | 63])
    };
    let (near, lent) = (at(&own, "a"), at(&other, "b"));
    given_before(&own, near, "net.near", "n1");
    given_before(&own, lent, "net.lent", "n1");
    let handles = || -> BTreeSet<String> {
        own.objects.list(HANDLE).expect("listed").into_iter().map(|object| object.metadata.name).collect()
    };
    let before = handles();
    assert!(before.contains("net.near") && before.contains("net.lent") && before.len() == 4, "{before:?}");
    // An agent that begins, and knows then where to look.
    let anew = allocator(dir.path(), "n1");
    for _ in 0..2 {
        assert_eq!((one(&anew, "near"), one(&anew, "lent")), (vec![near], vec![lent]), "ADD said again");
        assert_eq!(own.held_by(&wish("lent").id).expect("readable"), [lent]);
    }
    one(&own, "c");
    assert_eq!(handles(), before);
    assert_eq!(own.release(&[wish("lent").id, wish("near").id], &[], &[]).expect("released").len(), 2);
    assert_eq!(handles(), ["tortie-node-n1", "tortie-node-n2"].map(str::to_owned).into());
    // The first versions of Calico counted under the pod's name.
    given_before(&own, near, "default.near", "n1");
    let (id, pod) = (wish("near").id, PodId::new("default", "near"));
    assert!(other.release(std::slice::from_ref(&id), std::slice::from_ref(&pod), &[]).expect("done").is_empty());
    assert_eq!(own.release(&[id], &[pod], &[]).expect("released"), [near]);
    assert_eq!(handles().len(), 2);
}

#[test]
fn a_nodes_handle_that_counts_wrong_is_mended_and_by_the_nodes_own_next_decision_too() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let own = allocator(dir.path(), "n1");
    one(&own, "a");
    let spoil = |count: u32| {
        let mut object = own.objects.get(HANDLE, "tortie-node-n1").expect("readable").expect("there");
        let block = object.spec["block"].as_object_mut().expect("a map");
        block.values_mut().for_each(|counted| *counted = count.into());
        own.objects.update(&object).expect("written");
    };
    let counted = || {
        let ledger = own.ledger(true).expect("readable");
        ledger.handles["tortie-node-n1"].value.block.values().sum::<u32>()
    };
    let places: BTreeSet<Cidr> = own.ledger(false).expect("readable").blocks.keys().copied().collect();
    for count in [0, 1, 7] {
        spoil(count);
        assert!(own.mend("tortie-node-n1", &places).expect("written"));
        assert_eq!(counted(), 1);
        spoil(count);
        one(&own, "b");
        assert_eq!(counted(), 2);
        own.release(&[wish("b").id], &[], &[]).expect("released");
        assert_eq!(counted(), 1);
    }
}

#[test]
fn what_was_to_outlive_its_pod_is_counted_no_more_where_its_pool_gives_nothing_and_a_bad_name_harms_nobody() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut allocator = allocator(dir.path(), "n1");
    let keeps = Keeps { asked: Some(true), ..Keeps::default() };
    let of = |name: &str| {
        let id = AttachmentId { network: "net".into(), container: "a".into(), interface: "eth0".into() };
        Wish { keeps: keeps.clone(), ..Wish::any(id, PodId::new("x", name)) }
    };
    let named = of(&"long.".repeat(60));
    let given = allocator.assign(&[named.clone(), wish("b")], |_| {});
    assert!(given.iter().all(Result::is_ok), "{given:?}");
    allocator.rules.pools.values_mut().for_each(|pool| pool.disabled = true);
    assert_eq!(allocator.release(&[named.id], &[], &[]).expect("released").len(), 1);
    let handles: Vec<_> = allocator.ledger(true).expect("readable").handles.keys().cloned().collect();
    assert_eq!(handles, ["tortie-node-n1"]);
}
