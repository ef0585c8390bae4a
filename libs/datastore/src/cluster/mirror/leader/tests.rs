//! What a writer makes of what the API server says, and what it would write.
//! In: what watches say; what etcd holds. Out: records, and the keys that differ.
//! Invariant: nothing is taken away before a list is over.
//! Never: an etcd.

use super::*;
use serde_json::{Value, json};

fn numbered(source: &Source, name: &str) -> usize {
    source.kinds.iter().position(|kind| kind.name() == name).expect("a kind")
}

fn pod(name: &str, label: &str) -> Value {
    json!({ "metadata": { "namespace": "x", "name": name, "labels": { "a": label } } })
}

fn says(source: &mut Source, kind: &str, said: Said) {
    let number = numbered(source, kind);
    source.hear(number, said);
}

/// All kinds listed, with these pods.
fn whole(pods: &[(&str, &str)]) -> Source {
    let mut source = Source::of(kinds::watched(Calico::Stored));
    for number in 0..source.kinds.len() {
        source.hear(number, Said::Listing);
        assert!(!source.is_whole());
        if source.kinds[number].name() == "pods" {
            pods.iter().for_each(|(name, label)| source.hear(number, Said::Object(pod(name, label))));
        }
        source.hear(number, Said::Listed);
    }
    source
}

fn held(source: &Source) -> BTreeMap<String, u64> {
    source.records.iter().map(|(key, value)| (key.clone(), digest(value))).collect()
}

/// Names of the keys that may differ.
fn changed(source: &mut Source) -> Vec<String> {
    let all = std::mem::take(&mut source.changed).into_iter();
    all.map(|key| key.rsplit('/').next().expect("a name").to_owned()).collect()
}

#[test]
fn a_new_writer_writes_only_what_differs() {
    let before = held(&whole(&[("same", "1"), ("other", "1"), ("gone", "1")]));
    let mut source = whole(&[("same", "1"), ("other", "2"), ("new", "1")]);
    source.changed.clear();
    source.compare(&before);
    assert_eq!(changed(&mut source), ["gone", "new", "other"]);
}

#[test]
fn a_record_is_gone_when_its_object_is_or_when_a_list_without_it_is_over() {
    let mut source = whole(&[("a", "1"), ("b", "1"), ("c", "1")]);
    source.changed.clear();
    says(&mut source, "pods", Said::Gone(pod("a", "1")));
    assert_eq!(changed(&mut source), ["a"]);
    says(&mut source, "pods", Said::Listing);
    says(&mut source, "pods", Said::Object(pod("c", "1")));
    assert!(source.is_whole() && changed(&mut source).is_empty(), "a list goes on");
    says(&mut source, "pods", Said::Listed);
    assert_eq!(changed(&mut source), ["b"]);
    assert_eq!(source.records.len(), 1);
}

#[test]
fn a_kind_that_is_not_there_takes_nothing_away_and_an_object_that_says_the_same_is_not_written() {
    let tier = json!({ "metadata": { "name": "t" }, "spec": { "order": 1 } });
    let mut source = whole(&[]);
    says(&mut source, "tiers.crd.projectcalico.org", Said::Object(tier.clone()));
    let before = held(&source);
    source.changed.clear();
    says(&mut source, "tiers.crd.projectcalico.org", Said::Object(tier));
    says(&mut source, "tiers.crd.projectcalico.org", Said::Absent);
    assert!(source.changed.is_empty());
    // Nor for the next writer, which never saw it.
    let mut next = Source::of(kinds::watched(Calico::Stored));
    for number in 0..next.kinds.len() {
        next.hear(number, if next.kinds[number].name().starts_with("tiers.") { Said::Absent } else { Said::Listed });
    }
    next.compare(&before);
    assert!(next.is_whole() && next.changed.is_empty());
    // A group that is not watched any more is not kept.
    let mut native = Source::of(kinds::watched(Calico::Native));
    native.compare(&before);
    assert_eq!(changed(&mut native), ["t"]);
}

#[test]
fn all_is_heard_anew_once_calicos_objects_can_be_the_clusters_own_and_none_is_lost() {
    let tier = json!({ "metadata": { "name": "t" } });
    let mut source = whole(&[("a", "1")]);
    assert!(!source.begins_anew());
    says(&mut source, "tiers.crd.projectcalico.org", Said::Object(tier.clone()));
    source.hear(usize::MAX, Said::Native(true));
    assert!(!source.begins_anew());
    says(&mut source, "tiers.crd.projectcalico.org", Said::Gone(tier));
    assert!(source.begins_anew());
    source.hear(usize::MAX, Said::Native(false));
    assert!(!source.begins_anew(), "the server cannot any more");
}

#[test]
fn a_kind_that_is_refused_again_and_again_is_in_trouble_since_the_first_time() {
    let mut source = whole(&[]);
    let pods = numbered(&source, "pods");
    says(&mut source, "pods", Said::Trouble("forbidden".into()));
    let first = source.heard[pods].trouble.expect("trouble")[0];
    says(&mut source, "pods", Said::Listing);
    says(&mut source, "pods", Said::Trouble("forbidden".into()));
    assert_eq!(source.heard[pods].trouble.expect("trouble")[0], first);
    says(&mut source, "pods", Said::Listed);
    assert!(source.heard[pods].trouble.is_none());
}
