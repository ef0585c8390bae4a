//! Addresses for attachments: the ledger's decisions, written to the objects that all agents share.
//! In: attachments that need addresses or give them back. Out: addresses that nobody else has.
//! Invariant: every write names the revision it was decided on; whoever loses reads again and decides anew.
//! Never: answers with an address before the block that gives it is written.

mod sweep;

use datastore::{Metadata, Object, ObjectError, Store, calendar::go_time};
use ipam::{AssignError, Balanced, BalancerWish, Kept, Ledger, Request, Write, cidr_name, handle_id};
use model::{AttachmentId, IpPool, NodeName, PodId, ServiceId};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

const API_VERSION: &str = "crd.projectcalico.org/v1";
const BLOCK: &str = "IPAMBlock";
const AFFINITY: &str = "BlockAffinity";
const HANDLE: &str = "IPAMHandle";
/// Tries before a decision that others keep overtaking is given up; each lost race is another agent's gain.
const ATTEMPTS: u32 = 100;

/// No addresses.
#[derive(Debug, thiserror::Error)]
pub enum AllocateError {
    /// There is none to give.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The shared objects cannot be read or written.
    #[error("addresses: {0}")]
    Object(#[from] ObjectError),
    /// A shared object is not in Calico's shape.
    #[error("{kind} {name}: cannot be read: {reason}; repair it before addresses are given out")]
    Shape {
        /// The kind.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Somebody else was always faster.
    #[error("addresses: other agents kept writing the same block; try again")]
    Contended,
}

/// Who needs addresses.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The attachment.
    pub id: AttachmentId,
    /// Its pod.
    pub pod: PodId,
    /// Exactly these addresses, at most one a family.
    pub wanted: Vec<IpAddr>,
}

/// What came of claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Attachments that the blocks did not know, and do now.
    pub lacking: usize,
    /// Pods of which somebody else holds an address.
    pub refused: Vec<(PodId, AssignError)>,
}

/// Gives addresses out and takes them back.
#[derive(Debug)]
pub struct Allocator {
    objects: Store,
    node: NodeName,
    /// Pools of the datastore.
    pub pools: BTreeMap<String, IpPool>,
}

impl Allocator {
    /// For `node`, over the shared objects.
    pub fn new(objects: Store, node: NodeName) -> Self {
        Self { objects, node, pools: BTreeMap::new() }
    }

    /// The objects that agents share.
    pub fn objects(&self) -> &Store {
        &self.objects
    }

    /// Addresses for all who wait, in one write of the block. `record` is called with what was decided before anything is
    /// written, so that a crash between leaves a trace; it is called again if the decision has to be made anew.
    pub fn assign(
        &self,
        wishes: &[Wish],
        mut record: impl FnMut(&[Result<Vec<IpAddr>, AssignError>]),
    ) -> Vec<Result<Vec<IpAddr>, AllocateError>> {
        let handles: Vec<_> = wishes.iter().map(|wish| handle_id(&wish.id)).collect();
        let decided = self.decide(&handles, |ledger| {
            let assigned: Vec<_> = wishes.iter().map(|wish| ledger.assign(&self.request(wish))).collect();
            record(&assigned);
            assigned
        });
        match decided {
            Ok(assigned) => assigned.into_iter().map(|result| result.map_err(AllocateError::from)).collect(),
            Err(error) => {
                let text = error.to_string();
                tracing::warn!("{text}");
                let mut first = Some(error);
                wishes.iter().map(|_| Err(first.take().unwrap_or(AllocateError::Contended))).collect()
            }
        }
    }

    /// Marks addresses that another IPAM plugin has given out as the attachment's, where a pool has them: nobody else gets
    /// them from us.
    pub fn claim(&self, wish: &Wish) -> Result<(), AllocateError> {
        let request = self.request(wish);
        let handle = request.handle.clone();
        Ok(self.decide(&[handle], |ledger| ledger.claim_wanted(&request))??)
    }

    /// Marks what these attachments have as theirs, as far as the blocks do not say so already.
    pub fn claim_all(&self, wishes: &[Wish]) -> Result<Claimed, AllocateError> {
        let ledger = self.read(&[])?;
        let is_of_pool = |address: &&IpAddr| ledger.pools.values().any(|pool| pool.cidr.contains(**address));
        let lacks = |wish: &&Wish| {
            let held = ledger.held_by(&handle_id(&wish.id));
            wish.wanted.iter().filter(is_of_pool).any(|address| !held.contains(address))
        };
        let lacking: Vec<_> = wishes.iter().filter(lacks).collect();
        if lacking.is_empty() {
            return Ok(Claimed::default());
        }
        let handles: Vec<_> = lacking.iter().map(|wish| handle_id(&wish.id)).collect();
        let refused: Vec<_> = self.decide(&handles, |ledger| {
            let refused = |wish: &&Wish| Some((wish.pod.clone(), ledger.claim_wanted(&self.request(wish)).err()?));
            lacking.iter().filter_map(refused).collect()
        })?;
        Ok(Claimed { lacking: lacking.len() - refused.len(), refused })
    }

    /// Takes back what these attachments hold.
    pub fn release(&self, ids: &[AttachmentId]) -> Result<Vec<IpAddr>, AllocateError> {
        let handles: Vec<_> = ids.iter().map(handle_id).collect();
        self.decide(&handles, |ledger| handles.iter().flat_map(|handle| ledger.release(handle)).collect())
    }

    /// Gives load balancers what they want, in one decision; of those that `gone` names by their handles everything is taken back.
    pub fn balance(&self, wishes: &[BalancerWish], gone: &[String]) -> Result<Vec<Balanced>, AllocateError> {
        let handles: Vec<_> = wishes.iter().map(|wish| &wish.handle).chain(gone).cloned().collect();
        self.decide(&handles, |ledger| {
            for handle in gone {
                ledger.release(handle);
            }
            wishes.iter().map(|wish| ledger.balance(wish)).collect()
        })
    }

    /// Load balancers that hold addresses, by handle.
    pub fn balanced(&self) -> Result<BTreeMap<String, ServiceId>, AllocateError> {
        Ok(self.read(&[])?.balanced())
    }

    /// Takes back what pods of this node hold that are not `known`, by their handles. Right only when the machine was started
    /// anew, which took every pod with it.
    pub fn release_strangers(&self, known: &BTreeSet<String>) -> Result<Vec<IpAddr>, AllocateError> {
        let ledger = self.read(&[])?;
        let is_stranger = |handle: &String| !known.contains(&handle.to_lowercase());
        let strangers: Vec<_> = ledger.handles_of_pods(&self.node).into_iter().filter(is_stranger).collect();
        if strangers.is_empty() {
            return Ok(Vec::new());
        }
        self.decide(&strangers, |ledger| strangers.iter().flat_map(|handle| ledger.release(handle)).collect())
    }

    /// The addresses an attachment holds by the blocks.
    pub fn held_by(&self, id: &AttachmentId) -> Result<Vec<IpAddr>, AllocateError> {
        let handle = handle_id(id);
        Ok(self.read(std::slice::from_ref(&handle))?.held_by(&handle))
    }

    /// Whether one more pod would get addresses now. Writes nothing.
    pub fn room(&self) -> Result<(), AllocateError> {
        let id = AttachmentId { network: String::new(), container: String::new(), interface: String::new() };
        let wish = Wish { id, pod: PodId::new("", ""), wanted: Vec::new() };
        self.read(&[])?.assign(&self.request(&wish))?;
        Ok(())
    }

    /// Reads, decides, writes; and again if somebody else wrote meanwhile.
    fn decide<T>(&self, handles: &[String], mut decision: impl FnMut(&mut Ledger) -> T) -> Result<T, AllocateError> {
        for _ in 0..ATTEMPTS {
            let before = self.read(handles)?;
            let mut after = before.clone();
            let decided = decision(&mut after);
            match self.write_all(after.writes_since(&before)) {
                Ok(()) => return Ok(decided),
                Err(ObjectError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AllocateError::Contended)
    }

    fn read(&self, handles: &[String]) -> Result<Ledger, AllocateError> {
        let mut ledger = Ledger { pools: self.pools.clone(), ..Ledger::default() };
        for object in self.objects.list(BLOCK)? {
            let name = object.metadata.name.clone();
            let kept = kept::<ipam::Block>(BLOCK, object)?;
            // Under a wrong name its writes would go to another object, and two could say that they are one block.
            if name != cidr_name(kept.value.cidr) {
                let reason =
                    format!("it says that it is {}, whose name is {}", kept.value.cidr, cidr_name(kept.value.cidr));
                return Err(AllocateError::Shape { kind: BLOCK, name, reason });
            }
            ledger.blocks.insert(kept.value.cidr, kept);
        }
        for object in self.objects.list(AFFINITY)? {
            let name = object.metadata.name.clone();
            ledger.affinities.insert(name, kept(AFFINITY, object)?);
        }
        // Only the handles in question: their number grows with the pods of the whole cluster.
        for handle in handles {
            if let Some(object) = self.objects.get(HANDLE, &handle.to_lowercase())? {
                ledger.handles.insert(handle.clone(), kept(HANDLE, object)?);
            }
        }
        Ok(ledger)
    }

    /// In the order given. Objects that follow each other are written together.
    fn write_all(&self, writes: Vec<Write>) -> Result<(), ObjectError> {
        let mut claimed: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut waiting = Vec::new();
        for write in writes {
            match write {
                Write::Block(name, kept) => waiting.push(object(BLOCK, name, kept.revision, &kept.value)),
                Write::Handle(name, kept) => waiting.push(object(HANDLE, name, kept.revision, &kept.value)),
                Write::Affinity(name, kept) => waiting.push(object(AFFINITY, name, kept.revision, &kept.value)),
                Write::Confirm(name, affinity) => {
                    self.flush(&mut waiting, &mut claimed)?;
                    let revision = claimed.get(&name).cloned().flatten();
                    waiting.push(object(AFFINITY, name, revision, &affinity));
                }
                Write::RemoveHandle(name, revision) => {
                    self.flush(&mut waiting, &mut claimed)?;
                    self.objects.delete(HANDLE, &name, revision.as_deref()).map(drop)?;
                }
                Write::RemoveAffinity(name, revision) => {
                    self.flush(&mut waiting, &mut claimed)?;
                    self.objects.delete(AFFINITY, &name, revision.as_deref()).map(drop)?;
                }
            }
        }
        self.flush(&mut waiting, &mut claimed)
    }

    fn flush(
        &self,
        waiting: &mut Vec<Object>,
        claimed: &mut BTreeMap<String, Option<String>>,
    ) -> Result<(), ObjectError> {
        let written = self.objects.write_all(&std::mem::take(waiting))?;
        let claims = written.into_iter().filter(|object| object.kind == AFFINITY);
        claimed.extend(claims.map(|Object { metadata, .. }| (metadata.name, metadata.resource_version)));
        Ok(())
    }

    fn request(&self, wish: &Wish) -> Request {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let secondary = [
            ("pod", wish.pod.name.to_string()),
            ("namespace", wish.pod.namespace.to_string()),
            ("node", self.node.to_string()),
            ("timestamp", go_time(now)),
        ];
        Request {
            node: self.node.clone(),
            handle: handle_id(&wish.id),
            secondary: secondary.map(|(key, value)| (key.to_owned(), value)).into(),
            wanted: wish.wanted.clone(),
            sequence: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2),
        }
    }
}

fn object(kind: &str, name: String, resource_version: Option<String>, spec: &impl Serialize) -> Object {
    Object {
        api_version: API_VERSION.to_owned(),
        kind: kind.to_owned(),
        metadata: Metadata { name, resource_version },
        spec: serde_json::to_value(spec).expect("strings, numbers and lists are always JSON"),
    }
}

fn kept<T: DeserializeOwned>(kind: &'static str, object: Object) -> Result<Kept<T>, AllocateError> {
    let Metadata { name, resource_version } = object.metadata;
    let value = serde_json::from_value(object.spec).map_err(|error| AllocateError::Shape {
        kind,
        name,
        reason: error.to_string(),
    })?;
    // An object written by hand has no version yet; the store counts that as "0".
    Ok(Kept { revision: Some(resource_version.unwrap_or_else(|| "0".to_owned())), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(dir: &std::path::Path, node: &str) -> Allocator {
        let mut allocator =
            Allocator::new(std::sync::Arc::new(datastore::Objects::open(dir).expect("a store")), node.into());
        let cidr = "10.65.0.0/16".parse().expect("a valid network");
        let pool = IpPool::of_pods("p", cidr, 26);
        allocator.pools.insert("p".into(), pool);
        allocator
    }

    fn wish(container: &str) -> Wish {
        let id = AttachmentId { network: "net".into(), container: container.into(), interface: "eth0".into() };
        Wish { id, pod: PodId::new("default", container), wanted: Vec::new() }
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
        assert_eq!(again.release(&[wish("a").id]).expect("released"), first);
        assert_eq!(again.release(&[wish("a").id]).expect("twice is no error"), Vec::<IpAddr>::new());
        assert_ne!(one(&again, "b"), first, "a released address goes to the back");
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
        let known = [handle_id(&wish("kept").id).to_lowercase()].into();
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
        let ledger = allocator.read(&[]).expect("readable");
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
        let error = allocator.assign(&[wish("b")], |_| {}).remove(0).expect_err("two say that they are one");
        assert!(
            error.to_string().contains("IPAMBlock 10-65-99-0-26: cannot be read: it says that it is 10.65."),
            "{error}"
        );
        assert!(allocator.release(&[wish("a").id]).is_err(), "nor is anything given back by it");
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
}
