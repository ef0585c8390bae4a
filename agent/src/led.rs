//! Explain from outside through a service: what is asked behind the uplink's gate, about the client and each backend.
//! In: a packet of the network to a frontend for who is outside, and the kernel's answer. Out: who refuses whom, by which rule.
//! Invariant: rules are asked about backends, in the way the kernel asks them; where all say one thing and the kernel another, it is an alarm.
//! Never: says which backend a new flow would get: that is chance.

use crate::{explain::Words, gates, gates::AtPods, kernel::Kernel, owner::Agent, services::ranges};
use abi::{DropReason, Outcome as Fate};
use dataplane::{Question, TwinAnswer};
use model::HostEndpoint;
use policy::{Flow, Judgement, View};
use serde_json::{Map, Value, json};
use service::{Backend, Balance, Frontend};
use std::sync::Arc;

/// Backends that are asked about.
const BACKENDS_ASKED: usize = 8;

/// What stands beside the kernel's answer.
pub struct Behind {
    /// Fields of the report.
    pub said: Map<String, Value>,
    /// Kernel and evaluator disagree.
    pub alarm: Option<String>,
}

/// What stands behind the frontend that a packet from outside would meet, if there is one for who is outside.
pub fn balance_of<K: Kernel>(agent: &mut Agent<K>, question: &Question) -> Option<Arc<Balance>> {
    let frontend = frontend_of(question);
    let balance = agent.world.desired()?.led(&frontend).map(Arc::clone)?;
    balance.outside.is_some().then_some(balance)
}

fn frontend_of(question: &Question) -> Frontend {
    Frontend { address: question.destination, protocol: question.protocol, port: question.detail }
}

/// One backend, and who refuses the client there.
type Asked = (Backend, Option<(String, Judgement)>);

/// What is judged where the packet is translated.
pub fn explain<K: Kernel>(
    agent: &Agent<K>,
    view: &View,
    (question, twin): (&Question, &TwinAnswer),
    balance: &Balance,
) -> Behind {
    let Some(outside) = &balance.outside else { return Behind { said: Map::new(), alarm: None } };
    let name = twin.gates.first().map(|gate| &gate.name);
    let uplink = view.host_endpoints.iter().find(|host| Some(&host.name) == name);
    let about = |backend: &Backend| (*backend, refusal(agent, view, uplink, (question, *backend)));
    let asked: Vec<Asked> = outside.chosen.iter().take(BACKENDS_ASKED).map(about).collect();
    let mut said = Map::new();
    let mut say = |key: &str, value: Value| said.insert(key.to_owned(), value);
    say("service", balance.of.to_string().into());
    say("frontend", frontend_of(question).to_string().into());
    say("kind", balance.kind.to_string().into());
    say("chosen", outside.chosen.len().into());
    say("listed", outside.listed.len().into());
    say("backends", asked.iter().map(|asked| row(agent, asked)).collect());
    // What the gate says comes first, and is said already.
    if twin.refusing().is_none() {
        let (verdict, why) = judged(question, balance, &asked, twin);
        say("verdict", verdict.into());
        say("why", why.into());
    }
    let is_whole = asked.len() == outside.chosen.len() && balance.lets_in(question.source);
    let alarm = alarm(&asked, twin).filter(|_| is_whole);
    Behind { said, alarm }
}

fn refusal<K: Kernel>(
    agent: &Agent<K>,
    view: &View,
    uplink: Option<&HostEndpoint>,
    (question, backend): (&Question, Backend),
) -> Option<(String, Judgement)> {
    let Question { source, protocol, source_port, .. } = *question;
    let detail = if backend.port == 0 { question.detail } else { backend.port };
    let flow = Flow { source, destination: backend.address, protocol, detail, source_port };
    let is_here =
        |address| agent.world.attachments().any(|known| known.committed && known.addresses.contains(&address));
    let receives = is_here(backend.address);
    gates::refused_behind(view, uplink, AtPods { node: agent.world.node(), flow: &flow, sends: false, receives })
}

fn row<K: Kernel>(agent: &Agent<K>, (backend, refused): &Asked) -> Value {
    let mut row =
        json!({ "backend": backend.to_string(), "verdict": if refused.is_some() { "refused" } else { "allowed" } });
    if let Some((by, judged)) = refused {
        row["why"] = format!("{by}: {judged}").into();
        row["policy"] = judged.decider.policies().iter().map(ToString::to_string).collect();
    }
    if let Some(pod) = agent.world.pod_at(backend.address) {
        row["pod"] = pod.to_string().into();
    }
    row
}

/// The verdict, and one sentence.
fn judged(question: &Question, balance: &Balance, asked: &[Asked], twin: &TwinAnswer) -> (&'static str, String) {
    if asked.is_empty() {
        return ("refused", "no backend for who is outside is ready".to_owned());
    }
    if !balance.lets_in(question.source) {
        let ranges = balance.sources.as_deref().map(ranges).unwrap_or_default();
        return (
            "refused",
            format!("dropped in silence: {} is in none of the source ranges ({ranges})", question.source),
        );
    }
    let refused: Vec<_> = asked.iter().filter_map(|(_, refused)| refused.as_ref()).collect();
    match (refused.first(), twin.answer.outcome) {
        (Some((by, judged)), _) if refused.len() == asked.len() => {
            ("refused", format!("refused at {}: {by}: {judged}", several(asked)))
        }
        (None, Fate::Drop(reason)) => ("refused", format!("dropped: {}", reason.as_str())),
        (None, _) => ("allowed", format!("it is sent to {}", several(asked))),
        (Some(_), _) => {
            let allowed = asked.len() - refused.len();
            ("depends on the backend", format!("{allowed} of {} backends asked about would let it in", asked.len()))
        }
    }
}

fn several(asked: &[Asked]) -> String {
    match asked {
        [(one, _)] => one.to_string(),
        more => format!("one of {} backends", more.len()),
    }
}

/// Where all backends say one thing and the kernel another. Only what rules decided can disagree.
fn alarm(asked: &[Asked], twin: &TwinAnswer) -> Option<String> {
    let refuses = match twin.answer.outcome {
        _ if twin.answer.tracked || twin.refusing().is_some() || asked.is_empty() => return None,
        Fate::Drop(DropReason::HostEndpoint | DropReason::IngressPolicy) => true,
        Fate::Drop(_) => return None,
        _ => false,
    };
    let differs = |(_, refused): &Asked| refused.is_some() != refuses;
    let other_rule = |(_, refused): &Asked| {
        let hit = twin.ingress.as_ref().filter(|_| refuses);
        hit.zip(refused.as_ref()).is_some_and(|(hit, (_, judged))| hit.decider != judged.decider)
    };
    let is_wrong = asked.iter().all(differs) || asked.iter().all(other_rule);
    let said = Words(twin.answer.outcome);
    is_wrong.then(|| format!("behind the gate: kernel says {said}, evaluator otherwise of every backend"))
}
