//! The mirror's one writer: every kind of the API server listed and watched, and each difference written to etcd.
//! In: an API server, an etcd, who leads. Out: records, and the leader's word on the whole.
//! Invariant: a writer first takes the others' word away, and only then asks the API server: what it lists is as new as what they
//! wrote; it writes nothing before everything is listed; what a list lacks is gone when the list is over.
//! Never: writes a record that says the same.

use super::{
    super::{
        gather::Said,
        kinds::{self, Calico, Watched},
        watched, watches,
    },
    BEAT, PREFIX, RECORDS, STATE,
    log::State,
    records,
};
use crate::{
    ClusterObjects, Connection, EtcdConnection, Store,
    etcd::guarded,
    lease::{self, Leases, Timing},
};
use futures::{FutureExt as _, StreamExt as _, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::{sync::watch, time};

/// The lease of who writes.
const LEASE: &str = "mirror";
/// One that dies is followed in less than ten seconds; that no two write is not left to this.
const TIMING: Timing = Timing {
    renew: Duration::from_secs(2),
    believe: Duration::from_secs(4),
    expire: Duration::from_secs(6),
    spread: Duration::from_millis(500),
};
/// Between two looks at the lease.
const LOOK: Duration = Duration::from_millis(200);
/// Events that are written together.
const EVENTS_AT_ONCE: usize = 4096;
/// Of one write: etcd takes 128 steps and 1.5 MiB by default.
const STEPS_MAX: usize = 100;
const BYTES_MAX: usize = 512 * 1024;
/// Before a term begins again that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// A kind that cannot be heard for so long is behind; of one that was not asked again in so long nobody knows.
const TROUBLED: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(40)];
/// Between two looks whether somebody took records away.
const COUNT: Duration = Duration::from_secs(10);

/// How far a mirror is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Another one writes, or nobody yet.
    #[default]
    Waiting,
    /// It writes, and has not written everything.
    Behind,
    /// All is written.
    Serving,
}

/// What a mirror is at, and what it has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How far it is.
    pub standing: Standing,
    /// Records that its etcd holds, as of its last write.
    pub records: u64,
    /// Records that it has written or removed since it was started.
    pub writes: u64,
    /// How often it has begun to lead.
    pub terms: u64,
}

/// A running mirror.
#[derive(Debug)]
pub struct Mirror {
    told: Arc<Mutex<Told>>,
    is_over: Arc<AtomicBool>,
    elects: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Stands for election under this name, which no other mirror of the cluster has, and writes while it leads.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub fn start(connection: &Connection, etcd: &EtcdConnection, name: &str) -> io::Result<Self> {
        let (told, is_over) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let (lead, leads) = watch::channel(false);
        let store: Store = Arc::new(ClusterObjects::of(connection.clone()));
        let (node, over) = (format!("mirror.{name}"), Arc::clone(&is_over));
        let elects = thread::Builder::new().name("lease".into()).spawn(move || elect(&store, &node, &lead, &over))?;
        let writer = Writer {
            connection: connection.clone(),
            etcd: etcd.clone(),
            name: name.to_owned(),
            told: Arc::clone(&told),
        };
        connection.runtime.spawn(async move { writer.run(leads).await });
        Ok(Self { told, is_over, elects: Some(elects) })
    }

    /// How far it is, and what it has done.
    #[must_use]
    pub fn told(&self) -> Told {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it still stands for election.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.elects.as_ref().is_some_and(|elects| !elects.is_finished())
    }
}

impl Drop for Mirror {
    /// What it leads is another's at once.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.elects.take().map(JoinHandle::join) {
            tracing::error!("the thread of the lease ended by a panic");
        }
    }
}

fn elect(store: &Store, node: &str, lead: &watch::Sender<bool>, is_over: &AtomicBool) {
    let begun = Instant::now();
    let now = || begun.elapsed();
    let mut leases = Leases::open(Arc::clone(store), node, TIMING);
    let mut told = None;
    loop {
        let is_over = is_over.load(Ordering::Relaxed);
        let wanted = BTreeMap::from([(LEASE.to_owned(), !is_over)]);
        let beaten = if leases.is_due(now()) && !is_over { leases.beat(now) } else { Ok(()) };
        let why = beaten.and(leases.look(&wanted, now)).err().map(|error| error.to_string());
        if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(*why)) {
            tracing::warn!("the lease of the mirror: {why}");
        }
        told = why;
        let leads = leases.holds(LEASE, now()) && !is_over;
        lead.send_if_modified(|before| std::mem::replace(before, leads) != leads);
        if is_over {
            // Nobody waits for one that has said its end.
            let _left = store.delete(lease::KIND, &format!("{}{node}", lease::HEARTBEAT), None);
            return;
        }
        thread::sleep(LOOK);
    }
}

struct Writer {
    connection: Connection,
    etcd: EtcdConnection,
    name: String,
    told: Arc<Mutex<Told>>,
}

impl Writer {
    async fn run(&self, mut leads: watch::Receiver<bool>) {
        loop {
            if leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            tracing::info!("leading: the API server is heard, and written to {}", self.etcd.name());
            let why = tokio::select! {
                why = self.term() => why,
                _ = leads.wait_for(|leads| !*leads) => "another may lead".to_owned(),
            };
            self.tell(|told| told.standing = Standing::Waiting);
            tracing::warn!("a term is over: {why}");
            time::sleep(PAUSE).await;
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Told)) {
        what(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Until something ends it: what.
    async fn term(&self) -> String {
        self.tell(|told| (told.standing, told.terms) = (Standing::Behind, told.terms + 1));
        let calico = match kinds::calico(&self.connection.client).await {
            Ok(calico) => calico,
            Err(error) => return format!("{}: {}", self.connection.server, super::super::in_full(&error)),
        };
        // In this order: what others wrote they had heard before.
        let mut kept = match Kept::begin(&self.etcd, &self.name, calico).await {
            Ok(kept) => kept,
            Err(why) => return format!("{}: {why}", self.etcd.name()),
        };
        let kinds = kinds::watched(calico);
        let client = &self.connection.client;
        let mut events = stream::select_all(watches(client, kinds.clone(), calico, watched::anew));
        let mut source = Source::of(kinds);
        let mut next = Instant::now() + BEAT;
        let mut counted = Instant::now();
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some((kind, said)) = event else { return "the watches have ended".to_owned() };
                    source.hear(kind, said);
                    for _ in 1..EVENTS_AT_ONCE {
                        let Some(Some((kind, said))) = events.next().now_or_never() else { break };
                        source.hear(kind, said);
                    }
                }
                () = time::sleep_until(next.into()) => {}
            }
            if source.begins_anew() {
                return "Calico's objects are the cluster's own now".to_owned();
            }
            if !source.is_whole() {
                next = Instant::now() + BEAT;
                continue;
            }
            // Whoever does not know what stands there lists again, etcd and then the API server: others may have written meanwhile.
            let before = kept.state.writes;
            let written = kept.write(&self.etcd, &mut source, Instant::now() >= next).await;
            self.tell(|told| {
                (told.records, told.writes) = (kept.state.records, told.writes + (kept.state.writes - before));
            });
            match written {
                Ok(true) => {
                    next = Instant::now() + BEAT;
                    let standing = if kept.state.is_behind { Standing::Behind } else { Standing::Serving };
                    self.tell(|told| told.standing = standing);
                }
                Ok(false) => {}
                Err(why) => return format!("{}: {why}", self.etcd.name()),
            }
            if counted.elapsed() >= COUNT {
                counted = Instant::now();
                if let Err(why) = kept.count(&self.etcd).await {
                    return format!("{}: {why}", self.etcd.name());
                }
            }
        }
    }
}

/// What the API server has.
struct Source {
    kinds: Vec<Watched>,
    /// By key.
    records: BTreeMap<String, Vec<u8>>,
    /// Keys that may say something else in etcd.
    changed: BTreeSet<String>,
    /// All of etcd is to be compared.
    is_compared: bool,
    heard: Vec<Heard>,
    is_native: bool,
    is_locked: bool,
}

/// What is known of a kind.
#[derive(Clone, Default)]
struct Heard {
    is_listed: bool,
    is_absent: bool,
    /// Keys that were there when the list began and have not come yet.
    missing: Option<BTreeSet<String>>,
    /// Since when there is trouble, and when it was met last.
    trouble: Option<[Instant; 2]>,
}

impl Source {
    fn of(kinds: Vec<Watched>) -> Self {
        let heard = vec![Heard::default(); kinds.len()];
        let (records, changed) = Default::default();
        Self { kinds, records, changed, is_compared: false, heard, is_native: false, is_locked: false }
    }

    fn hear(&mut self, number: usize, said: Said) {
        let Some((kind, heard)) = self.kinds.get(number).zip(self.heard.get_mut(number)) else {
            if let Said::Native(is_native) = said {
                self.is_native = is_native;
            }
            return;
        };
        // A list that begins has not come through yet.
        if !matches!(said, Said::Trouble(_) | Said::Listing) {
            heard.trouble = None;
        }
        match said {
            Said::Listing => {
                let prefix = records::prefix(kind);
                let own = self.records.range(prefix.clone()..).map(|(key, _)| key);
                heard.missing = Some(own.take_while(|key| key.starts_with(&prefix)).cloned().collect());
            }
            Said::Object(object) => {
                let Some(key) = records::key(kind, &object) else { return };
                if let Some(missing) = &mut heard.missing {
                    missing.remove(&key);
                }
                if kind.resource.kind == kinds::CLUSTER_INFORMATION {
                    self.is_locked = object.pointer("/spec/datastoreReady").is_some_and(|ready| *ready == false);
                }
                let value = records::value(kind, &object);
                if self.records.get(&key) != Some(&value) {
                    self.changed.insert(key.clone());
                    self.records.insert(key, value);
                }
            }
            Said::Gone(object) => {
                let Some(key) = records::key(kind, &object) else { return };
                if let Some(missing) = &mut heard.missing {
                    missing.remove(&key);
                }
                if self.records.remove(&key).is_some() {
                    self.changed.insert(key);
                }
            }
            Said::Listed => {
                (heard.is_listed, heard.is_absent) = (true, false);
                for key in heard.missing.take().unwrap_or_default() {
                    self.records.remove(&key);
                    self.changed.insert(key);
                }
            }
            // Objects go before their kind does: a kind that is not there takes none away.
            Said::Absent => (heard.is_listed, heard.is_absent) = (true, !heard.is_listed || heard.is_absent),
            Said::Trouble(why) => {
                let now = Instant::now();
                if heard.trouble.is_none() {
                    tracing::warn!("{}: {why}", kind.name());
                }
                heard.trouble = Some([heard.trouble.map_or(now, |[first, _]| first), now]);
            }
            Said::Native(_) | Said::Mirror(_) => {}
        }
    }

    /// Everything was listed.
    fn is_whole(&self) -> bool {
        self.heard.iter().all(|heard| heard.is_listed)
    }

    /// A kind cannot be heard, for too long.
    fn is_troubled(&self) -> bool {
        let is = |[first, last]: [Instant; 2]| first.elapsed() > TROUBLED[0] && last.elapsed() < TROUBLED[1];
        self.heard.iter().any(|heard| heard.trouble.is_some_and(is))
    }

    /// As an agent: Calico's objects can be in another group, and there are none in the one that is watched.
    fn begins_anew(&self) -> bool {
        let own = |kind: &&Watched| Calico::Stored.has(kind);
        let is_empty = |kind: &Watched| {
            let prefix = records::prefix(kind);
            self.records.range(prefix.clone()..).next().is_none_or(|(key, _)| !key.starts_with(&prefix))
        };
        self.is_native && self.is_whole() && !self.is_locked && self.kinds.iter().filter(own).all(is_empty)
    }

    /// Keys of which etcd does not say what is to be there.
    fn compare(&mut self, held: &BTreeMap<String, u64>) {
        let unlike = self.records.iter().filter(|(key, value)| held.get(*key) != Some(&digest(value)));
        self.changed.extend(unlike.map(|(key, _)| key.clone()));
        let stays = |key: &str| {
            let absent = self.kinds.iter().zip(&self.heard).filter(|(_, heard)| heard.is_absent);
            absent.into_iter().any(|(kind, _)| key.starts_with(&records::prefix(kind)))
        };
        self.changed.extend(held.keys().filter(|key| !self.records.contains_key(*key) && !stays(key)).cloned());
        self.is_compared = true;
    }
}

/// What etcd has, as this writer left it.
struct Kept {
    state: State,
    /// Of the state.
    revision: i64,
    /// A digest of each record.
    held: BTreeMap<String, u64>,
}

impl Kept {
    /// What is there; from now on nobody else's write is done.
    async fn begin(etcd: &EtcdConnection, name: &str, calico: Calico) -> Result<Self, String> {
        let (mut held, mut before, mut revision) = (BTreeMap::new(), State::default(), 0);
        for (key, value, at) in guarded::list(etcd, PREFIX).await? {
            if key == STATE {
                before = serde_json::from_slice(&value).unwrap_or_default();
                revision = at;
            } else if key.starts_with(RECORDS) {
                held.insert(key, digest(&value));
            }
        }
        let state = State {
            epoch: before.epoch + 1,
            leader: name.to_owned(),
            is_native: calico == Calico::Native,
            records: held.len() as u64,
            writes: before.writes,
            is_behind: true,
        };
        let written = guarded::write(etcd, (STATE, revision), Vec::new(), json(&state)).await?;
        let revision = written.ok_or("another mirror writes at the same time")?;
        Ok(Self { state, revision, held })
    }

    /// What has changed, first what is there, then what is gone; if nothing has, that this writer lives, where that is due. Whether
    /// it said something.
    async fn write(&mut self, etcd: &EtcdConnection, source: &mut Source, is_due: bool) -> Result<bool, String> {
        if !source.is_compared {
            source.compare(&self.held);
        }
        let (there, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut source.changed)
            .into_iter()
            .filter(|key| source.records.get(key).map(|value| digest(value)) != self.held.get(key).copied())
            .partition(|key| source.records.contains_key(key));
        let (mut steps, mut bytes, mut has_said) = (Vec::new(), 0, false);
        let mut all = there.into_iter().chain(gone).peekable();
        while let Some(key) = all.next() {
            let value = source.records.get(&key).cloned();
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            steps.push((key, value));
            let is_last = all.peek().is_none();
            if is_last || steps.len() >= STEPS_MAX || bytes >= BYTES_MAX {
                let is_behind = (!is_last && self.state.is_behind) || source.is_troubled();
                self.say(etcd, std::mem::take(&mut steps), is_behind).await?;
                (bytes, has_said) = (0, true);
            }
        }
        if !has_said && (is_due || self.state.is_behind && !source.is_troubled()) {
            self.say(etcd, Vec::new(), source.is_troubled()).await?;
            has_said = true;
        }
        Ok(has_said)
    }

    async fn say(
        &mut self,
        etcd: &EtcdConnection,
        steps: Vec<(String, Option<Vec<u8>>)>,
        is_behind: bool,
    ) -> Result<(), String> {
        let mut state = State { is_behind, writes: self.state.writes + steps.len() as u64, ..self.state.clone() };
        for (key, value) in &steps {
            match value {
                Some(value) => self.held.insert(key.clone(), digest(value)),
                None => self.held.remove(key),
            };
        }
        state.records = self.held.len() as u64;
        let written = guarded::write(etcd, (STATE, self.revision), steps, json(&state)).await?;
        self.revision = written.ok_or("somebody else has written its state")?;
        self.state = state;
        Ok(())
    }

    /// As many records are there as were written.
    async fn count(&self, etcd: &EtcdConnection) -> Result<(), String> {
        let count = guarded::count(etcd, RECORDS).await?;
        let own = self.held.len() as u64;
        if count == own { Ok(()) } else { Err(format!("{count} records are there, and {own} were written")) }
    }
}

fn json(state: &State) -> Vec<u8> {
    serde_json::to_vec(state).expect("numbers and text are always JSON")
}

fn digest(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
