//! Tells other nodes of this node's pods, beside the owner: no ADD waits until an API server has taken another's.
//! In: what is to be told with each attachment. Out: the datastore says it.
//! Invariant: of an attachment the last word counts; once it is forgotten, nothing that was said of it is written any more.
//! Never: drops what could not be told: it is told again when the owner says so.

use datastore::{ObjectError, Store};
use model::{Attachment, AttachmentId, WorkloadAddress};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};
use tracing::warn;

/// A pod as a whole, and the attachment that speaks for it.
pub type Told = (WorkloadAddress, Attachment);

/// The way to the thread that tells.
#[derive(Debug)]
pub struct Publisher(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    said: Mutex<Said>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    due: BTreeMap<AttachmentId, Told>,
    /// What could not be told.
    failed: BTreeMap<AttachmentId, Told>,
    under_way: BTreeSet<AttachmentId>,
    is_over: bool,
}

impl Publisher {
    /// Over the objects that agents share.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(objects: Store) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("publish".into()).spawn(move || theirs.run(&objects))?;
        Ok(Self(shared))
    }

    /// It is so now.
    pub fn tell(&self, told: impl IntoIterator<Item = Told>) {
        let mut said = self.0.said();
        for told in told {
            said.failed.remove(&told.1.id);
            said.due.insert(told.1.id.clone(), told);
        }
        self.0.bell.notify_all();
    }

    /// Tries again what could not be told.
    pub fn again(&self) {
        let mut said = self.0.said();
        let mut due = std::mem::take(&mut said.failed);
        due.append(&mut said.due);
        said.due = due;
        self.0.bell.notify_all();
    }

    /// These are told of no more: what is being written of them is waited for.
    pub fn forget(&self, ids: &[AttachmentId]) {
        let mut said = self.0.wait_while(|said| ids.iter().any(|id| said.under_way.contains(id)));
        for id in ids {
            said.due.remove(id);
            said.failed.remove(id);
        }
    }

    /// Waits until all that could be told is.
    #[cfg(test)]
    pub fn settle(&self) {
        drop(self.0.wait_while(|said| !said.due.is_empty() || !said.under_way.is_empty()));
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.said().is_over = true;
        self.0.bell.notify_all();
    }
}

impl Shared {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, is_so: impl Fn(&Said) -> bool) -> MutexGuard<'_, Said> {
        self.bell.wait_while(self.said(), |said| is_so(said)).unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, objects: &Store) {
        loop {
            let mut said = self.wait_while(|said| said.due.is_empty() && !said.is_over);
            if said.is_over {
                return;
            }
            let due = std::mem::take(&mut said.due);
            said.under_way = due.keys().cloned().collect();
            drop(said);
            let failed = publish(objects, due.into_values().collect());
            let mut said = self.said();
            said.under_way.clear();
            for told in failed {
                // A newer word of it stands.
                if !said.due.contains_key(&told.1.id) {
                    said.failed.insert(told.1.id.clone(), told);
                }
            }
            self.bell.notify_all();
        }
    }
}

/// What could not be told. One that cannot be is no reason to keep the others.
fn publish(objects: &Store, all: Vec<Told>) -> Vec<Told> {
    if objects.publish(&all).is_ok() {
        return Vec::new();
    }
    let is_refused = |told: &Told| {
        let say = |error: &ObjectError| warn!(id = %told.1.id, "other nodes do not know this pod yet: {error}");
        objects.publish(std::slice::from_ref(told)).inspect_err(say).is_err()
    };
    all.into_iter().filter(is_refused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use datastore::Objects;
    use model::PodId;

    fn told(container: &str, address: &str) -> Told {
        let id = AttachmentId { network: "net".into(), container: container.into(), interface: "eth0".into() };
        let pod = PodId::new("x", "a");
        let addresses: Vec<_> = address.parse().into_iter().collect();
        let attachment = Attachment {
            id,
            pod: pod.clone(),
            host_interface: model::IfaceName("cali1".to_owned()),
            mac: model::Mac([2, 0, 0, 0, 0, 1]),
            addresses: addresses.clone(),
            mtu: 1500,
            labels: model::Labels::default(),
            delegated: false,
            host_ports: Vec::new(),
            floating_ips: false,
            named: false,
            committed: true,
        };
        (WorkloadAddress { pod, node: "n1".into(), addresses, labels: model::Labels::default() }, attachment)
    }

    #[test]
    fn the_last_word_counts_and_what_is_forgotten_is_not_told_any_more() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let objects: Store = Arc::new(Objects::open(dir.path()).expect("a store"));
        let publisher = Publisher::start(Arc::clone(&objects)).expect("a thread");
        let said = || {
            objects
                .list("WorkloadAddress")
                .expect("readable")
                .iter()
                .map(|told| told.spec.to_string())
                .collect::<String>()
        };
        publisher.tell([told("a", "10.65.0.1")]);
        publisher.tell([told("a", "10.65.0.2")]);
        publisher.settle();
        assert!(said().contains("10.65.0.2") && !said().contains("10.65.0.1"), "{}", said());
        // What lies in the way keeps it from being told, until that is gone.
        let lies = dir.path().join(".tortie/WorkloadAddress");
        std::fs::rename(&lies, dir.path().join("aside")).expect("moved");
        std::fs::write(&lies, "").expect("written");
        publisher.tell([told("a", "10.65.0.3"), told("b", "10.65.0.4")]);
        publisher.settle();
        publisher.forget(&[told("b", "").1.id]);
        std::fs::remove_file(&lies).expect("removed");
        publisher.again();
        publisher.settle();
        assert!(said().contains("10.65.0.3") && !said().contains("10.65.0.4"), "{}", said());
    }
}
