//! Crowds: many pods that are wired at once, by the CNI binary or by the bare wiring.
//! In: the built programs and how many pods there may be. Out: how long each call took, from its start to its end.
//! Invariant: each call is a process of its own, started in its node's namespace; all of a crowd start together.
//! Never: times what makes the namespaces or takes the pairs away.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};
use tests::{
    Binaries, Cluster, NetNs, Node, NodeSpec, PodSpec,
    cluster::pools,
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
    _cluster: Cluster,
}

impl Crowd {
    pub fn create(binaries: Binaries, bare: &Path, pods: usize) -> Result<Self> {
        let stem = format!("{STEM}{}-crowd", process::id());
        let cluster = Cluster::with_stem(&stem, binaries)?;
        // A node takes one block of each family: one that holds a crowd.
        cluster.manifest("pools", &pools(23, 119))?;
        cluster.namespace("crowd", &[])?;
        cluster.manifest("policy", POLICY)?;
        let manifest = |number| member(number).manifest("node1").to_string();
        let manifests: Vec<_> = (0..pods).map(manifest).collect();
        cluster.manifest("members", &manifests.join("\n---\n"))?;
        let mut spec = NodeSpec::new(1).argument("--log").argument("laps=debug,info");
        spec.full_tables = true;
        let mut node = cluster.node(spec)?;
        node.start()?;
        let plain = NetNs::create(&stem, "plain")?;
        let pods = (0..pods).map(|number| NetNs::create(&stem, &format!("pod{number}"))).collect::<Result<_>>()?;
        let runtime = node.runtime().variable("TORTIE_LAPS", "1");
        Ok(Self { pods, runtime, plain, bare: bare.to_owned(), node, _cluster: cluster })
    }

    /// The agent's process.
    pub fn agent(&self) -> Result<u32> {
        self.node.agent.pid().context("the agent has ended")
    }

    /// Wires the first `count` pods at once: how long each waited. `Err` if any is not wired.
    pub fn wire(&self, side: Side, count: usize) -> Result<Vec<Wait>> {
        let barrier = Barrier::new(count);
        let one = |number: usize| {
            barrier.wait();
            self.one(side, number)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || one(number))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    /// Wires the pod of this number.
    pub fn one(&self, side: Side, number: usize) -> Result<Wait> {
        let pod = &self.pods[number];
        let begun = Instant::now();
        match side {
            Side::Bare => {
                let mut command = self.plain.command(&self.bare)?;
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
                for number in 0..count {
                    self.runtime.call("DEL", &self.call(number))?.success()?;
                }
                Ok(())
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
