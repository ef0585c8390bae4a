//! Tells the cluster: conditions of objects, this node's condition and annotations, events.
//! In: what the watches note, what the agent reports of its node. Out: writes, few and each once.
//! Invariant: one verdict on one generation of an object is written once by an agent, whatever becomes of it there: two who
//! disagree do not write in turns.
//! Never: makes anybody wait; takes an object's condition from another who writes it; looks at an object of which nothing was heard.

mod events;
mod plan;
mod queue;

use super::{
    Connection, MANAGER,
    connection::Write,
    in_full,
    kinds::{self, Calico, Watched},
    noted::{About, NETWORK_UNAVAILABLE, Notes, condition_of},
    patching, posting,
};
use crate::calendar::rfc3339;
use events::{Said, Subject, event};
use kube::{
    Api, Error,
    api::{ListParams, Patch, PatchParams},
    core::DynamicObject,
    discovery::ApiResource,
};
use model::{NodeName, ResourceKey};
use plan::{NodeVerdict, Verdict};
use queue::{Queue, Waiting};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, time};

/// Agents write what all of them would within so long, each at a time of its own: the others see it there.
const SPREAD: Duration = Duration::from_secs(3);
/// The same for events, a node each: of these nobody hears what others wrote, so that every agent asks the server for each.
const SPREAD_A_NODE: Duration = Duration::from_millis(100);
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

/// A remark on an object, by where it lies and its UID, or by what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    At(PathBuf, String, String),
    On(Remark),
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is there, or another's, or its object is gone.
    Taken,
    /// The server will not have it, and would not a second time.
    Refused,
    /// Not yet.
    None,
}

/// Who writes.
pub(super) struct Writer {
    connection: Connection,
    kinds: Vec<Watched>,
    calico: Calico,
    node: NodeName,
    notes: Arc<Notes>,
    begun: Instant,
    /// Objects of which something was heard since they were judged; `None`: there is none any more.
    unjudged: BTreeMap<PathBuf, Option<About>>,
    /// All were judged once.
    is_judged: bool,
    conditions: Queue,
    /// Objects that cannot be read and have no status to say so, and when it is this agent's turn to say it.
    unreadable: BTreeMap<PathBuf, (About, Instant)>,
    node_written: Option<Instant>,
    /// What the server will not have of this node.
    node_refused: Option<NodeVerdict>,
    said: Said<Line>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        (kinds, calico): (Vec<Watched>, Calico),
        node: NodeName,
        notes: Arc<Notes>,
    ) -> Self {
        Self {
            connection,
            kinds,
            calico,
            node,
            notes,
            begun: Instant::now(),
            unjudged: BTreeMap::new(),
            is_judged: false,
            conditions: Queue::default(),
            unreadable: BTreeMap::new(),
            node_written: None,
            node_refused: None,
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
        if !self.hear() {
            return None;
        }
        let parts = [self.tell_conditions().await, self.tell_node(report).await, self.remark(report).await];
        parts.into_iter().flatten().min()
    }

    /// Takes what was noted since the last time. `false`: not everything was listed yet.
    fn hear(&mut self) -> bool {
        let Self { notes, kinds, unjudged, unreadable, node, .. } = self;
        let noted = &mut *notes.look();
        if !noted.is_in_sync {
            return false;
        }
        let now = Instant::now();
        let nodes = u32::try_from(noted.nodes.len()).unwrap_or(u32::MAX);
        for place in std::mem::take(&mut noted.changed) {
            let about = noted.objects.get(&place).cloned();
            match &about {
                Some(about) if condition_of(&kinds[about.kind].resource.kind).is_none() => {
                    // One that is written again and again is told of all the same.
                    let before = unreadable.get(&place).map(|(_, at)| *at).filter(|at| *at > now);
                    let at = before.unwrap_or_else(|| {
                        now + turn_of(node, &place, SPREAD.max(SPREAD_A_NODE.saturating_mul(nodes)))
                    });
                    unreadable.insert(place, (about.clone(), at));
                }
                _ => {
                    unreadable.remove(&place);
                    unjudged.insert(place, about);
                }
            }
        }
        true
    }

    async fn tell_conditions(&mut self) -> Option<Instant> {
        // What Calico's objects say does not count while they are locked; it is judged after that.
        if self.connection.is_paused() {
            return None;
        }
        let now = Instant::now();
        self.judge(now);
        for place in self.conditions.due(now) {
            // What was heard of meanwhile is judged anew first.
            if self.connection.is_paused() || self.notes.look().changed.contains(&place) {
                continue;
            }
            let Some(Waiting { about, verdict, .. }) = self.conditions.get(&place) else { continue };
            let answer = self.apply_condition(&about, &verdict).await;
            self.conditions.tried(&place, answer != Answer::None, Instant::now());
        }
        self.conditions.next().filter(|_| !self.connection.is_paused())
    }

    fn judge(&mut self, now: Instant) {
        let is_start = !std::mem::replace(&mut self.is_judged, true);
        for (place, about) in std::mem::take(&mut self.unjudged) {
            let Some(about) = about else {
                self.conditions.gone(&place);
                continue;
            };
            let verdict = plan::verdict(&self.kinds[about.kind].resource.kind, &about, is_start);
            let at = now + turn_of(&self.node, &place, SPREAD);
            self.conditions.want(place, about, verdict, at);
        }
    }

    async fn apply_condition(&self, about: &About, verdict: &Verdict) -> Answer {
        let resource = &self.kinds[about.kind].resource;
        let before = about.condition.as_ref().filter(|found| found.status == verdict.status && !found.since.is_empty());
        let condition = json!({
            "type": condition_of(&resource.kind), "status": if verdict.status { "True" } else { "False" },
            "reason": verdict.reason, "message": verdict.message, "observedGeneration": verdict.generation,
            "lastTransitionTime": before.map_or_else(now_text, |found| found.since.clone()),
        });
        let applied = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "name": about.name, "namespace": about.namespace, "uid": about.uid },
            "status": { "conditions": [condition] },
        });
        let api = self.api(resource, about.namespace.as_deref());
        let (parameters, patch) = (PatchParams::apply(MANAGER), Patch::Apply(&applied));
        let answer = self.connection.write(Write::Condition, api.patch_status(&about.name, &parameters, &patch)).await;
        self.answered(answer, &about.name)
    }

    async fn tell_node(&mut self, report: &Report) -> Option<Instant> {
        let addresses = report.serves.as_ref()?;
        let verdict = plan::node(addresses, self.notes.look().node.as_ref()?)?;
        if self.node_refused.as_ref() == Some(&verdict) {
            return None;
        }
        let now = Instant::now();
        if let Some(rest) = self.node_written.map(|written| written + NODE_REST).filter(|rest| now < *rest) {
            return Some(rest);
        }
        let answer = self.apply_node(&verdict).await;
        self.node_refused = (answer == Answer::Refused).then_some(verdict);
        self.node_written = Some(now);
        // What was written is heard of before that; if not, it is looked at again.
        Some(now + NODE_REST)
    }

    async fn apply_node(&self, verdict: &NodeVerdict) -> Answer {
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
        let (parameters, patch) = (patching(), Patch::Strategic(&applied));
        let answer = self.connection.write(Write::Node, api.patch_status(&self.node.0, &parameters, &patch)).await;
        self.answered(answer, &self.node.0)
    }

    /// Events: of objects that cannot be read and have no status to say so, and of what the agent remarks.
    async fn remark(&mut self, report: &Report) -> Option<Instant> {
        let lines = self.lines(report);
        self.said.hold(&lines);
        let mut next = None;
        for line in lines {
            let at = self.turn_to_say(&line).filter(|at| Instant::now() < *at && !self.said.was(&line));
            if let Some(at) = at {
                next = sooner(next, at);
                continue;
            }
            match self.said.may(&line, self.begun.elapsed()) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(later) => return sooner(next, self.begun + later),
            }
            if self.say(&line).await == Answer::None {
                self.said.unsaid(&line);
                next = sooner(next, Instant::now() + AGAIN);
            }
        }
        next
    }

    fn turn_to_say(&self, line: &Line) -> Option<Instant> {
        match line {
            Line::At(place, ..) => self.unreadable.get(place).map(|(_, at)| *at),
            Line::On(_) => None,
        }
    }

    fn lines(&self, report: &Report) -> BTreeSet<Line> {
        let at = |(place, (about, _)): (&PathBuf, &(About, Instant))| {
            let (place, uid) = (place.clone(), about.uid.clone());
            about.wrong.clone().into_iter().map(move |message| Line::At(place.clone(), uid.clone(), message))
        };
        self.unreadable.iter().flat_map(at).chain(report.remarks.iter().cloned().map(Line::On)).collect()
    }

    async fn say(&self, line: &Line) -> Answer {
        let (subject, reason, text) = match line {
            Line::At(place, _, message) => {
                let Some((about, _)) = self.unreadable.get(place) else { return Answer::Taken };
                (self.subject(about), "Unreadable", message)
            }
            Line::On(remark) => match self.find(&remark.about).await {
                Ok(Some(subject)) => (subject, remark.reason, &remark.text),
                Ok(None) => return Answer::Taken,
                Err(error) => return self.answered::<()>(Err(error), &remark.about.to_string()),
            },
        };
        let object = event(&subject, reason, text, &self.node.0, &now_text());
        let namespace = subject.namespace.as_deref().unwrap_or("default");
        let Ok(fresh) = serde_json::from_value::<DynamicObject>(object) else { return Answer::Taken };
        let parameters = posting();
        let api = self.api(&kinds::events(), Some(namespace));
        let answer = self.connection.write(Write::Event, api.create(&parameters, &fresh)).await;
        self.answered(answer, &subject.name)
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

    fn answered<T>(&self, answer: Result<T, Option<Error>>, about: &str) -> Answer {
        match answer {
            Ok(_) => Answer::Taken,
            Err(Some(Error::Api(status))) if [404, 409].contains(&status.code) => Answer::Taken,
            Err(Some(Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::warn!("what is to be told of {about} is not taken: {}", status.message);
                Answer::Refused
            }
            Err(error) => {
                let why = error.map_or_else(|| "it does not answer".to_owned(), |error| in_full(&error));
                tracing::debug!("{about} is not told of yet: {}: {why}", self.connection.server);
                Answer::None
            }
        }
    }
}

/// When within so long a node's turn is to write what all would.
fn turn_of(node: &NodeName, place: &Path, within: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (&node.0, place).hash(&mut hasher);
    (within / 1000).saturating_mul(u32::try_from(hasher.finish() % 1000).unwrap_or_default())
}

fn sooner(next: Option<Instant>, at: Instant) -> Option<Instant> {
    next.into_iter().chain([at]).min()
}

fn now_text() -> String {
    rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests;
