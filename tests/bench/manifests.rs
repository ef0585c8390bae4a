//! Manifests of the benches: policies of one pod by the thousand, and whole clusters.
//! In: numbers. Out: text of manifests.
//! Invariant: the rule that lets the client in is the last of all; every other rule names somebody else.
//! Never: writes a file.

use ::tests::traffic::PORT;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The server is closed until the measured policies open it.
pub const WALL: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: bench, name: wall }
spec: { podSelector: { matchLabels: { pod: server } }, policyTypes: [Ingress] }
";

/// Pods of one workload, and policies that select them.
const OF_AN_APP: usize = 10;
/// Workloads of one namespace.
const OF_A_NAMESPACE: usize = 100;

/// Documents of one file.
pub fn list(documents: impl IntoIterator<Item = Value>) -> String {
    documents.into_iter().map(|document| document.to_string()).collect::<Vec<_>>().join("\n---\n")
}

/// The peer of a rule that lets somebody else in, by label.
pub fn somebody(number: usize) -> Value {
    json!({ "podSelector": { "matchLabels": { "peer": format!("p{number}") } } })
}

/// Policies of the pod `bench/server`, each with so many rules for some `peer`; the last one is for the client.
pub fn server(policies: usize, rules: usize, peer: impl Fn(usize) -> Value) -> Vec<Value> {
    let last = policies * rules - 1;
    let from = |number: usize| match number {
        _ if number == last => json!({ "podSelector": { "matchLabels": { "pod": "client" } } }),
        _ => peer(number),
    };
    let rule = |number: usize| json!({ "from": [from(number)], "ports": ports(PORT) });
    let policy = |policy: usize| {
        let rules: Vec<_> = (0..rules).map(|each| rule(policy * rules + each)).collect();
        network_policy("bench", &format!("server-{policy:05}"), &json!({ "pod": "server" }), &rules)
    };
    (0..policies).map(policy).collect()
}

fn ports(number: u16) -> Value {
    json!([{ "protocol": "TCP", "port": number }, { "protocol": "UDP", "port": number }])
}

fn network_policy(namespace: &str, name: &str, subject: &Value, ingress: &[Value]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "podSelector": { "matchLabels": subject }, "ingress": ingress },
    })
}

/// A cluster of workloads: ten pods each elsewhere, and so many policies, spread evenly, each for one other workload.
#[derive(Clone, Copy, Debug)]
pub struct Population {
    /// Workloads.
    pub apps: usize,
    /// Each has pods on other nodes.
    pub elsewhere: bool,
    /// Policies.
    pub policies: usize,
    /// Pods here, spread over the workloads.
    pub locals: usize,
}

impl Population {
    /// As many pods as policies.
    pub fn of_cluster(pods: usize, locals: usize) -> Self {
        Self { apps: pods / OF_AN_APP, elsewhere: true, policies: pods, locals }
    }

    /// Nobody elsewhere.
    pub fn of_node(policies: usize, locals: usize) -> Self {
        Self { apps: locals.div_ceil(OF_AN_APP), elsewhere: false, policies, locals }
    }

    /// Pods on other nodes.
    pub fn pods(&self) -> usize {
        if self.elsewhere { self.apps * OF_AN_APP } else { 0 }
    }

    /// Where a workload lives.
    pub fn namespace(app: usize) -> String {
        format!("team{}", app / OF_A_NAMESPACE)
    }

    /// All of them.
    pub fn namespaces(&self) -> impl Iterator<Item = String> {
        (0..self.apps).step_by(OF_A_NAMESPACE).map(Self::namespace)
    }

    /// The workload of a pod here.
    pub fn app_of_local(&self, local: usize) -> usize {
        local * self.apps / self.locals
    }

    /// A pod on another node.
    pub fn pod(number: usize) -> Value {
        let app = number / OF_AN_APP;
        let [high, low] = [number / 250, number % 250 + 1];
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": Self::namespace(app),
                "name": format!("app{app}-{}", number % OF_AN_APP),
                "labels": { "app": format!("a{app}"), "tier": (["front", "back", "store"][app % 3]) },
            },
            "spec": { "nodeName": format!("other{}", number / 110), "serviceAccountName": "default", "containers": [{ "name": "serve" }] },
            "status": { "podIP": format!("10.{}.{}.{low}", 128 + high / 256, high % 256) },
        })
    }

    /// A policy.
    pub fn policy(&self, number: usize) -> Value {
        let (app, turn) = (number % self.apps, number / self.apps);
        let peer = format!("a{}", (app + 1 + turn) % self.apps);
        let from = json!([{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": peer } } }]);
        let port = 8000 + u16::try_from(turn % 1000).unwrap_or_default();
        let subject = json!({ "app": format!("a{app}") });
        let name = format!("policy-{number}");
        network_policy(&Self::namespace(app), &name, &subject, &[json!({ "from": from, "ports": ports(port) })])
    }
}

/// The account that pods run as unless they say otherwise.
pub fn account(namespace: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": namespace, "name": "default" } })
}

/// Lets whoever carries `door: open` in to one pod.
pub fn door(namespace: &str, pod: &str, port: u16) -> Value {
    let from = json!([{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "door": "open" } } }]);
    network_policy(namespace, "door", &json!({ "pod": pod }), &[json!({ "from": from, "ports": ports(port) })])
}

/// Refuses whoever carries `door: open`, before any other policy.
pub fn refusal(subject: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": { "name": "refusal" },
        "spec": {
            "order": 1,
            "selector": subject,
            "types": ["Ingress"],
            "ingress": [{ "action": "Deny", "source": { "selector": "door == 'open'" } }],
        },
    })
}

/// Where the backends of services are that nobody asks.
pub const OTHERS: &str = r"
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: others }
spec: { cidr: 10.128.0.0/12, blockSize: 26, disabled: true }
";

/// The address of a service.
pub fn service_address(number: usize) -> IpAddr {
    let [_, high, middle, low] = u32::try_from(number).unwrap_or_default().to_be_bytes();
    [10, 96 + high, middle, low].into()
}

/// What a service is reached by that nobody asks.
pub const UNASKED: &[&str] = &["TCP"];
/// What one is reached by that is asked.
pub const ASKED: &[&str] = &["TCP", "UDP"];

fn service_ports(protocols: &[&str]) -> Vec<Value> {
    let port = |protocol: &&str| json!({ "name": protocol.to_lowercase(), "protocol": protocol, "port": PORT });
    protocols.iter().map(port).collect()
}

/// A service.
pub fn service(number: usize, protocols: &[&str]) -> Value {
    let address = service_address(number);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": "bench",
            "name": format!("service-{number}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app": format!("a{number}") },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "selector": { "app": format!("a{number}") },
            "ports": service_ports(protocols),
        },
    })
}

/// Its slice.
pub fn endpoint_slice(number: usize, protocols: &[&str], addresses: &[IpAddr]) -> Value {
    let endpoint = |address: &IpAddr| {
        let conditions = json!({ "ready": true, "serving": true, "terminating": false });
        json!({ "addresses": [address], "conditions": conditions, "nodeName": "node1" })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "bench",
            "name": format!("service-{number}-1"),
            "labels": { "kubernetes.io/service-name": format!("service-{number}") },
        },
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": service_ports(protocols),
    })
}
