//! Explain, further: what a refused connection lacks, and what is known of those that are there already.
//! In: a view, a flow and both ends' answers; tracked flows. Out: fields that stand beside the explanation.
//! Invariant: whether a flow would be let in now is the evaluator's word on that flow, its own source port included.
//! Never: more than a few flows; how many more there are is said.

use dataplane::TrackedFlow;
use policy::{Decider, Flow, Judgement, Outcome, Verdict, View, evaluate, nearest::Isolation};
use serde::Serialize;
use std::net::SocketAddr;

/// Flows that are told of one by one.
pub const FLOWS_MAX: usize = 8;

/// What stands beside the verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Further {
    /// It was refused because no rule matched: who isolates, and which rules come nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// Tracked flows with these ends, this protocol and port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<Now>,
    /// How many there are beyond those.
    #[serde(skip_serializing_if = "is_none_left")]
    pub more_flows: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the serializer passes a reference")]
fn is_none_left(more: &usize) -> bool {
    *more == 0
}

/// A flow that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Now {
    source_port: u16,
    state: &'static str,
    /// As whom it goes on outside of all pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    masqueraded_as: Option<SocketAddr>,
    /// The revision that it has passed last, judged by it or let pass as `establishedFlows: keep` does: the low 32 bits of
    /// the generation.
    generation: u32,
    /// The rules that let it in, or refused it, as far as they are still known.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_by: Option<String>,
    /// Whether it would be let in if it began now.
    allowed_now: bool,
}

/// What there is to say of this flow.
pub fn further(view: &View, asked: &Flow, outcome: &Outcome, tracked: &[TrackedFlow]) -> Further {
    let is_asked = |each: &&TrackedFlow| {
        let Flow { source, destination, protocol, detail, .. } = each.flow;
        // What a gate tracks is the same packets once more.
        each.gate.is_none()
            && (source, destination, protocol, detail)
                == (asked.source, asked.destination, asked.protocol, asked.detail)
    };
    let mut flows: Vec<&TrackedFlow> = tracked.iter().filter(is_asked).collect();
    flows.sort_by_key(|each| (each.is_refused, each.source_port));
    let isolation = refusing(outcome).and_then(|decider| policy::nearest::isolation(view, asked, decider));
    let more_flows = flows.len().saturating_sub(FLOWS_MAX);
    Further { isolation, flows: flows.into_iter().take(FLOWS_MAX).map(|each| now(view, each)).collect(), more_flows }
}

fn refusing(outcome: &Outcome) -> Option<&Decider> {
    let refuses = |end: &&Judgement| end.verdict == Verdict::Deny;
    outcome.egress.iter().chain(&outcome.ingress).find(refuses).map(|end| &end.decider)
}

/// What is known of a flow that is there.
pub fn now(view: &View, tracked: &TrackedFlow) -> Now {
    let [egress, ingress] = &tracked.by;
    let said = |decider: &Option<Decider>| decider.as_ref().map(ToString::to_string);
    Now {
        source_port: tracked.source_port,
        state: tracked.state,
        masqueraded_as: tracked.masked,
        generation: tracked.generation,
        egress_by: said(egress),
        ingress_by: said(ingress),
        allowed_now: tracked.is_hosts_own || evaluate(view, &tracked.flow).verdict() != Verdict::Deny,
    }
}
