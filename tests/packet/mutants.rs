//! Mutated packets: the real programs say about them what the same stages say when they are built for the host.
//! In: the corpus of the fuzz target `parse`, mutated at random from a seed. Out: agreement, or the script that shows otherwise.
//! Invariant: both sides start a script with equal tables and no flow; a twin is asked before its program runs.
//! Never: another run for the same seed.

use crate::{
    cast::{Actor, CLIENT, DB, NODE},
    frame::GATEWAY_MAC,
    kernel::{Kernel, UPLINK, on_a_node},
    scenario::{Narrow as _, Rules as _, Scenario, allow, interface, policy},
    table::{Action, By, Hook},
};
use abi::{DropReason, Endpoint, Outcome, endpoint::ENDPOINT_READY};
use ebpf::fake::{Bytes, Node};
use ebpf::neighbour::ADVERTISEMENT_FRAME;
use ebpf::tables::Arrival;
use ebpf::walk::{self, State, Verdict, walk};
use fuzz::{
    corpus,
    script::{self, Before, From, Place, Step},
};
use model::{Direction, IfaceName, Protocol};
use policy::generate::Dice;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Frames of a test run, unless TORTIE_FRAMES names fewer: an emulated machine takes its time.
const FRAMES: u64 = 100_000;
const PODS: [Actor; 2] = [CLIENT, DB];

#[test]
fn mutated_packets_meet_in_the_kernel_what_they_meet_in_the_stages() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("TORTIE_SEED").unwrap_or(1);
    let frames = number("TORTIE_FRAMES").unwrap_or(FRAMES);
    let until = number("TORTIE_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    println!("seed {seed}; repeat with TORTIE_SEED={seed}");
    let kept = [corpus::corpus("parse"), corpus::regressions("parse")].map(|file| corpus::read(&file));
    let kept: Vec<Vec<u8>> = kept.into_iter().flat_map(|inputs| inputs.expect("a corpus can be read")).collect();
    assert!(!kept.is_empty(), "the corpus is not where this test was built: {}", corpus::corpus("parse").display());
    on_a_node(|| {
        let mut bench = Bench::new();
        let mut dice = Dice(seed);
        for input in &kept {
            bench.hold(input);
        }
        while until.map_or(bench.frames < frames, |until| Instant::now() < until) {
            bench.hold(&mutated(&mut dice, &kept));
        }
        bench.counted();
        println!("{} frames; kernel, twin and stages agree; {:?}", bench.frames, bench.met);
        assert!(bench.met.len() > 12, "too few kinds of fate: {:?}", bench.met);
    });
}

/// Why a packet that may pass goes no further all the same; its sender is told, but not each time.
const AFTER_THE_VERDICT: [DropReason; 3] = [DropReason::Expired, DropReason::TooBig, DropReason::IcmpLimited];

/// Whether a frame is an ICMP error to whoever sent the other one.
fn complains(frame: &[u8], about: &[u8]) -> bool {
    let is_error = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame[23] == 1 && matches!(frame[34], 3 | 11),
        Some([0x86, 0xdd]) => frame[20] == 58 && matches!(frame[54], 1..=3),
        _ => false,
    };
    is_error && frame[..6] == about[6..12]
}

fn scenario() -> Scenario {
    let rules = policy("db-in", Some("db"), &[Direction::Ingress])
        .ingress(allow().port(Protocol::TCP, 80))
        .ingress(allow().port(Protocol::TCP, 81).pods("client"))
        .ingress(allow().port(Protocol::UDP, 53).net("10.65.0.0/16"))
        .ingress(allow().protocol(Protocol::ICMP))
        .ingress(allow().protocol(Protocol::ICMPV6));
    Scenario::default().pod(CLIENT, "client").pod(DB, "db").policy(rules)
}

/// A kernel, and a node in memory with equal tables.
struct Bench {
    kernel: Kernel,
    mirror: Node,
    frames: u64,
    /// How often each fate was met.
    met: BTreeMap<String, u64>,
    /// Drops that have to be counted, by slot and reason.
    drops: BTreeMap<(u32, DropReason), u64>,
}

impl Bench {
    fn new() -> Self {
        let kernel = Kernel::new(&scenario());
        Self { mirror: kernel.mirror(), kernel, frames: 0, met: BTreeMap::new(), drops: BTreeMap::new() }
    }

    fn hold(&mut self, input: &[u8]) {
        self.kernel.fresh();
        let mut node = without_flows(&self.mirror);
        for (at, step) in script::steps(input).iter().enumerate() {
            if !runs(step.frame) {
                continue;
            }
            self.prepare(&mut node, step.before);
            if let Err(why) = self.step(&node, step) {
                panic!("step {at} of\n{}\n{why}", corpus::line(input));
            }
            self.frames += 1;
        }
        let mut known: Vec<_> = node.flows().into_iter().map(|(key, _)| key).collect();
        known.sort();
        assert_eq!(self.kernel.flows(), known, "flows after\n{}", corpus::line(input));
        let as_before = self.mirror.endpoints.iter().find(|endpoint| endpoint.mac == DB.mac.0).copied();
        self.kernel.change_endpoint(DB, |endpoint| *endpoint = as_before.expect("the receiver is there"));
    }

    /// What can happen to a live node's tables between two packets, to both.
    fn prepare(&mut self, node: &mut Node, before: Before) {
        let client = node.endpoints.iter().find(|endpoint| endpoint.mac == CLIENT.mac.0).copied();
        let other = client.expect("the client is there").ingress;
        let change = |endpoint: &mut Endpoint| match before {
            Before::Readiness => endpoint.flags ^= ENDPOINT_READY,
            Before::NewRules => (endpoint.ingress, endpoint.rev) = (other, endpoint.rev + 1_000_000),
            Before::Nothing | Before::Pause => {}
        };
        if matches!(before, Before::Readiness | Before::NewRules) {
            self.kernel.change_endpoint(DB, change);
            node.endpoints.iter_mut().filter(|endpoint| endpoint.mac == DB.mac.0).for_each(change);
        }
    }

    fn step(&mut self, node: &Node, step: &Step<'_>) -> Result<(), String> {
        let hook = hook(step.place);
        let mut state = State::default();
        let verdict = walk(self.walked(hook), node, &Bytes(step.frame), &self.arrival(hook, step.frame), &mut state);
        let answer = self.kernel.ask(hook, step.frame);
        let ran = self.kernel.run(hook, step.frame);
        let told = || format!("{hook:?}: stages {verdict:?}, twin {answer:?}, program {:?}", ran.action);
        // What is spent goes no further, although the rules let it pass; its sender may be told once in a while.
        let spent = verdict.is_ok() && state.packet.ttl <= 1;
        if !spent && !agree(verdict, answer.outcome, ran.action, hook) {
            return Err(told());
        }
        if verdict.is_ok() && (answer.egress_hit, answer.ingress_hit) != (state.egress_hit, state.ingress_hit) {
            return Err(format!("{}: judged by {:?} {:?}", told(), state.egress_hit, state.ingress_hit));
        }
        let length = if verdict == Ok(Verdict::AnswerSolicitation) { ADVERTISEMENT_FRAME } else { step.frame.len() };
        let same = ran.bytes.len() == length || (verdict.is_ok() && complains(&ran.bytes, step.frame));
        if ran.action != Action::Drop && !same {
            return Err(format!("{}: {} bytes came out", told(), ran.bytes.len()));
        }
        if ran.action == Action::PassOn && ran.bytes != step.frame {
            return Err(format!("{}: changed on its way to the stack", told()));
        }
        if let Outcome::Drop(reason) = answer.outcome
            && !AFTER_THE_VERDICT.contains(&reason)
        {
            *self.drops.entry((state.slot, reason)).or_default() += 1;
        }
        *self.met.entry(format!("{:?} {:?}", self.walked(hook), answer.outcome)).or_default() += 1;
        Ok(())
    }

    fn walked(&self, hook: Hook) -> walk::Hook {
        match hook {
            Hook::Pod(_) => walk::Hook::FromWorkload,
            Hook::ToPod(..) => walk::Hook::ToWorkload,
            Hook::Uplink => walk::Hook::FromUplink,
            Hook::In => walk::Hook::FromHostEndpoint,
            Hook::Out(_) => walk::Hook::ToHostEndpoint,
            Hook::Up(_) => walk::Hook::ToUplink,
            Hook::Node | Hook::Loop => walk::Hook::FromNode,
        }
    }

    fn arrival(&self, hook: Hook, frame: &[u8]) -> Arrival {
        let index = |interface: &IfaceName| self.kernel.index(interface).0;
        let uplink = || index(&IfaceName(UPLINK.into()));
        let (ifindex, ingress_ifindex) = match hook {
            Hook::Pod(pod) => (index(&interface(pod)), 0),
            Hook::Uplink | Hook::In | Hook::Out(By::Host) | Hook::Up(By::Host) | Hook::Node => (uplink(), 0),
            Hook::Loop => (index(&IfaceName("lo".into())), 0),
            Hook::Out(By::Uplink) | Hook::Up(By::Uplink) => (uplink(), uplink()),
            Hook::Out(By::Pod(sender)) | Hook::Up(By::Pod(sender)) => (uplink(), index(&interface(sender))),
            Hook::ToPod(pod, By::Host) => (index(&interface(pod)), 0),
            Hook::ToPod(pod, By::Uplink) => (index(&interface(pod)), uplink()),
            Hook::ToPod(pod, By::Pod(sender)) => (index(&interface(pod)), index(&interface(sender))),
        };
        // As the kernel takes it: every interface but the uplink has the gateway's MAC.
        let own =
            if matches!(hook, Hook::Uplink | Hook::In | Hook::Out(_) | Hook::Up(_)) { NODE.mac.0 } else { GATEWAY_MAC };
        Arrival { ifindex, ingress_ifindex, vlan: false, foreign: frame[..6] != own, ..Arrival::default() }
    }

    /// Every drop was counted once, where and as what the stages say; nothing else was.
    fn counted(&self) {
        // The programs are attached: a packet of the host's own may meet an interface before it is anybody's.
        let nobodys = (0, DropReason::NoEndpoint);
        let (mut seen, mut told) = (self.kernel.seen().drops, self.drops.clone());
        seen.retain(|(_, reason), _| !AFTER_THE_VERDICT.contains(reason));
        assert!(seen.remove(&nobodys) >= told.remove(&nobodys));
        assert_eq!(seen, told);
    }
}

/// A node with the same tables.
fn without_flows(mirror: &Node) -> Node {
    let mut node = Node::new();
    node.generation.set(mirror.generation.get());
    node.endpoints = mirror.endpoints.clone();
    node.interfaces = mirror.interfaces.clone();
    node.addresses = mirror.addresses.clone();
    node.nets = mirror.nets.clone();
    node.classes = mirror.classes.clone();
    node.sets = mirror.sets.clone();
    node.rows = mirror.rows.clone();
    node.spans = mirror.spans.clone();
    node
}

/// The kernel runs no frame that is cut within its IP header; the fuzz target `parse` does.
fn runs(frame: &[u8]) -> bool {
    let shortest = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    };
    frame.len() >= shortest
}

fn hook(place: Place) -> Hook {
    match place {
        Place::Pod(pod) => Hook::Pod(PODS[pod]),
        Place::Uplink => Hook::Uplink,
        Place::ToPod(pod, from) => Hook::ToPod(
            PODS[pod],
            match from {
                From::Host => By::Host,
                From::Uplink => By::Uplink,
                From::Pod(sender) => By::Pod(PODS[sender]),
            },
        ),
    }
}

/// What the stages decide, the twin says and the program does.
fn agree(verdict: Result<Verdict, DropReason>, outcome: Outcome, action: Action, hook: Hook) -> bool {
    let passes = action != Action::Drop;
    match (verdict, outcome) {
        (Err(reason), Outcome::Drop(said)) => said == reason && !passes,
        // The routing table has the last word, and the stages do not ask it.
        (Ok(Verdict::ByRoute), Outcome::Drop(said)) => said == DropReason::Unroutable && !passes,
        (Ok(Verdict::ByRoute), Outcome::ToHost) => action == Action::PassOn,
        (Ok(Verdict::ByRoute), Outcome::ToInterface(_)) => action == Action::Redirect,
        (Ok(Verdict::Untouched | Verdict::ToHost), Outcome::ToHost) => action == Action::PassOn,
        (Ok(Verdict::AnswerArp | Verdict::AnswerSolicitation), Outcome::Answered) => action == Action::Redirect,
        // What is too old or too long is left to the stack; before the pod's own interface all goes on.
        (Ok(Verdict::ToEndpoint(slot)), Outcome::ToEndpoint(said)) => {
            slot == said && passes && (action == Action::PassOn || !matches!(hook, Hook::ToPod(..)))
        }
        _ => false,
    }
}

/// One of the inputs, or two joined, with some bytes changed.
fn mutated(dice: &mut Dice, kept: &[Vec<u8>]) -> Vec<u8> {
    let mut input = kept[dice.below(kept.len())].clone();
    if dice.below(3) == 0 {
        input.extend(&kept[dice.below(kept.len())]);
    }
    for _ in 0..dice.below(5) {
        mutate(dice, &mut input);
    }
    input
}

fn mutate(dice: &mut Dice, input: &mut Vec<u8>) {
    if input.is_empty() {
        return;
    }
    let at = dice.below(input.len());
    let byte = &mut input[at];
    match dice.below(6) {
        0 => *byte ^= 1 << dice.below(8),
        1 => *byte = [0, 1, 2, 6, 17, 44, 58, 0x45, 0x60, 0x7f, 0x80, 0xff][dice.below(12)],
        2 => *byte = dice.number() as u8,
        3 => *byte = byte.wrapping_add(1),
        4 => input.truncate(at),
        _ => {
            let from = dice.below(input.len());
            input[at] = input[from];
        }
    }
}
