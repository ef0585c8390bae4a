//! kill -9 in a storm: policies change, pods come and go, traffic flows, and the agent dies at any moment (OWN-2).
//! In: a number of kills (`TORTIE_KILLS`, else 5) and a seed (`TORTIE_SEED`, else the clock). Out: every lost packet, and
//! every packet of a refused sender.
//! Invariant: a refused sender sends all the time; an allowed one is counted by numbers, and by what TCP sent again.
//! Never: waits for the agent to be at a quiet place before it is killed.

use crate::story::{Story, file_of, policy, story};
use anyhow::{Context as _, Result, ensure};
use std::{
    env,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};
use tests::{
    Cluster, Outcome, Pod, PodSpec,
    Probe::{Tcp, Udp},
    flow::Stream,
    runtime::Runtime,
    seed,
    steady::{Account, Steady},
    wait::{PATIENCE, wait_until},
};

/// Kills in CI.
const KILLS: u32 = 5;
/// Longest life of an agent after it serves.
const LIFE_MS: u64 = 300;
/// Between two datagrams.
const BEAT: Duration = Duration::from_millis(1);

/// What is true of x/a in every revision of the storm: x/b is let in, x/c is not.
const REVISIONS: [&str; 3] = [
    "{ podSelector: { matchLabels: { pod: a } }, ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }] }] }",
    "{ podSelector: { matchExpressions: [{ key: pod, operator: NotIn, values: [b, c, d] }] }, \
       ingress: [{ from: [{ podSelector: { matchExpressions: [{ key: pod, operator: In, values: [b, z] }] } }] }] }",
    "{ podSelector: { matchLabels: { pod: a } }, \
       ingress: [{ from: [{ podSelector: { matchLabels: { pod: b } } }, { ipBlock: { cidr: 203.0.113.0/24 } }] }, \
                 { from: [{ podSelector: { matchLabels: { pod: late } } }], ports: [{ port: 81 }] }] }",
];
/// What the rest of the node is told in turn: nothing of it concerns the flows.
const OTHERS: [&str; 2] = [
    "{ podSelector: { matchLabels: { pod: d } }, policyTypes: [Ingress, Egress] }",
    "{ podSelector: { matchLabels: { pod: d } }, ingress: [{}], policyTypes: [Ingress] }",
];

/// A small generator: the same seed, the same lives.
struct Dice(u64);

impl Dice {
    fn thrown() -> Result<Self> {
        Ok(Self(seed::of("the kills")? | 1))
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn kills() -> Result<u32> {
    env::var("TORTIE_KILLS").map_or(Ok(KILLS), |text| text.parse().context("TORTIE_KILLS is a number"))
}

/// Traffic of one node.
struct Traffic {
    tcp: Stream,
    udp: Stream,
    allowed: Steady,
    refused: [Steady; 2],
}

impl Traffic {
    fn start(s: &Story) -> Result<Self> {
        let (a, b, c) = (s.pod("x/a")?, s.pod("x/b")?, s.pod("x/c")?);
        let at = |port| SocketAddr::new(a.address(), port);
        let v6 = *a.addresses().last().context("an address")?;
        Ok(Self {
            tcp: b.tcp_stream(a, 80)?,
            udp: b.udp_stream(a, 80)?,
            allowed: Steady::start(b.namespace(), a.namespace(), at(5300), 1, BEAT)?,
            refused: [
                Steady::start(c.namespace(), a.namespace(), at(5301), 64, BEAT)?,
                Steady::start(c.namespace(), a.namespace(), SocketAddr::new(v6, 5302), 1, BEAT)?,
            ],
        })
    }

    fn stop(self, s: &Story) -> Result<()> {
        let again = self.tcp.sent_again([s.pod("x/a")?.namespace(), s.pod("x/b")?.namespace()])?;
        let (tcp, udp, allowed) = (self.tcp.stop()?, self.udp.stop()?, self.allowed.stop()?);
        let refused: Vec<Account> = self.refused.into_iter().map(Steady::stop).collect::<Result<_>>()?;
        println!(
            "allowed: {} TCP words, {} UDP answers, {} UDP numbers; refused: {:?} datagrams",
            tcp.sent,
            udp.sent,
            allowed.sent,
            refused.iter().map(|account| account.sent).collect::<Vec<_>>()
        );
        ensure!((tcp.lost(), udp.lost()) == (0, 0), "lost words: {tcp:?}, {udp:?}");
        ensure!(again == 0, "TCP had to send {again} segments again");
        ensure!(allowed.missing.is_empty(), "lost numbers: {allowed:?}");
        ensure!(refused.iter().all(|account| account.arrived == 0 && account.sent > 0), "let through: {refused:?}");
        Ok(())
    }
}

/// Writes policies as fast as they are taken; says how many.
fn change_policies(cluster: &Cluster, stop: &AtomicBool) -> Result<u32> {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        let turn = written as usize;
        cluster.manifest(&file_of("x/p"), &policy("x/p", REVISIONS[turn % REVISIONS.len()]))?;
        cluster.manifest(&file_of("x/q"), &policy("x/q", OTHERS[turn % OTHERS.len()]))?;
        written += 1;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(written)
}

/// Attaches a pod and takes it away again, whoever is dead meanwhile; says how often it stood. A pod that stands is
/// policed: it gets no answer from x/a.
fn come_and_go(cluster: &Cluster, runtime: &Runtime, a: &Pod, stop: &AtomicBool) -> Result<u32> {
    let mut stood = 0;
    let spec = PodSpec::new("x/late").silent();
    while !stop.load(Ordering::Relaxed) {
        cluster.pod_manifest(&spec, "node1")?;
        let Ok(mut pod) = Pod::start(cluster.stem(), &spec, runtime) else { continue };
        stood += 1;
        let seen = pod.probe(a, Udp(80))?;
        ensure!(seen == Outcome::Refused, "a late pod: {seen}");
        wait_until("DEL is served", PATIENCE, || Ok(pod.delete().is_ok()))?;
    }
    Ok(stood)
}

#[test]
fn own_2_kills_at_random_in_a_storm_lose_no_allowed_packet_and_let_no_refused_one_through() -> Result<()> {
    let (kills, mut dice) = (kills()?, Dice::thrown()?);
    story(&["x/a", "x/b", "x/c", "x/d"], |s| {
        s.policy("x/p", REVISIONS[0])?;
        s.expect(Tcp(80), "x/a\n x/b .\n x/c X")?;
        let traffic = Traffic::start(s)?;
        let (stop, killed) = (AtomicBool::new(false), AtomicU32::new(0));
        let Story { pods, node, cluster } = &mut *s;
        let (runtime, a) = (node.runtime(), pods.get("x/a").context("no pod x/a")?);
        let (written, stood) = thread::scope(|scope| {
            let policies = scope.spawn(|| change_policies(cluster, &stop));
            let pods = scope.spawn(|| come_and_go(cluster, &runtime, a, &stop));
            let storm = (|| {
                for number in 0..kills {
                    // Every fourth dies before it serves.
                    if number % 4 != 3 {
                        node.wait_ready()?;
                    }
                    thread::sleep(Duration::from_millis(dice.below(LIFE_MS)));
                    node.agent.kill()?;
                    killed.fetch_add(1, Ordering::Relaxed);
                    node.agent.start()?;
                }
                node.wait_ready()
            })();
            stop.store(true, Ordering::Relaxed);
            let join = |thread: thread::ScopedJoinHandle<'_, Result<u32>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            let (written, stood) = (join(policies), join(pods));
            storm?;
            Ok::<_, anyhow::Error>((written?, stood?))
        })?;
        println!("{} kills, {written} changes of policies, {stood} pods came and went", killed.into_inner());
        ensure!(written > kills && stood > 0, "no storm: {written} changes, {stood} pods");
        traffic.stop(s)?;
        agrees(s)
    })
}

/// The live tables, asked by the dry twin, say what the evaluator says, and nobody else's hand is seen in them.
fn agrees(s: &Story) -> Result<()> {
    s.policy("x/p", REVISIONS[0])?;
    s.drop_policy("x/q")?;
    s.expect(Tcp(80), "x/a x/b x/c x/d\n x/a - . . .\n x/b . - . .\n x/c X . - .\n x/d X . . -")?;
    for from in ["x/a", "x/b", "x/c", "x/d"] {
        for to in ["x/a", "x/b", "x/c", "x/d"].into_iter().filter(|to| *to != from) {
            let asked = ["explain", "--from", from, "--to", to, "--port", "80", "--output", "json"];
            let said = s.node.tortie(&asked)?;
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            ensure!(said.contains("\"evaluator\"") && !said.contains("ALARM"), "{from} to {to}: {said}");
        }
    }
    let status = s.node.show("status")?;
    ensure!(status["driftRepaired"] == serde_json::json!([]), "{status}");
    Ok(())
}
