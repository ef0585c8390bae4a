//! Who writes, beside a server that refuses everything.
//! In: what was noted, reports, a server on loopback. Out: how often it was asked, when it will be again.
//! Invariant: what is refused is not asked for again.
//! Never: waits.

use super::*;
use crate::catalog::Trouble;
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::Path,
    thread,
};

/// Answers 403 as long as the test runs.
fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let address = listener.local_addr().expect("it has one");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().expect("a length");
                }
            }
            let _ = reader.read_exact(&mut vec![0; length]);
            let status = json!({ "kind": "Status", "status": "Failure", "message": "forbidden", "reason": "Forbidden", "code": 403 });
            let body = status.to_string();
            let _ = write!(
                stream,
                "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    format!("http://{address}")
}

struct Scene {
    writer: Writer,
    kinds: Vec<Watched>,
}

fn scene() -> Scene {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": { "server": refusing() } }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "" } }],
    });
    std::fs::write(file.path(), config.to_string()).expect("it is written");
    let connection = Connection::open(Some(file.path())).expect("a kubeconfig");
    let (kinds, notes) = (kinds::watched(Calico::Stored), Arc::<Notes>::default());
    notes.look().is_in_sync = true;
    let writer = Writer::new(connection, (kinds.clone(), Calico::Stored), "n1".into(), notes);
    Scene { writer, kinds }
}

impl Scene {
    fn turn(&mut self, report: &Report) -> Option<Instant> {
        let runtime = Arc::clone(&self.writer.connection.runtime);
        runtime.block_on(self.writer.turn(report))
    }

    fn writes(&self, of: &str) -> u64 {
        self.writer.connection.writes().find(|(name, _)| *name == of).map_or(0, |(_, count)| count)
    }

    fn tier(&self, place: &str, object: &Value) {
        self.note("Tier", place, object, &[]);
    }

    fn note(&self, kind: &str, place: &str, object: &Value, wrong: &[&str]) {
        let kind = self.kinds.iter().position(|known| known.resource.kind == kind).expect("it is watched");
        let trouble = if wrong.is_empty() { Trouble::None } else { Trouble::Refused };
        let wrong = wrong.iter().map(|text| (*text).to_owned()).collect();
        self.writer.notes.take((kind, &self.kinds[kind]), Path::new(place), object, (trouble, wrong));
    }
}

#[test]
fn what_is_refused_of_a_node_is_not_asked_for_again_and_something_else_is() {
    let mut scene = scene();
    let node = json!({ "metadata": { "name": "n1", "annotations": { "other": "x" } } });
    scene.writer.notes.take_node(&"n1".into(), Path::new("nodes/n1"), &node);
    let serves = |address: &str| Report { serves: Some(vec![address.to_owned()]), ..Report::default() };
    assert!(scene.turn(&serves("192.0.2.1/24")).is_some());
    assert_eq!(scene.writes("node"), 1);
    scene.writer.node_written = None;
    assert_eq!(scene.turn(&serves("192.0.2.1/24")), None, "nothing is to be done, ever");
    assert_eq!(scene.writes("node"), 1);
    assert!(scene.turn(&serves("192.0.2.2/24")).is_some());
    assert_eq!(scene.writes("node"), 2);
}

#[test]
fn only_what_changed_is_looked_at_and_what_changed_under_the_lock_is_judged_after_it() {
    let mut scene = scene();
    let tier = json!({ "metadata": { "name": "t", "uid": "7", "generation": 1 }, "spec": {} });
    scene.writer.connection.pause(true);
    scene.tier("tiers/t", &tier);
    assert_eq!(scene.turn(&Report::default()), None);
    assert_eq!(scene.writer.conditions.next(), None);
    scene.writer.connection.pause(false);
    assert!(scene.turn(&Report::default()).is_some(), "it has a time");
    assert!(scene.writer.unjudged.is_empty() && scene.writer.notes.look().changed.is_empty());
    scene.tier("tiers/t", &tier);
    assert!(scene.writer.notes.look().changed.is_empty(), "the same again is no change");
    // Its time has come.
    let place = PathBuf::from("tiers/t");
    let Waiting { about, verdict, .. } = scene.writer.conditions.get(&place).expect("it waits");
    scene.writer.conditions = Queue::default();
    scene.writer.conditions.want(place, about, Some(verdict), Instant::now());
    scene.writer.connection.pause(true);
    assert_eq!((scene.turn(&Report::default()), scene.writes("condition")), (None, 0), "nothing is written under it");
    scene.writer.connection.pause(false);
    assert_eq!((scene.turn(&Report::default()), scene.writes("condition")), (None, 1));
    scene.writer.notes.gone(Path::new("tiers/t"));
    scene.tier("tiers/t", &tier);
    assert_eq!((scene.turn(&Report::default()), scene.writes("condition")), (None, 1), "it was refused");
}

#[test]
fn an_event_that_every_agent_would_write_waits_for_this_ones_turn_in_a_time_that_grows_with_the_nodes() {
    let mut scene = scene();
    let place = PathBuf::from("networksets/x/odd");
    let object = json!({ "metadata": { "name": "odd", "namespace": "x", "uid": "7", "generation": 1 } });
    let nodes = (0..1000).map(|number| PathBuf::from(format!("nodes/n{number}"))).collect();
    scene.writer.notes.look().nodes = nodes;
    let begun = Instant::now();
    scene.note("NetworkSet", "networksets/x/odd", &object, &["spec.nets: x"]);
    let turn = turn_of(&"n1".into(), &place, Duration::from_secs(100));
    let next = scene.turn(&Report::default()).expect("it has a turn");
    assert!(next >= begun + turn && turn > SPREAD, "{turn:?}");
    // It is written once more: its turn stays.
    scene.note("NetworkSet", "networksets/x/odd", &object, &["spec.nets: y"]);
    assert_eq!((scene.turn(&Report::default()), scene.writes("event")), (Some(next), 0));
    scene.writer.unreadable.get_mut(&place).expect("it is known").1 = begun;
    assert_eq!((scene.turn(&Report::default()), scene.writes("event")), (None, 1));
    assert_eq!((scene.turn(&Report::default()), scene.writes("event")), (None, 1), "it was said");
    scene.writer.notes.gone(&place);
    assert_eq!((scene.turn(&Report::default()), scene.writer.unreadable.len()), (None, 0));
}
