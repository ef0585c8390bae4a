//! A pod: a network namespace that the CNI binary attached, with small servers in it.
//! In: a [`PodSpec`]. Out: a [`Pod`] with addresses, from which probes start.
//! Invariant: the attachment is taken away by DEL when the pod is dropped.
//! Never: wires anything itself.

use crate::{
    NetNs, Outcome, Probe, Servers,
    expect::Actor,
    flow::{Connection, Stream},
    probe,
    runtime::{Call, Runtime},
    server::Listen,
};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What a pod should be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Named ports: name, protocol, number.
    pub ports: Vec<(String, String, u16)>,
    /// What its servers listen on.
    pub listen: Vec<Listen>,
    /// Members added to the network configuration of its ADD.
    pub conf: Value,
    /// Annotations of its object.
    pub annotations: Vec<(String, String)>,
}

impl PodSpec {
    /// `namespace/name`, labelled `pod: name`, with a server on TCP and UDP 80 and 81 whose ports are named as in
    /// the Kubernetes suite (NP-H4).
    #[must_use]
    pub fn new(id: &str) -> Self {
        let (namespace, name) = id.split_once('/').unwrap_or(("default", id));
        let mut spec = Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: vec![("pod".to_owned(), name.to_owned())],
            ports: Vec::new(),
            listen: vec![Listen::Tcp(80), Listen::Tcp(81), Listen::Udp(80), Listen::Udp(81)],
            conf: json!({}),
            annotations: Vec::new(),
        };
        for port in [80, 81] {
            spec = spec.port(&format!("serve-{port}-tcp"), "TCP", port).port(&format!("serve-{port}-udp"), "UDP", port);
        }
        spec
    }

    /// With one more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With one more annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With one more named port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, number: u16) -> Self {
        self.ports.push((name.to_owned(), protocol.to_owned(), number));
        self
    }

    /// With one more server.
    #[must_use]
    pub fn listen(mut self, listen: Listen) -> Self {
        self.listen.push(listen);
        self
    }

    /// Without named ports and servers.
    #[must_use]
    pub fn silent(mut self) -> Self {
        self.ports.clear();
        self.listen.clear();
        self
    }

    /// `namespace/name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its object, as the API server would hold it before the kubelet reports an address.
    #[must_use]
    pub fn manifest(&self, node: &str) -> Value {
        let pairs = |list: &[(String, String)]| -> serde_json::Map<_, _> {
            list.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect()
        };
        let (labels, annotations) = (pairs(&self.labels), pairs(&self.annotations));
        let port = |(name, protocol, number): &(String, String, u16)| json!({ "name": name, "protocol": protocol, "containerPort": number });
        let ports: Vec<_> = self.ports.iter().map(port).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": self.namespace, "name": self.name, "labels": labels, "annotations": annotations,
            },
            "spec": { "nodeName": node, "containers": [{ "name": "serve", "image": "serve", "ports": ports }] },
        })
    }
}

/// A pod that stands.
#[derive(Debug)]
pub struct Pod {
    servers: Servers,
    id: String,
    addresses: Vec<IpAddr>,
    result: Value,
    runtime: Runtime,
    call: Call,
    namespace: NetNs,
    attached: bool,
}

impl Pod {
    /// Makes the namespace, calls ADD, starts the servers.
    ///
    /// # Errors
    /// ADD fails, or a port is taken.
    pub fn start(stem: &str, spec: &PodSpec, runtime: &Runtime) -> Result<Self> {
        let namespace = NetNs::create(stem, &format!("{}-{}", spec.namespace, spec.name))?;
        let call = Call {
            container: namespace.name().to_owned(),
            netns: Some(namespace.path()),
            interface: "eth0".to_owned(),
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}", spec.namespace, spec.name),
            conf: spec.conf.clone(),
        };
        let id = spec.id();
        let result = runtime.call("ADD", &call)?.success().with_context(|| format!("ADD of pod {id}"))?;
        let mut pod = Self {
            servers: Servers::default(),
            addresses: addresses(&result)?,
            id,
            result,
            runtime: runtime.clone(),
            call,
            namespace,
            attached: true,
        };
        pod.servers = Servers::start(&pod.namespace, &pod.id, &spec.listen)?;
        Ok(pod)
    }

    /// `namespace/name`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// All its addresses, in the order of the ADD result.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.addresses[0]
    }

    /// What ADD answered.
    #[must_use]
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &NetNs {
        &self.namespace
    }

    /// How the runtime calls for it.
    #[must_use]
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// Name of the host side of its veth pair.
    #[must_use]
    pub fn host_interface(&self) -> &str {
        self.result["interfaces"][0]["name"].as_str().unwrap_or_default()
    }

    /// One real exchange with another pod's first address.
    ///
    /// # Errors
    /// The probe could not be made.
    pub fn probe(&self, to: &Self, what: Probe) -> Result<Outcome> {
        probe::probe(&self.namespace, to.address(), what)
    }

    /// A TCP connection to another pod's first address.
    ///
    /// # Errors
    /// It is refused.
    pub fn connect(&self, to: &Self, port: u16) -> Result<Connection> {
        Connection::open(&self.namespace, to.address(), port)
    }

    /// A background stream over TCP to another pod's first address.
    ///
    /// # Errors
    /// It is refused.
    pub fn tcp_stream(&self, to: &Self, port: u16) -> Result<Stream> {
        Stream::tcp(&self.namespace, to.address(), port)
    }

    /// A background stream of datagrams to another pod's first address.
    ///
    /// # Errors
    /// No socket.
    pub fn udp_stream(&self, to: &Self, port: u16) -> Result<Stream> {
        Stream::udp(&self.namespace, to.address(), port)
    }

    /// As a row and column of a table.
    #[must_use]
    pub fn actor(&self) -> Actor<'_> {
        Actor { name: self.id.clone(), namespace: &self.namespace, addresses: self.addresses.clone() }
    }

    /// Calls DEL.
    ///
    /// # Errors
    /// DEL fails.
    pub fn delete(&mut self) -> Result<()> {
        self.runtime.call("DEL", &self.call)?.success().with_context(|| format!("DEL of pod {}", self.id))?;
        self.attached = false;
        Ok(())
    }

    /// Ends its servers; their ports are free.
    pub fn silence(&mut self) {
        self.servers = Servers::default();
    }

    /// Leaves it standing when the value is dropped.
    pub fn keep(&mut self) {
        self.attached = false;
        self.namespace.keep();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.attached {
            // The agent may be gone, which a test can want; the namespace goes in any case.
            let _ = self.delete();
        }
    }
}

/// The addresses of an ADD result.
fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result["ips"].as_array().with_context(|| format!("no ips in {result}"))?;
    let address = |ip: &Value| {
        let text = ip["address"].as_str().unwrap_or_default().split('/').next().unwrap_or_default();
        text.parse().with_context(|| format!("reading the address {ip}"))
    };
    let found: Vec<_> = ips.iter().map(address).collect::<Result<_>>()?;
    anyhow::ensure!(!found.is_empty(), "no address in {result}");
    Ok(found)
}
