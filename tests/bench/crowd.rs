//! Crowds: many pods that are wired at once, by the CNI binary or by the bare wiring.
//! In: the built programs and how many pods there may be. Out: how long each call took, from its start to its end.
//! Invariant: each call is a process of its own, started in its node's namespace; all of a crowd start together.
//! Never: times what makes the namespaces or takes the pairs away.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};
use tests::{
    Binaries, Cluster, NetNs, Node, NodeSpec, PodSpec,
    cluster::{NATIVE, pools as all_pools},
    netns::STEM,
    runtime::{Call, Runtime},
};

/// What is in force before an ADD is answered: some peers, some port.
const POLICY: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: crowd, name: members }
spec:
  podSelector: { matchLabels: { crowd: member } }
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ podSelector: { matchLabels: { crowd: member } } }]
    ports: [{ protocol: TCP, port: 80 }]
  egress:
  - to: [{ podSelector: { matchLabels: { crowd: member } } }]
    ports: [{ protocol: TCP, port: 80 }]
";

/// Who wires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The bare wiring, on a node without an agent.
    Bare,
    /// The CNI binary and the agent.
    Tortie,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Wait {
    /// From its start to its end.
    pub took: Duration,
    /// What it said of itself.
    pub said: String,
}

/// A node of each kind, and pods that belong to neither until they are wired.
pub struct Crowd {
    // Dropped in this order: namespaces before the agent, which is to find nothing to do for them.
    pods: Vec<NetNs>,
    runtime: Runtime,
    plain: NetNs,
    bare: PathBuf,
    node: Node,
    cluster: Cluster,
}

impl Crowd {
    pub fn create(binaries: Binaries, bare: &Path, pods: usize, is_served: bool) -> Result<Self> {
        let stem = format!("{STEM}{}-crowd", process::id());
        let mut cluster = Cluster::with_stem(&stem, binaries)?;
        if is_served {
            // Calico's sizes: a crowd has many blocks.
            cluster = cluster.serve()?;
            cluster.define(NATIVE, &all_pools(26, 122))?;
        } else {
            // A node takes one block of each family: one that holds a crowd.
            cluster.manifest("pools", &all_pools(23, 119))?;
        }
        cluster.namespace("crowd", &[])?;
        cluster.manifest("policy", POLICY)?;
        let manifest = |number| member(number).manifest("node1").to_string();
        let manifests: Vec<_> = (0..pods).map(manifest).collect();
        cluster.manifest("members", &manifests.join("\n---\n"))?;
        let mut spec = NodeSpec::new(1).argument("--log").argument("laps=debug,info");
        spec.full_tables = true;
        let mut node = cluster.node(spec)?;
        // As kubeadm asks of every node.
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            node.namespace().sysctl(setting, "1")?;
        }
        node.start()?;
        let plain = NetNs::create(&stem, "plain")?;
        let pods = (0..pods).map(|number| NetNs::create(&stem, &format!("pod{number}"))).collect::<Result<_>>()?;
        let runtime = node.runtime().from_here().variable("TORTIE_LAPS", "1");
        Ok(Self { pods, runtime, plain, bare: bare.to_owned(), node, cluster })
    }

    /// Wires the first `count` pods one after the other, in one process that asks nobody but the kernel.
    pub fn wire_in_a_loop(&self, count: usize) -> Result<Duration> {
        let mut command = self.plain.command(&self.bare)?;
        for (number, pod) in self.pods.iter().take(count).enumerate() {
            command.args((number > 0).then_some("--"));
            command.arg(format!("bare{number}")).arg(pod.path()).args(addresses(number));
        }
        let begun = Instant::now();
        let output = command.output().context("starting the bare wiring")?;
        let took = begun.elapsed();
        ensure!(output.status.success(), "the bare wiring: {}", String::from_utf8_lossy(&output.stderr));
        Ok(took)
    }

    /// What the API server has been asked so far: verb and resource.
    pub fn asked(&self) -> Result<BTreeMap<String, f64>> {
        let text = self.cluster.kubectl(&["get", "--raw", "/metrics"], "")?;
        let mut asked = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
            let label = |name: &str| line.split_once(&format!("{name}=\""))?.1.split('"').next();
            let count = line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
            // A lease is renewed by the clock, whatever pods do.
            let resource = label("resource").filter(|resource| !resource.is_empty() && *resource != "leases");
            if let Some((resource, verb)) = resource.zip(label("verb")) {
                *asked.entry(format!("{verb} {resource}")).or_default() += count;
            }
        }
        Ok(asked)
    }

    /// The agent's process.
    pub fn agent(&self) -> Result<u32> {
        self.node.agent.pid().context("the agent has ended")
    }

    /// Wires the first `count` pods at once: how long each waited. `Err` if any is not wired.
    pub fn wire(&self, side: Side, count: usize) -> Result<Vec<Wait>> {
        let barrier = Barrier::new(count);
        let one = &|number: usize| {
            self.host(side).inside(|| {
                barrier.wait();
                self.wire_from_here(side, number)
            })
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || one(number))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    /// Wires the pod of this number.
    pub fn one(&self, side: Side, number: usize) -> Result<Wait> {
        self.host(side).inside(|| self.wire_from_here(side, number))
    }

    fn host(&self, side: Side) -> &NetNs {
        match side {
            Side::Bare => &self.plain,
            Side::Tortie => self.node.namespace(),
        }
    }

    /// On a thread that is on the host: what is started from there is no copy of this process, whose cost would be the call's.
    fn wire_from_here(&self, side: Side, number: usize) -> Result<Wait> {
        let pod = &self.pods[number];
        let begun = Instant::now();
        match side {
            Side::Bare => {
                let mut command = Command::new(&self.bare);
                command.arg(format!("bare{number}")).arg(pod.path()).args(addresses(number));
                let output = command.output().context("starting the bare wiring")?;
                let took = begun.elapsed();
                let said = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "the bare wiring of pod {number}: {said}");
                Ok(Wait { took, said: String::new() })
            }
            Side::Tortie => {
                let answer = self.runtime.call("ADD", &self.call(number))?;
                let took = begun.elapsed();
                answer.success()?;
                Ok(Wait { took, said: answer.err })
            }
        }
    }

    /// Takes the pairs of the first `count` pods away.
    pub fn clear(&self, side: Side, count: usize) -> Result<()> {
        match side {
            Side::Bare => {
                let lines: Vec<_> = (0..count).map(|number| format!("link del bare{number}")).collect();
                self.plain.ip(&lines.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Side::Tortie => {
                let del = |number| self.runtime.call("DEL", &self.call(number))?.success().map(drop);
                self.node.namespace().inside(|| (0..count).try_for_each(del))
            }
        }
    }

    /// What the agent has logged so far.
    pub fn log(&self) -> String {
        self.node.agent.log()
    }

    fn call(&self, number: usize) -> Call {
        let pod = &self.pods[number];
        Call {
            container: pod.name().to_owned(),
            netns: Some(pod.path()),
            interface: "eth0".to_owned(),
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=crowd;K8S_POD_NAME={}", member(number).name),
            conf: Value::Null,
        }
    }
}

fn member(number: usize) -> PodSpec {
    PodSpec::new(&format!("crowd/member{number}")).silent().label("crowd", "member")
}

fn addresses(number: usize) -> [String; 2] {
    let (high, low) = (number / 250, number % 250 + 1);
    [format!("10.96.{high}.{low}"), format!("fd00:96::{high:x}:{low:x}")]
}
