//! Tells the cluster: conditions of objects, this node's condition and annotations, events.
//! In: what the watches note, what is wrong with objects, what the agent reports of its node. Out: writes, few and each once.
//! Invariant: one verdict on one generation of an object is written once by an agent, whatever becomes of it there: two who
//! disagree do not write in turns.
//! Never: makes anybody wait; takes a condition from another who writes it.

mod events;
mod plan;

use super::{
    Connection, MANAGER,
    connection::Write,
    in_full,
    kinds::{self, Calico, Watched},
    noted::{About, NETWORK_UNAVAILABLE, Notes, condition_of},
};
use crate::{calendar::rfc3339, standing::Told};
use events::{Said, Subject, event};
use kube::{
    Api, Error,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::DynamicObject,
    discovery::ApiResource,
};
use model::{NodeName, ResourceKey};
use plan::{NodeVerdict, Verdict};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, time};

/// Agents write what all of them would within so long, each at a time of its own: the others see it there.
const SPREAD: Duration = Duration::from_secs(3);
/// After a failure, before the next try.
const AGAIN: Duration = Duration::from_secs(10);
/// Between two writes at this node's own object, whoever else writes there.
const NODE_REST: Duration = Duration::from_secs(10);

/// What an agent reports of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The node's own addresses on the network of nodes, with their prefix, at most one a family; `None`: the agent does not serve
    /// pods yet.
    pub serves: Option<Vec<String>>,
    /// What this node could not do.
    pub remarks: BTreeSet<Remark>,
}

/// Something that who looks at an object should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// The object.
    pub about: ResourceKey,
    /// One word.
    pub reason: &'static str,
    /// The whole of it.
    pub text: String,
}

/// The way to who tells. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Teller(Arc<watch::Sender<Report>>);

impl Teller {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }

    pub(super) fn reports(&self) -> watch::Receiver<Report> {
        self.0.subscribe()
    }

    /// It is so now.
    pub fn tell(&self, report: Report) {
        self.0.send_if_modified(|now| {
            let is_other = *now != report;
            *now = report;
            is_other
        });
    }
}

/// A remark on an object, by where it lies or by what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    At(PathBuf, String),
    On(Remark),
}

/// Who writes.
pub(super) struct Writer {
    connection: Connection,
    kinds: Vec<Watched>,
    calico: Calico,
    node: NodeName,
    notes: Arc<Notes>,
    wrong: Told,
    begun: Instant,
    /// Verdicts that were written, or that somebody else did not let us write.
    done: BTreeMap<PathBuf, Verdict>,
    /// Since when others are to be written.
    due: BTreeMap<PathBuf, (Verdict, Instant)>,
    node_written: Option<Instant>,
    said: Said<Line>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        (kinds, calico): (Vec<Watched>, Calico),
        node: NodeName,
        notes: Arc<Notes>,
        wrong: Told,
    ) -> Self {
        Self {
            connection,
            kinds,
            calico,
            node,
            notes,
            wrong,
            begun: Instant::now(),
            done: BTreeMap::new(),
            due: BTreeMap::new(),
            node_written: None,
            said: Said::begin(Duration::ZERO),
        }
    }

    /// Until nobody reports any more.
    pub(super) async fn run(mut self, mut reports: watch::Receiver<Report>) {
        let notes = Arc::clone(&self.notes);
        let mut next = None;
        loop {
            let later = async {
                match next {
                    Some(at) => time::sleep_until(time::Instant::from_std(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = notes.bell.notified() => {}
                changed = reports.changed() => if changed.is_err() { return },
                () = later => {}
            }
            let report = reports.borrow_and_update().clone();
            next = self.turn(&report).await;
        }
    }

    /// Writes what is due; when something else will be.
    async fn turn(&mut self, report: &Report) -> Option<Instant> {
        if !self.notes.look().is_in_sync {
            return None;
        }
        let wrong = self.wrong();
        let parts =
            [self.tell_conditions(&wrong).await, self.tell_node(report).await, self.remark(&wrong, report).await];
        parts.into_iter().flatten().min()
    }

    /// What is wrong, by where it lies.
    fn wrong(&self) -> BTreeMap<PathBuf, Vec<String>> {
        let mut wrong: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for problem in &*self.wrong.lock().unwrap_or_else(PoisonError::into_inner) {
            wrong.entry(problem.file.clone()).or_default().push(problem.message.clone());
        }
        wrong
    }

    async fn tell_conditions(&mut self, wrong: &BTreeMap<PathBuf, Vec<String>>) -> Option<Instant> {
        let now = Instant::now();
        let wanted = self.wanted(wrong);
        self.due.retain(|place, _| wanted.contains_key(place));
        let mut next: Option<Instant> = None;
        for (place, (about, verdict)) in wanted {
            if self.done.get(&place) == Some(&verdict) {
                continue;
            }
            let due = self.due.entry(place.clone()).or_insert_with(|| (verdict.clone(), now));
            if due.0 != verdict {
                *due = (verdict.clone(), now);
            }
            let at = due.1 + turn_of(&self.node, &place);
            if now < at {
                next = Some(next.map_or(at, |next| next.min(at)));
            } else if self.apply_condition(&about, &verdict).await {
                self.due.remove(&place);
                self.done.insert(place, verdict);
            } else {
                next = Some(now + AGAIN);
            }
        }
        next
    }

    fn wanted(&mut self, wrong: &BTreeMap<PathBuf, Vec<String>>) -> BTreeMap<PathBuf, (About, Verdict)> {
        let Self { notes, done, kinds, connection, .. } = self;
        let noted = notes.look();
        done.retain(|place, _| noted.objects.contains_key(place));
        if connection.is_paused() {
            return BTreeMap::new();
        }
        let verdict = |(place, about): (&PathBuf, &About)| {
            let kind = &kinds[about.kind].resource.kind;
            condition_of(kind)?;
            let wrong = wrong.get(place).map(Vec::as_slice).unwrap_or_default();
            Some((place.clone(), (about.clone(), plan::verdict(kind, about, wrong)?)))
        };
        noted.objects.iter().filter_map(verdict).collect()
    }

    /// Whether there is no more to do about it.
    async fn apply_condition(&self, about: &About, verdict: &Verdict) -> bool {
        let resource = &self.kinds[about.kind].resource;
        let before = about.condition.as_ref().filter(|found| found.status == verdict.status && !found.since.is_empty());
        let condition = json!({
            "type": condition_of(&resource.kind), "status": if verdict.status { "True" } else { "False" },
            "reason": verdict.reason, "message": verdict.message, "observedGeneration": verdict.generation,
            "lastTransitionTime": before.map_or_else(now_text, |found| found.since.clone()),
        });
        let applied = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "name": about.name, "namespace": about.namespace },
            "status": { "conditions": [condition] },
        });
        let api = self.api(resource, about.namespace.as_deref());
        let (parameters, patch) = (PatchParams::apply(MANAGER), Patch::Apply(&applied));
        let answer = self.connection.write(Write::Condition, api.patch_status(&about.name, &parameters, &patch)).await;
        self.is_over(answer, &about.name)
    }

    async fn tell_node(&mut self, report: &Report) -> Option<Instant> {
        let addresses = report.serves.as_ref()?;
        let verdict = plan::node(addresses, self.notes.look().node.as_ref()?)?;
        let now = Instant::now();
        if let Some(rest) = self.node_written.map(|written| written + NODE_REST).filter(|rest| now < *rest) {
            return Some(rest);
        }
        let told = self.apply_node(&verdict).await;
        self.node_written = Some(now);
        // What was written is heard of before that; if not, it is looked at again.
        Some(now + if told { NODE_REST } else { AGAIN })
    }

    async fn apply_node(&self, verdict: &NodeVerdict) -> bool {
        let resource = kinds::nodes();
        let now = now_text();
        let mut applied = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "name": self.node.0, "annotations": verdict.annotations },
        });
        if verdict.is_available {
            let message = "Tortie serves pods on this node";
            applied["status"]["conditions"] = json!([{
                "type": NETWORK_UNAVAILABLE, "status": "False", "reason": "TortieIsUp", "message": message,
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            }]);
        }
        let api = self.api(&resource, None);
        // Strategic: conditions are merged by their type, and what is not named stays.
        let (parameters, patch) = (
            PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() },
            Patch::Strategic(&applied),
        );
        let answer = self.connection.write(Write::Node, api.patch_status(&self.node.0, &parameters, &patch)).await;
        self.is_over(answer, &self.node.0)
    }

    /// Events: of objects that cannot be read and have no status to say so, and of what the agent remarks.
    async fn remark(&mut self, wrong: &BTreeMap<PathBuf, Vec<String>>, report: &Report) -> Option<Instant> {
        let lines = self.lines(wrong, report);
        self.said.hold(&lines);
        let mut next = None;
        for line in lines {
            match self.said.may(&line, self.begun.elapsed()) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(later) => return Some(self.begun + later),
            }
            if !self.say(&line).await {
                self.said.unsaid(&line);
                next = Some(Instant::now() + AGAIN);
            }
        }
        next
    }

    fn lines(&self, wrong: &BTreeMap<PathBuf, Vec<String>>, report: &Report) -> BTreeSet<Line> {
        let noted = self.notes.look();
        let has_status = |place: &PathBuf| {
            noted.objects.get(place).is_none_or(|about| condition_of(&self.kinds[about.kind].resource.kind).is_some())
        };
        let unreadable = wrong.iter().filter(|(place, _)| !has_status(place));
        let unreadable = unreadable
            .flat_map(|(place, messages)| messages.iter().map(|message| Line::At(place.clone(), message.clone())));
        unreadable.chain(report.remarks.iter().cloned().map(Line::On)).collect()
    }

    /// Whether there is no more to do about it.
    async fn say(&self, line: &Line) -> bool {
        let (subject, reason, text) = match line {
            Line::At(place, message) => {
                let Some(about) = self.notes.look().objects.get(place).cloned() else { return true };
                (self.subject(&about), "Unreadable", message)
            }
            Line::On(remark) => match self.find(&remark.about).await {
                Ok(Some(subject)) => (subject, remark.reason, &remark.text),
                Ok(None) => return true,
                Err(error) => return self.is_over::<()>(Err(error), &remark.about.to_string()),
            },
        };
        let object = event(&subject, reason, text, &self.node.0, &now_text());
        let namespace = subject.namespace.as_deref().unwrap_or("default");
        let Ok(fresh) = serde_json::from_value::<DynamicObject>(object) else { return true };
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let api = self.api(&kinds::events(), Some(namespace));
        let answer = self.connection.write(Write::Event, api.create(&parameters, &fresh)).await;
        self.is_over(answer, &subject.name)
    }

    fn subject(&self, about: &About) -> Subject {
        let ApiResource { api_version, kind, .. } = self.kinds[about.kind].resource.clone();
        let About { namespace, name, uid, .. } = about.clone();
        Subject { api_version, kind, namespace, name, uid }
    }

    /// By its name, with the right to list its kind: `None`: there is none.
    async fn find(&self, key: &ResourceKey) -> Result<Option<Subject>, Option<Error>> {
        let Some((resource, namespace, name)) = kinds::of_key(self.calico, key) else { return Ok(None) };
        let only = ListParams::default().fields(&format!("metadata.name={name}")).limit(1);
        let found = self.connection.answer(self.api(&resource, namespace.as_deref()).list(&only)).await?;
        let uid = found.items.into_iter().next().and_then(|found| found.metadata.uid);
        let ApiResource { api_version, kind, .. } = resource;
        Ok(uid.map(|uid| Subject { api_version, kind, namespace, name, uid }))
    }

    fn api(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        let client = self.connection.client.clone();
        match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
            None => Api::all_with(client, resource),
        }
    }

    /// What the server refuses is over: it would refuse it again. What it does not answer is not.
    fn is_over<T>(&self, answer: Result<T, Option<Error>>, about: &str) -> bool {
        match answer {
            Ok(_) => true,
            Err(Some(Error::Api(status))) if status.code == 409 => true,
            Err(Some(Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::warn!("what is to be told of {about} is not taken: {}", status.message);
                true
            }
            Err(error) => {
                let why = error.map_or_else(|| "it does not answer".to_owned(), |error| in_full(&error));
                tracing::debug!("{about} is not told of yet: {}: {why}", self.connection.server);
                false
            }
        }
    }
}

/// When a node's turn is to write what all would.
fn turn_of(node: &NodeName, place: &PathBuf) -> Duration {
    let mut hasher = DefaultHasher::new();
    (&node.0, place).hash(&mut hasher);
    SPREAD * u32::try_from(hasher.finish() % 1000).unwrap_or_default() / 1000
}

fn now_text() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
