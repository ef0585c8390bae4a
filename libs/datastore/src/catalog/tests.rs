//! What is in force when files are good, bad, doubled and gone.
//! In: files' texts in order. Out: the updates each one causes, in short text, and the problems.
//! Invariant: bad input takes nothing away.
//! Never: a file system.

use super::*;
use model::Policy;

const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: ";

fn policy(spec: &str) -> String {
    format!("{POLICY}{spec}\n")
}

fn namespace(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n")
}

/// Updates after `file` says `text`.
fn step(catalog: &mut Catalog, file: &str, text: &str) -> Vec<String> {
    catalog.read(Path::new(file), Ok(text));
    said(catalog.changes())
}

fn said(batch: Batch) -> Vec<String> {
    let say = |update| match update {
        Update::Set(resource) => format!("set {}", Resource::key(&resource)),
        Update::Gone(key) => format!("gone {key}"),
        Update::InSync | Update::Anew { .. } => "in sync".to_owned(),
    };
    batch.into_iter().map(say).collect()
}

fn problems(catalog: &Catalog) -> Vec<String> {
    catalog.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn a_change_is_said_once_and_an_object_that_left_its_file_is_gone() {
    let mut catalog = Catalog::default();
    assert_eq!(step(&mut catalog, "a.yaml", &policy("{}")), ["set NetworkPolicy default/p"]);
    assert_eq!(step(&mut catalog, "a.yaml", &policy("{}")), [""; 0]);
    assert_eq!(step(&mut catalog, "a.yaml", &policy("{policyTypes: [Egress]}")), ["set NetworkPolicy default/p"]);
    assert_eq!(step(&mut catalog, "a.yaml", "# nothing left\n"), ["gone NetworkPolicy default/p"]);
}

#[test]
fn a_policy_that_becomes_unreadable_keeps_its_last_good_revision_and_says_so() {
    let mut catalog = Catalog::default();
    step(&mut catalog, "a.yaml", &policy("{}"));
    assert_eq!(step(&mut catalog, "a.yaml", &policy("{podSelector: {matchLabels: 1}}")), [""; 0]);
    let problems = problems(&catalog);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("a.yaml:1: NetworkPolicy default/p: spec.podSelector.matchLabels: "),
        "{problems:?}"
    );
    assert!(problems[0].ends_with("its last good revision stays in force"), "{problems:?}");
    assert_eq!(step(&mut catalog, "a.yaml", &policy("{policyTypes: [Egress]}")), ["set NetworkPolicy default/p"]);
    assert!(catalog.problems().is_empty());
}

#[test]
fn a_policy_that_was_never_readable_counts_as_absent_and_says_so() {
    let mut catalog = Catalog::default();
    assert_eq!(step(&mut catalog, "a.yaml", &policy("{policyTypes: [Sideways]}")), [""; 0]);
    assert!(problems(&catalog)[0].ends_with("it counts as absent until it can be read"));
}

#[test]
fn a_syntax_error_delivers_the_other_documents_and_takes_nothing_away() {
    let mut catalog = Catalog::default();
    step(&mut catalog, "a.yaml", &policy("{}"));
    let text = format!("{}---\n{POLICY}[\n---\n{}", namespace("x"), namespace("z"));
    assert_eq!(step(&mut catalog, "a.yaml", &text), ["set Namespace x", "set Namespace z"]);
    let problems = problems(&catalog);
    assert!(problems[0].contains("NetworkPolicy") && problems[0].starts_with("a.yaml:"), "{problems:?}");
    // Broken again in another way: what was held through the first error is still held.
    assert_eq!(step(&mut catalog, "a.yaml", "a: [\n"), [""; 0]);
    assert_eq!(step(&mut catalog, "a.yaml", &namespace("x")), ["gone Namespace z", "gone NetworkPolicy default/p"]);
}

#[test]
fn a_file_that_cannot_be_read_holds_what_it_gave_and_one_that_is_gone_does_not() {
    let mut catalog = Catalog::default();
    step(&mut catalog, "a.yaml", &policy("{}"));
    catalog.read(Path::new("a.yaml"), Err("cannot be read: no right".into()));
    assert!(catalog.changes().is_empty());
    assert_eq!(
        problems(&catalog),
        ["a.yaml: cannot be read: no right; objects that this file gave before stay in force"]
    );
    catalog.remove(Path::new("a.yaml"));
    assert_eq!(said(catalog.changes()), ["gone NetworkPolicy default/p"]);
    assert!(catalog.problems().is_empty());
}

#[test]
fn of_two_files_the_first_by_name_counts_whichever_came_first_and_the_other_is_a_problem() {
    let (a, b) = (policy("{policyTypes: [Ingress]}"), policy("{policyTypes: [Egress]}"));
    let mut forwards = Catalog::default();
    step(&mut forwards, "a.yaml", &a);
    step(&mut forwards, "b.yaml", &b);
    let mut backwards = Catalog::default();
    step(&mut backwards, "b.yaml", &b);
    step(&mut backwards, "a.yaml", &a);
    let told = |catalog: &Catalog| -> Vec<_> { catalog.objects.values().map(|known| known.told.clone()).collect() };
    assert_eq!(told(&forwards), told(&backwards));
    assert_eq!(
        problems(&forwards),
        ["b.yaml:1: NetworkPolicy default/p: also in a.yaml, which counts; remove one of them"]
    );
    forwards.remove(Path::new("a.yaml"));
    assert_eq!(said(forwards.changes()), ["set NetworkPolicy default/p"]);
    assert!(forwards.problems().is_empty());
}

#[test]
fn a_file_that_was_renamed_changes_nothing() {
    let mut catalog = Catalog::default();
    step(&mut catalog, "a.yaml", &policy("{}"));
    catalog.remove(Path::new("a.yaml"));
    assert_eq!(step(&mut catalog, "z.yaml", &policy("{}")), [""; 0]);
}

#[test]
fn an_unreadable_rule_is_delivered_in_its_place_and_reported() {
    let mut catalog = Catalog::default();
    let text = policy("{ingress: [{from: [{ipBlock: {cidr: nowhere}}]}]}");
    assert_eq!(step(&mut catalog, "a.yaml", &text), ["set NetworkPolicy default/p"]);
    let problems = problems(&catalog);
    assert!(problems[0].contains("spec.ingress[0].from[0].ipBlock.cidr: \"nowhere\""), "{problems:?}");
    assert!(problems[0].ends_with("this part matches nothing"), "{problems:?}");
}

#[test]
fn lists_deliver_their_members_and_an_object_given_twice_in_a_file_counts_once() {
    let mut catalog = Catalog::default();
    let list =
        "{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Namespace, metadata: {name: x}}, {kind: 1}]}";
    assert_eq!(step(&mut catalog, "a.yaml", list), ["set Namespace x"]);
    assert_eq!(problems(&catalog).len(), 1);
    step(&mut catalog, "a.yaml", &format!("{}---\n{}", namespace("x"), namespace("x")));
    assert_eq!(
        problems(&catalog),
        ["a.yaml:3: Namespace x: already given in line 1, which counts; remove one of them"]
    );
}

fn global_policy(version: &str, metadata: &str, spec: &str) -> String {
    format!("{{apiVersion: {version}, kind: GlobalNetworkPolicy, metadata: {metadata}, spec: {spec}}}\n")
}

#[test]
fn hep_10_fields_for_host_endpoints_that_do_not_agree_leave_the_policy_as_it_was() {
    let mut catalog = Catalog::default();
    let policy = |spec: &str| global_policy("projectcalico.org/v3", "{name: p}", spec);
    assert_eq!(step(&mut catalog, "a.yaml", &policy("{}")), ["set GlobalNetworkPolicy p"]);
    assert_eq!(step(&mut catalog, "a.yaml", &policy("{doNotTrack: true}")), [""; 0]);
    assert_eq!(problems(&catalog).len(), 1);
    let moved = policy("{doNotTrack: true, applyOnForward: true}");
    assert_eq!(step(&mut catalog, "a.yaml", &moved), ["set GlobalNetworkPolicy p"]);
}

#[test]
fn cal_15_a_policy_as_written_and_as_stored_is_one_policy() {
    let mut catalog = Catalog::default();
    let stored = "{name: default.p, annotations: {projectcalico.org/metadata: '{\"name\": \"p\"}'}}";
    let written = global_policy("projectcalico.org/v3", "{name: p}", "{order: 1}");
    assert_eq!(step(&mut catalog, "a.yaml", &written), ["set GlobalNetworkPolicy p"]);
    assert_eq!(step(&mut catalog, "b.yaml", &global_policy("crd.projectcalico.org/v1", stored, "{order: 2}")), [""; 0]);
    assert!(problems(&catalog)[0].contains("also in a.yaml, which counts"), "{:?}", problems(&catalog));
}

/// One file after another says something else, or is gone: what was said piece by piece is what is said of all at once.
#[test]
fn what_is_kept_as_files_change_is_what_a_first_reading_says() {
    let mut state = 1u64;
    let mut below = move |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let (mut catalog, mut heard) = (Catalog::default(), BTreeMap::new());
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..500 {
        let name = format!("{}.yaml", below(4));
        if below(4) == 0 {
            files.remove(&name);
            catalog.remove(Path::new(&name));
        } else {
            let types = ["Ingress", "Egress"];
            let document = |of: &mut dyn FnMut(u64) -> u64| {
                let kept = types[usize::from(of(2) == 0)];
                policy(&format!("{{policyTypes: [{kept}]}}")).replace("name: p", &format!("name: p{}", of(3)))
            };
            let text: Vec<_> = (0..below(4)).map(|_| document(&mut below)).collect();
            catalog.read(Path::new(&name), Ok(&text.join("---\n")));
            files.insert(name, text.join("---\n"));
        }
        for update in catalog.changes() {
            match update {
                Update::Set(resource) => drop(heard.insert(resource.key(), resource)),
                Update::Gone(key) => assert!(heard.remove(&key).is_some(), "{key} is gone and never was"),
                Update::InSync | Update::Anew { .. } => unreachable!("a catalog does not know"),
            }
        }
        let mut fresh = Catalog::default();
        files.iter().for_each(|(name, text)| fresh.read(Path::new(name), Ok(text)));
        let first = fresh.changes().into_iter().filter_map(|update| match update {
            Update::Set(resource) => Some((resource.key(), resource)),
            Update::Gone(_) | Update::InSync | Update::Anew { .. } => None,
        });
        assert_eq!(heard, first.collect::<BTreeMap<_, _>>());
        assert_eq!(problems(&catalog), problems(&fresh));
        let documents = |catalog: &Catalog| -> Vec<_> {
            let of = |key| catalog.document(key).map(|(path, text)| (path.to_owned(), text.to_owned()));
            heard.keys().map(of).collect()
        };
        assert_eq!(documents(&catalog), documents(&fresh));
    }
}

/// A policy of these pods that lets the role `r` in.
fn of_pods(name: &str, app: &str) -> String {
    let from = "[{from: [{podSelector: {matchLabels: {role: r}}}], ports: [{port: 80}, {port: 53, protocol: UDP}]}]";
    policy(&format!("{{podSelector: {{matchLabels: {{app: {app}}}}}, ingress: {from}}}"))
        .replace("name: p", &format!("name: {name}"))
}

fn policies(batch: Batch) -> Vec<Arc<Policy>> {
    let policy = |update| match update {
        Update::Set(Resource::Policy(policy)) => Some(policy),
        _ => None,
    };
    batch.into_iter().filter_map(policy).collect()
}

#[test]
fn policies_that_select_alike_share_the_selector_and_one_that_changes_leaves_the_other_alone() {
    let mut catalog = Catalog::default();
    for name in ["a", "b"] {
        catalog.read(Path::new(&format!("{name}.yaml")), Ok(&of_pods(name, "db")));
    }
    let [a, b] = &policies(catalog.changes())[..] else { panic!("two policies are told") };
    let peers = [&a.ingress, &b.ingress].map(|rules| rules.iter().map(|rule| rule.source.selector.clone()));
    let peers: Vec<_> = peers.into_iter().flatten().flatten().collect();
    assert!(Arc::ptr_eq(&a.subject, &b.subject) && Arc::ptr_eq(&a.id.namespace.0, &b.id.namespace.0));
    assert!(peers.len() == 4 && peers.iter().all(|peer| Arc::ptr_eq(peer, &peers[0])), "{peers:?}");
    let untouched = Policy::clone(b);
    catalog.read(Path::new("a.yaml"), Ok(&of_pods("a", "web")));
    let [changed] = &policies(catalog.changes())[..] else { panic!("one policy is told") };
    assert!(changed.subject.to_string().contains("web") && a.subject.to_string().contains("db"));
    assert_eq!((&**b, &changed.ingress), (&untouched, &a.ingress));
    catalog.read(Path::new("a.yaml"), Ok(&of_pods("a", "db")));
    let [again] = &policies(catalog.changes())[..] else { panic!("one policy is told") };
    assert!(again == a && Arc::ptr_eq(&again.subject, &b.subject));
}

#[test]
fn pods_of_a_workload_share_their_labels_and_one_that_is_relabelled_has_its_own() {
    let pod = |name: &str, door: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: db, door: {door}}}}}, spec: {{}}}}"
        )
    };
    let labels = |batch: Batch| match batch.into_iter().next() {
        Some(Update::Set(Resource::Pod(pod))) => pod.labels.clone(),
        other => panic!("a pod is told, not {other:?}"),
    };
    let mut catalog = Catalog::default();
    let mut step = |name: &str, door: &str| {
        catalog.read(Path::new(name), Ok(&pod(name, door)));
        labels(catalog.changes())
    };
    let place = |labels: &model::Labels| labels.get("app").map(str::as_ptr);
    let (one, other) = (step("a", "open"), step("b", "open"));
    assert_eq!(place(&one), place(&other));
    let shut = step("a", "shut");
    assert_eq!([&one, &other, &shut].map(|labels| labels.get("door")), [Some("open"), Some("open"), Some("shut")]);
    assert_eq!(place(&step("a", "open")), place(&other));
}
