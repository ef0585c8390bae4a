//! Gates beside the evaluator: what Calico says that a host endpoint does with a packet, held against what the kernel said.
//! In: the twins' answers at the gates of a packet's way. Out: the evaluator's words, where they disagree, what a refused packet lacks.
//! Invariant: layers are asked in the order of a packet's way: untracked, before translation, then local or forward.
//! Never: a rule set, or anything else of the compiler.

use crate::explain::{by_gate, word};
use abi::{DropReason, Outcome as Fate};
use dataplane::{GateAnswer, TwinAnswer};
use model::{Direction, HostEndpoint, HostInterface, NodeName};
use policy::{
    AtHost, Flow, HostLayer, Judgement, Outcome, Verdict, View, evaluate_at,
    nearest::{Isolation, isolation_at},
};

/// What the evaluator says beside the twins.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Of each gate.
    pub said: Vec<String>,
    /// The first disagreement.
    pub alarm: Option<String>,
    /// Where one refuses because no rule matches: who isolates it there, and which rules come nearest.
    pub isolation: Option<Isolation>,
}

/// Asks of each gate that the twins were asked of, up to this layer.
pub fn beside(view: &View, flow: &Flow, twin: &TwinAnswer, last: HostLayer) -> Beside {
    let mut beside = Beside::default();
    for gate in &twin.gates {
        let Some(host) = view.host_endpoints.iter().find(|host| host.name == gate.name) else { continue };
        let judged = at_gate(view, (host, gate.direction), last, flow);
        let said = judged.as_ref().map(|(_, judged)| judged);
        let words = said.map_or_else(|| "nothing is asked".to_owned(), ToString::to_string);
        beside.alarm = beside.alarm.or_else(|| disagreement(gate, said, &words));
        beside.isolation = beside.isolation.or_else(|| isolation(view, flow, judged.as_ref()?));
        beside.said.push(format!("{}, {}: {words}", gate.name, gate.direction));
    }
    beside
}

fn isolation(view: &View, flow: &Flow, (at, judged): &(AtHost<'_>, Judgement)) -> Option<Isolation> {
    let refuses = judged.verdict == Verdict::Deny;
    refuses.then(|| isolation_at(view, *at, flow, &judged.decider)).flatten()
}

/// A flow with an end in a pod of this node.
#[derive(Clone, Copy, Debug)]
pub struct AtPods<'a> {
    pub node: &'a NodeName,
    pub flow: &'a Flow,
    /// A pod of this node sends.
    pub sends: bool,
    /// One receives.
    pub receives: bool,
}

/// The same of the host endpoint of all interfaces, which is asked of what pods send and receive (HEP-6, E2H-6).
pub fn at_pods(view: &View, at: AtPods<'_>, twin: &TwinAnswer, outcome: &Outcome) -> Beside {
    let Some(host) = view.host_endpoints.iter().find(|host| is_of_all(host, at.node)) else { return Beside::default() };
    let refused = refused_at_pods(view, host, at, outcome);
    let said = refused.as_ref().map(|(_, refused)| refused);
    let words = said.map_or_else(|| "lets it through".to_owned(), ToString::to_string);
    Beside {
        alarm: disagreement_at_pods(twin, said, &words),
        isolation: refused.as_ref().and_then(|refused| isolation(view, at.flow, refused)),
        said: vec![format!("{}, of pods: {words}", host.name)],
    }
}

/// Before translation comes first of all, the way through after the sender's own rules.
fn refused_at_pods<'a>(
    view: &View,
    host: &'a HostEndpoint,
    at: AtPods<'_>,
    outcome: &Outcome,
) -> Option<(AtHost<'a>, Judgement)> {
    let denies = |layer, direction| {
        let here = AtHost { host, layer, direction };
        let judged = evaluate_at(view, here, at.flow).filter(|judged| judged.verdict == Verdict::Deny);
        judged.map(|judged| (here, judged))
    };
    let passes_sender = outcome.egress.as_ref().is_none_or(|egress| egress.verdict != Verdict::Deny);
    let to_node = view.host.iter().any(|net| net.contains(at.flow.destination));
    let asked = [
        (at.sends, HostLayer::PreDnat, Direction::Ingress),
        (at.sends && passes_sender && !to_node, HostLayer::Forward, Direction::Ingress),
        (at.receives && passes_sender, HostLayer::Forward, Direction::Egress),
    ];
    asked.into_iter().filter(|(is_asked, ..)| *is_asked).find_map(|(_, layer, direction)| denies(layer, direction))
}

/// Who refuses, behind the uplink's gate, a client outside at the backend to which a service leads him: the uplink's own host endpoint,
/// then, where it is a pod here, the one of all interfaces, then the pod itself.
pub fn refused_behind(view: &View, uplink: Option<&HostEndpoint>, at: AtPods<'_>) -> Option<(String, Judgement)> {
    let to_node = view.host.iter().any(|net| net.contains(at.flow.destination));
    let layer = if to_node { HostLayer::Local } else { HostLayer::Forward };
    let of_uplink = uplink.and_then(|host| {
        let judged = evaluate_at(view, AtHost { host, layer, direction: Direction::Ingress }, at.flow)?;
        Some((format!("host endpoint {}", host.name), judged)).filter(|(_, judged)| judged.verdict == Verdict::Deny)
    });
    let outcome = policy::evaluate(view, at.flow);
    let of_all = || {
        let host = view.host_endpoints.iter().find(|host| is_of_all(host, at.node))?;
        let (_, judged) = refused_at_pods(view, host, at, &outcome)?;
        Some((format!("host endpoint {}, of pods", host.name), judged))
    };
    let of_pod = || {
        let judged = outcome.ingress.clone().filter(|judged| at.receives && judged.verdict == Verdict::Deny)?;
        Some(("the pod".to_owned(), judged))
    };
    of_uplink.or_else(of_all).or_else(of_pod)
}

fn is_of_all(host: &HostEndpoint, node: &NodeName) -> bool {
    host.node == *node && host.interface == Some(HostInterface::Any)
}

/// Only what rules decided can disagree, as at a gate. What a hit meant may be forgotten.
fn disagreement_at_pods(twin: &TwinAnswer, refused: Option<&Judgement>, words: &str) -> Option<String> {
    let refuses = match twin.answer.outcome {
        _ if twin.answer.tracked => return None,
        Fate::Drop(DropReason::HostEndpoint) => true,
        Fate::Drop(DropReason::EgressPolicy | DropReason::IngressPolicy | DropReason::EndpointToHost) => false,
        Fate::Drop(_) => return None,
        _ => false,
    };
    let hit = twin.ingress.as_ref().or(twin.egress.as_ref()).filter(|_| refuses);
    let same_rule = hit.zip(refused).is_none_or(|(hit, refused)| hit.decider == refused.decider);
    let rule = hit.map_or_else(String::new, |hit| format!(" by {}", hit.decider));
    let said = if refuses { "refuses" } else { "does not refuse" };
    (refuses != refused.is_some() || !same_rule)
        .then(|| format!("the host endpoint of all interfaces, of pods: kernel {said}{rule}, evaluator says {words}"))
}

/// The layer that decides. `None`: none of them asks anything, and the packet passes.
fn at_gate<'a>(
    view: &View,
    (host, direction): (&'a HostEndpoint, Direction),
    last: HostLayer,
    flow: &Flow,
) -> Option<(AtHost<'a>, Judgement)> {
    for layer in HostLayer::up_to(last) {
        let at = AtHost { host, layer, direction };
        let Some(judged) = evaluate_at(view, at, flow) else { continue };
        // Before translation an allow only skips the rest of that layer (HEP-9).
        let goes_on =
            judged.verdict == Verdict::Next || (layer == HostLayer::PreDnat && judged.verdict == Verdict::Allow);
        if !goes_on {
            return Some((at, judged));
        }
    }
    None
}

/// Only what rules decided can disagree: not a flow that is tracked, not a drop that no policy asked for.
fn disagreement(gate: &GateAnswer, judged: Option<&Judgement>, words: &str) -> Option<String> {
    let verdict = match gate.answer.outcome {
        _ if gate.answer.tracked => return None,
        Fate::Drop(DropReason::HostEndpoint) => Verdict::Deny,
        Fate::Drop(_) => return None,
        _ => Verdict::Allow,
    };
    let same_verdict = judged.map_or(Verdict::Allow, |judged| judged.verdict) == verdict;
    let same_rule = match (&gate.decider, judged) {
        (Some(decider), Some(judged)) => *decider == judged.decider,
        (None, None) => true,
        // What a hit meant may be forgotten; that nothing was asked is no rule.
        _ => verdict == Verdict::Allow,
    };
    (!(same_verdict && same_rule))
        .then(|| format!("kernel says {} ({}), evaluator says {words}", word(verdict), by_gate(gate)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::Answer;
    use model::{Action, Layer, Order, Policy, PolicyId, PolicyKind, PolicyTypes, Protocol, Rule, Selector, TierName};
    use policy::{Decider, Hit};

    /// A node with a host endpoint of all interfaces, and one policy before translation that denies.
    fn view() -> View {
        let host = HostEndpoint {
            name: "all".into(),
            node: "node".into(),
            interface: Some(HostInterface::Any),
            expected_ips: Vec::new(),
            labels: [("host".to_owned(), "all".to_owned())].into(),
            profiles: Vec::new(),
            ports: Vec::new(),
        };
        let policy = Policy {
            id: PolicyId { name: "early".into(), namespace: "".into(), kind: PolicyKind::GlobalNetworkPolicy },
            tier: TierName::DEFAULT.into(),
            order: Order::Unset,
            subject: Selector::Has("host".into()).into(),
            layer: Layer::PreDnat,
            stage: None,
            types: PolicyTypes { ingress: true, egress: false },
            ingress: [Rule::new(0, Action::Deny)].into(),
            egress: [].into(),
        };
        View { host_endpoints: vec![host], policies: vec![policy], ..View::default() }
    }

    /// What is said where a pod of the node sends, by the evaluator and of the kernel's answer.
    fn said(outcome: Fate, decider: Option<Decider>) -> (Vec<String>, Option<String>) {
        let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let flow =
            Flow { source: ends.0, destination: ends.1, protocol: Protocol::TCP, detail: 80, source_port: 40_000 };
        let answer = Answer { outcome, egress_hit: None, ingress_hit: None, tracked: false, generation: 3 };
        let ingress = decider.map(|decider| Hit::new(Verdict::Deny, decider));
        let twin = TwinAnswer { answer, egress: None, ingress, gates: Vec::new(), by_uplink: false };
        let at = AtPods { node: &"node".into(), flow: &flow, sends: true, receives: false };
        let beside = at_pods(&view(), at, &twin, &Outcome { egress: None, ingress: None });
        (beside.said, beside.alarm)
    }

    #[test]
    fn e2h_6_what_is_asked_of_pods_before_translation_is_held_against_the_kernel() {
        let (words, alarm) = said(Fate::Drop(DropReason::HostEndpoint), None);
        assert_eq!(words, ["all, of pods: GlobalNetworkPolicy early ingress rule 0 denies"]);
        assert_eq!(alarm, None);
        let (_, alarm) = said(Fate::ToHost, None);
        assert!(alarm.is_some_and(|alarm| alarm.contains("kernel does not refuse")));
        let other = Decider::NoRule(Direction::Ingress);
        assert!(said(Fate::Drop(DropReason::HostEndpoint), Some(other)).1.is_some(), "by another rule");
        assert_eq!(said(Fate::Drop(DropReason::Spoofed), None).1, None, "no rule was asked");
    }
}
