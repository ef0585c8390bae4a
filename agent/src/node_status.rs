//! Answers those who ask this node how its BGP is (CalicoNodeStatus).
//! In: the objects that name this node, from the datastore; what BIRD says at its control socket. Out: their status.
//! Invariant: an object is written once when it asks anew and once a period after that, whoever else writes there; what failed is tried
//! again no sooner than its period says, or ten seconds.
//! Never: makes the owner wait; writes while Calico's objects are locked.

use crate::bird;
use anyhow::Result;
use bgp::{NodeStatus, Said};
use datastore::{StatusRequest, Store};
use model::{NodeName, StatusClass};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tracing::warn;

/// Between two looks at what is asked.
const LOOK: Duration = Duration::from_secs(1);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(10);

/// The way to the thread.
#[derive(Clone, Debug)]
pub struct Answerer(Arc<Mutex<Vec<String>>>);

impl Answerer {
    /// `folder`: where the files of BIRD are, if one runs.
    pub fn start(objects: Store, node: NodeName, folder: PathBuf) -> Result<Self> {
        let problems = Arc::<Mutex<Vec<String>>>::default();
        let theirs = Arc::clone(&problems);
        let mut worker = Worker { objects, node, folder, asked: Asked::default() };
        thread::Builder::new().name("status".into()).spawn(move || worker.run(&theirs))?;
        Ok(Self(problems))
    }

    /// What keeps it from answering.
    pub fn problems(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Worker {
    objects: Store,
    node: NodeName,
    folder: PathBuf,
    asked: Asked,
}

impl Worker {
    /// Until it is known that nobody can ask.
    fn run(&mut self, problems: &Mutex<Vec<String>>) {
        loop {
            let said = match self.objects.status_requests(&self.node) {
                Ok(None) => return,
                Ok(Some(requests)) => {
                    self.asked.are(requests, Instant::now());
                    self.answer();
                    self.asked.problems()
                }
                Err(error) => vec![format!("nobody can ask how this node's BGP is: {error}")],
            };
            let before = std::mem::replace(&mut *problems.lock().unwrap_or_else(PoisonError::into_inner), said.clone());
            said.iter().filter(|problem| !before.contains(problem)).for_each(|problem| warn!("{problem}"));
            thread::sleep(LOOK);
        }
    }

    fn answer(&mut self) {
        let due = self.asked.due(Instant::now());
        if due.is_empty() || self.objects.is_locked() {
            return;
        }
        let classes: BTreeSet<StatusClass> = due.iter().flat_map(|(_, classes)| classes).copied().collect();
        let said = bird::ask(&self.folder, classes.contains(&StatusClass::Routes));
        for (request, classes) in due {
            let done = match &said {
                Ok(said) => self.write(&request, said.as_ref(), &classes),
                Err(error) => Err(format!("CalicoNodeStatus {}: BIRD does not say it: {error}", request.name)),
            };
            self.asked.was_tried(&request.name, done, Instant::now());
        }
    }

    /// What of it had no room.
    fn write(
        &self,
        request: &StatusRequest,
        said: Option<&Said>,
        classes: &BTreeSet<StatusClass>,
    ) -> Result<Option<String>, String> {
        let status: NodeStatus = bgp::status(said, classes);
        let text = serde_json::to_value(&status).map_err(|error| error.to_string())?;
        self.objects.answer_status(request, &text).map_err(|error| error.to_string())?;
        let StatusRequest { name, .. } = request;
        let lack = |count| format!("CalicoNodeStatus {name}: {count} routes have no room in it; `birdc` shows them");
        Ok(Some(status.left_out).filter(|count| *count > 0).map(lack))
    }
}

/// Who asks, and when each is to be answered next.
#[derive(Debug, Default)]
struct Asked(BTreeMap<String, One>);

#[derive(Debug)]
struct One {
    request: StatusRequest,
    /// `None`: not any more.
    due: Option<Instant>,
    problem: Option<String>,
}

impl Asked {
    /// These ask now. One that is as it was keeps its turn.
    fn are(&mut self, requests: Vec<StatusRequest>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for request in requests {
            let known = before.remove(&request.name).filter(|one| one.request == request);
            let fresh = || One {
                due: request.asked.is_ok().then_some(now),
                problem: request.asked.clone().err(),
                request: request.clone(),
            };
            self.0.insert(request.name.clone(), known.unwrap_or_else(fresh));
        }
    }

    /// Whom it is time to answer, and of what.
    fn due(&self, now: Instant) -> Vec<(StatusRequest, BTreeSet<StatusClass>)> {
        let due = self.0.values().filter(|one| one.due.is_some_and(|at| at <= now));
        due.filter_map(|one| Some((one.request.clone(), one.request.asked.as_ref().ok()?.classes.clone()))).collect()
    }

    /// It was answered, with a remark perhaps, or could not be.
    fn was_tried(&mut self, name: &str, done: Result<Option<String>, String>, now: Instant) {
        let Some(one) = self.0.get_mut(name) else { return };
        let period = one.request.asked.as_ref().map_or(0, |asked| asked.period_s);
        let period = Some(Duration::from_secs(period.into())).filter(|period| !period.is_zero());
        let rest = if done.is_ok() { period } else { Some(period.map_or(AGAIN, |period| period.min(AGAIN))) };
        one.due = rest.map(|rest| now + rest);
        one.problem = done.unwrap_or_else(Some);
    }

    fn problems(&self) -> Vec<String> {
        self.0.values().filter_map(|one| one.problem.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::StatusAsked;

    fn request(name: &str, generation: i64, period_s: u32) -> StatusRequest {
        let asked = Ok(StatusAsked { classes: [StatusClass::Bgp].into(), period_s });
        StatusRequest { name: name.into(), uid: format!("of {name}"), generation, asked }
    }

    fn names(asked: &Asked, now: Instant) -> Vec<String> {
        asked.due(now).into_iter().map(|(request, _)| request.name).collect()
    }

    #[test]
    fn who_asks_is_answered_at_once_and_then_once_a_period_however_often_it_is_heard_of() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        asked.are(vec![request("a", 1, 30), request("b", 1, 5)], start);
        assert_eq!(names(&asked, start), ["a", "b"]);
        for name in ["a", "b"] {
            asked.was_tried(name, Ok(None), start);
        }
        // The answer is heard of, too.
        asked.are(vec![request("a", 1, 30), request("b", 1, 5)], at(1));
        assert!(names(&asked, at(4)).is_empty());
        assert_eq!(names(&asked, at(5)), ["b"]);
        assert_eq!(names(&asked, at(30)), ["a", "b"]);
        asked.are(vec![request("a", 2, 30)], at(6));
        assert_eq!(names(&asked, at(6)), ["a"], "it asks anew, and the other no more");
    }

    #[test]
    fn with_a_period_of_zero_there_is_one_answer_and_another_when_it_asks_anew() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        let late = start + Duration::from_secs(1_000_000);
        asked.are(vec![request("a", 1, 0)], start);
        asked.was_tried("a", Ok(None), start);
        assert!(names(&asked, late).is_empty());
        asked.are(vec![request("a", 2, 0)], late);
        assert_eq!(names(&asked, late), ["a"]);
        let anew = StatusRequest { uid: "another".into(), ..request("a", 2, 0) };
        asked.was_tried("a", Ok(None), late);
        asked.are(vec![anew], late);
        assert_eq!(names(&asked, late), ["a"], "it was made anew under its name");
    }

    #[test]
    fn what_fails_is_named_and_tried_again_until_it_does_not() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        asked.are(vec![request("never", 1, 0), request("often", 1, 2), request("rarely", 1, 3600)], start);
        for name in ["never", "often", "rarely"] {
            asked.was_tried(name, Err(format!("{name}: forbidden")), start);
        }
        assert_eq!(asked.problems().len(), 3);
        assert!(names(&asked, at(1)).is_empty());
        assert_eq!(names(&asked, at(2)), ["often"]);
        assert_eq!(names(&asked, at(10)), ["never", "often", "rarely"]);
        asked.was_tried("never", Ok(None), at(10));
        asked.was_tried("often", Ok(Some("some have no room".into())), at(10));
        assert_eq!(asked.problems(), ["some have no room", "rarely: forbidden"]);
    }

    #[test]
    fn one_that_cannot_be_read_is_named_and_not_answered() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let bad = StatusRequest { asked: Err("spec.classes[0]: what".into()), ..request("a", 1, 1) };
        asked.are(vec![bad], now);
        assert!(names(&asked, now).is_empty());
        assert_eq!(asked.problems(), ["spec.classes[0]: what"]);
        asked.are(Vec::new(), now);
        assert!(asked.problems().is_empty());
    }
}
