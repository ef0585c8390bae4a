//! Explain through a service: which backends the packet may go to, what is judged about each, and why there is none.
//! In: a sender of this node, a frontend and what stands behind it. Out: one answer for the frontend, one for each backend.
//! Invariant: rules are asked about backends, in the way the kernel asks them; a flow that is there has the backend it has.
//! Never: says which backend a new flow would get: that is chance.

use crate::{
    explain::{Asked, ExplainError, Explanation, Given, Words, detail, disagree, one, source_port},
    further::{FLOWS_MAX, now},
    kernel::Kernel,
    owner::Agent,
    services::ranges,
};
use abi::{DropReason, Outcome as Fate};
use dataplane::{Origin, Question, TrackedFlow, TwinAnswer};
use serde_json::{Value, json};
use service::{Backend, Backends, Balance, Frontend};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// Backends that are asked about.
const BACKENDS_ASKED: usize = 8;

/// A packet of a pod here to a service.
pub struct Through<'a> {
    /// What was asked.
    pub asked: &'a Asked<'a>,
    /// The sender's address.
    pub source: IpAddr,
    /// Where the packet goes.
    pub frontend: Frontend,
    /// What stands behind it.
    pub balance: Arc<Balance>,
}

/// The frontend that a pod of this node would meet there.
pub fn frontend_of<K: Kernel>(agent: &mut Agent<K>, source: IpAddr, frontend: &Frontend) -> Option<Arc<Balance>> {
    let is_here = agent.world.attachments().any(|known| known.committed && known.addresses.contains(&source));
    agent.world.desired().filter(|_| is_here)?.led(frontend).map(Arc::clone)
}

/// What becomes of the packet.
pub fn explain<K: Kernel>(agent: &Agent<K>, through: &Through<'_>) -> Result<Value, ExplainError> {
    let Through { asked, source, frontend, balance } = through;
    let twin = agent.kernel.explain(&question(agent, through))?;
    let tracked = agent.kernel.tracked()?;
    let flows = through.flows(&tracked);
    let known = asked.source_port.and_then(|port| flows.iter().find(|flow| flow.source_port == port));
    // A flow that is there goes on to where it is, chosen or not.
    let to: Vec<Backend> = match known {
        Some(flow) => vec![backend_of(flow)],
        None => balance.inside.chosen.iter().take(BACKENDS_ASKED).copied().collect(),
    };
    let view = agent.world.view();
    // By the ports of a flow through a service nobody else is spoken to: the kernel was asked about that one.
    let given = Given { view: &view, tracked: &[], twin: known.map(|_| &twin) };
    let mut backends = Vec::new();
    for backend in &to {
        backends.push((*backend, through.about(agent, *backend, &given)?));
    }
    let (verdict, why) = judged(through, &backends, &twin, known.is_some());
    let mut report = json!({
        "from": asked.from, "source": source, "to": asked.to, "destination": frontend.address,
        "protocol": frontend.protocol.to_string(), "port": frontend.port,
        "service": balance.of.to_string(), "frontend": frontend.to_string(), "kind": balance.kind.to_string(),
        "verdict": verdict, "why": why,
        "kernel": { "outcome": twin_says(&twin), "generation": twin.answer.generation, "tracked": twin.answer.tracked },
        "chosen": balance.inside.chosen.len(), "listed": balance.inside.listed.len(),
        "backends": backends.iter().map(|(backend, said)| about(agent, *backend, said)).collect::<Vec<_>>(),
    });
    if balance.by_host {
        report["by"] = "kube-proxy".into();
    }
    let more = balance.inside.chosen.len().saturating_sub(backends.len());
    if known.is_none() && more > 0 {
        report["moreBackends"] = more.into();
    }
    if let Some(port) = asked.source_port {
        report["sourcePort"] = port.into();
    }
    let mut remarks = agent.service_remarks();
    remarks.retain(|id, _| balance.is_of(id));
    let remarks: Vec<_> = remarks.into_values().flatten().collect();
    if !remarks.is_empty() {
        report["remarks"] = json!(remarks.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    if !flows.is_empty() {
        let told = flows.iter().take(FLOWS_MAX);
        report["flows"] = told.map(|flow| through.told(json!(now(&view, flow)), backend_of(flow))).collect();
    }
    if flows.len() > FLOWS_MAX {
        report["moreFlows"] = (flows.len() - FLOWS_MAX).into();
    }
    let ranges = if known.is_some() { None } else { through.alarm(&twin) };
    if let Some(alarm) = ranges.or_else(|| alarm(&backends, more > 0 || balance.by_host, &twin)) {
        disagree(asked, &alarm);
        report["ALARM"] = alarm.into();
    }
    Ok(report)
}

/// The packet as its sender writes it.
fn question<K: Kernel>(agent: &Agent<K>, Through { asked, source, frontend, .. }: &Through<'_>) -> Question {
    let sender = agent.world.attachments().find(|known| known.committed && known.addresses.contains(source));
    Question {
        from: sender.map_or(Origin::Outside(None), |known| Origin::Pod(known.id.clone())),
        source: *source,
        destination: frontend.address,
        protocol: frontend.protocol,
        detail: detail(frontend.protocol, frontend.port),
        source_port: source_port(frontend.protocol, asked.source_port),
    }
}

impl Through<'_> {
    /// The sender's flows through this frontend that are there.
    fn flows<'a>(&self, tracked: &'a [TrackedFlow]) -> Vec<&'a TrackedFlow> {
        let is_own = |flow: &&TrackedFlow| {
            let is_senders = [self.source, self.frontend.address].contains(&flow.flow.source);
            // Who is sent to itself is seen as the frontend.
            let is_itself = flow.flow.source != self.frontend.address || flow.flow.destination == self.source;
            flow.gate.is_none() && flow.through == Some(self.frontend) && is_senders && is_itself
        };
        let mut flows: Vec<_> = tracked.iter().filter(is_own).collect();
        flows.sort_by_key(|flow| (flow.is_over, flow.source_port));
        flows
    }

    /// Whether source ranges keep its sender from the backends there are.
    fn is_kept_out(&self) -> bool {
        !self.balance.inside.chosen.is_empty() && !self.balance.lets_in(self.source)
    }

    /// Where the kernel has it otherwise than the source ranges.
    fn alarm(&self, twin: &TwinAnswer) -> Option<String> {
        let is_refused = twin.answer.outcome == Fate::Drop(DropReason::NoBackend);
        match (self.is_kept_out(), matches!(twin.answer.outcome, Fate::Drop(_))) {
            (true, false) => Some(format!("the kernel sends it {}, past the source ranges", twin_says(twin))),
            (false, _) if is_refused && !self.balance.inside.chosen.is_empty() => {
                Some("the kernel finds it no backend, where there are some for its sender".to_owned())
            }
            _ => None,
        }
    }

    fn told(&self, mut flow: Value, backend: Backend) -> Value {
        flow["backend"] = backend.to_string().into();
        flow
    }

    /// What is judged about one backend.
    fn about<K: Kernel>(
        &self,
        agent: &Agent<K>,
        backend: Backend,
        given: &Given<'_>,
    ) -> Result<Explanation, ExplainError> {
        let to = backend.to_string();
        // Where the address floats, the port is the one that was asked for.
        let port = if backend.port == 0 { self.asked.port } else { backend.port };
        let asked = Asked { to: &to, port, ..*self.asked };
        one(agent, &asked, (self.frontend.protocol, self.source, backend.address), given)
    }
}

fn backend_of(flow: &TrackedFlow) -> Backend {
    Backend { address: flow.flow.destination, port: flow.destination_port }
}

/// The verdict for the frontend, and one sentence.
fn judged(
    through: &Through<'_>,
    backends: &[(Backend, Explanation)],
    twin: &TwinAnswer,
    is_known: bool,
) -> (&'static str, String) {
    if backends.is_empty() {
        return ("refused", nobody(&through.balance.inside));
    }
    if !is_known && through.is_kept_out() {
        let ranges = through.balance.sources.as_deref().map(ranges).unwrap_or_default();
        let text = format!("dropped in silence: {} is in none of the source ranges ({ranges})", through.source);
        return ("refused", text);
    }
    let allowed = backends.iter().filter(|(_, said)| said.is_allowed()).count();
    let sent = if is_known { "the flow is at" } else { "it is sent to" };
    match (allowed, twin.answer.outcome) {
        (0, _) => {
            let whys: BTreeSet<&str> = backends.iter().map(|(_, said)| said.why()).collect();
            let whys: Vec<_> = whys.into_iter().collect();
            ("refused", format!("{sent} {}, where it is refused: {}", several(backends), whys.join("; ")))
        }
        // What no backend's own answer says: rules that are asked before the packet is sent on.
        (all, Fate::Drop(reason)) if all == backends.len() => ("refused", format!("dropped: {}", reason.as_str())),
        (all, _) if all == backends.len() => ("allowed", format!("{sent} {}", several(backends))),
        (some, _) => {
            ("depends on the backend", format!("{some} of {} backends asked about would let it in", backends.len()))
        }
    }
}

fn several(backends: &[(Backend, Explanation)]) -> String {
    match backends {
        [(one, _)] => one.to_string(),
        more => format!("one of {} backends", more.len()),
    }
}

/// Why a frontend has no backend.
fn nobody(inside: &Backends) -> String {
    match (inside.listed.len(), inside.elsewhere) {
        (0, _) => "refused with an answer: no EndpointSlice lists a backend for this port and family".to_owned(),
        (_, true) => {
            "dropped in silence: the backends that serve are on other nodes, and the traffic policy is Local".to_owned()
        }
        (listed, false) => format!("refused with an answer: {listed} backends are listed, and none is ready"),
    }
}

fn twin_says(twin: &TwinAnswer) -> String {
    Words(twin.answer.outcome).to_string()
}

/// One backend's answer, without what the frontend's says already.
fn about<K: Kernel>(agent: &Agent<K>, backend: Backend, said: &Explanation) -> Value {
    let mut row = json!(said);
    if let Some(fields) = row.as_object_mut() {
        for said_once in ["from", "source", "to", "protocol", "sourcePort", "destination", "port", "flows", "moreFlows"]
        {
            fields.remove(said_once);
        }
    }
    row["backend"] = backend.to_string().into();
    if let Some(pod) = agent.world.pod_at(backend.address) {
        row["pod"] = pod.to_string().into();
    }
    row
}

/// Where the kernel passes on to somebody what it would refuse to bring to anybody. `is_open`: there are others whom nobody asked
/// about, or it is left to another proxy, and judged where that sends it.
fn alarm(backends: &[(Backend, Explanation)], is_open: bool, twin: &TwinAnswer) -> Option<String> {
    if let Some(alarm) = backends.iter().find_map(|(_, said)| said.alarm()) {
        return Some(alarm.to_owned());
    }
    let is_asked_in_full = !is_open && !backends.is_empty();
    let passes = !matches!(twin.answer.outcome, Fate::Drop(_)) && twin.refusing().is_none();
    let gets_nowhere = is_asked_in_full && backends.iter().all(|(_, said)| said.is_dropped());
    (passes && gets_nowhere).then(|| format!("the kernel sends it {}, where none of its backends is", twin_says(twin)))
}

/// A service is asked by its name where no pod has it.
pub fn addresses_of<K: Kernel>(agent: &Agent<K>, namespace: &str, name: &str) -> Vec<IpAddr> {
    let is_it = |service: &&model::Service| &*service.id.name == name && service.id.namespace == namespace.into();
    agent.world.services().find(is_it).map(|service| service.cluster_ips.clone()).unwrap_or_default()
}
