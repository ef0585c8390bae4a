//! Gates beside the evaluator: what Calico says that a host endpoint does with a packet, held against what the kernel said.
//! In: the twins' answers at the gates of a packet's way. Out: the evaluator's words, and where they disagree.
//! Invariant: layers are asked in the order of a packet's way: untracked, before translation, then local or forward.
//! Never: a rule set, or anything else of the compiler.

use crate::explain::{by_gate, word};
use abi::{DropReason, Outcome as Fate};
use dataplane::{GateAnswer, TwinAnswer};
use model::{Direction, HostEndpoint};
use policy::{AtHost, Flow, HostLayer, Judgement, Verdict, View, evaluate_at};

/// What the evaluator says of each gate, and the first disagreement.
pub fn beside(view: &View, flow: &Flow, twin: &TwinAnswer, is_forwarded: bool) -> (Vec<String>, Option<String>) {
    let (mut said, mut alarm) = (Vec::new(), None);
    for gate in &twin.gates {
        let Some(host) = view.host_endpoints.iter().find(|host| host.name == gate.name) else { continue };
        let judged = at_gate(view, (host, gate.direction), is_forwarded, flow);
        let words = judged.as_ref().map_or_else(|| "nothing is asked".to_owned(), ToString::to_string);
        alarm = alarm.or_else(|| disagreement(gate, judged.as_ref(), &words));
        said.push(format!("{}, {}: {words}", gate.name, gate.direction));
    }
    (said, alarm)
}

/// The layer that decides. `None`: none of them asks anything, and the packet passes.
fn at_gate(
    view: &View,
    (host, direction): (&HostEndpoint, Direction),
    is_forwarded: bool,
    flow: &Flow,
) -> Option<Judgement> {
    let last = if is_forwarded { HostLayer::Forward } else { HostLayer::Local };
    for layer in [HostLayer::Untracked, HostLayer::PreDnat, last] {
        let Some(judged) = evaluate_at(view, AtHost { host, layer, direction }, flow) else { continue };
        // Before translation an allow only skips the rest of that layer (HEP-9).
        let goes_on =
            judged.verdict == Verdict::Next || (layer == HostLayer::PreDnat && judged.verdict == Verdict::Allow);
        if !goes_on {
            return Some(judged);
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
