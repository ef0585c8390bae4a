//! State files: a journal's record, the last good form of a policy, the objects of address management.
//! In: a byte that says which, then the file's text, or bytes that a block is made of. Out: nothing, or a broken promise.
//! Invariant: a file that is there is either read or complained about; a damaged block gives out no address.
//! Never: reads a file of the machine.

// The agent is a program and no library: its journal is compiled in here once more.
#[path = "../../../agent/src/journal.rs"]
#[expect(dead_code, reason = "only what reads records is asked")]
mod journal;

use datastore::{Object, last_good_policy};
use ipam::{AllocationAttribute, AssignError, Block, BlockAffinity, IpamHandle, Kept, Ledger, Request};
use journal::{FOLDER, Journal};
use model::{Cidr, IpPool, Resource};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fs, net::IpAddr};

/// One input.
pub fn run(bytes: &[u8]) {
    let Some((kind, text)) = bytes.split_first() else { return };
    match kind {
        b'j' => journal_record(text),
        b'p' => policy_record(text),
        b'b' => made(text),
        _ => object(text),
    }
}

thread_local! {
    /// A state directory with one file, which each input overwrites.
    static STATE: tempfile::TempDir = tempfile::tempdir().expect("a temporary directory can be made");
}

fn journal_record(text: &[u8]) {
    STATE.with(|state| {
        let file = state.path().join(FOLDER).join("cali1.json");
        fs::create_dir_all(state.path().join(FOLDER)).expect("a folder can be made");
        fs::write(&file, text).expect("a file can be written");
        let (journal, damaged) = Journal::open(state.path()).expect("the journal opens");
        let known: Vec<_> = journal.all().cloned().collect();
        assert_eq!(known.len() + damaged.len(), 1, "a record is read or complained about: {known:?} {damaged:?}");
        assert_eq!(fs::read(&file).ok().as_deref(), Some(text), "a record was changed by reading it");
        if let [attachment] = &known[..] {
            assert_eq!(attachment.host_interface.0, "cali1");
            assert_eq!(journal.get(&attachment.id), Some(attachment));
        }
        for error in &damaged {
            assert!(error.to_string().contains("cali1.json"), "{error}");
        }
    });
}

fn policy_record(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    if let Ok(resource) = last_good_policy(text) {
        let value: serde_json::Value = serde_json::from_str(text).expect("a record is JSON");
        assert!(value["file"].is_string());
        // Calico's client stores the name that a user gave in an annotation.
        if value["object"]["apiVersion"] != "crd.projectcalico.org/v1" {
            assert_eq!(value["object"]["metadata"]["name"].as_str(), Some(name_of(&resource).as_str()));
        }
    }
}

fn name_of(resource: &Resource) -> String {
    resource.key().to_string().rsplit(['/', ' ']).next().unwrap_or_default().to_owned()
}

/// An object of any kind that address management reads.
fn object(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(object) = text.parse::<Object>() else { return };
    round::<BlockAffinity>(&object);
    round::<IpamHandle>(&object);
    round::<Block>(&object).into_iter().for_each(checked);
}

/// A small block, made of bytes: in text a contradiction between its lists is a rare find.
fn made(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mut below = |end: u8| usize::from(bytes.next().unwrap_or(0) % end);
    let cidr = Cidr::new([10, 65, 3, 0].into(), 30).expect("a network");
    let mut block = Block::new(cidr, &["n1", "n2"][below(2)].into(), 7);
    let owner = |number| AllocationAttribute {
        handle_id: Some(format!("h{number}")),
        secondary: BTreeMap::new(),
        other: BTreeMap::new(),
    };
    block.attributes = (0..below(3)).map(owner).collect();
    // Free as often as not; an owner that there is, or one that there is not.
    block.allocations.iter_mut().for_each(|allocation| *allocation = below(5).checked_sub(2));
    block.unallocated = (0..below(6)).map(|_| below(5)).collect();
    checked(block);
}

fn checked(block: Block) {
    match block.check() {
        Ok(()) => {
            let times = |ordinal| block.unallocated.iter().filter(|free| **free == ordinal).count();
            for (ordinal, owner) in block.allocations.iter().enumerate() {
                assert!(times(ordinal) + usize::from(owner.is_some()) <= 1, "{ordinal} could be given out twice");
            }
            sound(block);
        }
        Err(_) => damaged(block),
    }
}

/// What can be read says the same when it is written and read again.
fn round<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(object: &Object) -> Option<T> {
    let read: T = serde_json::from_value(object.spec.clone()).ok()?;
    let written = serde_json::to_value(&read).expect("what was read can be written");
    let again: T = serde_json::from_value(written).expect("what was written can be read");
    assert_eq!(again, read);
    Some(read)
}

fn request(handle: &str) -> Request {
    Request { node: "n1".into(), owner: handle.into(), sequence: 1, ..Request::default() }
}

/// A ledger with this block, and a pool that holds it.
fn ledger(block: Block) -> Ledger {
    let cidr = block.cidr;
    let bounds = if cidr.is_v4() { 20..=32 } else { 116..=128 };
    let block_size = cidr.prefix_len().clamp(*bounds.start(), *bounds.end());
    let mut ledger = Ledger::default();
    ledger.pools.insert("p".into(), IpPool::of_pods("p", cidr, block_size));
    ledger.blocks.insert(cidr, Kept { revision: Some("1".into()), value: block });
    ledger
}

fn holders(block: &Block, address: IpAddr) -> usize {
    let ids = block.attributes.iter().filter_map(AllocationAttribute::owner);
    ids.filter(|id| block.held_by(id).contains(&address)).count()
}

/// A block that agrees with itself keeps doing so, whatever is done with it.
fn sound(block: Block) {
    let mut handle = "fuzz.new".to_owned();
    while block.attributes.iter().any(|attribute| attribute.owner() == Some(handle.as_str())) {
        handle.push('x');
    }
    let cidr = block.cidr;
    let mut after = ledger(block);
    after.blocks.settle();
    let before = after.clone();
    if let Ok(addresses) = after.assign(&request(&handle)) {
        let [address] = addresses[..] else { panic!("one pool gives one address, not {addresses:?}") };
        assert!(cidr.contains(address));
        for (at, kept) in &before.blocks {
            assert!(!at.contains(address) || holders(&kept.value, address) == 0, "{address} had an owner");
        }
        assert_eq!(after.held_by(&handle), [address]);
        assert_eq!(after.assign(&request(&handle)), Ok(vec![address]));
    }
    assert!(after.blocks.values().all(|kept| kept.value.check().is_ok()));
    let writes = after.writes();
    assert!(!writes.is_empty() || after == before);
    let held = after.held_by(&handle);
    assert_eq!(after.release(&handle), held);
    assert!(after.held_by(&handle).is_empty());
    assert!(after.blocks.values().all(|kept| kept.value.check().is_ok()));
    drop(after.writes());
}

/// A block that contradicts itself is as good as not there for whoever wants an address, and in the way of new blocks.
fn damaged(block: Block) {
    let own = block.belongs_to(&"n1".into()) && !block.deleted;
    let cidr: Cidr = block.cidr;
    let mut ledger = ledger(block);
    let before = ledger.clone();
    match ledger.assign(&request("fuzz.new")) {
        Ok(addresses) => panic!("a damaged block gave {addresses:?}"),
        Err(AssignError::Invalid(error)) => assert!(own && error.cidr == cidr),
        Err(_) => assert!(!own),
    }
    assert!(ledger.release("fuzz.new").is_empty());
    assert_eq!(ledger.blocks, before.blocks);
}
