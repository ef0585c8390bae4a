//! Manifests: text of files, through conversion and World to rule sets, rows and their evaluation.
//! In: texts, parted by zero bytes, that two files have one after the other. Out: nothing, or a broken promise.
//! Invariant: compiler and evaluator agree on what came out; a part that cannot be read lets nothing through.
//! Never: reads a file.

use calc::World;
use datastore::Catalog;
use model::{
    Attachment, AttachmentId, Cidr, EndpointSlice, IfaceName, Labels, Mac, NetworkSet, PodId, Policy, Protocol,
    Resource, ResourceKey, Update,
};
use policy::{Endpoint, Flow, Verdict, View, compiled::Compiled, evaluate};
use std::{collections::BTreeMap, net::IpAddr, path::Path};

/// Texts that are read; more only repeat.
const TEXTS_MAX: usize = 4;
/// Endpoints that are judged: the work grows with their square.
const ENDPOINTS_MAX: usize = 4;

/// Pods and namespaces that are there before any text. As JSON, which costs an input the least.
const CAST: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
 {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}},
 {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "back", "labels": {"team": "b"}}},
 {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
  "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
  "status": {"podIPs": [{"ip": "10.65.0.2"}]}},
 {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db", "namespace": "back", "labels": {"app": "db"}},
  "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "sql", "containerPort": 5432}]}]},
  "status": {"podIPs": [{"ip": "10.65.0.3"}]}}]}"#;

/// One input.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut told = Told::default();
    told.read(Path::new("cast.json"), CAST);
    for (number, text) in text.split('\0').take(TEXTS_MAX).enumerate() {
        told.read(Path::new(["a.yaml", "b.yaml"][number % 2]), text);
        judged(&told);
    }
}

/// What a reader of the files has heard.
#[derive(Default)]
struct Told {
    catalog: Catalog,
    known: BTreeMap<ResourceKey, Resource>,
}

impl Told {
    fn read(&mut self, file: &Path, text: &str) {
        self.catalog.read(file, Ok(text));
        let batch = self.catalog.changes();
        let hides = |problem: &datastore::Problem| problem.file == file && problem.message.contains("stay in force");
        let hidden = self.catalog.problems().iter().any(hides);
        for update in batch {
            match update {
                Update::Set(resource) => drop(self.known.insert(resource.key(), resource)),
                Update::Gone(key) => {
                    assert!(!hidden, "{key} is gone, though {} may still hold it", file.display());
                    assert!(self.known.remove(&key).is_some(), "{key} is gone and never was");
                }
                Update::InSync | Update::Anew { .. } => panic!("a catalog does not know when all is said"),
            }
        }
        assert!(self.catalog.changes().is_empty(), "a change was said twice");
        for problem in self.catalog.problems() {
            assert!(!problem.to_string().contains('\n'), "more than one line: {problem}");
        }
    }
}

fn judged(told: &Told) {
    world(told);
    let view = view(told);
    let compiled = Compiled::of(&view);
    let mut readable = view.clone();
    readable.policies.iter_mut().for_each(leave_out_unreadable);
    for flow in flows(&view) {
        let outcome = evaluate(&view, &flow);
        assert_eq!(outcome, compiled.outcome(&flow), "compiler and evaluator differ on {flow:?}");
        let without = evaluate(&readable, &flow);
        assert!(
            without.verdict() == Verdict::Allow || outcome.verdict() == Verdict::Deny,
            "an unreadable rule let {flow:?} through"
        );
    }
}

fn leave_out_unreadable(policy: &mut Policy) {
    for rules in [&mut policy.ingress, &mut policy.egress] {
        *rules = rules.iter().filter(|rule| rule.unreadable.is_none()).cloned().collect();
    }
}

/// The way that an agent goes.
fn world(told: &Told) {
    let mut world = World::new("n1".into(), false);
    for resource in told.known.values() {
        world.apply(Update::Set(resource.clone()));
    }
    for (number, pod) in ["web", "db"].into_iter().enumerate() {
        world.attach(attachment(number, pod));
    }
    world.apply(Update::InSync);
    let desired = calc::desired(world.in_sync().expect("all was said"));
    assert_eq!(desired.endpoints.len(), 2, "an attached pod is an endpoint, whatever manifests say");
    for (frontend, balance) in &desired.services {
        for backends in balance.backends() {
            assert!(backends.listed.is_sorted() && backends.chosen.is_sorted(), "{frontend}");
            assert!(backends.chosen.iter().all(|backend| backends.listed.contains(backend)), "{frontend}");
            let of_other = |address: &IpAddr| address.is_ipv4() != frontend.address.is_ipv4();
            assert!(!backends.listed.iter().any(|backend| of_other(&backend.address)), "{frontend}");
        }
    }
}

fn attachment(number: usize, pod: &str) -> Attachment {
    let last = 2 + u8::try_from(number).expect("there are two");
    Attachment {
        id: AttachmentId { network: "tortie".into(), container: pod.into(), interface: "eth0".into() },
        pod: PodId::new(if number == 0 { "shop" } else { "back" }, pod),
        host_interface: IfaceName(format!("cali{number}")),
        mac: Mac([2, 0, 0, 0, 0, last]),
        addresses: vec![IpAddr::from([10, 65, 0, last])],
        mtu: 1500,
        labels: Labels::new(),
        committed: true,
        delegated: false,
        host_ports: Vec::new(),
        floating_ips: true,
        named: false,
    }
}

fn view(told: &Told) -> View {
    let mut view = View { host: vec![Cidr::host([192, 0, 2, 1].into())], ..View::default() };
    for resource in told.known.values() {
        match resource {
            Resource::Namespace(namespace) => {
                drop(view.namespaces.insert(namespace.name.clone(), namespace.labels.clone()))
            }
            Resource::ServiceAccount(account) => {
                drop(view.accounts.insert((account.namespace.clone(), account.name.clone()), account.labels.clone()))
            }
            Resource::Node(node) => view.nodes.push(node.clone()),
            Resource::NetworkSet(set) => view.network_sets.push(NetworkSet::clone(set)),
            Resource::HostEndpoint(host) => view.host_endpoints.push(host.clone()),
            Resource::EndpointSlice(slice) => view.slices.push(EndpointSlice::clone(slice)),
            Resource::Tier(tier) => view.tiers.push(tier.clone()),
            Resource::Profile(profile) => view.profiles.push(profile.clone()),
            Resource::Policy(policy) => view.policies.push(Policy::clone(policy)),
            Resource::Pod(pod) if !pod.host_network && !pod.finished && !pod.addresses.is_empty() => {
                view.endpoints.push(Endpoint {
                    id: pod.id.clone(),
                    labels: pod.labels.clone(),
                    service_account: pod.service_account.as_deref().map(str::to_owned),
                    addresses: pod.addresses.iter().copied().take(2).collect(),
                    ports: Some(pod.ports.to_vec()),
                    profiles: pod.profiles.as_ref().map(|named| named.iter().map(|name| (**name).to_owned()).collect()),
                });
            }
            _ => {}
        }
    }
    view.endpoints.truncate(ENDPOINTS_MAX);
    view
}

fn flows(view: &View) -> Vec<Flow> {
    let pods: Vec<IpAddr> = view.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
    let strangers = [[192, 0, 2, 1], [192, 0, 2, 9], [10, 65, 9, 9]].map(IpAddr::from);
    let all: Vec<IpAddr> = pods.iter().copied().chain(strangers).collect();
    let mut flows = Vec::new();
    for source in &all {
        let to = if pods.contains(source) { &all } else { &pods };
        for destination in to.iter().filter(|to| to.is_ipv4() == source.is_ipv4()) {
            for (protocol, detail) in [(Protocol::TCP, 80), (Protocol::UDP, 53), (Protocol::ICMP, 0x0800)] {
                flows.push(Flow { source: *source, destination: *destination, protocol, detail, source_port: 40_000 });
            }
        }
    }
    flows
}
