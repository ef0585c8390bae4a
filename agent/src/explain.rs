//! Explain: would this packet pass, and which rule says so? Asked of the kernel's dry twin and of the evaluator.
//! In: two ends, a protocol and a port. Out: the verdict with its policy and rule, from both; an alarm if they disagree.
//! Invariant: the kernel's word is the verdict for what this node judges; the evaluator's for a pod elsewhere.
//! Never: sends a packet; hides a disagreement.

use crate::{
    further::{Further, further},
    gates::{self, AtPods},
    kernel::Kernel,
    notes,
    owner::Agent,
    through::{self, Through},
};
use abi::{DropReason, Outcome as Fate};
use dataplane::{GateAnswer, Origin, Question, SOURCE_PORT, StoreError, TrackedFlow, TwinAnswer, TwinError};
use model::{Attachment, Cidr, Direction, Labels, PodId, Protocol};
use policy::{Decider, Flow, Hit, HostLayer, Judgement, Outcome, Verdict, View};
use serde::Serialize;
use serde_json::Value;
use service::Frontend;
use std::{fmt, net::IpAddr};

/// What the command was asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The sending pod.
    pub from: &'a PodId,
    /// `namespace/pod`, `namespace/service` or an address.
    pub to: &'a str,
    /// Destination port; for ICMP the type.
    pub port: u16,
    /// Name or number.
    pub protocol: &'a str,
    /// Source port; `None`: one that nobody uses.
    pub source_port: Option<u16>,
}

/// A question that has no answer here.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// Nobody knows the pod.
    #[error(
        "pod {0} is not known, has no address, or is finished; see `tortie show endpoints` and `tortie show status`"
    )]
    UnknownPod(String),
    /// The destination is neither.
    #[error("{0:?} is neither an address nor namespace/pod")]
    Destination(String),
    /// The protocol has no such name.
    #[error(transparent)]
    Protocol(#[from] model::net::InvalidNet),
    /// No common family.
    #[error("{0} has no address of the sender's family")]
    NoCommonFamily(String),
    /// This host does not know how to get there.
    #[error("this host has no route to {0}")]
    NoWay(IpAddr),
    /// No common family.
    #[error("{from} and {to} have no address family in common")]
    Family {
        /// One end.
        from: PodId,
        /// The other.
        to: String,
    },
    /// This node sees nothing of the flow.
    #[error("neither {from} nor {to} is on this node: ask the agent of one of their nodes")]
    Elsewhere {
        /// One end.
        from: PodId,
        /// The other.
        to: String,
    },
    /// The kernel could not be asked.
    #[error(transparent)]
    Twin(#[from] TwinError),
    /// Its flows could not be read.
    #[error(transparent)]
    Flows(#[from] StoreError),
}

/// The answer: what `--output json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    from: PodId,
    source: IpAddr,
    to: String,
    destination: IpAddr,
    protocol: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    /// `allowed` or `refused`.
    verdict: &'static str,
    /// Which end's policy decided, if a policy did.
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<u16>,
    /// What is noted on the rule.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    annotations: Labels,
    /// One sentence.
    why: String,
    /// The Log rules that the packet meets on its way, at either end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logged_by: Vec<String>,
    /// Networks by which the sender may send beside its own addresses (`allowedSourcePrefixes`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_source_prefixes: Vec<Cidr>,
    /// As whom the packet leaves outside of all pools, and which pool says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaves_as: Option<String>,
    kernel: KernelSide,
    evaluator: EvaluatorSide,
    #[serde(flatten)]
    further: Further,
    #[serde(skip)]
    is_dropped: bool,
    /// Kernel and evaluator disagree: a bug that must be reported.
    #[serde(rename = "ALARM", skip_serializing_if = "Option::is_none")]
    alarm: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelSide {
    outcome: String,
    generation: u32,
    /// A flow with these ends is being tracked; its entry decided.
    tracked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<String>,
    /// What host endpoints on the way said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gates: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct EvaluatorSide {
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gates: Vec<String>,
}

impl Explanation {
    /// The packet would pass.
    pub fn is_allowed(&self) -> bool {
        self.verdict == word(Verdict::Allow)
    }

    /// The kernel itself lets it go no further.
    pub fn is_dropped(&self) -> bool {
        self.is_dropped
    }

    /// One sentence.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// A disagreement.
    pub fn alarm(&self) -> Option<&str> {
        self.alarm.as_deref()
    }
}

/// Asks both and puts their answers side by side. What goes to a service is asked about each of its backends.
pub fn explain<K: Kernel>(agent: &mut Agent<K>, asked: &Asked<'_>) -> Result<Value, ExplainError> {
    let protocol: Protocol = asked.protocol.parse()?;
    let ends = ends(agent, asked)?;
    let frontend = Frontend { address: ends.1, protocol, port: asked.port };
    if let Some(balance) = through::frontend_of(agent, ends.0, &frontend) {
        return through::explain(agent, &Through { asked, source: ends.0, frontend, balance });
    }
    let given = Given { view: &agent.world.view(), tracked: &agent.kernel.tracked()?, twin: None };
    let explanation = one(agent, asked, (protocol, ends.0, ends.1), &given)?;
    if let Some(alarm) = &explanation.alarm {
        disagree(asked, alarm);
    }
    Ok(serde_json::to_value(explanation).expect("strings and numbers are always JSON"))
}

/// Says it where it is read.
pub fn disagree(asked: &Asked<'_>, alarm: &str) {
    tracing::error!(from = %asked.from, to = asked.to, "kernel and evaluator disagree: {alarm}");
}

/// What an answer is put together from.
pub struct Given<'a> {
    /// The cluster.
    pub view: &'a View,
    /// Flows that are there.
    pub tracked: &'a [TrackedFlow],
    /// The twin's answer, where it was asked already.
    pub twin: Option<&'a TwinAnswer>,
}

/// Between two addresses.
pub fn one<K: Kernel>(
    agent: &Agent<K>,
    asked: &Asked<'_>,
    (protocol, source, destination): (Protocol, IpAddr, IpAddr),
    given: &Given<'_>,
) -> Result<Explanation, ExplainError> {
    let attached = |address: IpAddr| {
        agent.world.attachments().find(move |known| known.committed && known.addresses.contains(&address))
    };
    let local: (Option<&Attachment>, Option<&Attachment>) = (attached(source), attached(destination));
    if local.0.is_none() && local.1.is_none() {
        return Err(ExplainError::Elsewhere { from: asked.from.clone(), to: asked.to.to_owned() });
    }
    let detail = detail(protocol, asked.port);
    let source_port = source_port(protocol, asked.source_port);
    let from = local.0.map_or(Origin::Outside(None), |known| Origin::Pod(known.id.clone()));
    let twin = match given.twin {
        Some(twin) => twin.clone(),
        None => agent.kernel.explain(&Question { from, source, destination, protocol, detail, source_port })?,
    };
    let (view, flow) = (given.view, Flow { source, destination, protocol, detail, source_port });
    let outcome = policy::evaluate(view, &flow);
    let mut explanation = compose(asked, (source, destination), protocol, &twin, &outcome, local.1.is_some());
    let decider = decide(&twin, &outcome).decider;
    explanation.annotations = decider.map(|decider| notes::on(&agent.world, &decider)).unwrap_or_default();
    let at = AtPods { node: agent.world.node(), flow: &flow, sends: local.0.is_some(), receives: local.1.is_some() };
    let beside = [gates::at_pods(view, at, &twin, &outcome), gates::beside(view, &flow, &twin, HostLayer::Forward)];
    explanation.allowed_source_prefixes = agent.world.sources_of(asked.from).to_vec();
    explanation.leaves_as = leaves_as(agent, &flow, local).filter(|_| explanation.is_allowed());
    explanation.further = further(view, &flow, &outcome, given.tracked);
    let at_host = twin.refusing().is_some() || twin.answer.outcome == Fate::Drop(DropReason::HostEndpoint);
    explanation.further.isolation.take_if(|_| at_host);
    for gates::Beside { said, alarm, isolation } in beside {
        explanation.evaluator.gates.extend(said);
        explanation.alarm = explanation.alarm.or(alarm);
        explanation.further.isolation = explanation.further.isolation.or(isolation.filter(|_| at_host));
    }
    Ok(explanation)
}

/// As whom a pod's packet goes on outside.
fn leaves_as<K: Kernel>(
    agent: &Agent<K>,
    flow: &Flow,
    local: (Option<&Attachment>, Option<&Attachment>),
) -> Option<String> {
    let (Some(_), None) = local else { return None };
    let pool = agent.world.masquerades(flow.source, flow.destination)?;
    let Some(standing) = agent.kernel.standing(flow.source.is_ipv4()) else {
        return Some(format!(
            "nobody: pool {pool} asks for natOutgoing, and this node has no address or no uplink for it"
        ));
    };
    let (first, last) = if flow.protocol == Protocol::TCP { standing.tcp } else { standing.others };
    let by = if matches!(flow.protocol, Protocol::ICMP | Protocol::ICMPV6) { "identifier" } else { "port" };
    Some(format!("{}, by a {by} of {first} to {last}: natOutgoing of pool {pool}", standing.address))
}

/// What rules see of a port: for ICMP it is the type.
pub fn detail(protocol: Protocol, port: u16) -> u16 {
    match protocol {
        Protocol::ICMP | Protocol::ICMPV6 => port << 8,
        protocol if protocol.has_ports() => port,
        _ => 0,
    }
}

/// The source port a question is asked with.
pub fn source_port(protocol: Protocol, asked: Option<u16>) -> u16 {
    if protocol.has_ports() { asked.unwrap_or(SOURCE_PORT) } else { 0 }
}

/// The first pair of addresses of one family.
fn ends<K: Kernel>(agent: &Agent<K>, asked: &Asked<'_>) -> Result<(IpAddr, IpAddr), ExplainError> {
    let addresses = |pod: &PodId| {
        let known = agent.world.addresses_of(pod).filter(|addresses| !addresses.is_empty());
        known.ok_or_else(|| ExplainError::UnknownPod(pod.to_string()))
    };
    let sources = addresses(asked.from)?;
    let destinations = match (asked.to.parse::<IpAddr>(), asked.to.split_once('/')) {
        (Ok(address), _) => vec![address],
        (Err(_), Some((namespace, name))) => match addresses(&PodId::new(namespace, name)) {
            Err(unknown) => {
                Some(through::addresses_of(agent, namespace, name)).filter(|own| !own.is_empty()).ok_or(unknown)?
            }
            Ok(own) => own,
        },
        (Err(_), None) => return Err(ExplainError::Destination(asked.to.to_owned())),
    };
    let pairs = sources.iter().flat_map(|source| destinations.iter().map(move |destination| (*source, *destination)));
    pairs
        .into_iter()
        .find(|(source, destination)| source.is_ipv4() == destination.is_ipv4())
        .ok_or_else(|| ExplainError::Family { from: asked.from.clone(), to: asked.to.to_owned() })
}

fn compose(
    asked: &Asked<'_>,
    (source, destination): (IpAddr, IpAddr),
    protocol: Protocol,
    twin: &TwinAnswer,
    outcome: &Outcome,
    destination_is_local: bool,
) -> Explanation {
    let decision = decide(twin, outcome);
    let (policy, rule) = decision.decider.as_ref().map_or((None, None), named);
    let say = |end: &Option<Judgement>| end.as_ref().map(|end| format!("{}: {}", word(end.verdict), end.decider));
    Explanation {
        from: asked.from.clone(),
        source,
        to: asked.to.to_owned(),
        destination,
        protocol: protocol.to_string(),
        port: asked.port,
        source_port: asked.source_port,
        verdict: word(decision.verdict),
        direction: decision.direction.map(|direction| direction.to_string()),
        tier: decision.decider.as_ref().and_then(Decider::tier).map(ToString::to_string),
        policy,
        rule,
        annotations: Labels::new(),
        why: decision.why,
        logged_by: logged_by(twin),
        allowed_source_prefixes: Vec::new(),
        leaves_as: None,
        kernel: KernelSide {
            outcome: Words(twin.answer.outcome).to_string(),
            generation: twin.answer.generation,
            tracked: twin.answer.tracked,
            egress: twin.egress.as_ref().map(|hit| hit.decider.to_string()),
            ingress: twin.ingress.as_ref().map(|hit| hit.decider.to_string()),
            gates: twin.gates.iter().map(by_gate).collect(),
        },
        further: Further::default(),
        is_dropped: matches!(twin.answer.outcome, Fate::Drop(_)),
        evaluator: EvaluatorSide { egress: say(&outcome.egress), ingress: say(&outcome.ingress), gates: Vec::new() },
        alarm: disagreement(twin, outcome, destination_is_local),
    }
}

fn logged_by(twin: &TwinAnswer) -> Vec<String> {
    let ends = [&twin.egress, &twin.ingress].into_iter().flatten();
    ends.flat_map(|hit| &hit.logs).map(ToString::to_string).collect()
}

struct Decision {
    verdict: Verdict,
    direction: Option<Direction>,
    decider: Option<Decider>,
    why: String,
}

fn decide(twin: &TwinAnswer, outcome: &Outcome) -> Decision {
    let refused =
        |direction, decider: Option<Decider>, why: String| Decision { verdict: Verdict::Deny, direction, decider, why };
    let by = |decider: &Option<Decider>, otherwise: &str| {
        decider.as_ref().map_or_else(|| otherwise.to_owned(), ToString::to_string)
    };
    if let Some(gate) = twin.refusing() {
        return refused(Some(gate.direction), gate.decider.clone(), by_gate(gate));
    }
    let decider = |hit: &Option<Hit>| hit.as_ref().map(|hit| hit.decider.clone());
    let (egress, ingress) = (decider(&twin.egress), decider(&twin.ingress));
    match twin.answer.outcome {
        Fate::Drop(DropReason::EgressPolicy) => {
            let why = by(&egress, "egress policy");
            refused(Some(Direction::Egress), egress, why)
        }
        Fate::Drop(DropReason::IngressPolicy) => {
            let why = by(&ingress, "ingress policy");
            refused(Some(Direction::Ingress), ingress, why)
        }
        Fate::Drop(DropReason::HostEndpoint) => {
            let decider = ingress.or(egress);
            let why = by(&decider, "no rule");
            refused(None, decider, format!("the host endpoint of all interfaces: {why}"))
        }
        Fate::Drop(reason) => refused(None, None, format!("dropped: {}", reason.as_str())),
        _ if refuses(&outcome.egress) || refuses(&outcome.ingress) => elsewhere(outcome),
        _ => {
            let (direction, decider) = match (ingress, egress) {
                (Some(ingress), _) => (Some(Direction::Ingress), Some(ingress)),
                (None, egress) => (egress.as_ref().map(|_| Direction::Egress), egress),
            };
            let why = by(&decider, "no policy applies");
            Decision { verdict: Verdict::Allow, direction, decider, why }
        }
    }
}

/// What a host endpoint says, and by which rule.
pub fn by_gate(gate: &GateAnswer) -> String {
    let GateAnswer { interface, name, direction, answer, decider } = gate;
    let said = match answer.outcome {
        Fate::Drop(reason) => reason.as_str(),
        _ => "lets it through",
    };
    let rule = decider.as_ref().map_or_else(String::new, |decider| format!(" ({decider})"));
    format!("host endpoint {name} on {interface}, {direction}: {said}{rule}")
}

/// This node lets it out; the evaluator knows that the other end's node will not let it in.
fn elsewhere(outcome: &Outcome) -> Decision {
    let (direction, end) = match &outcome.egress {
        egress if refuses(egress) => (Direction::Egress, egress),
        _ => (Direction::Ingress, &outcome.ingress),
    };
    let decider = end.as_ref().map(|end| end.decider.clone());
    let why = decider.as_ref().map_or_else(String::new, ToString::to_string);
    Decision { verdict: Verdict::Deny, direction: Some(direction), decider, why: format!("{why} (by the evaluator)") }
}

fn refuses(end: &Option<Judgement>) -> bool {
    end.as_ref().is_some_and(|end| end.verdict == Verdict::Deny)
}

/// Only what both have judged can disagree: not a pod on another node, not a drop that no policy asked for.
fn disagreement(twin: &TwinAnswer, outcome: &Outcome, destination_is_local: bool) -> Option<String> {
    let answer = &twin.answer;
    // Where the host endpoint of all interfaces refuses between pods, the last hit is its own, and no pod's.
    if answer.tracked || answer.outcome == Fate::Drop(DropReason::HostEndpoint) {
        return None;
    }
    let kernel = |refusal: DropReason, judged: Option<u32>| match answer.outcome {
        Fate::Drop(reason) if reason == refusal => Some(Verdict::Deny),
        _ => judged.map(|_| Verdict::Allow),
    };
    let egress = kernel(DropReason::EgressPolicy, answer.egress_hit);
    let ingress = kernel(DropReason::IngressPolicy, answer.ingress_hit).filter(|_| destination_is_local);
    let ends = [
        (Direction::Egress, egress, &twin.egress, &outcome.egress),
        (Direction::Ingress, ingress, &twin.ingress, &outcome.ingress),
    ];
    ends.into_iter().find_map(|(direction, verdict, hit, evaluator)| {
        let (verdict, evaluator) = (verdict?, evaluator.as_ref()?);
        let agrees = |hit: &Hit| hit.decider == evaluator.decider && hit.logs == evaluator.logs;
        let same = verdict == evaluator.verdict && hit.as_ref().is_none_or(agrees);
        let rule = hit.as_ref().map_or("no known rule".to_owned(), |hit| hit.decider.to_string());
        let said = format!("{} by {}", word(evaluator.verdict), evaluator.decider);
        (!same).then(|| format!("{direction}: kernel says {} by {rule}, evaluator says {said}", word(verdict)))
    })
}

/// The policy or profile whose rule decided, or all policies of the tier that ended in a refusal.
fn named(decider: &Decider) -> (Option<String>, Option<u16>) {
    let names: Vec<_> = match decider {
        Decider::Profile { profile, .. } => vec![format!("Profile {profile}")],
        decider => decider.policies().iter().map(ToString::to_string).collect(),
    };
    ((!names.is_empty()).then(|| names.join(", ")), decider.place())
}

pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "refused",
        Verdict::Next => "left open",
    }
}

/// What the kernel would do, for people.
pub struct Words(pub Fate);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Fate::Drop(reason) => write!(f, "dropped: {}", reason.as_str()),
            Fate::ToEndpoint(slot) => write!(f, "to the local pod (slot {slot})"),
            Fate::ToHost => f.write_str("on to this host's stack"),
            Fate::ToInterface(index) => write!(f, "out by interface {index}"),
            Fate::Answered => f.write_str("answered on the spot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Answer;
    use model::{PolicyId, PolicyKind, TierName};

    fn rule(place: u16) -> Decider {
        let policy =
            PolicyId { name: "web".into(), namespace: "default".into(), kind: PolicyKind::KubernetesNetworkPolicy };
        Decider::Rule { tier: TierName::DEFAULT.into(), policy, direction: Direction::Ingress, place }
    }

    fn twin(outcome: Fate, egress: Option<Decider>, ingress: Option<Decider>) -> TwinAnswer {
        let hit = |decider: &Option<Decider>| decider.as_ref().map(|_| 1);
        let answer =
            Answer { outcome, egress_hit: hit(&egress), ingress_hit: hit(&ingress), tracked: false, generation: 3 };
        let meaning = |decider: Option<Decider>| decider.map(|decider| Hit::new(Verdict::Allow, decider));
        TwinAnswer { answer, egress: meaning(egress), ingress: meaning(ingress), gates: Vec::new(), by_uplink: false }
    }

    fn judged(verdict: Verdict, decider: Decider) -> Option<Judgement> {
        Some(Judgement { verdict, decider, logs: Vec::new() })
    }

    fn composed(twin: &TwinAnswer, outcome: &Outcome, local: bool) -> Explanation {
        let from = PodId::new("default", "a");
        let asked = Asked { from: &from, to: "default/b", port: 80, protocol: "tcp", source_port: None };
        let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        compose(&asked, ends, Protocol::TCP, twin, outcome, local)
    }

    #[test]
    fn a_refusal_names_direction_policy_and_rule() {
        let open = Decider::NoPolicy(Direction::Egress);
        let twin = twin(Fate::Drop(DropReason::IngressPolicy), Some(open.clone()), Some(rule(2)));
        let outcome = Outcome { egress: judged(Verdict::Allow, open), ingress: judged(Verdict::Deny, rule(2)) };
        let explanation = composed(&twin, &outcome, true);
        assert_eq!((explanation.verdict, explanation.direction.as_deref()), ("refused", Some("ingress")));
        assert_eq!((explanation.policy.as_deref(), explanation.rule), (Some("NetworkPolicy default/web"), Some(2)));
        assert_eq!(explanation.alarm, None);
    }

    #[test]
    fn a_disagreement_is_an_alarm() {
        let allows = twin(Fate::ToEndpoint(2), None, Some(rule(0)));
        let denies = Outcome { egress: None, ingress: judged(Verdict::Deny, rule(0)) };
        assert!(composed(&allows, &denies, true).alarm.is_some_and(|alarm| alarm.contains("evaluator says refused")));
        let other_rule = Outcome { egress: None, ingress: judged(Verdict::Allow, rule(1)) };
        assert!(composed(&allows, &other_rule, true).alarm.is_some(), "the same verdict by another rule");
    }

    #[test]
    fn a_pod_on_another_node_is_judged_by_the_evaluator_alone() {
        let leaves = twin(Fate::ToInterface(4), Some(Decider::NoPolicy(Direction::Egress)), None);
        let egress = judged(Verdict::Allow, Decider::NoPolicy(Direction::Egress));
        let outcome = Outcome { egress, ingress: judged(Verdict::Deny, rule(1)) };
        let explanation = composed(&leaves, &outcome, false);
        assert_eq!((explanation.verdict, explanation.rule, explanation.alarm), ("refused", Some(1), None));
    }

    #[test]
    fn a_drop_that_no_policy_asked_for_is_no_disagreement() {
        let unroutable = twin(Fate::Drop(DropReason::Unroutable), None, None);
        let outcome = Outcome { egress: judged(Verdict::Allow, Decider::NoPolicy(Direction::Egress)), ingress: None };
        let explanation = composed(&unroutable, &outcome, false);
        assert_eq!((explanation.verdict, explanation.why.as_str()), ("refused", "dropped: unroutable"));
        assert_eq!(explanation.alarm, None);
    }
}
