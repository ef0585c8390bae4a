//! Which conditions are to be written, and when. Pure.
//! In: verdicts on objects, what became of writing them. Out: where it is time to write.
//! Invariant: a verdict waits for its time whatever else is heard; one that failed is not tried again before [`AGAIN`] has passed,
//! and one that was written on an object is not written on it again.
//! Never: knows an object that is gone: one that is made anew under its name is another.

use super::{super::noted::About, AGAIN, plan::Verdict};
use std::{collections::BTreeMap, path::PathBuf, time::Instant};

/// All of them, by where the objects lie.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Verdicts that were written, or that somebody else did not let us write, with the UID of their object.
    done: BTreeMap<PathBuf, (String, Verdict)>,
    waiting: BTreeMap<PathBuf, Waiting>,
}

/// A verdict that is not written yet.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) about: About,
    pub(super) verdict: Verdict,
    at: Instant,
}

impl Queue {
    /// This is to be written of an object as it is now, at this time; `None`: nothing is.
    pub(super) fn want(&mut self, place: PathBuf, about: About, verdict: Option<Verdict>, at: Instant) {
        let Some(verdict) = verdict else {
            self.waiting.remove(&place);
            return;
        };
        if self.done.get(&place).is_some_and(|(uid, done)| (uid, done) == (&about.uid, &verdict)) {
            self.waiting.remove(&place);
            return;
        }
        let is_same = |known: &&Waiting| (&known.about.uid, &known.verdict) == (&about.uid, &verdict);
        let at = self.waiting.get(&place).filter(is_same).map_or(at, |known| known.at);
        self.waiting.insert(place, Waiting { about, verdict, at });
    }

    /// There is no such object any more.
    pub(super) fn gone(&mut self, place: &PathBuf) {
        self.waiting.remove(place);
        self.done.remove(place);
    }

    /// Where it is time to write.
    pub(super) fn due(&self, now: Instant) -> Vec<PathBuf> {
        self.waiting.iter().filter(|(_, waiting)| waiting.at <= now).map(|(place, _)| place.clone()).collect()
    }

    pub(super) fn get(&self, place: &PathBuf) -> Option<Waiting> {
        self.waiting.get(place).cloned()
    }

    /// It was tried; `is_over`: there is no more to do about it.
    pub(super) fn tried(&mut self, place: &PathBuf, is_over: bool, now: Instant) {
        if is_over {
            let Some((place, Waiting { about, verdict, .. })) = self.waiting.remove_entry(place) else { return };
            self.done.insert(place, (about.uid, verdict));
        } else if let Some(waiting) = self.waiting.get_mut(place) {
            waiting.at = now + AGAIN;
        }
    }

    /// When something will be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Scene {
        queue: Queue,
        begun: Instant,
    }

    impl Scene {
        fn at(&self, seconds: u64) -> Instant {
            self.begun + Duration::from_secs(seconds)
        }

        fn want(&mut self, uid: &str, message: &str, at: u64) {
            let about = About { uid: uid.into(), ..About::default() };
            let verdict = Verdict { generation: 1, status: true, reason: "Ready", message: message.into() };
            self.queue.want("tiers/a".into(), about, Some(verdict), self.at(at));
        }

        fn tried(&mut self, is_over: bool, now: u64) {
            self.queue.tried(&"tiers/a".into(), is_over, self.at(now));
        }

        fn is_due(&self, now: u64) -> bool {
            !self.queue.due(self.at(now)).is_empty()
        }
    }

    fn scene() -> Scene {
        Scene { queue: Queue::default(), begun: Instant::now() }
    }

    #[test]
    fn what_failed_is_not_tried_again_before_its_time_whatever_is_heard_meanwhile() {
        let mut scene = scene();
        scene.want("1", "x", 2);
        assert!(!scene.is_due(1) && scene.is_due(2));
        scene.want("1", "x", 5);
        assert!(scene.is_due(2), "the same verdict keeps its time");
        scene.tried(false, 2);
        let later = 2 + AGAIN.as_secs();
        scene.want("1", "x", 3);
        assert!(!scene.is_due(later - 1) && scene.is_due(later));
        assert_eq!(scene.queue.next(), Some(scene.at(later)));
        scene.want("1", "y", 4);
        assert!(scene.is_due(4), "another verdict has a time of its own");
    }

    #[test]
    fn what_was_written_is_not_written_again_but_on_an_object_that_was_made_anew() {
        let mut scene = scene();
        scene.want("1", "x", 0);
        scene.tried(true, 0);
        scene.want("1", "x", 0);
        assert_eq!((scene.is_due(9), scene.queue.next()), (false, None));
        // Nobody has seen it go.
        scene.want("2", "x", 0);
        assert!(scene.is_due(0));
        scene.tried(true, 0);
        scene.queue.gone(&"tiers/a".into());
        scene.want("2", "x", 0);
        assert!(scene.is_due(0), "what is gone is forgotten");
        scene.queue.want("tiers/a".into(), About::default(), None, scene.begun);
        assert!(!scene.is_due(9), "somebody else has said it");
    }
}
