//! Leases: who of several agents does what only one may do, in objects that they share.
//! In: names, and whether this node wants each. Out: who holds it, and until when that may be acted on.
//! Invariant: one heartbeat a node is all that is written again and again, however much it holds, and none by a node that holds
//! nothing; a lease is written when it changes hands; nothing is taken by what was only heard.
//! Never: waits; acts on what a lease says beyond [`Leases::believes_until`].

mod keeper;

pub use keeper::{Heartbeat, Holder, Keeper, Step, Timing};

use crate::{Metadata, Object, ObjectError, Store, calendar::micro_time};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The kind, as in `coordination.k8s.io/v1`.
pub const KIND: &str = "Lease";
const API_VERSION: &str = "coordination.k8s.io/v1";
/// Heartbeats' names begin so.
pub const HEARTBEAT: &str = "node.";

/// `spec` of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Who has it; empty: nobody.
    #[serde(default)]
    pub holder_identity: String,
    /// What others wait at least, in whole seconds. For people: the next field is what is meant.
    #[serde(default)]
    pub lease_duration_seconds: u32,
    /// The same, exactly. Ours: an API server forgets it.
    #[serde(default)]
    pub lease_duration_milliseconds: u32,
    /// When it changed hands. For people: no clock is compared with it.
    #[serde(default)]
    pub acquire_time: String,
    /// When it was written. Likewise.
    #[serde(default)]
    pub renew_time: String,
    /// How often it changed hands; of a heartbeat, the number of the node's life.
    #[serde(default)]
    pub lease_transitions: u64,
}

/// The lease for announcing an address, by a name that Kubernetes takes.
#[must_use]
pub fn of_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("address-{}", v4.to_string().replace('.', "-")),
        IpAddr::V6(v6) => format!("address-{}", v6.segments().map(|part| format!("{part:x}")).join("-")),
    }
}

/// Whether an object is one that is written anew all the time.
pub(crate) fn is_heartbeat(kind: &str, name: &str) -> bool {
    kind == KIND && name.starts_with(HEARTBEAT)
}

/// One agent's leases.
#[derive(Debug)]
pub struct Leases {
    store: Store,
    keeper: Keeper,
    /// Those that were written here, or stood as this node's when it began.
    own: BTreeSet<String>,
    /// Who held each at the last look.
    holders: BTreeMap<String, Holder>,
    /// Those that are wanted and were vacant at the last look, and since when.
    vacant: BTreeMap<String, Duration>,
}

/// How a lease is read.
#[derive(Clone, Copy)]
enum Read {
    /// As it was heard last, which may be late.
    Heard,
    /// As it is.
    Asked,
}

/// A lease as it was read, and when that began.
struct Looked {
    found: Option<Arc<Object>>,
    lease: Lease,
    holder: Option<Holder>,
    before: Duration,
}

impl Leases {
    /// Of `node`, among all that share `store`. What its former life left and cannot be listed now stays where it is.
    pub fn open(store: Store, node: &str, timing: Timing) -> Self {
        let is_own = |object: &Object| {
            let holder = lease_of(object).and_then(|lease| Holder::read(&lease.holder_identity));
            holder.is_some_and(|holder| holder.node == node) && !object.metadata.name.starts_with(HEARTBEAT)
        };
        let listed = store.list(KIND).unwrap_or_else(|error| {
            tracing::warn!("leases: {error}");
            Vec::new()
        });
        let own = listed.into_iter().filter(is_own).map(|object| object.metadata.name).collect();
        Self { store, keeper: Keeper::new(node, timing), own, holders: BTreeMap::new(), vacant: BTreeMap::new() }
    }

    /// Whether to tell the others now that this node lives: it holds something, or it is its turn to take something.
    pub fn is_due(&self, now: Duration) -> bool {
        let is_held = self.holders.keys().any(|name| self.holds(name, now));
        let takes = |(name, since): (&String, &Duration)| now >= *since + self.delay(name);
        self.keeper.is_due(now) && (is_held || self.vacant.iter().any(takes))
    }

    /// Until when what is held may be acted on.
    pub fn believes_until(&self) -> Option<Duration> {
        self.keeper.believes_until()
    }

    /// Whether it may be now. Once it may not, everything held is lost: stop before the next heartbeat.
    pub fn believes(&self, now: Duration) -> bool {
        self.keeper.believes(now)
    }

    /// Tells the others that this node lives.
    ///
    /// # Errors
    /// The store refuses; what is held stays so until [`Leases::believes_until`].
    pub fn beat(&mut self, now: impl Fn() -> Duration) -> Result<(), ObjectError> {
        // The second time over what a former agent of this node left.
        for _ in 0..2 {
            let began = now();
            let (term, version) = self.keeper.beat(began);
            let name = self.heartbeat(&self.keeper.identity().node);
            let holder = Holder { term, ..self.keeper.identity() };
            let object = self.object(name.clone(), version, self.lease(&holder, term));
            match self.write(&object) {
                Ok(written) => {
                    self.keeper.beaten(began, term, written.metadata.resource_version.unwrap_or_default());
                    return Ok(());
                }
                Err(ObjectError::Conflict { .. }) => {
                    let found = self.store.get(KIND, &name)?;
                    let found = found.map(|found| heartbeat_of(&found, self.keeper.timing()));
                    self.keeper.overtaken(found.as_ref());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Looks at these leases, takes what is wanted and vacant, gives back what is not wanted, removes what nobody names any
    /// more. Those that this node holds now, and who holds each of the others, are told by [`Leases::holders`]. What fails is
    /// met again at the next look; the first of it is the error.
    ///
    /// # Errors
    /// As said.
    pub fn look(&mut self, wanted: &BTreeMap<String, bool>, now: impl Fn() -> Duration) -> Result<(), ObjectError> {
        let mut first = Ok(());
        let mut read = BTreeSet::new();
        self.holders.retain(|name, _| wanted.contains_key(name));
        self.vacant.retain(|name, _| wanted.get(name) == Some(&true));
        for (name, wanted) in wanted {
            let looked = self.look_at(name, *wanted, &mut read, &now);
            first = first.and(looked);
        }
        let gone: Vec<_> = self.own.iter().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            first = first.and(self.remove(&name));
        }
        self.keeper.forget_all_but(|node| read.contains(node));
        first
    }

    fn look_at(
        &mut self,
        name: &str,
        wanted: bool,
        read: &mut BTreeSet<String>,
        now: impl Fn() -> Duration,
    ) -> Result<(), ObjectError> {
        let mut looked = self.read(Read::Heard, name, read, &now)?;
        let mut step = self.keeper.judge(looked.holder.as_ref(), wanted, looked.before);
        self.note_vacant(name, wanted, &looked);
        let is_turn = self.vacant.get(name).is_none_or(|since| looked.before >= *since + self.delay(name));
        if step == Step::Take && !is_turn {
            step = Step::Leave;
        } else if step == Step::Take {
            // What was heard may be late: a heartbeat that has not come yet is no silence.
            looked = self.read(Read::Asked, name, read, &now)?;
            step = self.keeper.judge(looked.holder.as_ref(), wanted, looked.before);
            self.note_vacant(name, wanted, &looked);
        }
        let Looked { found, lease, holder, .. } = looked;
        let next = match step {
            Step::Leave | Step::Hold => holder,
            Step::Take => {
                let own = self.keeper.identity();
                let fresh = self.lease(&own, lease.lease_transitions + 1);
                let taken = self.change(name, found.as_deref(), fresh)?;
                if taken {
                    self.vacant.remove(name);
                }
                taken.then_some(own)
            }
            Step::Release => {
                let fresh = Lease { holder_identity: String::new(), ..lease };
                let _lost = self.change(name, found.as_deref(), fresh)?;
                None
            }
        };
        match next {
            Some(holder) if self.holders.get(name) == Some(&holder) => {}
            Some(holder) => drop(self.holders.insert(name.to_owned(), holder)),
            None => drop(self.holders.remove(name)),
        }
        Ok(())
    }

    fn read(
        &mut self,
        how: Read,
        name: &str,
        read: &mut BTreeSet<String>,
        now: impl Fn() -> Duration,
    ) -> Result<Looked, ObjectError> {
        let object = |name: &str| match how {
            Read::Heard => self.store.known(KIND, name),
            Read::Asked => self.store.get(KIND, name).map(|found| found.map(Arc::new)),
        };
        let before = now();
        let found = object(name)?;
        let lease = found.as_deref().and_then(lease_of).unwrap_or_default();
        let holder = Holder::read(&lease.holder_identity);
        if let Some(other) = holder.as_ref().filter(|holder| holder.node != self.keeper.identity().node) {
            if !read.contains(&other.node) {
                read.insert(other.node.clone());
            }
            let timing = self.keeper.timing();
            let heartbeat = object(&self.heartbeat(&other.node))?.map(|found| heartbeat_of(&found, timing));
            self.keeper.saw(&other.node, heartbeat, now());
        }
        Ok(Looked { found, lease, holder, before })
    }

    fn note_vacant(&mut self, name: &str, wanted: bool, looked: &Looked) {
        if wanted && self.keeper.is_vacant(looked.holder.as_ref(), looked.before) {
            self.vacant.entry(name.to_owned()).or_insert(looked.before);
        } else {
            self.vacant.remove(name);
        }
    }

    /// So long this node lets others be first.
    fn delay(&self, name: &str) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&self.keeper.identity().node, name).hash(&mut hasher);
        let part = u32::try_from(hasher.finish() % 1000).unwrap_or_default();
        self.keeper.timing().spread * part / 1000
    }

    /// False: somebody else was first, and is met at the next look.
    fn change(&mut self, name: &str, found: Option<&Object>, fresh: Lease) -> Result<bool, ObjectError> {
        let version = found.map(|found| found.metadata.resource_version.as_deref().unwrap_or("0"));
        match self.write(&self.object(name.to_owned(), version, fresh)) {
            Ok(_) => {
                self.own.insert(name.to_owned());
                Ok(true)
            }
            Err(ObjectError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One that nobody names any more, if it is still this node's.
    fn remove(&mut self, name: &str) -> Result<(), ObjectError> {
        let Some(found) = self.store.get(KIND, name)? else {
            self.own.remove(name);
            return Ok(());
        };
        let holder = lease_of(&found).and_then(|lease| Holder::read(&lease.holder_identity));
        if holder.is_none_or(|holder| holder.node == self.keeper.identity().node) {
            match self.store.delete(KIND, name, found.metadata.resource_version.as_deref()) {
                Ok(_) | Err(ObjectError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.own.remove(name);
        Ok(())
    }

    /// Who held what was looked at last.
    pub fn holders(&self) -> &BTreeMap<String, Holder> {
        &self.holders
    }

    /// Whether this node holds it and may act on that now.
    pub fn holds(&self, name: &str, now: Duration) -> bool {
        self.keeper.believes(now) && self.holders.get(name) == Some(&self.keeper.identity())
    }

    fn heartbeat(&self, node: &str) -> String {
        format!("{HEARTBEAT}{node}")
    }

    fn lease(&self, holder: &Holder, transitions: u64) -> Lease {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expire = self.keeper.timing().expire;
        let milliseconds = u32::try_from(expire.as_millis()).unwrap_or(u32::MAX);
        Lease {
            holder_identity: holder.to_string(),
            lease_duration_seconds: milliseconds.div_ceil(1000),
            lease_duration_milliseconds: milliseconds,
            acquire_time: micro_time(since),
            renew_time: micro_time(since),
            lease_transitions: transitions,
        }
    }

    fn object(&self, name: String, version: Option<&str>, lease: Lease) -> Object {
        Object {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata: Metadata { name, resource_version: version.map(str::to_owned) },
            spec: serde_json::to_value(lease).expect("strings and numbers are always JSON"),
        }
    }

    fn write(&self, object: &Object) -> Result<Object, ObjectError> {
        if object.metadata.resource_version.is_some() { self.store.update(object) } else { self.store.create(object) }
    }
}

/// One that is not in its shape is nobody's.
fn lease_of(object: &Object) -> Option<Lease> {
    Lease::deserialize(&object.spec).ok()
}

/// Where the exact duration was forgotten, whole seconds say whether its writer asks for more than everybody does.
fn heartbeat_of(object: &Object, timing: Timing) -> Heartbeat {
    let lease = lease_of(object).unwrap_or_default();
    let exactly = Duration::from_millis(lease.lease_duration_milliseconds.into());
    let about = Duration::from_secs(lease.lease_duration_seconds.into());
    let asks_for_more = exactly.is_zero() && about > timing.expire + Duration::from_secs(1);
    Heartbeat {
        version: object.metadata.resource_version.clone().unwrap_or_else(|| "0".to_owned()),
        term: lease.lease_transitions,
        expire: if asks_for_more { about } else { exactly },
    }
}

#[cfg(test)]
mod clocked;
#[cfg(test)]
mod tests;
