//! Events: what an agent remarks about an object, said once and at a bounded rate.
//! In: remarks that hold now. Out: those that are to be said, as objects of `v1` Event.
//! Invariant: one remark on one object has one name, whichever agent of whichever version says it: the API server keeps the first.
//! Never: says again what was said while the remark has held all along.

use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// Said at once at most; then one every [`EVERY`].
const BURST: u32 = 20;
/// Ten a minute.
const EVERY: Duration = Duration::from_secs(6);
/// What the API server takes of a message.
const MESSAGE_MAX: usize = 1024;

/// An object as an event names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) uid: String,
}

/// The event; `at`: now, as the API server writes it.
pub(super) fn event(subject: &Subject, reason: &str, text: &str, node: &str, at: &str) -> Value {
    let Subject { api_version, kind, namespace, name, uid } = subject;
    let number = number([api_version, kind, namespace.as_deref().unwrap_or_default(), name, uid, reason, text]);
    let namespace = namespace.as_deref().unwrap_or("default");
    let cut = (0..=MESSAGE_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "namespace": namespace, "name": format!("{name}.{number:016x}") },
        "involvedObject": {
            "apiVersion": api_version, "kind": kind, "namespace": subject.namespace, "name": name, "uid": uid,
        },
        "type": "Warning", "reason": reason, "message": &text[..cut],
        "source": { "component": "tortie", "host": node },
        "reportingComponent": "tortie", "reportingInstance": node,
        "firstTimestamp": at, "lastTimestamp": at, "count": 1,
    })
}

/// FNV-1a of these parts, 64 bits, with a byte between two that is in none of them.
fn number(parts: [&str; 7]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What was said of what holds.
#[derive(Debug)]
pub(super) struct Said<T> {
    said: BTreeSet<T>,
    left: u32,
    /// Since when `left` has not grown.
    since: Duration,
}

impl<T: Ord + Clone> Said<T> {
    pub(super) fn begin(now: Duration) -> Self {
        Self { said: BTreeSet::new(), left: BURST, since: now }
    }

    /// Forgets what does not hold any more.
    pub(super) fn hold(&mut self, holds: &BTreeSet<T>) {
        self.said.retain(|said| holds.contains(said));
    }

    /// Whether it was said.
    pub(super) fn was(&self, remark: &T) -> bool {
        self.said.contains(remark)
    }

    /// It could not be said.
    pub(super) fn unsaid(&mut self, remark: &T) {
        self.said.remove(remark);
    }

    /// Whether this may be said now. `Err`: when to ask again; `Ok(false)`: it was said.
    pub(super) fn may(&mut self, remark: &T, now: Duration) -> Result<bool, Duration> {
        if self.said.contains(remark) {
            return Ok(false);
        }
        while self.left < BURST && now >= self.since + EVERY {
            self.left += 1;
            self.since += EVERY;
        }
        if self.left == BURST {
            self.since = now;
        }
        self.left = self.left.checked_sub(1).ok_or(self.since + EVERY)?;
        self.said.insert(remark.clone());
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_said_once_while_it_holds_and_again_when_it_holds_anew() {
        let at = Duration::from_secs;
        let mut said = Said::begin(at(0));
        assert_eq!(said.may(&1, at(1)), Ok(true));
        assert_eq!(said.may(&1, at(2)), Ok(false));
        said.hold(&[1].into());
        assert_eq!(said.may(&1, at(3)), Ok(false));
        said.hold(&BTreeSet::new());
        assert_eq!(said.may(&1, at(4)), Ok(true));
    }

    #[test]
    fn twenty_are_said_at_once_and_then_ten_a_minute() {
        let at = Duration::from_secs;
        let mut said = Said::begin(at(0));
        let mut count = 0;
        let mut now = at(100);
        for remark in 0..80 {
            while let Err(later) = said.may(&remark, now) {
                assert!(later > now && later <= now + EVERY, "{later:?} at {now:?}");
                now = later;
            }
            count += 1;
            let minutes = (now - at(100)).as_secs_f64() / 60.0;
            assert!(f64::from(count) <= 20.0 + 10.0 * minutes + 0.01, "{count} in {minutes} minutes");
        }
        assert_eq!(now, at(100) + 60 * EVERY);
        // A long rest gives no more than at the beginning.
        let now = now + at(10_000);
        let more = (100..200).take_while(|remark| said.may(remark, now) == Ok(true)).count();
        assert_eq!(more, 20);
    }

    #[test]
    fn an_event_has_one_name_whoever_says_it_and_a_message_that_the_server_takes() {
        let subject = Subject {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: Some("x".into()),
            name: "a".into(),
            uid: "7".into(),
        };
        let text = "ü".repeat(600);
        let [one, two] = ["n1", "n2"].map(|node| event(&subject, "Unreadable", &text, node, "2026-01-01T00:00:00Z"));
        assert_eq!(one["metadata"], two["metadata"]);
        // As agents of all versions have it.
        assert_eq!(one["metadata"]["name"], "a.f1e35f120e27570b");
        assert_eq!(one["message"].as_str().map(str::len), Some(1024));
        let other = event(&subject, "Unreadable", "another", "n1", "2026-01-01T00:00:00Z");
        assert_ne!(one["metadata"]["name"], other["metadata"]["name"]);
        let of_all = event(&Subject { namespace: None, ..subject }, "x", "y", "n1", "2026-01-01T00:00:00Z");
        assert_eq!(of_all["metadata"]["namespace"], "default");
    }
}
